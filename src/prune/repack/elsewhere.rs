//! Looks whether chunks are where the index says that they are kept, before another place of theirs is given up.
//!
//! Whoever can store can say in a segment what is not true, and packs can have been damaged since.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use crate::id::PackId;
use crate::pack::format::{PackClass, PackFooter};
use crate::prune::report::Amount;
use crate::repository::packs::{read_frames, read_pack_footer};
use crate::repository::{Damage, Repository};
use crate::store::{StoreError, StoreErrorKind};

/// Frames that are read in one request.
const FRAMES_AT_ONCE: usize = 4;
/// What reading a footer takes.
const FOOTER_READ: Amount = Amount { objects: 2, bytes: 64 << 10 };

/// The numbers of chunks in a pack's footer, by the pack and the frame where they are said to be.
pub(super) type Elsewhere = BTreeMap<PackId, BTreeMap<u32, Vec<usize>>>;

/// Reads chunks of a pack in others; gives the numbers of those that are right there, and what it took.
///
/// # Errors
///
/// The store's error. That a pack is damaged or archived is none: its chunks are not found.
pub(super) async fn find_elsewhere(
    repository: &Repository,
    class: PackClass,
    footer: &PackFooter,
    elsewhere: Elsewhere,
) -> anyhow::Result<(Vec<usize>, Amount)> {
    let (mut found, mut read) = (Vec::new(), Amount::default());
    for (pack, frames) in elsewhere {
        let Some(others) = unless_unreadable(read_pack_footer(repository, class, pack).await)? else { continue };
        let others = Arc::new(others);
        read = Amount { objects: read.objects + FOOTER_READ.objects, bytes: read.bytes + FOOTER_READ.bytes };
        for run in runs_of(&frames, others.frames.len()) {
            let range = others.frames[run.start].range.start..others.frames[run.end - 1].range.end;
            read.add(range.end - range.start);
            let opened = unless_unreadable(read_frames(repository, pack, &others, run.clone()).await)?;
            for (frame, opened) in run.zip(opened.into_iter().flatten()) {
                let wanted = u32::try_from(frame).ok().and_then(|frame| frames.get(&frame));
                let is_right = |number: &&usize| opened.chunk(&footer.chunks[**number].id).is_some();
                found.extend(wanted.into_iter().flatten().filter(is_right));
            }
        }
    }
    Ok((found, read))
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

fn unless_unreadable<T>(read: anyhow::Result<T>) -> anyhow::Result<Option<T>> {
    let is_archived = |error: &StoreError| error.kind == StoreErrorKind::Archived;
    match read {
        Ok(read) => Ok(Some(read)),
        Err(error) if error.downcast_ref::<Damage>().is_some() => Ok(None),
        Err(error) if error.downcast_ref().is_some_and(is_archived) => Ok(None),
        Err(error) => Err(error),
    }
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
