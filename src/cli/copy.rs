//! `copy`

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::backup::Host;
use crate::cli::backup::backup_options;
use crate::cli::context::Context;
use crate::cli::exit::UsageError;
use crate::cli::init::make_repository;
use crate::cli::limits::require_memory_for_copy;
use crate::cli::output;
use crate::cli::thaw::ThawArguments;
use crate::copy::{
    ArchivedSource, CopyPlan, CopyReport, Copying, Missing, Refused, Skipped, SkippedAs, Wanted, check_destination,
    copy_backups, find_archived, find_missing, plan_copy,
};
use crate::id::ManifestId;
use crate::lock::HostLock;
use crate::repository::cache::RecordCache;
use crate::repository::catalog::find_manifest;
use crate::repository::scratch::ScratchFolder;
use crate::repository::{Damage, Repository, layout};
use crate::restore::RestoreOptions;
use crate::size::ByteSize;
use crate::store::memory::MemoryStore;

/// Copies backups into another repository, without what that has already
///
/// Without ids: all that count, and are not there yet. A backup comes after all it was made against. May be ended at any
/// time: what was copied is not copied again.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own")]
#[command(group(clap::ArgGroup::new("destination").required(true).multiple(true).args(["to", "to_config"])))]
pub(crate) struct CopyArguments {
    /// The backups' ids, or as much of each as no other id begins with
    #[arg(conflicts_with_all = ["host", "subvolume", "since"])]
    ids: Vec<String>,
    /// The repository to copy into, such as `s3://other-bucket/prefix`
    #[arg(long, value_name = "URL")]
    to: Option<String>,
    /// Configuration of the repository to copy into: its URL, `[s3]`, `[packing]`, state and lock
    #[arg(long, value_name = "FILE")]
    to_config: Option<PathBuf>,
    /// Makes the repository to copy into, if there is none, with the source's parameters
    #[arg(long)]
    init: bool,
    /// Copies backups of this host only
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    /// Copies backups of this subvolume only
    #[arg(long, value_name = "NAME")]
    subvolume: Option<String>,
    /// Copies backups only that show this time or a later one (RFC 3339, such as 2026-01-31T04:00:00Z), and what they need
    #[arg(long, value_name = "TIME")]
    since: Option<Timestamp>,
    /// Says what would be copied, and changes nothing
    #[arg(long)]
    dry_run: bool,
    /// Prints JSON
    #[arg(long)]
    json: bool,
    /// Has packs thawed that are archived and have to be read; without it, nothing is copied then
    #[arg(long, help_heading = "Archived objects")]
    thaw: bool,
    #[command(flatten)]
    thawing: ThawArguments,
}

pub(crate) async fn cmd_copy(context: &Context, arguments: &CopyArguments) -> anyhow::Result<()> {
    let to = context.of_other(arguments.to_config.as_deref(), arguments.to.as_ref())?;
    require_memory_for_copy(&backup_options(&to))?;
    let _lock = HostLock::acquire(&to.config.lock_path, context.clock.as_ref())?;
    let source = context.repository().await?;
    if arguments.init && arguments.dry_run && !to.has_repository().await? {
        return tell_first_copy(context, &to, source, arguments).await;
    }
    let destination = open_destination(&to, &source, arguments.init).await?;
    check_destination(&source, &destination).map_err(|error| UsageError(format!("{error:#}")))?;
    let copying = Copying {
        source_cache: context.record_cache(&source),
        reading: RestoreOptions::new(context.scratch_directory()),
        host: to.host(&destination),
        writing: backup_options(&to),
        interruption: context.interruption.clone(),
        source,
        destination,
    };
    let plan = plan_copy(&copying, &wanted(&copying.source, arguments).await?).await?;
    if arguments.dry_run {
        let missing = Box::pin(find_missing(&copying, &plan, &context.monitor())).await?;
        let destination = copying.destination.store().url();
        return tell_plan(context, &copying, (destination, Makes::Nothing), &plan, &missing, arguments.json);
    }
    see_to_archived(context, &copying, &plan, arguments).await?;
    context.progress.expect(plan.steps.iter().map(|backup| backup.manifest.stream.bytes).sum());
    let report = Box::pin(copy_backups(&copying, plan, &context.monitor())).await;
    context.progress.finish();
    tell(&copying, &report, arguments.json)?;
    verdict(&copying, report)
}

/// Says what would be copied into a repository that would be made before. An empty one in memory takes its place.
async fn tell_first_copy(
    context: &Context,
    to: &Context,
    source: Repository,
    arguments: &CopyArguments,
) -> anyhow::Result<()> {
    let memory = Arc::new(MemoryStore::new(Arc::clone(&to.clock)));
    let parameters = *source.config().writing_parameters()?;
    let destination = Repository::init(memory, parameters, Arc::clone(&to.clock)).await?;
    let folder = ScratchFolder::make(&to.scratch_directory())?;
    let index_directory = folder.path().join("index");
    let host = Host { index_directory, cache: RecordCache::none(), ..to.host(&destination) };
    let copying = Copying {
        source_cache: context.record_cache(&source),
        reading: RestoreOptions::new(context.scratch_directory()),
        host,
        writing: backup_options(to),
        interruption: context.interruption.clone(),
        source,
        destination,
    };
    let plan = plan_copy(&copying, &wanted(&copying.source, arguments).await?).await?;
    let missing = Box::pin(find_missing(&copying, &plan, &context.monitor())).await?;
    tell_plan(context, &copying, (&to.config.repository, Makes::Repository), &plan, &missing, arguments.json)
}

/// What a copy would make besides copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Makes {
    Nothing,
    /// The repository that it would copy into.
    Repository,
}

async fn open_destination(to: &Context, source: &Repository, init: bool) -> anyhow::Result<Repository> {
    if init {
        let store = to.create_store().await?;
        if store.list_page(layout::CONFIGS, None).await?.objects.is_empty() {
            return make_repository(to, *source.config().writing_parameters()?).await;
        }
    }
    to.repository().await.context("opening the repository to copy into (`copy --init` makes one)")
}

async fn wanted(source: &Repository, arguments: &CopyArguments) -> anyhow::Result<Wanted> {
    let mut ids = Vec::new();
    for prefix in &arguments.ids {
        ids.push(find_manifest(source, prefix).await?);
    }
    let CopyArguments { host, subvolume, since, .. } = arguments;
    Ok(Wanted { ids, host: host.clone(), subvolume: subvolume.clone(), since: *since })
}

/// Has packs thawed before anything is read of them, or refuses.
async fn see_to_archived(
    context: &Context,
    copying: &Copying,
    plan: &CopyPlan,
    arguments: &CopyArguments,
) -> anyhow::Result<()> {
    let archived = Box::pin(find_archived(copying, plan, &context.monitor())).await?;
    match ArchivedSource::of(&archived) {
        Some(error) if !arguments.thaw => Err(error.into()),
        Some(_) => arguments.thawing.begin_known(context, &copying.source, &archived).await?.wait_for_all().await,
        None => Ok(()),
    }
}

/// What ended the run; or that something of the source is damaged, or could not be copied for another reason.
fn verdict(copying: &Copying, report: CopyReport) -> anyhow::Result<()> {
    let (refused, has_damage) = (report.refused.len(), report.has_damage());
    if let Some(failure) = report.failure {
        return Err(failure);
    }
    let backups = output::counted(refused as u64, "backup");
    if has_damage {
        let object = copying.source.store().url().to_owned();
        return Err(Damage { object, reason: format!("{backups} could not be copied") }.into());
    }
    anyhow::ensure!(refused == 0, "{backups} could not be copied");
    Ok(())
}

fn tell(copying: &Copying, report: &CopyReport, json: bool) -> anyhow::Result<()> {
    if json {
        return output::json(&as_json(copying, report));
    }
    for (id, copy) in &report.copied {
        let manifest = &copy.manifest;
        output::line(&format!(
            "copied backup {id} of '{}' of host {}, as it was at {}, as backup {}",
            manifest.subvolume,
            manifest.host,
            manifest.created_at,
            copy.id()
        ))?;
    }
    tell_refused(&report.refused)?;
    let total = |of: fn(&crate::backup::BackupSummary) -> u64| report.copied.iter().map(|(_, copy)| of(copy)).sum();
    let bytes: u64 = total(|copy| copy.manifest.totals.new_bytes);
    let stored: u64 = total(|copy| copy.stored_bytes);
    output::line(&format!(
        "{} copied, {}: {} new, {} stored",
        output::counted(report.copied.len() as u64, "backup"),
        skipped_text(&report.skipped),
        ByteSize::from_bytes(bytes),
        ByteSize::from_bytes(stored)
    ))
}

fn tell_refused(refused: &[Refused]) -> anyhow::Result<()> {
    for Refused { id, reason, .. } in refused {
        let what = id.map_or_else(|| "a backup".to_owned(), |id| format!("backup {id}"));
        output::line(&format!("not copied: {what}: {reason}"))?;
    }
    Ok(())
}

fn skipped_text(skipped: &[Skipped]) -> String {
    let count = |is: fn(SkippedAs) -> bool| skipped.iter().filter(|one| is(one.reason)).count();
    let there = count(|reason| matches!(reason, SkippedAs::There(_)));
    let forgotten_there = count(|reason| matches!(reason, SkippedAs::ForgottenThere(_)));
    let forgotten = count(|reason| reason == SkippedAs::ForgottenMeanwhile);
    let others = [(forgotten_there, "forgotten there"), (forgotten, "forgotten meanwhile")];
    let others = others.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}"));
    let all: Vec<String> = std::iter::once(format!("{there} there already")).chain(others).collect();
    all.join(", ")
}

fn tell_plan(
    context: &Context,
    copying: &Copying,
    (destination, makes): (&str, Makes),
    plan: &CopyPlan,
    missing: &Missing,
    json: bool,
) -> anyhow::Result<()> {
    context.progress.finish();
    if json {
        let steps = plan.steps.iter().map(|backup| {
            json!({
                "id": backup.id().to_string(),
                "host": backup.manifest.host,
                "subvolume": backup.manifest.subvolume,
                "created_at": backup.manifest.created_at.to_string(),
            })
        });
        return output::json(&json!({
            "schema": 1,
            "source": copying.source.store().url(),
            "destination": destination,
            "would_make_repository": makes == Makes::Repository,
            "to_copy": steps.collect::<Vec<_>>(),
            "skipped": skipped_json(&plan.skipped),
            "refused": refused_json(&plan.refused),
            "chunks_at_most": missing.chunks,
            "bytes_at_most": missing.bytes,
            "packs_to_read": missing.packs.len(),
        }));
    }
    if makes == Makes::Repository {
        output::line(&format!("would make a repository at {destination}"))?;
    }
    for backup in &plan.steps {
        let manifest = &backup.manifest;
        output::line(&format!(
            "would copy backup {} of '{}' of host {}, as it was at {}",
            backup.id(),
            manifest.subvolume,
            manifest.host,
            manifest.created_at
        ))?;
    }
    tell_refused(&plan.refused)?;
    output::line(&format!(
        "{} to copy, {}: at most {} ({} before compression) from {}",
        output::counted(plan.steps.len() as u64, "backup"),
        skipped_text(&plan.skipped),
        output::counted(missing.chunks, "chunk"),
        ByteSize::from_bytes(missing.bytes),
        output::counted(missing.packs.len() as u64, "pack")
    ))?;
    output::line("nothing has been changed")
}

fn as_json(copying: &Copying, report: &CopyReport) -> Value {
    let copied = report.copied.iter().map(|(id, copy)| {
        let manifest = &copy.manifest;
        json!({
            "id": id.to_string(),
            "copy": copy.id().to_string(),
            "host": manifest.host,
            "subvolume": manifest.subvolume,
            "created_at": manifest.created_at.to_string(),
            "new_chunks": manifest.totals.new_chunks,
            "new_bytes": manifest.totals.new_bytes,
            "stored_bytes": copy.stored_bytes,
        })
    });
    json!({
        "schema": 1,
        "source": copying.source.store().url(),
        "destination": copying.destination.store().url(),
        "copied": copied.collect::<Vec<_>>(),
        "skipped": skipped_json(&report.skipped),
        "refused": refused_json(&report.refused),
        "failure": report.failure.as_ref().map(|error| format!("{error:#}")),
    })
}

fn skipped_json(skipped: &[Skipped]) -> Vec<Value> {
    let one = |skipped: &Skipped| {
        let (reason, copy): (&str, Option<ManifestId>) = match skipped.reason {
            SkippedAs::There(copy) => ("there", Some(copy)),
            SkippedAs::ForgottenThere(copy) => ("forgotten_there", Some(copy)),
            SkippedAs::ForgottenMeanwhile => ("forgotten_meanwhile", None),
        };
        json!({ "id": skipped.id.to_string(), "reason": reason, "copy": copy.map(|copy| copy.to_string()) })
    };
    skipped.iter().map(one).collect()
}

fn refused_json(refused: &[Refused]) -> Vec<Value> {
    let one = |refused: &Refused| {
        json!({
            "id": refused.id.map(|id| id.to_string()),
            "reason": refused.reason,
            "damaged": refused.is_damaged,
        })
    };
    refused.iter().map(one).collect()
}
