//! Restores from archival storage classes, of the server in this process, whose thaws take as long as a test says.

use std::fs;
use std::io::Read;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::piped::{Input, tool_on};
use crate::support::btrfs_fixture::TestBtrfs;
use crate::support::process::Ended;
use crate::support::s3_server::{ArchiveCounts, S3Server};
use crate::support::tool::{Tool, data, make_subvolume, subvolume_section};
use crate::support::tree::{Recorded, random_bytes};

const DEEP_ARCHIVE: &str = "[s3]\nstorage_class_data = \"DEEP_ARCHIVE\"\n";
const BULK: Duration = Duration::from_hours(48);

/// A repository with one archived backup.
fn archived() -> (S3Server, Tool, Input) {
    let server = S3Server::start_in_thread();
    let tool = tool_on(&server, DEEP_ARCHIVE);
    let input = Input::random(&tool, 9_000_000, 1);
    input.back_up(&tool).assert_code(0);
    (server, tool, input)
}

fn archived_packs(server: &S3Server) -> u32 {
    let is_archived = |key: &&String| server.object(key).unwrap().storage_class.as_deref() == Some("DEEP_ARCHIVE");
    u32::try_from(server.keys().iter().filter(is_archived).count()).unwrap()
}

fn arguments<'a>(options: &[&'a str]) -> Vec<&'a str> {
    let restore = ["restore", "latest", "--subvolume", "pipe", "--stream", "-"];
    restore.iter().chain(options).copied().collect()
}

fn restore(tool: &Tool, options: &[&str]) -> Ended {
    tool.run(arguments(options))
}

#[track_caller]
fn assert_restored(restored: &Ended, input: &Input) {
    restored.assert_code(0);
    assert!(restored.stdout == input.bytes, "other bytes came back");
}

#[test]
fn a_restore_asks_once_for_all_and_is_right_after_the_thaw() {
    let (server, tool, input) = archived();
    let packs = archived_packs(&server);
    assert!(packs >= 2, "{packs}");
    let first = restore(&tool, &["--thaw-tier", "bulk"]);
    first.assert_code(6);
    first.assert_failed_naming(&format!("{packs} of {packs} archived packs are not thawed yet"));
    let announced = format!("asking for a bulk thaw of {packs} packs: about 0.0001 USD, and <0.0001 USD for copies");
    assert!(first.stderr.contains(&announced), "{}", first.stderr);
    let once = ArchiveCounts { thaws: packs, ..ArchiveCounts::default() };
    assert_eq!(server.archive_counts(), once);
    // What is asked for already is not asked for again.
    let second = restore(&tool, &["--thaw-tier", "bulk"]);
    second.assert_code(6);
    assert!(!second.stderr.contains("asking for"), "{}", second.stderr);
    assert_eq!(server.archive_counts(), once);
    server.pass(BULK);
    assert_restored(&restore(&tool, &[]), &input);
    assert_eq!(server.archive_counts(), once);
}

#[test]
fn a_restore_that_waits_goes_on_when_all_is_thawed() {
    let (server, tool, input) = archived();
    server.set_oddities(|oddities| oddities.thaw_takes = Some(Duration::from_secs(2)));
    assert_restored(&restore(&tool, &["--wait-for-thaw"]), &input);
    let packs = archived_packs(&server);
    assert_eq!(server.archive_counts(), ArchiveCounts { thaws: packs, ..ArchiveCounts::default() });
}

#[test]
fn a_restore_that_has_waited_long_enough_ends_and_takes_nothing_back() {
    let (server, tool, input) = archived();
    let ended = restore(&tool, &["--wait-for-thaw", "--thaw-timeout", "1s"]);
    ended.assert_code(6);
    ended.assert_failed_naming("run it again then");
    server.pass(BULK);
    assert_restored(&restore(&tool, &[]), &input);
    assert_eq!(server.archive_counts().thaws, archived_packs(&server));
}

#[test]
fn a_restore_that_is_interrupted_while_it_waits_is_taken_up_by_the_next() {
    let (server, tool, input) = archived();
    let packs = archived_packs(&server);
    let waiting = tool.command(arguments(&["--wait-for-thaw"])).stdout(Stdio::null()).spawn();
    let mut waiting = waiting.unwrap();
    while server.archive_counts().thaws < packs {
        std::thread::yield_now();
    }
    let pid = Pid::from_raw(i32::try_from(waiting.id()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    assert_eq!(waiting.wait().unwrap().code(), Some(130));
    server.pass(BULK);
    assert_restored(&restore(&tool, &[]), &input);
    assert_eq!(server.archive_counts(), ArchiveCounts { thaws: packs, ..ArchiveCounts::default() });
}

#[test]
fn a_copy_that_has_expired_is_asked_for_again() {
    let (server, tool, input) = archived();
    restore(&tool, &["--thaw-days", "1"]).assert_code(6);
    server.pass(BULK * 3);
    restore(&tool, &[]).assert_code(6);
    assert_eq!(server.archive_counts().thaws, 2 * archived_packs(&server));
    server.pass(BULK);
    assert_restored(&restore(&tool, &[]), &input);
}

#[test]
fn a_tier_that_the_class_does_not_know_is_refused_before_anything_is_asked_for() {
    let (server, tool, _) = archived();
    let refused = restore(&tool, &["--thaw-tier", "expedited"]);
    refused.assert_code(1);
    refused.assert_failed_naming("DEEP_ARCHIVE know no expedited thaw");
    assert_eq!(server.archive_counts(), ArchiveCounts::default());
}

#[test]
fn the_class_that_an_object_has_now_counts() {
    let (server, tool, input) = archived();
    let is_data = |key: &String| key.contains("/data/");
    let packs: Vec<String> = server.keys().into_iter().filter(is_data).collect();
    // As a rule of the server moves them: one needs no thaw, another another one.
    server.change(&packs[0], |kept| kept.storage_class = Some("GLACIER_IR".to_owned()));
    server.change(&packs[1], |kept| kept.storage_class = Some("GLACIER".to_owned()));
    restore(&tool, &[]).assert_code(6);
    assert_eq!(server.archive_counts().thaws, archived_packs(&server) + 1);
    server.pass(BULK);
    assert_restored(&restore(&tool, &[]), &input);
}

#[test]
fn other_commands_neither_thaw_nor_need_it() {
    let (server, tool, input) = archived();
    let id = tool.list()[0].id.clone();
    for command in [
        &["list"][..],
        &["show", &id],
        &["stats"],
        &["cost"],
        &["check"],
        &["tag", &id, "add", "kept"],
        &["forget", "--keep-last", "1", "--dry-run"],
        &arguments(&["--dry-run"]),
    ] {
        tool.run(command).assert_code(0);
    }
    // Of the subvolume itself there is none.
    let configuration = fs::read_to_string(tool.configuration()).unwrap();
    fs::write(tool.configuration(), configuration + "[[subvolumes]]\npath = \"/srv/pipe\"\n").unwrap();
    tool.run(["status"]).assert_code(3);
    input.back_up(&tool).assert_code(0);
    tool.lose_state();
    input.back_up(&tool).assert_code(0);
    assert_eq!(server.archive_counts(), ArchiveCounts::default());
}

#[test]
fn copies_that_expire_while_a_restore_reads_are_thawed_again() {
    let server = S3Server::start_in_thread();
    let tool = tool_on(&server, DEEP_ARCHIVE);
    let input = Input::random(&tool, 64_000_000, 1);
    input.back_up(&tool).assert_code(0);
    let packs = archived_packs(&server);
    server.set_oddities(|oddities| oddities.thaw_takes = Some(Duration::from_secs(1)));
    let options = arguments(&["--wait-for-thaw", "--thaw-days", "1"]);
    let mut restoring = tool.command(&options).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut output = restoring.stdout.take().unwrap();
    // So far it gets without anybody reading, and then it waits for somebody who does.
    let mut bytes = vec![0; 100_000];
    output.read_exact(&mut bytes).unwrap();
    server.pass(Duration::from_hours(48));
    output.read_to_end(&mut bytes).unwrap();
    let ended = Ended::from(restoring.wait_with_output().unwrap());
    ended.assert_code(0);
    assert!(bytes == input.bytes, "other bytes came back");
    assert!(ended.stderr.contains("a thawed copy has expired"), "{}", ended.stderr);
    let counts = server.archive_counts();
    assert!(counts.thaws > packs && counts.thaws <= 2 * packs && counts.refused_reads > 0, "{packs} packs: {counts:?}");
}

#[test]
#[ignore = "needs root and Btrfs"]
fn a_chain_is_thawed_in_one_wave_before_anything_is_received() {
    let (server, source) = (S3Server::start_in_thread(), TestBtrfs::new(512, "noatime"));
    make_subvolume(&source);
    let tool = tool_on(&server, &format!("{DEEP_ARCHIVE}{}", subvolume_section(&source, 20)));
    for night in 0..2 {
        fs::write(data(&source).join(format!("night {night}")), random_bytes(3_000_000, night)).unwrap();
        tool.back_up([]);
    }
    let (tree, packs) = (Recorded::of(&data(&source)), archived_packs(&server));
    assert!(packs >= 2, "{packs}");
    let restored = TestBtrfs::new(512, "");
    let target = restored.path().join("home");
    let restore =
        ["restore", "latest", "--subvolume", "data", "--thaw-tier", "bulk", "--target", target.to_str().unwrap()];
    let first = tool.run(restore);
    first.assert_code(6);
    first.assert_failed_naming(&format!("{packs} of {packs} archived packs are not thawed yet"));
    let once = ArchiveCounts { thaws: packs, ..ArchiveCounts::default() };
    assert_eq!((server.archive_counts(), fs::read_dir(restored.path()).unwrap().count()), (once, 0));
    server.pass(BULK);
    tool.run(restore).assert_code(0);
    tree.assert_equals(&target);
    assert_eq!(server.archive_counts(), once);
}
