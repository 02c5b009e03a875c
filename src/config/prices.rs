//! The section `[prices]`.

use super::fault::Faults;
use super::section::{Found, Section};
use crate::cost::money::Money;
use crate::cost::prices::{ClassPrices, Prices, ThawPrices};
use crate::size::{ByteSize, MIB};
use crate::store::StorageClassName;
use crate::store::thaw::ThawTier;

const DAYS_MAX: u32 = 3650;
const SIZE_MAX: ByteSize = ByteSize::from_bytes(MIB);

/// Reads prices; those that are not there are the built-in ones.
pub(super) fn read_prices(prices: &mut Section<'_>, faults: &mut Faults) -> Prices {
    let mut read = Prices::default();
    if let Some(currency) = prices.filled_string("currency", faults) {
        read.currency = currency.into_value();
    }
    set(&mut read.list_per_1000, prices.money("list_per_1000", faults));
    set(&mut read.transfer_out_per_gb, prices.money("transfer_out_per_gb", faults));
    let mut named: Vec<StorageClassName> = Vec::new();
    prices.tables("classes", faults, |class, faults| {
        if !class.has("class") {
            class.fault_missing("class", faults);
        }
        let name: Option<Found<StorageClassName>> = class.parsed("class", faults);
        let before = name.as_ref().and_then(|name| read.of(&name.value)).cloned().unwrap_or_default();
        let of_class = read_class(class, before, faults);
        let Some(name) = name else { return };
        if named.contains(&name.value) {
            name.fault(faults, format!("there are prices of {} already", name.value));
        }
        named.push(name.value.clone());
        read.classes.insert(name.into_value(), of_class);
    });
    read
}

fn set(price: &mut Money, read: Option<Found<Money>>) {
    if let Some(read) = read {
        *price = read.value;
    }
}

fn read_class(class: &mut Section<'_>, mut prices: ClassPrices, faults: &mut Faults) -> ClassPrices {
    set(&mut prices.storage_per_gb_month, class.money("storage_per_gb_month", faults));
    set(&mut prices.monitoring_per_1000, class.money("monitoring_per_1000", faults));
    set(&mut prices.put_per_1000, class.money("put_per_1000", faults));
    set(&mut prices.get_per_1000, class.money("get_per_1000", faults));
    set(&mut prices.retrieval_per_gb, class.money("retrieval_per_gb", faults));
    if let Some(days) = class.integer("minimum_days", 0..=DAYS_MAX, faults) {
        prices.minimum_days = days.value;
    }
    let mut size = |bytes: &mut u64, key, faults: &mut Faults| {
        if let Some(size) = class.size(key, ByteSize::from_bytes(0)..=SIZE_MAX, faults) {
            *bytes = size.value.bytes();
        }
    };
    size(&mut prices.minimum_size_bytes, "minimum_size", faults);
    size(&mut prices.overhead_bytes, "overhead", faults);
    size(&mut prices.overhead_standard_bytes, "overhead_standard", faults);
    for (tier, per_gb, per_1000) in THAW_KEYS {
        let read = (class.money(per_gb, faults), class.money(per_1000, faults));
        if !matches!(read, (None, None)) {
            let thaw: &mut ThawPrices = prices.thaws.entry(tier).or_default();
            set(&mut thaw.per_gb, read.0);
            set(&mut thaw.per_1000, read.1);
        }
    }
    prices
}

const THAW_KEYS: [(ThawTier, &str, &str); 3] = [
    (ThawTier::Expedited, "thaw_expedited_per_gb", "thaw_expedited_per_1000"),
    (ThawTier::Standard, "thaw_standard_per_gb", "thaw_standard_per_1000"),
    (ThawTier::Bulk, "thaw_bulk_per_gb", "thaw_bulk_per_1000"),
];

#[cfg(test)]
mod tests {
    use crate::config::Config;
    use crate::cost::money::Money;
    use crate::cost::prices::Prices;
    use crate::store::thaw::ThawTier;

    fn prices(text: &str) -> Result<Prices, String> {
        let config = Config::parse(&format!("repository = 'r'\n{text}"), "c.toml");
        config.map(|config| config.prices).map_err(|errors| errors.to_string())
    }

    fn money(text: &str) -> Money {
        text.parse().unwrap()
    }

    #[test]
    fn prices_that_are_given_take_the_place_of_the_built_in_ones() {
        let read = prices(
            "[prices]\ncurrency = 'EUR'\nlist_per_1000 = 1\n\
             [[prices.classes]]\nclass = 'DEEP_ARCHIVE'\nstorage_per_gb_month = 0.0018\nthaw_bulk_per_gb = 0.0_05\n\
             [[prices.classes]]\nclass = 'COLD'\nminimum_days = 7\noverhead = '1 KiB'\nthaw_standard_per_1000 = 2.5\n",
        );
        let (read, built_in) = (read.unwrap(), Prices::default());
        assert_eq!((read.currency.as_str(), read.list_per_1000), ("EUR", money("1")));
        let (deep, before) =
            (&read.classes[&"DEEP_ARCHIVE".parse().unwrap()], &built_in.classes[&"DEEP_ARCHIVE".parse().unwrap()]);
        assert_eq!(deep.storage_per_gb_month, money("0.0018"));
        assert_eq!(deep.thaws[&ThawTier::Bulk].per_gb, money("0.005"));
        assert_eq!(deep.thaws[&ThawTier::Bulk].per_1000, before.thaws[&ThawTier::Bulk].per_1000);
        assert_eq!((deep.minimum_days, deep.put_per_1000), (180, before.put_per_1000));
        let cold = &read.classes[&"COLD".parse().unwrap()];
        assert_eq!((cold.minimum_days, cold.overhead_bytes, cold.storage_per_gb_month), (7, 1024, Money::ZERO));
        assert_eq!(cold.thaws.keys().collect::<Vec<_>>(), [&ThawTier::Standard]);
        assert_eq!(read.classes.len(), built_in.classes.len() + 1);
    }

    #[test]
    fn prices_that_cannot_be_are_faults() {
        let of_class = |text: &str| prices(&format!("[[prices.classes]]\n{text}")).unwrap_err();
        for (text, fault) in [
            ("storage_per_gb_month = 1", "prices.classes[0].class: is missing"),
            ("class = 'cold'", "a storage class is named by capital letters"),
            ("class = 'A'\nput_per_1000 = -1", "put_per_1000: -1: a price is a number such as 0.0125"),
            ("class = 'A'\nput_per_1000 = 1e3", "a price is a number such as 0.0125"),
            ("class = 'A'\nput_per_1000 = nan", "a price is a number such as 0.0125"),
            ("class = 'A'\nput_per_1000 = 0xff", "must be a price such as 0.0125, without quotation marks"),
            ("class = 'A'\nput_per_1000 = '0.1'", "must be a price such as 0.0125, without quotation marks"),
            ("class = 'A'\noverhead = '2 MiB'", "must be from 0 B to 1 MiB"),
            ("class = 'A'\n[[prices.classes]]\nclass = 'A'", "there are prices of A already"),
            ("class = 'A'\nstorage = 1", "prices.classes[0].storage: unknown key"),
        ] {
            let found = of_class(text);
            assert!(found.contains(fault), "{text}: {found}");
        }
        assert!(prices("prices = 3").unwrap_err().contains("written as [prices]"));
        assert!(prices("[prices]\nclasses = 3").unwrap_err().contains("written as [[prices.classes]]"));
    }
}
