//! Files that are objects to be: locked while their writer lives, without a name until they are whole.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use rustix::fs::{
    AtFlags, Dir, FlockOperation, Mode, OFlags, RenameFlags, flock, linkat, openat, renameat_with, unlinkat,
};
use rustix::io::Errno;

use crate::id::Salt;
use crate::store::failure::Failure;

const FILE_MODE: u32 = 0o600;

/// A file in the directory for temporary ones; removed when dropped.
#[derive(Debug)]
pub(super) struct TemporaryFile {
    directory: OwnedFd,
    name: String,
    file: File,
    is_moved: bool,
}

impl TemporaryFile {
    /// Makes a file and locks it, so that [`remove_dead_files`] of any process leaves it alone.
    pub(super) fn create(directory: OwnedFd) -> Result<Self, Failure> {
        // Between the making and the locking another process may take the file for dead. It is then made again, and
        // that another process comes by in this moment each time is beyond reason.
        let mut directory = directory;
        for _ in 0..100 {
            let file = Self::create_unlocked(directory)?;
            if file.claim()? {
                return Ok(file);
            }
            directory = file.directory.try_clone()?;
        }
        Err(Failure::other("its temporary file was removed again and again"))
    }

    fn create_unlocked(directory: OwnedFd) -> Result<Self, Failure> {
        let name = format!("{}-{}", std::process::id(), Salt::random());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = File::from(openat(&directory, name.as_str(), flags, Mode::from_raw_mode(FILE_MODE))?);
        Ok(Self { directory, name, file, is_moved: false })
    }

    /// Locks the file; says whether it is still there and nobody else's.
    fn claim(&self) -> Result<bool, Failure> {
        match flock(&self.file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => Ok(false),
            // Where a file system has no locks, nobody else gets one to remove the file either.
            Ok(()) | Err(_) => Ok(self.file.metadata()?.nlink() > 0),
        }
    }

    /// Appends to the file and has it on the disk when it returns.
    pub(super) fn write(&mut self, body: &[u8]) -> io::Result<()> {
        self.file.write_all(body)?;
        self.file.sync_all()
    }

    /// Gives the file its name, unless something has that: then this is [`Errno::EXIST`].
    pub(super) fn publish(mut self, directory: impl AsFd, name: &str) -> Result<(), Errno> {
        match renameat_with(&self.directory, &self.name, &directory, name, RenameFlags::NOREPLACE) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => self.publish_by_link(directory, name),
            Err(errno) => Err(errno),
            Ok(()) => {
                self.is_moved = true;
                Ok(())
            }
        }
    }

    /// As [`Self::publish`], for file systems that cannot rename without replacing (NFS).
    fn publish_by_link(self, directory: impl AsFd, name: &str) -> Result<(), Errno> {
        linkat(&self.directory, &self.name, directory, name, AtFlags::empty())
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        if self.is_moved {
            return;
        }
        if let Err(errno) = unlinkat(&self.directory, &self.name, AtFlags::empty()) {
            tracing::debug!(name = self.name, reason = %errno, "a temporary file stays until the store is opened again");
        }
    }
}

/// Removes the files of writers that are dead, known by nobody having them locked.
pub(super) fn remove_dead_files(directory: &OwnedFd) -> Result<(), Failure> {
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(directory, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => continue,
            other => other?,
        };
        // A file whose writer is done between these lines has left this directory, and its name is never used again.
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            match unlinkat(directory, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn open(path: &Path) -> OwnedFd {
        rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap()
    }

    fn names(path: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            path.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_that_its_writer_holds_stays_and_one_that_nobody_holds_goes() {
        let folder = tempfile::tempdir().unwrap();
        let directory = open(folder.path());
        let held = TemporaryFile::create(open(folder.path())).unwrap();
        std::fs::write(folder.path().join("1-dead"), b"half").unwrap();

        remove_dead_files(&directory).unwrap();
        assert_eq!(names(folder.path()), [held.name.as_str()]);

        held.publish(&directory, "object").unwrap();
        assert_eq!(names(folder.path()), ["object"]);
    }

    #[test]
    fn a_file_that_is_taken_for_dead_before_it_is_locked_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let file = TemporaryFile::create_unlocked(open(folder.path())).unwrap();
        remove_dead_files(&open(folder.path())).unwrap();
        assert!(!file.claim().unwrap());
    }

    #[test]
    fn a_file_that_another_process_is_about_to_remove_is_not_claimed() {
        let folder = tempfile::tempdir().unwrap();
        let file = TemporaryFile::create_unlocked(open(folder.path())).unwrap();
        let other = File::open(folder.path().join(&file.name)).unwrap();
        flock(&other, FlockOperation::NonBlockingLockExclusive).unwrap();
        assert!(!file.claim().unwrap());
    }

    #[test]
    fn a_dropped_file_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = TemporaryFile::create(open(folder.path())).unwrap();
        file.write(b"half").unwrap();
        drop(file);
        assert_eq!(names(folder.path()), [""; 0]);
    }

    #[test]
    fn without_renaming_a_link_gives_the_name_and_replaces_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let directory = open(folder.path());
        let publish = |body: &[u8]| {
            let mut file = TemporaryFile::create(open(folder.path())).unwrap();
            file.write(body).unwrap();
            file.publish_by_link(&directory, "object")
        };
        assert_eq!(publish(b"first"), Ok(()));
        assert_eq!(publish(b"second"), Err(Errno::EXIST));
        assert_eq!(names(folder.path()), ["object"]);
        assert_eq!(std::fs::read(folder.path().join("object")).unwrap(), b"first");
    }
}
