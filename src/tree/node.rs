//! One node of a tree.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::id::{ChunkId, PackId};
use crate::object::{FormatError, decode_cbor, encode_cbor};

/// A node has at most this many entries.
pub const NODE_LIMIT_ENTRIES: usize = 2048;

/// A node's plaintext is never longer than this; what this program writes stays below a quarter of it.
pub const NODE_LIMIT_BYTES: usize = 1 << 20;

/// Where a chunk was when the tree was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hint {
    /// The pack.
    pub pack: PackId,
    /// The number of the frame in it.
    pub frame: u32,
}

/// What one entry stands for: a piece of a chunk (in a leaf), or all below a child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The chunk, or the child node's.
    pub id: ChunkId,
    /// Bytes to skip in the chunk.
    pub skip: u64,
    /// Bytes of the piece, or below the child.
    pub length: u64,
    /// How many times the piece stands there.
    pub repeats: u64,
    /// Bytes of file data that the commands in it use, over all repeats.
    pub data_used: u64,
    /// Where the chunk was.
    pub hint: Option<Hint>,
}

impl Entry {
    /// An entry for one whole chunk.
    #[must_use]
    pub fn whole(id: ChunkId, length: u64) -> Self {
        Self { id, skip: 0, length, repeats: 1, data_used: 0, hint: None }
    }

    /// Bytes of the tree's string that the entry stands for; none if that is beyond 64 bits.
    #[must_use]
    pub fn total(&self) -> Option<u64> {
        self.length.checked_mul(self.repeats)
    }

    /// The piece of the chunk that the entry names; none if the chunk is shorter.
    #[must_use]
    pub fn piece(&self, chunk: &Bytes) -> Option<Bytes> {
        let begin = usize::try_from(self.skip).ok()?;
        let end = begin.checked_add(usize::try_from(self.length).ok()?)?;
        (end <= chunk.len()).then(|| chunk.slice(begin..end))
    }
}

/// A node: a leaf has height 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Height above the chunks.
    pub height: u8,
    /// Its entries, in order.
    pub entries: Vec<Entry>,
}

/// The node's columns as they are stored.
#[derive(Serialize, Deserialize)]
struct StoredNode {
    height: u8,
    ids: ByteBuf,
    lengths: Vec<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    skips: Option<Vec<u64>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    repeats: Option<Vec<u64>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    data_used: Option<Vec<u64>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    packs: Option<ByteBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    slots: Option<Vec<u32>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    frames: Option<Vec<u32>>,
}

impl Node {
    /// Encodes the node as the plaintext of its chunk.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let column = |default: u64, value: fn(&Entry) -> u64| {
            let needed = self.entries.iter().any(|entry| value(entry) != default);
            needed.then(|| self.entries.iter().map(value).collect::<Vec<u64>>())
        };
        let (packs, slots, frames) = match self.hint_columns() {
            Some((packs, slots, frames)) => (Some(packs), Some(slots), Some(frames)),
            None => (None, None, None),
        };
        encode_cbor(&StoredNode {
            height: self.height,
            ids: ByteBuf::from(self.entries.iter().flat_map(|entry| *entry.id.as_bytes()).collect::<Vec<u8>>()),
            lengths: self.entries.iter().map(|entry| entry.length).collect(),
            skips: column(0, |entry| entry.skip),
            repeats: column(1, |entry| entry.repeats),
            data_used: column(0, |entry| entry.data_used),
            packs,
            slots,
            frames,
        })
    }

    /// The hints as columns, if every entry has one.
    fn hint_columns(&self) -> Option<(ByteBuf, Vec<u32>, Vec<u32>)> {
        let hints: Vec<Hint> = self.entries.iter().map(|entry| entry.hint).collect::<Option<_>>()?;
        let mut packs: Vec<PackId> = Vec::new();
        let mut slots = Vec::with_capacity(hints.len());
        for hint in &hints {
            // Neighbours mostly are in the same pack, so the search from the back ends at once.
            let slot = packs.iter().rposition(|pack| *pack == hint.pack).unwrap_or_else(|| {
                packs.push(hint.pack);
                packs.len() - 1
            });
            slots.push(u32::try_from(slot).expect("a node has at most 2,048 entries"));
        }
        let packs: Vec<u8> = packs.iter().flat_map(|pack| *pack.as_bytes()).collect();
        Some((ByteBuf::from(packs), slots, hints.iter().map(|hint| hint.frame).collect()))
    }

    /// Decodes the plaintext of a node's chunk.
    pub fn decode(plaintext: &[u8]) -> Result<Self, FormatError> {
        // Numbers take up to eight times as much memory as CBOR, and a chunk may be large.
        if plaintext.len() > NODE_LIMIT_BYTES {
            let (value, limit) = (plaintext.len() as u64, NODE_LIMIT_BYTES as u64);
            return Err(FormatError::OverLimit { what: "length as a tree node", value, limit });
        }
        let stored: StoredNode = decode_cbor(plaintext)?;
        let (ids, rest) = stored.ids.as_chunks::<{ ChunkId::LENGTH }>();
        let count = ids.len();
        let misfit = || FormatError::invalid("the columns of a tree node do not fit each other");
        let fits = |column: &Option<Vec<u64>>| column.as_ref().is_none_or(|values| values.len() == count);
        let columns_fit = [&stored.skips, &stored.repeats, &stored.data_used].into_iter().all(fits);
        if !rest.is_empty() || count == 0 || stored.lengths.len() != count || !columns_fit {
            return Err(misfit());
        }
        if count > NODE_LIMIT_ENTRIES {
            let limit = NODE_LIMIT_ENTRIES as u64;
            return Err(FormatError::OverLimit {
                what: "number of entries in a tree node",
                value: count as u64,
                limit,
            });
        }
        let hints = read_hints(&stored, count)?;
        let value = |column: &Option<Vec<u64>>, position: usize, default: u64| {
            column.as_ref().map_or(default, |values| values[position])
        };
        let entry = |position: usize| Entry {
            id: ChunkId::from_bytes(ids[position]),
            skip: value(&stored.skips, position, 0),
            length: stored.lengths[position],
            repeats: value(&stored.repeats, position, 1),
            data_used: value(&stored.data_used, position, 0),
            hint: hints.as_ref().map(|hints| hints[position]),
        };
        Ok(Self { height: stored.height, entries: (0..count).map(entry).collect() })
    }
}

fn read_hints(stored: &StoredNode, count: usize) -> Result<Option<Vec<Hint>>, FormatError> {
    let (Some(packs), Some(slots), Some(frames)) = (&stored.packs, &stored.slots, &stored.frames) else {
        return Ok(None);
    };
    let misfit = || FormatError::invalid("the hints of a tree node do not fit it");
    let (packs, rest) = packs.as_chunks::<{ PackId::LENGTH }>();
    if !rest.is_empty() || slots.len() != count || frames.len() != count {
        return Err(misfit());
    }
    let hint = |(slot, frame): (&u32, &u32)| {
        let pack = packs.get(*slot as usize).ok_or_else(misfit)?;
        Ok(Hint { pack: PackId::from_bytes(*pack), frame: *frame })
    };
    slots.iter().zip(frames).map(hint).collect::<Result<_, _>>().map(Some)
}
