//! The trees that are backed up, and the comparison that judges what was restored.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::process::{command, succeed};

/// Fills the subvolume with every kind of inode, name and attribute.
#[track_caller]
pub(crate) fn seed(subvolume: &Path, size_mib: u64) {
    succeed(tree_tool("seed", subvolume).args(["--seed", "1", "--size-mib", &size_mib.to_string()]));
}

/// Makes the changes of one night.
#[track_caller]
pub(crate) fn mutate(subvolume: &Path, night: u64) {
    succeed(tree_tool("mutate", subvolume).args(["--seed", "1", "--night", &night.to_string()]));
}

/// What a tree was at one moment, written to a file.
pub(crate) struct Recorded {
    folder: tempfile::TempDir,
}

impl Recorded {
    #[track_caller]
    pub(crate) fn of(tree: &Path) -> Self {
        let recorded = Self { folder: tempfile::tempdir().unwrap() };
        let list = File::create(recorded.list()).unwrap();
        let status = tree_tool("record", tree).stdout(list).status().unwrap();
        assert!(status.success(), "recording {} failed", tree.display());
        recorded
    }

    /// Fails the test with a line for each difference unless `tree` is what was recorded.
    #[track_caller]
    pub(crate) fn assert_equals(&self, tree: &Path) {
        succeed(tree_tool("compare", tree).arg(self.list()));
    }

    fn list(&self) -> PathBuf {
        self.folder.path().join("list.json")
    }
}

fn tree_tool(what: &str, tree: &Path) -> Command {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("integration_tests/tools/tree.py");
    let mut tool = command("python3");
    tool.env("PYTHONDONTWRITEBYTECODE", "1").arg(script).arg(what).arg(tree);
    tool
}

/// Bytes that no compression and no deduplication makes smaller, different for each `seed`.
pub(crate) fn random_bytes(length: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// The sizes of all files below `directory`, added up.
pub(crate) fn total_bytes(directory: &Path) -> u64 {
    files(directory).iter().map(|path| fs::metadata(path).unwrap().len()).sum()
}

/// All files below `directory`, sorted.
pub(crate) fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found.sort();
    found
}
