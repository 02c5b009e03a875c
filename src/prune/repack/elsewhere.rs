//! Looks whether chunks are where the index says that they are kept, before another place of theirs is given up.
//!
//! Whoever can store can say in a segment what is not true, and packs can have been damaged since.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use crate::id::{ChunkId, PackId};
use crate::object::FormatError;
use crate::pack::format::{ChunkEntry, PackClass, PackFooter};
use crate::prune::plan::Pack;
use crate::prune::repack::left::{Left, why_left};
use crate::prune::report::Amount;
use crate::repository::packs::{read_frames, read_pack_footer};
use crate::repository::{Repository, layout};

/// Frames that are read in one request.
const FRAMES_AT_ONCE: usize = 4;
/// What reading a footer takes.
const FOOTER_READ: Amount = Amount { objects: 1, bytes: 64 << 10 };

/// The numbers of chunks of a pack, by the pack and the frame where they are said to be.
pub(super) type Elsewhere = BTreeMap<PackId, BTreeMap<u32, Vec<usize>>>;

/// What was found of a pack's chunks in others.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The numbers of those that are right there.
    pub(super) chunks: Vec<usize>,
    /// What it took.
    pub(super) read: Amount,
    /// Whether one of the other packs is archived, so that it is not known what it has.
    pub(super) is_archived: bool,
    /// Those of them that turned out damaged, as these say.
    pub(super) damaged: Vec<(PackId, anyhow::Error)>,
}

/// Looks for chunks of a pack in others.
///
/// # Errors
///
/// The store's error. That a pack is damaged or archived is none: its chunks are not found.
pub(super) async fn find_elsewhere(
    repository: &Repository,
    class: PackClass,
    chunks: &[ChunkEntry],
    elsewhere: Elsewhere,
) -> anyhow::Result<Found> {
    let mut found = Found::default();
    for (pack, frames) in elsewhere {
        let others = read_pack_footer(repository, class, pack).await;
        let Some(others) = found.unless_left(repository, (class, pack), others).await? else { continue };
        let others = Arc::new(others);
        found.read.objects += FOOTER_READ.objects;
        found.read.bytes += FOOTER_READ.bytes;
        for run in runs_of(&frames, others.frames.len()) {
            let range = others.frames[run.start].range.start..others.frames[run.end - 1].range.end;
            found.read.add(range.end - range.start);
            let opened = read_frames(repository, pack, &others, run.clone()).await;
            let opened = found.unless_left(repository, (class, pack), opened).await?;
            for (frame, opened) in run.zip(opened.into_iter().flatten()) {
                let wanted = u32::try_from(frame).ok().and_then(|frame| frames.get(&frame));
                for number in wanted.into_iter().flatten().copied() {
                    let id = chunks[number].id;
                    if opened.chunk(&id).is_some() {
                        found.chunks.push(number);
                    } else if has_entry(&others, frame, &id) {
                        let error = FormatError::invalid("a chunk does not have the bytes its id says");
                        let key = layout::pack_key(class, &pack);
                        found.damaged.push((pack, repository.fault(&key, &error)));
                    }
                }
            }
        }
    }
    Ok(found)
}

impl Found {
    /// What was read of a pack, if it could be read.
    async fn unless_left<T>(
        &mut self,
        repository: &Repository,
        pack: Pack,
        read: anyhow::Result<T>,
    ) -> anyhow::Result<Option<T>> {
        let error = match read {
            Ok(read) => return Ok(Some(read)),
            Err(error) => error,
        };
        match why_left(repository, pack, error).await? {
            Left::Damaged(error) | Left::Unreadable(error) => self.damaged.push((pack.1, error)),
            Left::Archived => self.is_archived = true,
            Left::Unusable => {}
        }
        Ok(None)
    }
}

/// Whether a pack itself says that a chunk is in a frame of it, not only the index.
fn has_entry(footer: &PackFooter, frame: usize, id: &ChunkId) -> bool {
    footer.chunks[footer.frames[frame].chunks.clone()].iter().any(|entry| entry.id == *id)
}

/// Neighbouring frames together, of those that are there.
fn runs_of(frames: &BTreeMap<u32, Vec<usize>>, count: usize) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for frame in frames.keys().map(|frame| *frame as usize).filter(|frame| *frame < count) {
        match runs.last_mut() {
            Some(run) if run.end == frame && run.len() < FRAMES_AT_ONCE => run.end += 1,
            _ => runs.push(frame..frame + 1),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_read_together_and_frames_that_are_not_there_are_left_out() {
        let frames = [0, 1, 2, 3, 4, 7, 9].map(|frame| (frame, vec![])).into();
        assert_eq!(runs_of(&frames, 9), [0..4, 4..5, 7..8]);
    }
}
