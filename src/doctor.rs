//! Looks whether a host, its configuration and its repository are fit for each other.

mod host;
mod place;
mod unattended;

use std::sync::Arc;

use jiff::tz::TimeZone;
use serde::Serialize;

use crate::clock::Clock;
use crate::config::Config;
use crate::records::session::SessionStart;
use crate::repository::Repository;
use crate::repository::probe::{Probed, probe};

pub use self::host::examine_host;
pub use self::place::examine_policies;

/// What became of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// All is well.
    Good,
    /// It works, and could be better.
    Note,
    /// It could not be found out.
    Unknown,
    /// Backups will fail, or will not be safe.
    Unfit,
}

impl Verdict {
    /// The verdict as a word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Note => "note",
            Self::Unknown => "unknown",
            Self::Unfit => "unfit",
        }
    }
}

/// What was found about one thing; `doctor --json` shows it as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub check: String,
    /// How it is.
    pub verdict: Verdict,
    /// What was found, and what to do about it where it is not good.
    pub words: String,
}

impl Finding {
    /// Makes a finding.
    pub fn new(check: impl Into<String>, verdict: Verdict, words: impl Into<String>) -> Self {
        Self { check: check.into(), verdict, words: words.into() }
    }

    /// A finding of something that either works or fails.
    fn of<T, E: Into<anyhow::Error>>(
        check: impl Into<String>,
        result: Result<T, E>,
        words: impl FnOnce(T) -> String,
    ) -> Self {
        match result {
            Ok(value) => Self::new(check, Verdict::Good, words(value)),
            Err(error) => Self::new(check, Verdict::Unfit, format!("{:#}", error.into())),
        }
    }
}

/// What of the world a check needs.
#[derive(Debug)]
pub struct Examination<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// The value of `PATH`.
    pub search_path: Option<std::ffi::OsString>,
    /// This host's time.
    pub clock: Arc<dyn Clock>,
    /// This host's time zone.
    pub zone: TimeZone,
}

/// What to do about a store that does not keep what is there.
pub const OVERWRITES: &str = "the server overwrites objects although it is asked not to (If-None-Match): set \
     conditional_put = false in [s3], and have versioning or object lock protect the bucket";

/// The clocks of store and host may differ by so many seconds. What the store's clock decides, it decides alone; but S3
/// refuses requests that are a quarter of an hour off.
const CLOCKS_APART_SECONDS: i64 = 60;

/// Tries out what the repository needs its store to promise.
pub async fn examine_promises(repository: &Repository, start: SessionStart) -> Vec<Finding> {
    let asked_at = repository.clock().now();
    let probed = match probe(repository, start).await {
        Ok(probed) => probed,
        Err(error) => return vec![Finding::new("writing", Verdict::Unfit, format!("{error:#}"))],
    };
    vec![
        Finding::new("writing", Verdict::Good, "a session was begun and ended"),
        consistency(&probed),
        clocks(probed.listed_at.unwrap_or(asked_at).as_second() - asked_at.as_second()),
        overwriting(&probed),
    ]
}

fn consistency(probed: &Probed) -> Finding {
    const CHECK: &str = "consistency";
    if probed.listed_at.is_some() {
        return Finding::new(CHECK, Verdict::Good, "what is stored is listed at once");
    }
    let words = "an object that was stored is not listed at once: no repository can be kept there";
    Finding::new(CHECK, Verdict::Unfit, words)
}

fn overwriting(probed: &Probed) -> Finding {
    const CHECK: &str = "overwriting";
    if probed.keeps_what_is_there {
        return Finding::new(CHECK, Verdict::Good, "an object that is there is not stored again");
    }
    Finding::new(CHECK, Verdict::Note, OVERWRITES)
}

fn clocks(store_ahead_seconds: i64) -> Finding {
    const CHECK: &str = "clocks";
    let (apart, way) = (store_ahead_seconds.abs(), if store_ahead_seconds > 0 { "ahead of" } else { "behind" });
    if apart <= CLOCKS_APART_SECONDS {
        return Finding::new(CHECK, Verdict::Good, "the store's and this host's agree");
    }
    let words = format!("the store's is {apart} seconds {way} this host's: set the one that is wrong");
    Finding::new(CHECK, Verdict::Note, words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_store_does_is_judged() {
        let probed = Probed { listed_at: None, keeps_what_is_there: true };
        assert_eq!((consistency(&probed).verdict, overwriting(&probed).verdict), (Verdict::Unfit, Verdict::Good));
        let probed = Probed { listed_at: Some(jiff::Timestamp::UNIX_EPOCH), keeps_what_is_there: false };
        assert_eq!((consistency(&probed).verdict, overwriting(&probed).verdict), (Verdict::Good, Verdict::Note));
    }

    #[test]
    fn clocks_that_differ_are_named_with_the_direction() {
        assert_eq!(clocks(60).verdict, Verdict::Good);
        assert_eq!(clocks(-61).words, "the store's is 61 seconds behind this host's: set the one that is wrong");
        assert_eq!(clocks(3600).words, "the store's is 3600 seconds ahead of this host's: set the one that is wrong");
    }
}
