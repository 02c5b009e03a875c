//! The sections `[hooks]` and `[monitoring]`.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::fault::Faults;
use super::section::{Found, Section};

const TIMEOUT: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(24);
const TIMEOUT_DEFAULT: Duration = Duration::from_mins(10);

/// Commands that are run before and after a backup: each a program and its arguments, or nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HooksConfig {
    /// Before anything is done. When it fails, nothing is.
    pub before: Vec<String>,
    /// After each run, however it went.
    pub after: Vec<String>,
    /// After a run that does not end with exit code 0.
    pub on_failure: Vec<String>,
    /// How long one may take.
    pub timeout: Duration,
}

impl Default for HooksConfig {
    fn default() -> Self {
        Self { before: Vec::new(), after: Vec::new(), on_failure: Vec::new(), timeout: TIMEOUT_DEFAULT }
    }
}

/// Who is told how a run went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MonitoringConfig {
    /// A URL that is asked for, with `/start` before a run and `/fail` after one that failed.
    pub healthcheck_url: Option<String>,
    /// A file for Prometheus' textfile collector.
    pub metrics_textfile: Option<PathBuf>,
}

pub(super) fn read_hooks(hooks: &mut Section<'_>, faults: &mut Faults) -> HooksConfig {
    let mut command = |key, faults: &mut Faults| {
        let words = hooks.strings(key, faults);
        if let Some(program) = words.first().filter(|program| program.value.is_empty()) {
            program.fault(faults, "must be a program");
        }
        words.into_iter().map(Found::into_value).collect()
    };
    let (before, after, on_failure) =
        (command("before", faults), command("after", faults), command("on_failure", faults));
    let timeout = hooks.duration("timeout", TIMEOUT, faults).map_or(TIMEOUT_DEFAULT, Found::into_value);
    HooksConfig { before, after, on_failure, timeout }
}

pub(super) fn read_monitoring(monitoring: &mut Section<'_>, faults: &mut Faults) -> MonitoringConfig {
    let url = monitoring.filled_string("healthcheck_url", faults);
    if let Some(url) = &url {
        let host = url.value.strip_prefix("https://").or_else(|| url.value.strip_prefix("http://"));
        let is_plain = url.value.chars().all(|c| c.is_ascii_graphic() && !matches!(c, '"' | '\\' | '?' | '#'));
        if host.is_none_or(str::is_empty) || !is_plain {
            url.fault(
                faults,
                "must begin with https:// or http://, and have no query, as in \"https://hc-ping.com/…\"",
            );
        }
    }
    MonitoringConfig {
        healthcheck_url: url.map(|url| url.into_value().trim_end_matches('/').to_owned()),
        metrics_textfile: monitoring.absolute_path("metrics_textfile", faults).map(Found::into_value),
    }
}
