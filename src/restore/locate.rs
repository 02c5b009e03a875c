//! Finds chunks: by the hints of the recipe, and where these fail by the index.

mod moved;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use tokio::sync::{Mutex as AsyncMutex, OnceCell};

use crate::id::{ChunkId, PackId};
use crate::local_index::{Access, Location};
use crate::monitor::{Counter, Monitor};
use crate::pack::format::{ChunkEntry, FrameEntry, PackClass, PackFooter};
use crate::records::manifest::Manifest;
use crate::repository::cache::RecordCache;
use crate::repository::index::{ChunkIndex, find_footer};
use crate::repository::listing::signs_of_moves;
use crate::repository::packs::{OpenFrame, frames_in_end, is_there, read_frames, read_last};
use crate::repository::recent::Recent;
use crate::repository::scratch::ScratchFolder;
use crate::repository::tables::TableIndex;
use crate::repository::{Damage, Repository, layout};
use crate::restore::{DataListing, RestoreOptions};
use crate::store::thaw::ThawState;
use crate::store::{Key, is_archived};
use crate::tree::node::Hint;

/// The end of a metadata pack that is read with its footer: most of what is in there is needed.
const META_END_BYTES: u64 = 1 << 20;
/// Plaintext of frames that are opened and kept because they have come with a footer.
const END_PLAINTEXT_BYTES: u64 = 2 << 20;

/// What was read lately, for all that read the same.
type Shared<K, V> = Arc<Mutex<Recent<K, Arc<V>>>>;

/// Footers that are being read. Who wants one of them as well waits for it.
type UnderWay = HashMap<(PackClass, PackId), Arc<OnceCell<Arc<PackFooter>>>>;

/// Where chunks are, and frames that have been read.
#[derive(Debug)]
pub(crate) struct Locator {
    repository: Repository,
    monitor: Arc<dyn Monitor>,
    scratch_directory: PathBuf,
    requests_in_flight: usize,
    /// Where each metadata chunk of the backup is.
    meta: HashMap<ChunkId, Hint>,
    /// The first metadata pack of the backup whose footer cannot be read.
    unreadable_meta: Option<Damage>,
    footers: Shared<(PackClass, PackId), PackFooter>,
    footers_under_way: Arc<Mutex<UnderWay>>,
    frames: Shared<Hint, OpenFrame>,
    /// Packs that are not there: a prune may have put what was needed of them into others.
    gone: Arc<Mutex<HashSet<(PackClass, PackId)>>>,
    /// Packs of file data that are, though nothing of them has been read, and whether they can be.
    there: Arc<Mutex<HashMap<PackId, ThawState>>>,
    /// The look-up tables, read when a hint fails for the first time.
    tables: Arc<OnceCell<Option<TableIndex>>>,
    /// The index, made when these have not helped, and again when prunes have gone on since.
    index: Arc<AsyncMutex<Option<Arc<ScratchIndex>>>>,
}

impl Locator {
    pub(crate) async fn open(
        repository: &Repository,
        manifest: &Manifest,
        options: &RestoreOptions,
        monitor: &Arc<dyn Monitor>,
    ) -> anyhow::Result<Self> {
        Self::of_nothing(repository, options, monitor).turned_to(manifest).await
    }

    /// One that has read nothing yet, and is of no backup.
    pub(crate) fn of_nothing(repository: &Repository, options: &RestoreOptions, monitor: &Arc<dyn Monitor>) -> Self {
        Self {
            repository: repository.clone(),
            monitor: Arc::clone(monitor),
            scratch_directory: options.scratch_directory.clone(),
            requests_in_flight: options.requests_in_flight,
            meta: HashMap::new(),
            unreadable_meta: None,
            footers: Arc::new(Mutex::new(Recent::new(options.footer_cache_bytes))),
            footers_under_way: Arc::default(),
            frames: Arc::new(Mutex::new(Recent::new(options.frame_cache_bytes))),
            gone: Arc::default(),
            there: Arc::default(),
            tables: Arc::default(),
            index: Arc::default(),
        }
    }

    /// The same for a backup, with all that has been read lately.
    pub(crate) async fn turned_to(&self, manifest: &Manifest) -> anyhow::Result<Self> {
        let mut turned = Self {
            repository: self.repository.clone(),
            monitor: Arc::clone(&self.monitor),
            scratch_directory: self.scratch_directory.clone(),
            requests_in_flight: self.requests_in_flight,
            meta: HashMap::new(),
            unreadable_meta: None,
            footers: Arc::clone(&self.footers),
            footers_under_way: Arc::clone(&self.footers_under_way),
            frames: Arc::clone(&self.frames),
            gone: Arc::clone(&self.gone),
            there: Arc::clone(&self.there),
            tables: Arc::clone(&self.tables),
            index: Arc::clone(&self.index),
        };
        (turned.meta, turned.unreadable_meta) = turned.locate_meta(&manifest.meta_packs).await?;
        Ok(turned)
    }

    pub(crate) fn repository(&self) -> &Repository {
        &self.repository
    }

    pub(crate) fn monitor(&self) -> &Arc<dyn Monitor> {
        &self.monitor
    }

    /// Reads the footers of the metadata packs. One that cannot be read is left out: the index may know other places.
    async fn locate_meta(&self, packs: &[PackId]) -> anyhow::Result<(HashMap<ChunkId, Hint>, Option<Damage>)> {
        let read = |pack: PackId| async move { (pack, self.footer(PackClass::Meta, pack).await) };
        let mut footers = stream::iter(packs.iter().copied()).map(read).buffered(self.requests_in_flight);
        let (mut places, mut unreadable) = (HashMap::new(), None);
        while let Some((pack, footer)) = footers.next().await {
            let footer = match footer.map_err(anyhow::Error::downcast::<Damage>) {
                Ok(footer) => footer,
                Err(Ok(damage)) => {
                    tracing::debug!(%damage, "looking in the index instead");
                    unreadable.get_or_insert(damage);
                    continue;
                }
                Err(Err(error)) => return Err(error),
            };
            for (number, frame) in (0..).zip(&footer.frames) {
                let chunks = &footer.chunks[frame.chunks.clone()];
                places.extend(chunks.iter().map(|chunk| (chunk.id, Hint { pack, frame: number })));
            }
        }
        Ok((places, unreadable))
    }

    /// Whether a metadata chunk is in the packs that the backup was published over, as far as these can be read.
    pub(crate) fn has_meta(&self, id: &ChunkId) -> bool {
        self.meta.contains_key(id)
    }

    /// The plaintext of a metadata chunk.
    pub(crate) async fn meta_chunk(&self, id: &ChunkId) -> anyhow::Result<Bytes> {
        match self.meta.get(id) {
            Some(hint) => self.chunk(id, PackClass::Meta, *hint).await,
            None => self.look_up(id, PackClass::Meta, None, self.nowhere_meta(id)).await,
        }
    }

    /// The plaintext of a chunk that should be in a certain frame, or is somewhere else then.
    pub(crate) async fn chunk(&self, id: &ChunkId, class: PackClass, hint: Hint) -> anyhow::Result<Bytes> {
        let failure = match self.frame(class, hint).await.map(|frame| frame.chunk(id)) {
            Ok(Some(bytes)) => return Ok(bytes),
            Ok(None) => {
                let reason = format!("chunk {id} in frame {} does not have the bytes its id says", hint.frame);
                Damage { object: self.object(class, &hint.pack), reason }.into()
            }
            Err(error) => error,
        };
        self.look_up(id, class, Some(hint), failure).await
    }

    /// Reads one frame, unless it is at hand.
    pub(crate) async fn frame(&self, class: PackClass, hint: Hint) -> anyhow::Result<Arc<OpenFrame>> {
        if let Some(frame) = self.recent_frame(&hint) {
            return Ok(frame);
        }
        let footer = self.footer(class, hint.pack).await?;
        if let Some(frame) = self.recent_frame(&hint) {
            return Ok(frame);
        }
        let number = hint.frame as usize;
        if number >= footer.frames.len() {
            let object = self.object(class, &hint.pack);
            return Err(Damage { object, reason: format!("it has no frame {number}") }.into());
        }
        let frames = self.frames(&footer, hint.pack, number..number + 1).await?;
        frames.into_iter().next().context("a frame was read")
    }

    /// Reads neighbouring frames of a pack.
    pub(crate) async fn frames(
        &self,
        footer: &Arc<PackFooter>,
        pack: PackId,
        numbers: std::ops::Range<usize>,
    ) -> anyhow::Result<Vec<Arc<OpenFrame>>> {
        let stored = footer.frames[numbers.end - 1].range.end - footer.frames[numbers.start].range.start;
        let opened = read_frames(&self.repository, pack, footer, numbers.clone()).await?;
        self.monitor.add(Counter::FetchedBytes, stored);
        let opened: Vec<Arc<OpenFrame>> = opened.into_iter().map(Arc::new).collect();
        self.keep_frames(pack, numbers.zip(opened.iter().cloned()));
        Ok(opened)
    }

    fn keep_frames(&self, pack: PackId, frames: impl Iterator<Item = (usize, Arc<OpenFrame>)>) {
        let mut recent = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        for (number, frame) in frames {
            let frame_number = u32::try_from(number).expect("a pack has less than 2^32 frames");
            let length_bytes = frame.length_bytes();
            recent.insert(Hint { pack, frame: frame_number }, frame, length_bytes);
        }
    }

    /// A frame that was read lately.
    pub(crate) fn recent_frame(&self, hint: &Hint) -> Option<Arc<OpenFrame>> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner).get(hint)
    }

    pub(crate) async fn footer(&self, class: PackClass, pack: PackId) -> anyhow::Result<Arc<PackFooter>> {
        if self.is_gone(class, pack) {
            return Err(Damage { object: self.object(class, &pack), reason: "it is not there".to_owned() }.into());
        }
        let recent = self.footers.lock().unwrap_or_else(PoisonError::into_inner).get(&(class, pack));
        if let Some(footer) = recent {
            return Ok(footer);
        }
        let cell = Arc::clone(self.footers_under_way().entry((class, pack)).or_default());
        let footer = cell.get_or_try_init(|| self.read_and_keep_footer(class, pack)).await.cloned();
        self.footers_under_way().remove(&(class, pack));
        footer
    }

    async fn read_and_keep_footer(&self, class: PackClass, pack: PackId) -> anyhow::Result<Arc<PackFooter>> {
        let footer = self.read_footer(class, pack).await?;
        let size = footer.chunks.len() * size_of::<ChunkEntry>() + footer.frames.len() * size_of::<FrameEntry>();
        let mut footers = self.footers.lock().unwrap_or_else(PoisonError::into_inner);
        footers.insert((class, pack), Arc::clone(&footer), size);
        Ok(footer)
    }

    /// Reads a footer from its pack, or what the index says of the pack if that is damaged. Frames that come with it are kept.
    async fn read_footer(&self, class: PackClass, pack: PackId) -> anyhow::Result<Arc<PackFooter>> {
        let end_bytes = if class == PackClass::Meta { META_END_BYTES } else { 0 };
        let damage = match read_last(&self.repository, class, pack, end_bytes).await {
            Ok(end) => {
                let frames = frames_in_end(&end, END_PLAINTEXT_BYTES).await;
                let stored = |(number, _): &(usize, _)| {
                    let range = &end.footer.frames[*number].range;
                    range.end - range.start
                };
                self.monitor.add(Counter::FetchedBytes, frames.iter().map(stored).sum());
                self.keep_frames(pack, frames.into_iter().map(|(number, frame)| (number, Arc::new(frame))));
                return Ok(end.footer);
            }
            Err(error) if error.downcast_ref::<Damage>().is_some() => error,
            Err(error) => return Err(error),
        };
        if !is_there(&self.repository, class, pack).await? {
            self.gone().insert((class, pack));
            return Err(damage);
        }
        match find_footer(&self.repository, class, pack).await {
            Ok(Some(footer)) => Ok(Arc::new(footer)),
            Ok(None) => Err(damage),
            Err(error) => {
                tracing::debug!(error = %format!("{error:#}"), "the index does not help");
                Err(damage)
            }
        }
    }

    fn footers_under_way(&self) -> MutexGuard<'_, UnderWay> {
        self.footers_under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gone(&self) -> MutexGuard<'_, HashSet<(PackClass, PackId)>> {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a pack has turned out not to be there.
    pub(crate) fn is_gone(&self, class: PackClass, pack: PackId) -> bool {
        self.gone().contains(&(class, pack))
    }

    /// Remembers which of some packs of file data are not there; says whether there are any.
    pub(crate) fn look_for(&self, packs: &HashSet<PackId>, listing: &DataListing) -> bool {
        let absent: Vec<PackId> = packs.iter().filter(|pack| !listing.has(pack)).copied().collect();
        self.gone().extend(absent.iter().map(|pack| (PackClass::Data, *pack)));
        !absent.is_empty()
    }

    /// Places that the look-up tables have for a chunk, which may be gone. None where the index has been made, or there are no
    /// tables, or they cannot be read.
    async fn tabled_places(&self, id: &ChunkId, class: PackClass) -> Vec<Hint> {
        if self.index.lock().await.is_some() {
            return Vec::new();
        }
        let open = async || TableIndex::open(&self.repository, &self.scratch_directory).await;
        let found = match self.tables.get_or_try_init(open).await {
            Ok(Some(tables)) => tables.find_all(id, class).await,
            Ok(None) => Ok(Vec::new()),
            Err(error) => Err(error),
        };
        found.unwrap_or_else(|error| {
            tracing::debug!(error = %format!("{error:#}"), "the look-up tables do not help");
            Vec::new()
        })
    }

    /// Reads a chunk in one of some places, if one has it and is not archived; keeps the first error of one that is.
    async fn read_in_one(
        &self,
        id: &ChunkId,
        class: PackClass,
        places: impl IntoIterator<Item = Hint>,
        archived: &mut Option<anyhow::Error>,
    ) -> anyhow::Result<Option<Bytes>> {
        for place in places {
            match self.frame(class, place).await.map(|frame| frame.chunk(id)) {
                Ok(Some(bytes)) => return Ok(Some(bytes)),
                Err(error) if is_archived(&error) => drop(archived.get_or_insert(error)),
                Err(error) if error.downcast_ref::<Damage>().is_none() => return Err(error),
                _ => {}
            }
        }
        Ok(None)
    }

    /// Looks a chunk up in the look-up tables, then in the index, and tries all places but the one that has failed.
    ///
    /// # Errors
    ///
    /// `failure`, where no place has it, or that one is archived that may have it; `failure` at once if that is no damage.
    pub(crate) async fn look_up(
        &self,
        id: &ChunkId,
        class: PackClass,
        failed: Option<Hint>,
        failure: anyhow::Error,
    ) -> anyhow::Result<Bytes> {
        if failure.downcast_ref::<Damage>().is_none() {
            return Err(failure);
        }
        let is_other = |place: &Hint| failed != Some(*place);
        let tabled = self.tabled_places(id, class).await;
        let mut archived = None;
        if let Some(bytes) = self.read_in_one(id, class, tabled.into_iter().filter(is_other), &mut archived).await? {
            return Ok(bytes);
        }
        loop {
            let index = match self.index().await {
                Ok(index) => index,
                Err(error) => {
                    self.monitor.warn(&format!("other places of a chunk cannot be looked up: {error:#}"));
                    return Err(archived.unwrap_or(failure));
                }
            };
            let places = index.chunks.find_all(id)?;
            let of_class = places.iter().filter(|place| place.class == class).map(hint_of);
            if let Some(bytes) = self.read_in_one(id, class, of_class.filter(is_other), &mut archived).await? {
                return Ok(bytes);
            }
            // A prune or a repair may have deleted what this one says, and the chunk be in a pack that is newer.
            if signs_of_moves(&self.repository).await? == index.signs {
                return Err(archived.unwrap_or(failure));
            }
            self.index.lock().await.take_if(|current| Arc::ptr_eq(current, &index));
        }
    }

    /// The index as it was made earlier, or a new one.
    async fn index(&self) -> anyhow::Result<Arc<ScratchIndex>> {
        let mut index = self.index.lock().await;
        if let Some(index) = index.as_ref() {
            return Ok(Arc::clone(index));
        }
        let made = Arc::new(ScratchIndex::make(self).await?);
        *index = Some(Arc::clone(&made));
        Ok(made)
    }

    /// That a metadata chunk is in none of the backup's packs: one that cannot be read probably has it.
    fn nowhere_meta(&self, id: &ChunkId) -> anyhow::Error {
        let Some(Damage { object, reason }) = self.unreadable_meta.clone() else { return self.nowhere(id) };
        Damage { object, reason: format!("{reason}; chunk {id} is in no other pack") }.into()
    }

    pub(crate) fn nowhere(&self, id: &ChunkId) -> anyhow::Error {
        let object = self.repository.store().url().to_owned();
        Damage { object, reason: format!("chunk {id} is in none of the packs that should have it") }.into()
    }

    fn object(&self, class: PackClass, pack: &PackId) -> String {
        format!("{}/{}", self.repository.store().url(), layout::pack_key(class, pack))
    }
}

fn hint_of(place: &Location) -> Hint {
    Hint { pack: place.pack, frame: place.frame }
}

/// An index of all chunks that is removed with its owner.
#[derive(Debug)]
struct ScratchIndex {
    chunks: ChunkIndex,
    /// What had been moved when it was made.
    signs: BTreeSet<Key>,
    _folder: ScratchFolder,
}

impl ScratchIndex {
    async fn make(locator: &Locator) -> anyhow::Result<Self> {
        let folder = ScratchFolder::make(&locator.scratch_directory)?;
        let (access, no_cache) = (Access::Exclusive, RecordCache::none());
        let monitor = locator.monitor.as_ref();
        let signs = signs_of_moves(&locator.repository).await?;
        let chunks = ChunkIndex::open_to_read(&locator.repository, folder.path(), access, &no_cache, monitor).await?;
        Ok(Self { chunks, signs, _folder: folder })
    }
}
