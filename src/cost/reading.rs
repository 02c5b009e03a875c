//! What a restore will take: requests, bytes, time and money, before anything is asked for.

use std::collections::BTreeMap;
use std::time::Duration;

use super::MONTH_DAYS;
use super::money::Money;
use super::prices::{ClassPrices, Prices};
use crate::store::StorageClassName;
use crate::store::thaw::ThawTier;

/// Of each pack, its end is read.
const GETS_PER_PACK: u64 = 1;
/// The rest comes in pieces of about this size. A window of a restore is twice as long before compression.
const BYTES_PER_GET: u64 = 4 << 20;

/// Objects of one class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amount {
    /// How many.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Amount {
    /// Counts one more object.
    pub fn add(&mut self, bytes: u64) {
        self.objects += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// What is to be read, and what has to be thawed before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadingPlan {
    /// Packs, by class. One that several streams need is there once.
    pub packs: BTreeMap<StorageClassName, Amount>,
    /// Those of them that have to be thawed and of which nobody has asked for it.
    pub archived: BTreeMap<StorageClassName, Amount>,
    /// Those that are being thawed.
    pub thawing: Amount,
    /// Those that are archived and have a copy that can be read.
    pub thawed: Amount,
    /// Reads of packs, by class: one that several streams need is there for each.
    pub reads: BTreeMap<StorageClassName, Amount>,
    /// GETs that these reads take, by class.
    pub gets: BTreeMap<StorageClassName, u64>,
    /// Bytes that are read.
    pub bytes: u64,
}

impl ReadingPlan {
    /// Plans the reads of one stream: of these packs, each with its class and its bytes. Not more is read than the packs
    /// have, and hardly more than the stream has.
    pub fn add_stream<'a>(&mut self, packs: impl Iterator<Item = (&'a StorageClassName, u64)>, stream_bytes: u64) {
        let mut all_bytes = 0_u64;
        for (class, bytes) in packs {
            self.reads.entry(class.clone()).or_default().add(bytes);
            *self.gets.entry(class.clone()).or_default() += GETS_PER_PACK + bytes.div_ceil(BYTES_PER_GET);
            all_bytes = all_bytes.saturating_add(bytes);
        }
        self.bytes = self.bytes.saturating_add(all_bytes.min(stream_bytes));
    }

    /// Bytes of packs that are archived, whether they have a copy or not.
    #[must_use]
    pub fn cold_bytes(&self) -> u64 {
        let archived = self.archived.values().map(|amount| amount.bytes).fold(0, u64::saturating_add);
        archived.saturating_add(self.thawing.bytes).saturating_add(self.thawed.bytes)
    }

    /// Requests that read, all classes together.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.gets.values().sum()
    }
}

/// How a restore is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Bytes that come in a second.
    pub bytes_per_second: u64,
    /// Days for which thawed copies are kept.
    pub thaw_days: u32,
}

/// What a restore will take.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadingCost {
    /// For requests that read.
    pub requests: Money,
    /// For bytes read out of classes that take money for it without being archived.
    pub retrieval: Money,
    /// For bytes that leave the provider's network.
    pub transfer_out: Money,
    /// How long reading takes.
    pub reading_time: Duration,
    /// What comes on top of it where packs have to be thawed, by tier.
    pub thaws: Vec<ThawCost>,
    /// Classes whose prices are not known; they are left out of the amounts.
    pub unknown_classes: Vec<StorageClassName>,
}

/// What thawing by one tier costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThawCost {
    /// The tier.
    pub tier: ThawTier,
    /// When the slowest pack can be read.
    pub longest: Duration,
    /// For the requests and the bytes.
    pub thaw: Money,
    /// For keeping the copies.
    pub copies: Money,
}

impl ReadingCost {
    /// All but thaws.
    #[must_use]
    pub fn without_thaw(&self) -> Money {
        self.requests + self.retrieval + self.transfer_out
    }
}

/// Works out what a plan costs.
#[must_use]
pub fn cost_of(plan: &ReadingPlan, reading: Reading, prices: &Prices) -> ReadingCost {
    let of = |class: &StorageClassName| prices.of(class);
    let gets = |(class, count): (&StorageClassName, &u64)| Some(of(class)?.get_per_1000.per_1000(*count));
    // No more is paid for than is read, and which pack that is from cannot be told.
    let read_bytes: u128 = plan.reads.values().map(|amount| u128::from(amount.bytes)).sum();
    let retrieved = |(class, amount): (&StorageClassName, &Amount)| {
        let all = of(class)?.retrieval_per_gb.per_gb(amount.bytes);
        Some(all.share(u128::from(plan.bytes), read_bytes.max(1)))
    };
    ReadingCost {
        requests: plan.gets.iter().filter_map(gets).sum(),
        retrieval: plan.reads.iter().filter_map(retrieved).sum(),
        transfer_out: prices.transfer_out_per_gb.per_gb(plan.bytes),
        reading_time: Duration::from_secs(plan.bytes.div_ceil(reading.bytes_per_second.max(1))),
        thaws: ThawTier::ALL.into_iter().filter_map(|tier| thaw_cost(plan, tier, reading, prices)).collect(),
        unknown_classes: plan.packs.keys().filter(|class| of(class).is_none()).cloned().collect(),
    }
}

/// What thawing by a tier costs; none where there is nothing to thaw, or a class does not know the tier.
fn thaw_cost(plan: &ReadingPlan, tier: ThawTier, reading: Reading, prices: &Prices) -> Option<ThawCost> {
    let longest = plan.archived.keys().map(|class| tier.longest(class)).collect::<Option<Vec<_>>>()?;
    let thaw = |(class, amount): (&StorageClassName, &Amount)| {
        let of_tier = prices.of(class).and_then(|prices: &ClassPrices| prices.thaws.get(&tier))?;
        Some(of_tier.per_gb.per_gb(amount.bytes) + of_tier.per_1000.per_1000(amount.objects))
    };
    // Where objects are thawed to stay, as in INTELLIGENT_TIERING, there is no copy.
    let has_copy = |(class, _): &(&StorageClassName, &Amount)| !class.may_archive();
    let copied = plan.archived.iter().filter(has_copy).map(|(_, amount)| amount.bytes);
    let bytes = copied.fold(0, u64::saturating_add);
    Some(ThawCost {
        tier,
        longest: longest.into_iter().max()?,
        thaw: plan.archived.iter().filter_map(thaw).sum(),
        copies: prices.standard_storage().per_gb(bytes).share(u128::from(reading.thaw_days), u128::from(MONTH_DAYS)),
    })
}
