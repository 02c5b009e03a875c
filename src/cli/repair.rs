//! `repair`

mod known;
mod telling;

use clap::Subcommand;

use crate::check::report::Report;
use crate::check::subset::Subset;
use crate::check::{CheckOptions, check};
use crate::cli::context::Context;
use crate::cli::exit::UsageError;
use crate::cli::output;
use crate::forget::forget;
use crate::id::PackId;
use crate::lock::HostLock;
use crate::monitor::Monitor;
use crate::pack::format::PackClass;
use crate::repair::{PackRepair, repair_index, repair_packs};
use crate::repository::{Repository, layout};

/// Mends what `check` has found
#[derive(Debug, clap::Args)]
pub(crate) struct RepairArguments {
    #[command(subcommand)]
    what: What,
    /// Says what would be done, and changes nothing
    #[arg(long, global = true)]
    dry_run: bool,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Makes the index again from the footers of packs, and from the copies of footers
    Index,
    /// Takes damaged packs out; what is right of them is kept, and the next backup stores again what is lost and still there
    Packs {
        /// The packs, as `check --read-data` names them; without any, all packs are read
        #[arg(value_name = "PACK")]
        packs: Vec<String>,
        /// Names all files that have lost bytes, up to 10,000 of each backup, not only the first 20
        #[arg(long)]
        all_files: bool,
    },
    /// Says which backups do not restore, and which of their files have lost bytes; on request forgets them
    Manifests {
        /// Forgets them
        #[arg(long)]
        forget: bool,
        /// Names all files that have lost bytes, up to 10,000 of each backup, not only the first 20
        #[arg(long)]
        all_files: bool,
    },
}

pub(crate) async fn cmd_repair(context: &Context, arguments: RepairArguments) -> anyhow::Result<()> {
    let lock = || HostLock::acquire(&context.config.lock_path, context.clock.as_ref());
    let _lock = if arguments.dry_run { None } else { Some(lock()?) };
    let repository = context.repository().await?;
    match arguments.what {
        What::Index => index(context, &repository, arguments.dry_run).await,
        What::Packs { packs, all_files } => {
            let files_at_most = telling::files_at_most(all_files);
            mend_packs(context, &repository, &packs, files_at_most, arguments.dry_run).await
        }
        What::Manifests { forget, all_files } => {
            let files_at_most = telling::files_at_most(all_files);
            manifests(context, &repository, files_at_most, forget && !arguments.dry_run).await
        }
    }
}

async fn index(context: &Context, repository: &Repository, dry_run: bool) -> anyhow::Result<()> {
    let host = context.host(repository);
    let repair = repair_index(repository, (!dry_run).then_some(&host)).await?;
    for ((class, pack), reason) in &repair.unreadable {
        let text =
            format!("{} is in no segment, and its footer cannot be read: {reason}", layout::pack_key(*class, pack));
        context.progress.problem(&text);
    }
    for (class, pack) in &repair.lost {
        output::line(&format!("lost: {}", layout::pack_key(*class, pack)))?;
    }
    if repair.is_empty() {
        return output::line("the index is as it should be");
    }
    output::line(&format!(
        "{}{} packs were added, {} that are gone were taken out, {} segments were replaced, {} look-up tables deleted",
        if dry_run { "would be done: " } else { "" },
        repair.added.len(),
        repair.lost.len(),
        repair.replaced.len(),
        repair.tables.len()
    ))
}

/// The classes and ids of packs, named as `check` names them or by their ids.
fn parse_packs(names: &[String]) -> anyhow::Result<Vec<(PackClass, PackId)>> {
    let mut packs = Vec::new();
    for name in names {
        let mut parts = name.rsplit('/');
        let id = parts.next().unwrap_or_default().parse::<PackId>();
        let class = match parts.nth(1) {
            Some("data") => Some(PackClass::Data),
            Some("meta") => Some(PackClass::Meta),
            _ => None,
        };
        let (Ok(id), Some(class)) = (id, class) else {
            let text = format!("'{name}' is not the key of a pack, such as data/00/…: `check --read-data` names them");
            return Err(UsageError(text).into());
        };
        packs.push((class, id));
    }
    Ok(packs)
}

/// Looks at the repository and reads these packs, or all if there are none.
async fn look_for_damage(
    context: &Context,
    repository: &Repository,
    named: Vec<(PackClass, PackId)>,
    files_at_most: usize,
) -> anyhow::Result<Report> {
    let data = named.is_empty().then_some(Subset::All);
    let options = CheckOptions { data, named, files_at_most, ..CheckOptions::new(context.scratch_directory()) };
    let report = check(repository, &options, &context.monitor()).await?;
    let archived = report.counts.packs_archived;
    anyhow::ensure!(
        archived == 0 || options.data.is_some(),
        "{archived} of the packs named are archived, and cannot be read before they are thawed"
    );
    for (class, pack) in &options.named {
        // What is right must not be taken out by a slip of the pen.
        let is_bad = report.bad_packs.contains(&(*class, *pack));
        anyhow::ensure!(is_bad, "{} is as it should be", layout::pack_key(*class, pack));
    }
    Ok(report)
}

async fn mend_packs(
    context: &Context,
    repository: &Repository,
    texts: &[String],
    files_at_most: usize,
    dry_run: bool,
) -> anyhow::Result<()> {
    let report = look_for_damage(context, repository, parse_packs(texts)?, files_at_most).await?;
    let host = context.host(repository);
    let repairs = repair_packs(repository, (!dry_run).then_some(&host), &report.bad_packs).await?;
    context.progress.finish();
    for PackRepair { class, pack, kept, lost } in &repairs {
        let would = if dry_run { "would be " } else { "" };
        let key = layout::pack_key(*class, pack);
        output::line(&format!(
            "{key}: {would}taken out: {} kept, {lost} lost",
            output::counted(*kept as u64, "chunk")
        ))?;
    }
    if repairs.is_empty() {
        return output::line("no pack is damaged");
    }
    report.affected.iter().try_for_each(|affected| telling::tell("does not restore", affected))?;
    let lost: usize = repairs.iter().map(|repair| repair.lost).sum();
    // Whether others have it is known only where they were read.
    let is_harmless = report.affected.is_empty() && (lost == 0 || report.is_complete);
    if lost > 0 && !is_harmless {
        let chunks = output::counted(lost as u64, "chunk");
        context.progress.problem(&format!(
            "{chunks} cannot be read any more: a full backup stores again what is still there of them"
        ));
    }
    if !dry_run {
        // So that no run looks for the packs that are gone.
        index(context, repository, false).await?;
    }
    match (is_harmless, dry_run) {
        (true, _) => output::line(
            "no backup that counts loses anything by it: what they need of these packs is in others as well",
        ),
        (false, true) => Ok(()),
        (false, false) => {
            output::line("back up now, with --full: what is still there is stored again, and heals older backups")
        }
    }
}

async fn manifests(
    context: &Context,
    repository: &Repository,
    files_at_most: usize,
    forget_them: bool,
) -> anyhow::Result<()> {
    let options = CheckOptions { files_at_most, ..CheckOptions::new(context.scratch_directory()) };
    let report = check(repository, &options, &context.monitor()).await?;
    context.progress.finish();
    for affected in &report.affected {
        let what = if forget_them { "forgotten" } else { "does not restore" };
        telling::tell(what, affected)?;
        if forget_them {
            forget(repository, affected.id, &context.host(repository).name, &affected.reason).await?;
        }
    }
    for finding in report.findings.iter().filter(|finding| finding.invariant == "manifests_can_be_read") {
        output::line(&format!("{}: {}: forget it by its id, if its end is right", finding.object, finding.reason))?;
    }
    let is_uncertain = known::tell(context, repository, &report).await?;
    match report.affected.len() {
        0 if is_uncertain => Ok(()),
        0 => output::line("all backups that can be read restore"),
        _ if forget_them => Ok(()),
        count => {
            let backups = output::counted(count as u64, "backup");
            context
                .progress
                .problem(&format!("{backups} affected by loss of data: --forget forgets what does not restore"));
            Ok(())
        }
    }
}
