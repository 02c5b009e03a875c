//! How many requests an operation takes: they cost money.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use btrfs_to_s3::backup::{BackupOptions, Expected, Stream, never_interrupted};
use btrfs_to_s3::id::PackId;
use btrfs_to_s3::monitor::Monitor;
use btrfs_to_s3::pack::format::PackClass;
use btrfs_to_s3::repository::cache::RecordCache;
use btrfs_to_s3::repository::catalog::{Catalog, read_known_chain, read_manifest};
use btrfs_to_s3::repository::index::find_footer;
use btrfs_to_s3::repository::layout;
use btrfs_to_s3::repository::packs::read_pack_footer;
use btrfs_to_s3::restore::{DataListing, RestoreOptions, restore_stream, states_before_restore};
use btrfs_to_s3::store::Store;
use btrfs_to_s3::store::recording::{Call, Operation, RecordingStore};

use jiff::SignedDuration;

use crate::samples::{Sample, origin, random_bytes};
use crate::scripted::{Act, ScriptedStore};
use crate::world::{
    Made, MemorySink, MemorySource, Notes, SteppingClock, World, assert_same_bytes, back_up, begin, request,
    small_options,
};

async fn recorded_backup(world: &World, stream: Vec<u8>, expected: Expected) -> (Made, Arc<RecordingStore>) {
    let recording = Arc::new(RecordingStore::new(world.store()));
    let repository = world.open_through(Arc::clone(&recording) as Store).await.unwrap();
    let notes = Arc::new(Notes::default());
    let summary = back_up(&repository, &world.host("one"), stream.clone(), expected, &notes).await.unwrap();
    (Made::new(&summary, stream), recording)
}

fn count(calls: &[Call], operation: Operation) -> usize {
    calls.iter().filter(|call| call.operation == operation).count()
}

#[tokio::test]
async fn a_backup_puts_each_pack_and_segment_once_and_three_records() {
    let world = World::new().await;
    let (_, recording) = recorded_backup(&world, Sample::random(1, 3_300_000).stream(), Expected::Anything).await;
    let packs = world.keys("data/").await.len() + world.keys("meta/").await.len();
    let segments = world.keys("index/").await.len();
    assert!(packs >= 4 && segments >= 2, "{packs} packs, {segments} segments");
    // The session's start, the manifest, the session's end.
    assert_eq!(count(&recording.calls(), Operation::Put), packs + segments + 3);
    assert_eq!(recording.count(Operation::Put, "data/"), world.keys("data/").await.len());
    assert_eq!(recording.count(Operation::Put, "index/"), segments);
    assert_eq!(count(&recording.calls(), Operation::Delete), 0);
    assert_eq!(count(&recording.calls(), Operation::GetRange), 0);
}

#[tokio::test]
async fn a_backup_asks_only_for_what_is_new_since_the_hosts_last() {
    let world = World::new().await;
    let sample = Sample::random(1, 50_000);
    let mut gets = Vec::new();
    for _ in 0..6 {
        let (_, recording) = recorded_backup(&world, sample.stream(), Expected::Anything).await;
        gets.push(count(&recording.calls(), Operation::Get));
        assert_eq!(recording.count(Operation::Put, "data/"), usize::from(gets.len() == 1));
    }
    // The config, and the end of the session before.
    assert_eq!(gets, [1, 2, 2, 2, 2, 2]);
}

#[tokio::test]
async fn an_empty_incremental_takes_requests_for_its_chain_and_no_others() {
    let world = World::new().await;
    let content = random_bytes(1, 50_000);
    let mut parent = world.back_up(&Sample::of_files(0, vec![content])).await.parent;
    let mut gets = Vec::new();
    for number in 1..6 {
        let sample = Sample::of_files(number, Vec::new()).on(number - 1);
        let expected = Expected::Snapshot { subject: origin(number), parent };
        let (made, recording) = recorded_backup(&world, sample.stream(), expected).await;
        assert_eq!(recording.count(Operation::Put, "data/"), 0);
        gets.push(count(&recording.calls(), Operation::Get));
        parent = made.parent;
    }
    // For each backup of the chain its manifest and its session's end; besides, the config, and the end of the session
    // before.
    assert_eq!(gets, [4, 6, 8, 10, 12]);
}

/// On a clock that only goes on when all wait for it.
#[tokio::test(start_paused = true)]
async fn the_backups_of_a_chain_are_looked_at_together() {
    const ONE_WAY: Duration = Duration::from_millis(50);
    let world = World::new().await;
    let mut made = world.back_up(&Sample::of_files(0, vec![random_bytes(1, 50_000)])).await;
    for number in 1..12 {
        let sample = Sample::of_files(number, Vec::new()).on(number - 1);
        let expected = Expected::Snapshot { subject: origin(number), parent: made.parent };
        made = recorded_backup(&world, sample.stream(), expected).await.0;
    }
    let distant = Arc::new(ScriptedStore::new(world.store(), |_, _| Act::Wait(ONE_WAY)));
    let repository = world.open_through(distant as Store).await.unwrap();
    let took = async |copies: RecordCache| {
        let started = tokio::time::Instant::now();
        assert_eq!(read_known_chain(&repository, made.id, &copies).await.unwrap().len(), 12);
        started.elapsed().as_millis() / ONE_WAY.as_millis()
    };
    // Of each backup the end and the manifest, at once.
    assert_eq!(took(RecordCache::none()).await, 12);
    // The host has no copy of its last one yet, which it was not asked for since.
    Catalog::load(&world.open().await, &world.host("one").cache).await.unwrap();
    assert_eq!(took(world.host("one").cache).await, 1);
}

#[tokio::test]
async fn a_restore_reads_each_pack_of_file_data_with_few_requests_and_about_once() {
    let world = World::new().await;
    let made = world.back_up(&Sample::random(1, 3_300_000)).await;
    let recording = Arc::new(RecordingStore::new(world.store()));
    let repository = world.open_through(Arc::clone(&recording) as Store).await.unwrap();
    assert_same_bytes(&world.restore_through(&repository, made.id).await.unwrap(), &made.stream);

    let packs = world.keys("data/").await.len();
    assert_eq!(recording.count(Operation::Head, ""), 0);
    // The footer, and the frame.
    assert_eq!(recording.count(Operation::GetEnd, "data/"), packs);
    assert_eq!(recording.count(Operation::GetRange, "data/"), packs);
    assert_eq!(count(&recording.calls(), Operation::Put), 0);
    assert_eq!(count(&recording.calls(), Operation::List), 1);
    let read: u64 = recording.calls().iter().map(|call| call.body_bytes).sum();
    let footers = 64 << 10;
    assert!(read < made.stream.len() as u64 * 11 / 10 + footers * packs as u64, "{read} bytes were read");
}

/// At a distance, the first byte comes after as many round trips as there are requests one after another.
#[tokio::test]
async fn a_restore_of_the_latest_backup_asks_for_few_things_one_after_another() {
    let world = World::with_pages(SteppingClock::new(SignedDuration::from_secs(1)), 1000);
    world.init(world.store()).await.unwrap();
    let content = random_bytes(1, 200_000);
    let (made, _) = recorded_backup(&world, content, Expected::Opaque).await;
    let distant = Arc::new(ScriptedStore::new(world.store(), |_, _| Act::Wait(Duration::from_millis(20))));
    let recording = Arc::new(RecordingStore::new(Arc::clone(&distant) as Store));
    let rounds = || distant.rounds.load(Ordering::SeqCst);

    // As the command does it, on a host that knows nothing yet.
    let repository = world.open_through(Arc::clone(&recording) as Store).await.unwrap();
    // The configs' names, and the first of them.
    assert_eq!(rounds(), 1);
    let catalog = Catalog::load(&repository, &world.host("new").cache).await.unwrap();
    let latest = catalog.latest(None, None, None).unwrap().id();
    // Sessions; manifests and markers; ends and manifests.
    assert_eq!(rounds(), 1 + 3);
    let (backup, listing) = tokio::try_join!(read_manifest(&repository, latest), DataListing::of(&repository)).unwrap();
    let options = RestoreOptions::new(world.host_folder("scratch"));
    let monitor = Arc::new(Notes::default()) as Arc<dyn Monitor>;
    let backups = [backup];
    let states = states_before_restore(&repository, &backups, &listing, &options, &monitor).await.unwrap();
    assert!(states.is_empty());
    assert_eq!(rounds(), 1 + 3 + 1);
    let sink = MemorySink::default();
    let restored = restore_stream(&repository, &backups[0].manifest, Box::new(sink.clone()), &options, &monitor);
    Box::pin(restored).await.unwrap().finish().unwrap();
    assert_same_bytes(&sink.bytes(), &made.stream);
    // The end of the metadata pack with all of it; the footers of the data packs; their frames.
    assert_eq!(rounds(), 1 + 3 + 1 + 3);
    assert_eq!(recording.count(Operation::GetRange, "meta/"), 0);
}

/// At a distance, several windows are read at once, which are mostly of one pack.
#[tokio::test]
async fn windows_that_are_read_side_by_side_share_the_footer_of_their_pack() {
    let world = World::new().await;
    let notes = Arc::new(Notes::default());
    let run = begin(&world.open().await, &world.host("one"), &notes).await.unwrap();
    // One pack of many frames.
    let options = BackupOptions { frame_target_bytes: 32 << 10, pack_target_bytes: 32 << 20, ..small_options() };
    let sample = Sample::random(1, 3_300_000).stream();
    let stream =
        Stream { source: Box::new(MemorySource::new(sample.clone())), stop: None, interruption: never_interrupted() };
    let summary = Box::pin(run.publish(stream, &request(Expected::Anything), &options)).await.unwrap();
    assert_eq!(world.keys("data/").await.len(), 1);

    let distant = Arc::new(ScriptedStore::new(world.store(), |_, _| Act::Wait(Duration::from_millis(1))));
    let recording = Arc::new(RecordingStore::new(distant as Store));
    let repository = world.open_through(Arc::clone(&recording) as Store).await.unwrap();
    let options = RestoreOptions::new(world.host_folder("scratch")).at_a_distance();
    let options = RestoreOptions { window_bytes: 256 << 10, ..options };
    let (sink, monitor) = (MemorySink::default(), notes as Arc<dyn Monitor>);
    let into = Box::new(sink.clone());
    let restored = restore_stream(&repository, &summary.manifest, into, &options, &monitor);
    Box::pin(restored).await.unwrap().finish().unwrap();
    assert_same_bytes(&sink.bytes(), &sample);
    assert_eq!(recording.count(Operation::GetEnd, "data/"), 1);
    // At least eight windows.
    assert!(recording.count(Operation::GetRange, "data/") >= 8);
}

#[tokio::test(start_paused = true)]
async fn what_the_index_says_of_a_pack_is_looked_for_in_several_segments_at_once() {
    let world = World::new().await;
    for number in 1..=8 {
        world.back_up(&Sample::random(number, 20_000)).await;
    }
    let segments = world.keys("index/").await.len() as u64;
    assert!(segments >= 8, "{segments} segments");
    let slow = |operation, target: &str| {
        let is_slow = operation == Operation::Get && target.starts_with("index/");
        if is_slow { Act::Wait(Duration::from_secs(1)) } else { Act::Answer }
    };
    let repository = world.open_through(Arc::new(ScriptedStore::new(world.store(), slow))).await.unwrap();
    let begun_at = tokio::time::Instant::now();
    let nowhere = find_footer(&repository, PackClass::Data, PackId::from_bytes([7; 32])).await.unwrap();
    assert!(nowhere.is_none());
    assert!(begun_at.elapsed().as_secs() <= segments.div_ceil(4), "{:?}", begun_at.elapsed());
    for key in world.keys("data/").await {
        let (class, pack) = layout::parse_pack_key(&key).unwrap();
        let footer = find_footer(&repository, class, pack).await.unwrap();
        assert_eq!(footer.unwrap().chunks, read_pack_footer(&repository, class, pack).await.unwrap().chunks);
        assert!(find_footer(&repository, PackClass::Meta, pack).await.unwrap().is_none());
    }
}
