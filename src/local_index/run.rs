//! Reading a run.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crc32c::{crc32c, crc32c_append};

use super::format::{
    ENTRY_BYTES, FanOut, HEADER_BYTES, Header, HeaderFault, PACK_BYTES, SEGMENT_BYTES, TabledPack, decode_entry,
    decode_place, decode_segment,
};
use super::{Entry, IndexedSegment, LocalIndexError, Place};
use crate::id::{ChunkId, RepositoryId};

/// A bucket is read in pieces of at most so many entries. Only chunk ids that are no hashes, or a run of a thousand
/// million entries, make one that needs more than one piece.
const LOOKUP_PIECE_ENTRIES: u32 = 1024;
/// How much a reader of a whole table reads at once.
const SCAN_PIECE_BYTES: usize = 128 << 10;

/// An immutable file of entries, sorted by chunk and place.
///
/// Everything but the entries is checked when it is opened, the entries whenever they are read. The file stays readable
/// through this after it was removed.
#[derive(Debug)]
pub(super) struct Run {
    path: PathBuf,
    file: File,
    header: Header,
    segments: Vec<IndexedSegment>,
    fan_out: FanOut,
}

impl Run {
    pub(super) fn open(path: &Path, repository: RepositoryId) -> Result<Self, LocalIndexError> {
        let file = File::open(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => LocalIndexError::Missing { path: path.to_owned() },
            _ => LocalIndexError::io("opening", path)(error),
        })?;
        let header = read_header(&file, path, repository)?;
        let segment_bytes = read_table(&file, path, header.segments(), header.segments_crc)?;
        let fan_out = FanOut::decode(&header, records(&file, path, header.fan_out()))?.ok_or_else(|| {
            LocalIndexError::damaged(path, "the checksum of the fan-out is wrong, or it does not fit the entries")
        })?;
        let segments = segment_bytes.as_chunks::<SEGMENT_BYTES>().0.iter().map(decode_segment).collect();
        let run = Self { path: path.to_owned(), file, header, segments, fan_out };
        run.packs().try_for_each(|pack| pack.map(|_| ()))?;
        Ok(run)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn segments(&self) -> &[IndexedSegment] {
        &self.segments
    }

    pub(super) fn entry_count(&self) -> u32 {
        self.header.entry_count
    }

    pub(super) fn pack_count(&self) -> u32 {
        self.header.pack_count
    }

    pub(super) fn disk_bytes(&self) -> u64 {
        self.header.fan_out().end
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.fan_out.memory_bytes() + self.segments.capacity() * size_of::<IndexedSegment>()
    }

    /// Appends all places of a chunk to `places`, in ascending order.
    ///
    /// The whole bucket is checked before any of its entries counts: a bit that flipped on the disk gives
    /// [`LocalIndexError::Damaged`], never another answer, and `places` is then as it was.
    pub(super) fn lookup(&self, chunk: &ChunkId, places: &mut Vec<Place>) -> Result<(), LocalIndexError> {
        self.lookup_numbered(chunk, places).map(|_| ())
    }

    /// As [`lookup`](Self::lookup); gives the number of the first of these entries among all of the run. The others
    /// follow it.
    pub(super) fn lookup_numbered(&self, chunk: &ChunkId, places: &mut Vec<Place>) -> Result<u32, LocalIndexError> {
        let (mut numbers, expected_crc) = self.fan_out.candidates(chunk);
        let known = places.len();
        let mut buffer = vec![0; numbers.len().min(LOOKUP_PIECE_ENTRIES as usize) * ENTRY_BYTES];
        let (mut crc, mut first) = (0, None);
        while !numbers.is_empty() {
            let piece = numbers.len().min(LOOKUP_PIECE_ENTRIES as usize) * ENTRY_BYTES;
            let at = self.header.entries().start + u64::from(numbers.start) * ENTRY_BYTES as u64;
            read_at(&self.file, &self.path, &mut buffer[..piece], at)?;
            crc = crc32c_append(crc, &buffer[..piece]);
            let found = find(&buffer[..piece], chunk, places).map(|position| numbers.start + position);
            first = first.or(found);
            numbers.start = numbers.end.min(numbers.start.saturating_add(LOOKUP_PIECE_ENTRIES));
        }
        if crc != expected_crc {
            places.truncate(known);
            return Err(self.bucket_damaged());
        }
        Ok(first.unwrap_or(0))
    }

    /// Reads one pack of the table.
    pub(super) fn pack(&self, number: u32) -> Result<TabledPack, LocalIndexError> {
        let mut bytes = [0; PACK_BYTES];
        let at = self.header.packs().start + u64::from(number) * PACK_BYTES as u64;
        read_at(&self.file, &self.path, &mut bytes, at)?;
        self.decode_pack(&bytes)
    }

    /// Reads all packs, in the order of their numbers.
    pub(super) fn packs(&self) -> impl Iterator<Item = Result<TabledPack, LocalIndexError>> {
        records::<PACK_BYTES>(&self.file, &self.path, self.header.packs()).map(|bytes| self.decode_pack(&bytes?))
    }

    /// Reads all entries in ascending order. A wrong checksum shows after the last entry of its bucket, so what was
    /// made of the entries counts only when the end was reached without an error.
    pub(super) fn entries(&self) -> impl Iterator<Item = Result<Entry, LocalIndexError>> {
        let mut crc = 0;
        let mut bucket = 0;
        records::<ENTRY_BYTES>(&self.file, &self.path, self.header.entries()).zip(1..).map(move |(bytes, end)| {
            let bytes = bytes?;
            while self.fan_out.bucket(bucket).0.end < end {
                bucket += 1;
            }
            let (numbers, expected_crc) = self.fan_out.bucket(bucket);
            crc = crc32c_append(crc, &bytes);
            if numbers.end == end && std::mem::take(&mut crc) != expected_crc {
                return Err(self.bucket_damaged());
            }
            Ok(decode_entry(&bytes))
        })
    }

    /// Reads the whole file and checks it.
    pub(super) fn check(&self) -> Result<(), LocalIndexError> {
        self.packs().try_for_each(|pack| pack.map(|_| ()))?;
        self.entries().try_for_each(|entry| entry.map(|_| ()))
    }

    fn decode_pack(&self, bytes: &[u8; PACK_BYTES]) -> Result<TabledPack, LocalIndexError> {
        TabledPack::decode(bytes)
            .filter(|pack| pack.segment < self.header.segment_count)
            .ok_or_else(|| LocalIndexError::damaged(&self.path, "a pack's checksum is wrong"))
    }

    fn bucket_damaged(&self) -> LocalIndexError {
        LocalIndexError::damaged(&self.path, "the checksum of some entries is wrong")
    }
}

/// Appends the places that sorted entries give for a chunk; gives the position of the first, if there is one.
fn find(entries: &[u8], chunk: &ChunkId, places: &mut Vec<Place>) -> Option<u32> {
    let id = chunk.as_bytes().as_slice();
    let (entries, _) = entries.as_chunks::<ENTRY_BYTES>();
    let first = entries.partition_point(|entry| &entry[..ChunkId::LENGTH] < id);
    let matching = entries[first..].iter().take_while(|entry| &entry[..ChunkId::LENGTH] == id);
    let known = places.len();
    places.extend(matching.map(decode_place));
    let is_there = places.len() > known;
    is_there.then(|| u32::try_from(first).expect("a piece has few entries"))
}

fn read_header(file: &File, path: &Path, repository: RepositoryId) -> Result<Header, LocalIndexError> {
    let mut bytes = [0; HEADER_BYTES];
    read_at(file, path, &mut bytes, 0)?;
    let header = Header::decode(&bytes).map_err(|fault| match fault {
        HeaderFault::Damaged(reason) => LocalIndexError::damaged(path, reason),
        HeaderFault::OtherVersion(version) => LocalIndexError::OtherVersion { path: path.to_owned(), version },
    })?;
    if header.repository != repository {
        return Err(LocalIndexError::OtherRepository { path: path.to_owned() });
    }
    let length_bytes = file.metadata().map_err(LocalIndexError::io("reading", path))?.len();
    // Also bounds what the tables can take of memory.
    if length_bytes != header.fan_out().end {
        return Err(LocalIndexError::damaged(path, "its length is not that which its header gives"));
    }
    Ok(header)
}

fn read_table(file: &File, path: &Path, range: Range<u64>, crc: u32) -> Result<Vec<u8>, LocalIndexError> {
    let length = usize::try_from(range.end - range.start)
        .map_err(|_| LocalIndexError::damaged(path, "a table does not fit in memory"))?;
    let mut bytes = vec![0; length];
    read_at(file, path, &mut bytes, range.start)?;
    if crc32c(&bytes) != crc {
        return Err(LocalIndexError::damaged(path, "the checksum of a table is wrong"));
    }
    Ok(bytes)
}

fn read_at(file: &File, path: &Path, bytes: &mut [u8], at: u64) -> Result<(), LocalIndexError> {
    file.read_exact_at(bytes, at).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => LocalIndexError::damaged(path, "it ends too early"),
        _ => LocalIndexError::io("reading", path)(error),
    })
}

fn records<'a, const N: usize>(file: &'a File, path: &'a Path, range: Range<u64>) -> Records<'a, N> {
    Records { file, path, unread: range, buffer: Vec::new(), next: 0 }
}

/// Reads the records of one table in order, a large piece at a time. Ends after the first error.
#[derive(Debug)]
struct Records<'a, const N: usize> {
    file: &'a File,
    path: &'a Path,
    unread: Range<u64>,
    buffer: Vec<u8>,
    next: usize,
}

impl<const N: usize> Records<'_, N> {
    fn refill(&mut self) -> Result<(), LocalIndexError> {
        let piece = SCAN_PIECE_BYTES / N * N;
        let length = usize::try_from(self.unread.end - self.unread.start).map_or(piece, |left| left.min(piece));
        self.buffer.resize(length, 0);
        self.next = 0;
        let read = read_at(self.file, self.path, &mut self.buffer, self.unread.start);
        self.unread.start += length as u64;
        if read.is_err() {
            self.unread.start = self.unread.end;
            self.buffer.clear();
        }
        read
    }
}

impl<const N: usize> Iterator for Records<'_, N> {
    type Item = Result<[u8; N], LocalIndexError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next == self.buffer.len() {
            if self.unread.is_empty() {
                return None;
            }
            if let Err(error) = self.refill() {
                return Some(Err(error));
            }
        }
        let record = *self.buffer[self.next..].first_chunk()?;
        self.next += N;
        Some(Ok(record))
    }
}
