//! Whoever is to know how a run went is told the same: by exit code, log, JSON, metrics and hooks.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};

use serde_json::Value;

use crate::support::btrfs_fixture::TestBtrfs;
use crate::support::btrfs_shim::{Act, BtrfsShim};
use crate::support::process::{Ended, command, succeed};
use crate::support::tool::{Tool, data, subvolume_section};

/// A source whose runs are told of.
fn source() -> (TestBtrfs, Tool) {
    let source = TestBtrfs::new(512, "noatime");
    let tool = Tool::for_subvolume_of(&source);
    fs::write(data(&source).join("file"), "content").unwrap();
    configure(&source, &tool, "true");
    (source, tool)
}

/// Has the hooks write down what they are told, and `before` do this first.
fn configure(source: &TestBtrfs, tool: &Tool, before: &str) {
    configure_with(source, tool, before, "");
}

/// As [`configure`], with more in `[monitoring]`.
fn configure_with(source: &TestBtrfs, tool: &Tool, before: &str, monitoring: &str) {
    let (told, metrics) = (tool.folder().join("told"), tool.folder().join("m.prom"));
    let note = format!(
        "echo \\\"$BTRFS_TO_S3_HOOK $BTRFS_TO_S3_RESULT $BTRFS_TO_S3_EXIT_CODE [$BTRFS_TO_S3_SUBVOLUMES_FAILED]\\\" >> {}",
        told.display()
    );
    let hook = |name: &str, script: &str| format!("{name} = [\"sh\", \"-c\", \"{script}\"]\n");
    let hooks = [
        hook("before", before),
        hook("after", &note),
        hook("on_failure", &format!("{note}; echo $BTRFS_TO_S3_ERROR >&2")),
    ];
    tool.configure(&format!(
        "[hooks]\n{}[monitoring]\nmetrics_textfile = \"{}\"\n{monitoring}{}",
        hooks.concat(),
        metrics.display(),
        subvolume_section(source, 20)
    ));
}

fn told(tool: &Tool) -> PathBuf {
    tool.folder().join("told")
}

fn metric(tool: &Tool, name: &str) -> Option<f64> {
    let text = fs::read_to_string(tool.folder().join("m.prom")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("btrfs_to_s3_{name} ")).map(str::to_owned));
    line.map(|value| value.parse().unwrap())
}

/// Checks that a run that has ended otherwise than well was told of in every way.
#[track_caller]
fn assert_told(tool: &Tool, ended: &Ended, code: i32, result: &str, failed: &str) {
    ended.assert_code(code);
    assert!(ended.stderr.contains("problem: ") || ended.stderr.contains("error: "), "{}", ended.stderr);
    let expected = format!("after {result} {code} [{failed}]\non_failure {result} {code} [{failed}]\n");
    assert_eq!(fs::read_to_string(told(tool)).unwrap(), expected);
    fs::remove_file(told(tool)).unwrap();
    assert_eq!(metric(tool, "last_run_exit_code"), Some(f64::from(code)));
    assert!(metric(tool, "last_failure_timestamp_seconds").unwrap() > 1e9);
    let is_failed = metric(tool, "subvolume_failed{subvolume=\"data\"}").unwrap();
    assert!((is_failed > 0.5) == failed.contains("data"), "{is_failed}");
}

#[test]
#[ignore = "needs root and Btrfs"]
fn a_run_that_went_well_is_told_of_as_such() {
    let (_source, tool) = source();
    let ended = tool.run(["backup", "--json"]);
    ended.assert_code(0);
    let report: Value = serde_json::from_slice(&ended.stdout).unwrap();
    let backup = &tool.list()[0];
    let one = &report["subvolumes"][0];
    assert_eq!((&report["schema"], &report["result"], &report["exit_code"]), (&1.into(), &"success".into(), &0.into()));
    assert_eq!(
        (&one["name"], &one["outcome"], &one["id"]),
        (&"data".into(), &"full".into(), &backup.id.clone().into())
    );
    assert_eq!(one["stored_bytes"], backup.stored_bytes);
    assert!(report["cost"].is_null() && report["requests"].is_null(), "a directory has neither");
    let keys: Vec<&String> = report.as_object().unwrap().keys().collect();
    let expected = [
        "cost",
        "error",
        "exit_code",
        "finished_at",
        "problems",
        "requests",
        "result",
        "schema",
        "seconds",
        "started_at",
        "subvolumes",
    ];
    assert_eq!(keys, expected);
    let keys: Vec<&String> = one.as_object().unwrap().keys().collect();
    let expected = [
        "created_at",
        "error",
        "id",
        "name",
        "new_bytes",
        "outcome",
        "parent",
        "reason",
        "seconds",
        "stored_bytes",
        "stream_bytes",
    ];
    assert_eq!(keys, expected);
    assert_eq!(fs::read_to_string(told(&tool)).unwrap(), "after success 0 []\n");
    assert_eq!(metric(&tool, "last_run_exit_code"), Some(0.0));
    assert_eq!(metric(&tool, "last_failure_timestamp_seconds"), None);
    assert!(metric(&tool, "last_success_timestamp_seconds").unwrap() > 1e9);
    assert!(metric(&tool, "subvolume_last_backup_timestamp_seconds{subvolume=\"data\"}").unwrap() > 1e9);
}

#[test]
#[ignore = "needs root and Btrfs"]
fn however_a_run_goes_wrong_it_never_looks_green() {
    let (source, tool) = source();
    tool.run(["backup"]).assert_code(0);
    fs::remove_file(told(&tool)).unwrap();
    let last_backup = metric(&tool, "subvolume_last_backup_timestamp_seconds{subvolume=\"data\"}");
    let last_success = metric(&tool, "last_success_timestamp_seconds");
    fs::write(data(&source).join("file"), "changed").unwrap();

    let shim = BtrfsShim::new(&Act::FailAfterSend);
    let ended = Ended::from(tool.start_with(shim.path(), ["backup"]).wait_with_output().unwrap());
    assert_told(&tool, &ended, 1, "failed", "data");

    configure(&source, &tool, "exit 9");
    assert_told(&tool, &tool.run(["backup"]), 1, "failed", "data");
    assert_eq!(tool.list().len(), 1, "nothing is done after a hook that has failed");
    configure(&source, &tool, "true");

    let repository = tool.repository();
    let away = repository.with_extension("away");
    fs::rename(&repository, &away).unwrap();
    assert_told(&tool, &tool.run(["backup"]), 1, "failed", "data");
    fs::rename(&away, &repository).unwrap();

    tool.add_subvolume(&source, "other");
    succeed(command("btrfs").args(["subvolume", "delete"]).arg(source.path().join("other")));
    assert_eq!(metric(&tool, "subvolume_last_backup_timestamp_seconds{subvolume=\"data\"}"), last_backup);
    assert_told(&tool, &tool.run(["backup"]), 1, "failed", "other");
    assert_eq!(tool.list().len(), 2, "the other subvolume has its backup");
    assert_eq!(metric(&tool, "last_success_timestamp_seconds"), last_success);
    configure(&source, &tool, "true");

    // Only the one that has just begun holds the lock.
    let shim = BtrfsShim::new(&Act::HoldSend);
    fs::write(data(&source).join("file"), "changed again").unwrap();
    let first = tool.start_with(shim.path(), ["backup"]);
    shim.wait_until_held();
    assert_told(&tool, &tool.run(["backup"]), 4, "failed", "data");
    shim.release();
    Ended::from(first.wait_with_output().unwrap()).assert_code(0);
    fs::remove_file(told(&tool)).unwrap();

    for segment in fs::read_dir(repository.join("manifests")).unwrap() {
        fs::write(segment.unwrap().path(), "damaged").unwrap();
    }
    tool.lose_state();
    assert_told(&tool, &tool.run(["backup"]), 3, "problems", "");
}

/// A service that is asked for a URL. Gives where it is, and what it is asked: paths and bodies.
fn health_service() -> (String, Receiver<(String, String)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/ping/secret", listener.local_addr().unwrap());
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = BufReader::new(connection.unwrap());
            let (mut path, mut length) = (String::new(), 0);
            loop {
                let mut line = String::new();
                connection.read_line(&mut line).unwrap();
                let lower = line.to_lowercase();
                if let Some(bytes) = lower.strip_prefix("content-length:") {
                    length = bytes.trim().parse().unwrap();
                } else if path.is_empty() {
                    line.split(' ').nth(1).unwrap().clone_into(&mut path);
                } else if line.trim().is_empty() {
                    break;
                }
            }
            let mut body = vec![0; length];
            connection.read_exact(&mut body).unwrap();
            // Before the answer: who has it may look at once.
            sender.send((path, String::from_utf8(body).unwrap())).unwrap();
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            connection.get_mut().write_all(answer).unwrap();
        }
    });
    (url, receiver)
}

#[test]
#[ignore = "needs root and Btrfs"]
fn a_health_check_is_told_of_begin_success_and_failure() {
    let (source, tool) = source();
    let (url, asked) = health_service();
    let monitoring = format!("healthcheck_url = \"{url}\"\n");
    let asked_for = |path: &str| {
        let (found, body) = asked.try_recv().unwrap();
        assert_eq!(found, format!("/ping/secret{path}"));
        body
    };
    configure_with(&source, &tool, "true", &monitoring);
    let ended = tool.run(["backup"]);
    ended.assert_code(0);
    assert!(!ended.stderr.contains("secret"), "{}", ended.stderr);
    assert_eq!((asked_for("/start"), asked_for("")), (String::new(), String::new()));

    // What it is told is quoted, whatever is in it.
    configure_with(&source, &tool, "printf 'a' >&2; exit 9", &monitoring);
    tool.run(["backup"]).assert_code(1);
    assert_eq!(asked_for("/start"), "");
    assert_eq!(asked_for("/fail"), "the hook 'before': sh has failed: exit status: 9");
    assert!(asked.try_recv().is_err());

    // One that is not there is a warning, and the backup is made.
    configure_with(&source, &tool, "true", "healthcheck_url = \"http://127.0.0.1:1/secret\"\n");
    fs::write(data(&source).join("file"), "changed").unwrap();
    let ended = tool.run(["backup"]);
    ended.assert_code(0);
    assert!(ended.stderr.contains("warning: the health check: curl has failed"), "{}", ended.stderr);
    assert!(!ended.stderr.contains("secret"), "{}", ended.stderr);
}
