//! What a local store does to files, one object at a time.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File, Metadata};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Mutex;

use bytes::Bytes;
use jiff::Timestamp;
use rustix::fs::{AtFlags, Mode, OFlags, fsync, mkdirat, openat, unlinkat};
use rustix::io::Errno;

use super::temporary::{self, TemporaryFile};
use crate::store::failure::{Failure, check_existing, check_limit, check_range};
use crate::store::{Key, ObjectEnd, ObjectInfo, PutOutcome, StoreErrorKind};

/// The directory for objects that have no name yet.
pub(super) const TEMPORARY: &str = "tmp";

const DIRECTORY_MODE: u32 = 0o700;
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// The root of a local store. All paths are relative to it; `""` is the root itself.
///
/// It is held open, so that objects never go to the mount point when the file system there is taken away.
#[derive(Debug)]
pub(super) struct Root {
    directory: OwnedFd,
    /// Directories whose entries, and their parents' entries, up to the root, are known to be on the disk. Being there
    /// is not enough: another process may have made one and not synced it yet.
    durable: Mutex<BTreeSet<String>>,
}

impl Root {
    pub(super) fn create(path: &Path, directories: &[Key]) -> Result<Self, Failure> {
        make(path)?;
        let root = Self::open(path)?;
        root.make_directories(directories.iter().map(Key::as_str).chain([TEMPORARY]))?;
        Ok(root)
    }

    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        let directory = match rustix::fs::open(path, DIRECTORY, Mode::empty()) {
            Err(Errno::NOENT) => {
                let reason = "there is no such directory: `init` makes a new repository".to_owned();
                return Err(Failure { kind: StoreErrorKind::NotFound, reason });
            }
            other => other?,
        };
        let root = Self { directory, durable: Mutex::default() };
        if let Err(failure) = root.remove_dead_files() {
            tracing::debug!(path = %path.display(), reason = failure.reason, "leftovers of killed writers stay");
        }
        Ok(root)
    }

    pub(super) fn put(&self, key: &Key, body: &Bytes) -> Result<PutOutcome, Failure> {
        let (parent, name) = split(path_of(key)?);
        let directory = self.directory(parent)?;
        let mut file = TemporaryFile::create(self.directory(TEMPORARY)?)?;
        file.write(body)?;
        let outcome = match file.publish(&directory, name) {
            Ok(()) => PutOutcome::Stored,
            Err(Errno::EXIST) => PutOutcome::Exists,
            Err(errno) => return Err(errno.into()),
        };
        // Whoever stored an object that exists may not have come this far, but our caller relies on it now.
        sync_directory(&directory)?;
        if outcome == PutOutcome::Exists {
            self.check_existing(key, body)?;
        }
        Ok(outcome)
    }

    pub(super) fn get(&self, key: &Key, limit_bytes: u64) -> Result<Bytes, Failure> {
        let (file, metadata) = self.open_object(key, OFlags::RDONLY)?;
        check_limit(metadata.len(), limit_bytes)?;
        read_exactly(&file, metadata.len())
    }

    pub(super) fn get_range(&self, key: &Key, range: &Range<u64>) -> Result<Bytes, Failure> {
        let (mut file, metadata) = self.open_object(key, OFlags::RDONLY)?;
        check_range(range, metadata.len())?;
        file.seek(SeekFrom::Start(range.start))?;
        read_exactly(&file, range.end - range.start)
    }

    pub(super) fn get_end(&self, key: &Key, end_bytes: u64) -> Result<ObjectEnd, Failure> {
        let (mut file, metadata) = self.open_object(key, OFlags::RDONLY)?;
        let size_bytes = metadata.len();
        let start = size_bytes.saturating_sub(end_bytes);
        file.seek(SeekFrom::Start(start))?;
        Ok(ObjectEnd { bytes: read_exactly(&file, size_bytes - start)?, size_bytes })
    }

    pub(super) fn head(&self, key: &Key) -> Result<ObjectInfo, Failure> {
        let (_, metadata) = self.open_object(key, OFlags::PATH)?;
        let modified_at = Timestamp::try_from(metadata.modified()?);
        let modified_at = modified_at.map_err(|error| Failure::other(format!("its time of change: {error}")))?;
        Ok(ObjectInfo { key: key.clone(), size_bytes: metadata.len(), modified_at, storage_class: None })
    }

    pub(super) fn delete(&self, key: &Key) -> Result<(), Failure> {
        match self.open_object(key, OFlags::PATH) {
            Err(Failure { kind: StoreErrorKind::NotFound, .. }) => return Ok(()),
            opened => opened?,
        };
        let (parent, name) = split(path_of(key)?);
        let directory = self.open_directory(parent)?;
        match unlinkat(&directory, name, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
            Ok(()) => Ok(sync_directory(&directory)?),
        }
    }

    pub(super) fn open_directory(&self, path: &str) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { "." } else { path };
        openat(&self.directory, path, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())
    }

    /// Opens a directory that will get an entry, and makes it before if need be.
    fn directory(&self, path: &str) -> Result<OwnedFd, Failure> {
        self.make_directories([path])?;
        match self.open_directory(path) {
            // Somebody has removed it since.
            Err(Errno::NOENT) => {
                self.durable.lock().expect(UNPOISONED).clear();
                self.make_directories([path])?;
                Ok(self.open_directory(path)?)
            }
            other => Ok(other?),
        }
    }

    /// Makes what is missing of these directories and of those they are in, durably.
    fn make_directories<'a>(&self, paths: impl IntoIterator<Item = &'a str>) -> Result<(), Failure> {
        let mut durable = self.durable.lock().expect(UNPOISONED);
        let mut made = BTreeSet::new();
        for path in paths.into_iter().flat_map(with_ancestors) {
            if durable.contains(path) || made.contains(path) {
                continue;
            }
            match mkdirat(&self.directory, path, Mode::from_raw_mode(DIRECTORY_MODE)) {
                Ok(()) | Err(Errno::EXIST) => made.insert(path.to_owned()),
                Err(errno) => return Err(errno.into()),
            };
        }
        let parents: BTreeSet<&str> = made.iter().map(|path| split(path).0).collect();
        for parent in parents {
            sync_directory(&self.open_directory(parent)?)?;
        }
        durable.append(&mut made);
        Ok(())
    }

    fn open_object(&self, key: &Key, mode: OFlags) -> Result<(File, Metadata), Failure> {
        // Without NONBLOCK, opening a pipe would wait for its other end.
        let flags = mode | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(&self.directory, path_of(key)?, flags, Mode::empty()) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG) => return Err(Failure::not_found()),
            Err(Errno::LOOP) => return Err(odd_file()),
            other => File::from(other?),
        };
        let metadata = file.metadata()?;
        if metadata.is_dir() {
            return Err(Failure::not_found());
        }
        if metadata.is_file() { Ok((file, metadata)) } else { Err(odd_file()) }
    }

    fn check_existing(&self, key: &Key, body: &Bytes) -> Result<(), Failure> {
        match self.head(key) {
            Ok(existing) => check_existing(existing.size_bytes, body),
            Err(failure) if failure.kind == StoreErrorKind::NotFound => {
                Err(Failure::other("a directory has this name, or the object was removed at this very moment"))
            }
            Err(failure) => Err(failure),
        }
    }

    fn remove_dead_files(&self) -> Result<(), Failure> {
        match self.open_directory(TEMPORARY) {
            Err(Errno::NOENT) => Ok(()),
            other => temporary::remove_dead_files(&other?),
        }
    }
}

const UNPOISONED: &str = "nothing panics while it holds the set";

/// What is neither a file nor a directory.
pub(super) fn odd_file() -> Failure {
    Failure::other("this is neither a regular file nor a directory; the store has nothing else")
}

/// The path of an object, unless it would be among the temporary files.
fn path_of(key: &Key) -> Result<&str, Failure> {
    if key.as_str().split('/').next() == Some(TEMPORARY) {
        return Err(Failure::other("keys below 'tmp/' are the store's own"));
    }
    Ok(key.as_str())
}

/// Parts a path into directory and name.
fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// `a`, `a/b` and `a/b/c` for `a/b/c`; nothing for the root.
fn with_ancestors(path: &str) -> impl Iterator<Item = &str> {
    let ends = path.match_indices('/').map(|(position, _)| position).chain([path.len()]);
    ends.map(|end| &path[..end]).filter(|path| !path.is_empty())
}

/// Makes a directory in one that is there, durably.
fn make(path: &Path) -> Result<(), Failure> {
    if path.try_exists()? {
        return Ok(());
    }
    check_parent(path)?;
    match DirBuilder::new().mode(DIRECTORY_MODE).create(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        other => other?,
    }
    Ok(sync_directory(&rustix::fs::open(parent_of(path), DIRECTORY, Mode::empty())?)?)
}

/// Whether a directory is there; if not, checks that it can be made in one that is. Where a disk is not mounted, all that was to go
/// there would fill up another one.
pub(super) fn is_there(path: &Path) -> Result<bool, Failure> {
    let is_there = path.try_exists()?;
    if !is_there {
        check_parent(path)?;
    }
    Ok(is_there)
}

fn check_parent(path: &Path) -> Result<(), Failure> {
    let is_missing = |path: &&Path| !path.as_os_str().is_empty() && !path.try_exists().unwrap_or(true);
    let Some(missing) = parent_of(path).ancestors().take_while(is_missing).last() else { return Ok(()) };
    let reason = format!("there is no {}: mount what it is on, or make it (mkdir -p)", missing.display());
    Err(Failure { kind: StoreErrorKind::NotFound, reason })
}

fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Has the entries of a directory on the disk when it returns. Some file systems (CIFS, FUSE) cannot be asked to.
fn sync_directory(directory: &OwnedFd) -> Result<(), Errno> {
    match fsync(directory) {
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(()),
        other => other,
    }
}

/// Reads what is known to be there; a file cut short meanwhile is an error.
fn read_exactly(file: &File, length_bytes: u64) -> Result<Bytes, Failure> {
    let capacity = usize::try_from(length_bytes).map_err(|_| Failure::other("it is larger than memory"))?;
    let mut body = Vec::with_capacity(capacity);
    file.take(length_bytes).read_to_end(&mut body)?;
    if body.len() < capacity {
        return Err(Failure::other(format!("it ended after {} of {length_bytes} bytes", body.len())));
    }
    Ok(body.into())
}
