//! A bound on how much a store is asked at once.

use std::num::NonZeroUsize;
use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{Key, ListPage, ObjectInfo, ObjectStore, PutOutcome, Store, StoreError, Tier};

/// Lets at most so many operations of a store run at once; others wait, in the order they came.
#[derive(Debug)]
pub struct LimitStore {
    inner: Store,
    permits: Semaphore,
}

impl LimitStore {
    /// Wraps `inner` so that at most `operations` run at once.
    #[must_use]
    pub fn new(inner: Store, operations: NonZeroUsize) -> Self {
        Self { inner, permits: Semaphore::new(operations.get().min(Semaphore::MAX_PERMITS)) }
    }

    async fn permit(&self) -> SemaphorePermit<'_> {
        self.permits.acquire().await.expect("the semaphore is never closed")
    }
}

#[async_trait]
impl ObjectStore for LimitStore {
    fn url(&self) -> &str {
        self.inner.url()
    }

    async fn put(&self, key: &Key, body: Bytes, tier: Tier) -> Result<PutOutcome, StoreError> {
        let _permit = self.permit().await;
        self.inner.put(key, body, tier).await
    }

    async fn get(&self, key: &Key, limit_bytes: u64) -> Result<Bytes, StoreError> {
        let _permit = self.permit().await;
        self.inner.get(key, limit_bytes).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, StoreError> {
        let _permit = self.permit().await;
        self.inner.get_range(key, range).await
    }

    async fn head(&self, key: &Key) -> Result<ObjectInfo, StoreError> {
        let _permit = self.permit().await;
        self.inner.head(key).await
    }

    async fn list_page(&self, prefix: &str, after: Option<&Key>) -> Result<ListPage, StoreError> {
        let _permit = self.permit().await;
        self.inner.list_page(prefix, after).await
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        let _permit = self.permit().await;
        self.inner.delete(key).await
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Arc;
    use std::task::Poll;

    use super::*;
    use crate::clock::SystemClock;
    use crate::store::memory::MemoryStore;

    #[tokio::test]
    async fn an_operation_waits_until_one_of_those_before_it_is_done() {
        let inner = Arc::new(MemoryStore::new(Arc::new(SystemClock)));
        let store = LimitStore::new(inner, NonZeroUsize::new(2).unwrap());
        let key = Key::new("a").unwrap();
        let first = store.permit().await;
        let second = store.permit().await;

        let mut waiting = store.put(&key, Bytes::new(), Tier::Data);
        let is_pending = poll_fn(|context| Poll::Ready(waiting.as_mut().poll(context).is_pending())).await;
        assert!(is_pending);

        drop(first);
        assert_eq!(waiting.await.unwrap(), PutOutcome::Stored);
        drop(second);
    }
}
