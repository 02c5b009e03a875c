//! `rehearse`

use std::path::PathBuf;

use jiff::Timestamp;
use serde::Serialize;

use crate::check::subset::Subset;
use crate::cli::context::{Context, search_path};
use crate::cli::limits::require_memory_for_restore;
use crate::cli::output;
use crate::cli::thaw::ThawArguments;
use crate::id::ManifestId;
use crate::job::{ArchivedPacks, Rehearsal, Rehearsed, rehearse};
use crate::monitor::Monitor;
use crate::records::manifest::BackupKind;
use crate::records::note::{RehearsalMethod, Subject, TrialOutcome, TrialResult};
use crate::repository::catalog::{
    Catalog, Published, check_not_forgotten, find_manifest, read_chain, read_manifest, read_streamed,
};
use crate::repository::notes::{Said, put_note};
use crate::repository::{Damage, Repository};
use crate::restore::{DataListing, NotThawed};
use crate::size::ByteSize;

/// Rehearses the restore of the newest backup of each subvolume, and writes down in the repository how it went
///
/// Of the configured subvolumes of this host, or of all there are where none is configured. All streams are rebuilt and checked,
/// unless told otherwise; nothing is left of it on this host.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own")]
pub(crate) struct RehearseArguments {
    /// Of this subvolume only
    #[arg(long, value_name = "NAME")]
    subvolume: Option<String>,
    /// Of this host, whatever is configured
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    /// This backup; its id, or as much of it as no other id begins with
    #[arg(long, value_name = "ID", conflicts_with_all = ["subvolume", "host"])]
    id: Option<String>,
    /// Rebuilds all streams of the chain and checks them: the default
    #[arg(long, conflicts_with_all = ["sample", "receive"])]
    whole: bool,
    /// Reads all metadata, and a share of the packs of file data such as 5% or 10GiB, others each time
    #[arg(long, value_name = "SHARE", value_parser = parse_share, conflicts_with = "receive")]
    sample: Option<Subset>,
    /// Receives all streams into a Btrfs in a file, which is deleted afterwards; needs root
    #[arg(long)]
    receive: bool,
    /// With --receive: where that file is; default: the state directory
    #[arg(long, value_name = "DIR", requires = "receive")]
    directory: Option<PathBuf>,
    /// Has archived packs thawed, by the rules of a restore. Without it, what needs them is left out (exit code 6)
    #[arg(long)]
    thaw: bool,
    /// Writes nothing to the repository
    #[arg(long)]
    no_notes: bool,
    /// Prints JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    thaw_options: ThawArguments,
}

impl RehearseArguments {
    /// Whether a file system will be mounted.
    pub(crate) fn mounts(&self) -> bool {
        self.receive
    }
}

fn parse_share(text: &str) -> Result<Subset, String> {
    match text.parse() {
        Ok(share @ (Subset::Share(_) | Subset::Bytes(_))) => Ok(share),
        _ => Err("a share is a percentage such as 5%, or a size such as 10GiB".to_owned()),
    }
}

/// What became of one backup, as `rehearse --json` shows it.
#[derive(Debug, Serialize)]
struct Report {
    id: String,
    host: String,
    subvolume: String,
    created_at: Timestamp,
    method: &'static str,
    outcome: &'static str,
    reason: String,
    streams: u64,
    packs: u64,
    bytes: u64,
    seconds: u64,
    noted: bool,
}

/// What `rehearse --json` shows.
#[derive(Debug, Serialize)]
struct Reports<'a> {
    schema: u32,
    rehearsals: &'a [Report],
}

pub(crate) async fn cmd_rehearse(context: &Context, arguments: &RehearseArguments) -> anyhow::Result<()> {
    require_memory_for_restore()?;
    let repository = context.repository().await?;
    let backups = choose(context, &repository, arguments).await?;
    let rehearsal = rehearsal(context, arguments);
    let (mut reports, mut errors) = (Vec::new(), Vec::new());
    for backup in &backups {
        let begun_at = context.clock.now();
        let result = rehearse_one(context, &repository, backup, &rehearsal, arguments).await;
        let seconds = u64::try_from(context.clock.now().duration_since(begun_at).as_secs()).unwrap_or(0);
        let mut report = report(backup, rehearsal.method(), &result, seconds);
        if !arguments.no_notes && !matches!(report.outcome, "archived" | "skipped") {
            report.noted = note(context, &repository, backup, rehearsal.method(), &report).await;
        }
        reports.push(report);
        errors.extend(result.err().filter(|error| !error.is::<NotReceivable>()));
    }
    context.progress.finish();
    if arguments.json {
        output::json(&Reports { schema: 1, rehearsals: &reports })?;
    } else {
        output::text(&reports.iter().map(text_of).collect::<String>())?;
    }
    let is_tried = |report: &Report| report.outcome != "skipped";
    anyhow::ensure!(reports.iter().any(is_tried), "nothing was rehearsed: --receive is for backups of subvolumes");
    worst(errors).map_or(Ok(()), Err)
}

fn rehearsal(context: &Context, arguments: &RehearseArguments) -> Rehearsal {
    match arguments.sample {
        Some(share) => Rehearsal::Sample(share),
        None if arguments.receive => {
            let directory = arguments.directory.clone();
            let directory = directory.unwrap_or_else(|| context.config.state_dir.join("rehearsals"));
            Rehearsal::Receive { directory, search_path: search_path() }
        }
        None => Rehearsal::Whole,
    }
}

/// The newest backup of each subvolume that is meant, or the one that is named.
async fn choose(
    context: &Context,
    repository: &Repository,
    arguments: &RehearseArguments,
) -> anyhow::Result<Vec<Published>> {
    if let Some(prefix) = &arguments.id {
        let id = find_manifest(repository, prefix).await?;
        check_not_forgotten(repository, id).await?;
        return Ok(vec![read_manifest(repository, id).await?]);
    }
    let catalog = Catalog::load(repository, &context.record_cache(repository)).await?;
    for error in &catalog.damaged {
        context.progress.problem(&format!("{error:#}"));
    }
    let configured: Vec<&str> = context.config.subvolumes.iter().map(|subvolume| subvolume.name.as_str()).collect();
    let is_asked_for = arguments.subvolume.is_some() || arguments.host.is_some();
    let own_host = context.host(repository).name;
    let is_meant = |backup: &&Published| {
        let (host, name) = (&backup.manifest.host, &backup.manifest.subvolume);
        if is_asked_for || configured.is_empty() {
            return arguments.subvolume.as_ref().is_none_or(|wanted| name == wanted)
                && arguments.host.as_ref().is_none_or(|wanted| host == wanted);
        }
        *host == own_host && configured.contains(&name.as_str())
    };
    let mut newest: std::collections::BTreeMap<(&str, &str), &Published> = std::collections::BTreeMap::new();
    for backup in catalog.published.iter().filter(is_meant) {
        newest.insert((&backup.manifest.host, &backup.manifest.subvolume), backup);
    }
    if newest.is_empty() {
        return Err(anyhow::anyhow!("there is no backup to rehearse: `btrfs_to_s3 list` shows what there is"));
    }
    Ok(newest.into_values().cloned().collect())
}

async fn rehearse_one(
    context: &Context,
    repository: &Repository,
    backup: &Published,
    rehearsal: &Rehearsal,
    arguments: &RehearseArguments,
) -> anyhow::Result<Rehearsed> {
    let chain = if backup.manifest.kind == BackupKind::Opaque {
        if arguments.receive {
            return Err(NotReceivable(backup.id()).into());
        }
        vec![read_streamed(repository, backup.clone()).await?]
    } else {
        read_chain(repository, backup.id()).await?
    };
    let options = if arguments.thaw {
        let listing = DataListing::of(repository).await?;
        arguments.thaw_options.begin(context, repository, &chain, &listing).await?
    } else {
        context.restore_options()
    };
    if let Some(thawing) = &options.thawing {
        thawing.wait_for_all().await?;
    }
    rehearse(repository, &chain, rehearsal, &options, &context.monitor()).await
}

/// Whether it is for archived packs that a backup could not be tried.
fn is_archived(error: &anyhow::Error) -> bool {
    crate::store::is_archived(error)
        || error.chain().any(|cause| cause.is::<ArchivedPacks>() || cause.is::<NotThawed>())
}

/// A backup that no subvolume comes of.
#[derive(Debug, thiserror::Error)]
#[error("backup {0} is a stream that was kept, and no subvolume: --receive passes it over, --whole does not")]
struct NotReceivable(ManifestId);

/// A word for what came of it; nothing is known of a backup that could not be tried.
fn outcome_of(result: &anyhow::Result<Rehearsed>) -> &'static str {
    match result {
        Ok(_) => "good",
        Err(error) if error.is::<NotReceivable>() => "skipped",
        Err(error) if is_archived(error) => "archived",
        Err(error) if error.chain().any(<dyn std::error::Error>::is::<Damage>) => "damaged",
        Err(_) => "failed",
    }
}

fn report(backup: &Published, method: RehearsalMethod, result: &anyhow::Result<Rehearsed>, seconds: u64) -> Report {
    let done = result.as_ref().copied().unwrap_or_default();
    Report {
        id: backup.id().to_string(),
        host: backup.manifest.host.clone(),
        subvolume: backup.manifest.subvolume.clone(),
        created_at: backup.manifest.created_at,
        method: method.as_str(),
        outcome: outcome_of(result),
        reason: result.as_ref().err().map(|error| format!("{error:#}")).unwrap_or_default(),
        streams: done.streams,
        packs: done.packs,
        bytes: done.bytes,
        seconds,
        noted: false,
    }
}

/// Writes down what came of it. Who may only read can rehearse as well. Says whether it is written down.
async fn note(
    context: &Context,
    repository: &Repository,
    backup: &Published,
    method: RehearsalMethod,
    report: &Report,
) -> bool {
    let outcome = match report.outcome {
        "good" => TrialOutcome::Good,
        "damaged" => TrialOutcome::Damaged,
        _ => TrialOutcome::Failed,
    };
    let (reason, method) = (report.reason.clone(), Some(method));
    let result = TrialResult { outcome, reason, bytes: report.bytes, seconds: report.seconds, packs: None, method };
    let subject = Subject { host: backup.manifest.host.clone(), subvolume: backup.manifest.subvolume.clone() };
    let host = context.host(repository).name;
    match put_note(repository, Some(backup.id()), &host, Said::Rehearsal(result, subject)).await {
        Ok(_) => true,
        Err(error) => {
            context.progress.warn(&format!("how it went cannot be noted in the repository: {error:#}"));
            false
        }
    }
}

fn text_of(report: &Report) -> String {
    let Report { id, subvolume, host, method, outcome, seconds, streams, packs, .. } = report;
    let what = match method {
        &"sample" => output::counted(*packs, "pack"),
        _ => output::counted(*streams, "stream"),
    };
    let size = ByteSize::from_bytes(report.bytes);
    match *outcome {
        "good" => format!("'{subvolume}' of {host}: backup {id}: good ({method}: {what}, {size}, {seconds} s)\n"),
        _ => format!("'{subvolume}' of {host}: backup {id}: {outcome} ({method}): {}\n", report.reason),
    }
}

/// The error that decides how the command ends: damage before anything else, archived packs last.
fn worst(errors: Vec<anyhow::Error>) -> Option<anyhow::Error> {
    errors.into_iter().min_by_key(|error| {
        let any = |test: fn(&(dyn std::error::Error + 'static)) -> bool| error.chain().any(test);
        if any(<dyn std::error::Error>::is::<Damage>) {
            0
        } else if is_archived(error) {
            2
        } else {
            1
        }
    })
}
