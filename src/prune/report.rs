//! What a prune did, or would do.

use std::collections::BTreeMap;

use crate::id::PackId;
use crate::pack::format::PackClass;
use crate::prune::sessions::WaitedFor;
use crate::records::prune::Doomed;
use crate::store::StorageClassName;

/// What a prune did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PruneReport {
    /// What was deleted, or would be.
    pub deleted: Deleted,
    /// The packs among it, where their classes are known.
    pub deleted_packs: ByClass,
    /// What it waits for. The next prune does the rest.
    pub waits_for: Vec<WaitedFor>,
    /// How many sessions were given up.
    pub voided: usize,
    /// What was rewritten, or would be.
    pub repacked: Repacked,
    /// Index segments that were merged, or would be.
    pub merged: Merged,
    /// What stays although nothing needs it.
    pub kept: Kept,
}

/// Index segments that were merged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Merged {
    /// Those that others say the same as now.
    pub replaced: Amount,
    /// Those others. Unknown in a dry run.
    pub new: Amount,
}

/// Objects that were deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Deleted {
    /// Manifests: backups that were forgotten, and those that never came to exist.
    pub manifests: usize,
    /// Index segments.
    pub segments: usize,
    /// Packs.
    pub packs: usize,
    /// Bytes of these packs, where they are known: not of what another prune had found already.
    pub pack_bytes: u64,
}

impl PruneReport {
    /// Counts objects that were deleted, with what is known of the packs among them.
    pub(super) fn add_deleted(&mut self, objects: &Doomed, packs: &ByClass) {
        let deleted = &mut self.deleted;
        deleted.manifests += objects.manifests.len();
        deleted.segments += objects.segments.len();
        deleted.packs += objects.data_packs.len() + objects.meta_packs.len();
        deleted.pack_bytes += sum(packs).bytes;
        for (class, amount) in packs {
            let of_class = self.deleted_packs.entry(class.clone()).or_default();
            *of_class = of_class.and(*amount);
        }
    }
}

/// Some objects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amount {
    /// How many.
    pub objects: u64,
    /// Their bytes, or of these what the context says.
    pub bytes: u64,
}

impl Amount {
    /// Counts one more object.
    pub fn add(&mut self, bytes: u64) {
        self.objects += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }

    fn and(self, other: Self) -> Self {
        Self { objects: self.objects + other.objects, bytes: self.bytes.saturating_add(other.bytes) }
    }
}

/// Objects by their storage class; none where the store has no classes.
pub type ByClass = BTreeMap<Option<StorageClassName>, Amount>;

/// Packs that were rewritten, so that what is needed of them is in new ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Repacked {
    /// Those packs. In a dry run their needed bytes are an estimate, and so is all that follows.
    pub packs: ByClass,
    /// Bytes of theirs that nothing needs.
    pub unused_bytes: u64,
    /// Requests that read them, and bytes that these got.
    pub reads: ByClass,
    /// New packs of file data, as large as others are.
    pub new_data: Amount,
    /// New packs that are kept as metadata is: of metadata, and small ones.
    pub new_metadata: Amount,
    /// Packs that turned out damaged, and were left alone.
    pub damaged: Vec<(PackClass, PackId)>,
}

impl Repacked {
    /// All packs that were rewritten.
    #[must_use]
    pub fn all_packs(&self) -> Amount {
        sum(&self.packs)
    }

    /// All requests that read them.
    #[must_use]
    pub fn all_reads(&self) -> Amount {
        sum(&self.reads)
    }
}

fn sum(by_class: &ByClass) -> Amount {
    by_class.values().fold(Amount::default(), |sum, amount| sum.and(*amount))
}

/// What stays although nothing needs it, and why.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kept {
    /// Archived packs, which are not read, and what is unused of them.
    pub archived: Amount,
    /// Packs that would be paid for all the same, and what is unused of them.
    pub paid_for: Amount,
    /// Unused bytes of other packs of file data: as much as may stay.
    pub unused_bytes: u64,
}
