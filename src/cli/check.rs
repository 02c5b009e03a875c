//! `check`

use serde_json::{Value, json};

use crate::check::report::{Affected, Finding, Report, Severity};
use crate::check::subset::Subset;
use crate::check::{CheckOptions, check, remember};
use crate::cli::context::Context;
use crate::cli::output;
use crate::monitor::Monitor;
use crate::repository::{Damage, Repository};
use crate::size::ByteSize;

/// Looks whether everything is there that backups need
///
/// Without options, objects are compared with each other and the trees of all backups are gone through. To know that the
/// data itself is still right, packs have to be read. What was found is kept in notes, for later checks and for backups.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(crate) struct CheckArguments {
    /// Reads all packs, and checks every chunk in them
    #[arg(long, conflicts_with = "read_data_subset")]
    read_data: bool,
    /// Reads some packs: a part such as 1/30; a share such as 5%, or a size such as 10GiB, going on where the last such check
    /// has stopped
    #[arg(long, value_name = "SUBSET")]
    read_data_subset: Option<Subset>,
    /// Compares the checksum that the server has kept of each pack since it was stored with the index, without reading the
    /// pack, archived or not. Finds packs that are lost or were replaced, not bits that have flipped since
    #[arg(long)]
    checksums: bool,
    /// Writes nothing to the repository
    #[arg(long)]
    no_notes: bool,
    /// Prints JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn cmd_check(context: &Context, arguments: &CheckArguments) -> anyhow::Result<()> {
    let repository = context.repository().await?;
    let began_at = context.clock.now();
    let data = if arguments.read_data { Some(Subset::All) } else { arguments.read_data_subset };
    let checksums = arguments.checksums;
    let options = CheckOptions { data, checksums, ..CheckOptions::new(context.scratch_directory()) };
    let report = check(&repository, &options, &context.monitor()).await?;
    if !arguments.no_notes {
        let seconds = context.clock.now().duration_since(began_at).as_secs();
        note(context, &repository, &report, u64::try_from(seconds).unwrap_or(0)).await;
    }
    context.progress.finish();
    let printed = if arguments.json { output::json(&as_json(&report)) } else { print(&report) };
    printed?;
    verdict(context, &repository, &report)
}

/// Nothing hangs on the notes: who may only read can check as well.
async fn note(context: &Context, repository: &Repository, report: &Report, seconds: u64) {
    let host = context.host(repository).name;
    if let Err(error) = remember(repository, &host, report, seconds).await {
        context.progress.warn(&format!("what was found cannot be noted in the repository: {error:#}"));
    }
}

/// Damage is an error; flaws end the command as problems do.
fn verdict(context: &Context, repository: &Repository, report: &Report) -> anyhow::Result<()> {
    if report.has_damage() {
        let object = repository.store().url().to_owned();
        let reason = match report.affected.len() {
            0 => "something that backups may need is lost".to_owned(),
            1 => "1 backup does not restore".to_owned(),
            count => format!("{count} backups do not restore"),
        };
        return Err(Damage { object, reason }.into());
    }
    if !report.findings.is_empty() {
        let flaws = output::counted(report.findings.len() as u64, "flaw");
        let text = format!("{flaws}, by which nothing is lost: `btrfs_to_s3 repair` may help");
        context.progress.problem(&text);
    }
    if report.counts.packs_archived > 0 {
        context.progress.problem(&format!("{} packs are archived and were not read", report.counts.packs_archived));
    }
    if report.counts.checksums_not_kept > 0 {
        let count = report.counts.checksums_not_kept;
        context.progress.problem(&format!(
            "of {count} packs the store keeps no checksum: only their lengths were compared; --read-data reads them"
        ));
    }
    Ok(())
}

fn print(report: &Report) -> anyhow::Result<()> {
    for Finding { severity, invariant, object, reason } in &report.findings {
        let what = match severity {
            Severity::Flaw => "flaw",
            Severity::Damage => "damage",
        };
        output::line(&format!("{what}: {object}: {reason} [{invariant}]"))?;
    }
    for Affected { id, host, subvolume, reason, .. } in &report.affected {
        output::line(&format!("does not restore: backup {id} of '{subvolume}' of host {host}: {reason}"))?;
    }
    let counts = &report.counts;
    output::line(&format!(
        "{}, {}, {} ({} in use by none), {}, {}",
        output::counted(counts.backups, "backup"),
        output::counted(counts.nodes, "tree node"),
        output::counted(counts.packs, "pack"),
        counts.packs_unused,
        output::counted(counts.segments, "index segment"),
        output::counted(counts.sessions, "session")
    ))?;
    if counts.packs_read > 0 {
        output::line(&format!(
            "read {}, {}",
            output::counted(counts.packs_read, "pack"),
            ByteSize::from_bytes(counts.bytes_read)
        ))?;
    }
    if counts.checksums_compared > 0 {
        let count = counts.checksums_compared;
        output::line(&format!(
            "{count} packs are those that were stored, by the server's checksums; bits that have flipped since do not show"
        ))?;
    }
    if report.findings.is_empty() && report.affected.is_empty() { output::line("no damage") } else { Ok(()) }
}

fn as_json(report: &Report) -> Value {
    let counts = &report.counts;
    json!({
        "damaged": report.has_damage(),
        "findings": report.findings.iter().map(|finding| json!({
            "severity": if finding.severity == Severity::Damage { "damage" } else { "flaw" },
            "invariant": finding.invariant,
            "object": finding.object,
            "reason": finding.reason,
        })).collect::<Vec<_>>(),
        "affected": report.affected.iter().map(|affected| json!({
            "id": affected.id.to_string(),
            "host": affected.host,
            "subvolume": affected.subvolume,
            "reason": affected.reason,
            "own": affected.is_own,
        })).collect::<Vec<_>>(),
        "sessions": counts.sessions,
        "segments": counts.segments,
        "packs": counts.packs,
        "packs_unused": counts.packs_unused,
        "backups": counts.backups,
        "nodes": counts.nodes,
        "packs_read": counts.packs_read,
        "bytes_read": counts.bytes_read,
        "packs_archived": counts.packs_archived,
        "checksums_compared": counts.checksums_compared,
        "checksums_not_kept": counts.checksums_not_kept,
    })
}
