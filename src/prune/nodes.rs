//! Reads chunks of metadata, several frames at once.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::stream::{self, StreamExt, TryStreamExt};

use crate::id::{ChunkId, PackId};
use crate::pack::format::{ChunkEntry, FrameEntry, PackClass, PackFooter};
use crate::repository::packs::{OpenFrame, read_frames, read_pack_footer};
use crate::repository::recent::Recent;
use crate::repository::{Damage, Repository};
use crate::tree::node::Hint;

/// Frames that are read at once.
const FRAMES_AT_ONCE: usize = 8;
/// Plaintext of frames that is kept: the nodes of a tree are neighbours.
const FRAMES_KEPT_BYTES: usize = 64 << 20;
const FOOTERS_KEPT_BYTES: usize = 32 << 20;

/// A chunk of metadata and where it is.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) id: ChunkId,
    pub(super) places: Vec<Hint>,
}

/// Reads chunks of metadata. Memory is bounded by the constants above.
#[derive(Debug)]
pub(super) struct MetaReader {
    repository: Repository,
    footers: Mutex<Recent<PackId, Arc<PackFooter>>>,
    frames: Mutex<Recent<Hint, Arc<OpenFrame>>>,
}

impl MetaReader {
    pub(super) fn new(repository: &Repository) -> Self {
        Self {
            repository: repository.clone(),
            footers: Mutex::new(Recent::new(FOOTERS_KEPT_BYTES)),
            frames: Mutex::new(Recent::new(FRAMES_KEPT_BYTES)),
        }
    }

    /// Lets go of what is kept.
    pub(super) fn forget(&mut self) {
        *self = Self::new(&self.repository);
    }

    /// Reads chunks, in the order they are given in. Each has one place at least.
    ///
    /// # Errors
    ///
    /// [`Damage`] where no place has a chunk, or the store's error.
    pub(super) async fn read(&self, wanted: &[Wanted]) -> anyhow::Result<Vec<Bytes>> {
        let frames: HashSet<Hint> = wanted.iter().map(|chunk| chunk.places[0]).collect();
        let mut frames: Vec<Hint> = frames.into_iter().collect();
        frames.sort_unstable_by_key(|hint| (hint.pack, hint.frame));
        let read = |hint: Hint| async move {
            match self.frame(hint).await {
                Ok(frame) => Ok((hint, Some(frame))),
                // There may be other places.
                Err(error) if error.downcast_ref::<Damage>().is_some() => Ok((hint, None)),
                Err(error) => Err(error),
            }
        };
        let frames: HashMap<Hint, Option<Arc<OpenFrame>>> =
            stream::iter(frames).map(read).buffer_unordered(FRAMES_AT_ONCE).try_collect().await?;
        let mut chunks = Vec::with_capacity(wanted.len());
        for chunk in wanted {
            let first = frames.get(&chunk.places[0]).and_then(Option::as_ref);
            match first.and_then(|frame| frame.chunk(&chunk.id)) {
                Some(bytes) => chunks.push(bytes),
                None => chunks.push(self.read_elsewhere(chunk).await?),
            }
        }
        Ok(chunks)
    }

    async fn read_elsewhere(&self, chunk: &Wanted) -> anyhow::Result<Bytes> {
        let mut failure = Damage {
            object: self.repository.store().url().to_owned(),
            reason: format!("chunk {} does not have the bytes its id says", chunk.id),
        }
        .into();
        for hint in &chunk.places {
            match self.frame(*hint).await.map(|frame| frame.chunk(&chunk.id)) {
                Ok(Some(bytes)) => return Ok(bytes),
                Ok(None) => {}
                Err(error) if error.downcast_ref::<Damage>().is_some() => failure = error,
                Err(error) => return Err(error),
            }
        }
        Err(failure)
    }

    async fn frame(&self, hint: Hint) -> anyhow::Result<Arc<OpenFrame>> {
        let recent = self.frames.lock().unwrap_or_else(PoisonError::into_inner).get(&hint);
        if let Some(frame) = recent {
            return Ok(frame);
        }
        let footer = self.footer(hint.pack).await?;
        let number = hint.frame as usize;
        if number >= footer.frames.len() {
            let object = format!("{}, pack {}", self.repository.store().url(), hint.pack);
            return Err(Damage { object, reason: format!("it has no frame {number}") }.into());
        }
        let opened = read_frames(&self.repository, hint.pack, &footer, number..number + 1).await?;
        let frame = Arc::new(opened.into_iter().next().ok_or_else(|| anyhow::anyhow!("no frame was read"))?);
        let mut frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        frames.insert(hint, Arc::clone(&frame), frame.length_bytes());
        Ok(frame)
    }

    /// What is in a pack of metadata.
    pub(super) async fn footer(&self, pack: PackId) -> anyhow::Result<Arc<PackFooter>> {
        let recent = self.footers.lock().unwrap_or_else(PoisonError::into_inner).get(&pack);
        if let Some(footer) = recent {
            return Ok(footer);
        }
        let footer = Arc::new(read_pack_footer(&self.repository, PackClass::Meta, pack).await?);
        let size = footer.chunks.len() * size_of::<ChunkEntry>() + footer.frames.len() * size_of::<FrameEntry>();
        let mut footers = self.footers.lock().unwrap_or_else(PoisonError::into_inner);
        footers.insert(pack, Arc::clone(&footer), size);
        Ok(footer)
    }
}
