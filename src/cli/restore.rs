//! `restore`

mod dry_run;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use jiff::Timestamp;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, openat};

use crate::btrfs::command::BtrfsCommand;
use crate::btrfs::receive_target::TargetOptions;
use crate::cli::context::{Context, search_path};
use crate::cli::exit::UsageError;
use crate::cli::limits::require_memory_for_restore;
use crate::cli::output;
use crate::cli::thaw::ThawArguments;
use crate::id::ManifestId;
use crate::job::{RestoreTarget, restore_subvolume};
use crate::monitor::Monitor;
use crate::repository::Repository;
use crate::repository::catalog::{
    Catalog, check_not_forgotten, find_manifest, read_known_chain, read_manifest, read_streamed,
};
use crate::restore::{DataListing, StreamSink, restore_stream};

/// Restores a backup, with all it was made against
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own")]
pub(crate) struct RestoreArguments {
    /// The backup's id, or as much of it as no other id begins with; or `latest`
    backup: String,
    /// With `latest`: of this subvolume
    #[arg(long, value_name = "NAME")]
    subvolume: Option<String>,
    /// With `latest`: of this host
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    /// With `latest`: as it was at this time (RFC 3339, such as 2026-01-31T04:00:00Z)
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    at: Option<Timestamp>,
    /// Where the subvolume goes: a path on Btrfs where nothing is yet
    #[arg(long, value_name = "DIR", required_unless_present_any = ["stream", "dry_run"], conflicts_with = "stream")]
    target: Option<PathBuf>,
    /// Makes the restored subvolume read-only
    #[arg(long, requires = "target")]
    read_only: bool,
    /// Removes the received snapshot, against which later increments could be received, when the target is made
    #[arg(long, requires = "target")]
    discard_received: bool,
    /// Writes the backup's stream to a new file, or to standard output (-); of an unchanged one, that of the backup it refers to
    #[arg(long, value_name = "FILE")]
    stream: Option<PathBuf>,
    /// Says what has to be read and thawed, how long that takes and what it costs, and does nothing
    #[arg(long)]
    dry_run: bool,
    /// With --dry-run: prints JSON
    #[arg(long, requires = "dry_run")]
    json: bool,
    #[command(flatten)]
    thaw: ThawArguments,
}

fn parse_time(text: &str) -> Result<Timestamp, &'static str> {
    text.parse().map_err(|_| "a time has a date, a time of day and a zone, as in 2026-01-31T04:00:00Z")
}

pub(crate) async fn cmd_restore(context: &Context, arguments: RestoreArguments) -> anyhow::Result<()> {
    require_memory_for_restore()?;
    let repository = context.repository().await?;
    let id = find_backup(context, &repository, &arguments).await?;
    if arguments.dry_run {
        let backup = read_manifest(&repository, id).await?;
        return dry_run::dry_run(context, &repository, &backup, &arguments).await;
    }
    match &arguments.stream {
        Some(path) if path.as_os_str() == "-" => {
            restore_to(context, &repository, id, &arguments.thaw, Box::new(StandardOutput(output::stream()))).await
        }
        Some(path) => {
            let restored = restore_to_file(context, &repository, id, &arguments.thaw, path).await;
            restored.with_context(|| format!("writing {}", path.display()))
        }
        None => restore_to_target(context, &repository, id, &arguments).await,
    }
}

async fn find_backup(
    context: &Context,
    repository: &Repository,
    arguments: &RestoreArguments,
) -> anyhow::Result<ManifestId> {
    let selecting = arguments.subvolume.is_some() || arguments.host.is_some() || arguments.at.is_some();
    if arguments.backup != "latest" {
        if selecting {
            let text = "--subvolume, --host and --at go with `latest`, not with an id";
            return Err(UsageError(text.to_owned()).into());
        }
        let id = find_manifest(repository, &arguments.backup).await?;
        check_not_forgotten(repository, id).await?;
        return Ok(id);
    }
    let catalog = Catalog::load(repository, &context.record_cache(repository)).await?;
    // A newer backup may be among the damaged ones: that is for the user to know before an older one is restored.
    for error in &catalog.damaged {
        context.progress.problem(&format!("{error:#}"));
    }
    let latest = catalog.latest(arguments.host.as_deref(), arguments.subvolume.as_deref(), arguments.at)?;
    Ok(latest.id())
}

async fn restore_to(
    context: &Context,
    repository: &Repository,
    id: ManifestId,
    thaw: &ThawArguments,
    sink: Box<dyn StreamSink>,
) -> anyhow::Result<()> {
    let read = async { read_streamed(repository, read_manifest(repository, id).await?).await };
    let (backup, listing) = tokio::try_join!(read, DataListing::of(repository))?;
    if backup.id() != id {
        let of = backup.id();
        context.progress.warn(&format!(
            "backup {id} has no stream, as nothing has changed since backup {of}: it is the stream of that one that is written"
        ));
    }
    let options = thaw.begin(context, repository, std::slice::from_ref(&backup), &listing).await?;
    context.progress.expect(backup.manifest.stream.bytes);
    let sink = restore_stream(repository, &backup.manifest, sink, &options, &context.monitor()).await?;
    sink.finish()
}

async fn restore_to_target(
    context: &Context,
    repository: &Repository,
    id: ManifestId,
    arguments: &RestoreArguments,
) -> anyhow::Result<()> {
    let Some(path) = arguments.target.clone() else { return Ok(()) };
    let options = TargetOptions { read_only: arguments.read_only, discard_received: arguments.discard_received };
    let target = RestoreTarget { path, options, btrfs: BtrfsCommand::find(search_path().as_deref())? };
    let copies = context.record_cache(repository);
    let (chain, listing) = tokio::try_join!(read_known_chain(repository, id, &copies), DataListing::of(repository))?;
    let options = arguments.thaw.begin(context, repository, &chain, &listing).await?;
    context.progress.expect(chain.iter().map(|backup| backup.manifest.stream.bytes).sum());
    let restored = restore_subvolume(repository, &chain, &target, &options, &context.monitor()).await?;
    context.progress.finish();
    let manifest = &chain.last().context("a chain has a backup")?.manifest;
    output::line(&format!(
        "restored backup {id} of '{}', as it was at {}, to {}",
        manifest.subvolume,
        manifest.created_at,
        restored.target.display()
    ))?;
    match restored.received.filter(|received| *received != restored.target) {
        Some(received) => output::line(&format!(
            "{} is kept: later increments of this backup can be received on it",
            received.display()
        )),
        None => Ok(()),
    }
}

/// Writes the stream to a file without a name first, so that a file of that name is always whole, and nothing is left
/// when the process is killed. Devices and pipes are written to as they are.
async fn restore_to_file(
    context: &Context,
    repository: &Repository,
    id: ManifestId,
    thaw: &ThawArguments,
    path: &Path,
) -> anyhow::Result<()> {
    if std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir()) {
        let file = OpenOptions::new().write(true).open(path).with_context(|| format!("opening {}", path.display()))?;
        return restore_to(context, repository, id, thaw, Box::new(FileSink(file, SyncAtEnd::No))).await;
    }
    let exists = path.symlink_metadata().is_ok();
    anyhow::ensure!(!exists, "{} exists already: name another file", path.display());
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = File::open(folder).with_context(|| format!("opening {}", folder.display()))?;
    let unnamed = openat(&folder, ".", OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC, Mode::from_raw_mode(0o600));
    let file = File::from(unnamed.with_context(|| format!("making a file beside {}", path.display()))?);
    let copy = file.try_clone().context("keeping the file open")?;
    restore_to(context, repository, id, thaw, Box::new(FileSink(copy, SyncAtEnd::Yes))).await?;
    let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
    let named = linkat(CWD, unnamed.as_str(), CWD, path, AtFlags::SYMLINK_FOLLOW);
    named
        .map_err(std::io::Error::from)
        .and_then(|()| folder.sync_all())
        .with_context(|| format!("naming {}", path.display()))
}

/// Whether a file is to be on the disk at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SyncAtEnd {
    Yes,
    No,
}

struct FileSink(File, SyncAtEnd);

impl Write for FileSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl StreamSink for FileSink {
    fn finish(self: Box<Self>) -> anyhow::Result<()> {
        match self.1 {
            SyncAtEnd::Yes => self.0.sync_all().context("syncing the stream's file"),
            SyncAtEnd::No => Ok(()),
        }
    }
}

/// Standard output, past its line buffer.
struct StandardOutput(io::Stdout);

impl Write for StandardOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        rustix::io::write(&self.0, bytes).map_err(io::Error::from)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl StreamSink for StandardOutput {
    fn finish(self: Box<Self>) -> anyhow::Result<()> {
        Ok(())
    }
}
