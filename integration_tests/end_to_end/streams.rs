//! Streams as such: what `btrfs send` wrote comes back byte for byte, and so does anything else.

use std::fs::File;
use std::process::Stdio;

use crate::support::btrfs_fixture::TestBtrfs;
use crate::support::btrfs_shim::{Act, BtrfsShim};
use crate::support::process::Ended;
use crate::support::tool::{Tool, data};
use crate::support::tree::{mutate, random_bytes, seed};

#[test]
#[ignore = "needs root and Btrfs"]
fn restoring_by_stream_gives_the_bytes_of_btrfs_send() {
    let source = TestBtrfs::new(2048, "");
    let tool = Tool::for_subvolume_of(&source);
    let shim = BtrfsShim::new(&Act::KeepSent);
    seed(&data(&source), 8);
    for (night, kind) in (1..).zip(["full", "incremental"]) {
        Ended::from(tool.start_with(shim.path(), ["backup"]).wait_with_output().unwrap()).assert_code(0);
        let backup = tool.list().pop().unwrap();
        assert_eq!(backup.kind, kind);
        assert_eq!(backup.stream_bytes, shim.sent().len() as u64);
        assert_same_bytes(&tool.restore_stream(&backup.id), &shim.sent());
        let file = tool.folder().join("stream");
        tool.run(["restore", &backup.id, "--stream", file.to_str().unwrap()]).assert_code(0);
        assert_same_bytes(&std::fs::read(&file).unwrap(), &shim.sent());
        std::fs::remove_file(file).unwrap();
        mutate(&data(&source), night);
    }
}

#[track_caller]
fn assert_same_bytes(one: &[u8], other: &[u8]) {
    let first_difference = one.iter().zip(other).position(|(a, b)| a != b);
    assert!(one == other, "{} and {} bytes, first different: {first_difference:?}", one.len(), other.len());
}

#[test]
#[ignore = "needs root and Btrfs"]
fn latest_a_time_and_a_short_id_each_choose_a_backup() {
    let source = TestBtrfs::new(512, "");
    let tool = Tool::for_subvolume_of(&source);
    let first = tool.back_up([]);
    std::fs::write(data(&source).join("file"), "contents").unwrap();
    let second = tool.back_up(["--full"]);

    let (first_stream, second_stream) = (tool.restore_stream(&first.id), tool.restore_stream(&second.id));
    assert_ne!(first_stream, second_stream);
    assert_same_bytes(&tool.restore_stream(&first.id[..12]), &first_stream);
    let latest = tool.run(["restore", "latest", "--subvolume", "data", "--stream", "-"]);
    assert_same_bytes(&latest.stdout, &second_stream);
    let at = tool.run(["restore", "latest", "--subvolume", "data", "--at", &first.created_at, "--stream", "-"]);
    assert_same_bytes(&at.stdout, &first_stream);

    let shown = tool.run(["show", &first.id, "--json"]);
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(shown["id"], first.id.as_str());
}

/// Without a configuration, root's state would be the host's own; that of others is below their home folder.
fn tool_for_anybody() -> Tool {
    let mut tool = Tool::without_configuration();
    tool.drop_privileges();
    tool
}

fn run_on_repository<const N: usize>(tool: &Tool, arguments: [&str; N], stdin: Stdio) -> Ended {
    let mut command = tool.bare_command();
    command.args(["--repository", tool.repository_url()]).args(arguments).stdin(stdin).output().unwrap().into()
}

#[test]
fn stdin_backup_round_trips() {
    let tool = tool_for_anybody();
    run_on_repository(&tool, ["init"], Stdio::null()).assert_code(0);
    let input = tool.folder().join("input");
    for (seed, length) in (0..).zip([0, 1, 70_000, 5_000_000]) {
        let contents = random_bytes(length, seed);
        std::fs::write(&input, &contents).unwrap();
        let stdin = Stdio::from(File::open(&input).unwrap());
        run_on_repository(&tool, ["backup", "--stdin", "--name", "pipe"], stdin).assert_code(0);
        let restore = ["restore", "latest", "--subvolume", "pipe", "--stream", "-"];
        let restored = run_on_repository(&tool, restore, Stdio::null());
        restored.assert_code(0);
        assert_same_bytes(&restored.stdout, &contents);
    }
}

#[test]
fn a_send_stream_cut_short_is_not_published() {
    let tool = tool_for_anybody();
    run_on_repository(&tool, ["init"], Stdio::null()).assert_code(0);
    let input = tool.folder().join("input");
    std::fs::write(&input, b"btrfs-stream\0\x01\0\0\0\x05").unwrap();
    let stdin = Stdio::from(File::open(&input).unwrap());
    run_on_repository(&tool, ["backup", "--stdin", "--name", "pipe"], stdin).assert_failed_naming("cut short");
    let listed = run_on_repository(&tool, ["list", "--json"], Stdio::null());
    listed.assert_code(0);
    assert_eq!(listed.text().trim(), "[]");
}
