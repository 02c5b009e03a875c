//! The section `[restore]`.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::fault::Faults;
use super::section::{Found, Section};
use crate::store::thaw::ThawTier;

/// The most days that a thaw can be asked for.
pub const THAW_DAYS_MAX: u32 = 365;
const TIMEOUT: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(30 * 24);

/// How archived objects are thawed for a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestoreConfig {
    /// Whether a restore waits for it.
    pub wait_for_thaw: bool,
    /// For how long at most.
    pub thaw_timeout: Duration,
    /// How fast it shall be.
    pub thaw_tier: ThawTier,
    /// For how many days thawed copies are kept; else it depends on how much there is to read.
    pub thaw_days: Option<u32>,
}

impl Default for RestoreConfig {
    fn default() -> Self {
        Self {
            wait_for_thaw: false,
            thaw_timeout: Duration::from_hours(72),
            thaw_tier: ThawTier::Standard,
            thaw_days: None,
        }
    }
}

pub(super) fn read_restore(restore: &mut Section<'_>, faults: &mut Faults) -> RestoreConfig {
    let default = RestoreConfig::default();
    RestoreConfig {
        wait_for_thaw: restore.boolean("wait_for_thaw", faults).map_or(default.wait_for_thaw, Found::into_value),
        thaw_timeout: restore.duration("thaw_timeout", TIMEOUT, faults).map_or(default.thaw_timeout, Found::into_value),
        thaw_tier: restore.parsed("thaw_tier", faults).map_or(default.thaw_tier, Found::into_value),
        thaw_days: restore.integer("thaw_days", 1..=THAW_DAYS_MAX, faults).map(Found::into_value),
    }
}
