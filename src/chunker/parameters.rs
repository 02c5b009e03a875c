//! What decides where chunks are cut.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

const AVERAGE_BYTES: u32 = 32 << 10;
const TINY_FILE_BYTES: u32 = 4 << 10;
const TINY_GROUP_BYTES: u32 = 64 << 10;
const TINY_GROUP_MODULUS: u32 = 4;

// FastCDC is defined for any sizes; these are what the masks and the implementation at hand are made for.
const MINIMUM_LIMITS: RangeInclusive<u32> = 64..=1 << 20;
const AVERAGE_LIMITS: RangeInclusive<u32> = 256..=4 << 20;
const MAXIMUM_LIMITS: RangeInclusive<u32> = 1 << 10..=16 << 20;
const NORMALIZATION_LIMIT: u8 = 3;

/// Where chunks are cut. All backups of a repository must use the same, or they share nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkerParameters {
    /// No chunk is shorter, but the last of a file.
    pub minimum_bytes: u32,
    /// The length around which cuts become likely. The mean of chunks cut by content is about a quarter above it.
    pub average_bytes: u32,
    /// No chunk of file data is longer; one of commands, by less than the command it ends with.
    pub maximum_bytes: u32,
    /// How strongly lengths are drawn towards the average, 0 to 3.
    pub normalization: u8,
    /// Files shorter than this share chunks with their neighbours.
    pub tiny_file_bytes: u32,
    /// A shared chunk ends after a file whose hash is 0 modulo this: about so many files share one.
    pub tiny_group_modulus: u32,
    /// A shared chunk that has got this long ends.
    pub tiny_group_bytes: u32,
}

impl Default for ChunkerParameters {
    fn default() -> Self {
        Self::with_average(AVERAGE_BYTES)
    }
}

impl ChunkerParameters {
    /// The usual proportions: a quarter of the average as minimum and four times the average as maximum.
    #[must_use]
    pub const fn with_average(average_bytes: u32) -> Self {
        let minimum_bytes = average_bytes / 4;
        let maximum_bytes = average_bytes.saturating_mul(4);
        Self {
            minimum_bytes,
            average_bytes,
            maximum_bytes,
            normalization: 1,
            tiny_file_bytes: lesser(TINY_FILE_BYTES, minimum_bytes),
            tiny_group_modulus: TINY_GROUP_MODULUS,
            tiny_group_bytes: lesser(TINY_GROUP_BYTES, maximum_bytes / 2),
        }
    }

    /// Checks that the chunker can work with these values.
    ///
    /// # Errors
    ///
    /// The first value that is out of its limits or does not fit the others.
    pub fn validate(&self) -> Result<(), InvalidParameters> {
        if !MINIMUM_LIMITS.contains(&self.minimum_bytes) || !self.minimum_bytes.is_multiple_of(2) {
            return Err(InvalidParameters::Minimum(self.minimum_bytes));
        }
        if !AVERAGE_LIMITS.contains(&self.average_bytes) || !self.average_bytes.is_power_of_two() {
            return Err(InvalidParameters::Average(self.average_bytes));
        }
        if !MAXIMUM_LIMITS.contains(&self.maximum_bytes) || !self.maximum_bytes.is_multiple_of(2) {
            return Err(InvalidParameters::Maximum(self.maximum_bytes));
        }
        if self.minimum_bytes >= self.average_bytes || self.average_bytes >= self.maximum_bytes {
            return Err(InvalidParameters::Order);
        }
        if self.normalization > NORMALIZATION_LIMIT {
            return Err(InvalidParameters::Normalization(self.normalization));
        }
        self.validate_tiny()
    }

    fn validate_tiny(&self) -> Result<(), InvalidParameters> {
        // A file below the minimum is never cut, so a tiny one is always whole.
        if self.tiny_file_bytes > self.minimum_bytes {
            return Err(InvalidParameters::TinyFile(self.tiny_file_bytes));
        }
        if self.tiny_group_modulus == 0 {
            return Err(InvalidParameters::TinyGroupModulus);
        }
        // A group may outgrow its limit by one tiny file, and still has to be a chunk like any other.
        if self.tiny_group_bytes > self.maximum_bytes - self.tiny_file_bytes {
            return Err(InvalidParameters::TinyGroup(self.tiny_group_bytes));
        }
        Ok(())
    }
}

const fn lesser(a: u32, b: u32) -> u32 {
    if a < b { a } else { b }
}

/// Parameters that the chunker cannot work with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidParameters {
    /// The minimum is odd or out of its limits.
    #[error("a minimum chunk size of {0} bytes: it must be even, from 64 bytes to 1 MiB")]
    Minimum(u32),
    /// The average is no power of two or out of its limits.
    #[error("an average chunk size of {0} bytes: it must be a power of two, from 256 bytes to 4 MiB")]
    Average(u32),
    /// The maximum is odd or out of its limits.
    #[error("a maximum chunk size of {0} bytes: it must be even, from 1 KiB to 16 MiB")]
    Maximum(u32),
    /// Minimum, average and maximum are not in this order.
    #[error("the minimum chunk size must be below the average, and that below the maximum")]
    Order,
    /// There is no such level.
    #[error("a normalization of {0}: it must be from 0 to {NORMALIZATION_LIMIT}")]
    Normalization(u8),
    /// A tiny file would be long enough to be cut.
    #[error("files under {0} bytes cannot share chunks: that is above the minimum chunk size")]
    TinyFile(u32),
    /// Nothing is 0 modulo 0.
    #[error("the modulus that ends a shared chunk must not be 0")]
    TinyGroupModulus,
    /// A shared chunk could get longer than a chunk may be.
    #[error("a shared chunk of {0} bytes and one more tiny file would be above the maximum chunk size")]
    TinyGroup(u32),
}
