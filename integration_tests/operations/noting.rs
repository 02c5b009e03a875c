//! What is said of backups after they were published.

use std::sync::Arc;

use btrfs_to_s3::backup::Expected;
use btrfs_to_s3::forget::{forget, unforget};
use btrfs_to_s3::id::{ManifestId, NoteId};
use btrfs_to_s3::monitor::Monitor;
use btrfs_to_s3::object::{ObjectKind, encode_record};
use btrfs_to_s3::records::note::{NoteKind, NoteRecord, Subject, TagChange, TrialOutcome, TrialResult};
use btrfs_to_s3::repository::cache::RecordCache;
use btrfs_to_s3::repository::catalog::Catalog;
use btrfs_to_s3::repository::history::{first_backup_at, rehearsals};
use btrfs_to_s3::repository::layout;
use btrfs_to_s3::repository::notes::{Notes, Said, put_note};
use btrfs_to_s3::stats::stats;
use bytes::Bytes;

use crate::pruning::prune_now;
use crate::samples::Sample;
use crate::world::{Notes as Monitored, World, request};

async fn tag(world: &World, id: ManifestId, add: &[&str], remove: &[&str]) {
    let strings = |tags: &[&str]| tags.iter().map(|tag| (*tag).to_owned()).collect();
    let change = TagChange { add: strings(add), remove: strings(remove) };
    put_note(&world.open().await, Some(id), "one", Said::Tags(change)).await.unwrap();
}

async fn notes(world: &World) -> Notes {
    Notes::load(&world.open().await, &RecordCache::none()).await.unwrap()
}

async fn tags(world: &World, id: ManifestId) -> Vec<String> {
    notes(world).await.tags(id).into_iter().collect()
}

fn result(outcome: TrialOutcome, reason: &str) -> TrialResult {
    TrialResult { outcome, reason: reason.to_owned(), bytes: 0, seconds: 0, packs: None, method: None }
}

fn subject(host: &str) -> Subject {
    Subject { host: host.to_owned(), subvolume: "data".to_owned() }
}

#[tokio::test]
async fn tags_are_what_was_said_last() {
    let world = World::new().await;
    let [one, two] = [world.back_up(&Sample::random(1, 1000)).await, world.back_up(&Sample::random(2, 1000)).await];
    tag(&world, one.id, &["a", "b"], &[]).await;
    tag(&world, two.id, &["b"], &["b"]).await;
    tag(&world, one.id, &["c"], &["a"]).await;
    tag(&world, one.id, &["a"], &[]).await;
    tag(&world, one.id, &[], &["b"]).await;
    assert_eq!(tags(&world, one.id).await, ["a", "c"]);
    assert_eq!(tags(&world, two.id).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_text_that_is_no_tag_is_not_stored() {
    let world = World::new().await;
    let made = world.back_up(&Sample::random(1, 1000)).await;
    let change = TagChange { add: vec!["two words".to_owned()], remove: Vec::new() };
    let error = put_note(&world.open().await, Some(made.id), "one", Said::Tags(change)).await.unwrap_err();
    assert!(error.to_string().contains("'two words' is not a tag"), "{error:#}");
    assert_eq!(world.keys("notes/").await, []);
}

#[tokio::test]
async fn a_backup_that_is_brought_back_has_its_tags() {
    let world = World::new().await;
    let made = world.back_up(&Sample::random(1, 1000)).await;
    tag(&world, made.id, &["kept"], &[]).await;
    let repository = world.open().await;
    forget(&repository, made.id, "one", "").await.unwrap();
    let monitor: Arc<dyn Monitor> = Arc::new(Monitored::default());
    let never = btrfs_to_s3::backup::never_interrupted();
    let copy = unforget(&repository, &world.host("one"), made.id, &never, &monitor).await.unwrap();
    assert_eq!(tags(&world, copy.id()).await, ["kept"]);
}

#[tokio::test]
async fn the_last_check_and_the_last_rehearsal_are_found() {
    let world = World::new().await;
    let made = world.back_up(&Sample::random(1, 1000)).await;
    let repository = world.open().await;
    let say = async |said| put_note(&repository, Some(made.id), "one", said).await.unwrap();
    say(Said::Check(result(TrialOutcome::Damaged, "a pack is gone"))).await;
    say(Said::Rehearsal(result(TrialOutcome::Good, ""), subject("one"))).await;
    let found = notes(&world).await;
    assert_eq!(found.known_damage(made.id), Some("a pack is gone"));
    let last = found.last(made.id, NoteKind::Rehearsal).unwrap();
    assert_eq!(last.record.result.as_ref().unwrap().outcome, TrialOutcome::Good);
    say(Said::Check(result(TrialOutcome::Good, ""))).await;
    assert_eq!(notes(&world).await.known_damage(made.id), None);
}

/// A rehearsal's note as programs have written it that did not say of what the backup is.
async fn put_early_rehearsal(world: &World, id: ManifestId) {
    let note = NoteId::from_bytes([7; 16]);
    let record = NoteRecord {
        note,
        manifest: Some(id),
        at: world.clock.now(),
        host: "one".to_owned(),
        kind: NoteKind::Rehearsal,
        tags: None,
        result: Some(result(TrialOutcome::Good, "")),
        subject: None,
        verdicts: None,
        tool: "an early one".to_owned(),
    };
    let body = encode_record(ObjectKind::Note, world.open().await.id(), &record);
    world.put(&layout::note_key(Some(&id), &note), Bytes::from(body)).await;
}

#[tokio::test]
async fn a_rehearsal_is_known_when_its_backup_has_been_pruned() {
    let world = World::new().await;
    let [made, other] = [world.back_up(&Sample::random(1, 1000)).await, world.back_up(&Sample::random(2, 1000)).await];
    let repository = world.open().await;
    let said = Said::Rehearsal(result(TrialOutcome::Good, ""), subject("one"));
    let note = put_note(&repository, Some(made.id), "two", said).await.unwrap();
    put_early_rehearsal(&world, other.id).await;
    let found = async |host: &str| {
        let catalog = Catalog::load(&repository, &RecordCache::none()).await.unwrap();
        let notes = notes(&world).await;
        rehearsals(&notes, &catalog, host, "data").iter().map(|note| note.record.note).collect::<Vec<_>>()
    };
    let early = NoteId::from_bytes([7; 16]);
    assert_eq!(found("one").await, [note, early]);
    for id in [made.id, other.id] {
        forget(&repository, id, "one", "").await.unwrap();
    }
    assert_eq!(found("one").await, [note, early]);
    prune_now(&world).await;
    assert_eq!(world.keys("manifests/").await, []);
    // What an earlier program has noted goes with its backup.
    assert_eq!((found("one").await, found("two").await), (vec![note], vec![]));
}

#[tokio::test]
async fn since_when_there_are_backups_is_known_when_the_first_have_been_pruned() {
    let world = World::new().await;
    let first = world.back_up(&Sample::random(1, 1000)).await;
    let of_other = world.back_up_from("two", &Sample::random(2, 1000)).await;
    let repository = world.open().await;
    let since = async |host: &str| {
        let catalog = Catalog::load(&repository, &RecordCache::none()).await.unwrap();
        first_backup_at(&repository, &catalog, host, "data", &world.host("one").cache).await.unwrap()
    };
    assert_eq!(since("one").await, Some(request(Expected::Anything).created_at));
    for id in [of_other.id, first.id] {
        forget(&repository, id, "one", "").await.unwrap();
    }
    let forgotten_at = Catalog::load(&repository, &RecordCache::none()).await.unwrap().forgotten.into_iter();
    let forgotten_at = forgotten_at.filter(|gone| gone.backup.id() == first.id).map(|gone| gone.forgotten_at).next();
    prune_now(&world).await;
    assert_eq!(since("one").await, forgotten_at);
    assert_eq!(since("three").await, None);
}

#[tokio::test]
async fn the_figures_of_a_repository_add_up() {
    let world = World::new().await;
    let made = [
        world.back_up(&Sample::random(1, 100_000)).await,
        world.back_up(&Sample::random(1, 100_000)).await,
        world.back_up_from("two", &Sample::random(2, 50_000)).await,
    ];
    let repository = world.open().await;
    let catalog = Catalog::load(&repository, &RecordCache::none()).await.unwrap();
    let all = stats(&repository, &catalog).await.unwrap();
    assert_eq!(all.all.logical_bytes, made.iter().map(|backup| backup.stream.len() as u64).sum::<u64>());
    assert_eq!((all.all.backups, all.by_source.len(), all.by_month.len()), (3, 2, 1));
    assert!(all.all.new_bytes > 150_000 && all.all.new_bytes < 200_000, "{all:?}");
    let objects = world.objects("").await;
    assert_eq!(all.stored_bytes(), objects.iter().map(|(_, body)| body.len() as u64).sum::<u64>());
    let count = [all.data, all.meta, all.index, all.other].iter().map(|stored| stored.objects).sum::<u64>();
    assert_eq!(count, objects.len() as u64);
    // Of what each has stored, only the config is nobody's.
    assert_eq!(all.stored_bytes() - all.all.stored_bytes, world.objects("config/").await[0].1.len() as u64);
    forget(&repository, made[2].id, "one", "").await.unwrap();
    let catalog = Catalog::load(&repository, &RecordCache::none()).await.unwrap();
    let left = stats(&repository, &catalog).await.unwrap();
    assert_eq!((left.all.backups, left.forgotten.backups), (2, 1));
    // What is kept hangs on the packs, not on which backups first had it.
    assert_eq!(left.plaintext_bytes, all.plaintext_bytes);
    assert!(all.plaintext_bytes >= all.all.new_bytes && all.plaintext_bytes < all.all.new_bytes + 20_000, "{all:?}");
}

#[tokio::test]
async fn a_damaged_or_exchanged_note_is_told_and_the_others_count() {
    let world = World::new().await;
    let [one, two] = [world.back_up(&Sample::random(1, 1000)).await, world.back_up(&Sample::random(2, 1000)).await];
    tag(&world, one.id, &["first"], &[]).await;
    tag(&world, one.id, &["second"], &[]).await;
    tag(&world, two.id, &["third"], &[]).await;
    let of_one = world.keys(&format!("notes/{}/", one.id)).await;
    let of_two = world.keys(&format!("notes/{}/", two.id)).await;
    let other = world.body(&of_two[0]).await;
    for body in [Bytes::from_static(b"rubbish"), other] {
        world.replace(&of_one[0], body).await;
        let found = notes(&world).await;
        assert_eq!((found.damaged.len(), found.tags(one.id).len(), found.tags(two.id).len()), (1, 1, 1));
        assert!(format!("{:#}", found.damaged[0]).contains(of_one[0].as_str()));
    }
    assert!(layout::parse_note_key(&of_one[0]).is_some());
}
