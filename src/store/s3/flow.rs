//! Bytes on their way: how fast they may go, and whether they go at all.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

/// An object is handed to the connection in pieces of this size, so that a limit is kept to evenly.
const PIECE_BYTES: usize = 64 << 10;

/// What was handed over is not yet with the server: this much may lie in buffers on this side (Linux' `tcp_wmem` is 4 MiB
/// at most by default), and of that we hear nothing.
const BUFFERED_BYTES_MAX: usize = 5 << 20;
/// So much of it a line is trusted to take away in a second.
const BUFFERED_BYTES_PER_SECOND: usize = 16 << 10;

/// Spreads bytes over time. Clones share one limit.
#[derive(Debug, Clone, Default)]
pub(super) struct Bandwidth(Option<Arc<Limit>>);

#[derive(Debug)]
struct Limit {
    bytes_per_second: u64,
    /// When all that was let through so far has had its time.
    free_at: Mutex<Instant>,
}

impl Bandwidth {
    pub(super) fn new(bytes_per_second: Option<u64>) -> Self {
        let limit = |bytes_per_second| Arc::new(Limit { bytes_per_second, free_at: Mutex::new(Instant::now()) });
        Self(bytes_per_second.map(limit))
    }

    /// Books the time of so many bytes; gives when they may go, if not at once.
    fn book(&self, bytes: usize) -> Option<Instant> {
        let limit = self.0.as_ref()?;
        let now = Instant::now();
        let nanoseconds = bytes as u128 * 1_000_000_000 / u128::from(limit.bytes_per_second);
        let takes = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        let mut free_at = limit.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let starts_at = (*free_at).max(now);
        *free_at = starts_at + takes;
        (starts_at > now).then_some(starts_at)
    }

    /// Waits until so many bytes may go.
    pub(super) async fn pass(&self, bytes: usize, progress: &Progress) {
        if let Some(starts_at) = self.book(bytes) {
            progress.expected_from(starts_at);
            sleep_until(starts_at).await;
        }
    }
}

/// When a request last made progress. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Progress(Arc<Mutex<Instant>>);

impl Progress {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    pub(super) fn made(&self) {
        self.expected_from(Instant::now());
    }

    /// Says that nothing need happen before a moment.
    pub(super) fn expected_from(&self, moment: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = moment;
    }

    /// Ends when there has been no progress for so long.
    async fn stalled(&self, timeout: Duration) {
        loop {
            let deadline = *self.0.lock().unwrap_or_else(PoisonError::into_inner) + timeout;
            if deadline <= Instant::now() {
                return;
            }
            sleep_until(deadline).await;
        }
    }

    /// Gives what `request` gives, unless it makes no progress for `timeout`.
    pub(super) async fn watch<T>(&self, timeout: Duration, request: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            value = request => Some(value),
            () = self.stalled(timeout) => None,
        }
    }
}

/// The body of a request that stores an object: tells of its progress and keeps to a limit.
pub(super) fn upload(body: Bytes, bandwidth: Bandwidth, progress: Progress) -> ByteStream {
    let upload = Upload { rest: body, handed_over_bytes: 0, bandwidth, progress, waiting: None };
    ByteStream::new(SdkBody::from_body_1_x(upload))
}

struct Upload {
    rest: Bytes,
    handed_over_bytes: usize,
    bandwidth: Bandwidth,
    progress: Progress,
    /// Set once the next piece's time is booked.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Upload {
    fn next_piece_bytes(&self) -> usize {
        self.rest.len().min(PIECE_BYTES)
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let piece_bytes = self.next_piece_bytes();
        if self.waiting.is_none()
            && let Some(starts_at) = self.bandwidth.book(piece_bytes)
        {
            self.progress.expected_from(starts_at);
            self.waiting = Some(Box::pin(sleep_until(starts_at)));
        }
        if let Some(waiting) = &mut self.waiting {
            ready!(waiting.as_mut().poll(context));
        }
        self.waiting = None;
        self.handed_over_bytes += piece_bytes;
        let buffered_bytes = self.handed_over_bytes.min(BUFFERED_BYTES_MAX);
        let leaves_within = Duration::from_secs((buffered_bytes / BUFFERED_BYTES_PER_SECOND) as u64);
        self.progress.expected_from(Instant::now() + leaves_within);
        let piece = self.rest.split_to(piece_bytes);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const MIB: usize = 1 << 20;

    async fn drain(body: Bytes, bandwidth: Bandwidth, progress: Progress) -> Vec<u8> {
        let mut upload = Upload { rest: body, handed_over_bytes: 0, bandwidth, progress, waiting: None };
        let mut bytes = Vec::new();
        while let Some(Ok(frame)) = poll_fn(|context| Pin::new(&mut upload).poll_frame(context)).await {
            bytes.extend_from_slice(&frame.into_data().unwrap());
        }
        bytes
    }

    #[tokio::test(start_paused = true)]
    async fn several_uploads_together_keep_to_the_limit() {
        let bandwidth = Bandwidth::new(Some(MIB as u64));
        let started_at = Instant::now();
        let body = Bytes::from((0..=250).cycle().take(2 * MIB).collect::<Vec<u8>>());
        let one = drain(body.clone(), bandwidth.clone(), Progress::new());
        let other = drain(body.clone(), bandwidth, Progress::new());
        let (one, other) = tokio::join!(one, other);
        assert!(one == body && other == body);
        let seconds = started_at.elapsed().as_secs_f64();
        assert!((3.5..4.1).contains(&seconds), "{seconds}");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_nothing_waits() {
        let started_at = Instant::now();
        drain(Bytes::from(vec![1; 8 * MIB]), Bandwidth::default(), Progress::new()).await;
        Bandwidth::default().pass(usize::MAX, &Progress::new()).await;
        assert_eq!(started_at.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_that_makes_a_piece_slow_is_not_a_stall() {
        // A piece takes 64 seconds, longer than the time after which a request counts as stalled.
        let progress = Progress::new();
        let upload = drain(Bytes::from(vec![1; 3 * PIECE_BYTES]), Bandwidth::new(Some(1024)), progress.clone());
        assert!(progress.watch(Duration::from_secs(30), upload).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_without_progress_is_given_up() {
        let progress = Progress::new();
        let started_at = Instant::now();
        let request = async {
            for _ in 0..3 {
                tokio::time::sleep(Duration::from_secs(20)).await;
                progress.made();
            }
            std::future::pending::<()>().await;
        };
        assert!(progress.watch(Duration::from_secs(30), request).await.is_none());
        assert_eq!(started_at.elapsed().as_secs(), 90);
    }
}
