//! Rehearses a restore: goes the way of one, and leaves nothing but the knowledge that it works.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use futures_util::stream::{self, StreamExt};

use crate::btrfs::command::BtrfsCommand;
use crate::btrfs::loop_file_system::LoopFileSystem;
use crate::btrfs::receive_target::TargetOptions;
use crate::check::subset::Subset;
use crate::id::{Digest, PackId};
use crate::job::{RestoreTarget, restore_subvolume};
use crate::monitor::{Counter, Monitor};
use crate::pack::format::PackClass;
use crate::records::manifest::BackupKind;
use crate::records::note::RehearsalMethod;
use crate::repository::cache::RecordCache;
use crate::repository::catalog::Published;
use crate::repository::packs::verify_pack;
use crate::repository::plans::without_deleted;
use crate::repository::scratch::ScratchFolder;
use crate::repository::{Damage, Repository, layout};
use crate::restore::{
    DataListing, RestoreOptions, StreamSink, data_packs, read_elsewhere, read_metadata_elsewhere, restore_stream,
};
use crate::size::ByteSize;
use crate::store::thaw::ThawState;

/// Packs that are read at once: each takes memory for its bytes.
const PACKS_AT_ONCE: usize = 2;
/// How much larger than its streams a file system is made, so that compressed extents find room as well.
const ROOM: u64 = 4;

/// How a rehearsal goes.
#[derive(Debug, Clone)]
pub enum Rehearsal {
    /// Rebuilds all streams of the chain.
    Whole,
    /// Reads all packs of metadata, and some of those of file data, at random.
    Sample(Subset),
    /// Receives all streams of the chain.
    Receive {
        /// Where a file system in a file is made; it takes as much room as the subvolume.
        directory: PathBuf,
        /// Where programs are looked for.
        search_path: Option<OsString>,
    },
}

impl Rehearsal {
    /// As it stands in a note.
    #[must_use]
    pub fn method(&self) -> RehearsalMethod {
        match self {
            Self::Whole => RehearsalMethod::Whole,
            Self::Sample(_) => RehearsalMethod::Sample,
            Self::Receive { .. } => RehearsalMethod::Receive,
        }
    }
}

/// Packs that would have to be read are archived, and have no copy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{packs} packs ({}) are archived: --thaw has them thawed, and --sample is content with what can be read",
    ByteSize::from_bytes(*.bytes)
)]
pub struct ArchivedPacks {
    /// How many.
    pub packs: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// What a rehearsal has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rehearsed {
    /// Streams that were rebuilt or received.
    pub streams: u64,
    /// Their bytes; of a sample, the bytes of the packs that were read.
    pub bytes: u64,
    /// Packs that were read, of a sample.
    pub packs: u64,
}

/// Rehearses the restore of the last backup of a chain, the full one first. Asks for no thaw.
///
/// # Errors
///
/// [`ArchivedPacks`] before anything is read; [`Damage`]; otherwise that of the store, of the local disk or of `btrfs`.
pub async fn rehearse(
    repository: &Repository,
    chain: &[Published],
    rehearsal: &Rehearsal,
    options: &RestoreOptions,
    monitor: &Arc<dyn Monitor>,
) -> anyhow::Result<Rehearsed> {
    let has_stream = |backup: &&Published| backup.manifest.kind != BackupKind::Unchanged;
    let chain: Vec<Published> = chain.iter().filter(has_stream).cloned().collect();
    let packs = Packs::of(repository, &chain, options, monitor).await?;
    if !matches!(rehearsal, Rehearsal::Sample(_)) {
        packs.require_all()?;
    }
    let bytes = chain.iter().map(|backup| backup.manifest.stream.bytes).fold(0, u64::saturating_add);
    let restored = Rehearsed { streams: chain.len() as u64, bytes, packs: 0 };
    match rehearsal {
        Rehearsal::Whole => {
            for (number, backup) in chain.iter().enumerate() {
                let later = chain[number + 1..].iter().map(|backup| backup.manifest.clone()).collect();
                let options = options.clone().with_later(later);
                restore_stream(repository, &backup.manifest, Box::new(Nowhere), &options, monitor).await?.finish()?;
            }
            Ok(restored)
        }
        Rehearsal::Sample(share) => sample(repository, &chain, &packs, share, options, monitor).await,
        Rehearsal::Receive { directory, search_path } => {
            let folder = ScratchFolder::make(directory)?;
            require_room(directory, bytes)?;
            let btrfs = BtrfsCommand::find(search_path.as_deref())?;
            let room = bytes.saturating_mul(ROOM);
            let file_system = LoopFileSystem::make(folder.path(), room, search_path.as_deref())?;
            let target = RestoreTarget {
                path: file_system.path().join("rehearsal"),
                options: TargetOptions { read_only: true, discard_received: false },
                btrfs,
            };
            restore_subvolume(repository, &chain, &target, options, monitor).await?;
            file_system.unmount()?;
            Ok(restored)
        }
    }
}

/// Checks that there is room for so many bytes, as far as that can be told: a full disk would look like a backup that does not
/// restore.
fn require_room(directory: &Path, bytes: u64) -> anyhow::Result<()> {
    let there = rustix::fs::statvfs(directory).with_context(|| format!("looking at {}", directory.display()))?;
    let free_bytes = there.f_bavail.saturating_mul(there.f_frsize);
    let size = ByteSize::from_bytes;
    anyhow::ensure!(
        free_bytes >= bytes,
        "{} has room for {}, and {} are to be received: name another directory (--directory)",
        directory.display(),
        size(free_bytes),
        size(bytes)
    );
    Ok(())
}

/// The packs of file data that a chain needs, by whether they can be read.
#[derive(Debug, Default)]
struct Packs {
    readable: Vec<(PackId, u64)>,
    archived: Vec<(PackId, u64)>,
    /// What they had may be in others since.
    gone: BTreeSet<PackId>,
}

impl Packs {
    async fn of(
        repository: &Repository,
        chain: &[Published],
        options: &RestoreOptions,
        monitor: &Arc<dyn Monitor>,
    ) -> anyhow::Result<Self> {
        let (listing, mut needed) = (DataListing::of(repository).await?, BTreeSet::new());
        for backup in chain {
            needed.extend(data_packs(repository, &backup.manifest, &listing, options, monitor).await?);
        }
        let states = listing.states(repository, &needed).await?;
        let mut packs = Self { gone: needed, ..Self::default() };
        for state in states {
            let Some((_, pack)) = layout::parse_pack_key(&state.object.key) else { continue };
            packs.gone.remove(&pack);
            match state.thaw {
                ThawState::Readable | ThawState::Thawed { .. } => packs.readable.push((pack, state.object.size_bytes)),
                ThawState::Archived | ThawState::Thawing => packs.archived.push((pack, state.object.size_bytes)),
            }
        }
        Ok(packs)
    }

    fn require_all(&self) -> Result<(), ArchivedPacks> {
        let bytes = self.archived.iter().map(|(_, bytes)| bytes).sum();
        if self.archived.is_empty() { Ok(()) } else { Err(ArchivedPacks { packs: self.archived.len(), bytes }) }
    }
}

/// Reads some packs whole, and checks every chunk in them; of each that is gone, it looks whether what it had is elsewhere, and
/// reads all of it if it is metadata.
async fn sample(
    repository: &Repository,
    chain: &[Published],
    packs: &Packs,
    share: &Subset,
    options: &RestoreOptions,
    monitor: &Arc<dyn Monitor>,
) -> anyhow::Result<Rehearsed> {
    if packs.readable.is_empty() {
        packs.require_all()?;
    }
    for backup in chain {
        read_elsewhere(repository, &backup.manifest, &packs.gone, options, monitor).await?;
    }
    let salt = repository.draw_salt();
    let chosen = choose(&packs.readable, share, salt.as_bytes()).into_iter().map(|pack| (PackClass::Data, pack));
    let metadata = chain.iter().flat_map(|backup| backup.manifest.meta_packs.iter().copied()).collect();
    let metadata = without_deleted(repository, PackClass::Meta, metadata, &RecordCache::none()).await?;
    for backup in chain.iter().filter(|backup| !backup.manifest.meta_packs.iter().all(|pack| metadata.contains(pack))) {
        read_metadata_elsewhere(repository, &backup.manifest, options, monitor).await?;
    }
    let wanted = metadata.into_iter().map(|pack| (PackClass::Meta, pack)).chain(chosen);
    let read =
        |(class, pack)| async move { (layout::pack_key(class, &pack), verify_pack(repository, class, pack).await) };
    let mut reads = stream::iter(wanted).map(read).buffered(PACKS_AT_ONCE);
    let mut done = Rehearsed::default();
    while let Some((key, verdict)) = reads.next().await {
        let verdict = verdict.with_context(|| format!("reading {key}"))?;
        monitor.add(Counter::StreamBytes, verdict.read_bytes);
        if let Some(reason) = verdict.fault {
            return Err(Damage { object: format!("{}/{key}", repository.store().url()), reason }.into());
        }
        done.packs += 1;
        done.bytes += verdict.read_bytes;
    }
    Ok(done)
}

/// Chooses packs at random, by the salt, until the share of their bytes is reached: at least one, if there is any.
fn choose(packs: &[(PackId, u64)], share: &Subset, salt: &[u8; 16]) -> Vec<PackId> {
    let all: u64 = packs.iter().map(|(_, bytes)| bytes).sum();
    let wanted = match share {
        Subset::Share(millionths) => u128::from(all) * u128::from(*millionths) / 1_000_000,
        Subset::Bytes(bytes) => u128::from(*bytes),
        Subset::All | Subset::Part { .. } => u128::from(all),
    };
    let mut shuffled: Vec<(Digest, PackId, u64)> =
        packs.iter().map(|(pack, bytes)| (Digest::of(&[&salt[..], pack.as_bytes()].concat()), *pack, *bytes)).collect();
    shuffled.sort_unstable();
    let mut so_far = 0_u128;
    let is_wanted = |(_, _, bytes): &&(Digest, PackId, u64)| {
        let before = so_far;
        so_far += u128::from(*bytes);
        before < wanted.max(1)
    };
    shuffled.iter().take_while(is_wanted).map(|(_, pack, _)| *pack).collect()
}

/// Takes a stream and does nothing with it.
#[derive(Debug)]
struct Nowhere;

impl Write for Nowhere {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl StreamSink for Nowhere {
    fn finish(self: Box<Self>) -> anyhow::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packs(count: u8) -> Vec<(PackId, u64)> {
        (0..count).map(|first| (PackId::from_bytes([first; 32]), 10)).collect()
    }

    #[test]
    fn a_sample_takes_other_packs_each_time_and_as_many_as_its_share_begins() {
        let all = packs(200);
        let sample = |share: &str, salt: u8| choose(&all, &share.parse().unwrap(), &[salt; 16]);
        assert_eq!((sample("5%", 1).len(), sample("25 B", 1).len(), sample("100%", 1).len()), (10, 3, 200));
        assert_eq!(sample("0.0001%", 1).len(), 1);
        assert_eq!(sample("5%", 1), sample("5%", 1));
        assert_ne!(sample("5%", 1), sample("5%", 2));
        let seen: BTreeSet<PackId> = (0..=255).flat_map(|salt| sample("5%", salt)).collect();
        assert_eq!(seen.len(), 200);
        assert_eq!(choose(&[], &"5%".parse().unwrap(), &[0; 16]), []);
    }
}
