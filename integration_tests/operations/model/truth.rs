//! What is true of the repository, told by what has been stored and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use btrfs_to_s3::id::{ManifestId, SessionId};
use btrfs_to_s3::index::Segment;
use btrfs_to_s3::object::{ObjectKind, decode_record, read_header};
use btrfs_to_s3::records::session::{Outcome, SessionRecord};
use btrfs_to_s3::repository::layout;
use btrfs_to_s3::store::Key;
use bytes::Bytes;
use jiff::Timestamp;

use crate::model::board::RunId;

/// A session.
#[derive(Debug, Default)]
pub(crate) struct Session {
    /// What it says and by which run that was stored; prune's by none.
    pub(crate) end: Option<(Outcome, Option<RunId>)>,
    pub(crate) has_start: bool,
    pub(crate) has_manifest: bool,
    /// When its newest object was stored.
    pub(crate) newest_at: Timestamp,
    /// Packs and segments.
    pub(crate) objects: BTreeSet<Key>,
}

impl Session {
    fn is_void(&self) -> bool {
        self.end.is_some_and(|(outcome, _)| outcome == Outcome::Void)
    }
}

/// A backup that exists.
#[derive(Debug)]
pub(crate) struct Backup {
    pub(crate) stream: Vec<u8>,
    /// Packs that a restore of it has read.
    pub(crate) packs: BTreeSet<Key>,
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
    /// The sessions whose segments name a pack.
    indexed: BTreeMap<Key, BTreeSet<SessionId>>,
    /// Sessions whose runs said that they had failed.
    pub(crate) failed: BTreeSet<SessionId>,
    writers: BTreeMap<Key, RunId>,
    pub(crate) packs_lost: usize,
}

impl Truth {
    /// Takes note of an object that has been stored, by prune where no run is named; gives the session it publishes.
    pub(crate) fn note(&mut self, run: Option<RunId>, key: &Key, body: &Bytes, now: Timestamp) -> Option<SessionId> {
        if let Some(run) = run {
            self.writers.insert(key.clone(), run);
        }
        if let Some((id, name)) = layout::parse_session_key(key) {
            if name == "start"
                && let Some(run) = run
            {
                self.session_of_run.insert(run, id);
            }
            let session = self.sessions.entry(id).or_default();
            session.newest_at = now;
            session.has_start |= name == "start";
            return (name == "end").then(|| self.note_end(run, id, body)).flatten();
        }
        let id = *self.session_of_run.get(&run?)?;
        let session = self.sessions.entry(id).or_default();
        session.newest_at = now;
        if layout::parse_manifest_key(key).is_some() {
            session.has_manifest = true;
            return None;
        }
        session.objects.insert(key.clone());
        if layout::parse_pack_key(key).is_some() {
            self.packs.insert(key.clone(), id);
        } else {
            self.note_segment(key, body);
        }
        None
    }

    fn note_end(&mut self, run: Option<RunId>, id: SessionId, body: &Bytes) -> Option<SessionId> {
        let (_, record) = decode_record::<SessionRecord>(ObjectKind::Session, body).unwrap();
        let outcome = record.outcome.unwrap();
        self.sessions.get_mut(&id).unwrap().end = Some((outcome, run));
        (outcome == Outcome::Manifest).then_some(id)
    }

    fn note_segment(&mut self, key: &Key, body: &Bytes) {
        let repository = read_header(ObjectKind::Segment, body).unwrap();
        let segment = Segment::decode(repository, layout::parse_segment_key(key).unwrap(), body).unwrap();
        for pack in &segment.packs {
            let pack_key = layout::pack_key(pack.footer.class, &pack.id);
            self.indexed.entry(pack_key).or_default().insert(segment.session);
        }
    }

    /// Whether an object was stored by this run.
    pub(crate) fn is_by(&self, key: &Key, run: RunId) -> bool {
        self.writers.get(key) == Some(&run)
    }

    pub(crate) fn published_ids(&self) -> BTreeSet<ManifestId> {
        self.published.keys().copied().collect()
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
    pub(crate) fn unsafe_pack(&self, user: SessionId, packs: &BTreeSet<Key>) -> Option<String> {
        packs.iter().find_map(|pack| {
            let owner = self.packs.get(pack).copied();
            match owner {
                Some(owner) if owner == user || self.counts(&owner) => None,
                _ => Some(format!("{pack} is of session {owner:?}, which has not ended well")),
            }
        })
    }

    /// A pack that a session uses and that no segment names.
    pub(crate) fn unindexed_pack<'k>(&self, user: SessionId, packs: &'k BTreeSet<Key>) -> Option<&'k Key> {
        packs.iter().find(|pack| {
            let sessions = self.indexed.get(*pack);
            !sessions.is_some_and(|sessions| sessions.iter().any(|session| *session == user || self.counts(session)))
        })
    }

    pub(crate) fn has_void_objects(&self) -> bool {
        self.sessions.values().any(|session| session.is_void() && !session.objects.is_empty())
    }

    /// What void sessions have stored; it is going to be deleted.
    pub(crate) fn take_void_objects(&mut self) -> BTreeSet<Key> {
        let void = self.sessions.values_mut().filter(|session| session.is_void());
        void.flat_map(|session| std::mem::take(&mut session.objects)).collect()
    }

    /// A session that prune may give up: its newest object is older than that.
    pub(crate) fn older_than(&self, time: Timestamp) -> Option<SessionId> {
        let old = |session: &Session| session.end.is_none() && session.newest_at < time;
        self.sessions.iter().find(|(_, session)| old(session)).map(|(id, _)| *id)
    }
}
