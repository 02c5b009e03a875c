//! Streams that must not become backups: nothing is published, and the session ends without a manifest.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use btrfs_to_s3::backup::{Expected, Interrupted, Stream, never_interrupted};
use btrfs_to_s3::records::session::Outcome;
use btrfs_to_s3::repository::cache::RecordCache;
use btrfs_to_s3::repository::session::{list_sessions, read_outcome};
use btrfs_to_s3::send_stream::{AttributeCode, CommandCode, StreamWriter, Value};
use btrfs_to_s3::store::recording::Operation;
use futures_util::future::FutureExt;
use tokio::sync::oneshot;

use crate::samples::{Sample, captured_streams, origin, random_bytes};
use crate::scripted::{Act, ScriptedStore};
use crate::world::{MemorySource, Notes, World, back_up, begin, publish, request, small_options};

/// Archives a stream that must not be published; gives the error's text.
async fn refused(world: &World, source: MemorySource, expected: Expected) -> String {
    let manifests = world.keys("manifests/").await;
    let run = begin(&world.open().await, &world.host("one"), &Arc::new(Notes::default())).await.unwrap();
    let error = publish(run, source, expected).await.unwrap_err();
    assert_eq!(world.keys("manifests/").await, manifests, "{error:#}");
    assert_no_open_session(world).await;
    format!("{error:#}")
}

async fn assert_no_open_session(world: &World) {
    assert_eq!(list_sessions(&world.open().await).await.unwrap().open, []);
}

/// How the sessions of a world have ended.
async fn outcomes(world: &World) -> Vec<Outcome> {
    let repository = world.open().await;
    let mut outcomes = Vec::new();
    for session in list_sessions(&repository).await.unwrap().ended {
        outcomes.push(read_outcome(&repository, session, &RecordCache::none()).await.unwrap().outcome);
    }
    outcomes
}

#[tokio::test]
async fn a_stream_cut_short_publishes_no_manifest() {
    let world = World::new().await;
    let stream = Sample::of_files(1, vec![random_bytes(1, 60_000), random_bytes(2, 10)]).stream();
    let without_end = stream.len() - 10;
    // Within the header, within and between commands, and just before the last byte.
    for length in [1, 16, 17, 20, 100, 50_000, without_end, without_end + 1, stream.len() - 1] {
        let source = MemorySource::new(stream[..length].to_vec());
        let expected = Expected::Snapshot { subject: origin(1), parent: None };
        let error = refused(&world, source, expected).await;
        assert!(
            error.contains("reading the stream") || error.contains("not that of the snapshot"),
            "{length}: {error}"
        );
    }
    assert!(outcomes(&world).await.iter().all(|outcome| *outcome == Outcome::None));
    let made = world.back_up(&Sample::random(1, 60_000)).await;
    world.assert_restorable(&[made]).await;
}

#[tokio::test]
async fn an_empty_stream_is_warned_of() {
    let world = World::new().await;
    let notes = Arc::new(Notes::default());
    let run = begin(&world.open().await, &world.host("one"), &notes).await.unwrap();
    publish(run, MemorySource::new(Vec::new()), Expected::Anything).await.unwrap();
    let warnings = notes.warnings();
    assert!(matches!(warnings.as_slice(), [one] if one.contains("the stream is empty")), "{warnings:?}");
}

#[tokio::test]
async fn a_stream_that_cannot_be_received_publishes_no_manifest() {
    let world = World::new().await;
    let mut writer = StreamWriter::new(Vec::new(), 1).unwrap();
    let uuid = (AttributeCode::UUID, Value::Uuid(origin(1).uuid));
    let subject =
        [(AttributeCode::PATH, Value::Bytes(b"s")), uuid, (AttributeCode::CTRANSID, Value::U64(origin(1).ctransid))];
    writer.command(CommandCode::SUBVOL, &subject).unwrap();
    let names = [(AttributeCode::PATH, Value::Bytes(b"o257-7-0")), (AttributeCode::PATH_TO, Value::Bytes(b"name"))];
    writer.command(CommandCode::RENAME, &names).unwrap();
    let stream = writer.finish().unwrap();
    let of = |number| Expected::Snapshot { subject: origin(number), parent: None };
    // Also where it says that it is of another one.
    for expected in [Expected::Anything, of(1), of(2)] {
        let error = refused(&world, MemorySource::new(stream.clone()), expected).await;
        assert!(error.contains("the rename of 'o257-7-0' at byte 64: the path is not there"), "{error}");
    }
    // As mere bytes it is as good as any others.
    let repository = world.open().await;
    let notes = Arc::new(Notes::default());
    back_up(&repository, &world.host("one"), stream, Expected::Opaque, &notes).await.unwrap();
}

/// A stream of everything in which a file is made, then many others, and then, if it is said, the first one as a FIFO.
fn far_apart(made_again: bool) -> Vec<u8> {
    let mut writer = StreamWriter::new(Vec::new(), 1).unwrap();
    let uuid = (AttributeCode::UUID, Value::Uuid(origin(1).uuid));
    let subject =
        [(AttributeCode::PATH, Value::Bytes(b"s")), uuid, (AttributeCode::CTRANSID, Value::U64(origin(1).ctransid))];
    writer.command(CommandCode::SUBVOL, &subject).unwrap();
    for number in 0..200 {
        let name = format!("o{number}-7-0");
        writer.command(CommandCode::MKFILE, &[(AttributeCode::PATH, Value::Bytes(name.as_bytes()))]).unwrap();
    }
    if made_again {
        writer.command(CommandCode::MKFIFO, &[(AttributeCode::PATH, Value::Bytes(b"o0-7-0"))]).unwrap();
    }
    writer.finish().unwrap()
}

#[tokio::test]
async fn more_names_than_fit_into_memory_are_remembered_and_leave_nothing_behind() {
    let world = World::new().await;
    let of = || Expected::Snapshot { subject: origin(1), parent: None };
    let error = refused(&world, MemorySource::new(far_apart(true)), of()).await;
    assert!(error.contains("the mkfifo of 'o0-7-0'") && error.contains("the path is there already"), "{error}");
    let (host, notes) = (world.host("one"), Arc::new(Notes::default()));
    back_up(&world.open().await, &host, far_apart(false), of(), &notes).await.unwrap();
    assert_eq!(notes.warnings(), Vec::<String>::new());
    assert_eq!(std::fs::read_dir(&host.scratch_directory).unwrap().count(), 0, "it was used, and is empty again");
}

#[tokio::test]
async fn where_names_cannot_be_kept_the_backup_is_made_and_the_reason_told_once() {
    let world = World::new().await;
    let (host, notes) = (world.host("one"), Arc::new(Notes::default()));
    std::fs::create_dir_all(host.scratch_directory.parent().unwrap()).unwrap();
    std::fs::write(&host.scratch_directory, "not a folder").unwrap();
    let of = Expected::Snapshot { subject: origin(1), parent: None };
    // What is wrong with it is too far away to be found.
    back_up(&world.open().await, &host, far_apart(true), of, &notes).await.unwrap();
    let (warnings, problems) = (notes.warnings(), notes.problems());
    assert!(
        matches!(warnings.as_slice(), [one] if one.contains("could not be followed throughout: making ")),
        "{warnings:?}"
    );
    assert_eq!(problems, Vec::<String>::new());
}

#[tokio::test]
async fn a_captured_stream_cut_anywhere_publishes_no_manifest() {
    let world = World::new().await;
    let (_, stream) = captured_streams().into_iter().min_by_key(|(_, stream)| stream.len()).unwrap();
    // Shorter than the magic, it is no send stream.
    for length in 13..stream.len() {
        let source = MemorySource::new(stream[..length].to_vec());
        refused(&world, source, Expected::Anything).await;
    }
}

#[tokio::test]
async fn a_wrong_checksum_publishes_no_manifest() {
    let world = World::new().await;
    let stream = Sample::random(1, 200_000).stream();
    for offset in [25, 60, 100_000, stream.len() - 1] {
        let mut stream = stream.clone();
        stream[offset] ^= 1;
        let error = refused(&world, MemorySource::new(stream), Expected::Anything).await;
        assert!(error.contains("of the send stream"), "{error}");
    }
}

#[tokio::test]
async fn bytes_after_the_end_command_publish_no_manifest() {
    let world = World::new().await;
    for after in [vec![0], random_bytes(1, 300_000), Sample::random(1, 10).stream()] {
        let mut stream = Sample::random(1, 100_000).stream();
        stream.extend(after);
        let error = refused(&world, MemorySource::new(stream), Expected::Anything).await;
        assert!(error.contains("goes on after its END command"), "{error}");
    }
}

#[tokio::test]
async fn a_producer_that_is_not_content_publishes_no_manifest() {
    let world = World::new().await;
    for stream in [Sample::random(1, 100_000).stream(), random_bytes(1, 100_000), Vec::new()] {
        let source = MemorySource::new(stream).with_complaint("btrfs send ended with code 1");
        let error = refused(&world, source, Expected::Anything).await;
        assert!(error.contains("btrfs send ended with code 1"), "{error}");
    }
}

#[tokio::test]
async fn the_stream_of_another_snapshot_publishes_no_manifest() {
    let world = World::new().await;
    let expected = Expected::Snapshot { subject: origin(2), parent: None };
    let error = refused(&world, MemorySource::new(Sample::random(1, 1000).stream()), expected).await;
    assert!(error.contains(&origin(1).to_string()) && error.contains(&origin(2).to_string()), "{error}");
    let expected = Expected::Snapshot { subject: origin(2), parent: None };
    let error = refused(&world, MemorySource::new(b"not a stream".to_vec()), expected).await;
    assert!(error.contains("it names none"), "{error}");
}

#[tokio::test]
async fn a_stream_against_another_parent_publishes_no_manifest() {
    let world = World::new().await;
    let full = world.back_up(&Sample::random(1, 1000)).await;
    let other = world.back_up(&Sample::random(2, 1000)).await;
    let (sample, subject) = (Sample::random(3, 1000), origin(3));
    for (sample, parent) in [
        (sample.clone(), full.parent.clone()),
        (sample.clone().on(1), None),
        (sample.clone().on(1), other.parent.clone()),
        (sample.clone().on(9), full.parent.clone()),
    ] {
        let expected = Expected::Snapshot { subject, parent };
        let error = refused(&world, MemorySource::new(sample.stream()), expected).await;
        assert!(error.contains("not made against the parent that was chosen"), "{error}");
    }
}

#[tokio::test]
async fn a_parent_that_does_not_count_any_more_publishes_no_manifest() {
    let world = World::new().await;
    let full = world.back_up(&Sample::random(1, 1000)).await;
    let key = btrfs_to_s3::repository::layout::forgotten_key(&full.id);
    world.put(&key, bytes::Bytes::new()).await;
    let expected = Expected::Snapshot { subject: origin(2), parent: full.parent };
    let source = MemorySource::new(Sample::random(2, 1000).on(1).stream());
    let error = refused(&world, source, expected).await;
    assert!(error.contains(&format!("{} has been forgotten", full.id)), "{error}");
}

#[tokio::test]
async fn a_parent_that_nobody_backed_up_is_warned_of() {
    let world = World::new().await;
    let notes = Arc::new(Notes::default());
    let run = begin(&world.open().await, &world.host("one"), &notes).await.unwrap();
    let stream = Sample::random(2, 1000).on(1).stream();
    publish(run, MemorySource::new(stream), Expected::Anything).await.unwrap();
    let warnings = notes.warnings();
    assert!(matches!(warnings.as_slice(), [one] if one.contains(&origin(1).to_string())), "{warnings:?}");
}

#[tokio::test]
async fn the_producer_of_a_stream_that_fails_is_stopped() {
    let world = World::new().await;
    for (after, expected_to_stop) in [(vec![], false), (vec![0], true)] {
        let run = begin(&world.open().await, &world.host("one"), &Arc::new(Notes::default())).await.unwrap();
        let mut stream = Sample::random(1, 1000).stream();
        stream.extend(after);
        let stopped = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stopped);
        let stop: btrfs_to_s3::backup::StopProducer = Arc::new(move || flag.store(true, Ordering::SeqCst));
        let stream =
            Stream { source: Box::new(MemorySource::new(stream)), stop: Some(stop), interruption: never_interrupted() };
        let published = run.publish(stream, &request(Expected::Anything), &small_options()).await;
        assert_eq!((published.is_err(), stopped.load(Ordering::SeqCst)), (expected_to_stop, expected_to_stop));
    }
}

#[tokio::test]
async fn an_interrupted_run_stops_its_producer_and_publishes_nothing() {
    let world = World::new().await;
    let run = begin(&world.open().await, &world.host("one"), &Arc::new(Notes::default())).await.unwrap();
    let stopped = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stopped);
    let stream = Stream {
        source: Box::new(MemorySource::new(Sample::random(1, 1000).stream())),
        stop: Some(Arc::new(move || flag.store(true, Ordering::SeqCst))),
        interruption: std::future::ready(Interrupted("a test")).boxed().shared(),
    };
    let error = run.publish(stream, &request(Expected::Anything), &small_options()).await.unwrap_err();
    assert_eq!(error.downcast_ref(), Some(&Interrupted("a test")));
    assert!(stopped.load(Ordering::SeqCst));
    assert_no_open_session(&world).await;
    assert_eq!(outcomes(&world).await, [Outcome::None]);
}

#[tokio::test]
async fn a_run_is_not_interrupted_once_its_manifest_is_put() {
    for (prefix, publishes) in [("data/", false), ("manifests/", true)] {
        let world = World::new().await;
        let (sender, receiver) = oneshot::channel();
        let sender = Mutex::new(Some(sender));
        let store = ScriptedStore::new(world.store(), move |operation, target| {
            if operation == Operation::Put
                && target.starts_with(prefix)
                && let Some(sender) = sender.lock().unwrap().take()
            {
                // Nobody listens any more when there is nothing left to interrupt.
                sender.send(Interrupted("a test")).ok();
            }
            Act::Answer
        });
        let repository = world.open_through(Arc::new(store)).await.unwrap();
        let run = begin(&repository, &world.host("one"), &Arc::new(Notes::default())).await.unwrap();
        let stream = Stream {
            source: Box::new(MemorySource::new(Sample::random(1, 1000).stream())),
            stop: None,
            interruption: receiver.map(|sent| sent.unwrap_or(Interrupted("nobody"))).boxed().shared(),
        };
        let published = run.publish(stream, &request(Expected::Anything), &small_options()).await;
        assert_eq!(published.is_ok(), publishes, "interrupted when it puts something below {prefix}");
        assert_no_open_session(&world).await;
    }
}

#[tokio::test]
async fn a_run_that_is_given_up_before_it_has_a_stream_leaves_nothing_open() {
    let world = World::new().await;
    let run = begin(&world.open().await, &world.host("one"), &Arc::new(Notes::default())).await.unwrap();
    run.give_up().await;
    assert_no_open_session(&world).await;
    assert_eq!(outcomes(&world).await, [Outcome::None]);
}
