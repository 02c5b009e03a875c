//! Builds a tree as its entries come; memory is a node a level.

use crate::id::ChunkId;
use crate::tree::Tree;
use crate::tree::node::{Entry, NODE_LIMIT_ENTRIES, Node};

/// A node is not closed by its content before it has this many entries.
const NODE_LEAST_ENTRIES: usize = 32;
/// One entry in this many closes its node.
const NODE_CLOSING_MODULUS: u64 = 256;

/// The plaintext of a node that is complete, to be stored as a chunk of class `meta`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeChunk {
    /// Its id.
    pub id: ChunkId,
    /// Its plaintext.
    pub plaintext: Vec<u8>,
}

/// Builds a tree.
#[derive(Debug, Default)]
pub struct TreeWriter {
    /// The open node of each height, leaves first.
    levels: Vec<Vec<Entry>>,
    bytes: u64,
}

impl TreeWriter {
    /// Begins an empty tree.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends an entry; gives the nodes that became complete by it, children before parents.
    #[must_use]
    pub fn push(&mut self, entry: Entry) -> Vec<NodeChunk> {
        let mut closed = Vec::new();
        self.bytes += entry.length * entry.repeats;
        self.push_at(0, entry, &mut closed);
        closed
    }

    fn push_at(&mut self, level: usize, entry: Entry, closed: &mut Vec<NodeChunk>) {
        if self.levels.len() == level {
            self.levels.push(Vec::new());
        }
        if level == 0 && self.extends_run(&entry) {
            return;
        }
        // Asked only now, when the run at the node's end cannot grow any more.
        if self.levels[level].last().is_some_and(|last| closes(&self.levels[level], last)) {
            self.close(level, closed);
        }
        self.levels[level].push(entry);
    }

    /// Counts a piece that repeats the last one.
    fn extends_run(&mut self, entry: &Entry) -> bool {
        let Some(last) = self.levels[0].last_mut() else { return false };
        let same = last.id == entry.id && last.skip == entry.skip && last.length == entry.length;
        if same && last.hint == entry.hint {
            last.repeats += entry.repeats;
            last.data_used += entry.data_used;
        }
        same && last.hint == entry.hint
    }

    fn close(&mut self, level: usize, closed: &mut Vec<NodeChunk>) -> ChunkId {
        let entries = std::mem::take(&mut self.levels[level]);
        let parent_entry = |id| Entry {
            data_used: entries.iter().map(|entry| entry.data_used).sum(),
            ..Entry::whole(id, entries.iter().map(|entry| entry.length * entry.repeats).sum())
        };
        let node = encode(level, entries.clone());
        let id = node.id;
        closed.push(node);
        self.push_at(level + 1, parent_entry(id), closed);
        id
    }

    /// Closes all nodes; gives the tree and the nodes that were still open.
    #[expect(clippy::missing_panics_doc, reason = "2^64 bytes make a tree of less than 64 levels")]
    #[must_use]
    pub fn finish(mut self) -> (Tree, Vec<NodeChunk>) {
        let mut closed = Vec::new();
        let mut level = 0;
        let mut root = None;
        while level < self.levels.len() {
            let is_top = level + 1 == self.levels.len();
            match self.levels[level].len() {
                // A single child above the leaves is the root itself.
                1 if is_top && level > 0 => {
                    root = Some((self.levels[level][0].id, level));
                    break;
                }
                0 => {}
                _ => {
                    self.close(level, &mut closed);
                }
            }
            level += 1;
        }
        let (root, height) = root.map_or((None, 0), |(id, height)| (Some(id), height));
        let height = u8::try_from(height).expect("2^64 bytes make a tree of less than 64 levels");
        (Tree { bytes: self.bytes, height, root }, closed)
    }
}

fn closes(entries: &[Entry], last: &Entry) -> bool {
    let first_bytes = last.id.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    let by_content = entries.len() >= NODE_LEAST_ENTRIES && first_bytes.is_multiple_of(NODE_CLOSING_MODULUS);
    by_content || entries.len() >= NODE_LIMIT_ENTRIES
}

fn encode(level: usize, entries: Vec<Entry>) -> NodeChunk {
    let height = u8::try_from(level + 1).expect("2^64 bytes make a tree of less than 64 levels");
    let plaintext = Node { height, entries }.encode();
    NodeChunk { id: ChunkId::of(&plaintext), plaintext }
}
