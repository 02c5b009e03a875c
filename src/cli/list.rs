//! `list`

use serde::Serialize;

use crate::cli::context::Context;
use crate::cli::output;
use crate::repository::catalog::{Catalog, Published};
use crate::repository::notes::Notes;
use crate::size::ByteSize;

/// Lists the backups, oldest first
#[derive(Debug, clap::Args)]
pub(crate) struct ListArguments {
    /// Only backups of this subvolume
    #[arg(long, value_name = "NAME")]
    subvolume: Option<String>,
    /// Only backups of this host
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    /// Only backups with this tag
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,
    /// Shows what was forgotten and is still there, instead
    #[arg(long)]
    forgotten: bool,
    /// Prints JSON
    #[arg(long)]
    json: bool,
}

/// A backup as `list --json` shows it.
#[derive(Debug, Serialize)]
pub(crate) struct ListedBackup {
    id: String,
    host: String,
    subvolume: String,
    kind: String,
    created_at: String,
    parent: Option<String>,
    snapshot_uuid: Option<String>,
    stream_bytes: u64,
    new_bytes: u64,
    stored_bytes: u64,
    copied_from: Option<String>,
    tags: Vec<String>,
}

impl ListedBackup {
    fn new(backup: &Published, notes: &Notes) -> Self {
        let manifest = &backup.manifest;
        Self {
            id: backup.id().to_string(),
            host: manifest.host.clone(),
            subvolume: manifest.subvolume.clone(),
            kind: manifest.kind.to_string(),
            created_at: manifest.created_at.to_string(),
            parent: manifest.parent.as_ref().map(|parent| parent.manifest.to_string()),
            snapshot_uuid: manifest.snapshot.as_ref().map(|snapshot| snapshot.uuid.to_string()),
            stream_bytes: manifest.stream.bytes,
            new_bytes: manifest.totals.new_bytes,
            stored_bytes: backup.stored_bytes,
            copied_from: manifest.copied_from.map(|id| id.to_string()),
            tags: notes.tags(backup.id()).into_iter().collect(),
        }
    }
}

pub(crate) async fn cmd_list(context: &Context, arguments: &ListArguments) -> anyhow::Result<()> {
    let repository = context.repository().await?;
    let catalog = Catalog::load(&repository, &context.record_cache(&repository)).await?;
    let notes = Notes::load(&repository, &context.record_cache(&repository)).await?;
    let wanted = |backup: &&Published| {
        let manifest = &backup.manifest;
        arguments.tag.as_ref().is_none_or(|tag| notes.tags(backup.id()).contains(tag))
            && arguments.subvolume.as_ref().is_none_or(|name| *name == manifest.subvolume)
            && arguments.host.as_ref().is_none_or(|name| *name == manifest.host)
    };
    let forgotten = || catalog.forgotten.iter().map(|forgotten| &forgotten.backup).collect();
    let chosen: Vec<&Published> = if arguments.forgotten { forgotten() } else { catalog.published.iter().collect() };
    let listed = |backup| ListedBackup::new(backup, &notes);
    let backups: Vec<ListedBackup> = chosen.into_iter().filter(wanted).map(listed).collect();
    for error in &notes.damaged {
        context.monitor().problem(&format!("{error:#}"));
    }
    let shown = if arguments.json { output::json(&backups) } else { print_table(&backups) };
    for id in &catalog.unfinished {
        tracing::info!(%id, "not completed: a run is under way, or was ended before its backup existed");
    }
    // The others have been shown; that one is missing is not passed over.
    let mut damaged = catalog.damaged.into_iter();
    let Some(first) = damaged.next() else { return shown };
    for error in damaged {
        output::error_line(&format!("error: {error:#}"));
    }
    Err(first)
}

fn print_table(backups: &[ListedBackup]) -> anyhow::Result<()> {
    if backups.is_empty() {
        return output::line("no backups");
    }
    let widest = |of: fn(&ListedBackup) -> &str, least: usize| {
        backups.iter().map(|backup| of(backup).chars().count()).max().unwrap_or(0).max(least)
    };
    let (host, name) = (widest(|backup| &backup.host, 4), widest(|backup| &backup.subvolume, 9));
    output::line(&format!(
        "{:32}  {:host$}  {:name$}  {:11}  {:20}  {:>9}  {:>9}  {:>9}{}",
        "id",
        "host",
        "subvolume",
        "kind",
        "created",
        "stream",
        "new",
        "stored",
        if backups.iter().any(|backup| !backup.tags.is_empty()) { "  tags" } else { "" }
    ))?;
    for backup in backups {
        let size = |bytes| ByteSize::from_bytes(bytes).to_string();
        let created =
            backup.created_at.split_once('.').map_or_else(|| backup.created_at.clone(), |(s, _)| format!("{s}Z"));
        output::line(&format!(
            "{:32}  {:host$}  {:name$}  {:11}  {:20}  {:>9}  {:>9}  {:>9}{}",
            backup.id,
            backup.host,
            backup.subvolume,
            backup.kind,
            created,
            size(backup.stream_bytes),
            size(backup.new_bytes),
            size(backup.stored_bytes),
            if backup.tags.is_empty() { String::new() } else { format!("  {}", backup.tags.join(",")) }
        ))?;
    }
    Ok(())
}
