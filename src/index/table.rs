//! Look-up tables: where chunks are, sorted by their ids, so that one is found with two requests.
//!
//! `docs/format.md`, "Look-up tables". A table says nothing that segments do not say, and nothing hangs on it: it leads to places
//! that are tried, and a chunk that is read there is checked by its id.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::codec::{FRAME_HEADER_BYTES, append_frame, decode_frame};
use crate::id::{BlocksId, ChunkId, Digest, PackId, RepositoryId, Salt, SegmentId, SessionId, TableId};
use crate::object::{
    FormatError, HEADER_BYTES, ObjectKind, check_header, decode_cbor, encode_cbor, read_u32, write_header,
};
use crate::pack::format::PackClass;

/// A table's object, and one with blocks, is never longer than this.
pub const TABLE_LIMIT_BYTES: u64 = 64 << 20;

/// Of a chunk's id, so many bytes are in an entry. Where two chunks begin alike, both places are tried.
const PREFIX_BYTES: usize = 16;
const ENTRY_BYTES: usize = PREFIX_BYTES + 8;
/// A block is closed when it has so many entries.
const BLOCK_ENTRIES: usize = 2048;
/// An object with blocks is closed when it is this long.
const BLOCKS_TARGET_BYTES: usize = 32 << 20;
const LEVEL: i32 = 3;

type Prefix = [u8; PREFIX_BYTES];

fn prefix_of(chunk: &ChunkId) -> Prefix {
    let mut prefix = [0; PREFIX_BYTES];
    prefix.copy_from_slice(&chunk.as_bytes()[..PREFIX_BYTES]);
    prefix
}

/// Where a chunk may be: the number of a pack in the table, and of the frame in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TablePlace {
    /// Number of the pack in [`Table::packs`].
    pub pack: u32,
    /// Number of the frame.
    pub frame: u32,
}

/// A block of entries, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// The object that has it.
    pub object: BlocksId,
    /// Where it is in that, bytes.
    pub range: Range<u64>,
    /// Beginning of the first chunk's id.
    first: Prefix,
    digest: Digest,
}

/// What a table says of its blocks, and what these are about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// The session that has put it.
    pub session: SessionId,
    /// The segments whose packs it has.
    pub segments: Vec<SegmentId>,
    /// Their packs.
    pub packs: Vec<(PackClass, PackId)>,
    /// The blocks, in the order of their entries.
    pub blocks: Vec<Block>,
}

/// A table's columns as they are stored.
#[derive(Serialize, Deserialize)]
struct StoredTable {
    session: SessionId,
    segments: ByteBuf,
    pack_ids: ByteBuf,
    pack_classes: ByteBuf,
    objects: ByteBuf,
    object_blocks: Vec<u32>,
    block_firsts: ByteBuf,
    block_lengths: Vec<u32>,
    block_digests: ByteBuf,
}

fn column<const N: usize, T>(bytes: &[u8], make: impl Fn([u8; N]) -> T) -> Result<Vec<T>, FormatError> {
    let (items, rest) = bytes.as_chunks::<N>();
    if rest.is_empty() {
        Ok(items.iter().map(|item| make(*item)).collect())
    } else {
        Err(FormatError::invalid("a column of it ends within an item"))
    }
}

fn bytes_of<const N: usize>(items: impl Iterator<Item = [u8; N]>) -> ByteBuf {
    ByteBuf::from(items.flatten().collect::<Vec<u8>>())
}

impl Table {
    /// Decodes the object of a table, whose bytes must hash to `id`.
    pub fn decode(repository: RepositoryId, id: TableId, bytes: &[u8]) -> Result<Self, FormatError> {
        decode_cbor::<StoredTable>(&table_body(repository, id, bytes)?)?.try_into()
    }

    fn encode(&self, repository: RepositoryId, salt: Salt) -> (TableId, Vec<u8>) {
        let mut bytes = Vec::new();
        write_header(ObjectKind::Table, repository, salt, &mut bytes);
        append_frame(&encode_cbor(&StoredTable::from(self)), LEVEL, &mut bytes);
        (TableId::from_bytes(*blake3::hash(&bytes).as_bytes()), bytes)
    }

    /// The blocks that may have a chunk: one, or none, or several if many places begin alike.
    #[must_use]
    pub fn blocks_for(&self, chunk: &ChunkId) -> &[Block] {
        let prefix = prefix_of(chunk);
        let end = self.blocks.partition_point(|block| block.first <= prefix);
        let start = self.blocks.partition_point(|block| block.first < prefix).saturating_sub(1).min(end);
        &self.blocks[start..end]
    }

    /// The objects that have the blocks, each once.
    #[must_use]
    pub fn objects(&self) -> Vec<BlocksId> {
        let mut objects: Vec<BlocksId> = self.blocks.iter().map(|block| block.object).collect();
        objects.dedup();
        objects
    }
}

/// The CBOR of a table's object, whose bytes must hash to `id`.
pub fn table_body(repository: RepositoryId, id: TableId, bytes: &[u8]) -> Result<Vec<u8>, FormatError> {
    if blake3::hash(bytes) != *id.as_bytes() {
        return Err(FormatError::HashMismatch);
    }
    check_header(ObjectKind::Table, repository, bytes)?;
    decode_frame(&bytes[HEADER_BYTES..])
}

/// Checks an object with blocks as a whole.
pub fn check_blocks(repository: RepositoryId, id: BlocksId, bytes: &[u8]) -> Result<(), FormatError> {
    if blake3::hash(bytes) != *id.as_bytes() {
        return Err(FormatError::HashMismatch);
    }
    check_header(ObjectKind::Blocks, repository, bytes)
}

impl Block {
    /// Decodes the bytes of the block; gives the entries in it.
    ///
    /// # Errors
    ///
    /// If they are not those that the table was made with, or not sorted.
    pub fn decode(&self, bytes: &[u8]) -> Result<OpenBlock, FormatError> {
        if Digest::of(bytes) != self.digest {
            return Err(FormatError::HashMismatch);
        }
        let entries = decode_frame(bytes)?;
        let (items, rest) = entries.as_chunks::<ENTRY_BYTES>();
        let sorted = items.is_sorted_by(|a, b| a[..PREFIX_BYTES] <= b[..PREFIX_BYTES]);
        let fits = items.first().is_some_and(|first| first[..PREFIX_BYTES] == self.first);
        if rest.is_empty() && sorted && fits {
            Ok(OpenBlock { entries })
        } else {
            Err(FormatError::invalid("the entries of a block are not those that its table says"))
        }
    }
}

/// The entries of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenBlock {
    entries: Vec<u8>,
}

impl OpenBlock {
    /// All places that it has for a chunk.
    pub fn places(&self, chunk: &ChunkId) -> impl Iterator<Item = TablePlace> {
        let prefix = prefix_of(chunk);
        let (items, _) = self.entries.as_chunks::<ENTRY_BYTES>();
        let start = items.partition_point(|item| item[..PREFIX_BYTES] < prefix[..]);
        let of_chunk = items[start..].iter().take_while(move |item| item[..PREFIX_BYTES] == prefix);
        of_chunk.map(|item| TablePlace {
            pack: read_u32(&item[PREFIX_BYTES..]),
            frame: read_u32(&item[PREFIX_BYTES + 4..]),
        })
    }

    /// What it takes in memory.
    #[must_use]
    pub fn length_bytes(&self) -> usize {
        self.entries.len()
    }
}

impl From<&Table> for StoredTable {
    fn from(table: &Table) -> Self {
        let fits = "blocks are below their limits";
        let objects = table.objects();
        let of_object = |object: &BlocksId| table.blocks.iter().filter(|block| block.object == *object).count();
        let length = |block: &Block| u32::try_from(block.range.end - block.range.start).expect(fits);
        let class = |(class, _): &(PackClass, PackId)| match class {
            PackClass::Data => 0,
            PackClass::Meta => 1,
        };
        Self {
            session: table.session,
            segments: bytes_of(table.segments.iter().map(|id| *id.as_bytes())),
            pack_ids: bytes_of(table.packs.iter().map(|(_, id)| *id.as_bytes())),
            pack_classes: ByteBuf::from(table.packs.iter().map(class).collect::<Vec<u8>>()),
            object_blocks: objects.iter().map(|object| u32::try_from(of_object(object)).expect(fits)).collect(),
            objects: bytes_of(objects.iter().map(|id| *id.as_bytes())),
            block_firsts: bytes_of(table.blocks.iter().map(|block| block.first)),
            block_lengths: table.blocks.iter().map(length).collect(),
            block_digests: bytes_of(table.blocks.iter().map(|block| *block.digest.as_bytes())),
        }
    }
}

impl TryFrom<StoredTable> for Table {
    type Error = FormatError;

    fn try_from(stored: StoredTable) -> Result<Self, FormatError> {
        let class = |code: &u8| match code {
            0 => Ok(PackClass::Data),
            1 => Ok(PackClass::Meta),
            _ => Err(FormatError::invalid("it names a pack of a class that this program does not know")),
        };
        let classes = stored.pack_classes.iter().map(class).collect::<Result<Vec<_>, _>>()?;
        let ids = column(&stored.pack_ids, PackId::from_bytes)?;
        let firsts: Vec<Prefix> = column(&stored.block_firsts, |first| first)?;
        let digests = column(&stored.block_digests, Digest::from_bytes)?;
        let objects = column(&stored.objects, BlocksId::from_bytes)?;
        let counts: u64 = stored.object_blocks.iter().map(|count| u64::from(*count)).sum();
        let agree = classes.len() == ids.len()
            && firsts.len() == digests.len()
            && firsts.len() == stored.block_lengths.len()
            && objects.len() == stored.object_blocks.len()
            && firsts.len() as u64 == counts;
        if !agree || !firsts.is_sorted() {
            return Err(FormatError::invalid("its columns do not fit each other"));
        }
        let mut blocks = Vec::with_capacity(firsts.len());
        let mut columns = firsts.into_iter().zip(digests).zip(stored.block_lengths);
        for (object, count) in objects.into_iter().zip(stored.object_blocks) {
            let mut start = HEADER_BYTES as u64;
            for ((first, digest), length) in columns.by_ref().take(count as usize) {
                let range = start..start + u64::from(length);
                start = range.end;
                blocks.push(Block { object, range, first, digest });
            }
            if start > TABLE_LIMIT_BYTES {
                let what = "length of the blocks of one object";
                return Err(FormatError::OverLimit { what, value: start, limit: TABLE_LIMIT_BYTES });
            }
        }
        let segments = column(&stored.segments, SegmentId::from_bytes)?;
        Ok(Self { session: stored.session, segments, packs: classes.into_iter().zip(ids).collect(), blocks })
    }
}

/// Makes a table of entries that come in the order of their chunks. In memory are the blocks that are in no object yet.
#[derive(Debug)]
pub struct TableWriter {
    repository: RepositoryId,
    table: Table,
    /// The entries of the next block.
    entries: Vec<u8>,
    /// The next object: room for its header, and blocks as they are stored.
    object: Vec<u8>,
    /// The same: beginning, length and digest of each.
    pending: Vec<(Prefix, u64, Digest)>,
}

/// With room for all blocks of an object: one that grows would take the double. What is not written to costs no memory.
fn new_object() -> Vec<u8> {
    let block_bytes = FRAME_HEADER_BYTES + BLOCK_ENTRIES * ENTRY_BYTES;
    let mut object = Vec::with_capacity(HEADER_BYTES + BLOCKS_TARGET_BYTES + block_bytes);
    object.resize(HEADER_BYTES, 0);
    object
}

impl TableWriter {
    /// Begins a table of what some segments say of these packs.
    #[must_use]
    pub fn new(
        repository: RepositoryId,
        session: SessionId,
        segments: Vec<SegmentId>,
        packs: Vec<(PackClass, PackId)>,
    ) -> Self {
        let table = Table { session, segments, packs, blocks: Vec::new() };
        Self { repository, table, entries: Vec::new(), object: new_object(), pending: Vec::new() }
    }

    /// Adds an entry; says whether it is time to [take](Self::take_blocks) an object.
    pub fn push(&mut self, chunk: &ChunkId, place: TablePlace) -> bool {
        self.entries.extend_from_slice(&prefix_of(chunk));
        self.entries.extend_from_slice(&place.pack.to_le_bytes());
        self.entries.extend_from_slice(&place.frame.to_le_bytes());
        if self.entries.len() >= BLOCK_ENTRIES * ENTRY_BYTES {
            self.close_block();
        }
        self.object.len() >= BLOCKS_TARGET_BYTES
    }

    fn close_block(&mut self) {
        let entries = std::mem::take(&mut self.entries);
        let Some(first) = entries.first_chunk() else { return };
        let start = self.object.len();
        append_frame(&entries, LEVEL, &mut self.object);
        let frame = &self.object[start..];
        self.pending.push((*first, frame.len() as u64, Digest::of(frame)));
    }

    /// Gives the object with all entries that are in none yet, to be stored; none if there are no such.
    pub fn take_blocks(&mut self, salt: Salt) -> Option<(BlocksId, Vec<u8>)> {
        self.close_block();
        if self.pending.is_empty() {
            return None;
        }
        let mut header = Vec::with_capacity(HEADER_BYTES);
        write_header(ObjectKind::Blocks, self.repository, salt, &mut header);
        // Not copied: it is tens of megabytes long.
        let mut bytes = std::mem::replace(&mut self.object, new_object());
        bytes[..HEADER_BYTES].copy_from_slice(&header);
        let object = BlocksId::from_bytes(*blake3::hash(&bytes).as_bytes());
        let mut start = HEADER_BYTES as u64;
        for (first, length, digest) in self.pending.drain(..) {
            self.table.blocks.push(Block { object, range: start..start + length, first, digest });
            start += length;
        }
        Some((object, bytes))
    }

    /// Gives the table itself, to be stored when all objects have been.
    #[must_use]
    pub fn finish(self, salt: Salt) -> (TableId, Vec<u8>) {
        self.table.encode(self.repository, salt)
    }
}

#[cfg(test)]
mod tests;
