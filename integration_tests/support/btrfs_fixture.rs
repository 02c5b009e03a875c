//! A Btrfs file system on a loop device, for one test.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::process::{command, succeed};

/// A fresh Btrfs in a sparse image, unmounted and removed when dropped.
///
/// Needs root. The loop device is the kernel's to release (autoclear), so it is gone with the mount however the test
/// ends.
pub(crate) struct TestBtrfs {
    mount_point: PathBuf,
    folder: tempfile::TempDir,
}

impl TestBtrfs {
    /// Makes and mounts a file system of `size_mib`, at least 110; `mount_options` as in mount(8), possibly none.
    #[track_caller]
    pub(crate) fn new(size_mib: u64, mount_options: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("btrfs_to_s3-test-").tempdir().unwrap();
        let image = folder.path().join("image");
        File::create(&image).and_then(|file| file.set_len(size_mib << 20)).unwrap();
        succeed(command("mkfs.btrfs").arg("--quiet").arg(&image));
        let mount_point = folder.path().join("mounted");
        fs::create_dir(&mount_point).unwrap();
        let options = ["loop", mount_options].join(",");
        let options = options.trim_end_matches(',');
        succeed(command("mount").args(["-t", "btrfs", "-o", options]).arg(&image).arg(&mount_point));
        Self { mount_point, folder }
    }

    /// Has `change` change it, and then loses all that is not on the disk, as when the machine dies.
    ///
    /// The image is copied as it is then; the copy is mounted in its place.
    #[track_caller]
    pub(crate) fn crash_after(&mut self, change: impl FnOnce(&Path)) {
        change(&self.mount_point);
        let (image, copy) = (self.folder.path().join("image"), self.folder.path().join("copy"));
        succeed(command("cp").arg("--sparse=always").arg(&image).arg(&copy));
        succeed(command("umount").arg(&self.mount_point));
        fs::rename(&copy, &image).unwrap();
        succeed(command("mount").args(["-t", "btrfs", "-o", "loop,noatime"]).arg(&image).arg(&self.mount_point));
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        &self.mount_point
    }

    /// All subvolumes, each with its UUID and its path below [`path`](Self::path), in the order they were made.
    pub(crate) fn subvolumes(&self) -> Vec<(String, PathBuf)> {
        let listed = succeed(command("btrfs").args(["subvolume", "list", "-u"]).arg(self.path())).text();
        listed.lines().map(|line| self.subvolume(line)).collect()
    }

    fn subvolume(&self, line: &str) -> (String, PathBuf) {
        let (head, path) = line.split_once(" path ").unwrap();
        let (_, uuid) = head.rsplit_once(' ').unwrap();
        (uuid.to_owned(), self.path().join(path))
    }
}

impl Drop for TestBtrfs {
    #[expect(clippy::print_stderr, reason = "a panic here would hide why the test failed")]
    fn drop(&mut self) {
        let unmounted = command("umount").arg(&self.mount_point).output();
        if !unmounted.as_ref().is_ok_and(|output| output.status.success()) {
            // Something still uses it, such as a program of a failed test; the kernel unmounts when that ends.
            eprintln!("{}: {unmounted:?}; unmounting lazily", self.folder.path().display());
            drop(command("umount").arg("--lazy").arg(&self.mount_point).output());
        }
    }
}
