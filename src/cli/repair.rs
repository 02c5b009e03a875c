//! `repair`

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
    },
    /// Says which backups do not restore, and on request forgets them
    Manifests {
        /// Forgets them
        #[arg(long)]
        forget: bool,
    },
}

pub(crate) async fn cmd_repair(context: &Context, arguments: RepairArguments) -> anyhow::Result<()> {
    let lock = || HostLock::acquire(&context.config.lock_path, context.clock.as_ref());
    let _lock = if arguments.dry_run { None } else { Some(lock()?) };
    let repository = context.repository().await?;
    match arguments.what {
        What::Index => index(context, &repository, arguments.dry_run).await,
        What::Packs { packs } => mend_packs(context, &repository, &packs, arguments.dry_run).await,
        What::Manifests { forget } => manifests(context, &repository, forget && !arguments.dry_run).await,
    }
}

async fn index(context: &Context, repository: &Repository, dry_run: bool) -> anyhow::Result<()> {
    let host = context.host(repository);
    let repair = repair_index(repository, (!dry_run).then_some(&host)).await?;
    for ((class, pack), reason) in &repair.unreadable {
        let text =
            format!("{} is in no segment, and its footer cannot be read: {reason}", layout::pack_key(*class, pack));
        crate::monitor::Monitor::problem(context.progress.as_ref(), &text);
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

async fn check_all(context: &Context, repository: &Repository, data: Option<Subset>) -> anyhow::Result<Report> {
    let scratch_directory = context.scratch_directory();
    let options = CheckOptions { data, checksums: false, packs_at_once: 2, scratch_directory };
    check(repository, &options, &context.monitor()).await
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

async fn mend_packs(context: &Context, repository: &Repository, texts: &[String], dry_run: bool) -> anyhow::Result<()> {
    let named = parse_packs(texts)?;
    let mut damaged = Vec::new();
    if named.is_empty() {
        damaged = check_all(context, repository, Some(Subset::All)).await?.bad_packs;
    }
    for (class, pack) in named {
        // What is right must not be taken out by a slip of the pen.
        let verdict = crate::repository::packs::verify_pack(repository, class, pack).await?;
        anyhow::ensure!(verdict.fault.is_some(), "{} is as it should be", layout::pack_key(class, &pack));
        damaged.push((class, pack));
    }
    let host = context.host(repository);
    let repairs = repair_packs(repository, (!dry_run).then_some(&host), &damaged).await?;
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
    if dry_run {
        return Ok(());
    }
    // So that no run looks for the packs that are gone.
    index(context, repository, false).await?;
    output::line("back up now, with --full: what is still there is stored again, and heals older backups")
}

async fn manifests(context: &Context, repository: &Repository, forget_them: bool) -> anyhow::Result<()> {
    let report = check_all(context, repository, None).await?;
    context.progress.finish();
    for affected in &report.affected {
        let what = if forget_them { "forgotten" } else { "does not restore" };
        let of = format!("'{}' of host {}", affected.subvolume, affected.host);
        output::line(&format!("{what}: backup {} of {of}: {}", affected.id, affected.reason))?;
        if forget_them {
            forget(repository, affected.id, &context.host(repository).name, &affected.reason).await?;
        }
    }
    for finding in report.findings.iter().filter(|finding| finding.invariant == "manifests_can_be_read") {
        output::line(&format!("{}: {}: forget it by its id, if its end is right", finding.object, finding.reason))?;
    }
    if report.affected.is_empty() { output::line("all backups that can be read restore") } else { Ok(()) }
}
