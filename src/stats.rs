//! What a repository holds: how much was backed up, how much of it was new, and what that takes.

use std::collections::{BTreeMap, HashSet};

use jiff::Timestamp;

use crate::id::ManifestId;
use crate::pack::format::PackClass;
use crate::repository::catalog::{Catalog, Published};
use crate::repository::index::read_segment;
use crate::repository::{Repository, layout};
use crate::store::list_all;

/// Objects of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stored {
    /// How many.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Backups of one host's subvolume, or of one month, or all of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Group {
    /// Backups.
    pub backups: u64,
    /// Bytes of their streams: what would be stored without deduplication and compression.
    pub logical_bytes: u64,
    /// Plaintext bytes that each found to be new when it was made.
    pub new_bytes: u64,
    /// Bytes of the objects that each has stored.
    pub stored_bytes: u64,
    /// When the first one was taken.
    pub first: Option<Timestamp>,
    /// When the last one was taken.
    pub last: Option<Timestamp>,
}

impl Group {
    fn add(&mut self, backup: &Published) {
        let manifest = &backup.manifest;
        self.backups += 1;
        self.logical_bytes = self.logical_bytes.saturating_add(manifest.stream.bytes);
        self.new_bytes = self.new_bytes.saturating_add(manifest.totals.new_bytes);
        self.stored_bytes = self.stored_bytes.saturating_add(backup.stored_bytes);
        let at = Some(manifest.created_at);
        self.first = self.first.into_iter().chain(at).min();
        self.last = self.last.into_iter().chain(at).max();
    }
}

/// What a repository holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Backups that count.
    pub all: Group,
    /// The same by host and subvolume.
    pub by_source: BTreeMap<(String, String), Group>,
    /// The same by the month of the snapshot, such as `2026-01`.
    pub by_month: BTreeMap<String, Group>,
    /// Backups that were forgotten and are still there.
    pub forgotten: Group,
    /// Plaintext bytes of all chunks in packs, by the index.
    pub plaintext_bytes: u64,
    /// Packs of file data.
    pub data: Stored,
    /// Packs of metadata.
    pub meta: Stored,
    /// Index segments.
    pub index: Stored,
    /// Everything else: sessions, manifests, notes, markers.
    pub other: Stored,
    /// The backup of which most was new.
    pub largest: Option<ManifestId>,
}

impl Stats {
    /// All bytes in the store.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        [self.data, self.meta, self.index, self.other].iter().map(|stored| stored.bytes).sum()
    }
}

/// Gathers the figures: from the manifests, one listing of everything, and the index, which is read.
///
/// # Errors
///
/// If the index is damaged, or the store fails.
pub async fn stats(repository: &Repository, catalog: &Catalog) -> anyhow::Result<Stats> {
    let mut stats = of_backups(catalog);
    let (mut segments, mut packs) = (Vec::new(), HashSet::new());
    for object in list_all(repository.store().as_ref(), "").await? {
        let kind = if object.key.as_str().starts_with(layout::packs(PackClass::Data)) {
            &mut stats.data
        } else if object.key.as_str().starts_with(layout::packs(PackClass::Meta)) {
            &mut stats.meta
        } else if object.key.as_str().starts_with(layout::SEGMENTS) {
            &mut stats.index
        } else {
            &mut stats.other
        };
        segments.extend(layout::parse_segment_key(&object.key));
        packs.extend(layout::parse_pack_key(&object.key));
        kind.objects += 1;
        kind.bytes += object.size_bytes;
    }
    for segment in segments {
        for record in read_segment(repository, segment).await?.packs {
            // Several segments may name a pack, and one that is gone.
            if packs.remove(&(record.footer.class, record.id)) {
                let lengths = record.footer.chunks.iter().map(|chunk| u64::from(chunk.length_bytes));
                stats.plaintext_bytes += lengths.sum::<u64>();
            }
        }
    }
    Ok(stats)
}

fn of_backups(catalog: &Catalog) -> Stats {
    let mut stats = Stats::default();
    for backup in &catalog.published {
        let manifest = &backup.manifest;
        stats.all.add(backup);
        stats.by_source.entry((manifest.host.clone(), manifest.subvolume.clone())).or_default().add(backup);
        stats.by_month.entry(manifest.created_at.strftime("%Y-%m").to_string()).or_default().add(backup);
    }
    for forgotten in &catalog.forgotten {
        stats.forgotten.add(&forgotten.backup);
    }
    stats.largest = catalog.published.iter().max_by_key(|backup| backup.manifest.totals.new_bytes).map(Published::id);
    stats
}
