//! Which backups a policy keeps, and why. Pure: it decides, others forget.
//!
//! Time is the store's, in UTC: what a host's clock says of its own backups cannot push others out.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::Offset;
use jiff::{SignedDuration, Timestamp};

use crate::id::ManifestId;

#[cfg(test)]
mod tests;

/// A backup may say that it is from so much later than when it was stored; clocks differ.
const AHEAD_MAX: SignedDuration = SignedDuration::from_hours(24);
/// A backup may have been stored so long after its snapshot was taken: the first one over a slow line takes weeks.
const BEHIND_MAX: SignedDuration = SignedDuration::from_hours(60 * 24);

/// What to keep. Each rule counts for each subvolume of each host by itself; what any rule keeps is kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RetentionPolicy {
    /// So many of the newest.
    pub keep_last: u32,
    /// The newest of each of so many hours that have one.
    pub keep_hourly: u32,
    /// As before, of days.
    pub keep_daily: u32,
    /// As before, of weeks, which begin on Monday.
    pub keep_weekly: u32,
    /// As before, of months.
    pub keep_monthly: u32,
    /// As before, of years.
    pub keep_yearly: u32,
    /// All that are at most so much older than the newest.
    pub keep_within: Option<Duration>,
    /// All that have one of these tags.
    pub keep_tags: BTreeSet<String>,
}

impl RetentionPolicy {
    /// Whether there is no rule, so that nothing would be kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Whose backup it is. A policy counts for each source by itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source {
    /// The host.
    pub host: String,
    /// The name of what is backed up.
    pub subvolume: String,
}

/// A backup that a policy decides on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The backup.
    pub id: ManifestId,
    /// Whose it is.
    pub source: Source,
    /// When it was stored, by the store's clock; of a copy, when its original was, or [`time_of_copy`].
    pub stored_at: Timestamp,
    /// When its snapshot was taken, by its own word.
    pub created_at: Timestamp,
    /// What it was made against.
    pub parent: Option<ManifestId>,
    /// Its tags.
    pub tags: BTreeSet<String>,
}

impl Candidate {
    /// Whether what it says of its time cannot be: its clock was wrong, or it was copied from elsewhere.
    fn has_odd_time(&self) -> bool {
        let behind = self.stored_at.duration_since(self.created_at);
        behind > BEHIND_MAX || behind < -AHEAD_MAX
    }
}

/// The time that counts of a copy whose original is not there: that of its snapshot, as that of its storing says nothing. What
/// would be odd of any other backup is odd of it too.
#[must_use]
pub fn time_of_copy(stored_at: Timestamp, created_at: Timestamp) -> Timestamp {
    if stored_at.duration_since(created_at) > BEHIND_MAX { stored_at } else { created_at.min(stored_at) }
}

/// Why a backup is kept.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// It is among the newest.
    Last,
    /// It is the newest of an hour.
    Hourly,
    /// It is the newest of a day.
    Daily,
    /// It is the newest of a week.
    Weekly,
    /// It is the newest of a month.
    Monthly,
    /// It is the newest of a year.
    Yearly,
    /// It is not older than that.
    Within,
    /// It has a tag.
    Tag(String),
    /// Its own time is far from the store's: rules do not count it, and only its id forgets it.
    OddTime,
    /// Another one that is kept was made on it, directly or through others.
    NeededBy(ManifestId),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Last => f.write_str("last"),
            Self::Hourly => f.write_str("hourly"),
            Self::Daily => f.write_str("daily"),
            Self::Weekly => f.write_str("weekly"),
            Self::Monthly => f.write_str("monthly"),
            Self::Yearly => f.write_str("yearly"),
            Self::Within => f.write_str("within"),
            Self::Tag(tag) => write!(f, "tag {tag}"),
            Self::OddTime => f.write_str("its time is far from the store's"),
            Self::NeededBy(id) => write!(f, "needed by {id}"),
        }
    }
}

/// What a policy decides of one backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The backup.
    pub id: ManifestId,
    /// Whose it is.
    pub source: Source,
    /// When it was stored, by the store's clock.
    pub stored_at: Timestamp,
    /// Why it is kept; it is to be forgotten if there is no reason.
    pub reasons: Vec<Reason>,
}

impl Decision {
    /// Whether the backup is kept.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        !self.reasons.is_empty()
    }
}

/// Decides on each of `chosen`, for each source from the newest to the oldest.
///
/// What a kept backup was made against is kept too: forgetting it would free nothing. That counts also for those that are
/// kept because they are not chosen (`others`).
#[must_use]
pub fn decide(policy: &RetentionPolicy, chosen: &[Candidate], others: &[Candidate]) -> Vec<Decision> {
    let mut sources: BTreeMap<&Source, Vec<&Candidate>> = BTreeMap::new();
    for candidate in chosen {
        sources.entry(&candidate.source).or_default().push(candidate);
    }
    let mut decisions = Vec::new();
    for mut candidates in sources.into_values() {
        candidates.sort_by_key(|candidate| (candidate.stored_at, candidate.created_at, candidate.id));
        candidates.reverse();
        decisions.extend(decide_source(policy, &candidates));
    }
    keep_ancestors(&mut decisions, chosen, others);
    decisions
}

/// Decides on the backups of one source, the newest first.
fn decide_source(policy: &RetentionPolicy, candidates: &[&Candidate]) -> Vec<Decision> {
    let mut periods = [
        Period::new(Reason::Hourly, policy.keep_hourly, |date, hour| (date, hour)),
        Period::new(Reason::Daily, policy.keep_daily, |date, _| (date, 0)),
        Period::new(Reason::Weekly, policy.keep_weekly, |date, _| (monday_before(date), 0)),
        Period::new(Reason::Monthly, policy.keep_monthly, |date, _| (date.first_of_month(), 0)),
        Period::new(Reason::Yearly, policy.keep_yearly, |date, _| (date.first_of_year(), 0)),
    ];
    let newest = candidates.iter().find(|candidate| !candidate.has_odd_time()).map(|candidate| candidate.stored_at);
    let mut last_left = policy.keep_last;
    let mut decisions = Vec::new();
    for candidate in candidates {
        let tags = policy.keep_tags.intersection(&candidate.tags);
        let mut reasons: Vec<Reason> = tags.cloned().map(Reason::Tag).collect();
        if candidate.has_odd_time() {
            reasons.push(Reason::OddTime);
        } else {
            if last_left > 0 {
                last_left -= 1;
                reasons.push(Reason::Last);
            }
            reasons.extend(periods.iter_mut().filter_map(|period| period.offer(candidate.stored_at)));
            reasons.extend(is_within(policy, newest, candidate.stored_at).then_some(Reason::Within));
        }
        let (id, source, stored_at) = (candidate.id, candidate.source.clone(), candidate.stored_at);
        decisions.push(Decision { id, source, stored_at, reasons });
    }
    decisions
}

/// Measured from the newest backup, not from now: a source that is not backed up any more does not lose what it has.
fn is_within(policy: &RetentionPolicy, newest: Option<Timestamp>, stored_at: Timestamp) -> bool {
    let Some((within, newest)) = policy.keep_within.zip(newest) else { return false };
    SignedDuration::try_from(within).is_ok_and(|within| newest.duration_since(stored_at) <= within)
}

/// A rule that keeps the newest of each period.
struct Period {
    reason: Reason,
    left: u32,
    last: Option<(Date, i8)>,
    name: fn(Date, i8) -> (Date, i8),
}

impl Period {
    fn new(reason: Reason, left: u32, name: fn(Date, i8) -> (Date, i8)) -> Self {
        Self { reason, left, last: None, name }
    }

    /// Says whether the rule keeps a backup; they are offered from the newest to the oldest.
    fn offer(&mut self, stored_at: Timestamp) -> Option<Reason> {
        let time = Offset::UTC.to_datetime(stored_at);
        let period = (self.name)(time.date(), time.hour());
        if self.left == 0 || self.last == Some(period) {
            return None;
        }
        self.left -= 1;
        self.last = Some(period);
        Some(self.reason.clone())
    }
}

fn monday_before(date: Date) -> Date {
    let days = i64::from(date.weekday().to_monday_zero_offset());
    // At the very beginning of the calendar there is no Monday; the date itself does as well.
    date.checked_sub(jiff::Span::new().days(days)).unwrap_or(date)
}

/// Keeps all that kept backups were made against.
fn keep_ancestors(decisions: &mut [Decision], chosen: &[Candidate], others: &[Candidate]) {
    let parents: HashMap<ManifestId, ManifestId> =
        chosen.iter().chain(others).filter_map(|candidate| Some((candidate.id, candidate.parent?))).collect();
    let positions: HashMap<ManifestId, usize> = decisions.iter().map(|decision| decision.id).zip(0..).collect();
    let kept = decisions.iter().filter(|decision| decision.is_kept()).map(|decision| decision.id);
    let needing: Vec<ManifestId> = kept.chain(others.iter().map(|other| other.id)).collect();
    let mut seen = BTreeSet::new();
    for id in needing {
        let mut ancestor = parents.get(&id);
        while let Some(parent) = ancestor.filter(|parent| seen.insert(**parent)) {
            if let Some(position) = positions.get(parent) {
                decisions[*position].reasons.push(Reason::NeededBy(id));
            }
            ancestor = parents.get(parent);
        }
    }
}
