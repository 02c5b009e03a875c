//! Packs that are gone or damaged although the index names them, and packs that hold what they should not.

use std::collections::BTreeSet;
use std::sync::Arc;

use btrfs_to_s3::backup::Expected;
use btrfs_to_s3::id::ChunkId;
use btrfs_to_s3::pack::format::PackClass;
use btrfs_to_s3::repository::layout;
use btrfs_to_s3::repository::packs::read_pack_footer;
use btrfs_to_s3::send_stream::{SplitOptions, Splitter};
use btrfs_to_s3::store::ObjectStore;

use crate::samples::{Sample, random_bytes};
use crate::world::{Made, MemorySource, Notes, World, assert_same_bytes, back_up, begin, publish};

/// A backup whose packs are gone, while another session has stored all of its chunks as well.
pub(crate) async fn with_moved_packs(world: &World) -> Made {
    let sample = Sample::random(1, 2_200_000);
    let notes = Arc::new(Notes::default());
    // Neither host sees what the other, whose session is open, has stored.
    let one = begin(&world.open().await, &world.host("one"), &notes).await.unwrap();
    let two = begin(&world.open().await, &world.host("two"), &notes).await.unwrap();
    let one = publish(one, MemorySource::new(sample.stream()), Expected::Anything).await.unwrap();
    let packs_of_one = world.keys("data/").await;
    publish(two, MemorySource::new(sample.stream()), Expected::Anything).await.unwrap();
    assert_eq!(world.keys("data/").await.len(), 2 * packs_of_one.len());
    for key in packs_of_one {
        world.memory.delete(&key).await.unwrap();
    }
    Made::new(&one, sample.stream())
}

#[tokio::test]
async fn a_restore_whose_hints_are_wrong_finds_the_chunks_through_the_index() {
    let world = World::new().await;
    let made = with_moved_packs(&world).await;
    assert_same_bytes(&world.restore(made.id).await.unwrap(), &made.stream);
    assert!(!world.has_scratch());
}

/// Takes away what one backup has stored below `prefix`; the next of the same stream has to store it again.
async fn lose_packs(prefix: &str, lose: impl AsyncFn(&World, &btrfs_to_s3::store::Key)) {
    let world = World::new().await;
    let sample = Sample::random(1, 1_500_000);
    let unharmed = world.back_up(&Sample::random(2, 10_000)).await;
    let before: BTreeSet<_> = world.keys(prefix).await.into_iter().collect();
    let first = world.back_up(&sample).await;
    let new: Vec<_> = world.keys(prefix).await.into_iter().filter(|key| !before.contains(key)).collect();
    for key in &new {
        lose(&world, key).await;
    }
    let error = world.restore(first.id).await.unwrap_err();
    assert!(new.iter().any(|key| format!("{error:#}").contains(key.as_str())), "{error:#}");

    let repository = world.open().await;
    for (run, host) in ["one", "two"].into_iter().enumerate() {
        let notes = Arc::new(Notes::default());
        let again = back_up(&repository, &world.host(host), sample.stream(), Expected::Anything, &notes).await.unwrap();
        let problems = notes.problems();
        assert!(
            matches!(problems.as_slice(), [one] if new.iter().any(|key| one.contains(key.as_str()))),
            "{problems:?}"
        );
        assert_eq!(again.manifest.totals.new_chunks == 0, run > 0);
        assert_same_bytes(&world.restore(again.id()).await.unwrap(), &sample.stream());
    }
    assert_same_bytes(&world.restore(unharmed.id).await.unwrap(), &unharmed.stream);
}

async fn delete(world: &World, key: &btrfs_to_s3::store::Key) {
    world.memory.delete(key).await.unwrap();
}

async fn truncate(world: &World, key: &btrfs_to_s3::store::Key) {
    let body = world.body(key).await;
    world.replace(key, body.slice(..60)).await;
}

#[tokio::test]
async fn chunks_of_a_data_pack_that_is_gone_are_stored_again() {
    lose_packs("data/", delete).await;
}

#[tokio::test]
async fn chunks_of_a_data_pack_that_is_truncated_are_stored_again() {
    lose_packs("data/", truncate).await;
}

#[tokio::test]
async fn chunks_of_a_metadata_pack_that_is_gone_are_stored_again() {
    lose_packs("meta/", delete).await;
}

#[tokio::test]
async fn chunks_of_a_metadata_pack_that_is_truncated_are_stored_again() {
    lose_packs("meta/", truncate).await;
}

async fn chunks_of(world: &World, wanted: PackClass) -> BTreeSet<ChunkId> {
    let repository = world.open().await;
    let mut chunks = BTreeSet::new();
    for key in world.keys(layout::packs(wanted)).await {
        let (class, pack) = layout::parse_pack_key(&key).unwrap();
        let footer = read_pack_footer(&repository, class, pack).await.unwrap();
        chunks.extend(footer.chunks.iter().map(|chunk| chunk.id));
    }
    chunks
}

/// The command stream of a sample, which is one chunk.
fn commands_of(sample: &Sample) -> Vec<u8> {
    let stream = sample.stream();
    let options = SplitOptions { batch_bytes: 1 << 20, headroom_bytes: 0, opaque: false };
    let mut splitter = Splitter::new(stream.as_slice(), options).unwrap();
    let mut commands = Vec::new();
    while let Some(batch) = splitter.next_batch().unwrap() {
        commands.extend_from_slice(&batch.commands);
    }
    commands
}

#[tokio::test]
async fn metadata_and_file_data_of_the_same_bytes_are_stored_apart() {
    let sample = Sample::of_files(1, vec![random_bytes(1, 100), random_bytes(2, 100)]);
    let commands = commands_of(&sample);
    let shared = ChunkId::of(&commands);
    for commands_first in [true, false] {
        let world = World::new().await;
        let notes = Arc::new(Notes::default());
        let repository = world.open().await;
        let mut streams = [(sample.stream(), Expected::Anything), (commands.clone(), Expected::Opaque)];
        if !commands_first {
            streams.reverse();
        }
        let mut made = Vec::new();
        for (stream, expected) in streams {
            let summary = back_up(&repository, &world.host("one"), stream.clone(), expected, &notes).await.unwrap();
            made.push(Made::new(&summary, stream));
        }
        assert!(chunks_of(&world, PackClass::Data).await.contains(&shared));
        assert!(chunks_of(&world, PackClass::Meta).await.contains(&shared));
        world.assert_restorable(&made).await;
    }
}

#[tokio::test]
async fn a_file_that_looks_like_the_command_stream_is_stored_apart_within_one_run() {
    // The commands do not depend on what the file holds, only on its length.
    let length = commands_of(&Sample::of_files(1, vec![vec![0; 100]])).len();
    let commands = commands_of(&Sample::of_files(1, vec![vec![0; length]]));
    let sample = Sample::of_files(1, vec![commands.clone()]);
    assert_eq!(commands_of(&sample), commands);
    let world = World::new().await;
    let made = world.back_up(&sample).await;
    let shared = ChunkId::of(&commands);
    assert!(chunks_of(&world, PackClass::Data).await.contains(&shared));
    assert!(chunks_of(&world, PackClass::Meta).await.contains(&shared));
    world.assert_restorable(&[made]).await;
}
