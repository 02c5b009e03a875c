//! Notes: what is said of backups, and of the repository, after they were published.

use std::collections::{BTreeSet, HashMap, HashSet};

use anyhow::ensure;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use jiff::Timestamp;

use crate::id::{ManifestId, NoteId, PackId};
use crate::object::{FormatError, ObjectKind, encode_record};
use crate::records::TOOL;
use crate::records::note::{NoteKind, NoteRecord, PackVerdicts, Subject, TagChange, TrialOutcome, TrialResult};
use crate::repository::cache::RecordCache;
use crate::repository::session::READS_AT_ONCE;
use crate::repository::{Damage, Repository, StoredAs, layout};
use crate::store::{ObjectInfo, Tier, list_all};

/// The longest tag, in bytes.
const TAG_BYTES_MAX: usize = 64;

/// A note as the repository has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// What it says.
    pub record: NoteRecord,
    /// When it was stored, by the store's clock.
    pub stored_at: Timestamp,
}

/// All notes of a repository, each list in the order in which they were stored.
#[derive(Debug, Default)]
pub struct Notes {
    of_backups: HashMap<ManifestId, Vec<Note>>,
    of_repository: Vec<Note>,
    /// What is wrong with those that cannot be read.
    pub damaged: Vec<anyhow::Error>,
}

impl Notes {
    /// Reads all notes.
    ///
    /// # Errors
    ///
    /// If the store fails. A damaged note is no error here: it stands in `damaged`.
    pub async fn load(repository: &Repository, cache: &RecordCache) -> anyhow::Result<Self> {
        Self::load_below(repository, layout::NOTES, cache).await
    }

    /// Reads those about the repository as a whole.
    ///
    /// # Errors
    ///
    /// As for [`load`](Self::load).
    pub(crate) async fn load_of_repository(repository: &Repository, cache: &RecordCache) -> anyhow::Result<Self> {
        Self::load_below(repository, &layout::notes_of_repository(), cache).await
    }

    async fn load_below(repository: &Repository, prefix: &str, cache: &RecordCache) -> anyhow::Result<Self> {
        let listed = list_all(repository.store().as_ref(), prefix).await?;
        let named = |object: ObjectInfo| layout::parse_note_key(&object.key).map(|(about, id)| (about, id, object));
        let wanted: Vec<_> = listed.into_iter().filter_map(named).collect();
        let mut read = stream::iter(wanted)
            .map(|(about, id, object)| async move { read_note(repository, about, id, &object, cache).await })
            .buffer_unordered(READS_AT_ONCE);
        let mut notes = Self::default();
        while let Some(note) = read.next().await {
            match note {
                Ok(note) => notes.list_of(note.record.manifest).push(note),
                Err(error) if error.downcast_ref::<Damage>().is_some() => notes.damaged.push(error),
                Err(error) => return Err(error),
            }
        }
        // Servers tell times in whole seconds; within one, the writer's clock decides.
        let order = |note: &Note| (note.stored_at, note.record.at, note.record.note);
        notes.of_backups.values_mut().for_each(|list| list.sort_by_key(order));
        notes.of_repository.sort_by_key(order);
        Ok(notes)
    }

    fn list_of(&mut self, about: Option<ManifestId>) -> &mut Vec<Note> {
        match about {
            Some(manifest) => self.of_backups.entry(manifest).or_default(),
            None => &mut self.of_repository,
        }
    }

    /// What was said of a backup, the latest last.
    #[must_use]
    pub fn of(&self, manifest: ManifestId) -> &[Note] {
        self.of_backups.get(&manifest).map_or(&[], Vec::as_slice)
    }

    /// What was said of the repository as a whole, the latest last.
    #[must_use]
    pub fn of_repository(&self) -> &[Note] {
        &self.of_repository
    }

    /// The tags that a backup has.
    #[must_use]
    pub fn tags(&self, manifest: ManifestId) -> BTreeSet<String> {
        let mut tags = BTreeSet::new();
        for change in self.of(manifest).iter().filter_map(|note| note.record.tags.as_ref()) {
            tags.extend(change.add.iter().cloned());
            tags.retain(|tag| !change.remove.contains(tag));
        }
        tags
    }

    /// The last note of a kind that was said of a backup.
    #[must_use]
    pub fn last(&self, manifest: ManifestId, kind: NoteKind) -> Option<&Note> {
        self.of(manifest).iter().rfind(|note| note.record.kind == kind)
    }

    /// All notes that were said of backups, those of one backup together.
    pub(crate) fn of_all_backups(&self) -> impl Iterator<Item = &Note> {
        self.of_backups.values().flatten()
    }

    /// The backups of which the last check has found something damaged.
    pub fn known_to_be_damaged(&self) -> impl Iterator<Item = ManifestId> {
        let mut ids: Vec<ManifestId> = self.of_backups.keys().copied().collect();
        ids.sort_unstable();
        ids.into_iter().filter(|id| self.known_damage(*id).is_some())
    }

    /// Packs that are not as they should be, by the last check that has judged each. They need not be there any more.
    #[must_use]
    pub fn bad_packs(&self) -> HashSet<PackId> {
        let mut bad = HashSet::new();
        for verdicts in self.of_repository.iter().filter_map(|note| note.record.verdicts.as_ref()) {
            bad.extend(&verdicts.bad);
            for pack in &verdicts.right {
                bad.remove(pack);
            }
        }
        bad
    }

    /// What the last check has found to be damaged of a backup.
    #[must_use]
    pub fn known_damage(&self, manifest: ManifestId) -> Option<&str> {
        let result = self.last(manifest, NoteKind::Check)?.record.result.as_ref()?;
        (result.outcome == TrialOutcome::Damaged).then_some(result.reason.as_str())
    }
}

async fn read_note(
    repository: &Repository,
    about: Option<ManifestId>,
    id: NoteId,
    object: &ObjectInfo,
    cache: &RecordCache,
) -> anyhow::Result<Note> {
    let check = |record: &NoteRecord, _: &StoredAs| {
        let fits = record.manifest == about && record.note == id;
        fits.then_some(()).ok_or_else(|| FormatError::invalid("it is another note"))
    };
    let (record, _) = repository.read_record(ObjectKind::Note, &object.key, cache, check).await?;
    Ok(Note { record, stored_at: object.modified_at })
}

/// What a note is to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// Tags are put on, or taken off.
    Tags(TagChange),
    /// What came of a check.
    Check(TrialResult),
    /// What came of a check, and which packs it has judged otherwise than those before it.
    Packs(TrialResult, PackVerdicts),
    /// What came of a rehearsal, and of what.
    Rehearsal(TrialResult, Subject),
}

/// Stores a note about a backup, or about the repository as a whole. One put, whole or not at all.
///
/// # Errors
///
/// If a tag is no tag, or this program may not write to the repository, or the store fails.
pub async fn put_note(
    repository: &Repository,
    about: Option<ManifestId>,
    host: &str,
    said: Said,
) -> anyhow::Result<NoteId> {
    repository.config().check_writable()?;
    let (kind, tags, result, subject, verdicts) = match said {
        Said::Tags(change) => (NoteKind::Tags, Some(change), None, None, None),
        Said::Check(result) => (NoteKind::Check, None, Some(result), None, None),
        Said::Packs(result, verdicts) => (NoteKind::Check, None, Some(result), None, Some(verdicts)),
        Said::Rehearsal(result, subject) => (NoteKind::Rehearsal, None, Some(result), Some(subject), None),
    };
    tags.iter().flat_map(|change| change.add.iter().chain(&change.remove)).try_for_each(|tag| check_tag(tag))?;
    let note = NoteId::drawn_from(repository.randomness().as_ref());
    let at = repository.clock().now();
    let (host, tool) = (host.to_owned(), TOOL.to_owned());
    let record = NoteRecord { note, manifest: about, at, host, kind, tags, result, subject, verdicts, tool };
    let body = Bytes::from(encode_record(ObjectKind::Note, repository.id(), &record));
    // The key is new: what exists is the answer to an earlier try.
    repository.store().put(&layout::note_key(about.as_ref(), &note), body, Tier::Metadata).await?;
    Ok(note)
}

/// Checks a text that is to be a tag.
///
/// # Errors
///
/// If it is empty, too long, or has a character that tags do not have.
pub fn check_tag(tag: &str) -> anyhow::Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ':' | '=');
    let good = (1..=TAG_BYTES_MAX).contains(&tag.len()) && tag.chars().all(plain);
    ensure!(good, "'{tag}' is not a tag: 1 to {TAG_BYTES_MAX} letters, digits, '.', '_', '-', ':' and '=' are needed");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_plain_and_short() {
        for good in ["keep", "before-upgrade", "year:2026", "a=b", &"x".repeat(64)] {
            check_tag(good).unwrap();
        }
        for bad in ["", "with space", "a/b", "a,b", "ü", "line\n", &"x".repeat(65)] {
            assert!(check_tag(bad).is_err(), "{bad}");
        }
    }
}
