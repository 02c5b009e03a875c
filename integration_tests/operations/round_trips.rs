//! What goes in comes out.

use std::sync::Arc;

use btrfs_to_s3::backup::{Expected, never_interrupted};
use btrfs_to_s3::records::manifest::BackupKind;
use btrfs_to_s3::repository::catalog::read_manifest;
use btrfs_to_s3::store::Store;
use btrfs_to_s3::store::recording::{Operation, RecordingStore};

use crate::samples::{Sample, captured_streams, random_bytes};
use crate::world::{Made, Notes, World, assert_same_bytes, back_up, begin};

async fn made_of(world: &World, stream: Vec<u8>, expected: Expected) -> Made {
    let notes = Arc::new(Notes::default());
    let repository = world.open().await;
    let summary = back_up(&repository, &world.host("one"), stream.clone(), expected, &notes).await.unwrap();
    assert!(notes.problems().is_empty());
    Made::new(&summary, stream)
}

#[tokio::test]
async fn every_captured_stream_comes_back_byte_for_byte() {
    let world = World::new().await;
    let mut made = Vec::new();
    for (_, stream) in captured_streams() {
        made.push(made_of(&world, stream, Expected::Anything).await);
    }
    world.assert_restorable(&made).await;
}

#[tokio::test]
async fn every_captured_stream_comes_back_when_it_is_not_taken_apart() {
    let world = World::new().await;
    let mut made = Vec::new();
    for (_, stream) in captured_streams() {
        made.push(made_of(&world, stream, Expected::Opaque).await);
    }
    world.assert_restorable(&made).await;
}

#[tokio::test]
async fn opaque_streams_of_any_length_come_back() {
    let world = World::new().await;
    let mut made = Vec::new();
    for length in [0, 1, 17, 4 << 20] {
        for expected in [Expected::Opaque, Expected::Anything] {
            made.push(made_of(&world, random_bytes(5, length), expected).await);
        }
    }
    world.assert_restorable(&made).await;
}

#[tokio::test]
async fn each_of_several_backups_comes_back_by_its_id() {
    let world = World::new().await;
    let mut made = Vec::new();
    let mut sample = Sample::random(1, 300_000);
    for number in 2..8 {
        made.push(world.back_up(&sample).await);
        sample.files[0].extend(random_bytes(u64::from(number), 50_000));
        sample = Sample { subject: crate::samples::origin(number), ..sample }.on(number - 1);
    }
    world.assert_restorable(&made).await;
    assert_eq!(world.published().await.len(), made.len());
}

#[tokio::test]
async fn a_second_backup_of_the_same_stream_adds_next_to_nothing() {
    let world = World::new().await;
    let sample = Sample::random(1, 4 << 20);
    let first = world.back_up(&sample).await;
    let packs = world.keys("data/").await;

    let recording = Arc::new(RecordingStore::new(world.store()));
    let repository = world.open_through(Arc::clone(&recording) as Store).await.unwrap();
    let notes = Arc::new(Notes::default());
    let summary = back_up(&repository, &world.host("one"), sample.stream(), Expected::Anything, &notes).await.unwrap();

    let puts = recording.calls().into_iter().filter(|call| call.operation == Operation::Put);
    let put_bytes: u64 = puts.map(|call| call.body_bytes).sum();
    assert!(put_bytes * 200 < first.stream.len() as u64, "{put_bytes} bytes were put");
    assert_eq!(world.keys("data/").await, packs);
    assert_eq!(summary.manifest.totals.new_chunks, 0);
    world.assert_restorable(&[Made::new(&summary, sample.stream()), first]).await;
}

#[tokio::test]
async fn another_host_finds_the_same_stream_known() {
    let world = World::new().await;
    let sample = Sample::random(1, 2 << 20);
    world.back_up_from("one", &sample).await;
    let packs = world.keys("data/").await;
    let second = world.back_up_from("two", &sample).await;
    assert_eq!(world.keys("data/").await, packs);
    world.assert_restorable(&[second]).await;
}

#[tokio::test]
async fn long_runs_of_one_byte_are_stored_once_and_come_back() {
    let world = World::new().await;
    let mut content = vec![0; 8 << 20];
    content.extend(random_bytes(1, 1000));
    content.extend(vec![0xff; 3 << 20]);
    content.extend(vec![0; (2 << 20) + 1]);
    let parted = world.back_up(&Sample::of_files(1, vec![content.clone(), vec![0; 5 << 20]])).await;
    let opaque = made_of(&world, content, Expected::Opaque).await;
    let stored: usize = world.objects("data/").await.iter().map(|(_, body)| body.len()).sum();
    assert!(stored < 64 << 10, "{stored} bytes for runs of one byte");
    world.assert_restorable(&[parted, opaque]).await;
}

#[tokio::test]
async fn files_around_every_length_that_the_chunker_knows_come_back() {
    let world = World::new().await;
    let parameters = *world.open().await.config().writing_parameters().unwrap();
    let special = [
        1,
        parameters.tiny_file_bytes,
        parameters.tiny_group_bytes,
        parameters.minimum_bytes,
        parameters.average_bytes,
        parameters.maximum_bytes,
        48 << 10,
    ];
    let lengths = special.into_iter().flat_map(|length| [length - 1, length, length + 1]);
    let files: Vec<Vec<u8>> = (0..).zip(lengths).map(|(seed, length)| random_bytes(seed, length as usize)).collect();
    let mut made = vec![world.back_up(&Sample::of_files(1, files.clone())).await];
    for file in files {
        made.push(made_of(&world, file.clone(), Expected::Opaque).await);
    }
    world.assert_restorable(&made).await;
}

#[tokio::test]
async fn an_increment_on_what_has_not_changed_is_made_on_the_backup_that_has_its_stream() {
    let world = World::new().await;
    let full = world.back_up(&Sample::random(1, 20_000)).await;
    let (repository, notes) = (world.open().await, Arc::new(Notes::default()));
    let parent = read_manifest(&repository, full.id).await.unwrap();
    let run = begin(&repository, &world.host("one"), &notes).await.unwrap();
    run.publish_unchanged(&parent, world.clock.now(), &never_interrupted()).await.unwrap();
    let next = world.back_up(&Sample::random(2, 20_000).on(1)).await;
    let manifest = read_manifest(&repository, next.id).await.unwrap().manifest;
    assert_eq!(manifest.parent.map(|parent| parent.manifest), Some(full.id));
    world.assert_restorable(&[next]).await;
}

#[tokio::test]
async fn a_manifest_says_what_the_stream_was() {
    let world = World::new().await;
    let full = Sample::random(1, 100_000);
    let first = world.back_up(&full).await;
    let incremental = Sample::random(2, 100_000).on(1);
    let second = world.back_up(&incremental).await;
    let opaque = made_of(&world, random_bytes(3, 100), Expected::Opaque).await;

    let repository = world.open().await;
    let mut kinds = Vec::new();
    for made in [&first, &second, &opaque] {
        let published = btrfs_to_s3::repository::catalog::read_manifest(&repository, made.id).await.unwrap();
        assert_eq!(published.manifest.stream.bytes, made.stream.len() as u64);
        kinds.push((published.manifest.kind, published.manifest.version(), published.manifest.parent));
    }
    assert_eq!(kinds[0], (BackupKind::Full, Some(full.subject), None));
    assert_eq!(kinds[1], (BackupKind::Incremental, Some(incremental.subject), first.parent));
    assert_eq!(kinds[2], (BackupKind::Opaque, None, None));
    assert_same_bytes(&world.restore(second.id).await.unwrap(), &second.stream);
}
