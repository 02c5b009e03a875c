//! Which chunks the repository has: its index segments, kept in the host's local index.
//!
//! Step 2 of a backup in `docs/ordering.md`.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use futures_util::stream::{self, StreamExt};
use jiff::Timestamp;

use crate::id::{ChunkId, PackId, SegmentId, SessionId};
use crate::index::{SEGMENT_LIMIT_BYTES, Segment};
use crate::local_index::{
    Access, Entry, IndexedPack, IndexedSegment, LocalIndex, LocalIndexError, Location, NewSegment, Place, Survey,
};
use crate::monitor::Monitor;
use crate::pack::format::{PackClass, PackFooter, PackRecord};
use crate::repository::cache::RecordCache;
use crate::repository::listing::{Listing, Purpose};
use crate::repository::notes::Notes;
use crate::repository::plans::{self, Named};
use crate::repository::session::{REPAIR, list_sessions, read_start};
use crate::repository::{Damage, Repository, layout, twice_if_damaged};
use crate::store::{Key, StoreErrorKind, list_all};
use crate::tree::node::Hint;

pub use crate::repository::listing::{PackSizes, list_packs, list_segments};

/// Segments are read so many at once; each may take some megabytes.
const SEGMENTS_AT_ONCE: usize = 4;
/// Each segment is a file of its own until it is merged with others.
const SEGMENTS_BETWEEN_MERGES: usize = 32;
/// The repository is listed so often at most, where a prune deletes segments between their listing and their reading.
const LISTINGS_MAX: usize = 8;

/// The chunks of a repository, as they were when it was listed.
#[derive(Debug)]
pub struct ChunkIndex {
    local: LocalIndex,
    /// A look-up has met a damaged place.
    damaged: bool,
    missing: HashSet<PackId>,
    /// Packs that checks have found bad, if the index was opened to build on it.
    bad: HashSet<PackId>,
    open_since: Option<Timestamp>,
    named: Arc<Named>,
    /// What prunes had announced when the index was opened to build on it.
    announced: BTreeSet<Key>,
    /// Listed segments that do not count, and their sessions.
    uncounted: Vec<(SegmentId, SessionId)>,
    /// Listed segments that cannot be read.
    unreadable: usize,
}

impl ChunkIndex {
    /// Brings the local index in `directory` up to date with the repository; gives the chunks that a backup can be built on.
    ///
    /// Plans of prunes are listed first: a session that is not seen by one that is under way sees that one. Then come
    /// sessions: what is stored by one that has ended by then is in every later listing. Segments are listed before packs:
    /// a session may go on storing after somebody else has ended it, but never puts a segment before its packs. Packs that
    /// are not listed, or not with the size the index knows, do not count, nor do those that unfinished plans name, nor those
    /// that a check has found bad: what a run needs of them is stored again. Damage of the local index is mended on the way.
    ///
    /// # Errors
    ///
    /// If a plan is damaged, or the store or the local disk fails. A damaged segment or end of a session is a problem, and
    /// does not count.
    pub async fn open(
        repository: &Repository,
        directory: &Path,
        access: Access,
        cache: &RecordCache,
        monitor: &dyn Monitor,
    ) -> anyhow::Result<Self> {
        let opened = Self::open_for(Purpose::Building, repository, directory, access, cache, monitor).await?;
        Ok(opened.0)
    }

    /// As [`open`](Self::open), but gives all chunks that can be read now, also where they may be deleted soon.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn open_to_read(
        repository: &Repository,
        directory: &Path,
        access: Access,
        cache: &RecordCache,
        monitor: &dyn Monitor,
    ) -> anyhow::Result<Self> {
        Ok(Self::open_listed(repository, directory, access, cache, monitor).await?.0)
    }

    /// As [`open_to_read`](Self::open_to_read); gives also what was listed.
    pub(crate) async fn open_listed(
        repository: &Repository,
        directory: &Path,
        access: Access,
        cache: &RecordCache,
        monitor: &dyn Monitor,
    ) -> anyhow::Result<(Self, Listing)> {
        Self::open_for(Purpose::Reading, repository, directory, access, cache, monitor).await
    }

    async fn open_for(
        purpose: Purpose,
        repository: &Repository,
        directory: &Path,
        access: Access,
        cache: &RecordCache,
        monitor: &dyn Monitor,
    ) -> anyhow::Result<(Self, Listing)> {
        std::fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
        let (local, problems) = LocalIndex::open(directory, repository.id(), access)?;
        for problem in problems {
            tracing::info!(%problem, "a file of the local index is made again");
        }
        let bad = match purpose {
            Purpose::Building => Notes::load_of_repository(repository, cache).await?.bad_packs(),
            Purpose::Reading => HashSet::new(),
        };
        let mut index = Self {
            local,
            damaged: false,
            missing: HashSet::new(),
            bad,
            open_since: None,
            named: Arc::default(),
            announced: BTreeSet::new(),
            uncounted: Vec::new(),
            unreadable: 0,
        };
        for attempt in 1.. {
            let listing = Listing::take(repository, purpose, cache, monitor).await?;
            let followed = match index.follow(repository, &listing, cache, monitor).await {
                Ok(true) => index.misses_nothing(repository, purpose, &listing).await,
                followed => followed,
            };
            match followed {
                Ok(true) => return Ok((index, listing)),
                // What it said is in another one by now, which was put before it was deleted.
                Ok(false) if attempt < LISTINGS_MAX => {}
                Ok(false) => anyhow::bail!("segments of the index vanish as fast as they are listed: try again later"),
                Err(error) if error.downcast_ref().is_some_and(LocalIndexError::means_rebuild) => {
                    anyhow::ensure!(attempt < LISTINGS_MAX, error);
                    tracing::info!(error = %format!("{error:#}"), "damaged files of the local index are made again");
                    index.local.discard_damaged()?;
                }
                Err(error) => return Err(error),
            }
        }
        unreachable!("the last listing is used or an error")
    }

    /// Takes over what was listed; says whether all of it was still there.
    async fn follow(
        &mut self,
        repository: &Repository,
        listing: &Listing,
        cache: &RecordCache,
        monitor: &dyn Monitor,
    ) -> anyhow::Result<bool> {
        (self.open_since, self.named) = (listing.open_since, Arc::clone(&listing.named));
        self.announced.clone_from(&listing.announced);
        let segments: Vec<SegmentId> = listing.segments.keys().copied().collect();
        if !self.follow_segments(repository, &listing.counting, &segments, monitor).await? {
            return Ok(false);
        }
        self.local.maintain()?;
        self.check_packs(repository, listing, cache, monitor).await?;
        Ok(true)
    }

    /// Whether no segment was left out of a session that has ended meanwhile: what it replaces may have been gone already when
    /// segments were listed. Who builds on the index has announced a session, for which prunes wait that would delete
    /// that; repairs do not.
    async fn misses_nothing(
        &self,
        repository: &Repository,
        purpose: Purpose,
        listing: &Listing,
    ) -> anyhow::Result<bool> {
        let left_out = self.uncounted.iter().map(|(_, session)| *session);
        let left_out: HashSet<SessionId> = left_out.filter(|session| !listing.ended.contains(session)).collect();
        if left_out.is_empty() {
            return Ok(true);
        }
        let ended = list_sessions(repository).await?.ended;
        for session in ended.into_iter().filter(|session| left_out.contains(session)) {
            if purpose == Purpose::Reading || is_of_repair(repository, session).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What unfinished plans named when the index was opened to build on it.
    #[must_use]
    pub fn named(&self) -> Arc<Named> {
        Arc::clone(&self.named)
    }

    /// Whether an index that was opened to build on it is as good as one that is opened now, for a session that has just
    /// begun: prunes have announced nothing since, and no segment has come or gone but what was added here.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub(crate) async fn still_holds(&self, repository: &Repository) -> anyhow::Result<bool> {
        if self.damaged || plans::announced(repository).await? != self.announced {
            return Ok(false);
        }
        let mut known = self.local.segments();
        known.extend(self.uncounted.iter().map(|(segment, _)| *segment));
        let listed = list_segments(repository).await?;
        Ok(listed.len() == known.len() && listed.iter().all(|segment| known.contains(segment)))
    }

    /// What each entry of the index says, for whoever goes through all of it.
    #[must_use]
    pub fn survey(&self) -> Survey<'_> {
        self.local.survey()
    }

    /// Segments that are listed and do not count, with their sessions: void ones, and those that were open or unknown.
    #[must_use]
    pub fn uncounted_segments(&self) -> &[(SegmentId, SessionId)] {
        &self.uncounted
    }

    /// How many of the listed segments cannot be read.
    #[must_use]
    pub fn unreadable_segments(&self) -> usize {
        self.unreadable
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

    /// Lets only those packs count that are listed as the index knows them, and that no plan names.
    async fn check_packs(
        &mut self,
        repository: &Repository,
        listing: &Listing,
        cache: &RecordCache,
        monitor: &dyn Monitor,
    ) -> anyhow::Result<()> {
        let (mut missing, mut damaged) = (BTreeSet::new(), HashSet::new());
        self.local.set_usable(|_, pack| {
            let is_there =
                listing.packs.get(&(pack.class, pack.id)).is_some_and(|it| it.size_bytes == pack.stored_bytes);
            if is_there && self.bad.contains(&pack.id) {
                damaged.insert(pack.id);
                return false;
            }
            if !is_there {
                missing.insert((pack.class, pack.id));
            }
            is_there && !listing.named.has_pack(pack.class, pack.id)
        })?;
        if !missing.is_empty() {
            // After the packs: the final list that names one was there before that was deleted.
            let deleted = plans::deleted_packs(repository, cache).await?;
            missing.retain(|pack| !deleted.contains(pack));
        }
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
        if !damaged.is_empty() {
            monitor.warn(&format!(
                "a check has found damaged packs ({}): what is needed of them is stored again; `repair packs` keeps what is \
                 right of them",
                damaged.len()
            ));
        }
        Ok(())
    }

    /// Drops and adds segments so that those of all sessions that count are there, and no others. Says whether none has
    /// vanished since it was listed.
    async fn follow_segments(
        &mut self,
        repository: &Repository,
        counting: &HashSet<SessionId>,
        segments: &[SegmentId],
        monitor: &dyn Monitor,
    ) -> anyhow::Result<bool> {
        (self.uncounted, self.unreadable) = (Vec::new(), 0);
        let listed: HashSet<SegmentId> = segments.iter().copied().collect();
        self.local.drop_segments(|segment| !listed.contains(&segment.id) || !counting.contains(&segment.session))?;
        let covered = self.local.segments();
        // In the order they were listed in, so that one state of the store always leads to the same requests.
        let missing: Vec<SegmentId> = segments.iter().copied().filter(|id| !covered.contains(id)).collect();
        let mut segments = stream::iter(missing)
            .map(|id| async move { read_listed_segment(repository, id).await.map(|segment| (id, segment)) })
            .buffer_unordered(SEGMENTS_AT_ONCE);
        let mut added = 0;
        while let Some(read) = segments.next().await {
            match read {
                Ok((id, Some(segment))) if counting.contains(&segment.session) => {
                    self.local.add_segment(new_segment(id, &segment, false))?;
                    added += 1;
                    if added % SEGMENTS_BETWEEN_MERGES == 0 {
                        self.local.maintain()?;
                    }
                }
                Ok((id, Some(segment))) => self.uncounted.push((id, segment.session)),
                Ok((_, None)) => return Ok(false),
                // Without it, chunks are stored again, and backups stay as good as they are.
                Err(error) if error.downcast_ref::<Damage>().is_some() => {
                    self.unreadable += 1;
                    monitor.problem(&format!("{error:#}"));
                }
                Err(error) => return Err(error.context("reading the index")),
            }
        }
        Ok(true)
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

    /// Has look-ups read one page, or two, instead of up to eight, for who is about to look up most of the chunks.
    ///
    /// # Errors
    ///
    /// As [`LocalIndex::compact`].
    pub fn compact(&mut self) -> anyhow::Result<()> {
        Ok(self.local.compact()?)
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

/// Whether a session is that of a repair, as far as its start can be read.
async fn is_of_repair(repository: &Repository, session: SessionId) -> anyhow::Result<bool> {
    match read_start(repository, session, &RecordCache::none()).await {
        Ok(start) => Ok(start.purpose == REPAIR),
        Err(error) if error.downcast_ref::<Damage>().is_some() => Ok(false),
        Err(error) => Err(error),
    }
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

/// Reads an index segment that was listed; gives none if it has been deleted since.
///
/// # Errors
///
/// [`Damage`] if it is not as it should be, or the store's error.
pub(crate) async fn read_listed_segment(repository: &Repository, id: SegmentId) -> anyhow::Result<Option<Segment>> {
    let damage = match read_segment(repository, id).await {
        Ok(segment) => return Ok(Some(segment)),
        Err(error) if error.downcast_ref::<Damage>().is_some() => error,
        Err(error) => return Err(error),
    };
    match repository.store().head(&layout::segment_key(&id)).await {
        Ok(_) => Err(damage),
        Err(error) if error.kind == StoreErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
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
    let find = |id| async move {
        match read_segment(repository, id).await {
            Ok(segment) => {
                let is_it = |record: &PackRecord| record.id == pack && record.footer.class == class;
                Ok(segment.packs.into_iter().find(is_it).map(|record| record.footer))
            }
            Err(error) if error.downcast_ref::<Damage>().is_some() => Ok(None),
            Err(error) => Err(error),
        }
    };
    let listed = list_all(repository.store().as_ref(), layout::SEGMENTS).await?;
    let ids = listed.iter().filter_map(|object| layout::parse_segment_key(&object.key));
    // In their order, so that one state of the store always leads to the same answer.
    let mut footers = stream::iter(ids).map(find).buffered(SEGMENTS_AT_ONCE);
    while let Some(footer) = footers.next().await {
        if let Some(footer) = footer? {
            return Ok(Some(footer));
        }
    }
    Ok(None)
}

pub(super) fn new_segment(id: SegmentId, segment: &Segment, usable: bool) -> NewSegment {
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
