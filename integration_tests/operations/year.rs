//! A year of nights: whole runs by a schedule, on a clock that is driven and sometimes wrong, with failures and kills.

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use btrfs_to_s3::backup::never_interrupted;
use btrfs_to_s3::btrfs::snapshots::SnapshotName;
use btrfs_to_s3::clock::Clock;
use btrfs_to_s3::config::{Config, SubvolumeConfig};
use btrfs_to_s3::job::{Done, FileSystem, Job, Outcome, Schedule};
use btrfs_to_s3::monitor::{Counter, Monitor};
use btrfs_to_s3::records::manifest::BackupKind;
use btrfs_to_s3::repository::cache::RecordCache;
use btrfs_to_s3::repository::catalog::{Catalog, Published, read_streamed};
use btrfs_to_s3::schedule::Policy;
use btrfs_to_s3::store::faulty::{Fault, FaultyStore};
use btrfs_to_s3::store::{Store, StoreErrorKind};
use futures_util::FutureExt;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::file_system::MemoryFileSystem;
use crate::samples::random_bytes;
use crate::world::{Notes, World, assert_same_bytes, small_options};

const DAY_MS: i64 = 24 * 60 * 60 * 1000;
const HOUR_MS: i64 = 60 * 60 * 1000;
/// 2026-01-05 at 02:30 in UTC.
const FIRST_NIGHT_MS: i64 = 1_767_580_200_000;
const QUARTER: i64 = 92;

/// A clock that goes on by a millisecond whenever it is asked, and can be set.
#[derive(Debug)]
struct DrivenClock(AtomicI64);

impl Clock for DrivenClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millisecond(self.0.fetch_add(1, Ordering::SeqCst)).unwrap()
    }
}

/// Ends the run, as SIGKILL does, when it reads a stream: nothing of it is cleared away.
#[derive(Debug)]
struct Killer;

impl Monitor for Killer {
    fn add(&self, counter: Counter, _amount: u64) {
        if counter == Counter::StreamBytes {
            resume_unwind(Box::new("killed"));
        }
    }

    fn warn(&self, _message: &str) {}

    fn problem(&self, _message: &str) {}
}

/// A host that backs up subvolumes in memory.
pub(crate) struct Machine {
    pub(crate) world: World,
    clock: Arc<DrivenClock>,
    pub(crate) file_system: Arc<MemoryFileSystem>,
    pub(crate) subvolumes: Vec<SubvolumeConfig>,
    policy: Policy,
    snapshots_retained: usize,
    pub(crate) subvolumes_at_once: usize,
}

impl Machine {
    async fn new() -> Self {
        Self::configured("[[subvolumes]]\npath = '/pool/busy'\n[[subvolumes]]\npath = '/pool/quiet'").await
    }

    /// With these sections for its subvolumes.
    pub(crate) async fn configured(subvolumes: &str) -> Self {
        let clock = Arc::new(DrivenClock(AtomicI64::new(FIRST_NIGHT_MS - DAY_MS)));
        let world = World::with_pages(Arc::clone(&clock) as Arc<dyn Clock>, 1000);
        world.init(world.store()).await.unwrap();
        let schedule = "[schedule]\nfull_every = '30d'\nmax_chain_length = 25";
        let config = Config::parse(&format!("repository = 'r'\n{schedule}\n{subvolumes}"), "c.toml").unwrap();
        let (subvolumes, policy) = (config.subvolumes, config.schedule.unwrap());
        let file_system = Arc::default();
        Self { world, clock, file_system, subvolumes, policy, snapshots_retained: 2, subvolumes_at_once: 1 }
    }

    /// A day later.
    pub(crate) fn tomorrow(&self) {
        self.clock.0.fetch_add(DAY_MS, Ordering::SeqCst);
    }

    fn set_clock(&self, ms: i64) {
        self.clock.0.store(ms, Ordering::SeqCst);
    }

    pub(crate) async fn job(&self, store: Store, monitor: Arc<dyn Monitor>) -> anyhow::Result<Job> {
        let folder = self.world.host_folder("one");
        Ok(Job {
            repository: self.world.open_through(store).await?,
            host: self.world.host("one"),
            file_system: Arc::clone(&self.file_system) as _,
            options: small_options(),
            snapshots_retained: self.snapshots_retained,
            subvolumes_at_once: self.subvolumes_at_once,
            schedule: Some(Schedule { policy: self.policy, zone: TimeZone::UTC }),
            once: false,
            full: false,
            monitor,
            interruption: never_interrupted(),
            scratch_directory: folder.join("scratch"),
            journal_directory: folder.join("journal"),
        })
    }

    /// A run that has to go well.
    pub(crate) async fn run(&self) -> Vec<Outcome> {
        let notes = Arc::new(Notes::default());
        let job = self.job(self.world.store(), Arc::clone(&notes) as _).await.unwrap();
        let outcomes = job.run(&self.subvolumes).await;
        assert_eq!(notes.problems(), Vec::<String>::new());
        for outcome in &outcomes {
            assert!(outcome.result.is_ok(), "{outcome:?}");
        }
        outcomes
    }

    /// A run whose store fails from its `first` operation on; says whether it has got so far.
    pub(crate) async fn run_failing(&self, first: u64) -> bool {
        let faulty =
            Arc::new(FaultyStore::new(self.world.store()).with_fault(Fault::From(first), StoreErrorKind::Transient));
        if let Ok(job) = self.job(Arc::clone(&faulty) as Store, Arc::new(Notes::default())).await {
            let outcomes = job.run(&self.subvolumes).await;
            assert!(!faulty.has_failed() || outcomes.iter().any(|outcome| outcome.result.is_err()), "{outcomes:?}");
        }
        faulty.has_failed()
    }

    /// A run that is killed while it reads a stream.
    pub(crate) async fn run_killed(&self) {
        let job = self.job(self.world.store(), Arc::new(Killer)).await.unwrap();
        let died = AssertUnwindSafe(job.run(&self.subvolumes)).catch_unwind().await;
        assert!(died.is_err(), "a night with changes is killed");
    }

    /// The same, where there may be nothing to read.
    async fn run_killed_if_due(&self) {
        let job = self.job(self.world.store(), Arc::new(Killer)).await.unwrap();
        drop(AssertUnwindSafe(job.run(&self.subvolumes)).catch_unwind().await);
    }

    /// Restores the newest backup of each subvolume, with all that it needs, and compares each stream with what was sent.
    pub(crate) async fn restore_newest(&self) {
        let repository = self.world.open().await;
        let catalog = Catalog::load(&repository, &RecordCache::none()).await.unwrap();
        assert!(catalog.damaged.is_empty(), "{:?}", catalog.damaged);
        for subvolume in &self.subvolumes {
            let newest = catalog.published.iter().rfind(|backup| backup.manifest.subvolume == subvolume.name).unwrap();
            for backup in catalog.chain(newest).unwrap() {
                let streamed = read_streamed(&repository, backup.clone()).await.unwrap();
                let restored = self.world.restore(streamed.id()).await.unwrap();
                assert_same_bytes(&restored, &self.file_system.sent(streamed.manifest.version().unwrap().uuid));
            }
        }
    }
}

pub(crate) fn kinds(outcomes: &[Outcome]) -> Vec<Option<BackupKind>> {
    let kind = |outcome: &Outcome| match outcome.result.as_ref().unwrap() {
        Done::Published(summary) => Some(summary.manifest.kind),
        Done::NotDue(_) => None,
    };
    outcomes.iter().map(kind).collect()
}

/// What the clock shows on a night: two days are lived through again from night 100 on, and one night is a year ahead.
fn clock_of(night: i64) -> i64 {
    let shown = match night {
        200 => night + 365,
        100.. => night - 2,
        _ => night,
    };
    FIRST_NIGHT_MS + shown * DAY_MS + (night * 7_919) % 900_000
}

/// How many runs there were, and nights without a backup although nothing was wrong.
#[derive(Debug, Default)]
struct Tally {
    runs: i64,
    missed: i64,
}

/// Lives through one night: the files change, something may go wrong, and at last a run goes well.
async fn live(machine: &mut Machine, night: i64, tally: &mut Tally) {
    let number = u64::try_from(night).unwrap();
    let old = |seed: u64| random_bytes(seed, 5_000);
    machine.file_system.write("/pool/busy", (number.saturating_sub(4)..=number).map(old).collect());
    if night % 9 == 0 || machine.file_system.describe(Path::new("/pool/quiet")).is_err() {
        machine.file_system.write("/pool/quiet", vec![old(10_000 + number)]);
    }
    machine.set_clock(clock_of(night));
    machine.subvolumes_at_once = 1 + usize::from(night % 2 == 0);
    let troubled = night % 11 == 3 || night % 13 == 5 || night % 17 == 7;
    if night % 11 == 3 {
        machine.run_failing(1 + number % 60).await;
    } else if night % 13 == 5 {
        machine.run_killed().await;
    } else if night % 17 == 7 {
        machine.file_system.fail(Some("/pool/quiet"));
        let job = machine.job(machine.world.store(), Arc::new(Notes::default())).await.unwrap();
        let outcomes = job.run(&machine.subvolumes).await;
        assert!(outcomes[0].result.is_ok(), "{outcomes:?}");
        machine.file_system.fail(None);
    }
    if troubled {
        machine.set_clock(clock_of(night) + HOUR_MS / 2);
    }
    let outcomes = machine.run().await;
    tally.runs += 1 + i64::from(troubled);
    tally.missed += i64::from(!troubled && kinds(&outcomes)[0].is_none());
    for name in ["busy", "quiet"] {
        assert!((1..=3).contains(&machine.file_system.count(name)), "{}", machine.file_system.count(name));
    }
    if night % 40 == 17 {
        machine.restore_newest().await;
    }
}

/// A repository for each quarter, as the tests' program takes its time over the records of many nights.
#[tokio::test]
async fn a_year_of_nights_with_failures_kills_and_wrong_clocks_has_a_backup_of_each_night() {
    let mut tally = Tally::default();
    for quarter in 0..4 {
        let mut machine = Machine::new().await;
        for night in quarter * QUARTER..(quarter + 1) * QUARTER {
            live(&mut machine, night, &mut tally).await;
        }
        machine.restore_newest().await;
        let catalog = Catalog::load(&machine.world.open().await, &RecordCache::none()).await.unwrap();
        let count = |name: &str, kind| {
            let is_one = |backup: &&Published| backup.manifest.subvolume == name && backup.manifest.kind == kind;
            i64::try_from(catalog.published.iter().filter(is_one).count()).unwrap()
        };
        // One at the beginning, then one whenever the chain has 25 streams.
        let fulls = count("busy", BackupKind::Full);
        assert!((4..=6).contains(&fulls), "{fulls} full backups of what changes each night");
        assert!(fulls + count("busy", BackupKind::Incremental) >= QUARTER - 1);
        // Only where a night is run twice while there is a backup from the future.
        assert!(count("busy", BackupKind::Unchanged) < 15, "what changes each night is not passed over");
        assert!(count("quiet", BackupKind::Unchanged) > QUARTER / 2);
        for backup in &catalog.published {
            let chain = catalog.chain(backup).unwrap();
            let streams = chain.iter().filter(|backup| backup.manifest.kind != BackupKind::Unchanged).count();
            assert!(streams <= 25, "{streams} streams");
        }
    }
    assert!(tally.runs >= 365 + 60, "{} runs", tally.runs);
    // That in which the last backup from before the clock was set back is not from the future any more.
    assert!(tally.missed <= 1, "{} nights without a backup", tally.missed);
}

#[tokio::test]
async fn a_subvolume_that_fails_leaves_the_others_backed_up_and_only_it_due() {
    let machine = Machine::new().await;
    machine.file_system.write("/pool/quiet", vec![random_bytes(1, 1_000)]);
    let job = machine.job(machine.world.store(), Arc::new(Notes::default())).await.unwrap();
    let outcomes = job.run(&machine.subvolumes).await;
    assert!(outcomes[0].result.is_err() && outcomes[1].result.is_ok(), "{outcomes:?}");
    machine.file_system.write("/pool/busy", vec![random_bytes(2, 1_000)]);
    assert_eq!(kinds(&machine.run().await), [Some(BackupKind::Full), None]);
    assert_eq!(kinds(&machine.run().await), [None, None]);
}

#[tokio::test]
async fn a_stream_that_cannot_be_received_is_published_only_where_that_is_wanted_and_never_built_on() {
    let machine = Machine::new().await;
    let write = |seed| machine.file_system.write("/pool/busy", vec![random_bytes(seed, 1_000); 2]);
    machine.file_system.write("/pool/quiet", vec![random_bytes(1, 1_000)]);
    write(2);
    machine.run().await;
    machine.set_clock(FIRST_NIGHT_MS + 2 * DAY_MS);
    write(3);
    machine.file_system.garble(true);
    let run = async |publish_rejected| {
        let notes = Arc::new(Notes::default());
        let mut job = machine.job(machine.world.store(), Arc::clone(&notes) as _).await.unwrap();
        job.options.publish_rejected = publish_rejected;
        (job.run(&machine.subvolumes[..1]).await.pop().unwrap().result, notes.problems())
    };
    let (refused, problems) = run(false).await;
    assert!(refused.unwrap_err().to_string().contains("btrfs receive would fail"), "{problems:?}");
    let (published, problems) = run(true).await;
    let Done::Published(rejected) = published.unwrap() else { panic!("it was due") };
    assert_eq!((rejected.manifest.kind, &rejected.manifest.snapshot), (BackupKind::Full, &None));
    assert!(problems.iter().any(|problem| problem.contains("with --stream only")), "{problems:?}");
    let subject = machine.file_system.snapshots(Path::new("/pool"), "busy").unwrap().pop().unwrap();
    let restored = machine.world.restore(rejected.id()).await.unwrap();
    assert_same_bytes(&restored, &machine.file_system.sent(subject.info.uuid));
    // It counts for no backup, and the next one is made against the one before.
    machine.file_system.garble(false);
    assert_eq!(kinds(&machine.run().await)[0], Some(BackupKind::Incremental));
    let catalog = Catalog::load(&machine.world.open().await, &RecordCache::none()).await.unwrap();
    let parents: Vec<_> = catalog.published.iter().filter_map(|backup| backup.manifest.parent.as_ref()).collect();
    assert!(!parents.is_empty() && parents.iter().all(|parent| parent.manifest != rejected.id()), "{parents:?}");
}

#[tokio::test]
async fn a_store_that_fails_at_any_operation_of_noting_what_has_not_changed_leaves_all_well() {
    for first in 1.. {
        let machine = Machine::new().await;
        for path in ["/pool/busy", "/pool/quiet"] {
            machine.file_system.write(path, vec![random_bytes(1, 1_000)]);
        }
        machine.run().await;
        machine.set_clock(FIRST_NIGHT_MS + DAY_MS);
        let faulty =
            Arc::new(FaultyStore::new(machine.world.store()).with_fault(Fault::Before(first), StoreErrorKind::Other));
        if let Ok(job) = machine.job(Arc::clone(&faulty) as Store, Arc::new(Notes::default())).await {
            job.run(&machine.subvolumes).await;
        }
        machine.run().await;
        machine.restore_newest().await;
        assert_eq!((machine.file_system.count("busy"), machine.file_system.count("quiet")), (1, 1));
        if !faulty.has_failed() {
            assert!(first > 20, "only {first} operations");
            break;
        }
    }
}

#[tokio::test]
async fn snapshots_of_runs_that_failed_push_no_parent_out() {
    let machine = Machine { snapshots_retained: 1, ..Machine::new().await };
    for path in ["/pool/busy", "/pool/quiet"] {
        machine.file_system.write(path, vec![random_bytes(1, 1_000)]);
    }
    machine.run().await;
    machine.set_clock(FIRST_NIGHT_MS + 7 * DAY_MS);
    machine.file_system.write("/pool/busy", vec![random_bytes(2, 2_000)]);
    // Those that fail late have their snapshots by then. One that publishes its backup ends the row.
    let published = async || machine.world.published().await.len();
    let mut failed = 0;
    while published().await == 2 {
        failed += 1;
        machine.run_failing(failed).await;
        machine.run_killed_if_due().await;
    }
    assert!(failed > 20, "{failed} runs failed");
    let catalog = Catalog::load(&machine.world.open().await, &RecordCache::none()).await.unwrap();
    let is_full = |backup: &&Published| backup.manifest.kind == BackupKind::Full;
    assert_eq!(catalog.published.iter().filter(is_full).count(), 2, "the first ones");
    machine.set_clock(FIRST_NIGHT_MS + 8 * DAY_MS);
    machine.file_system.write("/pool/busy", vec![random_bytes(100, 2_000)]);
    assert_eq!(kinds(&machine.run().await)[0], Some(BackupKind::Incremental));
    assert_eq!(machine.file_system.count("busy"), 1);
    machine.restore_newest().await;
}

#[tokio::test]
async fn snapshots_taken_by_hand_push_no_parent_out() {
    let machine = Machine::new().await;
    for path in ["/pool/busy", "/pool/quiet"] {
        machine.file_system.write(path, vec![random_bytes(1, 1_000)]);
    }
    machine.run().await;
    for night in 1..4 {
        machine.set_clock(FIRST_NIGHT_MS + night * DAY_MS);
        for name in ["busy", "quiet"] {
            for _ in 0..4 {
                let name = SnapshotName::new(name, machine.clock.now()).unwrap();
                let path = Path::new("/pool/.btrfs_to_s3").join(name.to_string());
                machine.file_system.snapshot(&Path::new("/pool").join(name.subvolume()), &path).unwrap();
            }
        }
        // The generation has changed: whether anything else has, only a stream tells.
        assert_eq!(kinds(&machine.run().await), [Some(BackupKind::Incremental); 2]);
        assert_eq!((machine.file_system.count("busy"), machine.file_system.count("quiet")), (2, 2));
    }
}
