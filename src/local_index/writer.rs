//! Writing a run.

use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crc32c::crc32c;

use super::format::{FanOut, FanOutBuilder, HEADER_BYTES, Header, TabledPack, encode_entry, encode_segment};
use super::{Entry, IndexedSegment, LocalIndexError};
use crate::id::RepositoryId;

/// What the name of an unfinished run ends with.
pub(super) const TEMPORARY_SUFFIX: &str = ".tmp";

const BUFFER_BYTES: usize = 256 << 10;

/// Writes one run: its packs first, then its entries in ascending order.
///
/// Nothing is under the run's name before [`finish`](Self::finish), and the temporary file goes when the writer is
/// dropped; one left by a crash is removed when the index is opened next.
#[derive(Debug)]
pub(super) struct RunWriter {
    path: PathBuf,
    temporary: TemporaryFile,
    file: BufWriter<File>,
    header: Header,
    fan_out: FanOutBuilder,
    last: Option<Entry>,
}

impl RunWriter {
    /// Begins a run that covers `segments` and has at most `entry_limit` entries, of which the size of the fan-out
    /// depends.
    pub(super) fn create(
        path: &Path,
        repository: RepositoryId,
        segments: &[IndexedSegment],
        entry_limit: u32,
    ) -> Result<Self, LocalIndexError> {
        let too_large = |_| LocalIndexError::TooLarge { path: path.to_owned() };
        let segment_bytes = segments.iter().flat_map(encode_segment).collect::<Vec<u8>>();
        let header = Header {
            repository,
            segment_count: u32::try_from(segments.len()).map_err(too_large)?,
            pack_count: 0,
            entry_count: 0,
            bucket_bits: FanOut::bits_for(entry_limit),
            segments_crc: crc32c(&segment_bytes),
            fan_out_crc: 0,
        };
        let temporary = TemporaryFile::beside(path);
        let file = File::create(&temporary.path).map_err(LocalIndexError::io("creating", &temporary.path))?;
        let fan_out = FanOutBuilder::new(header.bucket_bits);
        let file = BufWriter::with_capacity(BUFFER_BYTES, file);
        let mut writer = Self { path: path.to_owned(), temporary, file, header, fan_out, last: None };
        // The header's place is left empty until the counts are known.
        writer.attempt(|file| file.seek(SeekFrom::Start(HEADER_BYTES as u64)).map(|_| ()))?;
        writer.attempt(|file| file.write_all(&segment_bytes))?;
        Ok(writer)
    }

    /// Adds a pack to the table and gives its number. All packs come before the first entry.
    pub(super) fn push_pack(&mut self, pack: &TabledPack) -> Result<u32, LocalIndexError> {
        let number = self.header.pack_count;
        self.header.pack_count =
            number.checked_add(1).ok_or_else(|| LocalIndexError::TooLarge { path: self.path.clone() })?;
        self.attempt(|file| file.write_all(&pack.encode()))?;
        Ok(number)
    }

    /// Adds an entry. One that equals the last is dropped.
    pub(super) fn push_entry(&mut self, entry: Entry) -> Result<(), LocalIndexError> {
        if self.last == Some(entry) {
            return Ok(());
        }
        if self.last.is_some_and(|last| last > entry) {
            return Err(LocalIndexError::damaged(&self.path, "its entries would be out of order"));
        }
        if self.fan_out.entry_count() == u32::MAX {
            return Err(LocalIndexError::TooLarge { path: self.path.clone() });
        }
        let encoded = encode_entry(&entry);
        self.fan_out.push(&entry.chunk, &encoded);
        self.last = Some(entry);
        self.attempt(|file| file.write_all(&encoded))
    }

    /// Completes the run and gives it its name. It is durable when this returns.
    pub(super) fn finish(self) -> Result<(), LocalIndexError> {
        let Self { path, mut temporary, mut file, mut header, fan_out, .. } = self;
        header.entry_count = fan_out.entry_count();
        let fan_out = fan_out.finish().encode();
        header.fan_out_crc = crc32c(&fan_out);
        let mut complete = || {
            file.write_all(&fan_out)?;
            file.flush()?;
            file.get_ref().write_all_at(&header.encode(), 0)?;
            file.get_ref().sync_all()
        };
        complete().map_err(LocalIndexError::io("writing", &temporary.path))?;
        temporary.persist(&path)
    }

    fn attempt(&mut self, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> Result<(), LocalIndexError> {
        write(&mut self.file).map_err(LocalIndexError::io("writing", &self.temporary.path))
    }
}

/// A file that goes away unless it gets its final name.
#[derive(Debug)]
struct TemporaryFile {
    path: PathBuf,
    persisted: bool,
}

impl TemporaryFile {
    fn beside(path: &Path) -> Self {
        let mut name = path.as_os_str().to_owned();
        name.push(TEMPORARY_SUFFIX);
        Self { path: PathBuf::from(name), persisted: false }
    }

    fn persist(&mut self, path: &Path) -> Result<(), LocalIndexError> {
        fs::rename(&self.path, path).map_err(LocalIndexError::io("renaming", &self.path))?;
        self.persisted = true;
        // The runs that went into this one are removed next, which must not reach the disk before the new name does.
        let directory = path.parent().unwrap_or(Path::new("."));
        let sync = File::open(directory).and_then(|file| file.sync_all());
        sync.map_err(LocalIndexError::io("syncing", directory))
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        if !self.persisted {
            // The failure that leads here is reported; what cannot be removed now is removed at the next opening.
            fs::remove_file(&self.path).ok();
        }
    }
}
