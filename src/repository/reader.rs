//! Reads chunks from wherever the index says they are.

use std::sync::Arc;

use bytes::Bytes;

use crate::id::{ChunkId, PackId};
use crate::local_index::Location;
use crate::pack::format::{ChunkEntry, FrameEntry, PackClass, PackFooter};
use crate::repository::index::ChunkIndex;
use crate::repository::packs::{OpenFrame, read_frames, read_pack_footer};
use crate::repository::recent::Recent;
use crate::repository::{Damage, Repository, layout};
use crate::tree::node::Hint;

/// Bytes of footers that are kept: some tens of kilobytes each.
const FOOTERS_KEPT_BYTES: usize = 32 << 20;
/// Plaintext bytes of frames that are kept.
const FRAMES_KEPT_BYTES: usize = 64 << 20;

/// Reads chunks by the index, and keeps the frames that were read lately.
#[derive(Debug)]
pub struct ChunkReader<'a> {
    repository: &'a Repository,
    index: &'a ChunkIndex,
    footers: Recent<(PackClass, PackId), Arc<PackFooter>>,
    frames: Recent<Hint, Arc<OpenFrame>>,
}

impl<'a> ChunkReader<'a> {
    /// Reads through an index that is up to date.
    #[must_use]
    pub fn new(repository: &'a Repository, index: &'a ChunkIndex) -> Self {
        Self { repository, index, footers: Recent::new(FOOTERS_KEPT_BYTES), frames: Recent::new(FRAMES_KEPT_BYTES) }
    }

    /// The index.
    #[must_use]
    pub fn index(&self) -> &'a ChunkIndex {
        self.index
    }

    /// The plaintext of a chunk, and the pack it was found in. All its places are tried.
    ///
    /// # Errors
    ///
    /// [`Damage`] of the first place where no place has it, or the store's error.
    pub async fn chunk(&mut self, id: &ChunkId, class: PackClass) -> anyhow::Result<(Bytes, PackId)> {
        let mut failure = None;
        for place in self.index.find_all(id)?.iter().filter(|place| place.class == class) {
            match self.frame(place).await.map(|frame| frame.chunk(id)) {
                Ok(Some(bytes)) => return Ok((bytes, place.pack)),
                Ok(None) => {
                    let reason = format!("chunk {id} in frame {} does not have the bytes its id says", place.frame);
                    failure.get_or_insert(self.damage(place, reason));
                }
                Err(error) if error.downcast_ref::<Damage>().is_some() => drop(failure.get_or_insert(error)),
                Err(error) => return Err(error),
            }
        }
        Err(failure.unwrap_or_else(|| {
            let object = self.repository.store().url().to_owned();
            Damage { object, reason: format!("chunk {id} is in no pack that counts") }.into()
        }))
    }

    async fn frame(&mut self, place: &Location) -> anyhow::Result<Arc<OpenFrame>> {
        let hint = Hint { pack: place.pack, frame: place.frame };
        if let Some(frame) = self.frames.get(&hint) {
            return Ok(frame);
        }
        let footer = self.footer(place).await?;
        let number = place.frame as usize;
        if number >= footer.frames.len() {
            return Err(self.damage(place, format!("it has no frame {number}")));
        }
        let frames = read_frames(self.repository, place.pack, &footer, number..number + 1).await?;
        let Some(frame) = frames.into_iter().next().map(Arc::new) else {
            return Err(self.damage(place, format!("it has no frame {number}")));
        };
        self.frames.insert(hint, Arc::clone(&frame), frame.length_bytes());
        Ok(frame)
    }

    async fn footer(&mut self, place: &Location) -> anyhow::Result<Arc<PackFooter>> {
        let key = (place.class, place.pack);
        if let Some(footer) = self.footers.get(&key) {
            return Ok(footer);
        }
        let footer = Arc::new(read_pack_footer(self.repository, place.class, place.pack).await?);
        let size = footer.chunks.len() * size_of::<ChunkEntry>() + footer.frames.len() * size_of::<FrameEntry>();
        self.footers.insert(key, Arc::clone(&footer), size);
        Ok(footer)
    }

    fn damage(&self, place: &Location, reason: String) -> anyhow::Error {
        let key = layout::pack_key(place.class, &place.pack);
        Damage { object: format!("{}/{key}", self.repository.store().url()), reason }.into()
    }
}
