//! A store that fails and damages on purpose, for tests.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;

use super::failure::{Failure, check_limit, end_of, length, slice};
use super::thaw::{ThawOutcome, ThawRequest, ThawState};
use super::{
    Key, ListPage, ObjectEnd, ObjectInfo, ObjectStore, PutOutcome, Store, StoreError, StoreErrorKind, Tier,
    UploadChecksum,
};

/// So often a slow operation lets others go first.
const TURNS_LET_GO: u32 = 2000;

/// Which operations fail. They are counted from 1, all kinds together, in the order in which they begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// This operation fails and has no effect.
    Before(u64),
    /// This operation has its effect and fails, as when the reply is lost.
    After(u64),
    /// This operation and every later one fail and have no effect, as when the machine dies.
    From(u64),
    /// This operation takes so long that those begun after it overtake it. It does not fail.
    Slow(u64),
}

/// How an object that is stored well looks to its readers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// This bit is the other way round, counted from the lowest of the first byte.
    FlippedBit(u64),
    /// It has only so many bytes of its beginning.
    Truncated(u64),
    /// It is not there.
    Missing,
}

/// Passes operations on to another store, except where it was told to fail or to damage.
///
/// A test that has every operation fail in turn, each time with a new store, goes on until [`Self::has_failed`] stays
/// false. Damage shows in `get`, `get_range`, `head` and listings; the object in the other store stays as it is.
#[derive(Debug)]
pub struct FaultyStore {
    inner: Store,
    fault: Option<(Fault, StoreErrorKind)>,
    operations: AtomicU64,
    damages: Mutex<BTreeMap<Key, Damage>>,
}

impl FaultyStore {
    /// Wraps `inner`; nothing fails yet.
    #[must_use]
    pub fn new(inner: Store) -> Self {
        Self { inner, fault: None, operations: AtomicU64::new(0), damages: Mutex::default() }
    }

    /// Has operations fail with errors of kind `kind`.
    #[must_use]
    pub fn with_fault(self, fault: Fault, kind: StoreErrorKind) -> Self {
        Self { fault: Some((fault, kind)), ..self }
    }

    /// Damages an object for its readers, in place of an earlier damage.
    pub fn damage(&self, key: &Key, damage: Damage) {
        self.damages().insert(key.clone(), damage);
    }

    /// How many operations have begun.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.operations.load(Ordering::SeqCst)
    }

    /// Whether the operation that shall fail or be slow, or the first of them, has begun.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        let first = self.fault.map(|(fault, _)| match fault {
            Fault::Before(first) | Fault::After(first) | Fault::From(first) | Fault::Slow(first) => first,
        });
        first.is_some_and(|first| first <= self.operations())
    }

    async fn run<T>(
        &self,
        name: &'static str,
        target: &str,
        operation: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        let number = self.operations.fetch_add(1, Ordering::SeqCst) + 1;
        let fail = |kind, effect| {
            let reason = format!("operation {number} fails on purpose, {effect} its effect");
            Err(Failure { kind, reason }.at(name, self.inner.url(), target))
        };
        match self.fault {
            Some((Fault::Before(failing), kind)) if number == failing => fail(kind, "before"),
            Some((Fault::From(first), kind)) if number >= first => fail(kind, "before"),
            Some((Fault::After(failing), kind)) if number == failing => {
                operation.await?;
                fail(kind, "after")
            }
            Some((Fault::Slow(slow), _)) if number == slow => {
                for _ in 0..TURNS_LET_GO {
                    tokio::task::yield_now().await;
                }
                operation.await
            }
            _ => operation.await,
        }
    }

    fn damages(&self) -> MutexGuard<'_, BTreeMap<Key, Damage>> {
        self.damages.lock().expect("nothing panics while it holds the damages")
    }

    fn damage_of(&self, key: &Key) -> Option<Damage> {
        self.damages().get(key).copied()
    }

    /// The whole object as its readers see it.
    async fn seen(&self, key: &Key, damage: Damage) -> Result<Bytes, StoreError> {
        let body = self.inner.get(key, u64::MAX).await?;
        match damage {
            Damage::FlippedBit(bit) => Ok(flip_bit(&body, bit)),
            Damage::Truncated(size_bytes) => Ok(body.slice(..body.len().min(saturate(size_bytes)))),
            Damage::Missing => Err(Failure::not_found().at("reading", self.inner.url(), key)),
        }
    }

    fn info_seen(&self, info: ObjectInfo) -> Option<ObjectInfo> {
        match self.damage_of(&info.key) {
            Some(Damage::Missing) => None,
            Some(Damage::Truncated(limit)) => Some(ObjectInfo { size_bytes: info.size_bytes.min(limit), ..info }),
            Some(Damage::FlippedBit(_)) | None => Some(info),
        }
    }

    /// A page of what is not missing. A page may only be empty when it is the last.
    async fn page_seen(&self, prefix: &str, after: Option<&Key>) -> Result<ListPage, StoreError> {
        let mut after = after.cloned();
        loop {
            let page = self.inner.list_page(prefix, after.as_ref()).await?;
            after = page.objects.last().map(|object| object.key.clone());
            let objects: Vec<_> = page.objects.into_iter().filter_map(|object| self.info_seen(object)).collect();
            if !objects.is_empty() || !page.more {
                return Ok(ListPage { objects, more: page.more });
            }
        }
    }
}

fn flip_bit(body: &Bytes, bit: u64) -> Bytes {
    let mut bytes = body.to_vec();
    if let Some(byte) = bytes.get_mut(saturate(bit / 8)) {
        *byte ^= 1 << (bit % 8);
    }
    bytes.into()
}

fn saturate(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

#[async_trait]
impl ObjectStore for FaultyStore {
    fn url(&self) -> &str {
        self.inner.url()
    }

    async fn put(&self, key: &Key, body: Bytes, tier: Tier) -> Result<PutOutcome, StoreError> {
        self.run("storing", key.as_str(), self.inner.put(key, body, tier)).await
    }

    async fn get(&self, key: &Key, limit_bytes: u64) -> Result<Bytes, StoreError> {
        let Some(damage) = self.damage_of(key) else {
            return self.run("reading", key.as_str(), self.inner.get(key, limit_bytes)).await;
        };
        let body = self.run("reading", key.as_str(), self.seen(key, damage)).await?;
        check_limit(length(&body), limit_bytes).map_err(|failure| failure.at("reading", self.url(), key))?;
        Ok(body)
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, StoreError> {
        let Some(damage) = self.damage_of(key) else {
            return self.run("reading", key.as_str(), self.inner.get_range(key, range)).await;
        };
        let body = self.run("reading", key.as_str(), self.seen(key, damage)).await?;
        slice(&body, &range).map_err(|failure| failure.at("reading", self.url(), key))
    }

    async fn get_end(&self, key: &Key, end_bytes: u64) -> Result<ObjectEnd, StoreError> {
        let Some(damage) = self.damage_of(key) else {
            return self.run("reading", key.as_str(), self.inner.get_end(key, end_bytes)).await;
        };
        let body = self.run("reading", key.as_str(), self.seen(key, damage)).await?;
        Ok(end_of(&body, end_bytes))
    }

    async fn head(&self, key: &Key) -> Result<ObjectInfo, StoreError> {
        let info = self.run("looking up", key.as_str(), self.inner.head(key)).await?;
        self.info_seen(info).ok_or_else(|| Failure::not_found().at("looking up", self.url(), key))
    }

    async fn upload_checksum(&self, key: &Key) -> Result<UploadChecksum, StoreError> {
        let kept = self.run("looking up", key.as_str(), self.inner.upload_checksum(key)).await?;
        match self.damage_of(key) {
            Some(Damage::Missing) => Err(Failure::not_found().at("looking up", self.url(), key)),
            Some(Damage::Truncated(limit)) => Ok(UploadChecksum { size_bytes: kept.size_bytes.min(limit), ..kept }),
            // What has changed since it was stored does not show.
            Some(Damage::FlippedBit(_)) | None => Ok(kept),
        }
    }

    async fn thaw_state(&self, key: &Key) -> Result<ThawState, StoreError> {
        self.run("looking up", key.as_str(), self.inner.thaw_state(key)).await
    }

    async fn request_thaw(&self, key: &Key, request: ThawRequest) -> Result<ThawOutcome, StoreError> {
        self.run("thawing", key.as_str(), self.inner.request_thaw(key, request)).await
    }

    async fn list_page(&self, prefix: &str, after: Option<&Key>) -> Result<ListPage, StoreError> {
        self.run("listing", prefix, self.page_seen(prefix, after)).await
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.run("removing", key.as_str(), self.inner.delete(key)).await
    }

    async fn remove_unfinished(&self, prefix: &str, before: Timestamp) -> Result<u64, StoreError> {
        self.run("removing", prefix, self.inner.remove_unfinished(prefix, before)).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::SystemClock;
    use crate::store::list_all;
    use crate::store::memory::MemoryStore;

    fn key(text: &str) -> Key {
        Key::new(text).unwrap()
    }

    /// Three objects, and a listing that needs a page for each.
    async fn filled() -> Store {
        let store = Arc::new(MemoryStore::new(Arc::new(SystemClock)).with_page_size(1));
        for text in ["a", "b", "c"] {
            store.put(&key(text), Bytes::from_static(b"content"), Tier::Data).await.unwrap();
        }
        store
    }

    async fn listed(store: &dyn ObjectStore) -> Vec<(String, u64)> {
        let objects = list_all(store, "").await.unwrap();
        objects.iter().map(|object| (object.key.to_string(), object.size_bytes)).collect()
    }

    /// Deletes `a`, `b`, `c` and says which of these failed.
    async fn failed_deletes(store: &FaultyStore) -> Vec<&'static str> {
        let mut failed = Vec::new();
        for text in ["a", "b", "c"] {
            if let Err(error) = store.delete(&key(text)).await {
                assert_eq!(error.kind, StoreErrorKind::Full, "{error}");
                failed.push(text);
            }
        }
        failed
    }

    #[tokio::test]
    async fn faults_hit_the_operations_they_name_before_or_after_the_effect() {
        for (fault, failed, left) in [
            (Fault::Before(2), vec!["b"], vec!["b"]),
            (Fault::After(2), vec!["b"], vec![]),
            (Fault::From(2), vec!["b", "c"], vec!["b", "c"]),
            (Fault::From(4), vec![], vec![]),
        ] {
            let inner = filled().await;
            let store = FaultyStore::new(Arc::clone(&inner)).with_fault(fault, StoreErrorKind::Full);
            assert_eq!(failed_deletes(&store).await, failed, "{fault:?}");
            let keys: Vec<_> = listed(inner.as_ref()).await.into_iter().map(|(key, _)| key).collect();
            assert_eq!(keys, left, "{fault:?}");
        }
    }

    #[tokio::test]
    async fn a_test_can_have_each_operation_fail_until_there_is_none_left() {
        for operation in 1.. {
            let store = FaultyStore::new(filled().await).with_fault(Fault::Before(operation), StoreErrorKind::Full);
            let failed = failed_deletes(&store).await.len();
            assert_eq!(store.operations(), 3);
            if !store.has_failed() {
                assert_eq!((operation, failed), (4, 0));
                break;
            }
            assert_eq!(failed, 1);
        }
    }

    #[tokio::test]
    async fn a_flipped_bit_shows_in_every_read_and_stays_out_of_the_store_below() {
        let inner = filled().await;
        let store = FaultyStore::new(Arc::clone(&inner));
        store.damage(&key("b"), Damage::FlippedBit(8));
        assert_eq!(store.get(&key("b"), 7).await.unwrap(), "cnntent");
        assert_eq!(store.get(&key("b"), 6).await.unwrap_err().kind, StoreErrorKind::TooLarge);
        assert_eq!(store.get_range(&key("b"), 1..3).await.unwrap(), "nn");
        assert_eq!(store.get_range(&key("b"), 2..3).await.unwrap(), "n");
        assert_eq!(store.get(&key("a"), 7).await.unwrap(), "content");
        assert_eq!(inner.get(&key("b"), 7).await.unwrap(), "content");
    }

    #[tokio::test]
    async fn a_truncated_object_is_shorter_for_every_reader() {
        let store = FaultyStore::new(filled().await);
        store.damage(&key("b"), Damage::Truncated(3));
        assert_eq!(store.get(&key("b"), 3).await.unwrap(), "con");
        assert_eq!(store.get_range(&key("b"), 2..4).await.unwrap_err().kind, StoreErrorKind::OutOfRange);
        assert_eq!(store.head(&key("b")).await.unwrap().size_bytes, 3);
        assert_eq!(listed(&store).await[1], ("b".to_owned(), 3));
    }

    #[tokio::test]
    async fn a_missing_object_is_missing_for_every_reader() {
        let store = FaultyStore::new(filled().await);
        for hidden in ["a", "b"] {
            store.damage(&key(hidden), Damage::Missing);
        }
        let kinds = [
            store.get(&key("b"), 7).await.unwrap_err().kind,
            store.get_range(&key("b"), 0..1).await.unwrap_err().kind,
            store.head(&key("b")).await.unwrap_err().kind,
        ];
        assert_eq!(kinds, [StoreErrorKind::NotFound; 3]);
        assert_eq!(listed(&store).await, [("c".to_owned(), 7)]);
    }
}
