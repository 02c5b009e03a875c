//! Objects in memory, for tests.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Bound, Range};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;

use super::failure::{Failure, check_existing, check_limit, check_prefix, end_of, length, slice};
use super::thaw::{ThawOutcome, ThawRequest, ThawState};
use super::{Key, ListPage, ObjectEnd, ObjectInfo, ObjectStore, PutOutcome, StoreError, Tier, UploadChecksum};
use crate::clock::Clock;

const URL: &str = "memory://";
const PAGE_SIZE: usize = 1000;

/// Keeps objects in memory.
pub struct MemoryStore {
    clock: Arc<dyn Clock>,
    page_size: usize,
    objects: Mutex<BTreeMap<Key, Object>>,
}

struct Object {
    body: Bytes,
    /// Of the body, the highest byte first.
    crc32c: [u8; 4],
    modified_at: Timestamp,
}

impl MemoryStore {
    /// Makes an empty store. Objects are as old as `clock` says.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, page_size: PAGE_SIZE, objects: Mutex::default() }
    }

    /// Has listings come in pages of `page_size` objects, at least one, so that small tests have several pages.
    #[must_use]
    pub fn with_page_size(self, page_size: usize) -> Self {
        Self { page_size: page_size.max(1), ..self }
    }

    fn objects(&self) -> MutexGuard<'_, BTreeMap<Key, Object>> {
        self.objects.lock().expect("nothing panics while it holds the objects")
    }

    fn insert(&self, key: &Key, body: Bytes) -> Result<PutOutcome, Failure> {
        let mut objects = self.objects();
        if let Some(object) = objects.get(key) {
            check_existing(length(&object.body), &body)?;
            return Ok(PutOutcome::Exists);
        }
        let crc32c = crc32c_of(&body);
        objects.insert(key.clone(), Object { body, crc32c, modified_at: self.clock.now() });
        Ok(PutOutcome::Stored)
    }

    fn body(&self, key: &Key) -> Result<Bytes, Failure> {
        self.objects().get(key).map(|object| object.body.clone()).ok_or_else(Failure::not_found)
    }

    fn page(&self, prefix: &str, after: Option<&Key>) -> Result<ListPage, Failure> {
        check_prefix(prefix)?;
        let objects = self.objects();
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut following =
            objects.range::<Key, _>((start, Bound::Unbounded)).filter(|(key, _)| key.as_str().starts_with(prefix));
        let page = following.by_ref().take(self.page_size).map(|(key, object)| object.info(key)).collect();
        Ok(ListPage { objects: page, more: following.next().is_some() })
    }
}

impl Object {
    fn info(&self, key: &Key) -> ObjectInfo {
        let size_bytes = length(&self.body);
        ObjectInfo { key: key.clone(), size_bytes, modified_at: self.modified_at, storage_class: None }
    }
}

#[expect(clippy::big_endian_bytes, reason = "a store has the highest byte first")]
fn crc32c_of(body: &[u8]) -> [u8; 4] {
    crc32c::crc32c(body).to_be_bytes()
}

/// Counts the objects only: their bytes would drown every message.
impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").field("objects", &self.objects().len()).finish_non_exhaustive()
    }
}

#[async_trait]
impl ObjectStore for MemoryStore {
    fn url(&self) -> &str {
        URL
    }

    async fn put(&self, key: &Key, body: Bytes, _tier: Tier) -> Result<PutOutcome, StoreError> {
        self.insert(key, body).map_err(|failure| failure.at("storing", URL, key))
    }

    async fn get(&self, key: &Key, limit_bytes: u64) -> Result<Bytes, StoreError> {
        let checked = |body: Bytes| check_limit(length(&body), limit_bytes).map(|()| body);
        self.body(key).and_then(checked).map_err(|failure| failure.at("reading", URL, key))
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.body(key).and_then(|body| slice(&body, &range)).map_err(|failure| failure.at("reading", URL, key))
    }

    async fn get_end(&self, key: &Key, end_bytes: u64) -> Result<ObjectEnd, StoreError> {
        let body = self.body(key).map_err(|failure| failure.at("reading", URL, key))?;
        Ok(end_of(&body, end_bytes))
    }

    async fn head(&self, key: &Key) -> Result<ObjectInfo, StoreError> {
        let info = self.objects().get(key).map(|object| object.info(key));
        info.ok_or_else(|| Failure::not_found().at("looking up", URL, key))
    }

    async fn upload_checksum(&self, key: &Key) -> Result<UploadChecksum, StoreError> {
        let kept = self
            .objects()
            .get(key)
            .map(|object| UploadChecksum { size_bytes: length(&object.body), crc32c: Some(object.crc32c) });
        kept.ok_or_else(|| Failure::not_found().at("looking up", URL, key))
    }

    async fn thaw_state(&self, key: &Key) -> Result<ThawState, StoreError> {
        self.head(key).await.map(|_| ThawState::Readable)
    }

    async fn request_thaw(&self, key: &Key, _request: ThawRequest) -> Result<ThawOutcome, StoreError> {
        self.head(key).await.map(|_| ThawOutcome::NotNeeded)
    }

    async fn list_page(&self, prefix: &str, after: Option<&Key>) -> Result<ListPage, StoreError> {
        self.page(prefix, after).map_err(|failure| failure.at("listing", URL, prefix))
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.objects().remove(key);
        Ok(())
    }

    async fn remove_unfinished(&self, _prefix: &str, _before: Timestamp) -> Result<u64, StoreError> {
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct FixedClock(Timestamp);

    impl Clock for FixedClock {
        fn now(&self) -> Timestamp {
            self.0
        }
    }

    #[tokio::test]
    async fn objects_are_as_old_as_the_clock_says() {
        let stored_at = Timestamp::new(1_000_000, 5).unwrap();
        let store = MemoryStore::new(Arc::new(FixedClock(stored_at)));
        let key = Key::new("a").unwrap();
        store.put(&key, Bytes::new(), Tier::Data).await.unwrap();
        assert_eq!(store.head(&key).await.unwrap().modified_at, stored_at);
    }
}
