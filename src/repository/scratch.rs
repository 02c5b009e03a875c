//! Folders that are gone with the process that made them, or with the next one that looks.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::Context;
use rustix::fs::{FlockOperation, flock};

use crate::id::Salt;

/// A folder that is removed when it is dropped. If the process is killed, the next folder made beside it removes it.
#[derive(Debug)]
pub struct ScratchFolder {
    path: PathBuf,
    /// The kernel's lock on it, which ends with the process, says that it is in use.
    _lock: File,
}

impl ScratchFolder {
    /// Makes a folder in `parent`, which is made if it is missing, and removes what killed processes have left there.
    ///
    /// # Errors
    ///
    /// If the folder cannot be made.
    pub fn make(parent: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
        // Nobody sweeps while a folder is made and not locked yet.
        let parent_lock = File::open(parent).with_context(|| format!("opening {}", parent.display()))?;
        flock(&parent_lock, FlockOperation::LockExclusive).with_context(|| format!("locking {}", parent.display()))?;
        sweep(parent);
        let path = parent.join(Salt::random().to_string());
        fs::create_dir(&path).with_context(|| format!("making {}", path.display()))?;
        let lock = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .with_context(|| format!("locking {}", path.display()))?;
        Ok(Self { path, _lock: lock })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ScratchFolder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a temporary folder cannot be removed now");
        }
    }
}

/// Removes folders that nobody holds. What cannot be removed now is left to the next time.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let is_ours = name.to_str().is_some_and(|name| name.parse::<Salt>().is_ok());
        let unused = |folder: &File| flock(folder, FlockOperation::NonBlockingLockExclusive).is_ok();
        if is_ours && File::open(entry.path()).as_ref().is_ok_and(unused) {
            drop(fs::remove_dir_all(entry.path()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_gone_when_it_is_dropped() {
        let parent = tempfile::tempdir().unwrap();
        let folder = ScratchFolder::make(&parent.path().join("new")).unwrap();
        fs::write(folder.path().join("file"), "x").unwrap();
        let path = folder.path().to_owned();
        drop(folder);
        assert!(!path.exists());
    }

    #[test]
    fn what_a_killed_process_has_left_is_removed_and_what_is_in_use_is_not() {
        let parent = tempfile::tempdir().unwrap();
        let left = parent.path().join(Salt::random().to_string());
        let foreign = parent.path().join("somebody-elses");
        fs::create_dir_all(left.join("deep")).unwrap();
        fs::create_dir(&foreign).unwrap();
        let first = ScratchFolder::make(parent.path()).unwrap();
        let second = ScratchFolder::make(parent.path()).unwrap();
        assert!(!left.exists());
        assert!(foreign.exists() && first.path().exists() && second.path().exists());
    }
}
