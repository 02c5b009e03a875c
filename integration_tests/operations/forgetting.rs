//! Backups that are forgotten, those that were made on them, and forgotten ones that are brought back.

use std::sync::Arc;

use btrfs_to_s3::backup::{BackupRequest, BackupSummary, Expected, Stream, never_interrupted};
use btrfs_to_s3::forget::{Forgot, Selection, forget, plan_forget, sources_without_any, unforget};
use btrfs_to_s3::id::ManifestId;
use btrfs_to_s3::monitor::Monitor;
use btrfs_to_s3::repository::cache::RecordCache;
use btrfs_to_s3::repository::catalog::{Catalog, Published, read_manifest};
use btrfs_to_s3::repository::notes::Notes as TagNotes;
use btrfs_to_s3::repository::session::list_sessions;
use btrfs_to_s3::repository::{Damage, Repository, layout};
use btrfs_to_s3::retention::{Decision, Reason, RetentionPolicy};
use btrfs_to_s3::store::faulty::{Fault, FaultyStore};
use btrfs_to_s3::store::{ObjectStore, Store, StoreErrorKind};

use crate::samples::Sample;
use crate::world::{Made, MemorySource, Notes, World, assert_same_bytes, back_up, begin, request, small_options};

async fn forget_it(world: &World, id: ManifestId) -> Forgot {
    forget(&world.open().await, id, "one", "a test").await.unwrap()
}

async fn unforget_through(world: &World, repository: &Repository, id: ManifestId) -> anyhow::Result<BackupSummary> {
    let monitor: Arc<dyn Monitor> = Arc::new(Notes::default());
    unforget(repository, &world.host("one"), id, &never_interrupted(), &monitor).await
}

async fn unforget_it(world: &World, id: ManifestId) -> anyhow::Result<BackupSummary> {
    unforget_through(world, &world.open().await, id).await
}

/// A full backup and two incremental ones on it.
async fn chain(world: &World) -> [Made; 3] {
    let full = world.back_up(&Sample::random(1, 60_000)).await;
    let first = world.back_up(&Sample::random(2, 30_000).on(1)).await;
    let second = world.back_up(&Sample::random(3, 30_000).on(2)).await;
    [full, first, second]
}

async fn catalog(world: &World) -> Catalog {
    Catalog::load(&world.open().await, &RecordCache::none()).await.unwrap()
}

fn ids<'a>(backups: impl IntoIterator<Item = &'a Published>) -> Vec<ManifestId> {
    backups.into_iter().map(Published::id).collect()
}

#[tokio::test]
async fn a_forgotten_backup_does_not_count_and_those_on_it_do() {
    let world = World::new().await;
    let [full, first, second] = chain(&world).await;
    assert_eq!(forget_it(&world, full.id).await, Forgot::Now);
    assert_eq!(forget_it(&world, first.id).await, Forgot::Now);
    assert_eq!(forget_it(&world, full.id).await, Forgot::Before);
    let catalog = catalog(&world).await;
    assert_eq!(ids(&catalog.published), [second.id]);
    let forgotten = ids(catalog.forgotten.iter().map(|forgotten| &forgotten.backup));
    assert_eq!(forgotten.len(), 2);
    assert!(forgotten.contains(&full.id) && forgotten.contains(&first.id));
    let chain = catalog.chain(&catalog.published[0]).unwrap();
    assert_eq!(ids(chain), [full.id, first.id, second.id]);
    world.assert_restorable(&[second]).await;
}

#[tokio::test]
async fn a_backup_is_made_on_one_whose_ancestor_was_forgotten_but_not_on_a_forgotten_one() {
    let world = World::new().await;
    let [full, first, second] = chain(&world).await;
    forget_it(&world, full.id).await;
    forget_it(&world, second.id).await;
    let next = Sample::random(4, 1000).on(2);
    let expected = Expected::Snapshot { subject: next.subject, parent: first.parent.clone() };
    let (repository, notes) = (world.open().await, Arc::new(Notes::default()));
    let made = back_up(&repository, &world.host("one"), next.stream(), expected, &notes).await.unwrap();
    world.assert_restorable(&[first, Made::new(&made, next.stream())]).await;
    let next = Sample::random(5, 1000).on(3);
    let expected = Expected::Snapshot { subject: next.subject, parent: second.parent.clone() };
    let error = back_up(&repository, &world.host("one"), next.stream(), expected, &notes).await.unwrap_err();
    assert!(format!("{error:#}").contains("has been forgotten"), "{error:#}");
}

#[tokio::test]
async fn a_forgotten_ancestor_that_is_gone_is_damage_and_one_that_nobody_needs_is_not() {
    let world = World::new().await;
    let [full, first, second] = chain(&world).await;
    for made in [&full, &first, &second] {
        forget_it(&world, made.id).await;
    }
    world.memory.delete(&layout::manifest_key(&full.id)).await.unwrap();
    assert!(catalog(&world).await.damaged.is_empty());
    world.memory.delete(&layout::forgotten_key(&second.id)).await.unwrap();
    let catalog = catalog(&world).await;
    let damaged: Vec<String> = catalog.damaged.iter().map(|error| format!("{error:#}")).collect();
    assert!(matches!(&damaged[..], [one] if one.contains(&full.id.to_string())), "{damaged:?}");
}

#[tokio::test]
async fn a_forgotten_backup_is_brought_back_under_a_new_id() {
    let world = World::new().await;
    let [full, first, _] = chain(&world).await;
    for made in [&full, &first] {
        forget_it(&world, made.id).await;
    }
    let packs = world.keys("data/").await;
    let copy = unforget_it(&world, first.id).await.unwrap();
    assert_ne!(copy.id(), first.id);
    assert_eq!(world.keys("data/").await, packs);
    let published = read_manifest(&world.open().await, copy.id()).await.unwrap().manifest;
    let original = read_manifest(&world.open().await, first.id).await.unwrap().manifest;
    assert_eq!(published.copied_from, Some(first.id));
    assert_eq!((published.roots, published.parent), (original.roots, original.parent));
    assert_eq!((published.created_at, published.meta_packs.len()), (original.created_at, original.meta_packs.len()));
    world.assert_restorable(&[Made { id: copy.id(), ..first.clone() }]).await;
    let error = unforget_it(&world, first.id).await.unwrap_err();
    assert!(format!("{error:#}").contains(&format!("as backup {}", copy.id())), "{error:#}");
    assert_eq!(list_sessions(&world.open().await).await.unwrap().open, []);
}

#[tokio::test]
async fn what_was_not_forgotten_is_not_brought_back() {
    let world = World::new().await;
    let [full, ..] = chain(&world).await;
    let before = world.keys("").await;
    let error = unforget_it(&world, full.id).await.unwrap_err();
    assert!(error.to_string().contains("has not been forgotten"), "{error:#}");
    assert_eq!(world.keys("").await, before);
}

#[tokio::test]
async fn a_backup_of_which_anything_is_gone_is_not_brought_back() {
    let world = World::new().await;
    let [full, first, second] = chain(&world).await;
    for made in [&full, &first, &second] {
        forget_it(&world, made.id).await;
    }
    let own = [world.keys("data/").await, world.keys("meta/").await, vec![layout::manifest_key(&full.id)]].concat();
    let published = world.published().await;
    for key in own {
        let broken = world.copy().await;
        broken.memory.delete(&key).await.unwrap();
        let error = unforget_it(&broken, second.id).await.unwrap_err();
        assert!(error.chain().any(<dyn std::error::Error>::is::<Damage>), "{key}: {error:#}");
        assert_eq!(catalog(&broken).await.published.len(), published.len());
        assert_eq!(list_sessions(&broken.open().await).await.unwrap().open, []);
    }
}

#[tokio::test]
async fn forgetting_survives_the_failure_of_any_request() {
    for fault_at in [Fault::Before as fn(u64) -> Fault, Fault::After, Fault::From] {
        for number in 1.. {
            let world = World::new().await;
            let made = world.back_up(&Sample::random(1, 1000)).await;
            let store = faulty(&world, fault_at(number));
            let forgot = match world.open_through(Arc::clone(&store) as Store).await {
                Ok(repository) => forget(&repository, made.id, "one", "").await,
                Err(error) => Err(error),
            };
            let counts = !world.published().await.is_empty();
            assert!(forgot.is_err() || !counts);
            forget_it(&world, made.id).await;
            assert!(world.published().await.is_empty());
            if !store.has_failed() {
                assert!(!counts && number > 2);
                break;
            }
        }
    }
}

#[tokio::test]
async fn bringing_back_survives_the_failure_of_any_request() {
    let world = World::new().await;
    let [full, first, _] = chain(&world).await;
    for made in [&full, &first] {
        forget_it(&world, made.id).await;
    }
    for fault_at in [Fault::Before as fn(u64) -> Fault, Fault::After, Fault::From] {
        for number in 1.. {
            let world = world.copy().await;
            let store = faulty(&world, fault_at(number));
            let brought_back = match world.open_through(Arc::clone(&store) as Store).await {
                Ok(repository) => unforget_through(&world, &repository, first.id).await,
                Err(error) => Err(error),
            };
            let copies = copies_of(&world, first.id).await;
            assert!(copies.len() <= 1 && (brought_back.is_err() || copies.len() == 1));
            // The next try succeeds, or finds that the first one did.
            if copies.is_empty() {
                unforget_it(&world, first.id).await.unwrap();
            }
            let copies = copies_of(&world, first.id).await;
            assert_eq!(copies.len(), 1);
            assert_same_bytes(&world.restore(copies[0]).await.unwrap(), &first.stream);
            if !store.has_failed() {
                assert!(number > 20, "{number} requests");
                break;
            }
        }
    }
}

fn policy(keep_last: u32) -> RetentionPolicy {
    RetentionPolicy { keep_last, ..RetentionPolicy::default() }
}

async fn plan(world: &World, policy: &RetentionPolicy, selection: &Selection) -> anyhow::Result<Vec<Decision>> {
    let notes = TagNotes::load(&world.open().await, &RecordCache::none()).await.unwrap();
    plan_forget(&mut catalog(world).await, &notes, policy, selection)
}

fn kept(decisions: &[Decision]) -> Vec<ManifestId> {
    decisions.iter().filter(|decision| decision.is_kept()).map(|decision| decision.id).collect()
}

#[tokio::test]
async fn a_policy_decides_on_what_is_selected_and_goes_by_the_time_of_the_store() {
    let world = World::new().await;
    // All of them say that they are years old, and are stored a moment after each other.
    chain(&world).await;
    let other = world.back_up_from("two", &Sample::random(9, 1000)).await;
    let decisions = plan(&world, &policy(1), &Selection::default()).await.unwrap();
    assert!(
        decisions.iter().filter(|decision| decision.id != other.id).all(|one| one.reasons.contains(&Reason::OddTime))
    );
    let selection = Selection { host: Some("two".to_owned()), subvolume: Some("data".to_owned()) };
    let decisions = plan(&world, &policy(1), &selection).await.unwrap();
    assert_eq!(kept(&decisions), [other.id]);
    let nobody = Selection { host: Some("three".to_owned()), subvolume: None };
    assert_eq!(plan(&world, &policy(1), &nobody).await.unwrap(), []);
    assert_eq!(sources_without_any(&decisions).len(), 0);
}

#[tokio::test]
async fn what_was_brought_back_is_as_old_as_it_was() {
    let world = World::new().await;
    let mut made = Vec::new();
    for number in 1..3 {
        let run = begin(&world.open().await, &world.host("two"), &Arc::new(Notes::default())).await.unwrap();
        let source = Box::new(MemorySource::new(Sample::random(number, 1000).stream()));
        let stream = Stream { source, stop: None, interruption: never_interrupted() };
        let request = BackupRequest { created_at: world.clock.now(), ..request(Expected::Anything) };
        made.push(Box::pin(run.publish(stream, &request, &small_options())).await.unwrap().id());
    }
    // Twice, so that it is a copy of a copy.
    let mut id = made[0];
    for _ in 0..2 {
        forget_it(&world, id).await;
        id = unforget_it(&world, id).await.unwrap().id();
    }
    let decisions = plan(&world, &policy(1), &Selection::default()).await.unwrap();
    assert_eq!((decisions.len(), kept(&decisions)), (2, vec![made[1]]));
}

#[tokio::test]
async fn no_policy_decides_while_a_manifest_cannot_be_read() {
    let world = World::new().await;
    let [full, _, second] = chain(&world).await;
    let key = layout::manifest_key(&second.id);
    world.replace(&key, bytes::Bytes::from_static(b"rubbish")).await;
    let error = plan(&world, &policy(1), &Selection::default()).await.unwrap_err();
    assert!(format!("{error:#}").contains(key.as_str()), "{error:#}");
    // What is damaged can be forgotten, and then all is well.
    forget_it(&world, second.id).await;
    let decisions = plan(&world, &policy(1), &Selection::default()).await.unwrap();
    assert!(kept(&decisions).contains(&full.id));
}

async fn copies_of(world: &World, id: ManifestId) -> Vec<ManifestId> {
    let catalog = catalog(world).await;
    ids(catalog.published.iter().filter(|backup| backup.manifest.copied_from == Some(id)))
}

fn faulty(world: &World, fault: Fault) -> Arc<FaultyStore> {
    Arc::new(FaultyStore::new(world.store()).with_fault(fault, StoreErrorKind::Transient))
}
