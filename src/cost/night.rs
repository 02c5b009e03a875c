//! What the next backups will add, judged by those before.

use super::money::Money;
use super::prices::Prices;
use crate::store::StorageClassName;

/// Backups of one subvolume that are looked at, the newest of them.
pub const BACKUPS_LOOKED_AT: usize = 7;
/// Records that a backup stores besides packs and segments: the session's start, the manifest, the session's end.
const RECORDS: u64 = 3;
/// LISTs of a run, besides those that the number of objects makes necessary.
const LISTS: u64 = 13;
const LISTED_AT_ONCE: u64 = 1000;

/// What one backup has stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stored {
    /// Bytes.
    pub bytes: u64,
    /// Packs.
    pub packs: u64,
}

/// Objects of one kind that are there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// How many.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Where what is new will go, and how it will be divided: as what is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// Packs of file data.
    pub data: Held,
    /// The class of new ones.
    pub data_class: StorageClassName,
    /// Packs of metadata, and segments.
    pub metadata: Held,
    /// The class of new ones, and of records.
    pub metadata_class: StorageClassName,
    /// Objects of all kinds.
    pub objects: u64,
}

/// What the next backups will probably add.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NightCost {
    /// Backups, one of each subvolume.
    pub backups: u64,
    /// Bytes that they store.
    pub bytes: u64,
    /// Objects that they store.
    pub objects: u64,
    /// For requests, once.
    pub requests: Money,
    /// For storage, each month from then on.
    pub month: Money,
}

/// The usual one among the last backups of a subvolume, the newest last: that of middle size, so that neither a full backup
/// nor an empty one decides.
#[must_use]
pub fn usual(backups: &[Stored]) -> Stored {
    let mut last = backups[backups.len().saturating_sub(BACKUPS_LOOKED_AT)..].to_vec();
    last.sort_unstable();
    last.get(last.len().saturating_sub(1) / 2).copied().unwrap_or_default()
}

/// What one more backup of each subvolume will add, if each is as usual. Classes without known prices cost nothing.
#[must_use]
pub fn next_night(usual: &[Stored], places: &Places, prices: &Prices) -> NightCost {
    let backups = usual.len() as u64;
    let bytes = usual.iter().map(|stored| stored.bytes).fold(0, u64::saturating_add);
    let packs = usual.iter().map(|stored| stored.packs).sum();
    let segments = usual.iter().filter(|stored| stored.packs > 0).count() as u64;
    let (data, metadata) = (places.data, places.metadata);
    let data_bytes = part(bytes, data.bytes, data.bytes.saturating_add(metadata.bytes));
    let data_packs = part(packs, data.objects, data.objects + metadata.objects);
    let of_data = Held { objects: data_packs, bytes: data_bytes };
    let others = packs - data_packs + segments + RECORDS * backups;
    let of_metadata = Held { objects: others, bytes: bytes - data_bytes };
    let lists = if backups == 0 { 0 } else { LISTS + places.objects / LISTED_AT_ONCE };
    let added = [(of_data, &places.data_class), (of_metadata, &places.metadata_class)];
    NightCost {
        backups,
        bytes,
        objects: of_data.objects + of_metadata.objects,
        requests: prices.list_per_1000.per_1000(lists)
            + added.iter().map(|(new, class)| puts(*new, class, prices)).sum(),
        month: added.iter().map(|(new, class)| storage(*new, class, prices)).sum(),
    }
}

/// The part of an amount that belongs to a share of a whole, rounded.
fn part(amount: u64, share: u64, whole: u64) -> u64 {
    let part = (u128::from(amount) * u128::from(share) + u128::from(whole) / 2) / u128::from(whole).max(1);
    u64::try_from(part).unwrap_or(amount).min(amount)
}

pub(super) fn puts(new: Held, class: &StorageClassName, prices: &Prices) -> Money {
    prices.of(class).map_or(Money::ZERO, |prices| prices.put_per_1000.per_1000(new.objects))
}

pub(super) fn storage(new: Held, class: &StorageClassName, of_all: &Prices) -> Money {
    let Some(prices) = of_all.of(class) else { return Money::ZERO };
    // Only records are smaller than what some classes count at least, and they are counted all the same.
    let least_bytes = new.bytes.max(new.objects.saturating_mul(prices.minimum_size_bytes));
    let overhead_bytes = new.objects.saturating_mul(prices.overhead_bytes);
    let in_standard = new.objects.saturating_mul(prices.overhead_standard_bytes);
    prices.storage_per_gb_month.per_gb(least_bytes.saturating_add(overhead_bytes))
        + of_all.standard_storage().per_gb(in_standard)
        + prices.monitoring_per_1000.per_1000(new.objects)
}
