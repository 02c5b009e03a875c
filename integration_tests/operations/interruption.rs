//! A run is killed at any moment: the next one ends its session, uses what it has stored, and publishes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use btrfs_to_s3::backup::Expected;
use btrfs_to_s3::id::{ChunkId, PackId, SessionId};
use btrfs_to_s3::index::Segment;
use btrfs_to_s3::pack::format::PackClass;
use btrfs_to_s3::records::session::Outcome;
use btrfs_to_s3::repository::cache::RecordCache;
use btrfs_to_s3::repository::layout;
use btrfs_to_s3::repository::packs::read_pack_footer;
use btrfs_to_s3::repository::session::{list_sessions, read_outcome};
use btrfs_to_s3::store::Store;
use btrfs_to_s3::store::recording::{Operation, RecordingStore};

use crate::samples::{Sample, random_bytes};
use crate::scripted::{Act, ScriptedStore};
use crate::world::{Made, Notes, World, back_up};

/// Runs a backup that is killed when a request is not answered; says whether one was not.
async fn killed_run(world: &World, host: &str, stream: Vec<u8>, store: Arc<ScriptedStore>) -> bool {
    let run = async {
        let repository = world.open_through(Arc::clone(&store) as Store).await.unwrap();
        let notes = Arc::new(Notes::default());
        back_up(&repository, &world.host(host), stream, Expected::Anything, &notes).await.unwrap();
    };
    tokio::select! {
        () = run => false,
        () = store.silent.notified() => true,
    }
}

/// Has a host's run end, without a word, when it first wants to put something below `prefix`; gives its session.
pub(crate) async fn abandoned_run(world: &World, host: &str, stream: Vec<u8>, prefix: &'static str) -> SessionId {
    let wanted = move |operation, target: &str| operation == Operation::Put && target.starts_with(prefix);
    let script = move |operation, target: &str| if wanted(operation, target) { Act::Swallow } else { Act::Answer };
    let store = Arc::new(ScriptedStore::new(world.store(), script));
    assert!(killed_run(world, host, stream, store).await);
    let open = list_sessions(&world.open().await).await.unwrap().open_ids().collect::<Vec<_>>();
    let [session] = open[..] else { panic!("open sessions: {open:?}") };
    session
}

/// The data packs there are, and the chunks in each.
pub(crate) async fn data_packs(world: &World) -> BTreeMap<PackId, BTreeMap<ChunkId, u64>> {
    let repository = world.open().await;
    let mut packs = BTreeMap::new();
    for key in world.keys("data/").await {
        let (class, pack) = layout::parse_pack_key(&key).unwrap();
        let footer = read_pack_footer(&repository, class, pack).await.unwrap();
        let chunks = footer.chunks.iter().map(|chunk| (chunk.id, u64::from(chunk.length_bytes)));
        packs.insert(pack, chunks.collect());
    }
    packs
}

/// The data chunks that index segments name.
async fn indexed_data(world: &World) -> BTreeSet<ChunkId> {
    let repository = world.open().await.id();
    let mut chunks = BTreeSet::new();
    for (key, body) in world.objects(layout::SEGMENTS).await {
        let segment = Segment::decode(repository, layout::parse_segment_key(&key).unwrap(), &body).unwrap();
        let data = segment.packs.iter().filter(|pack| pack.footer.class == PackClass::Data);
        chunks.extend(data.flat_map(|pack| pack.footer.chunks.iter().map(|chunk| chunk.id)));
    }
    chunks
}

/// Backs up again after a kill: only what no segment names is sent.
async fn check_next_run(world: &World, sample: &Sample, all: &BTreeMap<ChunkId, u64>) {
    let indexed = indexed_data(world).await;
    let missing: BTreeSet<ChunkId> = all.keys().filter(|chunk| !indexed.contains(*chunk)).copied().collect();
    let packs_before = data_packs(world).await;
    let open = list_sessions(&world.open().await).await.unwrap().open_ids().collect::<Vec<_>>();

    let recording = Arc::new(RecordingStore::new(world.store()));
    let repository = world.open_through(Arc::clone(&recording) as Store).await.unwrap();
    let notes = Arc::new(Notes::default());
    let summary = back_up(&repository, &world.host("one"), sample.stream(), Expected::Anything, &notes).await.unwrap();
    assert_eq!(notes.problems(), Vec::<String>::new());

    let new_packs = data_packs(world).await.into_iter().filter(|(pack, _)| !packs_before.contains_key(pack));
    let sent: BTreeMap<ChunkId, u64> = new_packs.flat_map(|(_, chunks)| chunks).collect();
    assert_eq!(sent.keys().copied().collect::<BTreeSet<_>>(), missing);
    let puts = recording.calls().into_iter().filter(|call| call.operation == Operation::Put);
    let put_bytes: u64 = puts.filter(|call| call.target.starts_with("data/")).map(|call| call.body_bytes).sum();
    let missing_bytes: u64 = sent.values().sum();
    assert!(put_bytes <= missing_bytes + missing_bytes / 50 + 4096, "{put_bytes} bytes for {missing_bytes}");
    for session in open {
        let end = read_outcome(&repository, session, &RecordCache::none()).await.unwrap();
        assert_eq!(end.outcome, Outcome::None);
    }
    world.assert_restorable(&[Made::new(&summary, sample.stream())]).await;
}

async fn kill_at_each_request(act: Act) {
    let base = World::new().await;
    let earlier = base.back_up(&Sample::random(1, 50_000)).await;
    let sample = Sample::of_files(2, vec![random_bytes(2, 2_300_000), random_bytes(1, 50_000)]);
    let whole = base.copy().await;
    whole.back_up(&sample).await;
    let all: BTreeMap<ChunkId, u64> = data_packs(&whole).await.into_values().flatten().collect();

    for number in 1.. {
        let world = base.copy().await;
        let (requests, act) = (AtomicU64::new(0), act.clone());
        let script = move |_, _: &str| {
            if requests.fetch_add(1, Ordering::SeqCst) + 1 == number { act.clone() } else { Act::Answer }
        };
        let store = Arc::new(ScriptedStore::new(world.store(), script));
        let killed = killed_run(&world, "one", sample.stream(), store).await;
        world.assert_restorable(std::slice::from_ref(&earlier)).await;
        check_next_run(&world, &sample, &all).await;
        if !killed {
            assert!(number > 20, "{number} requests");
            return;
        }
    }
}

#[tokio::test]
async fn a_run_killed_before_any_request_took_effect_is_continued_by_the_next() {
    kill_at_each_request(Act::Swallow).await;
}

#[tokio::test]
async fn a_run_killed_after_any_request_took_effect_is_continued_by_the_next() {
    kill_at_each_request(Act::Hang).await;
}

#[tokio::test]
async fn the_session_of_a_killed_run_is_left_to_its_own_host() {
    let world = World::new().await;
    let stream = Sample::random(1, 200_000).stream();
    let session = abandoned_run(&world, "one", stream, "manifests/").await;
    world.back_up_from("two", &Sample::random(2, 1000)).await;
    assert_eq!(list_sessions(&world.open().await).await.unwrap().open_ids().collect::<Vec<_>>(), [session]);

    // Another machine of the same name is another host.
    let mut host = world.host("one");
    host.machine = "another machine".to_owned();
    let stream = Sample::random(3, 1000).stream();
    let notes = Arc::new(Notes::default());
    back_up(&world.open().await, &host, stream, Expected::Anything, &notes).await.unwrap();
    assert_eq!(list_sessions(&world.open().await).await.unwrap().open_ids().collect::<Vec<_>>(), [session]);

    world.back_up_from("one", &Sample::random(4, 1000)).await;
    assert_eq!(list_sessions(&world.open().await).await.unwrap().open, []);
}
