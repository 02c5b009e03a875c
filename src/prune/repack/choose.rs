//! Which packs are rewritten: those that are mostly unused, until little enough is, and small ones when there are many.
//! Nothing here asks or changes anything.

use std::cmp::Reverse;
use std::collections::HashSet;

use jiff::Timestamp;

use crate::id::PackId;
use crate::pack::format::PackClass;
use crate::prune::limits::RepackOptions;
use crate::prune::report::Amount;
use crate::store::StorageClassName;

/// A pack with less than this part of what a new one has is small, if it has also less than this: what was large does not
/// become small when larger packs are asked for.
const SMALL_PART: u64 = 4;
const SMALL_BYTES_MAX: u64 = 8 << 20;
/// So many small ones are merged if that makes one which is not small, and more of them in any case.
const MERGED_LEAST: usize = 8;
const MERGED_ALWAYS: usize = 64;

/// A pack that stays as it is unless it is rewritten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PackUse {
    pub(super) class: PackClass,
    pub(super) id: PackId,
    pub(super) size_bytes: u64,
    pub(super) stored_at: Timestamp,
    pub(super) storage_class: Option<StorageClassName>,
    /// Plaintext of all its chunks.
    pub(super) plaintext_bytes: u64,
    /// Plaintext of those that are needed and kept here.
    pub(super) needed_bytes: u64,
    /// Plaintext of those that are needed and kept elsewhere.
    pub(super) duplicate_bytes: u64,
}

impl PackUse {
    /// Bytes of the object that are there for what is needed. Which parts compress how well is not known: as if all did so
    /// alike.
    pub(super) fn used_bytes(&self) -> u64 {
        let used = u128::from(self.size_bytes) * u128::from(self.needed_bytes);
        u64::try_from(used / u128::from(self.plaintext_bytes.max(1))).unwrap_or(u64::MAX).min(self.size_bytes)
    }

    pub(super) fn unused_bytes(&self) -> u64 {
        self.size_bytes - self.used_bytes()
    }

    fn is_archived(&self) -> bool {
        self.storage_class.as_ref().is_some_and(StorageClassName::is_archival)
    }

    /// In millionths.
    fn unused_share(&self) -> u64 {
        let share = u128::from(self.unused_bytes()) * 1_000_000 / u128::from(self.size_bytes.max(1));
        u64::try_from(share).unwrap_or(u64::MAX)
    }
}

/// What is rewritten of one class.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Choice {
    /// In the order in which they were stored.
    pub(super) packs: Vec<PackUse>,
    /// Unused bytes of packs that could be rewritten and stay as they are.
    pub(super) unused_bytes: u64,
}

/// How far packs are rewritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_field_names, reason = "all are amounts of bytes")]
pub(super) struct Limits {
    /// Bytes that may stay unused.
    pub(super) unused_bytes: u64,
    /// Bytes of packs that may be rewritten.
    pub(super) rewritten_bytes: u64,
    /// A pack that is shorter is small.
    pub(super) small_below_bytes: u64,
}

/// Packs of one class of which something is needed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Candidates {
    /// Those that can be rewritten.
    pub(super) packs: Vec<PackUse>,
    /// Unused bytes of packs that are archived, and so not read.
    pub(super) archived: Amount,
    /// Unused bytes of packs that would be paid for all the same.
    pub(super) paid_for: Amount,
}

impl Candidates {
    pub(super) fn new(uses: Vec<PackUse>, options: &RepackOptions, now: Timestamp) -> Self {
        let mut candidates = Self::default();
        for pack in uses {
            let unused_bytes = pack.unused_bytes();
            let amount = if pack.is_archived() {
                &mut candidates.archived
            } else if options.is_paid_for(pack.storage_class.as_ref(), pack.stored_at, now) {
                &mut candidates.paid_for
            } else {
                candidates.packs.push(pack);
                continue;
            };
            if unused_bytes > 0 {
                amount.add(unused_bytes);
            }
        }
        candidates
    }

    pub(super) fn used_bytes(&self) -> u64 {
        self.packs.iter().map(PackUse::used_bytes).fold(0, u64::saturating_add)
    }
}

/// Chooses which packs are rewritten.
pub(super) fn choose_packs(candidates: &[PackUse], limits: Limits) -> Choice {
    let mut room = limits.rewritten_bytes;
    let mut chosen = most_unused(candidates, limits.unused_bytes, &mut room);
    let chosen_ids: HashSet<PackId> = chosen.iter().map(|pack| pack.id).collect();
    let is_small = |pack: &&PackUse| pack.size_bytes < limits.small_below_bytes && !chosen_ids.contains(&pack.id);
    chosen.extend(small_ones(candidates.iter().filter(is_small), limits.small_below_bytes, &mut room));
    chosen.sort_by_key(|pack| (pack.stored_at, pack.id));
    let packs: Vec<PackUse> = chosen.into_iter().cloned().collect();
    Choice { unused_bytes: unused_of(candidates) - unused_of(&packs), packs }
}

fn unused_of(packs: &[PackUse]) -> u64 {
    packs.iter().map(PackUse::unused_bytes).fold(0, u64::saturating_add)
}

/// The fewest packs that have to be rewritten so that no more than `allowed` bytes stay unused: those with the largest unused
/// part.
fn most_unused<'a>(candidates: &'a [PackUse], allowed: u64, room: &mut u64) -> Vec<&'a PackUse> {
    let mut unused = unused_of(candidates);
    let mut by_share: Vec<&PackUse> = candidates.iter().filter(|pack| pack.unused_bytes() > 0).collect();
    by_share.sort_by_key(|pack| (Reverse(pack.unused_share()), pack.id));
    let mut chosen = Vec::new();
    for pack in by_share {
        if unused <= allowed {
            break;
        }
        if take(pack, room) {
            unused -= pack.unused_bytes();
            chosen.push(pack);
        }
    }
    chosen
}

/// Small packs that are worth merging: never so that what they make is as small, unless they are very many.
fn small_ones<'a>(
    small: impl Iterator<Item = &'a PackUse>,
    small_below_bytes: u64,
    room: &mut u64,
) -> Vec<&'a PackUse> {
    let mut left = *room;
    let chosen: Vec<&PackUse> = small.filter(|pack| take(pack, &mut left)).collect();
    let used: u64 = chosen.iter().map(|pack| pack.used_bytes()).sum();
    let pays = chosen.len() >= MERGED_ALWAYS || (chosen.len() >= MERGED_LEAST && used >= small_below_bytes);
    if !pays {
        return Vec::new();
    }
    *room = left;
    chosen
}

/// Takes a pack if there is room for it.
fn take(pack: &PackUse, room: &mut u64) -> bool {
    let left = room.checked_sub(pack.size_bytes);
    *room = left.unwrap_or(*room);
    left.is_some()
}

/// Packs of a class that are shorter than this are small.
pub(super) fn small_below_bytes(target_bytes: usize) -> u64 {
    (target_bytes as u64 / SMALL_PART).min(SMALL_BYTES_MAX)
}

#[cfg(test)]
mod tests;
