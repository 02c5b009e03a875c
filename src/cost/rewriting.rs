//! What it costs to rewrite packs, and what that and deleting others saves each month.

use std::collections::BTreeMap;

use super::money::Money;
use super::night::{Held, puts, storage};
use super::prices::Prices;
use crate::store::StorageClassName;

/// Objects by the class they have, or will have.
pub type HeldByClass = BTreeMap<StorageClassName, Held>;

/// What a prune reads, stores and deletes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rewriting {
    /// Requests that read, and the bytes they get.
    pub reads: HeldByClass,
    /// New objects.
    pub new: HeldByClass,
    /// Objects that are deleted; none of them younger than it is paid for.
    pub deleted: HeldByClass,
}

/// What that costs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RewritingCost {
    /// For requests that read and store, once.
    pub requests: Money,
    /// For bytes read out of classes that take money for it, once.
    pub retrieval: Money,
    /// For bytes that leave the provider's network, once.
    pub transfer_out: Money,
    /// What new objects cost each month.
    pub new_month: Money,
    /// What deleted ones would have cost each month.
    pub deleted_month: Money,
    /// Classes whose prices are not known; they are left out of the amounts.
    pub unknown_classes: Vec<StorageClassName>,
}

impl RewritingCost {
    /// All that is paid once.
    #[must_use]
    pub fn once(&self) -> Money {
        self.requests + self.retrieval + self.transfer_out
    }
}

/// Works out what a prune costs.
#[must_use]
pub fn cost_of(rewriting: &Rewriting, prices: &Prices) -> RewritingCost {
    let Rewriting { reads, new, deleted } = rewriting;
    let gets = |(class, held): (&StorageClassName, &Held)| Some(prices.of(class)?.get_per_1000.per_1000(held.objects));
    let retrieved =
        |(class, held): (&StorageClassName, &Held)| Some(prices.of(class)?.retrieval_per_gb.per_gb(held.bytes));
    let month = |held: &HeldByClass| held.iter().map(|(class, held)| storage(*held, class, prices)).sum();
    let stored: Money = new.iter().map(|(class, held)| puts(*held, class, prices)).sum();
    let mut unknown_classes: Vec<StorageClassName> = [reads, new, deleted]
        .into_iter()
        .flat_map(BTreeMap::keys)
        .filter(|class| prices.of(class).is_none())
        .cloned()
        .collect();
    unknown_classes.sort();
    unknown_classes.dedup();
    RewritingCost {
        requests: reads.iter().filter_map(gets).sum::<Money>() + stored,
        retrieval: reads.iter().filter_map(retrieved).sum(),
        transfer_out: prices.transfer_out_per_gb.per_gb(reads.values().map(|held| held.bytes).sum()),
        new_month: month(new),
        deleted_month: month(deleted),
        unknown_classes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cost::GB;

    fn held(class: &str, objects: u64, bytes: u64) -> HeldByClass {
        BTreeMap::from([(class.parse().unwrap(), Held { objects, bytes })])
    }

    fn money(text: &str) -> Money {
        text.parse().unwrap()
    }

    #[test]
    fn packs_of_a_class_that_takes_money_for_reading_are_rewritten() {
        let rewriting = Rewriting {
            reads: held("STANDARD_IA", 5000, 4 * GB),
            new: held("STANDARD_IA", 128, 4 * GB),
            deleted: held("STANDARD_IA", 320, 10 * GB),
        };
        let cost = cost_of(&rewriting, &Prices::default());
        // 5000 GETs at 0.001 and 128 PUTs at 0.01 for 1000; 4 GB at 0.01, and at 0.09.
        assert_eq!(
            (cost.requests, cost.retrieval, cost.transfer_out),
            (money("0.00628"), money("0.04"), money("0.36"))
        );
        assert_eq!(cost.once(), money("0.40628"));
        // 4 GB and 10 GB at 0.0125 a month.
        assert_eq!((cost.new_month, cost.deleted_month), (money("0.05"), money("0.125")));
        assert_eq!(cost.unknown_classes, []);
    }

    #[test]
    fn a_class_without_prices_is_named_once_and_costs_nothing_but_transfer() {
        let rewriting = Rewriting { reads: held("OWN", 1, GB), new: held("OWN", 1, GB), ..Rewriting::default() };
        let cost = cost_of(&rewriting, &Prices::default());
        assert_eq!(cost.unknown_classes, ["OWN".parse().unwrap()]);
        assert_eq!((cost.once(), cost.new_month), (money("0.09"), Money::ZERO));
    }
}
