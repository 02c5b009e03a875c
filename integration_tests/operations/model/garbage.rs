//! What is left when nothing that no backup needs should be, found out without the program's own mark.

use std::collections::{BTreeMap, BTreeSet};

use btrfs_to_s3::codec::decode_frame;
use btrfs_to_s3::id::{ChunkId, ManifestId, PackId};
use btrfs_to_s3::index::Segment;
use btrfs_to_s3::object::{ObjectKind, decode_cbor, decode_record, read_header};
use btrfs_to_s3::pack::format::{FrameKind, PackClass, PackFooter, PackRecord, read_footer, read_trailer};
use btrfs_to_s3::records::manifest::{Manifest, RootKind};
use btrfs_to_s3::repository::layout;
use btrfs_to_s3::store::memory::MemoryStore;
use btrfs_to_s3::store::{Key, ObjectStore, list_all};
use btrfs_to_s3::tree::node::Node;
use bytes::Bytes;

use crate::model::checks::{Checked, Invariant, ensure};
use crate::model::truth::is_of_table;

/// Everything in the packs of a repository.
#[derive(Default)]
struct Contents {
    /// Chunks of backups, in which packs each is.
    chunks: BTreeMap<(PackClass, ChunkId), (Vec<u8>, BTreeSet<PackId>)>,
    /// Copies of footers: the pack each is in, and the data pack it is of.
    copies: Vec<(PackId, PackId)>,
    packs: BTreeSet<PackId>,
}

impl Contents {
    fn add_pack(&mut self, pack: PackId, footer: &PackFooter, body: &Bytes) {
        self.packs.insert(pack);
        for frame in &footer.frames {
            let range = usize::try_from(frame.range.start).unwrap()..usize::try_from(frame.range.end).unwrap();
            let plaintext = decode_frame(&body[range]).unwrap();
            let mut rest = plaintext.as_slice();
            for chunk in &footer.chunks[frame.chunks.clone()] {
                let (bytes, after) = rest.split_at(chunk.length_bytes as usize);
                rest = after;
                if frame.kind == FrameKind::Footers {
                    self.copies.push((pack, decode_cbor::<PackRecord>(bytes).unwrap().id));
                } else {
                    let chunk = self.chunks.entry((footer.class, chunk.id)).or_default();
                    chunk.0 = bytes.to_vec();
                    chunk.1.insert(pack);
                }
            }
        }
    }

    /// Adds what a node of a tree and all below it needs.
    fn need(&self, id: ChunkId, height: u8, leaves: PackClass, needed: &mut BTreeSet<(PackClass, ChunkId)>) {
        needed.insert((PackClass::Meta, id));
        for entry in Node::decode(&self.chunks[&(PackClass::Meta, id)].0).unwrap().entries {
            if height > 1 {
                self.need(entry.id, height - 1, leaves, needed);
            } else {
                needed.insert((leaves, entry.id));
            }
        }
    }
}

async fn objects(memory: &MemoryStore, prefix: &str) -> Vec<(Key, Bytes)> {
    let mut objects = Vec::new();
    for object in list_all(memory, prefix).await.unwrap() {
        let body = memory.get(&object.key, u64::MAX).await.unwrap();
        objects.push((object.key, body));
    }
    objects
}

fn footer_of(body: &[u8]) -> PackFooter {
    let place = read_trailer(body.len() as u64, body).unwrap();
    let range = usize::try_from(place.range.start).unwrap()..usize::try_from(place.range.end).unwrap();
    read_footer(&place, &body[range]).unwrap()
}

/// Checks that nothing is there but what these backups need.
pub(crate) async fn check_no_garbage(memory: &MemoryStore, protected: &BTreeSet<ManifestId>) -> Checked {
    let mut contents = Contents::default();
    for class in [PackClass::Data, PackClass::Meta] {
        for (key, body) in objects(memory, layout::packs(class)).await {
            contents.add_pack(layout::parse_pack_key(&key).unwrap().1, &footer_of(&body), &body);
        }
    }
    let garbage = |what: String| ensure(Invariant::NoGarbageIsLeft, false, || what);
    let mut needed = BTreeSet::new();
    for (key, body) in objects(memory, layout::MANIFESTS).await {
        let id = layout::parse_manifest_key(&key).unwrap();
        if !protected.contains(&id) {
            return garbage(key.to_string());
        }
        for root in decode_record::<Manifest>(ObjectKind::Manifest, &body).unwrap().1.roots {
            let leaves = if root.kind == RootKind::Data { PackClass::Data } else { PackClass::Meta };
            if let Some(root_node) = root.tree.root {
                contents.need(root_node, root.tree.height, leaves, &mut needed);
            }
        }
    }
    // No pack is partly unused: what was needed of it has been put elsewhere.
    if let Some(unused) = contents.chunks.keys().find(|chunk| !needed.contains(chunk)) {
        return garbage(format!("chunk {unused:?} in {:?}", contents.chunks[unused].1));
    }
    if let Some((chunk, (_, packs))) = contents.chunks.iter().find(|(_, (_, packs))| packs.len() > 1) {
        return garbage(format!("chunk {chunk:?} in more than one pack: {packs:?}"));
    }
    if let Some((pack, of)) = contents.copies.iter().find(|(_, of)| !contents.packs.contains(of)) {
        return garbage(format!("copy of the footer of {of} in {pack}"));
    }
    let mut in_use: BTreeSet<PackId> = needed.iter().flat_map(|chunk| contents.chunks[chunk].1.clone()).collect();
    let copies_of_used = contents.copies.iter().filter(|(_, of)| contents.packs.contains(of)).map(|(pack, _)| *pack);
    in_use.extend(copies_of_used);
    if let Some(pack) = contents.packs.iter().find(|pack| !in_use.contains(pack)) {
        return garbage(format!("pack {pack}"));
    }
    let (of_index, of_tables): (Vec<_>, Vec<_>) =
        objects(memory, layout::SEGMENTS).await.into_iter().partition(|(key, _)| !is_of_table(key));
    if of_tables.len() > 2 {
        let keys: Vec<&Key> = of_tables.iter().map(|(key, _)| key).collect();
        return garbage(format!("more than a look-up table and its blocks: {keys:?}"));
    }
    for (key, body) in of_index {
        let repository = read_header(ObjectKind::Segment, &body).unwrap();
        let segment = Segment::decode(repository, layout::parse_segment_key(&key).unwrap(), &body).unwrap();
        if !segment.packs.iter().any(|pack| contents.packs.contains(&pack.id)) {
            return garbage(key.to_string());
        }
    }
    match objects(memory, layout::PRUNE).await.into_iter().find(|(key, _)| !key.as_str().ends_with("/final")) {
        Some((key, _)) => garbage(key.to_string()),
        None => Ok(()),
    }
}
