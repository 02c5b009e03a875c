//! What a subvolume is, and which ones a file system has.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::{FsWord, Mode, OFlags, fstat, fstatfs};
use rustix::io::Errno;

use super::BtrfsError;
use super::ioctl;
use super::mounts::Mount;
use super::root_tree::{self, READ_ONLY, ROOT_INODE};
use crate::id::Uuid;

/// `BTRFS_SUPER_MAGIC` of `linux/magic.h`.
const BTRFS_MAGIC: FsWord = 0x9123_683e;

/// What the kernel keeps about a subvolume. Snapshots are subvolumes, too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubvolumeInfo {
    /// The subvolume's number on its file system.
    pub id: u64,
    /// The number of the subvolume in which it hangs; 0 for the one at the top.
    pub parent_id: u64,
    /// The transaction that last wrote to its tree, for whatever reason.
    pub generation: u64,
    /// The transaction that last changed what is in it. Changes in memory reach it with the next commit.
    pub ctransid: u64,
    /// The transaction that created it.
    pub otransid: u64,
    /// The ctransid of what it was received from, on the sending side; 0 if it was not received.
    pub stransid: u64,
    /// The transaction that finished receiving it; 0 if it was not received.
    pub rtransid: u64,
    /// Its UUID; nil on file systems of before Linux 3.6.
    pub uuid: Uuid,
    /// The UUID of the subvolume it is a snapshot of.
    pub parent_uuid: Option<Uuid>,
    /// The UUID of what it was received from. Read-only snapshots of it have it as well.
    pub received_uuid: Option<Uuid>,
    /// Whether it can be changed.
    pub read_only: bool,
    /// When it was created.
    pub created_at: Timestamp,
}

impl SubvolumeInfo {
    /// Whether this was received, is read-only, and is provably as it was when `btrfs receive` or
    /// [`receive_target`](super::receive_target) was done with it.
    ///
    /// `btrfs receive` itself marks a subvolume as received before the file data is written back, which counts as a
    /// change: of those this says "no" although nobody has touched them. Nothing tells the two apart afterwards.
    #[must_use]
    pub fn is_received_and_unchanged(&self) -> bool {
        self.received_uuid.is_some() && self.read_only && self.ctransid <= self.rtransid
    }
}

/// A subvolume and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subvolume {
    /// What the kernel keeps about it.
    pub info: SubvolumeInfo,
    /// Its path from the top of the file system, for messages.
    pub path_from_top: PathBuf,
    /// Where it can be reached through the mount that was asked, if at all.
    pub path: Option<PathBuf>,
}

impl Subvolume {
    /// The path by which a message should name this.
    #[must_use]
    pub fn shown_path(&self) -> &Path {
        self.path.as_deref().unwrap_or(&self.path_from_top)
    }
}

pub(super) fn optional_uuid(bytes: [u8; 16]) -> Option<Uuid> {
    Some(Uuid::from_bytes(bytes)).filter(|uuid| !uuid.is_nil())
}

pub(super) fn timestamp(seconds: u64, nanoseconds: u32) -> Timestamp {
    let seconds = i64::try_from(seconds).unwrap_or_default();
    let nanoseconds = i32::try_from(nanoseconds).unwrap_or_default();
    Timestamp::new(seconds, nanoseconds).unwrap_or_default()
}

fn from_raw(raw: &ioctl::RawSubvolumeInfo) -> SubvolumeInfo {
    SubvolumeInfo {
        id: raw.id,
        parent_id: raw.parent_id,
        generation: raw.generation,
        ctransid: raw.ctransid,
        otransid: raw.otransid,
        stransid: raw.stransid,
        rtransid: raw.rtransid,
        uuid: Uuid::from_bytes(raw.uuid),
        parent_uuid: optional_uuid(raw.parent_uuid),
        received_uuid: optional_uuid(raw.received_uuid),
        read_only: raw.flags & READ_ONLY != 0,
        created_at: timestamp(raw.otime.seconds, raw.otime.nanoseconds),
    }
}

/// Fails unless this process is root's.
///
/// # Errors
///
/// [`BtrfsError::NotRoot`], which names what was to be done.
pub fn require_root(doing: &'static str) -> Result<(), BtrfsError> {
    if rustix::process::geteuid().is_root() { Ok(()) } else { Err(BtrfsError::NotRoot { doing }) }
}

/// Opens a folder.
pub(super) fn open_directory(path: &Path) -> Result<OwnedFd, BtrfsError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| match errno {
        Errno::NOENT => BtrfsError::NotFound { path: path.to_owned() },
        Errno::NOTDIR => BtrfsError::NotADirectory { path: path.to_owned() },
        errno => BtrfsError::io("opening", path)(errno),
    })
}

/// Opens a folder on a Btrfs file system.
///
/// # Errors
///
/// [`BtrfsError::NotFound`], [`BtrfsError::NotADirectory`], [`BtrfsError::NotBtrfs`], or [`BtrfsError::Io`].
pub(super) fn open_on_btrfs(path: &Path) -> Result<OwnedFd, BtrfsError> {
    let directory = open_directory(path)?;
    if is_btrfs(&directory).map_err(BtrfsError::io("looking at", path))? {
        Ok(directory)
    } else {
        Err(BtrfsError::NotBtrfs { path: path.to_owned() })
    }
}

/// Opens a subvolume's root folder, or says why it is none.
pub(super) fn open_subvolume(path: &Path) -> Result<OwnedFd, BtrfsError> {
    let subvolume = open_on_btrfs(path)?;
    if is_subvolume(&subvolume).map_err(BtrfsError::io("looking at", path))? {
        Ok(subvolume)
    } else {
        Err(BtrfsError::NotASubvolume { path: path.to_owned() })
    }
}

/// Whether an open file or folder lies on a Btrfs file system.
///
/// # Errors
///
/// That of the system call.
pub fn is_btrfs(fd: impl AsFd) -> io::Result<bool> {
    Ok(fstatfs(fd)?.f_type == BTRFS_MAGIC)
}

/// Whether an open folder is the root of a Btrfs subvolume.
///
/// # Errors
///
/// That of the system call.
pub fn is_subvolume(fd: impl AsFd) -> io::Result<bool> {
    Ok(is_btrfs(&fd)? && fstat(fd)?.st_ino == ROOT_INODE)
}

/// Describes the subvolume at `path`. Needs no privilege beyond opening it.
///
/// # Errors
///
/// [`BtrfsError`] says what is there instead of a subvolume.
pub fn subvolume_info(path: &Path) -> Result<SubvolumeInfo, BtrfsError> {
    open_info(&open_subvolume(path)?, path)
}

/// Describes an open subvolume.
pub(super) fn open_info(subvolume: &OwnedFd, path: &Path) -> Result<SubvolumeInfo, BtrfsError> {
    ioctl::subvolume_info(subvolume).map(|raw| from_raw(&raw)).map_err(BtrfsError::io("looking at", path))
}

/// Writes everything to disk that the file system at `path` still holds in memory, and commits its transaction.
///
/// # Errors
///
/// [`BtrfsError`] where there is no such folder or the disk fails.
pub fn sync_file_system(path: &Path) -> Result<(), BtrfsError> {
    rustix::fs::syncfs(open_directory(path)?).map_err(BtrfsError::io("syncing the file system of", path))
}

/// Lists all subvolumes of the file system on which the folder `path` lies, the top-level one included.
///
/// Syncs the file system before, so that the list knows of every change made until then. Needs root.
///
/// # Errors
///
/// [`BtrfsError::NotRoot`], [`BtrfsError::NotBtrfs`] and those of looking the folder up.
pub fn list_subvolumes(path: &Path) -> Result<Vec<Subvolume>, BtrfsError> {
    require_root("listing Btrfs subvolumes")?;
    let directory = open_on_btrfs(path)?;
    rustix::fs::syncfs(&directory).map_err(BtrfsError::io("syncing the file system of", path))?;
    let mount = Mount::of(&directory).map_err(BtrfsError::io("finding the mount point of", path))?;
    let all = root_tree::list(&directory).map_err(BtrfsError::io("listing the subvolumes of", path))?;
    let reachable = |info: &SubvolumeInfo, path: &PathBuf| {
        // Another file system may be mounted over it.
        subvolume_info(path).is_ok_and(|found| (found.id, found.uuid) == (info.id, info.uuid))
    };
    let located = all.into_iter().map(|(info, path_from_top)| {
        let path = mount.resolve(&path_from_top).filter(|path| reachable(&info, path));
        Subvolume { info, path_from_top, path }
    });
    Ok(located.collect())
}
