//! Recipes: the nodes of a tree, and the walk through it.

use btrfs_to_s3::id::ChunkId;
use btrfs_to_s3::object::FormatError;
use btrfs_to_s3::tree::Tree;
use btrfs_to_s3::tree::node::{Entry, NODE_LIMIT_ENTRIES, Node};
use btrfs_to_s3::tree::walk::{Step, TreeWalk};
use btrfs_to_s3::tree::writer::{NodeChunk, TreeWriter};

/// Length of what stands before the nodes: the tree's height and length.
pub(crate) const TREE_BYTES: usize = 9;

/// A tree and its nodes: height (one byte), length (eight), then for each node that the walk asks for, in order, the
/// length of its plaintext (two bytes) and that. When there are no more, the walk is over.
pub(crate) fn recipe(bytes: &[u8]) -> bool {
    let Some(([height, length @ ..], mut nodes)) = bytes.split_first_chunk::<TREE_BYTES>() else { return false };
    let length = u64::from_le_bytes(*length);
    let root = (*height > 0).then(|| ChunkId::of(b"root"));
    let tree = Tree { bytes: length, height: *height, root };
    let Ok(entries) = walk(&tree, || take_node(&mut nodes)) else { return false };
    let total: u64 = entries.iter().map(|entry| entry.total().unwrap()).sum();
    assert_eq!(length, total, "the walk has not gone through the whole tree");
    check_rewritten(&entries, length);
    true
}

fn take_node<'a>(nodes: &mut &'a [u8]) -> &'a [u8] {
    let Some((length, rest)) = nodes.split_first_chunk() else { return &[] };
    let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
    let (node, rest) = rest.split_at(length);
    *nodes = rest;
    node
}

/// The leaves' entries.
fn walk<'a>(tree: &Tree, mut next_node: impl FnMut() -> &'a [u8]) -> Result<Vec<Entry>, FormatError> {
    let mut walk = TreeWalk::new(tree)?;
    let mut entries = Vec::new();
    loop {
        match walk.step()? {
            Step::NeedNode(_) => {
                let plaintext = next_node();
                walk.provide(plaintext)?;
                check_node(&Node::decode(plaintext)?);
            }
            Step::Entry(entry) => entries.push(entry),
            Step::End => return Ok(entries),
        }
    }
}

fn check_node(node: &Node) {
    assert!((1..=NODE_LIMIT_ENTRIES).contains(&node.entries.len()));
    assert_eq!(Node::decode(&node.encode()).as_ref(), Ok(node));
}

/// A tree of the same entries has the same length, and a walk through it goes by the same pieces.
fn check_rewritten(entries: &[Entry], length: u64) {
    let mut writer = TreeWriter::new();
    let mut nodes: Vec<NodeChunk> = Vec::new();
    for entry in entries {
        // How much file data commands use is not bound to anything yet, and its sums may be beyond 64 bits.
        nodes.extend(writer.push(Entry { data_used: 0, ..entry.clone() }));
    }
    let (tree, last) = writer.finish();
    nodes.extend(last);
    assert_eq!(tree.bytes, length);
    let mut walk = TreeWalk::new(&tree).unwrap();
    let mut found = Vec::new();
    loop {
        match walk.step().unwrap() {
            Step::NeedNode(id) => {
                let node = nodes.iter().find(|node| node.id == id).unwrap();
                walk.provide(&node.plaintext).unwrap();
            }
            Step::Entry(entry) => found.push(entry),
            Step::End => break,
        }
    }
    assert_eq!(runs(&found), runs(entries));
}

/// The pieces, those that follow equal ones counted only.
fn runs(entries: &[Entry]) -> Vec<(ChunkId, u64, u64, u64)> {
    let mut runs: Vec<(ChunkId, u64, u64, u64)> = Vec::new();
    for entry in entries {
        match runs.last_mut() {
            Some((id, skip, length, repeats)) if (*id, *skip, *length) == (entry.id, entry.skip, entry.length) => {
                *repeats += entry.repeats;
            }
            _ => runs.push((entry.id, entry.skip, entry.length, entry.repeats)),
        }
    }
    runs
}
