//! New chunks on their way into a pack: gathered into frames, compressed side by side, appended in order.

use std::collections::VecDeque;

use tokio::sync::oneshot;

use crate::chunker::Chunk;
use crate::codec::encode_frame;
use crate::pack::format::{ChunkEntry, FrameKind};

/// A frame that is being gathered.
#[derive(Debug)]
pub(crate) struct FrameBuffer {
    kind: FrameKind,
    /// It gathers chunks up to this much plaintext.
    target_bytes: usize,
    chunks: Vec<ChunkEntry>,
    /// The chunks' bytes. They are copied: a slice would keep the whole batch it was cut from in memory.
    plaintext: Vec<u8>,
}

impl FrameBuffer {
    pub(crate) fn new(kind: FrameKind, target_bytes: usize) -> Self {
        Self { kind, target_bytes, chunks: Vec::new(), plaintext: Vec::new() }
    }

    /// Appends a chunk; gives the frame before it if there was no room.
    pub(crate) fn push(&mut self, chunk: &Chunk) -> Option<FrameBuffer> {
        let full = !self.chunks.is_empty() && self.plaintext.len() + chunk.bytes.len() > self.target_bytes;
        let before = full.then(|| self.take());
        let length_bytes = u32::try_from(chunk.bytes.len()).expect("a chunk is below the limit of a frame");
        self.chunks.push(ChunkEntry { id: chunk.id, length_bytes });
        if self.plaintext.capacity() == 0 {
            self.plaintext.reserve_exact(self.target_bytes.max(chunk.bytes.len()));
        }
        self.plaintext.extend_from_slice(&chunk.bytes);
        before
    }

    /// Takes what has been gathered.
    pub(crate) fn take(&mut self) -> FrameBuffer {
        std::mem::replace(self, FrameBuffer::new(self.kind, self.target_bytes))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Compresses what has been gathered.
    pub(crate) fn encode(self, level: i32) -> EncodedFrame {
        let bytes = encode_frame(&self.plaintext, level);
        EncodedFrame { kind: self.kind, chunks: self.chunks, bytes }
    }
}

/// A frame as it goes into a pack.
#[derive(Debug)]
pub(crate) struct EncodedFrame {
    pub(crate) kind: FrameKind,
    pub(crate) chunks: Vec<ChunkEntry>,
    pub(crate) bytes: Vec<u8>,
}

/// Frames that are being compressed, in the order they came.
#[derive(Debug)]
pub(crate) struct FrameQueue {
    level: i32,
    limit: usize,
    queue: VecDeque<oneshot::Receiver<EncodedFrame>>,
}

impl FrameQueue {
    /// At most `limit` frames are in it.
    pub(crate) fn new(level: i32, limit: usize) -> Self {
        Self { level, limit, queue: VecDeque::new() }
    }

    pub(crate) fn push(&mut self, frame: FrameBuffer) {
        let (sender, receiver) = oneshot::channel();
        let level = self.level;
        rayon::spawn(move || drop(sender.send(frame.encode(level))));
        self.queue.push_back(receiver);
    }

    /// The oldest frame, if there are too many, or if all are wanted.
    pub(crate) async fn pop(&mut self, all: bool) -> Option<EncodedFrame> {
        if self.queue.is_empty() || (!all && self.queue.len() <= self.limit) {
            return None;
        }
        let receiver = self.queue.pop_front()?;
        Some(receiver.await.expect("a computation that panics ends the process"))
    }
}
