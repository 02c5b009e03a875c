//! Keeps two runs on one host apart.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::clock::Clock;

/// How much of a lock file is read to say who holds it.
const HOLDER_BYTES: u64 = 200;

/// A host's lock, held until it is dropped or the process ends, however that happens.
///
/// What counts is the lock that the kernel keeps on the open file. What the file says, whether it is there, and which
/// process id it names never matter.
#[derive(Debug)]
pub struct HostLock {
    _file: File,
}

/// Why a lock was not acquired.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another run holds it.
    #[error("another run holds the lock {}{holder}", path.display())]
    Held {
        /// The lock file.
        path: PathBuf,
        /// Who seems to hold it, in words, for the message only: empty, or in brackets after a space.
        holder: String,
    },
    /// The file cannot be made, opened or locked.
    #[error("locking {}", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl HostLock {
    /// Acquires the lock, or fails at once if another process, or another part of this one, holds it.
    ///
    /// Makes the file and the folders above it if they are missing. Processes started meanwhile do not keep it.
    ///
    /// # Errors
    ///
    /// [`LockError`].
    pub fn acquire(path: &Path, clock: &dyn Clock) -> Result<Self, LockError> {
        let failed = |source: io::Error| LockError::Io { path: path.to_owned(), source };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        loop {
            let mut file = open(path).map_err(failed)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Err(held(path, &mut file)),
                Err(errno) => return Err(failed(errno.into())),
            }
            // Something that cleans up may have removed the file in between: a lock on it would keep nobody out.
            if is_still_at(&file, path).map_err(failed)? {
                introduce(&mut file, clock).map_err(failed)?;
                return Ok(Self { _file: file });
            }
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

fn is_still_at(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    match fs::metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn introduce(file: &mut File, clock: &dyn Clock) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    let words = format!("process {}, started at {}\n", std::process::id(), clock.now());
    // In one piece: somebody else may read it at any moment.
    file.write_all(words.as_bytes())
}

fn held(path: &Path, file: &mut File) -> LockError {
    let mut text = String::new();
    // Only words in a message: if they cannot be read, there are none.
    let read = file.take(HOLDER_BYTES).read_to_string(&mut text);
    let words = text.lines().next().filter(|line| read.is_ok() && !line.is_empty());
    let holder = words.map(|words| format!(" ({})", words.escape_debug())).unwrap_or_default();
    LockError::Held { path: path.to_owned(), holder }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::clock::SystemClock;

    #[test]
    fn a_second_run_is_refused_until_the_first_has_ended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/folders/lock");
        let first = HostLock::acquire(&path, &SystemClock).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let error = HostLock::acquire(&path, &SystemClock).unwrap_err();
        assert!(matches!(&error, LockError::Held { .. }), "{error}");
        assert!(error.to_string().contains(&format!("(process {}, started at ", std::process::id())), "{error}");
        drop(first);
        HostLock::acquire(&path, &SystemClock).unwrap();
    }

    #[test]
    fn what_an_old_file_says_does_not_matter() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        for content in [String::new(), "process 1, started at 1970".to_owned(), "x".repeat(1 << 20)] {
            fs::write(&path, content).unwrap();
            let _lock = HostLock::acquire(&path, &SystemClock).unwrap();
            let text = fs::read_to_string(&path).unwrap();
            assert!(text.starts_with(&format!("process {}, ", std::process::id())) && text.len() < 100, "{text}");
        }
    }

    #[test]
    fn a_held_lock_whose_file_is_empty_is_not_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let _lock = HostLock::acquire(&path, &SystemClock).unwrap();
        for content in [&b""[..], b"\xff\xfe", b"\x1b[2J"] {
            fs::write(&path, content).unwrap();
            let error = HostLock::acquire(&path, &SystemClock).unwrap_err();
            assert!(matches!(&error, LockError::Held { .. }), "{error}");
            assert!(!error.to_string().contains('\x1b'));
        }
    }

    #[test]
    fn a_file_that_is_replaced_does_not_let_two_runs_in_by_itself() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let file = open(&path).unwrap();
        assert!(is_still_at(&file, &path).unwrap());
        fs::remove_file(&path).unwrap();
        assert!(!is_still_at(&file, &path).unwrap());
        fs::write(&path, "").unwrap();
        assert!(!is_still_at(&file, &path).unwrap());
    }

    #[test]
    fn a_path_that_cannot_be_a_file_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let error = HostLock::acquire(folder.path(), &SystemClock).unwrap_err();
        assert!(error.to_string().contains(&*folder.path().to_string_lossy()), "{error}");
    }
}
