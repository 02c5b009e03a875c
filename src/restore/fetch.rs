//! Fetches file data ahead of its use: entries are gathered into windows, and each window's frames are read side by side,
//! neighbours in one request.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, FuturesOrdered, Stream, StreamExt};
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
    let fetch = |window| fetch_window(locator, window, options, Some(expiry));
    // Two sides, so that fetching goes on while the other waits for its pieces to be taken.
    let (window_sender, fetched) = mpsc::channel(1);
    let forwarding = forward_windows(windows, fetch, options.windows_ahead, window_sender);
    tokio::try_join!(forwarding, send_pieces(locator, fetched, pieces, expiry))?;
    Ok(())
}

/// Fetches windows, so many at once, and hands them on in their order, as long as somebody takes them.
///
/// What has begun is gone on with while nobody takes anything: who takes a window may have to wait for something that the
/// fetching of another one holds.
///
/// # Errors
///
/// That of the first window that cannot be read, when those before it have been taken.
pub(crate) async fn forward_windows<F>(
    windows: impl Stream<Item = anyhow::Result<Window>>,
    fetch: impl Fn(Window) -> F,
    at_once: usize,
    sender: mpsc::Sender<(Window, Frames)>,
) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<(Window, Frames)>>,
{
    let mut windows = std::pin::pin!(windows.fuse());
    let (mut under_way, mut fetched) = (FuturesOrdered::new(), VecDeque::new());
    loop {
        let has_room = !windows.is_done() && under_way.len() + fetched.len() < at_once.max(1);
        tokio::select! {
            Some(window) = windows.next(), if has_room => {
                let fetching = window.map(&fetch);
                under_way.push_back(async move { fetching?.await });
            }
            Some(window) = under_way.next(), if !under_way.is_empty() => fetched.push_back(window),
            place = sender.reserve(), if !fetched.is_empty() => match (place, fetched.pop_front()) {
                (Ok(place), Some(window)) => place.send(window?),
                _ => return Ok(()),
            },
            else => return Ok(()),
        }
    }
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
    mut window: Window,
    options: &RestoreOptions,
    expiry: Option<&Expiry<'_>>,
) -> anyhow::Result<(Window, Frames)> {
    let mut frames = fetch_frames(locator, &window.frames, options, expiry).await?;
    let moved = follow_moved(locator, &mut window, options).await?;
    if !moved.is_empty() {
        frames.extend(fetch_frames(locator, &moved, options, expiry).await?);
    }
    Ok((window, frames))
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
        // They may have come with it.
        let recent = |frame: u64| locator.recent_frame(&Hint { pack, frame: u32::try_from(frame).ok()? });
        if let Some(opened) = run.clone().map(recent).collect() {
            return Ok(opened);
        }
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use tokio::sync::Mutex;
    use tokio::time::{sleep, timeout};

    use super::*;

    /// A window that can be told from others.
    fn window(number: u64) -> Window {
        Window { bytes: number, ..Window::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_a_window_may_wait_for_what_another_one_holds() {
        let lock = Mutex::new(());
        let fetch = |window: Window| async {
            if window.bytes == 4 {
                let _held = lock.lock().await;
                sleep(Duration::from_secs(10)).await;
            } else {
                sleep(Duration::from_secs(1)).await;
            }
            Ok((window, Frames::new()))
        };
        let (sender, mut fetched) = mpsc::channel(1);
        let forwarding = forward_windows(stream::iter((1..9).map(|number| Ok(window(number)))), fetch, 4, sender);
        let taking = async {
            let mut taken = Vec::new();
            while let Some((window, _)) = fetched.recv().await {
                sleep(Duration::from_secs(1)).await;
                let _held = lock.lock().await;
                taken.push(window.bytes);
            }
            anyhow::Ok(taken)
        };
        let both = async { tokio::try_join!(forwarding, taking) };
        let ((), taken) = timeout(Duration::from_hours(1), both).await.expect("it stands still").unwrap();
        assert_eq!(taken, (1..9).collect::<Vec<_>>());
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_windows_are_fetched_at_once_than_may_be_and_an_error_comes_in_its_turn() {
        let (under_way, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let fetch = |window: Window| async {
            most.fetch_max(under_way.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            sleep(Duration::from_secs(10 - window.bytes)).await;
            under_way.fetch_sub(1, Ordering::SeqCst);
            anyhow::ensure!(window.bytes != 6, "the sixth");
            Ok((window, Frames::new()))
        };
        let (sender, mut fetched) = mpsc::channel(9);
        let windows = stream::iter((1..9).map(|number| Ok(window(number))));
        let error = forward_windows(windows, fetch, 3, sender).await.unwrap_err();
        assert_eq!(error.to_string(), "the sixth");
        assert_eq!(most.into_inner(), 3);
        for number in 1..6 {
            assert_eq!(fetched.recv().await.unwrap().0.bytes, number);
        }
        assert!(fetched.recv().await.is_none());
    }
}
