//! Reading packs: footers, and frames whose chunks are checked.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use rayon::prelude::{IntoParallelIterator, IntoParallelRefIterator, ParallelIterator};
use tokio::sync::oneshot;

use crate::codec::decode_frame;
use crate::id::{ChunkId, PackId};
use crate::object::FormatError;
use crate::pack::format::{
    ChunkEntry, FrameEntry, FrameKind, PACK_LIMIT_BYTES, PackClass, PackFooter, TRAILER_BYTES, read_footer,
    read_trailer,
};
use crate::repository::index::find_footer;
use crate::repository::{Damage, Repository, layout, twice_if_damaged};
use crate::store::{ObjectEnd, StoreErrorKind};

/// The end of a pack that is read first; footers mostly fit.
const TAIL_BYTES: u64 = 64 << 10;

/// A frame whose plaintext is there.
#[derive(Debug)]
pub struct OpenFrame {
    plaintext: Bytes,
    /// Where each chunk is, if it has the bytes its id says.
    chunks: HashMap<ChunkId, Range<usize>>,
    /// Whether all chunks have the bytes their ids say.
    is_whole: bool,
}

impl OpenFrame {
    /// The plaintext of a chunk, if the frame has it undamaged.
    #[must_use]
    pub fn chunk(&self, id: &ChunkId) -> Option<Bytes> {
        self.chunks.get(id).map(|range| self.plaintext.slice(range.clone()))
    }

    /// Length of the plaintext.
    #[must_use]
    pub fn length_bytes(&self) -> usize {
        self.plaintext.len()
    }

    /// Inflates a frame and checks every chunk in it.
    fn open(frame: &[u8], entries: &[ChunkEntry]) -> Result<Self, FormatError> {
        let plaintext = Bytes::from(decode_frame(frame)?);
        let mut chunks = HashMap::with_capacity(entries.len());
        let (mut offset, mut is_whole) = (0, true);
        for entry in entries {
            let range = offset..offset + entry.length_bytes as usize;
            offset = range.end;
            let bytes = plaintext.get(range.clone()).ok_or(FormatError::CutShort)?;
            if ChunkId::of(bytes) == entry.id {
                chunks.insert(entry.id, range);
            } else {
                is_whole = false;
            }
        }
        Ok(Self { plaintext, chunks, is_whole })
    }
}

/// Runs a computation on the threads that compute, and waits for it without keeping others from running.
#[expect(clippy::missing_panics_doc, reason = "a computation that panics ends the process")]
pub async fn compute<R: Send + 'static>(run: impl FnOnce() -> R + Send + 'static) -> R {
    let (sender, receiver) = oneshot::channel();
    rayon::spawn(move || drop(sender.send(run())));
    receiver.await.expect("a computation that panics ends the process")
}

/// Reads the footer of a pack.
///
/// # Errors
///
/// [`Damage`] if the pack is missing or its end is not as it should be, or the store's error.
pub async fn read_pack_footer(repository: &Repository, class: PackClass, id: PackId) -> anyhow::Result<PackFooter> {
    Ok(Arc::unwrap_or_clone(read_last(repository, class, id, TAIL_BYTES).await?.footer))
}

/// Reads the last bytes of a pack, whose length need not be known, and the footer. In one request, if that is in them.
///
/// # Errors
///
/// As for [`read_pack_footer`].
pub(crate) async fn read_last(
    repository: &Repository,
    class: PackClass,
    id: PackId,
    end_bytes: u64,
) -> anyhow::Result<PackEnd> {
    twice_if_damaged(|| read_last_once(repository, class, id, end_bytes.max(TAIL_BYTES))).await
}

/// Whether a pack is there.
///
/// # Errors
///
/// If the store fails.
pub async fn is_there(repository: &Repository, class: PackClass, id: PackId) -> anyhow::Result<bool> {
    match repository.store().head(&layout::pack_key(class, &id)).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind == StoreErrorKind::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}

async fn read_last_once(
    repository: &Repository,
    class: PackClass,
    id: PackId,
    end_bytes: u64,
) -> anyhow::Result<PackEnd> {
    let key = layout::pack_key(class, &id);
    let store = repository.store();
    let end = store.get_end(&key, end_bytes).await.map_err(|error| repository.needed(error))?;
    let size = end.size_bytes;
    if size > PACK_LIMIT_BYTES || size < TRAILER_BYTES as u64 {
        let reason = format!("it has {size} bytes, which no pack has");
        return Err(Damage { object: format!("{}/{key}", store.url()), reason }.into());
    }
    footer_of(repository, class, id, end).await
}

/// The end of a pack, with the footer in it.
#[derive(Debug)]
pub(crate) struct PackEnd {
    /// The footer.
    pub(crate) footer: Arc<PackFooter>,
    /// The pack's last bytes.
    pub(crate) bytes: Bytes,
    /// Where these begin.
    pub(crate) start: u64,
}

/// Reads the last bytes of a pack of known length, and the footer if that begins before them.
///
/// # Errors
///
/// As for [`read_pack_footer`].
pub(crate) async fn read_pack_end(
    repository: &Repository,
    class: PackClass,
    id: PackId,
    size_bytes: u64,
    end_bytes: u64,
) -> anyhow::Result<PackEnd> {
    twice_if_damaged(|| read_end_once(repository, class, id, size_bytes, end_bytes)).await
}

async fn read_end_once(
    repository: &Repository,
    class: PackClass,
    id: PackId,
    size: u64,
    end_bytes: u64,
) -> anyhow::Result<PackEnd> {
    let (key, store) = (layout::pack_key(class, &id), repository.store());
    let tail = store.get_range(&key, size.saturating_sub(end_bytes)..size).await;
    let bytes = tail.map_err(|error| repository.needed(error))?;
    footer_of(repository, class, id, ObjectEnd { bytes, size_bytes: size }).await
}

/// The footer of a pack whose last bytes are at hand; it is read where it begins before them.
async fn footer_of(repository: &Repository, class: PackClass, id: PackId, end: ObjectEnd) -> anyhow::Result<PackEnd> {
    let (key, store) = (layout::pack_key(class, &id), repository.store());
    let ObjectEnd { bytes: tail, size_bytes: size } = end;
    let tail_start = size - tail.len() as u64;
    let fault = |error: FormatError| repository.fault(&key, &error);
    let place = read_trailer(size, &tail).map_err(fault)?;
    let frame = if place.range.start >= tail_start {
        tail.slice(local(&place.range, tail_start))
    } else {
        store.get_range(&key, place.range.clone()).await.map_err(|error| repository.needed(error))?
    };
    let footer = Arc::new(read_footer(&place, &frame).map_err(fault)?);
    if footer.class != class {
        return Err(fault(FormatError::invalid("it is a pack of the other class")));
    }
    Ok(PackEnd { footer, bytes: tail, start: tail_start })
}

/// Opens the last frames of a pack, as far as they are in its end and have `plaintext_bytes` at most, each with its number.
/// Frames that are not as they should be are left out.
pub(crate) async fn frames_in_end(end: &PackEnd, plaintext_bytes: u64) -> Vec<(usize, OpenFrame)> {
    let (frames, mut left) = (&end.footer.frames, plaintext_bytes);
    let fits = |frame: &&FrameEntry| {
        let lengths = end.footer.chunks[frame.chunks.clone()].iter().map(|chunk| u64::from(chunk.length_bytes));
        let room = left.checked_sub(lengths.sum()).filter(|_| frame.range.start >= end.start);
        left = room.unwrap_or(0);
        room.is_some()
    };
    let first = frames.len() - frames.iter().rev().take_while(fits).count();
    if first == frames.len() {
        return Vec::new();
    }
    let opened = open_frames(end.bytes.clone(), end.start, &end.footer, first..frames.len()).await;
    let opened = opened.unwrap_or_default().into_iter().map(|frame| frame.open);
    (first..).zip(opened).filter(|(_, frame)| frame.is_whole).collect()
}

/// Reads neighbouring frames of a pack in one request; in a second one if they turn out damaged.
///
/// A chunk that does not have the bytes its id says is not in the result's frame; that is the reader's to notice.
///
/// # Errors
///
/// [`Damage`] if the pack is missing or a frame cannot be opened, or the store's error.
pub async fn read_frames(
    repository: &Repository,
    id: PackId,
    footer: &Arc<PackFooter>,
    frames: Range<usize>,
) -> anyhow::Result<Vec<OpenFrame>> {
    let stored = read_stored_frames(repository, id, footer, frames).await?;
    Ok(stored.into_iter().map(|frame| frame.open).collect())
}

/// A frame whose plaintext is there, and its bytes as they are stored.
#[derive(Debug)]
pub(crate) struct StoredFrame {
    /// As it is stored.
    pub(crate) bytes: Bytes,
    /// Its plaintext.
    pub(crate) open: OpenFrame,
}

/// As [`read_frames`]; gives also the bytes of the frames.
///
/// # Errors
///
/// As there.
pub(crate) async fn read_stored_frames(
    repository: &Repository,
    id: PackId,
    footer: &Arc<PackFooter>,
    frames: Range<usize>,
) -> anyhow::Result<Vec<StoredFrame>> {
    let read = || read_frames_once(repository, id, footer, frames.clone());
    let opened = twice_if_damaged(read).await?;
    if opened.iter().all(|frame| frame.open.is_whole) { Ok(opened) } else { read().await }
}

async fn read_frames_once(
    repository: &Repository,
    id: PackId,
    footer: &Arc<PackFooter>,
    frames: Range<usize>,
) -> anyhow::Result<Vec<StoredFrame>> {
    let key = layout::pack_key(footer.class, &id);
    let range = footer.frames[frames.start].range.start..footer.frames[frames.end - 1].range.end;
    let bytes = repository.store().get_range(&key, range.clone()).await.map_err(|error| repository.needed(error))?;
    let opened = open_frames(bytes, range.start, footer, frames).await;
    opened.map_err(|error| repository.fault(&key, &error))
}

/// Opens frames of a pack whose bytes from `start` on are at hand.
pub(crate) async fn open_frames(
    bytes: Bytes,
    start: u64,
    footer: &Arc<PackFooter>,
    frames: Range<usize>,
) -> Result<Vec<StoredFrame>, FormatError> {
    let footer = Arc::clone(footer);
    let open = move |number: usize| {
        let frame = &footer.frames[number];
        let stored = bytes.slice(local(&frame.range, start));
        let open = OpenFrame::open(&stored, &footer.chunks[frame.chunks.clone()])?;
        Ok(StoredFrame { bytes: stored, open })
    };
    compute(move || frames.into_par_iter().map(open).collect()).await
}

/// What reading all of a pack has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackVerdict {
    /// Bytes that were read.
    pub read_bytes: u64,
    /// What is wrong with the object; none if its bytes have the hash that its name says, and all chunks theirs.
    pub fault: Option<String>,
    /// Chunks that cannot be got from it any more.
    pub bad_chunks: Vec<ChunkId>,
    /// Whether it is known which chunks it had.
    pub is_known: bool,
}

/// Reads a pack whole and checks it and every chunk in it, a second time if it seems damaged.
///
/// Takes memory for the pack and what is being inflated of it.
///
/// # Errors
///
/// The store's error; that the pack is missing or damaged is none.
pub async fn verify_pack(repository: &Repository, class: PackClass, id: PackId) -> anyhow::Result<PackVerdict> {
    let first = verify_pack_once(repository, class, id).await?;
    if first.fault.is_none() { Ok(first) } else { verify_pack_once(repository, class, id).await }
}

async fn verify_pack_once(repository: &Repository, class: PackClass, id: PackId) -> anyhow::Result<PackVerdict> {
    let key = layout::pack_key(class, &id);
    let bytes = match repository.get(&key, PACK_LIMIT_BYTES).await {
        Ok(bytes) => bytes,
        Err(error) if error.downcast_ref::<Damage>().is_some() => Bytes::new(),
        Err(error) => return Err(error),
    };
    let read_bytes = bytes.len() as u64;
    let (footer, fault) = match own_footer(id, class, &bytes) {
        Ok(footer) => (Some(footer), None),
        Err(error) => (find_footer(repository, class, id).await?, Some(error.to_string())),
    };
    let Some(footer) = footer else {
        return Ok(PackVerdict { read_bytes, fault, bad_chunks: Vec::new(), is_known: false });
    };
    let bad_chunks = compute(move || bad_chunks(&bytes, &footer)).await;
    let of_chunks = (!bad_chunks.is_empty()).then(|| "a chunk does not have the bytes its id says".to_owned());
    Ok(PackVerdict { read_bytes, fault: fault.or(of_chunks), bad_chunks, is_known: true })
}

/// The footer of a pack whose bytes have the hash they should have.
fn own_footer(id: PackId, class: PackClass, bytes: &[u8]) -> Result<PackFooter, FormatError> {
    if bytes.is_empty() {
        return Err(FormatError::invalid("it is not there"));
    }
    if blake3::hash(bytes) != *id.as_bytes() {
        return Err(FormatError::HashMismatch);
    }
    let place = read_trailer(bytes.len() as u64, bytes)?;
    let frame = bytes.get(local(&place.range, 0)).ok_or(FormatError::CutShort)?;
    let footer = read_footer(&place, frame)?;
    if footer.class == class { Ok(footer) } else { Err(FormatError::invalid("it is a pack of the other class")) }
}

/// The chunks that a pack should have and has not.
fn bad_chunks(bytes: &[u8], footer: &PackFooter) -> Vec<ChunkId> {
    let bad = |frame: &FrameEntry| {
        let entries = &footer.chunks[frame.chunks.clone()];
        let open = open_at(bytes, frame, entries);
        let is_bad = |entry: &&ChunkEntry| open.as_ref().is_none_or(|open| open.chunk(&entry.id).is_none());
        entries.iter().filter(is_bad).map(|entry| entry.id).collect::<Vec<_>>()
    };
    footer.frames.par_iter().flat_map_iter(bad).collect()
}

/// What could be read of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SalvagedFrame {
    /// What its chunks are.
    pub kind: FrameKind,
    /// The chunks that were right, one after another.
    pub plaintext: Vec<u8>,
    /// Those chunks.
    pub chunks: Vec<ChunkEntry>,
    /// How many chunks were not.
    pub lost: usize,
}

/// Reads what is right of a damaged pack; nothing of one that is gone, or of which nothing tells what it had.
///
/// Takes memory for the pack and all its plaintext.
///
/// # Errors
///
/// The store's error.
pub async fn salvage_pack(repository: &Repository, class: PackClass, id: PackId) -> anyhow::Result<Vec<SalvagedFrame>> {
    let bytes = match repository.get(&layout::pack_key(class, &id), PACK_LIMIT_BYTES).await {
        Ok(bytes) => bytes,
        Err(error) if error.downcast_ref::<Damage>().is_some() => Bytes::new(),
        Err(error) => return Err(error),
    };
    let footer = match own_footer(id, class, &bytes) {
        Ok(footer) => Some(footer),
        Err(_) => match read_pack_footer(repository, class, id).await {
            Ok(footer) => Some(footer),
            Err(error) if error.downcast_ref::<Damage>().is_some() => find_footer(repository, class, id).await?,
            Err(error) => return Err(error),
        },
    };
    let Some(footer) = footer else { return Ok(Vec::new()) };
    let salvage = move || {
        let of = |frame: &FrameEntry| salvage_frame(&bytes, frame, &footer.chunks[frame.chunks.clone()]);
        footer.frames.par_iter().map(of).collect()
    };
    Ok(compute(salvage).await)
}

fn salvage_frame(bytes: &[u8], frame: &FrameEntry, entries: &[ChunkEntry]) -> SalvagedFrame {
    let open = open_at(bytes, frame, entries);
    let mut salvaged = SalvagedFrame { kind: frame.kind, plaintext: Vec::new(), chunks: Vec::new(), lost: 0 };
    for entry in entries {
        match open.as_ref().and_then(|open| open.chunk(&entry.id)) {
            Some(chunk) => {
                salvaged.plaintext.extend_from_slice(&chunk);
                salvaged.chunks.push(*entry);
            }
            None => salvaged.lost += 1,
        }
    }
    salvaged
}

/// Opens a frame of a pack whose bytes are at hand, if that is possible.
fn open_at(bytes: &[u8], frame: &FrameEntry, entries: &[ChunkEntry]) -> Option<OpenFrame> {
    let is_within = usize::try_from(frame.range.end).is_ok_and(|end| end <= bytes.len());
    is_within.then(|| OpenFrame::open(&bytes[local(&frame.range, 0)], entries).ok()).flatten()
}

fn local(range: &Range<u64>, start: u64) -> Range<usize> {
    let offset = |position: u64| usize::try_from(position - start).expect("a pack is at most 1 GiB");
    offset(range.start)..offset(range.end)
}
