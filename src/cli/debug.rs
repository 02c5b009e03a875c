//! `debug`: for people who read the format document.

use std::fmt::Write as _;
use std::sync::Arc;

use crate::cli::context::Context;
use crate::cli::exit::UsageError;
use crate::cli::output;
use crate::id::{ChunkId, PackId};
use crate::index::table::{TABLE_LIMIT_BYTES, check_blocks, table_body};
use crate::index::{SEGMENT_LIMIT_BYTES, segment_body};
use crate::local_index::{Access, Location};
use crate::object::notation::cbor_as_text;
use crate::object::{FormatError, HEADER_BYTES, RECORD_LIMIT_BYTES, record_body};
use crate::pack::format::PackClass;
use crate::repository::cache::RecordCache;
use crate::repository::index::ChunkIndex;
use crate::repository::packs::{read_frames, read_pack_footer};
use crate::repository::scratch::ScratchFolder;
use crate::repository::{Damage, Repository, layout};
use crate::store::Key;

/// Shows what is stored, as docs/format.md describes it
#[derive(Debug, clap::Args)]
pub(crate) struct DebugArguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Decodes an object
    Object {
        /// Its key, such as config/0
        key: String,
    },
    /// Writes a chunk's plaintext to standard output
    Chunk {
        /// Its id
        id: String,
    },
}

pub(crate) async fn cmd_debug(context: &Context, arguments: DebugArguments) -> anyhow::Result<()> {
    let repository = context.repository().await?;
    match arguments.what {
        What::Object { key } => {
            let key = Key::new(key).map_err(|error| UsageError(error.to_string()))?;
            output::text(&describe(&repository, &key).await?)
        }
        What::Chunk { id } => {
            let id = id.parse::<ChunkId>().map_err(|error| UsageError(error.to_string()))?;
            output::bytes(&find_chunk(context, &repository, &id).await?)
        }
    }
}

async fn describe(repository: &Repository, key: &Key) -> anyhow::Result<String> {
    if let Some((class, id)) = layout::parse_pack_key(key) {
        return describe_pack(repository, class, id).await;
    }
    let bytes = repository.get(key, RECORD_LIMIT_BYTES.max(SEGMENT_LIMIT_BYTES).max(TABLE_LIMIT_BYTES)).await?;
    let fault = |error: FormatError| repository.fault(key, &error);
    if let Some(id) = layout::parse_blocks_key(key) {
        check_blocks(repository.id(), id, &bytes).map_err(fault)?;
        let blocks = bytes.len() - HEADER_BYTES;
        return Ok(format!("{}\n{blocks} bytes of blocks, as a table says\n", bytes[..HEADER_BYTES].escape_ascii()));
    }
    let body = if let Some(id) = layout::parse_segment_key(key) {
        segment_body(repository.id(), id, &bytes)
    } else if let Some(id) = layout::parse_table_key(key) {
        table_body(repository.id(), id, &bytes)
    } else {
        record_body(&bytes).map(<[u8]>::to_vec)
    };
    let body = body.map_err(fault)?;
    let mut text = format!("{}\n", bytes[..HEADER_BYTES].escape_ascii());
    text.push_str(&cbor_as_text(&body).map_err(fault)?);
    text.push('\n');
    Ok(text)
}

async fn describe_pack(repository: &Repository, class: PackClass, id: PackId) -> anyhow::Result<String> {
    let footer = read_pack_footer(repository, class, id).await?;
    let mut text = format!("pack {id} of session {}\n", footer.session);
    for (number, frame) in footer.frames.iter().enumerate() {
        writeln!(text, "frame {number}: {:?}, bytes {}..{}", frame.kind, frame.range.start, frame.range.end)?;
        for chunk in &footer.chunks[frame.chunks.clone()] {
            writeln!(text, "  chunk {} of {} bytes", chunk.id, chunk.length_bytes)?;
        }
    }
    Ok(text)
}

async fn find_chunk(context: &Context, repository: &Repository, id: &ChunkId) -> anyhow::Result<Vec<u8>> {
    let folder = ScratchFolder::make(&context.scratch_directory())?;
    let (access, no_cache, monitor) = (Access::Exclusive, RecordCache::none(), context.monitor());
    let index = ChunkIndex::open_to_read(repository, folder.path(), access, &no_cache, monitor.as_ref()).await?;
    let object = repository.store().url().to_owned();
    let mut failure = Damage { object, reason: format!("chunk {id} is in no pack") }.into();
    for place in index.find_all(id)? {
        match chunk_at(repository, id, &place).await {
            Ok(Some(bytes)) => return Ok(bytes),
            Ok(None) => {}
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

async fn chunk_at(repository: &Repository, id: &ChunkId, place: &Location) -> anyhow::Result<Option<Vec<u8>>> {
    let footer = Arc::new(read_pack_footer(repository, place.class, place.pack).await?);
    let number = place.frame as usize;
    if number >= footer.frames.len() {
        return Ok(None);
    }
    let frames = read_frames(repository, place.pack, &footer, number..number + 1).await?;
    Ok(frames.first().and_then(|frame| frame.chunk(id)).map(|bytes| bytes.to_vec()))
}
