//! What a run has cost, by what it asked of the server.

use super::money::Money;
use super::prices::{ClassPrices, Prices};
use crate::store::StorageClassName;
use crate::store::requests::{StoredInClass, Usage};

/// What a run has cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RunCost {
    /// For its requests, once.
    pub requests: Money,
    /// For keeping what it has stored, each month from then on.
    pub month: Money,
}

/// Works out what a run has cost; `None` where it has to do with a class whose prices are not known.
///
/// What a run reads is of the class of metadata, which is `metadata_class`. Its bytes are not counted.
#[must_use]
pub fn cost_of_run(usage: &Usage, metadata_class: &StorageClassName, prices: &Prices) -> Option<RunCost> {
    let mut cost = RunCost {
        requests: prices.list_per_1000.per_1000(usage.requests.lists)
            + prices.of(metadata_class)?.get_per_1000.per_1000(usage.requests.reads),
        month: Money::ZERO,
    };
    for (class, stored) in &usage.stored {
        let of_class = prices.of(class)?;
        cost.requests = cost.requests + of_class.put_per_1000.per_1000(stored.writes);
        cost.month = cost.month + month(stored, of_class, prices);
    }
    Some(cost)
}

/// What keeping these objects costs a month.
fn month(stored: &StoredInClass, prices: &ClassPrices, of_all: &Prices) -> Money {
    let least = prices.minimum_size_bytes;
    let rounded_up: u64 = stored.small.iter().map(|bytes| least.saturating_sub(*bytes)).sum();
    let overhead = stored.objects.saturating_mul(prices.overhead_bytes);
    let in_standard = stored.objects.saturating_mul(prices.overhead_standard_bytes);
    prices.storage_per_gb_month.per_gb(stored.bytes.saturating_add(rounded_up).saturating_add(overhead))
        + of_all.standard_storage().per_gb(in_standard)
        + prices.monitoring_per_1000.per_1000(stored.objects)
}
