//! Fetches file data ahead of its use: entries are gathered into windows, and each window's frames are read side by side,
//! neighbours in one request.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt};
use tokio::sync::mpsc;

use crate::id::PackId;
use crate::pack::format::PackClass;
use crate::repository::Damage;
use crate::repository::packs::OpenFrame;
use crate::restore::RestoreOptions;
use crate::restore::expiry::Expiry;
use crate::restore::locate::Locator;
use crate::restore::pieces::PieceSender;
use crate::restore::walk::{Entries, piece_of};
use crate::tree::Tree;
use crate::tree::node::{Entry, Hint};

/// Entries of one window.
const WINDOW_ENTRIES: usize = 4096;

/// Entries that are fetched together.
#[derive(Debug, Default)]
pub(crate) struct Window {
    pub(crate) entries: Vec<Entry>,
    frames: BTreeSet<(PackId, u32)>,
    bytes: u64,
}

impl Window {
    pub(crate) fn push(&mut self, entry: Entry) {
        // A run of one chunk is fetched once.
        self.bytes += entry.length;
        self.frames.extend(entry.hint.map(|hint| (hint.pack, hint.frame)));
        self.entries.push(entry);
    }

    /// Appends an entry whose chunk need not be fetched.
    pub(crate) fn push_unread(&mut self, entry: Entry) {
        self.entries.push(entry);
    }

    /// Whether the window is to end before this entry. A frame is not shared between two windows if that can be helped:
    /// as these are fetched at once, it would be read twice.
    pub(crate) fn ends_before(&self, entry: &Entry, options: &RestoreOptions) -> bool {
        let full = self.bytes >= options.window_bytes || self.frames.len() >= options.window_frames;
        let in_frame = entry.hint.is_some_and(|hint| self.frames.contains(&(hint.pack, hint.frame)));
        (full && !in_frame) || self.entries.len() >= WINDOW_ENTRIES
    }
}

/// Sends the file data, as far as the other side takes it.
pub(crate) async fn send_data(
    locator: &Locator,
    tree: Option<&Tree>,
    options: &RestoreOptions,
    pieces: PieceSender,
) -> anyhow::Result<()> {
    let Some(tree) = tree else { return Ok(()) };
    let expiry = &Expiry::new(locator, tree, options);
    let entries = Some((Entries::new(locator, tree)?, Window::default()));
    let windows = stream::unfold(entries, |state| next_window(state, options));
    let fetched = windows.map(|window| async move {
        let mut window = window?;
        let frames = fetch_window(locator, &mut window, options, Some(expiry)).await?;
        anyhow::Ok((window, frames))
    });
    let fetched = fetched.buffered(options.windows_ahead);
    // Two sides, so that fetching goes on while the other waits for its pieces to be taken.
    let (window_sender, windows) = mpsc::channel(1);
    tokio::try_join!(forward_windows(fetched, window_sender), send_pieces(locator, windows, pieces, expiry))?;
    Ok(())
}

/// Hands windows on as they are read, as long as somebody takes them.
///
/// # Errors
///
/// That of the first window that cannot be read.
pub(crate) async fn forward_windows(
    fetched: impl Stream<Item = anyhow::Result<(Window, Frames)>>,
    sender: mpsc::Sender<(Window, Frames)>,
) -> anyhow::Result<()> {
    let mut fetched = std::pin::pin!(fetched);
    while let Some(window) = fetched.next().await {
        if sender.send(window?).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

async fn send_pieces(
    locator: &Locator,
    mut windows: mpsc::Receiver<(Window, Frames)>,
    mut pieces: PieceSender,
    expiry: &Expiry<'_>,
) -> anyhow::Result<()> {
    while let Some((window, frames)) = windows.recv().await {
        for entry in &window.entries {
            let chunk = expiry.read(async || chunk_of(locator, entry, &frames).await).await?;
            if pieces.send(piece_of(entry, &chunk)?, entry.repeats).await.is_err() {
                return Ok(());
            }
        }
        expiry.done(window.entries.len());
        // So that no frame of this window is kept for longer.
        if pieces.flush().await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// What there is to go on with: the entries still to come, and the window that the last one of them has begun.
type Ahead<'a> = (Entries<'a>, Window);

async fn next_window<'a>(
    ahead: Option<Ahead<'a>>,
    options: &RestoreOptions,
) -> Option<(anyhow::Result<Window>, Option<Ahead<'a>>)> {
    let (mut entries, mut window) = ahead?;
    loop {
        match entries.next().await {
            Ok(Some(entry)) if window.ends_before(&entry, options) => {
                let mut next = Window::default();
                next.push(entry);
                return Some((Ok(window), Some((entries, next))));
            }
            Ok(Some(entry)) => window.push(entry),
            Ok(None) if window.entries.is_empty() => return None,
            Ok(None) => return Some((Ok(window), None)),
            Err(error) => return Some((Err(error), None)),
        }
    }
}

pub(crate) type Frames = HashMap<Hint, Arc<OpenFrame>>;

/// Reads the frames of a window. One that is damaged is left out: its chunks are looked for one by one. Those whose pack is
/// gone are read where they are now; the window's entries say so then.
pub(crate) async fn fetch_window(
    locator: &Locator,
    window: &mut Window,
    options: &RestoreOptions,
    expiry: Option<&Expiry<'_>>,
) -> anyhow::Result<Frames> {
    let mut frames = fetch_frames(locator, &window.frames, options, expiry).await?;
    let moved = follow_moved(locator, window, options).await?;
    if !moved.is_empty() {
        frames.extend(fetch_frames(locator, &moved, options, expiry).await?);
    }
    Ok(frames)
}

/// Has entries whose pack is gone name the place where their chunk is now; gives the frames of these, as many as a window may
/// have.
async fn follow_moved(
    locator: &Locator,
    window: &mut Window,
    options: &RestoreOptions,
) -> anyhow::Result<BTreeSet<(PackId, u32)>> {
    let mut moved = BTreeSet::new();
    for entry in &mut window.entries {
        if entry.hint.is_some_and(|hint| locator.is_gone(PackClass::Data, hint.pack))
            && let Some(hint) = locator.moved_to(&entry.id).await?
        {
            entry.hint = Some(hint);
            if moved.len() < options.window_frames {
                moved.insert((hint.pack, hint.frame));
            }
        }
    }
    Ok(moved)
}

/// Reads frames side by side, neighbours in one request.
async fn fetch_frames(
    locator: &Locator,
    wanted: &BTreeSet<(PackId, u32)>,
    options: &RestoreOptions,
    expiry: Option<&Expiry<'_>>,
) -> anyhow::Result<Frames> {
    let mut frames = Frames::new();
    let mut runs: Vec<(PackId, Range<u64>)> = Vec::new();
    for (pack, frame) in wanted.iter().copied() {
        let hint = Hint { pack, frame };
        if let Some(open) = locator.recent_frame(&hint) {
            frames.insert(hint, open);
            continue;
        }
        match runs.last_mut() {
            Some((its_pack, run)) if *its_pack == pack && run.end == u64::from(frame) => run.end += 1,
            _ => runs.push((pack, u64::from(frame)..u64::from(frame) + 1)),
        }
    }
    if let Some(expiry) = expiry {
        expiry.wait_for(&runs.iter().map(|(pack, _)| *pack).collect()).await?;
    }
    let read = |(pack, run): (PackId, Range<u64>)| async move {
        match expiry {
            Some(expiry) => expiry.read(async || fetch_run(locator, pack, run.clone()).await).await,
            None => fetch_run(locator, pack, run).await,
        }
    };
    let mut reads = stream::iter(runs).map(read).buffer_unordered(options.requests_in_flight);
    while let Some(opened) = reads.next().await {
        frames.extend(opened?);
    }
    Ok(frames)
}

async fn fetch_run(locator: &Locator, pack: PackId, run: Range<u64>) -> anyhow::Result<Vec<(Hint, Arc<OpenFrame>)>> {
    let read = async {
        let footer = locator.footer(PackClass::Data, pack).await?;
        let within = |number: u64| usize::try_from(number).unwrap_or(usize::MAX).min(footer.frames.len());
        let numbers = within(run.start)..within(run.end);
        if numbers.is_empty() { Ok(Vec::new()) } else { locator.frames(&footer, pack, numbers).await }
    };
    match read.await {
        Ok(opened) => {
            let numbers = run.map_while(|frame| u32::try_from(frame).ok());
            Ok(numbers.zip(opened).map(|(frame, open)| (Hint { pack, frame }, open)).collect())
        }
        Err(error) if error.downcast_ref::<Damage>().is_some() => {
            tracing::debug!(error = %format!("{error:#}"), "its frames are read one by one");
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
}

/// The chunk of an entry, from the window's frames if they have it, else from wherever it is.
pub(crate) async fn chunk_of(locator: &Locator, entry: &Entry, frames: &Frames) -> anyhow::Result<Bytes> {
    let Some(hint) = entry.hint else {
        return locator.look_up(&entry.id, PackClass::Data, None, locator.nowhere(&entry.id)).await;
    };
    match frames.get(&hint).and_then(|frame| frame.chunk(&entry.id)) {
        Some(bytes) => Ok(bytes),
        None => locator.chunk(&entry.id, PackClass::Data, hint).await,
    }
}
