//! Runs that are killed while the server holds one of their requests: each request in turn.

use std::process::Child;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::piped::{Input, tool_on};
use crate::support::process::Ended;
use crate::support::s3_server::S3Server;

const PACKS_IN_PARTS: &str = "[packing]\npack_target = \"8 MiB\"\ncompression_level = 1\n[s3]\npart_size = \"5 MiB\"\n";

/// What a run of which a request is held has come to.
pub(super) enum Held {
    Waiting,
    /// It was done before.
    Done,
}

/// Waits until a run has come to the request that is held, or is done before.
pub(super) fn wait_for(server: &S3Server, run: &mut Child, request: usize) -> Held {
    loop {
        if server.request_count() >= request {
            return Held::Waiting;
        }
        if let Some(status) = run.try_wait().unwrap() {
            assert!(status.success());
            return Held::Done;
        }
        std::thread::yield_now();
    }
}

/// Kills a backup at each of its requests. Before, another backup was made; afterwards it is there, the killed one is
/// there whole or not at all, and is simply made again.
fn kill_at_each_request(after_effect: bool) {
    for request in 1.. {
        let server = S3Server::start_in_thread();
        let tool = tool_on(&server, "");
        tool.configure(PACKS_IN_PARTS);
        let first = Input::random(&tool, 300_000, 1);
        first.back_up(&tool).assert_code(0);
        let first_id = tool.list()[0].id.clone();
        let input = Input::random(&tool, 12_000_000, 2);

        server.take_requests();
        server.set_oddities(|oddities| {
            oddities.silent_from = Some(request);
            oddities.silent_after_effect = after_effect;
        });
        let mut run = input.begin(&tool);
        let held = wait_for(&server, &mut run, request);
        run.kill().unwrap();
        run.wait().unwrap();
        server.set_oddities(|oddities| oddities.silent_from = None);

        let published = tool.list().len();
        assert!((1..=2).contains(&published));
        if published == 2 {
            input.assert_restored(&tool);
        }
        assert!(tool.restore_stream(&first_id) == first.bytes, "killed at request {request}");
        server.age_unfinished_uploads(Duration::from_secs(5));
        input.back_up(&tool).assert_code(0);
        input.assert_restored(&tool);
        assert_eq!((tool.list().len(), server.unfinished_uploads()), (published + 1, 0), "killed at request {request}");
        let starts = server.keys().iter().filter(|key| key.ends_with("/start")).count();
        let ends = server.keys().iter().filter(|key| key.ends_with("/end")).count();
        assert_eq!(starts, ends, "a session is open");
        if matches!(held, Held::Done) {
            assert!(request > 20, "{request} requests");
            return;
        }
    }
}

#[test]
fn a_backup_killed_while_any_request_is_under_way_is_simply_run_again() {
    kill_at_each_request(false);
}

#[test]
fn a_backup_killed_after_any_request_had_its_effect_is_simply_run_again() {
    kill_at_each_request(true);
}

#[test]
fn a_signal_ends_a_run_soon_whatever_the_server_does_not_answer() {
    for request in (1..).step_by(4) {
        let server = S3Server::start_in_thread();
        let tool = tool_on(&server, "");
        let input = Input::random(&tool, 9_000_000, 1);
        server.take_requests();
        server.set_oddities(|oddities| oddities.silent_from = Some(request));
        let mut run = input.begin(&tool);
        let held = wait_for(&server, &mut run, request);
        if matches!(held, Held::Done) {
            assert!(request > 12, "{request} requests");
            return;
        }
        let asked_at = Instant::now();
        kill_process(Pid::from_child(&run), Signal::TERM).unwrap();
        let ended = Ended::from(run.wait_with_output().unwrap());
        assert!(asked_at.elapsed() < Duration::from_secs(5), "{:?} at request {request}", asked_at.elapsed());
        ended.assert_code(130);

        server.set_oddities(|oddities| oddities.silent_from = None);
        input.back_up(&tool).assert_code(0);
        input.assert_restored(&tool);
    }
}
