//! Sizes and durations as people write them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Bytes in a KiB.
pub const KIB: u64 = 1 << 10;
/// Bytes in a MiB.
pub const MIB: u64 = 1 << 20;
/// Bytes in a GiB.
pub const GIB: u64 = 1 << 30;
/// Bytes in a TiB.
pub const TIB: u64 = 1 << 40;

/// The units that sizes are printed in, ascending.
const BINARY_UNITS: [(&str, u64); 5] = [("B", 1), ("KiB", KIB), ("MiB", MIB), ("GiB", GIB), ("TiB", TIB)];
/// Further units that sizes may be written in.
const DECIMAL_UNITS: [(&str, u64); 4] =
    [("kB", 1_000), ("MB", 1_000_000), ("GB", 1_000_000_000), ("TB", 1_000_000_000_000)];
/// So many digits behind the point, zeros at the end not counted, can be multiplied by a TiB in 128 bits.
const FRACTION_DIGITS_MAX: u32 = 18;

/// A number of bytes.
///
/// Is written as a number and a unit: `64 MiB`, `1.5GiB`, `500 MB`, `4096 B`. A number without a unit is refused, since
/// readers disagree on what it means, and so is what is not a whole number of bytes. `Display` rounds to three
/// significant digits; [`ByteSize::exact`] does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteSize(u64);

impl ByteSize {
    /// Wraps a number of bytes.
    #[must_use]
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The number of bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// Prints the size without rounding, in the largest unit it is a multiple of: `1536 MiB`. The text reads back as
    /// the same size.
    #[must_use]
    pub const fn exact(self) -> ExactByteSize {
        ExactByteSize(self.0)
    }
}

/// Prints a size without rounding. See [`ByteSize::exact`].
#[derive(Debug, Clone, Copy)]
pub struct ExactByteSize(u64);

impl fmt::Display for ExactByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let divides = |unit_bytes: u64| self.0 != 0 && self.0.is_multiple_of(unit_bytes);
        let largest = BINARY_UNITS.iter().rev().find(|(_, unit_bytes)| divides(*unit_bytes));
        let (unit, unit_bytes) = largest.unwrap_or(&BINARY_UNITS[0]);
        write!(f, "{} {unit}", self.0 / unit_bytes)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < KIB {
            return write!(f, "{} B", self.0);
        }
        for (unit, unit_bytes) in &BINARY_UNITS[1..] {
            let rounded = |factor: u64| {
                let (bytes, unit_bytes) = (u128::from(self.0), u128::from(*unit_bytes));
                (bytes * u128::from(factor) + unit_bytes / 2) / unit_bytes
            };
            let (hundredths, tenths, whole) = (rounded(100), rounded(10), rounded(1));
            if hundredths < 1_000 {
                return write!(f, "{}.{:02} {unit}", hundredths / 100, hundredths % 100);
            } else if tenths < 1_000 {
                return write!(f, "{}.{} {unit}", tenths / 10, tenths % 10);
            } else if whole < 1_024 || *unit_bytes == TIB {
                return write!(f, "{whole} {unit}");
            }
        }
        Ok(())
    }
}

/// Why a text is not a size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseSizeError {
    /// It is not a number and a unit.
    #[error("a size is a number and one of the units B, KiB, MiB, GiB, TiB, kB, MB, GB and TB, such as '64 MiB'")]
    Malformed,
    /// It is, or may be, a fraction of a byte.
    #[error("a size must be a whole number of bytes, with at most 18 digits behind the point")]
    FractionOfByte,
    /// It does not fit into 64 bits.
    #[error("a size must be below 16777216 TiB")]
    TooLarge,
}

impl FromStr for ByteSize {
    type Err = ParseSizeError;

    fn from_str(text: &str) -> Result<Self, ParseSizeError> {
        let (number, unit) = split_number(text.trim(), |c| c.is_ascii_digit() || c == '.');
        let mut units = BINARY_UNITS.iter().chain(&DECIMAL_UNITS);
        let (_, unit_bytes) = units.find(|(name, _)| *name == unit).ok_or(ParseSizeError::Malformed)?;
        let (whole, fraction) = match number.split_once('.') {
            Some((_, "")) => return Err(ParseSizeError::Malformed),
            Some((whole, fraction)) => (whole, fraction.trim_end_matches('0')),
            None => (number, ""),
        };
        let all_digits = |digits: &str| digits.chars().all(|c| c.is_ascii_digit());
        if whole.is_empty() || !all_digits(whole) || !all_digits(fraction) {
            return Err(ParseSizeError::Malformed);
        }
        let whole: u64 = whole.parse().map_err(|_| ParseSizeError::TooLarge)?;
        let bytes = u128::from(whole) * u128::from(*unit_bytes) + u128::from(fraction_bytes(fraction, *unit_bytes)?);
        u64::try_from(bytes).map(Self).map_err(|_| ParseSizeError::TooLarge)
    }
}

/// The bytes in the digits behind the point, of a unit.
fn fraction_bytes(digits: &str, unit_bytes: u64) -> Result<u64, ParseSizeError> {
    let places = u32::try_from(digits.len()).unwrap_or(u32::MAX);
    if places == 0 {
        return Ok(0);
    }
    if places > FRACTION_DIGITS_MAX {
        return Err(ParseSizeError::FractionOfByte);
    }
    let fraction: u128 = digits.parse().map_err(|_| ParseSizeError::Malformed)?;
    let scaled = fraction * u128::from(unit_bytes);
    let scale = 10_u128.pow(places);
    if !scaled.is_multiple_of(scale) {
        return Err(ParseSizeError::FractionOfByte);
    }
    u64::try_from(scaled / scale).map_err(|_| ParseSizeError::TooLarge)
}

/// Splits a text behind its longest beginning of `number` characters. Blanks between the two parts are dropped.
fn split_number(text: &str, number: impl Fn(char) -> bool) -> (&str, &str) {
    let end = text.find(|c| !number(c)).unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    (number, rest.trim_start())
}

/// The longest duration that [`parse_duration`] takes: a hundred years of 365 days.
pub const DURATION_MAX: Duration = Duration::from_secs(100 * 365 * DAY_SECONDS);

const DAY_SECONDS: u64 = 24 * 60 * 60;
/// Units of duration with all their names, descending.
const DURATION_UNITS: [(&[&str], u64); 5] =
    [(&["w"], 7 * DAY_SECONDS), (&["d"], DAY_SECONDS), (&["h"], 60 * 60), (&["m", "min"], 60), (&["s"], 1)];

/// Why a text is not a duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseDurationError {
    /// It is not whole numbers with units.
    #[error("a duration is whole numbers with the units w, d, h, min (or m) and s, such as '6h' or '1h 30min'")]
    Malformed,
    /// A unit comes twice, or after a smaller one.
    #[error("a duration has each unit once, the largest first, such as '1h 30min'")]
    Order,
    /// It is longer than [`DURATION_MAX`].
    #[error("a duration is at most 36500 days")]
    TooLong,
}

/// Reads a duration: whole numbers with units, each unit once, the largest first, as in `90s`, `30 min`, `1h30m`, `7d`.
///
/// # Errors
///
/// [`ParseDurationError`] for anything else, also for a number without a unit.
pub fn parse_duration(text: &str) -> Result<Duration, ParseDurationError> {
    let mut rest = text.trim();
    let mut seconds: u64 = 0;
    let mut smallest_unit_seconds = u64::MAX;
    loop {
        let (number, behind) = split_number(rest, |c| c.is_ascii_digit());
        let (unit, behind) = split_number(behind, |c| c.is_ascii_alphabetic());
        let known = DURATION_UNITS.iter().find(|(names, _)| names.contains(&unit));
        let (_, unit_seconds) = known.ok_or(ParseDurationError::Malformed)?;
        if number.is_empty() {
            return Err(ParseDurationError::Malformed);
        }
        if *unit_seconds >= smallest_unit_seconds {
            return Err(ParseDurationError::Order);
        }
        let part = number.parse().ok().and_then(|count: u64| count.checked_mul(*unit_seconds));
        seconds = part.and_then(|part| seconds.checked_add(part)).ok_or(ParseDurationError::TooLong)?;
        smallest_unit_seconds = *unit_seconds;
        rest = behind;
        if rest.is_empty() {
            let duration = Duration::from_secs(seconds);
            return if duration > DURATION_MAX { Err(ParseDurationError::TooLong) } else { Ok(duration) };
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_size_is_a_number_and_a_unit() {
        let sizes = [
            ("0 B", 0),
            ("4096 B", 4096),
            ("64 MiB", 64 << 20),
            ("64MiB", 64 << 20),
            (" 64  MiB ", 64 << 20),
            ("1.5 GiB", 3 << 29),
            ("1.50000000000000000000000 GiB", 3 << 29),
            ("0.5 KiB", 512),
            ("1.001 kB", 1001),
            ("500 MB", 500_000_000),
            ("2 GB", 2_000_000_000),
            ("1 TB", 1_000_000_000_000),
            ("3 TiB", 3 << 40),
            ("18446744073709551615 B", u64::MAX),
        ];
        for (text, bytes) in sizes {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
    }

    #[test]
    fn another_text_is_not_a_size() {
        use ParseSizeError::{FractionOfByte, Malformed, TooLarge};
        let faults = [
            ("", Malformed),
            ("4096", Malformed),
            ("MiB", Malformed),
            ("64 mib", Malformed),
            ("64 KB", Malformed),
            ("64 M", Malformed),
            ("64 MiB/s", Malformed),
            ("-1 B", Malformed),
            ("+1 B", Malformed),
            ("1. GiB", Malformed),
            (".5 GiB", Malformed),
            ("1.2.3 GiB", Malformed),
            ("1,5 GiB", Malformed),
            ("1e3 B", Malformed),
            ("\u{661} B", Malformed),
            ("1.5 B", FractionOfByte),
            ("1.3 KiB", FractionOfByte),
            ("0.00000000000000000001 TiB", FractionOfByte),
            ("18446744073709551616 B", TooLarge),
            ("16777216 TiB", TooLarge),
            ("99999999999999999999999999999999999999999 TiB", TooLarge),
        ];
        for (text, error) in faults {
            assert_eq!(text.parse::<ByteSize>(), Err(error), "{text}");
        }
    }

    #[test]
    fn a_size_prints_with_three_significant_digits() {
        let sizes = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (1536, "1.50 KiB"),
            (10 * KIB - 1, "10.0 KiB"),
            (12_345, "12.1 KiB"),
            (100 * KIB - 1, "100 KiB"),
            (1023 * KIB, "1023 KiB"),
            (MIB - 1, "1.00 MiB"),
            (64 * MIB, "64.0 MiB"),
            (3 * GIB / 2, "1.50 GiB"),
            (5000 * TIB, "5000 TiB"),
            (u64::MAX, "16777216 TiB"),
        ];
        for (bytes, text) in sizes {
            assert_eq!(ByteSize(bytes).to_string(), text, "{bytes}");
        }
    }

    #[test]
    fn an_exact_size_prints_in_the_largest_unit_that_divides_it() {
        let sizes = [(0, "0 B"), (1025, "1025 B"), (64 * MIB, "64 MiB"), (3 * GIB / 2, "1536 MiB"), (TIB, "1 TiB")];
        for (bytes, text) in sizes {
            assert_eq!(ByteSize(bytes).exact().to_string(), text);
        }
    }

    #[test]
    fn a_duration_is_numbers_with_units() {
        let durations = [
            ("0s", 0),
            ("90s", 90),
            ("30 min", 1_800),
            ("30m", 1_800),
            ("6h", 21_600),
            ("7d", 604_800),
            ("2w", 1_209_600),
            ("1h30m", 5_400),
            (" 1h 30 min 5 s ", 5_405),
            ("36500d", 3_153_600_000),
        ];
        for (text, seconds) in durations {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
    }

    #[test]
    fn another_text_is_not_a_duration() {
        use ParseDurationError::{Malformed, Order, TooLong};
        let faults = [
            ("", Malformed),
            ("6", Malformed),
            ("h", Malformed),
            ("6 hours", Malformed),
            ("1.5h", Malformed),
            ("-6h", Malformed),
            ("6h,", Malformed),
            ("0s6", Malformed),
            ("6H", Malformed),
            ("30m 1h", Order),
            ("1h 1h", Order),
            ("1m 1min", Order),
            ("36501d", TooLong),
            ("99999999999999999999s", TooLong),
            ("18446744073709551615w", TooLong),
        ];
        for (text, error) in faults {
            assert_eq!(parse_duration(text), Err(error), "{text}");
        }
    }

    proptest! {
        #[test]
        fn an_exact_size_reads_back(bytes: u64, shift in 0_u32..64) {
            let size = ByteSize(bytes >> shift << (shift / 2));
            prop_assert_eq!(size.exact().to_string().parse(), Ok(size));
        }

        #[test]
        fn a_printed_size_is_within_half_a_percent(bytes in 1024..u64::MAX / 2) {
            let printed = ByteSize(bytes).to_string();
            let (number, name) = printed.split_once(' ').unwrap();
            let (_, unit_bytes) = BINARY_UNITS.iter().find(|(unit, _)| *unit == name).unwrap();
            #[expect(clippy::cast_precision_loss, reason = "half a percent is far above the loss")]
            let (shown, real) = (number.parse::<f64>().unwrap() * *unit_bytes as f64, bytes as f64);
            prop_assert!((shown - real).abs() <= real * 0.005_001, "{printed}");
        }

        #[test]
        fn no_text_makes_a_parser_panic(text in "[0-9.]{0,45} ?[a-zA-Z0-9 ]{0,9}|.{0,40}") {
            let (_, _) = (text.parse::<ByteSize>(), parse_duration(&text));
        }
    }
}
