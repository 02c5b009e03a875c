//! A store that does what a test's script says for each request.

use std::fmt;
use std::future::pending;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use btrfs_to_s3::store::recording::Operation;
use btrfs_to_s3::store::thaw::{ThawOutcome, ThawRequest, ThawState};
use btrfs_to_s3::store::{
    Key, ListPage, ObjectEnd, ObjectInfo, ObjectStore, PutOutcome, Store, StoreError, StoreErrorKind, Tier,
    UploadChecksum,
};
use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::Notify;

/// What becomes of a request.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    /// It is done and answered.
    Answer,
    /// It is done, and its answer gets lost.
    LoseAnswer,
    /// It is not done, which is answered.
    Refuse(StoreErrorKind),
    /// It is not done, and never answered.
    Swallow,
    /// It is done, and never answered.
    Hang,
    /// It takes its time to get there.
    Wait(Duration),
    /// Somebody else stores these first.
    After(Vec<(Key, Bytes)>),
    /// Something else is done first.
    Meanwhile(Meanwhile),
}

/// What is done while a request waits.
#[derive(Clone)]
pub(crate) struct Meanwhile(Arc<dyn Fn() + Send + Sync>);

impl fmt::Debug for Meanwhile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Meanwhile")
    }
}

/// Does something before the request number `number` (from 1) of those that are `wanted`.
pub(crate) fn meanwhile<F: Future<Output = ()>>(
    inner: Store,
    number: usize,
    wanted: impl Fn(Operation, &str) -> bool + Send + Sync + 'static,
    what: impl Fn() -> F + Send + Sync + 'static,
) -> Arc<ScriptedStore> {
    let met = AtomicUsize::new(0);
    let is_it =
        move |operation, target: &str| wanted(operation, target) && met.fetch_add(1, Ordering::SeqCst) + 1 == number;
    meanwhile_each_time(inner, is_it, what)
}

/// Does something before each request that is `wanted`.
pub(crate) fn meanwhile_each_time<F: Future<Output = ()>>(
    inner: Store,
    wanted: impl Fn(Operation, &str) -> bool + Send + Sync + 'static,
    what: impl Fn() -> F + Send + Sync + 'static,
) -> Arc<ScriptedStore> {
    // A runtime cannot wait for another one on its own thread.
    let what = move || {
        let block_on_it = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(what());
        };
        std::thread::scope(|scope| scope.spawn(block_on_it).join().unwrap());
    };
    let what = Meanwhile(Arc::new(what));
    let act = move |operation, target: &str| {
        if wanted(operation, target) { Act::Meanwhile(what.clone()) } else { Act::Answer }
    };
    Arc::new(ScriptedStore::new(inner, act))
}

type Script = dyn Fn(Operation, &str) -> Act + Send + Sync;

/// Asks a script what to do with each request before it is passed on.
pub(crate) struct ScriptedStore {
    inner: Store,
    script: Box<Script>,
    /// Told when a request is never going to be answered.
    pub(crate) silent: Notify,
    /// How many of the requests that took their time came one after another: each began when all before it were answered.
    pub(crate) rounds: AtomicUsize,
}

impl ScriptedStore {
    pub(crate) fn new(inner: Store, script: impl Fn(Operation, &str) -> Act + Send + Sync + 'static) -> Self {
        Self { inner, script: Box::new(script), silent: Notify::new(), rounds: AtomicUsize::new(0) }
    }

    async fn run<T>(
        &self,
        operation: Operation,
        target: &str,
        request: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        match (self.script)(operation, target) {
            Act::Answer => request.await,
            Act::LoseAnswer => {
                request.await?;
                let (object, reason) = (target.to_owned(), "the answer got lost".to_owned());
                Err(StoreError { kind: StoreErrorKind::Transient, operation: "asking for", object, reason })
            }
            Act::Refuse(kind) => {
                let (object, reason) = (target.to_owned(), "the script refuses it".to_owned());
                Err(StoreError { kind, operation: "asking for", object, reason })
            }
            Act::Wait(time) => {
                let round = self.rounds.load(Ordering::SeqCst) + 1;
                tokio::time::sleep(time).await;
                let answer = request.await;
                self.rounds.fetch_max(round, Ordering::SeqCst);
                answer
            }
            Act::Swallow => {
                self.silent.notify_one();
                pending().await
            }
            Act::Hang => {
                drop(request.await);
                self.silent.notify_one();
                pending().await
            }
            Act::Meanwhile(Meanwhile(what)) => {
                what();
                request.await
            }
            Act::After(objects) => {
                for (key, body) in objects {
                    self.inner.put(&key, body, Tier::Metadata).await?;
                }
                request.await
            }
        }
    }
}

impl fmt::Debug for ScriptedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScriptedStore").finish_non_exhaustive()
    }
}

#[async_trait]
impl ObjectStore for ScriptedStore {
    fn url(&self) -> &str {
        self.inner.url()
    }

    async fn put(&self, key: &Key, body: Bytes, tier: Tier) -> Result<PutOutcome, StoreError> {
        self.run(Operation::Put, key.as_str(), self.inner.put(key, body, tier)).await
    }

    async fn get(&self, key: &Key, limit_bytes: u64) -> Result<Bytes, StoreError> {
        self.run(Operation::Get, key.as_str(), self.inner.get(key, limit_bytes)).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.run(Operation::GetRange, key.as_str(), self.inner.get_range(key, range)).await
    }

    async fn get_end(&self, key: &Key, end_bytes: u64) -> Result<ObjectEnd, StoreError> {
        self.run(Operation::GetEnd, key.as_str(), self.inner.get_end(key, end_bytes)).await
    }

    async fn head(&self, key: &Key) -> Result<ObjectInfo, StoreError> {
        self.run(Operation::Head, key.as_str(), self.inner.head(key)).await
    }

    async fn upload_checksum(&self, key: &Key) -> Result<UploadChecksum, StoreError> {
        self.run(Operation::UploadChecksum, key.as_str(), self.inner.upload_checksum(key)).await
    }

    async fn thaw_state(&self, key: &Key) -> Result<ThawState, StoreError> {
        self.run(Operation::ThawState, key.as_str(), self.inner.thaw_state(key)).await
    }

    async fn request_thaw(&self, key: &Key, request: ThawRequest) -> Result<ThawOutcome, StoreError> {
        self.run(Operation::RequestThaw, key.as_str(), self.inner.request_thaw(key, request)).await
    }

    async fn list_page(&self, prefix: &str, after: Option<&Key>) -> Result<ListPage, StoreError> {
        self.run(Operation::List, prefix, self.inner.list_page(prefix, after)).await
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.run(Operation::Delete, key.as_str(), self.inner.delete(key)).await
    }

    async fn remove_unfinished(&self, prefix: &str, before: Timestamp) -> Result<u64, StoreError> {
        self.run(Operation::RemoveUnfinished, prefix, self.inner.remove_unfinished(prefix, before)).await
    }
}
