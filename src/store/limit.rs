//! A bound on how much a store is asked at once, which gives way when the store is busy.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::policy::Policies;
use super::requests::Usage;
use super::thaw::{ThawOutcome, ThawRequest, ThawState};
use super::{
    Key, ListPage, ObjectEnd, ObjectInfo, ObjectStore, PutOutcome, Store, StoreError, StoreErrorKind, Tier,
    UploadChecksum,
};

/// Lets at most so many operations of a store run at once; others wait, in the order they came.
///
/// An operation that fails with [`StoreErrorKind::Transient`] is taken for a sign that the store is asked too much: half
/// as many run from then on, and one more after each round that succeeds, as TCP does it. Operations that were under
/// way together and fail together count once. Where one at a time is still too much, as a server that is near allows few
/// a second, they begin some time apart, which grows with each failure and shrinks with each success.
///
/// Each operation is a task of its own, so that one that nobody asks for meanwhile goes on and makes place for others: what
/// reads ahead and waits for another operation before it looks at what it has read would otherwise wait for ever. An
/// operation whose future is dropped is given up.
#[derive(Debug)]
pub struct LimitStore {
    inner: Store,
    limit: Arc<Limit>,
}

#[derive(Debug)]
struct Limit {
    permits: Semaphore,
    window: Mutex<Window>,
    /// When the next operation may begin.
    next_at: Mutex<Instant>,
}

/// Operations begin at least so far apart once they are kept apart, and no further; with what is further apart, the pauses
/// between tries have to do.
const FIRST_GAP: Duration = Duration::from_millis(50);
const LONGEST_GAP: Duration = Duration::from_millis(500);

/// How many operations may run at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Window {
    /// The bound it was made with.
    most: usize,
    /// The bound now.
    allowed: usize,
    /// Permits that exist, held ones too: more than `allowed` until enough operations are done.
    permits: usize,
    /// Operations that succeeded since the bound changed.
    successes: usize,
    /// How often the bound was lowered.
    lowered: u64,
    /// How far apart operations begin.
    gap: Duration,
}

impl Window {
    fn new(most: usize) -> Self {
        Self { most, allowed: most, permits: most, successes: 0, lowered: 0, gap: Duration::ZERO }
    }

    /// Takes the outcome of an operation that began when the bound had been lowered `lowered` times.
    fn note(&mut self, is_busy: bool, lowered: u64) {
        if !is_busy && !self.gap.is_zero() {
            let shorter = self.gap.mul_f64(0.875);
            self.gap = if shorter < FIRST_GAP / 2 { Duration::ZERO } else { shorter };
        } else if !is_busy {
            self.successes += 1;
            if self.successes >= self.allowed && self.allowed < self.most {
                self.allowed += 1;
                self.successes = 0;
            }
        } else if lowered == self.lowered {
            if self.allowed == 1 && self.most > 1 {
                self.gap = (self.gap + self.gap / 2).clamp(FIRST_GAP, LONGEST_GAP);
            }
            self.allowed = (self.allowed / 2).max(1);
            self.successes = 0;
            self.lowered += 1;
        }
    }
}

impl LimitStore {
    /// Wraps `inner` so that at most `operations` run at once.
    #[must_use]
    pub fn new(inner: Store, operations: NonZeroUsize) -> Self {
        let most = operations.get().min(Semaphore::MAX_PERMITS);
        Self { inner, limit: Arc::new(Limit::new(most)) }
    }

    async fn run<T, F>(&self, operation: impl FnOnce(Store) -> F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let (limit, operation) = (Arc::clone(&self.limit), operation(Arc::clone(&self.inner)));
        // A set ends its tasks when it is dropped; a task alone would go on.
        let mut task = JoinSet::new();
        task.spawn(async move { limit.run(operation).await });
        match task.join_next().await.expect("one task was started") {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // Only a runtime that shuts down ends a task before its time; then nobody waits for it.
                Err(_) => std::future::pending().await,
            },
        }
    }
}

impl Limit {
    fn new(most: usize) -> Self {
        let window = Mutex::new(Window::new(most));
        Self { permits: Semaphore::new(most), window, next_at: Mutex::new(Instant::now()) }
    }

    /// Waits until an operation may begin.
    async fn wait_for_turn(&self) {
        let gap = self.window().gap;
        if gap.is_zero() {
            return;
        }
        let at = {
            let mut next_at = self.next_at.lock().unwrap_or_else(PoisonError::into_inner);
            let at = (*next_at).max(Instant::now());
            *next_at = at + gap;
            at
        };
        sleep_until(at).await;
    }

    fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run<T>(&self, operation: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let permit = self.permits.acquire().await.expect("the semaphore is never closed");
        self.wait_for_turn().await;
        let lowered = self.window().lowered;
        let result = operation.await;
        let is_busy = result.as_ref().is_err_and(|error| error.kind == StoreErrorKind::Transient);
        let mut window = self.window();
        window.note(is_busy, lowered);
        if window.permits > window.allowed {
            window.permits -= 1;
            permit.forget();
        } else if window.permits < window.allowed {
            window.permits += 1;
            self.permits.add_permits(1);
        }
        result
    }
}

#[async_trait]
impl ObjectStore for LimitStore {
    fn url(&self) -> &str {
        self.inner.url()
    }

    async fn put(&self, key: &Key, body: Bytes, tier: Tier) -> Result<PutOutcome, StoreError> {
        let key = key.clone();
        self.run(|store| async move { store.put(&key, body, tier).await }).await
    }

    async fn get(&self, key: &Key, limit_bytes: u64) -> Result<Bytes, StoreError> {
        let key = key.clone();
        self.run(|store| async move { store.get(&key, limit_bytes).await }).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, StoreError> {
        let key = key.clone();
        self.run(|store| async move { store.get_range(&key, range).await }).await
    }

    async fn get_end(&self, key: &Key, end_bytes: u64) -> Result<ObjectEnd, StoreError> {
        let key = key.clone();
        self.run(|store| async move { store.get_end(&key, end_bytes).await }).await
    }

    async fn head(&self, key: &Key) -> Result<ObjectInfo, StoreError> {
        let key = key.clone();
        self.run(|store| async move { store.head(&key).await }).await
    }

    async fn upload_checksum(&self, key: &Key) -> Result<UploadChecksum, StoreError> {
        let key = key.clone();
        self.run(|store| async move { store.upload_checksum(&key).await }).await
    }

    async fn thaw_state(&self, key: &Key) -> Result<ThawState, StoreError> {
        let key = key.clone();
        self.run(|store| async move { store.thaw_state(&key).await }).await
    }

    async fn request_thaw(&self, key: &Key, request: ThawRequest) -> Result<ThawOutcome, StoreError> {
        let key = key.clone();
        self.run(|store| async move { store.request_thaw(&key, request).await }).await
    }

    async fn list_page(&self, prefix: &str, after: Option<&Key>) -> Result<ListPage, StoreError> {
        let (prefix, after) = (prefix.to_owned(), after.cloned());
        self.run(|store| async move { store.list_page(&prefix, after.as_ref()).await }).await
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        let key = key.clone();
        self.run(|store| async move { store.delete(&key).await }).await
    }

    async fn remove_unfinished(&self, prefix: &str, before: Timestamp) -> Result<u64, StoreError> {
        let prefix = prefix.to_owned();
        self.run(|store| async move { store.remove_unfinished(&prefix, before).await }).await
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
    use std::future::poll_fn;
    use std::task::Poll;

    use futures_util::stream::{self, StreamExt};

    use super::*;
    use crate::clock::SystemClock;
    use crate::store::faulty::{Fault, FaultyStore};
    use crate::store::memory::MemoryStore;

    fn memory() -> Store {
        Arc::new(MemoryStore::new(Arc::new(SystemClock)))
    }

    fn limit(count: usize) -> NonZeroUsize {
        NonZeroUsize::new(count).unwrap()
    }

    async fn list(store: &LimitStore) -> bool {
        store.list_page("", None).await.is_ok()
    }

    #[tokio::test]
    async fn an_operation_waits_until_one_of_those_before_it_is_done() {
        let store = LimitStore::new(memory(), limit(2));
        let key = Key::new("a").unwrap();
        let first = store.limit.permits.acquire().await.unwrap();
        let second = store.limit.permits.acquire().await.unwrap();

        let mut waiting = store.put(&key, Bytes::new(), Tier::Data);
        let is_pending = poll_fn(|context| Poll::Ready(waiting.as_mut().poll(context).is_pending())).await;
        assert!(is_pending);

        drop(first);
        assert_eq!(waiting.await.unwrap(), PutOutcome::Stored);
        drop(second);
    }

    #[tokio::test]
    async fn an_operation_that_nobody_goes_on_with_keeps_no_place() {
        let store = LimitStore::new(memory(), limit(1));
        let key = Key::new("a").unwrap();
        let mut first = store.put(&key, Bytes::new(), Tier::Data);
        let is_pending = poll_fn(|context| Poll::Ready(first.as_mut().poll(context).is_pending())).await;
        assert!(is_pending);
        assert_eq!(store.head(&key).await.unwrap().size_bytes, 0);
        assert_eq!(first.await.unwrap(), PutOutcome::Stored);
    }

    #[tokio::test]
    async fn an_operation_that_is_dropped_gives_its_place_up() {
        let store = LimitStore::new(memory(), limit(1));
        let held = store.limit.permits.acquire().await.unwrap();
        let key = Key::new("a").unwrap();
        let mut waiting = store.put(&key, Bytes::new(), Tier::Data);
        let is_pending = poll_fn(|context| Poll::Ready(waiting.as_mut().poll(context).is_pending())).await;
        assert!(is_pending);
        drop(waiting);
        drop(held);
        assert_eq!(store.head(&key).await.unwrap_err().kind, StoreErrorKind::NotFound);
    }

    #[tokio::test]
    async fn a_busy_store_is_asked_less_and_then_slowly_more() {
        let failing = FaultyStore::new(memory()).with_fault(Fault::Before(1), StoreErrorKind::Transient);
        let store = LimitStore::new(Arc::new(failing), limit(8));
        assert!(!list(&store).await);
        assert_eq!(store.limit.window().allowed, 4);
        // A round of 4, one of 5, one of 6 and one of 7.
        let mut allowed = Vec::new();
        for _ in 0..4 + 5 + 6 + 7 {
            assert!(list(&store).await);
            allowed.push(store.limit.window().allowed);
        }
        assert_eq!((allowed[2], allowed[3], allowed[8], allowed[14], allowed[21]), (4, 5, 6, 7, 8));
        assert!(list(&store).await);
        assert_eq!((store.limit.permits.available_permits(), store.limit.window().permits), (8, 8));
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_never_answers_is_asked_one_thing_at_a_time() {
        let failing = FaultyStore::new(memory()).with_fault(Fault::From(1), StoreErrorKind::Transient);
        let store = LimitStore::new(Arc::new(failing), limit(8));
        for _ in 0..20 {
            assert!(!list(&store).await);
        }
        assert_eq!((store.limit.permits.available_permits(), store.limit.window().allowed), (1, 1));
    }

    #[test]
    fn operations_that_fail_together_count_once() {
        let mut window = Window::new(8);
        for _ in 0..8 {
            window.note(true, 0);
        }
        assert_eq!((window.allowed, window.lowered), (4, 1));
        window.note(true, 1);
        assert_eq!(window.allowed, 2);
    }

    /// A server that lets so many requests a second through, as many at once, and refuses the others at once.
    struct Rationed {
        per_second: f64,
        tokens: f64,
        filled_at: Instant,
        refused: u32,
    }

    impl Rationed {
        fn ask(&mut self) -> Result<(), StoreError> {
            let now = Instant::now();
            let new = (now - self.filled_at).as_secs_f64() * self.per_second;
            (self.tokens, self.filled_at) = ((self.tokens + new).min(self.per_second), now);
            if self.tokens >= 1.0 {
                self.tokens -= 1.0;
                return Ok(());
            }
            self.refused += 1;
            let (operation, reason) = ("reading", "busy".to_owned());
            Err(StoreError { kind: StoreErrorKind::Transient, operation, object: "a".to_owned(), reason })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn of_a_server_that_allows_few_requests_a_second_nearly_all_of_these_are_used() {
        const REQUESTS: u32 = 200;
        for per_second in [3.0, 10.0] {
            let limit = &Limit::new(8);
            let server = &Mutex::new(Rationed { per_second, tokens: 1.0, filled_at: Instant::now(), refused: 0 });
            let began = Instant::now();
            // As many as a restore has under way, each tried again after pauses that double.
            let request = |_| async move {
                let mut pause = Duration::from_millis(400);
                while limit.run(async { server.lock().unwrap().ask() }).await.is_err() {
                    tokio::time::sleep(pause).await;
                    pause = (2 * pause).min(Duration::from_mins(1));
                }
            };
            stream::iter(0..REQUESTS).map(request).buffered(16).for_each(async |()| {}).await;
            let (took, refused) = (began.elapsed().as_secs_f64(), server.lock().unwrap().refused);
            assert!(took < f64::from(REQUESTS) / per_second * 1.25, "{took} s at {per_second} a second");
            assert!(refused < REQUESTS / 2, "{refused} at {per_second} a second");
            assert!(limit.window().gap > Duration::ZERO);
        }
    }
}
