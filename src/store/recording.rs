//! A store that writes down what it is asked, so that tests can count requests.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;

use super::failure::length;
use super::thaw::{ThawOutcome, ThawRequest, ThawState};
use super::{Key, ListPage, ObjectEnd, ObjectInfo, ObjectStore, PutOutcome, Store, StoreError, Tier, UploadChecksum};

/// What a store was asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// [`ObjectStore::put`].
    Put,
    /// [`ObjectStore::get`].
    Get,
    /// [`ObjectStore::get_range`].
    GetRange,
    /// [`ObjectStore::get_end`].
    GetEnd,
    /// [`ObjectStore::head`].
    Head,
    /// [`ObjectStore::upload_checksum`].
    UploadChecksum,
    /// [`ObjectStore::thaw_state`].
    ThawState,
    /// [`ObjectStore::request_thaw`].
    RequestThaw,
    /// [`ObjectStore::list_page`].
    List,
    /// [`ObjectStore::delete`].
    Delete,
    /// [`ObjectStore::remove_unfinished`].
    RemoveUnfinished,
}

/// One request and how it went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// What was asked.
    pub operation: Operation,
    /// The key, or the prefix of a listing.
    pub target: String,
    /// The tier of a `put`.
    pub tier: Option<Tier>,
    /// Bytes of the object that were sent or received; none where the request failed.
    pub body_bytes: u64,
    /// Whether it succeeded.
    pub succeeded: bool,
}

/// Passes everything on to another store, and keeps a record of it.
#[derive(Debug)]
pub struct RecordingStore {
    inner: Store,
    calls: Mutex<Vec<Call>>,
}

impl RecordingStore {
    /// Wraps `inner`.
    #[must_use]
    pub fn new(inner: Store) -> Self {
        Self { inner, calls: Mutex::default() }
    }

    /// All requests since the beginning or the last [`Self::take_calls`], in the order in which they were answered.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.lock().clone()
    }

    /// As [`Self::calls`], and begins a new record.
    #[must_use]
    pub fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut *self.lock())
    }

    /// How many of the recorded requests are of this kind, below this prefix.
    #[must_use]
    pub fn count(&self, operation: Operation, prefix: &str) -> usize {
        let counts = |call: &&Call| call.operation == operation && call.target.starts_with(prefix);
        self.lock().iter().filter(counts).count()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Call>> {
        self.calls.lock().expect("nothing panics while it holds the record")
    }

    fn record<T>(
        &self,
        operation: Operation,
        target: &str,
        tier: Option<Tier>,
        result: Result<T, StoreError>,
        body_bytes: impl FnOnce(&T) -> u64,
    ) -> Result<T, StoreError> {
        let target = target.to_owned();
        let body_bytes = result.as_ref().map_or(0, body_bytes);
        self.lock().push(Call { operation, target, tier, body_bytes, succeeded: result.is_ok() });
        result
    }
}

#[async_trait]
impl ObjectStore for RecordingStore {
    fn url(&self) -> &str {
        self.inner.url()
    }

    async fn put(&self, key: &Key, body: Bytes, tier: Tier) -> Result<PutOutcome, StoreError> {
        let body_bytes = length(&body);
        let result = self.inner.put(key, body, tier).await;
        self.record(Operation::Put, key.as_str(), Some(tier), result, |_| body_bytes)
    }

    async fn get(&self, key: &Key, limit_bytes: u64) -> Result<Bytes, StoreError> {
        let result = self.inner.get(key, limit_bytes).await;
        self.record(Operation::Get, key.as_str(), None, result, length)
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, StoreError> {
        let result = self.inner.get_range(key, range).await;
        self.record(Operation::GetRange, key.as_str(), None, result, length)
    }

    async fn get_end(&self, key: &Key, end_bytes: u64) -> Result<ObjectEnd, StoreError> {
        let result = self.inner.get_end(key, end_bytes).await;
        self.record(Operation::GetEnd, key.as_str(), None, result, |end| length(&end.bytes))
    }

    async fn head(&self, key: &Key) -> Result<ObjectInfo, StoreError> {
        let result = self.inner.head(key).await;
        self.record(Operation::Head, key.as_str(), None, result, |_| 0)
    }

    async fn upload_checksum(&self, key: &Key) -> Result<UploadChecksum, StoreError> {
        let result = self.inner.upload_checksum(key).await;
        self.record(Operation::UploadChecksum, key.as_str(), None, result, |_| 0)
    }

    async fn thaw_state(&self, key: &Key) -> Result<ThawState, StoreError> {
        let result = self.inner.thaw_state(key).await;
        self.record(Operation::ThawState, key.as_str(), None, result, |_| 0)
    }

    async fn request_thaw(&self, key: &Key, request: ThawRequest) -> Result<ThawOutcome, StoreError> {
        let result = self.inner.request_thaw(key, request).await;
        self.record(Operation::RequestThaw, key.as_str(), None, result, |_| 0)
    }

    async fn list_page(&self, prefix: &str, after: Option<&Key>) -> Result<ListPage, StoreError> {
        let result = self.inner.list_page(prefix, after).await;
        self.record(Operation::List, prefix, None, result, |_| 0)
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        let result = self.inner.delete(key).await;
        self.record(Operation::Delete, key.as_str(), None, result, |()| 0)
    }

    async fn remove_unfinished(&self, prefix: &str, before: Timestamp) -> Result<u64, StoreError> {
        let result = self.inner.remove_unfinished(prefix, before).await;
        self.record(Operation::RemoveUnfinished, prefix, None, result, |_| 0)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::SystemClock;
    use crate::store::memory::MemoryStore;
    use crate::store::thaw::ThawTier;

    #[tokio::test]
    async fn every_request_is_recorded_with_its_bytes_and_outcome() {
        let store = RecordingStore::new(Arc::new(MemoryStore::new(Arc::new(SystemClock))));
        let key = Key::new("data/a").unwrap();
        let call = |operation, target: &str, body_bytes, succeeded| Call {
            operation,
            target: target.to_owned(),
            tier: (operation == Operation::Put).then_some(Tier::Data),
            body_bytes,
            succeeded,
        };

        store.put(&key, Bytes::from_static(b"12345"), Tier::Data).await.unwrap();
        store.get(&key, 5).await.unwrap();
        store.get(&key, 4).await.unwrap_err();
        store.get_range(&key, 1..3).await.unwrap();
        store.head(&key).await.unwrap();
        store.upload_checksum(&key).await.unwrap();
        store.thaw_state(&key).await.unwrap();
        store.request_thaw(&key, ThawRequest { days: None, tier: ThawTier::Bulk }).await.unwrap();
        store.list_page("data/", None).await.unwrap();
        store.delete(&key).await.unwrap();

        assert_eq!(store.count(Operation::Get, "data/"), 2);
        assert_eq!(store.count(Operation::Get, "meta/"), 0);
        let expected = [
            call(Operation::Put, "data/a", 5, true),
            call(Operation::Get, "data/a", 5, true),
            call(Operation::Get, "data/a", 0, false),
            call(Operation::GetRange, "data/a", 2, true),
            call(Operation::Head, "data/a", 0, true),
            call(Operation::UploadChecksum, "data/a", 0, true),
            call(Operation::ThawState, "data/a", 0, true),
            call(Operation::RequestThaw, "data/a", 0, true),
            call(Operation::List, "data/", 0, true),
            call(Operation::Delete, "data/a", 0, true),
        ];
        assert_eq!(store.take_calls(), expected);
        assert_eq!(store.calls(), []);
    }
}
