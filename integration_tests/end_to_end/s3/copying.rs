//! `copy` into a bucket and out of one.

use std::fs;
use std::process::Stdio;

use super::kills::{Held, wait_for};
use super::piped::{Input, tool_on};
use crate::support::process::Ended;
use crate::support::s3_server::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY};
use crate::support::tool::Tool;

/// A configuration of a repository in a server's bucket, by a profile of the AWS files.
fn configure_bucket(tool: &Tool, server: &S3Server, sections: &str) -> String {
    let aws = tool.folder().join(".aws");
    fs::create_dir_all(&aws).unwrap();
    let credentials = format!("[other]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n");
    fs::write(aws.join("credentials"), credentials).unwrap();
    let path = tool.folder().join("to.toml");
    let configuration = format!(
        "repository = \"s3://{BUCKET}/copies\"\n[global]\nstate_dir = \"{}\"\n[s3]\nprofile = \"other\"\nregion = \
         \"us-east-1\"\nendpoint_url = \"{}\"\n{sections}",
        tool.folder().join("state-of-copies").display(),
        server.endpoint()
    );
    fs::write(&path, configuration).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Restores a backup of the repository of another configuration.
fn restore(tool: &Tool, configuration: &str, id: &str) -> Vec<u8> {
    run_by(tool, configuration, &["restore", id, "--stream", "-"]).stdout
}

fn run_by(tool: &Tool, configuration: &str, arguments: &[&str]) -> Ended {
    tool.bare_command().args(["--config", configuration]).args(arguments).output().unwrap().into()
}

#[test]
fn a_directory_is_copied_into_a_bucket_by_the_credentials_of_a_profile() {
    let server = S3Server::start_in_thread();
    let tool = Tool::without_configuration();
    tool.configure("");
    tool.run(["init"]).assert_code(0);
    let input = Input::random(&tool, 9_000_000, 1);
    input.back_up(&tool).assert_code(0);
    let to = configure_bucket(&tool, &server, "");
    // Credentials of somebody else, for the source.
    let run = |arguments: &[&str]| {
        let mut command = tool.command(arguments);
        command.env("AWS_ACCESS_KEY_ID", "SOMEBODY").env("AWS_SECRET_ACCESS_KEY", "else");
        Ended::from(command.output().unwrap())
    };
    run(&["copy", "--to-config", &to, "--init"]).assert_code(0);
    assert!(server.keys().iter().all(|key| key.starts_with("copies/")), "{:?}", server.keys());
    assert!(restore(&tool, &to, "latest") == input.bytes);
    let again = run(&["copy", "--to-config", &to]);
    again.assert_code(0);
    assert!(again.text().contains("1 there already"), "{}", again.text());
}

#[test]
fn a_bucket_is_copied_into_another_and_only_read() {
    let (server, other) = (S3Server::start_in_thread(), S3Server::start_in_thread());
    let tool = tool_on(&server, "");
    for seed in [1, 2] {
        Input::random(&tool, 5_000_000, seed).back_up(&tool).assert_code(0);
    }
    let to = configure_bucket(&tool, &other, "[packing]\npack_target = \"4 MiB\"\n");
    server.take_requests();
    tool.run(["copy", "--to-config", &to, "--init"]).assert_code(0);
    let writes: Vec<String> = server
        .take_requests()
        .into_iter()
        .filter(|request| !request.starts_with("GetObject") && !request.starts_with("HeadObject"))
        .filter(|request| !request.starts_with("ListObjectsV2"))
        .collect();
    assert_eq!(writes, Vec::<String>::new());
    for backup in tool.list() {
        let copies = run_by(&tool, &to, &["list", "--json"]);
        let copies: serde_json::Value = serde_json::from_slice(&copies.stdout).unwrap();
        let copies = copies.as_array().unwrap();
        let copy = copies.iter().find(|copy| copy["copied_from"] == backup.id.as_str()).unwrap();
        assert!(restore(&tool, &to, copy["id"].as_str().unwrap()) == tool.restore_stream(&backup.id));
    }
}

#[test]
fn an_archived_source_is_refused_before_anything_is_read_and_thawed_when_that_is_asked_for() {
    let server = S3Server::start_in_thread();
    let tool = tool_on(&server, "");
    Input::random(&tool, 9_000_000, 1).back_up(&tool).assert_code(0);
    let to = configure_bucket(&tool, &server, "");
    tool.run(["copy", "--to-config", &to, "--init"]).assert_code(0);
    let archive = || {
        for key in server.keys().iter().filter(|key| key.starts_with("folder/") && key.contains("/data/")) {
            server.change(key, |kept| kept.storage_class = Some("GLACIER".to_owned()));
        }
    };
    archive();
    // Nothing has to be read of what is archived.
    tool.run(["copy", "--to-config", &to]).assert_code(0);
    let mut command = tool.command(["backup", "--stdin", "--name", "again"]);
    command.stdin(fs::File::open(tool.folder().join("input-1")).unwrap());
    Ended::from(command.output().unwrap()).assert_code(0);
    tool.run(["copy", "--to-config", &to]).assert_code(0);

    Input::random(&tool, 2_000_000, 2).back_up(&tool).assert_code(0);
    archive();
    let before = server.keys();
    server.take_requests();
    let refused = tool.run(["copy", "--to-config", &to]);
    refused.assert_code(6);
    refused.assert_failed_naming("--thaw");
    let requests = server.take_requests();
    let reads = |request: &&String| request.starts_with("GetObject folder/") && request.contains("/data/");
    assert_eq!(requests.iter().filter(reads).count(), 0);
    assert_eq!(requests.iter().filter(|request| request.starts_with("RestoreObject")).count(), 0);
    assert_eq!(server.keys(), before);
    tool.run(["copy", "--to-config", &to, "--thaw"]).assert_code(6);
    let asked = server.take_requests().iter().filter(|request| request.starts_with("RestoreObject")).count();
    assert_eq!(asked, 1, "only what has to be read");
}

#[test]
fn a_copy_into_a_bucket_that_is_killed_at_any_request_is_simply_run_again() {
    let source = Tool::without_configuration();
    source.configure("[packing]\npack_target = \"4 MiB\"\ncompression_level = 1\n");
    source.run(["init"]).assert_code(0);
    let inputs = [1, 2].map(|seed| Input::random(&source, 5_000_000, seed));
    for input in &inputs {
        input.back_up(&source).assert_code(0);
    }
    let mut killed_between = 0;
    for request in (1..).step_by(4) {
        let server = S3Server::start_in_thread();
        let to = configure_bucket(&source, &server, "[packing]\npack_target = \"4 MiB\"\ncompression_level = 1\n");
        run_by(&source, &to, &["init"]).assert_code(0);
        server.take_requests();
        server.set_oddities(|oddities| {
            oddities.silent_from = Some(request);
            oddities.silent_after_effect = request % 8 == 1;
        });
        let copy = ["copy", "--to-config", &to];
        let mut run = source.command(copy).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let held = wait_for(&server, &mut run, request);
        run.kill().unwrap();
        run.wait().unwrap();
        server.set_oddities(|oddities| oddities.silent_from = None);
        let copies = || {
            let listed = run_by(&source, &to, &["list", "--json"]);
            let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
            listed.as_array().unwrap().iter().map(|copy| copy["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        killed_between += usize::from(copies().len() == 1);
        source.run(copy).assert_code(0);
        let copies = copies();
        assert_eq!(copies.len(), 2, "killed at request {request}");
        for (copy, input) in copies.iter().zip(&inputs) {
            assert!(restore(&source, &to, copy) == input.bytes, "killed at request {request}");
        }
        if matches!(held, Held::Done) {
            assert!(request > 25 && killed_between > 0, "{request} requests, {killed_between} killed between two");
            return;
        }
    }
}
