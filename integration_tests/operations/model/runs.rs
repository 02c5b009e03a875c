//! Hosts, and what they run.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use btrfs_to_s3::backup::{
    BackupOptions, BackupRequest, BackupRun, BackupSummary, Expected, Host, Stream, never_interrupted,
};
use btrfs_to_s3::clock::Clock;
use btrfs_to_s3::forget::unforget;
use btrfs_to_s3::id::{ManifestId, Randomness};
use btrfs_to_s3::monitor::Monitor;
use btrfs_to_s3::prune::{MaxUnused, MergeOptions, PruneOptions, PruneReport, RepackOptions, Voiding, prune};
use btrfs_to_s3::records::manifest::{BackupKind, Parent};
use btrfs_to_s3::repository::Repository;
use btrfs_to_s3::repository::cache::RecordCache;
use btrfs_to_s3::repository::catalog::{Catalog, Published, read_chain};
use btrfs_to_s3::restore::{RestoreOptions, restore_stream};
use btrfs_to_s3::store::Store;
use btrfs_to_s3::store::retry::{RetryPolicy, RetryStore};
use jiff::{SignedDuration, Timestamp};

use crate::model::board::{Board, BoardStore, RunId};
use crate::model::mending::{Checkup, Repaired};
use crate::model::quiet::{Readers, Task, WatchedSource};
use crate::samples::{Sample, origin};
use crate::world::{MemorySink, Notes};

/// Time as it is, in seconds.
#[derive(Debug)]
pub(crate) struct WorldClock(AtomicI64);

impl WorldClock {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(AtomicI64::new(1_700_000_000)))
    }

    pub(crate) fn pass(&self, seconds: u32) {
        self.0.fetch_add(i64::from(seconds), Ordering::Relaxed);
    }
}

impl Clock for WorldClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(self.0.load(Ordering::Relaxed)).unwrap()
    }
}

/// A clock that is wrong by some seconds.
#[derive(Debug)]
pub(crate) struct HostClock {
    world: Arc<WorldClock>,
    offset: AtomicI64,
}

impl HostClock {
    /// Sets it; says whether that is back.
    pub(crate) fn set(&self, offset_seconds: i64) -> bool {
        self.offset.swap(offset_seconds, Ordering::Relaxed) > offset_seconds
    }
}

impl Clock for HostClock {
    fn now(&self) -> Timestamp {
        let seconds = self.world.0.load(Ordering::Relaxed) + self.offset.load(Ordering::Relaxed);
        Timestamp::from_second(seconds).unwrap()
    }
}

/// Where what a host remembers is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Memory {
    Own,
    Lost,
    Old,
    Foreign,
}

/// A host. Its folder is another one after each accident, so that what still runs keeps its own.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) name: &'static str,
    pub(crate) clock: Arc<HostClock>,
    pub(crate) running: Option<RunId>,
    pub(crate) folder: PathBuf,
    pub(crate) memory: Memory,
    pub(crate) copy: Option<PathBuf>,
    home: PathBuf,
    folders: usize,
}

impl Machine {
    pub(crate) fn new(name: &'static str, below: &Path, world: &Arc<WorldClock>) -> Self {
        let home = below.join(name);
        let clock = Arc::new(HostClock { world: Arc::clone(world), offset: AtomicI64::new(0) });
        let folder = home.join("0");
        Self { name, clock, running: None, folder, memory: Memory::Own, copy: None, home, folders: 0 }
    }

    fn new_folder(&mut self) -> PathBuf {
        self.folders += 1;
        self.home.join(self.folders.to_string())
    }

    /// Keeps a copy of what the host remembers.
    pub(crate) fn keep_copy(&mut self) {
        let copy = self.new_folder();
        copy_folder(&self.folder, &copy);
        self.copy = Some(copy);
    }

    /// Has the host remember what is in another folder, or nothing.
    pub(crate) fn replace_memory(&mut self, memory: Memory, from: Option<&Path>) {
        self.folder = self.new_folder();
        if let Some(from) = from {
            copy_folder(from, &self.folder);
        }
        self.memory = memory;
    }

    fn host(&self) -> Host {
        Host {
            name: self.name.to_owned(),
            machine: format!("machine of {}", self.name),
            index_directory: self.folder.join("index"),
            cache: RecordCache::in_folder(self.folder.join("records")),
            scratch_directory: self.folder.join("scratch"),
        }
    }
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).into_iter().flatten() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// What a backup shall be of.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) subvolume: &'static str,
    pub(crate) number: u8,
    pub(crate) files: Vec<Vec<u8>>,
    pub(crate) incremental: bool,
    /// Whether it is as its last backup has it.
    pub(crate) unchanged: bool,
}

/// What a run has come to.
#[derive(Debug)]
pub(crate) enum Report {
    Backup(Box<anyhow::Result<BackupSummary>>),
    Restore(ManifestId, anyhow::Result<Vec<u8>>),
    Listing(anyhow::Result<BTreeSet<ManifestId>>),
    Prune(Box<anyhow::Result<PruneReport>>),
    Unforget(ManifestId, Box<anyhow::Result<BackupSummary>>),
    Repair(Box<anyhow::Result<Repaired>>),
    Check(Box<anyhow::Result<Checkup>>),
}

/// What a run is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Backup,
    /// It changes nothing.
    Look,
    Prune,
    Unforget,
    Repair,
    /// It may forget what is damaged.
    Check,
}

/// What a run tells while it goes on.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) notes: Arc<Notes>,
    /// What the catalog showed it.
    pub(crate) seen: Mutex<Option<BTreeSet<ManifestId>>>,
}

impl Report {
    pub(crate) fn error(&self) -> Option<&anyhow::Error> {
        match self {
            Self::Backup(ended) | Self::Unforget(_, ended) => ended.as_ref().as_ref().err(),
            Self::Restore(_, ended) => ended.as_ref().err(),
            Self::Listing(ended) => ended.as_ref().err(),
            Self::Prune(ended) => ended.as_ref().as_ref().err(),
            Self::Repair(ended) => ended.as_ref().as_ref().err(),
            Self::Check(ended) => ended.as_ref().as_ref().err(),
        }
    }
}

/// What has happened to a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mark {
    WasSuspended,
    /// The host goes on without it, from a copy.
    LeftBehind,
    /// It began while another of its kind was under way.
    Overlaps,
    /// It began while the plan of a prune was there.
    MetPlan,
}

/// Something that a host does.
pub(crate) struct Run {
    pub(crate) id: RunId,
    pub(crate) host: usize,
    pub(crate) kind: Kind,
    pub(crate) task: Task<Report>,
    pub(crate) told: Arc<Told>,
    /// Requests that did not go well.
    pub(crate) faults: usize,
    /// So many of the next requests fail.
    pub(crate) outage: usize,
    pub(crate) is_suspended: bool,
    pub(crate) marks: BTreeSet<Mark>,
    /// What was published when it began.
    pub(crate) published_before: BTreeSet<ManifestId>,
}

impl Run {
    pub(crate) fn has(&self, mark: Mark) -> bool {
        self.marks.contains(&mark)
    }
}

/// The streams of backups, and how many packs had been lost when their runs began.
pub(crate) type Streams = BTreeMap<RunId, (Vec<u8>, usize)>;

/// What all runs of a schedule have in common.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    pub(crate) board: Arc<Board>,
    pub(crate) readers: Arc<Readers>,
    pub(crate) ids: Arc<dyn Randomness>,
    pub(crate) scratch: PathBuf,
    pub(crate) streams: Arc<Mutex<Streams>>,
}

/// A host's side of a run.
pub(crate) struct Client {
    pub(crate) shared: Shared,
    pub(crate) host: Host,
    clock: Arc<dyn Clock>,
    store: Store,
    told: Arc<Told>,
    run: RunId,
    packs_lost_before: usize,
}

/// A failed request is tried again at once: how long that takes is for the schedule to say.
fn retry_policy() -> RetryPolicy {
    let none = Duration::ZERO;
    RetryPolicy { tries: 3, first_delay: none, longest_delay: none }
}

/// Options with which some kilobytes make several packs and segments.
fn tiny_options() -> BackupOptions {
    BackupOptions {
        frame_target_bytes: 1 << 10,
        pack_target_bytes: 1500,
        compression_level: 1,
        uploads_in_flight: 2,
        frames_in_flight: 1,
        batch_bytes: 1 << 20,
        segment_chunks: 3,
        names_in_memory: 100,
        publish_rejected: false,
    }
}

fn tiny_repack(max_unused: MaxUnused) -> RepackOptions {
    let BackupOptions { frame_target_bytes, pack_target_bytes, compression_level, uploads_in_flight, .. } =
        tiny_options();
    // Prunes that rewrite merge what they can, and make tables.
    let merging = match max_unused {
        MaxUnused::Unlimited => MergeOptions::default(),
        _ => MergeOptions { small_least: 2, gone_least: 1, untabled_bytes_max: 0, ..MergeOptions::default() },
    };
    RepackOptions {
        max_unused,
        merging,
        frame_target_bytes,
        pack_target_bytes,
        compression_level,
        uploads_in_flight,
        ..RepackOptions::default()
    }
}

impl Client {
    pub(crate) fn new(
        shared: &Shared,
        machine: &Machine,
        run: RunId,
        told: &Arc<Told>,
        packs_lost_before: usize,
    ) -> Self {
        let board = BoardStore { board: Arc::clone(&shared.board), run };
        Self {
            shared: shared.clone(),
            host: machine.host(),
            clock: Arc::clone(&machine.clock) as Arc<dyn Clock>,
            store: Arc::new(RetryStore::new(Arc::new(board), retry_policy())),
            told: Arc::clone(told),
            run,
            packs_lost_before,
        }
    }

    pub(crate) async fn open(&self) -> anyhow::Result<Repository> {
        let repository = Repository::open(Arc::clone(&self.store), Arc::clone(&self.clock)).await?;
        Ok(repository.with_randomness(Arc::clone(&self.shared.ids)))
    }

    pub(crate) fn monitor(&self) -> Arc<dyn Monitor> {
        Arc::clone(&self.told.notes) as Arc<dyn Monitor>
    }

    async fn catalog(&self, repository: &Repository) -> anyhow::Result<Catalog> {
        let catalog = Catalog::load(repository, &self.host.cache).await?;
        for error in &catalog.damaged {
            self.monitor().problem(&format!("{error:#}"));
        }
        *self.told.seen.lock().unwrap() = Some(catalog.published.iter().map(Published::id).collect());
        Ok(catalog)
    }

    /// As a job does it: the parent is looked for when the session has begun.
    pub(crate) async fn back_up(self, plan: Plan) -> Report {
        Report::Backup(Box::new(self.publish(plan).await))
    }

    async fn publish(&self, plan: Plan) -> anyhow::Result<BackupSummary> {
        let repository = self.open().await?;
        let run = BackupRun::begin(&repository, &self.host, plan.subvolume, &self.monitor()).await?;
        let parent = match self.newest(&repository, &plan).await {
            Ok(parent) => parent,
            Err(error) => {
                run.give_up().await;
                return Err(error);
            }
        };
        if let Some(parent) = parent.as_ref().filter(|_| plan.unchanged) {
            self.shared.streams.lock().unwrap().insert(self.run, (Vec::new(), self.packs_lost_before));
            return run.publish_unchanged(parent, self.clock.now(), &never_interrupted()).await;
        }
        let parent = parent.as_ref().and_then(Published::as_parent);
        let sample =
            Sample { parent: parent.as_ref().map(Parent::version), ..Sample::of_files(plan.number, plan.files) };
        let bytes = sample.stream();
        self.shared.streams.lock().unwrap().insert(self.run, (bytes.clone(), self.packs_lost_before));
        let request = BackupRequest {
            subvolume: plan.subvolume.to_owned(),
            created_at: self.clock.now(),
            expected: Expected::Snapshot { subject: origin(plan.number), parent },
            compressed_data: false,
        };
        let source = Box::new(WatchedSource::new(bytes, &self.shared.readers));
        run.publish(Stream { source, stop: None, interruption: never_interrupted() }, &request, &tiny_options()).await
    }

    /// The backup that the next one is made against.
    async fn newest(&self, repository: &Repository, plan: &Plan) -> anyhow::Result<Option<Published>> {
        if !plan.incremental && !plan.unchanged {
            return Ok(None);
        }
        let catalog = self.catalog(repository).await?;
        let ours =
            |backup: &&Published| backup.manifest.host == self.host.name && backup.manifest.subvolume == plan.subvolume;
        let has_stream = |backup: &&Published| backup.manifest.kind != BackupKind::Unchanged;
        Ok(catalog.published.iter().filter(has_stream).rfind(ours).cloned())
    }

    pub(crate) async fn restore(self, id: ManifestId) -> Report {
        let restored = match self.open().await {
            Ok(repository) => restore(&repository, id, &self.shared.scratch, &self.monitor()).await,
            Err(error) => Err(error),
        };
        Report::Restore(id, restored)
    }

    pub(crate) async fn unforget(self, id: ManifestId) -> Report {
        let published = match self.open().await {
            Ok(repository) => unforget(&repository, &self.host, id, &never_interrupted(), &self.monitor()).await,
            Err(error) => Err(error),
        };
        Report::Unforget(id, Box::new(published))
    }

    pub(crate) async fn prune(self, grace: SignedDuration, max_unused: MaxUnused) -> Report {
        let options = PruneOptions { grace, voiding: Voiding::IfSafe, dry_run: false, repack: tiny_repack(max_unused) };
        let pruned = match self.open().await {
            Ok(repository) => prune(&repository, &self.host, &options, &self.monitor()).await,
            Err(error) => Err(error),
        };
        Report::Prune(Box::new(pruned))
    }

    pub(crate) async fn list(self) -> Report {
        let listed = match self.open().await {
            Ok(repository) => self.catalog(&repository).await,
            Err(error) => Err(error),
        };
        Report::Listing(listed.map(|catalog| catalog.published.iter().map(Published::id).collect()))
    }
}

/// The stream of a backup.
pub(crate) async fn restore(
    repository: &Repository,
    id: ManifestId,
    scratch: &Path,
    monitor: &Arc<dyn Monitor>,
) -> anyhow::Result<Vec<u8>> {
    let chain = read_chain(repository, id).await?;
    let backup = chain.iter().rfind(|backup| backup.manifest.kind != BackupKind::Unchanged).unwrap();
    let (sink, options) = (MemorySink::default(), RestoreOptions::new(scratch.to_owned()));
    let sink_end = restore_stream(repository, &backup.manifest, Box::new(sink.clone()), &options, monitor).await?;
    sink_end.finish()?;
    Ok(sink.bytes())
}
