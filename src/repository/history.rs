//! What is known of a subvolume beyond its backups that are still there: when its restore was tried, and since when it has
//! been backed up. Forgetting and pruning backups takes nothing of it away.

use jiff::Timestamp;

use crate::id::SessionId;
use crate::records::note::NoteKind;
use crate::repository::cache::RecordCache;
use crate::repository::catalog::Catalog;
use crate::repository::notes::{Note, Notes};
use crate::repository::session::read_start;
use crate::repository::{Damage, Repository};

/// What a session is for that backs a subvolume up.
const BACKUP: &str = "backup";

/// All rehearsals of a host's subvolume, the last one last, also those of backups that were forgotten or pruned since.
///
/// A note that does not say of what its backup is counts as long as the backup's manifest is there.
#[must_use]
pub fn rehearsals<'a>(notes: &'a Notes, catalog: &Catalog, host: &str, subvolume: &str) -> Vec<&'a Note> {
    let is_meant = |note: &&Note| {
        if let Some(subject) = &note.record.subject {
            return subject.host == host && subject.subvolume == subvolume;
        }
        let backup = note.record.manifest.and_then(|id| catalog.find(id));
        backup.is_some_and(|backup| backup.manifest.host == host && backup.manifest.subvolume == subvolume)
    };
    let is_rehearsal = |note: &&Note| note.record.kind == NoteKind::Rehearsal;
    let mut found: Vec<&Note> = notes.of_all_backups().filter(is_rehearsal).filter(is_meant).collect();
    found.sort_by_key(|note| (note.stored_at, note.record.at, note.record.note));
    found
}

/// Since when a host's subvolume has been backed up, as far as can be told: by its oldest backup, or by the marker of the first
/// one that was forgotten, if a prune has deleted that.
///
/// Reads the starts of sessions whose backups have been pruned until it has found one; each host reads each once.
///
/// # Errors
///
/// If the store fails. A damaged start is passed over.
pub async fn first_backup_at(
    repository: &Repository,
    catalog: &Catalog,
    host: &str,
    subvolume: &str,
    cache: &RecordCache,
) -> anyhow::Result<Option<Timestamp>> {
    let there = catalog.all().map(|backup| &backup.manifest);
    let own = there.filter(|manifest| manifest.host == host && manifest.subvolume == subvolume);
    let oldest = own.map(|manifest| manifest.created_at).min();
    for (id, forgotten_at) in &catalog.pruned {
        if oldest.is_some_and(|oldest| oldest <= *forgotten_at) {
            break;
        }
        match read_start(repository, SessionId::from(*id), cache).await {
            Ok(start) if start.purpose == BACKUP && start.host == host && start.subvolume == subvolume => {
                return Ok(Some(*forgotten_at));
            }
            Ok(_) => {}
            Err(error) if error.downcast_ref::<Damage>().is_some() => {
                tracing::debug!(error = %format!("{error:#}"), "passed over");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(oldest)
}
