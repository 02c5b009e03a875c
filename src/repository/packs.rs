//! Reading packs: footers, and frames whose chunks are checked.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use rayon::prelude::{IntoParallelIterator, ParallelIterator};
use tokio::sync::oneshot;

use crate::codec::decode_frame;
use crate::id::{ChunkId, PackId};
use crate::object::FormatError;
use crate::pack::format::{
    ChunkEntry, PACK_LIMIT_BYTES, PackClass, PackFooter, TRAILER_BYTES, read_footer, read_trailer,
};
use crate::repository::{Damage, Repository, layout, twice_if_damaged};

/// The end of a pack that is read first; footers mostly fit.
const TAIL_BYTES: u64 = 64 << 10;

/// A frame whose plaintext is there.
#[derive(Debug)]
pub struct OpenFrame {
    plaintext: Bytes,
    /// Where each chunk is, if it has the bytes its id says.
    chunks: HashMap<ChunkId, Range<usize>>,
    /// Whether all chunks have the bytes their ids say.
    is_whole: bool,
}

impl OpenFrame {
    /// The plaintext of a chunk, if the frame has it undamaged.
    #[must_use]
    pub fn chunk(&self, id: &ChunkId) -> Option<Bytes> {
        self.chunks.get(id).map(|range| self.plaintext.slice(range.clone()))
    }

    /// Length of the plaintext.
    #[must_use]
    pub fn length_bytes(&self) -> usize {
        self.plaintext.len()
    }

    /// Inflates a frame and checks every chunk in it.
    fn open(frame: &[u8], entries: &[ChunkEntry]) -> Result<Self, FormatError> {
        let plaintext = Bytes::from(decode_frame(frame)?);
        let mut chunks = HashMap::with_capacity(entries.len());
        let (mut offset, mut is_whole) = (0, true);
        for entry in entries {
            let range = offset..offset + entry.length_bytes as usize;
            offset = range.end;
            let bytes = plaintext.get(range.clone()).ok_or(FormatError::CutShort)?;
            if ChunkId::of(bytes) == entry.id {
                chunks.insert(entry.id, range);
            } else {
                is_whole = false;
            }
        }
        Ok(Self { plaintext, chunks, is_whole })
    }
}

/// Runs a computation on the threads that compute, and waits for it without keeping others from running.
#[expect(clippy::missing_panics_doc, reason = "a computation that panics ends the process")]
pub async fn compute<R: Send + 'static>(run: impl FnOnce() -> R + Send + 'static) -> R {
    let (sender, receiver) = oneshot::channel();
    rayon::spawn(move || drop(sender.send(run())));
    receiver.await.expect("a computation that panics ends the process")
}

/// Reads the footer of a pack.
///
/// # Errors
///
/// [`Damage`] if the pack is missing or its end is not as it should be, or the store's error.
pub async fn read_pack_footer(repository: &Repository, class: PackClass, id: PackId) -> anyhow::Result<PackFooter> {
    twice_if_damaged(|| read_footer_once(repository, class, id)).await
}

async fn read_footer_once(repository: &Repository, class: PackClass, id: PackId) -> anyhow::Result<PackFooter> {
    let key = layout::pack_key(class, &id);
    let store = repository.store();
    let size = store.head(&key).await.map_err(|error| repository.needed(error))?.size_bytes;
    if size > PACK_LIMIT_BYTES || size < TRAILER_BYTES as u64 {
        let reason = format!("it has {size} bytes, which no pack has");
        return Err(Damage { object: format!("{}/{key}", store.url()), reason }.into());
    }
    let tail_start = size.saturating_sub(TAIL_BYTES);
    let tail = store.get_range(&key, tail_start..size).await.map_err(|error| repository.needed(error))?;
    let fault = |error: FormatError| repository.fault(&key, &error);
    let place = read_trailer(size, &tail).map_err(fault)?;
    let frame = if place.range.start >= tail_start {
        tail.slice(local(&place.range, tail_start))
    } else {
        store.get_range(&key, place.range.clone()).await.map_err(|error| repository.needed(error))?
    };
    let footer = read_footer(&place, &frame).map_err(fault)?;
    if footer.class == class { Ok(footer) } else { Err(fault(FormatError::invalid("it is a pack of the other class"))) }
}

/// Reads neighbouring frames of a pack in one request; in a second one if they turn out damaged.
///
/// A chunk that does not have the bytes its id says is not in the result's frame; that is the reader's to notice.
///
/// # Errors
///
/// [`Damage`] if the pack is missing or a frame cannot be opened, or the store's error.
pub async fn read_frames(
    repository: &Repository,
    id: PackId,
    footer: &Arc<PackFooter>,
    frames: Range<usize>,
) -> anyhow::Result<Vec<OpenFrame>> {
    let read = || read_frames_once(repository, id, footer, frames.clone());
    let opened = twice_if_damaged(read).await?;
    if opened.iter().all(|frame| frame.is_whole) { Ok(opened) } else { read().await }
}

async fn read_frames_once(
    repository: &Repository,
    id: PackId,
    footer: &Arc<PackFooter>,
    frames: Range<usize>,
) -> anyhow::Result<Vec<OpenFrame>> {
    let key = layout::pack_key(footer.class, &id);
    let range = footer.frames[frames.start].range.start..footer.frames[frames.end - 1].range.end;
    let bytes = repository.store().get_range(&key, range.clone()).await.map_err(|error| repository.needed(error))?;
    let footer = Arc::clone(footer);
    let opened = compute(move || {
        let open = |number: usize| {
            let frame = &footer.frames[number];
            OpenFrame::open(&bytes[local(&frame.range, range.start)], &footer.chunks[frame.chunks.clone()])
        };
        frames.into_par_iter().map(open).collect::<Result<Vec<_>, _>>()
    });
    opened.await.map_err(|error| repository.fault(&key, &error))
}

fn local(range: &Range<u64>, start: u64) -> Range<usize> {
    let offset = |position: u64| usize::try_from(position - start).expect("a pack is at most 1 GiB");
    offset(range.start)..offset(range.end)
}
