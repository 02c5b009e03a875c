//! `copy` from one directory into another.

use std::fs::{self, File};
use std::path::PathBuf;

use crate::support::process::Ended;
use crate::support::tool::Tool;

/// The streams that a kernel wrote, full ones before those that were made on them.
fn captured_streams() -> Vec<PathBuf> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/integration_tests/fixtures/streams");
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> = paths.filter(|path| path.extension().is_some_and(|end| end == "stream")).collect();
    paths.sort_by_key(|path| (path.to_string_lossy().contains("incremental"), path.clone()));
    assert!(paths.len() >= 8, "{} captured streams", paths.len());
    paths
}

/// A workspace with an empty repository.
fn tool() -> Tool {
    let tool = Tool::without_configuration();
    tool.configure("");
    tool.run(["init"]).assert_code(0);
    tool
}

fn back_up(tool: &Tool, stream: &PathBuf) -> Ended {
    let mut command = tool.command(["backup", "--stdin", "--name", "captured"]);
    command.stdin(File::open(stream).unwrap()).output().unwrap().into()
}

fn copy(from: &Tool, to: &Tool, arguments: &[&str]) -> Ended {
    let to_config = to.configuration();
    from.run(["copy", "--to-config", to_config.to_str().unwrap()].iter().chain(arguments))
}

fn json(ended: &Ended) -> serde_json::Value {
    serde_json::from_slice(&ended.stdout).unwrap()
}

#[test]
fn what_a_kernel_sent_comes_back_from_a_copy_byte_for_byte() {
    let (from, to) = (tool(), tool());
    let streams = captured_streams();
    for stream in &streams {
        back_up(&from, stream);
    }
    let originals = from.list();
    assert!(originals.len() >= 8, "{}", originals.len());
    let dry = json(&copy(&from, &to, &["--dry-run", "--json"]));
    assert_eq!(dry["to_copy"].as_array().unwrap().len(), originals.len());
    assert_eq!(to.list().len(), 0);

    let report = copy(&from, &to, &["--json"]);
    report.assert_code(0);
    let report = json(&report);
    let copied = report["copied"].as_array().unwrap();
    assert_eq!(copied.len(), originals.len());
    let streams: Vec<(String, Vec<u8>)> = copied
        .iter()
        .map(|one| (one["copy"].as_str().unwrap().to_owned(), from.restore_stream(one["id"].as_str().unwrap())))
        .collect();
    fs::remove_dir_all(from.repository()).unwrap();
    for (id, stream) in streams {
        assert!(to.restore_stream(&id) == stream, "{id}");
    }
    to.run(["check", "--read-data"]).assert_code(0);
}

#[test]
fn a_second_copy_has_nothing_to_do_and_a_named_one_is_content_with_it() {
    let (from, to) = (tool(), tool());
    back_up(&from, &captured_streams()[0]).assert_code(0);
    copy(&from, &to, &[]).assert_code(0);
    let again = copy(&from, &to, &[&from.list()[0].id[..10]]);
    again.assert_code(0);
    assert!(again.text().contains("0 backups copied, 1 there already"), "{}", again.text());
    assert_eq!(to.list().len(), 1);
}

#[test]
fn a_destination_is_made_with_the_parameters_of_the_source_and_others_are_refused() {
    let from = Tool::without_configuration();
    from.configure("[chunking]\naverage = \"64 KiB\"\n");
    from.run(["init"]).assert_code(0);
    back_up(&from, &captured_streams()[0]).assert_code(0);
    let other = tool();
    let refused = copy(&from, &other, &[]);
    refused.assert_code(2);
    refused.assert_failed_naming("cuts chunks otherwise");

    let fresh = Tool::without_configuration();
    fresh.configure("");
    copy(&from, &fresh, &[]).assert_failed_naming("copy --init");
    copy(&from, &fresh, &["--init"]).assert_code(0);
    assert_eq!(fresh.list().len(), 1);
    copy(&from, &fresh, &["--init"]).assert_code(0);
    let itself = from.run(["copy", "--to", from.repository_url()]);
    itself.assert_code(2);
    itself.assert_failed_naming("itself");
    from.run(["copy"]).assert_code(2);
}

#[test]
fn damage_in_the_source_is_named_and_ends_with_its_exit_code() {
    let (from, to) = (tool(), tool());
    for stream in &captured_streams()[..2] {
        back_up(&from, stream).assert_code(0);
    }
    // All packs of file data of the second one.
    let packs = walk(&from.repository().join("data"));
    let newest = packs.iter().max_by_key(|path| fs::metadata(path).unwrap().modified().unwrap()).unwrap();
    let length = fs::metadata(newest).unwrap().len();
    fs::write(newest, vec![7; usize::try_from(length).unwrap()]).unwrap();
    let report = copy(&from, &to, &[]);
    report.assert_code(5);
    assert!(report.text().contains("1 backup copied"), "{}", report.text());
    assert!(report.text().contains("not copied: backup "), "{}", report.text());
    assert_eq!(to.list().len(), 1);
    to.run(["check", "--read-data"]).assert_code(0);
}

fn walk(folder: &std::path::Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[test]
fn a_copy_that_is_only_tried_out_says_that_it_would_make_the_repository_and_makes_none() {
    let from = tool();
    back_up(&from, &captured_streams()[0]).assert_code(0);
    let id = from.list()[0].id.clone();
    let folder = from.folder().join("stick/backups");
    let url = format!("file://{}/copies", folder.display());
    let arguments = ["copy", "--to", &url, "--init"];
    let try_out = |more: &[&str]| from.run(arguments.iter().chain(["--dry-run"].iter()).chain(more));
    // As long as the stick is not there, neither makes anything.
    for ended in [from.run(arguments), try_out(&[])] {
        ended.assert_code(1);
        ended.assert_failed_naming(&format!("there is no {}: mount", from.folder().join("stick").display()));
    }
    assert!(!from.folder().join("stick").exists());

    fs::create_dir_all(&folder).unwrap();
    let caches = || fs::read_dir(from.state().join("cache")).unwrap().count();
    let caches_before = caches();
    let told = try_out(&[]);
    told.assert_code(0);
    assert!(told.text().starts_with(&format!("would make a repository at {url}\n")), "{}", told.text());
    assert!(told.text().contains(&format!("would copy backup {id} of")), "{}", told.text());
    let plan = json(&try_out(&["--json"]));
    assert_eq!((&plan["would_make_repository"], &plan["destination"]), (&true.into(), &url.clone().into()));
    assert_eq!(plan["to_copy"][0]["id"], id.as_str());
    assert!(plan["bytes_at_most"].as_u64().unwrap() > 0, "{plan}");
    assert_eq!((fs::read_dir(&folder).unwrap().count(), caches()), (0, caches_before));

    from.run(arguments).assert_code(0);
    let plan = json(&try_out(&["--json"]));
    assert_eq!((&plan["would_make_repository"], plan["to_copy"].as_array().unwrap().len()), (&false.into(), 0));
}
