//! A chain whose packs are archived, over a store in memory that thaws by a clock.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use btrfs_to_s3::backup::{BackupOptions, Expected, Stream, never_interrupted};
use btrfs_to_s3::clock::Clock;
use btrfs_to_s3::id::PackId;
use btrfs_to_s3::monitor::Monitor;
use btrfs_to_s3::pack::format::PackClass;
use btrfs_to_s3::repository::Repository;
use btrfs_to_s3::repository::catalog::read_chain;
use btrfs_to_s3::repository::layout;
use btrfs_to_s3::restore::{
    DataListing, NotThawed, RestoreOptions, StreamSink, ThawAgain, ThawOptions, Thawing, data_packs, pack_states,
    restore_stream, thaw_packs,
};
use btrfs_to_s3::store::archiving::ArchivingStore;
use btrfs_to_s3::store::thaw::ThawTier;
use btrfs_to_s3::store::{StorageClassName, Store};
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use crate::samples::{Sample, origin, random_bytes};
use crate::world::{
    Made, MemorySink, MemorySource, Notes, World, assert_same_bytes, back_up, begin, request, small_options,
};

/// Goes with tokio's time, which passes as fast as nothing happens, and is that of a test besides.
#[derive(Debug)]
struct TokioClock(Instant, AtomicI64);

impl TokioClock {
    fn new() -> Arc<Self> {
        Arc::new(Self(Instant::now(), AtomicI64::new(0)))
    }

    fn pass_days(&self, days: i64) {
        self.1.fetch_add(days * 24 * 60 * 60, Ordering::Relaxed);
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + self.1.load(Ordering::Relaxed)).unwrap()
            + SignedDuration::try_from(self.0.elapsed()).unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn a_chain_of_several_increments_is_thawed_in_one_wave_and_waited_for_once() {
    let clock: Arc<dyn Clock> = TokioClock::new();
    let world = World::with_clock(Arc::clone(&clock));
    world.init(world.store()).await.unwrap();
    let mut made = world.back_up(&Sample::of_files(0, vec![random_bytes(0, 50_000)])).await;
    for number in 1..5 {
        let stream = Sample::of_files(number, vec![random_bytes(u64::from(number), 50_000)]).on(number - 1).stream();
        let expected = Expected::Snapshot { subject: origin(number), parent: made.parent };
        let notes = Arc::new(Notes::default());
        let summary = back_up(&world.open().await, &world.host("one"), stream.clone(), expected, &notes).await.unwrap();
        made = Made::new(&summary, stream);
    }
    let class: StorageClassName = "DEEP_ARCHIVE".parse().unwrap();
    let archive = Arc::new(ArchivingStore::new(world.store(), class.clone(), clock));
    let keys = world.keys("data/").await;
    assert!(keys.len() >= 5, "{} packs", keys.len());
    for key in &keys {
        archive.archive(key, &class);
    }

    let repository = world.open_through(Arc::clone(&archive) as Store).await.unwrap();
    let options = RestoreOptions::new(world.host_folder("scratch"));
    let monitor: Arc<dyn Monitor> = Arc::new(Notes::default());
    let (listing, mut packs) = (DataListing::of(&repository).await.unwrap(), BTreeSet::new());
    for backup in read_chain(&repository, made.id).await.unwrap() {
        packs.extend(data_packs(&repository, &backup.manifest, &listing, &options, &monitor).await.unwrap());
    }
    assert_eq!(packs.len(), keys.len());
    let thaw = ThawOptions {
        wait: true,
        timeout: Duration::from_hours(72),
        tier: ThawTier::Bulk,
        days: None,
        bytes_per_second: None,
    };
    let begun_at = Instant::now();
    thaw_packs(&repository, &packs, &thaw).await.unwrap();
    let hours = begun_at.elapsed().as_secs() / 3600;
    assert_eq!((hours, archive.take_requests().len(), archive.refused_reads()), (48, keys.len(), 0));
    assert_same_bytes(&world.restore_through(&repository, made.id).await.unwrap(), &made.stream);
}

/// A sink that lets days pass when it has got so many bytes.
struct SlowSink {
    inner: MemorySink,
    clock: Arc<TokioClock>,
    bytes_left: usize,
    days: i64,
}

impl Write for SlowSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes_left > 0 && bytes.len() >= self.bytes_left {
            self.clock.pass_days(self.days);
        }
        self.bytes_left = self.bytes_left.saturating_sub(bytes.len());
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl StreamSink for SlowSink {
    fn finish(self: Box<Self>) -> anyhow::Result<()> {
        Ok(())
    }
}

/// Random bytes in packs of 64 KiB.
async fn back_up_in_small_packs(world: &World, seed: u8) -> Made {
    let run = begin(&world.open().await, &world.host("one"), &Arc::new(Notes::default())).await.unwrap();
    let bytes = Sample::random(seed, 4_000_000).stream();
    let source = Box::new(MemorySource::new(bytes.clone()));
    let stream = Stream { source, stop: None, interruption: never_interrupted() };
    let options = BackupOptions { frame_target_bytes: 64 << 10, ..small_options() };
    Made::new(&run.publish(stream, &request(Expected::Anything), &options).await.unwrap(), bytes)
}

/// Two archived and thawed backups of which each has about forty packs of its own; the first one is to be restored, then the other.
struct Expiring {
    clock: Arc<TokioClock>,
    world: World,
    archive: Arc<ArchivingStore>,
    repository: Repository,
    made: [Made; 2],
}

const THAW: ThawOptions = ThawOptions {
    wait: true,
    timeout: Duration::from_hours(72),
    tier: ThawTier::Bulk,
    days: Some(3),
    bytes_per_second: None,
};

impl Expiring {
    async fn new() -> Self {
        let expiring = Self::archived().await;
        let packs = expiring.all_packs().await;
        thaw_packs(&expiring.repository, &packs, &THAW).await.unwrap();
        assert_eq!(expiring.archive.take_requests().len(), packs.len());
        expiring
    }

    /// Nobody has asked for a thaw yet.
    async fn archived() -> Self {
        let clock = TokioClock::new();
        let world = World::with_clock(Arc::clone(&clock) as Arc<dyn Clock>);
        world.init(world.store()).await.unwrap();
        let made = [back_up_in_small_packs(&world, 1).await, back_up_in_small_packs(&world, 2).await];
        let class: StorageClassName = "DEEP_ARCHIVE".parse().unwrap();
        let archive = Arc::new(ArchivingStore::new(world.store(), class.clone(), Arc::clone(&clock) as Arc<dyn Clock>));
        for key in world.keys("data/").await {
            archive.archive(&key, &class);
        }
        let repository = world.open_through(Arc::clone(&archive) as Store).await.unwrap();
        Self { clock, world, archive, repository, made }
    }

    async fn all_packs(&self) -> BTreeSet<PackId> {
        [self.packs(0).await, self.packs(1).await].concat().into_iter().collect()
    }

    /// The packs that a backup needs.
    async fn packs(&self, number: usize) -> Vec<PackId> {
        let options = RestoreOptions::new(self.world.host_folder("scratch"));
        let monitor: Arc<dyn Monitor> = Arc::new(Notes::default());
        let listing = DataListing::of(&self.repository).await.unwrap();
        let packs = data_packs(&self.repository, &self.manifest(number).await, &listing, &options, &monitor).await;
        packs.unwrap().into_iter().collect()
    }

    /// Restores the first backup into a sink that lets the copies expire in the middle.
    async fn restore(&self, thaw: ThawOptions) -> anyhow::Result<Vec<u8>> {
        let monitor: Arc<dyn Monitor> = Arc::new(Notes::default());
        let options = RestoreOptions {
            window_bytes: 128 << 10,
            windows_ahead: 1,
            frame_cache_bytes: 0,
            thaw_again: Some(ThawAgain { options: thaw, later: vec![self.manifest(1).await] }),
            ..RestoreOptions::new(self.world.host_folder("scratch"))
        };
        let sink = MemorySink::default();
        let (inner, clock) = (sink.clone(), Arc::clone(&self.clock));
        let slow = Box::new(SlowSink { inner, clock, bytes_left: 2_000_000, days: 4 });
        restore_stream(&self.repository, &self.manifest(0).await, slow, &options, &monitor).await?.finish()?;
        Ok(sink.bytes())
    }

    async fn manifest(&self, number: usize) -> btrfs_to_s3::records::manifest::Manifest {
        read_chain(&self.repository, self.made[number].id).await.unwrap().pop().unwrap().manifest
    }

    /// Lets time pass once thaws have been asked for, as tokio does not while a thread of a restore runs; gives the keys.
    async fn pass_time(&self, asked: &mut Vec<String>) {
        let mut hours = 0;
        while hours < 60 {
            asked.extend(self.archive.take_requests().into_iter().map(|(key, ..)| key.to_string()));
            if !asked.is_empty() {
                tokio::time::advance(Duration::from_hours(1)).await;
                hours += 1;
            }
            tokio::task::yield_now().await;
        }
        std::future::pending::<()>().await;
    }
}

#[tokio::test(start_paused = true)]
async fn copies_that_expire_in_the_middle_are_asked_for_again_with_all_that_is_still_needed() {
    let expiring = Expiring::new().await;
    let mut asked = Vec::new();
    let restored = tokio::select! {
        restored = expiring.restore(THAW) => restored.unwrap(),
        () = expiring.pass_time(&mut asked) => unreachable!("it never ends"),
    };
    assert_same_bytes(&restored, &expiring.made[0].stream);
    // One wave: each pack once, those of the backup that comes later, and not those that have been read.
    let packs = expiring.world.keys("data/").await.len();
    let distinct: BTreeSet<&String> = asked.iter().collect();
    assert_eq!(distinct.len(), asked.len());
    assert!(asked.len() > packs / 2 && asked.len() < packs - packs / 8, "{} of {packs}", asked.len());
    for pack in expiring.packs(1).await {
        assert!(asked.iter().any(|key| key.ends_with(&pack.to_string())), "{pack} was not asked for");
    }
}

#[tokio::test(start_paused = true)]
async fn a_restore_that_does_not_wait_asks_again_for_expired_copies_and_says_when_to_come_back() {
    let expiring = Expiring::new().await;
    let error = expiring.restore(ThawOptions { wait: false, ..THAW }).await.unwrap_err();
    let not_thawed = error.chain().find_map(|cause| cause.downcast_ref::<NotThawed>()).unwrap();
    assert_eq!(not_thawed.waiting, expiring.archive.take_requests().len());
    let text = format!("{error:#}");
    assert!(
        text.contains("a thawed copy has expired before it was read") && text.contains("run it again then"),
        "{text}"
    );
}

/// A restore of both backups, of which the packs of the first one are thawed after 12 hours, those of the other after 48.
struct Early {
    archived: Expiring,
    thawing: Arc<Thawing>,
    hours: u32,
}

impl Early {
    async fn begin(thaw: &ThawOptions) -> Self {
        let archived = Expiring::archived().await;
        let glacier: StorageClassName = "GLACIER".parse().unwrap();
        for pack in archived.packs(0).await {
            archived.archive.archive(&layout::pack_key(PackClass::Data, &pack), &glacier);
        }
        let packs = archived.all_packs().await;
        let states = pack_states(&archived.repository, PackClass::Data, &packs).await.unwrap();
        let thawing = Arc::new(Thawing::begin(&archived.repository, &states, thaw).await.unwrap());
        // All at once, before anything is waited for.
        assert_eq!(archived.archive.take_requests().len(), packs.len());
        Self { archived, thawing, hours: 0 }
    }

    /// Restores one of them, by so many hours after the beginning; `None` if that does not come to an end by then.
    async fn restore_by(&mut self, number: usize, hours: u32) -> Option<anyhow::Result<Vec<u8>>> {
        let options = RestoreOptions {
            thawing: Some(Arc::clone(&self.thawing)),
            ..RestoreOptions::new(self.archived.world.host_folder("scratch"))
        };
        let (sink, manifest) = (MemorySink::default(), self.archived.manifest(number).await);
        let monitor: Arc<dyn Monitor> = Arc::new(Notes::default());
        let inner = Box::new(sink.clone());
        let restored = restore_stream(&self.archived.repository, &manifest, inner, &options, &monitor);
        let passing = async {
            while self.hours < hours {
                tokio::time::advance(Duration::from_hours(1)).await;
                self.hours += 1;
                tokio::task::yield_now().await;
            }
            // What can be done at this hour takes some time of the machine's, and none of the test's.
            let begun_at = std::time::Instant::now();
            while begun_at.elapsed() < PATIENCE {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            restored = restored => Some(restored.map(|_| sink.bytes())),
            () = passing => None,
        }
    }
}

/// How long a restore that has all it needs may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test(start_paused = true)]
async fn what_is_thawed_first_is_read_while_the_rest_is_waited_for() {
    let mut early = Early::begin(&THAW).await;
    let first = early.restore_by(0, 13).await.expect("its packs can be read after 12 hours").unwrap();
    assert_same_bytes(&first, &early.archived.made[0].stream);
    let second = early.restore_by(1, 49).await.expect("its packs can be read after 48 hours").unwrap();
    assert_same_bytes(&second, &early.archived.made[1].stream);
    assert_eq!((early.archived.archive.take_requests(), early.archived.archive.refused_reads()), (Vec::new(), 0));
}

#[tokio::test(start_paused = true)]
async fn a_restore_that_has_begun_to_read_waits_no_longer_than_it_may() {
    let mut early = Early::begin(&ThawOptions { timeout: Duration::from_hours(20), ..THAW }).await;
    early.restore_by(0, 13).await.expect("its packs can be read after 12 hours").unwrap();
    let error = early.restore_by(1, 22).await.expect("it waits for 20 hours").unwrap_err();
    let not_thawed = error.chain().find_map(|cause| cause.downcast_ref::<NotThawed>()).unwrap();
    assert_eq!(not_thawed.waiting, early.archived.packs(1).await.len());
    assert_eq!(early.archived.archive.refused_reads(), 0);
}
