//! What reads ahead, through a bound of one request at a time: where something else has to be asked for before what was
//! asked ahead is looked at, neither may wait for the other.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use btrfs_to_s3::backup::{BackupOptions, BackupRun, Expected, Stream, never_interrupted};
use btrfs_to_s3::check::subset::Subset;
use btrfs_to_s3::forget::forget;
use btrfs_to_s3::monitor::Monitor;
use btrfs_to_s3::prune::{MaxUnused, PruneOptions, RepackOptions, prune};
use btrfs_to_s3::repository::catalog::read_chain;
use btrfs_to_s3::restore::{RestoreOptions, restore_stream};
use btrfs_to_s3::store::limit::LimitStore;
use btrfs_to_s3::store::{Key, Store};
use bytes::Bytes;
use jiff::SignedDuration;

use crate::checking::check_it;
use crate::pruning::options;
use crate::samples::{Sample, random_bytes};
use crate::scripted::{Act, ScriptedStore};
use crate::world::{Made, MemorySink, MemorySource, Notes, World, assert_same_bytes, begin, request, small_options};

/// Much longer than a test takes, so that one that stands still ends.
const FOR_EVER: Duration = Duration::from_mins(2);

/// The world's store, which takes its time and is asked one thing at a time.
fn narrow(world: &World) -> Store {
    let distant = Arc::new(ScriptedStore::new(world.store(), |_, _| Act::Wait(Duration::from_millis(1))));
    Arc::new(LimitStore::new(distant, NonZeroUsize::MIN))
}

/// Many frames and packs, so that there is much to read ahead.
fn fine_options() -> BackupOptions {
    BackupOptions { frame_target_bytes: 32 << 10, pack_target_bytes: 128 << 10, ..small_options() }
}

async fn publish(run: BackupRun, sample: &Sample) -> Made {
    let source = Box::new(MemorySource::new(sample.stream()));
    let stream = Stream { source, stop: None, interruption: never_interrupted() };
    let made = Box::pin(run.publish(stream, &request(Expected::Anything), &fine_options())).await.unwrap();
    Made::new(&made, sample.stream())
}

/// The same data of two hosts, stored by both as neither knew of the other.
async fn stored_twice(world: &World, sample: &Sample) -> (Made, Vec<Key>) {
    let notes = Arc::new(Notes::default());
    let one = begin(&world.open().await, &world.host("one"), &notes).await.unwrap();
    let two = begin(&world.open().await, &world.host("two"), &notes).await.unwrap();
    let made = publish(one, sample).await;
    let packs = world.keys("data/").await;
    publish(two, sample).await;
    (made, packs)
}

#[tokio::test]
async fn a_restore_looks_for_lost_chunks_while_it_reads_ahead() {
    let world = World::new().await;
    let (made, packs) = stored_twice(&world, &Sample::random(1, 2_000_000)).await;
    assert!(packs.len() >= 10, "{} packs", packs.len());
    for pack in &packs {
        let body = world.body(pack).await;
        let garbled: Vec<u8> = body.iter().enumerate().map(|(at, byte)| byte ^ u8::from(at % 1000 == 7)).collect();
        world.replace(pack, Bytes::from(garbled)).await;
    }
    let repository = world.open_through(narrow(&world)).await.unwrap();
    let chain = read_chain(&repository, made.id).await.unwrap();
    let options = RestoreOptions {
        window_bytes: 64 << 10,
        windows_ahead: 4,
        frame_cache_bytes: 0,
        ..RestoreOptions::new(world.host_folder("scratch"))
    };
    let (sink, monitor) = (MemorySink::default(), Arc::new(Notes::default()) as Arc<dyn Monitor>);
    let restoring = restore_stream(&repository, &chain[0].manifest, Box::new(sink.clone()), &options, &monitor);
    let done = tokio::time::timeout(FOR_EVER, Box::pin(restoring)).await.expect("it stands still");
    done.unwrap().finish().unwrap();
    assert_same_bytes(&sink.bytes(), &made.stream);
}

#[tokio::test]
async fn a_prune_stores_what_it_rewrites_while_it_reads_on() {
    let world = World::new().await;
    let mut made = Vec::new();
    for (number, own) in [(1, 3), (2, 4)] {
        let files = (0..40).map(|file| random_bytes(file * if file % 2 == 0 { 1 } else { own }, 40_000)).collect();
        let run = begin(&world.open().await, &world.host("one"), &Arc::new(Notes::default())).await.unwrap();
        made.push(publish(run, &Sample::of_files(number, files)).await);
    }
    forget(&world.open().await, made.remove(0).id, "one", "a test").await.unwrap();
    let repack =
        RepackOptions { max_unused: MaxUnused::Bytes(0), pack_target_bytes: 64 << 10, ..RepackOptions::default() };
    let options = PruneOptions { repack, ..options(SignedDuration::ZERO) };
    let repository = world.open_through(narrow(&world)).await.unwrap();
    let (host, monitor) = (world.host("one"), Arc::new(Notes::default()) as Arc<dyn Monitor>);
    let pruning = prune(&repository, &host, &options, &monitor);
    let report = tokio::time::timeout(FOR_EVER, Box::pin(pruning)).await.expect("it stands still").unwrap();
    assert!(report.repacked.all_packs().objects >= 3, "{report:?}");
    world.assert_restorable(&made).await;
    assert_eq!(check_it(&world, Some(Subset::All)).await.findings, vec![]);
}
