//! `prune`

use std::time::Duration;

use anyhow::Context as _;
use jiff::SignedDuration;
use serde::Serialize;

use crate::cli::context::Context;
use crate::cli::output;
use crate::lock::HostLock;
use crate::prune::{PruneOptions, PruneReport, Voiding, WaitedFor, prune};
use crate::size::{ByteSize, parse_duration};

/// Deletes what no backup needs any more
///
/// Backups that were forgotten go when their grace period is over, and with them what nothing else needs, what killed runs
/// have left, and sessions that nobody goes on with. Runs may go on meanwhile; what they need stays. If some began before
/// this prune, it waits for them to end: then it says so, and the next prune does the rest.
#[derive(Debug, clap::Args)]
pub(crate) struct PruneArguments {
    /// Says what would be deleted, and changes nothing
    #[arg(long)]
    dry_run: bool,
    /// How long a forgotten backup stays, such as `7d` or `12h`
    #[arg(long, value_name = "DURATION", default_value = "7d", value_parser = parse_duration)]
    grace: Duration,
    /// Gives up sessions not heard of for 30 days, also on a server without conditional PUTs: only if they are dead
    #[arg(long, conflicts_with = "dry_run")]
    void_dead_sessions: bool,
    /// Prints JSON
    #[arg(long)]
    json: bool,
}

/// A prune as `--json` shows it.
#[derive(Debug, Serialize)]
struct Shown {
    dry_run: bool,
    complete: bool,
    manifests: usize,
    segments: usize,
    packs: usize,
    pack_bytes: u64,
    voided_sessions: usize,
    waits_for: Vec<ShownSession>,
}

#[derive(Debug, Serialize)]
struct ShownSession {
    session: String,
    host: Option<String>,
    subvolume: Option<String>,
    since: String,
    newest_at: String,
}

impl From<&WaitedFor> for ShownSession {
    fn from(session: &WaitedFor) -> Self {
        Self {
            session: session.session.to_string(),
            host: session.host.clone(),
            subvolume: session.subvolume.clone(),
            since: session.since.to_string(),
            newest_at: session.newest_at.to_string(),
        }
    }
}

pub(crate) async fn cmd_prune(context: &Context, arguments: &PruneArguments) -> anyhow::Result<()> {
    // It uses the local index, which one process at a time may change.
    let _lock = HostLock::acquire(&context.config.lock_path, context.clock.as_ref())?;
    let repository = context.repository().await?;
    let voiding = match (arguments.void_dead_sessions, context.config.s3.conditional_put) {
        (true, _) => Voiding::Always,
        (false, true) => Voiding::IfSafe,
        // Looking before each PUT makes such a server seem safe, which it is not.
        (false, false) => Voiding::Never,
    };
    let grace = SignedDuration::try_from(arguments.grace).context("--grace")?;
    let options = PruneOptions { grace, voiding, dry_run: arguments.dry_run };
    let report = prune(&repository, &context.host(&repository), &options, &context.monitor()).await?;
    if arguments.json { output::json(&shown(&report, arguments)) } else { print(&report, arguments) }
}

fn shown(report: &PruneReport, arguments: &PruneArguments) -> Shown {
    Shown {
        dry_run: arguments.dry_run,
        complete: report.waits_for.is_empty(),
        manifests: report.deleted.manifests,
        segments: report.deleted.segments,
        packs: report.deleted.packs,
        pack_bytes: report.deleted.pack_bytes,
        voided_sessions: report.voided,
        waits_for: report.waits_for.iter().map(ShownSession::from).collect(),
    }
}

fn print(report: &PruneReport, arguments: &PruneArguments) -> anyhow::Result<()> {
    let deleted = &report.deleted;
    if report.voided > 0 {
        output::line(&format!("gave up {} sessions that were not heard of for 30 days", report.voided))?;
    }
    let verb = if arguments.dry_run { "would delete" } else { "deleted" };
    output::line(&format!(
        "{verb} {}, {} of {} and {}",
        output::counted(deleted.manifests as u64, "manifest"),
        output::counted(deleted.packs as u64, "pack"),
        ByteSize::from_bytes(deleted.pack_bytes),
        output::counted(deleted.segments as u64, "index segment")
    ))?;
    for session in &report.waits_for {
        output::line(&format!(
            "waits for session {} of {}{}, open since {}, last heard of at {}",
            session.session,
            session.host.as_deref().unwrap_or("an unknown host"),
            session.subvolume.as_ref().map_or(String::new(), |name| format!(" ('{name}')")),
            session.since,
            session.newest_at
        ))?;
    }
    if !report.waits_for.is_empty() {
        output::line("the rest is planned and is deleted by the next prune, when these have ended")?;
    }
    Ok(())
}
