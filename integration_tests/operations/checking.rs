//! What a check reports, beside what a restore fails on.

use std::collections::BTreeSet;
use std::sync::Arc;

use btrfs_to_s3::check::report::{Report, Severity};
use btrfs_to_s3::check::subset::{Subset, coverage};
use btrfs_to_s3::check::{CheckOptions, check, remember};
use btrfs_to_s3::forget::forget;
use btrfs_to_s3::id::ManifestId;
use btrfs_to_s3::monitor::Monitor;
use btrfs_to_s3::pack::format::PackClass;
use btrfs_to_s3::repository::cache::RecordCache;
use btrfs_to_s3::repository::index::list_packs;
use btrfs_to_s3::repository::layout;
use btrfs_to_s3::repository::notes::Notes;
use btrfs_to_s3::store::recording::{Operation, RecordingStore};
use btrfs_to_s3::store::{ObjectStore, Store};
use bytes::Bytes;

use crate::damage::{DAMAGES, Scene};
use crate::samples::{Sample, random_bytes};
use crate::scripted::meanwhile;
use crate::world::{Made, Notes as Monitored, World};

async fn check_through(world: &World, store: Store, data: Option<Subset>) -> anyhow::Result<Report> {
    let repository = world.open_through(store).await?;
    let options = CheckOptions { data, ..CheckOptions::new(world.host_folder("check")) };
    let monitor: Arc<dyn Monitor> = Arc::new(Monitored::default());
    check(&repository, &options, &monitor).await
}

pub(crate) async fn check_it(world: &World, data: Option<Subset>) -> Report {
    check_through(world, world.store(), data).await.unwrap()
}

fn affected(report: &Report) -> BTreeSet<ManifestId> {
    report.affected.iter().map(|affected| affected.id).collect()
}

/// A full backup, one on it, and one of another host.
pub(crate) async fn three(world: &World) -> [Made; 3] {
    let full = world.back_up(&Sample::random(1, 200_000)).await;
    let next = Sample::of_files(2, vec![random_bytes(1, 200_000), random_bytes(2, 50_000)]).on(1);
    let next = world.back_up(&next).await;
    let other = world.back_up_from("two", &Sample::random(3, 100_000)).await;
    [full, next, other]
}

#[tokio::test]
async fn a_whole_repository_has_no_flaw() {
    let world = World::new().await;
    assert_eq!(check_it(&world, Some(Subset::All)).await.findings, []);
    three(&world).await;
    crate::interruption::abandoned_run(&world, "one", Sample::random(20, 20_000).stream(), "manifests/").await;
    let before = world.keys("").await;
    for data in [None, Some(Subset::All)] {
        let report = check_it(&world, data).await;
        assert_eq!((report.findings, report.affected), (vec![], vec![]));
        assert_eq!(report.counts.backups, 3);
        assert!(report.counts.nodes > 6 && report.counts.sessions == 4 && report.counts.packs_unused > 0);
    }
    assert_eq!(world.keys("").await, before);
}

#[tokio::test]
async fn a_backup_that_is_published_while_a_check_goes_on_is_not_called_damaged() {
    let world = Arc::new(World::new().await);
    three(&world).await;
    // Everything of it but its commit is there when the check begins.
    let later = world.copy().await;
    later.back_up_from("three", &Sample::random(9, 100_000)).await;
    let before = world.keys("").await;
    let new = later.objects("").await.into_iter().filter(|(key, _)| !before.contains(key));
    let (commit, rest): (Vec<_>, Vec<_>) = new.partition(|(key, _)| key.as_str().ends_with("/end"));
    for (key, body) in rest {
        world.put(&key, body).await;
    }
    let commit = Arc::new((Arc::clone(&world), commit));
    let publish = move || {
        let commit = Arc::clone(&commit);
        async move {
            let (world, [(key, body)]) = (&commit.0, commit.1.as_slice()) else { panic!("one commit") };
            world.put(key, body.clone()).await;
        }
    };
    // The structure has been looked at by then, and the catalog has not.
    let is_late = |operation, target: &str| operation == Operation::List && target.starts_with("notes/");
    let store = meanwhile(world.store(), 1, is_late, publish);
    let report = check_through(&world, store as Store, None).await.unwrap();
    assert_eq!((report.findings, report.affected), (vec![], vec![]));
    assert_eq!(check_it(&world, None).await.counts.backups, 4);
}

#[tokio::test]
async fn a_pack_is_read_in_one_request_and_only_where_that_was_asked_for() {
    let world = World::new().await;
    three(&world).await;
    let packs = world.keys("data/").await.len();
    for (data, expected) in [(None, 0), (Some(Subset::All), packs)] {
        let store = Arc::new(RecordingStore::new(world.store()));
        check_through(&world, Arc::clone(&store) as Store, data).await.unwrap();
        let reads = [Operation::Get, Operation::GetRange, Operation::GetEnd, Operation::Head]
            .map(|operation| store.count(operation, "data/"));
        assert_eq!(reads.iter().sum::<usize>(), expected);
    }
}

#[tokio::test]
async fn what_a_check_reports_is_what_a_restore_fails_on() {
    let scene = Scene::new().await;
    for (kind, key, other) in &scene.objects {
        for damage in DAMAGES {
            let world = scene.damaged(key, other, damage).await;
            let Ok(report) = check_through(&world, world.store(), Some(Subset::All)).await else {
                // Without a config nothing can be done at all.
                assert_eq!(*kind, "config/", "{key}: {damage}");
                continue;
            };
            let restores = world.restore(scene.first.id).await.is_ok();
            // An end that is gone is that of a run that was never done.
            if *kind == "end" && damage == "gone" {
                continue;
            }
            assert_eq!(restores, !report.has_damage(), "{key}: {damage}: {report:?}");
            assert!(!report.findings.is_empty() || damage == "gone" && *kind == "index/", "{key}: {damage}");
            let named = |text: &str| text.contains(key.as_str());
            let named = report.findings.iter().any(|finding| named(&finding.object) || named(&finding.reason));
            // The config of another repository is told by all that does not belong to it.
            let told_otherwise = damage == "gone" && *kind == "index/" || *kind == "config/";
            assert!(named || told_otherwise, "{key}: {damage}: {report:?}");
        }
    }
}

#[tokio::test]
async fn every_lost_pack_is_found_without_reading_any_and_so_is_who_needs_it() {
    let world = World::new().await;
    let made = three(&world).await;
    let [full, next, _] = &made;
    for key in [world.keys("data/").await, world.keys("meta/").await].concat() {
        let world = world.copy().await;
        world.memory.delete(&key).await.unwrap();
        let report = check_it(&world, None).await;
        let mut failing = BTreeSet::new();
        for backup in &made {
            if world.restore(backup.id).await.is_err() {
                failing.insert(backup.id);
            }
        }
        let own: BTreeSet<ManifestId> =
            report.affected.iter().filter(|affected| affected.is_own).map(|affected| affected.id).collect();
        assert_eq!(own, failing, "{key}: {report:?}");
        assert!(report.findings.iter().any(|finding| finding.object.contains(key.as_str())), "{key}");
        if own.contains(&full.id) {
            assert!(affected(&report).contains(&next.id));
        }
    }
}

#[tokio::test]
async fn a_flipped_bit_in_any_pack_is_found_with_those_who_need_it() {
    let world = World::new().await;
    let made = three(&world).await;
    for key in [world.keys("data/").await, world.keys("meta/").await].concat() {
        let body = world.body(&key).await;
        for part in [50, body.len() / 3, body.len() - 60, body.len() - 1] {
            let world = world.copy().await;
            let mut bytes = body.to_vec();
            bytes[part] ^= 4;
            world.replace(&key, Bytes::from(bytes)).await;
            let report = check_it(&world, Some(Subset::All)).await;
            assert!(report.findings.iter().any(|finding| finding.object.contains(key.as_str())), "{key}");
            for backup in &made {
                let own = report.affected.iter().any(|affected| affected.is_own && affected.id == backup.id);
                assert_eq!(world.restore(backup.id).await.is_err(), own, "{key} {part}: {report:?}");
            }
        }
    }
}

#[tokio::test]
async fn damage_of_a_forgotten_ancestor_is_that_of_those_made_on_it() {
    let world = World::new().await;
    let [full, next, other] = three(&world).await;
    forget(&world.open().await, full.id, "one", "").await.unwrap();
    assert_eq!(check_it(&world, None).await.findings, []);
    let manifest = layout::manifest_key(&full.id);
    world.memory.delete(&manifest).await.unwrap();
    let report = check_it(&world, None).await;
    assert_eq!(affected(&report), BTreeSet::from([next.id]));
    assert_ne!(other.id, next.id);
    assert!(report.findings.iter().any(|finding| finding.severity == Severity::Damage));
}

#[tokio::test]
async fn checks_of_a_share_go_on_where_the_last_one_stopped_until_all_is_read() {
    let world = World::new().await;
    three(&world).await;
    let packs = list_packs(&world.open().await).await.unwrap();
    let mut read = 0;
    for round in 0.. {
        let notes = Notes::load(&world.open().await, &RecordCache::none()).await.unwrap();
        let covered = coverage(&packs, &notes);
        if covered.never == 0 {
            assert!(round == packs.len() && covered.oldest.is_some());
            break;
        }
        let report = check_it(&world, Some(Subset::Bytes(1))).await;
        read += report.counts.packs_read;
        remember(&world.open().await, "one", &report, 1).await.unwrap();
    }
    assert!(read == packs.len() as u64 && read > 3, "{read} of {}", packs.len());
}

#[tokio::test]
async fn what_was_found_damaged_is_noted_until_it_is_whole_again() {
    let world = World::new().await;
    let [full, next, other] = three(&world).await;
    let known = async || {
        let notes = Notes::load(&world.open().await, &RecordCache::none()).await.unwrap();
        notes.known_to_be_damaged().collect::<Vec<_>>()
    };
    let key = world.keys("data/").await.into_iter().next().unwrap();
    let body = world.body(&key).await;
    world.memory.delete(&key).await.unwrap();
    let report = check_it(&world, None).await;
    for _ in 0..2 {
        remember(&world.open().await, "one", &report, 1).await.unwrap();
    }
    let damaged = known().await;
    assert!(!damaged.is_empty() && damaged.len() < 3, "{damaged:?} of {:?}", [full.id, next.id, other.id]);
    assert_eq!(world.keys("notes/").await.len(), damaged.len());
    world.put(&key, body).await;
    remember(&world.open().await, "one", &check_it(&world, None).await, 1).await.unwrap();
    assert_eq!(known().await, damaged);
    remember(&world.open().await, "one", &check_it(&world, Some(Subset::All)).await, 1).await.unwrap();
    assert_eq!(known().await, []);
    assert!(layout::packs(PackClass::Data).len() > 1);
}
