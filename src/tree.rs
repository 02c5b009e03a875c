//! Trees of chunks: how a manifest names a byte string of any length.
//!
//! `docs/format.md`, "Trees". [`node`] has one node, [`writer`] builds a tree as its chunks come, [`walk`] goes through one.

pub mod node;
pub mod walk;
pub mod writer;

use serde::{Deserialize, Serialize};

use crate::id::ChunkId;

/// A tree has at most this height.
pub const TREE_LIMIT_HEIGHT: u8 = 16;

/// A byte string made of chunks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tree {
    /// Its length.
    pub bytes: u64,
    /// Height of the root node; 0 if the string is empty.
    pub height: u8,
    /// The root node's chunk.
    pub root: Option<ChunkId>,
}

#[cfg(test)]
mod tests;
