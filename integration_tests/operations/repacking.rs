//! Packs that are partly unused are rewritten, and small ones merged: what comes back, what holds when that is cut off or
//! fails at any request, and how much is read for it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use btrfs_to_s3::backup::{BackupOptions, Expected, Host, Stream, never_interrupted};
use btrfs_to_s3::check::subset::Subset;
use btrfs_to_s3::clock::Clock;
use btrfs_to_s3::forget::forget;
use btrfs_to_s3::id::PackId;
use btrfs_to_s3::index::Segment;
use btrfs_to_s3::job::{Rehearsal, rehearse};
use btrfs_to_s3::monitor::Monitor;
use btrfs_to_s3::pack::format::{FrameKind, PackClass, PackRecord};
use btrfs_to_s3::prune::{Amount, MaxUnused, PruneOptions, PruneReport, RepackOptions, Repacked, prune};
use btrfs_to_s3::repository::cache::RecordCache;
use btrfs_to_s3::repository::catalog::read_manifest;
use btrfs_to_s3::repository::index::{list_segments, read_segment};
use btrfs_to_s3::repository::packs::read_pack_footer;
use btrfs_to_s3::repository::session::{WriteSession, list_sessions, void_session};
use btrfs_to_s3::repository::{Damage, layout};
use btrfs_to_s3::restore::{DataListing, RestoreOptions, data_packs};
use btrfs_to_s3::store::archiving::ArchivingStore;
use btrfs_to_s3::store::faulty::{Fault, FaultyStore};
use btrfs_to_s3::store::recording::{Call, Operation, RecordingStore};
use btrfs_to_s3::store::{Key, StorageClassName, Store, StoreErrorKind};
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};

use crate::checking::check_it;
use crate::pruning::options;
use crate::samples::{Sample, random_bytes};
use crate::scripted::{Act, ScriptedStore, meanwhile};
use crate::world::{Made, MemorySource, Notes, World, begin, request, small_options};

const KIB: usize = 1 << 10;

/// Frames of a chunk or two, so that some of a pack are needed as they are, some in part, and some not.
fn fine_options() -> BackupOptions {
    BackupOptions { frame_target_bytes: 32 * KIB, pack_target_bytes: 256 * KIB, ..small_options() }
}

/// A prune that leaves nothing unused.
pub(crate) fn thorough() -> PruneOptions {
    let BackupOptions { frame_target_bytes, pack_target_bytes, compression_level, .. } = fine_options();
    let max_unused = MaxUnused::Bytes(0);
    let repack = RepackOptions {
        max_unused,
        frame_target_bytes,
        pack_target_bytes,
        compression_level,
        segment_chunks: 20,
        ..RepackOptions::default()
    };
    PruneOptions { repack, ..options(SignedDuration::ZERO) }
}

fn with_limit(max_unused: MaxUnused) -> PruneOptions {
    PruneOptions { repack: RepackOptions { max_unused, ..thorough().repack }, ..thorough() }
}

async fn prune_with(
    host: &str,
    world: &World,
    store: Store,
    options: &PruneOptions,
    notes: &Arc<Notes>,
) -> anyhow::Result<PruneReport> {
    let repository = world.open_through(store).await?;
    let host = Host { cache: RecordCache::none(), ..world.host(host) };
    Box::pin(prune(&repository, &host, options, &(Arc::clone(notes) as Arc<dyn Monitor>))).await
}

/// A prune that goes well and tells of no problem.
async fn prune_well(world: &World, options: &PruneOptions) -> PruneReport {
    let notes = Arc::new(Notes::default());
    let report = prune_with("one", world, world.store(), options, &notes).await.unwrap();
    assert_eq!((notes.problems(), &report.waits_for), (vec![], &vec![]));
    report
}

pub(crate) async fn back_up_finely(world: &World, sample: &Sample) -> Made {
    back_up_with(world, sample, &fine_options()).await
}

async fn back_up_with(world: &World, sample: &Sample, options: &BackupOptions) -> Made {
    let run = begin(&world.open().await, &world.host("one"), &Arc::new(Notes::default())).await.unwrap();
    let source = Box::new(MemorySource::new(sample.stream()));
    let stream = Stream { source, stop: None, interruption: never_interrupted() };
    let made = Box::pin(run.publish(stream, &request(Expected::Anything), options)).await.unwrap();
    Made::new(&made, sample.stream())
}

async fn forget_now(world: &World, made: &Made) {
    forget(&world.open().await, made.id, "one", "a test").await.unwrap();
}

async fn bytes_below(world: &World, prefix: &str) -> usize {
    world.objects(prefix).await.iter().map(|(_, body)| body.len()).sum()
}

pub(crate) fn mixed(number: u8, own: usize, shared: usize) -> Sample {
    let mut files = Vec::new();
    for part in 0..6 {
        files.push(random_bytes(100 * u64::from(number) + part, own / 6));
        files.push(random_bytes(9000 + part, shared / 6));
    }
    Sample::of_files(number, files)
}

/// A forgotten backup, and one that stays and needs a part of each of its packs.
async fn partly_dead() -> (World, Made) {
    let world = World::new().await;
    let gone = back_up_finely(&world, &mixed(1, 600 * KIB, 300 * KIB)).await;
    let kept = back_up_finely(&world, &mixed(2, 60 * KIB, 300 * KIB)).await;
    forget_now(&world, &gone).await;
    (world, kept)
}

/// That all is there that should be, and no more than a backup of only what is kept would take.
async fn assert_tidy(world: &World, kept: &[Made]) {
    world.assert_restorable(kept).await;
    let checked = check_it(world, Some(Subset::All)).await;
    assert_eq!((checked.findings, checked.affected), (vec![], vec![]));
    assert_eq!(list_sessions(&world.open().await).await.unwrap().open, []);
}

#[tokio::test]
async fn what_is_needed_of_partly_unused_packs_is_rewritten_and_the_packs_go() {
    let (world, kept) = partly_dead().await;
    let before: BTreeSet<Key> = world.keys("data/").await.into_iter().collect();
    let report = prune_well(&world, &thorough()).await;
    assert!(report.repacked.all_packs().objects >= 3, "{report:?}");
    assert!(report.repacked.unused_bytes > 500_000, "{report:?}");
    let data = bytes_below(&world, "data/").await;
    assert!((360 * KIB..380 * KIB).contains(&data), "{data} bytes are left for 360 KiB");
    let after: BTreeSet<Key> = world.keys("data/").await.into_iter().collect();
    assert!(before.intersection(&after).count() < before.len() - 2);
    assert_tidy(&world, &[kept]).await;
    let again = prune_well(&world, &thorough()).await;
    assert_eq!((again.repacked, again.deleted), (Repacked::default(), PruneReport::default().deleted));
}

#[tokio::test]
async fn a_dry_run_tells_what_would_be_rewritten_and_changes_nothing() {
    let (world, _) = partly_dead().await;
    let keys = world.keys("").await;
    let dry = PruneOptions { dry_run: true, ..thorough() };
    let told = prune_well(&world, &dry).await;
    assert_eq!(world.keys("").await, keys);
    let done = prune_well(&world, &thorough()).await;
    assert_eq!(
        (told.repacked.packs.clone(), told.repacked.unused_bytes),
        (done.repacked.packs.clone(), done.repacked.unused_bytes)
    );
    assert_eq!((told.deleted, told.kept), (done.deleted, done.kept));
    assert_eq!(told.repacked.reads, done.repacked.reads);
    let about = |told: u64, done: u64| told.abs_diff(done) * 10 <= done;
    let (told, done) = (told.repacked, done.repacked);
    let new = |repacked: &Repacked| repacked.new_data.bytes + repacked.new_metadata.bytes;
    assert!(about(new(&told), new(&done)), "{told:?} {done:?}");
}

#[tokio::test]
async fn as_much_stays_unused_as_may_and_no_more() {
    let (world, kept) = partly_dead().await;
    let report = prune_well(&world, &with_limit(MaxUnused::Share(200_000))).await;
    let data = bytes_below(&world, "data/").await as u64;
    assert!(report.repacked.all_packs().objects > 0 && report.kept.unused_bytes > 0, "{report:?}");
    assert!(report.kept.unused_bytes * 5 <= data, "{} of {data} bytes are unused", report.kept.unused_bytes);
    let nothing = prune_well(&world, &with_limit(MaxUnused::Share(200_000))).await;
    assert_eq!(nothing.repacked, Repacked::default());
    let nothing = prune_well(&world, &with_limit(MaxUnused::Unlimited)).await;
    assert_eq!(nothing.repacked, Repacked::default());
    assert_tidy(&world, &[kept]).await;
}

#[tokio::test]
async fn no_more_is_rewritten_at_once_than_may_be_and_the_next_prunes_go_on() {
    let (world, kept) = partly_dead().await;
    let limit = 600 * KIB as u64;
    let some =
        PruneOptions { repack: RepackOptions { max_repack_bytes: Some(limit), ..thorough().repack }, ..thorough() };
    let mut prunes = 0;
    loop {
        let report = prune_well(&world, &some).await;
        let rewritten = report.repacked.all_packs();
        assert!(rewritten.bytes <= limit, "{report:?}");
        world.assert_restorable(std::slice::from_ref(&kept)).await;
        if rewritten.objects == 0 {
            break;
        }
        prunes += 1;
    }
    assert!(prunes >= 2, "{prunes} prunes");
    assert!(bytes_below(&world, "data/").await < 380 * KIB);
    assert_tidy(&world, &[kept]).await;
}

#[tokio::test]
async fn small_packs_are_merged_once_there_are_enough() {
    let world = World::new().await;
    let mut kept = Vec::new();
    for number in 1..=9 {
        kept.push(back_up_finely(&world, &Sample::random(number, 12 * KIB)).await);
        let report = prune_well(&world, &with_limit(MaxUnused::Share(50_000))).await;
        assert_eq!(report.repacked.all_packs().objects, if number == 8 { 8 } else { 0 }, "after {number} backups");
    }
    assert_eq!(world.keys("data/").await.len(), 2);
    assert_tidy(&world, &kept).await;
}

/// Flips bits all over a pack, but for its end.
async fn garble(world: &World, pack: &Key) -> Bytes {
    let whole = world.body(pack).await;
    let mut bytes = whole.to_vec();
    let end = bytes.len() - 4 * KIB;
    (200..end).step_by(1000).for_each(|position| bytes[position] ^= 1);
    world.replace(pack, Bytes::from(bytes)).await;
    whole
}

#[tokio::test]
async fn what_is_damaged_is_left_alone_and_told_and_never_copied() {
    let (world, kept) = partly_dead().await;
    // A long one has something of everything; the others may be needed as they are, and not be read.
    let packs = world.objects("data/").await;
    let (damaged, _) = packs.into_iter().max_by_key(|(_, body)| body.len()).unwrap();
    let whole = garble(&world, &damaged).await;
    let notes = Arc::new(Notes::default());
    let report = prune_with("one", &world, world.store(), &thorough(), &notes).await.unwrap();
    let problems = notes.problems();
    assert!(problems.len() == 1 && problems[0].contains(damaged.as_str()), "{problems:?}");
    assert_eq!(report.repacked.damaged.len(), 1);
    assert!(report.repacked.all_packs().objects >= 2, "the others are rewritten");
    let bad = check_it(&world, Some(Subset::All)).await;
    assert!(bad.findings.iter().all(|finding| finding.object.contains(damaged.as_str())), "{:?}", bad.findings);
    world.replace(&damaged, whole).await;
    assert_tidy(&world, std::slice::from_ref(&kept)).await;
    prune_well(&world, &thorough()).await;
    assert!(bytes_below(&world, "data/").await < 380 * KIB);
    assert_tidy(&world, &[kept]).await;
}

#[tokio::test]
async fn what_is_damaged_takes_no_room_from_others() {
    let (world, kept) = partly_dead().await;
    let limit = 300 * KIB as u64;
    let options =
        PruneOptions { repack: RepackOptions { max_repack_bytes: Some(limit), ..thorough().repack }, ..thorough() };
    let packs = async |world: &World| world.keys("data/").await.into_iter().collect::<BTreeSet<Key>>();
    let (tried, before) = (world.copy().await, packs(&world).await);
    prune_well(&tried, &options).await;
    let left = packs(&tried).await;
    let mut damaged = Vec::new();
    for pack in before.difference(&left) {
        damaged.push((pack.clone(), garble(&world, pack).await));
    }
    assert!(!damaged.is_empty() && damaged.len() < before.len() - 1);

    let notes = Arc::new(Notes::default());
    let report = prune_with("one", &world, world.store(), &options, &notes).await.unwrap();
    assert!(report.repacked.all_packs().bytes <= limit);
    assert_eq!((notes.problems().len(), report.repacked.damaged.len()), (damaged.len(), damaged.len()));
    let left = packs(&world).await;
    assert!(damaged.iter().all(|(pack, _)| left.contains(pack)));
    assert!(before.difference(&left).count() >= 1, "others have their room");
    for (pack, whole) in damaged {
        world.replace(&pack, whole).await;
    }
    assert_tidy(&world, &[kept]).await;
}

/// Two forgotten backups that have stored the same chunks at once, and a third that needs these.
#[tokio::test]
async fn a_chunk_is_taken_from_its_other_place_where_the_newest_is_damaged() {
    let world = World::new().await;
    let notes = Arc::new(Notes::default());
    let mut runs = Vec::new();
    for host in ["one", "two"] {
        runs.push(begin(&world.open().await, &world.host(host), &notes).await.unwrap());
    }
    let mut packs: Vec<BTreeSet<Key>> = Vec::new();
    for (number, run) in (1..).zip(runs) {
        let source = Box::new(MemorySource::new(mixed(number, 120 * KIB, 120 * KIB).stream()));
        let stream = Stream { source, stop: None, interruption: never_interrupted() };
        let made = Box::pin(run.publish(stream, &request(Expected::Anything), &fine_options())).await.unwrap();
        forget(&world.open().await, made.id(), "one", "a test").await.unwrap();
        packs.push(world.keys("data/").await.into_iter().collect());
    }
    let kept = back_up_finely(&world, &mixed(3, 6, 120 * KIB)).await;
    let newer: Vec<&Key> = packs[1].difference(&packs[0]).collect();
    assert_eq!((packs[0].len(), newer.len()), (1, 1));
    garble(&world, newer[0]).await;
    let report = prune_with("one", &world, world.store(), &thorough(), &notes).await.unwrap();
    assert_eq!(report.repacked.damaged.len(), 1, "{report:?}");
    world.assert_restorable(&[kept]).await;
}

/// Somebody who may store says that all chunks are in packs of his own, which have something else.
async fn claim_everything(world: &World) {
    let repository = world.open().await;
    let session = WriteSession::start(repository.clone(), world.host("thief").session("backup", "")).await.unwrap();
    let mut claims = Vec::new();
    for segment in list_segments(&repository).await.unwrap() {
        for (number, pack) in (0..).zip(read_segment(&repository, segment).await.unwrap().packs) {
            let mut id = *pack.id.as_bytes();
            id[0] ^= 0x80;
            let id = PackId::from_bytes(id);
            let body = Bytes::from(random_bytes(number, usize::try_from(pack.stored_bytes).unwrap()));
            world.put(&layout::pack_key(pack.footer.class, &id), body).await;
            claims.push(PackRecord { id, ..pack });
        }
    }
    session.put_segment(&Segment { session: session.id(), packs: claims }).await.unwrap();
    session.abandon().await.unwrap();
}

#[tokio::test]
async fn what_a_segment_claims_falsely_costs_no_pack_that_is_needed() {
    for limit in [MaxUnused::Unlimited, MaxUnused::Share(50_000), MaxUnused::Bytes(0)] {
        let (world, kept) = partly_dead().await;
        claim_everything(&world).await;
        for _ in 0..2 {
            let notes = Arc::new(Notes::default());
            prune_with("one", &world, world.store(), &with_limit(limit), &notes).await.unwrap();
            assert!(world.restore(kept.id).await.unwrap() == kept.stream);
        }
    }
}

/// Somebody who may store says of packs that are there that they have the chunks of others.
async fn claim_chunks_of_others(world: &World) {
    let repository = world.open().await;
    let session = WriteSession::start(repository.clone(), world.host("thief").session("backup", "")).await.unwrap();
    let mut records = Vec::new();
    for segment in list_segments(&repository).await.unwrap() {
        let packs = read_segment(&repository, segment).await.unwrap().packs;
        records.extend(packs.into_iter().filter(|pack| pack.footer.class == PackClass::Data));
    }
    let others = records.iter().cycle().skip(1);
    let claim = |(pack, other): (&PackRecord, &PackRecord)| PackRecord { footer: other.footer.clone(), ..pack.clone() };
    let packs = records.iter().zip(others).map(claim).collect();
    session.put_segment(&Segment { session: session.id(), packs }).await.unwrap();
    session.abandon().await.unwrap();
}

/// Prunes, and gives the data packs of which something was read.
async fn data_packs_read_by_prune(world: &World, limit: MaxUnused) -> (BTreeSet<String>, PruneReport) {
    let recording = Arc::new(RecordingStore::new(world.store()));
    let (store, notes) = (Arc::clone(&recording) as Store, Arc::new(Notes::default()));
    let report = prune_with("one", world, store, &with_limit(limit), &notes).await.unwrap();
    let is_read = |call: &Call| call.operation == Operation::GetRange && call.target.starts_with("data/");
    (recording.calls().into_iter().filter(is_read).map(|call| call.target).collect(), report)
}

#[tokio::test]
async fn what_a_segment_claims_falsely_is_not_read_night_after_night() {
    for limit in [MaxUnused::Share(50_000), MaxUnused::Bytes(0)] {
        let (world, kept) = partly_dead().await;
        claim_everything(&world).await;
        // What has been claimed is needed until it is copied from where it really is, and goes when that has been found right.
        let (_, first) = data_packs_read_by_prune(&world, limit).await;
        assert!(!first.repacked.damaged.is_empty(), "{first:?}");
        let (_, second) = data_packs_read_by_prune(&world, limit).await;
        assert_eq!(second.repacked.damaged, []);
        assert!(second.deleted.packs >= first.repacked.damaged.len(), "{second:?}");
        let checked = check_it(&world, Some(Subset::All)).await;
        assert!(checked.affected.is_empty() && checked.bad_packs.iter().all(|(class, _)| *class == PackClass::Meta));
        assert_eq!(data_packs_read_by_prune(&world, limit).await.0, BTreeSet::new());
        assert!(world.restore(kept.id).await.unwrap() == kept.stream);

        let (world, kept) = partly_dead().await;
        claim_chunks_of_others(&world).await;
        let (read, _) = data_packs_read_by_prune(&world, limit).await;
        assert!(!read.is_empty());
        // Copies of footers that the first one has left over may go then, for which the footer of a pack that stays is read.
        let (again, _) = data_packs_read_by_prune(&world, limit).await;
        assert!(again.len() <= usize::from(limit == MaxUnused::Bytes(0)), "{again:?}");
        assert_eq!(data_packs_read_by_prune(&world, limit).await.0, BTreeSet::new());
        assert!(world.restore(kept.id).await.unwrap() == kept.stream);
    }
}

#[tokio::test]
async fn a_pack_that_cannot_be_read_stays_while_something_of_it_is_nowhere_else() {
    let (world, kept) = partly_dead().await;
    let (again, other) = (world.keys("data/").await, world.copy().await);
    for key in &again {
        let length = world.body(key).await.len();
        world.replace(key, Bytes::from(random_bytes(1, length))).await;
    }
    for _ in 0..2 {
        let (_, report) = data_packs_read_by_prune(&world, MaxUnused::Bytes(0)).await;
        assert!(!report.repacked.damaged.is_empty());
        let there = world.keys("data/").await;
        assert!(report.repacked.damaged.iter().all(|(class, id)| there.contains(&layout::pack_key(*class, id))));
    }
    // Whoever has another copy puts it back.
    for key in world.keys("data/").await {
        let body = other.body(&key).await;
        world.replace(&key, body).await;
    }
    assert!(world.restore(kept.id).await.unwrap() == kept.stream);
}

/// Reads and stores nothing that it need not: each pack is asked for once.
#[tokio::test]
async fn a_pack_is_rewritten_with_one_request_or_few() {
    let (world, _) = partly_dead().await;
    let recording = Arc::new(RecordingStore::new(world.store()));
    let packs = world.keys("data/").await;
    let store = Arc::clone(&recording) as Store;
    let report = prune_with("one", &world, store, &thorough(), &Arc::new(Notes::default())).await.unwrap();
    let calls = recording.calls();
    let of = |operation: Operation, key: &Key| {
        calls.iter().filter(|call| call.operation == operation && call.target == key.as_str()).count()
    };
    let reads: usize = packs.iter().map(|pack| of(Operation::GetRange, pack)).sum();
    assert!(packs.iter().all(|pack| of(Operation::GetRange, pack) <= 1 && of(Operation::GetEnd, pack) == 0));
    assert!(reads >= 3);
    let puts = |prefix: &str| calls.iter().filter(|call| is_put(call) && call.target.starts_with(prefix)).count();
    assert_eq!((puts("data/") + puts("meta/")) as u64, report.repacked.new_metadata.objects);
    assert_eq!(puts("index/"), 1);
    // Start and end of two sessions and one end once more, which shows whether it is kept; of the plan three records.
    assert_eq!((puts("sessions/"), puts("prune/")), (5, 3));
    let told = report.repacked.all_reads();
    let meta_reads = told.objects - reads as u64;
    assert!(meta_reads <= 3, "{told:?}");
}

fn is_put(call: &Call) -> bool {
    call.operation == Operation::Put
}

#[tokio::test]
async fn a_restore_finds_what_was_rewritten_without_asking_for_each_chunk() {
    let (world, kept) = partly_dead().await;
    let before = world.keys("data/").await;
    prune_well(&world, &thorough()).await;
    let after = world.keys("data/").await;
    let recording = Arc::new(RecordingStore::new(world.store()));
    let repository = world.open_through(Arc::clone(&recording) as Store).await.unwrap();
    let restored = world.restore_through(&repository, kept.id).await.unwrap();
    assert!(restored == kept.stream);
    let calls = recording.calls();
    let count = |operation: Operation, prefix: &str| {
        calls.iter().filter(|call| call.operation == operation && call.target.starts_with(prefix)).count()
    };
    let gone = before.iter().filter(|key| !after.contains(key)).count();
    let looks = count(Operation::Head, "data/") + count(Operation::GetEnd, "data/");
    assert!(looks <= 3 * gone + after.len(), "of {gone} packs");
    assert!(count(Operation::GetRange, "data/") <= 3 * after.len(), "{} packs", after.len());
    assert_eq!(count(Operation::Get, "index/"), world.keys("index/").await.len());
}

/// A prune that is never heard of again when it comes to a request.
async fn prune_that_dies(world: &World, host: &str, is_it: impl Fn(Operation, &str) -> bool + Send + Sync + 'static) {
    let act = move |operation, target: &str| if is_it(operation, target) { Act::Swallow } else { Act::Answer };
    let store = Arc::new(ScriptedStore::new(world.store(), act));
    let (options, notes) = (thorough(), Arc::new(Notes::default()));
    tokio::select! {
        ended = prune_with(host, world, Arc::clone(&store) as Store, &options, &notes) => panic!("{ended:?}"),
        () = store.silent.notified() => {}
    }
}

fn puts_plan(operation: Operation, target: &str) -> bool {
    operation == Operation::Put && target.ends_with("/plan")
}

#[tokio::test]
async fn what_a_killed_prune_has_rewritten_is_not_rewritten_again() {
    let (world, kept) = partly_dead().await;
    prune_that_dies(&world, "two", puts_plan).await;
    let packs = world.keys("data/").await.len();
    let report = prune_well(&world, &thorough()).await;
    let Repacked { new_data, new_metadata, .. } = &report.repacked;
    assert_eq!((new_data.objects, new_metadata.objects), (0, 0), "{report:?}");
    assert!(world.keys("data/").await.len() < packs - 2);
    assert!(bytes_below(&world, "data/").await < 380 * KIB);
    assert_tidy(&world, &[kept]).await;
}

#[tokio::test]
async fn a_dry_run_beside_an_unfinished_plan_says_that_it_cannot_tell_what_would_be_rewritten() {
    let (world, _) = partly_dead().await;
    prune_that_dies(&world, "two", |operation, _| operation == Operation::Delete).await;
    for (max_unused, told) in [(MaxUnused::Bytes(0), 1), (MaxUnused::Unlimited, 0)] {
        let notes = Arc::new(Notes::default());
        let options = PruneOptions { dry_run: true, ..with_limit(max_unused) };
        let report = prune_with("one", &world, world.store(), &options, &notes).await.unwrap();
        assert!(report.deleted.packs > 0);
        let warnings = notes.warnings();
        assert_eq!(warnings.len(), told, "{warnings:?}");
        assert!(
            warnings.iter().all(|warning| warning.contains("what would be rewritten cannot be told")),
            "{warnings:?}"
        );
    }
}

#[tokio::test]
async fn what_a_killed_prune_has_rewritten_and_is_damaged_since_is_told_and_copied_again() {
    let (world, kept) = partly_dead().await;
    let old: BTreeSet<Key> = world.keys("data/").await.into_iter().collect();
    prune_that_dies(&world, "two", puts_plan).await;
    let all: BTreeSet<Key> = world.keys("data/").await.into_iter().collect();
    let new: Vec<&Key> = all.difference(&old).collect();
    for pack in &new {
        garble(&world, pack).await;
    }
    let notes = Arc::new(Notes::default());
    let report = prune_with("one", &world, world.store(), &thorough(), &notes).await.unwrap();
    let problems = notes.problems();
    let names = |pack: &&Key| problems.iter().filter(|problem| problem.contains(pack.as_str())).count();
    assert!(problems.len() == new.len() && new.iter().all(|pack| names(pack) == 1), "{problems:?}");
    assert_eq!(report.repacked.damaged.len(), new.len());
    world.assert_restorable(&[kept]).await;
}

#[tokio::test]
async fn what_a_killed_prune_has_rewritten_and_is_archived_since_is_not_rewritten_again() {
    let (world, kept) = partly_dead().await;
    let old: BTreeSet<Key> = world.keys("data/").await.into_iter().collect();
    prune_that_dies(&world, "two", puts_plan).await;
    let class: StorageClassName = "GLACIER".parse().unwrap();
    let archive = Arc::new(ArchivingStore::new(world.store(), class.clone(), Arc::clone(&world.clock)));
    let all: BTreeSet<Key> = world.keys("data/").await.into_iter().collect();
    all.difference(&old).for_each(|pack| archive.archive(pack, &class));
    for night in 1..=3 {
        let notes = Arc::new(Notes::default());
        let store = Arc::clone(&archive) as Store;
        let report = prune_with("one", &world, store, &thorough(), &notes).await.unwrap();
        assert!(report.kept.archived.objects >= 2 && report.kept.archived.bytes > 100_000, "{report:?}");
        assert_eq!((report.repacked.new_data, notes.problems()), (Amount::default(), vec![]));
        let left: BTreeSet<Key> = world.keys("data/").await.into_iter().collect();
        assert!(left.is_subset(&all) && left.intersection(&old).count() >= 2, "in night {night}");
        assert!(
            night == 1 || report.repacked == Repacked { reads: report.repacked.reads.clone(), ..Repacked::default() }
        );
        assert_tidy(&world, std::slice::from_ref(&kept)).await;
    }
    prune_well(&world, &thorough()).await;
    assert!(bytes_below(&world, "data/").await < 380 * KIB, "it has been thawed");
}

#[tokio::test]
async fn beside_an_open_repair_nothing_is_rewritten() {
    let (world, kept) = partly_dead().await;
    let repair = WriteSession::start(world.open().await, world.host("two").session("repair", "")).await.unwrap();
    let stored = async || (world.keys("data/").await, world.keys("meta/").await, world.keys("index/").await);
    let before = stored().await;
    let report = prune_with("one", &world, world.store(), &thorough(), &Arc::new(Notes::default())).await.unwrap();
    assert_eq!((report.repacked, report.waits_for.len()), (Repacked::default(), 1));
    assert_eq!(stored().await, before);
    repair.abandon().await.unwrap();
    prune_well(&world, &thorough()).await;
    assert!(bytes_below(&world, "data/").await < 380 * KIB);
    assert_tidy(&world, &[kept]).await;
}

/// It begins and ends between the mark of a prune and its plan, and builds on what the prune takes for unused.
#[tokio::test]
async fn a_backup_beside_that_needs_what_was_unused_keeps_it() {
    let (world, kept) = partly_dead().await;
    let (world, again) = (Arc::new(world), mixed(1, 600 * KIB, 300 * KIB));
    let (others, sample) = (Arc::clone(&world), again.clone());
    let back_up = move || {
        let (world, sample) = (Arc::clone(&others), sample.clone());
        async move {
            let packs = world.keys("data/").await.len();
            drop(world.back_up_from("two", &sample).await);
            assert_eq!(world.keys("data/").await.len(), packs, "it builds on what is there");
        }
    };
    let store = meanwhile(world.store(), 1, puts_plan, back_up) as Store;
    let report = prune_with("one", &world, store, &thorough(), &Arc::new(Notes::default())).await.unwrap();
    assert!(report.repacked.all_packs().objects >= 3);
    let published = world.published().await;
    assert_eq!(published.len(), 2);
    for id in published {
        let stream = if id == kept.id { kept.stream.clone() } else { again.stream() };
        assert!(world.restore(id).await.unwrap() == stream);
    }
    prune_well(&world, &thorough()).await;
    assert_tidy(&world, &[kept]).await;
}

#[tokio::test]
async fn two_prunes_that_rewrite_the_same_packs_at_once_lose_nothing_and_leave_nothing() {
    let (world, kept) = partly_dead().await;
    let world = Arc::new(world);
    let others = Arc::clone(&world);
    let prune_too = move || {
        let world = Arc::clone(&others);
        async move {
            let notes = Arc::new(Notes::default());
            let report = prune_with("two", &world, world.store(), &thorough(), &notes).await.unwrap();
            assert!(report.repacked.all_packs().objects >= 3 && report.waits_for.len() == 1, "{report:?}");
        }
    };
    // The first two are those of the session that tries the store.
    let ends = |operation, target: &str| operation == Operation::Put && target.ends_with("/end");
    let store = meanwhile(world.store(), 3, ends, prune_too) as Store;
    prune_with("one", &world, store, &thorough(), &Arc::new(Notes::default())).await.unwrap();
    world.assert_restorable(std::slice::from_ref(&kept)).await;
    for _ in 0..2 {
        prune_well(&world, &thorough()).await;
    }
    assert!(bytes_below(&world, "data/").await < 380 * KIB);
    assert_tidy(&world, &[kept]).await;
}

/// The session that the new packs are of is given up by another prune before it has ended.
#[tokio::test]
async fn a_prune_whose_session_was_given_up_replaces_nothing() {
    let (world, kept) = partly_dead().await;
    let (world, before) = (Arc::new(world), 0);
    let packs = world.keys("data/").await;
    let others = Arc::clone(&world);
    let give_up = move || {
        let world = Arc::clone(&others);
        async move {
            let repository = world.open().await;
            for session in list_sessions(&repository).await.unwrap().open_ids() {
                void_session(&repository, session).await.unwrap();
            }
        }
    };
    let ends = |operation, target: &str| operation == Operation::Put && target.ends_with("/end");
    let store = meanwhile(world.store(), 3, ends, give_up) as Store;
    let error = prune_with("one", &world, store, &thorough(), &Arc::new(Notes::default())).await.unwrap_err();
    assert!(format!("{error:#}").contains("was given up by another prune"), "{error:#}");
    let left = world.keys("data/").await;
    assert!(packs.iter().all(|pack| left.contains(pack)));
    assert_eq!(world.keys("prune/").await.len(), before);
    world.assert_restorable(std::slice::from_ref(&kept)).await;
    prune_well(&world, &thorough()).await;
    assert!(bytes_below(&world, "data/").await < 380 * KIB);
    assert_tidy(&world, &[kept]).await;
}

/// On a full disk, or with rights only to delete, what is unused as a whole goes all the same.
#[tokio::test]
async fn a_prune_that_cannot_store_packs_deletes_those_that_nothing_needs() {
    for refused in [&["data/", "meta/"][..], &["meta/"], &["index/"]] {
        let (world, kept) = partly_dead().await;
        let before: BTreeSet<Key> = world.keys("data/").await.into_iter().collect();
        let dead = back_up_finely(&world, &Sample::random(7, 100 * KIB)).await;
        forget_now(&world, &dead).await;
        let all: BTreeSet<Key> = world.keys("data/").await.into_iter().collect();
        let is_refused = |operation, target: &str| {
            operation == Operation::Put && refused.iter().any(|prefix| target.starts_with(prefix))
        };
        let act = move |operation, target: &str| {
            if is_refused(operation, target) { Act::Refuse(StoreErrorKind::Full) } else { Act::Answer }
        };
        let (store, notes) = (Arc::new(ScriptedStore::new(world.store(), act)), Arc::new(Notes::default()));
        let report = prune_with("one", &world, store as Store, &thorough(), &notes).await.unwrap();
        let problems = notes.problems();
        assert!(problems.len() == 1 && problems[0].contains("rewriting packs: "), "{problems:?}");
        assert_eq!((report.repacked, report.waits_for), (Repacked::default(), vec![]));
        let left: BTreeSet<Key> = world.keys("data/").await.into_iter().collect();
        assert!(all.len() > before.len() && all.difference(&before).all(|pack| !left.contains(pack)));
        assert!(before.is_subset(&left));
        assert_tidy(&world, std::slice::from_ref(&kept)).await;
        prune_well(&world, &thorough()).await;
        assert!(bytes_below(&world, "data/").await < 380 * KIB);
        assert_tidy(&world, &[kept]).await;
    }
}

/// A small scene with two packs to rewrite, for what is tried many times.
async fn small_scene() -> (World, Made) {
    let world = World::new().await;
    let gone = back_up_finely(&world, &mixed(1, 60 * KIB, 60 * KIB)).await;
    let kept = back_up_finely(&world, &mixed(2, 6 * KIB, 60 * KIB)).await;
    forget_now(&world, &gone).await;
    (world, kept)
}

/// What is left when all went well, by how much.
async fn left(world: &World) -> (usize, usize, usize) {
    (world.keys("data/").await.len(), bytes_below(world, "data/").await, world.keys("manifests/").await.len())
}

#[tokio::test]
async fn a_rewriting_prune_survives_the_failure_of_any_request() {
    let (scene, kept) = small_scene().await;
    let whole = scene.copy().await;
    assert!(prune_well(&whole, &thorough()).await.repacked.all_packs().objects >= 1);
    let expected = left(&whole).await;
    for fault in [Fault::Before as fn(u64) -> Fault, Fault::After, Fault::From] {
        for number in 1.. {
            let world = scene.copy().await;
            let store = Arc::new(FaultyStore::new(world.store()).with_fault(fault(number), StoreErrorKind::Transient));
            let notes = Arc::new(Notes::default());
            let pruned = prune_with("one", &world, Arc::clone(&store) as Store, &thorough(), &notes).await;
            if !store.has_failed() {
                assert!(number > 60);
                break;
            }
            world.assert_restorable(std::slice::from_ref(&kept)).await;
            prune_well(&world, &thorough()).await;
            let left = left(&world).await;
            assert_eq!((left.0, left.2), (expected.0, expected.2), "{:?} {pruned:?}", fault(number));
            assert!(left.1.abs_diff(expected.1) < 500, "{left:?}, not {expected:?}: {:?} {pruned:?}", fault(number));
            assert_tidy(&world, std::slice::from_ref(&kept)).await;
        }
    }
}

#[tokio::test]
async fn a_rewriting_prune_that_is_killed_at_any_request_is_simply_run_again() {
    let (scene, kept) = small_scene().await;
    for act in [Act::Swallow, Act::Hang] {
        for number in 1.. {
            let world = scene.copy().await;
            let (requests, act) = (AtomicU64::new(0), act.clone());
            let script = move |_, _: &str| {
                if requests.fetch_add(1, Ordering::SeqCst) + 1 == number { act.clone() } else { Act::Answer }
            };
            let store = Arc::new(ScriptedStore::new(world.store(), script));
            let (options, notes) = (thorough(), Arc::new(Notes::default()));
            let is_over = tokio::select! {
                ended = prune_with("one", &world, Arc::clone(&store) as Store, &options, &notes) => ended.is_ok(),
                () = store.silent.notified() => false,
            };
            if is_over {
                assert!(number > 60);
                break;
            }
            prune_well(&world, &thorough()).await;
            assert!(bytes_below(&world, "data/").await < 70 * KIB, "{number}");
            assert_tidy(&world, std::slice::from_ref(&kept)).await;
            assert_eq!(list_sessions(&world.open().await).await.unwrap().open, []);
        }
    }
}

/// Time as a test sets it.
#[derive(Debug)]
struct SetClock(AtomicI64);

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + self.0.fetch_add(1, Ordering::Relaxed)).unwrap()
    }
}

const DAY_SECONDS: i64 = 24 * 60 * 60;

#[tokio::test]
async fn archived_packs_are_neither_read_nor_thawed_and_go_only_when_all_of_them_is_unused() {
    let (world, kept) = partly_dead().await;
    let class: StorageClassName = "GLACIER".parse().unwrap();
    let archive = Arc::new(ArchivingStore::new(world.store(), class.clone(), Arc::clone(&world.clock)));
    let tried = world.copy().await;
    prune_well(&tried, &thorough()).await;
    let stays_anyway = tried.keys("data/").await;
    let mut packs = world.keys("data/").await;
    // One that would be rewritten comes last.
    packs.sort_by_key(|pack| !stays_anyway.contains(pack));
    let (archived, others) = packs.split_at(packs.len() - 1);
    for pack in archived {
        archive.archive(pack, &class);
    }
    let notes = Arc::new(Notes::default());
    let prune_it =
        async || prune_with("one", &world, Arc::clone(&archive) as Store, &thorough(), &notes).await.unwrap();
    let report = prune_it().await;
    assert!(report.kept.archived.objects > 0 && report.kept.archived.bytes > 100_000, "{report:?}");
    let left = world.keys("data/").await;
    assert!(others.iter().all(|pack| !left.contains(pack)), "one that is not archived is rewritten");
    assert!(left.iter().filter(|pack| archived.contains(pack)).count() as u64 >= report.kept.archived.objects);
    assert_eq!((archive.refused_reads(), archive.take_requests().len(), notes.problems()), (0, 0, vec![]));
    assert_tidy(&world, std::slice::from_ref(&kept)).await;

    forget_now(&world, &kept).await;
    prune_it().await;
    assert_eq!(world.keys("data/").await, []);
    assert_eq!((archive.refused_reads(), archive.take_requests().len()), (0, 0));
}

#[tokio::test]
async fn a_pack_that_is_paid_for_all_the_same_stays_until_it_is_not() {
    let clock = Arc::new(SetClock(AtomicI64::new(0)));
    let world = World::with_clock(Arc::clone(&clock) as Arc<dyn Clock>);
    world.init(world.store()).await.unwrap();
    let gone = back_up_finely(&world, &mixed(1, 600 * KIB, 300 * KIB)).await;
    let dead = back_up_finely(&world, &Sample::random(7, 100 * KIB)).await;
    let dead_pack = world.keys("data/").await;
    let kept = back_up_finely(&world, &mixed(2, 60 * KIB, 300 * KIB)).await;
    for made in [&gone, &dead] {
        forget_now(&world, made).await;
    }
    let class: StorageClassName = "GLACIER_IR".parse().unwrap();
    let archive = Arc::new(ArchivingStore::new(world.store(), class.clone(), Arc::clone(&world.clock)));
    let packs = world.keys("data/").await;
    for pack in &packs {
        archive.archive(pack, &class);
    }
    let minimum_days = [(class, 90)].into();
    let options = PruneOptions { repack: RepackOptions { minimum_days, ..thorough().repack }, ..thorough() };
    let prune_it = async || {
        let notes = Arc::new(Notes::default());
        prune_with("one", &world, Arc::clone(&archive) as Store, &options, &notes).await.unwrap()
    };
    let report = prune_it().await;
    assert_eq!(report.kept.paid_for.objects, packs.len() as u64 - 1, "all but the one that is needed: {report:?}");
    assert_eq!(world.keys("data/").await, packs, "of packs of metadata nothing is paid for");
    assert_eq!(archive.refused_reads(), 0);
    let checked = check_it(&world, None).await;
    assert_eq!((checked.findings, checked.affected), (vec![], vec![]), "the copies of their footers are there");

    clock.0.fetch_add(91 * DAY_SECONDS, Ordering::Relaxed);
    let whole = Arc::new(ArchivingStore::new(world.store(), "STANDARD_IA".parse().unwrap(), Arc::clone(&world.clock)));
    let notes = Arc::new(Notes::default());
    let report = prune_with("one", &world, whole as Store, &options, &notes).await.unwrap();
    assert_eq!(report.kept.paid_for, Amount::default());
    assert!(dead_pack.len() > 1 && bytes_below(&world, "data/").await < 380 * KIB);
    assert_tidy(&world, &[kept]).await;
}

/// What was put into packs that can be read is archived when it has been merged.
#[tokio::test]
async fn what_has_to_be_thawed_is_found_where_it_is_now() {
    let (world, kept) = partly_dead().await;
    let before = world.keys("data/").await;
    prune_well(&world, &thorough()).await;
    let repository = world.open().await;
    let manifest = read_manifest(&repository, kept.id).await.unwrap();
    let options = RestoreOptions::new(world.host_folder("scratch"));
    let monitor: Arc<dyn Monitor> = Arc::new(Notes::default());
    let listing = DataListing::of(&repository).await.unwrap();
    let packs = data_packs(&repository, &manifest.manifest, &listing, &options, &monitor).await.unwrap();
    let keys: BTreeSet<Key> = packs.iter().map(|pack| layout::pack_key(PackClass::Data, pack)).collect();
    let after: BTreeSet<Key> = world.keys("data/").await.into_iter().collect();
    assert_eq!(keys, after);
    assert!(before.iter().filter(|pack| !after.contains(pack)).count() >= 3);
}

#[tokio::test]
async fn a_sample_reads_all_metadata_that_was_rewritten_where_it_is_now() {
    let world = World::new().await;
    // Every chunk has a frame of its own, so that whatever is not read is not found damaged.
    let options = BackupOptions { frame_target_bytes: 1, ..fine_options() };
    let mut made = Vec::new();
    for number in 1..=9 {
        made.push(back_up_with(&world, &Sample::random(number, 12 * KIB), &options).await);
    }
    forget_now(&world, &made.remove(0)).await;
    let repack = RepackOptions { frame_target_bytes: 1, ..thorough().repack };
    prune_well(&world, &PruneOptions { repack, ..thorough() }).await;
    let repository = world.open().await;
    let (mut backups, mut before) = (Vec::new(), BTreeSet::new());
    for made in &made {
        let backup = read_manifest(&repository, made.id).await.unwrap();
        before.extend(backup.manifest.meta_packs.iter().copied());
        backups.push(backup);
    }
    let rehearse = async || {
        let options = RestoreOptions::new(world.host_folder("scratch"));
        let monitor: Arc<dyn Monitor> = Arc::new(Notes::default());
        rehearse(&repository, &backups, &Rehearsal::Sample(Subset::Bytes(1)), &options, &monitor).await
    };
    rehearse().await.unwrap();
    let mut frames = 0;
    for key in world.keys("meta/").await {
        let (class, pack) = layout::parse_pack_key(&key).unwrap();
        if before.contains(&pack) {
            continue;
        }
        let whole = world.body(&key).await;
        let footer = read_pack_footer(&repository, class, pack).await.unwrap();
        for frame in footer.frames.iter().filter(|frame| frame.kind == FrameKind::Content) {
            let mut bytes = whole.to_vec();
            bytes[usize::try_from(frame.range.end - 1).unwrap()] ^= 1;
            world.replace(&key, Bytes::from(bytes)).await;
            let error = rehearse().await.expect_err("damage is found");
            assert!(error.downcast_ref::<Damage>().is_some(), "{error:#}");
            frames += 1;
        }
        world.replace(&key, whole).await;
    }
    assert!(frames > 8, "{frames} frames");
}
