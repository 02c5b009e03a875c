//! What has to hold, each with its name.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use btrfs_to_s3::clock::Clock;
use btrfs_to_s3::id::{ManifestId, SessionId};
use btrfs_to_s3::monitor::Monitor;
use btrfs_to_s3::repository::Repository;
use btrfs_to_s3::repository::cache::RecordCache;
use btrfs_to_s3::repository::catalog::{Catalog, Published};
use btrfs_to_s3::repository::session::list_sessions;
use btrfs_to_s3::store::memory::MemoryStore;
use btrfs_to_s3::store::recording::RecordingStore;
use btrfs_to_s3::store::{Key, Store};

use crate::model::quiet::complete;
use crate::model::runs::restore;
use crate::model::truth::Truth;
use crate::world::Notes;

/// What has to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Invariant {
    /// Every backup that was published, and was not forgotten or not for long, gives its stream back, byte for byte, and
    /// so do those that it was made against.
    PublishedBackupsRestore,
    /// What is listed is what was published; open sessions and unfinished manifests are as they are.
    ListingIsTrue,
    /// A run that says it has published has, and one that says it has not never will have.
    ReportsAreTrue,
    /// A run whose requests went well, and whose session nobody ended, succeeds.
    NothingFailsWithoutCause,
    /// No run speaks of damage where nothing is damaged.
    NoDamageIsMadeUp,
    /// A backup uses packs of its own session and of sessions that have ended, but not by "void".
    OnlyEndedSessionsAreUsed,
    /// A segment names every pack that a backup uses.
    UsedPacksAreIndexed,
    /// After a run of each host without faults, no session is open.
    NothingIsLeftOpen,
    /// No other run than a prune or a repair deletes anything. As objects are never replaced either, what has been restored once
    /// still can be, until something is deleted.
    OnlyPruneDeletes,
    /// A prune deletes nothing but what a final list names, and the records of its plan; a repair nothing but packs and
    /// segments that it has replaced, and not before what it has put counts.
    OnlySettledObjectsAreDeleted,
    /// A prune that nothing else goes on beside leaves nothing that no backup needs.
    NoGarbageIsLeft,
    /// Neither the program nor the schedule panics.
    NothingPanics,
}

/// What does not hold.
#[derive(Debug)]
pub(crate) struct Violation {
    pub(crate) invariant: Invariant,
    pub(crate) detail: String,
}

pub(crate) type Checked<T = ()> = Result<T, Violation>;

pub(crate) fn ensure(invariant: Invariant, holds: bool, detail: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(Violation { invariant, detail: detail() }) }
}

/// Looks at the repository as somebody would who has just come.
#[derive(Debug, Clone)]
pub(crate) struct Visitor {
    pub(crate) memory: Arc<MemoryStore>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Visitor {
    /// Restores a backup; gives the objects that took.
    pub(crate) async fn restore(&self, id: ManifestId, stream: &[u8], scratch: &Path) -> Checked<BTreeSet<Key>> {
        let recording = Arc::new(RecordingStore::new(Arc::clone(&self.memory) as Store));
        let (store, clock, scratch) = (Arc::clone(&recording) as Store, Arc::clone(&self.clock), scratch.to_owned());
        let restored = complete(async move {
            let repository = Repository::open(store, clock).await?;
            restore(&repository, id, &scratch, &(Arc::new(Notes::default()) as Arc<dyn Monitor>)).await
        });
        let restored = restored.await;
        let holds = restored.as_ref().is_ok_and(|bytes| bytes == stream);
        ensure(Invariant::PublishedBackupsRestore, holds, || match restored {
            Ok(bytes) => format!("{id} gives {} other bytes", bytes.len()),
            Err(error) => format!("{id}: {error:#}"),
        })?;
        let succeeded = recording.calls().into_iter().filter(|call| call.succeeded);
        let targets = succeeded.map(|call| Key::new(call.target));
        Ok(targets.flatten().collect())
    }

    /// Compares what is listed with what is true.
    pub(crate) async fn check_listing(&self, truth: &Truth) -> Checked {
        let (store, clock) = (Arc::clone(&self.memory) as Store, Arc::clone(&self.clock));
        let repository = Repository::open(store, clock).await.unwrap();
        let catalog = Catalog::load(&repository, &RecordCache::none()).await.unwrap();
        let listed: BTreeSet<ManifestId> = catalog.published.iter().map(Published::id).collect();
        let published = truth.counting_ids();
        let invariant = Invariant::ListingIsTrue;
        ensure(invariant, catalog.damaged.is_empty(), || format!("damage: {:?}", catalog.damaged))?;
        ensure(invariant, listed == published, || format!("listed {listed:?}, published {published:?}"))?;
        let sessions = list_sessions(&repository).await.unwrap();
        let (open, truly_open) = (sessions.open_ids().collect::<BTreeSet<_>>(), truth.open());
        ensure(invariant, open == truly_open, || format!("listed as open {open:?}, open {truly_open:?}"))?;
        let unfinished: BTreeSet<SessionId> = catalog.unfinished.into_iter().map(SessionId::from).collect();
        let with_manifest = |id: &SessionId| truth.sessions[id].has_manifest;
        let truly_unfinished: BTreeSet<SessionId> = truly_open.into_iter().filter(with_manifest).collect();
        ensure(invariant, unfinished == truly_unfinished, || {
            format!("listed as unfinished {unfinished:?}, unfinished {truly_unfinished:?}")
        })
    }
}

/// Checks that a backup stands on nothing that may go away.
pub(crate) fn check_packs(truth: &Truth, session: SessionId, packs: &BTreeSet<Key>) -> Checked {
    let unsafe_pack = truth.unsafe_pack(session, packs);
    ensure(Invariant::OnlyEndedSessionsAreUsed, unsafe_pack.is_none(), || {
        format!("{session}: {}", unsafe_pack.unwrap_or_default())
    })?;
    let unindexed = truth.unindexed_pack(session, packs);
    ensure(Invariant::UsedPacksAreIndexed, unindexed.is_none(), || format!("{session}: {unindexed:?}"))
}
