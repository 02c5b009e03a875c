//! Goes through a tree from its first entry to its last, asking for nodes as it needs them.

use crate::id::ChunkId;
use crate::object::FormatError;
use crate::tree::node::{Entry, Node};
use crate::tree::{TREE_LIMIT_HEIGHT, Tree};

/// What the walk needs or has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The plaintext of this node has to be given to [`TreeWalk::provide`].
    NeedNode(ChunkId),
    /// The next entry of a leaf.
    Entry(Entry),
    /// The tree is at its end.
    End,
}

/// A walk; memory is a node a level.
#[derive(Debug)]
pub struct TreeWalk {
    /// What is still to be visited below each open node, the last entry first.
    open: Vec<(u8, Vec<Entry>)>,
    wanted: Option<(u8, Entry)>,
    remaining_bytes: u64,
}

impl TreeWalk {
    /// Begins at the front of a tree.
    pub fn new(tree: &Tree) -> Result<Self, FormatError> {
        let wanted = match (tree.height, tree.root) {
            (0, None) if tree.bytes == 0 => None,
            (1..=TREE_LIMIT_HEIGHT, Some(root)) => Some((tree.height, Entry::whole(root, tree.bytes))),
            _ => return Err(FormatError::invalid("a tree's height, length and root do not fit each other")),
        };
        Ok(Self { open: Vec::new(), wanted, remaining_bytes: tree.bytes })
    }

    /// How many bytes of the tree's string are still to come.
    #[must_use]
    pub fn remaining_bytes(&self) -> u64 {
        self.remaining_bytes
    }

    /// Goes one step on. A node that is needed is asked for until it is provided.
    pub fn step(&mut self) -> Result<Step, FormatError> {
        if let Some((_, entry)) = &self.wanted {
            return Ok(Step::NeedNode(entry.id));
        }
        while let Some((height, entries)) = self.open.last_mut() {
            let height = *height;
            match entries.pop() {
                None => drop(self.open.pop()),
                Some(entry) if height == 1 => return self.leave(entry),
                Some(entry) => {
                    let id = entry.id;
                    self.wanted = Some((height - 1, entry));
                    return Ok(Step::NeedNode(id));
                }
            }
        }
        match self.remaining_bytes {
            0 => Ok(Step::End),
            _ => Err(FormatError::invalid("a tree ends before its length")),
        }
    }

    fn leave(&mut self, entry: Entry) -> Result<Step, FormatError> {
        let total = entry.total().filter(|total| *total > 0);
        let remaining = total.and_then(|total| self.remaining_bytes.checked_sub(total));
        self.remaining_bytes = remaining.ok_or_else(|| FormatError::invalid("a tree is longer than its length"))?;
        Ok(Step::Entry(entry))
    }

    /// Leaves out the node that was asked for, and all below it.
    pub fn pass_over(&mut self) -> Result<(), FormatError> {
        let Some((_, node)) = self.wanted.take() else {
            return Err(FormatError::invalid("no tree node was asked for"));
        };
        let remaining = node.total().and_then(|total| self.remaining_bytes.checked_sub(total));
        self.remaining_bytes = remaining.ok_or_else(|| FormatError::invalid("a tree is longer than its length"))?;
        Ok(())
    }

    /// Gives the walk the node it asked for.
    pub fn provide(&mut self, plaintext: &[u8]) -> Result<(), FormatError> {
        let Some((height, parent)) = self.wanted.take() else {
            return Err(FormatError::invalid("no tree node was asked for"));
        };
        let Node { height: its_height, mut entries } = Node::decode(plaintext)?;
        let total = entries.iter().try_fold(0_u64, |sum, entry| sum.checked_add(entry.total()?));
        if its_height != height || total != Some(parent.length) {
            return Err(FormatError::invalid("a tree node does not have the height or length its parent says"));
        }
        entries.reverse();
        self.open.push((height, entries));
        Ok(())
    }
}
