//! The section `[rehearsal]`.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::fault::Faults;
use super::section::{Found, Section};

const EVERY: RangeInclusive<Duration> = Duration::from_hours(1)..=Duration::from_hours(10 * 365 * 24);

/// Reads how often a restore is to be rehearsed.
pub(super) fn read_rehearsal(rehearsal: &mut Section<'_>, faults: &mut Faults) -> Option<Duration> {
    rehearsal.duration("every", EVERY, faults).map(Found::into_value)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::config::Config;

    #[test]
    fn how_often_is_read_and_an_hour_at_least() {
        let every = |text: &str| {
            Config::parse(&format!("repository = 'r'\n{text}"), "c.toml").map(|config| config.rehearse_every)
        };
        assert_eq!(every("[rehearsal]\nevery = '30d'"), Ok(Some(Duration::from_hours(30 * 24))));
        assert_eq!(every("[rehearsal]"), Ok(None));
        assert!(
            every("[rehearsal]\nevery = '5min'").unwrap_err().to_string().contains("rehearsal.every: must be from")
        );
    }
}
