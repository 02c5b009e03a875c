//! Each way in which a run can go wrong, beside those in `telling.rs`: exit code, log, metrics and hooks say the same.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::btrfs_fixture::TestBtrfs;
use crate::support::btrfs_shim::{Act, BtrfsShim};
use crate::support::process::{Ended, command, succeed};
use crate::support::small_disk::SmallDisk;
use crate::support::tool::{Tool, data, snapshots, subvolume_section};

/// How long something may take that happens at once on a machine that is not busy.
const PATIENCE: Duration = Duration::from_mins(1);

/// A source with one backup; its hooks write down what they are told.
struct Scene {
    source: TestBtrfs,
    tool: Tool,
}

impl Scene {
    fn new() -> Self {
        let source = TestBtrfs::new(512, "noatime");
        let tool = Tool::for_subvolume_of(&source);
        let scene = Self { source, tool };
        scene.change("first");
        scene.configure("true", "true", "");
        scene.tool.run(["backup"]).assert_code(0);
        assert_eq!(scene.take_told(), "after success 0 []\n");
        scene.change("second");
        scene
    }

    fn change(&self, content: &str) {
        fs::write(data(&self.source).join("file"), content).unwrap();
    }

    /// Has `before` and `after` run these scripts, and adds sections.
    fn configure(&self, before: &str, after: &str, sections: &str) {
        let folder = self.tool.folder().display();
        self.configure_metrics(before, after, &format!("{folder}/m.prom"), sections);
    }

    fn configure_metrics(&self, before: &str, after: &str, metrics: &str, sections: &str) {
        let note = format!(
            "echo $BTRFS_TO_S3_HOOK $BTRFS_TO_S3_RESULT $BTRFS_TO_S3_EXIT_CODE [$BTRFS_TO_S3_SUBVOLUMES_FAILED] >> {}",
            self.tool.folder().join("told").display()
        );
        self.tool.configure(&format!(
            "[hooks]\ntimeout = \"2s\"\nbefore = [\"sh\", \"-c\", \"{before}\"]\n\
             after = [\"sh\", \"-c\", \"{note}; {after}\"]\n\
             on_failure = [\"sh\", \"-c\", \"{note}; echo $BTRFS_TO_S3_ERROR > {}/error\"]\n\
             [monitoring]\nmetrics_textfile = \"{metrics}\"\n{sections}{}",
            self.tool.folder().display(),
            subvolume_section(&self.source, 1)
        ));
    }

    /// What the hooks were told since the last call.
    fn take_told(&self) -> String {
        let told = self.tool.folder().join("told");
        let text = fs::read_to_string(&told).unwrap_or_default();
        fs::remove_file(told).ok();
        text
    }

    fn metric(&self, name: &str) -> f64 {
        let text = fs::read_to_string(self.tool.folder().join("m.prom")).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("btrfs_to_s3_{name} ")));
        line.unwrap().parse().unwrap()
    }

    /// Checks that a run was told of as one that has gone wrong, in every way.
    #[track_caller]
    fn assert_red(&self, ended: &Ended, code: i32, result: &str, failed: &str, reason: &str) {
        ended.assert_code(code);
        assert!(ended.stderr.contains(reason), "'{reason}' is not in: {}", ended.stderr);
        let expected = format!("after {result} {code} [{failed}]\non_failure {result} {code} [{failed}]\n");
        assert_eq!(self.take_told(), expected);
        assert!((self.metric("last_run_exit_code") - f64::from(code)).abs() < 0.1);
        assert!(self.metric("last_failure_timestamp_seconds") >= self.metric("last_success_timestamp_seconds"));
    }

    fn assert_red_once_fails(&self, reason: &str) {
        self.assert_red(&self.tool.run(["backup"]), 1, "failed", "data", reason);
    }

    /// All is well again, and one more backup is there than `before`.
    #[track_caller]
    fn assert_green_again(&self, before: usize) {
        self.configure("true", "true", "");
        self.tool.run(["backup"]).assert_code(0);
        assert_eq!(self.take_told(), "after success 0 []\n");
        assert!(self.metric("last_run_exit_code") < 0.1);
        assert_eq!(self.tool.list().len(), before + 1);
    }

    fn start(&self) -> Child {
        piped(self.tool.command(["backup"]))
    }
}

fn piped(mut command: Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn send(signal: Signal, child: &Child) {
    kill_process(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap(), signal).unwrap();
}

/// Waits until a file is there.
#[track_caller]
fn wait_for(path: &std::path::Path) {
    let begun_at = Instant::now();
    while !path.exists() {
        assert!(begun_at.elapsed() < PATIENCE, "{} does not appear", path.display());
        std::thread::yield_now();
    }
}

#[test]
#[ignore = "needs root and Btrfs"]
fn a_hook_that_fails_or_hangs_is_told_of() {
    let scene = Scene::new();
    scene.configure("exec sleep 600", "true", "");
    scene.assert_red_once_fails("the hook 'before': sh was ended after 2 s");
    assert_eq!(scene.tool.list().len(), 1, "nothing is done after a hook that was ended");

    // By what comes after it the backup is made, and the run has had problems.
    for (after, reason) in [("exit 7", "sh has failed: exit status: 7"), ("exec sleep 600", "sh was ended after 2 s")] {
        scene.change(after);
        scene.configure("true", after, "");
        let before = scene.tool.list().len();
        let ended = scene.tool.run(["backup"]);
        ended.assert_code(3);
        assert!(ended.stderr.contains(&format!("problem: the hook 'after': {reason}")), "{}", ended.stderr);
        assert_eq!(scene.take_told(), "after success 0 []\non_failure problems 3 []\n");
        let error = fs::read_to_string(scene.tool.folder().join("error")).unwrap();
        assert_eq!(error, format!("the hook 'after': {reason}\n"));
        assert!((scene.metric("last_run_exit_code") - 3.0).abs() < 0.1);
        assert_eq!(scene.tool.list().len(), before + 1);
    }
    scene.change("again");
    scene.assert_green_again(3);
}

#[test]
#[ignore = "needs root and Btrfs"]
fn metrics_that_cannot_be_written_are_told_of_and_leave_nothing_half_written() {
    let scene = Scene::new();
    let disk = SmallDisk::new(8);
    let metrics = disk.path().join("m.prom");
    scene.configure_metrics("true", "true", metrics.to_str().unwrap(), "");
    fs::write(disk.path().join("fill"), vec![1; 8 << 10]).unwrap();
    let ended = scene.tool.run(["backup"]);
    ended.assert_code(3);
    assert!(ended.stderr.contains("problem: the metrics in ") && ended.stderr.contains("No space left"));
    assert_eq!(scene.take_told(), "after success 0 []\non_failure problems 3 []\n");
    assert_eq!(fs::read_dir(disk.path()).unwrap().count(), 1, "only what fills the disk");

    // What a killed run has left is no hindrance, be it a link to elsewhere.
    disk.remount("size=64k");
    let elsewhere = scene.tool.folder().join("elsewhere");
    fs::write(&elsewhere, "kept").unwrap();
    std::os::unix::fs::symlink(&elsewhere, metrics.with_extension("new")).unwrap();
    scene.change("again");
    let mut with_umask = command("sh");
    let program = scene.tool.command(["backup"]);
    with_umask.args(["-c", "umask 077; exec \"$0\" \"$@\""]).arg(program.get_program()).args(program.get_args());
    succeed(&mut with_umask);
    assert_eq!(fs::read_to_string(elsewhere).unwrap(), "kept");
    assert!(fs::read_to_string(&metrics).unwrap().contains("btrfs_to_s3_last_run_exit_code 0\n"));
    assert_eq!(fs::metadata(metrics).unwrap().permissions().mode() & 0o777, 0o644, "its collector is not root");
}

#[test]
#[ignore = "needs root and Btrfs"]
fn a_signal_is_told_of_wherever_it_comes() {
    let scene = Scene::new();
    let begun = scene.tool.folder().join("begun");
    scene.configure(&format!("touch {}; exec sleep 600", begun.display()), "true", "");
    let run = scene.start();
    wait_for(&begun);
    send(Signal::TERM, &run);
    let ended = Ended::from(run.wait_with_output().unwrap());
    scene.assert_red(&ended, 130, "interrupted", "data", "SIGTERM");

    // A health check that does not answer.
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("healthcheck_url = \"http://{}\"\n", service.local_addr().unwrap());
    scene.configure("true", "true", &url);
    let run = scene.start();
    let _asked = service.accept().unwrap();
    send(Signal::HUP, &run);
    let ended = Ended::from(run.wait_with_output().unwrap());
    scene.assert_red(&ended, 130, "interrupted", "data", "SIGHUP");

    scene.configure("true", "true", "");
    let shim = BtrfsShim::new(&Act::HoldSend);
    let run = scene.tool.start_with(shim.path(), ["backup"]);
    shim.wait_until_held();
    send(Signal::INT, &run);
    let ended = Ended::from(run.wait_with_output().unwrap());
    scene.assert_red(&ended, 130, "interrupted", "data", "SIGINT");
    scene.assert_green_again(1);
}

#[test]
#[ignore = "needs root and Btrfs"]
fn a_run_that_is_killed_in_a_hook_is_simply_run_again() {
    let scene = Scene::new();
    let (begun, pipe) = (scene.tool.folder().join("begun"), scene.tool.folder().join("pipe"));
    succeed(command("mkfifo").arg(&pipe));
    let hang = format!("touch {}; read -r line < {}", begun.display(), pipe.display());
    for (before, after, published) in [(hang.as_str(), "true", 1), ("true", hang.as_str(), 2)] {
        scene.configure(before, after, "");
        let mut run = scene.start();
        wait_for(&begun);
        send(Signal::KILL, &run);
        run.wait().unwrap();
        // The hook is nobody's now.
        fs::write(&pipe, "\n").unwrap();
        fs::remove_file(&begun).unwrap();
        scene.take_told();
        assert_eq!(scene.tool.list().len(), published);
        // The metrics still are those of the run before: it is their age that tells.
        assert!(scene.metric("last_run_exit_code") < 0.1);
    }
    scene.assert_green_again(2);
    assert_eq!(fs::read_dir(snapshots(&scene.source)).unwrap().count(), 1, "no snapshot of a killed run stays");
}

#[test]
#[ignore = "needs root and Btrfs"]
fn what_a_run_lacks_on_its_host_is_told_of() {
    let scene = Scene::new();
    let disk = SmallDisk::new(1 << 20);
    let state = |path: &std::path::Path| {
        let text = fs::read_to_string(scene.tool.configuration()).unwrap();
        let own = scene.tool.state();
        fs::write(scene.tool.configuration(), text.replace(own.to_str().unwrap(), path.to_str().unwrap())).unwrap();
    };
    scene.configure("true", "true", "");
    state(&disk.path().join("state"));
    disk.remount("ro");
    scene.assert_red_once_fails("Read-only file system");
    disk.remount("rw");

    // No room for a snapshot.
    scene.configure("true", "true", "");
    let mounted = scene.source.path();
    succeed(command("mount").arg("-o").arg("remount,ro").arg(mounted));
    scene.assert_red_once_fails("Read-only file system");
    succeed(command("mount").arg("-o").arg("remount,rw").arg(mounted));

    // Too little memory, which is looked at before anything is done.
    let program = scene.tool.command(["backup"]);
    let mut limited = command("sh");
    limited.args(["-c", "ulimit -v 200000; exec \"$0\" \"$@\""]).arg(program.get_program()).args(program.get_args());
    scene.assert_red(&limited.output().unwrap().into(), 1, "failed", "data", "ulimit -v");
    scene.assert_green_again(1);
}

#[test]
#[ignore = "needs root and Btrfs"]
fn a_repository_that_cannot_be_written_to_is_told_of() {
    let scene = Scene::new();
    let local = scene.tool.repository_url();
    let elsewhere = |url: &str, sections: &str| {
        scene.configure("true", "true", sections);
        let text = fs::read_to_string(scene.tool.configuration()).unwrap();
        fs::write(scene.tool.configuration(), text.replace(local, url)).unwrap();
    };
    // No credentials: the program's environment has none.
    elsewhere("s3://bucket/folder", "[s3]\nregion = \"eu-central-1\"\n");
    let mut run = scene.tool.command(["backup"]);
    run.env("AWS_EC2_METADATA_DISABLED", "true");
    scene.assert_red(&run.output().unwrap().into(), 1, "failed", "data", "there are no credentials");
    // A server that hangs up. It is asked again for some minutes, so a signal ends that.
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("[s3]\nendpoint_url = \"http://{}\"\n", server.local_addr().unwrap());
    elsewhere("s3://bucket/folder", &endpoint);
    let mut run = scene.tool.command(["backup"]);
    run.env("AWS_ACCESS_KEY_ID", "a").env("AWS_SECRET_ACCESS_KEY", "b");
    let run = piped(run);
    drop(server.accept().unwrap());
    send(Signal::TERM, &run);
    let ended = Ended::from(run.wait_with_output().unwrap());
    scene.assert_red(&ended, 130, "interrupted", "data", "SIGTERM");

    let disk = SmallDisk::new(64);
    let full = disk.path().join("repository");
    succeed(command("cp").arg("-a").arg(scene.tool.repository()).arg(&full));
    fs::write(data(&scene.source).join("large"), crate::support::tree::random_bytes(200_000, 1)).unwrap();
    elsewhere(&format!("file://{}", full.display()), "");
    scene.assert_red_once_fails("No space left");
    scene.assert_green_again(1);
}

#[test]
#[ignore = "needs root and Btrfs"]
fn what_vanishes_in_the_middle_of_a_run_fails_alone() {
    let scene = Scene::new();
    scene.tool.add_subvolume(&scene.source, "other");
    fs::write(scene.source.path().join("other/file"), "content").unwrap();
    // The subvolume may go, once its snapshot is taken.
    let shim = BtrfsShim::new(&Act::HoldSend);
    let run = scene.tool.start_with(shim.path(), ["backup", "--subvolume", "data", "--subvolume", "other"]);
    shim.wait_until_held();
    let mut all = fs::read_dir(snapshots(&scene.source)).unwrap().map(|entry| entry.unwrap().path());
    let snapshot = all.find(|path| path.file_name().unwrap().to_str().unwrap().starts_with("other."));
    succeed(command("btrfs").args(["subvolume", "delete"]).arg(snapshot.unwrap()));
    shim.step_aside();
    shim.release();
    let ended = Ended::from(run.wait_with_output().unwrap());
    scene.assert_red(&ended, 1, "failed", "other", "backing up 'other'");
    let names: Vec<String> = scene.tool.list().into_iter().map(|backup| backup.subvolume).collect();
    assert_eq!(names, ["data", "data"]);
    // The next run makes up for it.
    scene.tool.run(["backup", "--subvolume", "other"]).assert_code(0);
    assert_eq!(scene.take_told(), "after success 0 []\n");
}

#[test]
#[ignore = "needs root and Btrfs"]
fn an_old_snapshot_that_cannot_be_deleted_is_told_of() {
    let scene = Scene::new();
    let old = fs::read_dir(snapshots(&scene.source)).unwrap().next().unwrap().unwrap().path();
    // The kernel does not delete the subvolume that is mounted by default.
    succeed(command("btrfs").args(["subvolume", "set-default"]).arg(&old));
    let ended = scene.tool.run(["backup"]);
    scene.assert_red(&ended, 3, "problems", "", "problem: ");
    assert!(ended.stderr.contains(old.to_str().unwrap()), "{}", ended.stderr);
    assert_eq!(scene.tool.list().len(), 2);
    succeed(command("btrfs").args(["subvolume", "set-default", "5"]).arg(scene.source.path()));
    scene.change("third");
    scene.assert_green_again(2);
    assert!(!old.exists(), "the next run deletes it");
}

#[test]
fn whatever_is_wrong_with_a_configuration_is_told_in_lines() {
    let tool = Tool::without_configuration();
    let gone = tool.run(["backup"]);
    for (text, said) in [
        ("repository = \"file:///x\"\n[[subvolumes]\n", "configuration.toml"),
        ("repository = 3\n", "repository: must be a string"),
        ("repository = \"file:///x\"\n[schedule]\nfull_every = 30\n", "schedule.full_every: must be a duration"),
        ("repository = \"file:///x\"\n[[subvolumes]]\nname = \"a\"\n", "subvolumes[0].path: is missing"),
        ("repository = \"file:///x\"\nsubvolume = 1\n", "subvolume: unknown key"),
        ("repository = \"file:///x\"\n", "no subvolume is configured: add a section [[subvolumes]]"),
    ] {
        fs::write(tool.configuration(), text).unwrap();
        for command in ["backup", "status"] {
            let ended = tool.run([command]);
            ended.assert_code(2);
            assert!(ended.stderr.contains(said), "'{said}' is not in: {}", ended.stderr);
            assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
        }
    }
    gone.assert_code(2);
    assert!(gone.stderr.contains("configuration.toml: there is no such file"), "{}", gone.stderr);
    // A path of a repository or a subvolume that is not there.
    fs::write(tool.configuration(), "repository = \"file:///not/there\"\n").unwrap();
    tool.run(["list"]).assert_failed_naming("/not/there");
}
