//! The policies in `docs/iam` allow what the program asks for, and nothing that it does not ask for.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use super::piped::{Input, access, tool_on};
use crate::support::s3_server::{BUCKET, S3Server};
use crate::support::tool::Tool;

/// Where the workspaces of these tests have their repository.
const PREFIX: &str = "folder/repository";

/// What one statement of a policy allows: an action, on resources of a pattern, if the prefix that is listed matches as well.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Permission {
    action: String,
    resource: String,
    listed: Option<String>,
}

/// A string, or an array of them.
fn strings(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text.clone()],
        Value::Array(all) => all.iter().flat_map(strings).collect(),
        other => panic!("neither a string nor an array of them: {other}"),
    }
}

fn permissions(policy: &str) -> BTreeSet<Permission> {
    let path = format!("{}/docs/iam/{policy}.json", env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(path).unwrap().replace("BUCKET", BUCKET).replace("PREFIX", PREFIX);
    let policy: Value = serde_json::from_str(&text).unwrap();
    let mut permissions = BTreeSet::new();
    for statement in policy["Statement"].as_array().unwrap() {
        assert_eq!(statement["Effect"], "Allow");
        let listed = statement.get("Condition").map(|condition| {
            let conditions = condition["StringLike"].as_object().unwrap();
            assert_eq!((condition.as_object().unwrap().len(), conditions.len()), (1, 1), "one that is known");
            conditions["s3:prefix"].as_str().unwrap().to_owned()
        });
        for action in strings(&statement["Action"]) {
            for resource in strings(&statement["Resource"]) {
                permissions.insert(Permission { action: action.clone(), resource, listed: listed.clone() });
            }
        }
    }
    permissions
}

/// Whether a text is of a pattern, which may end in `*` for anything.
fn is_like(text: &str, pattern: &str) -> bool {
    pattern.strip_suffix('*').map_or(text == pattern, |beginning| text.starts_with(beginning))
}

/// The action that an operation needs, as the S3 user guide has it ("Required permissions for Amazon S3 API operations"), and
/// whether it is on the bucket rather than on an object.
fn action(operation: &str) -> (&'static str, bool) {
    match operation {
        "PutObject" | "CreateMultipartUpload" | "UploadPart" | "CompleteMultipartUpload" => ("s3:PutObject", false),
        "GetObject" | "HeadObject" => ("s3:GetObject", false),
        "DeleteObject" => ("s3:DeleteObject", false),
        "RestoreObject" => ("s3:RestoreObject", false),
        "AbortMultipartUpload" => ("s3:AbortMultipartUpload", false),
        "ListObjectsV2" => ("s3:ListBucket", true),
        "ListMultipartUploads" => ("s3:ListBucketMultipartUploads", true),
        "GetBucketVersioning" => ("s3:GetBucketVersioning", true),
        "GetObjectLockConfiguration" => ("s3:GetBucketObjectLockConfiguration", true),
        "GetBucketLifecycleConfiguration" => ("s3:GetLifecycleConfiguration", true),
        other => panic!("which permission {other} needs is not known here"),
    }
}

/// The permissions that allow a request, as the server has written it down.
fn allowing<'p>(permissions: &'p BTreeSet<Permission>, request: &str) -> Vec<&'p Permission> {
    let (operation, key) = request.split_once(' ').unwrap();
    let (action, is_on_bucket) = action(operation);
    let resource = if is_on_bucket { format!("arn:aws:s3:::{BUCKET}") } else { format!("arn:aws:s3:::{BUCKET}/{key}") };
    let allows = |permission: &&Permission| {
        permission.action == action
            && is_like(&resource, &permission.resource)
            && permission.listed.as_ref().is_none_or(|listed| is_like(key, listed))
    };
    permissions.iter().filter(allows).collect()
}

/// Each request is allowed, and each permission is needed by one.
#[track_caller]
fn assert_equal(policy: &str, requests: &[String]) {
    let permissions = permissions(policy);
    let mut used = BTreeSet::new();
    for request in requests {
        let allowing = allowing(&permissions, request);
        assert!(!allowing.is_empty(), "{policy}.json does not allow {request}");
        used.extend(allowing.into_iter().cloned());
    }
    let unused: Vec<_> = permissions.difference(&used).collect();
    assert!(unused.is_empty(), "nothing needs {unused:#?} of {policy}.json");
}

#[test]
fn a_writer_needs_what_its_policy_allows_and_no_more() {
    let server = S3Server::start_in_thread();
    let tool = Tool::in_bucket(&format!("s3://{BUCKET}/{PREFIX}"), &access(server.endpoint()));
    tool.configure("[s3]\npart_size = \"5 MiB\"\n[packing]\npack_target = \"8 MiB\"\ncompression_level = 1\n");
    tool.run(["init"]).assert_code(0);
    let input = Input::random(&tool, 20 << 20, 1);
    // What it takes to make a repository is the administrator's.
    server.take_requests();
    // Uploads that fail for good are taken back.
    server.set_oddities(|oddities| oddities.refused_parts = 1);
    input.back_up(&tool).assert_code(1);
    server.set_oddities(|oddities| oddities.refused_parts = 0);
    input.back_up(&tool).assert_code(0);
    input.back_up(&tool).assert_code(0);
    tool.run(["list"]).assert_code(0);
    tool.run(["doctor"]);
    assert_equal("writer", &server.take_requests());
}

#[test]
fn a_reader_needs_what_its_policy_allows_and_no_more() {
    let server = S3Server::start_in_thread();
    let tool = tool_on(&server, "");
    let input = Input::random(&tool, 10 << 20, 1);
    input.back_up(&tool).assert_code(0);
    server.take_requests();
    tool.lose_state();
    tool.run(["list"]).assert_code(0);
    tool.run(["show", &tool.list()[0].id]).assert_code(0);
    tool.run(["doctor", "--read-only"]);
    let requests = server.take_requests();
    // What a bucket does by itself need not be known to read it.
    let mut requests: Vec<String> = requests
        .into_iter()
        .filter(|request| !request.starts_with("GetBucket") && !request.starts_with("GetObjectLock"))
        .collect();
    assert!(tool.restore_stream(&tool.list()[0].id) == input.bytes);
    // As a rule of the bucket archives what has been stored.
    for key in server.keys().iter().filter(|key| key.contains("/data/")) {
        server.change(key, |kept| kept.storage_class = Some("GLACIER".to_owned()));
    }
    tool.run(["restore", &tool.list()[0].id, "--stream", "-"]).assert_code(6);
    requests.extend(server.take_requests());
    assert_equal("reader", &requests);
}

/// Each request is allowed.
#[track_caller]
fn assert_allowed(policy: &str, requests: &[String]) {
    let permissions = permissions(policy);
    let denied = requests.iter().filter(|request| allowing(&permissions, request).is_empty());
    assert_eq!(denied.collect::<Vec<_>>(), Vec::<&String>::new(), "{policy}.json does not allow these");
}

#[test]
fn a_copy_is_made_by_who_may_read_here_and_write_there() {
    let (server, other) = (S3Server::start_in_thread(), S3Server::start_in_thread());
    let tool = tool_on(&server, "");
    Input::random(&tool, 20 << 20, 1).back_up(&tool).assert_code(0);
    tool.run(["tag", &tool.list()[0].id, "add", "keep"]).assert_code(0);
    let to = Tool::in_bucket(&format!("s3://{BUCKET}/{PREFIX}"), &access(other.endpoint()));
    let in_parts = "part_size = \"5 MiB\"\n[packing]\npack_target = \"8 MiB\"\ncompression_level = 1";
    to.configure(&format!("[s3]\nendpoint_url = \"{}\"\n{in_parts}\n", other.endpoint()));
    to.run(["init"]).assert_code(0);
    server.take_requests();
    other.take_requests();
    let to_config = to.configuration();
    let copy = ["copy", "--to-config", to_config.to_str().unwrap()];
    // Uploads that fail for good are taken back.
    other.set_oddities(|oddities| oddities.refused_parts = 1);
    tool.run(copy).assert_code(1);
    other.set_oddities(|oddities| oddities.refused_parts = 0);
    tool.run(copy).assert_code(0);
    Input::random(&tool, 1 << 20, 2).back_up(&tool).assert_code(0);
    server.take_requests();
    tool.run(copy).assert_code(0);
    assert_allowed("reader", &server.take_requests());
    assert_equal("copier", &other.take_requests());
}

#[test]
fn a_pruner_needs_what_its_policy_allows_and_no_more() {
    let server = S3Server::start_in_thread();
    let tool = Tool::in_bucket(&format!("s3://{BUCKET}/{PREFIX}"), &access(server.endpoint()));
    tool.configure("[s3]\npart_size = \"5 MiB\"\n[packing]\npack_target = \"8 MiB\"\ncompression_level = 1\n");
    tool.run(["init"]).assert_code(0);
    let gone = Input::random(&tool, 24 << 20, 1);
    gone.back_up(&tool).assert_code(0);
    let kept = Input::of(&tool, "kept", gone.bytes[4 << 20..20 << 20].to_vec());
    kept.back_up(&tool).assert_code(0);
    Input::random(&tool, 100_000, 2).back_up(&tool).assert_code(0);
    let all = tool.list();
    server.take_requests();
    tool.run(["forget", &all[0].id, &all[2].id]).assert_code(0);
    // Packs are rewritten, and uploads that fail for good are taken back.
    let prune = ["prune", "--grace", "0s", "--max-unused", "0"];
    server.set_oddities(|oddities| oddities.refused_parts = 1);
    tool.run(prune).assert_code(3);
    server.set_oddities(|oddities| oddities.refused_parts = 0);
    tool.run(prune).assert_code(0);
    assert_eq!(server.keys().iter().filter(|key| key.contains("/manifests/")).count(), 1);
    assert_equal("pruner", &server.take_requests());
    kept.assert_restored(&tool);
}
