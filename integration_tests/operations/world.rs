//! A repository in memory, hosts that write to it, and what tests ask of them.

use std::fs;
use std::io::{self, Cursor, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::Context;
use btrfs_to_s3::backup::{
    BackupOptions, BackupRequest, BackupRun, BackupSummary, Expected, Host, Stream, StreamSource, never_interrupted,
};
use btrfs_to_s3::chunker::ChunkerParameters;
use btrfs_to_s3::clock::Clock;
use btrfs_to_s3::id::ManifestId;
use btrfs_to_s3::monitor::{Counter, Monitor};
use btrfs_to_s3::records::manifest::Parent;
use btrfs_to_s3::repository::Repository;
use btrfs_to_s3::repository::cache::RecordCache;
use btrfs_to_s3::repository::catalog::{Catalog, Published, read_chain};
use btrfs_to_s3::restore::{RestoreOptions, StreamSink, restore_stream};
use btrfs_to_s3::store::memory::MemoryStore;
use btrfs_to_s3::store::{Key, ObjectStore, Store, Tier, list_all};
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use tempfile::TempDir;

use crate::samples::Sample;

/// Listings come in pages of so many objects, so that small repositories have several.
const PAGE_OBJECTS: usize = 3;

/// A clock that goes on by a step whenever it is asked.
#[derive(Debug)]
pub(crate) struct SteppingClock {
    seconds: AtomicI64,
    step_seconds: i64,
}

impl SteppingClock {
    pub(crate) fn new(step: SignedDuration) -> Arc<Self> {
        Arc::new(Self { seconds: AtomicI64::new(1_700_000_000), step_seconds: step.as_secs() })
    }
}

impl Clock for SteppingClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(self.seconds.fetch_add(self.step_seconds, Ordering::Relaxed)).unwrap()
    }
}

/// Keeps what an operation says.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    warnings: Mutex<Vec<String>>,
    problems: Mutex<Vec<String>>,
}

impl Notes {
    pub(crate) fn warnings(&self) -> Vec<String> {
        self.warnings.lock().unwrap().clone()
    }

    pub(crate) fn problems(&self) -> Vec<String> {
        self.problems.lock().unwrap().clone()
    }
}

impl Monitor for Notes {
    fn add(&self, _counter: Counter, _amount: u64) {}

    fn warn(&self, message: &str) {
        self.warnings.lock().unwrap().push(message.to_owned());
    }

    fn problem(&self, message: &str) {
        self.problems.lock().unwrap().push(message.to_owned());
    }
}

/// Options with which a few megabytes make several packs and segments.
pub(crate) fn small_options() -> BackupOptions {
    BackupOptions {
        frame_target_bytes: 1 << 20,
        pack_target_bytes: 64 << 10,
        compression_level: 1,
        uploads_in_flight: 2,
        frames_in_flight: 2,
        batch_bytes: 256 << 10,
        segment_chunks: 48,
        names_in_memory: 8,
        publish_rejected: false,
    }
}

/// A stream in memory, and what its producer says at its end.
pub(crate) struct MemorySource {
    bytes: Cursor<Vec<u8>>,
    complaint: Option<&'static str>,
}

impl MemorySource {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self { bytes: Cursor::new(bytes), complaint: None }
    }

    pub(crate) fn with_complaint(self, complaint: &'static str) -> Self {
        Self { complaint: Some(complaint), ..self }
    }
}

impl Read for MemorySource {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.bytes.read(buffer)
    }
}

impl StreamSource for MemorySource {
    fn finish(self: Box<Self>) -> anyhow::Result<()> {
        match self.complaint {
            None => Ok(()),
            Some(complaint) => anyhow::bail!("{complaint}"),
        }
    }
}

/// Takes a restored stream; clones share what was taken.
#[derive(Debug, Clone, Default)]
pub(crate) struct MemorySink(Arc<Mutex<Vec<u8>>>);

impl MemorySink {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().clone()
    }
}

impl Write for MemorySink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl StreamSink for MemorySink {
    fn finish(self: Box<Self>) -> anyhow::Result<()> {
        Ok(())
    }
}

/// A backup that was made, and the stream it should give back.
#[derive(Debug, Clone)]
pub(crate) struct Made {
    pub(crate) id: ManifestId,
    pub(crate) stream: Vec<u8>,
    pub(crate) parent: Option<Parent>,
}

/// A repository in memory, and a folder for what its hosts remember.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) memory: Arc<MemoryStore>,
    pub(crate) clock: Arc<dyn Clock>,
    folder: TempDir,
}

impl World {
    /// Without a repository yet.
    pub(crate) fn empty() -> Self {
        Self::with_clock(SteppingClock::new(SignedDuration::from_secs(1)))
    }

    pub(crate) fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self::with_pages(clock, PAGE_OBJECTS)
    }

    /// Whose listings come in pages of so many objects.
    pub(crate) fn with_pages(clock: Arc<dyn Clock>, page_objects: usize) -> Self {
        let memory = Arc::new(MemoryStore::new(Arc::clone(&clock)).with_page_size(page_objects));
        Self { memory, clock, folder: tempfile::tempdir().unwrap() }
    }

    /// With an empty repository.
    pub(crate) async fn new() -> Self {
        let world = Self::empty();
        world.init(world.store()).await.unwrap();
        world
    }

    pub(crate) async fn init(&self, store: Store) -> anyhow::Result<Repository> {
        Repository::init(store, ChunkerParameters::with_average(16 << 10), Arc::clone(&self.clock)).await
    }

    pub(crate) fn store(&self) -> Store {
        Arc::clone(&self.memory) as Store
    }

    pub(crate) async fn open(&self) -> Repository {
        self.open_through(self.store()).await.unwrap()
    }

    /// The repository as seen through a store around the one in memory.
    pub(crate) async fn open_through(&self, store: Store) -> anyhow::Result<Repository> {
        Repository::open(store, Arc::clone(&self.clock)).await
    }

    /// The same objects and folders once more.
    pub(crate) async fn copy(&self) -> Self {
        let copy = Self::with_clock(Arc::clone(&self.clock));
        for (key, body) in self.objects("").await {
            copy.put(&key, body).await;
        }
        copy_folder(self.folder.path(), copy.folder.path());
        copy
    }

    pub(crate) fn host(&self, name: &str) -> Host {
        let folder = self.folder.path().join(name);
        Host {
            name: name.to_owned(),
            machine: format!("machine of {name}"),
            index_directory: folder.join("index"),
            cache: RecordCache::in_folder(folder.join("records")),
            scratch_directory: folder.join("scratch"),
        }
    }

    /// Whether a restore has left something behind.
    pub(crate) fn has_scratch(&self) -> bool {
        fs::read_dir(self.folder.path().join("scratch")).is_ok_and(|mut entries| entries.next().is_some())
    }

    /// Where a host keeps what it remembers.
    pub(crate) fn host_folder(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) async fn keys(&self, prefix: &str) -> Vec<Key> {
        list_all(self.memory.as_ref(), prefix).await.unwrap().into_iter().map(|object| object.key).collect()
    }

    pub(crate) async fn objects(&self, prefix: &str) -> Vec<(Key, Bytes)> {
        let mut objects = Vec::new();
        for key in self.keys(prefix).await {
            let body = self.body(&key).await;
            objects.push((key, body));
        }
        objects
    }

    pub(crate) async fn body(&self, key: &Key) -> Bytes {
        self.memory.get(key, u64::MAX).await.unwrap()
    }

    /// Puts other bytes in the place of an object, as no store of ours would.
    pub(crate) async fn replace(&self, key: &Key, body: Bytes) {
        self.memory.delete(key).await.unwrap();
        self.put(key, body).await;
    }

    pub(crate) async fn put(&self, key: &Key, body: Bytes) {
        self.memory.put(key, body, Tier::Metadata).await.unwrap();
    }

    /// Backs a sample up from host `one`; everything has to go well.
    pub(crate) async fn back_up(&self, sample: &Sample) -> Made {
        self.back_up_from("one", sample).await
    }

    pub(crate) async fn back_up_from(&self, host: &str, sample: &Sample) -> Made {
        let repository = self.open().await;
        let notes = Arc::new(Notes::default());
        let stream = sample.stream();
        let made = back_up(&repository, &self.host(host), stream.clone(), Expected::Anything, &notes).await.unwrap();
        assert_eq!(notes.problems(), Vec::<String>::new());
        Made::new(&made, stream)
    }

    /// Checks that all of these backups are in the catalog, which has no damage, and restore; gives their ids.
    pub(crate) async fn assert_restorable(&self, made: &[Made]) {
        let repository = self.open().await;
        let catalog = Catalog::load(&repository, &RecordCache::none()).await.unwrap();
        assert!(catalog.damaged.is_empty(), "{:?}", catalog.damaged);
        for backup in made {
            assert!(catalog.published.iter().any(|published| published.id() == backup.id), "{} is gone", backup.id);
            let restored = self.restore(backup.id).await.unwrap();
            assert_same_bytes(&restored, &backup.stream);
        }
    }

    pub(crate) async fn published(&self) -> Vec<ManifestId> {
        let catalog = Catalog::load(&self.open().await, &RecordCache::none()).await.unwrap();
        catalog.published.iter().map(Published::id).collect()
    }

    pub(crate) async fn restore(&self, id: ManifestId) -> anyhow::Result<Vec<u8>> {
        self.restore_through(&self.open().await, id).await
    }

    pub(crate) async fn restore_through(&self, repository: &Repository, id: ManifestId) -> anyhow::Result<Vec<u8>> {
        let sink = MemorySink::default();
        self.restore_into(repository, id, &sink, &Arc::new(Notes::default())).await?;
        Ok(sink.bytes())
    }

    /// Restores as the command line does: with all that a backup was made against looked at first.
    pub(crate) async fn restore_into(
        &self,
        repository: &Repository,
        id: ManifestId,
        sink: &MemorySink,
        notes: &Arc<Notes>,
    ) -> anyhow::Result<()> {
        let chain = read_chain(repository, id).await?;
        let backup = chain.last().context("a chain has a backup")?;
        let options = RestoreOptions::new(self.folder.path().join("scratch"));
        let monitor = Arc::clone(notes) as Arc<dyn Monitor>;
        let sink =
            Box::pin(restore_stream(repository, &backup.manifest, Box::new(sink.clone()), &options, &monitor)).await?;
        sink.finish()
    }
}

impl Made {
    pub(crate) fn new(summary: &BackupSummary, stream: Vec<u8>) -> Self {
        let origin = summary.manifest.version();
        let parent = origin.map(|origin| Parent {
            manifest: summary.id(),
            digest: summary.digest,
            uuid: origin.uuid,
            ctransid: origin.ctransid,
        });
        Self { id: summary.id(), stream, parent }
    }
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

pub(crate) fn request(expected: Expected) -> BackupRequest {
    let created_at = Timestamp::from_second(1_600_000_000).unwrap();
    BackupRequest { subvolume: "data".to_owned(), created_at, expected, compressed_data: false }
}

/// A whole run with small options.
pub(crate) async fn back_up(
    repository: &Repository,
    host: &Host,
    stream: Vec<u8>,
    expected: Expected,
    notes: &Arc<Notes>,
) -> anyhow::Result<BackupSummary> {
    let run = begin(repository, host, notes).await?;
    Box::pin(publish(run, MemorySource::new(stream), expected)).await
}

pub(crate) async fn begin(repository: &Repository, host: &Host, notes: &Arc<Notes>) -> anyhow::Result<BackupRun> {
    Box::pin(BackupRun::begin(repository, host, "data", &(Arc::clone(notes) as Arc<dyn Monitor>))).await
}

pub(crate) async fn publish(run: BackupRun, source: MemorySource, expected: Expected) -> anyhow::Result<BackupSummary> {
    let stream = Stream { source: Box::new(source), stop: None, interruption: never_interrupted() };
    Box::pin(run.publish(stream, &request(expected), &small_options())).await
}

#[track_caller]
pub(crate) fn assert_same_bytes(one: &[u8], other: &[u8]) {
    if one != other {
        let first_difference = one.iter().zip(other).position(|(a, b)| a != b);
        panic!("{} and {} bytes, first different: {first_difference:?}", one.len(), other.len());
    }
}
