//! What a person sees of a run: a bar on a terminal, a line now and then otherwise, and what goes wrong.

use std::collections::HashSet;
use std::io::IsTerminal;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::output;
use crate::monitor::{Counter, Monitor};
use crate::size::ByteSize;

/// Without a terminal, a line is printed this often.
const LINE_EVERY: Duration = Duration::from_secs(30);

/// More of them are shown, and not kept.
const PROBLEMS_KEPT: usize = 100;

/// Of so many lines it is known that they have been said.
const LINES_KEPT: usize = 1000;

/// Shows how a run gets on.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    stream_bytes: AtomicU64,
    /// How many there will be, where that is known; else 0.
    expected_bytes: AtomicU64,
    new_bytes: AtomicU64,
    line_at: Mutex<Instant>,
    problems: Mutex<Vec<String>>,
    /// What has been said, as a run looks at some things several times.
    said: Mutex<HashSet<String>>,
}

impl Progress {
    pub(crate) fn new() -> Self {
        let style = ProgressStyle::with_template("{spinner} {bytes} in {elapsed}, {bytes_per_sec}; {msg}");
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::no_length();
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar
        });
        Self {
            bar,
            stream_bytes: AtomicU64::new(0),
            expected_bytes: AtomicU64::new(0),
            new_bytes: AtomicU64::new(0),
            line_at: Mutex::new(Instant::now()),
            problems: Mutex::default(),
            said: Mutex::default(),
        }
    }

    /// Says how many bytes of streams there will be, all in all.
    pub(crate) fn expect(&self, bytes: u64) {
        self.expected_bytes.store(bytes, Ordering::Relaxed);
        let template = "{spinner} {bytes} of {total_bytes} in {elapsed}, {bytes_per_sec}, {eta} left";
        if let (Some(bar), Ok(style)) = (&self.bar, ProgressStyle::with_template(template)) {
            bar.set_length(bytes);
            bar.set_style(style);
        }
    }

    /// Removes the bar.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// Whether something went wrong on the way.
    pub(crate) fn had_problems(&self) -> bool {
        !self.lock_problems().is_empty()
    }

    /// What went wrong on the way.
    pub(crate) fn problems(&self) -> Vec<String> {
        self.lock_problems().clone()
    }

    fn lock_problems(&self) -> MutexGuard<'_, Vec<String>> {
        self.problems.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a line has not been said yet, as far as is known.
    fn is_new(&self, line: &str) -> bool {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        !said.contains(line) && (said.len() >= LINES_KEPT || said.insert(line.to_owned()))
    }

    /// Says something, once.
    fn say(&self, line: &str) {
        if !self.is_new(line) {
            return;
        }
        match &self.bar {
            Some(bar) => bar.suspend(|| output::error_line(line)),
            None => output::error_line(line),
        }
    }

    fn show(&self) {
        let bytes = |counter: &AtomicU64| ByteSize::from_bytes(counter.load(Ordering::Relaxed));
        if let Some(bar) = &self.bar {
            bar.set_position(self.stream_bytes.load(Ordering::Relaxed));
            bar.set_message(format!("{} new", bytes(&self.new_bytes)));
            return;
        }
        let mut line_at = self.line_at.lock().unwrap_or_else(PoisonError::into_inner);
        if line_at.elapsed() >= LINE_EVERY {
            *line_at = Instant::now();
            let (so_far, new) = (bytes(&self.stream_bytes), bytes(&self.new_bytes));
            output::error_line(&match self.expected_bytes.load(Ordering::Relaxed) {
                0 => format!("{so_far} so far, {new} new"),
                _ => format!("{so_far} of {} so far", bytes(&self.expected_bytes)),
            });
        }
    }
}

impl Monitor for Progress {
    fn add(&self, counter: Counter, amount: u64) {
        match counter {
            Counter::StreamBytes => drop(self.stream_bytes.fetch_add(amount, Ordering::Relaxed)),
            Counter::NewBytes => drop(self.new_bytes.fetch_add(amount, Ordering::Relaxed)),
            Counter::StoredBytes | Counter::FetchedBytes => return,
        }
        self.show();
    }

    fn warn(&self, message: &str) {
        self.say(&format!("warning: {message}"));
    }

    fn problem(&self, message: &str) {
        let mut problems = self.lock_problems();
        if problems.len() < PROBLEMS_KEPT && !problems.iter().any(|known| known == message) {
            problems.push(message.to_owned());
        }
        drop(problems);
        self.say(&format!("problem: {message}"));
    }
}
