//! Reads chunks from wherever the index says they are.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::id::{ChunkId, PackId};
use crate::local_index::Location;
use crate::pack::format::{ChunkEntry, FrameEntry, PackClass, PackFooter};
use crate::repository::index::{ChunkIndex, find_footer};
use crate::repository::packs::{OpenFrame, is_there, read_frames, read_pack_footer};
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
        let footer = Arc::new(self.read_footer(key).await?);
        let size = footer.chunks.len() * size_of::<ChunkEntry>() + footer.frames.len() * size_of::<FrameEntry>();
        self.footers.insert(key, Arc::clone(&footer), size);
        Ok(footer)
    }

    /// Reads a footer from its pack, or what the index says of the pack if that is damaged.
    async fn read_footer(&self, (class, pack): (PackClass, PackId)) -> anyhow::Result<PackFooter> {
        let damage = match read_pack_footer(self.repository, class, pack).await {
            Err(error) if error.downcast_ref::<Damage>().is_some() => error,
            read => return read,
        };
        // What the index says of one that is gone helps nobody.
        if !is_there(self.repository, class, pack).await? {
            return Err(damage);
        }
        find_footer(self.repository, class, pack).await?.ok_or(damage)
    }

    /// The chunk in a frame of a pack, whether the index knows of it or not.
    ///
    /// # Errors
    ///
    /// [`Damage`] if it is not there with the bytes its id says, or the store's error.
    pub async fn chunk_at(&mut self, id: &ChunkId, class: PackClass, hint: Hint) -> anyhow::Result<Bytes> {
        let place = place_of(class, hint);
        let chunk = self.frame(&place).await?.chunk(id);
        chunk.ok_or_else(|| self.damage(&place, format!("chunk {id} is not in frame {}", hint.frame)))
    }

    /// Where a chunk ends in a pack, by the pack's footer, and its length; none if the frame does not have it.
    ///
    /// # Errors
    ///
    /// [`Damage`] if there is no footer, or the store's error.
    pub async fn end_in_pack(
        &mut self,
        id: &ChunkId,
        class: PackClass,
        hint: Hint,
    ) -> anyhow::Result<Option<(u64, u32)>> {
        let footer = self.footer(&place_of(class, hint)).await?;
        let Some(frame) = footer.frames.get(hint.frame as usize) else { return Ok(None) };
        let chunk = footer.chunks[frame.chunks.clone()].iter().find(|chunk| chunk.id == *id);
        Ok(chunk.map(|chunk| (frame.range.end, chunk.length_bytes)))
    }

    /// Where each chunk of some metadata packs is, by the packs' footers. Packs without one are left out.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn places_in(&mut self, packs: &[PackId]) -> anyhow::Result<HashMap<ChunkId, Hint>> {
        let mut places = HashMap::new();
        for pack in packs {
            let footer = match self.footer(&place_of(PackClass::Meta, Hint { pack: *pack, frame: 0 })).await {
                Ok(footer) => footer,
                Err(error) if error.downcast_ref::<Damage>().is_some() => continue,
                Err(error) => return Err(error),
            };
            for (frame, entry) in (0..).zip(&footer.frames) {
                let chunks = &footer.chunks[entry.chunks.clone()];
                places.extend(chunks.iter().map(|chunk| (chunk.id, Hint { pack: *pack, frame })));
            }
        }
        Ok(places)
    }

    fn damage(&self, place: &Location, reason: String) -> anyhow::Error {
        let key = layout::pack_key(place.class, &place.pack);
        Damage { object: format!("{}/{key}", self.repository.store().url()), reason }.into()
    }
}

/// A frame as a place of which nothing else is known.
fn place_of(class: PackClass, hint: Hint) -> Location {
    Location { pack: hint.pack, class, pack_stored_bytes: 0, frame: hint.frame, length_bytes: 0 }
}
