//! An index of made-up chunks, as a repository with chunks and packs of the usual sizes has them.

use std::path::Path;

use btrfs_to_s3::id::{ChunkId, PackId, RepositoryId, SegmentId, SessionId};
use btrfs_to_s3::local_index::{Access, Entry, IndexedPack, IndexedSegment, LocalIndex, NewSegment, Place};
use btrfs_to_s3::pack::format::PackClass;

const REPOSITORY: RepositoryId = RepositoryId::from_bytes([7; 16]);
/// How many chunks a segment has, at most.
pub(crate) const SEGMENT_CHUNKS: u32 = 125_000;
const PACK_CHUNKS: u32 = 800;
pub(crate) const MILLION: u32 = 1_000_000;

/// The id of the `number`th chunk. As evenly spread as a hash, and quicker to compute.
pub(crate) fn chunk(number: u32) -> ChunkId {
    let mut state = u64::from(number) | 1 << 40;
    let mut bytes = [0; 32];
    for word in bytes.chunks_exact_mut(8) {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word.copy_from_slice(&(mixed ^ mixed >> 31).to_le_bytes());
    }
    ChunkId::from_bytes(bytes)
}

fn id_bytes(number: u32) -> [u8; 32] {
    *blake3::hash(&number.to_le_bytes()).as_bytes()
}

/// A segment of so many chunks, the first of which is `first`.
pub(crate) fn segment(first: u32, chunks: u32) -> NewSegment {
    let pack = |n| IndexedPack {
        id: PackId::from_bytes(id_bytes(first + n)),
        class: PackClass::Data,
        stored_bytes: 32 << 20,
        frame_count: 32,
    };
    let entry = |n| Entry {
        chunk: chunk(first + n),
        place: Place { pack: n / PACK_CHUNKS, frame: n % PACK_CHUNKS / 25, length_bytes: 38_000 },
    };
    NewSegment {
        segment: IndexedSegment { id: SegmentId::from_bytes(id_bytes(first)), session: SessionId::from_bytes([1; 16]) },
        packs: (0..chunks.div_ceil(PACK_CHUNKS)).map(pack).collect(),
        entries: (0..chunks).map(entry).collect(),
        usable: true,
    }
}

pub(crate) fn open(directory: &Path) -> LocalIndex {
    let (mut index, problems) = LocalIndex::open(directory, REPOSITORY, Access::Exclusive).expect("the index opens");
    assert!(problems.is_empty());
    index.set_usable(|_, _| true).expect("the packs can be read");
    index
}
