//! Archives one stream: reads it once, stores what the repository does not have, and publishes its manifest.
//!
//! Where the bytes come from is the caller's business ([`StreamSource`]); a backup knows nothing of Btrfs' commands.

mod archiving;
pub(crate) mod frames;
mod interruption;
mod names;
mod options;
mod reading;
mod recipe;
mod unchanged;
mod uploader;

use std::convert::Infallible;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::backup::archiving::Archiving;
use crate::backup::interruption::unless;
use crate::backup::reading::StreamReading;
use crate::id::{Digest, ManifestId, SnapshotVersion};
use crate::local_index::Access;
use crate::monitor::Monitor;
use crate::pack::format::PackClass;
use crate::records::TOOL;
use crate::records::manifest::{Manifest, Parent};
use crate::records::session::SessionStart;
use crate::repository::cache::RecordCache;
use crate::repository::index::ChunkIndex;
use crate::repository::session::{WriteSession, end_dead_sessions};
use crate::repository::{Repository, layout};
use crate::send_stream::Rejected;

pub(crate) use archiving::check_chain;
pub use interruption::{Interrupted, Interruption, never as never_interrupted, unless as unless_interrupted};
pub use options::BackupOptions;
pub(crate) use recipe::Recipe;
pub(crate) use uploader::Uploader;

/// A session says that it is alive this often; prune takes one for dead after 30 days.
const BEAT_EVERY: Duration = Duration::from_hours(4);
/// Somebody waits for an interrupted run to end; a session that it cannot end by then is ended by the next.
const INTERRUPTED_ENDS_WITHIN: Duration = Duration::from_secs(1);

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
        subject: SnapshotVersion,
        /// What it has to be made against.
        parent: Option<Parent>,
    },
    /// Anything: a send stream is taken apart.
    Anything,
    /// Bytes that are not to be taken apart.
    Opaque,
}

/// A stream that `btrfs receive` would fail at: kernels have sent such ones.
#[derive(Debug, thiserror::Error)]
#[error("btrfs receive would fail at this stream, at the {} of '{}' at byte {}: {}", .0.command, .0.path.escape_ascii(), .0.offset, .0.reason)]
pub struct RejectedStream(pub Rejected);

/// What a backup did.
#[derive(Debug, Clone)]
pub struct BackupSummary {
    /// The manifest, as published.
    pub manifest: Manifest,
    /// BLAKE3 of its object.
    pub digest: Digest,
    /// Bytes of all objects that were stored.
    pub stored_bytes: u64,
}

impl BackupSummary {
    /// The backup's id.
    #[must_use]
    pub fn id(&self) -> ManifestId {
        self.manifest.id()
    }
}

/// A host that writes to a repository: who it is, and where it keeps what it remembers.
#[derive(Debug, Clone)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// What tells it from others of that name.
    pub machine: String,
    /// The folder of its local index.
    pub index_directory: PathBuf,
    /// Its copies of records.
    pub cache: RecordCache,
    /// Where it may make folders that go with the process.
    pub scratch_directory: PathBuf,
}

impl Host {
    /// What this host announces a session with: what for, and the name of what is backed up, if anything is.
    #[must_use]
    pub fn session(&self, purpose: &str, subvolume: &str) -> SessionStart {
        SessionStart {
            host: self.name.clone(),
            machine: self.machine.clone(),
            subvolume: subvolume.to_owned(),
            purpose: purpose.to_owned(),
            tool: TOOL.to_owned(),
        }
    }
}

/// A stream that is to be archived.
pub struct Stream {
    /// Its bytes.
    pub source: Box<dyn StreamSource>,
    /// How to end its producer when the backup fails, if that is possible.
    pub stop: Option<StopProducer>,
    /// When not to go on.
    pub interruption: Interruption,
}

/// A backup that has been announced and knows what the repository has.
#[derive(Debug)]
pub struct BackupRun {
    session: Arc<WriteSession>,
    index: ChunkIndex,
    host: Host,
    monitor: Arc<dyn Monitor>,
}

impl BackupRun {
    /// Ends what a killed run of this host has left, announces a new one, and only then looks at the repository.
    ///
    /// To be called with the host's lock held.
    ///
    /// # Errors
    ///
    /// If this program may not write to the repository, or the store or the local disk fails.
    pub async fn begin(
        repository: &Repository,
        host: &Host,
        subvolume: &str,
        monitor: &Arc<dyn Monitor>,
    ) -> anyhow::Result<Self> {
        Self::begin_for("backup", repository, host, subvolume, monitor).await
    }

    /// As [`begin`](Self::begin), for a run that publishes a manifest for another purpose than to back up a stream.
    ///
    /// # Errors
    ///
    /// As for [`begin`](Self::begin).
    pub async fn begin_for(
        purpose: &str,
        repository: &Repository,
        host: &Host,
        subvolume: &str,
        monitor: &Arc<dyn Monitor>,
    ) -> anyhow::Result<Self> {
        end_dead_sessions(repository, &host.name, &host.machine, &host.cache).await?;
        Self::announce(purpose, repository, host, subvolume, monitor).await
    }

    /// As [`begin`](Self::begin), beside other runs of this host, which are alive. The caller has ended what dead ones have left
    /// before the first of them began.
    ///
    /// # Errors
    ///
    /// As for [`begin`](Self::begin).
    pub async fn begin_beside(
        repository: &Repository,
        host: &Host,
        subvolume: &str,
        monitor: &Arc<dyn Monitor>,
    ) -> anyhow::Result<Self> {
        Self::announce("backup", repository, host, subvolume, monitor).await
    }

    async fn announce(
        purpose: &str,
        repository: &Repository,
        host: &Host,
        subvolume: &str,
        monitor: &Arc<dyn Monitor>,
    ) -> anyhow::Result<Self> {
        let session = Arc::new(WriteSession::start(repository.clone(), host.session(purpose, subvolume)).await?);
        let index = look_around(repository, host, monitor.as_ref()).await;
        Self::with_index(session, index, host, monitor).await
    }

    /// As [`begin_for`](Self::begin_for), after a run of this process that has published its manifest: what that knew of the
    /// repository is kept, unless something has been deleted since, or added by others.
    ///
    /// To be called with the host's lock held ever since.
    ///
    /// # Errors
    ///
    /// As for [`begin`](Self::begin).
    pub async fn begin_after(
        before: ChunkIndex,
        purpose: &str,
        repository: &Repository,
        host: &Host,
        subvolume: &str,
        monitor: &Arc<dyn Monitor>,
    ) -> anyhow::Result<Self> {
        let session = Arc::new(WriteSession::start(repository.clone(), host.session(purpose, subvolume)).await?);
        let index = match before.still_holds(repository).await {
            Ok(true) => Ok(before),
            Ok(false) => {
                // Its files are in use otherwise.
                drop(before);
                look_around(repository, host, monitor.as_ref()).await
            }
            Err(error) => Err(error),
        };
        Self::with_index(session, index, host, monitor).await
    }

    async fn with_index(
        session: Arc<WriteSession>,
        index: anyhow::Result<ChunkIndex>,
        host: &Host,
        monitor: &Arc<dyn Monitor>,
    ) -> anyhow::Result<Self> {
        match index {
            Ok(index) => Ok(Self { session, index, host: host.clone(), monitor: Arc::clone(monitor) }),
            Err(error) => {
                give_up(&session).await;
                Err(error)
            }
        }
    }

    /// When the run began.
    #[must_use]
    pub fn started_at(&self) -> Timestamp {
        self.session.started_at()
    }

    /// The session, which is open.
    #[must_use]
    pub fn session(&self) -> &WriteSession {
        &self.session
    }

    /// The same, for whoever goes on using the run.
    pub(crate) fn shared_session(&self) -> Arc<WriteSession> {
        Arc::clone(&self.session)
    }

    /// What the repository has.
    #[must_use]
    pub fn index(&self) -> &ChunkIndex {
        &self.index
    }

    /// Ends the run without a backup.
    pub async fn give_up(self) {
        give_up(&self.session).await;
    }

    /// Archives a stream and publishes its manifest.
    ///
    /// Reads the stream to its end exactly once. Memory is bounded by `options`, whatever the stream's length. Packs are
    /// stored first, then the index, then the manifest, then the session's end, which alone makes the backup exist:
    /// after an error or a crash before it, nothing refers to what was stored.
    ///
    /// # Errors
    ///
    /// The first error of any stage, [`Interrupted`] among them. The session is then given up, and the producer is
    /// stopped.
    pub async fn publish(
        mut self,
        stream: Stream,
        request: &BackupRequest,
        options: &BackupOptions,
    ) -> anyhow::Result<BackupSummary> {
        let manifest = self.read_and_archive(stream, request, options).await;
        self.publish_manifest(manifest).await
    }

    /// Publishes a manifest, all of whose objects are stored; or gives the run up, if there is none.
    ///
    /// # Errors
    ///
    /// That of the manifest, or the store's.
    pub async fn publish_manifest(self, manifest: anyhow::Result<Manifest>) -> anyhow::Result<BackupSummary> {
        self.publish_and_keep_index(manifest).await.map(|(summary, _)| summary)
    }

    /// As [`publish_manifest`](Self::publish_manifest); gives also what is known of the repository, for
    /// [`begin_after`](Self::begin_after).
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn publish_and_keep_index(
        mut self,
        manifest: anyhow::Result<Manifest>,
    ) -> anyhow::Result<(BackupSummary, ChunkIndex)> {
        let published = match manifest {
            Ok(manifest) => self.session.commit(&manifest).await.map(|digest| {
                let stored_bytes = self.session.stored_bytes();
                BackupSummary { manifest, digest, stored_bytes }
            }),
            Err(error) => Err(error),
        };
        match &published {
            Err(error) if error.downcast_ref::<Interrupted>().is_some() => {
                drop(tokio::time::timeout(INTERRUPTED_ENDS_WITHIN, give_up(&self.session)).await);
            }
            Err(_) => give_up(&self.session).await,
            Ok(_) => {}
        }
        if let Err(error) = self.index.mend() {
            tracing::warn!(error = %format!("{error:#}"), "the local index cannot be mended");
        }
        published.map(|summary| (summary, self.index))
    }

    /// Starts reading, and stops the producer if archiving fails.
    async fn read_and_archive(
        &mut self,
        stream: Stream,
        request: &BackupRequest,
        options: &BackupOptions,
    ) -> anyhow::Result<Manifest> {
        let session = Arc::clone(&self.session);
        let parameters = session.repository().config().writing_parameters()?;
        let opaque = request.expected == Expected::Opaque;
        let mut reading = StreamReading::start(stream.source, &self.host, parameters, opaque, options)?;
        let archiving = Box::pin(self.archive_unless(&stream.interruption, &mut reading, request, options));
        let archived = with_beats(&session, archiving).await;
        if archived.is_err()
            && let Some(stop) = stream.stop
        {
            stop();
            reading.wait_for_end().await;
        }
        archived
    }

    /// Everything before the manifest is published. After an interruption, what is stored by then is kept for the next run.
    async fn archive_unless(
        &mut self,
        interruption: &Interruption,
        reading: &mut StreamReading,
        request: &BackupRequest,
        options: &BackupOptions,
    ) -> anyhow::Result<Manifest> {
        let Self { session, index, host, monitor } = self;
        let named = index.named();
        let mut uploader = Uploader::new(Arc::clone(session), index, *options, Arc::clone(monitor));
        let publish_rejected = options.publish_rejected;
        let run = Archiving { session, host, named, monitor: monitor.as_ref(), publish_rejected };
        let archived = unless(interruption, run.archive(&mut uploader, reading, request)).await;
        keep_if_interrupted(&archived, &mut uploader).await;
        archived
    }

    /// What stores chunks, for a run that gets them otherwise than from a stream.
    pub(crate) fn uploader(&mut self, options: &BackupOptions) -> Uploader<'_> {
        Uploader::new(Arc::clone(&self.session), &mut self.index, *options, Arc::clone(&self.monitor))
    }
}

/// After an interruption, has what is stored by then kept for the next run.
pub(crate) async fn keep_if_interrupted<T>(stored: &anyhow::Result<T>, uploader: &mut Uploader<'_>) {
    if !stored.as_ref().is_err_and(|error| error.downcast_ref::<Interrupted>().is_some()) {
        return;
    }
    match tokio::time::timeout(INTERRUPTED_ENDS_WITHIN, uploader.keep_what_is_stored()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(error = %format!("{error:#}"), "the next run stores it again"),
        Err(_late) => tracing::debug!("the next run stores it again"),
    }
}

/// Says that a session is alive while something goes on in it.
pub(crate) async fn with_beats<T>(session: &WriteSession, work: impl Future<Output = T>) -> T {
    tokio::select! {
        done = work => done,
        never = send_beats(session) => match never {},
    }
}

/// Ends a session without a manifest, if the store lets us.
async fn give_up(session: &WriteSession) {
    if let Err(error) = session.abandon().await {
        tracing::debug!(error = %format!("{error:#}"), "the session stays open until the next run");
    }
}

/// Puts a sign of life now and then, so that a long run is not taken for a dead one. One that is not put is made up for
/// by the next.
pub(crate) async fn send_beats(session: &WriteSession) -> Infallible {
    loop {
        tokio::time::sleep(BEAT_EVERY).await;
        if let Err(error) = session.beat().await {
            tracing::warn!(error = %format!("{error:#}"), "saying that the session is alive");
        }
    }
}

/// Looks at what the repository has, and clears away what dead runs have left half-stored.
async fn look_around(repository: &Repository, host: &Host, monitor: &dyn Monitor) -> anyhow::Result<ChunkIndex> {
    let index = ChunkIndex::open(repository, &host.index_directory, Access::Exclusive, &host.cache, monitor).await?;
    if let Some(open_since) = index.open_since() {
        remove_unfinished(repository, open_since).await;
    }
    Ok(index)
}

/// Removes objects that were begun before any of the open sessions: nobody waits for them. Nothing hangs on it.
async fn remove_unfinished(repository: &Repository, open_since: Timestamp) {
    // Some stores tell such times in whole seconds.
    let Ok(before) = Timestamp::from_second(open_since.as_second()) else { return };
    // Packs alone are large enough to be stored in parts. In other places there may be what is none of ours.
    let remove = |class| repository.store().remove_unfinished(layout::packs(class), before);
    let (data, meta) = tokio::join!(remove(PackClass::Data), remove(PackClass::Meta));
    for removed in [data, meta] {
        match removed {
            Ok(0) => {}
            Ok(count) => tracing::info!("removed {count} unfinished uploads of runs that are dead"),
            Err(error) => tracing::info!("{error}: they take up room until they are removed"),
        }
    }
}
