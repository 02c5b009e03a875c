//! Streams as such: what `btrfs send` wrote comes back byte for byte, and so does anything else.

use std::fs::{self, File};
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

/// A stream whose one command moves a name that is not there; complete otherwise.
fn stream_that_cannot_be_received() -> Vec<u8> {
    const RENAME: u16 = 9;
    const END: u16 = 21;
    let attribute = |code: u16, value: &[u8]| {
        let length = u16::try_from(value.len()).unwrap();
        [&code.to_le_bytes(), &length.to_le_bytes(), value].concat()
    };
    let command = |code: u16, body: &[u8]| {
        let head = [&u32::try_from(body.len()).unwrap().to_le_bytes()[..], &code.to_le_bytes()].concat();
        let checksum = !crc32c::crc32c_append(!0, &[&head, &[0; 4][..], body].concat());
        [&head, &checksum.to_le_bytes()[..], body].concat()
    };
    // A subvolume, with a name only: then it is known that nothing is in it.
    let subvolume = command(1, &attribute(15, b"data"));
    let rename = command(RENAME, &[attribute(15, b"o257-7-0"), attribute(16, b"name")].concat());
    [&b"btrfs-stream\0"[..], &1_u32.to_le_bytes(), &subvolume, &rename, &command(END, &[])].concat()
}

#[test]
#[ignore = "needs root and Btrfs"]
fn changes_that_cannot_be_received_are_followed_by_everything() {
    let source = TestBtrfs::new(512, "");
    let tool = Tool::for_subvolume_of(&source);
    fs::write(data(&source).join("file"), random_bytes(100_000, 1)).unwrap();
    tool.back_up([]);
    fs::write(data(&source).join("new"), random_bytes(100_000, 2)).unwrap();
    let shim = BtrfsShim::new(&Act::SendInsteadOfIncrements(stream_that_cannot_be_received()));
    let ended = Ended::from(tool.start_with(shim.path(), ["backup"]).wait_with_output().unwrap());
    ended.assert_code(3);
    assert!(ended.stderr.contains("at the rename of 'o257-7-0'"), "{}", ended.stderr);
    let kinds: Vec<_> = tool.list().into_iter().map(|backup| backup.kind).collect();
    assert_eq!(kinds, ["full", "full"]);
    // The next one goes on from there.
    assert_eq!(tool.back_up([]).parent, Some(tool.list()[1].id.clone()));
}
