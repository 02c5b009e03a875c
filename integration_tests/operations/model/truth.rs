//! What is true of the repository, told by what has been stored and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use btrfs_to_s3::id::{ManifestId, PlanId, SessionId};
use btrfs_to_s3::index::Segment;
use btrfs_to_s3::object::{ObjectKind, decode_record, read_header};
use btrfs_to_s3::records::manifest::{BackupKind, Manifest};
use btrfs_to_s3::records::prune::{Doomed, PruneRecord};
use btrfs_to_s3::records::session::{Outcome, SessionRecord};
use btrfs_to_s3::repository::layout;
use btrfs_to_s3::store::Key;
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};

use crate::model::board::RunId;
use crate::model::events::{Event, Events};

/// A session.
#[derive(Debug, Default)]
pub(crate) struct Session {
    /// What it says and by which run that was stored.
    pub(crate) end: Option<(Outcome, RunId)>,
    pub(crate) has_start: bool,
    pub(crate) has_manifest: bool,
    /// The parent that its manifest names.
    pub(crate) parent: Option<ManifestId>,
    /// Whether that has no stream of its own.
    pub(crate) is_unchanged: bool,
}

/// A backup that exists.
#[derive(Debug)]
pub(crate) struct Backup {
    pub(crate) stream: Vec<u8>,
    /// Objects that a restore of it has read.
    pub(crate) used: BTreeSet<Key>,
    /// The backup that it was made against.
    pub(crate) parent: Option<ManifestId>,
    /// A pack of it was lost.
    pub(crate) is_damaged: bool,
}

/// All that has been stored, as far as it matters.
#[derive(Debug, Default)]
pub(crate) struct Truth {
    pub(crate) sessions: BTreeMap<SessionId, Session>,
    pub(crate) session_of_run: BTreeMap<RunId, SessionId>,
    pub(crate) published: BTreeMap<ManifestId, Backup>,
    /// Which session has stored a pack.
    pub(crate) packs: BTreeMap<Key, SessionId>,
    /// The segments that name a pack, with their sessions.
    indexed: BTreeMap<Key, BTreeMap<Key, SessionId>>,
    /// Backups that were forgotten, and when.
    pub(crate) forgotten: BTreeMap<ManifestId, Timestamp>,
    /// Plans that are there.
    plans: BTreeMap<PlanId, Doomed>,
    /// How many have been put.
    pub(crate) plans_put: usize,
    /// What final lists name.
    settled: BTreeSet<Key>,
    /// Sessions whose runs said that they had failed.
    pub(crate) failed: BTreeSet<SessionId>,
    writers: BTreeMap<Key, RunId>,
    pub(crate) packs_lost: usize,
    /// Runs that repair, with their sessions.
    pub(crate) repairs: BTreeMap<RunId, Vec<SessionId>>,
    /// How many packs they have deleted.
    pub(crate) packs_replaced: usize,
}

impl Truth {
    /// Takes note of an object that has been stored; gives the session it publishes.
    pub(crate) fn note(&mut self, run: RunId, key: &Key, body: &Bytes, events: &mut Events) -> Option<SessionId> {
        self.writers.insert(key.clone(), run);
        if let Some((id, name)) = layout::parse_session_key(key) {
            if name == "start" {
                self.session_of_run.insert(run, id);
                if let Some(sessions) = self.repairs.get_mut(&run) {
                    sessions.push(id);
                }
            }
            let session = self.sessions.entry(id).or_default();
            session.has_start |= name == "start";
            return (name == "end").then(|| self.note_end(run, id, body, events)).flatten();
        }
        if let Some((id, name)) = layout::parse_plan_key(key) {
            self.note_plan(id, name, body, events);
            return None;
        }
        let of_repair = self.repairs.get(&run).and_then(|sessions| sessions.first());
        let id = *of_repair.or(self.session_of_run.get(&run))?;
        let session = self.sessions.entry(id).or_default();
        if layout::parse_manifest_key(key).is_some() {
            let (_, manifest) = decode_record::<Manifest>(ObjectKind::Manifest, body).unwrap();
            session.has_manifest = true;
            session.is_unchanged = manifest.kind == BackupKind::Unchanged;
            session.parent = manifest.parent.map(|parent| parent.manifest);
        } else if layout::parse_pack_key(key).is_some() {
            self.packs.insert(key.clone(), id);
        } else if layout::parse_segment_key(key).is_some() {
            self.note_segment(key, body);
        }
        None
    }

    fn note_plan(&mut self, id: PlanId, name: &str, body: &Bytes, events: &mut Events) {
        let (_, record) = decode_record::<PruneRecord>(ObjectKind::Plan, body).unwrap();
        if name == "plan" {
            self.plans.insert(id, record.objects);
            self.plans_put += 1;
        } else if name == "final" {
            let planned = self.plans.get(&id).cloned().unwrap_or_default();
            let (objects, count) = (record.objects, |doomed: &Doomed| doomed.packs().count());
            for (event, times) in [
                (Event::PackStruck, count(&planned) - count(&objects)),
                (Event::ManifestStruck, planned.manifests.len() - objects.manifests.len()),
            ] {
                (0..times).for_each(|_| events.count(event));
            }
            self.settled.extend(objects.packs().map(|(class, id)| layout::pack_key(class, &id)));
            self.settled.extend(objects.segments.iter().map(layout::segment_key));
            self.settled.extend(objects.manifests.iter().map(layout::manifest_key));
        }
    }

    /// Whether an object may be deleted.
    pub(crate) fn may_be_deleted(&self, key: &Key) -> bool {
        let of_plan = layout::parse_plan_key(key).is_some_and(|(_, name)| name != "final");
        of_plan || is_of_table(key) || self.settled.contains(key)
    }

    /// Whether a repair may delete an object: a pack when what it has put in its place counts, a segment when its last
    /// session has ended well.
    pub(crate) fn may_be_replaced(&self, run: RunId, key: &Key) -> bool {
        let Some(sessions) = self.repairs.get(&run) else { return false };
        let session = if is_pack(key) { sessions.first() } else { sessions.last() };
        let is_replaceable = is_pack(key) || layout::parse_segment_key(key).is_some();
        is_replaceable && session.is_some_and(|session| self.counts(session))
    }

    /// Takes note of an object that was deleted or lost.
    pub(crate) fn note_deleted(&mut self, key: &Key) {
        self.packs.remove(key);
        for segments in self.indexed.values_mut() {
            segments.remove(key);
        }
        if let Some((id, "plan")) = layout::parse_plan_key(key) {
            self.plans.remove(&id);
        }
    }

    pub(crate) fn has_unfinished_plan(&self) -> bool {
        !self.plans.is_empty()
    }

    fn note_end(&mut self, run: RunId, id: SessionId, body: &Bytes, events: &mut Events) -> Option<SessionId> {
        let (_, record) = decode_record::<SessionRecord>(ObjectKind::Session, body).unwrap();
        let outcome = record.outcome.unwrap();
        self.sessions.get_mut(&id).unwrap().end = Some((outcome, run));
        if outcome == Outcome::Void {
            events.count(Event::SessionVoided);
        }
        (outcome == Outcome::Manifest).then_some(id)
    }

    fn note_segment(&mut self, key: &Key, body: &Bytes) {
        let repository = read_header(ObjectKind::Segment, body).unwrap();
        let segment = Segment::decode(repository, layout::parse_segment_key(key).unwrap(), body).unwrap();
        for pack in &segment.packs {
            let pack_key = layout::pack_key(pack.footer.class, &pack.id);
            self.indexed.entry(pack_key).or_default().insert(key.clone(), segment.session);
        }
    }

    /// Whether an object was stored by this run.
    pub(crate) fn is_by(&self, key: &Key, run: RunId) -> bool {
        self.writers.get(key) == Some(&run)
    }

    pub(crate) fn published_ids(&self) -> BTreeSet<ManifestId> {
        self.published.keys().copied().collect()
    }

    /// Backups that were published and not forgotten.
    pub(crate) fn counting_ids(&self) -> BTreeSet<ManifestId> {
        self.published.keys().copied().filter(|id| !self.forgotten.contains_key(id)).collect()
    }

    /// Backups that have to stay: those not forgotten, or not for as long as `grace`, and those they were made against.
    pub(crate) fn protected(&self, now: Timestamp, grace: SignedDuration) -> BTreeSet<ManifestId> {
        let is_over = |id: &ManifestId| self.forgotten.get(id).is_some_and(|at| now.duration_since(*at) >= grace);
        let mut protected = BTreeSet::new();
        for mut id in self.published.keys().copied().filter(|id| !is_over(id)) {
            while protected.insert(id)
                && let Some(parent) = self.published[&id].parent
            {
                id = parent;
            }
        }
        protected
    }

    /// Sessions that have a start or a beat, and no end.
    pub(crate) fn open(&self) -> BTreeSet<SessionId> {
        self.sessions.iter().filter(|(_, session)| session.end.is_none()).map(|(id, _)| *id).collect()
    }

    /// Whether what a session has stored may be used by others.
    fn counts(&self, session: &SessionId) -> bool {
        let end = self.sessions.get(session).and_then(|session| session.end);
        end.is_some_and(|(outcome, _)| outcome != Outcome::Void)
    }

    /// A pack that a session uses although nobody promises to keep it, and why.
    pub(crate) fn unsafe_pack(&self, user: SessionId, objects: &BTreeSet<Key>) -> Option<String> {
        objects.iter().filter(|key| is_pack(key)).find_map(|pack| {
            let owner = self.packs.get(pack).copied();
            match owner {
                Some(owner) if owner == user || self.counts(&owner) => None,
                _ => Some(format!("{pack} is of session {owner:?}, which has not ended well")),
            }
        })
    }

    /// A pack that a session uses and that no segment names.
    pub(crate) fn unindexed_pack<'k>(&self, user: SessionId, objects: &'k BTreeSet<Key>) -> Option<&'k Key> {
        objects.iter().filter(|key| is_pack(key)).find(|pack| {
            let sessions = self.indexed.get(*pack);
            !sessions.is_some_and(|sessions| sessions.values().any(|session| *session == user || self.counts(session)))
        })
    }
}

/// Whether an object is one of a look-up table, on which nothing hangs.
pub(crate) fn is_of_table(key: &Key) -> bool {
    layout::parse_table_key(key).is_some() || layout::parse_blocks_key(key).is_some()
}

pub(crate) fn is_pack(key: &Key) -> bool {
    layout::parse_pack_key(key).is_some()
}
