//! Builds a pack in memory.

use bytes::Bytes;

use crate::id::{PackId, RepositoryId, Salt, SessionId};
use crate::object::{ObjectKind, write_header};
use crate::pack::format::{
    Checksum, ChunkEntry, FrameEntry, FrameKind, PackClass, PackFooter, PackRecord, write_footer,
};

/// A pack that is being filled.
#[derive(Debug)]
pub struct PackWriter {
    bytes: Vec<u8>,
    footer: PackFooter,
}

/// A pack that is complete.
#[derive(Debug, Clone)]
pub struct FinishedPack {
    /// The object.
    pub bytes: Bytes,
    /// What is said of it in the index.
    pub record: PackRecord,
}

impl PackWriter {
    /// Begins a pack with room for `capacity_bytes`. The salt is drawn for it alone.
    #[must_use]
    pub fn new(
        repository: RepositoryId,
        session: SessionId,
        class: PackClass,
        salt: Salt,
        capacity_bytes: usize,
    ) -> Self {
        let mut bytes = Vec::with_capacity(capacity_bytes);
        write_header(ObjectKind::Pack, repository, salt, &mut bytes);
        Self { bytes, footer: PackFooter { class, session, frames: Vec::new(), chunks: Vec::new() } }
    }

    /// Appends a frame that holds `chunks`; gives its number.
    #[expect(clippy::missing_panics_doc, reason = "the number of frames is below that of chunks, which is limited")]
    pub fn push_frame(&mut self, kind: FrameKind, frame: &[u8], chunks: &[ChunkEntry]) -> u32 {
        let number = u32::try_from(self.footer.frames.len()).expect("a pack has a limited number of frames");
        let start = self.bytes.len() as u64;
        self.bytes.extend_from_slice(frame);
        let first = self.footer.chunks.len();
        self.footer.chunks.extend_from_slice(chunks);
        let (range, chunks) = (start..self.bytes.len() as u64, first..self.footer.chunks.len());
        self.footer.frames.push(FrameEntry { kind, range, chunks });
        number
    }

    /// Bytes so far, without the footer.
    #[must_use]
    pub fn length_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Chunks so far.
    #[must_use]
    pub fn chunk_count(&self) -> usize {
        self.footer.chunks.len()
    }

    /// Whether nothing has been appended yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.footer.frames.is_empty()
    }

    /// Appends the footer and hashes the pack.
    #[must_use]
    pub fn finish(mut self) -> FinishedPack {
        write_footer(&self.footer, &mut self.bytes);
        let id = PackId::from_bytes(*blake3::hash(&self.bytes).as_bytes());
        let stored_bytes = self.bytes.len() as u64;
        let checksum = Some(Checksum::crc32c_of(&self.bytes));
        let record = PackRecord { id, stored_bytes, checksum, footer: self.footer };
        FinishedPack { bytes: Bytes::from(self.bytes), record }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{decode_frame, encode_frame};
    use crate::id::ChunkId;
    use crate::object::{FormatError, check_header, decode_cbor, encode_cbor};
    use crate::pack::format::{PACK_LIMIT_CHUNKS, TRAILER_BYTES, read_footer, read_trailer};

    const REPOSITORY: RepositoryId = RepositoryId::from_bytes([7; 16]);
    const SESSION: SessionId = SessionId::from_bytes([9; 16]);

    fn entry(plaintext: &[u8]) -> ChunkEntry {
        ChunkEntry { id: ChunkId::of(plaintext), length_bytes: u32::try_from(plaintext.len()).unwrap() }
    }

    fn pack() -> FinishedPack {
        let mut writer = PackWriter::new(REPOSITORY, SESSION, PackClass::Data, Salt::random(), 0);
        assert!(writer.is_empty());
        assert_eq!(
            writer.push_frame(FrameKind::Content, &encode_frame(b"onetwo", 3), &[entry(b"one"), entry(b"two")]),
            0
        );
        assert_eq!(writer.push_frame(FrameKind::Footers, &encode_frame(b"three", 3), &[entry(b"three")]), 1);
        writer.finish()
    }

    fn footer_of(bytes: &[u8]) -> Result<PackFooter, FormatError> {
        let place = read_trailer(bytes.len() as u64, bytes)?;
        let range = usize::try_from(place.range.start).unwrap()..usize::try_from(place.range.end).unwrap();
        read_footer(&place, &bytes[range])
    }

    #[test]
    fn a_pack_says_what_is_in_it_and_where() {
        let pack = pack();
        check_header(ObjectKind::Pack, REPOSITORY, &pack.bytes).unwrap();
        let footer = footer_of(&pack.bytes).unwrap();
        assert_eq!(footer, pack.record.footer);
        assert_eq!(footer.chunks, [entry(b"one"), entry(b"two"), entry(b"three")]);
        let range = &footer.frames[1].range;
        let frame = &pack.bytes[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()];
        assert_eq!(decode_frame(frame).unwrap(), b"three");
        assert_eq!(footer.frames[1].chunks, 2..3);
    }

    #[test]
    fn packs_with_equal_content_are_different_objects() {
        assert_ne!(pack().record.id, pack().record.id);
    }

    #[test]
    fn a_flipped_bit_in_footer_or_trailer_and_a_truncation_are_found() {
        let good = pack();
        let bytes = good.bytes.to_vec();
        let footer_start = usize::try_from(good.record.footer.frames[1].range.end).unwrap();
        for position in footer_start * 8..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[position / 8] ^= 1 << (position % 8);
            assert!(footer_of(&bytes).is_err(), "bit {position}");
        }
        for length in 0..bytes.len() {
            assert!(footer_of(&bytes[..length]).is_err(), "length {length}");
        }
        assert!(read_trailer(10, &bytes[bytes.len() - TRAILER_BYTES..]).is_err());
    }

    /// The columns of a footer as they are stored, whatever is in them.
    #[derive(Clone, serde::Serialize)]
    struct Columns {
        class: PackClass,
        session: SessionId,
        frame_kinds: Vec<u8>,
        frame_lengths: Vec<u32>,
        frame_chunks: Vec<u32>,
        chunk_ids: serde_bytes::ByteBuf,
        chunk_lengths: Vec<u32>,
    }

    impl Columns {
        fn of(frame_chunks: Vec<u32>, chunks: usize) -> Self {
            Self {
                class: PackClass::Data,
                session: SESSION,
                frame_kinds: vec![0; frame_chunks.len()],
                frame_lengths: vec![0; frame_chunks.len()],
                frame_chunks,
                chunk_ids: serde_bytes::ByteBuf::from(vec![0; chunks * ChunkId::LENGTH]),
                chunk_lengths: vec![0; chunks],
            }
        }

        fn decode(&self) -> Result<PackFooter, FormatError> {
            decode_cbor(&encode_cbor(self))
        }
    }

    /// A footer of empty frames that fits a frame, and would take forty times as much memory.
    #[test]
    fn a_footer_with_more_frames_than_any_pack_has_is_refused() {
        let decode = |frames: usize| Columns::of(vec![0; frames], 0).decode();
        assert_eq!(decode(PACK_LIMIT_CHUNKS).unwrap().frames.len(), PACK_LIMIT_CHUNKS);
        let refused = decode(PACK_LIMIT_CHUNKS + 1).unwrap_err().to_string();
        assert!(refused.contains("number of chunks or frames in a pack is 1048577"), "{refused}");
    }

    #[test]
    fn a_footer_one_of_whose_columns_does_not_fit_the_others_is_refused() {
        let good = Columns::of(vec![2, 1], 3);
        assert_eq!(good.decode().unwrap().frames[1].chunks, 2..3);
        let spoils: [fn(&mut Columns); 7] = [
            |columns| columns.frame_kinds.push(0),
            |columns| columns.frame_lengths.push(0),
            |columns| columns.frame_chunks.push(0),
            |columns| columns.frame_chunks[1] = 2,
            |columns| columns.chunk_ids.push(0),
            |columns| columns.chunk_ids.truncate(2 * ChunkId::LENGTH),
            |columns| columns.chunk_lengths.push(0),
        ];
        for (number, spoil) in spoils.iter().enumerate() {
            let mut columns = good.clone();
            spoil(&mut columns);
            assert!(columns.decode().is_err(), "{number}");
        }
    }
}
