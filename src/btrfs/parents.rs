//! Decides what an incremental stream can be made against.

use std::cmp::Reverse;

use jiff::Timestamp;

use super::subvolume::{Subvolume, SubvolumeInfo};
use crate::id::{ManifestId, SnapshotVersion};

/// How a stream will name this subvolume, be it what is sent, its parent or a clone source.
///
/// The kernel puts the received UUID in place of the UUID where there is one, but beside it always the local ctransid,
/// not the one it was received with.
#[must_use]
pub fn sent_identity(info: &SubvolumeInfo) -> SnapshotVersion {
    SnapshotVersion { uuid: info.received_uuid.unwrap_or(info.uuid), ctransid: info.ctransid }
}

/// Whether a subvolume is certain to be as it was when this snapshot of it was taken, by what was found out about both after
/// all that was written has reached the disk.
///
/// The `ctransid` alone does not tell: what the kernel brings back from its log after a crash changes files and not that
/// number. But it writes to the tree, as does everything else that could change the subvolume, and so the tree has another
/// generation than the one that taking the snapshot gave it. A further snapshot, or a balance, changes the generation as
/// well: then this says "no" although nothing has changed.
#[must_use]
pub fn is_unchanged(source: &SubvolumeInfo, snapshot: &SubvolumeInfo) -> bool {
    let is_snapshot_of_it = snapshot.parent_uuid == Some(source.uuid) && !source.uuid.is_nil();
    let untouched = snapshot.read_only && snapshot.received_uuid.is_none();
    let same = source.ctransid == snapshot.ctransid && source.generation == snapshot.otransid;
    is_snapshot_of_it && untouched && same
}

/// A backup whose chain is whole, so that another can be built on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParentCandidate {
    /// The backup.
    pub manifest: ManifestId,
    /// What its stream says it is.
    pub identity: SnapshotVersion,
    /// When it was made.
    pub created_at: Timestamp,
}

/// What an incremental stream is made against, if there can be one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ParentChoice {
    /// This snapshot on the host holds what that backup does.
    Parent {
        /// The snapshot. Its path is there.
        snapshot: Subvolume,
        /// The backup.
        manifest: ManifestId,
    },
    /// Only a full stream will do.
    None {
        /// Why, in words.
        reason: String,
    },
}

/// Chooses the newest backup of which this host still has the snapshot, unchanged.
///
/// A snapshot is that of a backup if its UUID and ctransid are those in the backup's stream. A received subvolume is if
/// it has the stream's UUID as its received UUID, came from that state or is what was sent, is provably unchanged since
/// it was received, and is the only one with that received UUID.
///
/// `subvolumes` are those that [`list_subvolumes`](super::subvolume::list_subvolumes) gives for the folder of the
/// snapshots, not for the source: `btrfs send` only works with a parent on the mount that the snapshot is on.
///
/// Where the snapshot comes from does not matter beyond that: `btrfs send` works between any two subvolumes, and after
/// a restore the subvolume in use is no relative of the snapshots that were received.
#[must_use]
pub fn choose_parent(subvolumes: &[Subvolume], candidates: &[ParentCandidate]) -> ParentChoice {
    let mut newest_first: Vec<_> = candidates.iter().collect();
    newest_first.sort_by_key(|candidate| Reverse(candidate.created_at));
    let mut reason = None;
    for candidate in &newest_first {
        match find_snapshot(candidate.identity, subvolumes) {
            Ok(Some(snapshot)) => {
                return ParentChoice::Parent { snapshot: snapshot.clone(), manifest: candidate.manifest };
            }
            Ok(None) => {}
            Err(unfit) => reason = reason.or(Some(unfit)),
        }
    }
    let missing = || match newest_first.len() {
        0 => "there is no earlier backup to build on".to_owned(),
        count => format!("this host has no snapshot any more of the {count} earlier backup(s) that could be built on"),
    };
    ParentChoice::None { reason: reason.unwrap_or_else(missing) }
}

/// The subvolume in the state that `identity` names; an error says why one that seems to be it is not fit.
fn find_snapshot(identity: SnapshotVersion, subvolumes: &[Subvolume]) -> Result<Option<&Subvolume>, String> {
    let carries = |subvolume: &&Subvolume| sent_identity(&subvolume.info).uuid == identity.uuid;
    let (received, originals): (Vec<_>, Vec<_>) =
        subvolumes.iter().filter(carries).partition(|subvolume| subvolume.info.received_uuid.is_some());
    let original = originals.first().map(|subvolume| fit(identity, subvolume));
    // A restored copy on the same host does not make the original ambiguous, and may replace a damaged one.
    match (original, &received[..]) {
        (Some(Ok(original)), _) => Ok(Some(original)),
        (Some(Err(why)), []) => Err(why),
        (None, []) => Ok(None),
        (_, [only]) => fit(identity, only).map(Some),
        (_, [one, other, ..]) => {
            let (one, other) = (one.shown_path().display(), other.shown_path().display());
            Err(format!("{one} and {other} were both received from the snapshot with UUID {}", identity.uuid))
        }
    }
}

fn fit(identity: SnapshotVersion, subvolume: &Subvolume) -> Result<&Subvolume, String> {
    match unfit(identity, subvolume) {
        None => Ok(subvolume),
        Some(why) => Err(format!("{} {why}", subvolume.shown_path().display())),
    }
}

fn unfit(identity: SnapshotVersion, subvolume: &Subvolume) -> Option<&'static str> {
    let info = &subvolume.info;
    let received = info.received_uuid.is_some();
    let same_state = info.ctransid == identity.ctransid || received && info.stransid == identity.ctransid;
    if !info.read_only {
        Some("is writable now")
    } else if !same_state {
        Some("is not in the state that was backed up")
    } else if received && !info.is_received_and_unchanged() {
        Some("may have been changed since it was received")
    } else if subvolume.path.is_none() {
        Some("cannot be reached through the mount on which the snapshots are")
    } else {
        None
    }
}

#[cfg(test)]
mod tests;
