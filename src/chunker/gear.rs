//! Finds cut points, by the algorithm `FastCDC` of 2020 (Wen Xia and others).

use fastcdc::v2020::{self, Normalization};

use super::parameters::{ChunkerParameters, InvalidParameters};

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
}

impl Cutter {
    /// Prepares for these parameters.
    ///
    /// # Errors
    ///
    /// Parameters that do not hold [`ChunkerParameters::validate`].
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
        let minimum = parameters.minimum_bytes as usize;
        let maximum = parameters.maximum_bytes as usize;
        Ok(Self { minimum, average, maximum, strict_mask, loose_mask })
    }

    /// The most bytes that decide where a chunk ends, which is also the longest chunk.
    #[must_use]
    pub fn maximum_bytes(&self) -> usize {
        self.maximum
    }

    /// Length of the chunk that `source` begins with.
    ///
    /// `source` must hold at least the maximum or go to the end of what is cut: the end of a shorter one is taken for
    /// the end of the chunk where no earlier cut is found.
    #[must_use]
    pub fn cut(&self, source: &[u8]) -> usize {
        let (strict, loose) = (self.strict_mask, self.loose_mask);
        v2020::cut(source, self.minimum, self.average, self.maximum, strict, loose, strict << 1, loose << 1).1
    }
}
