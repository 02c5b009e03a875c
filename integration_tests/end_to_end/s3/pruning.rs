//! A prune of a bucket, killed while the server holds one of its requests.

use std::process::Stdio;

use super::kills::{Held, wait_for};
use super::piped::{Input, tool_on};
use crate::support::s3_server::S3Server;
use crate::support::tool::Tool;

const PRUNE: [&str; 3] = ["prune", "--grace", "0s"];

/// A bucket with a backup that was forgotten, and one that stays.
fn scene(server: &S3Server) -> (Tool, Input) {
    let tool = tool_on(server, "");
    Input::random(&tool, 9_000_000, 1).back_up(&tool).assert_code(0);
    let gone = tool.list()[0].id.clone();
    let kept = Input::random(&tool, 300_000, 2);
    kept.back_up(&tool).assert_code(0);
    tool.run(["forget", &gone]).assert_code(0);
    (tool, kept)
}

/// What is left but for what runs and prunes say of themselves.
fn objects(server: &S3Server) -> usize {
    let is_other = |key: &&String| !key.contains("/sessions/") && !key.contains("/prune/");
    server.keys().iter().filter(is_other).count()
}

#[test]
fn a_prune_of_a_bucket_that_is_killed_at_any_request_is_simply_run_again() {
    let server = S3Server::start_in_thread();
    let (tool, kept) = scene(&server);
    tool.run(PRUNE).assert_code(0);
    kept.assert_restored(&tool);
    let expected = objects(&server);
    let mut begun_to_delete = 0;
    for request in (1..).step_by(3) {
        let server = S3Server::start_in_thread();
        let (tool, kept) = scene(&server);
        let before = objects(&server);
        server.take_requests();
        server.set_oddities(|oddities| {
            oddities.silent_from = Some(request);
            oddities.silent_after_effect = request % 2 == 0;
        });
        let mut run = tool.command(PRUNE).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let held = wait_for(&server, &mut run, request);
        run.kill().unwrap();
        run.wait().unwrap();
        server.set_oddities(|oddities| oddities.silent_from = None);
        begun_to_delete += usize::from((expected + 1..before).contains(&objects(&server)));
        kept.assert_restored(&tool);
        tool.run(PRUNE).assert_code(0);
        assert_eq!(objects(&server), expected, "killed at request {request}");
        kept.assert_restored(&tool);
        if matches!(held, Held::Done) {
            assert!(request > 30 && begun_to_delete > 0, "{request} requests, {begun_to_delete} killed while deleting");
            return;
        }
    }
}
