//! Packs that do not tell what they have: they stay as they are, unless all that is needed of them is elsewhere.
//!
//! Whoever can store can put something that is no pack, and say in a segment what is in it. It would be read every night
//! otherwise, and so would be a damaged pack whose chunks have been stored again since.

use std::collections::{BTreeMap, HashSet};

use super::Run;
use super::elsewhere::{Elsewhere, find_elsewhere};
use crate::id::PackId;
use crate::pack::format::{ChunkEntry, PackClass};
use crate::prune::mark::NeededChunk;

impl Run<'_, '_> {
    /// Tells of packs that cannot be read, and gives those that stay: of which something is needed that has not been found right
    /// in another pack. The index says what is in them, as they do not.
    pub(super) async fn leave_unreadable(
        &mut self,
        class: PackClass,
        unreadable: BTreeMap<PackId, anyhow::Error>,
    ) -> anyhow::Result<HashSet<PackId>> {
        let mut left = HashSet::new();
        if unreadable.is_empty() {
            return Ok(left);
        }
        let mut needed = self.marking.needed_in(class, |id| unreadable.contains_key(&id))?;
        for (pack, error) in unreadable {
            if self.is_elsewhere(class, pack, needed.remove(&pack).unwrap_or_default()).await? {
                tracing::info!(%pack, "it cannot be read, and all that is needed of it is in others");
            } else {
                self.repacking.tell_damage((class, pack), &error, &mut self.done.repacked);
                left.insert(pack);
            }
        }
        Ok(left)
    }

    /// Whether all that is needed of a pack is kept in others, and right there.
    async fn is_elsewhere(&mut self, class: PackClass, pack: PackId, needed: Vec<NeededChunk>) -> anyhow::Result<bool> {
        if needed.iter().any(|chunk| chunk.kept.pack == pack) {
            return Ok(false);
        }
        let mut elsewhere = Elsewhere::default();
        for (number, chunk) in needed.iter().enumerate() {
            elsewhere.entry(chunk.kept.pack).or_default().entry(chunk.kept.frame).or_default().push(number);
        }
        let chunks: Vec<ChunkEntry> = needed.into_iter().map(|chunk| chunk.chunk).collect();
        let found = find_elsewhere(self.repacking.repository, class, &chunks, elsewhere).await?;
        let storage_class = self.observed.listed.get(&(class, pack)).and_then(|listed| listed.storage_class.clone());
        let reads = self.done.repacked.reads.entry(storage_class).or_default();
        reads.objects += found.read.objects;
        reads.bytes += found.read.bytes;
        for (id, error) in found.damaged {
            self.repacking.tell_damage((class, id), &error, &mut self.done.repacked);
        }
        Ok(found.chunks.len() == chunks.len())
    }
}
