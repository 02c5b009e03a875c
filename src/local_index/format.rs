//! The layout of a run, byte by byte.
//!
//! A run is a cache: a change of layout raises [`VERSION`], and files of other versions are built again.
//!
//! ```text
//! header | segments | packs | entries | fan-out
//! ```
//!
//! All numbers are little-endian. Every byte is under a CRC-32C: the header's own, one in the header over the segments
//! and one over the fan-out, one at the end of each pack, and one in the fan-out for each bucket of entries.

use std::ops::Range;

use crc32c::{crc32c, crc32c_append};

use super::{Entry, IndexedPack, IndexedSegment, PackClass, Place};
use crate::id::{ChunkId, PackId, RepositoryId, SegmentId, SessionId};

const MAGIC: &[u8; 8] = b"B2S3RUN\n";
const VERSION: u32 = 1;

pub(super) const HEADER_BYTES: usize = 56;
pub(super) const SEGMENT_BYTES: usize = 48;
pub(super) const PACK_BYTES: usize = 56;
pub(super) const ENTRY_BYTES: usize = 44;
pub(super) const BUCKET_BYTES: usize = 8;

/// Buckets hold half as many entries to as many, in the mean. With 16 look-ups are hardly faster, with 64 a quarter
/// slower, with 256 half as fast.
const ENTRIES_PER_BUCKET: u32 = 32;
/// Keeps the fan-out of one run within 8 MiB of memory. Beyond 32 million entries the buckets grow instead.
const BUCKET_BITS_LIMIT: u32 = 20;

/// Copies the field that begins at `at` out of a record that is long enough.
fn field<const N: usize>(record: &[u8], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&record[at..at + N]);
    bytes
}

fn u32_at(record: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(field(record, at))
}

/// Why a header was refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HeaderFault {
    Damaged(&'static str),
    OtherVersion(u32),
}

/// Says how much of everything a run has, and so where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) repository: RepositoryId,
    pub(super) segment_count: u32,
    pub(super) pack_count: u32,
    pub(super) entry_count: u32,
    pub(super) bucket_bits: u32,
    pub(super) segments_crc: u32,
    pub(super) fan_out_crc: u32,
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..28].copy_from_slice(self.repository.as_bytes());
        let numbers = [
            self.segment_count,
            self.pack_count,
            self.entry_count,
            self.bucket_bits,
            self.segments_crc,
            self.fan_out_crc,
        ];
        for (bytes, number) in bytes[28..52].chunks_exact_mut(4).zip(numbers) {
            bytes.copy_from_slice(&number.to_le_bytes());
        }
        let crc = crc32c(&bytes[..52]);
        bytes[52..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, HeaderFault> {
        if !bytes.starts_with(MAGIC) {
            return Err(HeaderFault::Damaged("it does not begin like an index file"));
        }
        // Before the checksum, whose place another version may have changed.
        let version = u32_at(bytes, 8);
        if version != VERSION {
            return Err(HeaderFault::OtherVersion(version));
        }
        if u32_at(bytes, 52) != crc32c(&bytes[..52]) {
            return Err(HeaderFault::Damaged("the header's checksum is wrong"));
        }
        let header = Self {
            repository: RepositoryId::from_bytes(field(bytes, 12)),
            segment_count: u32_at(bytes, 28),
            pack_count: u32_at(bytes, 32),
            entry_count: u32_at(bytes, 36),
            bucket_bits: u32_at(bytes, 40),
            segments_crc: u32_at(bytes, 44),
            fan_out_crc: u32_at(bytes, 48),
        };
        if header.bucket_bits > BUCKET_BITS_LIMIT {
            return Err(HeaderFault::Damaged("the fan-out is larger than any"));
        }
        Ok(header)
    }

    pub(super) fn segments(&self) -> Range<u64> {
        span(HEADER_BYTES as u64, self.segment_count, SEGMENT_BYTES)
    }

    pub(super) fn packs(&self) -> Range<u64> {
        span(self.segments().end, self.pack_count, PACK_BYTES)
    }

    pub(super) fn entries(&self) -> Range<u64> {
        span(self.packs().end, self.entry_count, ENTRY_BYTES)
    }

    /// The fan-out, which ends the file.
    pub(super) fn fan_out(&self) -> Range<u64> {
        span(self.entries().end, 1 << self.bucket_bits, BUCKET_BYTES)
    }
}

/// Where `count` records stand that begin at `start`. 32-bit counts keep this far from overflowing.
fn span(start: u64, count: u32, record_bytes: usize) -> Range<u64> {
    start..start + u64::from(count) * record_bytes as u64
}

pub(super) fn encode_segment(segment: &IndexedSegment) -> [u8; SEGMENT_BYTES] {
    let mut bytes = [0; SEGMENT_BYTES];
    bytes[..32].copy_from_slice(segment.id.as_bytes());
    bytes[32..].copy_from_slice(segment.session.as_bytes());
    bytes
}

pub(super) fn decode_segment(bytes: &[u8; SEGMENT_BYTES]) -> IndexedSegment {
    IndexedSegment { id: SegmentId::from_bytes(field(bytes, 0)), session: SessionId::from_bytes(field(bytes, 32)) }
}

/// A pack in a run's table, with the number of its segment in the same run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TabledPack {
    pub(super) segment: u32,
    pub(super) pack: IndexedPack,
}

impl TabledPack {
    pub(super) fn encode(&self) -> [u8; PACK_BYTES] {
        let mut bytes = [0; PACK_BYTES];
        bytes[..32].copy_from_slice(self.pack.id.as_bytes());
        bytes[32..40].copy_from_slice(&self.pack.stored_bytes.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.pack.frame_count.to_le_bytes());
        bytes[44..48].copy_from_slice(&self.segment.to_le_bytes());
        bytes[48] = match self.pack.class {
            PackClass::Data => 0,
            PackClass::Meta => 1,
        };
        let crc = crc32c(&bytes[..52]);
        bytes[52..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Gives `None` for bytes that [`encode`](Self::encode) did not make.
    pub(super) fn decode(bytes: &[u8; PACK_BYTES]) -> Option<Self> {
        if u32_at(bytes, 52) != crc32c(&bytes[..52]) {
            return None;
        }
        let class = match bytes[48] {
            0 => PackClass::Data,
            1 => PackClass::Meta,
            _ => return None,
        };
        let pack = IndexedPack {
            id: PackId::from_bytes(field(bytes, 0)),
            class,
            stored_bytes: u64::from_le_bytes(field(bytes, 32)),
            frame_count: u32_at(bytes, 40),
        };
        Some(Self { segment: u32_at(bytes, 44), pack })
    }
}

pub(super) fn encode_entry(entry: &Entry) -> [u8; ENTRY_BYTES] {
    let mut bytes = [0; ENTRY_BYTES];
    bytes[..32].copy_from_slice(entry.chunk.as_bytes());
    bytes[32..36].copy_from_slice(&entry.place.pack.to_le_bytes());
    bytes[36..40].copy_from_slice(&entry.place.frame.to_le_bytes());
    bytes[40..].copy_from_slice(&entry.place.length_bytes.to_le_bytes());
    bytes
}

pub(super) fn decode_entry(bytes: &[u8; ENTRY_BYTES]) -> Entry {
    Entry { chunk: ChunkId::from_bytes(field(bytes, 0)), place: decode_place(bytes) }
}

/// Decodes only the place of an entry.
pub(super) fn decode_place(entry: &[u8; ENTRY_BYTES]) -> Place {
    Place { pack: u32_at(entry, 32), frame: u32_at(entry, 36), length_bytes: u32_at(entry, 40) }
}

/// The entries whose ids begin with the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bucket {
    /// Number of the first entry after it.
    end: u32,
    /// CRC-32C of its entries.
    crc: u32,
}

/// Which entries are in which bucket, and the checksum of each bucket.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FanOut {
    bits: u32,
    buckets: Vec<Bucket>,
}

impl FanOut {
    /// How many bits of a chunk's id to go by where there are `entry_count` entries.
    pub(super) fn bits_for(entry_count: u32) -> u32 {
        entry_count.div_ceil(ENTRIES_PER_BUCKET).next_power_of_two().trailing_zeros().min(BUCKET_BITS_LIMIT)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let encode = |bucket: &Bucket| [bucket.end.to_le_bytes(), bucket.crc.to_le_bytes()];
        self.buckets.iter().flat_map(encode).flatten().collect()
    }

    /// Decodes the table of a run from its records, which are not in memory all at once. Gives `None` where it has another
    /// checksum than the header says, or does not part the entries.
    pub(super) fn decode<E>(
        header: &Header,
        records: impl Iterator<Item = Result<[u8; BUCKET_BYTES], E>>,
    ) -> Result<Option<Self>, E> {
        let (bits, mut crc) = (header.bucket_bits, 0);
        let mut buckets = Vec::with_capacity(1 << bits);
        for record in records {
            let record = record?;
            crc = crc32c_append(crc, &record);
            buckets.push(Bucket { end: u32_at(&record, 0), crc: u32_at(&record, 4) });
        }
        let whole = crc == header.fan_out_crc && buckets.len() == 1 << bits;
        let ascending = buckets.is_sorted_by_key(|bucket| bucket.end);
        let complete = buckets.last().is_some_and(|bucket| bucket.end == header.entry_count);
        Ok((whole && ascending && complete).then_some(Self { bits, buckets }))
    }

    /// The number of the bucket that a chunk belongs to.
    #[expect(clippy::big_endian_bytes, reason = "ids sort as byte strings, and buckets have to sort alike")]
    pub(super) fn bucket_of(bits: u32, chunk: &ChunkId) -> usize {
        let leading = u64::from(u32::from_be_bytes(field(chunk.as_bytes(), 0)));
        ((leading << bits) >> 32) as usize
    }

    /// The entries that may be those of `chunk`, by number, and their checksum.
    pub(super) fn candidates(&self, chunk: &ChunkId) -> (Range<u32>, u32) {
        self.bucket(Self::bucket_of(self.bits, chunk))
    }

    /// The entries of a bucket, by number, and their checksum.
    pub(super) fn bucket(&self, number: usize) -> (Range<u32>, u32) {
        let start = if number == 0 { 0 } else { self.buckets[number - 1].end };
        let Bucket { end, crc } = self.buckets[number];
        (start..end, crc)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.buckets.capacity() * size_of::<Bucket>()
    }
}

/// Grows with the entries of a run.
#[derive(Debug)]
pub(super) struct FanOutBuilder {
    fan_out: FanOut,
    entry_count: u32,
    crc: u32,
}

impl FanOutBuilder {
    pub(super) fn new(bits: u32) -> Self {
        let fan_out = FanOut { bits, buckets: Vec::with_capacity(1 << bits) };
        Self { fan_out, entry_count: 0, crc: 0 }
    }

    pub(super) fn entry_count(&self) -> u32 {
        self.entry_count
    }

    /// Takes the next entry. Entries have to come in ascending order, fewer than 2^32 of them.
    pub(super) fn push(&mut self, chunk: &ChunkId, encoded: &[u8; ENTRY_BYTES]) {
        self.close_until(FanOut::bucket_of(self.fan_out.bits, chunk));
        self.crc = crc32c_append(self.crc, encoded);
        self.entry_count += 1;
    }

    pub(super) fn finish(mut self) -> FanOut {
        self.close_until(1 << self.fan_out.bits);
        self.fan_out
    }

    fn close_until(&mut self, bucket_count: usize) {
        while self.fan_out.buckets.len() < bucket_count {
            let bucket = Bucket { end: self.entry_count, crc: std::mem::take(&mut self.crc) };
            self.fan_out.buckets.push(bucket);
        }
    }
}
