//! A run in use: the file, and what is known beyond it.

use super::format::TabledPack;
use super::merge::{MergeInput, Renumbering};
use super::plan::Weight;
use super::run::Run;
use super::{IndexedPack, IndexedSegment, LocalIndexError, Location, PackClass, Place};
use crate::id::SegmentId;

/// A run, and what is believed of its segments and packs. Nothing of that is stored: it comes from a listing of the
/// repository.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) run: Run,
    /// For each segment, whether it was dropped.
    dropped: Vec<bool>,
    dropped_packs: u32,
    /// For each pack, its class if it is usable.
    usable: Vec<Option<PackClass>>,
}

impl Member {
    /// Takes a run, and what is known of its packs.
    pub(super) fn new(run: Run, usable: Vec<Option<PackClass>>) -> Self {
        let dropped = vec![false; run.segments().len()];
        Self { run, dropped, dropped_packs: 0, usable }
    }

    /// Takes a run of whose packs nothing is known.
    pub(super) fn unproven(run: Run) -> Self {
        let usable = vec![None; run.pack_count() as usize];
        Self::new(run, usable)
    }

    pub(super) fn kept_segments(&self) -> impl Iterator<Item = &IndexedSegment> {
        self.run.segments().iter().zip(&self.dropped).filter(|(_, dropped)| !**dropped).map(|(segment, _)| segment)
    }

    /// Whether no segment is left.
    pub(super) fn is_hollow(&self) -> bool {
        self.dropped.iter().all(|dropped| *dropped)
    }

    pub(super) fn weight(&self) -> Weight {
        Weight {
            entries: self.run.entry_count(),
            packs: self.run.pack_count(),
            dropped_packs: self.dropped_packs,
            hollow: self.is_hollow(),
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.run.memory_bytes() + self.dropped.capacity() + self.usable.capacity() * size_of::<Option<PackClass>>()
    }

    pub(super) fn as_merge_input(&self) -> MergeInput<'_> {
        MergeInput { run: &self.run, dropped: &self.dropped }
    }

    /// What is usable of the packs that were kept, in the order of their new numbers.
    pub(super) fn usable_after(&self, renumbering: &Renumbering) -> impl Iterator<Item = Option<PackClass>> {
        self.usable.iter().zip(renumbering).filter(|(_, number)| number.is_some()).map(|(usable, _)| *usable)
    }

    /// The class of a place's pack, if the pack is usable.
    pub(super) fn class_if_usable(&self, place: &Place) -> Option<PackClass> {
        self.usable.get(place.pack as usize).copied().flatten()
    }

    pub(super) fn locate(&self, place: &Place) -> Result<Location, LocalIndexError> {
        let IndexedPack { id, class, stored_bytes, .. } = self.run.pack(place.pack)?.pack;
        let Place { frame, length_bytes, .. } = *place;
        Ok(Location { pack: id, class, pack_stored_bytes: stored_bytes, frame, length_bytes })
    }

    /// Drops segments that are not dropped yet.
    pub(super) fn drop_segments(&mut self, vanished: impl Fn(&IndexedSegment) -> bool) -> Result<(), LocalIndexError> {
        let segments = self.run.segments().iter().zip(&self.dropped);
        let dropped: Vec<_> = segments.map(|(segment, before)| *before || vanished(segment)).collect();
        if dropped == self.dropped {
            return Ok(());
        }
        self.dropped = dropped;
        self.update_usable(|_, _, before| before)
    }

    /// Takes a segment as one that is in the repository, and its packs as usable or not. Gives whether the run has it.
    pub(super) fn readmit_segment(&mut self, id: &SegmentId, usable: bool) -> Result<bool, LocalIndexError> {
        let Some(number) = self.run.segments().iter().position(|segment| segment.id == *id) else { return Ok(false) };
        self.dropped[number] = false;
        self.update_usable(|segment, _, before| if segment.id == *id { usable } else { before })?;
        Ok(true)
    }

    /// Decides anew for each pack whether it is usable, from whether it was. Those of dropped segments never are, and
    /// none is where the run cannot be read.
    pub(super) fn update_usable(
        &mut self,
        mut usable: impl FnMut(&IndexedSegment, &IndexedPack, bool) -> bool,
    ) -> Result<(), LocalIndexError> {
        let before = std::mem::take(&mut self.usable);
        self.usable.reserve_exact(before.len());
        self.dropped_packs = 0;
        for (tabled, before) in self.run.packs().zip(&before) {
            let TabledPack { segment: number, pack } = tabled?;
            let segment = &self.run.segments()[number as usize];
            let dropped = self.dropped[number as usize];
            self.dropped_packs += u32::from(dropped);
            let now_usable = !dropped && usable(segment, &pack, before.is_some());
            self.usable.push(now_usable.then_some(pack.class));
        }
        Ok(())
    }
}
