//! `show`

use serde_json::{Value, json};

use crate::cli::context::Context;
use crate::cli::output;
use crate::records::manifest::Manifest;
use crate::records::note::{NoteKind, RehearsalMethod, TrialOutcome};
use crate::repository::catalog::{Published, check_not_forgotten, find_manifest, read_manifest};
use crate::repository::notes::{Note, Notes};
use crate::send_stream::StreamDigest;
use crate::size::ByteSize;

/// Shows one backup
#[derive(Debug, clap::Args)]
pub(crate) struct ShowArguments {
    /// Its id, or as much of it as no other id begins with
    id: String,
    /// Prints JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn cmd_show(context: &Context, arguments: &ShowArguments) -> anyhow::Result<()> {
    let repository = context.repository().await?;
    let id = find_manifest(&repository, &arguments.id).await?;
    check_not_forgotten(&repository, id).await?;
    let backup = read_manifest(&repository, id).await?;
    let notes = Notes::load(&repository, &context.record_cache(&repository)).await?;
    if arguments.json {
        output::json(&as_json(&backup, &notes))
    } else {
        output::text(&(as_text(&backup) + &notes_as_text(&backup, &notes)))
    }
}

fn note_as_json(note: &Note) -> Value {
    let record = &note.record;
    json!({
        "kind": record.kind,
        "stored_at": note.stored_at,
        "host": record.host,
        "tags": record.tags,
        "result": record.result.as_ref().map(|result| json!({
            "outcome": result.outcome,
            "reason": result.reason,
            "bytes": result.bytes,
            "seconds": result.seconds,
            "method": result.method.map(RehearsalMethod::as_str),
        })),
    })
}

/// The tags, and what came of checks and rehearsals.
fn notes_as_text(backup: &Published, notes: &Notes) -> String {
    let tags: Vec<String> = notes.tags(backup.id()).into_iter().collect();
    let mut lines = Vec::new();
    if !tags.is_empty() {
        lines.push(("tags", tags.join(", ")));
    }
    for note in notes.of(backup.id()) {
        let Some(result) = &note.record.result else { continue };
        let what = match note.record.kind {
            NoteKind::Rehearsal => "rehearsed",
            _ => "checked",
        };
        let how = result.method.map_or(String::new(), |method| format!(" ({})", method.as_str()));
        let outcome = match result.outcome {
            TrialOutcome::Good => "good",
            TrialOutcome::Damaged => "damaged",
            TrialOutcome::Failed => "failed",
            TrialOutcome::Unknown => "unknown",
        };
        let reason = if result.reason.is_empty() { String::new() } else { format!(": {}", result.reason) };
        lines.push((what, format!("{} on {}: {outcome}{how}{reason}", note.stored_at, note.record.host)));
    }
    lines.iter().fold(String::new(), |text, (name, value)| text + &format!("{name:15} {value}\n"))
}

fn as_json(backup: &Published, notes: &Notes) -> Value {
    let manifest = &backup.manifest;
    let trees = manifest.roots.iter().map(|root| {
        let root_id = root.tree.root.map(|id| id.to_string());
        json!({ "kind": root.kind, "bytes": root.tree.bytes, "height": root.tree.height, "root": root_id })
    });
    json!({
        "id": backup.id().to_string(),
        "digest": backup.digest.to_string(),
        "host": manifest.host,
        "subvolume": manifest.subvolume,
        "kind": manifest.kind,
        "started_at": manifest.started_at,
        "created_at": manifest.created_at,
        "snapshot": manifest.snapshot.as_ref().map(|snapshot| json!({
            "uuid": snapshot.uuid.to_string(),
            "ctransid": snapshot.ctransid,
            "path": String::from_utf8_lossy(&snapshot.path),
        })),
        "parent": manifest.parent.as_ref().map(|parent| json!({
            "id": parent.manifest.to_string(),
            "digest": parent.digest.to_string(),
            "uuid": parent.uuid.to_string(),
            "ctransid": parent.ctransid,
        })),
        "requires": manifest.requires.iter().map(|origin| json!({
            "uuid": origin.uuid.to_string(),
            "ctransid": origin.ctransid,
        })).collect::<Vec<_>>(),
        "stream": {
            "version": manifest.stream.version,
            "bytes": manifest.stream.bytes,
            "digest_algorithm": manifest.stream.digest_algorithm,
            "digest": stream_digest(manifest),
            "compressed_data": manifest.stream.compressed_data,
        },
        "trees": trees.collect::<Vec<_>>(),
        "meta_packs": manifest.meta_packs.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "chunks": manifest.totals.chunks,
        "new_chunks": manifest.totals.new_chunks,
        "new_bytes": manifest.totals.new_bytes,
        "stored_bytes": backup.stored_bytes,
        "copied_from": manifest.copied_from.map(|id| id.to_string()),
        "copied_from_repository": manifest.copied_from_repository.map(|id| id.to_string()),
        "tags": notes.tags(backup.id()),
        "notes": notes.of(backup.id()).iter().map(note_as_json).collect::<Vec<_>>(),
        "tool": manifest.tool,
    })
}

fn stream_digest(manifest: &Manifest) -> String {
    StreamDigest::from_bytes(manifest.stream.digest.into_array()).to_string()
}

fn as_text(backup: &Published) -> String {
    let manifest = &backup.manifest;
    let size = |bytes| ByteSize::from_bytes(bytes).to_string();
    let mut lines = vec![
        ("backup", backup.id().to_string()),
        ("of", format!("'{}' on host {}", manifest.subvolume, manifest.host)),
        ("kind", manifest.kind.to_string()),
        ("snapshot taken", manifest.created_at.to_string()),
    ];
    lines.extend(manifest.snapshot.as_ref().map(|snapshot| {
        let name = String::from_utf8_lossy(&snapshot.path);
        ("snapshot", format!("{name}, UUID {}, ctransid {}", snapshot.uuid, snapshot.ctransid))
    }));
    lines.extend(manifest.parent.as_ref().map(|parent| ("made against", format!("backup {}", parent.manifest))));
    lines.extend(manifest.requires.iter().map(|origin| ("clones from", origin.to_string())));
    let of_repository = manifest.copied_from_repository.map(|id| format!(" of repository {id}")).unwrap_or_default();
    lines.extend(manifest.copied_from.map(|origin| ("copy of", format!("backup {origin}{of_repository}"))));
    let version =
        manifest.stream.version.map_or("opaque".to_owned(), |version| format!("send stream, version {version}"));
    let totals = &manifest.totals;
    lines.extend([
        ("stream", format!("{} ({} bytes), {version}", size(manifest.stream.bytes), manifest.stream.bytes)),
        ("stream digest", format!("{} {}", manifest.stream.digest_algorithm, stream_digest(manifest))),
        ("chunks", format!("{}; {} new ones were stored, tree nodes among them", totals.chunks, totals.new_chunks)),
        ("new", size(totals.new_bytes)),
        ("stored", format!("{} in {} packs", size(backup.stored_bytes), totals.packs)),
        ("written by", manifest.tool.clone()),
    ]);
    lines.iter().fold(String::new(), |text, (name, value)| text + &format!("{name:15} {value}\n"))
}
