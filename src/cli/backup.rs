//! `backup`

mod report;
mod telling;

use std::io::{self, Read};
use std::sync::Arc;

use crate::backup::{
    BackupOptions, BackupRequest, BackupRun, BackupSummary, Expected, Stream, StreamSource, unless_interrupted,
};
use crate::btrfs::command::BtrfsCommand;
use crate::btrfs::subvolume::require_root;
use crate::cli::backup::report::{CostReport, RunReport, SubvolumeReport};
use crate::cli::context::{Context, search_path};
use crate::cli::exit::UsageError;
use crate::cli::limits::require_memory_for_backup;
use crate::cli::output;
use crate::config::{SubvolumeConfig, check_subvolume_name};
use crate::cost::run::cost_of_run;
use crate::job::{Btrfs, Done, Job, Outcome, take_snapshot};
use crate::lock::HostLock;
use crate::records::manifest::BackupKind;
use crate::size::ByteSize;
use crate::store::StorageClassName;
use crate::store::requests::Usage;

/// Takes snapshots and stores what the repository does not have
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(crate) struct BackupArguments {
    /// Only this subvolume of the configuration; may be given several times
    #[arg(long, value_name = "NAME", conflicts_with = "stdin")]
    subvolume: Vec<String>,
    /// Sends everything, even where an incremental stream would do
    #[arg(long, conflicts_with_all = ["stdin", "no_s3"])]
    full: bool,
    /// Backs up now, whether it is due or not
    #[arg(long, conflicts_with = "stdin")]
    once: bool,
    /// Says what would be done, and changes nothing
    #[arg(long, conflicts_with = "stdin")]
    dry_run: bool,
    /// Takes snapshots only; nothing is sent
    #[arg(long, conflicts_with = "stdin")]
    no_s3: bool,
    /// Prints JSON: how the run went, and what became of each subvolume
    #[arg(long, conflicts_with_all = ["dry_run", "no_s3"])]
    json: bool,
    /// Archives a stream from standard input
    #[arg(long, requires = "name")]
    stdin: bool,
    /// What to call the stream
    #[arg(long, value_name = "NAME", requires = "stdin")]
    name: Option<String>,
    /// Takes the stream as bytes, even if it is a send stream
    #[arg(long, requires = "stdin")]
    opaque: bool,
}

pub(crate) async fn cmd_backup(context: &Context, arguments: BackupArguments) -> anyhow::Result<()> {
    if let Some(name) = &arguments.name {
        return stdin_and_tell(context, name, &arguments).await;
    }
    let subvolumes = selected(context, &arguments.subvolume)?;
    if arguments.no_s3 {
        require_root("backing up a subvolume")?;
        let _lock = if arguments.dry_run { None } else { Some(lock(context)?) };
        return snapshots_only(context, &subvolumes, arguments.dry_run);
    }
    if arguments.dry_run {
        // Changes nothing and waits for nobody.
        require_root("backing up a subvolume")?;
        let job = job(context, &arguments).await?;
        for subvolume in &subvolumes {
            output::line(&unless_interrupted(&context.interruption, job.describe(subvolume)).await?)?;
        }
        return Ok(());
    }
    run_and_tell(context, &arguments, &subvolumes).await
}

/// Backs up, and tells whoever is to know how it went.
async fn run_and_tell(
    context: &Context,
    arguments: &BackupArguments,
    subvolumes: &[SubvolumeConfig],
) -> anyhow::Result<()> {
    let started_at = context.clock.now();
    let (mut outcomes, mut usage) = (Vec::new(), None);
    let run = async {
        let names: Vec<String> = subvolumes.iter().map(|subvolume| subvolume.name.clone()).collect();
        telling::begin(context, &names).await?;
        require_memory_for_backup(&backup_options(context), context.config.subvolumes_at_once)?;
        require_root("backing up a subvolume")?;
        // Two runs at once would send the same things twice.
        let _lock = lock(context)?;
        let job = job(context, arguments).await?;
        outcomes = job.run(subvolumes).await;
        usage = job.repository.store().usage();
        Ok(())
    };
    let begun: anyhow::Result<()> = run.await;
    context.progress.finish();
    let reports = match &begun {
        Ok(()) => outcomes.iter().map(SubvolumeReport::new).collect(),
        Err(error) => {
            let not_reached = |subvolume: &SubvolumeConfig| SubvolumeReport::not_reached(&subvolume.name, error);
            subvolumes.iter().map(not_reached).collect()
        }
    };
    let mut told = RunReport {
        requests: usage.as_ref().map(|usage| usage.requests),
        cost: usage.and_then(|usage| cost(context, &usage)),
        ..RunReport::new(started_at, context.clock.now(), reports)
    };
    let result = match begun {
        Ok(()) if arguments.json => last_failure(outcomes).map_or(Ok(()), Err),
        Ok(()) => {
            let line = |Outcome { subvolume, result, .. }| {
                let line = result.map(|done| done_line(&subvolume, &done));
                (subvolume, line)
            };
            report(context, outcomes.into_iter().map(line).collect())
        }
        Err(error) => Err(error),
    };
    told.end(&result, context.progress.problems());
    telling::end(context, &mut told, &result).await;
    if arguments.json {
        output::json(&told)?;
    } else if let Some(line) = report::total_line(&told) {
        output::line(&line)?;
    }
    result
}

/// What a run has cost. The built-in prices are those of AWS, and tell nothing of another server.
fn cost(context: &Context, usage: &Usage) -> Option<CostReport> {
    let config = &context.config;
    let metadata_class = config.s3.storage_class_metadata.clone().unwrap_or_else(StorageClassName::standard);
    let cost = cost_of_run(usage, &metadata_class, &config.prices).filter(|_| usage.is_aws || config.has_prices)?;
    Some(CostReport::new(cost, &config.prices.currency))
}

fn lock(context: &Context) -> anyhow::Result<HostLock> {
    Ok(HostLock::acquire(&context.config.lock_path, context.clock.as_ref())?)
}

/// The last failure, as [`report`] gives it, of which all are in the report.
fn last_failure(outcomes: Vec<Outcome>) -> Option<anyhow::Error> {
    let failed = outcomes.into_iter().filter_map(|Outcome { subvolume, result, .. }| {
        result.err().map(|error| error.context(format!("backing up '{subvolume}'")))
    });
    failed.last()
}

async fn job(context: &Context, arguments: &BackupArguments) -> anyhow::Result<Job> {
    let repository = unless_interrupted(&context.interruption, context.repository()).await?;
    Ok(Job {
        host: context.host(&repository),
        journal_directory: context.journal_directory(&repository),
        repository,
        file_system: Arc::new(Btrfs { command: BtrfsCommand::find(search_path().as_deref())? }),
        options: backup_options(context),
        snapshots_retained: context.config.snapshots_retained as usize,
        subvolumes_at_once: context.config.subvolumes_at_once as usize,
        schedule: context.schedule(),
        once: arguments.once,
        full: arguments.full,
        monitor: context.monitor(),
        interruption: context.interruption.clone(),
        scratch_directory: context.scratch_directory(),
    })
}

/// The subvolumes that were named, or all.
fn selected(context: &Context, names: &[String]) -> anyhow::Result<Vec<SubvolumeConfig>> {
    let all = context.config.require_subvolumes().map_err(|error| UsageError(error.to_string()))?;
    if names.is_empty() {
        return Ok(all.to_vec());
    }
    let find = |name: &String| {
        let found = all.iter().find(|subvolume| subvolume.name == *name).cloned();
        found.ok_or_else(|| UsageError(format!("--subvolume {name}: the configuration has no subvolume of this name")))
    };
    let mut found = Vec::new();
    for name in names {
        let subvolume = find(name)?;
        if !found.contains(&subvolume) {
            found.push(subvolume);
        }
    }
    Ok(found)
}

/// Takes snapshots, and deletes none: which of them the next backup needs, the repository knows.
fn snapshots_only(context: &Context, subvolumes: &[SubvolumeConfig], dry_run: bool) -> anyhow::Result<()> {
    let mut outcomes = Vec::new();
    for subvolume in subvolumes {
        let name = &subvolume.name;
        let outcome = if dry_run {
            Ok(format!("{name}: would take a snapshot into {}, and send nothing", subvolume.base_dir.display()))
        } else {
            let snapshot = take_snapshot(subvolume, context.clock.as_ref());
            snapshot.map(|snapshot| format!("{name}: took snapshot {}", snapshot.path.display()))
        };
        outcomes.push((name.clone(), outcome));
    }
    report(context, outcomes)
}

/// Prints what became of each subvolume. One that failed makes the run fail.
fn report(context: &Context, outcomes: Vec<(String, anyhow::Result<String>)>) -> anyhow::Result<()> {
    context.progress.finish();
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    for (name, outcome) in outcomes {
        match outcome {
            Ok(line) => done.push(line),
            Err(error) => failed.push(error.context(format!("backing up '{name}'"))),
        }
    }
    // What has been done stays done, whether or not it can be told.
    let told = done.iter().try_for_each(|line| output::line(line));
    if let Err(error) = told
        && !output::is_closed(&error)
    {
        context.monitor().problem(&format!("{error:#}"));
    }
    let Some(last) = failed.pop() else { return Ok(()) };
    for error in failed {
        output::error_line(&format!("error: {error:#}"));
    }
    Err(last)
}

/// Standard input as a stream; nobody tells whether its producer was content.
#[derive(Debug)]
struct StandardInput(io::Stdin);

impl Read for StandardInput {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // The lock of an unbuffered read costs nothing beside it.
        rustix::io::read(&self.0, buffer).map_err(io::Error::from)
    }
}

impl StreamSource for StandardInput {
    fn finish(self: Box<Self>) -> anyhow::Result<()> {
        Ok(())
    }
}

/// Archives standard input, and tells on standard output how that went; hooks and metrics are of subvolumes.
async fn stdin_and_tell(context: &Context, name: &str, arguments: &BackupArguments) -> anyhow::Result<()> {
    check_subvolume_name(name).map_err(|error| UsageError(format!("--name: {error}")))?;
    require_memory_for_backup(&backup_options(context), 1)?;
    let started_at = context.clock.now();
    let mut usage = None;
    let result = backup_stdin(context, name, arguments.opaque, &mut usage).await;
    let finished_at = context.clock.now();
    let outcome = Outcome { subvolume: name.to_owned(), result, took: finished_at.duration_since(started_at) };
    if !arguments.json {
        return report(context, vec![(name.to_owned(), outcome.result.map(|done| done_line(name, &done)))]);
    }
    context.progress.finish();
    let mut told = RunReport {
        requests: usage.as_ref().map(|usage| usage.requests),
        cost: usage.and_then(|usage| cost(context, &usage)),
        ..RunReport::new(started_at, finished_at, vec![SubvolumeReport::new(&outcome)])
    };
    let result = last_failure(vec![outcome]).map_or(Ok(()), Err);
    told.end(&result, context.progress.problems());
    output::json(&told)?;
    result
}

async fn backup_stdin(context: &Context, name: &str, opaque: bool, usage: &mut Option<Usage>) -> anyhow::Result<Done> {
    let _lock = lock(context)?;
    let repository = unless_interrupted(&context.interruption, context.repository()).await?;
    let (host, monitor) = (context.host(&repository), context.monitor());
    let begin = BackupRun::begin(&repository, &host, name, &monitor);
    let run = unless_interrupted(&context.interruption, begin).await?;
    let request = BackupRequest {
        subvolume: name.to_owned(),
        created_at: run.started_at(),
        expected: if opaque { Expected::Opaque } else { Expected::Anything },
        compressed_data: false,
    };
    let source = Box::new(StandardInput(io::stdin()));
    let stream = Stream { source, stop: None, interruption: context.interruption.clone() };
    let published = run.publish(stream, &request, &backup_options(context)).await;
    *usage = repository.store().usage();
    Ok(Done::Published(Box::new(published?)))
}

/// Packs that are stored at once: three of eight requests, so that memory stays small where nobody has asked for more.
fn uploads(context: &Context) -> usize {
    let usual = BackupOptions::default().uploads_in_flight;
    usual.max(context.config.s3.concurrency.get() * 3 / 8)
}

/// How a run stores what it has read.
pub(crate) fn backup_options(context: &Context) -> BackupOptions {
    let packing = &context.config.packing;
    let options = BackupOptions {
        pack_target_bytes: usize::try_from(packing.pack_target.bytes()).unwrap_or(usize::MAX),
        compression_level: i32::try_from(packing.compression_level).unwrap_or(i32::MAX),
        uploads_in_flight: uploads(context),
        publish_rejected: context.config.publish_rejected_streams,
        ..BackupOptions::default()
    };
    if context.config.low_memory { options.with_low_memory() } else { options }
}

fn done_line(subvolume: &str, done: &Done) -> String {
    match done {
        Done::Published(summary) => summary_line(summary),
        Done::NotDue(decision) => format!("{subvolume}: not due: {}", decision.reason),
    }
}

fn summary_line(summary: &BackupSummary) -> String {
    let manifest = &summary.manifest;
    let size = |bytes| ByteSize::from_bytes(bytes).to_string();
    if let (BackupKind::Unchanged, Some(parent)) = (manifest.kind, &manifest.parent) {
        let since = parent.manifest;
        return format!("{}: backup {}: nothing has changed since backup {since}", manifest.subvolume, summary.id());
    }
    format!(
        "{}: {} backup {}: {} of stream, {} new, {} stored",
        manifest.subvolume,
        manifest.kind,
        summary.id(),
        size(manifest.stream.bytes),
        size(manifest.totals.new_bytes),
        size(summary.stored_bytes)
    )
}
