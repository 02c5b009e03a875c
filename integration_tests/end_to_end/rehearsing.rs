//! Rehearsals say what a restore would, leave nothing behind, and are remembered.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::s3::piped::{Input, tool_on};
use crate::support::btrfs_fixture::TestBtrfs;
use crate::support::btrfs_shim::{Act, BtrfsShim};
use crate::support::documented::assert_all_documented;
use crate::support::process::{Ended, command, succeed};
use crate::support::s3_server::{ArchiveCounts, S3Server};
use crate::support::tool::{Tool, data};
use crate::support::tree::seed;

const DOCUMENT: &str = include_str!("../../docs/operating.md");

/// The reports of a rehearsal, which has to end with this code.
#[track_caller]
fn rehearse(tool: &Tool, options: &[&str], code: i32) -> Vec<Value> {
    reports(&tool.run(["rehearse", "--json"].iter().chain(options)), code)
}

#[track_caller]
fn reports(ended: &Ended, code: i32) -> Vec<Value> {
    ended.assert_code(code);
    let value: Value = serde_json::from_slice(&ended.stdout).unwrap();
    assert_all_documented(&value, DOCUMENT, "`rehearse --json`");
    value["rehearsals"].as_array().unwrap().clone()
}

/// The results of rehearsals that the notes of a backup have, the last one last.
fn noted(tool: &Tool, id: &str) -> Vec<Value> {
    let shown: Value = serde_json::from_slice(&tool.run(["show", id, "--json"]).stdout).unwrap();
    let notes = shown["notes"].as_array().unwrap().iter();
    notes.filter(|note| note["kind"] == "rehearsal").map(|note| note["result"].clone()).collect()
}

/// A local repository with one backup of a stream.
fn local() -> (Tool, Input) {
    let tool = Tool::without_configuration();
    tool.configure("[packing]\npack_target = \"4 MiB\"\ncompression_level = 1\n");
    tool.run(["init"]).assert_code(0);
    let input = Input::random(&tool, 9_000_000, 1);
    input.back_up(&tool).assert_code(0);
    (tool, input)
}

fn packs_of(tool: &Tool) -> Vec<PathBuf> {
    let listed = succeed(command("find").arg(tool.repository().join("data")).args(["-type", "f"])).text();
    listed.lines().map(PathBuf::from).collect()
}

#[test]
fn nothing_that_was_tried_is_no_success() {
    let tool = Tool::without_configuration();
    tool.configure("");
    tool.run(["init"]).assert_code(0);
    tool.run(["rehearse"]).assert_failed_naming("there is no backup to rehearse");
    tool.run(["restore", "latest", "--stream", "-"]).assert_failed_naming("there is no backup");
    // What is gone is not passed over: of a pack that is missing nothing can be said but that.
    let (tool, _) = local();
    for pack in packs_of(&tool) {
        fs::remove_file(pack).unwrap();
    }
    for command in [&["rehearse"][..], &["rehearse", "--sample", "100%"], &["check"], &["check", "--read-data"]] {
        tool.run(command).assert_code(5);
    }
    assert!(noted(&tool, &tool.list()[0].id).iter().all(|result| result["outcome"] != "good"));
}

#[test]
fn a_rehearsal_goes_through_all_bytes_and_is_noted() {
    let (tool, input) = local();
    let id = tool.list()[0].id.clone();
    let whole = &rehearse(&tool, &[], 0)[0];
    assert_eq!((&whole["method"], &whole["outcome"], &whole["noted"]), (&"whole".into(), &"good".into(), &true.into()));
    assert_eq!((&whole["id"], &whole["bytes"]), (&id.clone().into(), &input.bytes.len().into()));
    let sample = &rehearse(&tool, &["--sample", "1%"], 0)[0];
    assert_eq!((&sample["method"], &sample["outcome"]), (&"sample".into(), &"good".into()));
    // A pack of metadata, and one of file data.
    assert_eq!(sample["packs"], 2);
    assert!(sample["bytes"].as_u64().unwrap() < 6_000_000, "{sample}");
    assert_eq!(rehearse(&tool, &["--no-notes", "--id", &id[..8]], 0)[0]["noted"], false);
    let methods: Vec<Value> = noted(&tool, &id).iter().map(|result| result["method"].clone()).collect();
    assert_eq!(methods, ["whole", "sample"]);
    let text = tool.run(["rehearse", "--whole"]).text();
    assert!(text.contains("good (whole: 1 stream, 8.58 MiB"), "{text}");
    tool.run(["rehearse", "--subvolume", "other"]).assert_failed_naming("there is no backup to rehearse");
    for wrong in [&["--sample", "1/3"][..], &["--sample", "5%", "--receive"], &["--directory", "/tmp"]] {
        tool.run(["rehearse"].iter().chain(wrong)).assert_code(2);
    }
}

#[test]
fn damage_is_found_by_a_rehearsal_and_noted() {
    let (tool, _) = local();
    let id = tool.list()[0].id.clone();
    let pack = &packs_of(&tool)[0];
    let mut bytes = fs::read(pack).unwrap();
    bytes[100] ^= 1;
    fs::write(pack, bytes).unwrap();
    for options in [&[][..], &["--sample", "100%"]] {
        let report = &rehearse(&tool, options, 5)[0];
        assert_eq!((&report["outcome"], &report["noted"]), (&"damaged".into(), &true.into()));
        assert!(report["reason"].as_str().unwrap().contains(pack.file_name().unwrap().to_str().unwrap()), "{report}");
    }
    let outcomes: Vec<Value> = noted(&tool, &id).iter().map(|result| result["outcome"].clone()).collect();
    assert_eq!(outcomes, ["damaged", "damaged"]);
}

#[test]
fn a_rehearsal_is_known_when_its_backup_is_gone() {
    let tool = Tool::without_configuration();
    tool.configure("[rehearsal]\nevery = \"90d\"\n\n[[subvolumes]]\npath = \"/srv/pipe\"\n");
    tool.run(["init"]).assert_code(0);
    Input::random(&tool, 100_000, 1).back_up(&tool).assert_code(0);
    let status = || serde_json::from_slice::<Value>(&tool.run(["status", "--json"]).stdout).unwrap()[0].clone();
    let id = tool.list()[0].id.clone();
    rehearse(&tool, &[], 0);
    let rehearsed_at = status()["last_rehearsal_at"].clone();
    tool.run(["forget", &id]).assert_code(0);
    tool.run(["prune", "--grace", "0s"]).assert_code(0);
    let status = status();
    assert_eq!((&status["backups"], &status["last_rehearsal_good"]), (&0.into(), &true.into()));
    assert_eq!(status["last_rehearsal_at"], rehearsed_at);
}

#[test]
fn archived_packs_are_left_alone_unless_a_thaw_is_asked_for() {
    let server = S3Server::start_in_thread();
    let tool = tool_on(&server, "[s3]\nstorage_class_data = \"DEEP_ARCHIVE\"\n");
    Input::random(&tool, 9_000_000, 1).back_up(&tool).assert_code(0);
    let id = tool.list()[0].id.clone();
    for options in [&[][..], &["--sample", "5%"]] {
        let report = &rehearse(&tool, options, 6)[0];
        assert_eq!((&report["outcome"], &report["noted"]), (&"archived".into(), &false.into()));
    }
    assert_eq!((server.archive_counts(), noted(&tool, &id)), (ArchiveCounts::default(), vec![]));

    // Of one that can be read, a sample is content.
    let packs: Vec<String> = server.keys().into_iter().filter(|key| key.contains("/data/")).collect();
    server.change(&packs[0], |kept| kept.storage_class = Some("GLACIER_IR".to_owned()));
    assert_eq!(rehearse(&tool, &["--sample", "100%"], 0)[0]["packs"], 2);
    assert_eq!(server.archive_counts(), ArchiveCounts::default());

    assert_eq!(rehearse(&tool, &["--thaw"], 6)[0]["outcome"], "archived");
    assert_eq!(usize::try_from(server.archive_counts().thaws).unwrap(), packs.len() - 1);
    server.pass(Duration::from_hours(12));
    assert_eq!(rehearse(&tool, &["--thaw"], 0)[0]["outcome"], "good");
    assert_eq!(server.archive_counts().refused_reads, 0);
}

/// A source with a full backup and an increment.
fn source() -> (TestBtrfs, Tool) {
    let source = TestBtrfs::new(512, "noatime");
    let tool = Tool::for_subvolume_of(&source);
    seed(&data(&source), 4);
    tool.back_up([]);
    fs::write(data(&source).join("new"), "new").unwrap();
    tool.back_up([]);
    (source, tool)
}

/// How many loop devices have a file of the workspace.
fn loop_devices(tool: &Tool) -> usize {
    let files = succeed(command("losetup").args(["--list", "--noheadings", "--output", "BACK-FILE"])).text();
    files.lines().filter(|file| file.starts_with(tool.folder().to_str().unwrap())).count()
}

/// How many file systems are mounted in the workspace, as this process sees it.
fn mounts(tool: &Tool) -> usize {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    mounts.lines().filter(|line| line.contains(tool.folder().to_str().unwrap())).count()
}

/// Waits until no loop device has a file of the workspace. The kernel takes one away a moment after its last user.
#[track_caller]
fn assert_no_loop_device(tool: &Tool) {
    let gone = (0..1000).any(|_| {
        let is_there = loop_devices(tool) > 0;
        if is_there {
            std::thread::sleep(Duration::from_millis(20));
        }
        !is_there
    });
    assert!(gone, "a loop device is left");
}

fn entries(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().count()
}

#[test]
#[ignore = "needs root and Btrfs"]
fn a_rehearsal_receives_a_chain_and_leaves_nothing_behind() {
    let (_source, tool) = source();
    let report = &rehearse(&tool, &["--receive"], 0)[0];
    assert_eq!(
        (&report["method"], &report["outcome"], &report["streams"]),
        (&"receive".into(), &"good".into(), &2.into())
    );
    let elsewhere = tool.folder().join("elsewhere");
    rehearse(&tool, &["--receive", "--directory", elsewhere.to_str().unwrap()], 0);
    assert_no_loop_device(&tool);
    assert_eq!((entries(&tool.state().join("rehearsals")), entries(&elsewhere)), (0, 0));

    let status = tool.run(["status", "--json"]);
    status.assert_code(0);
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(
        (&status[0]["last_rehearsal_good"], &status[0]["last_rehearsal_method"]),
        (&true.into(), &"receive".into())
    );
    assert!(tool.run(["status"]).text().contains("good (receive)"));
}

#[test]
#[ignore = "needs root and Btrfs"]
fn a_stream_that_was_kept_is_skipped_and_the_others_are_received() {
    let (_source, tool) = source();
    Input::random(&tool, 100_000, 1).back_up(&tool).assert_code(0);
    let kept = tool.list().pop().unwrap();
    let host = rehearse(&tool, &[], 0)[0]["host"].as_str().unwrap().to_owned();
    let reports = rehearse(&tool, &["--receive", "--host", &host], 0);
    let outcomes: Vec<&Value> = reports.iter().map(|report| &report["outcome"]).collect();
    assert_eq!(outcomes, ["good", "skipped"]);
    assert_eq!((&reports[1]["noted"], noted(&tool, &kept.id)), (&false.into(), vec![]));
    let told = tool.run(["rehearse", "--receive", "--subvolume", "pipe"]);
    told.assert_code(1);
    assert!(told.stderr.contains("nothing was rehearsed"), "{}", told.stderr);
    assert!(told.text().contains(&format!("{}: skipped (receive)", kept.id)), "{}", told.text());
}

#[test]
#[ignore = "needs root and Btrfs"]
fn a_rehearsal_that_fails_or_is_ended_leaves_neither_a_mount_nor_a_loop_device() {
    let (_source, tool) = source();
    let (id, rehearsals) = (tool.list()[1].id.clone(), tool.state().join("rehearsals"));
    let held = || {
        let shim = BtrfsShim::new(&Act::HoldReceiveHalfWay);
        let child = tool.start_with(shim.path(), ["rehearse", "--receive", "--json"]);
        shim.wait_until_held();
        // What is mounted is seen by the program alone.
        assert_eq!((loop_devices(&tool), mounts(&tool)), (1, 0));
        (shim, child)
    };

    let (shim, child) = held();
    shim.release();
    let report = &reports(&child.wait_with_output().unwrap().into(), 1)[0];
    assert_eq!((&report["outcome"], &report["noted"]), (&"failed".into(), &true.into()));
    assert_no_loop_device(&tool);
    assert_eq!(entries(&rehearsals), 0);
    assert_eq!(noted(&tool, &id).last().unwrap()["outcome"], "failed");
    assert!(tool.run(["status"]).text().contains("NOT GOOD (receive)"));

    let (_shim, child) = held();
    kill_process(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap(), Signal::TERM).unwrap();
    Ended::from(child.wait_with_output().unwrap()).assert_code(130);
    assert_no_loop_device(&tool);
    assert_eq!(entries(&rehearsals), 0);

    let (shim, mut child) = held();
    child.kill().unwrap();
    child.wait().unwrap();
    // As the real one, the stand-in ends when nobody writes to it any more.
    shim.release();
    assert_no_loop_device(&tool);
    assert_eq!(entries(&rehearsals), 1);
    assert_eq!(rehearse(&tool, &["--receive"], 0)[0]["outcome"], "good");
    assert_eq!(entries(&rehearsals), 0);
}
