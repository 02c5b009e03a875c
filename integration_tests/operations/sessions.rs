//! Several hosts, sessions that others end, and repositories that this program must not write to or read.

use std::sync::Arc;

use btrfs_to_s3::backup::Expected;
use btrfs_to_s3::id::{Digest, SessionId};
use btrfs_to_s3::index::Segment;
use btrfs_to_s3::object::{ObjectKind, encode_record};
use btrfs_to_s3::records::config::RepositoryConfig;
use btrfs_to_s3::records::session::{Outcome, SessionEvent, SessionRecord, SessionStart};
use btrfs_to_s3::repository::cache::RecordCache;
use btrfs_to_s3::repository::catalog::{Catalog, Published, read_manifest};
use btrfs_to_s3::repository::session::{WriteSession, list_sessions, read_outcome};
use btrfs_to_s3::repository::{Repository, layout};
use btrfs_to_s3::store::recording::Operation;
use btrfs_to_s3::store::{Key, ObjectStore, Store};
use bytes::Bytes;

use crate::interruption::{abandoned_run, data_packs};
use crate::samples::{Sample, random_bytes};
use crate::scripted::{Act, ScriptedStore};
use crate::world::{Made, MemorySource, Notes, World, back_up, begin, publish};

/// The end of a session, as somebody else would write it.
fn end_of(repository: &Repository, session: SessionId, outcome: Outcome) -> (Key, Bytes) {
    let record = SessionRecord {
        session,
        event: SessionEvent::End,
        number: 0,
        at: repository.clock().now(),
        start: None,
        outcome: Some(outcome),
        manifest_digest: None,
    };
    let bytes = encode_record(ObjectKind::Session, repository.id(), &record);
    (layout::session_end_key(&session), Bytes::from(bytes))
}

async fn only_open_session(world: &World) -> SessionId {
    let open = list_sessions(&world.open().await).await.unwrap().open_ids().collect::<Vec<_>>();
    let [session] = open[..] else { panic!("open sessions: {open:?}") };
    session
}

#[tokio::test]
async fn two_hosts_at_once_do_not_use_what_the_other_has_not_published() {
    let world = World::new().await;
    let shared = random_bytes(1, 1_300_000);
    let samples =
        [2, 3].map(|number| Sample::of_files(number, vec![shared.clone(), random_bytes(number.into(), 5000)]));
    let notes = Arc::new(Notes::default());
    let one = begin(&world.open().await, &world.host("one"), &notes).await.unwrap();
    let two = begin(&world.open().await, &world.host("two"), &notes).await.unwrap();
    let (one, two) = tokio::join!(
        publish(one, MemorySource::new(samples[0].stream()), Expected::Anything),
        publish(two, MemorySource::new(samples[1].stream()), Expected::Anything),
    );
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(one.manifest.totals.new_chunks, two.manifest.totals.new_chunks);
    world.assert_restorable(&[Made::new(&one, samples[0].stream()), Made::new(&two, samples[1].stream())]).await;
    assert_eq!(notes.problems(), Vec::<String>::new());

    // Now that both are published, a third knows all of it.
    let packs = world.keys("data/").await;
    world.back_up_from("three", &Sample::of_files(4, vec![shared])).await;
    assert_eq!(world.keys("data/").await, packs);
}

#[tokio::test]
async fn chunks_known_only_through_an_open_session_are_not_used() {
    let world = World::new().await;
    let sample = Sample::random(1, 200_000);
    let session = abandoned_run(&world, "one", sample.stream(), "manifests/").await;
    assert!(!world.keys("index/").await.is_empty());
    let packs = data_packs(&world).await;
    let made = world.back_up_from("two", &sample).await;
    assert_eq!(data_packs(&world).await.len(), 2 * packs.len());

    // The packs of the open session may vanish without harm.
    let repository = world.open().await;
    for key in [world.keys("data/").await, world.keys("meta/").await].concat() {
        let (class, pack) = layout::parse_pack_key(&key).unwrap();
        let footer = btrfs_to_s3::repository::packs::read_pack_footer(&repository, class, pack).await.unwrap();
        if footer.session == session {
            world.memory.delete(&key).await.unwrap();
        }
    }
    world.assert_restorable(&[made]).await;
}

#[tokio::test]
async fn the_segments_of_a_void_session_do_not_count() {
    let world = World::new().await;
    let sample = Sample::random(1, 200_000);
    let session = abandoned_run(&world, "one", sample.stream(), "manifests/").await;
    let (key, end) = end_of(&world.open().await, session, Outcome::Void);
    world.put(&key, end).await;
    let void_packs = data_packs(&world).await.len();
    let made = world.back_up(&sample).await;
    assert_eq!(data_packs(&world).await.len(), 2 * void_packs);
    world.assert_restorable(&[made]).await;
}

#[tokio::test]
async fn a_session_that_prune_voids_later_is_dropped_from_a_local_index_that_had_it() {
    let world = World::new().await;
    let sample = Sample::random(1, 200_000);
    let session = abandoned_run(&world, "one", sample.stream(), "manifests/").await;
    let open = world.copy().await;
    // Host `one` ends its session and takes its segments in; the copy of the repository has it void instead.
    world.back_up(&Sample::random(2, 1000)).await;
    let (key, end) = end_of(&open.open().await, session, Outcome::Void);
    open.put(&key, end).await;
    let mut host = world.host("one");
    host.cache = RecordCache::none();
    let packs = data_packs(&open).await.len();
    let notes = Arc::new(Notes::default());
    let made = back_up(&open.open().await, &host, sample.stream(), Expected::Anything, &notes).await.unwrap();
    assert_eq!(data_packs(&open).await.len(), 2 * packs);
    open.assert_restorable(&[Made::new(&made, sample.stream())]).await;
}

#[tokio::test]
async fn a_session_that_somebody_else_has_ended_cannot_publish() {
    for outcome in [Outcome::None, Outcome::Void] {
        let world = World::new().await;
        let repository = world.open().await;
        let run = begin(&repository, &world.host("one"), &Arc::new(Notes::default())).await.unwrap();
        let (key, end) = end_of(&repository, only_open_session(&world).await, outcome);
        world.put(&key, end).await;
        let source = MemorySource::new(Sample::random(1, 100_000).stream());
        let error = publish(run, source, Expected::Anything).await.unwrap_err();
        assert!(error.to_string().contains("by another run"), "{error:#}");
        assert_eq!(world.keys("manifests/").await, []);
        assert_eq!(world.published().await, []);
        let made = world.back_up(&Sample::random(1, 100_000)).await;
        world.assert_restorable(&[made]).await;
    }
}

#[tokio::test]
async fn a_session_that_is_ended_while_its_manifest_is_put_cannot_publish() {
    let world = World::new().await;
    let repository = world.open().await;
    let script = move |operation, target: &str| match target.strip_prefix(layout::MANIFESTS) {
        Some(session) if operation == Operation::Put => {
            let (key, end) = end_of(&repository, session.parse().unwrap(), Outcome::None);
            Act::After(vec![(key, end)])
        }
        _ => Act::Answer,
    };
    let store = Arc::new(ScriptedStore::new(world.store(), script));
    let repository = world.open_through(store).await.unwrap();
    let stream = Sample::random(1, 100_000).stream();
    let notes = Arc::new(Notes::default());
    let error = back_up(&repository, &world.host("one"), stream, Expected::Anything, &notes).await.unwrap_err();
    assert!(error.to_string().contains("has been ended with"), "{error:#}");
    assert_eq!(world.keys("manifests/").await.len(), 1);
    assert_eq!(world.published().await, []);
}

/// Its requests may still be under way, or it is on a copy of the host and does not know of the other.
#[tokio::test]
async fn what_a_run_goes_on_storing_after_the_next_has_ended_its_session_is_not_taken_for_damage() {
    let base = World::new().await;
    let sample = Sample::random(1, 200_000);
    abandoned_run(&base, "one", sample.stream(), "manifests/").await;
    let mut stored = Vec::new();
    for prefix in ["data/", "meta/", layout::SEGMENTS] {
        for (key, body) in base.objects(prefix).await {
            base.memory.delete(&key).await.unwrap();
            stored.push((key, body));
        }
    }
    for prefix in ["data/", "meta/", layout::SEGMENTS] {
        let (world, stored) = (base.copy().await, stored.clone());
        let script = move |operation, target: &str| {
            let now = operation == Operation::List && target == prefix;
            if now { Act::After(stored.clone()) } else { Act::Answer }
        };
        let repository = world.open_through(Arc::new(ScriptedStore::new(world.store(), script))).await.unwrap();
        let notes = Arc::new(Notes::default());
        let made = back_up(&repository, &world.host("one"), sample.stream(), Expected::Anything, &notes).await.unwrap();
        assert_eq!(notes.problems(), Vec::<String>::new(), "{prefix}");
        world.assert_restorable(&[Made::new(&made, sample.stream())]).await;
    }
}

#[tokio::test]
async fn an_end_whose_answer_got_lost_is_read_back() {
    let world = World::new().await;
    let lose = |operation, target: &str| {
        let end = operation == Operation::Put && target.ends_with("/end");
        if end { Act::LoseAnswer } else { Act::Answer }
    };
    let store = Arc::new(ScriptedStore::new(world.store(), lose));
    let repository = world.open_through(store as Store).await.unwrap();
    let sample = Sample::random(1, 100_000);
    let notes = Arc::new(Notes::default());
    let made = back_up(&repository, &world.host("one"), sample.stream(), Expected::Anything, &notes).await.unwrap();
    world.assert_restorable(&[Made::new(&made, sample.stream())]).await;
}

/// Time stands still but while everything waits: then it passes at once.
#[tokio::test(start_paused = true)]
async fn a_long_run_says_that_it_is_alive_and_goes_on_when_that_fails() {
    for lose_beats in [false, true] {
        let world = World::new().await;
        let script = move |operation, target: &str| {
            let beat = operation == Operation::Put && target.contains("/beat-");
            if beat && lose_beats { Act::LoseAnswer } else { Act::Answer }
        };
        let store = Arc::new(ScriptedStore::new(world.store(), script));
        let repository = world.open_through(store as Store).await.unwrap();
        let sample = Sample::random(1, 1_300_000);
        let notes = Arc::new(Notes::default());
        let made = back_up(&repository, &world.host("one"), sample.stream(), Expected::Anything, &notes).await.unwrap();
        assert!(world.keys("sessions/").await.iter().any(|key| key.as_str().contains("/beat-")));
        world.assert_restorable(&[Made::new(&made, sample.stream())]).await;
    }
}

#[tokio::test]
async fn nothing_is_built_on_while_a_plan_of_a_prune_cannot_be_read() {
    let world = World::new().await;
    let made = world.back_up(&Sample::random(1, 10_000)).await;
    let before = world.keys("").await;
    let plan = Key::new("prune/00112233445566778899aabbccddeeff/plan").unwrap();
    world.put(&plan, Bytes::from_static(b"a plan")).await;
    let notes = Arc::new(Notes::default());
    let error = begin(&world.open().await, &world.host("one"), &notes).await.unwrap_err();
    assert!(format!("{error:#}").contains("reading the plan of a prune, prune/0011"), "{error:#}");

    let new: Vec<Key> = world.keys("").await.into_iter().filter(|key| !before.contains(key) && *key != plan).collect();
    assert!(new.iter().all(|key| key.as_str().starts_with("sessions/")), "{new:?}");
    assert_eq!(list_sessions(&world.open().await).await.unwrap().open, []);
    world.assert_restorable(&[made]).await;
    world.memory.delete(&plan).await.unwrap();
    world.back_up(&Sample::random(2, 10_000)).await;
}

async fn with_config(world: &World, change: impl Fn(&mut RepositoryConfig)) {
    let repository = world.open().await;
    let mut config = repository.config().clone();
    config.number = 1;
    change(&mut config);
    let bytes = encode_record(ObjectKind::Config, repository.id(), &config);
    world.put(&layout::config_key(1), Bytes::from(bytes)).await;
}

#[tokio::test]
async fn a_feature_needed_to_read_that_is_not_known_refuses_everything_by_name() {
    let world = World::new().await;
    world.back_up(&Sample::random(1, 1000)).await;
    with_config(&world, |config| config.required_to_read = vec!["sealed-frames".to_owned()]).await;
    let error = world.open_through(world.store()).await.unwrap_err();
    assert!(format!("{error:#}").contains("to read, a newer btrfs_to_s3 is needed that knows: sealed-frames"));
}

#[tokio::test]
async fn a_feature_needed_to_write_that_is_not_known_still_lets_read() {
    let world = World::new().await;
    let made = world.back_up(&Sample::random(1, 1000)).await;
    with_config(&world, |config| config.required_to_write = vec!["a".to_owned(), "keyed-gear".to_owned()]).await;
    let before = world.keys("").await;
    let error = begin(&world.open().await, &world.host("one"), &Arc::new(Notes::default())).await.unwrap_err();
    assert!(format!("{error:#}").contains("to write, a newer btrfs_to_s3 is needed that knows: a, keyed-gear"));
    assert_eq!(world.keys("").await, before);
    world.assert_restorable(&[made]).await;
}

#[tokio::test]
async fn a_manifest_that_needs_an_unknown_feature_is_refused_by_name_and_does_not_hide_the_others() {
    let world = World::new().await;
    let made = world.back_up(&Sample::random(1, 1000)).await;
    let repository = world.open().await;
    let start = SessionStart {
        host: "one".to_owned(),
        machine: "machine of one".to_owned(),
        subvolume: "data".to_owned(),
        purpose: "backup".to_owned(),
        tool: "a later program".to_owned(),
    };
    let session = WriteSession::start(repository.clone(), start).await.unwrap();
    let mut manifest = read_manifest(&repository, made.id).await.unwrap().manifest;
    manifest.session = session.id();
    manifest.required_to_read = vec!["sparse-trees".to_owned()];
    session.commit(&manifest).await.unwrap();

    let error = format!("{:#}", read_manifest(&repository, manifest.id()).await.unwrap_err());
    assert!(error.contains("sparse-trees") && error.contains(&manifest.id().to_string()), "{error}");
    let catalog = Catalog::load(&repository, &RecordCache::none()).await.unwrap();
    assert_eq!(catalog.published.iter().map(Published::id).collect::<Vec<_>>(), [made.id]);
    assert!(matches!(catalog.damaged.as_slice(), [one] if format!("{one:#}").contains("sparse-trees")));
    world.back_up(&Sample::random(2, 1000)).await;
}

/// Makes an object look as if written in format version 2, its hash being right.
fn of_next_version(body: &[u8]) -> Vec<u8> {
    let mut bytes = body.to_vec();
    bytes[8] = 2;
    let content = bytes.len() - 32;
    let hash = blake3::hash(&bytes[..content]);
    bytes[content..].copy_from_slice(hash.as_bytes());
    bytes
}

#[tokio::test]
async fn a_record_of_an_unknown_format_version_is_reported_as_such() {
    let base = World::new().await;
    let made = base.back_up(&Sample::random(1, 1000)).await;
    let session = SessionId::from(made.id);
    let keys = [layout::config_key(0), layout::session_end_key(&session), layout::manifest_key(&made.id)];
    for key in keys {
        let world = base.copy().await;
        let body = world.body(&key).await;
        world.replace(&key, Bytes::from(of_next_version(&body))).await;
        let error = match world.open_through(world.store()).await {
            Ok(repository) => world.restore_through(&repository, made.id).await.unwrap_err(),
            Err(error) => error,
        };
        let text = format!("{error:#}");
        assert!(text.contains(key.as_str()) && text.contains("format version 2") && text.contains("newer"), "{text}");
        assert!(!text.contains("damaged"), "{text}");
    }
}

#[tokio::test]
async fn an_index_segment_of_an_unknown_format_version_is_reported_as_such() {
    let world = World::new().await;
    world.back_up(&Sample::random(1, 1000)).await;
    let repository = world.open().await;
    let segment = Segment { session: only_ended_session(&repository).await, packs: Vec::new() };
    let (_, mut bytes) = segment.encode(repository.id(), repository.draw_salt());
    bytes[8] = 2;
    let id = btrfs_to_s3::id::SegmentId::from_bytes(*Digest::of(&bytes).as_bytes());
    world.put(&layout::segment_key(&id), Bytes::from(bytes)).await;
    let error = begin(&repository, &world.host("one"), &Arc::new(Notes::default())).await.unwrap_err();
    let text = format!("{error:#}");
    assert!(text.contains(&id.to_string()) && text.contains("format version 2"), "{text}");
    assert_eq!(list_sessions(&repository).await.unwrap().open, []);
}

async fn only_ended_session(repository: &Repository) -> SessionId {
    let ended = list_sessions(repository).await.unwrap().ended;
    assert_eq!(ended.len(), 1);
    ended[0]
}

#[tokio::test]
async fn the_start_of_one_session_in_the_place_of_anothers_does_not_let_its_host_end_that() {
    let world = World::new().await;
    let session = abandoned_run(&world, "two", Sample::random(1, 1000).stream(), "manifests/").await;
    let other = world.back_up(&Sample::random(2, 1000)).await;
    let start_of_one = world.body(&layout::session_start_key(&other.id.into())).await;
    world.replace(&layout::session_start_key(&session), start_of_one).await;
    std::fs::remove_dir_all(world.host_folder("one")).unwrap();
    world.back_up(&Sample::random(3, 1000)).await;
    let repository = world.open().await;
    assert_eq!(list_sessions(&repository).await.unwrap().open_ids().collect::<Vec<_>>(), [session]);
    read_outcome(&repository, session, &RecordCache::none()).await.unwrap_err();
}

#[tokio::test]
async fn the_damaged_end_of_a_session_is_told_and_does_not_stop_other_backups() {
    let world = World::new().await;
    let sample = Sample::random(1, 100_000);
    let first = world.back_up(&sample).await;
    let key = layout::session_end_key(&first.id.into());
    let body = world.body(&key).await;
    world.replace(&key, body.slice(..100)).await;
    for host in ["one", "two"] {
        let packs = world.keys("data/").await.len();
        let notes = Arc::new(Notes::default());
        let repository = world.open().await;
        let made = back_up(&repository, &world.host(host), sample.stream(), Expected::Anything, &notes).await.unwrap();
        let problems = notes.problems();
        assert!(matches!(problems.as_slice(), [one] if one.contains(key.as_str())), "{problems:?}");
        // What the damaged session has stored does not count; what the next one has, does.
        assert_eq!(world.keys("data/").await.len() - packs, usize::from(host == "one"));
        assert_eq!(world.restore(made.id()).await.unwrap(), sample.stream());
    }
}

#[tokio::test]
async fn a_parent_whose_records_are_gone_is_reported_by_name() {
    let world = World::new().await;
    let full = world.back_up(&Sample::random(1, 1000)).await;
    world.back_up(&Sample::random(2, 1000).on(1)).await;
    let end = layout::session_end_key(&full.id.into());
    for gone in [end.clone(), layout::manifest_key(&full.id)] {
        world.memory.delete(&gone).await.unwrap();
        let catalog = Catalog::load(&world.open().await, &RecordCache::none()).await.unwrap();
        assert!(
            matches!(catalog.damaged.as_slice(), [one] if one.to_string().contains(end.as_str())),
            "{gone}: {:?}",
            catalog.damaged
        );
    }
}
