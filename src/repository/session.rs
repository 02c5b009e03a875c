//! A writing run: it announces itself before it looks at anything, and its end is the commit.
//!
//! `docs/ordering.md` says why in this order.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use anyhow::{Context, bail};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use jiff::Timestamp;

use crate::id::{Digest, SegmentId, SessionId};
use crate::index::Segment;
use crate::object::{FormatError, ObjectKind, encode_record};
use crate::pack::format::PackClass;
use crate::pack::writer::FinishedPack;
use crate::records::manifest::Manifest;
use crate::records::session::{Outcome, SessionEvent, SessionRecord, SessionStart};
use crate::repository::cache::RecordCache;
use crate::repository::{Damage, Repository, StoredAs, layout};
use crate::store::{Key, ObjectInfo, PutOutcome, StoreError, StoreErrorKind, Tier, list_all};

/// Records are read so many at once.
pub(crate) const READS_AT_ONCE: usize = 16;
/// Data packs shorter than this go to the metadata's storage class, where an object costs no surcharge.
const LEAST_DATA_TIER_BYTES: u64 = 1 << 20;

/// What a session is for that mends the repository. A prune makes no plan beside it, and does not give it up by itself, as it
/// may go on deleting.
pub(crate) const REPAIR: &str = "repair";
/// What a session is for in which a prune puts into new packs what is needed of old ones.
pub(crate) const REPACK: &str = "repack";

/// It is not known whether a backup exists: the store did not answer any more when it was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("whether backup {session} exists is not known: `btrfs_to_s3 list` tells when the store answers again")]
pub struct Unsettled {
    /// The session of the backup.
    pub session: SessionId,
}

/// A session that is open.
#[derive(Debug)]
pub struct WriteSession {
    repository: Repository,
    id: SessionId,
    started_at: Timestamp,
    stored_bytes: AtomicU64,
    beats: AtomicU32,
}

impl WriteSession {
    /// Announces a run. To be called before anything of the repository is looked at.
    ///
    /// # Errors
    ///
    /// If this program may not write to the repository, or the store fails.
    pub async fn start(repository: Repository, start: SessionStart) -> anyhow::Result<Self> {
        let config = repository.config();
        config.check_writable().with_context(|| format!("writing to repository {}", repository.store().url()))?;
        let started_at = repository.clock().now();
        let session = Self {
            id: SessionId::drawn_from(repository.randomness().as_ref()),
            started_at,
            stored_bytes: AtomicU64::new(0),
            beats: AtomicU32::new(0),
            repository,
        };
        let record = SessionRecord { start: Some(start), ..session.record(SessionEvent::Start) };
        session.put_record(&layout::session_start_key(&session.id), &record).await.context("announcing the session")?;
        Ok(session)
    }

    /// The session's id, which is that of the manifest it will publish.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// When the session began.
    #[must_use]
    pub fn started_at(&self) -> Timestamp {
        self.started_at
    }

    /// The repository it writes to.
    #[must_use]
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// Bytes of all objects it has stored.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        self.stored_bytes.load(Ordering::Relaxed)
    }

    /// Says that the session is alive.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn beat(&self) -> anyhow::Result<()> {
        let number = self.beats.fetch_add(1, Ordering::Relaxed) + 1;
        let record = SessionRecord { number, ..self.record(SessionEvent::Beat) };
        self.put_record(&layout::session_beat_key(&self.id, number), &record).await
    }

    /// Stores a pack.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn put_pack(&self, pack: FinishedPack) -> anyhow::Result<()> {
        let class = pack.record.footer.class;
        let tier = if is_data_tier(class, pack.record.stored_bytes) { Tier::Data } else { Tier::Metadata };
        self.put(&layout::pack_key(class, &pack.record.id), pack.bytes, tier).await?;
        Ok(())
    }

    /// Stores an index segment. All of its packs have to be stored already.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn put_segment(&self, segment: &Segment) -> anyhow::Result<SegmentId> {
        let (id, bytes) = segment.encode(self.repository.id(), self.repository.draw_salt());
        self.put(&layout::segment_key(&id), Bytes::from(bytes), Tier::Metadata).await?;
        Ok(id)
    }

    /// Stores an object of a look-up table.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub(crate) async fn put_of_table(&self, key: &Key, bytes: Bytes) -> anyhow::Result<()> {
        self.put(key, bytes, Tier::Metadata).await
    }

    /// Publishes the manifest: when this returns `Ok`, the backup exists.
    ///
    /// # Errors
    ///
    /// If somebody else has ended the session, or the store fails; the backup does not exist then.
    pub async fn commit(&self, manifest: &Manifest) -> anyhow::Result<Digest> {
        let bytes = encode_record(ObjectKind::Manifest, self.repository.id(), manifest);
        let digest = Digest::of(&bytes);
        if let Some(outcome) = self.ended().await? {
            bail!("session {} has been ended with {outcome:?} by another run", self.id);
        }
        self.put(&layout::manifest_key(&self.id.into()), Bytes::from(bytes), Tier::Metadata).await?;
        let end = SessionRecord {
            outcome: Some(Outcome::Manifest),
            manifest_digest: Some(digest),
            ..self.record(SessionEvent::End)
        };
        let end = match end_session(&self.repository, &end).await {
            Ok(end) => end,
            // It may land yet, also where another end is put meanwhile and the store overwrites: so none is.
            Err(error) if is_transient(&error) => return Err(error.context(Unsettled { session: self.id })),
            // It may have landed all the same: trying to end it otherwise tells, if anything does.
            Err(error) => match self.abandon().await {
                Ok(end) => end,
                Err(_) => return Err(error.context(Unsettled { session: self.id })),
            },
        };
        match end.outcome {
            Outcome::Manifest => {
                self.stored_bytes.fetch_add(end.bytes, Ordering::Relaxed);
                Ok(digest)
            }
            other => bail!("session {} has been ended with {other:?} by another run", self.id),
        }
    }

    /// Gives the run up, so that what it has stored can be used by the next one at once; says how the session ended,
    /// which may have been otherwise before.
    ///
    /// # Errors
    ///
    /// If the store fails; the session then stays open until this host's next run ends it.
    pub async fn abandon(&self) -> anyhow::Result<SessionEnd> {
        let end = SessionRecord { outcome: Some(Outcome::None), ..self.record(SessionEvent::End) };
        end_session(&self.repository, &end).await
    }

    /// Whether a second end of the session, which has ended, is not stored: it would say the same as the first.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn is_end_kept(&self) -> anyhow::Result<bool> {
        let end = SessionRecord { outcome: Some(Outcome::None), ..self.record(SessionEvent::End) };
        let bytes = Bytes::from(encode_record(ObjectKind::Session, self.repository.id(), &end));
        match self.repository.store().put(&layout::session_end_key(&self.id), bytes, Tier::Metadata).await {
            Ok(outcome) => Ok(outcome == PutOutcome::Exists),
            Err(StoreError { kind: StoreErrorKind::Conflict, .. }) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    async fn ended(&self) -> anyhow::Result<Option<Outcome>> {
        let key = layout::session_end_key(&self.id);
        match self.repository.store().head(&key).await {
            Err(StoreError { kind: StoreErrorKind::NotFound, .. }) => Ok(None),
            Err(error) => Err(error.into()),
            Ok(_) => read_outcome(&self.repository, self.id, &RecordCache::none()).await.map(|end| Some(end.outcome)),
        }
    }

    fn record(&self, event: SessionEvent) -> SessionRecord {
        SessionRecord {
            session: self.id,
            event,
            number: 0,
            at: self.repository.clock().now(),
            start: None,
            outcome: None,
            manifest_digest: None,
        }
    }

    async fn put_record(&self, key: &Key, record: &SessionRecord) -> anyhow::Result<()> {
        let bytes = encode_record(ObjectKind::Session, self.repository.id(), record);
        self.put(key, Bytes::from(bytes), Tier::Metadata).await
    }

    async fn put(&self, key: &Key, bytes: Bytes, tier: Tier) -> anyhow::Result<()> {
        let length = bytes.len() as u64;
        // Keys are new each time: what exists is the answer to an earlier try of this very call.
        self.repository.store().put(key, bytes, tier).await?;
        self.stored_bytes.fetch_add(length, Ordering::Relaxed);
        Ok(())
    }
}

/// Whether a pack goes to the storage class for file data.
#[must_use]
pub(crate) fn is_data_tier(class: PackClass, stored_bytes: u64) -> bool {
    class == PackClass::Data && stored_bytes >= LEAST_DATA_TIER_BYTES
}

fn is_transient(error: &anyhow::Error) -> bool {
    error.downcast_ref::<StoreError>().is_some_and(|error| error.kind == StoreErrorKind::Transient)
}

/// Puts a session's end if it has none; gives what its end says then, whoever wrote it.
async fn end_session(repository: &Repository, end: &SessionRecord) -> anyhow::Result<SessionEnd> {
    let key = layout::session_end_key(&end.session);
    let bytes = Bytes::from(encode_record(ObjectKind::Session, repository.id(), end));
    let length = bytes.len() as u64;
    let put = repository.store().put(&key, bytes, Tier::Metadata).await;
    if let Ok(PutOutcome::Stored) = put {
        let outcome = end.outcome.unwrap_or(Outcome::None);
        return Ok(SessionEnd { outcome, manifest_digest: end.manifest_digest, bytes: length });
    }
    // Ours may have landed although the answer was lost: what is there decides.
    match read_outcome(repository, end.session, &RecordCache::none()).await {
        Ok(found) => Ok(found),
        Err(unreadable) => Err(put.err().map_or(unreadable, anyhow::Error::from)).context("ending the session"),
    }
}

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionEnd {
    /// How.
    pub outcome: Outcome,
    /// Digest of its manifest.
    pub manifest_digest: Option<Digest>,
    /// Length of the end's object.
    pub bytes: u64,
}

/// Reads the end of a session that has one.
///
/// # Errors
///
/// If it is damaged or missing, or the store fails.
pub async fn read_outcome(
    repository: &Repository,
    session: SessionId,
    cache: &RecordCache,
) -> anyhow::Result<SessionEnd> {
    let key = layout::session_end_key(&session);
    let check = |end: &SessionRecord, _: &StoredAs| match end.outcome {
        Some(_) if end.event == SessionEvent::End => check_session(end, session),
        _ => Err(FormatError::invalid("it is not the end of a session")),
    };
    let (end, stored) = repository.read_record(ObjectKind::Session, &key, cache, check).await?;
    let outcome = end.outcome.unwrap_or(Outcome::None);
    Ok(SessionEnd { outcome, manifest_digest: end.manifest_digest, bytes: stored.bytes })
}

/// Reads the start of a session.
///
/// # Errors
///
/// [`Damage`] if it is missing or not as it should be, or the store's error.
pub async fn read_start(
    repository: &Repository,
    session: SessionId,
    cache: &RecordCache,
) -> anyhow::Result<SessionStart> {
    let key = layout::session_start_key(&session);
    let check = |start: &SessionRecord, _: &StoredAs| match start.start {
        Some(_) if start.event == SessionEvent::Start => check_session(start, session),
        _ => Err(FormatError::invalid("it is not the start of a session")),
    };
    let (record, _) = repository.read_record(ObjectKind::Session, &key, cache, check).await?;
    record.start.context("a start has been checked to have one")
}

/// Checks that a record has not been put in the place of another session's.
fn check_session(record: &SessionRecord, session: SessionId) -> Result<(), FormatError> {
    if record.session == session { Ok(()) } else { Err(FormatError::invalid("it is of another session")) }
}

/// The sessions of a repository as one listing shows them.
#[derive(Debug, Clone, Default)]
pub struct SessionList {
    /// Sessions that have an end.
    pub ended: Vec<SessionId>,
    /// Sessions without one.
    pub open: Vec<OpenSession>,
    /// When the first of the open sessions began, by the store's clock.
    pub open_since: Option<Timestamp>,
    /// When the newest of all these objects was stored, by the store's clock: it is that late at least.
    pub newest_at: Option<Timestamp>,
}

/// A session without an end, by the store's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenSession {
    /// The session.
    pub id: SessionId,
    /// When it began.
    pub began_at: Timestamp,
    /// When the newest of its objects was stored.
    pub newest_at: Timestamp,
}

impl SessionList {
    /// The ids of the open sessions.
    pub fn open_ids(&self) -> impl Iterator<Item = SessionId> {
        self.open.iter().map(|session| session.id)
    }
}

/// Lists the sessions.
///
/// # Errors
///
/// If the store fails.
pub async fn list_sessions(repository: &Repository) -> anyhow::Result<SessionList> {
    let objects = list_all(repository.store().as_ref(), layout::SESSIONS).await?;
    let mut list = SessionList::default();
    // Keys come in order, so all records of a session stand together.
    let session_of = |object: &ObjectInfo| layout::parse_session_key(&object.key).map(|(session, _)| session);
    for records in objects.chunk_by(|a, b| session_of(a) == session_of(b)) {
        let Some(session) = session_of(&records[0]) else { continue };
        let times = records.iter().map(|record| record.modified_at);
        let (Some(began_at), Some(newest_at)) = (times.clone().min(), times.max()) else { continue };
        list.newest_at = list.newest_at.max(Some(newest_at));
        if records.iter().any(|record| record.key == layout::session_end_key(&session)) {
            list.ended.push(session);
        } else {
            list.open.push(OpenSession { id: session, began_at, newest_at });
            list.open_since = Some(list.open_since.map_or(began_at, |since| since.min(began_at)));
        }
    }
    Ok(list)
}

/// Ends this machine's sessions that a killed run has left open. To be called with the host's lock held.
///
/// # Errors
///
/// If the store fails.
pub async fn end_dead_sessions(
    repository: &Repository,
    host: &str,
    machine: &str,
    cache: &RecordCache,
) -> anyhow::Result<usize> {
    let open = list_sessions(repository).await?;
    let ended = stream::iter(open.open_ids().collect::<Vec<_>>())
        .map(|session| async move { end_if_ours(repository, session, host, machine, cache).await })
        .buffer_unordered(READS_AT_ONCE)
        .try_collect::<Vec<bool>>()
        .await?;
    Ok(ended.into_iter().filter(|ended| *ended).count())
}

async fn end_if_ours(
    repository: &Repository,
    session: SessionId,
    host: &str,
    machine: &str,
    cache: &RecordCache,
) -> anyhow::Result<bool> {
    let ours = |start: &SessionStart| start.host == host && start.machine == machine;
    if !find_start(repository, session, cache).await?.as_ref().is_some_and(ours) {
        return Ok(false);
    }
    end_for_others(repository, session, Outcome::None).await.map(|_| true)
}

/// Reads who began a session, and for what. A session whose start is gone or damaged is nobody's; prune will void it.
///
/// # Errors
///
/// If the store fails.
pub async fn find_start(
    repository: &Repository,
    session: SessionId,
    cache: &RecordCache,
) -> anyhow::Result<Option<SessionStart>> {
    let key = layout::session_start_key(&session);
    let check = |start: &SessionRecord, _: &StoredAs| check_session(start, session);
    match repository.read_record(ObjectKind::Session, &key, cache, check).await {
        Ok((record, _)) => Ok(record.start),
        Err(error) if error.downcast_ref::<Damage>().is_some() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Gives up a session that nobody goes on with: what it has stored counts as never written. Gives how the session has
/// ended, which may be otherwise.
///
/// Only for stores that put an end if it is absent: elsewhere this may undo a commit.
///
/// # Errors
///
/// If the store fails.
pub async fn void_session(repository: &Repository, session: SessionId) -> anyhow::Result<SessionEnd> {
    end_for_others(repository, session, Outcome::Void).await
}

async fn end_for_others(repository: &Repository, session: SessionId, outcome: Outcome) -> anyhow::Result<SessionEnd> {
    let end = SessionRecord {
        session,
        event: SessionEvent::End,
        number: 0,
        at: repository.clock().now(),
        start: None,
        outcome: Some(outcome),
        manifest_digest: None,
    };
    end_session(repository, &end).await
}
