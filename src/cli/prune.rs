//! `prune`

mod telling;

use std::time::Duration;

use anyhow::Context as _;
use jiff::SignedDuration;
use serde::Serialize;
use serde_json::Value;

use crate::cli::backup::backup_options;
use crate::cli::context::Context;
use crate::cli::limits::require_memory_for_backup;
use crate::cli::output;
use crate::cli::prune::telling::{
    Cost, cost_json, cost_line, kept_json, kept_lines, merge_json, merge_line, repack_json, repack_line,
};
use crate::lock::HostLock;
use crate::monitor::Monitor;
use crate::prune::{MaxUnused, PruneOptions, PruneReport, RepackOptions, Voiding, WaitedFor, prune};
use crate::size::{ByteSize, parse_duration};

/// Deletes what no backup needs any more
///
/// Backups that were forgotten go when their grace period is over, and with them what nothing else needs, what killed runs
/// have left, and sessions that nobody goes on with. Packs of which much is unused are rewritten (`--max-unused`), and small
/// ones merged, as are index segments. Archived packs are not read, and none is deleted that has to be paid for all the same. Runs may go on
/// meanwhile; what they need stays. If some began before this prune, it waits for them to end: then it says so, and the next
/// prune does the rest.
#[derive(Debug, clap::Args)]
pub(crate) struct PruneArguments {
    /// Says what would be deleted, and changes nothing
    #[arg(long)]
    dry_run: bool,
    /// How long a forgotten backup stays, such as `7d` or `12h`
    #[arg(long, value_name = "DURATION", default_value = "7d", value_parser = parse_duration)]
    grace: Duration,
    /// Rewrites packs until no more than this is unused: a share such as `5%`, a size, `0`, or `unlimited`
    #[arg(long, value_name = "LIMIT", default_value = "5%")]
    max_unused: MaxUnused,
    /// Rewrites no more than so many bytes of packs
    #[arg(long, value_name = "SIZE")]
    max_repack: Option<ByteSize>,
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
    repack: Value,
    merge: Value,
    kept: Value,
    cost: Value,
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
    let options =
        PruneOptions { grace, voiding, dry_run: arguments.dry_run, repack: repack_options(context, arguments) };
    if !arguments.dry_run && arguments.max_unused != MaxUnused::Unlimited {
        require_memory_for_backup(&backup_options(context), 1)?;
    }
    let report = prune(&repository, &context.host(&repository), &options, &context.monitor()).await?;
    let cost = (!context.is_local()?).then(|| Cost::new(context, &report));
    for class in cost.iter().flat_map(|cost| &cost.amounts.unknown_classes) {
        context.progress.warn(&format!("there are no prices of class {class}: add them to [prices]"));
    }
    context.progress.finish();
    if arguments.json {
        output::json(&shown(&report, cost.as_ref(), arguments))
    } else {
        print(&report, cost.as_ref(), arguments)
    }
}

fn repack_options(context: &Context, arguments: &PruneArguments) -> RepackOptions {
    let minimum = context.config.prices.classes.iter().map(|(class, prices)| (class.clone(), prices.minimum_days));
    RepackOptions {
        max_unused: arguments.max_unused,
        max_repack_bytes: arguments.max_repack.map(ByteSize::bytes),
        minimum_days: minimum.collect(),
        pack_target_bytes: usize::try_from(context.config.packing.pack_target.bytes()).unwrap_or(usize::MAX),
        compression_level: i32::try_from(context.config.packing.compression_level).unwrap_or(i32::MAX),
        ..RepackOptions::default()
    }
}

fn shown(report: &PruneReport, cost: Option<&Cost<'_>>, arguments: &PruneArguments) -> Shown {
    Shown {
        dry_run: arguments.dry_run,
        complete: report.waits_for.is_empty(),
        manifests: report.deleted.manifests,
        segments: report.deleted.segments,
        packs: report.deleted.packs,
        pack_bytes: report.deleted.pack_bytes,
        voided_sessions: report.voided,
        waits_for: report.waits_for.iter().map(ShownSession::from).collect(),
        repack: repack_json(&report.repacked),
        merge: merge_json(&report.merged),
        kept: kept_json(&report.kept),
        cost: cost.map_or(Value::Null, cost_json),
    }
}

fn print(report: &PruneReport, cost: Option<&Cost<'_>>, arguments: &PruneArguments) -> anyhow::Result<()> {
    let deleted = &report.deleted;
    if report.voided > 0 {
        output::line(&format!("gave up {} sessions that were not heard of for 30 days", report.voided))?;
    }
    if let Some(line) = repack_line(&report.repacked, arguments.dry_run) {
        output::line(&line)?;
    }
    if let Some(line) = merge_line(&report.merged, arguments.dry_run) {
        output::line(&line)?;
    }
    let verb = if arguments.dry_run { "would delete" } else { "deleted" };
    output::line(&format!(
        "{verb} {}, {} of {} and {}",
        output::counted(deleted.manifests as u64, "manifest"),
        output::counted(deleted.packs as u64, "pack"),
        ByteSize::from_bytes(deleted.pack_bytes),
        output::counted(deleted.segments as u64, "index segment")
    ))?;
    let has_cost = deleted.packs > 0 || report.repacked.all_packs().objects > 0;
    for line in kept_lines(&report.kept).into_iter().chain(cost.filter(|_| has_cost).map(cost_line)) {
        output::line(&line)?;
    }
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
