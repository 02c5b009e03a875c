//! What can go wrong with the index on the host's disk.

use std::io;
use std::path::{Path, PathBuf};

use crate::id::SegmentId;

/// A failure of the local index, with the file it happened to.
#[derive(Debug, thiserror::Error)]
pub enum LocalIndexError {
    /// The file is not there.
    #[error("{} is missing", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file does not hold what was written to it.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What shows it.
        reason: &'static str,
    },
    /// The file was written for another repository.
    #[error("{} belongs to another repository", path.display())]
    OtherRepository {
        /// The file.
        path: PathBuf,
    },
    /// The file was written by a program that lays runs out differently.
    #[error("{} has layout version {version}, which this program does not read", path.display())]
    OtherVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// A run would have more entries, packs or segments than can be counted in 32 bits.
    #[error("{} would grow beyond what an index file can hold", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// A segment contradicts itself.
    #[error("segment {segment} cannot be indexed: {reason}")]
    Unfit {
        /// The segment.
        segment: SegmentId,
        /// What contradicts what.
        reason: &'static str,
    },
    /// The index was opened with [`Access::Shared`](super::Access::Shared) and was asked to change.
    #[error("the index in {} was opened for reading only", directory.display())]
    ReadOnly {
        /// The index's directory.
        directory: PathBuf,
    },
    /// The operating system refused.
    #[error("{operation} {}", path.display())]
    Io {
        /// What was tried, as a verb: "reading", "writing".
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The reason given.
        source: io::Error,
    },
}

impl LocalIndexError {
    /// Whether a file is lost as a cache, so that its segments have to be added again, while nothing is wrong with the
    /// disk or the caller.
    #[must_use]
    pub fn means_rebuild(&self) -> bool {
        matches!(
            self,
            Self::Missing { .. } | Self::Damaged { .. } | Self::OtherRepository { .. } | Self::OtherVersion { .. }
        )
    }

    pub(super) fn damaged(path: &Path, reason: &'static str) -> Self {
        Self::Damaged { path: path.to_owned(), reason }
    }

    /// For `map_err`.
    pub(super) fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { operation, path: path.to_owned(), source }
    }
}
