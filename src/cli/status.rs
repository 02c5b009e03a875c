//! `status`

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use crate::cli::context::Context;
use crate::cli::exit::UsageError;
use crate::cli::output;
use crate::job::past_backups;
use crate::monitor::Monitor;
use crate::records::manifest::BackupKind;
use crate::records::note::{RehearsalMethod, TrialOutcome};
use crate::repository::catalog::{Catalog, Published};
use crate::repository::history::{first_backup_at, rehearsals};
use crate::repository::notes::{Note, Notes};
use crate::schedule::{age, decide};
use crate::size::ByteSize;

/// Shows how old the last backup of each subvolume is, and what is overdue
///
/// The exit code is 3 when a subvolume of this host is overdue or has no backup, and 2 when none is configured.
#[derive(Debug, clap::Args)]
pub(crate) struct StatusArguments {
    /// Prints JSON
    #[arg(long)]
    json: bool,
}

/// A subvolume as `status --json` shows it.
#[derive(Debug, Serialize)]
struct SubvolumeStatus {
    name: String,
    host: String,
    /// Of the newest backup that can be restored.
    last_backup: Option<String>,
    last_kind: Option<String>,
    last_at: Option<Timestamp>,
    next_due_at: Option<Timestamp>,
    due: bool,
    overdue: bool,
    /// Streams that a restore of the newest backup receives.
    chain_length: usize,
    backups: usize,
    /// Bytes of the newest backup that has a stream.
    last_stream_bytes: u64,
    /// Bytes of all backups.
    stored_bytes: u64,
    last_rehearsal_at: Option<Timestamp>,
    last_rehearsal_good: Option<bool>,
    /// `whole`, `sample` or `receive`.
    last_rehearsal_method: Option<&'static str>,
    rehearsal_overdue: bool,
}

pub(crate) async fn cmd_status(context: &Context, arguments: &StatusArguments) -> anyhow::Result<()> {
    let names = context.config.require_subvolumes().map_err(|error| UsageError(error.to_string()))?;
    let names: Vec<&str> = names.iter().map(|subvolume| subvolume.name.as_str()).collect();
    let repository = context.repository().await?;
    let host = context.host(&repository);
    let catalog = Catalog::load(&repository, &host.cache).await?;
    let notes = Notes::load(&repository, &host.cache).await?;
    for error in &catalog.damaged {
        context.progress.problem(&format!("{error:#}"));
    }
    let now = context.clock.now();
    let mut all = Vec::new();
    for name in &names {
        let rehearsals = rehearsals(&notes, &catalog, &host.name, name);
        let mut one = status_of(context, &catalog, &notes, &host.name, name, &rehearsals, now);
        if let Some(every) = context.config.rehearse_every {
            let proved_at = match last_good(&rehearsals) {
                None => first_backup_at(&repository, &catalog, &host.name, name, &host.cache).await?,
                good => good,
            };
            one.rehearsal_overdue = is_rehearsal_overdue(every, proved_at, now);
        }
        all.push(one);
    }
    for backup in catalog.published.iter().filter(|backup| is_own(backup, &host.name, &names)) {
        if let Some(reason) = notes.known_damage(backup.id()) {
            let (id, name) = (backup.id(), &backup.manifest.subvolume);
            context.progress.problem(&format!("backup {id} of '{name}' does not restore by the last check: {reason}"));
        }
    }
    for one in all.iter().filter(|one| one.overdue) {
        context.progress.problem(&format!("'{}' is overdue", one.name));
    }
    for one in all.iter().filter(|one| one.rehearsal_overdue) {
        context.progress.problem(&format!("a rehearsal of '{}' is overdue", one.name));
    }
    if arguments.json {
        output::json(&all)
    } else {
        output::text(&all.iter().map(|one| text_of(one, now)).collect::<Vec<_>>().join("\n"))
    }
}

fn status_of(
    context: &Context,
    catalog: &Catalog,
    notes: &Notes,
    host: &str,
    name: &str,
    rehearsals: &[&Note],
    now: Timestamp,
) -> SubvolumeStatus {
    let own = |backup: &&Published| backup.manifest.host == host && backup.manifest.subvolume == name;
    let own: Vec<&Published> = catalog.published.iter().filter(own).collect();
    let is_whole = |chain: Vec<&Published>| chain.iter().all(|backup| notes.known_damage(backup.id()).is_none());
    let restores = |backup: &Published| catalog.chain(backup).is_ok_and(is_whole);
    let last = own.iter().rfind(|backup| backup.manifest.snapshot.is_some() && restores(backup));
    let chain = last.and_then(|last| catalog.chain(last).ok()).unwrap_or_default();
    let streams: Vec<_> = chain.iter().filter(|backup| backup.manifest.kind != BackupKind::Unchanged).collect();
    let decision = context
        .schedule()
        .map(|schedule| decide(&schedule.policy, &schedule.zone, &past_backups(catalog, host, name), now));
    let rehearsal = rehearsals.last();
    let result = rehearsal.and_then(|note| note.record.result.as_ref());
    SubvolumeStatus {
        name: name.to_owned(),
        host: host.to_owned(),
        last_backup: last.map(|last| last.id().to_string()),
        last_kind: last.map(|last| last.manifest.kind.to_string()),
        last_at: last.map(|last| last.manifest.created_at),
        next_due_at: decision.as_ref().and_then(|decision| decision.next_due_at),
        due: decision.as_ref().is_none_or(|decision| decision.due != crate::schedule::Due::Nothing),
        overdue: decision.map_or(last.is_none(), |decision| decision.is_overdue),
        chain_length: streams.len(),
        backups: own.len(),
        last_stream_bytes: streams.last().map_or(0, |backup| backup.manifest.stream.bytes),
        stored_bytes: own.iter().map(|backup| backup.stored_bytes).sum(),
        last_rehearsal_at: rehearsal.map(|note| note.stored_at),
        last_rehearsal_good: result.map(|result| result.outcome == TrialOutcome::Good),
        last_rehearsal_method: result.and_then(|result| result.method).map(RehearsalMethod::as_str),
        rehearsal_overdue: false,
    }
}

fn is_own(backup: &Published, host: &str, names: &[&str]) -> bool {
    backup.manifest.host == host && names.contains(&backup.manifest.subvolume.as_str())
}

/// When the last rehearsal was that went well.
fn last_good(rehearsals: &[&Note]) -> Option<Timestamp> {
    let is_good = |note: &&&Note| note.record.result.as_ref().is_some_and(|one| one.outcome == TrialOutcome::Good);
    rehearsals.iter().rfind(is_good).map(|note| note.stored_at)
}

/// Whether the next rehearsal should have been by now: when the last one that went well, or without one the first backup, is
/// longer ago than it may be.
fn is_rehearsal_overdue(every: Duration, proved_at: Option<Timestamp>, now: Timestamp) -> bool {
    let since = |at: Timestamp| Duration::try_from(now.duration_since(at)).unwrap_or_default();
    proved_at.is_some_and(|at| since(at) > every)
}

fn text_of(one: &SubvolumeStatus, now: Timestamp) -> String {
    let size = |bytes| ByteSize::from_bytes(bytes).to_string();
    let mark = if one.overdue { "OVERDUE" } else { "fine" };
    let last = match (&one.last_at, &one.last_kind, &one.last_backup) {
        (Some(at), Some(kind), Some(id)) => format!("{} ago, {kind}, {id}", age(*at, now)),
        _ => "none".to_owned(),
    };
    let due = match one.next_due_at {
        Some(at) if one.due => format!("since {at}"),
        Some(at) => at.to_string(),
        None => "at the next run".to_owned(),
    };
    let how = one.last_rehearsal_method.map_or(String::new(), |method| format!(" ({method})"));
    let rehearsal = match (one.last_rehearsal_at, one.last_rehearsal_good) {
        (Some(at), Some(true)) => format!("{} ago, good{how}", age(at, now)),
        (Some(at), _) => format!("{} ago, NOT GOOD{how}", age(at, now)),
        (None, _) => "never".to_owned(),
    };
    let rehearsal = if one.rehearsal_overdue { format!("{rehearsal}, OVERDUE") } else { rehearsal };
    let (stream, stored) = (size(one.last_stream_bytes), size(one.stored_bytes));
    format!(
        "{}: {mark}\n  last backup     {last}\n  next due        {due}\n  chain           {}, the last one {stream}\n  \
         backups         {}, {stored} stored\n  last rehearsal  {rehearsal}\n",
        one.name,
        output::counted(one.chain_length as u64, "stream"),
        one.backups
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = include_str!("../../docs/operating.md");

    #[test]
    fn the_document_names_each_key_that_is_printed() {
        let shown = SubvolumeStatus {
            name: String::new(),
            host: String::new(),
            last_backup: None,
            last_kind: None,
            last_at: None,
            next_due_at: None,
            due: true,
            overdue: true,
            chain_length: 0,
            backups: 0,
            last_stream_bytes: 0,
            stored_bytes: 0,
            last_rehearsal_at: None,
            last_rehearsal_good: None,
            last_rehearsal_method: None,
            rehearsal_overdue: false,
        };
        let serde_json::Value::Object(shown) = serde_json::to_value(&shown).unwrap() else { panic!("an object") };
        let section = DOCUMENT.split("\n## ").find(|section| section.starts_with("`status --json`")).unwrap();
        let first_columns = section.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
        let mut named: Vec<&str> = first_columns.flat_map(|keys| keys.trim_end_matches('`').split("`, `")).collect();
        named.sort_unstable();
        let mut keys: Vec<&String> = shown.keys().collect();
        keys.sort_unstable();
        assert_eq!(named, keys);
    }

    #[test]
    fn a_rehearsal_is_overdue_when_more_time_has_passed_than_it_may() {
        let (at, now): (Timestamp, Timestamp) =
            ("2026-01-01T00:00:00Z".parse().unwrap(), "2026-01-02T00:00:00Z".parse().unwrap());
        let overdue = |hours, at| is_rehearsal_overdue(Duration::from_hours(hours), at, now);
        assert!(overdue(23, Some(at)) && !overdue(24, Some(at)));
        // From the future, by a clock that was wrong; and where there is no backup, `status` says so anyway.
        assert!(!is_rehearsal_overdue(Duration::from_hours(1), Some(now), at));
        assert!(!overdue(1, None));
    }
}
