//! Where time comes from.

use std::fmt::Debug;

use jiff::Timestamp;

/// Tells the time. Everything that needs it is given a clock, so that tests can drive it.
pub trait Clock: Debug + Send + Sync {
    /// The time now, in UTC.
    fn now(&self) -> Timestamp;
}

/// The clock of the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that asks the operating system for the time")]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}
