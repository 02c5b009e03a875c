//! A run: records in a file, sorted by id.
//!
//! The first bits of an id say in which *bucket* it is. Where that ends in the file, and its CRC-32C, is in memory, so that a
//! look-up is one read of about a kilobyte, and a bit that has flipped on the disk is an error and never an answer.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crc32c::{crc32c, crc32c_append};

use crate::send_stream::{NAME_ID_BYTES, NameId, NameRecord};

pub(super) const RECORD_BYTES: usize = NAME_ID_BYTES + 8;
const RECORDS_PER_BUCKET: u32 = 32;
/// Keeps the buckets of one run within 256 KiB of memory. Beyond a million records they grow instead.
const BUCKET_BITS_LIMIT: u32 = 15;
/// How much of a run is written, or read from its beginning to its end, at once.
const PIECE_BYTES: usize = 128 << 10;

/// A file of records, each id once.
#[derive(Debug)]
pub(super) struct Run {
    path: PathBuf,
    file: File,
    /// A merge of runs is one level above them.
    level: u32,
    bucket_bits: u32,
    buckets: Vec<Bucket>,
}

/// Records whose ids begin with the same bits.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// Number of the first record after it.
    end: u32,
    crc: u32,
}

impl Run {
    pub(super) fn level(&self) -> u32 {
        self.level
    }

    pub(super) fn len(&self) -> usize {
        self.buckets.last().map_or(0, |last| last.end as usize)
    }

    pub(super) fn get(&self, id: &NameId) -> io::Result<Option<u64>> {
        let number = bucket_of(self.bucket_bits, id);
        let bytes = self.read(number, number + 1)?;
        let records = bytes.as_chunks::<RECORD_BYTES>().0;
        let found = records.binary_search_by(|record| record[..NAME_ID_BYTES].cmp(id.as_bytes()));
        Ok(found.ok().map(|number| decode(&records[number]).value))
    }

    pub(super) fn remove(self) -> io::Result<()> {
        fs::remove_file(&self.path).map_err(naming("removing", &self.path))
    }

    fn start(&self, bucket: usize) -> usize {
        bucket.checked_sub(1).map_or(0, |before| self.buckets[before].end as usize)
    }

    /// Reads the buckets from one to before another, and checks them.
    fn read(&self, first: usize, end: usize) -> io::Result<Vec<u8>> {
        let start = self.start(first);
        let mut bytes = vec![0; (self.start(end) - start) * RECORD_BYTES];
        let offset = (start * RECORD_BYTES) as u64;
        self.file.read_exact_at(&mut bytes, offset).map_err(naming("reading", &self.path))?;
        let mut rest = bytes.as_slice();
        for bucket in first..end {
            let (records, after) = rest.split_at((self.start(bucket + 1) - self.start(bucket)) * RECORD_BYTES);
            if crc32c(records) != self.buckets[bucket].crc {
                let error = io::Error::new(io::ErrorKind::InvalidData, "it is damaged");
                return Err(naming("reading", &self.path)(error));
            }
            rest = after;
        }
        Ok(bytes)
    }
}

/// Makes one run of several that follow each other, of which the last has the newest values.
pub(super) fn merge(runs: &[Run], path: PathBuf) -> io::Result<Run> {
    let level = runs.iter().map(Run::level).max().map_or(0, |level| level + 1);
    let mut writer = RunWriter::create(path, runs.iter().map(Run::len).sum(), level)?;
    let mut scans = runs.iter().rev().map(Scan::new).collect::<io::Result<Vec<_>>>()?;
    while let Some(least) = scans.iter().filter_map(Scan::current).map(|record| record.id).min() {
        let mut newest = None;
        for scan in &mut scans {
            if let Some(record) = scan.current().filter(|record| record.id == least) {
                newest.get_or_insert(record);
                scan.advance()?;
            }
        }
        newest.map_or(Ok(()), |record| writer.push(record))?;
    }
    writer.finish()
}

/// Reads a run from its beginning to its end.
struct Scan<'r> {
    run: &'r Run,
    next_bucket: usize,
    bytes: Vec<u8>,
    /// Where the current record begins.
    at: usize,
}

impl<'r> Scan<'r> {
    fn new(run: &'r Run) -> io::Result<Self> {
        let mut scan = Self { run, next_bucket: 0, bytes: Vec::new(), at: 0 };
        scan.read_on()?;
        Ok(scan)
    }

    fn current(&self) -> Option<NameRecord> {
        self.bytes[self.at..].first_chunk().map(decode)
    }

    fn advance(&mut self) -> io::Result<()> {
        self.at += RECORD_BYTES;
        self.read_on()
    }

    /// Reads further buckets where none of what was read is left.
    fn read_on(&mut self) -> io::Result<()> {
        while self.at == self.bytes.len() && self.next_bucket < self.run.buckets.len() {
            let start = self.run.start(self.next_bucket);
            let fits = |end: &Bucket| (end.end as usize - start) * RECORD_BYTES <= PIECE_BYTES;
            let further = &self.run.buckets[self.next_bucket..];
            let end = self.next_bucket + further.partition_point(fits).max(1);
            self.bytes = self.run.read(self.next_bucket, end)?;
            (self.next_bucket, self.at) = (end, 0);
        }
        Ok(())
    }
}

/// Writes a run. Its file goes with the folder if it is not finished.
pub(super) struct RunWriter {
    path: PathBuf,
    file: BufWriter<File>,
    level: u32,
    bucket_bits: u32,
    buckets: Vec<Bucket>,
    count: u32,
    crc: u32,
}

impl RunWriter {
    /// Begins a run of at most so many records.
    pub(super) fn create(path: PathBuf, at_most: usize, level: u32) -> io::Result<Self> {
        let too_many = |_| io::Error::other("there are more names than any file of them may have");
        let at_most = u32::try_from(at_most).map_err(too_many)?;
        let buckets = at_most.div_ceil(RECORDS_PER_BUCKET).next_power_of_two();
        let bucket_bits = buckets.trailing_zeros().min(BUCKET_BITS_LIMIT);
        let file = File::options().read(true).write(true).create_new(true).open(&path);
        let file = BufWriter::with_capacity(PIECE_BYTES, file.map_err(naming("making", &path))?);
        let buckets = Vec::with_capacity(1 << bucket_bits);
        Ok(Self { path, file, level, bucket_bits, buckets, count: 0, crc: 0 })
    }

    /// Adds a record, whose id is above that of the one before.
    pub(super) fn push(&mut self, record: NameRecord) -> io::Result<()> {
        self.close_before(bucket_of(self.bucket_bits, &record.id));
        let bytes = encode(&record);
        self.crc = crc32c_append(self.crc, &bytes);
        self.count += 1;
        self.file.write_all(&bytes).map_err(naming("writing", &self.path))
    }

    /// Nothing of it has to outlive the process, so it need not reach the disk.
    pub(super) fn finish(mut self) -> io::Result<Run> {
        self.close_before(1 << self.bucket_bits);
        let Self { path, file, level, bucket_bits, buckets, .. } = self;
        let file = file.into_inner().map_err(|error| naming("writing", &path)(error.into_error()))?;
        Ok(Run { path, file, level, bucket_bits, buckets })
    }

    fn close_before(&mut self, bucket: usize) {
        while self.buckets.len() < bucket {
            self.buckets.push(Bucket { end: self.count, crc: std::mem::take(&mut self.crc) });
        }
    }
}

/// The number of the bucket that an id belongs to.
#[expect(clippy::big_endian_bytes, reason = "ids sort as byte strings, and buckets have to sort alike")]
fn bucket_of(bits: u32, id: &NameId) -> usize {
    let [a, b, c, d, ..] = *id.as_bytes();
    let leading = u64::from(u32::from_be_bytes([a, b, c, d]));
    usize::try_from((leading << bits) >> 32).expect("at most 15 bits are left")
}

fn encode(record: &NameRecord) -> [u8; RECORD_BYTES] {
    let mut bytes = [0; RECORD_BYTES];
    bytes[..NAME_ID_BYTES].copy_from_slice(record.id.as_bytes());
    bytes[NAME_ID_BYTES..].copy_from_slice(&record.value.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8; RECORD_BYTES]) -> NameRecord {
    let (mut id, mut value) = ([0; NAME_ID_BYTES], [0; 8]);
    id.copy_from_slice(&bytes[..NAME_ID_BYTES]);
    value.copy_from_slice(&bytes[NAME_ID_BYTES..]);
    NameRecord { id: NameId::from_bytes(id), value: u64::from_le_bytes(value) }
}

/// For `map_err`.
fn naming(operation: &'static str, path: &Path) -> impl Fn(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{operation} {}: {error}", path.display()))
}
