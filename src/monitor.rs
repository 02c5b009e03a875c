//! What an operation tells of itself while it runs.

use std::fmt::Debug;

/// A count that grows while an operation runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Counter {
    /// Bytes of the stream read (backup) or rebuilt (restore).
    StreamBytes,
    /// Plaintext bytes of chunks that the repository did not have.
    NewBytes,
    /// Bytes of objects stored.
    StoredBytes,
    /// Bytes of objects read.
    FetchedBytes,
}

/// Is told how an operation gets on, and what went wrong that did not end it.
pub trait Monitor: Debug + Send + Sync {
    /// `counter` has grown by `amount`.
    fn add(&self, counter: Counter, amount: u64);

    /// Something that the user should know, though nothing is wrong with the operation.
    fn warn(&self, message: &str);

    /// Something that has gone wrong, though the operation goes on: the run does not end as if all were well.
    fn problem(&self, message: &str);
}

/// Ignores everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct SilentMonitor;

impl Monitor for SilentMonitor {
    fn add(&self, _counter: Counter, _amount: u64) {}

    fn warn(&self, _message: &str) {}

    fn problem(&self, _message: &str) {}
}
