//! Finds out what `btrfs receive` would take for a stream's parent and clone sources, before it does.
//!
//! `btrfs receive` looks for the UUID that a stream names among the received UUIDs of the target's file system, then
//! among the UUIDs, and takes the first that the file system's UUID tree has: it neither looks at the ctransid nor at
//! whether there are others, nor whether someone has edited it since. So everything it could take has to be fit.

use std::fmt;
use std::path::PathBuf;

use super::subvolume::{Subvolume, SubvolumeInfo};
use crate::id::{SnapshotVersion, Uuid};

/// What a stream says of itself and of what it builds on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamFacts {
    /// What the received subvolume will be a copy of.
    pub identity: SnapshotVersion,
    /// What the stream is the difference to; `None` for a full one.
    pub parent: Option<SnapshotVersion>,
    /// What else it shares extents with.
    pub clone_sources: Vec<SnapshotVersion>,
}

/// Something on the target's file system, or missing there, with which `btrfs receive` would fail or go wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// Nothing there is what the stream builds on.
    #[error("the stream builds on the snapshot with UUID {uuid}, which is not on the target's file system")]
    Missing {
        /// The UUID by which the stream names it.
        uuid: Uuid,
    },
    /// Something there could be taken for what the stream builds on, and is not the same.
    #[error(
        "btrfs receive could mistake {} for the snapshot with UUID {uuid}: delete it, or restore onto another file \
        system",
        list(unfit)
    )]
    Unfit {
        /// The UUID by which the stream names the snapshot.
        uuid: Uuid,
        /// The subvolumes, and what is wrong with each.
        unfit: Vec<(PathBuf, Fault)>,
    },
}

fn list(unfit: &[(PathBuf, Fault)]) -> String {
    let items: Vec<_> = unfit.iter().map(|(path, fault)| format!("{} ({fault})", path.display())).collect();
    items.join(", ")
}

/// Why a subvolume must not be built on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It can be changed, also while the stream is received.
    Writable,
    /// It holds another state of the same subvolume.
    OtherState,
    /// It may have been changed since it was received.
    MaybeChanged,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Writable => "which is writable",
            Self::OtherState => "which holds another state of it",
            Self::MaybeChanged => "which may have been changed since it was received",
        })
    }
}

/// Checks that whatever `btrfs receive` takes for the snapshots that the stream names will be right.
///
/// `subvolumes` are all of the target's file system. `received` says what this restore has received so far: streams
/// name a parent with the ctransid it had where it was sent, which for one that had been restored there before is
/// not the one of its own stream.
///
/// # Errors
///
/// The first [`Conflict`].
pub fn check_candidates(
    facts: &StreamFacts,
    subvolumes: &[Subvolume],
    received: &[SnapshotVersion],
) -> Result<(), Conflict> {
    check_identity(facts.identity, subvolumes)?;
    let needed = facts.parent.iter().chain(&facts.clone_sources);
    needed.filter(|needed| needed.uuid != facts.identity.uuid).try_for_each(|needed| {
        let ours = received.iter().find(|identity| identity.uuid == needed.uuid);
        check_needed(*needed, ours.unwrap_or(needed).ctransid, subvolumes)
    })
}

/// Checks that earlier copies of what is about to be received are the same as the new one will be.
///
/// Later streams would find them as well, and old versions of `btrfs receive` look there for extents that are
/// cloned within the subvolume.
///
/// # Errors
///
/// [`Conflict::Unfit`].
pub fn check_identity(identity: SnapshotVersion, subvolumes: &[Subvolume]) -> Result<(), Conflict> {
    let copies: Vec<_> = received_from(identity.uuid, subvolumes).collect();
    check_all(identity.uuid, &copies, |info| received_fault(info, identity.ctransid))
}

fn received_from(uuid: Uuid, subvolumes: &[Subvolume]) -> impl Iterator<Item = &Subvolume> {
    subvolumes.iter().filter(move |subvolume| subvolume.info.received_uuid == Some(uuid))
}

fn check_needed(needed: SnapshotVersion, stransid: u64, subvolumes: &[Subvolume]) -> Result<(), Conflict> {
    let copies: Vec<_> = received_from(needed.uuid, subvolumes).collect();
    if !copies.is_empty() {
        return check_all(needed.uuid, &copies, |info| received_fault(info, stransid));
    }
    let originals: Vec<_> = subvolumes.iter().filter(|subvolume| subvolume.info.uuid == needed.uuid).collect();
    if originals.is_empty() {
        return Err(Conflict::Missing { uuid: needed.uuid });
    }
    check_all(needed.uuid, &originals, |info| original_fault(info, needed.ctransid))
}

fn check_all(
    uuid: Uuid,
    subvolumes: &[&Subvolume],
    fault: impl Fn(&SubvolumeInfo) -> Option<Fault>,
) -> Result<(), Conflict> {
    let faulty = |subvolume: &&Subvolume| Some((subvolume.shown_path().to_owned(), fault(&subvolume.info)?));
    let unfit: Vec<_> = subvolumes.iter().filter_map(faulty).collect();
    if unfit.is_empty() { Ok(()) } else { Err(Conflict::Unfit { uuid, unfit }) }
}

fn received_fault(info: &SubvolumeInfo, stransid: u64) -> Option<Fault> {
    if !info.read_only {
        Some(Fault::Writable)
    } else if info.stransid != stransid {
        Some(Fault::OtherState)
    } else {
        (!info.is_received_and_unchanged()).then_some(Fault::MaybeChanged)
    }
}

fn original_fault(info: &SubvolumeInfo, ctransid: u64) -> Option<Fault> {
    if info.read_only { (info.ctransid != ctransid).then_some(Fault::OtherState) } else { Some(Fault::Writable) }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn uuid(number: u8) -> Uuid {
        Uuid::from_bytes([number; 16])
    }

    fn identity(number: u8, ctransid: u64) -> SnapshotVersion {
        SnapshotVersion { uuid: uuid(number), ctransid }
    }

    fn original(number: u8, ctransid: u64) -> Subvolume {
        let info = SubvolumeInfo {
            id: 256 + u64::from(number),
            parent_id: 5,
            generation: 1000,
            ctransid,
            otransid: ctransid,
            stransid: 0,
            rtransid: 0,
            uuid: uuid(number),
            parent_uuid: None,
            received_uuid: None,
            read_only: true,
            created_at: Timestamp::UNIX_EPOCH,
        };
        Subvolume { info, path_from_top: format!("s{number}").into(), path: Some(format!("/mnt/s{number}").into()) }
    }

    fn copy(number: u8, of: u8, stransid: u64) -> Subvolume {
        let mut subvolume = original(number, 500);
        subvolume.info.received_uuid = Some(uuid(of));
        subvolume.info.stransid = stransid;
        subvolume.info.rtransid = 501;
        subvolume
    }

    fn with(mut subvolume: Subvolume, change: impl FnOnce(&mut SubvolumeInfo)) -> Subvolume {
        change(&mut subvolume.info);
        subvolume
    }

    fn incremental() -> StreamFacts {
        StreamFacts { identity: identity(2, 20), parent: Some(identity(1, 10)), clone_sources: Vec::new() }
    }

    #[track_caller]
    fn assert_unfit(subvolumes: &[Subvolume], number: u8, expected: &[(&str, Fault)]) {
        let conflict = check_candidates(&incremental(), subvolumes, &[]).unwrap_err();
        let unfit = expected.iter().map(|(path, fault)| (PathBuf::from(path), *fault)).collect();
        assert_eq!(conflict, Conflict::Unfit { uuid: uuid(number), unfit });
    }

    #[test]
    fn equal_copies_of_the_parent_are_fit_however_many() {
        let subvolumes = [copy(7, 1, 10), copy(8, 1, 10), original(9, 30)];
        assert_eq!(check_candidates(&incremental(), &subvolumes, &[]), Ok(()));
    }

    #[test]
    fn the_unchanged_original_of_the_parent_is_fit() {
        assert_eq!(check_candidates(&incremental(), &[original(1, 10)], &[]), Ok(()));
        assert_unfit(&[original(1, 11)], 1, &[("/mnt/s1", Fault::OtherState)]);
        let writable = with(original(1, 10), |info| info.read_only = false);
        assert_unfit(&[writable], 1, &[("/mnt/s1", Fault::Writable)]);
    }

    #[test]
    fn an_edited_original_does_not_matter_beside_a_copy() {
        let edited = with(original(1, 11), |info| info.read_only = false);
        assert_eq!(check_candidates(&incremental(), &[edited, copy(7, 1, 10)], &[]), Ok(()));
    }

    #[test]
    fn an_edited_copy_is_refused_even_beside_a_good_one() {
        let edited = with(copy(8, 1, 10), |info| info.ctransid = 502);
        assert_unfit(&[copy(7, 1, 10), edited], 1, &[("/mnt/s8", Fault::MaybeChanged)]);
    }

    #[test]
    fn all_unfit_copies_are_named_with_what_is_wrong() {
        let writable = with(copy(7, 1, 10), |info| info.read_only = false);
        let subvolumes = [writable, copy(8, 1, 11)];
        assert_unfit(&subvolumes, 1, &[("/mnt/s7", Fault::Writable), ("/mnt/s8", Fault::OtherState)]);
        let message = check_candidates(&incremental(), &subvolumes, &[]).unwrap_err().to_string();
        assert!(
            message.contains("/mnt/s7 (which is writable), /mnt/s8 (which holds another state of it)"),
            "{message}"
        );
    }

    #[test]
    fn an_edited_earlier_copy_of_what_is_to_be_received_is_refused() {
        let edited = with(copy(8, 2, 20), |info| info.ctransid = 502);
        assert_unfit(&[copy(7, 1, 10), edited], 2, &[("/mnt/s8", Fault::MaybeChanged)]);
    }

    #[test]
    fn a_missing_parent_or_clone_source_is_noticed() {
        assert_eq!(check_candidates(&incremental(), &[], &[]), Err(Conflict::Missing { uuid: uuid(1) }));
        let facts = StreamFacts { clone_sources: vec![identity(3, 5)], ..incremental() };
        let subvolumes = [copy(7, 1, 10)];
        assert_eq!(check_candidates(&facts, &subvolumes, &[]), Err(Conflict::Missing { uuid: uuid(3) }));
    }

    #[test]
    fn clones_within_the_subvolume_need_nothing() {
        let facts = StreamFacts { identity: identity(2, 20), parent: None, clone_sources: vec![identity(2, 20)] };
        assert_eq!(check_candidates(&facts, &[], &[]), Ok(()));
    }

    #[test]
    fn a_parent_that_had_been_restored_where_it_was_sent_is_known_by_its_own_stream() {
        let facts = StreamFacts { parent: Some(identity(1, 777)), ..incremental() };
        let subvolumes = [copy(7, 1, 10)];
        assert_eq!(check_candidates(&facts, &subvolumes, &[identity(1, 10)]), Ok(()));
        assert!(check_candidates(&facts, &subvolumes, &[]).is_err());
    }
}
