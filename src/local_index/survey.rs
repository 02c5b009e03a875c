//! The whole index at a glance: every entry and every pack has a number, so that whoever looks all of it through can keep a
//! bit for each.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::member::Member;
use super::{Entry, IndexedPack, IndexedSegment, LocalIndexError, PackClass, Place};
use crate::id::ChunkId;

/// The index with its entries and packs numbered through. The numbers hold as long as the index is not changed.
#[derive(Debug)]
pub struct Survey<'a> {
    /// Each run with the number of its first entry and of its first pack.
    members: Vec<(&'a Member, u64, usize)>,
    entry_count: u64,
}

/// One place of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NumberedPlace {
    /// Number of the entry among all of the index.
    pub entry: u64,
    /// Number of the pack among all of the index. A pack that several segments name has several.
    pub pack: usize,
    /// Number of the frame in the pack.
    pub frame: u32,
    /// Length of the chunk's plaintext.
    pub length_bytes: u32,
}

impl<'a> Survey<'a> {
    pub(super) fn new(members: &'a [Member]) -> Self {
        let (mut first_entry, mut first_pack) = (0, 0);
        let mut numbered = Vec::with_capacity(members.len());
        for member in members {
            numbered.push((member, first_entry, first_pack));
            first_entry += u64::from(member.run.entry_count());
            first_pack += member.run.pack_count() as usize;
        }
        Self { members: numbered, entry_count: first_entry }
    }

    /// How many entries there are, those of packs that are not usable among them.
    #[must_use]
    pub fn entry_count(&self) -> u64 {
        self.entry_count
    }

    /// All packs in the order of their numbers, with the segment that names each, and whether it is usable.
    ///
    /// # Errors
    ///
    /// [`LocalIndexError`] where a run cannot be read.
    pub fn packs(&self) -> Result<Vec<(IndexedSegment, IndexedPack, bool)>, LocalIndexError> {
        let mut packs = Vec::new();
        for (member, ..) in &self.members {
            for (number, tabled) in (0..).zip(member.run.packs()) {
                let tabled = tabled?;
                let place = Place { pack: number, frame: 0, length_bytes: 0 };
                let usable = member.class_if_usable(&place).is_some();
                packs.push((member.run.segments()[tabled.segment as usize], tabled.pack, usable));
            }
        }
        Ok(packs)
    }

    /// The segments that count, in the order of their runs.
    pub fn segments(&self) -> impl Iterator<Item = &IndexedSegment> {
        self.members.iter().flat_map(|(member, ..)| member.kept_segments())
    }

    /// Finds all usable places of a chunk in packs of a class, replacing what is in `places`.
    ///
    /// # Errors
    ///
    /// [`LocalIndexError::Damaged`] where a run is.
    pub fn find(
        &self,
        chunk: &ChunkId,
        class: PackClass,
        places: &mut Vec<NumberedPlace>,
    ) -> Result<(), LocalIndexError> {
        places.clear();
        let mut of_run = Vec::new();
        for (member, first_entry, first_pack) in &self.members {
            of_run.clear();
            let first = member.run.lookup_numbered(chunk, &mut of_run)?;
            for (number, place) in (u64::from(first)..).zip(&of_run) {
                if member.class_if_usable(place) == Some(class) {
                    let Place { pack, frame, length_bytes } = *place;
                    let (entry, pack) = (first_entry + number, first_pack + pack as usize);
                    places.push(NumberedPlace { entry, pack, frame, length_bytes });
                }
            }
        }
        Ok(())
    }

    /// Goes through all entries, those of packs that are not usable among them, in the order of their chunks.
    ///
    /// # Errors
    ///
    /// As for [`entries`](Self::entries).
    pub fn sorted_entries(
        &self,
    ) -> Result<impl Iterator<Item = Result<(ChunkId, NumberedPlace), LocalIndexError>>, LocalIndexError> {
        let mut sources: Vec<_> = (0..self.members.len()).map(|number| self.entries_of(number)).collect();
        let mut next = sources.iter_mut().map(|source| source.next().transpose()).collect::<Result<Vec<_>, _>>()?;
        let chunk_of =
            |(number, entry): (usize, &Option<(ChunkId, NumberedPlace)>)| Some(Reverse((entry.as_ref()?.0, number)));
        let mut heads: BinaryHeap<_> = next.iter().enumerate().filter_map(chunk_of).collect();
        Ok(std::iter::from_fn(move || {
            let Reverse((_, number)) = heads.pop()?;
            let entry = next[number].take()?;
            match sources[number].next().transpose() {
                Ok(following) => {
                    heads.extend(following.as_ref().map(|(chunk, _)| Reverse((*chunk, number))));
                    next[number] = following;
                    Some(Ok(entry))
                }
                Err(error) => {
                    heads.clear();
                    Some(Err(error))
                }
            }
        }))
    }

    /// Goes through all entries, those of packs that are not usable among them, run by run.
    ///
    /// # Errors
    ///
    /// [`LocalIndexError::Damaged`] where a run is; what was given until then may be wrong.
    pub fn entries(&self) -> impl Iterator<Item = Result<(ChunkId, NumberedPlace), LocalIndexError>> {
        (0..self.members.len()).flat_map(|number| self.entries_of(number))
    }

    /// The entries of one run.
    fn entries_of(&self, number: usize) -> impl Iterator<Item = Result<(ChunkId, NumberedPlace), LocalIndexError>> {
        let (member, first_entry, first_pack) = self.members[number];
        (first_entry..).zip(member.run.entries()).map(move |(entry, read)| {
            let Entry { chunk, place: Place { pack, frame, length_bytes } } = read?;
            Ok((chunk, NumberedPlace { entry, pack: first_pack + pack as usize, frame, length_bytes }))
        })
    }
}
