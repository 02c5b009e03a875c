//! New chunks become packs, packs are stored, and segments say what is in them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use jiff::Timestamp;
use tokio::task::JoinSet;

use crate::backup::BackupOptions;
use crate::backup::frames::{FrameBuffer, FrameQueue};
use crate::chunker::Chunk;
use crate::id::{ChunkId, PackId};
use crate::index::Segment;
use crate::monitor::{Counter, Monitor};
use crate::object::encode_cbor;
use crate::pack::format::{FrameKind, PACK_LIMIT_CHUNKS, PackClass, PackRecord};
use crate::pack::writer::PackWriter;
use crate::records::manifest::Totals;
use crate::repository::index::ChunkIndex;
use crate::repository::session::WriteSession;
use crate::tree::node::Hint;

/// A segment is stored when its packs have this many bytes and [`SEGMENT_LEAST_TIME`] has passed, or when they have as
/// many chunks as the options say: what is in no segment yet is kept in memory.
const SEGMENT_LEAST_BYTES: u64 = 1 << 30;
const SEGMENT_LEAST_TIME: Duration = Duration::from_mins(30);

/// Packs of metadata are not larger: they fill slowly, so that a long stream would take more memory than a short one.
const META_PACK_BYTES_MAX: usize = 8 << 20;

/// Where a chunk is, or will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// In a pack whose id is known.
    Known(Hint),
    /// In the frame of this number among all data frames of the session; its pack is not complete yet.
    Queued(u64),
}

/// The packs of one class.
#[derive(Debug)]
struct Lane {
    frame: FrameBuffer,
    queue: FrameQueue,
    pack: PackWriter,
    /// Number of the frame being gathered, among all of the lane.
    frame_number: u64,
    /// For each complete pack the number of its first frame, ascending.
    complete: Vec<(u64, PackId)>,
    /// Frames of complete packs.
    frames_complete: u64,
    /// Chunks that are in no segment yet, and the frame each is in.
    own: HashMap<ChunkId, u64>,
}

/// Stores chunks. Memory is bounded by the options.
#[derive(Debug)]
pub(crate) struct Uploader<'a> {
    session: Arc<WriteSession>,
    index: &'a mut ChunkIndex,
    options: BackupOptions,
    monitor: Arc<dyn Monitor>,
    data: Lane,
    meta: Lane,
    footers: FrameBuffer,
    uploads: JoinSet<anyhow::Result<PackRecord>>,
    /// Packs that are stored and in no segment yet.
    stored: Vec<PackRecord>,
    segment_at: Timestamp,
    /// Metadata packs that have chunks this backup needs.
    meta_packs: HashSet<PackId>,
    totals: Totals,
}

impl<'a> Uploader<'a> {
    pub(crate) fn new(
        session: Arc<WriteSession>,
        index: &'a mut ChunkIndex,
        options: BackupOptions,
        monitor: Arc<dyn Monitor>,
    ) -> Self {
        let lane = |class| Lane {
            frame: FrameBuffer::new(FrameKind::Content, options.frame_target_bytes),
            queue: FrameQueue::new(options.compression_level, options.frames_in_flight),
            pack: new_pack(&session, class, &options),
            frame_number: 0,
            complete: Vec::new(),
            frames_complete: 0,
            own: HashMap::new(),
        };
        let (data, meta) = (lane(PackClass::Data), lane(PackClass::Meta));
        let started_at = session.started_at();
        Self {
            session,
            index,
            options,
            monitor,
            data,
            meta,
            footers: FrameBuffer::new(FrameKind::Footers, options.frame_target_bytes),
            uploads: JoinSet::new(),
            stored: Vec::new(),
            segment_at: started_at,
            meta_packs: HashSet::new(),
            totals: Totals::default(),
        }
    }

    /// Where a chunk of file data is that the repository has, or will have.
    pub(crate) fn known_data(&mut self, id: &ChunkId) -> anyhow::Result<Option<Place>> {
        if let Some(frame) = self.data.own.get(id) {
            return Ok(Some(self.resolve(Place::Queued(*frame))));
        }
        Ok(self.index.find(id, PackClass::Data)?.map(Place::Known))
    }

    /// Makes sure that the repository has, or will have, a chunk of file data; says where.
    pub(crate) async fn add_data(&mut self, chunk: &Chunk) -> anyhow::Result<Place> {
        self.totals.chunks += 1;
        if let Some(place) = self.known_data(&chunk.id)? {
            return Ok(place);
        }
        self.count_new(chunk);
        if let Some(full) = self.data.frame.push(chunk) {
            self.data.queue.push(full);
            self.data.frame_number += 1;
            self.fill_packs(PackClass::Data, false).await?;
        }
        self.data.own.insert(chunk.id, self.data.frame_number);
        Ok(Place::Queued(self.data.frame_number))
    }

    /// Whether the repository has, or will have, a chunk of metadata, which this backup then needs.
    pub(crate) fn uses_known_meta(&mut self, id: &ChunkId) -> anyhow::Result<bool> {
        if self.meta.own.contains_key(id) {
            return Ok(true);
        }
        let found = self.index.find(id, PackClass::Meta)?;
        self.meta_packs.extend(found.map(|hint| hint.pack));
        Ok(found.is_some())
    }

    /// Makes sure that the repository has, or will have, a chunk of metadata.
    pub(crate) async fn add_meta(&mut self, chunk: &Chunk) -> anyhow::Result<()> {
        if self.uses_known_meta(&chunk.id)? {
            return Ok(());
        }
        self.count_new(chunk);
        self.meta.own.insert(chunk.id, 0);
        if let Some(full) = self.meta.frame.push(chunk) {
            self.meta.queue.push(full);
            self.fill_packs(PackClass::Meta, false).await?;
        }
        Ok(())
    }

    /// Counts a chunk of the command stream; those of file data are counted as they come.
    pub(crate) fn count_command_chunk(&mut self) {
        self.totals.chunks += 1;
    }

    fn count_new(&mut self, chunk: &Chunk) {
        self.totals.new_chunks += 1;
        self.totals.new_bytes += chunk.bytes.len() as u64;
        self.monitor.add(Counter::NewBytes, chunk.bytes.len() as u64);
    }

    /// Where a data chunk is, with its pack's id if that is known by now.
    pub(crate) fn resolve(&self, place: Place) -> Place {
        let Place::Queued(frame) = place else { return place };
        if frame >= self.data.frames_complete {
            return place;
        }
        let position = self.data.complete.partition_point(|(first, _)| *first <= frame) - 1;
        let (first, pack) = self.data.complete[position];
        let frame = u32::try_from(frame - first).expect("a pack has less than 2^32 frames");
        Place::Known(Hint { pack, frame })
    }

    /// Completes the data pack that is being filled, so that the ids of all places become known.
    pub(crate) async fn complete_data(&mut self) -> anyhow::Result<()> {
        if !self.data.frame.is_empty() {
            let frame = self.data.frame.take();
            self.data.queue.push(frame);
            self.data.frame_number += 1;
        }
        self.fill_packs(PackClass::Data, true).await
    }

    /// Puts what is stored already into a segment, so that the next run finds it. What is still under way is given up.
    pub(crate) async fn keep_what_is_stored(&mut self) -> anyhow::Result<()> {
        while let Some(uploaded) = self.uploads.try_join_next() {
            self.stored.extend(uploaded.context("an upload was ended")?);
        }
        self.uploads.abort_all();
        if self.stored.is_empty() { Ok(()) } else { self.store_segment().await }
    }

    /// Stores everything that is left, and the last segment; gives what it took, and the metadata packs in use.
    pub(crate) async fn finish(&mut self) -> anyhow::Result<(Totals, Vec<PackId>)> {
        self.complete_data().await?;
        while self.wait_for_upload().await? {}
        for frame in [self.meta.frame.take(), self.footers.take()] {
            if !frame.is_empty() {
                self.meta.queue.push(frame);
            }
        }
        self.fill_packs(PackClass::Meta, true).await?;
        while self.wait_for_upload().await? {}
        if !self.stored.is_empty() {
            self.store_segment().await?;
        }
        self.totals.stored_bytes = self.session.stored_bytes();
        let mut meta_packs: Vec<PackId> = self.meta_packs.drain().collect();
        meta_packs.sort_unstable();
        Ok((self.totals, meta_packs))
    }

    /// Appends frames that are compressed to their pack, and stores packs that are full (or all there is).
    async fn fill_packs(&mut self, class: PackClass, all: bool) -> anyhow::Result<()> {
        let target = pack_target_bytes(class, &self.options);
        while let Some(frame) = self.lane(class).queue.pop(all).await {
            let lane = self.lane(class);
            lane.pack.push_frame(frame.kind, &frame.bytes, &frame.chunks);
            let length = lane.pack.length_bytes();
            if length >= target || lane.pack.chunk_count() >= PACK_LIMIT_CHUNKS / 2 {
                self.store_pack(class).await?;
            }
        }
        if all && !self.lane(class).pack.is_empty() {
            self.store_pack(class).await?;
        }
        Ok(())
    }

    async fn store_pack(&mut self, class: PackClass) -> anyhow::Result<()> {
        while self.uploads.len() >= self.options.uploads_in_flight {
            self.wait_for_upload().await?;
        }
        let next = new_pack(&self.session, class, &self.options);
        let lane = self.lane(class);
        let pack = std::mem::replace(&mut lane.pack, next).finish();
        lane.complete.push((lane.frames_complete, pack.record.id));
        lane.frames_complete += pack.record.footer.frames.len() as u64;
        self.totals.packs += 1;
        if class == PackClass::Meta {
            self.meta_packs.insert(pack.record.id);
        }
        let (session, record) = (Arc::clone(&self.session), pack.record.clone());
        let store = async move { session.put_pack(pack).await.context("storing a pack").map(|()| record) };
        self.uploads.spawn(store);
        Ok(())
    }

    /// Puts a copy of a data pack's footer among the metadata.
    fn copy_footer(&mut self, record: &PackRecord) {
        let bytes = Bytes::from(encode_cbor(record));
        let chunk = Chunk { id: ChunkId::of(&bytes), bytes };
        if let Some(full) = self.footers.push(&chunk) {
            self.meta.queue.push(full);
        }
    }

    /// Waits for one of the uploads, if there is one.
    async fn wait_for_upload(&mut self) -> anyhow::Result<bool> {
        let Some(record) = self.uploads.join_next().await else { return Ok(false) };
        let record = record.context("an upload was ended")??;
        self.monitor.add(Counter::StoredBytes, record.stored_bytes);
        // Not before the pack is stored: metadata never speaks of what may never be there.
        if record.footer.class == PackClass::Data {
            self.copy_footer(&record);
        }
        self.stored.push(record);
        self.store_segment_if_due().await?;
        Ok(true)
    }

    async fn store_segment_if_due(&mut self) -> anyhow::Result<()> {
        let now = self.session.repository().clock().now();
        let bytes: u64 = self.stored.iter().map(|pack| pack.stored_bytes).sum();
        let chunks: usize = self.stored.iter().map(|pack| pack.footer.chunks.len()).sum();
        let passed = |since: Timestamp, span: Duration| now.duration_since(since).unsigned_abs() >= span;
        if chunks >= self.options.segment_chunks
            || (bytes >= SEGMENT_LEAST_BYTES && passed(self.segment_at, SEGMENT_LEAST_TIME))
        {
            self.store_segment().await?;
        }
        Ok(())
    }

    async fn store_segment(&mut self) -> anyhow::Result<()> {
        let segment = Segment { session: self.session.id(), packs: std::mem::take(&mut self.stored) };
        let id = self.session.put_segment(&segment).await.context("storing an index segment")?;
        for pack in &segment.packs {
            let lane = self.lane(pack.footer.class);
            for chunk in &pack.footer.chunks {
                lane.own.remove(&chunk.id);
            }
        }
        self.segment_at = self.session.repository().clock().now();
        self.index.add_own(id, &segment)
    }

    fn lane(&mut self, class: PackClass) -> &mut Lane {
        match class {
            PackClass::Data => &mut self.data,
            PackClass::Meta => &mut self.meta,
        }
    }
}

fn pack_target_bytes(class: PackClass, options: &BackupOptions) -> usize {
    match class {
        PackClass::Data => options.pack_target_bytes,
        PackClass::Meta => options.pack_target_bytes.min(META_PACK_BYTES_MAX),
    }
}

fn new_pack(session: &WriteSession, class: PackClass, options: &BackupOptions) -> PackWriter {
    // With room for the last frame and the footer; what is not written to costs no memory.
    let capacity = pack_target_bytes(class, options) + (2 << 20);
    let repository = session.repository();
    PackWriter::new(repository.id(), session.id(), class, repository.draw_salt(), capacity)
}
