//! A store whose requests wait until they are given their turn.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use btrfs_to_s3::repository::layout;
use btrfs_to_s3::store::memory::MemoryStore;
use btrfs_to_s3::store::thaw::{ThawOutcome, ThawRequest, ThawState};
use btrfs_to_s3::store::{
    Key, ListPage, ObjectEnd, ObjectInfo, ObjectStore, PutOutcome, StoreError, StoreErrorKind, Tier, UploadChecksum,
};
use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::oneshot;

/// What tells the runs of a schedule apart, in the order in which they began.
pub(crate) type RunId = usize;

/// What a run asks of the store.
#[derive(Debug, Clone)]
pub(crate) enum Request {
    Put(Key, Bytes, Tier),
    Get(Key, u64),
    GetRange(Key, Range<u64>),
    GetEnd(Key, u64),
    Head(Key),
    List(String, Option<Key>),
    Delete(Key),
}

/// What the store says to it.
#[derive(Debug)]
pub(crate) enum Reply {
    Put(PutOutcome),
    Body(Bytes),
    End(ObjectEnd),
    Info(ObjectInfo),
    Page(ListPage),
    Deleted,
}

impl Request {
    /// Has its effect.
    pub(crate) async fn perform(&self, store: &MemoryStore) -> Result<Reply, StoreError> {
        match self {
            Self::Put(key, body, tier) => store.put(key, body.clone(), *tier).await.map(Reply::Put),
            Self::Get(key, limit_bytes) => store.get(key, *limit_bytes).await.map(Reply::Body),
            Self::GetRange(key, range) => store.get_range(key, range.clone()).await.map(Reply::Body),
            Self::GetEnd(key, end_bytes) => store.get_end(key, *end_bytes).await.map(Reply::End),
            Self::Head(key) => store.head(key).await.map(Reply::Info),
            Self::List(prefix, after) => store.list_page(prefix, after.as_ref()).await.map(Reply::Page),
            Self::Delete(key) => store.delete(key).await.map(|()| Reply::Deleted),
        }
    }

    /// The key, or the prefix of a listing.
    pub(crate) fn target(&self) -> &str {
        match self {
            Self::Put(key, ..)
            | Self::Get(key, _)
            | Self::GetRange(key, _)
            | Self::GetEnd(key, _)
            | Self::Head(key)
            | Self::Delete(key) => key.as_str(),
            Self::List(prefix, _) => prefix,
        }
    }

    pub(crate) fn failure(&self, kind: StoreErrorKind, reason: &str) -> StoreError {
        let object = format!("memory://{}", self.target());
        StoreError { kind, operation: "asking for", object, reason: reason.to_owned() }
    }
}

/// Ids are cut short: eight digits tell them apart.
impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Put(_, body, _) => format!("PUT {} bytes", body.len()),
            Self::Get(..) => "GET".to_owned(),
            Self::GetRange(_, range) => format!("GET {range:?}"),
            Self::GetEnd(_, end_bytes) => format!("GET -{end_bytes}"),
            Self::Head(_) => "HEAD".to_owned(),
            Self::List(_, None) => "LIST".to_owned(),
            Self::List(_, Some(after)) => format!("LIST after {}", shortened(after.as_str())),
            Self::Delete(_) => "DELETE".to_owned(),
        };
        write!(f, "{name} {}", shortened(self.target()))
    }
}

pub(crate) fn shortened(key: &str) -> String {
    let parts: Vec<&str> = key.split('/').map(|part| if part.len() >= 32 { &part[..8] } else { part }).collect();
    parts.join("/")
}

fn is_of_plan(key: &Key) -> bool {
    key.as_str().starts_with(layout::PRUNE)
}

type Answer = oneshot::Sender<Result<Reply, StoreError>>;

/// A request that waits.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) run: RunId,
    pub(crate) request: Request,
    answer: Answer,
}

impl Waiting {
    /// Whether nobody waits for the answer any more.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.answer.is_closed()
    }

    pub(crate) fn answer(self, reply: Result<Reply, StoreError>) {
        drop(self.answer.send(reply));
    }
}

/// The requests of all runs that wait, in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct Board(Mutex<Vec<Waiting>>);

impl Board {
    /// Which runs have requests here, one entry for each request.
    pub(crate) fn runs(&self) -> Vec<RunId> {
        self.0.lock().unwrap().iter().filter(|waiting| !waiting.is_abandoned()).map(|waiting| waiting.run).collect()
    }

    /// The targets of the `PUT`s of a run.
    pub(crate) fn put_targets(&self, run: RunId) -> Vec<Key> {
        let all = self.0.lock().unwrap();
        let of_run = all.iter().filter(|waiting| waiting.run == run && !waiting.is_abandoned());
        of_run
            .filter_map(|waiting| if let Request::Put(key, ..) = &waiting.request { Some(key.clone()) } else { None })
            .collect()
    }

    /// Whether a run waits for an object to be deleted.
    pub(crate) fn deletes(&self, run: RunId) -> bool {
        let all = self.0.lock().unwrap();
        let deletes = |waiting: &Waiting| matches!(&waiting.request, Request::Delete(key) if !is_of_plan(key));
        all.iter().any(|waiting| waiting.run == run && !waiting.is_abandoned() && deletes(waiting))
    }

    /// Takes the request that came first of a run, or a later one.
    pub(crate) fn take(&self, run: RunId, number: usize) -> Waiting {
        let mut all = self.0.lock().unwrap();
        let of_run = (0..all.len()).filter(|place| all[*place].run == run && !all[*place].is_abandoned());
        let places: Vec<usize> = of_run.collect();
        all.remove(places[number % places.len()])
    }

    /// Takes the requests whose answers nobody waits for.
    pub(crate) fn take_abandoned(&self) -> Vec<Waiting> {
        let mut all = self.0.lock().unwrap();
        let (abandoned, rest) = std::mem::take(&mut *all).into_iter().partition(Waiting::is_abandoned);
        *all = rest;
        abandoned
    }
}

/// One run's way to the store.
#[derive(Debug)]
pub(crate) struct BoardStore {
    pub(crate) board: Arc<Board>,
    pub(crate) run: RunId,
}

impl BoardStore {
    async fn ask(&self, request: Request) -> Result<Reply, StoreError> {
        let (answer, reply) = oneshot::channel();
        self.board.0.lock().unwrap().push(Waiting { run: self.run, request, answer });
        reply.await.expect("the board answers everything that is waited for")
    }
}

#[async_trait]
impl ObjectStore for BoardStore {
    fn url(&self) -> &'static str {
        "memory://"
    }

    async fn put(&self, key: &Key, body: Bytes, tier: Tier) -> Result<PutOutcome, StoreError> {
        let Reply::Put(outcome) = self.ask(Request::Put(key.clone(), body, tier)).await? else { panic!("not a PUT's") };
        Ok(outcome)
    }

    async fn get(&self, key: &Key, limit_bytes: u64) -> Result<Bytes, StoreError> {
        let Reply::Body(body) = self.ask(Request::Get(key.clone(), limit_bytes)).await? else { panic!("not a GET's") };
        Ok(body)
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, StoreError> {
        let Reply::Body(body) = self.ask(Request::GetRange(key.clone(), range)).await? else { panic!("not a GET's") };
        Ok(body)
    }

    async fn get_end(&self, key: &Key, end_bytes: u64) -> Result<ObjectEnd, StoreError> {
        let Reply::End(end) = self.ask(Request::GetEnd(key.clone(), end_bytes)).await? else { panic!("not a GET's") };
        Ok(end)
    }

    async fn head(&self, key: &Key) -> Result<ObjectInfo, StoreError> {
        let Reply::Info(info) = self.ask(Request::Head(key.clone())).await? else { panic!("not a HEAD's") };
        Ok(info)
    }

    async fn upload_checksum(&self, key: &Key) -> Result<UploadChecksum, StoreError> {
        let size_bytes = self.head(key).await?.size_bytes;
        Ok(UploadChecksum { size_bytes, crc32c: None })
    }

    async fn thaw_state(&self, key: &Key) -> Result<ThawState, StoreError> {
        self.head(key).await.map(|_| ThawState::Readable)
    }

    async fn request_thaw(&self, key: &Key, _request: ThawRequest) -> Result<ThawOutcome, StoreError> {
        self.head(key).await.map(|_| ThawOutcome::NotNeeded)
    }

    async fn list_page(&self, prefix: &str, after: Option<&Key>) -> Result<ListPage, StoreError> {
        let request = Request::List(prefix.to_owned(), after.cloned());
        let Reply::Page(page) = self.ask(request).await? else { panic!("not a LIST's") };
        Ok(page)
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        let Reply::Deleted = self.ask(Request::Delete(key.clone())).await? else { panic!("not a DELETE's") };
        Ok(())
    }

    /// A store in memory has nothing half-stored, so it need not be asked.
    async fn remove_unfinished(&self, _prefix: &str, _before: Timestamp) -> Result<u64, StoreError> {
        Ok(0)
    }
}
