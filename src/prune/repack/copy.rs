//! Reads what is needed of packs, and checks all of it.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};

use crate::id::PackId;
use crate::object::FormatError;
use crate::pack::format::{ChunkEntry, FrameEntry, FrameKind, PackFooter};
use crate::prune::mark::Marking;
use crate::prune::plan::Pack;
use crate::prune::repack::choose::PackUse;
use crate::prune::repack::elsewhere::{Elsewhere, Found, find_elsewhere};
use crate::prune::repack::left::{Left, why_left};
use crate::prune::report::Amount;
use crate::repository::packs::{StoredFrame, open_frames, read_pack_end, read_stored_frames};
use crate::repository::{Repository, layout};

/// Packs whose footers are read at once, and requests for frames.
const PACKS_AT_ONCE: usize = 4;
const REQUESTS_AT_ONCE: usize = 4;
/// A pack up to this length is read in one request; of a longer one the end comes first.
const READ_WHOLE_BYTES: u64 = 1 << 20;
const END_BYTES: u64 = 64 << 10;
/// Frames are read together up to so many bytes, stored and inflated, with so many between them that are not needed.
const READ_BYTES: u64 = 4 << 20;
const READ_PLAINTEXT_BYTES: u64 = 16 << 20;
const GAP_BYTES: u64 = 128 << 10;

/// What is needed of a frame; every chunk of it has been checked.
#[derive(Debug)]
pub(super) struct KeptFrame {
    pub(super) kind: FrameKind,
    pub(super) chunks: Vec<ChunkEntry>,
    pub(super) piece: Piece,
}

/// The bytes of a frame.
#[derive(Debug)]
pub(super) enum Piece {
    /// As it is stored: all of its chunks are needed.
    Whole(Bytes),
    /// The plaintext of each chunk.
    Chunks(Vec<Bytes>),
}

/// What became of reading a part of a pack.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) pack: Pack,
    /// The requests it took, and the bytes these got.
    pub(super) read: Amount,
    pub(super) frames: Result<Vec<KeptFrame>, Left>,
    /// Other packs that turned out damaged, where chunks of this one were looked for.
    pub(super) damaged_elsewhere: Vec<(PackId, anyhow::Error)>,
}

/// A pack whose footer has been read.
#[derive(Debug)]
struct Opened {
    pack: Pack,
    footer: Arc<PackFooter>,
    /// For each chunk whether it is needed and kept here.
    needed: Vec<bool>,
    end: Bytes,
    end_start: u64,
}

/// Frames that are read together.
#[derive(Debug)]
struct Run {
    opened: Arc<Opened>,
    frames: Range<usize>,
}

#[derive(Debug)]
enum Step {
    Done(Part),
    Read(Run),
}

/// The requests that reading a pack will probably take, and the bytes that these get.
pub(super) fn expected_reads(pack: &PackUse) -> (u64, u64) {
    if pack.size_bytes <= READ_WHOLE_BYTES {
        return (1, pack.size_bytes);
    }
    let used = pack.used_bytes().saturating_add(pack.duplicate_bytes);
    (1 + used.div_ceil(READ_BYTES), END_BYTES.saturating_add(used).min(pack.size_bytes))
}

/// Reads the needed frames of packs, in order; `take` gets them one after another.
///
/// # Errors
///
/// The store's error, or that of `take`. That a pack is damaged is none.
pub(super) async fn copy_packs(
    repository: &Repository,
    marking: &Marking<'_>,
    packs: &[PackUse],
    mut take: impl AsyncFnMut(Part) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let opened = stream::iter(packs).map(|pack| open_pack(repository, marking, pack)).buffered(PACKS_AT_ONCE);
    let steps = opened.flat_map(|steps| match steps {
        Ok(steps) => stream::iter(steps.into_iter().map(Ok).collect::<Vec<_>>()),
        Err(error) => stream::iter(vec![Err(error)]),
    });
    let read = |step: anyhow::Result<Step>| async move {
        match step? {
            Step::Done(part) => Ok(part),
            Step::Read(run) => read_run(repository, &run).await,
        }
    };
    let mut parts = std::pin::pin!(steps.map(read).buffered(REQUESTS_AT_ONCE));
    while let Some(part) = parts.next().await {
        take(part?).await?;
    }
    Ok(())
}

/// Reads the footer of a pack, looks which of its chunks are needed, and plans how they are read.
async fn open_pack(repository: &Repository, marking: &Marking<'_>, pack: &PackUse) -> anyhow::Result<Vec<Step>> {
    let PackUse { class, id, size_bytes, .. } = *pack;
    let name = (class, id);
    let end_bytes = if size_bytes <= READ_WHOLE_BYTES { size_bytes } else { END_BYTES.min(size_bytes) };
    let read = Amount { objects: 1, bytes: end_bytes };
    let done = |frames| Step::Done(Part { pack: name, read, frames, damaged_elsewhere: Vec::new() });
    let end = match read_pack_end(repository, class, id, size_bytes, end_bytes).await {
        Ok(end) => end,
        Err(error) => {
            let why = match why_left(repository, name, error).await? {
                Left::Damaged(error) => Left::Unreadable(error),
                why => why,
            };
            return Ok(vec![done(Err(why))]);
        }
    };
    if end.footer.frames.iter().any(|frame| matches!(frame.kind, FrameKind::Unknown(_))) {
        return Ok(vec![done(Err(Left::Unusable))]);
    }
    let (needed, found) = needed_chunks(repository, marking, name, &end.footer).await?;
    let read = Amount { objects: read.objects + found.read.objects, bytes: read.bytes + found.read.bytes };
    let done = |frames| Step::Done(Part { pack: name, read, frames, damaged_elsewhere: found.damaged });
    // What an earlier prune has copied is not copied again because it is archived by now.
    if found.is_archived {
        return Ok(vec![done(Err(Left::Archived))]);
    }
    let (footer, end, end_start) = (end.footer, end.bytes, end.start);
    let opened = Arc::new(Opened { pack: name, footer, needed, end, end_start });
    let runs = runs_of(&opened).into_iter().map(|frames| Step::Read(Run { opened: Arc::clone(&opened), frames }));
    Ok(std::iter::once(done(Ok(Vec::new()))).chain(runs).collect())
}

/// Says for each chunk of a pack whether it has to be copied: if it is needed, and not found in another pack where the index
/// says it is kept. Gives also what was found there.
async fn needed_chunks(
    repository: &Repository,
    marking: &Marking<'_>,
    (class, pack): Pack,
    footer: &PackFooter,
) -> anyhow::Result<(Vec<bool>, Found)> {
    let (mut needed, mut places) = (Vec::with_capacity(footer.chunks.len()), Vec::new());
    let mut elsewhere = Elsewhere::default();
    for entry in &footer.frames {
        for number in entry.chunks.clone() {
            let kept = marking.kept_in(&footer.chunks[number].id, class, &mut places)?;
            needed.push(kept.is_some());
            if let Some(kept) = kept.filter(|kept| kept.pack != pack) {
                elsewhere.entry(kept.pack).or_default().entry(kept.frame).or_default().push(number);
            }
        }
    }
    let found = find_elsewhere(repository, class, &footer.chunks, elsewhere).await?;
    for number in &found.chunks {
        needed[*number] = false;
    }
    Ok((needed, found))
}

/// The frames of which something is needed, neighbours together.
fn runs_of(opened: &Opened) -> Vec<Range<usize>> {
    let Opened { footer, needed, end_start, .. } = opened;
    let plaintext = |frame: &FrameEntry| -> u64 {
        footer.chunks[frame.chunks.clone()].iter().map(|chunk| u64::from(chunk.length_bytes)).sum()
    };
    let is_in_end = |frame: &FrameEntry| frame.range.start >= *end_start;
    let mut runs: Vec<Range<usize>> = Vec::new();
    let mut run_plaintext = 0;
    for (number, frame) in footer.frames.iter().enumerate() {
        if !needed[frame.chunks.clone()].contains(&true) {
            continue;
        }
        if let Some(run) = runs.last_mut() {
            let between: u64 = footer.frames[run.end..number].iter().map(plaintext).sum();
            let (first, last) = (&footer.frames[run.start], &footer.frames[run.end - 1]);
            let all = run_plaintext + between + plaintext(frame);
            let fits = frame.range.end - first.range.start <= READ_BYTES && all <= READ_PLAINTEXT_BYTES;
            if fits && frame.range.start - last.range.end <= GAP_BYTES && is_in_end(first) == is_in_end(frame) {
                (run.end, run_plaintext) = (number + 1, all);
                continue;
            }
        }
        runs.push(number..number + 1);
        run_plaintext = plaintext(frame);
    }
    runs
}

/// Reads frames, and checks all chunks of them that are needed.
async fn read_run(repository: &Repository, Run { opened, frames }: &Run) -> anyhow::Result<Part> {
    let Opened { pack, footer, end, end_start, .. } = opened.as_ref();
    let range = footer.frames[frames.start].range.start..footer.frames[frames.end - 1].range.end;
    let part = |read, frames| Ok(Part { pack: *pack, read, frames, damaged_elsewhere: Vec::new() });
    if range.start >= *end_start {
        let at_hand = open_frames(end.clone(), *end_start, footer, frames.clone()).await;
        if let Some(kept) = at_hand.ok().and_then(|stored| keep(opened, frames, stored).ok()) {
            return part(Amount::default(), Ok(kept));
        }
    }
    let read = Amount { objects: 1, bytes: range.end - range.start };
    let stored = read_stored_frames(repository, pack.1, footer, frames.clone()).await;
    let key = layout::pack_key(pack.0, &pack.1);
    let kept = stored.and_then(|stored| keep(opened, frames, stored).map_err(|error| repository.fault(&key, &error)));
    match kept {
        Ok(kept) => part(read, Ok(kept)),
        Err(error) => part(read, Err(why_left(repository, *pack, error).await?)),
    }
}

/// Takes what is needed of frames.
///
/// # Errors
///
/// If a chunk that is needed does not have the bytes its id says.
fn keep(opened: &Opened, frames: &Range<usize>, stored: Vec<StoredFrame>) -> Result<Vec<KeptFrame>, FormatError> {
    let mut kept = Vec::new();
    for (frame, stored) in opened.footer.frames[frames.clone()].iter().zip(stored) {
        let mut chunks = Vec::new();
        let mut plaintexts = Vec::new();
        for number in frame.chunks.clone().filter(|number| opened.needed[*number]) {
            let entry = opened.footer.chunks[number];
            let bytes = stored.open.chunk(&entry.id);
            plaintexts.push(bytes.ok_or(FormatError::invalid("a chunk does not have the bytes its id says"))?);
            chunks.push(entry);
        }
        if chunks.is_empty() {
            continue;
        }
        let is_whole = chunks.len() == frame.chunks.len();
        let piece = if is_whole { Piece::Whole(stored.bytes) } else { Piece::Chunks(plaintexts) };
        kept.push(KeptFrame { kind: frame.kind, chunks, piece });
    }
    Ok(kept)
}
