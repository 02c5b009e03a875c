//! A signal ends a run soon, and in good order.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::btrfs_fixture::TestBtrfs;
use crate::support::btrfs_shim::{Act, BtrfsShim};
use crate::support::process::Ended;
use crate::support::tool::{Tool, data, snapshots};
use crate::support::tree::{Recorded, files, random_bytes};

const SIGNALS: [Signal; 3] = [Signal::TERM, Signal::INT, Signal::HUP];

const ENDS_WITHIN: Duration = Duration::from_secs(5);

fn send(signal: Signal, child: &Child) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// Waits for the end that a signal has asked for.
#[track_caller]
fn assert_interrupted(child: Child, asked_at: Instant) -> Ended {
    let ended = Ended::from(child.wait_with_output().unwrap());
    let passed = asked_at.elapsed();
    ended.assert_code(130);
    assert!(passed < ENDS_WITHIN, "{passed:?}");
    ended
}

/// Waits until something is true that a running program does.
#[track_caller]
fn wait_until(what: &str, mut is_true: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_true() {
        assert!(start.elapsed() < Duration::from_mins(1), "{what} never came to be");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The processes that run something of a folder, which is only ever that of a test.
fn processes_of(folder: &Path) -> Vec<PathBuf> {
    let folder = folder.to_str().unwrap().as_bytes();
    let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    let runs = |process: &PathBuf| {
        let words = fs::read(process.join("cmdline")).unwrap_or_default();
        words.windows(folder.len()).any(|window| window == folder)
    };
    processes.filter(runs).collect()
}

fn tool_for_streams() -> Tool {
    let tool = Tool::without_configuration();
    tool.configure("[packing]\npack_target = \"4 MiB\"\n");
    tool.run(["init"]).assert_code(0);
    tool
}

fn start(mut command: Command, stdin: impl Into<Stdio>) -> Child {
    command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// A backup of standard input that has stored packs and now waits for more to come.
fn stalled_backup(tool: &Tool) -> (Child, OwnedFd) {
    let (reader, writer) = std::io::pipe().unwrap();
    let child = start(tool.command(["backup", "--stdin", "--name", "pipe"]), reader);
    let mut writer = fs::File::from(OwnedFd::from(writer));
    // More than waits in queues.
    writer.write_all(&random_bytes(40 << 20, 1)).unwrap();
    wait_until("a pack", || !files(&tool.repository().join("data")).is_empty());
    (child, writer.into())
}

/// A shell that starts the program with SIGHUP ignored, as nohup does.
fn without_hang_up(program: &Command) -> Command {
    let mut shell = crate::support::process::command("sh");
    shell.args(["-c", "trap '' HUP && exec \"$0\" \"$@\""]).arg(program.get_program()).args(program.get_args());
    shell
}

#[test]
fn a_signal_that_was_to_be_ignored_is_ignored() {
    let tool = tool_for_streams();
    let (reader, writer) = std::io::pipe().unwrap();
    let mut writer = fs::File::from(OwnedFd::from(writer));
    let child = start(without_hang_up(&tool.command(["backup", "--stdin", "--name", "pipe"])), reader);
    let sessions = tool.repository().join("sessions");
    wait_until("a session", || sessions.exists() && !files(&sessions).is_empty());
    send(Signal::HUP, &child);
    writer.write_all(&random_bytes(1 << 20, 1)).unwrap();
    drop(writer);
    Ended::from(child.wait_with_output().unwrap()).assert_code(0);
    assert_eq!(tool.list().len(), 1);
}

fn sessions_without_end(tool: &Tool) -> usize {
    let sessions = fs::read_dir(tool.repository().join("sessions")).unwrap();
    sessions.filter(|session| !session.as_ref().unwrap().path().join("end").exists()).count()
}

#[test]
fn a_signal_ends_a_backup_whose_input_stalls() {
    let tool = tool_for_streams();
    for signal in SIGNALS {
        let (child, _writer) = stalled_backup(&tool);
        let asked_at = Instant::now();
        send(signal, &child);
        assert_interrupted(child, asked_at).assert_failed_naming("interrupted by SIG");
        assert_eq!(tool.list(), []);
        assert_eq!(sessions_without_end(&tool), 0);
    }
    let again = start(tool.command(["backup", "--stdin", "--name", "pipe"]), Stdio::null());
    Ended::from(again.wait_with_output().unwrap()).assert_code(0);
    assert_eq!(tool.list().len(), 1);
}

#[test]
fn what_an_interrupted_backup_has_stored_is_not_sent_again() {
    let tool = tool_for_streams();
    let (child, _writer) = stalled_backup(&tool);
    wait_until("six packs", || files(&tool.repository().join("data")).len() >= 6);
    let asked_at = Instant::now();
    send(Signal::TERM, &child);
    assert_interrupted(child, asked_at);

    // The same bytes, this time to their end.
    let input = tool.folder().join("input");
    fs::write(&input, random_bytes(40 << 20, 1)).unwrap();
    let again = start(tool.command(["backup", "--stdin", "--name", "pipe"]), fs::File::open(&input).unwrap());
    Ended::from(again.wait_with_output().unwrap()).assert_code(0);
    let new_bytes = tool.list()[0].new_bytes;
    assert!(new_bytes < 18 << 20, "{new_bytes} bytes were sent again");
}

#[test]
fn a_signal_before_the_first_byte_ends_a_backup_too() {
    let tool = tool_for_streams();
    let (reader, _writer) = std::io::pipe().unwrap();
    let child = start(tool.command(["backup", "--stdin", "--name", "pipe"]), reader);
    let sessions = tool.repository().join("sessions");
    wait_until("a session", || sessions.exists() && !files(&sessions).is_empty());
    let asked_at = Instant::now();
    send(Signal::TERM, &child);
    assert_interrupted(child, asked_at);
    assert_eq!(tool.list(), []);
}

#[test]
fn a_second_signal_ends_a_run_at_once() {
    let tool = tool_for_streams();
    let input = random_bytes(8 << 20, 1);
    fs::write(tool.folder().join("input"), &input).unwrap();
    let input = fs::File::open(tool.folder().join("input")).unwrap();
    Ended::from(start(tool.command(["backup", "--stdin", "--name", "pipe"]), input).wait_with_output().unwrap())
        .assert_code(0);
    // Nobody reads, and a thread that waits for that cannot be stopped: one signal takes its time.
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut restore = tool.command(["restore", "latest", "--subvolume", "pipe", "--stream", "-"]);
    let child = restore.stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    drop(restore);
    reader.read_exact(&mut [0]).unwrap();
    let asked_at = Instant::now();
    // Two of the same kind can become one on their way.
    send(Signal::INT, &child);
    send(Signal::TERM, &child);
    assert_interrupted(child, asked_at);
    assert!(asked_at.elapsed() < Duration::from_secs(2), "{:?}", asked_at.elapsed());
}

#[test]
fn a_signal_ends_a_restore_to_a_file_and_leaves_none() {
    let tool = tool_for_streams();
    fs::write(tool.folder().join("input"), random_bytes(60 << 20, 1)).unwrap();
    let input = fs::File::open(tool.folder().join("input")).unwrap();
    Ended::from(start(tool.command(["backup", "--stdin", "--name", "pipe"]), input).wait_with_output().unwrap())
        .assert_code(0);
    let folder = tool.folder().join("restored");
    fs::create_dir(&folder).unwrap();
    let file = folder.join("stream");
    for signal in SIGNALS {
        let restore = ["restore", "latest", "--subvolume", "pipe", "--stream", file.to_str().unwrap()];
        let child = start(tool.command(restore), Stdio::null());
        let descriptors = PathBuf::from(format!("/proc/{}/fd", child.id()));
        let is_written = || {
            let open = fs::read_dir(&descriptors).into_iter().flatten().flatten();
            open.filter_map(|entry| fs::metadata(entry.path()).ok().filter(|_| links_into(&entry.path(), &folder)))
                .any(|metadata| metadata.len() > 0)
        };
        wait_until("the file", is_written);
        let asked_at = Instant::now();
        send(signal, &child);
        assert_interrupted(child, asked_at);
        assert_eq!(files(&folder), Vec::<PathBuf>::new());
    }
}

fn links_into(descriptor: &Path, folder: &Path) -> bool {
    fs::read_link(descriptor).is_ok_and(|path| path.starts_with(folder) && path != folder)
}

/// A source of which there is one backup.
fn source() -> (TestBtrfs, Tool) {
    let source = TestBtrfs::new(512, "");
    let tool = Tool::for_subvolume_of(&source);
    fs::write(data(&source).join("file"), random_bytes(2 << 20, 1)).unwrap();
    tool.back_up([]);
    (source, tool)
}

#[test]
#[ignore = "needs root and Btrfs"]
fn a_signal_ends_a_backup_of_a_subvolume_with_its_send_and_its_snapshot() {
    let (source, tool) = source();
    let published = tool.list();
    fs::write(data(&source).join("file"), "changed").unwrap();
    for signal in SIGNALS {
        let shim = BtrfsShim::new(&Act::HoldSend);
        let child = tool.start_with(shim.path(), ["backup"]);
        shim.wait_until_held();
        assert_eq!(fs::read_dir(snapshots(&source)).unwrap().count(), 2);
        assert!(!processes_of(shim.path()).is_empty());
        let asked_at = Instant::now();
        send(signal, &child);
        assert_interrupted(child, asked_at);
        assert_eq!(processes_of(shim.path()), Vec::<PathBuf>::new());
        assert_eq!(fs::read_dir(snapshots(&source)).unwrap().count(), 1, "the snapshot of this run is of no use");
        assert_eq!(tool.list(), published);
        assert_eq!(sessions_without_end(&tool), 0);
    }
    assert_eq!(tool.back_up([]).kind, "incremental");
}

#[test]
#[ignore = "needs root and Btrfs"]
fn a_signal_ends_a_restore_with_its_receive_and_leaves_nothing() {
    let (source, tool) = source();
    let tree = Recorded::of(&data(&source));
    let restored = TestBtrfs::new(512, "");
    let target = restored.path().join("target");
    for signal in SIGNALS {
        let shim = BtrfsShim::new(&Act::HoldReceiveHalfWay);
        let restore = ["restore", "latest", "--subvolume", "data", "--target", target.to_str().unwrap()];
        let child = tool.start_with(shim.path(), restore);
        shim.wait_until_held();
        let asked_at = Instant::now();
        send(signal, &child);
        assert_interrupted(child, asked_at);
        assert_eq!(processes_of(shim.path()), Vec::<PathBuf>::new());
        assert_eq!(fs::read_dir(restored.path()).unwrap().count(), 0);
        assert_eq!(restored.subvolumes(), []);
    }
    tool.restore(&tool.list()[0].id, &target);
    tree.assert_equals(&target);
}
