//! What can go wrong with Btrfs, with the path and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use super::candidates::Conflict;

/// A failure of an operation on a Btrfs file system.
#[derive(Debug, thiserror::Error)]
pub enum BtrfsError {
    /// There is nothing under the path.
    #[error("{} does not exist", path.display())]
    NotFound {
        /// The path as it was given.
        path: PathBuf,
    },
    /// A folder is needed and something else is there.
    #[error("{} is not a directory", path.display())]
    NotADirectory {
        /// The path as it was given.
        path: PathBuf,
    },
    /// The path lies on a file system of another kind.
    #[error("{} is not on a Btrfs file system", path.display())]
    NotBtrfs {
        /// The path as it was given.
        path: PathBuf,
    },
    /// The path lies on Btrfs, but is an ordinary folder.
    #[error("{} is not a Btrfs subvolume: make it one, or name the subvolume it lies in", path.display())]
    NotASubvolume {
        /// The path as it was given.
        path: PathBuf,
    },
    /// The operation is the administrator's.
    #[error("{doing} needs root: run this as root")]
    NotRoot {
        /// What was to be done.
        doing: &'static str,
    },
    /// Snapshots can only be made within one file system.
    #[error("{} is not on the same Btrfs file system as {}: set base_dir in [snapshots] or of the subvolume to a folder that is",
        base_dir.display(), subvolume.display())]
    OtherFileSystem {
        /// The folder for snapshots.
        base_dir: PathBuf,
        /// The subvolume to take one of.
        subvolume: PathBuf,
    },
    /// A subvolume's name that cannot become part of a snapshot's.
    #[error("'{name}' cannot name snapshots: up to 200 letters, digits, '.', '_' and '-' can")]
    InvalidName {
        /// The name.
        name: String,
    },
    /// Something is already where a restore would put its result.
    #[error("{} exists already: restores never overwrite, so remove it or choose another target", path.display())]
    TargetExists {
        /// What is there.
        path: PathBuf,
    },
    /// A path that cannot be created.
    #[error("{} cannot be created: give a path that ends in the name of a new folder", path.display())]
    InvalidTarget {
        /// The path as it was given.
        path: PathBuf,
    },
    /// A restore to the same target is under way.
    #[error("another restore to {} is running", target.display())]
    RestoreRunning {
        /// The target of both.
        target: PathBuf,
    },
    /// A subvolume that `btrfs receive` needs, or would use, is missing or unfit.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// A stream did not leave the subvolume it announced.
    #[error("receiving into {} did not work: {reason}", path.display())]
    Received {
        /// Where the stream was received.
        path: PathBuf,
        /// What is not as it should be.
        reason: String,
    },
    /// The `btrfs` command is not on this host.
    #[error("btrfs not found: install btrfs-progs")]
    CommandNotFound,
    /// Another program is not on this host.
    #[error("{name} not found: install btrfs-progs and util-linux")]
    ProgramNotFound {
        /// Its name.
        name: &'static str,
    },
    /// The `btrfs` command, or another program, ran and failed.
    #[error("{command} failed ({status}): {message}")]
    CommandFailed {
        /// The command line.
        command: String,
        /// How it ended.
        status: String,
        /// The last of what it wrote to its standard error.
        message: String,
    },
    /// The operating system refused.
    #[error("{doing} {}", path.display())]
    Io {
        /// What was to be done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it could not be.
        source: io::Error,
    },
}

impl BtrfsError {
    /// Makes the closure that wraps an error of the operating system.
    pub(super) fn io<E: Into<io::Error>>(doing: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        move |source| Self::Io { doing, path: path.to_owned(), source: source.into() }
    }
}
