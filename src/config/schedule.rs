//! The section `[schedule]`.

use std::ops::RangeInclusive;
use std::time::Duration;

use jiff::civil::Time;

use super::fault::{Faults, quoted};
use super::section::{Found, Section};
use crate::schedule::Policy;

const EVERY: RangeInclusive<Duration> = Duration::from_mins(1)..=Duration::from_hours(10 * 365 * 24);
const EVERY_DEFAULT: Duration = Duration::from_hours(24);
const DAY_SECONDS: u64 = 24 * 60 * 60;
const CHAIN_LENGTH_MAX: u32 = 10_000;

pub(super) fn read_schedule(schedule: &mut Section<'_>, faults: &mut Faults) -> Policy {
    let full_every = schedule.duration("full_every", EVERY, faults);
    let incremental_every = schedule.duration("incremental_every", EVERY, faults);
    let run_at = read_time(schedule, faults);
    let max_chain_length = schedule.integer("max_chain_length", 1..=CHAIN_LENGTH_MAX, faults);
    for every in [&full_every, &incremental_every].into_iter().flatten() {
        if run_at.is_some() && !every.value.as_secs().is_multiple_of(DAY_SECONDS) {
            every.fault(faults, "must be whole days where there is a run_at");
        }
    }
    let every = incremental_every.map_or(EVERY_DEFAULT, Found::into_value);
    if let Some(full) = full_every.as_ref().filter(|full| full.value < every) {
        full.fault(faults, format!("must not be less than {}incremental_every", schedule.path_of("")));
    }
    Policy {
        full_every: full_every.map(Found::into_value),
        incremental_every: every,
        run_at,
        max_chain_length: max_chain_length.map(Found::into_value),
    }
}

fn read_time(schedule: &mut Section<'_>, faults: &mut Faults) -> Option<Time> {
    let text = schedule.string("run_at", faults)?;
    let time = Some(&text.value).filter(|text| text.len() == 5).and_then(|text| Time::strptime("%H:%M", text).ok());
    if time.is_none() {
        text.fault(faults, format!("must be a time of day such as \"02:30\", not {}", quoted(&text.value)));
    }
    time
}
