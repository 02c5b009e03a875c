//! What a backup may use.

use crate::send_stream::NAMES_IN_MEMORY;

/// How much memory and how many requests a backup may use at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackupOptions {
    /// A frame gathers chunks up to this much plaintext.
    pub frame_target_bytes: usize,
    /// A pack is stored when it has this many bytes.
    pub pack_target_bytes: usize,
    /// zstd's level.
    pub compression_level: i32,
    /// Packs that are being stored at once.
    pub uploads_in_flight: usize,
    /// Frames of each class that are being compressed at once.
    pub frames_in_flight: usize,
    /// Bytes of the stream that are read before they are handed on.
    pub batch_bytes: usize,
    /// An index segment is stored when its packs have this many chunks.
    pub segment_chunks: usize,
    /// So many entries of what a stream does to names are in memory, and the others in the host's scratch directory.
    pub names_in_memory: usize,
    /// Whether a stream of everything that `btrfs receive` would fail at is published all the same, as a mere stream.
    pub publish_rejected: bool,
}

impl Default for BackupOptions {
    fn default() -> Self {
        Self {
            frame_target_bytes: 1 << 20,
            pack_target_bytes: 32 << 20,
            compression_level: 3,
            uploads_in_flight: 3,
            frames_in_flight: 8,
            batch_bytes: 4 << 20,
            segment_chunks: 1 << 17,
            names_in_memory: NAMES_IN_MEMORY,
            publish_rejected: false,
        }
    }
}

impl BackupOptions {
    /// The same for a host with little memory: one pack is stored while the next is filled. What is stored is the same.
    #[must_use]
    pub fn with_low_memory(self) -> Self {
        Self {
            uploads_in_flight: 1,
            frames_in_flight: 4,
            batch_bytes: 1 << 20,
            segment_chunks: 1 << 16,
            names_in_memory: NAMES_IN_MEMORY / 4,
            ..self
        }
    }
}
