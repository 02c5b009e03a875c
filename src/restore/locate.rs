//! Finds chunks: by the hints of the recipe, and where these fail by the index.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use tokio::sync::OnceCell;

use crate::id::{ChunkId, PackId};
use crate::local_index::{Access, Location};
use crate::monitor::{Counter, Monitor};
use crate::pack::format::{PackClass, PackFooter};
use crate::records::manifest::Manifest;
use crate::repository::cache::RecordCache;
use crate::repository::index::ChunkIndex;
use crate::repository::packs::{OpenFrame, read_frames, read_pack_footer};
use crate::repository::{Damage, Repository, layout};
use crate::restore::RestoreOptions;
use crate::tree::node::Hint;

/// Footers that are kept: some tens of kilobytes each.
const FOOTERS_KEPT: usize = 512;

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
    footers: Mutex<Recent<(PackClass, PackId), Arc<PackFooter>>>,
    frames: Mutex<Recent<Hint, Arc<OpenFrame>>>,
    /// The index, made when a hint fails for the first time.
    index: OnceCell<ScratchIndex>,
}

impl Locator {
    pub(crate) async fn open(
        repository: &Repository,
        manifest: &Manifest,
        options: &RestoreOptions,
        monitor: &Arc<dyn Monitor>,
    ) -> anyhow::Result<Self> {
        let mut locator = Self {
            repository: repository.clone(),
            monitor: Arc::clone(monitor),
            scratch_directory: options.scratch_directory.clone(),
            requests_in_flight: options.requests_in_flight,
            meta: HashMap::new(),
            unreadable_meta: None,
            footers: Mutex::new(Recent::new(FOOTERS_KEPT)),
            frames: Mutex::new(Recent::new(options.frame_cache_bytes)),
            index: OnceCell::new(),
        };
        (locator.meta, locator.unreadable_meta) = locator.locate_meta(&manifest.meta_packs).await?;
        Ok(locator)
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

    /// The plaintext of a metadata chunk.
    pub(crate) async fn meta_chunk(&self, id: &ChunkId) -> anyhow::Result<Bytes> {
        let Some(hint) = self.meta.get(id).copied() else {
            return self.look_up(id, PackClass::Meta, None, None).await;
        };
        match self.frame(PackClass::Meta, hint).await.map(|frame| frame.chunk(id)) {
            Ok(Some(bytes)) => Ok(bytes),
            Ok(None) => self.look_up(id, PackClass::Meta, Some(hint), None).await,
            Err(error) => self.look_up(id, PackClass::Meta, Some(hint), Some(error)).await,
        }
    }

    /// Reads one frame, unless it is at hand.
    pub(crate) async fn frame(&self, class: PackClass, hint: Hint) -> anyhow::Result<Arc<OpenFrame>> {
        if let Some(frame) = self.recent_frame(&hint) {
            return Ok(frame);
        }
        let footer = self.footer(class, hint.pack).await?;
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
        let mut recent = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        for (number, frame) in numbers.zip(&opened) {
            let frame_number = u32::try_from(number).expect("a pack has less than 2^32 frames");
            recent.insert(Hint { pack, frame: frame_number }, Arc::clone(frame), frame.length_bytes());
        }
        Ok(opened)
    }

    /// A frame that was read lately.
    pub(crate) fn recent_frame(&self, hint: &Hint) -> Option<Arc<OpenFrame>> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner).get(hint)
    }

    pub(crate) async fn footer(&self, class: PackClass, pack: PackId) -> anyhow::Result<Arc<PackFooter>> {
        let recent = self.footers.lock().unwrap_or_else(PoisonError::into_inner).get(&(class, pack));
        if let Some(footer) = recent {
            return Ok(footer);
        }
        let footer = Arc::new(read_pack_footer(&self.repository, class, pack).await?);
        let mut footers = self.footers.lock().unwrap_or_else(PoisonError::into_inner);
        footers.insert((class, pack), Arc::clone(&footer), 1);
        Ok(footer)
    }

    /// Looks a chunk up in the index, and tries all places but the one that has failed.
    ///
    /// # Errors
    ///
    /// Where none has it: `first_error`, or what is wrong with the first place that should have it.
    pub(crate) async fn look_up(
        &self,
        id: &ChunkId,
        class: PackClass,
        failed: Option<Hint>,
        first_error: Option<anyhow::Error>,
    ) -> anyhow::Result<Bytes> {
        if let Some(error) = &first_error
            && error.downcast_ref::<Damage>().is_none()
        {
            return Err(first_error.unwrap_or_else(|| self.nowhere(class, id)));
        }
        let index = self.index.get_or_try_init(|| ScratchIndex::make(self)).await?;
        let places = index.chunks.find_all(id)?;
        let mut error = first_error.or_else(|| failed.map(|hint| self.not_in(class, hint, id)));
        let other = |place: &Location| place.class == class && failed != Some(hint_of(place));
        for place in places.iter().filter(|place| other(place)) {
            match self.frame(class, hint_of(place)).await.map(|frame| frame.chunk(id)) {
                Ok(Some(bytes)) => return Ok(bytes),
                Ok(None) => drop(error.get_or_insert_with(|| self.not_in(class, hint_of(place), id))),
                Err(its_error) => drop(error.get_or_insert(its_error)),
            }
        }
        Err(error.unwrap_or_else(|| self.nowhere(class, id)))
    }

    fn not_in(&self, class: PackClass, hint: Hint, id: &ChunkId) -> anyhow::Error {
        let reason = format!("chunk {id} in frame {} does not have the bytes its id says", hint.frame);
        Damage { object: self.object(class, &hint.pack), reason }.into()
    }

    /// That a chunk is in no pack. A metadata pack that cannot be read probably has it.
    fn nowhere(&self, class: PackClass, id: &ChunkId) -> anyhow::Error {
        if let Some(Damage { object, reason }) = self.unreadable_meta.clone().filter(|_| class == PackClass::Meta) {
            return Damage { object, reason: format!("{reason}; chunk {id} is in no other pack") }.into();
        }
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
    directory: PathBuf,
}

impl ScratchIndex {
    async fn make(locator: &Locator) -> anyhow::Result<Self> {
        let directory = locator.scratch_directory.join(format!("restore-{}", crate::id::Salt::random()));
        let access = Access::Exclusive;
        let no_cache = RecordCache::none();
        let opened = ChunkIndex::open(&locator.repository, &directory, access, &no_cache, locator.monitor.as_ref());
        match opened.await.context("making an index, as a hint of the recipe does not hold") {
            Ok(chunks) => Ok(Self { chunks, directory }),
            Err(error) => {
                drop(std::fs::remove_dir_all(&directory));
                Err(error)
            }
        }
    }
}

impl Drop for ScratchIndex {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.directory) {
            tracing::warn!(path = %self.directory.display(), %error, "a temporary index cannot be removed");
        }
    }
}

/// The values used last, as many as their sizes allow.
#[derive(Debug)]
struct Recent<K, V> {
    limit: usize,
    size: usize,
    values: HashMap<K, (V, usize)>,
    /// Keys in the order they came.
    order: VecDeque<K>,
}

impl<K: Copy + Eq + std::hash::Hash, V: Clone> Recent<K, V> {
    fn new(limit: usize) -> Self {
        Self { limit, size: 0, values: HashMap::new(), order: VecDeque::new() }
    }

    fn get(&self, key: &K) -> Option<V> {
        self.values.get(key).map(|(value, _)| value.clone())
    }

    fn insert(&mut self, key: K, value: V, size: usize) {
        if self.values.insert(key, (value, size)).is_none() {
            self.order.push_back(key);
            self.size += size;
        }
        while self.size > self.limit
            && let Some(oldest) = self.order.pop_front()
        {
            let removed = self.values.remove(&oldest);
            self.size -= removed.map_or(0, |(_, size)| size);
        }
    }
}
