//! What there is to know of archived objects, and to ask for.
//!
//! A thaw makes a copy of an archived object that can be read for some days; the object itself stays where it is. Times
//! are those of the S3 User Guide, "Understanding archive retrieval options".

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;

use super::StorageClassName;

/// How fast a thaw shall be: faster is dearer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ThawTier {
    /// Minutes; not of every class.
    Expedited,
    /// Hours.
    Standard,
    /// Up to two days.
    Bulk,
}

impl ThawTier {
    /// All tiers, the fastest first.
    pub const ALL: [Self; 3] = [Self::Expedited, Self::Standard, Self::Bulk];

    /// The tier's name, as it is configured.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Expedited => "expedited",
            Self::Standard => "standard",
            Self::Bulk => "bulk",
        }
    }

    /// How long a thaw out of a class takes at most; none where the class knows no such tier.
    #[must_use]
    pub fn longest(self, class: &StorageClassName) -> Option<Duration> {
        let hours = |hours| Some(Duration::from_hours(hours));
        match (class.as_str(), self) {
            ("DEEP_ARCHIVE", Self::Expedited) => None,
            (_, Self::Expedited) => Some(Duration::from_mins(5)),
            // Objects of INTELLIGENT_TIERING may be in a tier as slow as DEEP_ARCHIVE.
            ("DEEP_ARCHIVE" | "INTELLIGENT_TIERING", Self::Standard) => hours(12),
            ("DEEP_ARCHIVE" | "INTELLIGENT_TIERING", Self::Bulk) => hours(48),
            (_, Self::Standard) => hours(5),
            (_, Self::Bulk) => hours(12),
        }
    }
}

impl fmt::Display for ThawTier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A text that is not the name of a tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a tier is one of expedited, standard and bulk")]
pub struct ParseThawTierError;

impl FromStr for ThawTier {
    type Err = ParseThawTierError;

    fn from_str(text: &str) -> Result<Self, ParseThawTierError> {
        let named = |tier: &Self| tier.as_str().eq_ignore_ascii_case(text);
        Self::ALL.into_iter().find(named).ok_or(ParseThawTierError)
    }
}

/// What is asked for when an object shall be thawed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThawRequest {
    /// For how many days it can be read then; none for objects that stay thawed until they are left alone again.
    pub days: Option<u32>,
    /// How fast.
    pub tier: ThawTier,
}

/// Whether an object can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThawState {
    /// At any time.
    Readable,
    /// Not before a thaw, which nobody has asked for.
    Archived,
    /// Not before the thaw that has been asked for is done.
    Thawing,
    /// For a while.
    Thawed {
        /// Until this time, by the store's clock, if the store says.
        until: Option<Timestamp>,
    },
}

/// What became of a request to thaw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThawOutcome {
    /// It was accepted; or the object is thawed already and now stays so for the days asked for.
    Requested,
    /// The object is being thawed already. The request has changed nothing.
    InProgress,
    /// The object is not archived.
    NotNeeded,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tier_is_known_by_its_name_in_any_case() {
        for tier in ThawTier::ALL {
            assert_eq!(tier.to_string().parse(), Ok(tier));
        }
        assert_eq!("Bulk".parse(), Ok(ThawTier::Bulk));
        assert_eq!("fast".parse::<ThawTier>(), Err(ParseThawTierError));
    }

    #[test]
    fn deep_archive_takes_longer_and_knows_no_expedited_thaw() {
        let class = |name: &str| name.parse::<StorageClassName>().unwrap();
        let hours = |name: &str| ThawTier::ALL.map(|tier| tier.longest(&class(name)).map(|time| time.as_secs() / 3600));
        assert_eq!(hours("GLACIER"), [Some(0), Some(5), Some(12)]);
        assert_eq!(hours("DEEP_ARCHIVE"), [None, Some(12), Some(48)]);
    }
}
