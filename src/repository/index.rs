//! Which chunks the repository has: its index segments, kept in the host's local index.
//!
//! Step 2 of a backup in `docs/ordering.md`.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;

use anyhow::Context;
use futures_util::stream::{self, StreamExt};
use jiff::Timestamp;

use crate::id::{ChunkId, PackId, SegmentId, SessionId};
use crate::index::{SEGMENT_LIMIT_BYTES, Segment};
use crate::local_index::{
    Access, Entry, IndexedPack, IndexedSegment, LocalIndex, LocalIndexError, Location, NewSegment, Place,
};
use crate::monitor::Monitor;
use crate::pack::format::{PackClass, PackFooter};
use crate::records::session::Outcome;
use crate::repository::cache::RecordCache;
use crate::repository::session::{READS_AT_ONCE, list_sessions, read_outcome};
use crate::repository::{Damage, Repository, layout, twice_if_damaged};
use crate::store::list_all;
use crate::tree::node::Hint;

/// Segments are read so many at once; each may take some megabytes.
const SEGMENTS_AT_ONCE: usize = 4;
/// Each segment is a file of its own until it is merged with others.
const SEGMENTS_BETWEEN_MERGES: usize = 32;

/// The chunks of a repository, as they were when it was listed.
#[derive(Debug)]
pub struct ChunkIndex {
    local: LocalIndex,
    /// A look-up has met a damaged place.
    damaged: bool,
    missing: HashSet<PackId>,
    open_since: Option<Timestamp>,
}

impl ChunkIndex {
    /// Brings the local index in `directory` up to date with the repository.
    ///
    /// Sessions are listed first: what is stored by one that has ended by then is in every later listing. Segments are
    /// listed before packs: a session may go on storing after somebody else has ended it, but never puts a segment before
    /// its packs. Packs that are not listed, or not with the size the index knows, do not count. Damage of the local index
    /// is mended on the way.
    ///
    /// # Errors
    ///
    /// If the store or the local disk fails. A damaged segment or end of a session is a problem, and does not count.
    pub async fn open(
        repository: &Repository,
        directory: &Path,
        access: Access,
        cache: &RecordCache,
        monitor: &dyn Monitor,
    ) -> anyhow::Result<Self> {
        let sessions = list_sessions(repository).await?;
        let counting = sessions_that_count(repository, sessions.ended, cache, monitor).await?;
        let segments = list_segments(repository).await?;
        let packs = list_packs(repository).await?;
        std::fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
        let (local, problems) = LocalIndex::open(directory, repository.id(), access)?;
        for problem in problems {
            tracing::info!(%problem, "a file of the local index is made again");
        }
        let mut index = Self { local, damaged: false, missing: HashSet::new(), open_since: sessions.open_since };
        if let Err(error) = index.follow(repository, &counting, &segments, &packs, monitor).await {
            if !error.downcast_ref::<LocalIndexError>().is_some_and(LocalIndexError::means_rebuild) {
                return Err(error);
            }
            tracing::info!(error = %format!("{error:#}"), "damaged files of the local index are made again");
            index.local.discard_damaged()?;
            index.follow(repository, &counting, &segments, &packs, monitor).await?;
        }
        Ok(index)
    }

    async fn follow(
        &mut self,
        repository: &Repository,
        counting: &HashSet<SessionId>,
        segments: &[SegmentId],
        packs: &HashMap<(PackClass, PackId), u64>,
        monitor: &dyn Monitor,
    ) -> anyhow::Result<()> {
        self.follow_segments(repository, counting, segments, monitor).await?;
        self.local.maintain()?;
        self.check_packs(repository, packs, monitor)
    }

    /// Packs that the index names and that are missing, or have another size: what needs them is damaged.
    #[must_use]
    pub fn missing_packs(&self) -> &HashSet<PackId> {
        &self.missing
    }

    /// When the first of the sessions that were open began, by the store's clock.
    #[must_use]
    pub fn open_since(&self) -> Option<Timestamp> {
        self.open_since
    }

    /// Lets only those packs count that are listed as the index knows them.
    fn check_packs(
        &mut self,
        repository: &Repository,
        listed: &HashMap<(PackClass, PackId), u64>,
        monitor: &dyn Monitor,
    ) -> anyhow::Result<()> {
        let mut missing = BTreeSet::new();
        self.local.set_usable(|_, pack| {
            let usable = listed.get(&(pack.class, pack.id)) == Some(&pack.stored_bytes);
            if !usable {
                missing.insert((pack.class, pack.id));
            }
            usable
        })?;
        self.missing = missing.iter().map(|(_, pack)| *pack).collect();
        if let Some((class, pack)) = missing.first() {
            let first = layout::pack_key(*class, pack);
            let url = repository.store().url();
            monitor.problem(&format!(
                "{} of the packs that the index names are missing or have another size, {url}/{first} among them: \
                 backups that need them are damaged, and a backup stores again what it needs of them",
                missing.len()
            ));
        }
        Ok(())
    }

    /// Drops and adds segments so that those of all sessions that count are there, and no others.
    async fn follow_segments(
        &mut self,
        repository: &Repository,
        counting: &HashSet<SessionId>,
        segments: &[SegmentId],
        monitor: &dyn Monitor,
    ) -> anyhow::Result<()> {
        let listed: HashSet<SegmentId> = segments.iter().copied().collect();
        self.local.drop_segments(|segment| !listed.contains(&segment.id) || !counting.contains(&segment.session))?;
        let covered = self.local.segments();
        // In the order they were listed in, so that one state of the store always leads to the same requests.
        let missing: Vec<SegmentId> = segments.iter().copied().filter(|id| !covered.contains(id)).collect();
        let mut segments = stream::iter(missing)
            .map(|id| async move { read_segment(repository, id).await.map(|segment| (id, segment)) })
            .buffer_unordered(SEGMENTS_AT_ONCE);
        let mut added = 0;
        while let Some(read) = segments.next().await {
            match read {
                Ok((id, segment)) if counting.contains(&segment.session) => {
                    self.local.add_segment(new_segment(id, &segment, false))?;
                    added += 1;
                    if added % SEGMENTS_BETWEEN_MERGES == 0 {
                        self.local.maintain()?;
                    }
                }
                Ok(_) => {}
                // Without it, chunks are stored again, and backups stay as good as they are.
                Err(error) if error.downcast_ref::<Damage>().is_some() => monitor.problem(&format!("{error:#}")),
                Err(error) => return Err(error.context("reading the index")),
            }
        }
        Ok(())
    }

    /// A place of a chunk of a class.
    ///
    /// # Errors
    ///
    /// If the local disk fails. Damage of the local index makes a chunk unknown, and is mended by the next run.
    pub fn find(&mut self, id: &ChunkId, class: PackClass) -> anyhow::Result<Option<Hint>> {
        match self.local.lookup(id, class) {
            Ok(location) => Ok(location.map(|location| Hint { pack: location.pack, frame: location.frame })),
            Err(error) if error.means_rebuild() => {
                tracing::debug!(%error, "a chunk counts as unknown");
                self.damaged = true;
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Removes what look-ups have found to be damaged, so that the next run makes it again.
    ///
    /// # Errors
    ///
    /// If the local disk fails.
    pub fn mend(&mut self) -> anyhow::Result<()> {
        if self.damaged {
            self.local.discard_damaged()?;
        }
        Ok(())
    }

    /// All places of a chunk.
    ///
    /// # Errors
    ///
    /// If the local disk fails.
    pub fn find_all(&self, id: &ChunkId) -> anyhow::Result<Vec<Location>> {
        Ok(self.local.lookup_all(id)?)
    }

    /// Adds a segment that this run has stored itself.
    ///
    /// # Errors
    ///
    /// If the local disk fails.
    pub fn add_own(&mut self, id: SegmentId, segment: &Segment) -> anyhow::Result<()> {
        let added = self.local.add_segment(new_segment(id, segment, true)).and_then(|()| self.local.maintain());
        match added {
            // Without it, chunks may be stored twice; the next run makes it again.
            Err(error) if error.means_rebuild() => {
                tracing::debug!(%error, "the local index is made again by the next run");
                self.damaged = true;
                Ok(())
            }
            added => Ok(added?),
        }
    }
}

/// Lists the index segments.
///
/// # Errors
///
/// If the store fails.
pub async fn list_segments(repository: &Repository) -> anyhow::Result<Vec<SegmentId>> {
    let listed = list_all(repository.store().as_ref(), layout::SEGMENTS).await?;
    Ok(listed.iter().filter_map(|object| layout::parse_segment_key(&object.key)).collect())
}

/// Packs, and the lengths of their objects.
pub type PackSizes = HashMap<(PackClass, PackId), u64>;

/// Lists the packs.
///
/// # Errors
///
/// If the store fails.
pub async fn list_packs(repository: &Repository) -> anyhow::Result<PackSizes> {
    let mut packs = HashMap::new();
    for class in [PackClass::Data, PackClass::Meta] {
        for object in list_all(repository.store().as_ref(), layout::packs(class)).await? {
            if let Some(pack) = layout::parse_pack_key(&object.key) {
                packs.insert(pack, object.size_bytes);
            }
        }
    }
    Ok(packs)
}

/// Sessions that have ended, and not by being given up by prune.
async fn sessions_that_count(
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

/// Reads an index segment.
///
/// # Errors
///
/// [`Damage`] if it is missing or not as it should be, or the store's error.
pub async fn read_segment(repository: &Repository, id: SegmentId) -> anyhow::Result<Segment> {
    let key = layout::segment_key(&id);
    twice_if_damaged(async || {
        let bytes = repository.get(&key, SEGMENT_LIMIT_BYTES).await?;
        Segment::decode(repository.id(), id, &bytes).map_err(|error| repository.fault(&key, &error))
    })
    .await
}

/// What the index says of a pack, whose own footer cannot be read.
///
/// # Errors
///
/// If the store fails. A damaged segment is passed over.
pub async fn find_footer(
    repository: &Repository,
    class: PackClass,
    pack: PackId,
) -> anyhow::Result<Option<PackFooter>> {
    for object in list_all(repository.store().as_ref(), layout::SEGMENTS).await? {
        let Some(id) = layout::parse_segment_key(&object.key) else { continue };
        match read_segment(repository, id).await {
            Ok(segment) => {
                let record = segment.packs.into_iter().find(|record| record.id == pack && record.footer.class == class);
                if let Some(record) = record {
                    return Ok(Some(record.footer));
                }
            }
            Err(error) if error.downcast_ref::<Damage>().is_some() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

fn new_segment(id: SegmentId, segment: &Segment, usable: bool) -> NewSegment {
    let mut new = NewSegment {
        segment: IndexedSegment { id, session: segment.session },
        packs: Vec::with_capacity(segment.packs.len()),
        entries: Vec::new(),
        usable,
    };
    let number = |count: usize| u32::try_from(count).expect("segments, packs and frames are limited");
    for (pack, record) in segment.packs.iter().enumerate() {
        new.packs.push(IndexedPack {
            id: record.id,
            class: record.footer.class,
            stored_bytes: record.stored_bytes,
            frame_count: number(record.footer.frames.len()),
        });
        for (frame, entry) in record.footer.frames.iter().enumerate() {
            let chunks = &record.footer.chunks[entry.chunks.clone()];
            let place = |length_bytes| Place { pack: number(pack), frame: number(frame), length_bytes };
            new.entries.extend(chunks.iter().map(|chunk| Entry { chunk: chunk.id, place: place(chunk.length_bytes) }));
        }
    }
    new
}
