//! Trying again what may succeed the next time.

use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::failure::length;
use super::{Key, ListPage, ObjectInfo, ObjectStore, PutOutcome, Store, StoreError, StoreErrorKind, Tier};
use crate::id::fill_random;

/// How often and how long to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    /// How often an operation is tried, the first time counted.
    pub tries: u32,
    /// The longest pause after the first failure. It doubles with each further one.
    pub first_delay: Duration,
    /// What pauses stop growing at.
    pub longest_delay: Duration,
    /// When no further try is begun, counted from the beginning of the first. A try that runs is not interrupted.
    pub total: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            tries: 10,
            first_delay: Duration::from_millis(500),
            longest_delay: Duration::from_secs(60),
            total: Duration::from_secs(10 * 60),
        }
    }
}

/// Tries operations of another store again when they fail with [`StoreErrorKind::Transient`].
///
/// The pause before another try is random, between half and the whole of what the policy says, so that many clients
/// that failed together do not come back together.
///
/// A failed try may have had its effect and lost its reply only. So, after a failure:
/// - a `put` that finds the key in use reads the object, and says [`PutOutcome::Stored`] where it has the body's very
///   bytes. Comparing lengths would not do: two writers may put different bodies of one length where only the first
///   counts. Where the object cannot be read (archived, no permission), it says [`PutOutcome::Exists`], which is true.
/// - a `delete` that finds nothing has succeeded.
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
    started_at: Instant,
    failed: u32,
}

impl<'a> Tries<'a> {
    fn new(policy: &'a RetryPolicy) -> Self {
        Self { policy, started_at: Instant::now(), failed: 0 }
    }

    /// Waits until the next try is due; gives the error back when there shall be none.
    async fn pause_after(&mut self, error: StoreError) -> Result<(), StoreError> {
        if error.kind != StoreErrorKind::Transient {
            return Err(error);
        }
        let pause = self.next_pause();
        self.failed += 1;
        let is_late = self.started_at.elapsed() + pause > self.policy.total;
        if self.failed >= self.policy.tries || is_late {
            let reason = format!("{} (tried {} times)", error.reason, self.failed);
            return Err(StoreError { reason, ..error });
        }
        tracing::debug!(%error, pause_ms = pause.as_millis(), "trying again");
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

    async fn head(&self, key: &Key) -> Result<ObjectInfo, StoreError> {
        self.retry(|| self.inner.head(key)).await
    }

    async fn list_page(&self, prefix: &str, after: Option<&Key>) -> Result<ListPage, StoreError> {
        self.retry(|| self.inner.list_page(prefix, after)).await
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        let mut tries = Tries::new(&self.policy);
        loop {
            match self.inner.delete(key).await {
                Err(error) if error.kind == StoreErrorKind::NotFound && tries.failed > 0 => return Ok(()),
                Err(error) => tries.pause_after(error).await?,
                Ok(()) => return Ok(()),
            }
        }
    }
}
