//! Finds chunks by look-up tables, for who has no index of his own: a few requests instead of all of the index.
//!
//! `docs/ordering.md`, "Look-up tables". What is found is a place to try; what is not found may be there all the same.

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::stream::{self, StreamExt};

use crate::id::{BlocksId, ChunkId, SegmentId, TableId};
use crate::index::table::{Block, OpenBlock, TABLE_LIMIT_BYTES, Table};
use crate::local_index::{Access, LocalIndex};
use crate::pack::format::PackClass;
use crate::repository::index::{new_segment, read_listed_segment};
use crate::repository::listing::{IndexListing, list_index};
use crate::repository::recent::Recent;
use crate::repository::scratch::ScratchFolder;
use crate::repository::{Damage, Repository, layout, twice_if_damaged};
use crate::store::StoreErrorKind;
use crate::tree::node::Hint;

/// Bytes of blocks that are kept: 48 KiB each.
const BLOCKS_KEPT_BYTES: usize = 16 << 20;
/// When so many blocks have been read, or a part of all, the whole index is had sooner.
const BLOCKS_READ_MAX: usize = 64;
const BLOCKS_READ_PART: usize = 64;
const SEGMENTS_AT_ONCE: usize = 4;

/// The look-up tables of a repository, and what the segments say that are in none.
#[derive(Debug)]
pub(crate) struct TableIndex {
    repository: Repository,
    tables: Vec<Table>,
    rest: LocalIndex,
    blocks: Mutex<Recent<(BlocksId, u64), Arc<OpenBlock>>>,
    /// Blocks that may still be read.
    blocks_left: AtomicUsize,
    _folder: ScratchFolder,
}

impl TableIndex {
    /// Reads the tables, and the segments that are in none; gives none where that would be most of the index.
    ///
    /// # Errors
    ///
    /// If the store or the local disk fails. What is damaged is left out.
    pub(crate) async fn open(repository: &Repository, scratch_directory: &Path) -> anyhow::Result<Option<Self>> {
        let listed = list_index(repository).await?;
        let mut tables = Vec::new();
        for id in &listed.tables {
            match read_table(repository, *id).await {
                Ok(Some(table)) => tables.push(table),
                Ok(None) => {}
                Err(error) if error.downcast_ref::<Damage>().is_some() => {
                    tracing::debug!(error = %format!("{error:#}"), "a table is left out");
                }
                Err(error) => return Err(error),
            }
        }
        let rest = segments_in_none(&listed, &tables);
        let bytes = |segments: &mut dyn Iterator<Item = &SegmentId>| -> u64 {
            segments.filter_map(|id| listed.segments.get(id)).map(|segment| segment.size_bytes).sum()
        };
        if tables.is_empty() || bytes(&mut rest.iter()) > bytes(&mut listed.segments.keys()) / 2 {
            return Ok(None);
        }
        let folder = ScratchFolder::make(scratch_directory)?;
        let block_count: usize = tables.iter().map(|table| table.blocks.len()).sum();
        Ok(Some(Self {
            repository: repository.clone(),
            rest: read_rest(repository, rest, folder.path()).await?,
            tables,
            blocks: Mutex::new(Recent::new(BLOCKS_KEPT_BYTES)),
            blocks_left: AtomicUsize::new(BLOCKS_READ_MAX.max(block_count / BLOCKS_READ_PART)),
            _folder: folder,
        }))
    }

    /// Places of a chunk in packs of a class, which may be gone: those said by the latest segments first. None where too much
    /// has been read already.
    ///
    /// # Errors
    ///
    /// If the store or the local disk fails.
    pub(crate) async fn find_all(&self, id: &ChunkId, class: PackClass) -> anyhow::Result<Vec<Hint>> {
        let of_class = self.rest.lookup_all(id)?.into_iter().filter(|place| place.class == class);
        let mut hints: Vec<Hint> = of_class.map(|place| Hint { pack: place.pack, frame: place.frame }).collect();
        for table in &self.tables {
            for block in table.blocks_for(id) {
                let Some(block) = self.block(block).await? else { continue };
                let packs = block.places(id).filter_map(|place| Some((table.packs.get(place.pack as usize)?, place)));
                hints.extend(
                    packs
                        .filter(|((of, _), _)| *of == class)
                        .map(|((_, pack), place)| Hint { pack: *pack, frame: place.frame }),
                );
            }
        }
        let mut seen = HashSet::new();
        hints.retain(|hint| seen.insert(*hint));
        Ok(hints)
    }

    /// A block, unless it is damaged or gone, or too many have been read.
    async fn block(&self, block: &Block) -> anyhow::Result<Option<Arc<OpenBlock>>> {
        let name = (block.object, block.range.start);
        if let Some(open) = self.blocks.lock().unwrap_or_else(PoisonError::into_inner).get(&name) {
            return Ok(Some(open));
        }
        let take = |left: usize| left.checked_sub(1);
        if self.blocks_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_err() {
            return Ok(None);
        }
        let open = match read_block(&self.repository, block).await {
            Ok(open) => Arc::new(open),
            Err(error) if error.downcast_ref::<Damage>().is_some() => {
                tracing::debug!(error = %format!("{error:#}"), "a block of a table is left out");
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        blocks.insert(name, Arc::clone(&open), open.length_bytes());
        Ok(Some(open))
    }
}

/// Segments that are listed and in no table.
fn segments_in_none(listed: &IndexListing, tables: &[Table]) -> Vec<SegmentId> {
    let in_some: HashSet<&SegmentId> = tables.iter().flat_map(|table| &table.segments).collect();
    listed.segments.keys().filter(|id| !in_some.contains(id)).copied().collect()
}

/// Makes an index of some segments. One that is damaged or gone is left out.
async fn read_rest(repository: &Repository, rest: Vec<SegmentId>, folder: &Path) -> anyhow::Result<LocalIndex> {
    let (mut index, _) = LocalIndex::open(folder, repository.id(), Access::Exclusive)?;
    let read = |id| async move { (id, read_listed_segment(repository, id).await) };
    let mut segments = stream::iter(rest).map(read).buffer_unordered(SEGMENTS_AT_ONCE);
    while let Some((id, read)) = segments.next().await {
        match read {
            // Whether its session has ended does not matter: what is read there is checked.
            Ok(Some(segment)) => index.add_segment(new_segment(id, &segment, true))?,
            Ok(None) => {}
            Err(error) if error.downcast_ref::<Damage>().is_some() => {
                tracing::debug!(error = %format!("{error:#}"), "a segment is left out");
            }
            Err(error) => return Err(error),
        }
        index.maintain()?;
    }
    Ok(index)
}

/// Reads a look-up table that was listed; gives none if it has been deleted since.
///
/// # Errors
///
/// [`Damage`] if it is not as it should be, or the store's error.
pub(crate) async fn read_table(repository: &Repository, id: TableId) -> anyhow::Result<Option<Table>> {
    let key = layout::table_key(&id);
    let read = twice_if_damaged(async || {
        let bytes = repository.get(&key, TABLE_LIMIT_BYTES).await?;
        Table::decode(repository.id(), id, &bytes).map_err(|error| repository.fault(&key, &error))
    });
    let damage = match read.await {
        Ok(table) => return Ok(Some(table)),
        Err(error) if error.downcast_ref::<Damage>().is_some() => error,
        Err(error) => return Err(error),
    };
    match repository.store().head(&key).await {
        Ok(_) => Err(damage),
        Err(error) if error.kind == StoreErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn read_block(repository: &Repository, block: &Block) -> anyhow::Result<OpenBlock> {
    let key = layout::blocks_key(&block.object);
    twice_if_damaged(async || {
        let read = repository.store().get_range(&key, block.range.clone()).await;
        let bytes = read.map_err(|error| repository.needed(error))?;
        block.decode(&bytes).map_err(|error| repository.fault(&key, &error))
    })
    .await
}
