//! The snapshots that backups are made from: how they are named, made, found, and which are let go.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use rustix::fs::{Access, AtFlags, Mode, OFlags, accessat, openat};

use super::BtrfsError;
use super::ioctl;
use super::subvolume::{self, Subvolume, SubvolumeInfo};
use crate::clock::Clock;
use crate::id::Uuid;

const TIME_FORMAT: &str = "%Y%m%dT%H%M%S.%9fZ";
const TIME_LENGTH: usize = "20260102T030405.123456789Z".len();
/// With the time, a name must stay below the 255 bytes that a folder's entry may have.
const LARGEST_NAME: usize = 200;
/// How many names are tried where others exist already.
const LARGEST_NUMBER_OF_TRIES: u32 = 1000;

/// The name of a snapshot: the subvolume's name, a dot, and the time in UTC, as in `home.20260102T030405.123456789Z`.
///
/// As the time always has the same length, no snapshot of one subvolume can be taken for one of another, whatever
/// their names are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotName {
    subvolume: String,
    taken_at: Timestamp,
}

impl SnapshotName {
    /// Puts a name together.
    ///
    /// # Errors
    ///
    /// [`BtrfsError::InvalidName`] where the subvolume's name is empty, longer than 200 bytes or has other characters
    /// than letters, digits, `.`, `_` and `-`.
    pub fn new(subvolume: &str, taken_at: Timestamp) -> Result<Self, BtrfsError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if subvolume.is_empty() || subvolume.len() > LARGEST_NAME || !subvolume.chars().all(plain) {
            return Err(BtrfsError::InvalidName { name: subvolume.to_owned() });
        }
        Ok(Self { subvolume: subvolume.to_owned(), taken_at })
    }

    /// Reads a name. `None` for everything that [`Display`](fmt::Display) would not write in exactly this way.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (subvolume, time) = text.split_at_checked(text.len().checked_sub(TIME_LENGTH)?)?;
        let taken_at = TimeZone::UTC.to_timestamp(DateTime::strptime(TIME_FORMAT, time).ok()?).ok()?;
        let name = Self::new(subvolume.strip_suffix('.')?, taken_at).ok()?;
        (name.to_string() == text).then_some(name)
    }

    /// The subvolume's name.
    #[must_use]
    pub fn subvolume(&self) -> &str {
        &self.subvolume
    }

    /// When the snapshot was taken, by the host's clock.
    #[must_use]
    pub fn taken_at(&self) -> Timestamp {
        self.taken_at
    }
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.subvolume, self.taken_at.strftime(TIME_FORMAT))
    }
}

/// A snapshot on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its name.
    pub name: SnapshotName,
    /// Where it is.
    pub path: PathBuf,
    /// What the kernel keeps about it.
    pub info: SubvolumeInfo,
}

/// Where the next snapshot goes: a path that is free now, with a name of this moment.
///
/// # Errors
///
/// [`BtrfsError::InvalidName`], or if the path of `base_dir` cannot be resolved.
pub fn plan(base_dir: &Path, subvolume: &str, clock: &dyn Clock) -> Result<PathBuf, BtrfsError> {
    let base_dir = std::path::absolute(base_dir).map_err(BtrfsError::io("resolving", base_dir))?;
    let mut name = SnapshotName::new(subvolume, clock.now())?;
    for _ in 0..LARGEST_NUMBER_OF_TRIES {
        let path = base_dir.join(name.to_string());
        if path.symlink_metadata().is_err() {
            return Ok(path);
        }
        name.taken_at = name.taken_at.saturating_add(SignedDuration::from_nanos(1)).unwrap_or(name.taken_at);
    }
    let exhausted = io::Error::from(io::ErrorKind::AlreadyExists);
    Err(BtrfsError::io("finding a free name for a snapshot in", &base_dir)(exhausted))
}

/// Takes a read-only snapshot of the subvolume at `source` at the path that [`plan`] has given. The folder it is in is
/// made if only that is missing.
///
/// When this returns, the snapshot and everything that had been written to the subvolume before are on the disk. A
/// crash leaves the whole snapshot or none.
///
/// # Errors
///
/// [`BtrfsError`]: not root, not a subvolume, the path on another file system, or in use by now.
pub fn create(source: &Path, path: &Path) -> Result<Snapshot, BtrfsError> {
    subvolume::require_root("taking a snapshot")?;
    let (base_dir, name) = parted(path)?;
    let source_fd = subvolume::open_subvolume(source)?;
    let base_fd = open_base_dir(base_dir, &source_fd, source)?;
    ioctl::create_snapshot(&source_fd, &base_fd, name.to_string().as_ref(), true)
        .map_err(BtrfsError::io("creating the snapshot", path))?;
    Ok(Snapshot { name, path: path.to_owned(), info: subvolume::subvolume_info(path)? })
}

/// The snapshot at a path that [`plan`] has given, if there is one.
///
/// # Errors
///
/// [`BtrfsError`] if that cannot be told: the folder it would be in is missing or not on Btrfs, as when its file system
/// is not mounted, or cannot be read.
pub fn find(path: &Path) -> Result<Option<Snapshot>, BtrfsError> {
    let (base_dir, name) = parted(path)?;
    look_at(&subvolume::open_on_btrfs(base_dir)?, base_dir, name)
}

/// The folder and the name of a snapshot.
fn parted(path: &Path) -> Result<(&Path, SnapshotName), BtrfsError> {
    let name = path.file_name().and_then(|name| name.to_str()).and_then(SnapshotName::parse);
    path.parent().zip(name).ok_or_else(|| BtrfsError::InvalidName { name: path.to_string_lossy().into_owned() })
}

/// Checks that snapshots of the subvolume at `source` can be in `base_dir`, which need not be there yet if only it is missing.
///
/// # Errors
///
/// [`BtrfsError`]: `source` is no subvolume, or `base_dir` is on another file system, or cannot be written to.
pub fn check_base_dir(source: &Path, base_dir: &Path) -> Result<(), BtrfsError> {
    let source_fd = subvolume::open_subvolume(source)?;
    let folder = match open_on_same(base_dir, &source_fd, source) {
        Err(BtrfsError::NotFound { .. }) => {
            let absolute = std::path::absolute(base_dir).map_err(BtrfsError::io("resolving", base_dir))?;
            open_on_same(absolute.parent().unwrap_or(&absolute), &source_fd, source)?
        }
        opened => opened?,
    };
    accessat(&folder, ".", Access::WRITE_OK, AtFlags::empty()).map_err(BtrfsError::io("writing to", base_dir))
}

fn open_base_dir(base_dir: &Path, source_fd: &OwnedFd, source: &Path) -> Result<OwnedFd, BtrfsError> {
    match open_on_same(base_dir, source_fd, source) {
        Err(BtrfsError::NotFound { .. }) => {}
        opened => return opened,
    }
    let absolute = std::path::absolute(base_dir).map_err(BtrfsError::io("resolving", base_dir))?;
    // A folder on another file system, such as one on which nothing is mounted, is not filled with more.
    open_on_same(absolute.parent().unwrap_or(&absolute), source_fd, source)?;
    match fs::DirBuilder::new().mode(0o700).create(&absolute) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(BtrfsError::io("creating the folder", base_dir)(error))
        }
        _ => open_on_same(base_dir, source_fd, source),
    }
}

fn open_on_same(base_dir: &Path, source_fd: &OwnedFd, source: &Path) -> Result<OwnedFd, BtrfsError> {
    let other = || BtrfsError::OtherFileSystem { base_dir: base_dir.to_owned(), subvolume: source.to_owned() };
    let folder = subvolume::open_on_btrfs(base_dir).map_err(|error| match error {
        BtrfsError::NotBtrfs { .. } => other(),
        error => error,
    })?;
    let uuid = |fd| ioctl::file_system_uuid(fd).map_err(BtrfsError::io("looking at the file system of", base_dir));
    if uuid(&folder)? == uuid(source_fd)? { Ok(folder) } else { Err(other()) }
}

/// Lists the snapshots of a subvolume in `base_dir`, in the order in which they were taken, whatever the clock said.
///
/// Whatever is not a read-only subvolume, or not named as [`SnapshotName`] has it, is passed over. There are none in a
/// folder that does not exist.
///
/// # Errors
///
/// [`BtrfsError`] if the folder cannot be read.
pub fn list(base_dir: &Path, subvolume: &str) -> Result<Vec<Snapshot>, BtrfsError> {
    let failed = |error| BtrfsError::io("reading the folder", base_dir)(error);
    let folder = match subvolume::open_on_btrfs(base_dir) {
        Err(BtrfsError::NotFound { .. }) => return Ok(Vec::new()),
        folder => folder?,
    };
    let base_dir = std::path::absolute(base_dir).map_err(failed)?;
    let mut snapshots = Vec::new();
    for entry in fs::read_dir(&base_dir).map_err(failed)? {
        let file_name = entry.map_err(failed)?.file_name();
        let name = file_name.to_str().and_then(SnapshotName::parse).filter(|name| name.subvolume == subvolume);
        if let Some(name) = name {
            snapshots.extend(look_at(&folder, &base_dir, name)?);
        }
    }
    snapshots.sort_by_key(|snapshot| (snapshot.info.otransid, snapshot.name.taken_at));
    Ok(snapshots)
}

fn look_at(folder: &OwnedFd, base_dir: &Path, name: SnapshotName) -> Result<Option<Snapshot>, BtrfsError> {
    let path = base_dir.join(name.to_string());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = match openat(folder, name.to_string(), flags, Mode::empty()) {
        Ok(opened) => opened,
        // Not a folder, or deleted since the folder was read.
        Err(rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP | rustix::io::Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(BtrfsError::io("opening", &path)(errno)),
    };
    if !subvolume::is_subvolume(&opened).map_err(BtrfsError::io("looking at", &path))? {
        return Ok(None);
    }
    let info = subvolume::open_info(&opened, &path)?;
    Ok(info.read_only.then_some(Snapshot { name, path, info }))
}

/// Deletes a snapshot. It is gone at once; its space is freed in the background.
///
/// # Errors
///
/// [`BtrfsError`] if it is gone already, or if something else has taken its place.
pub fn delete(snapshot: &Snapshot) -> Result<(), BtrfsError> {
    subvolume::require_root("deleting a snapshot")?;
    let replaced = || BtrfsError::NotFound { path: snapshot.path.clone() };
    let base_dir = snapshot.path.parent().ok_or_else(replaced)?;
    if subvolume::subvolume_info(&snapshot.path)?.uuid != snapshot.info.uuid {
        return Err(replaced());
    }
    let folder = subvolume::open_directory(base_dir)?;
    let name = snapshot.name.to_string();
    ioctl::delete_subvolume(folder, name.as_ref()).map_err(BtrfsError::io("deleting the snapshot", &snapshot.path))
}

/// Decides which snapshots to delete: all but the newest `keep`, and never one of the `protected`.
///
/// `snapshots` are those of one subvolume, oldest first. Protected by their UUIDs are those that must outlive this
/// run: the parent needed next, and those whose backup is not published yet. They come on top of the `keep` newest.
#[must_use]
pub fn plan_retention<'a>(snapshots: &'a [Snapshot], keep: usize, protected: &[Uuid]) -> Vec<&'a Snapshot> {
    let older = &snapshots[..snapshots.len().saturating_sub(keep)];
    older.iter().filter(|snapshot| !protected.contains(&snapshot.info.uuid)).collect()
}

/// The subvolumes inside another, with their paths in it: a snapshot of the outer one has empty folders in their place.
///
/// `all` are those of the file system. Our own snapshots do not count.
#[must_use]
pub fn nested_subvolumes(source: &SubvolumeInfo, all: &[Subvolume]) -> Vec<PathBuf> {
    let Some(outer) = all.iter().find(|subvolume| subvolume.info.id == source.id) else {
        return Vec::new();
    };
    let is_snapshot = |subvolume: &Subvolume| {
        let name = subvolume.path_from_top.file_name().and_then(|name| name.to_str());
        subvolume.info.read_only && name.and_then(SnapshotName::parse).is_some()
    };
    let others = all.iter().filter(|subvolume| subvolume.info.id != source.id && !is_snapshot(subvolume));
    let inside = others.filter_map(|subvolume| subvolume.path_from_top.strip_prefix(&outer.path_from_top).ok());
    inside.map(Path::to_owned).collect()
}

#[cfg(test)]
mod tests;
