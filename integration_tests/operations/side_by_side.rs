//! Several subvolumes of one run that are sent at once.

use std::path::Path;
use std::sync::{Arc, Mutex};

use btrfs_to_s3::job::FileSystem;
use btrfs_to_s3::records::manifest::BackupKind;
use btrfs_to_s3::repository::session::list_sessions;
use btrfs_to_s3::store::Store;
use btrfs_to_s3::store::recording::Operation;

use crate::samples::random_bytes;
use crate::scripted::meanwhile;
use crate::world::Notes;
use crate::year::{Machine, kinds};

const AT_ONCE: usize = 3;
const SUBVOLUMES: usize = 5;

/// Five subvolumes, of which three are sent at once.
async fn machine() -> Machine {
    let names = (0..SUBVOLUMES).map(|number| format!("[[subvolumes]]\npath = '/pool/s{number}'\n"));
    let mut machine = Machine::configured(&names.collect::<String>()).await;
    for number in 0..SUBVOLUMES {
        write(&machine, number, 0);
    }
    machine.subvolumes_at_once = AT_ONCE;
    machine
}

fn write(machine: &Machine, subvolume: usize, night: u64) {
    let seed = |file: u64| (subvolume as u64) * 1000 + file;
    let files = (night..night + 4).map(|file| random_bytes(seed(file), 30_000)).collect();
    machine.file_system.write(&format!("/pool/s{subvolume}"), files);
}

#[tokio::test]
async fn all_that_are_sent_at_once_are_published_and_none_is_taken_for_dead() {
    let machine = Arc::new(machine().await);
    let open = Arc::new(Mutex::new(Vec::new()));
    let (others, seen) = (Arc::clone(&machine), Arc::clone(&open));
    let look = move || {
        let (machine, seen) = (Arc::clone(&others), Arc::clone(&seen));
        async move {
            let sessions = list_sessions(&machine.world.open().await).await.unwrap();
            seen.lock().unwrap().push(sessions.open_ids().count());
        }
    };
    let is_end = |operation, target: &str| operation == Operation::Put && target.ends_with("/end");
    let store = meanwhile(machine.world.store(), 1, is_end, look) as Store;
    let notes = Arc::new(Notes::default());
    let job = machine.job(store, Arc::clone(&notes) as _).await.unwrap();
    let outcomes = job.run(&machine.subvolumes).await;
    assert_eq!(notes.problems(), Vec::<String>::new());
    assert_eq!(kinds(&outcomes), [Some(BackupKind::Full); SUBVOLUMES]);
    assert_eq!(*open.lock().unwrap(), [AT_ONCE], "sessions open when the first one ends");
    let named: Vec<_> = outcomes.iter().map(|outcome| outcome.subvolume.clone()).collect();
    assert_eq!(named, ["s0", "s1", "s2", "s3", "s4"], "they are told in the order of the configuration");
    assert_eq!(list_sessions(&machine.world.open().await).await.unwrap().open, []);
    machine.restore_newest().await;
}

/// The copies of the local index are gone, and what only they had is read from the repository.
#[tokio::test]
async fn the_next_run_knows_what_was_stored_side_by_side() {
    let machine = machine().await;
    machine.run().await;
    let packs = machine.world.keys("data/").await;
    let scratch = machine.world.host_folder("one").join("scratch");
    assert_eq!(std::fs::read_dir(&scratch).unwrap().count(), 0, "no copy is left");
    // All of it once more, one after another and side by side.
    for at_once in [1, AT_ONCE] {
        machine.tomorrow();
        for number in 0..SUBVOLUMES {
            write(&machine, number, 0);
        }
        let mut job = machine.job(machine.world.store(), Arc::new(Notes::default())).await.unwrap();
        (job.subvolumes_at_once, job.full) = (at_once, true);
        assert_eq!(kinds(&job.run(&machine.subvolumes).await), [Some(BackupKind::Full); SUBVOLUMES]);
        assert_eq!(machine.world.keys("data/").await, packs);
    }
}

#[tokio::test]
async fn one_that_fails_leaves_those_beside_it_alone() {
    let machine = machine().await;
    machine.run().await;
    machine.tomorrow();
    (0..SUBVOLUMES).for_each(|number| write(&machine, number, 2));
    machine.file_system.fail(Some("/pool/s1"));
    let job = machine.job(machine.world.store(), Arc::new(Notes::default())).await.unwrap();
    let outcomes = job.run(&machine.subvolumes).await;
    let failed: Vec<bool> = outcomes.iter().map(|outcome| outcome.result.is_err()).collect();
    assert_eq!(failed, [false, true, false, false, false]);
    machine.file_system.fail(None);
    let expected = [None, Some(BackupKind::Incremental), None, None, None];
    assert_eq!(kinds(&machine.run().await), expected);
    machine.restore_newest().await;
}

#[tokio::test]
async fn a_store_that_fails_at_any_operation_of_a_run_side_by_side_leaves_all_well() {
    let (mut first, mut published_some) = (1, 0);
    loop {
        let machine = machine().await;
        let faulty = machine.run_failing(first).await;
        published_some += usize::from((1..SUBVOLUMES).contains(&machine.world.published().await.len()));
        machine.run().await;
        assert_eq!(list_sessions(&machine.world.open().await).await.unwrap().open, []);
        machine.restore_newest().await;
        for number in 0..SUBVOLUMES {
            assert_eq!(machine.file_system.snapshots(Path::new("/pool"), &format!("s{number}")).unwrap().len(), 1);
        }
        if !faulty {
            break;
        }
        first += 3;
    }
    assert!(first > 60 && published_some > 5, "{first} operations, {published_some} runs that did a part");
}

#[tokio::test]
async fn a_run_killed_side_by_side_is_cleared_away_by_the_next() {
    let machine = machine().await;
    machine.run_killed().await;
    assert!(list_sessions(&machine.world.open().await).await.unwrap().open.len() >= 2);
    machine.run().await;
    assert_eq!(list_sessions(&machine.world.open().await).await.unwrap().open, []);
    machine.restore_newest().await;
    for number in 0..SUBVOLUMES {
        assert_eq!(machine.file_system.count(&format!("s{number}")), 1);
    }
}
