//! Waiting until nothing happens any more: then what the runs ask for next does not depend on how fast threads are.
//!
//! A schedule has one thread. What the product computes on rayon's threads is computed on it as well: it is a pool of its
//! own with itself as the only thread, which works when it is told to. The thread that reads a stream is waited for, and
//! so is the one that writes a restored stream.

use std::cell::RefCell;
use std::io::{self, Cursor, Read};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use btrfs_to_s3::backup::StreamSource;

/// A run that is waited for so long never goes on.
const PATIENCE: Duration = Duration::from_mins(1);

/// How many streams are being read.
#[derive(Debug, Default)]
pub(crate) struct Readers {
    counts: Mutex<Counts>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Counts {
    begun: usize,
    ended: usize,
}

impl Readers {
    /// Waits until all have ended; gives how many these were.
    fn wait_for_all(&self) -> usize {
        let counts = self.counts.lock().unwrap();
        let busy = |counts: &mut Counts| counts.ended < counts.begun;
        let (counts, waited) = self.changed.wait_timeout_while(counts, PATIENCE, busy).unwrap();
        assert!(!waited.timed_out(), "a stream is read for ever");
        counts.begun
    }

    fn begun(&self) -> usize {
        self.counts.lock().unwrap().begun
    }
}

/// One of them.
struct Reader(Arc<Readers>);

impl Reader {
    fn new(readers: &Arc<Readers>) -> Self {
        readers.counts.lock().unwrap().begun += 1;
        Self(Arc::clone(readers))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.counts.lock().unwrap().ended += 1;
        self.0.changed.notify_all();
    }
}

thread_local! {
    /// Of the thread that reads a stream: dropped when the thread has ended, so after it has sent all it had to say.
    static READER: RefCell<Option<Reader>> = const { RefCell::new(None) };
}

/// A stream in memory, short enough to be read without waiting for anybody.
pub(crate) struct WatchedSource {
    bytes: Cursor<Vec<u8>>,
    reader: Option<Reader>,
}

impl WatchedSource {
    pub(crate) fn new(bytes: Vec<u8>, readers: &Arc<Readers>) -> Self {
        Self { bytes: Cursor::new(bytes), reader: Some(Reader::new(readers)) }
    }
}

impl Read for WatchedSource {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(reader) = self.reader.take() {
            READER.with(|slot| slot.replace(Some(reader)));
        }
        self.bytes.read(buffer)
    }
}

impl StreamSource for WatchedSource {
    fn finish(self: Box<Self>) -> anyhow::Result<()> {
        Ok(())
    }
}

/// Runs `schedule` on a thread that is a pool of rayon's by itself, and has a runtime whose time stands still.
pub(crate) fn on_a_thread_of_its_own<T: Send + 'static>(
    schedules: impl FnOnce() -> T + Send + 'static,
) -> std::thread::JoinHandle<T> {
    let run = move || {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build().unwrap();
        let played = schedules();
        drop(pool);
        played
    };
    std::thread::spawn(run)
}

/// A runtime for one schedule.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    // Before the scheduler has its turn again, every task that can go on has had its own.
    builder.enable_time().start_paused(true).event_interval(100_000).build().unwrap()
}

fn compute() -> bool {
    let mut computed = false;
    while rayon::yield_now() == Some(rayon::Yield::Executed) {
        computed = true;
    }
    computed
}

/// Whether a task can go on.
#[derive(Debug)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Something that is under way, and goes on only when it is told to.
pub(crate) struct Task<T> {
    future: Pin<Box<dyn Future<Output = T>>>,
    woken: Arc<Woken>,
    output: Option<T>,
}

impl<T> Task<T> {
    pub(crate) fn new(future: impl Future<Output = T> + 'static) -> Self {
        Self { future: Box::pin(future), woken: Arc::new(Woken(AtomicBool::new(true))), output: None }
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.output.is_some()
    }

    pub(crate) fn take_output(&mut self) -> Option<T> {
        self.output.take()
    }

    fn can_go_on(&self) -> bool {
        !self.is_finished() && self.woken.0.load(Ordering::SeqCst)
    }

    /// Goes on as far as possible, if something has happened that it waited for; says whether.
    fn go_on(&mut self) -> bool {
        if self.is_finished() || !self.woken.0.swap(false, Ordering::SeqCst) {
            return false;
        }
        let waker = Waker::from(Arc::clone(&self.woken));
        if let Poll::Ready(output) = self.future.as_mut().poll(&mut Context::from_waker(&waker)) {
            self.output = Some(output);
        }
        true
    }
}

/// Lets the tasks go on until all wait for the store. `waits_for_store` says of each, by its number, whether it does; else
/// a thread is about to wake it.
pub(crate) async fn settle<T>(readers: &Readers, tasks: &mut [&mut Task<T>], waits_for_store: impl Fn(usize) -> bool) {
    let begun_at = Instant::now();
    loop {
        let ended = readers.wait_for_all();
        let mut went_on = false;
        for task in tasks.iter_mut() {
            went_on |= task.go_on();
        }
        // The product's own tasks have their turn.
        tokio::task::yield_now().await;
        // What a thread has sent that ended meanwhile may not have been taken yet.
        if went_on || compute() || readers.begun() > ended || tasks.iter().any(|task| task.can_go_on()) {
            continue;
        }
        if tasks.iter().enumerate().all(|(number, task)| task.is_finished() || waits_for_store(number)) {
            return;
        }
        assert!(begun_at.elapsed() < PATIENCE, "a run waits for what never comes");
        std::thread::yield_now();
    }
}

/// Waits for something that asks nothing of the board.
pub(crate) async fn complete<T>(work: impl Future<Output = T> + 'static) -> T {
    let mut task = Task::new(work);
    settle(&Readers::default(), &mut [&mut task], |_| false).await;
    task.take_output().unwrap()
}
