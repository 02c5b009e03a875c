//! `backup`

use std::io::{self, Read};
use std::sync::Arc;

use crate::backup::{BackupOptions, BackupRequest, BackupSummary, Expected, StreamSource, backup_stream};
use crate::cli::context::Context;
use crate::cli::exit::UsageError;
use crate::cli::output;
use crate::config::check_subvolume_name;
use crate::local_index::Access;
use crate::lock::HostLock;
use crate::records::TOOL;
use crate::records::session::SessionStart;
use crate::repository::Repository;
use crate::repository::index::ChunkIndex;
use crate::repository::session::{WriteSession, end_dead_sessions};
use crate::size::ByteSize;

/// Takes snapshots and stores what the repository does not have
#[derive(Debug, clap::Args)]
pub(crate) struct BackupArguments {
    /// Only this subvolume of the configuration; may be given several times
    #[arg(long, value_name = "NAME", conflicts_with = "stdin")]
    subvolume: Vec<String>,
    /// Sends everything, even where an incremental stream would do
    #[arg(long, conflicts_with = "stdin")]
    full: bool,
    /// Backs up now, whether it is due or not
    #[arg(long, conflicts_with = "stdin")]
    once: bool,
    /// Says what would be done, and changes nothing
    #[arg(long, conflicts_with = "stdin")]
    dry_run: bool,
    /// Takes snapshots only; nothing is sent
    #[arg(long, conflicts_with = "stdin")]
    no_s3: bool,
    /// Archives a stream from standard input
    #[arg(long, requires = "name")]
    stdin: bool,
    /// What to call the stream
    #[arg(long, value_name = "NAME", requires = "stdin")]
    name: Option<String>,
    /// Takes the stream as bytes, even if it is a send stream
    #[arg(long, requires = "stdin")]
    opaque: bool,
}

pub(crate) async fn cmd_backup(context: &Context, arguments: BackupArguments) -> anyhow::Result<()> {
    match &arguments.name {
        Some(name) => backup_stdin(context, name, arguments.opaque).await,
        None => anyhow::bail!("not built yet"),
    }
}

/// Standard input as a stream; nobody tells whether its producer was content.
#[derive(Debug)]
struct StandardInput(io::Stdin);

impl Read for StandardInput {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // The lock of an unbuffered read costs nothing beside it.
        rustix::io::read(&self.0, buffer).map_err(io::Error::from)
    }
}

impl StreamSource for StandardInput {
    fn finish(self: Box<Self>) -> anyhow::Result<()> {
        Ok(())
    }
}

async fn backup_stdin(context: &Context, name: &str, opaque: bool) -> anyhow::Result<()> {
    check_subvolume_name(name).map_err(|error| UsageError(format!("--name: {error}")))?;
    let _lock = HostLock::acquire(&context.config.lock_path, context.clock.as_ref())?;
    let repository = context.repository().await?;
    let (session, mut index) = begin(context, &repository, name).await?;
    let request = BackupRequest {
        host: Context::host(),
        subvolume: name.to_owned(),
        created_at: session.started_at(),
        expected: if opaque { Expected::Opaque } else { Expected::Anything },
        compressed_data: false,
    };
    let source = Box::new(StandardInput(io::stdin()));
    let options = backup_options(context);
    let cache = context.record_cache(&repository);
    let summary =
        backup_stream(session, &mut index, source, None, &request, &cache, &options, &context.monitor()).await?;
    context.progress.finish();
    output::line(&summary_line(&summary))
}

/// Announces a run, then looks at what the repository has.
async fn begin(context: &Context, repository: &Repository, name: &str) -> anyhow::Result<(WriteSession, ChunkIndex)> {
    let (host, machine) = (Context::host(), context.machine());
    let cache = context.record_cache(repository);
    end_dead_sessions(repository, &host, &machine, &cache).await?;
    let start =
        SessionStart { host, machine, subvolume: name.to_owned(), purpose: "backup".to_owned(), tool: TOOL.to_owned() };
    let session = WriteSession::start(repository.clone(), start).await?;
    let directory = context.index_directory(repository);
    let monitor = Arc::clone(&context.progress);
    let index = ChunkIndex::open(repository, &directory, Access::Exclusive, &cache, monitor.as_ref()).await?;
    Ok((session, index))
}

fn backup_options(context: &Context) -> BackupOptions {
    let packing = &context.config.packing;
    BackupOptions {
        pack_target_bytes: usize::try_from(packing.pack_target.bytes()).unwrap_or(usize::MAX),
        compression_level: i32::try_from(packing.compression_level).unwrap_or(i32::MAX),
        ..BackupOptions::default()
    }
}

fn summary_line(summary: &BackupSummary) -> String {
    let manifest = &summary.manifest;
    let size = |bytes| ByteSize::from_bytes(bytes).to_string();
    format!(
        "{}: {} backup {}: {} of stream, {} new, {} stored",
        manifest.subvolume,
        manifest.kind,
        summary.id(),
        size(manifest.stream.bytes),
        size(manifest.totals.new_bytes),
        size(manifest.totals.stored_bytes)
    )
}
