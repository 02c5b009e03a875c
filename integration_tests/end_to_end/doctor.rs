//! What `doctor` finds.

use std::fs;

use serde_json::Value;

use crate::s3::piped::tool_on;
use crate::support::btrfs_fixture::TestBtrfs;
use crate::support::process::{Ended, command, succeed};
use crate::support::s3_server::{BucketRules, S3Server};
use crate::support::tool::{Tool, make_subvolume, subvolume_section};

/// The verdict and the words of each check, in order.
fn findings(ended: &Ended) -> Vec<(String, String, String)> {
    let text = |finding: &Value, name: &str| finding[name].as_str().unwrap().to_owned();
    let found: Vec<Value> = serde_json::from_slice(&ended.stdout).unwrap();
    found.iter().map(|found| (text(found, "check"), text(found, "verdict"), text(found, "words"))).collect()
}

/// The words of a check, which must have this verdict.
#[track_caller]
fn words(ended: &Ended, check: &str, verdict: &str) -> String {
    let found = findings(ended);
    let matching = found.iter().find(|found| (found.0.as_str(), found.1.as_str()) == (check, verdict));
    matching.unwrap_or_else(|| panic!("{check} is not {verdict}: {found:?}")).2.clone()
}

#[test]
#[ignore = "needs root and Btrfs"]
fn a_host_that_is_fit_is_called_fit_and_only_two_records_stay() {
    let source = TestBtrfs::new(512, "");
    let tool = Tool::for_subvolume_of(&source);
    let ended = tool.run(["doctor", "--json"]);
    ended.assert_code(0);
    assert!(findings(&ended).iter().all(|(_, verdict, _)| verdict == "good"), "{:?}", findings(&ended));
    assert_eq!(fs::read_dir(tool.repository().join("sessions")).unwrap().count(), 1);
    tool.run(["doctor", "--read-only"]).assert_code(0);
    assert_eq!(fs::read_dir(tool.repository().join("sessions")).unwrap().count(), 1);
    // Nothing is in the way of a backup.
    assert_eq!(tool.back_up([]).kind, "full");
}

#[test]
#[ignore = "needs root and Btrfs"]
fn what_a_subvolume_lacks_is_named() {
    let (source, other) = (TestBtrfs::new(512, ""), TestBtrfs::new(512, ""));
    let tool = Tool::without_configuration();
    make_subvolume(&source);
    let (folder, elsewhere) = (source.path().join("folder"), other.path().display().to_string());
    fs::create_dir(&folder).unwrap();
    succeed(command("btrfs").args(["subvolume", "create"]).arg(source.path().join("data/nested")));
    tool.configure(&format!(
        "{}[[subvolumes]]\npath = \"{}\"\n[[subvolumes]]\npath = \"/nowhere/at/all\"\n\
         [[subvolumes]]\npath = \"{elsewhere}\"\nname = \"elsewhere\"\nbase_dir = \"{}\"\n",
        subvolume_section(&source, 3),
        folder.display(),
        source.path().display(),
    ));
    tool.run(["init"]).assert_code(0);
    let ended = tool.run(["doctor", "--json"]);
    ended.assert_code(1);
    assert!(words(&ended, "subvolume 'data'", "note").contains("data/nested is a subvolume of its own"));
    assert!(words(&ended, "subvolume 'folder'", "unfit").contains("is not a Btrfs subvolume"));
    assert!(words(&ended, "subvolume 'all'", "unfit").contains("/nowhere/at/all does not exist"));
    assert!(words(&ended, "subvolume 'elsewhere'", "unfit").contains("is not on the same Btrfs file system"));
    assert!(ended.stderr.contains("checks failed"), "{}", ended.stderr);
}

#[test]
fn a_repository_that_is_not_there_is_unfit() {
    let tool = Tool::without_configuration();
    tool.configure("");
    let ended = tool.run(["doctor", "--json"]);
    ended.assert_code(1);
    assert!(words(&ended, "repository", "unfit").contains("there is no such directory"));
}

#[test]
fn what_a_bucket_does_by_itself_is_judged() {
    let server = S3Server::start_in_thread();
    let tool = tool_on(&server, "");
    let ended = tool.run(["doctor", "--json"]);
    assert!(words(&ended, "overwriting", "good").contains("not stored again"));
    words(&ended, "versioning", "unknown");
    words(&ended, "lifecycle rules", "unknown");

    server.set_rules(BucketRules::default());
    server.set_oddities(|oddities| oddities.overwrites = true);
    let ended = tool.run(["doctor", "--json"]);
    assert!(words(&ended, "overwriting", "note").contains("conditional_put = false"));
    words(&ended, "versioning", "note");
    words(&ended, "lifecycle rules", "good");
}

#[test]
fn what_an_unattended_run_lacks_is_named() {
    let tool = Tool::without_configuration();
    let (metrics, hook) = (tool.folder().join("gone/m.prom"), tool.folder().join("hook"));
    fs::write(&hook, "").unwrap();
    tool.configure(&format!(
        "[schedule]\nrun_at = \"02:30\"\n\
         [hooks]\nbefore = [\"true\"]\nafter = [\"{}\"]\non_failure = [\"no_such_mail\", \"root\"]\n\
         [monitoring]\nhealthcheck_url = \"https://localhost/x\"\nmetrics_textfile = \"{}\"\n",
        hook.display(),
        metrics.display()
    ));
    tool.run(["init"]).assert_code(0);
    let ended = tool.run(["doctor", "--json"]);
    ended.assert_code(1);
    words(&ended, "hook 'before'", "good");
    assert!(words(&ended, "hook 'after'", "unfit").contains("Permission denied"));
    assert!(words(&ended, "hook 'on_failure'", "unfit").contains("there is no program 'no_such_mail' in PATH"));
    assert!(words(&ended, "metrics", "unfit").contains("gone: No such file"));
    assert!(words(&ended, "health check", "good").ends_with("/curl"));
    assert!(findings(&ended).iter().any(|(check, _, words)| check == "schedule" && words.contains("from 02:30 on")));
    // Nothing of it is configured, nothing is said of it.
    tool.configure("");
    assert!(!findings(&tool.run(["doctor", "--json"])).iter().any(|(check, ..)| check.starts_with("hook")));
}
