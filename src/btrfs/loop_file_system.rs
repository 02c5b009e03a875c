//! A Btrfs in a file, for what is only tried out: mounted through a loop device, and gone afterwards.
//!
//! Its mount is in a mount namespace of this process alone, if [`enter_own_mounts`] was called in time. Then the kernel takes mount
//! and loop device away when the process ends, however it ends; only the file is left to whoever made it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};
use rustix::thread::UnshareFlags;

use super::BtrfsError;
use super::command::run_program;
use super::subvolume::require_root;

/// Btrfs has its own data in this, whatever is put into it.
const LEAST_BYTES: u64 = 1 << 30;

/// Gives this process mounts of its own: those of others come and go in it as outside, and what it mounts is seen by it alone.
///
/// Threads that there are already do not take part, so it has to be called before any is started.
///
/// # Errors
///
/// If this is not root, or the kernel refuses.
pub fn enter_own_mounts() -> Result<(), BtrfsError> {
    require_root("mounting a file system to receive into")?;
    let root = Path::new("/");
    let failed = |errno: Errno| BtrfsError::io("making a mount namespace for", root)(errno);
    #[expect(deprecated, reason = "its successor is unsafe for the sake of other flags than this one")]
    rustix::thread::unshare(UnshareFlags::NEWNS).map_err(failed)?;
    mount_change(root, MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC).map_err(failed)
}

/// A Btrfs in a file, mounted until this is dropped.
#[derive(Debug)]
pub struct LoopFileSystem {
    mount_point: PathBuf,
}

impl LoopFileSystem {
    /// Makes one with room for `bytes` in a new file in `folder`, and mounts it there. The file takes room as it is written to.
    ///
    /// `mkfs.btrfs` and `mount` are looked for in `search_path`, then where they usually are. The loop device is the kernel's
    /// to release, with the mount.
    ///
    /// # Errors
    ///
    /// [`BtrfsError`]: one of the programs is missing or fails; the file cannot be made.
    pub fn make(folder: &Path, bytes: u64, search_path: Option<&OsStr>) -> Result<Self, BtrfsError> {
        require_root("mounting a file system to receive into")?;
        let (image, mount_point) = (folder.join("image"), folder.join("mounted"));
        let file = File::create_new(&image).map_err(BtrfsError::io("making", &image))?;
        file.set_len(bytes.saturating_add(LEAST_BYTES)).map_err(BtrfsError::io("making", &image))?;
        fs::create_dir(&mount_point).map_err(BtrfsError::io("making", &mount_point))?;
        // Metadata once is enough of what is deleted within the hour.
        let mkfs = ["--quiet", "--metadata", "single", "--"].map(OsStr::new);
        run_program("mkfs.btrfs", search_path, &[&mkfs[..], &[image.as_os_str()]].concat())?;
        let mount = ["-t", "btrfs", "-o", "loop,noatime", "--"].map(OsStr::new);
        run_program("mount", search_path, &[&mount[..], &[image.as_os_str(), mount_point.as_os_str()]].concat())?;
        Ok(Self { mount_point })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.mount_point
    }

    /// Unmounts it.
    ///
    /// # Errors
    ///
    /// If something still uses it. It goes then when that ends.
    pub fn unmount(self) -> Result<(), BtrfsError> {
        unmount(&self.mount_point, UnmountFlags::empty()).map_err(BtrfsError::io("unmounting", &self.mount_point))
    }
}

impl Drop for LoopFileSystem {
    fn drop(&mut self) {
        match unmount(&self.mount_point, UnmountFlags::DETACH) {
            // It was unmounted before.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(errno) => tracing::warn!("{} cannot be unmounted: {errno}", self.mount_point.display()),
        }
    }
}
