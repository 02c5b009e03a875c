//! What is kept, by class, and what that costs a month.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::MONTH_DAYS;
use super::money::Money;
use super::prices::{ClassPrices, Prices};
use crate::store::thaw::ThawTier;
use crate::store::{ObjectInfo, StorageClassName};

const DAY_SECONDS: i64 = 24 * 60 * 60;

/// What is kept in one class, and what it costs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassCost {
    /// The class.
    pub class: StorageClassName,
    /// Objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What is paid for: small objects count as larger ones, and each object has an overhead.
    pub billed_bytes: u64,
    /// Objects that are not as old yet as they are paid for.
    pub young_objects: u64,
    /// The prices that apply; none if none are known.
    pub amounts: Option<Amounts>,
}

/// What one class costs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Keeping the bytes for a month.
    pub storage: Money,
    /// Keeping the overhead of each object for a month, and watching it.
    pub overhead: Money,
    /// What is still to be paid for storage if all is deleted at once.
    pub early_deletion: Money,
    /// Getting all of it back: by tier where it has to be thawed, else one amount without a tier. GETs are among it.
    pub retrieval: Vec<(Option<ThawTier>, Money)>,
}

impl Amounts {
    /// All that is paid each month.
    #[must_use]
    pub fn month(&self) -> Money {
        self.storage + self.overhead
    }
}

/// Sums over the objects of a class.
#[derive(Debug, Default)]
struct Sums {
    objects: u64,
    bytes: u64,
    /// As if no object were smaller than the class's smallest.
    least_bytes: u64,
    young_objects: u64,
    /// Bytes times the days for which they are still paid.
    young_byte_days: u128,
}

impl Sums {
    fn add(&mut self, object: &ObjectInfo, prices: Option<&ClassPrices>, now: Timestamp) {
        let least_bytes = object.size_bytes.max(prices.map_or(0, |prices| prices.minimum_size_bytes));
        let days_left = prices.map_or(0, |prices| days_left(object, prices, now));
        self.objects += 1;
        self.bytes = self.bytes.saturating_add(object.size_bytes);
        self.least_bytes = self.least_bytes.saturating_add(least_bytes);
        self.young_objects += u64::from(days_left > 0);
        self.young_byte_days += u128::from(least_bytes) * u128::from(days_left);
    }

    fn amounts(&self, prices: &ClassPrices, of_all: &Prices) -> Amounts {
        let own = prices.storage_per_gb_month;
        let overhead = own.per_gb(self.objects.saturating_mul(prices.overhead_bytes));
        let in_standard = self.objects.saturating_mul(prices.overhead_standard_bytes);
        let gets = prices.get_per_1000.per_1000(self.objects);
        let retrieval = if prices.thaws.is_empty() {
            vec![(None, gets + prices.retrieval_per_gb.per_gb(self.bytes))]
        } else {
            let of_tier = |(tier, thaw): (&ThawTier, &super::prices::ThawPrices)| {
                (Some(*tier), gets + thaw.per_gb.per_gb(self.bytes) + thaw.per_1000.per_1000(self.objects))
            };
            prices.thaws.iter().map(of_tier).collect()
        };
        Amounts {
            storage: own.per_gb(self.least_bytes),
            overhead: overhead
                + of_all.standard_storage().per_gb(in_standard)
                + prices.monitoring_per_1000.per_1000(self.objects),
            early_deletion: own.share(self.young_byte_days, u128::from(super::GB * MONTH_DAYS)),
            retrieval,
        }
    }
}

/// For how many days an object is paid for, if it is deleted now. A day that has begun counts as passed only when it is over.
fn days_left(object: &ObjectInfo, prices: &ClassPrices, now: Timestamp) -> u32 {
    let seconds = now.as_second().saturating_sub(object.modified_at.as_second()).max(0);
    let days = u32::try_from(seconds / DAY_SECONDS).unwrap_or(u32::MAX);
    prices.minimum_days.saturating_sub(days)
}

/// What these objects cost, by class. An object whose class is not known counts as one of STANDARD.
#[must_use]
pub fn cost_of(objects: &[ObjectInfo], prices: &Prices, now: Timestamp) -> Vec<ClassCost> {
    let mut by_class: BTreeMap<StorageClassName, Sums> = BTreeMap::new();
    for object in objects {
        let class = object.storage_class.clone().unwrap_or_else(StorageClassName::standard);
        let of_class = prices.of(&class);
        by_class.entry(class).or_default().add(object, of_class, now);
    }
    let cost = |(class, sums): (StorageClassName, Sums)| {
        let of_class = prices.of(&class);
        let overhead_bytes = of_class.map_or(0, |prices| prices.overhead_bytes + prices.overhead_standard_bytes);
        ClassCost {
            objects: sums.objects,
            bytes: sums.bytes,
            billed_bytes: sums.least_bytes.saturating_add(sums.objects.saturating_mul(overhead_bytes)),
            young_objects: sums.young_objects,
            amounts: of_class.map(|of_class| sums.amounts(of_class, prices)),
            class,
        }
    };
    by_class.into_iter().map(cost).collect()
}

/// All that is paid each month. Classes without known prices are left out.
#[must_use]
pub fn month(classes: &[ClassCost]) -> Money {
    classes.iter().filter_map(|class| class.amounts.as_ref()).map(Amounts::month).sum()
}
