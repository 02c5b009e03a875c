//! Which backups are kept.

use std::collections::BTreeSet;
use std::time::Duration;

use super::fault::{Faults, quoted};
use super::section::{Found, Section};
use crate::retention::RetentionPolicy;

/// More of any period than any repository will have.
const KEEP_MAX: u32 = 100_000;
const WITHIN_MAX: Duration = Duration::from_hours(24 * 36_500);

pub(super) fn read_retention(retention: &mut Section<'_>, faults: &mut Faults) -> RetentionPolicy {
    let mut keep = |key, faults: &mut Faults| retention.integer(key, 0..=KEEP_MAX, faults).map_or(0, Found::into_value);
    let mut policy = RetentionPolicy {
        keep_last: keep("keep_last", faults),
        keep_hourly: keep("keep_hourly", faults),
        keep_daily: keep("keep_daily", faults),
        keep_weekly: keep("keep_weekly", faults),
        keep_monthly: keep("keep_monthly", faults),
        keep_yearly: keep("keep_yearly", faults),
        keep_within: None,
        keep_tags: BTreeSet::new(),
    };
    let within = retention.duration("keep_within", Duration::ZERO..=WITHIN_MAX, faults);
    policy.keep_within = within.map(Found::into_value);
    for tag in retention.strings("keep_tags", faults) {
        if tag.value.is_empty() || tag.value.contains(char::is_whitespace) {
            tag.fault(faults, format!("{} is not a tag", quoted(&tag.value)));
        }
        policy.keep_tags.insert(tag.into_value());
    }
    policy
}
