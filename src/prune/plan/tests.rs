//! Plans over listings that are made up.

use super::*;
use crate::local_index::{IndexedPack, IndexedSegment};
use crate::prune::mark::Use;
use crate::repository::plans::UnfinishedPlan;

const DATA: PackClass = PackClass::Data;

fn pack(number: u8) -> PackId {
    PackId::from_bytes([number; 32])
}

fn segment(number: u8) -> SegmentId {
    SegmentId::from_bytes([number; 32])
}

fn session(number: u8) -> SessionId {
    SessionId::from_bytes([number; 16])
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// A repository whose packs are of class `data`, each stored in the second of its number.
#[derive(Default)]
struct Scene {
    listed: HashMap<(PackClass, PackId), ListedPack>,
    marked: Vec<MarkedPack>,
    listed_segments: BTreeMap<SegmentId, ListedSegment>,
    segments: Vec<SegmentId>,
    void_segments: Vec<SegmentId>,
    manifests: Vec<ManifestId>,
    open: HashSet<SessionId>,
    open_since: Option<Timestamp>,
    named: Named,
    paid_for: HashSet<Pack>,
    emptied: HashSet<Pack>,
}

impl Scene {
    fn with_pack(mut self, number: u8) -> Self {
        let listed = ListedPack { size_bytes: 1, modified_at: at(i64::from(number)), storage_class: None };
        self.listed.insert((DATA, pack(number)), listed);
        self
    }

    /// A segment of the session of the same number that names packs, of each of which so many chunks are needed, stored in the
    /// second of its number.
    fn with_segment(mut self, number: u8, packs: &[(u8, u32)]) -> Self {
        let listed = ListedSegment { size_bytes: 1, modified_at: at(i64::from(number)) };
        self.listed_segments.insert(segment(number), listed);
        let indexed = IndexedSegment { id: segment(number), session: session(number) };
        self.segments.push(indexed.id);
        for (pack_number, chunks) in packs {
            let pack = IndexedPack { id: pack(*pack_number), class: DATA, stored_bytes: 1, frame_count: 1 };
            let is_there = self.listed.contains_key(&(DATA, pack.id));
            let fate = if is_there { Fate::Stays } else { Fate::DoesNotCount };
            let needed = Use { chunks: *chunks, bytes: u64::from(*chunks) };
            self.marked.push(MarkedPack {
                segment: indexed,
                pack,
                fate,
                stored_at: None,
                needed,
                duplicate: Use::default(),
            });
        }
        self
    }

    fn observed(&self) -> Observed<'_> {
        Observed {
            listed: &self.listed,
            listed_segments: &self.listed_segments,
            segments: &self.segments,
            void_segments: &self.void_segments,
            manifests: &self.manifests,
            open: &self.open,
            open_since: self.open_since,
            named: &self.named,
            paid_for: &self.paid_for,
        }
    }

    fn plan(&self) -> Doomed {
        plan_deletion(&self.observed(), &self.marked, &self.emptied)
    }

    fn strike(&self, planned: &Doomed) -> Doomed {
        strike_needed(planned, &self.observed(), &self.marked)
    }
}

fn named(packs: &[u8], segments: &[u8]) -> Named {
    let objects = Doomed {
        data_packs: packs.iter().copied().map(pack).collect(),
        segments: segments.iter().copied().map(segment).collect(),
        ..Doomed::default()
    };
    Named::by([&UnfinishedPlan { id: crate::id::PlanId::from_bytes([0; 16]), objects }])
}

#[test]
fn a_pack_of_which_nothing_is_needed_goes_and_its_segment_with_the_last() {
    let scene = Scene::default().with_pack(1).with_pack(2).with_pack(3);
    let scene = scene.with_segment(1, &[(1, 0), (2, 5)]).with_segment(2, &[(3, 0)]);
    let planned = scene.plan();
    assert_eq!(planned.data_packs, [pack(1), pack(3)]);
    assert_eq!(planned.segments, [segment(2)]);
}

#[test]
fn a_pack_that_no_segment_names_goes_unless_an_open_session_may_have_stored_it() {
    let mut scene = Scene::default().with_pack(1).with_pack(5).with_pack(9);
    assert_eq!(scene.plan().data_packs, [pack(1), pack(5), pack(9)]);
    scene.open_since = Some(at(5));
    assert_eq!(scene.plan().data_packs, [pack(1)]);
}

#[test]
fn what_a_session_has_stored_that_was_open_stays_though_nothing_is_known_to_need_it() {
    let mut scene = Scene::default().with_pack(1).with_pack(2).with_segment(1, &[(1, 0)]).with_segment(2, &[(2, 0)]);
    scene.open.insert(session(2));
    assert_eq!(scene.plan().data_packs, [pack(1)]);
}

#[test]
fn what_another_plan_names_is_not_named_again() {
    let mut scene = Scene::default().with_pack(1).with_pack(2).with_segment(1, &[(1, 0)]).with_segment(2, &[(2, 0)]);
    scene.named = named(&[1], &[1]);
    let planned = scene.plan();
    assert_eq!((planned.data_packs, planned.segments), (vec![pack(2)], vec![segment(2)]));
}

#[test]
fn of_two_segments_that_say_the_same_the_later_one_stays() {
    let mut scene = Scene::default().with_pack(1).with_segment(2, &[(1, 5)]).with_segment(1, &[(1, 5)]);
    assert_eq!(scene.plan().segments, [segment(1)]);
    assert_eq!(scene.strike(&scene.plan()).segments, [segment(1)]);
    let both = Doomed { segments: vec![segment(1), segment(2)], ..Doomed::default() };
    assert_eq!(scene.strike(&both).segments, [segment(1)], "whatever the plan says");
    scene.listed_segments.get_mut(&segment(1)).unwrap().modified_at = at(2);
    assert_eq!(scene.plan().segments, [], "of one moment");
}

#[test]
fn a_segment_stays_for_one_pack_of_which_no_later_one_says_anything() {
    let scene = Scene::default().with_pack(1).with_pack(2).with_segment(1, &[(1, 5), (2, 5)]);
    let scene = scene.with_segment(2, &[(1, 5)]);
    assert_eq!(scene.plan().segments, []);
    let scene = scene.with_segment(3, &[(2, 5)]);
    assert_eq!(scene.plan().segments, [segment(1)], "two say together what it says");
    let mut scene = scene.with_pack(3).with_segment(4, &[(3, 0)]);
    assert_eq!(scene.plan().segments, [segment(1), segment(4)], "its pack goes as well");
    scene.named = named(&[], &[3]);
    assert_eq!(scene.plan().segments, [segment(4)], "another plan may delete the later one");
    assert_eq!(scene.strike(&Doomed { segments: vec![segment(1)], ..Doomed::default() }).segments, []);
}

#[test]
fn segments_of_packs_that_are_gone_and_of_void_sessions_go() {
    let mut scene = Scene::default().with_segment(1, &[(1, 0)]);
    scene.void_segments.push(segment(7));
    assert_eq!(scene.plan().segments, [segment(1), segment(7)]);
}

#[test]
fn what_has_turned_out_to_be_needed_is_struck() {
    let scene = Scene::default().with_pack(1).with_pack(2).with_pack(3).with_segment(1, &[(1, 1), (2, 0)]);
    let mut scene = scene.with_segment(2, &[(2, 0)]);
    scene.manifests = vec![session(4).into()];
    let planned = Doomed {
        data_packs: vec![pack(1), pack(2), pack(3)],
        segments: vec![segment(1), segment(2), segment(9)],
        manifests: vec![session(4).into(), session(5).into()],
        ..Doomed::default()
    };
    let left = scene.strike(&planned);
    assert_eq!(left.data_packs, [pack(2), pack(3)]);
    assert_eq!(left.segments, [segment(2)], "one names a pack that stays, one is neither listed nor void");
    assert_eq!(left.manifests, [session(4).into()]);
}

#[test]
fn what_has_been_copied_out_of_a_pack_is_not_needed_of_it() {
    let mut scene = Scene::default().with_pack(1).with_pack(2).with_segment(1, &[(1, 3), (2, 3)]);
    scene.emptied.insert((DATA, pack(1)));
    let planned = scene.plan();
    assert_eq!((planned.data_packs, planned.segments), (vec![pack(1)], vec![]));
}

/// That its chunks are in another one as well, only the index says.
#[test]
fn a_pack_whose_chunks_are_kept_elsewhere_stays_until_that_has_been_seen() {
    let mut scene = Scene::default().with_pack(1).with_pack(2).with_segment(1, &[(1, 0), (2, 4)]);
    scene.marked[0].duplicate = Use { chunks: 4, bytes: 4 };
    assert_eq!(scene.plan().data_packs, []);
    scene.emptied.insert((DATA, pack(1)));
    assert_eq!(scene.plan().data_packs, [pack(1)]);
}

#[test]
fn a_pack_that_is_paid_for_stays_and_so_does_its_segment() {
    let mut scene = Scene::default().with_pack(1).with_pack(2).with_segment(1, &[(1, 0)]).with_segment(2, &[(2, 0)]);
    scene.paid_for.insert((DATA, pack(2)));
    let planned = scene.plan();
    assert_eq!((planned.data_packs, planned.segments), (vec![pack(1)], vec![segment(1)]));
    assert_eq!(removable_packs(&scene.observed(), &scene.marked, &scene.emptied).len(), 2);
}
