//! Backups that are copied into another repository: what comes back from there, what is read and stored for it, and what
//! holds when requests fail and objects are damaged.

use std::collections::HashSet;
use std::sync::Arc;

use btrfs_to_s3::backup::{BackupRun, Interrupted, never_interrupted};
use btrfs_to_s3::chunker::ChunkerParameters;
use btrfs_to_s3::copy::{
    CopyReport, Copying, SkippedAs, Wanted, check_destination, copy_backups, find_missing, plan_copy,
};
use btrfs_to_s3::forget::{forget, unforget};
use btrfs_to_s3::id::{ChunkId, ManifestId};
use btrfs_to_s3::monitor::Monitor;
use btrfs_to_s3::pack::format::PackClass;
use btrfs_to_s3::records::manifest::{BackupKind, Manifest, Root, RootKind};
use btrfs_to_s3::records::note::TagChange;
use btrfs_to_s3::repair::repair_packs;
use btrfs_to_s3::repository::cache::RecordCache;
use btrfs_to_s3::repository::catalog::{Catalog, Published, read_manifest};
use btrfs_to_s3::repository::notes::{Notes as TagNotes, Said, put_note};
use btrfs_to_s3::repository::session::list_sessions;
use btrfs_to_s3::repository::{Repository, layout};
use btrfs_to_s3::restore::{DataListing, RestoreOptions, data_packs};
use btrfs_to_s3::store::faulty::{Damage, Fault, FaultyStore};
use btrfs_to_s3::store::recording::{Call, Operation, RecordingStore};
use btrfs_to_s3::store::{ObjectStore, Store, StoreErrorKind};
use futures_util::future::FutureExt;
use jiff::SignedDuration;

use crate::pruning::{options, prune_through};
use crate::samples::{Sample, random_bytes};
use crate::world::{Made, Notes, World, assert_same_bytes, small_options};

fn monitor() -> Arc<dyn Monitor> {
    Arc::new(Notes::default())
}

/// From one world into another, by stores around theirs.
pub(crate) async fn copying_through(
    from: &World,
    source: Store,
    to: &World,
    destination: Store,
) -> anyhow::Result<Copying> {
    Ok(Copying {
        source: from.open_through(source).await?,
        source_cache: RecordCache::none(),
        reading: RestoreOptions::new(from.host_folder("scratch")),
        destination: to.open_through(destination).await?,
        host: to.host("copier"),
        writing: small_options(),
        interruption: never_interrupted(),
    })
}

async fn copying(from: &World, to: &World) -> Copying {
    copying_through(from, from.store(), to, to.store()).await.unwrap()
}

pub(crate) async fn copy_as(copying: &Copying, wanted: &Wanted) -> anyhow::Result<CopyReport> {
    let plan = plan_copy(copying, wanted).await?;
    Ok(Box::pin(copy_backups(copying, plan, &monitor())).await)
}

/// Copies everything; nothing may go wrong.
async fn copy_all(from: &World, to: &World) -> CopyReport {
    let report = copy_as(&copying(from, to).await, &Wanted::default()).await.unwrap();
    assert!(report.failure.is_none() && report.refused.is_empty(), "{report:?}");
    report
}

fn only(ids: &[ManifestId]) -> Wanted {
    Wanted { ids: ids.to_vec(), ..Wanted::default() }
}

fn copied_ids(report: &CopyReport) -> Vec<ManifestId> {
    report.copied.iter().map(|(id, _)| *id).collect()
}

fn copy_of(report: &CopyReport, made: &Made) -> Made {
    let (_, copy) = report.copied.iter().find(|(id, _)| *id == made.id).unwrap();
    Made { id: copy.id(), ..made.clone() }
}

async fn manifest(world: &World, id: ManifestId) -> Published {
    read_manifest(&world.open().await, id).await.unwrap()
}

async fn forget_it(world: &World, id: ManifestId) {
    forget(&world.open().await, id, "one", "a test").await.unwrap();
}

/// A full backup with files that share content, and two incremental ones on it.
async fn chain(world: &World) -> [Made; 3] {
    let files = vec![random_bytes(1, 200_000), random_bytes(2, 3000), random_bytes(1, 200_000), vec![0; 300_000]];
    let full = world.back_up(&Sample::of_files(1, files)).await;
    let first = world.back_up(&Sample::random(2, 90_000).on(1)).await;
    let second = world.back_up(&Sample::of_files(3, vec![random_bytes(1, 100_000)]).on(2)).await;
    [full, first, second]
}

#[tokio::test]
async fn copies_restore_to_the_same_bytes_with_their_source_gone() {
    let (from, to) = (World::new().await, World::new().await);
    let made = chain(&from).await;
    let opaque = from.back_up_from("two", &Sample::random(9, 50_000)).await;
    let report = copy_all(&from, &to).await;
    assert_eq!(report.copied.len(), 4);
    for key in from.keys("").await {
        from.memory.delete(&key).await.unwrap();
    }
    let copies: Vec<Made> = made.iter().chain([&opaque]).map(|made| copy_of(&report, made)).collect();
    to.assert_restorable(&copies).await;
    assert_eq!(list_sessions(&to.open().await).await.unwrap().open, []);
}

#[tokio::test]
async fn a_copy_says_what_its_original_said_and_names_the_copy_of_its_parent() {
    let (from, to) = (World::new().await, World::new().await);
    let made = chain(&from).await;
    let report = copy_all(&from, &to).await;
    assert_eq!(copied_ids(&report), made.each_ref().map(|made| made.id), "parents come first");
    for (number, one) in made.iter().enumerate() {
        let original = manifest(&from, one.id).await.manifest;
        let copy = manifest(&to, copy_of(&report, one).id).await.manifest;
        assert_eq!((copy.copied_from, copy.copied_from_repository), (Some(one.id), Some(from.open().await.id())));
        assert_eq!((&copy.host, &copy.subvolume, copy.kind), (&original.host, &original.subvolume, original.kind));
        assert_eq!((copy.created_at, copy.snapshot), (original.created_at, original.snapshot));
        assert_eq!((copy.stream, copy.requires), (original.stream, original.requires));
        let commands = |roots: &[_]| {
            let of_kind = |root: &&Root| root.kind == RootKind::Commands;
            roots.iter().find(of_kind).cloned()
        };
        assert_eq!(commands(&copy.roots), commands(&original.roots));
        let parent = number.checked_sub(1).map(|parent| copy_of(&report, &made[parent]).id);
        assert_eq!(copy.parent.as_ref().map(|parent| parent.manifest), parent);
        if let Some(parent) = &copy.parent {
            assert_eq!(parent.digest, manifest(&to, parent.manifest).await.digest);
        }
    }
}

#[tokio::test]
async fn what_is_there_is_neither_read_nor_stored_again() {
    let (from, to) = (World::new().await, World::new().await);
    chain(&from).await;
    copy_all(&from, &to).await;
    let (keys, data) = (to.keys("").await, to.keys("data/").await);

    let recording = Arc::new(RecordingStore::new(from.store()));
    let copying_again = copying_through(&from, Arc::clone(&recording) as Store, &to, to.store()).await.unwrap();
    let report = copy_as(&copying_again, &Wanted::default()).await.unwrap();
    assert_eq!((report.copied.len(), report.skipped.len()), (0, 3));
    assert!(report.skipped.iter().all(|skipped| matches!(skipped.reason, SkippedAs::There(_))));
    assert_eq!(to.keys("").await, keys, "nothing was announced either");

    // A later full backup of the same content.
    let again = Sample::of_files(4, vec![random_bytes(1, 200_000), random_bytes(2, 3000), vec![0; 300_000]]);
    let again = from.back_up(&again).await;
    drop(recording.take_calls());
    let report = copy_as(&copying_again, &Wanted::default()).await.unwrap();
    assert_eq!(copied_ids(&report), [again.id]);
    assert_eq!(to.keys("data/").await, data, "no chunk of file data was new");
    let reads =
        [Operation::Get, Operation::GetRange, Operation::GetEnd].map(|operation| recording.count(operation, "data/"));
    assert_eq!(reads, [0; 3]);
    to.assert_restorable(&[copy_of(&report, &again)]).await;
}

#[tokio::test]
async fn named_backups_are_copied_with_what_they_were_made_against_and_no_others() {
    let (from, to) = (World::new().await, World::new().await);
    let [full, first, _] = chain(&from).await;
    from.back_up(&Sample::random(8, 10_000)).await;
    let report = copy_as(&copying(&from, &to).await, &only(&[first.id])).await.unwrap();
    assert_eq!(copied_ids(&report), [full.id, first.id]);
    let unknown = ManifestId::from_bytes([7; 16]);
    assert!(plan_copy(&copying(&from, &to).await, &only(&[unknown])).await.is_err());
}

#[tokio::test]
async fn a_backup_on_a_forgotten_one_is_copied_with_it_and_forgotten_ones_alone_are_not() {
    let (from, to) = (World::new().await, World::new().await);
    let [full, first, second] = chain(&from).await;
    for made in [&full, &second] {
        forget_it(&from, made.id).await;
    }
    let report = copy_all(&from, &to).await;
    assert_eq!(copied_ids(&report), [full.id, first.id]);
    to.assert_restorable(&[copy_of(&report, &first)]).await;
    let error = plan_copy(&copying(&from, &to).await, &only(&[second.id])).await.unwrap_err();
    assert!(error.to_string().contains("has been forgotten"), "{error:#}");
}

#[tokio::test]
async fn a_backup_of_which_nothing_had_changed_is_copied_as_such() {
    let (from, to) = (World::new().await, World::new().await);
    let full = from.back_up(&Sample::random(1, 50_000)).await;
    let (repository, monitor) = (from.open().await, monitor());
    let parent = manifest(&from, full.id).await;
    let run = Box::pin(BackupRun::begin(&repository, &from.host("one"), "data", &monitor)).await.unwrap();
    let seen_at = from.clock.now();
    run.publish_unchanged(&parent, seen_at, &never_interrupted()).await.unwrap();
    let report = copy_all(&from, &to).await;
    let kinds: Vec<BackupKind> = report.copied.iter().map(|(_, copy)| copy.manifest.kind).collect();
    assert!(kinds.contains(&BackupKind::Unchanged) && kinds.len() == 2, "{kinds:?}");
    let catalog = Catalog::load(&to.open().await, &RecordCache::none()).await.unwrap();
    assert!(catalog.damaged.is_empty() && catalog.published.iter().all(|backup| catalog.chain(backup).is_ok()));
}

#[tokio::test]
async fn a_copy_of_a_copy_is_known_for_what_it_is() {
    let (first, second, third) = (World::new().await, World::new().await, World::new().await);
    let made = chain(&first).await;
    copy_all(&first, &second).await;
    let report = copy_all(&second, &third).await;
    assert_eq!(report.copied.len(), 3);
    // Neither back to where they came from, nor once more from there.
    assert_eq!(copied_ids(&copy_all(&second, &first).await), []);
    let report = copy_all(&first, &third).await;
    assert_eq!((report.copied.len(), report.skipped.len()), (0, made.len()));
}

#[tokio::test]
async fn what_was_forgotten_there_is_copied_again_only_if_it_is_named() {
    let (from, to) = (World::new().await, World::new().await);
    let made = from.back_up(&Sample::random(1, 50_000)).await;
    let copy = copy_of(&copy_all(&from, &to).await, &made);
    forget_it(&to, copy.id).await;
    let report = copy_all(&from, &to).await;
    assert_eq!(report.copied.len(), 0);
    assert_eq!(report.skipped[0].reason, SkippedAs::ForgottenThere(copy.id));
    let report = copy_as(&copying(&from, &to).await, &only(&[made.id])).await.unwrap();
    to.assert_restorable(&[copy_of(&report, &made)]).await;
}

#[tokio::test]
async fn a_copy_that_is_brought_back_is_one_of_its_own_repository() {
    let (from, to) = (World::new().await, World::new().await);
    let made = from.back_up(&Sample::random(1, 50_000)).await;
    let copy = copy_of(&copy_all(&from, &to).await, &made);
    forget_it(&to, copy.id).await;
    let back = unforget(&to.open().await, &to.host("one"), copy.id, &never_interrupted(), &monitor()).await.unwrap();
    assert_eq!((back.manifest.copied_from, back.manifest.copied_from_repository), (Some(copy.id), None));
}

#[tokio::test]
async fn tags_come_along_before_a_copy_counts() {
    let (from, to) = (World::new().await, World::new().await);
    let made = from.back_up(&Sample::random(1, 20_000)).await;
    let add = vec!["keep".to_owned(), "year:2026".to_owned()];
    let said = Said::Tags(TagChange { add: add.clone(), remove: Vec::new() });
    put_note(&from.open().await, Some(made.id), "one", said).await.unwrap();
    let recording = Arc::new(RecordingStore::new(to.store()));
    let copying = copying_through(&from, from.store(), &to, Arc::clone(&recording) as Store).await.unwrap();
    let report = copy_as(&copying, &Wanted::default()).await.unwrap();
    let notes = TagNotes::load(&to.open().await, &RecordCache::none()).await.unwrap();
    assert_eq!(notes.tags(copy_of(&report, &made).id).into_iter().collect::<Vec<_>>(), add);
    let puts: Vec<String> =
        recording.calls().into_iter().filter(|call| call.operation == Operation::Put).map(|call| call.target).collect();
    let position = |prefix: &str| puts.iter().position(|key| key.starts_with(prefix)).unwrap();
    assert!(position("notes/") < position("manifests/"), "{puts:?}");
    assert!(puts.last().unwrap().ends_with("/end"), "{puts:?}");
}

#[tokio::test]
async fn other_parameters_and_the_repository_itself_are_refused() {
    let (from, to) = (World::new().await, World::empty());
    let parameters = ChunkerParameters::with_average(32 << 10);
    let other = Repository::init(to.store(), parameters, Arc::clone(&to.clock)).await.unwrap();
    let error = check_destination(&from.open().await, &other).unwrap_err();
    assert!(error.to_string().contains("copy --init"), "{error}");
    let error = check_destination(&from.open().await, &from.open().await).unwrap_err();
    assert!(error.to_string().contains("itself"), "{error}");
    check_destination(&from.open().await, &World::new().await.open().await).unwrap();
}

#[tokio::test]
async fn a_restore_of_a_copy_reads_what_it_needs_by_its_hints() {
    let (from, to) = (World::new().await, World::new().await);
    // Something else is there already, and some of what is to come.
    to.back_up(&Sample::of_files(7, vec![random_bytes(70, 400_000), random_bytes(1, 80_000)])).await;
    let made = from.back_up(&Sample::of_files(1, vec![random_bytes(1, 900_000)])).await;
    let copy = copy_of(&copy_all(&from, &to).await, &made);
    let recording = Arc::new(RecordingStore::new(to.store()));
    let repository = to.open_through(Arc::clone(&recording) as Store).await.unwrap();
    assert_same_bytes(&to.restore_through(&repository, copy.id).await.unwrap(), &made.stream);
    assert_eq!(
        recording.count(Operation::List, "data/") + recording.count(Operation::List, "index/"),
        0,
        "no hint failed"
    );
    let manifest = manifest(&to, copy.id).await.manifest;
    let options = RestoreOptions::new(to.host_folder("scratch"));
    let listing = DataListing::of(&to.open().await).await.unwrap();
    let packs = data_packs(&to.open().await, &manifest, &listing, &options, &monitor()).await.unwrap();
    let calls = recording.calls().into_iter().map(|call| call.target);
    let read: HashSet<String> = calls.filter(|key| key.starts_with("data/")).collect();
    assert_eq!(read.len(), packs.len(), "every pack that is named is read, and no other");
}

#[tokio::test]
async fn a_frame_is_fetched_once_and_neighbours_together() {
    let (from, to) = (World::new().await, World::new().await);
    from.back_up(&Sample::random(1, 3_300_000)).await;
    let recording = Arc::new(RecordingStore::new(from.store()));
    let copying = copying_through(&from, Arc::clone(&recording) as Store, &to, to.store()).await.unwrap();
    copy_as(&copying, &Wanted::default()).await.unwrap();
    let packs = from.keys("data/").await.len();
    // The footer, and the frames.
    assert_eq!(recording.count(Operation::GetEnd, "data/"), packs);
    assert_eq!(recording.count(Operation::GetRange, "data/"), packs);
    assert_eq!(recording.count(Operation::Put, "") + recording.count(Operation::Delete, ""), 0, "it is only read");
}

#[tokio::test]
async fn a_dry_run_tells_at_most_what_is_missing_and_changes_nothing() {
    let (from, to) = (World::new().await, World::new().await);
    let made = chain(&from).await;
    let before = to.keys("").await;
    let copying = copying(&from, &to).await;
    let plan = plan_copy(&copying, &Wanted::default()).await.unwrap();
    assert_eq!(plan.steps.len(), made.len());
    let missing = Box::pin(find_missing(&copying, &plan, &monitor())).await.unwrap();
    assert_eq!(to.keys("").await, before);
    let report = copy_all(&from, &to).await;
    let new: u64 = report.copied.iter().map(|(_, copy)| copy.manifest.totals.new_bytes).sum();
    assert!(new <= missing.bytes + 1000 && missing.bytes < new * 2, "{new} bytes were new, of {missing:?}");
    let plan = plan_copy(&copying, &Wanted::default()).await.unwrap();
    let missing = Box::pin(find_missing(&copying, &plan, &monitor())).await.unwrap();
    assert_eq!((plan.steps.len(), missing.chunks, missing.packs.len()), (0, 0, 0));
}

#[tokio::test]
async fn what_is_damaged_is_refused_with_what_was_made_on_it_and_the_others_are_copied() {
    let (from, to) = (World::new().await, World::new().await);
    let [full, first, second] = chain(&from).await;
    let other = from.back_up(&Sample::random(8, 100_000)).await;
    let of_first = manifest(&from, first.id).await.manifest;
    let options = RestoreOptions::new(from.host_folder("scratch"));
    let listing = DataListing::of(&from.open().await).await.unwrap();
    let packs = data_packs(&from.open().await, &of_first, &listing, &options, &monitor()).await.unwrap();
    let pack = layout::pack_key(PackClass::Data, packs.iter().next().unwrap());
    for damage in [Damage::FlippedBit(8 * 1000), Damage::Truncated(2000), Damage::Missing] {
        let to = to.copy().await;
        let store = Arc::new(FaultyStore::new(from.store()));
        store.damage(&pack, damage);
        let copying = copying_through(&from, store, &to, to.store()).await.unwrap();
        let report = copy_as(&copying, &Wanted::default()).await.unwrap();
        assert!(report.failure.is_none() && report.has_damage(), "{report:?}");
        let refused: Vec<_> = report.refused.iter().map(|refused| refused.id.unwrap()).collect();
        assert_eq!(refused, [first.id, second.id], "{damage:?}");
        assert!(report.refused[0].reason.contains(pack.as_str()), "{}", report.refused[0].reason);
        assert!(report.refused[1].reason.contains(&first.id.to_string()), "{}", report.refused[1].reason);
        to.assert_restorable(&[copy_of(&report, &full), copy_of(&report, &other)]).await;
        assert_eq!(to.published().await.len(), 2);
        assert_eq!(list_sessions(&to.open().await).await.unwrap().open, []);
        // With the damage mended, what is missing is copied.
        let report = copy_all(&from, &to).await;
        assert_eq!(copied_ids(&report), [first.id, second.id]);
        to.assert_restorable(&[copy_of(&report, &first), copy_of(&report, &second)]).await;
    }
}

#[tokio::test]
async fn a_manifest_that_cannot_be_read_is_told_and_keeps_no_other_from_being_copied() {
    let (from, to) = (World::new().await, World::new().await);
    let [full, first, second] = chain(&from).await;
    let store = Arc::new(FaultyStore::new(from.store()));
    store.damage(&layout::manifest_key(&first.id), Damage::FlippedBit(400));
    let copying = copying_through(&from, store, &to, to.store()).await.unwrap();
    let report = copy_as(&copying, &Wanted::default()).await.unwrap();
    assert_eq!(copied_ids(&report), [full.id]);
    assert!(report.has_damage());
    let refused: Vec<_> = report.refused.iter().map(|refused| refused.id).collect();
    assert!(refused.contains(&Some(second.id)) && refused.contains(&None), "{refused:?}");
}

#[tokio::test]
async fn copying_survives_the_failure_of_any_request_to_the_destination() {
    let from = World::new().await;
    let made = [from.back_up(&Sample::random(1, 60_000)).await, from.back_up(&Sample::random(2, 30_000).on(1)).await];
    let empty = World::new().await;
    for fault_at in [Fault::Before as fn(u64) -> Fault, Fault::After, Fault::From] {
        for number in 1.. {
            let to = empty.copy().await;
            let store = Arc::new(FaultyStore::new(to.store()).with_fault(fault_at(number), StoreErrorKind::Transient));
            let done = match copying_through(&from, from.store(), &to, Arc::clone(&store) as Store).await {
                Ok(copying) => copy_as(&copying, &Wanted::default()).await,
                Err(error) => Err(error),
            };
            let counting = to.published().await;
            if let Ok(report) = &done {
                assert!(report.refused.is_empty(), "a store that fails is no damage: {report:?}");
                assert!(report.copied.iter().all(|(_, copy)| counting.contains(&copy.id())));
                assert!(report.failure.is_some() || report.copied.len() == 2);
            }
            // The next run copies what is missing, and nothing twice.
            copy_all(&from, &to).await;
            let copies = Catalog::load(&to.open().await, &RecordCache::none()).await.unwrap().published;
            assert_eq!(copies.len(), 2, "request {number}");
            for one in &made {
                let copy = copies.iter().find(|copy| copy.manifest.copied_from == Some(one.id)).unwrap();
                assert_same_bytes(&to.restore(copy.id()).await.unwrap(), &one.stream);
            }
            assert_eq!(list_sessions(&to.open().await).await.unwrap().open, []);
            if !store.has_failed() {
                assert!(number > 30, "{number} requests");
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_source_that_fails_is_no_damage_and_nothing_wrong_is_published() {
    let (from, empty) = (World::new().await, World::new().await);
    let made = from.back_up(&Sample::random(1, 60_000)).await;
    for number in 1.. {
        let to = empty.copy().await;
        let fault = Fault::Before(number);
        let store = Arc::new(FaultyStore::new(from.store()).with_fault(fault, StoreErrorKind::Transient));
        let done = match copying_through(&from, Arc::clone(&store) as Store, &to, to.store()).await {
            Ok(copying) => copy_as(&copying, &Wanted::default()).await,
            Err(error) => Err(error),
        };
        if !store.has_failed() {
            assert!(number > 10, "{number} requests");
            break;
        }
        assert!(done.is_err() || done.is_ok_and(|report| report.failure.is_some() && report.refused.is_empty()));
        assert_eq!(to.published().await, []);
        let report = copy_all(&from, &to).await;
        to.assert_restorable(&[copy_of(&report, &made)]).await;
    }
}

#[tokio::test]
async fn an_interrupted_copy_keeps_what_it_has_stored_for_the_next_one() {
    let (from, to) = (World::new().await, World::new().await);
    let made = from.back_up(&Sample::random(1, 3_000_000)).await;
    let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
    let store = Arc::new(RecordingStore::new(to.store()));
    let mut copying = copying_through(&from, from.store(), &to, Arc::clone(&store) as Store).await.unwrap();
    copying.interruption = async move {
        receiver.await.ok();
        Interrupted("a test")
    }
    .boxed()
    .shared();
    let watch = async {
        while store.count(Operation::Put, "data/") < 1 {
            tokio::task::yield_now().await;
        }
        sender.send(()).ok();
    };
    let wanted = Wanted::default();
    let (report, ()) = tokio::join!(copy_as(&copying, &wanted), watch);
    let failure = report.unwrap().failure.unwrap();
    assert!(failure.downcast_ref::<Interrupted>().is_some(), "{failure:#}");
    assert_eq!(to.published().await, []);
    let stored = to.keys("data/").await.len();
    let report = copy_all(&from, &to).await;
    to.assert_restorable(&[copy_of(&report, &made)]).await;
    let new = report.copied[0].1.manifest.totals.new_bytes;
    assert!(stored >= 1 && new < 2_500_000, "{new} bytes were stored again, {stored} packs were there");
}

#[tokio::test]
async fn prunes_of_both_repositories_leave_copies_and_originals_whole() {
    let (from, to) = (World::new().await, World::new().await);
    let [full, first, second] = chain(&from).await;
    let report = copy_all(&from, &to).await;
    let copies = [&full, &first, &second].map(|made| copy_of(&report, made));
    forget_it(&to, copies[2].id).await;
    for world in [&from, &to] {
        prune_through(world, world.store(), &options(SignedDuration::ZERO)).await.unwrap();
    }
    from.assert_restorable(&[full.clone(), first.clone(), second.clone()]).await;
    to.assert_restorable(&copies[..2]).await;
    // What a prune has deleted there is stored again when it is needed again.
    let report = copy_as(&copying(&from, &to).await, &only(&[second.id])).await.unwrap();
    to.assert_restorable(&[copy_of(&report, &second)]).await;
    for made in [&full, &first, &second] {
        forget_it(&from, made.id).await;
    }
    prune_through(&from, from.store(), &options(SignedDuration::ZERO)).await.unwrap();
    to.assert_restorable(&[copies[0].clone(), copies[1].clone(), copy_of(&report, &second)]).await;
}

#[tokio::test]
async fn copies_after_the_first_list_only_what_prunes_and_others_may_have_changed() {
    let (from, to) = (World::new().await, World::new().await);
    chain(&from).await;
    for number in 4..8 {
        from.back_up(&Sample::random(number, 20_000)).await;
    }
    let recording = Arc::new(RecordingStore::new(to.store()));
    let copying = copying_through(&from, from.store(), &to, Arc::clone(&recording) as Store).await.unwrap();
    drop(recording.take_calls());
    copy_as(&copying, &Wanted::default()).await.unwrap();
    let calls = recording.take_calls();
    // One for the destination, however many backups there are; the store's pages are short.
    let first_pages = |prefix: &str| {
        let lists = calls.iter().filter(|call| call.operation == Operation::List && call.target == prefix);
        lists.count()
    };
    assert_eq!((first_pages("data/"), first_pages("meta/"), first_pages("notes/")), (1, 1, 0));
    assert!(first_pages("prune/") == 7, "{}", first_pages("prune/"));
    let of_sessions = |call: &&Call| call.operation == Operation::Get && call.target.starts_with("sessions/");
    // Each parent is looked at before a backup on it is published.
    assert_eq!(calls.iter().filter(of_sessions).count(), 3);
}

#[tokio::test]
async fn a_run_after_another_sees_what_a_prune_has_deleted_and_others_have_stored_in_between() {
    let world = World::new().await;
    let gone = world.back_up(&Sample::random(1, 100_000)).await;
    let options_of_prune = options(SignedDuration::ZERO);
    let (repository, host) = (world.open().await, world.host("two"));
    let publish = async |run: BackupRun| {
        let parent = manifest(&world, gone.id).await;
        let copy = Manifest { session: run.session().id(), copied_from: Some(gone.id), ..parent.manifest };
        run.publish_and_keep_index(Ok(copy)).await.unwrap()
    };
    let knows = |run: &BackupRun, id: &ChunkId| !run.index().find_all(id).unwrap().is_empty();
    let tree = manifest(&world, gone.id).await.manifest.tree(&RootKind::Data).unwrap().root.unwrap();

    let run = Box::pin(BackupRun::begin(&repository, &host, "data", &monitor())).await.unwrap();
    assert!(knows(&run, &tree));
    let (copy, index) = publish(run).await;
    // Nothing has happened.
    let run = Box::pin(BackupRun::begin_after(index, "copy", &repository, &host, "data", &monitor())).await.unwrap();
    assert!(knows(&run, &tree));
    let (again, index) = publish(run).await;
    // Others store something.
    let theirs = world.back_up(&Sample::random(2, 50_000)).await;
    let tree_of_theirs = manifest(&world, theirs.id).await.manifest.tree(&RootKind::Data).unwrap().root.unwrap();
    let run = Box::pin(BackupRun::begin_after(index, "copy", &repository, &host, "data", &monitor())).await.unwrap();
    assert!(knows(&run, &tree) && knows(&run, &tree_of_theirs));
    let (last, index) = publish(run).await;
    // All is forgotten and deleted.
    for id in [gone.id, copy.id(), again.id(), last.id()] {
        forget_it(&world, id).await;
    }
    assert!(prune_through(&world, world.store(), &options_of_prune).await.unwrap().deleted.packs > 0);
    let run = Box::pin(BackupRun::begin_after(index, "copy", &repository, &host, "data", &monitor())).await.unwrap();
    assert!(!knows(&run, &tree) && knows(&run, &tree_of_theirs));
    run.give_up().await;
}

#[tokio::test]
async fn copies_can_be_narrowed_down_to_a_host_a_subvolume_and_a_time() {
    let (from, to) = (World::new().await, World::new().await);
    let full = from.back_up(&Sample::random(1, 20_000)).await;
    let theirs = from.back_up_from("two", &Sample::random(2, 20_000)).await;
    let copying = copying(&from, &to).await;
    let planned = async |wanted: Wanted| {
        let plan = plan_copy(&copying, &wanted).await.unwrap();
        assert!(!wanted.is_everything());
        plan.steps.iter().map(Published::id).collect::<Vec<_>>()
    };
    assert_eq!(planned(Wanted { host: Some("two".to_owned()), ..Wanted::default() }).await, [theirs.id]);
    assert_eq!(planned(Wanted { host: Some("one".to_owned()), ..Wanted::default() }).await, [full.id]);
    assert_eq!(planned(Wanted { subvolume: Some("other".to_owned()), ..Wanted::default() }).await, []);
    let created_at = manifest(&from, full.id).await.manifest.created_at;
    assert_eq!(planned(Wanted { since: Some(created_at), ..Wanted::default() }).await.len(), 2);
    let later = created_at + SignedDuration::from_secs(1);
    assert_eq!(planned(Wanted { since: Some(later), ..Wanted::default() }).await, []);
}

#[tokio::test]
async fn what_is_damaged_in_the_destination_is_healed_by_repair_and_another_copy() {
    let (from, to) = (World::new().await, World::new().await);
    let made = from.back_up(&Sample::random(1, 300_000)).await;
    let copy = copy_of(&copy_all(&from, &to).await, &made);
    // Another backup that needs the same chunks.
    let theirs = to.back_up_from("two", &Sample::random(1, 300_000)).await;
    let key = to.keys("data/").await[0].clone();
    let mut body = to.body(&key).await.to_vec();
    body[1000] ^= 1;
    to.replace(&key, body.into()).await;
    assert!(to.restore(copy.id).await.is_err() && to.restore(theirs.id).await.is_err());
    let pack = layout::parse_pack_key(&key).unwrap();
    repair_packs(&to.open().await, Some(&to.host("two")), &[pack]).await.unwrap();
    forget_it(&to, copy.id).await;
    let report = copy_as(&copying(&from, &to).await, &only(&[made.id])).await.unwrap();
    to.assert_restorable(&[copy_of(&report, &made), theirs]).await;
}
