//! What is forgotten and pruned gives its space back, whatever becomes of the prune.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::process::Ended;
use crate::support::strace::KillAt;
use crate::support::tool::Tool;
use crate::support::tree::random_bytes;

const SMALL_PACKS: &str = "[packing]\npack_target = \"4 MiB\"\ncompression_level = 1\n";
const MIB: usize = 1 << 20;

/// A workspace with an empty repository.
fn workspace() -> Tool {
    let tool = Tool::without_configuration();
    tool.configure(SMALL_PACKS);
    tool.run(["init"]).assert_code(0);
    tool
}

/// Archives bytes; gives the backup's id.
fn archive(tool: &Tool, bytes: &[u8]) -> String {
    let input = tool.folder().join("input");
    std::fs::write(&input, bytes).unwrap();
    let before: Vec<String> = tool.list().into_iter().map(|backup| backup.id).collect();
    let mut command = tool.command(["backup", "--stdin", "--name", "pipe"]);
    Ended::from(command.stdin(Stdio::from(File::open(&input).unwrap())).output().unwrap()).assert_code(0);
    tool.list().into_iter().map(|backup| backup.id).find(|id| !before.contains(id)).unwrap()
}

fn bytes_below(folder: &Path) -> u64 {
    let of = |entry: std::fs::DirEntry| {
        let metadata = entry.metadata().unwrap();
        if metadata.is_dir() { bytes_below(&entry.path()) } else { metadata.len() }
    };
    std::fs::read_dir(folder).unwrap().map(|entry| of(entry.unwrap())).sum()
}

/// Packs, manifests and index segments, by their names.
fn objects(tool: &Tool) -> Vec<String> {
    let mut names = Vec::new();
    let mut open: Vec<_> = ["data", "meta", "index", "manifests"].map(|folder| tool.repository().join(folder)).into();
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            if entry.metadata().unwrap().is_dir() {
                open.push(entry.path());
            } else {
                names.push(entry.path().to_str().unwrap().to_owned());
            }
        }
    }
    names.sort();
    names
}

fn json_of(ended: &Ended) -> Value {
    ended.assert_code(0);
    serde_json::from_slice(&ended.stdout).unwrap()
}

/// Two backups that have something in common; the first is forgotten. Gives the other one and its bytes.
fn one_of_two_is_forgotten(tool: &Tool) -> (String, Vec<u8>) {
    let shared = random_bytes(4 * MIB, 1);
    let gone = archive(tool, &[random_bytes(12 * MIB, 2), shared.clone()].concat());
    let kept = [shared, random_bytes(MIB, 3)].concat();
    let id = archive(tool, &kept);
    tool.run(["forget", &gone]).assert_code(0);
    (id, kept)
}

#[track_caller]
fn assert_whole(tool: &Tool, kept: &(String, Vec<u8>)) {
    assert!(tool.restore_stream(&kept.0) == kept.1);
    let checked = tool.run(["check", "--read-data"]);
    checked.assert_code(0);
    assert!(checked.text().contains("no damage"), "{}", checked.text());
}

#[test]
fn a_forgotten_backup_gives_its_space_back_and_the_others_restore() {
    let tool = workspace();
    let kept = one_of_two_is_forgotten(&tool);
    let before = bytes_below(&tool.repository());

    tool.run(["prune"]).assert_code(0);
    assert!(bytes_below(&tool.repository()) > before - 4096, "the grace period is not over");
    let plan = json_of(&tool.run(["prune", "--grace", "0s", "--dry-run", "--json"]));
    assert!(bytes_below(&tool.repository()) > before - 4096, "it was a dry run");
    let done = json_of(&tool.run(["prune", "--grace", "0s", "--json"]));
    for figure in ["manifests", "packs", "pack_bytes", "segments"] {
        assert_eq!(plan[figure], done[figure], "{figure}");
    }
    assert_eq!((&done["complete"], &done["manifests"]), (&Value::from(true), &Value::from(1)));
    let freed = before - bytes_below(&tool.repository());
    assert!(freed > 8 << 20, "{freed} bytes were freed");
    assert_whole(&tool, &kept);
    let repair = tool.run(["repair", "index", "--dry-run"]);
    repair.assert_code(0);
    assert_eq!(tool.list().len(), 1);

    // What is gone is stored again, on a host that remembers what was there.
    let again = [random_bytes(12 * MIB, 2), random_bytes(4 * MIB, 1)].concat();
    let id = archive(&tool, &again);
    assert!(tool.restore_stream(&id) == again);
    assert_whole(&tool, &kept);
    let nothing = tool.run(["prune", "--grace", "0s"]);
    nothing.assert_code(0);
    assert!(nothing.text().contains("deleted 0 manifests, 0 packs"), "{}", nothing.text());
}

/// Kills a prune at a system call; says whether it came so far.
fn kill(tool: &Tool, at: &KillAt, max_unused: &str) -> bool {
    let mut traced = at.wrap(&tool.command(["prune", "--grace", "0s", "--max-unused", max_unused]));
    let status = traced.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    match (status.signal(), status.code()) {
        (Some(9), _) => true,
        (_, Some(0)) => false,
        _ => panic!("{at:?}: {status}"),
    }
}

/// When an object of the prune is about to have its name, and when one is about to be deleted from a folder.
fn points(doomed: &[String]) -> Vec<KillAt> {
    let mut points: Vec<KillAt> = (1..6).map(|when| KillAt { call: "renameat2", folders: Vec::new(), when }).collect();
    let mut folders: Vec<PathBuf> =
        doomed.iter().map(|object| Path::new(object).parent().unwrap().to_owned()).collect();
    folders.sort();
    folders.dedup();
    points.extend(folders.into_iter().map(|folder| KillAt { call: "unlinkat", folders: vec![folder], when: 1 }));
    points.push(KillAt { call: "unlinkat", folders: Vec::new(), when: 3 });
    assert!(points.len() > 8, "{points:?}");
    points
}

#[test]
fn a_prune_that_is_killed_anywhere_is_simply_run_again() {
    let tool = workspace();
    let kept = one_of_two_is_forgotten(&tool);
    let saved = tool.folder().join("saved");
    let copy = |from: &Path, to: &Path| {
        let copied = Command::new("cp").args(["-a", "--"]).args([from, to]).status().unwrap();
        assert!(copied.success());
    };
    copy(&tool.repository(), &saved);
    let all = objects(&tool);
    // What is rewritten has other names each time.
    let prune = ["prune", "--grace", "0s", "--max-unused", "unlimited"];
    tool.run(prune).assert_code(0);
    let expected = objects(&tool);
    let doomed: Vec<String> = all.iter().filter(|object| !expected.contains(object)).cloned().collect();
    let (mut kills, mut kills_between) = (0, 0);
    let points = points(&doomed);
    // Which thread makes a later call is chance: those may not be met.
    let certain = points.iter().filter(|point| point.when == 1).count();
    for point in points {
        std::fs::remove_dir_all(tool.repository()).unwrap();
        copy(&saved, &tool.repository());
        kills += usize::from(kill(&tool, &point, "unlimited"));
        let left = objects(&tool);
        kills_between += u32::from(left.len() < all.len() && left.len() > expected.len());
        assert!(tool.restore_stream(&kept.0) == kept.1, "{point:?}");
        tool.run(prune).assert_code(0);
        assert_eq!(objects(&tool), expected, "{point:?}");
        assert!(tool.restore_stream(&kept.0) == kept.1, "{point:?}");
    }
    println!("{kills} kills, {kills_between} of them while it deleted");
    assert!(kills >= certain && kills_between > 0, "{kills} of {certain} kills, {kills_between} while it deleted");
    assert_whole(&tool, &kept);
}

/// A backup that is forgotten, and one that needs every other MiB of it.
fn every_other_part_is_forgotten(tool: &Tool) -> (String, Vec<u8>) {
    let all = random_bytes(16 * MIB, 1);
    let gone = archive(tool, &all);
    let kept: Vec<u8> = all.chunks(MIB).step_by(2).flatten().copied().collect();
    let id = archive(tool, &kept);
    tool.run(["forget", &gone]).assert_code(0);
    (id, kept)
}

#[test]
fn partly_unused_packs_are_rewritten_wherever_a_prune_is_killed() {
    let tool = workspace();
    let kept = every_other_part_is_forgotten(&tool);
    let saved = tool.folder().join("saved");
    let copy = |from: &Path, to: &Path| {
        let copied = Command::new("cp").args(["-a", "--"]).args([from, to]).status().unwrap();
        assert!(copied.success());
    };
    copy(&tool.repository(), &saved);
    let data = || bytes_below(&tool.repository().join("data"));
    let used = kept.1.len() as u64;
    assert!(data() > used + (7 << 20));

    let prune = ["prune", "--grace", "0s", "--max-unused", "0", "--json"];
    let told = json_of(&tool.run([&prune[..], &["--dry-run"]].concat()));
    let done = json_of(&tool.run(prune));
    assert_eq!((&told["repack"]["packs"], &told["packs"]), (&done["repack"]["packs"], &done["packs"]));
    assert!(done["repack"]["packs"].as_u64().unwrap() >= 4, "{done}");
    assert!(done["repack"]["unused_bytes"].as_u64().unwrap() > 4 << 20, "{done}");
    assert_eq!(done["cost"], Value::Null, "a directory has no price");
    assert!(data() < used + (1 << 20), "{} bytes are left of {used}", data());
    assert_whole(&tool, &kept);
    // The backup names packs that are gone, and nobody takes them for lost.
    let dry = tool.run(["restore", &kept.0, "--stream", "-", "--dry-run"]);
    dry.assert_code(0);
    tool.run(["rehearse", "--id", &kept.0, "--sample", "100%"]).assert_code(0);
    let again = json_of(&tool.run(prune));
    assert_eq!((&again["repack"]["packs"], &again["packs"]), (&Value::from(0), &Value::from(0)));

    let below = |folder: &str| -> Vec<PathBuf> {
        let folder = tool.repository().join(folder);
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
    };
    let index = vec![tool.repository().join("index")];
    let mut points: Vec<KillAt> = [below("data"), below("meta"), index]
        .into_iter()
        .map(|folders| KillAt { call: "renameat2", folders, when: 1 })
        .collect();
    let certain = points.len();
    points.extend((2..6).map(|when| KillAt { call: "renameat2", folders: Vec::new(), when }));
    let mut kills = 0;
    for point in points {
        std::fs::remove_dir_all(tool.repository()).unwrap();
        copy(&saved, &tool.repository());
        kills += usize::from(kill(&tool, &point, "0"));
        assert!(tool.restore_stream(&kept.0) == kept.1, "{point:?}");
        tool.run(prune).assert_code(0);
        assert!(data() < used + (1 << 20), "{point:?}: {} bytes are left of {used}", data());
        assert_whole(&tool, &kept);
    }
    println!("{kills} kills");
    assert!(kills >= certain, "{kills} kills");
}
