//! Finds cut points, by the algorithm `FastCDC` of 2020 (Wen Xia and others).
//!
//! A hash rolls over the bytes: it is doubled, and the byte's entry in the gear table added. A chunk ends before the
//! byte that gives a hash with none of a mask's bits set.

use fastcdc::v2020::{self, Normalization};

use super::parameters::{ChunkerParameters, InvalidParameters};

/// After so many more bytes a byte is doubled out of the hash.
const MEMORY_BYTES: usize = 64;
/// Long beside [`MEMORY_BYTES`], which are hashed once more, and short beside a chunk, whose end may be in the first
/// of two lanes.
const LANE_BYTES: usize = 1024;
/// Bytes of a lane between two looks at whether it ends.
const STRIDE_BYTES: usize = 4;

/// Finds where chunks end.
#[derive(Debug, Clone)]
pub struct Cutter {
    minimum: usize,
    average: usize,
    maximum: usize,
    /// Before the average: more bits, so that cuts are rarer.
    strict_mask: u64,
    /// From the average on.
    loose_mask: u64,
    gear: Box<[u64; 256]>,
}

impl Cutter {
    /// Prepares for these parameters.
    ///
    /// # Errors
    ///
    /// Parameters that [`ChunkerParameters::validate`] refuses.
    #[expect(clippy::missing_panics_doc, reason = "the table has an entry for each byte")]
    pub fn new(parameters: &ChunkerParameters) -> Result<Self, InvalidParameters> {
        parameters.validate()?;
        let level = match parameters.normalization {
            0 => Normalization::Level0,
            1 => Normalization::Level1,
            2 => Normalization::Level2,
            _ => Normalization::Level3,
        };
        let average = parameters.average_bytes as usize;
        let (strict_mask, loose_mask) = v2020::select_masks(average, level);
        let (gear, _) = v2020::get_gear_with_seed(0);
        Ok(Self {
            minimum: parameters.minimum_bytes as usize,
            average,
            maximum: parameters.maximum_bytes as usize,
            strict_mask,
            loose_mask,
            gear: Box::new(gear.as_ref().try_into().expect("a gear table has 256 entries")),
        })
    }

    /// The most bytes that decide where a chunk ends, which is also the longest chunk.
    #[must_use]
    pub fn maximum_bytes(&self) -> usize {
        self.maximum
    }

    /// Length of the chunk that `source` begins with.
    ///
    /// `source` must hold at least the maximum or go to the end of what is cut: where no cut is found before, the end
    /// of a shorter one is taken for the end of the chunk.
    #[must_use]
    pub fn cut(&self, source: &[u8]) -> usize {
        let length = source.len().min(self.maximum);
        if length <= self.minimum {
            return length;
        }
        // Bytes are taken in pairs: a last one without its pair is no place to cut at.
        let searched_end = length & !1;
        let early_end = searched_end.min(self.average);
        let mut hash = 0;
        if let Some(position) = self.search(&source[self.minimum..early_end], self.strict_mask, &mut hash) {
            return self.minimum + position;
        }
        let position = self.search(&source[early_end..searched_end], self.loose_mask, &mut hash);
        position.map_or(length, |position| early_end + position)
    }

    /// Finds the first byte that gives a hash with no bit of `mask`. `hash` is that of the bytes before, and becomes
    /// that of all bytes if there is no such.
    fn search(&self, bytes: &[u8], mask: u64, hash: &mut u64) -> Option<usize> {
        let (blocks, rest) = bytes.as_chunks::<{ 2 * LANE_BYTES }>();
        for (count, block) in blocks.iter().enumerate() {
            if let Some(position) = self.search_block(block, mask, hash) {
                return Some(count * block.len() + position);
            }
        }
        self.search_lane(rest, mask, hash).map(|position| bytes.len() - rest.len() + position)
    }

    /// Searches the halves of a block side by side: a hash waits for the one before it, two hashes do not wait for
    /// each other, so a processor works on both at once.
    #[inline]
    fn search_block(&self, block: &[u8; 2 * LANE_BYTES], mask: u64, hash: &mut u64) -> Option<usize> {
        let (first, second) = block.split_at(LANE_BYTES);
        let mut first_hash = *hash;
        let remembered = &first[LANE_BYTES - MEMORY_BYTES..];
        let mut second_hash = remembered.iter().fold(0, |hash, byte| self.roll(hash, *byte));
        let strides = first.as_chunks::<STRIDE_BYTES>().0.iter().zip(second.as_chunks::<STRIDE_BYTES>().0);
        for (stride, (first_bytes, second_bytes)) in strides.enumerate() {
            for within in 0..STRIDE_BYTES {
                let position = stride * STRIDE_BYTES + within;
                first_hash = self.roll(first_hash, first_bytes[within]);
                second_hash = self.roll(second_hash, second_bytes[within]);
                if first_hash & mask == 0 {
                    return Some(position);
                }
                if second_hash & mask == 0 {
                    let earlier = self.search_lane(&first[position + 1..], mask, &mut first_hash);
                    return Some(earlier.map_or(LANE_BYTES + position, |earlier| position + 1 + earlier));
                }
            }
        }
        *hash = second_hash;
        None
    }

    #[inline]
    fn search_lane(&self, bytes: &[u8], mask: u64, hash: &mut u64) -> Option<usize> {
        bytes.iter().position(|byte| {
            *hash = self.roll(*hash, *byte);
            *hash & mask == 0
        })
    }

    #[inline]
    fn roll(&self, hash: u64, byte: u8) -> u64 {
        (hash << 1).wrapping_add(self.gear[usize::from(byte)])
    }
}
