//! Bad networks and busy servers: what is asked is done all the same, or an error is told and nothing is half-done.

use std::thread::sleep;
use std::time::Duration;

use super::piped::{Input, tool_at};
use crate::support::fault_proxy::{Fault, FaultProxy, Weather};
use crate::support::process::Ended;
use crate::support::s3_server::S3Server;
use crate::support::tool::Tool;

struct Scene {
    _server: S3Server,
    proxy: FaultProxy,
    tool: Tool,
    input: Input,
}

/// A repository behind a proxy with one backup, and the bytes to back up next.
fn scene() -> Scene {
    let server = S3Server::start_in_thread();
    let proxy = FaultProxy::start(server.endpoint());
    let tool = tool_at(&proxy.endpoint(), "");
    Input::random(&tool, 1_000_000, 1).back_up(&tool).assert_code(0);
    let input = Input::random(&tool, 15_000_000, 2);
    Scene { _server: server, proxy, tool, input }
}

/// Every third request is hit, of a backup and of a restore: both succeed. Of faults that only a request with a body can
/// have, every second one.
fn assert_endured(fault: Fault) {
    let scene = scene();
    let needs_body = matches!(fault, Fault::FlippedInRequest | Fault::ResetWithin);
    let every = if needs_body { 2 } else { 3 };
    scene.proxy.set(Weather { fault: Some((every, fault)), ..Weather::default() });
    scene.input.back_up(&scene.tool).assert_code(0);
    let (requests, hit) = scene.proxy.counts();
    assert!(hit >= 3, "{hit} of {requests} requests were hit");
    scene.proxy.set(Weather { fault: Some((every, fault)), ..Weather::default() });
    scene.input.assert_restored(&scene.tool);
    assert!(needs_body || scene.proxy.counts().1 >= 3);

    scene.proxy.set(Weather::default());
    scene.input.assert_restored(&scene.tool);
    assert_eq!(scene.tool.list().len(), 2);
}

#[test]
fn a_server_that_is_too_busy_for_a_third_of_the_requests_is_asked_again() {
    assert_endured(Fault::SlowDown);
}

#[test]
fn connections_reset_before_a_request_has_arrived_are_made_again() {
    assert_endured(Fault::ResetBefore);
}

#[test]
fn connections_reset_within_a_body_are_made_again() {
    assert_endured(Fault::ResetWithin);
}

#[test]
fn requests_whose_answer_is_lost_are_made_again_and_meet_themselves() {
    assert_endured(Fault::ResetAfter);
}

#[test]
fn connections_closed_before_the_answer_are_made_again() {
    assert_endured(Fault::ClosedBeforeAnswer);
}

#[test]
fn answers_that_break_off_are_asked_for_again() {
    assert_endured(Fault::CutShort);
}

#[test]
fn bodies_that_change_on_their_way_to_the_server_are_sent_again() {
    assert_endured(Fault::FlippedInRequest);
}

/// Without encryption on the way, a bit may be another in anything that is read. Most of it is read once more then. In
/// listings it may be a letter of a name, so there may be an error, but never wrong bytes, and nothing remains of it.
#[test]
fn bits_that_change_on_their_way_from_the_server_never_come_out() {
    let scene = scene();
    scene.input.back_up(&scene.tool).assert_code(0);
    for every in [3, 5, 7, 11] {
        scene.proxy.set(Weather { fault: Some((every, Fault::FlippedInAnswer)), ..Weather::default() });
        let restored = scene.tool.run(["restore", "latest", "--subvolume", "pipe", "--stream", "-"]);
        match restored.code {
            Some(0) => assert!(restored.stdout == scene.input.bytes),
            _ => assert!(scene.input.bytes.starts_with(&restored.stdout), "{}", restored.stderr),
        }
        let again = scene.input.back_up(&scene.tool);
        assert!(matches!(again.code, Some(0 | 1 | 3 | 5)), "{:?} {}", again.code, again.stderr);
        assert!(!again.stderr.contains("panicked"), "{}", again.stderr);
    }
    scene.proxy.set(Weather::default());
    scene.input.back_up(&scene.tool).assert_code(0);
    scene.input.assert_restored(&scene.tool);
}

#[test]
fn a_server_100_ms_away_is_only_slow() {
    let scene = scene();
    scene.proxy.set(Weather { latency: Duration::from_millis(50), ..Weather::default() });
    scene.input.back_up(&scene.tool).assert_code(0);
    scene.input.assert_restored(&scene.tool);
}

/// The server is gone for a while in the middle of a backup, and in the middle of a restore.
fn assert_outlasts(outage: Duration) {
    let scene = scene();
    // Slow enough that there is a middle.
    scene.proxy.set(Weather { latency: Duration::from_millis(50), ..Weather::default() });
    let running = scene.input.begin(&scene.tool);
    let outage = |least_requests| {
        while scene.proxy.counts().0 < least_requests {
            std::thread::yield_now();
        }
        scene.proxy.set_gone(true);
        sleep(outage);
        scene.proxy.set_gone(false);
    };
    outage(15);
    Ended::from(running.wait_with_output().unwrap()).assert_code(0);

    scene.proxy.set(Weather { latency: Duration::from_millis(50), ..Weather::default() });
    std::thread::scope(|scope| {
        scope.spawn(|| outage(5));
        scene.input.assert_restored(&scene.tool);
    });
    assert_eq!(scene.tool.list().len(), 2);
}

#[test]
fn a_server_that_is_gone_for_3_seconds_is_waited_for() {
    assert_outlasts(Duration::from_secs(3));
}

#[test]
#[ignore = "slow"]
fn a_server_that_is_gone_for_20_and_for_90_seconds_is_waited_for() {
    assert_outlasts(Duration::from_secs(20));
    assert_outlasts(Duration::from_secs(90));
}
