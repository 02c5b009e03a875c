//! Archives one stream: reads it once, stores what the repository does not have, and publishes its manifest.
//!
//! Where the bytes come from is the caller's business ([`StreamSource`]); a backup knows nothing of Btrfs' commands.

mod frames;
mod reading;
mod recipe;
mod uploader;

use std::io::Read;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use jiff::Timestamp;
use serde_bytes::{ByteArray, ByteBuf};

use crate::backup::reading::{Part, StreamReading};
use crate::backup::recipe::Recipe;
use crate::backup::uploader::Uploader;
use crate::id::{Digest, ManifestId};
use crate::monitor::{Counter, Monitor};
use crate::records::TOOL;
use crate::records::manifest::{BackupKind, Manifest, Origin, Parent, STREAM_DIGEST_XXH3, StreamRecord, Subject};
use crate::repository::cache::RecordCache;
use crate::repository::catalog::{Catalog, Published, read_manifest};
use crate::repository::index::ChunkIndex;
use crate::repository::session::WriteSession;
use crate::repository::{Repository, layout};
use crate::send_stream::{StreamFacts, StreamKind};
use crate::store::{StoreError, StoreErrorKind};

/// A stream, and the verdict of whoever produces it.
pub trait StreamSource: Read + Send {
    /// Whether the producer is content. Asked after the stream's last byte.
    ///
    /// # Errors
    ///
    /// If it is not: then the stream must not be published, however complete it looks.
    fn finish(self: Box<Self>) -> anyhow::Result<()>;
}

/// Ends the producer of a stream from another thread.
pub type StopProducer = Arc<dyn Fn() + Send + Sync>;

/// What to archive, and what it should turn out to be.
#[derive(Debug, Clone)]
pub struct BackupRequest {
    /// The host it comes from.
    pub host: String,
    /// Its name.
    pub subvolume: String,
    /// When the snapshot was taken.
    pub created_at: Timestamp,
    /// What is known of it before it is read.
    pub expected: Expected,
    /// Whether the sender was asked to send extents compressed as they are.
    pub compressed_data: bool,
}

/// What a stream should turn out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// The send stream of this snapshot.
    Snapshot {
        /// What its SUBVOL or SNAPSHOT command has to name.
        subject: Origin,
        /// What it has to be made against.
        parent: Option<Parent>,
    },
    /// Anything: a send stream is taken apart.
    Anything,
    /// Bytes that are not to be taken apart.
    Opaque,
}

/// How much memory and how many requests a backup may use at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackupOptions {
    /// A pack is stored when it has this many bytes.
    pub pack_target_bytes: usize,
    /// zstd's level.
    pub compression_level: i32,
    /// Packs that are being stored at once.
    pub uploads_in_flight: usize,
    /// Frames of each class that are being compressed at once.
    pub frames_in_flight: usize,
    /// Bytes of the stream that are read before they are handed on.
    pub batch_bytes: usize,
    /// An index segment is stored when its packs have this many chunks.
    pub segment_chunks: usize,
}

impl Default for BackupOptions {
    fn default() -> Self {
        Self {
            pack_target_bytes: 32 << 20,
            compression_level: 3,
            uploads_in_flight: 3,
            frames_in_flight: 8,
            batch_bytes: 4 << 20,
            segment_chunks: 1 << 17,
        }
    }
}

/// What a backup did.
#[derive(Debug, Clone)]
pub struct BackupSummary {
    /// The manifest, as published.
    pub manifest: Manifest,
    /// BLAKE3 of its object.
    pub digest: Digest,
}

impl BackupSummary {
    /// The backup's id.
    #[must_use]
    pub fn id(&self) -> ManifestId {
        self.manifest.id()
    }
}

/// Archives one stream and publishes its manifest.
///
/// Reads the stream to its end exactly once. Memory is bounded by `options`, whatever the stream's length. Packs are
/// stored first, then the index, then the manifest, then the session's end, which alone makes the backup exist: after an
/// error or a crash before it, nothing refers to what was stored.
///
/// # Errors
///
/// The first error of any stage. The session is then given up, and the producer is stopped.
pub async fn backup_stream(
    session: WriteSession,
    index: &mut ChunkIndex,
    source: Box<dyn StreamSource>,
    stop: Option<StopProducer>,
    request: &BackupRequest,
    cache: &RecordCache,
    options: &BackupOptions,
    monitor: &Arc<dyn Monitor>,
) -> anyhow::Result<BackupSummary> {
    let session = Arc::new(session);
    let archived = archive(&session, index, source, request, cache, options, monitor).await;
    if archived.is_err()
        && let Some(stop) = stop
    {
        stop();
    }
    let published = match archived {
        Ok(manifest) => session.commit(&manifest).await.map(|digest| BackupSummary { manifest, digest }),
        Err(error) => Err(error),
    };
    if published.is_err()
        && let Err(error) = session.abandon().await
    {
        tracing::debug!(error = %format!("{error:#}"), "the session stays open until the next run");
    }
    published
}

/// Everything before the manifest is published.
async fn archive(
    session: &Arc<WriteSession>,
    index: &mut ChunkIndex,
    source: Box<dyn StreamSource>,
    request: &BackupRequest,
    cache: &RecordCache,
    options: &BackupOptions,
    monitor: &Arc<dyn Monitor>,
) -> anyhow::Result<Manifest> {
    let parameters = &session.repository().config().chunker.parameters;
    let opaque = request.expected == Expected::Opaque;
    let mut reading = StreamReading::start(source, parameters, opaque, options)?;
    let mut uploader = Uploader::new(Arc::clone(session), index, *options, Arc::clone(monitor));
    let mut recipe = Recipe::default();
    while let Some(part) = reading.next().await {
        store_part(&part, &mut recipe, &mut uploader).await?;
        monitor.add(Counter::StreamBytes, part.stream_bytes);
    }
    // The parts also end when the reader fails, and the producer may be discontent with a stream that looks complete.
    let facts = reading.finish().await.context("reading the stream")?;
    let (snapshot, origin) = check_expected(&facts, request)?;
    let parent = match origin {
        Some(origin) => find_parent(session.repository(), origin, request, cache, monitor.as_ref()).await?,
        None => None,
    };
    let roots = recipe.finish(&mut uploader).await?;
    let (totals, meta_packs) = uploader.finish().await?;
    if let Some(parent) = &parent {
        check_chain(session.repository(), parent.manifest).await?;
    }
    let kind = match (facts.opaque, origin) {
        (true, _) => BackupKind::Opaque,
        (false, Some(_)) => BackupKind::Incremental,
        (false, None) => BackupKind::Full,
    };
    Ok(Manifest {
        session: session.id(),
        kind,
        required_to_read: Vec::new(),
        required_to_prune: Vec::new(),
        host: request.host.clone(),
        subvolume: request.subvolume.clone(),
        started_at: session.started_at(),
        created_at: request.created_at,
        snapshot,
        parent,
        requires: facts.clone_sources.iter().copied().map(Origin::from).collect(),
        stream: StreamRecord {
            version: match facts.kind {
                StreamKind::Send { version } if !facts.opaque => Some(version),
                _ => None,
            },
            bytes: facts.stream_bytes,
            digest_algorithm: STREAM_DIGEST_XXH3.to_owned(),
            digest: ByteArray::new(facts.digest.value().to_be_bytes()),
            compressed_data: request.compressed_data,
        },
        roots,
        meta_packs,
        totals,
        copied_from: None,
        tool: TOOL.to_owned(),
    })
}

async fn store_part(part: &Part, recipe: &mut Recipe, uploader: &mut Uploader<'_>) -> anyhow::Result<()> {
    for chunk in &part.data {
        recipe.push_data(chunk, uploader).await?;
    }
    for chunk in &part.commands {
        recipe.push_commands(chunk, uploader).await?;
    }
    Ok(())
}

/// Checks what the stream turned out to be; gives what the manifest says of it.
fn check_expected(facts: &StreamFacts, request: &BackupRequest) -> anyhow::Result<(Option<Subject>, Option<Origin>)> {
    let subject = facts.subject.as_ref();
    let parent = facts.parent.map(Origin::from);
    if let Expected::Snapshot { subject: expected, parent: expected_parent } = &request.expected {
        let found = subject.map(|subject| Origin::from(subject.version));
        ensure!(
            found == Some(*expected),
            "the stream is not that of the snapshot that was to be sent: it names {}, not {}",
            found.map_or_else(|| "none".to_owned(), |origin| origin.to_string()),
            expected
        );
        let expected_parent =
            expected_parent.as_ref().map(|parent| Origin { uuid: parent.uuid, ctransid: parent.ctransid });
        ensure!(parent == expected_parent, "the stream was not made against the parent that was chosen");
    }
    let snapshot = subject.map(|subject| Subject {
        uuid: subject.version.uuid,
        ctransid: subject.version.ctransid,
        path: ByteBuf::from(subject.path.clone()),
    });
    Ok((snapshot, parent))
}

/// The backup that an incremental stream was made against.
async fn find_parent(
    repository: &Repository,
    origin: Origin,
    request: &BackupRequest,
    cache: &RecordCache,
    monitor: &dyn Monitor,
) -> anyhow::Result<Option<Parent>> {
    if let Expected::Snapshot { parent, .. } = &request.expected {
        return Ok(parent.clone());
    }
    let catalog = Catalog::load(repository, cache).await.context("looking for the parent's backup")?;
    let parent = catalog.published.iter().rfind(|backup| backup.manifest.origin() == Some(origin));
    if parent.is_none() {
        monitor.warn(&format!(
            "no backup of the parent {origin} is in the repository: this one cannot be restored without it"
        ));
    }
    Ok(parent.and_then(Published::as_parent))
}

/// Checks that a manifest and all it was made against still count.
async fn check_chain(repository: &Repository, manifest: ManifestId) -> anyhow::Result<()> {
    let mut next = Some(manifest);
    while let Some(id) = next {
        let present = read_manifest(repository, id).await;
        let parent = present.with_context(|| format!("looking whether the parent {id} is still there"))?;
        let marker = layout::forgotten_key(&id);
        match repository.store().head(&marker).await {
            Err(StoreError { kind: StoreErrorKind::NotFound, .. }) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => bail!("the parent {id} has been forgotten while the backup ran: run it again"),
        }
        next = parent.manifest.parent.map(|parent| parent.manifest);
    }
    Ok(())
}
