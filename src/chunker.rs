//! Cuts a parted stream into content-defined chunks.
//!
//! [`DataChunker`] cuts the file data, anew at each file, with tiny files sharing chunks; [`CommandChunker`] cuts the
//! command stream, between commands only. Both are fed in batches of any size, and where they cut depends on the bytes,
//! the files and the commands alone, never on how these were batched.

mod commands;
mod data;
mod gear;
mod parameters;

pub use commands::{CommandChunk, CommandChunker, CommandEnd};
pub use data::DataChunker;
pub use gear::Cutter;
pub use parameters::{ChunkerParameters, InvalidParameters};

use bytes::Bytes;
use rayon::prelude::*;

use crate::id::ChunkId;

/// A content-defined piece of a stream's part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// BLAKE3-256 of `bytes`.
    pub id: ChunkId,
    /// The plaintext: a slice of the buffer it was cut from, which stays allocated while any chunk of it is kept.
    pub bytes: Bytes,
}

/// Makes chunks of the stretches of `buffer` that end at `ends`, the first of which begins at `begin`.
fn hash_chunks(buffer: &Bytes, begin: usize, ends: &[usize]) -> Vec<Chunk> {
    let chunk = |position: usize| {
        let start = if position == 0 { begin } else { ends[position - 1] };
        let bytes = buffer.slice(start..ends[position]);
        Chunk { id: ChunkId::of(&bytes), bytes }
    };
    (0..ends.len()).into_par_iter().map(chunk).collect()
}

#[cfg(test)]
mod tests;
