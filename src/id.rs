//! Identifiers, a type for each kind.
//!
//! An id prints as lower-case hexadecimal, whole, and is stored in CBOR as a byte string.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A text that is not the hexadecimal form of an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not {what}: {expected_digits} hexadecimal digits are needed")]
pub struct ParseIdError {
    text: String,
    what: &'static str,
    expected_digits: usize,
}

/// Where the random ids of a repository come from. Whoever writes is given a source, so that tests can repeat a run.
pub trait Randomness: fmt::Debug + Send + Sync {
    /// Fills `bytes`.
    fn fill(&self, bytes: &mut [u8]);
}

/// The generator of the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemRandomness;

impl Randomness for SystemRandomness {
    fn fill(&self, bytes: &mut [u8]) {
        fill_random(bytes);
    }
}

/// Fills `bytes` from the operating system's generator.
#[expect(clippy::disallowed_methods, reason = "the one place that draws randomness")]
#[expect(clippy::missing_panics_doc, reason = "a kernel without randomness cannot give out unique keys")]
pub fn fill_random(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("the operating system provides randomness");
}

fn write_hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

fn read_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    let mut bytes = [0; N];
    if digits.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = u8::try_from(high << 4 | low).ok()?;
    }
    Some(bytes)
}

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident, $length:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $length]);

        impl $name {
            /// Length in bytes.
            pub const LENGTH: usize = $length;

            /// Wraps the bytes of an id.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; $length]) -> Self {
                Self(bytes)
            }

            /// The id's bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; $length] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let error = || ParseIdError { text: text.to_owned(), what: $what, expected_digits: 2 * $length };
                read_hex(text).map(Self).ok_or_else(error)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serde_bytes::ByteArray::new(self.0).serialize(serializer)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                serde_bytes::ByteArray::<$length>::deserialize(deserializer).map(|bytes| Self(bytes.into_array()))
            }
        }
    };
}

id_type!(
    /// BLAKE3-256 of a chunk's plaintext.
    ChunkId, 32, "a chunk id"
);
id_type!(
    /// BLAKE3-256 of a pack, all bytes as stored.
    PackId, 32, "a pack id"
);
id_type!(
    /// BLAKE3-256 of an index segment, all bytes as stored.
    SegmentId, 32, "an index segment id"
);
id_type!(
    /// BLAKE3-256 of a look-up table, all bytes as stored.
    TableId, 32, "a look-up table id"
);
id_type!(
    /// BLAKE3-256 of an object with blocks of a look-up table, all bytes as stored.
    BlocksId, 32, "an id of blocks"
);
id_type!(
    /// BLAKE3-256 of an object's bytes, as one object records it of another.
    Digest, 32, "a digest"
);
id_type!(
    /// The random id of a writing run. The manifest that the run publishes has the same id.
    SessionId, 16, "a session id"
);
id_type!(
    /// The id of a backup's manifest: the id of the session that published it.
    ManifestId, 16, "a manifest id"
);
id_type!(
    /// The random id of a note.
    NoteId, 16, "a note id"
);
id_type!(
    /// The random id of a prune's plan.
    PlanId, 16, "a plan id"
);
id_type!(
    /// The random id of a repository, given by `init`.
    RepositoryId, 16, "a repository id"
);
id_type!(
    /// The random bytes after an object's header that make its content, and so its key, new each time.
    Salt, 16, "a salt"
);
impl ChunkId {
    /// Hashes a chunk's plaintext.
    #[must_use]
    pub fn of(plaintext: &[u8]) -> Self {
        Self(*blake3::hash(plaintext).as_bytes())
    }
}

impl Digest {
    /// Hashes an object's bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

macro_rules! random_id {
    ($($name:ident),+) => {
        $(impl $name {
            /// Draws a new id.
            #[must_use]
            pub fn random() -> Self {
                Self::drawn_from(&SystemRandomness)
            }

            /// Draws a new id from a source.
            #[must_use]
            pub fn drawn_from(source: &dyn Randomness) -> Self {
                let mut bytes = [0; Self::LENGTH];
                source.fill(&mut bytes);
                Self(bytes)
            }
        })+
    };
}

random_id!(SessionId, PlanId, RepositoryId, Salt, NoteId);

impl From<SessionId> for ManifestId {
    fn from(session: SessionId) -> Self {
        Self(session.0)
    }
}

impl From<ManifestId> for SessionId {
    fn from(manifest: ManifestId) -> Self {
        Self(manifest.0)
    }
}

/// A Btrfs subvolume's UUID. Prints with hyphens, as Btrfs' own tools do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uuid([u8; 16]);

impl Uuid {
    /// The UUID that stands for "none" in Btrfs' own structures.
    pub const NIL: Self = Self([0; 16]);

    /// Wraps the bytes of a UUID, in the order Btrfs stores them.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The UUID's bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Whether this stands for "none".
    #[must_use]
    pub fn is_nil(&self) -> bool {
        *self == Self::NIL
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, byte) in self.0.iter().enumerate() {
            let hyphen = if matches!(position, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(f, "{hyphen}{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Uuid {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let digits: String = text.chars().filter(|c| *c != '-').collect();
        let error = || ParseIdError { text: text.to_owned(), what: "a UUID", expected_digits: 32 };
        read_hex(&digits).map(Self).ok_or_else(error)
    }
}

impl Serialize for Uuid {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serde_bytes::ByteArray::new(self.0).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Uuid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        serde_bytes::ByteArray::<16>::deserialize(deserializer).map(|bytes| Self(bytes.into_array()))
    }
}

/// A state of a subvolume: what a stream names its subject, its parent and its clone sources by.
///
/// The UUID alone would not do: a snapshot made writable, edited and made read-only again keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SnapshotVersion {
    /// The subvolume's UUID, or, where it was itself received, the UUID it had at its origin.
    pub uuid: Uuid,
    /// The transaction that last changed it, counted by the file system that sends.
    pub ctransid: u64,
}

impl fmt::Display for SnapshotVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at transaction {}", self.uuid, self.ctransid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_prints_whole_and_reads_back() {
        let id = ChunkId::of(b"abc");
        assert_eq!(id.to_string(), "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85");
        assert_eq!(id.to_string().parse::<ChunkId>(), Ok(id));
    }

    #[test]
    fn a_text_of_another_length_or_alphabet_is_refused() {
        for text in ["", "00", "zz437b3ac38465133ffb63b75273a8db", "+1437b3ac38465133ffb63b75273a8db"] {
            let error = text.parse::<SessionId>().unwrap_err();
            assert!(error.to_string().contains("32 hexadecimal digits"), "{error}");
        }
    }

    #[test]
    fn a_uuid_prints_with_hyphens_and_reads_back_with_or_without() {
        let uuid = Uuid::from_bytes(*b"0123456789abcdef");
        assert_eq!(uuid.to_string(), "30313233-3435-3637-3839-616263646566");
        assert_eq!(uuid.to_string().parse::<Uuid>(), Ok(uuid));
        assert_eq!("30313233343536373839616263646566".parse::<Uuid>(), Ok(uuid));
    }
}
