//! The checksum of a command and the digest of a stream.

use std::fmt;

use twox_hash::XxHash3_128;

/// The checksum of a command: CRC-32C that begins with 0 and is not inverted at its end, over the header with the
/// checksum's own four bytes zero, and the body.
pub(super) fn command_checksum(length: [u8; 4], code: [u8; 2], body: &[u8]) -> u32 {
    let mut header = [0; super::COMMAND_HEADER_BYTES];
    header[..4].copy_from_slice(&length);
    header[4..6].copy_from_slice(&code);
    // The crate inverts what it is given and what it returns, as the usual CRC-32C does; Btrfs does neither.
    !crc32c::crc32c_append(crc32c::crc32c_append(!0, &header), body)
}

/// XXH3-128 of a whole stream. It guards against faults, not against forgery. Prints as `xxhsum -H2` does.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct StreamDigest(u128);

impl StreamDigest {
    /// Takes the value of a digest.
    #[must_use]
    pub const fn from_value(value: u128) -> Self {
        Self(value)
    }

    /// The digest's value.
    #[must_use]
    pub const fn value(self) -> u128 {
        self.0
    }
}

/// The canonical form of an XXH3 digest has its most significant byte first.
#[expect(clippy::big_endian_bytes, reason = "the canonical form is big-endian")]
impl StreamDigest {
    /// The digest in its canonical form.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// Reads a digest in its canonical form.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }
}

impl fmt::Display for StreamDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for StreamDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Computes the digest of a stream from its bytes as they come. Large slices are fastest.
#[derive(Clone, Default)]
pub struct StreamHasher(XxHash3_128);

impl StreamHasher {
    /// Begins a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next bytes of the stream.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }

    /// The digest of all bytes so far.
    #[must_use]
    pub fn digest(&self) -> StreamDigest {
        StreamDigest(self.0.finish_128())
    }
}

impl fmt::Debug for StreamHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StreamHasher").field(&self.digest()).finish()
    }
}
