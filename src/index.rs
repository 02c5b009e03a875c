//! Index segments: which packs a session has stored, and what is in them.
//!
//! `docs/format.md`, "Index segments".

pub mod table;

use serde::{Deserialize, Serialize};

use crate::codec::{append_frame, decode_frame};
use crate::id::{RepositoryId, Salt, SegmentId, SessionId};
use crate::object::{FormatError, HEADER_BYTES, ObjectKind, check_header, decode_cbor, encode_cbor_of, write_header};
use crate::pack::format::PackRecord;

/// A segment is never longer than this.
pub const SEGMENT_LIMIT_BYTES: u64 = 64 << 20;

const SEGMENT_LEVEL: i32 = 3;
/// What a chunk takes in a segment's CBOR, with its part of what is said of its frame and pack.
const CHUNK_BYTES_EXPECTED: usize = 40;

/// Packs that one session has stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// The session.
    pub session: SessionId,
    /// Its packs, or some of them.
    pub packs: Vec<PackRecord>,
}

impl Segment {
    /// Encodes the segment as an object, and names it. The salt is drawn for it alone.
    #[must_use]
    pub fn encode(&self, repository: RepositoryId, salt: Salt) -> (SegmentId, Vec<u8>) {
        let mut bytes = Vec::new();
        write_header(ObjectKind::Segment, repository, salt, &mut bytes);
        let chunks: usize = self.packs.iter().map(|pack| pack.footer.chunks.len()).sum();
        let cbor = encode_cbor_of(self, chunks * CHUNK_BYTES_EXPECTED);
        append_frame(&cbor, SEGMENT_LEVEL, &mut bytes);
        (SegmentId::from_bytes(*blake3::hash(&bytes).as_bytes()), bytes)
    }

    /// Decodes the object of a segment, whose bytes must hash to `id`.
    pub fn decode(repository: RepositoryId, id: SegmentId, bytes: &[u8]) -> Result<Self, FormatError> {
        decode_cbor(&segment_body(repository, id, bytes)?)
    }
}

/// The CBOR of a segment's object, whose bytes must hash to `id`.
pub fn segment_body(repository: RepositoryId, id: SegmentId, bytes: &[u8]) -> Result<Vec<u8>, FormatError> {
    if blake3::hash(bytes) != *id.as_bytes() {
        return Err(FormatError::HashMismatch);
    }
    check_header(ObjectKind::Segment, repository, bytes)?;
    decode_frame(&bytes[HEADER_BYTES..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::encode_frame;
    use crate::id::ChunkId;
    use crate::pack::format::{ChunkEntry, FrameKind, PackClass};
    use crate::pack::writer::PackWriter;

    const REPOSITORY: RepositoryId = RepositoryId::from_bytes([7; 16]);

    fn segment() -> Segment {
        let session = SessionId::random();
        let mut pack = PackWriter::new(REPOSITORY, session, PackClass::Data, Salt::random(), 0);
        let chunk = ChunkEntry { id: ChunkId::of(b"one"), length_bytes: 3 };
        pack.push_frame(FrameKind::Content, &encode_frame(b"one", 3), &[chunk]);
        Segment { session, packs: vec![pack.finish().record] }
    }

    #[test]
    fn a_segment_reads_back() {
        let segment = segment();
        let (id, bytes) = segment.encode(REPOSITORY, Salt::random());
        assert_eq!(Segment::decode(REPOSITORY, id, &bytes).unwrap(), segment);
    }

    #[test]
    fn a_flipped_bit_a_truncation_and_another_repository_are_found() {
        let (id, good) = segment().encode(REPOSITORY, Salt::random());
        for position in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[position / 8] ^= 1 << (position % 8);
            assert_eq!(Segment::decode(REPOSITORY, id, &bytes), Err(FormatError::HashMismatch));
        }
        for length in 0..good.len() {
            assert!(Segment::decode(REPOSITORY, id, &good[..length]).is_err());
        }
        let other = RepositoryId::from_bytes([8; 16]);
        assert_eq!(Segment::decode(other, id, &good), Err(FormatError::OtherRepository(REPOSITORY)));
    }
}
