//! Tests of nodes, writer and walk.

use std::collections::HashMap;

use proptest::prelude::*;

use super::node::{Entry, Hint, NODE_LIMIT_BYTES, NODE_LIMIT_ENTRIES, Node};
use super::walk::{Step, TreeWalk};
use super::writer::{NodeChunk, TreeWriter};
use super::*;
use crate::id::PackId;
use crate::object::{FormatError, encode_cbor};

fn chunk(number: u64) -> ChunkId {
    ChunkId::of(&number.to_le_bytes())
}

fn entry(number: u64) -> Entry {
    Entry::whole(chunk(number), 100 + number)
}

fn build(entries: impl IntoIterator<Item = Entry>) -> (Tree, Vec<NodeChunk>) {
    let mut writer = TreeWriter::new();
    let mut nodes: Vec<NodeChunk> = entries.into_iter().flat_map(|entry| writer.push(entry)).collect();
    let (tree, last) = writer.finish();
    nodes.extend(last);
    (tree, nodes)
}

fn walk(tree: &Tree, nodes: &[NodeChunk]) -> Result<Vec<Entry>, FormatError> {
    let nodes: HashMap<ChunkId, &NodeChunk> = nodes.iter().map(|node| (node.id, node)).collect();
    let mut walk = TreeWalk::new(tree)?;
    let mut entries = Vec::new();
    loop {
        match walk.step()? {
            Step::NeedNode(id) => walk.provide(&nodes[&id].plaintext)?,
            Step::Entry(entry) => entries.push(entry),
            Step::End => return Ok(entries),
        }
    }
}

#[test]
fn an_empty_string_has_no_nodes() {
    let (tree, nodes) = build([]);
    assert_eq!((tree.height, tree.root, nodes.len()), (0, None, 0));
    assert_eq!(walk(&tree, &nodes).unwrap(), []);
}

#[test]
fn trees_of_every_size_give_their_entries_back() {
    for count in [1, 2, 31, 32, 33, 300, 5000, 40_000] {
        let entries: Vec<Entry> = (0..count).map(entry).collect();
        let (tree, nodes) = build(entries.clone());
        assert_eq!(tree.bytes, entries.iter().map(|entry| entry.length).sum::<u64>());
        assert_eq!(walk(&tree, &nodes).unwrap(), entries, "{count} entries");
        assert!(nodes.iter().all(|node| node.id == ChunkId::of(&node.plaintext)));
    }
}

#[test]
fn a_walk_that_passes_over_a_node_goes_on_behind_it() {
    let entries: Vec<Entry> = (0..40_000).map(entry).collect();
    let (tree, nodes) = build(entries.clone());
    let nodes: HashMap<ChunkId, &NodeChunk> = nodes.iter().map(|node| (node.id, node)).collect();
    let passed_over = Node::decode(&nodes[&tree.root.unwrap()].plaintext).unwrap().entries[1].clone();
    let mut walk = TreeWalk::new(&tree).unwrap();
    let mut walked = Vec::new();
    loop {
        match walk.step().unwrap() {
            Step::NeedNode(id) if id == passed_over.id => walk.pass_over().unwrap(),
            Step::NeedNode(id) => walk.provide(&nodes[&id].plaintext).unwrap(),
            Step::Entry(entry) => walked.push(entry),
            Step::End => break,
        }
    }
    let bytes = |entries: &[Entry]| entries.iter().map(|entry| entry.length).sum::<u64>();
    assert_eq!(bytes(&walked) + passed_over.length, bytes(&entries));
    assert_eq!((walked.first(), walked.last()), (entries.first(), entries.last()));
    assert!(walk.pass_over().is_err(), "nothing was asked for");
}

#[test]
fn a_run_of_one_piece_is_one_entry() {
    let (tree, nodes) = build(std::iter::repeat_n(entry(7), 100_000));
    assert_eq!(walk(&tree, &nodes).unwrap(), [Entry { repeats: 100_000, ..entry(7) }]);
    assert_eq!((tree.height, nodes.len()), (1, 1));
}

#[test]
fn a_node_that_is_longer_than_any_is_refused() {
    let longest = |number: u64| Entry {
        skip: u64::MAX,
        length: u64::MAX,
        repeats: u64::MAX,
        data_used: u64::MAX,
        hint: Some(Hint { pack: PackId::from_bytes(*chunk(number).as_bytes()), frame: u32::MAX }),
        ..entry(number)
    };
    let node = Node { height: 1, entries: (0..NODE_LIMIT_ENTRIES as u64).map(longest).collect() };
    assert!(node.encode().len() < NODE_LIMIT_BYTES / 4);
    assert_eq!(Node::decode(&node.encode()).unwrap(), node);
    let refused = Node::decode(&vec![0; NODE_LIMIT_BYTES + 1]);
    assert!(matches!(refused, Err(FormatError::OverLimit { value: 1_048_577, .. })), "{refused:?}");
}

#[test]
fn ids_that_never_close_a_node_do_not_make_one_without_limit() {
    let other = |number: u64| Entry { skip: number, ..Entry::whole(ChunkId::from_bytes([1; 32]), 5) };
    let (tree, nodes) = build((0..5000).map(other));
    assert!(nodes.iter().all(|node| Node::decode(&node.plaintext).unwrap().entries.len() <= NODE_LIMIT_ENTRIES));
    assert_eq!(walk(&tree, &nodes).unwrap().len(), 5000);
}

#[test]
fn a_change_in_front_leaves_later_nodes_as_they_are() {
    let (_, before) = build((0..20_000).map(entry));
    let (_, after) = build(std::iter::once(entry(99_999)).chain((0..20_000).map(entry)));
    let before: std::collections::HashSet<ChunkId> = before.iter().map(|node| node.id).collect();
    let new = after.iter().filter(|node| !before.contains(&node.id)).count();
    assert!(new <= 4, "{new} of {} nodes are new", after.len());
}

#[test]
fn hostile_nodes_are_errors() {
    let node = |entries| Node { height: 1, entries }.encode();
    let (good, _) = build([entry(1), entry(2)]);
    for plaintext in [
        vec![],
        encode_cbor(&"text"),
        node(vec![entry(1)]),
        node(vec![Entry { repeats: u64::MAX, ..entry(1) }, entry(2)]),
        node(vec![entry(1), Entry { length: u64::MAX, ..entry(2) }]),
        Node { height: 2, entries: vec![entry(1), entry(2)] }.encode(),
    ] {
        let mut walk = TreeWalk::new(&good).unwrap();
        assert!(walk.provide(&plaintext).is_err());
    }
    assert!(Node::decode(&node((0..3000).map(entry).collect())).is_err());
    assert!(Node::decode(&node(vec![])).is_err());
    assert!(TreeWalk::new(&Tree { bytes: 5, height: 0, root: None }).is_err());
    assert!(TreeWalk::new(&Tree { bytes: 5, height: 200, root: Some(chunk(1)) }).is_err());
}

proptest! {
    #[test]
    fn any_entries_come_back(
        pieces in prop::collection::vec((0_u64..50, 0_u64..9, 1_u64..1000, 1_u64..4, 0_u64..99, 0_u8..5, 0_u32..9), 0..600),
    ) {
        let entries: Vec<Entry> = pieces
            .into_iter()
            .map(|(id, skip, length, repeats, data_used, pack, frame)| {
                let hint = Some(Hint { pack: PackId::from_bytes([pack; 32]), frame });
                Entry { id: chunk(id), skip, length, repeats, data_used, hint }
            })
            .collect();
        let (tree, nodes) = build(entries.clone());
        let walked = walk(&tree, &nodes).unwrap();
        let spread = |entries: Vec<Entry>| entries.into_iter().flat_map(|entry| {
            std::iter::repeat_n((entry.id, entry.skip, entry.length, entry.hint), usize::try_from(entry.repeats).unwrap())
        }).collect::<Vec<_>>();
        prop_assert_eq!(walked.iter().map(|entry| entry.data_used).sum::<u64>(), entries.iter().map(|entry| entry.data_used).sum::<u64>());
        prop_assert_eq!(spread(walked), spread(entries));
    }

    #[test]
    fn any_bytes_as_a_node_are_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        drop(Node::decode(&bytes));
    }
}
