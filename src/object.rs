//! What all objects have in common: the header, and the record (header, one CBOR map, hash).
//!
//! `docs/format.md`, "Header" and "Records".

pub mod notation;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::id::{RepositoryId, Salt};

/// Length of an object's header.
pub const HEADER_BYTES: usize = 48;
/// The format this program writes.
pub const FORMAT_VERSION: u32 = 1;
/// A record is never longer than this.
pub const RECORD_LIMIT_BYTES: u64 = 16 << 20;

const MAGIC: &[u8; 4] = b"B2S3";
const HASH_BYTES: usize = 32;

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectKind {
    /// The repository's parameters.
    Config,
    /// Start, beat or end of a session.
    Session,
    /// A pack.
    Pack,
    /// An index segment.
    Segment,
    /// A look-up table.
    Table,
    /// Blocks of a look-up table.
    Blocks,
    /// A manifest.
    Manifest,
    /// What a prune is going to delete.
    Plan,
    /// The marker that a manifest does not count any more.
    Forgotten,
    /// Something said of a manifest, or of the repository, later.
    Note,
}

impl ObjectKind {
    const fn tag(self) -> &'static [u8; 4] {
        match self {
            Self::Config => b"CONF",
            Self::Session => b"SESS",
            Self::Pack => b"PACK",
            Self::Segment => b"INDX",
            Self::Table => b"TABL",
            Self::Blocks => b"BLKS",
            Self::Manifest => b"MANI",
            Self::Plan => b"PLAN",
            Self::Forgotten => b"FORG",
            Self::Note => b"NOTE",
        }
    }
}

/// What is wrong with stored bytes. The object's name stands in the context around it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The bytes end too early.
    #[error("it is cut short")]
    CutShort,
    /// Not what was expected.
    #[error("it is not {0}")]
    NotA(&'static str),
    /// Written by a later program.
    #[error("it has format version {0}, and this program knows version 1: use a newer btrfs_to_s3")]
    UnknownVersion(u32),
    /// It belongs to another repository.
    #[error("it belongs to repository {0}")]
    OtherRepository(RepositoryId),
    /// The hash at its end, or in its name, is not that of its bytes.
    #[error("its bytes do not have the hash they should have")]
    HashMismatch,
    /// A length or count beyond the format's limits.
    #[error("its {what} is {value}, and {limit} is the limit")]
    OverLimit {
        /// Which value.
        what: &'static str,
        /// What it is.
        value: u64,
        /// What it may be.
        limit: u64,
    },
    /// Anything else that the format does not allow.
    #[error("{0}")]
    Invalid(String),
}

impl FormatError {
    /// A fault in words.
    pub fn invalid(reason: impl Into<String>) -> Self {
        Self::Invalid(reason.into())
    }
}

/// Encodes a value as CBOR.
#[must_use]
pub fn encode_cbor<T: Serialize>(value: &T) -> Vec<u8> {
    encode_cbor_of(value, 0)
}

/// As [`encode_cbor`], with room for as many bytes as are expected: a vector that grows to some megabytes leaves pieces of
/// memory behind, each as long as all before it.
pub(crate) fn encode_cbor_of<T: Serialize>(value: &T, expected_bytes: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(expected_bytes);
    ciborium::into_writer(value, &mut bytes).expect("a Vec takes all bytes");
    bytes
}

/// Decodes one CBOR value that fills `bytes`.
pub fn decode_cbor<T: DeserializeOwned>(mut bytes: &[u8]) -> Result<T, FormatError> {
    let value = ciborium::from_reader(&mut bytes).map_err(|error| match error {
        ciborium::de::Error::Io(_) => FormatError::CutShort,
        other => FormatError::Invalid(format!("its CBOR does not fit the format: {other}")),
    })?;
    if bytes.is_empty() { Ok(value) } else { Err(FormatError::invalid("there are bytes after its CBOR value")) }
}

/// Appends the header of a new object. The salt is drawn for it alone.
pub fn write_header(kind: ObjectKind, repository: RepositoryId, salt: Salt, output: &mut Vec<u8>) {
    output.extend_from_slice(MAGIC);
    output.extend_from_slice(kind.tag());
    output.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    output.extend_from_slice(&0_u32.to_le_bytes());
    output.extend_from_slice(repository.as_bytes());
    output.extend_from_slice(salt.as_bytes());
}

/// The header of an object of ours, in a format this program knows.
fn known_header(bytes: &[u8]) -> Result<&[u8; HEADER_BYTES], FormatError> {
    let header: &[u8; HEADER_BYTES] = bytes.first_chunk().ok_or(FormatError::CutShort)?;
    if &header[..4] != MAGIC {
        return Err(FormatError::NotA("an object of btrfs_to_s3"));
    }
    match read_u32(&header[8..12]) {
        FORMAT_VERSION => Ok(header),
        version => Err(FormatError::UnknownVersion(version)),
    }
}

/// Checks the header of an object; gives the repository it belongs to.
pub fn read_header(kind: ObjectKind, bytes: &[u8]) -> Result<RepositoryId, FormatError> {
    let header = known_header(bytes)?;
    if &header[4..8] != kind.tag() {
        return Err(FormatError::invalid(format!("its kind is not {}", kind.tag().escape_ascii())));
    }
    if header[12..16] != [0; 4] {
        return Err(FormatError::invalid("its header has flags that this program does not know"));
    }
    let mut repository = [0; 16];
    repository.copy_from_slice(&header[16..32]);
    Ok(RepositoryId::from_bytes(repository))
}

/// Checks that an object belongs to `repository`.
pub fn check_header(kind: ObjectKind, repository: RepositoryId, bytes: &[u8]) -> Result<(), FormatError> {
    match read_header(kind, bytes)? {
        found if found == repository => Ok(()),
        found => Err(FormatError::OtherRepository(found)),
    }
}

/// Encodes a record: header, CBOR, hash.
#[must_use]
pub fn encode_record<T: Serialize>(kind: ObjectKind, repository: RepositoryId, value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_header(kind, repository, Salt::random(), &mut bytes);
    bytes.extend_from_slice(&encode_cbor(value));
    let hash = blake3::hash(&bytes);
    bytes.extend_from_slice(hash.as_bytes());
    bytes
}

/// Decodes a record; gives the repository it belongs to as well.
pub fn decode_record<T: DeserializeOwned>(kind: ObjectKind, bytes: &[u8]) -> Result<(RepositoryId, T), FormatError> {
    let body = record_body(bytes)?;
    Ok((read_header(kind, bytes)?, decode_cbor(body)?))
}

/// The CBOR of a whole record, of whatever kind.
pub fn record_body(bytes: &[u8]) -> Result<&[u8], FormatError> {
    let (content, hash) = bytes.split_last_chunk::<HASH_BYTES>().ok_or(FormatError::CutShort)?;
    // A newer format may end otherwise, so its version is looked at before its hash.
    known_header(content)?;
    if blake3::hash(content).as_bytes() != hash {
        return Err(FormatError::HashMismatch);
    }
    Ok(&content[HEADER_BYTES..])
}

/// Reads four bytes as a number.
pub(crate) fn read_u32(bytes: &[u8]) -> u32 {
    let mut four = [0; 4];
    four.copy_from_slice(&bytes[..4]);
    u32::from_le_bytes(four)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPOSITORY: RepositoryId = RepositoryId::from_bytes([7; 16]);

    fn record() -> Vec<u8> {
        encode_record(ObjectKind::Config, REPOSITORY, &vec![1_u32, 2, 3])
    }

    #[test]
    fn a_record_reads_back() {
        let decoded: (RepositoryId, Vec<u32>) = decode_record(ObjectKind::Config, &record()).unwrap();
        assert_eq!(decoded, (REPOSITORY, vec![1, 2, 3]));
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_of_a_record_is_found() {
        let good = record();
        for position in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[position / 8] ^= 1 << (position % 8);
            assert!(decode_record::<Vec<u32>>(ObjectKind::Config, &bytes).is_err(), "bit {position}");
        }
        for length in 0..good.len() {
            assert!(decode_record::<Vec<u32>>(ObjectKind::Config, &good[..length]).is_err(), "length {length}");
        }
    }

    #[test]
    fn a_record_of_another_kind_or_with_bytes_after_its_value_is_refused() {
        assert!(decode_record::<Vec<u32>>(ObjectKind::Manifest, &record()).is_err());
        assert_eq!(decode_cbor::<u32>(&[1, 1]), Err(FormatError::invalid("there are bytes after its CBOR value")));
    }

    #[test]
    fn hostile_lengths_and_depth_in_cbor_are_errors() {
        let long_array = [0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        assert!(decode_cbor::<Vec<u32>>(&long_array).is_err());
        let long_bytes = [0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        assert!(decode_cbor::<serde_bytes::ByteBuf>(&long_bytes).is_err());
    }
}
