//! What the program says of itself.

use std::collections::BTreeSet;
use std::fs;

use crate::support::tool::Tool;

#[test]
fn there_is_a_manual_page_for_each_command() {
    let tool = Tool::without_configuration();
    let folder = tool.folder().join("man");
    tool.run(["man", "--directory", folder.to_str().unwrap()]).assert_code(0);
    let pages: BTreeSet<String> =
        fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let help = tool.run(["--help"]).text();
    let commands = help.split("Commands:").nth(1).unwrap().split("Options:").next().unwrap();
    // Descriptions go on further in.
    let lines = commands.lines().filter_map(|line| line.strip_prefix("  ")).filter(|line| !line.starts_with(' '));
    let names = lines.filter_map(|line| line.split_whitespace().next());
    let expected: BTreeSet<&str> = names.filter(|name| *name != "help").collect();
    assert!(expected.contains("backup") && expected.contains("restore"), "{expected:?}");
    for name in expected {
        assert!(pages.contains(&format!("btrfs_to_s3-{name}.1")), "{name} is not among {pages:?}");
    }
    assert!(fs::read_to_string(folder.join("btrfs_to_s3-backup.1")).unwrap().contains("\\-\\-dry\\-run"));
}

#[test]
fn there_are_completions_for_each_shell() {
    let tool = Tool::without_configuration();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ended = tool.run(["completions", shell]);
        ended.assert_code(0);
        assert!(ended.text().contains("dry-run"), "{shell}");
    }
    tool.run(["completions", "cmd.exe"]).assert_code(2);
}
