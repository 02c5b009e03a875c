//! Trying again what may succeed the next time.

use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use tokio::time::sleep;

use super::failure::length;
use super::policy::Policies;
use super::requests::Usage;
use super::thaw::{ThawOutcome, ThawRequest, ThawState};
use super::{
    Key, ListPage, ObjectEnd, ObjectInfo, ObjectStore, PutOutcome, Store, StoreError, StoreErrorKind, Tier,
    UploadChecksum,
};
use crate::id::fill_random;

/// How often to try. How long the tries themselves take does not count: an object may be large and a line slow.
///
/// By default the pauses come to between 8 and 17 minutes, enough for a server or a router that starts anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    /// How often an operation is tried, the first time counted.
    pub tries: u32,
    /// The longest pause after the first failure. It doubles with each further one.
    pub first_delay: Duration,
    /// What pauses stop growing at.
    pub longest_delay: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { tries: 24, first_delay: Duration::from_millis(500), longest_delay: Duration::from_mins(1) }
    }
}

/// Tries operations of another store again when they fail with [`StoreErrorKind::Transient`].
///
/// The pause before another try is random, between half and the whole of what the policy says, so that many clients
/// that failed together do not come back together.
///
/// A failed try may have had its effect and lost its reply only. So a `put` that, after a failure, finds the key in use
/// reads the object, and says [`PutOutcome::Stored`] where it has the body's very bytes. Comparing lengths would not do:
/// two writers may put different bodies of one length where only the first counts. Where the object cannot be read
/// (archived, no permission), it says [`PutOutcome::Exists`], which is true.
#[derive(Debug)]
pub struct RetryStore {
    inner: Store,
    policy: RetryPolicy,
}

impl RetryStore {
    /// Wraps `inner`.
    #[must_use]
    pub fn new(inner: Store, policy: RetryPolicy) -> Self {
        Self { inner, policy }
    }

    async fn retry<T, Try>(&self, operation: impl Fn() -> Try + Send) -> Result<T, StoreError>
    where
        Try: Future<Output = Result<T, StoreError>> + Send,
    {
        let mut tries = Tries::new(&self.policy);
        loop {
            match operation().await {
                Ok(value) => return Ok(value),
                Err(error) => tries.pause_after(error).await?,
            }
        }
    }

    async fn outcome_of_existing(&self, key: &Key, body: &Bytes) -> PutOutcome {
        match self.get(key, length(body)).await {
            Ok(existing) if existing == *body => PutOutcome::Stored,
            Ok(_) | Err(_) => PutOutcome::Exists,
        }
    }
}

/// The tries of one operation.
struct Tries<'a> {
    policy: &'a RetryPolicy,
    failed: u32,
}

impl<'a> Tries<'a> {
    fn new(policy: &'a RetryPolicy) -> Self {
        Self { policy, failed: 0 }
    }

    /// Waits until the next try is due; gives the error back when there shall be none.
    async fn pause_after(&mut self, error: StoreError) -> Result<(), StoreError> {
        if error.kind != StoreErrorKind::Transient {
            return Err(error);
        }
        let pause = self.next_pause();
        self.failed += 1;
        if self.failed >= self.policy.tries {
            let reason = format!("{} (tried {} times)", error.reason, self.failed);
            return Err(StoreError { reason, ..error });
        }
        tracing::info!("{error}: trying again in {:.1} s", pause.as_secs_f64());
        sleep(pause).await;
        Ok(())
    }

    fn next_pause(&self) -> Duration {
        let factor = 2_u32.saturating_pow(self.failed);
        let pause = self.policy.first_delay.saturating_mul(factor).min(self.policy.longest_delay);
        let mut random = [0; 2];
        fill_random(&mut random);
        pause / 2 + (pause / 2).mul_f64(f64::from(u16::from_le_bytes(random)) / f64::from(u16::MAX))
    }
}

#[async_trait]
impl ObjectStore for RetryStore {
    fn url(&self) -> &str {
        self.inner.url()
    }

    async fn put(&self, key: &Key, body: Bytes, tier: Tier) -> Result<PutOutcome, StoreError> {
        let mut tries = Tries::new(&self.policy);
        loop {
            match self.inner.put(key, body.clone(), tier).await {
                Ok(PutOutcome::Exists) if tries.failed > 0 => return Ok(self.outcome_of_existing(key, &body).await),
                Ok(outcome) => return Ok(outcome),
                Err(error) => tries.pause_after(error).await?,
            }
        }
    }

    async fn get(&self, key: &Key, limit_bytes: u64) -> Result<Bytes, StoreError> {
        self.retry(|| self.inner.get(key, limit_bytes)).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.retry(|| self.inner.get_range(key, range.clone())).await
    }

    async fn get_end(&self, key: &Key, end_bytes: u64) -> Result<ObjectEnd, StoreError> {
        self.retry(|| self.inner.get_end(key, end_bytes)).await
    }

    async fn head(&self, key: &Key) -> Result<ObjectInfo, StoreError> {
        self.retry(|| self.inner.head(key)).await
    }

    async fn upload_checksum(&self, key: &Key) -> Result<UploadChecksum, StoreError> {
        self.retry(|| self.inner.upload_checksum(key)).await
    }

    async fn thaw_state(&self, key: &Key) -> Result<ThawState, StoreError> {
        self.retry(|| self.inner.thaw_state(key)).await
    }

    async fn request_thaw(&self, key: &Key, request: ThawRequest) -> Result<ThawOutcome, StoreError> {
        self.retry(|| self.inner.request_thaw(key, request)).await
    }

    async fn list_page(&self, prefix: &str, after: Option<&Key>) -> Result<ListPage, StoreError> {
        self.retry(|| self.inner.list_page(prefix, after)).await
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.retry(|| self.inner.delete(key)).await
    }

    /// Once is enough: nothing hangs on it, and the next run does it again.
    async fn remove_unfinished(&self, prefix: &str, before: Timestamp) -> Result<u64, StoreError> {
        self.inner.remove_unfinished(prefix, before).await
    }

    fn usage(&self) -> Option<Usage> {
        self.inner.usage()
    }

    async fn policies(&self) -> Option<Policies> {
        self.inner.policies().await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::time::Instant;

    use super::*;
    use crate::clock::SystemClock;
    use crate::store::faulty::{Fault, FaultyStore};
    use crate::store::memory::MemoryStore;
    use crate::store::thaw::ThawTier;

    const POLICY: RetryPolicy =
        RetryPolicy { tries: 5, first_delay: Duration::from_secs(1), longest_delay: Duration::from_secs(5) };

    fn key() -> Key {
        Key::new("sessions/1/end").unwrap()
    }

    fn memory() -> Store {
        Arc::new(MemoryStore::new(Arc::new(SystemClock)))
    }

    fn faulty(inner: Store, fault: Fault, kind: StoreErrorKind) -> Arc<FaultyStore> {
        Arc::new(FaultyStore::new(inner).with_fault(fault, kind))
    }

    async fn put(store: &dyn ObjectStore, body: &'static [u8]) -> Result<PutOutcome, StoreError> {
        store.put(&key(), Bytes::from_static(body), Tier::Metadata).await
    }

    /// Has the next operation fail `times` times.
    fn failing(times: usize) -> Store {
        (0..times).fold(memory(), |store, _| faulty(store, Fault::Before(1), StoreErrorKind::Transient))
    }

    fn assert_within(duration: Duration, seconds: Range<u64>) {
        let bounds = Duration::from_secs(seconds.start)..=Duration::from_secs(seconds.end);
        assert!(bounds.contains(&duration), "{duration:?} {bounds:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_transient_failure_is_tried_again_after_growing_pauses() {
        // Pauses of up to 1, 2, 4 and 5 seconds, each at least half of that.
        for (failures, seconds) in [(0, 0..0), (1, 0..1), (2, 1..3), (3, 3..7), (4, 6..12)] {
            let started_at = Instant::now();
            assert_eq!(put(&RetryStore::new(failing(failures), POLICY), b"none").await.unwrap(), PutOutcome::Stored);
            assert_within(started_at.elapsed(), seconds);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn every_operation_is_tried_again() {
        let store = || RetryStore::new(failing(1), POLICY);
        assert_eq!(put(&store(), b"x").await.unwrap(), PutOutcome::Stored);
        assert_eq!(store().get(&key(), 1).await.unwrap_err().kind, StoreErrorKind::NotFound);
        assert_eq!(store().get_range(&key(), 0..1).await.unwrap_err().kind, StoreErrorKind::NotFound);
        assert_eq!(store().head(&key()).await.unwrap_err().kind, StoreErrorKind::NotFound);
        assert_eq!(store().thaw_state(&key()).await.unwrap_err().kind, StoreErrorKind::NotFound);
        let request = ThawRequest { days: Some(1), tier: ThawTier::Bulk };
        assert_eq!(store().request_thaw(&key(), request).await.unwrap_err().kind, StoreErrorKind::NotFound);
        assert!(!store().list_page("", None).await.unwrap().more);
        store().delete(&key()).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn after_so_many_tries_the_last_error_is_returned() {
        let inner = faulty(memory(), Fault::From(1), StoreErrorKind::Transient);
        let store = RetryStore::new(Arc::clone(&inner) as Store, POLICY);
        let error = put(&store, b"none").await.unwrap_err();
        assert_eq!((error.kind, inner.operations()), (StoreErrorKind::Transient, 5));
        assert!(error.to_string().ends_with("(tried 5 times)"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn other_failures_are_returned_at_once() {
        for kind in [StoreErrorKind::Denied, StoreErrorKind::Full, StoreErrorKind::Other, StoreErrorKind::Conflict] {
            let inner = faulty(memory(), Fault::From(1), kind);
            let store = RetryStore::new(Arc::clone(&inner) as Store, POLICY);
            assert_eq!(put(&store, b"none").await.unwrap_err().kind, kind);
            assert_eq!(inner.operations(), 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_put_whose_reply_was_lost_has_stored() {
        let store = RetryStore::new(faulty(memory(), Fault::After(1), StoreErrorKind::Transient), POLICY);
        assert_eq!(put(&store, b"none").await.unwrap(), PutOutcome::Stored);
        assert_eq!(put(&store, b"none").await.unwrap(), PutOutcome::Exists);
    }

    #[tokio::test(start_paused = true)]
    async fn an_object_of_the_same_length_by_another_writer_is_not_taken_for_ours() {
        let inner = memory();
        put(inner.as_ref(), b"void").await.unwrap();
        let store = RetryStore::new(faulty(inner, Fault::Before(1), StoreErrorKind::Transient), POLICY);
        assert_eq!(put(&store, b"none").await.unwrap(), PutOutcome::Exists);
    }

    #[tokio::test(start_paused = true)]
    async fn an_object_that_cannot_be_read_back_exists() {
        let inner = faulty(memory(), Fault::After(1), StoreErrorKind::Transient);
        let store = RetryStore::new(faulty(inner, Fault::Before(3), StoreErrorKind::Archived), POLICY);
        assert_eq!(put(&store, b"none").await.unwrap(), PutOutcome::Exists);
    }

    #[tokio::test(start_paused = true)]
    async fn a_delete_whose_reply_was_lost_has_succeeded() {
        let inner = memory();
        put(inner.as_ref(), b"none").await.unwrap();
        let store = RetryStore::new(faulty(inner, Fault::After(1), StoreErrorKind::Transient), POLICY);
        store.delete(&key()).await.unwrap();
    }
}
