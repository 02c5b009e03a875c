//! How far a prune goes to win space back: what may stay unused, how much is rewritten, and how.

use std::collections::BTreeMap;
use std::str::FromStr;

use jiff::Timestamp;

use crate::size::ByteSize;
use crate::store::StorageClassName;

const ALL_MILLIONTHS: u32 = 1_000_000;
const DAY_SECONDS: i64 = 24 * 60 * 60;

/// How much of what is stored in packs may stay although nothing needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaxUnused {
    /// All of it: no pack is rewritten.
    Unlimited,
    /// So many millionths of what is stored.
    Share(u32),
    /// So many bytes.
    Bytes(u64),
}

/// A text that is no such limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("what may stay unused is a share such as 5%, a size such as 10GiB, 0, or unlimited")]
pub struct ParseMaxUnusedError;

impl FromStr for MaxUnused {
    type Err = ParseMaxUnusedError;

    fn from_str(text: &str) -> Result<Self, ParseMaxUnusedError> {
        if text == "unlimited" {
            return Ok(Self::Unlimited);
        }
        if text == "0" {
            return Ok(Self::Bytes(0));
        }
        let parsed = match text.strip_suffix('%') {
            Some(percent) => parse_millionths(percent.trim()).map(Self::Share),
            None => text.parse::<ByteSize>().ok().map(|size| Self::Bytes(size.bytes())),
        };
        parsed.ok_or(ParseMaxUnusedError)
    }
}

/// Reads a percentage with at most four decimals as millionths; all of something is no limit.
fn parse_millionths(text: &str) -> Option<u32> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let plain = |text: &str| text.chars().all(|c| c.is_ascii_digit());
    if whole.is_empty() || whole.len() > 2 || decimals.len() > 4 || !plain(whole) || !plain(decimals) {
        return None;
    }
    format!("{whole}{decimals:0<4}").parse().ok()
}

impl MaxUnused {
    /// How many bytes may stay unused beside so many that are used.
    #[must_use]
    pub fn beside(self, used_bytes: u64) -> u64 {
        match self {
            Self::Unlimited => u64::MAX,
            Self::Bytes(bytes) => bytes,
            Self::Share(millionths) => {
                let others = u128::from(ALL_MILLIONTHS.saturating_sub(millionths)).max(1);
                u64::try_from(u128::from(used_bytes) * u128::from(millionths) / others).unwrap_or(u64::MAX)
            }
        }
    }
}

/// What a prune rewrites, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepackOptions {
    /// Packs are rewritten until no more than this is unused.
    pub max_unused: MaxUnused,
    /// But no more than so many bytes of packs, if that is limited.
    pub max_repack_bytes: Option<u64>,
    /// Objects of a class are paid for so many days at least. A younger one is neither rewritten nor deleted.
    pub minimum_days: BTreeMap<StorageClassName, u32>,
    /// A new pack is stored when it has this many bytes.
    pub pack_target_bytes: usize,
    /// A new frame gathers chunks up to this much plaintext.
    pub frame_target_bytes: usize,
    /// zstd's level for new frames.
    pub compression_level: i32,
    /// Packs that are being stored at once.
    pub uploads_in_flight: usize,
    /// An index segment is stored when its packs have so many chunks.
    pub segment_chunks: usize,
    /// Which index segments are merged.
    pub merging: MergeOptions,
}

/// Which index segments are merged, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MergeOptions {
    /// A segment that is shorter is small.
    pub small_below_bytes: u64,
    /// So many small ones are merged.
    pub small_least: usize,
    /// One is rewritten if at least so many millionths of the packs that it names are gone.
    pub gone_least: u32,
    /// A prune reads no more than so many bytes of segments for it, or one.
    pub read_limit_bytes: u64,
    /// A new segment has no more than so many chunks, or one pack.
    pub segment_chunks: usize,
    /// A look-up table is made when more bytes of segments than this are in none.
    pub untabled_bytes_max: u64,
}

impl Default for MergeOptions {
    fn default() -> Self {
        Self {
            small_below_bytes: 4 << 20,
            small_least: 16,
            gone_least: 250_000,
            read_limit_bytes: 1 << 30,
            segment_chunks: 1 << 19,
            untabled_bytes_max: 1 << 20,
        }
    }
}

impl Default for RepackOptions {
    fn default() -> Self {
        Self {
            max_unused: MaxUnused::Share(50_000),
            max_repack_bytes: None,
            minimum_days: BTreeMap::new(),
            pack_target_bytes: 32 << 20,
            frame_target_bytes: 1 << 20,
            compression_level: 3,
            uploads_in_flight: 3,
            segment_chunks: 1 << 17,
            merging: MergeOptions::default(),
        }
    }
}

impl RepackOptions {
    /// Whether an object would have to be paid for although it were deleted.
    #[must_use]
    pub fn is_paid_for(&self, class: Option<&StorageClassName>, stored_at: Timestamp, now: Timestamp) -> bool {
        let days = class.and_then(|class| self.minimum_days.get(class)).copied().unwrap_or(0);
        now.as_second().saturating_sub(stored_at.as_second()) < i64::from(days) * DAY_SECONDS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_share_a_size_nothing_or_no_limit() {
        let good = [
            ("unlimited", MaxUnused::Unlimited),
            ("5%", MaxUnused::Share(50_000)),
            ("0.5 %", MaxUnused::Share(5_000)),
            ("0%", MaxUnused::Share(0)),
            ("99.9999%", MaxUnused::Share(999_999)),
            ("0", MaxUnused::Bytes(0)),
            ("10GiB", MaxUnused::Bytes(10 << 30)),
        ];
        for (text, limit) in good {
            assert_eq!(text.parse(), Ok(limit), "{text}");
        }
        for text in ["", "5", "100%", "-1%", "%", "1.00001%", "unlimited%", "none"] {
            assert_eq!(text.parse::<MaxUnused>(), Err(ParseMaxUnusedError), "{text}");
        }
    }

    #[test]
    fn a_share_is_one_of_all_that_is_stored_then() {
        // 5 unused beside 95 used are 5% of 100.
        assert_eq!(MaxUnused::Share(50_000).beside(95), 5);
        assert_eq!(MaxUnused::Share(0).beside(u64::MAX), 0);
        assert_eq!(MaxUnused::Share(999_999).beside(u64::MAX), u64::MAX);
        assert_eq!((MaxUnused::Bytes(7).beside(1), MaxUnused::Unlimited.beside(1)), (7, u64::MAX));
    }

    #[test]
    fn an_object_is_paid_for_until_its_last_day_is_over() {
        let class: StorageClassName = "DEEP_ARCHIVE".parse().unwrap();
        let options =
            RepackOptions { minimum_days: BTreeMap::from([(class.clone(), 180)]), ..RepackOptions::default() };
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let end = 180 * DAY_SECONDS;
        assert!(options.is_paid_for(Some(&class), at(0), at(end - 1)));
        assert!(!options.is_paid_for(Some(&class), at(0), at(end)));
        assert!(options.is_paid_for(Some(&class), at(10), at(0)), "a clock that is wrong");
        assert!(!options.is_paid_for(Some(&StorageClassName::standard()), at(0), at(1)));
        assert!(!options.is_paid_for(None, at(0), at(0)));
    }
}
