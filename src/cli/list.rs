//! `list`

use serde::Serialize;

use crate::cli::context::Context;
use crate::cli::output;
use crate::repository::catalog::{Catalog, Published};
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
}

impl From<&Published> for ListedBackup {
    fn from(backup: &Published) -> Self {
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
        }
    }
}

pub(crate) async fn cmd_list(context: &Context, arguments: &ListArguments) -> anyhow::Result<()> {
    let repository = context.repository().await?;
    let catalog = Catalog::load(&repository, &context.record_cache(&repository)).await?;
    let wanted = |backup: &&Published| {
        let manifest = &backup.manifest;
        arguments.subvolume.as_ref().is_none_or(|name| *name == manifest.subvolume)
            && arguments.host.as_ref().is_none_or(|name| *name == manifest.host)
    };
    let backups: Vec<ListedBackup> = catalog.published.iter().filter(wanted).map(ListedBackup::from).collect();
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
        "{:32}  {:host$}  {:name$}  {:11}  {:20}  {:>9}  {:>9}  {:>9}",
        "id", "host", "subvolume", "kind", "created", "stream", "new", "stored"
    ))?;
    for backup in backups {
        let size = |bytes| ByteSize::from_bytes(bytes).to_string();
        let created =
            backup.created_at.split_once('.').map_or_else(|| backup.created_at.clone(), |(s, _)| format!("{s}Z"));
        output::line(&format!(
            "{:32}  {:host$}  {:name$}  {:11}  {:20}  {:>9}  {:>9}  {:>9}",
            backup.id,
            backup.host,
            backup.subvolume,
            backup.kind,
            created,
            size(backup.stream_bytes),
            size(backup.new_bytes),
            size(backup.stored_bytes)
        ))?;
    }
    Ok(())
}
