//! Packs that a check has found damaged: nothing is built on them, so the next backup is whole, and heals older ones.

use btrfs_to_s3::check::remember;
use btrfs_to_s3::check::report::Report;
use btrfs_to_s3::check::subset::Subset;
use btrfs_to_s3::id::PackId;
use btrfs_to_s3::repository::cache::RecordCache;
use btrfs_to_s3::repository::layout;
use btrfs_to_s3::repository::notes::Notes;
use btrfs_to_s3::store::Key;
use bytes::Bytes;

use crate::checking::check_it;
use crate::samples::Sample;
use crate::world::{World, assert_same_bytes};

async fn check_and_remember(world: &World) -> Report {
    let report = check_it(world, Some(Subset::All)).await;
    remember(&world.open().await, "one", &report, 1).await.unwrap();
    report
}

async fn bad_packs(world: &World) -> Vec<PackId> {
    let notes = Notes::load(&world.open().await, &RecordCache::none()).await.unwrap();
    notes.bad_packs().into_iter().collect()
}

/// Puts other bytes of the same length in the place of a pack; gives those it had.
async fn damage(world: &World, key: &Key) -> Bytes {
    let whole = world.body(key).await;
    world.replace(key, Bytes::from(vec![0; whole.len()])).await;
    whole
}

#[tokio::test]
async fn what_is_in_a_pack_that_a_check_has_found_bad_is_stored_again() {
    for prefix in ["data/", "meta/"] {
        let world = World::new().await;
        let sample = Sample::random(1, 200_000);
        let first = world.back_up(&sample).await;
        let key = world.keys(prefix).await.remove(0);
        damage(&world, &key).await;
        assert_eq!(check_and_remember(&world).await.affected.len(), 1, "{prefix}");
        let second = world.back_up(&sample).await;
        for made in [&second, &first] {
            assert_same_bytes(&world.restore(made.id).await.unwrap(), &first.stream);
        }
        let report = check_and_remember(&world).await;
        assert_eq!((report.affected, report.bad_packs.len()), (vec![], 1), "{prefix}");
        // What was stored again is known.
        let packs = world.keys("data/").await.len();
        world.back_up(&sample).await;
        assert_eq!(world.keys("data/").await.len(), packs);
    }
}

#[tokio::test]
async fn a_pack_that_was_put_back_is_built_on_again() {
    let world = World::new().await;
    let sample = Sample::random(1, 200_000);
    world.back_up(&sample).await;
    let key = world.keys("data/").await.remove(0);
    let whole = damage(&world, &key).await;
    for _ in 0..2 {
        check_and_remember(&world).await;
        let (_, pack) = layout::parse_pack_key(&key).unwrap();
        assert_eq!(bad_packs(&world).await, [pack]);
    }
    let notes = world.keys("notes/repository/").await.len();
    world.replace(&key, whole).await;
    check_and_remember(&world).await;
    assert_eq!(bad_packs(&world).await, []);
    // Which packs were read, and which is right again.
    assert_eq!(world.keys("notes/repository/").await.len(), notes + 2);
    let packs = world.keys("data/").await.len();
    world.back_up(&sample).await;
    assert_eq!(world.keys("data/").await.len(), packs);
}
