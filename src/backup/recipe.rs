//! The trees of a backup, built while its chunks come.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;

use crate::backup::uploader::{Place, Uploader};
use crate::chunker::{Chunk, CommandChunk};
use crate::id::PackId;
use crate::records::manifest::{Root, RootKind};
use crate::tree::Tree;
use crate::tree::node::Entry;
use crate::tree::writer::{NodeChunk, TreeWriter};

/// So many entries wait for the id of their pack at most; then the pack is completed as it is.
const QUEUE_LIMIT: usize = 1 << 17;

/// The recipe of a stream.
#[derive(Debug, Default)]
pub(crate) struct Recipe {
    commands: TreeWriter,
    data: TreeWriter,
    /// Data entries from the first on whose pack's id is not known yet.
    queue: VecDeque<(Entry, Place)>,
    data_packs: BTreeSet<PackId>,
}

impl Recipe {
    /// Appends a chunk of the command stream.
    pub(crate) async fn push_commands(
        &mut self,
        chunk: &CommandChunk,
        uploader: &mut Uploader<'_>,
    ) -> anyhow::Result<()> {
        uploader.count_command_chunk();
        uploader.add_meta(&chunk.chunk).await?;
        let entry = Entry::whole(chunk.chunk.id, chunk.chunk.bytes.len() as u64);
        self.push_commands_entry(Entry { data_used: chunk.data_bytes_used, ..entry }, uploader).await
    }

    /// Appends a piece of a chunk of the command stream that the repository has, or will have.
    pub(crate) async fn push_commands_entry(
        &mut self,
        entry: Entry,
        uploader: &mut Uploader<'_>,
    ) -> anyhow::Result<()> {
        let nodes = self.commands.push(Entry { hint: None, ..entry });
        store_nodes(nodes, uploader).await
    }

    /// Appends a chunk of file data.
    pub(crate) async fn push_data(&mut self, chunk: &Chunk, uploader: &mut Uploader<'_>) -> anyhow::Result<()> {
        let place = uploader.add_data(chunk).await?;
        self.push_data_entry(Entry::whole(chunk.id, chunk.bytes.len() as u64), place, uploader).await
    }

    /// Appends a piece of a chunk of file data that is, or will be, in a certain place.
    pub(crate) async fn push_data_entry(
        &mut self,
        entry: Entry,
        place: Place,
        uploader: &mut Uploader<'_>,
    ) -> anyhow::Result<()> {
        let piece = |entry: &Entry| (entry.id, entry.skip, entry.length);
        match self.queue.back_mut() {
            Some((last, its_place)) if piece(last) == piece(&entry) && *its_place == place => {
                last.repeats += entry.repeats;
            }
            _ => self.queue.push_back((entry, place)),
        }
        if self.queue.len() >= QUEUE_LIMIT {
            uploader.complete_data().await?;
        }
        self.drain_queue(uploader).await
    }

    /// Moves entries whose packs are known into the tree.
    async fn drain_queue(&mut self, uploader: &mut Uploader<'_>) -> anyhow::Result<()> {
        while let Some((_, place)) = self.queue.front()
            && let Place::Known(hint) = uploader.resolve(*place)
        {
            let Some((entry, _)) = self.queue.pop_front() else { break };
            self.data_packs.insert(hint.pack);
            let nodes = self.data.push(Entry { hint: Some(hint), ..entry });
            store_nodes(nodes, uploader).await?;
        }
        Ok(())
    }

    /// Completes the trees.
    pub(crate) async fn finish(mut self, uploader: &mut Uploader<'_>) -> anyhow::Result<Vec<Root>> {
        uploader.complete_data().await?;
        self.drain_queue(uploader).await?;
        let packs = store_bytes(&self.data_packs, uploader).await?;
        let mut roots = Vec::new();
        for (kind, writer) in [(RootKind::Commands, self.commands), (RootKind::Data, self.data)] {
            let (tree, nodes) = writer.finish();
            store_nodes(nodes, uploader).await?;
            roots.push(Root { kind, tree });
        }
        roots.push(Root { kind: RootKind::Packs, tree: packs });
        Ok(roots)
    }
}

async fn store_nodes(nodes: Vec<NodeChunk>, uploader: &mut Uploader<'_>) -> anyhow::Result<()> {
    for node in nodes {
        let chunk = Chunk { id: node.id, bytes: Bytes::from(node.plaintext) };
        uploader.add_meta(&chunk).await?;
    }
    Ok(())
}

/// Stores the table of packs as a tree.
async fn store_bytes(packs: &BTreeSet<PackId>, uploader: &mut Uploader<'_>) -> anyhow::Result<Tree> {
    /// A change somewhere in the table costs a chunk of this many ids.
    const IDS_IN_A_CHUNK: usize = 1024;
    let mut writer = TreeWriter::new();
    let ids: Vec<&PackId> = packs.iter().collect();
    for ids in ids.chunks(IDS_IN_A_CHUNK) {
        let bytes: Vec<u8> = ids.iter().flat_map(|id| *id.as_bytes()).collect();
        let bytes = Bytes::from(bytes);
        let chunk = Chunk { id: crate::id::ChunkId::of(&bytes), bytes };
        uploader.add_meta(&chunk).await?;
        let nodes = writer.push(Entry::whole(chunk.id, chunk.bytes.len() as u64));
        store_nodes(nodes, uploader).await?;
    }
    let (tree, nodes) = writer.finish();
    store_nodes(nodes, uploader).await?;
    Ok(tree)
}
