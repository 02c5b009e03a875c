//! A store that archives what it is told to, for tests.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;

use super::failure::Failure;
use super::thaw::{ThawOutcome, ThawRequest, ThawState};
use super::{
    Key, ListPage, ObjectEnd, ObjectInfo, ObjectStore, PutOutcome, StorageClassName, Store, StoreError, StoreErrorKind,
    Tier, UploadChecksum,
};
use crate::clock::Clock;

const DAY: Duration = Duration::from_hours(24);

/// Archives what is put into another store as [`Tier::Data`], and thaws it when asked to, in as long as the tier takes
/// at most, by a clock.
#[derive(Debug)]
pub struct ArchivingStore {
    inner: Store,
    clock: Arc<dyn Clock>,
    class: StorageClassName,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The class of each archived object.
    archived: BTreeMap<Key, StorageClassName>,
    thaws: BTreeMap<Key, Thaw>,
    refused_reads: u64,
    requests: Vec<(Key, ThawRequest, ThawOutcome)>,
}

/// When a thawed copy can be read.
#[derive(Debug, Clone, Copy)]
struct Thaw {
    from: Timestamp,
    until: Timestamp,
}

impl ArchivingStore {
    /// Archives what is put into `inner` from now on as objects of `class`.
    #[must_use]
    pub fn new(inner: Store, class: StorageClassName, clock: Arc<dyn Clock>) -> Self {
        Self { inner, clock, class, state: Mutex::default() }
    }

    /// Archives an object that is there, or takes it for one of another class.
    pub fn archive(&self, key: &Key, class: &StorageClassName) {
        self.state().archived.insert(key.clone(), class.clone());
    }

    /// How many reads were refused.
    #[must_use]
    pub fn refused_reads(&self) -> u64 {
        self.state().refused_reads
    }

    /// All requests to thaw since the beginning or the last call, with what became of them.
    #[must_use]
    pub fn take_requests(&self) -> Vec<(Key, ThawRequest, ThawOutcome)> {
        std::mem::take(&mut self.state().requests)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the state")
    }

    fn check_readable(&self, key: &Key) -> Result<(), StoreError> {
        let now = self.clock.now();
        let mut state = self.state();
        if matches!(state.of(key, now), ThawState::Readable | ThawState::Thawed { .. }) {
            return Ok(());
        }
        state.refused_reads += 1;
        let reason = "the object is archived and has to be thawed first".to_owned();
        Err(Failure { kind: StoreErrorKind::Archived, reason }.at("reading", self.inner.url(), key))
    }

    fn with_class(&self, info: ObjectInfo) -> ObjectInfo {
        let class = self.state().archived.get(&info.key).cloned();
        ObjectInfo { storage_class: class.or_else(|| Some(StorageClassName::standard())), ..info }
    }
}

impl State {
    fn of(&self, key: &Key, now: Timestamp) -> ThawState {
        match self.thaws.get(key) {
            _ if !self.archived.contains_key(key) => ThawState::Readable,
            Some(thaw) if now < thaw.from => ThawState::Thawing,
            Some(thaw) if now < thaw.until => ThawState::Thawed { until: Some(thaw.until) },
            _ => ThawState::Archived,
        }
    }

    fn thaw(&mut self, key: &Key, request: ThawRequest, now: Timestamp) -> Result<ThawOutcome, Failure> {
        let Some(class) = self.archived.get(key) else { return Ok(ThawOutcome::NotNeeded) };
        let takes = request.tier.longest(class).ok_or_else(|| Failure::other("the class knows no such tier"))?;
        let from = match self.of(key, now) {
            ThawState::Thawing => return Ok(ThawOutcome::InProgress),
            ThawState::Thawed { .. } => now,
            ThawState::Readable | ThawState::Archived => now + takes,
        };
        let until = from + DAY * request.days.unwrap_or(u32::from(u16::MAX));
        self.thaws.insert(key.clone(), Thaw { from, until });
        Ok(ThawOutcome::Requested)
    }
}

#[async_trait]
impl ObjectStore for ArchivingStore {
    fn url(&self) -> &str {
        self.inner.url()
    }

    async fn put(&self, key: &Key, body: Bytes, tier: Tier) -> Result<PutOutcome, StoreError> {
        let outcome = self.inner.put(key, body, tier).await?;
        if outcome == PutOutcome::Stored && tier == Tier::Data {
            self.archive(key, &self.class);
        }
        Ok(outcome)
    }

    async fn get(&self, key: &Key, limit_bytes: u64) -> Result<Bytes, StoreError> {
        self.check_readable(key)?;
        self.inner.get(key, limit_bytes).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.check_readable(key)?;
        self.inner.get_range(key, range).await
    }

    async fn get_end(&self, key: &Key, end_bytes: u64) -> Result<ObjectEnd, StoreError> {
        self.check_readable(key)?;
        self.inner.get_end(key, end_bytes).await
    }

    async fn head(&self, key: &Key) -> Result<ObjectInfo, StoreError> {
        self.inner.head(key).await.map(|info| self.with_class(info))
    }

    async fn upload_checksum(&self, key: &Key) -> Result<UploadChecksum, StoreError> {
        self.inner.upload_checksum(key).await
    }

    async fn thaw_state(&self, key: &Key) -> Result<ThawState, StoreError> {
        self.inner.head(key).await?;
        Ok(self.state().of(key, self.clock.now()))
    }

    async fn request_thaw(&self, key: &Key, request: ThawRequest) -> Result<ThawOutcome, StoreError> {
        self.inner.head(key).await?;
        let now = self.clock.now();
        let mut state = self.state();
        let outcome = state.thaw(key, request, now).map_err(|failure| failure.at("thawing", self.inner.url(), key))?;
        state.requests.push((key.clone(), request, outcome));
        Ok(outcome)
    }

    async fn list_page(&self, prefix: &str, after: Option<&Key>) -> Result<ListPage, StoreError> {
        let page = self.inner.list_page(prefix, after).await?;
        let objects = page.objects.into_iter().map(|info| self.with_class(info)).collect();
        Ok(ListPage { objects, ..page })
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.inner.delete(key).await?;
        let mut state = self.state();
        state.archived.remove(key);
        state.thaws.remove(key);
        Ok(())
    }

    async fn remove_unfinished(&self, prefix: &str, before: Timestamp) -> Result<u64, StoreError> {
        self.inner.remove_unfinished(prefix, before).await
    }
}
