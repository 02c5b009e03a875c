//! The mark: goes through the trees of all backups that stay and finds out which packs they need.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;
use jiff::Timestamp;

use crate::id::{ChunkId, PackId};
use crate::local_index::{IndexedPack, IndexedSegment, NumberedPlace, Survey};
use crate::object::decode_cbor;
use crate::pack::format::{ChunkEntry, FrameKind, PackClass, PackRecord};
use crate::prune::bits::BitSet;
use crate::prune::nodes::{MetaReader, Wanted};
use crate::records::manifest::{Manifest, RootKind};
use crate::repository::{Damage, Repository};
use crate::tree::TREE_LIMIT_HEIGHT;
use crate::tree::node::{Hint, Node};

/// Nodes that are read together, and the frames these may be in.
const NODES_AT_ONCE: usize = 256;
const BATCH_FRAMES: usize = 16;

/// What is going to happen to a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Nobody means to delete it.
    Stays,
    /// It is deleted unless it is needed.
    Goes,
    /// Another prune may delete it. Nothing may be deleted because of it, and it is not for us to keep.
    IsOfOthers,
    /// It does not count: it is not listed, or of a session that does not count.
    DoesNotCount,
}

/// What is needed of a pack.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Use {
    /// Chunks.
    pub(super) chunks: u32,
    /// Their plaintext.
    pub(super) bytes: u64,
}

/// A pack as a segment of the index names it.
#[derive(Debug, Clone)]
pub(super) struct MarkedPack {
    pub(super) segment: IndexedSegment,
    pub(super) pack: IndexedPack,
    pub(super) fate: Fate,
    /// When it was stored, by the store's clock, if it is listed.
    pub(super) stored_at: Option<Timestamp>,
    /// Of chunks that are kept here.
    pub(super) needed: Use,
    /// Of chunks that are needed, are here too, and are kept elsewhere: if that is true, which the index says.
    pub(super) duplicate: Use,
}

/// What the chunks at the leaves of a tree are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaves {
    Meta,
    Data,
    /// The tree is of a kind that this program does not know: they may be either.
    Either,
}

impl Leaves {
    fn of(kind: &RootKind) -> Self {
        match kind {
            RootKind::Commands | RootKind::Packs => Self::Meta,
            RootKind::Data => Self::Data,
            RootKind::Other(_) => Self::Either,
        }
    }
}

/// A chunk that is needed, and where it is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct NeededChunk {
    pub(super) chunk: ChunkEntry,
    pub(super) kept: Hint,
}

/// A node whose entries are to be marked.
#[derive(Debug)]
struct OpenNode {
    height: u8,
    leaves: Leaves,
    wanted: Wanted,
}

/// A mark that is under way. Takes half a byte for each entry of the index, and about 250 bytes a pack.
#[derive(Debug)]
pub(super) struct Marking<'a> {
    survey: Survey<'a>,
    /// By their numbers in the survey.
    packs: Vec<MarkedPack>,
    /// By the number of a chunk's first place: whether it is known to be needed.
    needed: BitSet,
    /// The same for nodes: whether their entries have been marked, for each kind of leaves.
    opened: [BitSet; 3],
    reader: MetaReader,
    places: Vec<NumberedPlace>,
}

impl<'a> Marking<'a> {
    /// Begins; `fate` says of each pack that counts what is going to happen to it, and `stored_at` when it was stored.
    pub(super) fn new(
        repository: &Repository,
        survey: Survey<'a>,
        fate: impl Fn(PackClass, PackId) -> Fate,
        stored_at: impl Fn(PackClass, PackId) -> Option<Timestamp>,
    ) -> anyhow::Result<Self> {
        let marked = |(segment, pack, usable): (IndexedSegment, IndexedPack, bool)| {
            let fate = if usable { fate(pack.class, pack.id) } else { Fate::DoesNotCount };
            let stored_at = stored_at(pack.class, pack.id);
            MarkedPack { segment, pack, fate, stored_at, needed: Use::default(), duplicate: Use::default() }
        };
        let bits = || BitSet::new(survey.entry_count());
        Ok(Self {
            packs: survey.packs()?.into_iter().map(marked).collect(),
            needed: bits(),
            opened: [bits(), bits(), bits()],
            reader: MetaReader::new(repository),
            places: Vec::new(),
            survey,
        })
    }

    /// Lets go of the nodes and footers that were read last, whose memory others can have: they are neighbours of none that
    /// come later.
    pub(super) fn forget_read(&mut self) {
        self.reader.forget();
    }

    /// Marks all that a backup needs.
    ///
    /// # Errors
    ///
    /// [`Damage`] where a chunk it needs has no place, or a node cannot be read; or the error of the store or the disk.
    pub(super) async fn mark(&mut self, manifest: &Manifest) -> anyhow::Result<()> {
        let mut open = Vec::new();
        for root in &manifest.roots {
            let fits = (root.tree.height == 0) == root.tree.root.is_none() && root.tree.height <= TREE_LIMIT_HEIGHT;
            anyhow::ensure!(fits, "backup {}: a tree's height and root do not fit each other", manifest.id());
            if let Some(id) = root.tree.root {
                self.open_node(id, root.tree.height, Leaves::of(&root.kind), &mut open)?;
            }
        }
        while !open.is_empty() {
            let batch = take_batch(&mut open);
            let wanted: Vec<Wanted> = batch.iter().map(|node| node.wanted.clone()).collect();
            let plaintexts = self.reader.read(&wanted).await?;
            for (node, plaintext) in batch.iter().zip(plaintexts) {
                self.mark_entries(node, &plaintext, &mut open)?;
            }
        }
        Ok(())
    }

    fn mark_entries(&mut self, node: &OpenNode, plaintext: &[u8], open: &mut Vec<OpenNode>) -> anyhow::Result<()> {
        let id = node.wanted.id;
        let damaged = |reason: String| Damage { object: format!("tree node {id}"), reason };
        let decoded = Node::decode(plaintext).map_err(|error| damaged(error.to_string()))?;
        if decoded.height != node.height {
            return Err(damaged("it does not have the height its parent says".to_owned()).into());
        }
        for entry in &decoded.entries {
            match (node.height, node.leaves) {
                (2.., leaves) => self.open_node(entry.id, node.height - 1, leaves, open)?,
                (_, Leaves::Meta) => self.need(&entry.id, PackClass::Meta)?,
                (_, Leaves::Data) => self.need(&entry.id, PackClass::Data)?,
                (_, Leaves::Either) => self.need_somewhere(&entry.id)?,
            }
        }
        Ok(())
    }

    /// Marks a node, and puts it among those to be opened if that has not been done yet.
    fn open_node(&mut self, id: ChunkId, height: u8, leaves: Leaves, open: &mut Vec<OpenNode>) -> anyhow::Result<()> {
        self.need(&id, PackClass::Meta)?;
        let opened = &mut self.opened[leaves as usize];
        if opened.insert(self.places[0].entry) {
            let hint = |place: &NumberedPlace| Hint { pack: self.packs[place.pack].pack.id, frame: place.frame };
            let wanted = Wanted { id, places: self.places.iter().map(hint).collect() };
            open.push(OpenNode { height, leaves, wanted });
        }
        Ok(())
    }

    /// Marks a chunk as needed. Its places are in `self.places` then, one at least.
    fn need(&mut self, id: &ChunkId, class: PackClass) -> anyhow::Result<()> {
        self.survey.find(id, class, &mut self.places)?;
        if self.places.is_empty() {
            return Err(without_place(id).into());
        }
        self.count_use();
        Ok(())
    }

    /// Marks a chunk of either class, in both where both have it.
    fn need_somewhere(&mut self, id: &ChunkId) -> anyhow::Result<()> {
        let mut found = false;
        for class in [PackClass::Meta, PackClass::Data] {
            self.survey.find(id, class, &mut self.places)?;
            if !self.places.is_empty() {
                found = true;
                self.count_use();
            }
        }
        if found { Ok(()) } else { Err(without_place(id).into()) }
    }

    /// Notes that the chunk whose places were found is needed: in one place of the packs that stay, with others that are
    /// duplicates, or, where it is in none, of all that would go.
    fn count_use(&mut self) {
        if !self.needed.insert(self.places[0].entry) {
            return;
        }
        let kept = self.kept_place(&self.places).map(|place| (place.pack, self.packs[place.pack].pack.id));
        for place in &self.places {
            let pack = &mut self.packs[place.pack];
            let counted = match kept {
                Some((kept, _)) if kept == place.pack => &mut pack.needed,
                // Another segment names the same pack.
                Some((_, kept)) if kept == pack.pack.id => continue,
                None if pack.fate == Fate::Goes => &mut pack.needed,
                Some(_) if pack.fate == Fate::Stays => &mut pack.duplicate,
                _ => continue,
            };
            counted.chunks += 1;
            counted.bytes += u64::from(place.length_bytes);
        }
    }

    /// In which of its places a chunk is kept, if it is in packs that stay: in the newest one, so that what was copied out
    /// of a pack is not needed of that any more, whoever has copied it.
    fn kept_place<'p>(&self, places: &'p [NumberedPlace]) -> Option<&'p NumberedPlace> {
        let stay = places.iter().filter(|place| self.packs[place.pack].fate == Fate::Stays);
        stay.max_by_key(|place| {
            let pack = &self.packs[place.pack];
            (pack.stored_at, pack.pack.id, place.frame, place.pack)
        })
    }

    /// In which frame a chunk is kept, if it is needed.
    ///
    /// # Errors
    ///
    /// If the local disk fails.
    pub(super) fn kept_in(
        &self,
        id: &ChunkId,
        class: PackClass,
        places: &mut Vec<NumberedPlace>,
    ) -> anyhow::Result<Option<Hint>> {
        self.survey.find(id, class, places)?;
        let is_needed = places.first().is_some_and(|first| self.needed.contains(first.entry));
        let hint = |place: &NumberedPlace| Hint { pack: self.packs[place.pack].pack.id, frame: place.frame };
        Ok(if is_needed { self.kept_place(places).map(hint) } else { None })
    }

    /// What is needed of all that the index says is in some packs of a class. Goes through all of the local index.
    ///
    /// # Errors
    ///
    /// If the local disk fails.
    pub(super) fn needed_in(
        &self,
        class: PackClass,
        is_wanted: impl Fn(PackId) -> bool,
    ) -> anyhow::Result<HashMap<PackId, Vec<NeededChunk>>> {
        // Several segments may name a pack, and say different things of it.
        let mut claimed: BTreeSet<(PackId, ChunkId, u32)> = BTreeSet::new();
        for entry in self.survey.entries() {
            let (chunk, place) = entry?;
            let pack = &self.packs[place.pack].pack;
            if pack.class == class && is_wanted(pack.id) {
                claimed.insert((pack.id, chunk, place.length_bytes));
            }
        }
        let (mut needed, mut places) = (HashMap::<_, Vec<NeededChunk>>::new(), Vec::new());
        for (pack, id, length_bytes) in claimed {
            if let Some(kept) = self.kept_in(&id, class, &mut places)? {
                needed.entry(pack).or_default().push(NeededChunk { chunk: ChunkEntry { id, length_bytes }, kept });
            }
        }
        Ok(needed)
    }

    /// The plaintext in each pack, by the packs' numbers. Goes through all of the local index.
    ///
    /// # Errors
    ///
    /// If the local disk fails.
    pub(super) fn plaintext_bytes(&self) -> anyhow::Result<Vec<u64>> {
        let mut bytes = vec![0; self.packs.len()];
        for entry in self.survey.entries() {
            let (_, place) = entry?;
            bytes[place.pack] += u64::from(place.length_bytes);
        }
        Ok(bytes)
    }

    /// Marks the copies of footers, in some packs of metadata, of those data packs that stay.
    ///
    /// `is_candidate` says in which: those that would go, or be rewritten, by what is marked until now.
    ///
    /// # Errors
    ///
    /// As for [`mark`](Self::mark).
    pub(super) async fn mark_copies_of_footers(
        &mut self,
        is_candidate: impl Fn(PackId) -> bool,
        data_pack_stays: impl Fn(PackId) -> bool,
    ) -> anyhow::Result<()> {
        let is_wanted = |it: &&MarkedPack| {
            it.fate != Fate::DoesNotCount && it.pack.class == PackClass::Meta && is_candidate(it.pack.id)
        };
        let candidates: BTreeSet<PackId> = self.packs.iter().filter(is_wanted).map(|it| it.pack.id).collect();
        for pack in candidates {
            let copies = match self.read_copies(pack).await {
                Ok(copies) => copies,
                // What cannot be read is of no use.
                Err(error) if error.downcast_ref::<Damage>().is_some() => {
                    tracing::debug!(error = %format!("{error:#}"), "a pack that goes has no copies of footers");
                    continue;
                }
                Err(error) => return Err(error),
            };
            for (id, record) in copies {
                if record.footer.class == PackClass::Data && data_pack_stays(record.id) {
                    self.need(&id, PackClass::Meta)?;
                }
            }
        }
        Ok(())
    }

    /// Reads the copies of footers in a pack of metadata. One that is damaged is left out, and does not take the others with it.
    async fn read_copies(&self, pack: PackId) -> anyhow::Result<Vec<(ChunkId, PackRecord)>> {
        let wanted = self.copies_in(pack).await?;
        let read = match self.reader.read(&wanted).await {
            Ok(read) => wanted.into_iter().zip(read).collect(),
            Err(error) if error.downcast_ref::<Damage>().is_some() => self.read_each(wanted).await?,
            Err(error) => return Err(error),
        };
        let decode = |(wanted, bytes): (Wanted, Bytes)| Some((wanted.id, decode_cbor(&bytes).ok()?));
        Ok(read.into_iter().filter_map(decode).collect())
    }

    /// Reads chunks one by one, without those that are damaged.
    async fn read_each(&self, wanted: Vec<Wanted>) -> anyhow::Result<Vec<(Wanted, Bytes)>> {
        let mut read = Vec::new();
        for chunk in wanted {
            match self.reader.read(std::slice::from_ref(&chunk)).await {
                Ok(bytes) => read.extend(bytes.into_iter().map(|bytes| (chunk.clone(), bytes))),
                Err(error) if error.downcast_ref::<Damage>().is_some() => {
                    tracing::debug!(error = %format!("{error:#}"), "the copy of a footer is of no use");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(read)
    }

    /// The copies of footers in a pack of metadata.
    async fn copies_in(&self, pack: PackId) -> anyhow::Result<Vec<Wanted>> {
        let footer = self.reader.footer(pack).await?;
        let mut copies = Vec::new();
        for (frame, entry) in (0..).zip(&footer.frames) {
            if entry.kind == FrameKind::Footers {
                let chunks = &footer.chunks[entry.chunks.clone()];
                let wanted = |id: ChunkId| Wanted { id, places: vec![Hint { pack, frame }] };
                copies.extend(chunks.iter().map(|chunk| wanted(chunk.id)));
            }
        }
        Ok(copies)
    }

    /// All packs that the index names, as they have been marked.
    pub(super) fn packs(&self) -> &[MarkedPack] {
        &self.packs
    }
}

/// Takes nodes that can be read together, the last ones first, so that those below a node come before its neighbours.
fn take_batch(open: &mut Vec<OpenNode>) -> Vec<OpenNode> {
    let mut frames: Vec<Hint> = Vec::new();
    let mut batch = Vec::new();
    while batch.len() < NODES_AT_ONCE
        && let Some(node) = open.pop()
    {
        let frame = node.wanted.places[0];
        if !frames.contains(&frame) {
            if frames.len() >= BATCH_FRAMES {
                open.push(node);
                break;
            }
            frames.push(frame);
        }
        batch.push(node);
    }
    batch
}

fn without_place(id: &ChunkId) -> Damage {
    Damage { object: format!("chunk {id}"), reason: "a backup needs it, and no pack that counts has it".to_owned() }
}
