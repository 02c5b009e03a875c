//! Puts what is needed into new packs, and says in segments what is in them.

use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use tokio::task::JoinSet;

use crate::backup::frames::FrameBuffer;
use crate::chunker::Chunk;
use crate::id::ChunkId;
use crate::index::Segment;
use crate::object::encode_cbor;
use crate::pack::format::{ChunkEntry, FrameKind, PACK_LIMIT_CHUNKS, PackClass, PackRecord};
use crate::pack::writer::PackWriter;
use crate::prune::limits::RepackOptions;
use crate::prune::repack::copy::{KeptFrame, Piece};
use crate::prune::report::{Amount, Repacked};
use crate::repository::packs::compute;
use crate::repository::session::{WriteSession, is_data_tier};

/// Packs of metadata are not larger, as those of backups.
const META_PACK_BYTES_MAX: usize = 8 << 20;

/// How many bytes make a new pack of a class full.
pub(super) fn pack_target_bytes(class: PackClass, options: &RepackOptions) -> usize {
    match class {
        PackClass::Data => options.pack_target_bytes,
        PackClass::Meta => options.pack_target_bytes.min(META_PACK_BYTES_MAX),
    }
}

/// New packs of a repack's session. In memory are those that are being filled and stored, and chunks of frames that are not
/// taken whole, up to a frame.
#[derive(Debug)]
pub(super) struct PackStore {
    session: Arc<WriteSession>,
    options: RepackOptions,
    data: Lane,
    meta: Lane,
    uploads: JoinSet<anyhow::Result<PackRecord>>,
    /// Packs that are stored and in no segment yet.
    stored: Vec<PackRecord>,
    new_data: Amount,
    new_metadata: Amount,
}

/// The packs of one class.
#[derive(Debug)]
struct Lane {
    pack: PackWriter,
    /// Chunks that are gathered into new frames, by what they are.
    content: FrameBuffer,
    footers: FrameBuffer,
}

impl PackStore {
    pub(super) fn new(session: Arc<WriteSession>, options: &RepackOptions) -> Self {
        let buffer = |kind| FrameBuffer::new(kind, options.frame_target_bytes);
        let lane = |class| Lane {
            pack: new_pack(&session, class, options),
            content: buffer(FrameKind::Content),
            footers: buffer(FrameKind::Footers),
        };
        Self {
            data: lane(PackClass::Data),
            meta: lane(PackClass::Meta),
            uploads: JoinSet::new(),
            stored: Vec::new(),
            new_data: Amount::default(),
            new_metadata: Amount::default(),
            options: options.clone(),
            session,
        }
    }

    pub(super) fn session(&self) -> Arc<WriteSession> {
        Arc::clone(&self.session)
    }

    /// Adds frames of a pack: as they are where all of them is needed, else their needed chunks.
    pub(super) async fn add(&mut self, class: PackClass, frames: Vec<KeptFrame>) -> anyhow::Result<()> {
        for KeptFrame { kind, chunks, piece } in frames {
            match piece {
                Piece::Whole(bytes) => self.add_frame(class, kind, &bytes, &chunks).await?,
                Piece::Chunks(plaintexts) => {
                    for (entry, bytes) in chunks.iter().zip(plaintexts) {
                        self.add_chunk(class, kind, Chunk { id: entry.id, bytes }).await?;
                    }
                }
            }
        }
        if self.stored.iter().map(|record| record.footer.chunks.len()).sum::<usize>() >= self.options.segment_chunks {
            self.store_segment().await?;
        }
        Ok(())
    }

    async fn add_chunk(&mut self, class: PackClass, kind: FrameKind, chunk: Chunk) -> anyhow::Result<()> {
        let lane = self.lane(class);
        let buffer = if kind == FrameKind::Footers { &mut lane.footers } else { &mut lane.content };
        match buffer.push(&chunk) {
            Some(full) => self.add_gathered(class, full).await,
            None => Ok(()),
        }
    }

    async fn add_gathered(&mut self, class: PackClass, frame: FrameBuffer) -> anyhow::Result<()> {
        let level = self.options.compression_level;
        let encoded = compute(move || frame.encode(level)).await;
        self.add_frame(class, encoded.kind, &encoded.bytes, &encoded.chunks).await
    }

    async fn add_frame(
        &mut self,
        class: PackClass,
        kind: FrameKind,
        bytes: &[u8],
        chunks: &[ChunkEntry],
    ) -> anyhow::Result<()> {
        let target = pack_target_bytes(class, &self.options);
        let pack = &mut self.lane(class).pack;
        pack.push_frame(kind, bytes, chunks);
        if pack.length_bytes() >= target || pack.chunk_count() >= PACK_LIMIT_CHUNKS / 2 {
            self.store_pack(class).await?;
        }
        Ok(())
    }

    async fn store_pack(&mut self, class: PackClass) -> anyhow::Result<()> {
        while self.uploads.len() >= self.options.uploads_in_flight.max(1) {
            self.wait_for_upload().await?;
        }
        let next = new_pack(&self.session, class, &self.options);
        let pack = std::mem::replace(&mut self.lane(class).pack, next);
        let session = Arc::clone(&self.session);
        self.uploads.spawn(async move {
            let pack = compute(move || pack.finish()).await;
            let record = pack.record.clone();
            session.put_pack(pack).await.context("storing a pack").map(|()| record)
        });
        Ok(())
    }

    /// Waits for one of the uploads, if there is one. The copy of a data pack's footer comes after the pack.
    async fn wait_for_upload(&mut self) -> anyhow::Result<bool> {
        let Some(record) = self.uploads.join_next().await else { return Ok(false) };
        let record = record.context("an upload was ended")??;
        if record.footer.class == PackClass::Data {
            let bytes = Bytes::from(encode_cbor(&record));
            let chunk = Chunk { id: ChunkId::of(&bytes), bytes };
            if let Some(full) = self.meta.footers.push(&chunk) {
                let level = self.options.compression_level;
                let encoded = compute(move || full.encode(level)).await;
                // The pack is stored when the next frame is added, or at the end.
                self.meta.pack.push_frame(encoded.kind, &encoded.bytes, &encoded.chunks);
            }
        }
        let is_data = is_data_tier(record.footer.class, record.stored_bytes);
        let amount = if is_data { &mut self.new_data } else { &mut self.new_metadata };
        amount.add(record.stored_bytes);
        self.stored.push(record);
        Ok(true)
    }

    /// Stores a segment, and before it the copies of the footers of all packs that it names: killed after it, the session leaves
    /// no pack that counts and has none.
    async fn store_segment(&mut self) -> anyhow::Result<()> {
        while self.wait_for_upload().await? {}
        self.complete(PackClass::Meta).await?;
        let segment = Segment { session: self.session.id(), packs: std::mem::take(&mut self.stored) };
        self.session.put_segment(&segment).await.context("storing an index segment").map(drop)
    }

    /// Stores all that is left of packs of a class, and waits until it is.
    pub(super) async fn complete(&mut self, class: PackClass) -> anyhow::Result<()> {
        let lane = self.lane(class);
        for frame in [lane.content.take(), lane.footers.take()] {
            if !frame.is_empty() {
                self.add_gathered(class, frame).await?;
            }
        }
        if !self.lane(class).pack.is_empty() {
            self.store_pack(class).await?;
        }
        while self.wait_for_upload().await? {}
        Ok(())
    }

    /// Stores everything, and the last segment.
    pub(super) async fn finish(&mut self, report: &mut Repacked) -> anyhow::Result<()> {
        self.complete(PackClass::Data).await?;
        self.complete(PackClass::Meta).await?;
        if !self.stored.is_empty() {
            self.store_segment().await?;
        }
        (report.new_data, report.new_metadata) = (self.new_data, self.new_metadata);
        Ok(())
    }

    fn lane(&mut self, class: PackClass) -> &mut Lane {
        match class {
            PackClass::Data => &mut self.data,
            PackClass::Meta => &mut self.meta,
        }
    }
}

fn new_pack(session: &WriteSession, class: PackClass, options: &RepackOptions) -> PackWriter {
    // With room for the last frame and the footer; what is not written to costs no memory.
    let capacity = pack_target_bytes(class, options) + (2 << 20);
    let repository = session.repository();
    PackWriter::new(repository.id(), session.id(), class, repository.draw_salt(), capacity)
}
