//! What is in a repository, listed in an order in which nothing seems to be missing that is not.
//!
//! Step 2 of a backup in `docs/ordering.md`.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use futures_util::stream::{self, StreamExt};
use jiff::Timestamp;

use crate::id::{BlocksId, PackId, SegmentId, SessionId, TableId};
use crate::monitor::Monitor;
use crate::pack::format::PackClass;
use crate::records::session::Outcome;
use crate::repository::cache::RecordCache;
use crate::repository::plans::{self, Named};
use crate::repository::session::{READS_AT_ONCE, list_sessions, read_outcome};
use crate::repository::{Damage, Repository, layout};
use crate::store::{Key, ObjectInfo, StorageClassName, list_all};

/// What is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Chunks that a backup can be built on: packs that a prune may be about to delete do not count, nor do bad ones.
    Building,
    /// Chunks that can be read now.
    Reading,
}

/// What was there, listed in an order in which nothing seems to be missing that is not.
#[derive(Debug)]
pub(crate) struct Listing {
    /// What unfinished plans name; nothing where that does not matter.
    pub(super) named: Arc<Named>,
    /// What prunes had announced before anything else was listed; nothing where that does not matter.
    pub(super) announced: BTreeSet<Key>,
    /// Sessions that have ended, and not by being given up by prune.
    pub(super) counting: HashSet<SessionId>,
    /// All sessions that have ended.
    pub(super) ended: HashSet<SessionId>,
    /// When the first of the sessions that were open began, by the store's clock.
    pub(super) open_since: Option<Timestamp>,
    /// Index segments, in the order they were listed in.
    pub(crate) segments: BTreeMap<SegmentId, ListedSegment>,
    /// Packs.
    pub(crate) packs: HashMap<(PackClass, PackId), ListedPack>,
}

/// An index segment as it was listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ListedSegment {
    /// Its length.
    pub(crate) size_bytes: u64,
    /// When it was stored, by the store's clock.
    pub(crate) modified_at: Timestamp,
}

/// A pack as it was listed.
#[derive(Debug, Clone)]
pub(crate) struct ListedPack {
    /// Its length.
    pub(crate) size_bytes: u64,
    /// When it was stored, by the store's clock.
    pub(crate) modified_at: Timestamp,
    /// Its storage class, where the store has any.
    pub(crate) storage_class: Option<StorageClassName>,
}

impl Listing {
    /// Lists everything.
    ///
    /// # Errors
    ///
    /// If a plan is damaged, or the store fails.
    pub(super) async fn take(
        repository: &Repository,
        purpose: Purpose,
        cache: &RecordCache,
        monitor: &dyn Monitor,
    ) -> anyhow::Result<Self> {
        let announced = match purpose {
            Purpose::Building => plans::announced(repository).await?,
            Purpose::Reading => BTreeSet::new(),
        };
        let named = Named::by(&plans::read_unfinished(repository, &announced).await?);
        let sessions = list_sessions(repository).await?;
        let ended = sessions.ended.iter().copied().collect();
        let counting = sessions_that_count(repository, sessions.ended, cache, monitor).await?;
        let segments = list_index(repository).await?.segments;
        let packs = list_packs_and_times(repository).await?;
        let named = Arc::new(named);
        Ok(Self { named, announced, counting, ended, open_since: sessions.open_since, segments, packs })
    }
}

/// Lists the index segments.
///
/// # Errors
///
/// If the store fails.
pub async fn list_segments(repository: &Repository) -> anyhow::Result<Vec<SegmentId>> {
    Ok(list_index(repository).await?.segments.into_keys().collect())
}

/// What shows that chunks may have been put elsewhere since: what prunes have announced, and the segments, as repairs put one
/// before they delete anything. To be asked for before what is compared with it.
///
/// # Errors
///
/// If the store fails.
pub(crate) async fn signs_of_moves(repository: &Repository) -> anyhow::Result<BTreeSet<Key>> {
    let mut signs = plans::announced(repository).await?;
    signs.extend(list_segments(repository).await?.iter().map(layout::segment_key));
    Ok(signs)
}

/// All objects of the index.
#[derive(Debug, Default)]
pub(crate) struct IndexListing {
    /// Segments.
    pub(crate) segments: BTreeMap<SegmentId, ListedSegment>,
    /// Look-up tables.
    pub(crate) tables: BTreeSet<TableId>,
    /// Objects with blocks of these, and when they were stored, by the store's clock.
    pub(crate) blocks: BTreeMap<BlocksId, Timestamp>,
}

/// Lists all of the index.
///
/// # Errors
///
/// If the store fails.
pub(crate) async fn list_index(repository: &Repository) -> anyhow::Result<IndexListing> {
    let mut listing = IndexListing::default();
    for object in list_all(repository.store().as_ref(), layout::SEGMENTS).await? {
        let ObjectInfo { size_bytes, modified_at, .. } = object;
        if let Some(segment) = layout::parse_segment_key(&object.key) {
            listing.segments.insert(segment, ListedSegment { size_bytes, modified_at });
        } else if let Some(blocks) = layout::parse_blocks_key(&object.key) {
            listing.blocks.insert(blocks, modified_at);
        }
        listing.tables.extend(layout::parse_table_key(&object.key));
    }
    Ok(listing)
}

/// Packs, and the lengths of their objects.
pub type PackSizes = HashMap<(PackClass, PackId), u64>;

/// Lists the packs.
///
/// # Errors
///
/// If the store fails.
pub async fn list_packs(repository: &Repository) -> anyhow::Result<PackSizes> {
    let listed = list_packs_and_times(repository).await?;
    Ok(listed.into_iter().map(|(pack, listed)| (pack, listed.size_bytes)).collect())
}

async fn list_packs_and_times(repository: &Repository) -> anyhow::Result<HashMap<(PackClass, PackId), ListedPack>> {
    let list = |class| list_all(repository.store().as_ref(), layout::packs(class));
    let (data, meta) = tokio::try_join!(list(PackClass::Data), list(PackClass::Meta))?;
    let listed = |object: ObjectInfo| {
        let pack = layout::parse_pack_key(&object.key)?;
        let ObjectInfo { size_bytes, modified_at, storage_class, .. } = object;
        Some((pack, ListedPack { size_bytes, modified_at, storage_class }))
    };
    Ok(data.into_iter().chain(meta).filter_map(listed).collect())
}

/// Sessions that have ended, and not by being given up by prune.
pub(crate) async fn sessions_that_count(
    repository: &Repository,
    ended: Vec<SessionId>,
    cache: &RecordCache,
    monitor: &dyn Monitor,
) -> anyhow::Result<HashSet<SessionId>> {
    let read = |session| async move { (session, read_outcome(repository, session, cache).await) };
    let mut ends = stream::iter(ended).map(read).buffer_unordered(READS_AT_ONCE);
    let mut counting = HashSet::new();
    while let Some((session, end)) = ends.next().await {
        match end {
            Ok(end) if end.outcome == Outcome::Void => {}
            Ok(_) => drop(counting.insert(session)),
            // What it stored may count or not, so it does not: what is needed of it is stored again.
            Err(error) if error.downcast_ref::<Damage>().is_some() => monitor.problem(&format!("{error:#}")),
            Err(error) => return Err(error),
        }
    }
    Ok(counting)
}
