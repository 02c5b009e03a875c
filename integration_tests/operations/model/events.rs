//! How often what is worth testing has happened.

use std::collections::BTreeMap;
use std::fmt;

macro_rules! events {
    ($($event:ident: $what:literal,)+) => {
        /// What is worth testing.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub(crate) enum Event {
            $($event,)+
        }

        impl Event {
            const ALL: &[Self] = &[$(Self::$event,)+];

            fn what(self) -> &'static str {
                match self {
                    $(Self::$event => $what,)+
                }
            }
        }
    };
}

events! {
    BackupPublished: "backups that were published",
    IncrementalPublished: "incremental ones of these",
    UnchangedPublished: "that found nothing changed",
    BackupsOverlapped: "that began while another was under way",
    PacksOfOthersUsed: "that use packs of other sessions",
    CacheLost: "begun without what the host remembered",
    CacheOld: "begun with an older copy of it",
    CacheForeign: "begun with that of another host",
    BackupFailed: "backups that failed",
    BackupUnsettled: "of which it was not known whether they exist",
    BackupMetPlan: "that began while a prune was under way",
    ParentForgotten: "that failed because their parent was forgotten meanwhile",
    SuspendedRunEnded: "backups suspended for weeks that ended by themselves",
    SuspendedRunFoundItselfEnded: "that found their session ended by others",
    RunOfACopiedHost: "that went on beside a copy of their host",
    RestoreCompleted: "restores",
    RestoreFailed: "restores that failed",
    CatalogRead: "catalogs read",
    KilledBeforeAnnouncing: "runs killed before they announced a session",
    KilledWhileLooking: "while they looked at the repository",
    KilledAtAPack: "at the PUT of a pack",
    KilledAtASegment: "at that of a segment",
    KilledAtTheManifest: "at that of the manifest",
    KilledAtTheCommit: "at the commit",
    KilledRestore: "restores and listings killed",
    FailedBeforeItsEffect: "requests that failed before their effect",
    ReplyLost: "whose reply was lost",
    ReplyOfTheCommitLost: "commits whose reply was lost",
    Delayed: "requests given up that were still under way",
    CommitDelayed: "commits given up that were still under way",
    LandedLate: "PUTs that had their effect late",
    LandedAfterTheEnd: "after the session had ended",
    EndLandedAfterAnEnd: "an end after that of the same run",
    EndLandedAfterThatOfAnother: "an end after that of another run",
    RetriedPutMetItself: "PUTs that met their own earlier try",
    ClockSetBack: "clocks set back",
    Forgotten: "backups forgotten",
    Unforgotten: "brought back",
    UnforgetFailed: "that were not",
    KilledUnforget: "runs killed that brought one back",
    Pruned: "prunes that came to their end",
    PruneWaits: "that had to wait for sessions",
    PruneRepacked: "that rewrote packs",
    PruneMerged: "that merged index segments",
    PruneFailed: "that failed",
    PrunesOverlapped: "that began while another was under way",
    PlanTakenUp: "that began while a plan was unfinished",
    SuspendedPruneEnded: "that were suspended for weeks and ended",
    PackDeleted: "packs they deleted",
    SegmentDeleted: "segments they deleted",
    ManifestDeleted: "manifests they deleted",
    PackStruck: "packs struck from a plan, as they were needed since",
    ManifestStruck: "manifests struck from one",
    FinalListMetAnother: "final lists that met another's",
    KilledAtThePlan: "prunes killed at the PUT of the plan",
    KilledAtTheFinalList: "at that of the final list",
    KilledWhileDeleting: "while they deleted",
    KilledRepack: "while they rewrote packs",
    KilledPrune: "elsewhere",
    DeletedLate: "deletions that had their effect late",
    SessionVoided: "sessions given up by prune",
    Repaired: "repairs",
    RepairReplacedPacks: "that put packs in the place of others",
    RepairReplacedSegments: "that replaced index segments",
    RepairAddedPacks: "that added packs to the index",
    RepairMetPlan: "that began while a plan was unfinished",
    RepairFailed: "that failed",
    KilledRepair: "that were killed",
    KilledWhileReplacing: "while they deleted what they had replaced",
    CheckCompleted: "checks beside others",
    PackLost: "packs lost",
}

/// Counts of events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Events(BTreeMap<Event, u64>);

impl Events {
    pub(crate) fn count(&mut self, event: Event) {
        *self.0.entry(event).or_default() += 1;
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (event, count) in &other.0 {
            *self.0.entry(*event).or_default() += count;
        }
    }

    /// What has happened less than `least` times.
    pub(crate) fn rarer_than(&self, least: u64) -> Vec<Event> {
        let rare = |event: &Event| self.0.get(event).copied().unwrap_or(0) < least;
        Event::ALL.iter().copied().filter(rare).collect()
    }
}

impl fmt::Display for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(event, count)| writeln!(f, "{count:>9}  {}", event.what()))
    }
}
