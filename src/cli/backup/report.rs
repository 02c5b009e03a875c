//! What a run of `backup` tells of itself: to standard output as JSON, to hooks, and to Prometheus.
//!
//! `docs/operating.md` describes the three; they say the same.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use crate::cli::cost::number;
use crate::cli::exit::{Exit, exit_of};
use crate::cost::money::Money;
use crate::cost::run::RunCost;
use crate::job::{Done, Outcome};
use crate::records::manifest::BackupKind;
use crate::store::requests::RequestCounts;

/// The version of what `backup --json` prints. A change that takes something away has another one.
const SCHEMA: u32 = 1;

/// How a run went.
#[derive(Debug, Clone, Serialize)]
pub(super) struct RunReport {
    pub(super) schema: u32,
    /// `success`, `problems`, `failed` or `interrupted`.
    pub(super) result: &'static str,
    pub(super) exit_code: u8,
    pub(super) started_at: Timestamp,
    pub(super) finished_at: Timestamp,
    pub(super) seconds: f64,
    /// Why the run as a whole failed; of a single subvolume it is said there.
    pub(super) error: Option<String>,
    /// How many requests the run has sent to a server; `None` where there is none, or the run did not come to it.
    pub(super) requests: Option<RequestCounts>,
    /// What that and what was stored cost; `None` where no prices are known.
    pub(super) cost: Option<CostReport>,
    /// What went wrong without ending anything.
    pub(super) problems: Vec<String>,
    pub(super) subvolumes: Vec<SubvolumeReport>,
}

/// What a run has cost, in `currency`.
#[derive(Debug, Clone, Serialize)]
pub(super) struct CostReport {
    pub(super) currency: String,
    #[serde(serialize_with = "as_number")]
    pub(super) requests: Money,
    /// Each month from then on.
    #[serde(serialize_with = "as_number")]
    pub(super) month: Money,
}

impl CostReport {
    pub(super) fn new(cost: RunCost, currency: &str) -> Self {
        Self { currency: currency.to_owned(), requests: cost.requests, month: cost.month }
    }
}

fn as_number<S: Serializer>(amount: &Money, serializer: S) -> Result<S::Ok, S::Error> {
    number(*amount).serialize(serializer)
}

/// What became of a subvolume.
#[derive(Debug, Clone, Serialize)]
pub(super) struct SubvolumeReport {
    pub(super) name: String,
    /// `full`, `incremental`, `unchanged`, `not_due` or `failed`.
    pub(super) outcome: String,
    pub(super) id: Option<String>,
    pub(super) parent: Option<String>,
    pub(super) created_at: Option<Timestamp>,
    /// Why nothing was due.
    pub(super) reason: Option<String>,
    pub(super) error: Option<String>,
    pub(super) seconds: f64,
    pub(super) stream_bytes: u64,
    pub(super) new_bytes: u64,
    pub(super) stored_bytes: u64,
}

impl SubvolumeReport {
    /// Of a run that did not come to it.
    pub(super) fn not_reached(name: &str, error: &anyhow::Error) -> Self {
        let empty = Self::empty(name, 0.0);
        Self { outcome: "failed".to_owned(), error: Some(format!("{error:#}")), ..empty }
    }

    fn empty(name: &str, seconds: f64) -> Self {
        Self {
            name: name.to_owned(),
            outcome: String::new(),
            id: None,
            parent: None,
            created_at: None,
            reason: None,
            error: None,
            seconds,
            stream_bytes: 0,
            new_bytes: 0,
            stored_bytes: 0,
        }
    }

    pub(super) fn new(outcome: &Outcome) -> Self {
        let empty = Self::empty(&outcome.subvolume, outcome.took.as_secs_f64());
        match &outcome.result {
            Ok(Done::NotDue(decision)) => {
                Self { outcome: "not_due".to_owned(), reason: Some(decision.reason.clone()), ..empty }
            }
            Ok(Done::Published(summary)) => Self {
                outcome: summary.manifest.kind.to_string(),
                id: Some(summary.id().to_string()),
                parent: summary.manifest.parent.as_ref().map(|parent| parent.manifest.to_string()),
                created_at: Some(summary.manifest.created_at),
                stream_bytes: summary.manifest.stream.bytes,
                new_bytes: summary.manifest.totals.new_bytes,
                stored_bytes: summary.stored_bytes,
                ..empty
            },
            Err(error) => Self { outcome: "failed".to_owned(), error: Some(format!("{error:#}")), ..empty },
        }
    }
}

/// How a run ends by what came of it: the worst of the subvolumes decides.
pub(super) fn exit_after(result: &anyhow::Result<()>, had_problems: bool) -> Exit {
    match result {
        Err(error) => exit_of(error),
        Ok(()) if had_problems => Exit::Problems,
        Ok(()) => Exit::Done,
    }
}

impl RunReport {
    pub(super) fn new(started_at: Timestamp, finished_at: Timestamp, subvolumes: Vec<SubvolumeReport>) -> Self {
        Self {
            schema: SCHEMA,
            result: "success",
            exit_code: 0,
            started_at,
            finished_at,
            seconds: finished_at.duration_since(started_at).as_secs_f64(),
            error: None,
            requests: None,
            cost: None,
            problems: Vec::new(),
            subvolumes,
        }
    }

    /// Puts in how the run ends, as far as that is known by now.
    pub(super) fn end(&mut self, result: &anyhow::Result<()>, problems: Vec<String>) {
        let exit = exit_after(result, !problems.is_empty());
        self.problems = problems;
        self.exit_code = exit as u8;
        self.error = result.as_ref().err().map(|error| format!("{error:#}"));
        self.result = match exit {
            Exit::Done => "success",
            Exit::Problems => "problems",
            Exit::Interrupted => "interrupted",
            _ => "failed",
        };
    }

    /// What hooks find in their environment.
    pub(super) fn facts(&self) -> Vec<(&'static str, String)> {
        let names = |wanted: fn(&&SubvolumeReport) -> bool| {
            let names: Vec<&str> = self.subvolumes.iter().filter(wanted).map(|one| one.name.as_str()).collect();
            names.join(" ")
        };
        let manifests: Vec<&str> = self.subvolumes.iter().filter_map(|one| one.id.as_deref()).collect();
        vec![
            ("BTRFS_TO_S3_RESULT", self.result.to_owned()),
            ("BTRFS_TO_S3_EXIT_CODE", self.exit_code.to_string()),
            ("BTRFS_TO_S3_ERROR", self.error.clone().unwrap_or_else(|| in_a_line(&self.problems))),
            ("BTRFS_TO_S3_SUBVOLUMES", names(|_| true)),
            ("BTRFS_TO_S3_SUBVOLUMES_FAILED", names(|one| one.outcome == "failed")),
            ("BTRFS_TO_S3_MANIFESTS", manifests.join(" ")),
        ]
    }

    /// What Prometheus reads. Of what this run does not know, such as when a subvolume was last backed up when it failed
    /// now, `before` is asked: what the file said until now.
    pub(super) fn metrics(&self, before: &str) -> String {
        let mut values = known_values(before);
        let mut set = |name: &str, label: Option<&str>, value: f64| {
            let label = label.map_or(String::new(), |subvolume| format!("{{subvolume=\"{subvolume}\"}}"));
            values.insert(format!("{PREFIX}{name}{label}"), value);
        };
        let finished = seconds(self.finished_at);
        set("last_run_timestamp_seconds", None, finished);
        set("last_run_duration_seconds", None, self.seconds);
        set("last_run_exit_code", None, f64::from(self.exit_code));
        set("last_run_problems", None, count(self.problems.len()));
        if let Some(requests) = self.requests {
            set("last_run_requests", None, bytes(requests.total()));
        }
        if let Some(cost) = &self.cost {
            set("last_run_requests_cost", None, amount(cost.requests));
            set("last_run_month_cost", None, amount(cost.month));
        }
        if self.exit_code == 0 {
            set("last_success_timestamp_seconds", None, finished);
        } else {
            set("last_failure_timestamp_seconds", None, finished);
        }
        for one in &self.subvolumes {
            let label = Some(one.name.as_str());
            let failed = one.outcome == "failed";
            set("subvolume_failed", label, count(usize::from(failed)));
            if failed {
                set("subvolume_last_failure_timestamp_seconds", label, finished);
            }
            if let Some(created_at) = one.created_at {
                set("subvolume_last_backup_timestamp_seconds", label, seconds(created_at));
                set("subvolume_last_backup_duration_seconds", label, one.seconds);
                set("subvolume_last_backup_stream_bytes", label, bytes(one.stream_bytes));
                set("subvolume_last_backup_new_bytes", label, bytes(one.new_bytes));
                set("subvolume_last_backup_stored_bytes", label, bytes(one.stored_bytes));
            }
        }
        text_of(&values)
    }
}

/// What went wrong, in one line. A variable of the environment cannot be of any length.
fn in_a_line(problems: &[String]) -> String {
    let mut room = TOLD_BYTES_MAX;
    let fits = |problem: &&String| {
        let fits = problem.len() <= room;
        room = room.saturating_sub(problem.len());
        fits
    };
    let mut told: Vec<String> = problems.iter().rev().take_while(fits).cloned().collect();
    told.reverse();
    match problems.len() - told.len() {
        0 => {}
        untold => told.insert(0, format!("{untold} more before")),
    }
    told.join("; ")
}

/// So many bytes of problems are told to hooks, the last ones.
const TOLD_BYTES_MAX: usize = 16 << 10;

const PREFIX: &str = "btrfs_to_s3_";

fn seconds(at: Timestamp) -> f64 {
    at.as_duration().as_secs_f64()
}

#[expect(clippy::cast_precision_loss, reason = "a metric is a floating-point number")]
fn bytes(count: u64) -> f64 {
    count as f64
}

fn amount(money: Money) -> f64 {
    number(money).as_f64().unwrap_or(f64::NAN)
}

#[expect(clippy::cast_precision_loss, reason = "a metric is a floating-point number")]
fn count(count: usize) -> f64 {
    count as f64
}

/// The values of a file that this program has written; other lines are passed over.
fn known_values(text: &str) -> BTreeMap<String, f64> {
    let value = |line: &str| {
        let (name, value) = line.rsplit_once(' ')?;
        Some((name.to_owned(), value.parse().ok()?)).filter(|(name, _)| name.starts_with(PREFIX))
    };
    text.lines().filter_map(value).collect()
}

fn text_of(values: &BTreeMap<String, f64>) -> String {
    let mut text = String::new();
    let mut last = "";
    for (name, value) in values {
        let metric = name.split_once('{').map_or(name.as_str(), |(metric, _)| metric);
        if metric != last {
            writeln!(text, "# TYPE {metric} gauge").expect("a string takes everything");
            last = metric;
        }
        writeln!(text, "{name} {value}").expect("a string takes everything");
    }
    text
}

/// What is said at the end for people: all subvolumes together.
pub(super) fn total_line(report: &RunReport) -> Option<String> {
    let sent: Vec<&SubvolumeReport> = report.subvolumes.iter().filter(|one| one.id.is_some()).collect();
    let sum = |of: fn(&SubvolumeReport) -> u64| sent.iter().map(|one| of(one)).sum::<u64>();
    let unchanged = sent.iter().filter(|one| one.outcome == BackupKind::Unchanged.to_string()).count();
    let (stream, new, stored) = (sum(|one| one.stream_bytes), sum(|one| one.new_bytes), sum(|one| one.stored_bytes));
    let size = |bytes| crate::size::ByteSize::from_bytes(bytes).to_string();
    // Of next to nothing, what is noted of each backup is the larger part.
    let ratio = if stream > stored { format!(" (1:{:.1})", bytes(stream) / bytes(stored)) } else { String::new() };
    let with = report.requests.map_or(String::new(), |requests| format!(", with {} requests", requests.total()));
    let cost = report.cost.as_ref().map_or(String::new(), |CostReport { currency, requests, month }| {
        format!(": {requests} {currency} for these, and {month} {currency} a month for what was stored")
    });
    let took = format!("in {:.1} s{with}{cost}", report.seconds);
    match sent.len() {
        0 => None,
        1 => Some(format!("done {took}")),
        backups => Some(format!(
            "{backups} backups, {unchanged} of them unchanged: {} of stream, {} new, {} stored{ratio}, {took}",
            size(stream),
            size(new),
            size(stored),
        )),
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    fn report(result: &anyhow::Result<()>, problems: &[&str]) -> RunReport {
        let outcome =
            |name: &str, result| Outcome { subvolume: name.to_owned(), result, took: SignedDuration::from_secs(2) };
        let decision = crate::schedule::Decision {
            due: crate::schedule::Due::Nothing,
            reason: "later".to_owned(),
            next_due_at: None,
            is_overdue: false,
        };
        let outcomes =
            [outcome("home", Ok(Done::NotDue(decision))), outcome("data", Err(anyhow::anyhow!("no \"room\"")))];
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut report = RunReport::new(at(1_000), at(1_010), outcomes.iter().map(SubvolumeReport::new).collect());
        report.end(result, problems.iter().map(|text| (*text).to_owned()).collect());
        report
    }

    fn failed() -> anyhow::Result<()> {
        Err(anyhow::anyhow!("it failed"))
    }

    #[test]
    fn hooks_are_told_of_problems_where_nothing_has_failed_and_of_no_more_than_fits() {
        let told = |result: &anyhow::Result<()>, problems: &[&str]| {
            let facts = report(result, problems).facts();
            facts.into_iter().find(|(name, _)| *name == "BTRFS_TO_S3_ERROR").unwrap().1
        };
        assert_eq!(told(&Ok(()), &[]), "");
        assert_eq!(told(&Ok(()), &["one", "two"]), "one; two");
        assert_eq!(told(&failed(), &["one"]), "it failed");
        let long = "x".repeat(TOLD_BYTES_MAX - 3);
        assert_eq!(told(&Ok(()), &["a", "one", &long, "two"]), format!("2 more before; {long}; two"));
    }

    #[test]
    fn a_run_is_a_success_only_without_failures_and_problems() {
        for (result, problems, expected) in [
            (Ok(()), &[][..], ("success", 0)),
            (Ok(()), &["odd"], ("problems", 3)),
            (failed(), &[], ("failed", 1)),
            (failed(), &["odd"], ("failed", 1)),
            (Err(crate::backup::Interrupted("SIGTERM").into()), &[], ("interrupted", 130)),
        ] {
            let report = report(&result, problems);
            assert_eq!((report.result, report.exit_code), expected);
            let metrics = report.metrics("");
            assert!(metrics.contains(&format!("\nbtrfs_to_s3_last_run_exit_code {}\n", expected.1)), "{metrics}");
            assert_eq!(metrics.contains("last_success"), expected.1 == 0, "{metrics}");
            let facts = report.facts();
            assert!(facts.contains(&("BTRFS_TO_S3_RESULT", expected.0.to_owned())), "{facts:?}");
            assert!(facts.contains(&("BTRFS_TO_S3_SUBVOLUMES_FAILED", "data".to_owned())), "{facts:?}");
        }
    }

    #[test]
    fn a_ratio_is_told_where_there_is_one() {
        let mut report = report(&Ok(()), &[]);
        for (stream_bytes, stored_bytes, expected) in [
            (4000 << 20, 500 << 20, "7.81 GiB of stream, 0 B new, 1000 MiB stored (1:8.0), in"),
            (0, 800, "1.56 KiB stored, in"),
        ] {
            for one in &mut report.subvolumes {
                *one = SubvolumeReport {
                    id: Some("1".to_owned()),
                    stream_bytes,
                    stored_bytes,
                    ..SubvolumeReport::empty("", 0.0)
                };
            }
            let line = total_line(&report).unwrap();
            assert!(line.contains(expected), "{line}");
        }
    }

    #[test]
    fn what_a_failed_run_does_not_know_stays_as_it_was() {
        let before = "# TYPE x gauge\nbtrfs_to_s3_last_success_timestamp_seconds 500\n\
                      btrfs_to_s3_subvolume_last_backup_timestamp_seconds{subvolume=\"data\"} 490\nother 7\nbad line\n";
        let metrics = report(&failed(), &[]).metrics(before);
        let expected = "\
# TYPE btrfs_to_s3_last_failure_timestamp_seconds gauge
btrfs_to_s3_last_failure_timestamp_seconds 1010
# TYPE btrfs_to_s3_last_run_duration_seconds gauge
btrfs_to_s3_last_run_duration_seconds 10
# TYPE btrfs_to_s3_last_run_exit_code gauge
btrfs_to_s3_last_run_exit_code 1
# TYPE btrfs_to_s3_last_run_problems gauge
btrfs_to_s3_last_run_problems 0
# TYPE btrfs_to_s3_last_run_timestamp_seconds gauge
btrfs_to_s3_last_run_timestamp_seconds 1010
# TYPE btrfs_to_s3_last_success_timestamp_seconds gauge
btrfs_to_s3_last_success_timestamp_seconds 500
# TYPE btrfs_to_s3_subvolume_failed gauge
btrfs_to_s3_subvolume_failed{subvolume=\"data\"} 1
btrfs_to_s3_subvolume_failed{subvolume=\"home\"} 0
# TYPE btrfs_to_s3_subvolume_last_backup_timestamp_seconds gauge
btrfs_to_s3_subvolume_last_backup_timestamp_seconds{subvolume=\"data\"} 490
# TYPE btrfs_to_s3_subvolume_last_failure_timestamp_seconds gauge
btrfs_to_s3_subvolume_last_failure_timestamp_seconds{subvolume=\"data\"} 1010
";
        assert_eq!(metrics, expected);
        assert_eq!(report(&failed(), &[]).metrics(&metrics), metrics);
    }
}
