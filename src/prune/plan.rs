//! What to delete, decided from what was listed and marked. Nothing here asks or changes anything.

use std::collections::{BTreeMap, HashMap, HashSet};

use jiff::Timestamp;

use crate::id::{ManifestId, PackId, SegmentId, SessionId};
use crate::pack::format::PackClass;
use crate::prune::mark::{Fate, MarkedPack};
use crate::records::prune::{Doomed, PLAN_LIMIT_OBJECTS};
use crate::repository::listing::{ListedPack, ListedSegment};
use crate::repository::plans::Named;

/// What was listed.
#[derive(Debug)]
pub(super) struct Observed<'a> {
    /// All packs that are there.
    pub(super) listed: &'a HashMap<(PackClass, PackId), ListedPack>,
    /// All segments that are there.
    pub(super) listed_segments: &'a BTreeMap<SegmentId, ListedSegment>,
    /// Those that count, whether they name a pack or not.
    pub(super) segments: &'a [SegmentId],
    /// Segments of sessions that were given up by prune.
    pub(super) void_segments: &'a [SegmentId],
    /// Manifests that may go.
    pub(super) manifests: &'a [ManifestId],
    /// Sessions that were open when manifests were listed.
    pub(super) open: &'a HashSet<SessionId>,
    /// When the first of these began, by the store's clock.
    pub(super) open_since: Option<Timestamp>,
    /// What other plans name that are not finished.
    pub(super) named: &'a Named,
    /// Packs that are paid for until they have an age which they do not have yet.
    pub(super) paid_for: &'a HashSet<Pack>,
}

pub(super) type Pack = (PackClass, PackId);

/// Plans what is to be deleted: packs of which nothing is needed, segments that say nothing of packs that stay, or nothing that a
/// later one does not say, and the manifests that may go.
///
/// What a session has stored that was open is left alone: if it is needed, that would be found out later, but until then
/// others would store it again. So is a pack that would be paid for all the same: somebody may need it yet. `emptied` are
/// packs whose needed chunks have been found, or put, elsewhere.
pub(super) fn plan_deletion(observed: &Observed<'_>, marked: &[MarkedPack], emptied: &HashSet<Pack>) -> Doomed {
    let mut packs = removable_packs(observed, marked, emptied);
    packs.retain(|pack| !observed.paid_for.contains(pack));
    packs.truncate(PLAN_LIMIT_OBJECTS);
    let mut doomed = Doomed::default();
    for (class, id) in packs {
        doomed.push_pack(class, id);
    }
    let not_named = |id: &&SegmentId| !observed.named.has_segment(id);
    doomed.segments = removable_segments(observed, marked, &doomed, observed.segments.iter().filter(not_named));
    doomed.segments.extend(observed.void_segments.iter().filter(not_named));
    doomed.segments.truncate(PLAN_LIMIT_OBJECTS - doomed.count());
    let room = PLAN_LIMIT_OBJECTS - doomed.count();
    let manifests = observed.manifests.iter().filter(|id| !observed.named.has_manifest(id));
    doomed.manifests = manifests.take(room).copied().collect();
    doomed
}

/// The packs of which nothing is needed, whether they are paid for or not; in order.
pub(super) fn removable_packs(observed: &Observed<'_>, marked: &[MarkedPack], emptied: &HashSet<Pack>) -> Vec<Pack> {
    let needed = needed_packs(marked);
    let is_of_open = |marked: &&MarkedPack| observed.open.contains(&marked.segment.session);
    let of_open: HashSet<Pack> = marked.iter().filter(is_of_open).map(|it| (it.pack.class, it.pack.id)).collect();
    let may_be_of_open =
        |pack: &ListedPack| observed.open_since.is_some_and(|open_since| pack.modified_at >= open_since);
    let goes = |(pack, listed): &(&Pack, &ListedPack)| {
        !observed.named.has_pack(pack.0, pack.1)
            && match needed.get(pack) {
                Some(is_needed) => (!is_needed || emptied.contains(*pack)) && !of_open.contains(pack),
                None => !may_be_of_open(listed),
            }
    };
    let mut packs: Vec<Pack> = observed.listed.iter().filter(goes).map(|(pack, _)| *pack).collect();
    packs.sort_unstable();
    packs
}

/// What is left of a plan when it has been found out what is needed.
pub(super) fn strike_needed(planned: &Doomed, observed: &Observed<'_>, marked: &[MarkedPack]) -> Doomed {
    let needed = needed_packs(marked);
    let mut left = Doomed::default();
    for (class, id) in planned.packs() {
        if needed.get(&(class, id)) != Some(&true) {
            left.push_pack(class, id);
        }
    }
    let may_go: HashSet<ManifestId> = observed.manifests.iter().copied().collect();
    left.manifests = planned.manifests.iter().copied().filter(|id| may_go.contains(id)).collect();
    let void: HashSet<&SegmentId> = observed.void_segments.iter().collect();
    let counting: HashSet<&SegmentId> = observed.segments.iter().collect();
    let (counting, others): (Vec<_>, Vec<_>) = planned.segments.iter().partition(|id| counting.contains(id));
    left.segments = removable_segments(observed, marked, &left, counting.into_iter());
    left.segments.extend(others.into_iter().filter(|id| void.contains(id)));
    left
}

/// Whether something is needed of each pack that counts.
fn needed_packs(marked: &[MarkedPack]) -> HashMap<Pack, bool> {
    let mut needed = HashMap::new();
    for marked in marked.iter().filter(|marked| marked.fate != Fate::DoesNotCount) {
        let is_needed = marked.needed.chunks > 0 || marked.duplicate.chunks > 0;
        *needed.entry((marked.pack.class, marked.pack.id)).or_default() |= is_needed;
    }
    needed
}

/// Those of some segments that can go: of every pack that they name and that stays, a later segment says the same. Where two were
/// stored at one moment, both stay, as who replaces a segment deletes the older one.
fn removable_segments<'a>(
    observed: &Observed<'_>,
    marked: &[MarkedPack],
    doomed: &Doomed,
    candidates: impl Iterator<Item = &'a SegmentId>,
) -> Vec<SegmentId> {
    let gone: HashSet<Pack> = doomed.packs().collect();
    let stored_at = |segment: &SegmentId| observed.listed_segments.get(segment).map(|listed| listed.modified_at);
    let staying: Vec<(Pack, SegmentId)> = marked
        .iter()
        .map(|marked| ((marked.pack.class, marked.pack.id), marked.segment.id))
        .filter(|(pack, _)| observed.listed.contains_key(pack) && !gone.contains(pack))
        .collect();
    let mut latest: HashMap<Pack, Option<Timestamp>> = HashMap::new();
    for (pack, segment) in staying.iter().filter(|(_, segment)| !observed.named.has_segment(segment)) {
        let latest = latest.entry(*pack).or_default();
        *latest = (*latest).max(stored_at(segment));
    }
    let is_latest = |(pack, segment): &&(Pack, SegmentId)| latest.get(pack).copied().flatten() <= stored_at(segment);
    let needed: HashSet<SegmentId> = staying.iter().filter(is_latest).map(|(_, segment)| *segment).collect();
    candidates.filter(|segment| !needed.contains(segment)).copied().collect()
}

#[cfg(test)]
mod tests;
