//! What a provider asks for: by class, for storage, requests and getting things back.

use std::collections::BTreeMap;

use super::money::Money;
use crate::store::StorageClassName;
use crate::store::thaw::ThawTier;

/// When the built-in prices were looked up, and where.
pub const LIST_PRICES: &str = "AWS list prices of us-east-1 as of January 2025";

const KIB: u64 = 1 << 10;

/// A price list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prices {
    /// What amounts are in; only printed.
    pub currency: String,
    /// For a thousand LIST requests.
    pub list_per_1000: Money,
    /// For a GB that leaves the provider's network.
    pub transfer_out_per_gb: Money,
    /// By class. Of a class that is not here, nothing is known.
    pub classes: BTreeMap<StorageClassName, ClassPrices>,
}

/// The prices of one class.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClassPrices {
    /// For a GB kept for a month.
    pub storage_per_gb_month: Money,
    /// For watching a thousand objects for a month.
    pub monitoring_per_1000: Money,
    /// For a thousand PUT requests.
    pub put_per_1000: Money,
    /// For a thousand GET or HEAD requests.
    pub get_per_1000: Money,
    /// For a GB that is read, of objects that are not archived.
    pub retrieval_per_gb: Money,
    /// An object is paid for so many days at least.
    pub minimum_days: u32,
    /// A smaller object is paid for as if it had this size.
    pub minimum_size_bytes: u64,
    /// Bytes that are paid for with each object, at this class's price.
    pub overhead_bytes: u64,
    /// Bytes that are paid for with each object, at the price of STANDARD.
    pub overhead_standard_bytes: u64,
    /// What thaws cost, by tier, where the class knows any.
    pub thaws: BTreeMap<ThawTier, ThawPrices>,
}

/// What thaws of one tier cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ThawPrices {
    /// For a GB.
    pub per_gb: Money,
    /// For a thousand requests.
    pub per_1000: Money,
}

impl Prices {
    /// The prices of a class, if they are known.
    #[must_use]
    pub fn of(&self, class: &StorageClassName) -> Option<&ClassPrices> {
        self.classes.get(class)
    }

    /// The price of keeping a GB for a month as STANDARD: of thawed copies, and of what archived objects keep there.
    #[must_use]
    pub fn standard_storage(&self) -> Money {
        self.of(&StorageClassName::standard()).map_or(Money::ZERO, |prices| prices.storage_per_gb_month)
    }
}

/// A class's prices in millionths of a dollar.
struct Listed {
    class: &'static str,
    storage: u32,
    monitoring: u32,
    put: u32,
    get: u32,
    retrieval: u32,
    minimum_days: u32,
    minimum_size_bytes: u64,
    /// For a GB and for a thousand requests.
    thaws: &'static [(ThawTier, u32, u32)],
}

impl Listed {
    const fn new(class: &'static str, storage: u32, put: u32, get: u32) -> Self {
        let (minimum_days, minimum_size_bytes) = (0, 0);
        Self { class, storage, monitoring: 0, put, get, retrieval: 0, minimum_days, minimum_size_bytes, thaws: &[] }
    }

    fn prices(&self) -> ClassPrices {
        let price = Money::from_millionths;
        // An index of 32 KB at the class's price and a name of 8 KB at that of STANDARD for each archived object.
        let (overhead_bytes, overhead_standard_bytes) =
            if self.thaws.is_empty() { (0, 0) } else { (32 * KIB, 8 * KIB) };
        let thaw = |(tier, per_gb, per_1000): &(ThawTier, u32, u32)| {
            (*tier, ThawPrices { per_gb: price(*per_gb), per_1000: price(*per_1000) })
        };
        ClassPrices {
            storage_per_gb_month: price(self.storage),
            monitoring_per_1000: price(self.monitoring),
            put_per_1000: price(self.put),
            get_per_1000: price(self.get),
            retrieval_per_gb: price(self.retrieval),
            minimum_days: self.minimum_days,
            minimum_size_bytes: self.minimum_size_bytes,
            overhead_bytes,
            overhead_standard_bytes,
            thaws: self.thaws.iter().map(thaw).collect(),
        }
    }
}

const LISTED: [Listed; 7] = [
    Listed::new("STANDARD", 23_000, 5_000, 400),
    // The price of the tier that everything begins in; what has moved on costs less, which a listing does not say.
    Listed { monitoring: 2_500, ..Listed::new("INTELLIGENT_TIERING", 23_000, 5_000, 400) },
    Listed {
        retrieval: 10_000,
        minimum_days: 30,
        minimum_size_bytes: 128 * KIB,
        ..Listed::new("STANDARD_IA", 12_500, 10_000, 1_000)
    },
    Listed {
        retrieval: 10_000,
        minimum_days: 30,
        minimum_size_bytes: 128 * KIB,
        ..Listed::new("ONEZONE_IA", 10_000, 10_000, 1_000)
    },
    Listed {
        retrieval: 30_000,
        minimum_days: 90,
        minimum_size_bytes: 128 * KIB,
        ..Listed::new("GLACIER_IR", 4_000, 20_000, 10_000)
    },
    Listed {
        minimum_days: 90,
        thaws: &[
            (ThawTier::Expedited, 30_000, 10_000_000),
            (ThawTier::Standard, 10_000, 50_000),
            (ThawTier::Bulk, 0, 0),
        ],
        ..Listed::new("GLACIER", 3_600, 30_000, 400)
    },
    Listed {
        minimum_days: 180,
        thaws: &[(ThawTier::Standard, 20_000, 100_000), (ThawTier::Bulk, 2_500, 25_000)],
        ..Listed::new("DEEP_ARCHIVE", 990, 50_000, 400)
    },
];

impl Default for Prices {
    /// [`LIST_PRICES`], those of the first GBs.
    fn default() -> Self {
        let named = |listed: &Listed| Some((listed.class.parse().ok()?, listed.prices()));
        Self {
            currency: "USD".to_owned(),
            list_per_1000: Money::from_millionths(5_000),
            transfer_out_per_gb: Money::from_millionths(90_000),
            classes: LISTED.iter().filter_map(named).collect(),
        }
    }
}
