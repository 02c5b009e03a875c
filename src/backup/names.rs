//! What is known of a stream's names, as far as it does not fit into memory: in files of a scratch folder.
//!
//! What comes at once is sorted and becomes a *run*, a file that never changes. Four runs of one size become one of the next, so
//! that there are few. A filter says of most ids that no run has them, which is what is asked of each name that is new.
//!
//! Beside buffers, memory is 8 MiB for the filter and 8 bytes for 32 records, at most 256 KiB for a run. On disk a record takes
//! 32 bytes, and while four runs become one, as much again.

mod run;

use std::fs::File;
use std::io;
use std::path::PathBuf;

use rustix::fs::fstatvfs;

use crate::repository::scratch::ScratchFolder;
use crate::send_stream::{NameId, NameRecord, NameStore};
use run::{RECORD_BYTES, Run, RunWriter, merge};

/// So many runs of one level become one of the next.
const RUNS_OF_A_LEVEL: usize = 4;
/// What is left free of the file system for what a backup cannot do without.
const LEFT_FREE_BYTES: u64 = 64 << 20;

/// Keeps names in a folder, which is made when there is something to keep, and is gone with this.
#[derive(Debug)]
pub(crate) struct NamesOnDisk {
    parent: PathBuf,
    kept: Option<Kept>,
    left_free_bytes: u64,
}

#[derive(Debug)]
struct Kept {
    folder: ScratchFolder,
    /// From the oldest to the newest. None is of a higher level than one before it.
    runs: Vec<Run>,
    made: u64,
    filter: Filter,
}

impl NamesOnDisk {
    /// Will make its folder in another one.
    pub(crate) fn below(parent: PathBuf) -> Self {
        Self { parent, kept: None, left_free_bytes: LEFT_FREE_BYTES }
    }

    fn kept(&mut self) -> io::Result<&mut Kept> {
        if self.kept.is_none() {
            let folder = ScratchFolder::make(&self.parent).map_err(|error| io::Error::other(format!("{error:#}")))?;
            self.kept = Some(Kept { folder, runs: Vec::new(), made: 0, filter: Filter::new() });
        }
        Ok(self.kept.as_mut().expect("it was made above"))
    }
}

impl NameStore for NamesOnDisk {
    fn put(&mut self, records: &[NameRecord]) -> io::Result<()> {
        let left_free_bytes = self.left_free_bytes;
        let kept = self.kept()?;
        kept.require_room(records.len(), left_free_bytes)?;
        for record in records {
            kept.filter.add(&record.id);
        }
        let path = kept.next_path();
        let mut writer = RunWriter::create(path, records.len(), 0)?;
        records.iter().try_for_each(|record| writer.push(*record))?;
        kept.runs.push(writer.finish()?);
        while let Some(first) = kept.first_to_merge() {
            kept.require_room(kept.runs[first..].iter().map(Run::len).sum(), left_free_bytes)?;
            let path = kept.next_path();
            let merged = merge(&kept.runs[first..], path)?;
            for run in kept.runs.drain(first..) {
                run.remove()?;
            }
            kept.runs.push(merged);
        }
        Ok(())
    }

    fn get(&mut self, id: &NameId) -> io::Result<Option<u64>> {
        let Some(kept) = self.kept.as_mut().filter(|kept| kept.filter.may_have(id)) else { return Ok(None) };
        for run in kept.runs.iter().rev() {
            if let Some(value) = run.get(id)? {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }
}

impl Kept {
    fn next_path(&mut self) -> PathBuf {
        self.made += 1;
        self.folder.path().join(self.made.to_string())
    }

    /// The first of the newest runs, if they are as many as become one.
    fn first_to_merge(&self) -> Option<usize> {
        let level = self.runs.last()?.level();
        let first = self.runs.len().checked_sub(RUNS_OF_A_LEVEL)?;
        self.runs[first..].iter().all(|run| run.level() == level).then_some(first)
    }

    /// The local index, packs of a local repository and whatever else is on this file system must not fail for this.
    fn require_room(&self, records: usize, left_free_bytes: u64) -> io::Result<()> {
        let path = self.folder.path();
        let system = fstatvfs(File::open(path)?)?;
        let needed = left_free_bytes.saturating_add((records * RECORD_BYTES) as u64);
        if system.f_bavail.saturating_mul(system.f_frsize) < needed {
            let message = format!("fewer than {needed} bytes are free at {}", path.display());
            return Err(io::Error::new(io::ErrorKind::StorageFull, message));
        }
        Ok(())
    }
}

/// Says of an id that it was not added, or that it may have been (a Bloom filter).
///
/// Of a million ids that were not added it is wrong about none, of ten million about 4 %, of a hundred million about all: then the runs
/// are asked.
#[derive(Debug)]
struct Filter {
    words: Vec<u64>,
}

impl Filter {
    const WORDS: usize = 1 << 20;
    /// How many bits stand for an id, each chosen by four bytes of it.
    const BITS_OF_AN_ID: usize = 4;

    fn new() -> Self {
        Self { words: vec![0; Self::WORDS] }
    }

    fn add(&mut self, id: &NameId) {
        for (word, bit) in Self::bits(id) {
            self.words[word] |= bit;
        }
    }

    fn may_have(&self, id: &NameId) -> bool {
        Self::bits(id).all(|(word, bit)| self.words[word] & bit != 0)
    }

    fn bits(id: &NameId) -> impl Iterator<Item = (usize, u64)> {
        let chosen = id.as_bytes().as_chunks::<4>().0.iter().take(Self::BITS_OF_AN_ID);
        chosen.map(|bytes| {
            let chosen = u32::from_le_bytes(*bytes) as usize;
            ((chosen / 64) % Self::WORDS, 1 << (chosen % 64))
        })
    }
}

#[cfg(test)]
mod tests;
