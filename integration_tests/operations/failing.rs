//! Each request of an operation fails in turn: before its effect, after it, and with all that follow. Or it is slow.

use std::sync::Arc;

use btrfs_to_s3::backup::{Expected, Host};
use btrfs_to_s3::id::ManifestId;
use btrfs_to_s3::repository::cache::RecordCache;
use btrfs_to_s3::repository::session::list_sessions;
use btrfs_to_s3::store::faulty::{Fault, FaultyStore};
use btrfs_to_s3::store::{Store, StoreErrorKind};

use crate::interruption::abandoned_run;
use crate::samples::{Sample, random_bytes};
use crate::world::{Made, MemorySink, Notes, World, assert_same_bytes, back_up};

type FaultAt = fn(u64) -> Fault;

fn faulty(world: &World, fault: Fault) -> Arc<FaultyStore> {
    Arc::new(FaultyStore::new(world.store()).with_fault(fault, StoreErrorKind::Transient))
}

async fn fail_each_request_of_init(fault_at: FaultAt) {
    for number in 1.. {
        let world = World::empty();
        let store = faulty(&world, fault_at(number));
        let made = world.init(Arc::clone(&store) as Store).await;
        assert_eq!(made.is_err(), store.has_failed());
        // It is there completely or not at all: then it can be made now.
        if world.keys("").await.is_empty() {
            world.init(world.store()).await.unwrap();
        }
        let error = world.init(world.store()).await.unwrap_err();
        assert!(error.to_string().contains("is a repository already"), "{error}");
        let backup = world.back_up(&Sample::random(1, 1000)).await;
        world.assert_restorable(&[backup]).await;
        if !store.has_failed() {
            assert!(number > 2);
            return;
        }
    }
}

#[tokio::test]
async fn init_survives_the_failure_of_any_request() {
    for fault_at in [Fault::Before as FaultAt, Fault::After, Fault::From] {
        fail_each_request_of_init(fault_at).await;
    }
}

/// A repository with backups of two hosts and what a killed run has left, and the snapshot to back up next.
struct Scene {
    world: World,
    earlier: Vec<Made>,
    next: Sample,
    stream: Vec<u8>,
}

impl Scene {
    async fn new() -> Self {
        let world = World::new().await;
        let mut earlier = Vec::new();
        for number in 1..5 {
            earlier.push(world.back_up(&Sample::random(number, 20_000)).await);
            earlier.push(world.back_up_from("two", &Sample::random(number + 10, 20_000)).await);
        }
        abandoned_run(&world, "one", Sample::random(20, 20_000).stream(), "manifests/").await;
        // Each megabyte of new data makes a pack.
        let next = Sample::of_files(30, vec![random_bytes(30, 2_300_000), random_bytes(1, 20_000)]).on(1);
        let stream = next.stream();
        Self { world, earlier, next, stream }
    }

    fn expected(&self) -> Expected {
        Expected::Snapshot { subject: self.next.subject, parent: self.earlier[0].parent.clone() }
    }

    /// Runs on a host that remembers no records, so that there are many requests.
    async fn back_up(&self, world: &World, store: Store) -> anyhow::Result<ManifestId> {
        let repository = world.open_through(store).await?;
        let notes = Arc::new(Notes::default());
        let host = Host { cache: RecordCache::none(), ..world.host("one") };
        let made = back_up(&repository, &host, self.stream.clone(), self.expected(), &notes).await?;
        assert_eq!(notes.problems(), Vec::<String>::new());
        Ok(made.id())
    }

    /// Checks what has to hold whether the backup succeeded or not: all earlier backups are there, and it is there whole
    /// or not at all.
    async fn check_after(&self, world: &World, made: Option<ManifestId>) {
        world.assert_restorable(&self.earlier).await;
        let earlier = |id: &ManifestId| self.earlier.iter().any(|backup| backup.id == *id);
        let new: Vec<ManifestId> = world.published().await.into_iter().filter(|id| !earlier(id)).collect();
        assert!(new.len() <= 1, "{new:?}");
        if let Some(id) = made {
            assert_eq!(new, [id]);
        }
        for id in new {
            assert_same_bytes(&world.restore(id).await.unwrap(), &self.stream);
        }
    }

    /// Runs once more without faults; gives how many data packs that took.
    async fn check_rerun(&self, world: &World) -> usize {
        let before = world.keys("data/").await.len();
        let id = self.back_up(world, world.store()).await.unwrap();
        assert_same_bytes(&world.restore(id).await.unwrap(), &self.stream);
        assert_eq!(list_sessions(&world.open().await).await.unwrap().open, []);
        world.keys("data/").await.len() - before
    }
}

/// Has each request of a backup fail; gives how many there are.
async fn fail_each_request_of_a_backup(fault_at: FaultAt) -> u64 {
    let scene = Scene::new().await;
    for number in 1.. {
        let world = scene.world.copy().await;
        let store = faulty(&world, fault_at(number));
        let made = scene.back_up(&world, Arc::clone(&store) as Store).await;
        scene.check_after(&world, made.as_ref().ok().copied()).await;
        let packs_again = scene.check_rerun(&world).await;
        assert!(packs_again <= 3, "{packs_again} packs");
        if !store.has_failed() {
            made.unwrap();
            assert_eq!(packs_again, 0);
            assert!(world.keys("data/").await.len() - scene.world.keys("data/").await.len() >= 3);
            assert!(world.keys("index/").await.len() - scene.world.keys("index/").await.len() >= 2);
            return store.operations();
        }
    }
    unreachable!("the requests of a backup end")
}

#[tokio::test]
async fn a_backup_survives_the_failure_of_any_request_before_its_effect() {
    let requests = fail_each_request_of_a_backup(Fault::Before).await;
    assert!(requests >= 50, "{requests} requests");
}

#[tokio::test]
async fn a_backup_survives_the_loss_of_any_answer() {
    fail_each_request_of_a_backup(Fault::After).await;
}

#[tokio::test]
async fn a_backup_survives_the_failure_of_any_request_and_all_that_follow() {
    fail_each_request_of_a_backup(Fault::From).await;
}

#[tokio::test]
async fn a_backup_survives_the_slowness_of_any_request() {
    let scene = Scene::new().await;
    for number in 1.. {
        let world = scene.world.copy().await;
        let store = faulty(&world, Fault::Slow(number));
        let made = scene.back_up(&world, Arc::clone(&store) as Store).await.unwrap();
        scene.check_after(&world, Some(made)).await;
        if !store.has_failed() {
            return;
        }
    }
}

/// Has each request of a restore fail: it gives the right bytes, or fails having written only right ones.
async fn fail_each_request_of_a_restore(world: &World, backup: &Made, fault_at: FaultAt) -> u64 {
    for number in 1.. {
        let store = faulty(world, fault_at(number));
        let sink = MemorySink::default();
        let notes = Arc::new(Notes::default());
        let restored = match world.open_through(Arc::clone(&store) as Store).await {
            Ok(repository) => world.restore_into(&repository, backup.id, &sink, &notes).await,
            Err(error) => Err(error),
        };
        let bytes = sink.bytes();
        let is_slow = fault_at(number) == Fault::Slow(number);
        match restored {
            Ok(()) => assert_same_bytes(&bytes, &backup.stream),
            Err(error) if is_slow => panic!("{error:#}"),
            Err(_) => assert!(bytes.len() < backup.stream.len() && backup.stream.starts_with(&bytes)),
        }
        if !store.has_failed() {
            assert_same_bytes(&bytes, &backup.stream);
            return store.operations();
        }
    }
    unreachable!("the requests of a restore end")
}

#[tokio::test]
async fn a_restore_survives_the_failure_of_any_request() {
    let world = World::new().await;
    let backup = world.back_up(&Sample::random(1, 2_300_000)).await;
    for fault_at in [Fault::Before as FaultAt, Fault::After, Fault::From, Fault::Slow] {
        let requests = fail_each_request_of_a_restore(&world, &backup, fault_at).await;
        assert!(requests > 10, "{requests} requests");
        world.assert_restorable(std::slice::from_ref(&backup)).await;
    }
}

#[tokio::test]
async fn a_restore_through_the_index_survives_the_failure_of_any_request() {
    let world = World::new().await;
    let backup = crate::lost_packs::with_moved_packs(&world).await;
    for fault_at in [Fault::Before as FaultAt, Fault::After, Fault::From] {
        let requests = fail_each_request_of_a_restore(&world, &backup, fault_at).await;
        assert!(requests > 20, "{requests} requests");
    }
}
