//! Which chunks the repository has: its index segments, kept in the host's local index.
//!
//! Step 2 of a backup in `docs/ordering.md`.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use anyhow::{Context, ensure};
use futures_util::stream::{self, StreamExt};

use crate::id::{ChunkId, PackId, SegmentId, SessionId};
use crate::index::{SEGMENT_LIMIT_BYTES, Segment};
use crate::local_index::{Access, Entry, IndexedPack, IndexedSegment, LocalIndex, Location, NewSegment, Place};
use crate::monitor::Monitor;
use crate::pack::format::PackClass;
use crate::records::session::Outcome;
use crate::repository::cache::RecordCache;
use crate::repository::session::{READS_AT_ONCE, list_sessions, read_outcome};
use crate::repository::{Damage, Repository, layout};
use crate::store::list_all;
use crate::tree::node::Hint;

/// Segments are read so many at once; each may take some megabytes.
const SEGMENTS_AT_ONCE: usize = 4;

/// The chunks of a repository, as they were when it was listed.
#[derive(Debug)]
pub struct ChunkIndex {
    local: LocalIndex,
    /// A look-up has met a damaged place.
    damaged: bool,
}

impl ChunkIndex {
    /// Brings the local index in `directory` up to date with the repository.
    ///
    /// What prune announces is listed before packs and segments, as the protocol demands. Packs that are not listed, or
    /// not with the size the index knows, do not count; neither do segments that are damaged, or whose session's end is.
    /// The monitor is told of them.
    ///
    /// # Errors
    ///
    /// If a prune is under way that this program does not understand, or if the store or the local disk fails.
    pub async fn open(
        repository: &Repository,
        directory: &Path,
        access: Access,
        cache: &RecordCache,
        monitor: &dyn Monitor,
    ) -> anyhow::Result<Self> {
        let prune = repository.store().list_page(layout::PRUNE, None).await?;
        ensure!(
            prune.objects.is_empty(),
            "a prune of {} is under way, of a kind this program does not know: use a newer btrfs_to_s3",
            repository.store().url()
        );
        let packs = list_packs(repository).await?;
        std::fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
        let (local, problems) = LocalIndex::open(directory, repository.id(), access)?;
        for problem in problems {
            tracing::info!(%problem, "a file of the local index is made again");
        }
        let mut index = Self { local, damaged: false };
        index.follow_segments(repository, cache, monitor).await?;
        index.check_packs(repository, &packs, monitor)?;
        index.local.maintain()?;
        Ok(index)
    }

    /// Lets only those packs count that are listed as the index knows them.
    fn check_packs(
        &mut self,
        repository: &Repository,
        listed: &HashMap<(PackClass, PackId), u64>,
        monitor: &dyn Monitor,
    ) -> anyhow::Result<()> {
        let mut missing = Vec::new();
        self.local.set_usable(|_, pack| {
            let usable = listed.get(&(pack.class, pack.id)) == Some(&pack.stored_bytes);
            if !usable {
                missing.push(layout::pack_key(pack.class, &pack.id));
            }
            usable
        })?;
        if let Some(first) = missing.first() {
            let url = repository.store().url();
            monitor.problem(&format!(
                "{} of the packs that the index names are missing or have another size, {url}/{first} among them: \
                 backups that need them are damaged; what this run needs of them is stored again",
                missing.len()
            ));
        }
        Ok(())
    }

    /// Drops and adds segments so that those of all sessions that count are there, and no others.
    async fn follow_segments(
        &mut self,
        repository: &Repository,
        cache: &RecordCache,
        monitor: &dyn Monitor,
    ) -> anyhow::Result<()> {
        let listed = list_all(repository.store().as_ref(), layout::SEGMENTS).await?;
        let listed: HashSet<SegmentId> =
            listed.iter().filter_map(|object| layout::parse_segment_key(&object.key)).collect();
        // Listed after the segments: a session that ends in between is seen as ended, with all of its segments.
        let counting = sessions_that_count(repository, cache, monitor).await?;
        self.local.drop_segments(|segment| !listed.contains(&segment.id) || !counting.contains(&segment.session))?;
        let covered = self.local.segments();
        let missing: Vec<SegmentId> = listed.into_iter().filter(|id| !covered.contains(id)).collect();
        let mut segments = stream::iter(missing)
            .map(|id| async move { read_segment(repository, id).await.map(|segment| (id, segment)) })
            .buffer_unordered(SEGMENTS_AT_ONCE);
        while let Some(read) = segments.next().await {
            match read {
                Ok((id, segment)) if counting.contains(&segment.session) => {
                    self.local.add_segment(new_segment(id, &segment, false))?;
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
        self.local.add_segment(new_segment(id, segment, true))?;
        Ok(self.local.maintain()?)
    }
}

async fn list_packs(repository: &Repository) -> anyhow::Result<HashMap<(PackClass, PackId), u64>> {
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
    cache: &RecordCache,
    monitor: &dyn Monitor,
) -> anyhow::Result<HashSet<SessionId>> {
    let ended = list_sessions(repository).await?.ended;
    let mut ends = stream::iter(ended)
        .map(|session| async move { (session, read_outcome(repository, session, cache).await) })
        .buffer_unordered(READS_AT_ONCE);
    let mut counting = HashSet::new();
    while let Some((session, end)) = ends.next().await {
        match end {
            Ok(end) if end.outcome == Outcome::Void => {}
            Ok(_) => drop(counting.insert(session)),
            // As with a damaged segment: what the session has stored is stored again.
            Err(error) if error.downcast_ref::<Damage>().is_some() => monitor.problem(&format!("{error:#}")),
            Err(error) => return Err(error),
        }
    }
    Ok(counting)
}

async fn read_segment(repository: &Repository, id: SegmentId) -> anyhow::Result<Segment> {
    let key = layout::segment_key(&id);
    let bytes = repository.get(&key, SEGMENT_LIMIT_BYTES).await?;
    Segment::decode(repository.id(), id, &bytes).map_err(|error| repository.fault(&key, &error))
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
