//! Bytes that change once on their way from a store that has them right.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use btrfs_to_s3::backup::Expected;
use btrfs_to_s3::store::thaw::{ThawOutcome, ThawRequest, ThawState};
use btrfs_to_s3::store::{
    Key, ListPage, ObjectEnd, ObjectInfo, ObjectStore, PutOutcome, Store, StoreError, Tier, UploadChecksum,
};
use bytes::Bytes;
use jiff::Timestamp;

use crate::samples::Sample;
use crate::world::{Made, Notes, World, assert_same_bytes, back_up};

/// Flips a bit in what one of the reads gives.
#[derive(Debug)]
struct GarblingStore {
    inner: Store,
    read: u64,
    reads: AtomicU64,
}

impl GarblingStore {
    fn new(inner: Store, read: u64) -> Arc<Self> {
        Arc::new(Self { inner, read, reads: AtomicU64::new(0) })
    }

    fn has_garbled(&self) -> bool {
        self.reads.load(Ordering::SeqCst) >= self.read
    }

    fn garble(&self, body: Bytes) -> Bytes {
        if self.reads.fetch_add(1, Ordering::SeqCst) + 1 != self.read || body.is_empty() {
            return body;
        }
        let mut bytes = body.to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
        bytes.into()
    }
}

#[async_trait]
impl ObjectStore for GarblingStore {
    fn url(&self) -> &str {
        self.inner.url()
    }

    async fn put(&self, key: &Key, body: Bytes, tier: Tier) -> Result<PutOutcome, StoreError> {
        self.inner.put(key, body, tier).await
    }

    async fn get(&self, key: &Key, limit_bytes: u64) -> Result<Bytes, StoreError> {
        self.inner.get(key, limit_bytes).await.map(|body| self.garble(body))
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.inner.get_range(key, range).await.map(|body| self.garble(body))
    }

    async fn get_end(&self, key: &Key, end_bytes: u64) -> Result<ObjectEnd, StoreError> {
        let end = self.inner.get_end(key, end_bytes).await?;
        Ok(ObjectEnd { bytes: self.garble(end.bytes), ..end })
    }

    async fn head(&self, key: &Key) -> Result<ObjectInfo, StoreError> {
        self.inner.head(key).await
    }

    async fn upload_checksum(&self, key: &Key) -> Result<UploadChecksum, StoreError> {
        self.inner.upload_checksum(key).await
    }

    async fn thaw_state(&self, key: &Key) -> Result<ThawState, StoreError> {
        self.inner.thaw_state(key).await
    }

    async fn request_thaw(&self, key: &Key, request: ThawRequest) -> Result<ThawOutcome, StoreError> {
        self.inner.request_thaw(key, request).await
    }

    async fn list_page(&self, prefix: &str, after: Option<&Key>) -> Result<ListPage, StoreError> {
        self.inner.list_page(prefix, after).await
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.inner.delete(key).await
    }

    async fn remove_unfinished(&self, prefix: &str, before: Timestamp) -> Result<u64, StoreError> {
        self.inner.remove_unfinished(prefix, before).await
    }
}

#[tokio::test]
async fn a_restore_reads_once_more_what_was_garbled_on_its_way() {
    let world = World::new().await;
    let made = world.back_up(&Sample::random(1, 2_300_000)).await;
    for read in 1.. {
        let store = GarblingStore::new(world.store(), read);
        let repository = world.open_through(Arc::clone(&store) as Store).await.unwrap();
        assert_same_bytes(&world.restore_through(&repository, made.id).await.unwrap(), &made.stream);
        if !store.has_garbled() {
            assert!(read > 8, "{read} reads");
            return;
        }
    }
}

#[tokio::test]
async fn a_backup_reads_once_more_what_was_garbled_on_its_way() {
    let base = World::new().await;
    let sample = Sample::random(1, 300_000);
    base.back_up(&sample).await;
    for read in 1.. {
        let world = base.copy().await;
        let store = GarblingStore::new(world.store(), read);
        let repository = world.open_through(Arc::clone(&store) as Store).await.unwrap();
        let notes = Arc::new(Notes::default());
        let host = world.host("new");
        let summary = back_up(&repository, &host, sample.stream(), Expected::Anything, &notes).await.unwrap();
        assert_eq!(notes.problems(), Vec::<String>::new());
        assert_eq!(summary.manifest.totals.new_bytes, 0);
        world.assert_restorable(&[Made::new(&summary, sample.stream())]).await;
        if !store.has_garbled() {
            assert!(read > 3, "{read} reads");
            return;
        }
    }
}
