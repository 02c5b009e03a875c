//! A file system that is soon full, or read-only, for one test.

use std::fs;
use std::path::{Path, PathBuf};

use super::process::{command, succeed};

/// A file system in memory, gone when dropped. Needs root.
pub(crate) struct SmallDisk {
    mount_point: PathBuf,
    _folder: tempfile::TempDir,
}

impl SmallDisk {
    #[track_caller]
    pub(crate) fn new(size_kib: u64) -> Self {
        let folder = tempfile::Builder::new().prefix("btrfs_to_s3-test-").tempdir().unwrap();
        let mount_point = folder.path().join("mounted");
        fs::create_dir(&mount_point).unwrap();
        let options = format!("size={size_kib}k");
        succeed(command("mount").args(["-t", "tmpfs", "-o", &options, "none"]).arg(&mount_point));
        Self { mount_point, _folder: folder }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.mount_point
    }

    /// Changes how it is mounted, as by `mount -o remount,OPTIONS`.
    #[track_caller]
    pub(crate) fn remount(&self, options: &str) {
        succeed(command("mount").arg("-o").arg(format!("remount,{options}")).arg(&self.mount_point));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // What still uses it is a program of a test that has failed.
        drop(command("umount").arg("--lazy").arg(&self.mount_point).output());
    }
}
