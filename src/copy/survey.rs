//! What the destination lacks of the backups that are to be copied: found out from trees and index, without reading any file
//! data.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use anyhow::Context;

use crate::copy::{CopyPlan, Copying};
use crate::id::{ChunkId, PackId};
use crate::local_index::Access;
use crate::monitor::Monitor;
use crate::pack::format::PackClass;
use crate::records::manifest::{Root, RootKind};
use crate::repository::Damage;
use crate::repository::index::ChunkIndex;
use crate::restore::{DataListing, Locator, PackState, unfit};
use crate::size::ByteSize;
use crate::store::thaw::ThawState;
use crate::tree::node::Entry;
use crate::tree::walk::{Step, TreeWalk};

/// What has to be read and stored for some backups, at most: a chunk that several of them have may be counted more than
/// once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Missing {
    /// Chunks of file data and commands.
    pub chunks: u64,
    /// Their bytes, and those of the trees, before compression.
    pub bytes: u64,
    /// Packs of the source that have file data among them.
    pub packs: BTreeSet<PackId>,
}

/// Finds out what the destination lacks. Changes nothing there; the host's index of it is brought up to date.
///
/// To be called with the lock of the destination's host held. Costs a listing of the source's packs. Takes some tens of bytes
/// of memory for each tree node, and some more for each of these packs.
///
/// # Errors
///
/// If the store or the local disk fails. What is damaged in the source is left out.
pub async fn find_missing(copying: &Copying, plan: &CopyPlan, monitor: &Arc<dyn Monitor>) -> anyhow::Result<Missing> {
    find_missing_of(copying, plan, &DataListing::of(&copying.source).await?, monitor).await
}

async fn find_missing_of(
    copying: &Copying,
    plan: &CopyPlan,
    listed: &DataListing,
    monitor: &Arc<dyn Monitor>,
) -> anyhow::Result<Missing> {
    let host = &copying.host;
    let folder = &host.index_directory;
    let index =
        ChunkIndex::open(&copying.destination, folder, Access::Exclusive, &host.cache, monitor.as_ref()).await?;
    let mut survey = Survey { index, listed, seen: HashSet::new(), missing: Missing::default() };
    let reader = Locator::of_nothing(&copying.source, &copying.reading, monitor);
    for backup in &plan.steps {
        for root in &backup.manifest.roots {
            let visited = async { survey.visit(&reader.turned_to(&backup.manifest).await?, root).await }.await;
            match visited {
                // Copying it will tell.
                Err(error) if error.downcast_ref::<Damage>().is_some() => tracing::debug!("{error:#}"),
                visited => visited.with_context(|| format!("reading the trees of backup {}", backup.id()))?,
            }
        }
    }
    Ok(survey.missing)
}

/// Packs of the source that would have to be read are archived, and have no copy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{packs} packs of the source ({}) are archived that have what is to be copied: --thaw has them thawed",
    ByteSize::from_bytes(*.bytes)
)]
pub struct ArchivedSource {
    /// How many.
    pub packs: usize,
    /// Their bytes.
    pub bytes: u64,
}

impl ArchivedSource {
    /// What to say of packs that cannot be read, if there are any.
    #[must_use]
    pub fn of(archived: &[PackState]) -> Option<Self> {
        let bytes = archived.iter().map(|pack| pack.object.size_bytes).sum();
        (!archived.is_empty()).then_some(Self { packs: archived.len(), bytes })
    }
}

/// The packs of the source that have what the destination lacks, and cannot be read now. Asks for nothing.
///
/// Costs a listing of the source's packs; where any may be archived, what [`find_missing`] costs, and a look-up for each.
/// To be called with the lock of the destination's host held.
///
/// # Errors
///
/// If the store or the local disk fails.
pub async fn find_archived(
    copying: &Copying,
    plan: &CopyPlan,
    monitor: &Arc<dyn Monitor>,
) -> anyhow::Result<Vec<PackState>> {
    if plan.steps.is_empty() {
        return Ok(Vec::new());
    }
    let listed = DataListing::of(&copying.source).await?;
    if !listed.has_cold() {
        return Ok(Vec::new());
    }
    let missing = find_missing_of(copying, plan, &listed, monitor).await?;
    let mut states = listed.states(&copying.source, &missing.packs).await?;
    states.retain(|pack| matches!(pack.thaw, ThawState::Archived | ThawState::Thawing));
    Ok(states)
}

struct Survey<'a> {
    index: ChunkIndex,
    /// The packs of file data that the source has.
    listed: &'a DataListing,
    /// Nodes that have been gone through. Backups share most of them.
    seen: HashSet<(PackClass, ChunkId)>,
    missing: Missing,
}

impl Survey<'_> {
    async fn visit(&mut self, reader: &Locator, root: &Root) -> anyhow::Result<()> {
        let class = match root.kind {
            RootKind::Data => PackClass::Data,
            RootKind::Commands => PackClass::Meta,
            // It is made anew.
            RootKind::Packs | RootKind::Other(_) => return Ok(()),
        };
        let of_tree = |error| unfit("a tree of the manifest".to_owned(), &error);
        let mut walk = TreeWalk::new(&root.tree).map_err(of_tree)?;
        loop {
            match walk.step().map_err(of_tree)? {
                Step::NeedNode(id) if !self.seen.insert((class, id)) => walk.pass_over().map_err(of_tree)?,
                Step::NeedNode(id) => {
                    let node = reader.meta_chunk(&id).await?;
                    self.missing.bytes += node.len() as u64;
                    walk.provide(&node).map_err(|error| unfit(format!("tree node {id}"), &error))?;
                }
                Step::Entry(entry) => self.count(reader, &entry, class).await?,
                Step::End => return Ok(()),
            }
        }
    }

    async fn count(&mut self, reader: &Locator, entry: &Entry, class: PackClass) -> anyhow::Result<()> {
        if self.index.find(&entry.id, class)?.is_some() {
            return Ok(());
        }
        self.missing.chunks += 1;
        self.missing.bytes += entry.length;
        if let (PackClass::Data, Some(hint)) = (class, entry.hint) {
            let is_there = self.listed.has(&hint.pack);
            let moved = if is_there { None } else { reader.moved_to(&entry.id).await? };
            self.missing.packs.insert(moved.unwrap_or(hint).pack);
        }
        Ok(())
    }
}
