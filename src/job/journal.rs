//! Which snapshots a run has under way, so that the next run can delete those that a killed one has left.
//!
//! Written before the snapshots are taken: one that no journal lists is somebody else's, or one that `backup --no-s3` has
//! taken to stay. The journal is a hint and no more. Without it, a snapshot stays that is of no use; an older copy of it
//! lists snapshots which have backups by now, or are gone.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

const FILE: &str = "under_way";
/// A path can have every other byte.
const END_OF_PATH: u8 = 0;

/// The list of snapshots under way, for one repository. Another process cannot open it meanwhile.
#[derive(Debug)]
pub(super) struct Journal {
    folder: PathBuf,
    snapshots: BTreeSet<PathBuf>,
    /// The kernel's lock on the folder ends with the process: what is listed once it is had belongs to no living run.
    lock: File,
}

impl Journal {
    /// Opens the journal in `folder`, which is made if it is missing.
    ///
    /// # Errors
    ///
    /// If another run has it, or the disk fails.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let lock = File::open(folder)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        let text = match fs::read(folder.join(FILE)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            read => read?,
        };
        Ok(Self { folder: folder.to_owned(), snapshots: parse(&text), lock })
    }

    /// The paths it lists.
    pub(super) fn snapshots(&self) -> &BTreeSet<PathBuf> {
        &self.snapshots
    }

    /// Lists snapshots that are about to be taken. When this returns, they are listed on the disk.
    ///
    /// # Errors
    ///
    /// If the disk fails.
    pub(super) fn add(&mut self, paths: impl IntoIterator<Item = PathBuf>) -> io::Result<()> {
        self.snapshots.extend(paths);
        self.save()
    }

    /// Takes a snapshot off the list: it has a backup, or is gone. Reaches the disk with the next [`save`](Self::save).
    pub(super) fn remove(&mut self, path: &Path) {
        self.snapshots.remove(path);
    }

    /// Writes the list to the disk, durably.
    ///
    /// # Errors
    ///
    /// If the disk fails.
    pub(super) fn save(&self) -> io::Result<()> {
        let (file, temporary) = (self.folder.join(FILE), self.folder.join("new"));
        if self.snapshots.is_empty() {
            return match fs::remove_file(file) {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        let mut written = File::create(&temporary)?;
        written.write_all(&text_of(&self.snapshots))?;
        written.sync_all()?;
        fs::rename(temporary, file)?;
        self.lock.sync_all()
    }
}

fn text_of(snapshots: &BTreeSet<PathBuf>) -> Vec<u8> {
    let bytes = |path: &PathBuf| [path.as_os_str().as_bytes(), &[END_OF_PATH]].concat();
    snapshots.iter().flat_map(bytes).collect()
}

/// What comes after the last end of a path is none.
fn parse(text: &[u8]) -> BTreeSet<PathBuf> {
    let paths = text.split_inclusive(|byte| *byte == END_OF_PATH);
    let whole = paths.filter_map(|path| path.strip_suffix(&[END_OF_PATH]));
    whole.map(|path| PathBuf::from(OsStr::from_bytes(path))).filter(|path| path.is_absolute()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(texts: &[&str]) -> BTreeSet<PathBuf> {
        texts.iter().map(PathBuf::from).collect()
    }

    #[test]
    fn what_a_killed_run_has_listed_the_next_one_reads() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("new/folder");
        let mut journal = Journal::open(&folder).unwrap();
        assert_eq!(journal.snapshots(), &paths(&[]));
        journal.add(paths(&["/a/one\ntwo", "/b/ü"])).unwrap();
        journal.remove(Path::new("/b/ü"));
        drop(journal);
        let mut journal = Journal::open(&folder).unwrap();
        assert_eq!(journal.snapshots(), &paths(&["/a/one\ntwo", "/b/ü"]));
        journal.remove(Path::new("/b/ü"));
        journal.save().unwrap();
        drop(journal);
        assert_eq!(Journal::open(&folder).unwrap().snapshots(), &paths(&["/a/one\ntwo"]));
    }

    #[test]
    fn an_empty_list_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(folder.path()).unwrap();
        journal.save().unwrap();
        journal.add(paths(&["/a"])).unwrap();
        journal.remove(Path::new("/a"));
        journal.save().unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_journal_of_a_living_run_is_not_opened() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        assert_eq!(Journal::open(folder.path()).unwrap_err().kind(), ErrorKind::WouldBlock);
        drop(journal);
        Journal::open(folder.path()).unwrap();
    }

    #[test]
    fn of_a_damaged_file_only_whole_absolute_paths_are_taken() {
        for (text, expected) in [
            (&b""[..], &[][..]),
            (b"/whole\0/cut sho", &["/whole"]),
            (b"relative\0\0/whole\0", &["/whole"]),
            (b"no end", &[]),
        ] {
            assert_eq!(parse(text), paths(expected), "{text:?}");
        }
    }
}
