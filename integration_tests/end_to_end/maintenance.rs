//! What an administrator does with a repository over the years, by the command line.

use std::fs::File;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::support::btrfs_fixture::TestBtrfs;
use crate::support::process::Ended;
use crate::support::tool::{Tool, data};
use crate::support::tree::random_bytes;

/// A workspace with an empty repository and a configuration, for anybody.
fn workspace(sections: &str) -> Tool {
    let mut tool = Tool::without_configuration();
    tool.configure(sections);
    tool.drop_privileges();
    tool.run(["init"]).assert_code(0);
    tool
}

/// Archives bytes under a name; gives the backup's id.
fn archive(tool: &Tool, name: &str, seed: u64) -> String {
    let input = tool.folder().join("input");
    std::fs::write(&input, random_bytes(50_000, seed)).unwrap();
    let stdin = Stdio::from(File::open(&input).unwrap());
    let config = tool.configuration();
    let mut command = tool.bare_command();
    command.args(["--config", config.to_str().unwrap(), "backup", "--stdin", "--name", name, "--json"]).stdin(stdin);
    let ended = Ended::from(command.output().unwrap());
    ended.assert_code(0);
    let told = json_of(&ended);
    assert_eq!((&told["result"], &told["subvolumes"][0]["outcome"]), (&json!("success"), &json!("opaque")));
    let id = tool.list().into_iter().rfind(|backup| backup.subvolume == name).unwrap().id;
    assert_eq!(told["subvolumes"][0]["id"], id.as_str());
    id
}

fn json_of(ended: &Ended) -> Value {
    serde_json::from_slice(&ended.stdout).unwrap()
}

fn listed(tool: &Tool) -> Vec<String> {
    tool.list().into_iter().map(|backup| backup.id).collect()
}

#[test]
fn backups_are_forgotten_by_id_and_brought_back() {
    let tool = workspace("");
    let [one, two] = [archive(&tool, "pipe", 1), archive(&tool, "pipe", 2)];
    tool.run(["forget", &one[..12], "--dry-run"]).assert_code(0);
    assert_eq!(listed(&tool).len(), 2);
    tool.run(["forget", &one[..12], "zz"]).assert_failed_naming("'zz'");
    assert_eq!(listed(&tool).len(), 2);
    tool.run(["forget", &one[..12]]).assert_code(0);
    assert_eq!(listed(&tool), [two.as_str()]);
    tool.run(["restore", &one, "--stream", "-"]).assert_failed_naming("unforget");
    let forgotten = json_of(&tool.run(["list", "--forgotten", "--json"]));
    assert_eq!(forgotten[0]["id"], one.as_str());
    tool.run(["unforget", &two]).assert_failed_naming("has not been forgotten");
    tool.run(["unforget", &one]).assert_code(0);
    let copy = tool.list().into_iter().find(|backup| backup.id != two).unwrap();
    assert_eq!(tool.restore_stream(&copy.id), random_bytes(50_000, 1));
    let shown = json_of(&tool.run(["show", &copy.id, "--json"]));
    assert_eq!(shown["copied_from"], one.as_str());
}

#[test]
fn what_names_no_one_backup_is_a_wrong_use_and_what_is_not_there_a_failure() {
    let tool = workspace("[retention]\nkeep_last = 1\n");
    let made = [archive(&tool, "pipe", 1), archive(&tool, "pipe", 2), archive(&tool, "other", 3)];
    for (arguments, code, said) in [
        (&["restore", "backup"][..], 2, "'backup' is not a manifest id"),
        (&["restore", "latest"], 2, "name one (--subvolume, --host)"),
        (&["restore", "latest", "--at", "2026-11-29"], 2, "as in 2026-01-31T04:00:00Z"),
        (&["show", &"f".repeat(32)], 1, "there is no completed backup"),
    ] {
        let arguments: Vec<&str> =
            [arguments, if arguments[0] == "restore" { &["--stream", "-"] } else { &[] }].concat();
        let ended = tool.run(&arguments);
        ended.assert_code(code);
        ended.assert_failed_naming(said);
    }
    // Not as if nothing had been said, which would be the policy of the configuration.
    tool.run(["forget", "--keep-last", "0"]).assert_code(2);
    assert_eq!(listed(&tool), made);
}

#[test]
fn taking_off_a_tag_that_is_not_there_is_said() {
    let tool = workspace("");
    let made = archive(&tool, "pipe", 1);
    tool.run(["tag", &made, "add", "one"]).assert_code(0);
    let ended = tool.run(["tag", &made, "remove", "one", "other"]);
    ended.assert_code(0);
    assert!(ended.stderr.contains("has no tag other") && !ended.stderr.contains("no tag one"), "{}", ended.stderr);
}

#[test]
fn a_policy_says_for_each_backup_why_it_is_kept_and_forgets_the_others() {
    let tool = workspace("[retention]\nkeep_last = 1\nkeep_tags = [\"keep\"]\n");
    let made = [1, 2, 3].map(|seed| archive(&tool, "pipe", seed));
    let other = archive(&tool, "other", 4);
    tool.run(["tag", &made[0], "add", "keep", "why"]).assert_code(0);
    let plan = json_of(&tool.run(["forget", "--dry-run", "--json"]));
    let reasons = |id: &str| {
        let decision = plan.as_array().unwrap().iter().find(|decision| decision["id"] == id).unwrap();
        decision["reasons"].as_array().unwrap().iter().map(|reason| reason.as_str().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(reasons(&made[0]), ["tag keep"]);
    assert_eq!(reasons(&made[1]), Vec::<&str>::new());
    assert_eq!(reasons(&made[2]), ["last"]);
    assert_eq!(reasons(&other), ["last"]);
    assert_eq!(listed(&tool).len(), 4);

    let shown = tool.run(["list"]).text();
    assert!(shown.lines().any(|line| line.starts_with(&made[0]) && line.ends_with("keep,why")), "{shown}");
    tool.run(["forget"]).assert_code(0);
    let left: Vec<String> = listed(&tool);
    assert_eq!(left.len(), 3);
    assert!(!left.contains(&made[1]));
    let by_options = tool.run(["forget", "--keep-last", "1", "--subvolume", "pipe"]);
    by_options.assert_code(0);
    assert_eq!(listed(&tool).len(), 2);
}

#[test]
fn a_policy_that_would_leave_nothing_takes_a_word_more() {
    let tool = workspace("");
    let made = archive(&tool, "pipe", 1);
    tool.run(["forget"]).assert_code(2);
    tool.run(["forget", "--keep-tag", "absent"]).assert_failed_naming("--allow-none");
    assert_eq!(listed(&tool), [made.as_str()]);
    tool.run(["forget", "--keep-tag", "absent", "--dry-run"]).assert_code(0);
    tool.run(["forget", &made, "--keep-last", "1"]).assert_code(2);
    assert_eq!(listed(&tool), [made.as_str()]);
    tool.run(["forget", "--keep-tag", "absent", "--allow-none"]).assert_code(0);
    assert_eq!(listed(&tool), Vec::<String>::new());
}

/// The largest file below a folder of the repository.
fn largest(tool: &Tool, folder: &str) -> std::path::PathBuf {
    let mut open = vec![tool.repository().join(folder)];
    let mut files = Vec::new();
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let metadata = entry.metadata().unwrap();
            if metadata.is_dir() { open.push(entry.path()) } else { files.push((metadata.len(), entry.path())) }
        }
    }
    files.into_iter().max().unwrap().1
}

fn flip_the_middle(path: &std::path::Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_check_says_what_is_damaged_and_ends_with_5() {
    let tool = workspace("");
    let made = archive(&tool, "pipe", 1);
    let whole = tool.run(["check", "--read-data"]);
    whole.assert_code(0);
    assert!(whole.text().contains("no damage"), "{}", whole.text());
    let pack = largest(&tool, "data");
    let name = pack.file_name().unwrap().to_str().unwrap().to_owned();
    flip_the_middle(&pack);
    tool.run(["check"]).assert_code(0);
    let damaged = tool.run(["check", "--read-data-subset", "100%"]);
    damaged.assert_code(5);
    assert!(damaged.text().contains(&name) && damaged.text().contains(&made), "{}", damaged.text());
    let shown = json_of(&tool.run(["show", &made, "--json"]));
    assert_eq!(shown["notes"][0]["result"]["outcome"], "damaged");
    // What is whole and not as it should be is told as well.
    flip_the_middle(&pack);
    flip_the_middle(&largest(&tool, "index"));
    let flawed = tool.run(["check", "--json", "--no-notes"]);
    flawed.assert_code(3);
    let report = json_of(&flawed);
    assert_eq!((&report["damaged"], &report["affected"]), (&Value::from(false), &Value::from(Vec::<Value>::new())));
    assert_eq!(report["findings"][0]["invariant"], "segments_can_be_read");
}

#[test]
fn a_directory_keeps_no_checksums_and_a_check_says_so() {
    let tool = workspace("");
    archive(&tool, "pipe", 1);
    let checked = tool.run(["check", "--checksums"]);
    checked.assert_code(3);
    checked.assert_failed_naming("of 2 packs the store keeps no checksum: only their lengths were compared");
    tool.run(["check"]).assert_code(0);
}

#[test]
fn repairs_mend_what_a_check_names() {
    let tool = workspace("");
    let made = archive(&tool, "pipe", 1);
    std::fs::remove_file(largest(&tool, "index")).unwrap();
    tool.run(["check", "--no-notes"]).assert_code(3);
    tool.run(["repair", "index", "--dry-run"]).assert_code(0);
    tool.run(["check", "--no-notes"]).assert_code(3);
    tool.run(["repair", "index"]).assert_code(0);
    tool.run(["check", "--no-notes", "--read-data"]).assert_code(0);
    let pack = largest(&tool, "data");
    let key = format!(
        "data/{}/{}",
        pack.parent().unwrap().file_name().unwrap().to_str().unwrap(),
        pack.file_name().unwrap().to_str().unwrap()
    );
    tool.run(["repair", "packs", &key]).assert_failed_naming("is as it should be");
    flip_the_middle(&pack);
    let planned = tool.run(["repair", "packs", &key, "--dry-run"]);
    let mended = tool.run(["repair", "packs", &key]);
    for told in [&planned, &mended] {
        told.assert_code(3);
        assert!(told.text().contains(&format!("does not restore: backup {made}")), "{}", told.text());
        assert!(told.text().contains(" bytes of its file data"), "{}", told.text());
    }
    assert!(mended.stderr.contains("1 chunk cannot be read any more"), "{}", mended.stderr);
    assert!(!pack.exists());
    tool.run(["check", "--no-notes"]).assert_code(5);
    let affected = tool.run(["repair", "manifests"]);
    affected.assert_code(3);
    assert!(affected.text().contains(&made), "{}", affected.text());
    assert!(affected.text().contains(" bytes of its file data"), "{}", affected.text());
    // The same bytes once more heal the backup.
    archive(&tool, "pipe", 1);
    tool.run(["check", "--no-notes", "--read-data"]).assert_code(0);
    assert_eq!(tool.restore_stream(&made), random_bytes(50_000, 1));
    tool.run(["repair", "manifests", "--forget"]).assert_code(0);
    assert_eq!(listed(&tool).len(), 2);
}

#[test]
fn a_backup_stores_again_what_a_check_has_found_damaged() {
    let tool = workspace("");
    let old = archive(&tool, "pipe", 1);
    flip_the_middle(&largest(&tool, "data"));
    tool.run(["check", "--read-data"]).assert_code(5);
    let new = archive(&tool, "pipe", 1);
    for id in [&new, &old] {
        assert_eq!(tool.restore_stream(id), random_bytes(50_000, 1));
    }
    let checked = tool.run(["check", "--read-data"]);
    checked.assert_code(3);
    assert!(!checked.text().contains("does not restore"), "{}", checked.text());
    for arguments in [&["repair", "packs", "--dry-run"][..], &["repair", "packs"]] {
        let told = tool.run(arguments);
        told.assert_code(0);
        assert!(
            told.text().contains("1 lost") && told.text().contains("no backup that counts loses anything"),
            "{}",
            told.text()
        );
    }
    tool.run(["check", "--read-data"]).assert_code(0);
}

#[test]
fn a_look_at_manifests_says_which_packs_are_lost_or_damaged_before_them() {
    let tool = workspace("");
    let made = archive(&tool, "pipe", 1);
    let pack = largest(&tool, "data");
    flip_the_middle(&pack);
    // What no check has found, a look at the structure cannot know.
    tool.run(["repair", "manifests"]).assert_code(0);
    tool.run(["check", "--read-data"]).assert_code(5);
    let told = tool.run(["repair", "manifests"]);
    told.assert_code(3);
    assert!(told.stderr.contains("1 pack damaged, as a check has found: run `repair packs` first"), "{}", told.stderr);
    let is_named = format!("{} is one", pack.file_name().unwrap().to_str().unwrap());
    assert!(told.stderr.contains(&is_named), "{}", told.stderr);
    assert!(told.text().contains(&made) && !told.text().contains("all backups"), "{}", told.text());
    std::fs::remove_file(pack).unwrap();
    let told = tool.run(["repair", "manifests"]);
    told.assert_code(3);
    assert!(told.stderr.contains("1 pack missing or of another length: run `repair packs` first"), "{}", told.stderr);
    assert!(told.stderr.contains(&is_named), "{}", told.stderr);
    assert!(told.text().contains(&format!("does not restore: backup {made}")), "{}", told.text());
    assert_eq!(listed(&tool).len(), 1);
}

#[test]
#[ignore = "needs root and Btrfs"]
fn what_a_check_has_found_damaged_is_not_built_on() {
    let source = TestBtrfs::new(512, "");
    let tool = Tool::for_subvolume_of(&source);
    std::fs::write(data(&source).join("file"), random_bytes(200_000, 1)).unwrap();
    tool.back_up([]);
    std::fs::write(data(&source).join("new"), random_bytes(1000, 2)).unwrap();
    assert_eq!(tool.back_up([]).kind, "incremental");
    let pack = largest(&tool, "data");
    flip_the_middle(&pack);
    tool.run(["check", "--read-data"]).assert_code(5);
    let status = tool.run(["status"]);
    status.assert_code(3);
    assert!(status.text().contains("OVERDUE") && status.text().contains("none"), "{}", status.text());
    assert_eq!(status.stderr.matches("does not restore by the last check").count(), 1, "{}", status.stderr);
    // Although nothing has changed since.
    let backed_up = tool.run(["backup"]);
    backed_up.assert_code(3);
    for told in ["has found damaged packs", "the next backup is a full one"] {
        assert_eq!(backed_up.stderr.matches(told).count(), 1, "{}", backed_up.stderr);
    }
    let new = tool.list().pop().unwrap();
    assert_eq!(new.kind, "full");
    let checked = tool.run(["check", "--read-data"]);
    checked.assert_code(3);
    assert!(!checked.text().contains("does not restore"), "{}", checked.text());
    let restored = source.path().join("restored");
    tool.restore(&new.id, &restored);
    assert_eq!(std::fs::read(restored.join("file")).unwrap(), random_bytes(200_000, 1));
    // The next one is made on it.
    std::fs::write(data(&source).join("newer"), "x").unwrap();
    assert_eq!(tool.back_up([]).kind, "incremental");
}
