//! A chain whose packs are archived, over a store in memory that thaws by a clock.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use btrfs_to_s3::backup::Expected;
use btrfs_to_s3::clock::Clock;
use btrfs_to_s3::monitor::Monitor;
use btrfs_to_s3::repository::catalog::read_chain;
use btrfs_to_s3::restore::{RestoreOptions, ThawOptions, data_packs, thaw_packs};
use btrfs_to_s3::store::archiving::ArchivingStore;
use btrfs_to_s3::store::thaw::ThawTier;
use btrfs_to_s3::store::{StorageClassName, Store};
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use crate::samples::{Sample, origin, random_bytes};
use crate::world::{Made, Notes, World, assert_same_bytes, back_up};

/// Goes with tokio's time, which passes as fast as nothing happens.
#[derive(Debug)]
struct TokioClock(Instant);

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(1_700_000_000).unwrap() + SignedDuration::try_from(self.0.elapsed()).unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn a_chain_of_several_increments_is_thawed_in_one_wave_and_waited_for_once() {
    let clock: Arc<dyn Clock> = Arc::new(TokioClock(Instant::now()));
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
    let mut packs = BTreeSet::new();
    for backup in read_chain(&repository, made.id).await.unwrap() {
        packs.extend(data_packs(&repository, &backup.manifest, &options, &monitor).await.unwrap());
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
