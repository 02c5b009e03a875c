//! The index on the host's disk: which chunk is in which packs.
//!
//! It is a cache. Every file of it can be lost, damaged, of another repository or older than it should be, and is then
//! missing from what [`LocalIndex::segments`] says is covered, to be added again; it never gives a wrong answer.
//!
//! The index is a set of immutable files, *runs*, each with everything it needs: the segments it covers, a table of
//! their packs, and the entries, sorted by chunk id, which name packs by their number in that table. A small fan-out
//! table in memory leads to the few dozen entries that a chunk can be among; they are read, and checked, at each
//! look-up. A segment is added as a run of its own, and runs are merged so that they stay few.
//!
//! No two runs in use cover the same segment. Where two in the directory do, the later one was made of the earlier one,
//! which a crash kept from being removed, and is removed when the index is opened.
//!
//! An entry takes 44 bytes on disk, with the fan-out and the packs about 44.5. In memory it takes a quarter to half a
//! byte, at most 8 MiB a run; a pack takes one byte, a segment 49.

mod directory;
mod error;
mod format;
mod member;
mod merge;
mod plan;
mod run;
mod survey;
mod writer;

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use crate::id::{ChunkId, PackId, RepositoryId, SegmentId, SessionId};
use crate::pack::format::PackClass;
use directory::Listing;
use format::TabledPack;
use member::Member;
use merge::merge_runs;
use run::Run;
use writer::RunWriter;

pub use directory::link_runs;
pub use error::LocalIndexError;
pub use survey::{NumberedPlace, Survey};

/// How often an index is listed again that changes while it is being opened.
const OPEN_ATTEMPTS: usize = 8;

/// A pack that the index knows of.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IndexedPack {
    /// Its id.
    pub id: PackId,
    /// What its chunks are for.
    pub class: PackClass,
    /// Length of its object, in bytes.
    pub stored_bytes: u64,
    /// How many frames it has.
    pub frame_count: u32,
}

/// An index segment that the index covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IndexedSegment {
    /// Its id.
    pub id: SegmentId,
    /// The session that wrote it.
    pub session: SessionId,
}

/// Where a chunk is, within one segment or one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// Number of the pack in the segment's or the run's list of packs.
    pub pack: u32,
    /// Number of the frame in the pack.
    pub frame: u32,
    /// Length of the chunk's plaintext.
    pub length_bytes: u32,
}

/// A chunk and one of its places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Entry {
    /// The chunk.
    pub chunk: ChunkId,
    /// Where it is.
    pub place: Place,
}

/// What is to be added to the index of one segment.
#[derive(Debug, Clone)]
pub struct NewSegment {
    /// The segment.
    pub segment: IndexedSegment,
    /// Its packs; the entries name them by their number in this list.
    pub packs: Vec<IndexedPack>,
    /// Its chunks, in any order.
    pub entries: Vec<Entry>,
    /// Whether look-ups may give these packs before [`LocalIndex::set_usable`] is called next.
    pub usable: bool,
}

/// Where a chunk is in the repository.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Location {
    /// The pack.
    pub pack: PackId,
    /// The pack's class.
    pub class: PackClass,
    /// Length of the pack's object, in bytes.
    pub pack_stored_bytes: u64,
    /// Number of the frame in the pack.
    pub frame: u32,
    /// Length of the chunk's plaintext.
    pub length_bytes: u32,
}

/// What the caller may do with the index's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nothing is written or removed: another process may be changing the index meanwhile.
    Shared,
    /// The caller sees to it that no other process has this access (it holds the host's lock).
    Exclusive,
}

/// How large an index is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IndexSize {
    /// Files.
    pub runs: usize,
    /// Entries: chunks, counted once for each place.
    pub entries: u64,
    /// Packs.
    pub packs: u64,
    /// Length of the files.
    pub disk_bytes: u64,
    /// Memory held for look-ups.
    pub memory_bytes: u64,
}

/// The index on the host's disk. See the module's documentation.
///
/// Look-ups may be made by many threads at once. A pack counts only when it has been found *usable*: none is when the
/// index has been opened, until [`set_usable`](Self::set_usable) is told.
#[derive(Debug)]
pub struct LocalIndex {
    directory: PathBuf,
    repository: RepositoryId,
    access: Access,
    next_number: u64,
    /// The largest first, where a chunk most probably is.
    members: Vec<Member>,
}

impl LocalIndex {
    /// Opens the index in a directory, which has to be there and may be empty.
    ///
    /// Files that are damaged, or of another repository or version, are left out, removed where the access is
    /// exclusive, and given back as the reasons why segments are missing.
    ///
    /// # Errors
    ///
    /// [`LocalIndexError::Io`] where the directory or a file cannot be read or removed.
    pub fn open(
        directory: &Path,
        repository: RepositoryId,
        access: Access,
    ) -> Result<(Self, Vec<LocalIndexError>), LocalIndexError> {
        let mut listing = Listing::read(directory)?;
        let mut opened = OpenedRuns::open(directory, repository, &listing.runs)?;
        // Another process may have replaced runs between the listing and the opening; a run that was opened stays
        // readable, but its successors would be missing.
        for _ in 1..OPEN_ATTEMPTS {
            let again = Listing::read(directory)?;
            if again.runs == listing.runs {
                break;
            }
            listing = again;
            opened = OpenedRuns::open(directory, repository, &listing.runs)?;
        }
        if access == Access::Exclusive {
            listing.temporary.iter().chain(&opened.useless).try_for_each(|path| directory::remove(path))?;
        }
        let mut index = Self {
            directory: directory.to_owned(),
            repository,
            access,
            next_number: listing.runs.first().map_or(0, |number| number + 1),
            members: opened.runs.into_iter().map(Member::unproven).collect(),
        };
        index.sort_members();
        Ok((index, opened.problems))
    }

    /// The segments that the index covers, without those dropped.
    #[must_use]
    pub fn segments(&self) -> BTreeSet<SegmentId> {
        self.members.iter().flat_map(Member::kept_segments).map(|segment| segment.id).collect()
    }

    /// How large the index is.
    #[must_use]
    pub fn size(&self) -> IndexSize {
        let mut size = IndexSize { runs: self.members.len(), ..IndexSize::default() };
        for member in &self.members {
            size.entries += u64::from(member.run.entry_count());
            size.packs += u64::from(member.run.pack_count());
            size.disk_bytes += member.run.disk_bytes();
            size.memory_bytes += member.memory_bytes() as u64;
        }
        size
    }

    /// Finds out which packs may be given by look-ups: those for which `usable` says so. It replaces all that was said
    /// before.
    ///
    /// # Errors
    ///
    /// [`LocalIndexError`] where a run cannot be read; its packs are then not usable.
    pub fn set_usable(
        &mut self,
        mut usable: impl FnMut(&IndexedSegment, &IndexedPack) -> bool,
    ) -> Result<(), LocalIndexError> {
        let update = |member: &mut Member| member.update_usable(|segment, pack, _| usable(segment, pack));
        self.members.iter_mut().map(update).fold(Ok(()), Result::and)
    }

    /// Finds a usable place of a chunk in packs of a class.
    ///
    /// Costs one read of about a kilobyte for each run, and one more where the chunk is found.
    ///
    /// # Errors
    ///
    /// [`LocalIndexError::Damaged`] where a run is; [`discard_damaged`](Self::discard_damaged) then takes it out.
    pub fn lookup(&self, chunk: &ChunkId, class: PackClass) -> Result<Option<Location>, LocalIndexError> {
        let mut places = Vec::new();
        for member in &self.members {
            places.clear();
            member.run.lookup(chunk, &mut places)?;
            if let Some(place) = places.iter().find(|place| member.class_if_usable(place) == Some(class)) {
                return member.locate(place).map(Some);
            }
        }
        Ok(None)
    }

    /// Finds all usable places of a chunk, in packs of any class, each once.
    ///
    /// # Errors
    ///
    /// As [`lookup`](Self::lookup).
    pub fn lookup_all(&self, chunk: &ChunkId) -> Result<Vec<Location>, LocalIndexError> {
        let mut locations = Vec::new();
        let mut places = Vec::new();
        for member in &self.members {
            places.clear();
            member.run.lookup(chunk, &mut places)?;
            for place in places.iter().filter(|place| member.class_if_usable(place).is_some()) {
                locations.push(member.locate(place)?);
            }
        }
        // A pack can be in several segments, where one was made of others.
        locations.sort_unstable();
        locations.dedup();
        Ok(locations)
    }

    /// What each entry says, for whoever goes through all of them.
    #[must_use]
    pub fn survey(&self) -> Survey<'_> {
        Survey::new(&self.members)
    }

    /// Adds a segment, as a run of its own, which is durable when this returns. One that is covered already is not
    /// written again, and only becomes usable or not.
    ///
    /// Call [`maintain`](Self::maintain) after it, or after a few.
    ///
    /// # Errors
    ///
    /// [`LocalIndexError::Unfit`] for entries that name a pack or frame which is not there, [`LocalIndexError::Io`]
    /// where the run cannot be written. The index is then as it was.
    pub fn add_segment(&mut self, new: NewSegment) -> Result<(), LocalIndexError> {
        self.check_writable()?;
        for member in &mut self.members {
            if member.readmit_segment(&new.segment.id, new.usable)? {
                return Ok(());
            }
        }
        check_entries(&new)?;
        let path = self.next_path();
        let usable = new.packs.iter().map(|pack| new.usable.then_some(pack.class)).collect();
        write_segment(&path, self.repository, new)?;
        let run = Run::open(&path, self.repository)?;
        self.members.push(Member::new(run, usable));
        self.sort_members();
        Ok(())
    }

    /// Forgets segments that are not in the repository any more: they are not covered, their packs not usable. Their
    /// entries go when [`maintain`](Self::maintain) writes their run next; until then, an index that is opened again
    /// covers them again.
    ///
    /// # Errors
    ///
    /// [`LocalIndexError`] where a run cannot be read; its packs are then not usable.
    pub fn drop_segments(&mut self, vanished: impl Fn(&IndexedSegment) -> bool) -> Result<(), LocalIndexError> {
        self.members.iter_mut().map(|member| member.drop_segments(&vanished)).fold(Ok(()), Result::and)
    }

    /// Merges runs until there are at most eight, and none of which most was dropped.
    ///
    /// Over many additions, each entry is written again a few times. Takes at most 64 runs at once, and so much memory
    /// as the fan-out of the new run, 128 KiB for each old one, and 8 bytes a pack.
    ///
    /// # Errors
    ///
    /// [`LocalIndexError`] where a run cannot be read or written; the index is then as it was before the merge that
    /// failed. [`discard_damaged`](Self::discard_damaged) takes out what is damaged.
    pub fn maintain(&mut self) -> Result<(), LocalIndexError> {
        self.check_writable()?;
        loop {
            let weights: Vec<_> = self.members.iter().map(Member::weight).collect();
            let Some(chosen) = plan::choose_merge(&weights) else { return Ok(()) };
            self.merge(&chosen)?;
        }
    }

    /// Merges runs until there is one, or a small one beside it: for who is about to look up most of the chunks, as each look-up
    /// reads a page of each run. Writes up to all entries anew.
    ///
    /// # Errors
    ///
    /// As [`maintain`](Self::maintain).
    pub fn compact(&mut self) -> Result<(), LocalIndexError> {
        self.check_writable()?;
        let weights: Vec<_> = self.members.iter().map(Member::weight).collect();
        plan::choose_compaction(&weights).map_or(Ok(()), |chosen| self.merge(&chosen))
    }

    /// Reads all runs whole and takes out, and removes, those that are damaged. Gives what was found.
    ///
    /// # Errors
    ///
    /// [`LocalIndexError::Io`] where a run cannot be read or removed.
    pub fn discard_damaged(&mut self) -> Result<Vec<LocalIndexError>, LocalIndexError> {
        self.check_writable()?;
        let mut problems = Vec::new();
        let mut number = 0;
        while number < self.members.len() {
            match self.members[number].run.check() {
                Ok(()) => number += 1,
                Err(problem) if problem.means_rebuild() => {
                    directory::remove(self.members[number].run.path())?;
                    self.members.remove(number);
                    problems.push(problem);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(problems)
    }

    /// Replaces runs by one. The new run is durable under its name before the first old one is removed.
    fn merge(&mut self, chosen: &[usize]) -> Result<(), LocalIndexError> {
        let path = self.next_path();
        let inputs: Vec<_> = chosen.iter().map(|number| &self.members[*number]).collect();
        let merged = merge_members(&inputs, &path, self.repository)?;
        let mut descending = chosen.to_vec();
        descending.sort_unstable_by(|a, b| b.cmp(a));
        let replaced: Vec<_> = descending.into_iter().map(|number| self.members.remove(number)).collect();
        self.members.extend(merged);
        self.sort_members();
        replaced.iter().try_for_each(|member| directory::remove(member.run.path()))
    }

    fn check_writable(&self) -> Result<(), LocalIndexError> {
        match self.access {
            Access::Exclusive => Ok(()),
            Access::Shared => Err(LocalIndexError::ReadOnly { directory: self.directory.clone() }),
        }
    }

    fn next_path(&mut self) -> PathBuf {
        let path = directory::run_path(&self.directory, self.next_number);
        self.next_number += 1;
        path
    }

    fn sort_members(&mut self) {
        self.members.sort_by_key(|member| Reverse(member.run.entry_count()));
    }
}

/// Merges what was not dropped of runs into one. Gives none where nothing is left.
fn merge_members(inputs: &[&Member], path: &Path, repository: RepositoryId) -> Result<Option<Member>, LocalIndexError> {
    if inputs.iter().all(|member| member.is_hollow()) {
        return Ok(None);
    }
    let merge_inputs: Vec<_> = inputs.iter().map(|member| member.as_merge_input()).collect();
    let renumberings = merge_runs(&merge_inputs, path, repository)?;
    let usable = inputs.iter().zip(&renumberings).flat_map(|(member, renumbering)| member.usable_after(renumbering));
    let run = Run::open(path, repository)?;
    Ok(Some(Member::new(run, usable.collect())))
}

/// Checks that each entry's pack and frame are there.
fn check_entries(new: &NewSegment) -> Result<(), LocalIndexError> {
    let has_place = |entry: &Entry| {
        new.packs.get(entry.place.pack as usize).is_some_and(|pack| entry.place.frame < pack.frame_count)
    };
    if new.entries.iter().all(has_place) {
        return Ok(());
    }
    let reason = "a chunk is said to be in a pack or frame that is not there";
    Err(LocalIndexError::Unfit { segment: new.segment.id, reason })
}

fn write_segment(path: &Path, repository: RepositoryId, mut new: NewSegment) -> Result<(), LocalIndexError> {
    let entry_limit = u32::try_from(new.entries.len()).unwrap_or(u32::MAX);
    let mut writer = RunWriter::create(path, repository, &[new.segment], entry_limit)?;
    for pack in new.packs {
        writer.push_pack(&TabledPack { segment: 0, pack })?;
    }
    new.entries.sort_unstable();
    new.entries.into_iter().try_for_each(|entry| writer.push_entry(entry))?;
    writer.finish()
}

/// What was found in the index's directory.
#[derive(Debug, Default)]
struct OpenedRuns {
    /// Those that can be used, no two of which cover the same segment.
    runs: Vec<Run>,
    /// Files that no one needs.
    useless: Vec<PathBuf>,
    /// What is wrong with those that should have been of use.
    problems: Vec<LocalIndexError>,
}

impl OpenedRuns {
    /// Opens runs, the latest first: a merger holds all that is needed of the runs it was made of, which have lower
    /// numbers.
    fn open(directory: &Path, repository: RepositoryId, descending: &[u64]) -> Result<Self, LocalIndexError> {
        let mut opened = Self::default();
        let mut covered = HashSet::new();
        for number in descending {
            let path = directory::run_path(directory, *number);
            match Run::open(&path, repository) {
                Ok(run) if run.segments().iter().any(|segment| covered.contains(&segment.id)) => {
                    opened.useless.push(path);
                }
                Ok(run) => {
                    covered.extend(run.segments().iter().map(|segment| segment.id));
                    opened.runs.push(run);
                }
                Err(problem) if problem.means_rebuild() => {
                    opened.useless.push(path);
                    opened.problems.push(problem);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(opened)
    }
}

#[cfg(test)]
mod tests;
