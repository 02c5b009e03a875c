//! Amounts of money, exact to a billionth.

use std::fmt;
use std::iter::Sum;
use std::ops::Add;
use std::str::FromStr;

use super::GB;

/// Digits behind the point.
const DECIMALS: usize = 9;
/// Billionths of a whole.
const WHOLE: u128 = 1_000_000_000;
/// The longest price, in digits before the point.
const DIGITS_MAX: usize = 9;

/// An amount of money, or a price, in whatever currency the price list is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Money(u128);

impl Money {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// An amount of so many millionths.
    #[must_use]
    pub const fn from_millionths(millionths: u32) -> Self {
        Self(millionths as u128 * 1000)
    }

    /// The price of so many bytes, at this one for a GB.
    #[must_use]
    pub fn per_gb(self, bytes: u64) -> Self {
        self.share(u128::from(bytes), u128::from(GB))
    }

    /// The price of so many requests or objects, at this one for a thousand.
    #[must_use]
    pub fn per_1000(self, count: u64) -> Self {
        self.share(u128::from(count), 1000)
    }

    /// This amount times `part / whole`, rounded to a billionth.
    #[must_use]
    pub fn share(self, part: u128, whole: u128) -> Self {
        Self(self.0.saturating_mul(part).saturating_add(whole / 2) / whole.max(1))
    }

    /// The amount as a decimal number without rounding: `0.0125`.
    #[must_use]
    pub fn exact(self) -> String {
        let text = format!("{}.{:09}", self.0 / WHOLE, self.0 % WHOLE);
        let digits = text.trim_end_matches('0');
        digits.strip_suffix('.').unwrap_or(digits).to_owned()
    }
}

impl Add for Money {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Sum for Money {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Add::add)
    }
}

impl fmt::Display for Money {
    /// Rounds: an amount of one and more to hundredths, a smaller one to ten-thousandths.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rounded = |decimals: u32| {
            let unit = 10_u128.pow(9 - decimals);
            let count = (self.0 + unit / 2) / unit;
            let whole = 10_u128.pow(decimals);
            format!("{}.{:0width$}", count / whole, count % whole, width = decimals as usize)
        };
        match self.0 {
            0 => f.pad("0"),
            1..50_000 => f.pad("<0.0001"),
            amount if amount < WHOLE => f.pad(&rounded(4)),
            _ => f.pad(&rounded(2)),
        }
    }
}

/// A text that is not a price.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a price is a number such as 0.0125, not negative, with at most {DIGITS_MAX} digits before the point and {DECIMALS} behind"
)]
pub struct ParseMoneyError;

impl FromStr for Money {
    type Err = ParseMoneyError;

    fn from_str(text: &str) -> Result<Self, ParseMoneyError> {
        let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
        let plain = |digits: &str| digits.chars().all(|c| c.is_ascii_digit());
        let is_price = plain(whole) && plain(decimals) && !whole.is_empty() && !text.ends_with('.');
        if !is_price || whole.len() > DIGITS_MAX || decimals.len() > DECIMALS {
            return Err(ParseMoneyError);
        }
        format!("{whole}{decimals:0<DECIMALS$}").parse().map(Self).map_err(|_| ParseMoneyError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn money(text: &str) -> Money {
        text.parse().unwrap()
    }

    #[test]
    fn a_price_is_read_and_printed_as_it_is() {
        for text in ["0", "0.0125", "0.00099", "12", "999999999.999999999", "0.000000001"] {
            assert_eq!(money(text).exact(), text);
        }
        assert_eq!(money("1.50").exact(), "1.5");
        for wrong in ["", ".5", "5.", "-1", "1e3", "1,5", "0.0000000001", "1000000000", "+1", " 1", "nan"] {
            assert_eq!(wrong.parse::<Money>(), Err(ParseMoneyError), "{wrong}");
        }
    }

    #[test]
    fn an_amount_is_shown_with_as_many_decimals_as_matter() {
        let shown = [
            ("0", "0"),
            ("0.000000001", "<0.0001"),
            ("0.00005", "0.0001"),
            ("0.01234", "0.0123"),
            ("0.99996", "1.0000"),
            ("1", "1.00"),
            ("12.345", "12.35"),
            ("1234.994", "1234.99"),
        ];
        for (text, expected) in shown {
            assert_eq!(money(text).to_string(), expected);
        }
    }

    #[test]
    fn prices_by_amount_are_rounded_once() {
        // Half a GB at 0.0125 is 0.00625; one byte is 0.0125 / 2^30 = 1.16e-11, less than half a billionth.
        assert_eq!(money("0.0125").per_gb(GB / 2), money("0.00625"));
        assert_eq!(money("0.0125").per_gb(1), Money::ZERO);
        // 3 requests at 0.0004 for 1000 are 0.0000012.
        assert_eq!(money("0.0004").per_1000(3), money("0.0000012"));
        assert_eq!(money("999999999").per_gb(u64::MAX).share(u128::MAX, 1), Money(u128::MAX));
    }
}
