//! Rebuilds the stream of a backup, byte for byte, from what its manifest names.
//!
//! Where the bytes go is the caller's business ([`StreamSink`]). Every chunk is checked before its bytes leave, and the
//! end of the stream leaves only when the digest of the whole has been found right.

mod expiry;
mod fetch;
mod locate;
mod pieces;
mod rebuild;
mod thaw;
mod walk;

pub use self::expiry::ThawAgain;
pub(crate) use self::fetch::{Frames, Window, chunk_of, fetch_window, forward_windows};
pub(crate) use self::locate::Locator;
pub use self::thaw::{
    ASSUMED_BYTES_PER_SECOND, DataListing, NotThawed, PackState, ThawOptions, Thawing, pack_states, thaw_packs,
};
pub(crate) use self::walk::{Entries, unfit};

use std::collections::{BTreeSet, HashSet};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;

use crate::id::PackId;
use crate::monitor::Monitor;
use crate::pack::format::PackClass;
use crate::records::manifest::{BackupKind, Manifest, RootKind, STREAM_DIGEST_XXH3};
use crate::repository::Repository;
use crate::repository::catalog::Published;
use crate::restore::fetch::send_data;
use crate::restore::pieces::pieces;
use crate::restore::rebuild::{Parts, rebuild_stream};
use crate::restore::walk::{piece_of, send_commands};

/// What takes a restored stream.
pub trait StreamSink: Write + Send {
    /// Ends the stream; says whether the receiver is content.
    ///
    /// # Errors
    ///
    /// If it is not.
    fn finish(self: Box<Self>) -> anyhow::Result<()>;
}

/// Windows that are fetched at once at most, each of which takes up to twice its bytes.
const WINDOWS_AHEAD_MAX: usize = 8;

/// How much memory and how many requests a restore may use at once.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// Plaintext bytes that are fetched ahead together.
    pub window_bytes: u64,
    /// Frames that one such window may need.
    pub window_frames: usize,
    /// Windows that are fetched while one is being put together.
    pub windows_ahead: usize,
    /// Requests at once.
    pub requests_in_flight: usize,
    /// Plaintext bytes of frames that are kept for later use.
    pub frame_cache_bytes: usize,
    /// Bytes of packs' footers that are kept: some tens of kilobytes each.
    pub footer_cache_bytes: usize,
    /// Where an index may be made when the hints of a recipe fail; removed afterwards.
    pub scratch_directory: PathBuf,
    /// Thaws that are under way: packs are waited for when they are needed.
    pub thawing: Option<Arc<Thawing>>,
    /// What to do when a pack turns out to be archived, as its thawed copy has expired; without it, the restore ends.
    pub thaw_again: Option<ThawAgain>,
}

impl RestoreOptions {
    /// The usual bounds.
    #[must_use]
    pub fn new(scratch_directory: PathBuf) -> Self {
        Self {
            window_bytes: 8 << 20,
            window_frames: 16,
            windows_ahead: 2,
            requests_in_flight: 8,
            frame_cache_bytes: 64 << 20,
            footer_cache_bytes: 32 << 20,
            scratch_directory,
            thawing: None,
            thaw_again: None,
        }
    }

    /// The same for a repository that is some way off: while one window is on its way, so are as many others as there may be
    /// requests, as far as memory goes.
    #[must_use]
    pub fn at_a_distance(self) -> Self {
        let windows_ahead = self.requests_in_flight.clamp(self.windows_ahead, WINDOWS_AHEAD_MAX);
        Self { windows_ahead, ..self }
    }

    /// The same for a host with little memory.
    #[must_use]
    pub fn with_low_memory(self) -> Self {
        Self {
            window_bytes: 4 << 20,
            window_frames: 8,
            windows_ahead: self.windows_ahead.min(4),
            frame_cache_bytes: 16 << 20,
            footer_cache_bytes: 4 << 20,
            ..self
        }
    }

    /// With these backups to be restored after this one.
    #[must_use]
    pub fn with_later(mut self, later: Vec<Manifest>) -> Self {
        if let Some(again) = &mut self.thaw_again {
            again.later = later;
        }
        self
    }
}

/// The data packs that a restore of a backup reads: those it was published over, or those that have the chunks now, where a
/// prune has put them into others.
///
/// One that is not listed and whose chunks are nowhere else is in the result.
///
/// # Errors
///
/// [`crate::repository::Damage`] where the list itself is missing or damaged; otherwise the store's error.
pub async fn data_packs(
    repository: &Repository,
    manifest: &Manifest,
    listing: &DataListing,
    options: &RestoreOptions,
    monitor: &Arc<dyn Monitor>,
) -> anyhow::Result<HashSet<PackId>> {
    let locator = Locator::open(repository, manifest, options, monitor).await?;
    packs_named_by(&locator, manifest, listing).await
}

/// The states of the data packs that restores of some backups read; of none, where no pack there is may be archived.
///
/// # Errors
///
/// As for [`data_packs`].
pub async fn states_before_restore(
    repository: &Repository,
    backups: &[Published],
    listing: &DataListing,
    options: &RestoreOptions,
    monitor: &Arc<dyn Monitor>,
) -> anyhow::Result<Vec<PackState>> {
    let mut packs = BTreeSet::new();
    // Else there is no need to know, and finding out takes some requests one after another.
    if listing.has_cold() {
        for backup in backups {
            packs.extend(data_packs(repository, &backup.manifest, listing, options, monitor).await?);
        }
    }
    listing.states(repository, &packs).await
}

async fn packs_named_by(
    locator: &Locator,
    manifest: &Manifest,
    listing: &DataListing,
) -> anyhow::Result<HashSet<PackId>> {
    let mut packs = HashSet::new();
    let Some(tree) = manifest.tree(&RootKind::Packs) else { return Ok(packs) };
    let mut entries = Entries::new(locator, tree)?;
    while let Some(entry) = entries.next().await? {
        let piece = piece_of(&entry, &locator.meta_chunk(&entry.id).await?)?;
        packs.extend(piece.as_chunks().0.iter().map(|id| PackId::from_bytes(*id)));
    }
    if locator.look_for(&packs, listing) {
        packs.retain(|pack| !locator.is_gone(PackClass::Data, *pack));
        packs.extend(packs_instead(locator, manifest).await?);
    }
    Ok(packs)
}

/// The packs that have the chunks of packs which are gone.
async fn packs_instead(locator: &Locator, manifest: &Manifest) -> anyhow::Result<HashSet<PackId>> {
    let mut packs = HashSet::new();
    let Some(tree) = manifest.tree(&RootKind::Data) else { return Ok(packs) };
    let mut entries = Entries::new(locator, tree)?;
    while let Some(entry) = entries.next().await? {
        if let Some(hint) = entry.hint.filter(|hint| locator.is_gone(PackClass::Data, hint.pack)) {
            packs.insert(locator.moved_to(&entry.id).await?.unwrap_or(hint).pack);
        }
    }
    Ok(packs)
}

/// Reads a chunk of each of these packs, which a backup was published over and which are gone, from wherever it is now.
///
/// # Errors
///
/// [`crate::repository::Damage`] if it is nowhere; otherwise the store's error.
pub async fn read_elsewhere(
    repository: &Repository,
    manifest: &Manifest,
    gone: &BTreeSet<PackId>,
    options: &RestoreOptions,
    monitor: &Arc<dyn Monitor>,
) -> anyhow::Result<()> {
    let Some(tree) = manifest.tree(&RootKind::Data) else { return Ok(()) };
    let locator = Locator::open(repository, manifest, options, monitor).await?;
    let (mut entries, mut left) = (Entries::new(&locator, tree)?, gone.clone());
    while !left.is_empty()
        && let Some(entry) = entries.next().await?
    {
        if let Some(hint) = entry.hint.filter(|hint| left.remove(&hint.pack)) {
            locator.chunk(&entry.id, PackClass::Data, hint).await?;
        }
    }
    Ok(())
}

/// Reads all metadata of a backup that is in none of the packs it was published over, from wherever it is now.
///
/// # Errors
///
/// [`crate::repository::Damage`] if some of it is nowhere; otherwise the store's error.
pub async fn read_metadata_elsewhere(
    repository: &Repository,
    manifest: &Manifest,
    options: &RestoreOptions,
    monitor: &Arc<dyn Monitor>,
) -> anyhow::Result<()> {
    let locator = Locator::open(repository, manifest, options, monitor).await?;
    for kind in [RootKind::Commands, RootKind::Packs, RootKind::Data] {
        let Some(tree) = manifest.tree(&kind) else { continue };
        // The nodes are read on the way.
        let mut entries = Entries::new(&locator, tree)?;
        while let Some(entry) = entries.next().await? {
            if kind != RootKind::Data && !locator.has_meta(&entry.id) {
                locator.meta_chunk(&entry.id).await?;
            }
        }
    }
    Ok(())
}

/// Writes the stream of a backup to `sink`; gives the sink back for the verdict of its receiver.
///
/// Memory is bounded by `options`, besides a table of the backup's metadata chunks. When this fails, the sink has got
/// only bytes that were right, and not the end of the stream.
///
/// # Errors
///
/// [`crate::repository::Damage`] that names the object where something is missing or damaged; otherwise the error of
/// the store or the sink.
pub async fn restore_stream(
    repository: &Repository,
    manifest: &Manifest,
    sink: Box<dyn StreamSink>,
    options: &RestoreOptions,
    monitor: &Arc<dyn Monitor>,
) -> anyhow::Result<Box<dyn StreamSink>> {
    let what = || format!("restoring backup {} of '{}'", manifest.id(), manifest.subvolume);
    anyhow::ensure!(
        manifest.stream.digest_algorithm == STREAM_DIGEST_XXH3,
        "{}: its stream has a digest of kind '{}', which needs a newer btrfs_to_s3",
        what(),
        manifest.stream.digest_algorithm
    );
    anyhow::ensure!(manifest.kind != BackupKind::Unchanged, "{}: it has no stream of its own", what());
    let locator = Locator::open(repository, manifest, options, monitor).await.with_context(what)?;
    let (command_sender, commands) = pieces();
    let (data_sender, data) = pieces();
    let parts = Parts {
        commands: manifest.tree(&RootKind::Commands).is_some_and(|tree| tree.bytes > 0).then_some(commands),
        data,
    };
    let (stream, for_rebuilding) = (manifest.stream.clone(), Arc::clone(monitor));
    let rebuilding = tokio::task::spawn_blocking(move || rebuild_stream(parts, sink, &stream, for_rebuilding.as_ref()));
    let sending = async {
        tokio::try_join!(
            send_commands(&locator, manifest.tree(&RootKind::Commands), command_sender),
            send_data(&locator, manifest.tree(&RootKind::Data), options, data_sender)
        )
    };
    let sent = sending.await;
    let rebuilt = rebuilding.await.context("the thread that writes the stream has ended")?;
    // When fetching fails, the other end only sees its input end, so what it says of that does not matter. And when it
    // fails itself, fetching stops without an error.
    sent.and(rebuilt).with_context(what)
}
