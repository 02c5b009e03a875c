//! Making one run of several.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::path::Path;

use super::format::TabledPack;
use super::run::Run;
use super::writer::RunWriter;
use super::{Entry, IndexedSegment, LocalIndexError, Place};
use crate::id::RepositoryId;

/// The new number of each pack of a run, by the old one. `None` where it was left out.
pub(super) type Renumbering = Vec<Option<u32>>;

/// A run to be merged, and which of its segments to leave out, by number.
#[derive(Debug, Clone, Copy)]
pub(super) struct MergeInput<'a> {
    pub(super) run: &'a Run,
    pub(super) dropped: &'a [bool],
}

impl MergeInput<'_> {
    fn kept_segments(&self) -> impl Iterator<Item = &IndexedSegment> {
        self.run.segments().iter().zip(self.dropped).filter(|(_, dropped)| !**dropped).map(|(segment, _)| segment)
    }

    /// The new number of each segment, drawn from `next` for those kept.
    fn renumber_segments(&self, next: &mut impl Iterator<Item = u32>) -> Vec<Option<u32>> {
        self.dropped.iter().map(|dropped| if *dropped { None } else { next.next() }).collect()
    }
}

/// Merges runs into a new one at `path`: the packs one run after another, the entries sorted.
///
/// Memory: a buffer for each input, the new fan-out, and 8 bytes a pack.
pub(super) fn merge_runs(
    inputs: &[MergeInput<'_>],
    path: &Path,
    repository: RepositoryId,
) -> Result<Vec<Renumbering>, LocalIndexError> {
    let segments: Vec<_> = inputs.iter().flat_map(MergeInput::kept_segments).copied().collect();
    let entry_limit = inputs.iter().fold(0u32, |sum, input| sum.saturating_add(input.run.entry_count()));
    let mut writer = RunWriter::create(path, repository, &segments, entry_limit)?;
    let renumberings = copy_packs(inputs, &mut writer)?;
    let mut sources: Vec<_> = inputs
        .iter()
        .zip(&renumberings)
        .map(|(input, renumbering)| {
            let renumber = |place: Place| renumbered(place, input.run, renumbering);
            input.run.entries().filter_map(move |entry| match entry {
                Ok(Entry { chunk, place }) => {
                    renumber(place).transpose().map(|place| Ok(Entry { chunk, place: place? }))
                }
                Err(error) => Some(Err(error)),
            })
        })
        .collect();
    merge_sorted(&mut sources, |entry| writer.push_entry(entry))?;
    writer.finish()?;
    Ok(renumberings)
}

fn copy_packs(inputs: &[MergeInput<'_>], writer: &mut RunWriter) -> Result<Vec<Renumbering>, LocalIndexError> {
    let mut next_segment = 0..;
    let mut renumberings = Vec::with_capacity(inputs.len());
    for input in inputs {
        let segments = input.renumber_segments(&mut next_segment);
        let mut renumbering = Vec::with_capacity(input.run.pack_count() as usize);
        for pack in input.run.packs() {
            let TabledPack { segment, pack } = pack?;
            let segment = segments[segment as usize];
            let number = segment.map(|segment| writer.push_pack(&TabledPack { segment, pack })).transpose()?;
            renumbering.push(number);
        }
        renumberings.push(renumbering);
    }
    Ok(renumberings)
}

/// The place with its pack's new number. `None` where the pack was left out.
fn renumbered(place: Place, run: &Run, renumbering: &Renumbering) -> Result<Option<Place>, LocalIndexError> {
    let Some(number) = renumbering.get(place.pack as usize) else {
        return Err(LocalIndexError::damaged(run.path(), "an entry names a pack that its table does not have"));
    };
    Ok(number.map(|pack| Place { pack, ..place }))
}

/// Hands out the items of sorted sources in one ascending order.
fn merge_sorted<T: Ord, E>(
    sources: &mut [impl Iterator<Item = Result<T, E>>],
    mut take: impl FnMut(T) -> Result<(), E>,
) -> Result<(), E> {
    let mut heads = BinaryHeap::with_capacity(sources.len());
    for (number, source) in sources.iter_mut().enumerate() {
        if let Some(item) = source.next().transpose()? {
            heads.push(Reverse((item, number)));
        }
    }
    while let Some(mut head) = heads.peek_mut() {
        let number = head.0.1;
        let item = match sources[number].next().transpose()? {
            // Replacing the smallest in place costs one way through the heap where taking and adding cost two.
            Some(next) => std::mem::replace(&mut *head, Reverse((next, number))).0.0,
            None => PeekMut::pop(head).0.0,
        };
        take(item)?;
    }
    Ok(())
}
