//! Goes through all that backups need: the nodes of their trees, and the chunks these name.
//!
//! Trees share nodes, so each node is looked at once, however many backups need it. What was found wrong below it is
//! remembered for the next one.

mod spans;

use std::collections::{BTreeSet, HashMap, HashSet};

use anyhow::Context;
use bytes::Bytes;

use crate::id::{ChunkId, PackId};
use crate::pack::format::PackClass;
use crate::records::manifest::{Manifest, RootKind};
use crate::repository::Damage;
use crate::repository::index::PackSizes;
use crate::repository::reader::ChunkReader;
use crate::tree::node::{Entry, Hint, Node};
use crate::tree::{TREE_LIMIT_HEIGHT, Tree};

/// So many chunks are remembered as lost of one node or backup; one is enough to know that it is damaged.
const LOST_LIMIT: usize = 1000;

/// A chunk that is in no pack that counts, or that cannot be read from it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lost {
    /// The chunk.
    pub chunk: ChunkId,
    /// What is wrong, in words.
    pub reason: String,
}

/// What a node claims, as its parents have to say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    height: u8,
    bytes: u64,
}

/// A walk over the trees of one backup after another.
///
/// Takes about 60 bytes of memory for each node, which is a quarter of a byte for each chunk.
#[derive(Debug)]
pub struct NeedsWalk<'a> {
    reader: ChunkReader<'a>,
    seen: HashMap<(PackClass, ChunkId), Shape>,
    lost_below: HashMap<(PackClass, ChunkId), BTreeSet<Lost>>,
    /// Metadata packs in which nodes and commands of the backup at hand are.
    meta_packs: HashSet<PackId>,
    beyond: Option<BeyondIndex<'a>>,
    /// Places of metadata chunks of the backup at hand, by its own packs' footers; made when the index does not help.
    own_places: Option<HashMap<ChunkId, Hint>>,
    /// Metadata packs that the backup at hand names.
    own_packs: Vec<PackId>,
    unindexed: u64,
}

/// What a restore finds without the index: the places that the recipe and the manifest name.
#[derive(Debug, Clone, Copy)]
pub struct BeyondIndex<'a> {
    /// The packs that are there.
    pub listed: &'a PackSizes,
    /// Chunks that were found damaged in packs.
    pub bad: &'a BadPlaces,
}

/// Chunks that do not have their bytes in these packs.
pub type BadPlaces = HashSet<(ChunkId, PackId)>;

/// A node that is to be visited.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    id: ChunkId,
    shape: Shape,
    /// The class of the chunks that the leaves name.
    leaves: PackClass,
}

/// A node of which some entries are still to be visited.
#[derive(Debug)]
struct Open {
    wanted: Wanted,
    entries: std::vec::IntoIter<Entry>,
    lost: BTreeSet<Lost>,
}

/// What there is to do about a node.
enum Entered {
    /// Nothing: this is lost of it.
    Known(BTreeSet<Lost>),
    /// Its entries have to be visited.
    New(Open),
}

impl<'a> NeedsWalk<'a> {
    /// Begins with nothing seen.
    #[must_use]
    pub fn new(reader: ChunkReader<'a>) -> Self {
        Self {
            reader,
            seen: HashMap::new(),
            lost_below: HashMap::new(),
            meta_packs: HashSet::new(),
            beyond: None,
            own_places: None,
            own_packs: Vec::new(),
            unindexed: 0,
        }
    }

    /// Looks also where a restore looks that the index does not help.
    #[must_use]
    pub fn beyond_index(self, beyond: BeyondIndex<'a>) -> Self {
        Self { beyond: Some(beyond), ..self }
    }

    /// How many chunks were found that the index does not know.
    #[must_use]
    pub fn unindexed(&self) -> u64 {
        self.unindexed
    }

    /// How many nodes have been visited.
    #[must_use]
    pub fn visited(&self) -> usize {
        self.seen.len()
    }

    /// Visits all that a backup needs that no earlier one has needed; gives what is lost, whoever needed it first.
    ///
    /// Nodes are read and checked; of other chunks, only the index is asked whether and where they are.
    ///
    /// # Errors
    ///
    /// If the store or the local disk fails.
    pub async fn visit(&mut self, manifest: &Manifest) -> anyhow::Result<BTreeSet<Lost>> {
        self.own_places = None;
        self.own_packs.clone_from(&manifest.meta_packs);
        let mut lost = BTreeSet::new();
        for root in &manifest.roots {
            let leaves = if root.kind == RootKind::Data { PackClass::Data } else { PackClass::Meta };
            let below = self.visit_tree(&root.tree, leaves).await;
            lost.extend(below.with_context(|| format!("reading what backup {} needs", manifest.id()))?);
        }
        Ok(lost)
    }

    /// As [`visit`](Self::visit), of one backup as if none had come before; gives also the metadata packs that have all
    /// of it.
    ///
    /// # Errors
    ///
    /// As for [`visit`](Self::visit).
    pub async fn visit_alone(&mut self, manifest: &Manifest) -> anyhow::Result<(BTreeSet<Lost>, HashSet<PackId>)> {
        self.seen.clear();
        self.lost_below.clear();
        self.meta_packs.clear();
        let lost = self.visit(manifest).await?;
        Ok((lost, std::mem::take(&mut self.meta_packs)))
    }

    async fn visit_tree(&mut self, tree: &Tree, leaves: PackClass) -> anyhow::Result<BTreeSet<Lost>> {
        let shape = Shape { height: tree.height, bytes: tree.bytes };
        match tree.root {
            None if tree.height == 0 && tree.bytes == 0 => Ok(BTreeSet::new()),
            Some(id) if (1..=TREE_LIMIT_HEIGHT).contains(&tree.height) => {
                self.visit_node(Wanted { id, shape, leaves }).await
            }
            root => {
                let reason = "a tree's height, length and root do not fit each other".to_owned();
                let chunk = root.unwrap_or(ChunkId::from_bytes([0; 32]));
                Ok(BTreeSet::from([Lost { chunk, reason }]))
            }
        }
    }

    /// Visits a node and all below it, the last ones first to be done with.
    async fn visit_node(&mut self, topmost: Wanted) -> anyhow::Result<BTreeSet<Lost>> {
        let mut open: Vec<Open> = match self.enter(topmost).await? {
            Entered::Known(lost) => return Ok(lost),
            Entered::New(open) => vec![open],
        };
        loop {
            let Some(node) = open.last_mut() else { return Ok(BTreeSet::new()) };
            let of_child = match node.entries.next() {
                Some(entry) if node.wanted.shape.height == 1 => {
                    let leaves = node.wanted.leaves;
                    self.check_content(&entry, leaves).await?
                }
                Some(entry) => {
                    let shape = Shape { height: node.wanted.shape.height - 1, bytes: entry.length };
                    match self.enter(Wanted { id: entry.id, shape, leaves: node.wanted.leaves }).await? {
                        Entered::Known(lost) => lost,
                        Entered::New(child) => {
                            open.push(child);
                            continue;
                        }
                    }
                }
                None => {
                    let Some(visited) = open.pop() else { return Ok(BTreeSet::new()) };
                    let lost = self.leave(visited);
                    if open.is_empty() {
                        return Ok(lost);
                    }
                    lost
                }
            };
            if let Some(parent) = open.last_mut() {
                let room = LOST_LIMIT.saturating_sub(parent.lost.len());
                parent.lost.extend(of_child.into_iter().take(room));
            }
        }
    }

    /// Reads a node, unless it is known what is lost of it.
    async fn enter(&mut self, wanted: Wanted) -> anyhow::Result<Entered> {
        let key = (wanted.leaves, wanted.id);
        match self.seen.get(&key) {
            Some(shape) if *shape == wanted.shape => {
                return Ok(Entered::Known(self.lost_below.get(&key).cloned().unwrap_or_default()));
            }
            Some(_) => return Ok(Entered::Known(unfit(wanted.id))),
            None => {}
        }
        Ok(match self.read_node(wanted).await? {
            Ok(node) => Entered::New(Open { wanted, entries: node.entries.into_iter(), lost: BTreeSet::new() }),
            Err(lost) => Entered::Known(lost),
        })
    }

    /// Remembers what is lost of a node that has been visited.
    fn leave(&mut self, node: Open) -> BTreeSet<Lost> {
        let key = (node.wanted.leaves, node.wanted.id);
        self.seen.insert(key, node.wanted.shape);
        if !node.lost.is_empty() {
            self.lost_below.insert(key, node.lost.clone());
        }
        node.lost
    }

    /// Looks whether a chunk that a leaf names is there.
    async fn check_content(&mut self, entry: &Entry, class: PackClass) -> anyhow::Result<BTreeSet<Lost>> {
        let lost = |reason: &str| Ok(BTreeSet::from([Lost { chunk: entry.id, reason: reason.to_owned() }]));
        let (length_bytes, pack) = match self.find(entry, class).await? {
            Ok(found) => found,
            Err(reason) => return lost(reason),
        };
        if entry.skip.checked_add(entry.length).is_none_or(|end| end > u64::from(length_bytes)) {
            return lost("the recipe names more bytes than it has");
        }
        if class == PackClass::Meta {
            self.meta_packs.insert(pack);
        }
        Ok(BTreeSet::new())
    }

    /// The length of a chunk and a pack that has it; or why there is none.
    async fn find(&mut self, entry: &Entry, class: PackClass) -> anyhow::Result<Result<(u32, PackId), &'static str>> {
        let bad = self.beyond.map(|beyond| beyond.bad);
        let is_good = |pack: PackId| bad.is_none_or(|bad| !bad.contains(&(entry.id, pack)));
        let places = self.reader.index().find_all(&entry.id)?;
        let mut of_class = places.iter().filter(|place| place.class == class);
        if let Some(place) = of_class.clone().find(|place| is_good(place.pack)) {
            return Ok(Ok((place.length_bytes, place.pack)));
        }
        let reason = match of_class.next() {
            Some(_) => "it is damaged in every pack that has it",
            None => "it is in no pack that counts",
        };
        let Some(beyond) = self.beyond else { return Ok(Err(reason)) };
        let hint = if class == PackClass::Meta { self.own_place(&entry.id).await? } else { entry.hint };
        let Some(hint) = hint.filter(|hint| is_good(hint.pack)) else { return Ok(Err(reason)) };
        let Some(size) = beyond.listed.get(&(class, hint.pack)) else { return Ok(Err(reason)) };
        match self.reader.end_in_pack(&entry.id, class, hint).await {
            Ok(Some((end, length_bytes))) if end <= *size => {
                self.unindexed += 1;
                Ok(Ok((length_bytes, hint.pack)))
            }
            Err(error) if error.downcast_ref::<Damage>().is_none() => Err(error),
            _ => Ok(Err(reason)),
        }
    }

    /// Where a metadata chunk is by the packs that the backup itself names.
    async fn own_place(&mut self, id: &ChunkId) -> anyhow::Result<Option<Hint>> {
        if self.own_places.is_none() {
            self.own_places = Some(self.reader.places_in(&self.own_packs).await?);
        }
        Ok(self.own_places.as_ref().and_then(|places| places.get(id)).copied())
    }

    /// Reads a metadata chunk, by the index or else where the backup itself says it is.
    async fn read_meta(&mut self, id: &ChunkId) -> anyhow::Result<(Bytes, PackId)> {
        let failure = match self.reader.chunk(id, PackClass::Meta).await {
            Err(error) if error.downcast_ref::<Damage>().is_some() && self.beyond.is_some() => error,
            read => return read,
        };
        let Some(hint) = self.own_place(id).await? else { return Err(failure) };
        let bytes = self.reader.chunk_at(id, PackClass::Meta, hint).await?;
        self.unindexed += 1;
        Ok((bytes, hint.pack))
    }

    /// Reads a node, or gives what is wrong with it.
    async fn read_node(&mut self, wanted: Wanted) -> anyhow::Result<Result<Node, BTreeSet<Lost>>> {
        let (plaintext, pack) = match self.read_meta(&wanted.id).await {
            Ok(read) => read,
            Err(error) => match error.downcast::<Damage>() {
                Ok(damage) => {
                    let reason = damage.to_string();
                    return Ok(Err(BTreeSet::from([Lost { chunk: wanted.id, reason }])));
                }
                Err(error) => return Err(error),
            },
        };
        self.meta_packs.insert(pack);
        let total = |node: &Node| node.entries.iter().try_fold(0_u64, |sum, entry| sum.checked_add(entry.total()?));
        match Node::decode(&plaintext) {
            Ok(node) if node.height == wanted.shape.height && total(&node) == Some(wanted.shape.bytes) => Ok(Ok(node)),
            Ok(_) => Ok(Err(unfit(wanted.id))),
            Err(error) => Ok(Err(BTreeSet::from([Lost { chunk: wanted.id, reason: error.to_string() }]))),
        }
    }
}

fn unfit(chunk: ChunkId) -> BTreeSet<Lost> {
    let reason = "a tree node does not have the height or length its parent says".to_owned();
    BTreeSet::from([Lost { chunk, reason }])
}
