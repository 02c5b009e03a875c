//! Decides whether a subvolume is due to be backed up, and whether in full.
//!
//! What there is in the repository is all that is asked, so nothing on a host can be lost or out of date. Times are those of
//! the host's own clock, which may be wrong, be set back, or follow daylight saving.

use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::{DateTime, Time};
use jiff::tz::TimeZone;

const DAY_SECONDS: i64 = 24 * 60 * 60;
/// So much earlier than a whole period after the last one a backup may come: the hour of daylight saving, by which a
/// timer in local time is early once a year, and a timer's accuracy and random delay. For periods of a day and more.
const EARLY_SECONDS_MAX: i64 = 80 * 60;
/// The same as a part of shorter periods.
const EARLY_PART: i64 = DAY_SECONDS / EARLY_SECONDS_MAX;
/// With a time of day, daylight saving is no matter, and timers delay but do not hurry: what is left are clocks that
/// are set right.
const EARLY_SECONDS_AT: i64 = 5 * 60;
/// A backup that seems to be made so much later than now was made by a wrong clock.
const FUTURE_SECONDS: i64 = 10 * 60;
/// A backup is overdue half a period after it was due, and at the latest after so long.
const OVERDUE_SECONDS_MAX: i64 = 12 * 60 * 60;

/// How often a subvolume is to be backed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// At least so often there is a full backup. Without it, only where there must be.
    pub full_every: Option<Duration>,
    /// At least so often there is a backup.
    pub incremental_every: Duration,
    /// The local time of day from which on one is due; the periods are whole days then.
    pub run_at: Option<Time>,
    /// So many streams at most have to be received to restore a backup.
    pub max_chain_length: Option<u32>,
}

/// A backup that can be restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PastBackup {
    /// When it was made, by the host's clock of that time.
    pub created_at: Timestamp,
    /// Whether it is a full one.
    pub is_full: bool,
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Nothing.
    Nothing,
    /// A backup; an incremental one will do.
    Backup,
    /// A full backup.
    Full,
}

/// What is due, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// What.
    pub due: Due,
    /// Why, in words.
    pub reason: String,
    /// When the next backup is due, or has been since; none where there is no backup yet.
    pub next_due_at: Option<Timestamp>,
    /// Whether something must be wrong, as it has been due for so long.
    pub is_overdue: bool,
}

/// Decides what is due at `now`, from all backups of one subvolume, in whatever order.
///
/// Each backup takes the place that the one before it left open: one that comes a little early does not let the next one
/// come earlier still, one that comes late does not delay the next, and one in between, made by hand, changes nothing. One
/// that is later than half a period begins a new row: then the timer has been changed.
///
/// Backups from the future do not count. Where there are any, the clock was set back, or was wrong once: it comes by times
/// for the second time, so that the newest backup may be one of the first time, and does not count either. The worst
/// that a clock does is one backup more in each period until it is there again, and one less then.
#[must_use]
pub fn decide(policy: &Policy, zone: &TimeZone, past: &[PastBackup], now: Timestamp) -> Decision {
    let is_past = |backup: &&PastBackup| backup.created_at.as_second() <= now.as_second() + FUTURE_SECONDS;
    let mut known: Vec<PastBackup> = past.iter().filter(is_past).copied().collect();
    known.sort_by_key(|backup| backup.created_at);
    let remark = match past.len() - known.len() {
        0 => String::new(),
        count => format!(" ({count} that seem to be from the future do not count, nor does the newest of the others)"),
    };
    let full_reason = full_due(policy, zone, &known, now);
    if known.len() < past.len() && known.len() > 1 {
        known.pop();
    }
    let Some(last) = known.last() else {
        let reason = format!("there is no backup of it yet{remark}");
        return Decision { due: Due::Full, reason, next_due_at: None, is_overdue: true };
    };
    let row = Row::new(policy, zone, policy.incremental_every);
    let next_due_at = row.next_due_at(known.iter().map(|backup| backup.created_at)).unwrap_or(now);
    let overdue_at = next_due_at.as_second() + (row.every_seconds / 2).min(OVERDUE_SECONDS_MAX);
    let (due, reason) = match full_reason {
        Some(reason) => (Due::Full, reason),
        None if row.is_due(next_due_at, now) => {
            let (age, every) = (age(last.created_at, now), shown(policy.incremental_every));
            (Due::Backup, format!("the last backup is {age} old, and one is due every {every}"))
        }
        None => {
            (Due::Nothing, format!("the last backup is of {}, the next one is due at {next_due_at}", last.created_at))
        }
    };
    let is_overdue = now.as_second() >= overdue_at;
    Decision { due, reason: reason + &remark, next_due_at: Some(next_due_at), is_overdue }
}

/// Why a full backup is due, if one is.
fn full_due(policy: &Policy, zone: &TimeZone, known: &[PastBackup], now: Timestamp) -> Option<String> {
    let every = policy.full_every?;
    let fulls: Vec<Timestamp> = known.iter().filter(|backup| backup.is_full).map(|backup| backup.created_at).collect();
    let Some(last) = fulls.last() else { return Some("there is no full backup of it".to_owned()) };
    // One that came early, as a chain was long enough, serves as well as one that was due.
    let row = Row { restarts: true, ..Row::new(policy, zone, every) };
    let next = row.next_due_at(fulls.iter().copied())?;
    let reason = || format!("the last full backup is {} old, and one is due every {}", age(*last, now), shown(every));
    row.is_due(next, now).then(reason)
}

impl Policy {
    /// Why the next backup must not be made against one whose restore receives so many streams, if it must not.
    #[must_use]
    pub fn refuses_chain(&self, streams: usize) -> Option<String> {
        let max = self.max_chain_length.and_then(|max| usize::try_from(max).ok())?;
        (streams >= max).then(|| format!("its chain would be longer than {max} (max_chain_length)"))
    }
}

/// Backups at equal distances.
struct Row<'a> {
    every_seconds: i64,
    early_seconds: i64,
    /// Whether one in between begins a new row.
    restarts: bool,
    calendar: Calendar<'a>,
}

/// Where in a row a time is.
enum Calendar<'a> {
    /// Seconds are counted.
    Seconds,
    /// Local days are, each of which begins at this time.
    Days(Time, &'a TimeZone),
}

impl<'a> Row<'a> {
    fn new(policy: &Policy, zone: &'a TimeZone, every: Duration) -> Self {
        let seconds = i64::try_from(every.as_secs()).unwrap_or(i64::MAX).max(1);
        match policy.run_at {
            None => {
                let early_seconds = (seconds / EARLY_PART).min(EARLY_SECONDS_MAX);
                Self { every_seconds: seconds, early_seconds, restarts: false, calendar: Calendar::Seconds }
            }
            Some(at) => {
                let days = (seconds / DAY_SECONDS).max(1);
                let calendar = Calendar::Days(at, zone);
                Self { every_seconds: days * DAY_SECONDS, early_seconds: 0, restarts: false, calendar }
            }
        }
    }

    /// When the next backup is due, after those made at these times, in order.
    fn next_due_at(&self, mut made: impl Iterator<Item = Timestamp>) -> Option<Timestamp> {
        let first = self.position(made.next()?);
        let place = made.map(|at| self.position(at)).fold(first, |place, at| self.next_place(place, at));
        Some(self.time_of(place.saturating_add(self.every_seconds)))
    }

    fn is_due(&self, next_due_at: Timestamp, now: Timestamp) -> bool {
        self.position(now) >= self.position(next_due_at).saturating_sub(self.early_seconds)
    }

    /// The place in the row of a backup that was made at `at`, after one whose place was `place`.
    fn next_place(&self, place: i64, at: i64) -> i64 {
        let periods = (at - place + self.early_seconds).div_euclid(self.every_seconds);
        if periods < 1 {
            return if self.restarts { at } else { place };
        }
        let next = place.saturating_add(periods.saturating_mul(self.every_seconds));
        if at - next > self.every_seconds / 2 { at } else { next }
    }

    fn position(&self, at: Timestamp) -> i64 {
        match self.calendar {
            Calendar::Seconds => at.as_second(),
            Calendar::Days(begin, zone) => {
                let early = at.as_second().saturating_add(EARLY_SECONDS_AT);
                let local = zone.to_datetime(Timestamp::from_second(early).unwrap_or(at));
                let midnight = utc_seconds(local.date().to_datetime(Time::midnight()));
                if local.time() >= begin { midnight } else { midnight - DAY_SECONDS }
            }
        }
    }

    fn time_of(&self, position: i64) -> Timestamp {
        let at = Timestamp::from_second(position).unwrap_or(Timestamp::MAX);
        match self.calendar {
            Calendar::Seconds => at,
            Calendar::Days(begin, zone) => {
                let date = TimeZone::UTC.to_datetime(at).date();
                zone.to_timestamp(date.to_datetime(begin)).unwrap_or(at)
            }
        }
    }
}

fn utc_seconds(at: DateTime) -> i64 {
    TimeZone::UTC.to_timestamp(at).map_or(0, Timestamp::as_second)
}

/// How old what was made then is, in words.
#[must_use]
pub fn age(at: Timestamp, now: Timestamp) -> String {
    shown(Duration::from_secs(u64::try_from(now.as_second() - at.as_second()).unwrap_or(0)))
}

/// A duration in its two largest units.
#[must_use]
pub fn shown(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let units = [("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)];
    let largest = units.iter().position(|(_, unit)| seconds >= *unit).unwrap_or(units.len() - 1);
    let (name, unit) = units[largest];
    let smaller = units.get(largest + 1).map(|(name, smaller)| (seconds % unit / smaller, name));
    match smaller.filter(|(count, _)| *count > 0) {
        Some((count, smaller)) => format!("{}{name} {count}{smaller}", seconds / unit),
        None => format!("{}{name}", seconds / unit),
    }
}

#[cfg(test)]
mod tests;
