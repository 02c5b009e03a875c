//! Runs that are killed while the server holds one of their requests: each request in turn.

use std::process::Child;

use super::piped::{Input, tool_on};
use crate::support::s3_server::S3Server;

const PACKS_IN_PARTS: &str = "[packing]\npack_target = \"8 MiB\"\ncompression_level = 1\n[s3]\npart_size = \"5 MiB\"\n";

/// How a run ended of which a request was held.
enum Held {
    Killed,
    /// It was done before.
    Done,
}

/// Waits until a run has come to the request that is held, and kills it there.
fn kill_at(server: &S3Server, run: &mut Child, request: usize) -> Held {
    loop {
        if server.request_count() >= request {
            run.kill().unwrap();
            run.wait().unwrap();
            return Held::Killed;
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
        let held = kill_at(&server, &mut input.begin(&tool), request);
        server.set_oddities(|oddities| oddities.silent_from = None);

        let published = tool.list().len();
        assert!((1..=2).contains(&published));
        if published == 2 {
            input.assert_restored(&tool);
        }
        assert!(tool.restore_stream(&first_id) == first.bytes, "killed at request {request}");
        server.age_unfinished_uploads(std::time::Duration::from_secs(5));
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
