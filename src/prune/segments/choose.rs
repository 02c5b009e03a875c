//! Which index segments are merged: small ones when there are many, and those of which much is gone. Nothing here asks or
//! changes anything.

use crate::id::SegmentId;
use crate::prune::limits::MergeOptions;

const ALL_MILLIONTHS: u64 = 1_000_000;

/// A segment that stays unless it is merged: it says something of a pack that stays, which no later one says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentUse {
    pub(super) id: SegmentId,
    pub(super) size_bytes: u64,
    /// Packs that it names.
    pub(super) packs: u64,
    /// Those of them that are gone, or are going.
    pub(super) gone: u64,
}

/// Chooses segments to be read, and replaced by new ones, in the order given.
pub(super) fn choose_segments(segments: &[SegmentUse], options: &MergeOptions) -> Vec<SegmentUse> {
    let is_small = |segment: &SegmentUse| segment.size_bytes < options.small_below_bytes;
    let are_many = segments.iter().filter(|segment| is_small(segment)).count() >= options.small_least.max(2);
    let is_chosen = |segment: &&SegmentUse| (are_many && is_small(segment)) || is_mostly_gone(segment, options);
    let mut room = options.read_limit_bytes;
    let mut chosen = Vec::new();
    for segment in segments.iter().filter(is_chosen) {
        if segment.size_bytes > room && !chosen.is_empty() {
            break;
        }
        room = room.saturating_sub(segment.size_bytes);
        chosen.push(*segment);
    }
    chosen
}

fn is_mostly_gone(segment: &SegmentUse, options: &MergeOptions) -> bool {
    segment.gone > 0 && segment.gone * ALL_MILLIONTHS >= segment.packs * u64::from(options.gone_least)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: MergeOptions = MergeOptions {
        small_below_bytes: 100,
        small_least: 3,
        gone_least: 250_000,
        read_limit_bytes: 1000,
        segment_chunks: 10,
        untabled_bytes_max: 0,
    };

    /// Segments of so many bytes, that name so many packs, so many of which are gone.
    fn chosen(segments: &[(u64, u64, u64)]) -> Vec<u8> {
        let segment = |(number, (size_bytes, packs, gone)): (u8, &(u64, u64, u64))| {
            let id = SegmentId::from_bytes([number; 32]);
            SegmentUse { id, size_bytes: *size_bytes, packs: *packs, gone: *gone }
        };
        let segments: Vec<SegmentUse> = (0..).zip(segments).map(segment).collect();
        choose_segments(&segments, &OPTIONS).iter().map(|segment| segment.id.as_bytes()[0]).collect()
    }

    /// Segments by length, packs, and packs that are gone; and those that are chosen.
    type Case = (&'static [(u64, u64, u64)], &'static [u8]);

    #[test]
    fn small_ones_are_merged_when_there_are_enough_and_others_are_left() {
        let cases: [Case; 7] = [
            (&[], &[]),
            (&[(99, 1, 0), (99, 1, 0)], &[]),
            (&[(99, 1, 0), (99, 1, 0), (100, 1, 0)], &[]),
            (&[(99, 1, 0), (500, 9, 0), (99, 1, 0), (1, 1, 0)], &[0, 2, 3]),
            // Much of these is gone, whatever their size.
            (&[(500, 4, 1)], &[0]),
            (&[(500, 5, 1), (50, 2, 1)], &[1]),
            (&[(99, 1, 0), (99, 1, 0), (99, 1, 0), (500, 2, 1), (500, 2, 0)], &[0, 1, 2, 3]),
        ];
        for (segments, expected) in cases {
            assert_eq!(chosen(segments), expected, "{segments:?}");
        }
    }

    #[test]
    fn no_more_is_read_than_the_limit_allows_but_one() {
        assert_eq!(chosen(&[(600, 2, 1), (400, 2, 1), (1, 2, 1)]), [0, 1]);
        assert_eq!(chosen(&[(5000, 2, 1), (400, 2, 1)]), [0]);
    }
}
