//! Footer and trailer of a pack, and the pack record by which index segments name packs.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::codec::{decode_frame, encode_frame};
use crate::id::{ChunkId, PackId, SessionId};
use crate::object::{FormatError, HEADER_BYTES, decode_cbor, encode_cbor, read_u32};

/// Length of the trailer, the pack's last bytes.
pub const TRAILER_BYTES: usize = 44;
/// A pack is never longer than this.
pub const PACK_LIMIT_BYTES: u64 = 1 << 30;
/// A pack never has more chunks than this, nor more frames.
pub const PACK_LIMIT_CHUNKS: usize = 1 << 20;

const TRAILER_MAGIC: &[u8; 8] = b"B2S3TAIL";
/// How stores call the checksum that they are told of packs.
const CRC32C: &str = "CRC32C";
/// Chunk ids do not compress; the rest of a footer is small.
const FOOTER_LEVEL: i32 = 3;

/// What a pack's chunks are for, and so how its object is kept. A chunk is known only within its class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PackClass {
    /// File data: may be archived.
    Data,
    /// Commands, tree nodes, copies of footers: readable at any time.
    Meta,
}

/// What a frame's chunks are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameKind {
    /// Chunks of a backup.
    Content,
    /// Pack records of data packs.
    Footers,
    /// Something a later program wrote.
    Unknown(u8),
}

impl FrameKind {
    fn code(self) -> u8 {
        match self {
            Self::Content => 0,
            Self::Footers => 1,
            Self::Unknown(code) => code,
        }
    }

    fn from_code(code: u8) -> Self {
        match code {
            0 => Self::Content,
            1 => Self::Footers,
            other => Self::Unknown(other),
        }
    }
}

/// One frame of a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameEntry {
    /// What its chunks are.
    pub kind: FrameKind,
    /// Where it is in the pack, bytes.
    pub range: Range<u64>,
    /// Its chunks, by their numbers in the footer.
    pub chunks: Range<usize>,
}

/// One chunk of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkEntry {
    /// Its id.
    pub id: ChunkId,
    /// Length of its plaintext.
    pub length_bytes: u32,
}

/// What is in a pack, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackFooter {
    /// What the chunks are for.
    pub class: PackClass,
    /// The session that wrote the pack.
    pub session: SessionId,
    /// The frames, in order.
    pub frames: Vec<FrameEntry>,
    /// The chunks, in order.
    pub chunks: Vec<ChunkEntry>,
}

/// The footer's columns as they are stored.
#[derive(Serialize, Deserialize)]
struct StoredFooter {
    class: PackClass,
    session: SessionId,
    frame_kinds: Vec<u8>,
    frame_lengths: Vec<u32>,
    frame_chunks: Vec<u32>,
    chunk_ids: ByteBuf,
    chunk_lengths: Vec<u32>,
}

impl From<PackFooter> for StoredFooter {
    fn from(footer: PackFooter) -> Self {
        let fits = "a frame and its chunks are below their limits";
        Self {
            class: footer.class,
            session: footer.session,
            frame_kinds: footer.frames.iter().map(|frame| frame.kind.code()).collect(),
            frame_lengths: footer
                .frames
                .iter()
                .map(|frame| u32::try_from(frame.range.end - frame.range.start).expect(fits))
                .collect(),
            frame_chunks: footer.frames.iter().map(|frame| u32::try_from(frame.chunks.len()).expect(fits)).collect(),
            chunk_ids: ByteBuf::from(footer.chunks.iter().flat_map(|chunk| *chunk.id.as_bytes()).collect::<Vec<u8>>()),
            chunk_lengths: footer.chunks.iter().map(|chunk| chunk.length_bytes).collect(),
        }
    }
}

impl TryFrom<StoredFooter> for PackFooter {
    type Error = FormatError;

    fn try_from(stored: StoredFooter) -> Result<Self, FormatError> {
        let (ids, rest) = stored.chunk_ids.as_chunks::<{ ChunkId::LENGTH }>();
        // In memory a frame takes many times what its numbers take in CBOR.
        let count = ids.len().max(stored.frame_kinds.len());
        if count > PACK_LIMIT_CHUNKS {
            let (value, limit) = (count as u64, PACK_LIMIT_CHUNKS as u64);
            return Err(FormatError::OverLimit { what: "number of chunks or frames in a pack", value, limit });
        }
        let counts_agree = rest.is_empty()
            && ids.len() == stored.chunk_lengths.len()
            && stored.frame_kinds.len() == stored.frame_lengths.len()
            && stored.frame_kinds.len() == stored.frame_chunks.len()
            && stored.frame_chunks.iter().map(|count| u64::from(*count)).sum::<u64>() == ids.len() as u64;
        if !counts_agree {
            return Err(FormatError::invalid("the columns of a pack's footer do not fit each other"));
        }
        let chunks = ids.iter().zip(&stored.chunk_lengths);
        let chunks = chunks.map(|(id, length)| ChunkEntry { id: ChunkId::from_bytes(*id), length_bytes: *length });
        let chunks = chunks.collect();
        let frames = place_frames(&stored);
        Ok(Self { class: stored.class, session: stored.session, frames, chunks })
    }
}

fn place_frames(stored: &StoredFooter) -> Vec<FrameEntry> {
    let (mut offset, mut chunk) = (HEADER_BYTES as u64, 0);
    let columns = stored.frame_kinds.iter().zip(&stored.frame_lengths).zip(&stored.frame_chunks);
    let place = |((kind, length), count): ((&u8, &u32), &u32)| {
        let range = offset..offset + u64::from(*length);
        let chunks = chunk..chunk + *count as usize;
        (offset, chunk) = (range.end, chunks.end);
        FrameEntry { kind: FrameKind::from_code(*kind), range, chunks }
    };
    columns.map(place).collect()
}

impl Serialize for PackFooter {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        StoredFooter::from(self.clone()).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for PackFooter {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let stored = StoredFooter::deserialize(deserializer)?;
        Self::try_from(stored).map_err(serde::de::Error::custom)
    }
}

/// What an index segment, or a copy of a footer, says of a pack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackRecord {
    /// The pack.
    pub id: PackId,
    /// Length of the object.
    pub stored_bytes: u64,
    /// What the store was told of the object's content at upload.
    pub checksum: Option<Checksum>,
    /// What is in it.
    pub footer: PackFooter,
}

/// A checksum that a store keeps with an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checksum {
    /// The store's name for the algorithm.
    pub algorithm: String,
    /// The checksum.
    pub value: ByteBuf,
}

impl Checksum {
    /// The checksum that stores are told of packs.
    #[must_use]
    #[expect(clippy::big_endian_bytes, reason = "S3 has the highest byte first")]
    pub fn crc32c_of(bytes: &[u8]) -> Self {
        let value = ByteBuf::from(crc32c::crc32c(bytes).to_be_bytes());
        Self { algorithm: CRC32C.to_owned(), value }
    }

    /// The CRC-32C, the highest byte first, if it is one.
    #[must_use]
    pub fn crc32c(&self) -> Option<[u8; 4]> {
        if self.algorithm == CRC32C { self.value.as_slice().try_into().ok() } else { None }
    }
}

/// Where the footer frame of a pack is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FooterPlace {
    /// Its bytes in the pack.
    pub range: Range<u64>,
    hash: [u8; 32],
}

/// Appends footer and trailer to a pack's frames.
#[expect(clippy::missing_panics_doc, reason = "a pack has so few chunks that its footer is below a frame's limit")]
pub fn write_footer(footer: &PackFooter, output: &mut Vec<u8>) {
    let frame = encode_frame(&encode_cbor(footer), FOOTER_LEVEL);
    output.extend_from_slice(&frame);
    let length = u32::try_from(frame.len()).expect("a footer is below the limit of a frame");
    output.extend_from_slice(&length.to_le_bytes());
    output.extend_from_slice(blake3::hash(&frame).as_bytes());
    output.extend_from_slice(TRAILER_MAGIC);
}

/// Finds the footer by the last bytes of a pack of `pack_bytes`.
pub fn read_trailer(pack_bytes: u64, trailer: &[u8]) -> Result<FooterPlace, FormatError> {
    let trailer: &[u8; TRAILER_BYTES] = trailer.last_chunk().ok_or(FormatError::CutShort)?;
    if &trailer[36..] != TRAILER_MAGIC {
        return Err(FormatError::NotA("a whole pack: its end is missing"));
    }
    let length = u64::from(read_u32(&trailer[..4]));
    let end = pack_bytes.checked_sub(TRAILER_BYTES as u64).ok_or(FormatError::CutShort)?;
    let start = end.checked_sub(length).filter(|start| *start >= HEADER_BYTES as u64).ok_or(FormatError::CutShort)?;
    let mut hash = [0; 32];
    hash.copy_from_slice(&trailer[4..36]);
    Ok(FooterPlace { range: start..end, hash })
}

/// Decodes the footer that [`read_trailer`] found.
pub fn read_footer(place: &FooterPlace, frame: &[u8]) -> Result<PackFooter, FormatError> {
    if blake3::hash(frame) != place.hash {
        return Err(FormatError::HashMismatch);
    }
    let footer: PackFooter = decode_cbor(&decode_frame(frame)?)?;
    let frames_end = footer.frames.last().map_or(HEADER_BYTES as u64, |last| last.range.end);
    if frames_end == place.range.start {
        Ok(footer)
    } else {
        Err(FormatError::invalid("the frames of a pack do not end where its footer begins"))
    }
}
