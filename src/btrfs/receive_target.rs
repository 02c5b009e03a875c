//! Receives a chain of streams and makes its last subvolume the target of a restore, or leaves nothing.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, flock, fstat};
use rustix::io::Errno;

use super::BtrfsError;
use super::candidates::{StreamFacts, check_candidates, check_identity};
use super::command::{BtrfsCommand, KillHandle, ReceiveChild};
use super::ioctl;
use super::subvolume;
use crate::id::SnapshotVersion;

/// What the target of a restore is to be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TargetOptions {
    /// Whether the target is read-only. Then it is what was received, and nothing else is kept.
    pub read_only: bool,
    /// Whether to drop the read-only subvolume that was received, on which later increments could build.
    pub discard_received: bool,
}

/// What a restore has left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The restored subvolume.
    pub target: PathBuf,
    /// The read-only subvolume on which later increments apply: beside the target, with `.received` after its name,
    /// or the target itself if that is read-only.
    pub received: Option<PathBuf>,
}

/// A restore in progress: a folder that does not exist yet, and a staging folder beside it.
///
/// Streams are received into `.btrfs_to_s3-restore-NAME` beside the target, in order, each by [`start`](Self::start)
/// and [`accept`](Self::accept); [`publish`](Self::publish) makes the target. Dropped before, it leaves nothing. If
/// the process is killed, the next restore to the same target removes what is left in the staging folder.
///
/// Each received subvolume is sealed: marked again as received once all of it is on the disk, so that its ctransid is
/// not newer than its rtransid until somebody changes it. `btrfs receive` alone does not leave it so.
#[derive(Debug)]
pub struct ReceiveTarget {
    target: PathBuf,
    kept: Option<PathBuf>,
    options: TargetOptions,
    staging: Staging,
    received: Vec<(SnapshotVersion, PathBuf)>,
    pending: Option<Pending>,
}

/// A stream that is being received.
#[derive(Debug)]
struct Pending {
    identity: SnapshotVersion,
    folder: PathBuf,
    child: KillHandle,
}

impl ReceiveTarget {
    /// Checks that a subvolume can be made at `target`, and makes the staging folder.
    ///
    /// # Errors
    ///
    /// [`BtrfsError`]: not root; the target, or `TARGET.received` if that is to be kept, exists; the folder above does
    /// not, or is not on Btrfs; another restore to the same target runs.
    pub fn prepare(target: &Path, options: TargetOptions) -> Result<Self, BtrfsError> {
        subvolume::require_root("restoring a subvolume")?;
        let (folder, name) = split(target)?;
        let target = folder.join(name);
        let keeps = !options.read_only && !options.discard_received;
        let kept = keeps.then(|| {
            let mut name = name.to_owned();
            name.push(".received");
            folder.join(name)
        });
        let absent = || [Some(&target), kept.as_ref()].into_iter().flatten().try_for_each(|path| require_absent(path));
        // A refusal changes nothing, unless a killed run has left something: that is removed whatever comes.
        if !Staging::path(&folder, name).exists() {
            absent()?;
        }
        let staging = Staging::open(&folder, name, &target)?;
        absent()?;
        Ok(Self { target, kept, options, staging, received: Vec::new(), pending: None })
    }

    /// Checks, before anything is fetched, that no stream of the chain meets a changed copy of an earlier restore.
    ///
    /// # Errors
    ///
    /// [`BtrfsError::Conflict`], which names the subvolumes in the way.
    pub fn check_chain(&self, chain: &[StreamFacts]) -> Result<(), BtrfsError> {
        let subvolumes = subvolume::list_subvolumes(&self.staging.path)?;
        Ok(chain.iter().try_for_each(|facts| check_identity(facts.identity, &subvolumes))?)
    }

    /// Checks what `btrfs receive` would build the next stream on, and starts it. Write the stream to the child.
    ///
    /// # Errors
    ///
    /// [`BtrfsError::Conflict`] if it would build on something missing, changed or ambiguous.
    pub fn start(&mut self, btrfs: &BtrfsCommand, facts: &StreamFacts) -> Result<ReceiveChild, BtrfsError> {
        let subvolumes = subvolume::list_subvolumes(&self.staging.path)?;
        let received: Vec<_> = self.received.iter().map(|(identity, _)| *identity).collect();
        check_candidates(facts, &subvolumes, &received)?;
        // A folder for each stream: which names the subvolumes had where they were sent then does not matter.
        let folder = self.staging.path.join(self.received.len().to_string());
        make_folder(&folder).map_err(BtrfsError::io("creating the folder", &folder))?;
        let child = btrfs.receive(&folder)?;
        self.pending = Some(Pending { identity: facts.identity, folder, child: child.kill_handle() });
        Ok(child)
    }

    /// Ends the stream that was started last, waits for `btrfs receive`, and checks and seals what it has left.
    ///
    /// # Errors
    ///
    /// [`BtrfsError::CommandFailed`] with the command's messages, or [`BtrfsError::Received`] if it has received
    /// something else than what was announced.
    pub fn accept(&mut self, child: ReceiveChild) -> Result<(), BtrfsError> {
        child.finish()?;
        let Some(pending) = self.pending.take() else {
            return Err(self.unexpected("no stream was started"));
        };
        let path = only_entry(&pending.folder)?;
        seal(&path, pending.identity)?;
        self.received.push((pending.identity, path));
        Ok(())
    }

    /// Makes the target out of the subvolume that was received last, and removes the staging folder.
    ///
    /// The target appears whole, and is on the disk when this returns.
    ///
    /// # Errors
    ///
    /// [`BtrfsError`]; the target then does not exist, or is what somebody else has put there meanwhile.
    pub fn publish(self) -> Result<Restored, BtrfsError> {
        let (_, last) = self.received.last().ok_or_else(|| self.unexpected("no stream was received"))?;
        if self.pending.is_some() {
            return Err(self.unexpected("a stream was not received to its end"));
        }
        let source = subvolume::open_subvolume(last)?;
        snapshot(&source, &self.target, self.options.read_only)?;
        if let Some(kept) = &self.kept {
            snapshot(&source, kept, true).inspect_err(|_| report(delete(&self.target)))?;
        }
        let received = if self.options.read_only { Some(self.target.clone()) } else { self.kept.clone() };
        Ok(Restored { target: self.target.clone(), received })
    }

    fn unexpected(&self, reason: &str) -> BtrfsError {
        BtrfsError::Received { path: self.target.clone(), reason: reason.to_owned() }
    }
}

impl Drop for ReceiveTarget {
    fn drop(&mut self) {
        // Else it would go on making files in a subvolume that is being deleted with the staging folder.
        if let Some(pending) = &self.pending {
            pending.child.kill_and_wait();
        }
    }
}

fn report(result: Result<(), BtrfsError>) {
    if let Err(error) = result {
        let source = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
        tracing::warn!("cleaning up after a restore: {error}{source}");
    }
}

/// The folder above a target, resolved, and the target's name in it.
fn split(target: &Path) -> Result<(PathBuf, &OsStr), BtrfsError> {
    let invalid = || BtrfsError::InvalidTarget { path: target.to_owned() };
    let name = target.file_name().ok_or_else(invalid)?;
    let folder = match target.parent().ok_or_else(invalid)? {
        folder if folder.as_os_str().is_empty() => Path::new("."),
        folder => folder,
    };
    subvolume::open_on_btrfs(folder)?;
    Ok((fs::canonicalize(folder).map_err(BtrfsError::io("resolving", folder))?, name))
}

fn require_absent(path: &Path) -> Result<(), BtrfsError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(BtrfsError::io("looking at", path)(error)),
        Ok(_) => Err(BtrfsError::TargetExists { path: path.to_owned() }),
    }
}

fn make_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(path)
}

fn snapshot(source: &OwnedFd, path: &Path, read_only: bool) -> Result<(), BtrfsError> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::AlreadyExists => BtrfsError::TargetExists { path: path.to_owned() },
        _ => BtrfsError::io("creating the snapshot", path)(error),
    };
    let (folder, name) = split(path)?;
    ioctl::create_snapshot(source, subvolume::open_directory(&folder)?, name, read_only).map_err(failed)
}

fn delete(path: &Path) -> Result<(), BtrfsError> {
    let (folder, name) = split(path)?;
    let folder = subvolume::open_directory(&folder)?;
    ioctl::delete_subvolume(folder, name).map_err(BtrfsError::io("deleting the subvolume", path))
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, BtrfsError> {
    let failed = |error| BtrfsError::io("reading the folder", folder)(error);
    fs::read_dir(folder).map_err(failed)?.map(|entry| Ok(entry.map_err(failed)?.path())).collect()
}

fn only_entry(folder: &Path) -> Result<PathBuf, BtrfsError> {
    let mut found = entries(folder)?;
    let reason = format!("the stream has made {} subvolumes instead of one", found.len());
    found.pop().filter(|_| found.is_empty()).ok_or(BtrfsError::Received { path: folder.to_owned(), reason })
}

/// Checks that a received subvolume is a copy of what the stream was announced to hold, and marks it as received again
/// with all of it on the disk.
fn seal(path: &Path, identity: SnapshotVersion) -> Result<(), BtrfsError> {
    let received = subvolume::open_subvolume(path)?;
    let info = subvolume::open_info(&received, path)?;
    let copy_of = info.received_uuid.map(|uuid| SnapshotVersion { uuid, ctransid: info.stransid });
    let wrong = |reason: &str| BtrfsError::Received { path: path.to_owned(), reason: reason.to_owned() };
    if copy_of != Some(identity) || !info.read_only {
        return Err(wrong("the stream holds another subvolume than was announced"));
    }
    let failed = |error: io::Error| BtrfsError::io("marking as received", path)(error);
    rustix::fs::syncfs(&received).map_err(|errno| failed(errno.into()))?;
    ioctl::set_read_only(&received, false).map_err(failed)?;
    ioctl::set_received(&received, *identity.uuid.as_bytes(), identity.ctransid).map_err(failed)?;
    ioctl::set_read_only(&received, true).map_err(failed)?;
    let sealed = subvolume::open_info(&received, path)?.is_received_and_unchanged();
    if sealed { Ok(()) } else { Err(wrong("it was changed while it was received")) }
}

/// The folder into which streams are received; gone when this is dropped. Locked, so that the one of a killed run can be
/// told from a live one's.
#[derive(Debug)]
struct Staging {
    path: PathBuf,
    _lock: OwnedFd,
}

impl Staging {
    /// Where the staging folder of a target is.
    fn path(folder: &Path, name: &OsStr) -> PathBuf {
        let mut staging_name = OsString::from(".btrfs_to_s3-restore-");
        staging_name.push(name);
        folder.join(staging_name)
    }

    /// Makes the staging folder for the target `name` in `folder`, or takes over a dead run's and empties it.
    fn open(folder: &Path, name: &OsStr, target: &Path) -> Result<Self, BtrfsError> {
        let path = Self::path(folder, name);
        let failed = |error: io::Error| BtrfsError::io("creating the folder", &path)(error);
        loop {
            match make_folder(&path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
                _ => {}
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let lock = match rustix::fs::open(&path, flags, Mode::empty()) {
                // A run that has just ended has removed it.
                Err(Errno::NOENT) => continue,
                opened => opened.map_err(|errno| failed(errno.into()))?,
            };
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::WOULDBLOCK) => return Err(BtrfsError::RestoreRunning { target: target.to_owned() }),
                locked => locked.map_err(|errno| failed(errno.into()))?,
            }
            if is_still_at(&lock, &path).map_err(failed)? {
                let staging = Self { path, _lock: lock };
                staging.empty()?;
                return Ok(staging);
            }
        }
    }

    /// Deletes all subvolumes that were received into it, whole or half, and their folders. Nothing else is touched.
    fn empty(&self) -> Result<(), BtrfsError> {
        for folder in entries(&self.path)? {
            for path in entries(&folder)? {
                delete(&path)?;
            }
            fs::remove_dir(&folder).map_err(BtrfsError::io("removing the folder", &folder))?;
        }
        Ok(())
    }

    fn remove(&self) -> Result<(), BtrfsError> {
        self.empty()?;
        fs::remove_dir(&self.path).map_err(BtrfsError::io("removing the folder", &self.path))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        report(self.remove());
    }
}

fn is_still_at(folder: impl AsFd, path: &Path) -> io::Result<bool> {
    let ours = fstat(folder)?;
    match fs::symlink_metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (ours.st_dev, ours.st_ino)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
