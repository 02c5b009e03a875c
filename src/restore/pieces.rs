//! Hands pieces of the stream's parts from the task that fetches them to the thread that puts them together.
//!
//! They go over in bundles: a piece is some tens of kilobytes, and waking the other side for each one costs more than the
//! piece does.

use bytes::Bytes;
use tokio::sync::mpsc;

/// A bundle is handed over when it has this many bytes.
const BUNDLE_BYTES: usize = 1 << 20;
/// Or this many pieces.
const BUNDLE_PIECES: usize = 1024;
/// Bundles of a part that wait to be put together.
const BUNDLES_WAITING: usize = 4;

/// The other side takes no more.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Closed;

/// Makes the two ends of a channel for pieces.
pub(crate) fn pieces() -> (PieceSender, PieceReceiver) {
    let (bundles, received) = mpsc::channel(BUNDLES_WAITING);
    let sender = PieceSender { bundles, bundle: Vec::new(), bundle_bytes: 0 };
    (sender, PieceReceiver { bundles: received, bundle: Vec::new().into_iter() })
}

/// The end that pieces are put into. What is not flushed is lost when it is dropped.
#[derive(Debug)]
pub(crate) struct PieceSender {
    bundles: mpsc::Sender<Vec<Bytes>>,
    bundle: Vec<Bytes>,
    bundle_bytes: usize,
}

impl PieceSender {
    /// Puts a piece `repeats` times.
    pub(crate) async fn send(&mut self, piece: Bytes, repeats: u64) -> Result<(), Closed> {
        for _ in 0..repeats {
            self.bundle_bytes += piece.len();
            self.bundle.push(piece.clone());
            if self.bundle_bytes >= BUNDLE_BYTES || self.bundle.len() >= BUNDLE_PIECES {
                self.flush().await?;
            }
        }
        Ok(())
    }

    /// Hands over what has been put so far.
    pub(crate) async fn flush(&mut self) -> Result<(), Closed> {
        self.bundle_bytes = 0;
        let bundle = std::mem::take(&mut self.bundle);
        if bundle.is_empty() { Ok(()) } else { self.bundles.send(bundle).await.map_err(|_| Closed) }
    }
}

/// The end that pieces come out of, for a thread that may block.
#[derive(Debug)]
pub(crate) struct PieceReceiver {
    bundles: mpsc::Receiver<Vec<Bytes>>,
    bundle: std::vec::IntoIter<Bytes>,
}

impl PieceReceiver {
    /// The next piece, or none when the sender is gone.
    pub(crate) fn blocking_recv(&mut self) -> Option<Bytes> {
        loop {
            match self.bundle.next() {
                Some(piece) => return Some(piece),
                None => self.bundle = self.bundles.blocking_recv()?.into_iter(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Puts pieces, and gives the lengths of the bundles they went over in.
    async fn bundles_of(pieces: Vec<(usize, u64)>) -> Vec<Vec<usize>> {
        let (mut sender, receiver) = super::pieces();
        let mut bundles = receiver.bundles;
        let putting = async move {
            for (length, repeats) in pieces {
                sender.send(Bytes::from(vec![0; length]), repeats).await.unwrap();
            }
            sender.flush().await.unwrap();
        };
        let taking = async {
            let mut lengths = Vec::new();
            while let Some(bundle) = bundles.recv().await {
                lengths.push(bundle.iter().map(Bytes::len).collect());
            }
            lengths
        };
        tokio::join!(putting, taking).1
    }

    #[tokio::test]
    async fn a_bundle_ends_when_it_has_enough_bytes_or_pieces() {
        let half = BUNDLE_BYTES / 2;
        let bundles = bundles_of(vec![(half, 3), (1, 2)]).await;
        assert_eq!(bundles, [vec![half, half], vec![half, 1, 1]]);
        let bundles = bundles_of(vec![(1, BUNDLE_PIECES as u64 * 2 + 1)]).await;
        assert_eq!(bundles.iter().map(Vec::len).collect::<Vec<_>>(), [BUNDLE_PIECES, BUNDLE_PIECES, 1]);
    }

    #[tokio::test]
    async fn nothing_is_handed_over_twice_and_no_empty_bundle_is() {
        let (mut sender, receiver) = super::pieces();
        let mut bundles = receiver.bundles;
        sender.flush().await.unwrap();
        sender.send(Bytes::from_static(b"a"), 1).await.unwrap();
        sender.flush().await.unwrap();
        sender.flush().await.unwrap();
        drop(sender);
        assert_eq!(bundles.recv().await.unwrap(), [Bytes::from_static(b"a")]);
        assert_eq!(bundles.recv().await, None);
    }

    #[tokio::test]
    async fn whoever_puts_pieces_learns_that_nobody_takes_them() {
        let (mut sender, receiver) = super::pieces();
        drop(receiver);
        assert_eq!(sender.send(Bytes::from(vec![0; BUNDLE_BYTES]), 1).await, Err(Closed));
    }

    #[tokio::test]
    async fn pieces_come_out_in_the_order_in_which_they_were_put() {
        let (mut sender, mut receiver) = super::pieces();
        let taking = tokio::task::spawn_blocking(move || {
            let pieces: Vec<Bytes> = std::iter::from_fn(|| receiver.blocking_recv()).collect();
            pieces.concat()
        });
        for letter in [&b"a"[..], b"b", b"c"] {
            sender.send(Bytes::from_static(letter), 2).await.unwrap();
            sender.flush().await.unwrap();
        }
        drop(sender);
        assert_eq!(taking.await.unwrap(), b"aabbcc");
    }
}
