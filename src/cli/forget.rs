//! `forget`

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::ensure;
use serde_json::{Value, json};

use crate::cli::context::Context;
use crate::cli::exit::UsageError;
use crate::cli::output;
use crate::forget::{Forgot, Selection, forget, plan_forget, sources_without_any};
use crate::repository::catalog::{Catalog, find_manifest, read_manifest};
use crate::repository::notes::Notes;
use crate::repository::{Damage, Repository};
use crate::retention::{Decision, RetentionPolicy};
use crate::size::parse_duration;

/// Takes backups out of the list, by their ids or by a policy; prune deletes what only they need
///
/// Without ids, the options say what is kept, or `[retention]` of the configuration, for each subvolume of each host by
/// itself. What a kept backup was made against is kept too. Until a prune has deleted it, `unforget` brings a backup back.
#[derive(Debug, clap::Args)]
pub(crate) struct ForgetArguments {
    /// The backups' ids, or as much of each as no other id begins with
    #[arg(conflicts_with_all = ["policy", "host", "subvolume", "allow_none"])]
    ids: Vec<String>,
    #[command(flatten)]
    policy: PolicyArguments,
    /// Decides on backups of this subvolume only
    #[arg(long, value_name = "NAME")]
    subvolume: Option<String>,
    /// Decides on backups of this host only
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    /// Forgets also where nothing of a subvolume would be left
    #[arg(long)]
    allow_none: bool,
    /// Why, for whoever asks later
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    /// Says what would be done, and why, and changes nothing
    #[arg(long)]
    dry_run: bool,
    /// Prints JSON
    #[arg(long)]
    json: bool,
}

/// What to keep.
#[derive(Debug, clap::Args)]
#[group(id = "policy", multiple = true)]
#[expect(clippy::struct_field_names, reason = "the fields are named as the options are")]
struct PolicyArguments {
    /// Keeps so many of the newest
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    keep_last: Option<u32>,
    /// Keeps the newest of each of so many hours that have one
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    keep_hourly: Option<u32>,
    /// As --keep-hourly, of days
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    keep_daily: Option<u32>,
    /// As --keep-hourly, of weeks
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    keep_weekly: Option<u32>,
    /// As --keep-hourly, of months
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    keep_monthly: Option<u32>,
    /// As --keep-hourly, of years
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    keep_yearly: Option<u32>,
    /// Keeps all that are not older than this before the newest, such as 30d
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    keep_within: Option<Duration>,
    /// Keeps all with this tag; may be given several times
    #[arg(long, value_name = "TAG")]
    keep_tag: Vec<String>,
}

impl PolicyArguments {
    fn policy(&self) -> RetentionPolicy {
        RetentionPolicy {
            keep_last: self.keep_last.unwrap_or(0),
            keep_hourly: self.keep_hourly.unwrap_or(0),
            keep_daily: self.keep_daily.unwrap_or(0),
            keep_weekly: self.keep_weekly.unwrap_or(0),
            keep_monthly: self.keep_monthly.unwrap_or(0),
            keep_yearly: self.keep_yearly.unwrap_or(0),
            keep_within: self.keep_within,
            keep_tags: self.keep_tag.iter().cloned().collect::<BTreeSet<_>>(),
        }
    }
}

pub(crate) async fn cmd_forget(context: &Context, arguments: &ForgetArguments) -> anyhow::Result<()> {
    if arguments.ids.is_empty() {
        let given = arguments.policy.policy();
        let policy = if given.is_empty() { context.config.retention.clone() } else { given };
        if policy.is_empty() {
            let text = "name backups, or say what to keep, by options or by [retention] of the configuration";
            return Err(UsageError(text.to_owned()).into());
        }
        return forget_by_policy(context, arguments, &policy).await;
    }
    forget_by_id(context, arguments).await
}

async fn forget_by_id(context: &Context, arguments: &ForgetArguments) -> anyhow::Result<()> {
    let repository = context.repository().await?;
    // All of them first: a typing error must not leave half of it done.
    let mut ids = Vec::new();
    for prefix in &arguments.ids {
        let id = find_manifest(&repository, prefix).await?;
        match read_manifest(&repository, id).await {
            Err(error) if error.downcast_ref::<Damage>().is_none() => return Err(error),
            // What is damaged is forgotten as well.
            _ => ids.push(id),
        }
    }
    let mut done = Vec::new();
    for id in &ids {
        let what = if arguments.dry_run {
            "would be forgotten"
        } else {
            match forget(&repository, *id, &context.host(&repository).name, &arguments.reason).await? {
                Forgot::Now => "is forgotten",
                Forgot::Before => "had been forgotten before",
            }
        };
        done.push(json!({ "id": id.to_string(), "outcome": what }));
        if !arguments.json {
            output::line(&format!("backup {id} {what}"))?;
        }
    }
    if arguments.json {
        return output::json(&done);
    }
    let catalog = Catalog::load(&repository, &context.record_cache(&repository)).await?;
    for id in ids {
        let has_it = |backup: &&_| catalog.chain(backup).is_ok_and(|chain| chain.iter().any(|one| one.id() == id));
        let others = catalog.published.iter().filter(|backup| backup.id() != id);
        match others.filter(has_it).count() {
            0 => {}
            count => output::line(&format!("backup {id} stays as long as the {count} that were made on it"))?,
        }
    }
    Ok(())
}

async fn forget_by_policy(
    context: &Context,
    arguments: &ForgetArguments,
    policy: &RetentionPolicy,
) -> anyhow::Result<()> {
    let repository = context.repository().await?;
    let cache = context.record_cache(&repository);
    let mut catalog = Catalog::load(&repository, &cache).await?;
    let mut notes = Notes::load(&repository, &cache).await?;
    if let Some(damage) = notes.damaged.pop() {
        return Err(damage.context("which tags backups have is not known: forget by ids, or repair the notes"));
    }
    let selection = Selection { host: arguments.host.clone(), subvolume: arguments.subvolume.clone() };
    let decisions = plan_forget(&mut catalog, &notes, policy, &selection)?;
    if let (Some(source), false) = (sources_without_any(&decisions).first(), arguments.allow_none) {
        let of = format!("'{}' of host {}", source.subvolume, source.host);
        ensure!(arguments.dry_run, "this would leave no backup of {of}: say --allow-none if that is meant");
        context.monitor().warn(&format!("no backup of {of} would be left: that takes --allow-none"));
    }
    if !arguments.dry_run {
        apply(context, &repository, &decisions, &arguments.reason).await?;
    }
    if arguments.json {
        output::json(&decisions.iter().map(as_json).collect::<Vec<_>>())
    } else {
        print_decisions(&decisions, arguments.dry_run)
    }
}

async fn apply(context: &Context, repository: &Repository, decisions: &[Decision], reason: &str) -> anyhow::Result<()> {
    let host = context.host(repository).name;
    let reason = if reason.is_empty() { "retention" } else { reason };
    for decision in decisions.iter().filter(|decision| !decision.is_kept()) {
        forget(repository, decision.id, &host, reason).await?;
    }
    Ok(())
}

fn as_json(decision: &Decision) -> Value {
    json!({
        "id": decision.id.to_string(),
        "host": decision.source.host,
        "subvolume": decision.source.subvolume,
        "stored_at": decision.stored_at,
        "kept": decision.is_kept(),
        "reasons": decision.reasons.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

fn print_decisions(decisions: &[Decision], dry_run: bool) -> anyhow::Result<()> {
    if decisions.is_empty() {
        return output::line("no backups");
    }
    let widest = |of: fn(&Decision) -> &str, least: usize| {
        decisions.iter().map(|decision| of(decision).chars().count()).max().unwrap_or(0).max(least)
    };
    let host = widest(|decision| &decision.source.host, 4);
    let name = widest(|decision| &decision.source.subvolume, 9);
    // Retention goes by when the store took a backup, which is later than its snapshot, of which `list` speaks.
    output::line(&format!(
        "{:32}  {:host$}  {:name$}  {:20}  what becomes of it",
        "id", "host", "subvolume", "stored"
    ))?;
    for decision in decisions {
        let reasons: Vec<String> = decision.reasons.iter().map(ToString::to_string).collect();
        let what = match (decision.is_kept(), dry_run) {
            (true, _) => "kept",
            (false, true) => "would be forgotten",
            (false, false) => "forgotten",
        };
        output::line(&format!(
            "{}  {:host$}  {:name$}  {}  {what}{}{}",
            decision.id,
            decision.source.host,
            decision.source.subvolume,
            decision.stored_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
            if reasons.is_empty() { "" } else { ": " },
            reasons.join(", ")
        ))?;
    }
    let forgotten = decisions.iter().filter(|decision| !decision.is_kept()).count();
    output::line(&format!(
        "{} kept, {forgotten} {}forgotten",
        decisions.len() - forgotten,
        if dry_run { "would be " } else { "" }
    ))
}
