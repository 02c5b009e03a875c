//! A disk that is full or read-only, too few open files, too little memory: one line says so, nothing is half written,
//! and when the limit is gone, all works again.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::btrfs_fixture::TestBtrfs;
use crate::support::process::Ended;
use crate::support::small_disk::SmallDisk;
use crate::support::tool::{Tool, data};
use crate::support::tree::{Recorded, files, random_bytes};

const SMALL_PACKS: &str = "[packing]\npack_target = \"4 MiB\"\n";

/// It fails with this code and one line that has all of these words.
#[track_caller]
fn assert_one_line(ended: &Ended, code: i32, words: &[&str]) {
    ended.assert_code(code);
    assert_eq!(ended.stderr.trim_end().lines().count(), 1, "{}", ended.stderr);
    for word in words {
        assert!(ended.stderr.contains(word), "'{word}' is not in: {}", ended.stderr);
    }
}

fn run(mut command: Command) -> Ended {
    command.output().unwrap().into()
}

/// A backup of what `input` of the workspace holds.
fn backup(tool: &Tool) -> Command {
    let mut command = tool.command(["backup", "--stdin", "--name", "pipe"]);
    command.stdin(File::open(tool.folder().join("input")).unwrap());
    command
}

fn restore_latest(tool: &Tool, stream: &Path) -> Command {
    tool.command(["restore", "latest", "--subvolume", "pipe", "--stream", stream.to_str().unwrap()])
}

/// A workspace, not initialised, with this many bytes to back up.
fn workspace(input_bytes: usize, sections: &str) -> (Tool, Vec<u8>) {
    let tool = Tool::without_configuration();
    tool.configure(sections);
    let input = random_bytes(input_bytes, 1);
    fs::write(tool.folder().join("input"), &input).unwrap();
    (tool, input)
}

/// Backs up, and gets it back.
#[track_caller]
fn assert_works(tool: &Tool, input: &[u8]) {
    run(backup(tool)).assert_code(0);
    assert!(tool.restore_stream(&tool.list().last().unwrap().id) == input);
}

/// The program with a limit, as ulimit of the shell sets it.
fn limited(option: &str, limit: u64, program: &Command) -> Command {
    let mut shell = crate::support::process::command("sh");
    shell.arg("-c").arg(format!("ulimit {option} {limit} && exec \"$0\" \"$@\""));
    shell.arg(program.get_program()).args(program.get_args()).stdin(Stdio::null());
    shell
}

/// The same for a backup.
fn limited_backup(option: &str, limit: u64, tool: &Tool) -> Command {
    let mut command = limited(option, limit, &backup(tool));
    command.stdin(File::open(tool.folder().join("input")).unwrap());
    command
}

#[test]
fn thirty_two_open_files_are_enough_and_fewer_are_refused() {
    let (tool, input) = workspace(20 << 20, SMALL_PACKS);
    run(limited("-n", 32, &tool.command(["init"]))).assert_code(0);
    let restored = tool.folder().join("restored");
    for _ in 0..4 {
        run(limited_backup("-n", 32, &tool)).assert_code(0);
    }
    run(limited("-n", 32, &restore_latest(&tool, &restored))).assert_code(0);
    assert!(fs::read(&restored).unwrap() == input);

    let published = tool.list();
    for limit in [31, 16, 6] {
        assert_one_line(&run(limited_backup("-n", limit, &tool)), 1, &["ulimit -n", &limit.to_string(), "32"]);
        let other = tool.folder().join("other");
        assert_one_line(&run(limited("-n", limit, &restore_latest(&tool, &other))), 1, &["ulimit -n"]);
        assert!(!other.exists());
    }
    assert_eq!(tool.list(), published);
    // A limit that may be raised is raised.
    run(limited_backup("-S -n", 16, &tool)).assert_code(0);
}

#[test]
fn three_hundred_mebibytes_of_memory_are_enough_and_less_is_refused() {
    // With packs of the default size, more of them than are in memory at once.
    let (tool, input) = workspace(200 << 20, "");
    run(tool.command(["init"])).assert_code(0);
    let restored = tool.folder().join("restored");
    run(limited_backup("-v", 300 << 10, &tool)).assert_code(0);
    run(limited("-v", 300 << 10, &restore_latest(&tool, &restored))).assert_code(0);
    assert!(fs::read(&restored).unwrap() == input);

    let published = tool.list();
    assert_one_line(&run(limited_backup("-v", 200 << 10, &tool)), 1, &["ulimit -v", "packing.pack_target"]);
    let other = tool.folder().join("other");
    assert_one_line(&run(limited("-v", 200 << 10, &restore_latest(&tool, &other))), 1, &["ulimit -v"]);
    assert!(!other.exists());
    assert_eq!(tool.list(), published);
}

#[test]
fn a_host_with_little_memory_says_so_with_one_key() {
    let (tool, input) = workspace(200 << 20, "low_memory = true\n");
    run(tool.command(["init"])).assert_code(0);
    let restored = tool.folder().join("restored");
    run(limited_backup("-v", 230 << 10, &tool)).assert_code(0);
    run(limited("-v", 230 << 10, &restore_latest(&tool, &restored))).assert_code(0);
    assert!(fs::read(&restored).unwrap() == input);
    // Packs are as large as they would be otherwise.
    let folders = fs::read_dir(tool.repository().join("data")).unwrap();
    let packs = folders.flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap());
    assert!(packs.map(|pack| pack.unwrap().metadata().unwrap().len()).any(|bytes| bytes > 30 << 20));
}

#[test]
fn small_packs_need_little_memory() {
    let (tool, _) = workspace(60 << 20, SMALL_PACKS);
    run(tool.command(["init"])).assert_code(0);
    run(limited_backup("-v", 150 << 10, &tool)).assert_code(0);
}

#[test]
fn an_output_that_is_full_is_named() {
    let (tool, input) = workspace(1 << 20, SMALL_PACKS);
    run(tool.command(["init"])).assert_code(0);
    assert_works(&tool, &input);
    let full = || Stdio::from(File::options().write(true).open("/dev/full").unwrap());
    assert_one_line(&run(restore_latest(&tool, Path::new("/dev/full"))), 1, &["/dev/full", "No space", "make room"]);
    let mut restore = restore_latest(&tool, Path::new("-"));
    let ended = Ended::from(restore.stdout(full()).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap());
    assert_one_line(&ended, 1, &["No space"]);
    let mut list = tool.command(["list"]);
    let ended = Ended::from(list.stdout(full()).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap());
    assert_one_line(&ended, 1, &["standard output", "No space"]);
}

/// Takes all rights to write to the folder, or gives them back.
fn set_writable(folder: &Path, writable: bool) {
    let mode = if writable { 0o700 } else { 0o500 };
    fs::set_permissions(folder, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_folder_that_may_not_be_written_to_is_named() {
    let (mut tool, input) = workspace(1 << 20, SMALL_PACKS);
    let restored = tool.folder().join("restored");
    fs::create_dir(&restored).unwrap();
    tool.drop_privileges();
    run(tool.command(["init"])).assert_code(0);
    run(backup(&tool)).assert_code(0);

    let folders = [tool.repository().join("tmp"), tool.repository().join("manifests"), tool.local_index()];
    for (seed, folder) in (2..).zip(folders) {
        fs::write(tool.folder().join("input"), random_bytes(1 << 20, seed)).unwrap();
        set_writable(&folder, false);
        let ended = run(backup(&tool));
        set_writable(&folder, true);
        let named = if folder.ends_with("tmp") { "sessions" } else { folder.file_name().unwrap().to_str().unwrap() };
        assert_one_line(&ended, 1, &[named, "Permission denied"]);
        assert_eq!(tool.list().len(), 1, "{}", folder.display());
    }
    set_writable(&restored, false);
    let ended = run(restore_latest(&tool, &restored.join("stream")));
    set_writable(&restored, true);
    assert_one_line(&ended, 1, &[restored.to_str().unwrap(), "Permission denied"]);

    fs::write(tool.folder().join("input"), &input).unwrap();
    assert_works(&tool, &input);
}

/// The configuration of a workspace whose repository or state is on another disk.
fn configure(tool: &Tool, repository: &Path, state: &Path) {
    let configuration = format!(
        "repository = \"file://{}\"\n[global]\nstate_dir = \"{}\"\n{SMALL_PACKS}",
        repository.display(),
        state.display()
    );
    fs::write(tool.folder().join("configuration.toml"), configuration).unwrap();
}

#[test]
#[ignore = "needs root"]
fn a_repository_on_a_full_or_read_only_disk_is_named_and_works_again() {
    let (tool, input) = workspace(20 << 20, SMALL_PACKS);
    let disk = SmallDisk::new(32);
    let repository = disk.path().join("repository");
    configure(&tool, &repository, &tool.state());
    fs::write(disk.path().join("fill"), vec![1; 32 << 10]).unwrap();
    let full = ["No space left", "make room", repository.to_str().unwrap()];
    assert_one_line(&run(tool.command(["init"])), 1, &full);
    disk.remount("size=10m");
    run(tool.command(["init"])).assert_code(0);

    assert_one_line(&run(backup(&tool)), 1, &full);
    assert_eq!(tool.list(), []);
    assert_eq!(files(&repository.join("tmp")), Vec::<std::path::PathBuf>::new());
    disk.remount("size=100m");
    assert_works(&tool, &input);

    disk.remount("ro");
    let published = tool.list();
    assert_one_line(&run(backup(&tool)), 1, &["Read-only file system", repository.to_str().unwrap()]);
    assert!(tool.restore_stream(&published[0].id) == input, "reading needs no writing");
    disk.remount("rw");
    assert_works(&tool, &input);
}

#[test]
#[ignore = "needs root"]
fn a_state_on_a_full_or_read_only_disk_is_named_and_works_again() {
    let (tool, input) = workspace(20 << 20, SMALL_PACKS);
    let disk = SmallDisk::new(200);
    let state = disk.path().join("state");
    configure(&tool, &tool.repository(), &state);
    run(tool.command(["init"])).assert_code(0);
    run(backup(&tool)).assert_code(0);
    let published = tool.list();

    // The index has to be made anew, and there is no room for it.
    fs::remove_dir_all(state.join("cache")).unwrap();
    disk.remount("size=8k");
    assert_one_line(&run(backup(&tool)), 1, &["No space left", "make room", state.to_str().unwrap()]);
    assert_eq!(tool.list(), published);
    disk.remount("size=10m");
    assert_works(&tool, &input);

    let published = tool.list();
    disk.remount("ro");
    assert_one_line(&run(backup(&tool)), 1, &["Read-only file system", state.to_str().unwrap()]);
    assert_eq!(tool.list(), published);
    assert!(tool.restore_stream(&published[0].id) == input);
    disk.remount("rw");
    assert_works(&tool, &input);
}

#[test]
#[ignore = "needs root"]
fn a_stream_for_a_full_or_read_only_disk_leaves_no_file() {
    let (tool, input) = workspace(20 << 20, SMALL_PACKS);
    run(tool.command(["init"])).assert_code(0);
    assert_works(&tool, &input);
    let disk = SmallDisk::new(5 << 10);
    let file = disk.path().join("stream");
    let named = file.to_str().unwrap();
    assert_one_line(&run(restore_latest(&tool, &file)), 1, &[named, "No space left", "make room"]);
    disk.remount("ro");
    assert_one_line(&run(restore_latest(&tool, &file)), 1, &[named, "Read-only file system"]);
    disk.remount("rw,size=100m");
    assert_eq!(files(disk.path()), Vec::<std::path::PathBuf>::new());
    run(restore_latest(&tool, &file)).assert_code(0);
    assert!(fs::read(&file).unwrap() == input);
}

#[test]
#[ignore = "needs root and Btrfs"]
fn a_subvolume_for_a_full_or_read_only_file_system_leaves_nothing() {
    let source = TestBtrfs::new(1024, "");
    let tool = Tool::for_subvolume_of(&source);
    fs::write(data(&source).join("large"), random_bytes(200 << 20, 1)).unwrap();
    let tree = Recorded::of(&data(&source));
    let backup = tool.back_up([]);

    let small = TestBtrfs::new(128, "");
    let target = small.path().join("target");
    let ended = tool.try_restore(&backup.id, &target);
    assert_one_line(&ended, 1, &[target.to_str().unwrap(), "No space left"]);
    assert_eq!(small.subvolumes(), []);
    assert_eq!(fs::read_dir(small.path()).unwrap().count(), 0);

    let restored = TestBtrfs::new(1024, "");
    let target = restored.path().join("target");
    remount(&restored, "ro");
    assert_one_line(&tool.try_restore(&backup.id, &target), 1, &["target", "Read-only file system"]);
    remount(&restored, "rw");
    tool.restore(&backup.id, &target);
    tree.assert_equals(&target);
}

#[test]
#[ignore = "needs root and Btrfs"]
fn a_source_that_is_read_only_is_named_and_works_again() {
    let source = TestBtrfs::new(512, "");
    let tool = Tool::for_subvolume_of(&source);
    fs::write(data(&source).join("file"), "contents").unwrap();
    remount(&source, "ro");
    assert_one_line(&tool.run(["backup"]), 1, &["Read-only file system", source.path().to_str().unwrap()]);
    assert_eq!(tool.list(), []);
    remount(&source, "rw");
    tool.back_up([]);
}

fn remount(file_system: &TestBtrfs, options: &str) {
    let mut mount = crate::support::process::command("mount");
    crate::support::process::succeed(mount.arg("-o").arg(format!("remount,{options}")).arg(file_system.path()));
}
