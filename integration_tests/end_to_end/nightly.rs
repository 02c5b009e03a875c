//! What happens night by night: what is due, and what has not changed.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;

use crate::support::btrfs_fixture::TestBtrfs;
use crate::support::process::{command, succeed};
use crate::support::tool::{Backup, Tool, data, snapshots, subvolume_section};
use crate::support::tree::{Recorded, random_bytes};

fn source(mount_options: &str) -> (TestBtrfs, Tool) {
    let source = TestBtrfs::new(512, mount_options);
    let tool = Tool::for_subvolume_of(&source);
    fs::write(data(&source).join("file"), random_bytes(1 << 20, 1)).unwrap();
    (source, tool)
}

fn kinds(backups: &[Backup]) -> Vec<&str> {
    backups.iter().map(|backup| backup.kind.as_str()).collect()
}

#[test]
#[ignore = "needs root and Btrfs"]
fn what_has_not_changed_is_noted_without_a_snapshot_and_restores_as_its_parent_does() {
    let (source, tool) = source("noatime");
    let full = tool.back_up([]);
    let tree = Recorded::of(&data(&source));
    for _ in 0..3 {
        let unchanged = tool.back_up([]);
        assert_eq!((unchanged.kind.as_str(), &unchanged.parent), ("unchanged", &Some(full.id.clone())));
        assert_eq!((unchanged.stream_bytes, unchanged.new_bytes), (0, 0));
        assert_eq!(fs::read_dir(snapshots(&source)).unwrap().count(), 1);
    }
    let last = tool.list().pop().unwrap();
    let stream = tool.run(["restore", &last.id, "--stream", "-"]);
    stream.assert_code(0);
    assert!(stream.stdout == tool.restore_stream(&full.id));
    // Whose stream that is, is said.
    let said = format!("backup {} has no stream, as nothing has changed since backup {}", last.id, full.id);
    assert!(stream.stderr.contains(&said), "{}", stream.stderr);

    // The older snapshot is still what the next increment is made against.
    fs::write(data(&source).join("new"), "content").unwrap();
    let incremental = tool.back_up([]);
    assert_eq!((incremental.kind.as_str(), incremental.parent), ("incremental", Some(full.id)));

    let restored = TestBtrfs::new(512, "");
    tool.restore(&last.id, &restored.path().join("target"));
    tree.assert_equals(&restored.path().join("target"));
}

type Change = fn(&Path);

#[test]
#[ignore = "needs root and Btrfs"]
fn every_kind_of_change_is_sent() {
    let (source, tool) = source("noatime");
    tool.back_up([]);
    let file = data(&source).join("file");
    let changes: [(&str, Change); 6] = [
        ("a byte written", |file| {
            OpenOptions::new().write(true).open(file).unwrap().write_all(b"x").unwrap();
        }),
        ("a mode", |file| drop(succeed(command("chmod").arg("600").arg(file)))),
        ("a time", |file| drop(succeed(command("touch").arg("-d").arg("2001-01-01").arg(file)))),
        ("an extended attribute", |file| {
            succeed(command("setfattr").args(["-n", "user.a", "-v", "b"]).arg(file));
        }),
        ("another name", |file| fs::hard_link(file, file.with_extension("link")).unwrap()),
        ("one name less", |file| fs::remove_file(file.with_extension("link")).unwrap()),
    ];
    for (what, change) in changes {
        change(&file);
        assert_eq!(tool.back_up([]).kind, "incremental", "{what}");
        assert_eq!(tool.back_up([]).kind, "unchanged", "after {what}");
    }
}

/// A file that was synced and not committed is in the file system's log only; after a crash it is put into the subvolume,
/// and the number that counts changes does not know of it.
#[test]
#[ignore = "needs root and Btrfs"]
fn what_came_back_from_the_log_after_a_crash_is_not_taken_for_unchanged() {
    let (mut source, tool) = source("noatime");
    tool.back_up([]);
    source.crash_after(|path| {
        let mut file = File::create(path.join("data/file")).unwrap();
        file.write_all(b"synced just before the crash").unwrap();
        file.sync_all().unwrap();
    });
    assert_eq!(fs::read(data(&source).join("file")).unwrap(), b"synced just before the crash");
    let tree = Recorded::of(&data(&source));
    let next = tool.back_up([]);
    assert_eq!(next.kind, "incremental");
    let restored = TestBtrfs::new(512, "");
    tool.restore(&next.id, &restored.path().join("target"));
    tree.assert_equals(&restored.path().join("target"));
}

#[test]
#[ignore = "needs root and Btrfs"]
fn a_schedule_decides_what_is_backed_up_and_once_does_not_ask_it() {
    let (source, tool) = source("noatime");
    let schedule = "[schedule]\nincremental_every = \"1d\"\nfull_every = \"7d\"\nmax_chain_length = 2\n";
    tool.configure(&format!("{schedule}{}", subvolume_section(&source, 20)));
    assert_eq!(tool.back_up([]).kind, "full");
    let before = fs::read_dir(snapshots(&source)).unwrap().count();
    let ended = tool.run(["backup"]);
    ended.assert_code(0);
    assert!(ended.text().contains("data: not due: the last backup is of "), "{}", ended.text());
    assert!(tool.run(["backup", "--dry-run"]).text().contains("data: not due: "));
    // What no state has told is known from the repository.
    tool.lose_state();
    tool.run(["backup"]).assert_code(0);
    assert_eq!((tool.list().len(), fs::read_dir(snapshots(&source)).unwrap().count()), (1, before));

    let change = |content: &str| fs::write(data(&source).join("new"), content).unwrap();
    change("1");
    assert_eq!(tool.back_up(["--once"]).kind, "incremental");
    change("2");
    let dry = tool.run(["backup", "--once", "--dry-run"]);
    assert!(dry.text().contains("its chain would be longer than 2"), "{}", dry.text());
    assert_eq!(tool.back_up(["--once"]).kind, "full");
    assert_eq!(tool.back_up(["--once"]).kind, "unchanged");
    assert_eq!(tool.back_up(["--full"]).kind, "full");
    assert_eq!(kinds(&tool.list()), ["full", "incremental", "full", "unchanged", "full"]);

    // One that was not there before is due, and the other one still is not.
    tool.add_subvolume(&source, "other");
    assert_eq!(tool.back_up([]).subvolume, "other");
}

#[test]
#[ignore = "needs root and Btrfs"]
fn subvolumes_that_are_sent_at_once_restore_like_those_sent_one_after_another() {
    let (source, tool) = source("noatime");
    tool.configure(&format!("subvolumes_at_once = 3\n{}", subvolume_section(&source, 20)));
    let names = ["data", "second", "third", "fourth"];
    names[1..].iter().for_each(|name| tool.add_subvolume(&source, name));
    let write = |night: u64| {
        for (seed, name) in (night * 10..).zip(names) {
            let folder = source.path().join(name);
            fs::write(folder.join(format!("large{night}")), random_bytes(6 << 20, seed)).unwrap();
            // The same in all of them.
            fs::write(folder.join(format!("same{night}")), random_bytes(1 << 20, 1_000 + night)).unwrap();
        }
    };
    for night in 0..3 {
        write(night);
        tool.run(["backup"]).assert_code(0);
    }
    let backups = tool.list();
    let restored = TestBtrfs::new(512, "");
    for name in names {
        let own: Vec<&Backup> = backups.iter().filter(|backup| backup.subvolume == name).collect();
        assert_eq!(
            own.iter().map(|backup| backup.kind.as_str()).collect::<Vec<_>>(),
            ["full", "incremental", "incremental"]
        );
        tool.restore(&own[2].id, &restored.path().join(name));
        Recorded::of(&source.path().join(name)).assert_equals(&restored.path().join(name));
    }
    tool.run(["check", "--read-data"]).assert_code(0);
}

#[test]
#[ignore = "needs root and Btrfs"]
fn a_subvolume_that_fails_does_not_make_the_others_start_over() {
    let (source, tool) = source("noatime");
    tool.configure(&format!("[schedule]\n{}", subvolume_section(&source, 20)));
    tool.add_subvolume(&source, "second");
    tool.add_subvolume(&source, "third");
    succeed(command("btrfs").args(["subvolume", "delete"]).arg(source.path().join("second")));
    tool.run(["backup"]).assert_code(1);
    let names = |tool: &Tool| tool.list().into_iter().map(|backup| backup.subvolume).collect::<Vec<_>>();
    assert_eq!(names(&tool), ["data", "third"]);
    succeed(command("btrfs").args(["subvolume", "create"]).arg(source.path().join("second")));
    tool.run(["backup"]).assert_code(0);
    assert_eq!(names(&tool), ["data", "third", "second"]);
}

#[test]
#[ignore = "needs root and Btrfs"]
fn the_status_says_what_is_overdue_and_so_does_its_exit_code() {
    let (source, tool) = source("noatime");
    tool.configure(&format!("[schedule]\nincremental_every = \"1min\"\n{}", subvolume_section(&source, 20)));
    let status = |expected: i32| -> serde_json::Value {
        let ended = tool.run(["status", "--json"]);
        ended.assert_code(expected);
        serde_json::from_slice::<serde_json::Value>(&ended.stdout).unwrap()[0].take()
    };
    let before = status(3);
    assert_eq!((&before["overdue"], &before["last_backup"], &before["due"]), (&true.into(), &().into(), &true.into()));
    tool.configure(&format!("[schedule]\n{}", subvolume_section(&source, 20)));
    let full = tool.back_up([]);
    fs::write(data(&source).join("new"), "content").unwrap();
    let incremental = tool.back_up(["--once"]);
    let unchanged = tool.back_up(["--once"]);
    let after = status(0);
    assert_eq!((&after["overdue"], &after["due"], &after["chain_length"]), (&false.into(), &false.into(), &2.into()));
    assert_eq!((&after["last_backup"], &after["last_kind"]), (&unchanged.id.into(), &"unchanged".into()));
    assert_eq!(after["last_stream_bytes"], incremental.stream_bytes);
    let stored_bytes = full.stored_bytes + incremental.stored_bytes + unchanged.stored_bytes;
    assert_eq!((&after["stored_bytes"], &after["last_rehearsal_at"]), (&stored_bytes.into(), &().into()));
    let shown = tool.run(["status"]).text();
    assert!(shown.starts_with("data: fine\n") && shown.contains("last rehearsal  never"), "{shown}");
}
