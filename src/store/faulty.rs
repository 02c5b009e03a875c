//! A store that fails and damages on purpose, for tests.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::Bytes;

use super::failure::{Failure, check_limit, length, slice};
use super::{Key, ListPage, ObjectInfo, ObjectStore, PutOutcome, Store, StoreError, StoreErrorKind, Tier};

/// Which operations fail. They are counted from 1, all kinds together, in the order in which they begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// This operation fails and has no effect.
    Before(u64),
    /// This operation has its effect and fails, as when the reply is lost.
    After(u64),
    /// This operation and every later one fail and have no effect, as when the machine dies.
    From(u64),
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

    /// Whether the operation that shall fail, or the first of them, has begun.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        let first = self.fault.map(|(Fault::Before(first) | Fault::After(first) | Fault::From(first), _)| first);
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

    async fn head(&self, key: &Key) -> Result<ObjectInfo, StoreError> {
        let info = self.run("looking up", key.as_str(), self.inner.head(key)).await?;
        self.info_seen(info).ok_or_else(|| Failure::not_found().at("looking up", self.url(), key))
    }

    async fn list_page(&self, prefix: &str, after: Option<&Key>) -> Result<ListPage, StoreError> {
        self.run("listing", prefix, self.page_seen(prefix, after)).await
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.run("removing", key.as_str(), self.inner.delete(key)).await
    }
}
