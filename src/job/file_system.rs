//! What a run asks of the file system that it backs up.

use std::fmt::Debug;
use std::path::Path;

use crate::backup::{Interruption, Stream};
use crate::btrfs::BtrfsError;
use crate::btrfs::command::{BtrfsCommand, SendOptions};
use crate::btrfs::snapshots::{self, Snapshot};
use crate::btrfs::subvolume::{self, Subvolume, SubvolumeInfo};
use crate::job::sending::SendSource;

/// Subvolumes, their snapshots, and the streams made of them. Btrfs, or what a test puts in its place.
pub trait FileSystem: Debug + Send + Sync {
    /// Describes the subvolume at `path`.
    ///
    /// # Errors
    ///
    /// [`BtrfsError`] says what is there instead of a subvolume.
    fn describe(&self, path: &Path) -> Result<SubvolumeInfo, BtrfsError>;

    /// Lists all subvolumes of the file system on which `folder` lies, after all that was written to it has reached the
    /// disk.
    ///
    /// # Errors
    ///
    /// [`BtrfsError`], [`BtrfsError::NotFound`] where there is no such folder.
    fn subvolumes(&self, folder: &Path) -> Result<Vec<Subvolume>, BtrfsError>;

    /// Takes a read-only snapshot of the subvolume at `source`, as [`snapshots::create`] does.
    ///
    /// # Errors
    ///
    /// [`BtrfsError`]; there is no snapshot then.
    fn snapshot(&self, source: &Path, path: &Path) -> Result<Snapshot, BtrfsError>;

    /// The snapshot at a path, if there is one.
    ///
    /// # Errors
    ///
    /// [`BtrfsError`] if that cannot be told.
    fn find_snapshot(&self, path: &Path) -> Result<Option<Snapshot>, BtrfsError>;

    /// Lists the snapshots of a subvolume, in the order in which they were taken.
    ///
    /// # Errors
    ///
    /// [`BtrfsError`] if the folder cannot be read.
    fn snapshots(&self, base_dir: &Path, subvolume: &str) -> Result<Vec<Snapshot>, BtrfsError>;

    /// Deletes a snapshot.
    ///
    /// # Errors
    ///
    /// [`BtrfsError`] if it is gone already, or if something else has taken its place.
    fn delete(&self, snapshot: &Snapshot) -> Result<(), BtrfsError>;

    /// Starts to send a snapshot, or what has changed in it since `parent`.
    ///
    /// # Errors
    ///
    /// [`BtrfsError`] if that cannot be begun.
    fn send(
        &self,
        snapshot: &Path,
        parent: Option<&Path>,
        compressed_data: bool,
        interruption: &Interruption,
    ) -> Result<Stream, BtrfsError>;
}

/// Btrfs, as the kernel and the `btrfs` command give it.
#[derive(Debug, Clone)]
pub struct Btrfs {
    /// The command.
    pub command: BtrfsCommand,
}

impl FileSystem for Btrfs {
    fn describe(&self, path: &Path) -> Result<SubvolumeInfo, BtrfsError> {
        subvolume::subvolume_info(path)
    }

    fn subvolumes(&self, folder: &Path) -> Result<Vec<Subvolume>, BtrfsError> {
        subvolume::list_subvolumes(folder)
    }

    fn snapshot(&self, source: &Path, path: &Path) -> Result<Snapshot, BtrfsError> {
        snapshots::create(source, path)
    }

    fn find_snapshot(&self, path: &Path) -> Result<Option<Snapshot>, BtrfsError> {
        snapshots::find(path)
    }

    fn snapshots(&self, base_dir: &Path, subvolume: &str) -> Result<Vec<Snapshot>, BtrfsError> {
        snapshots::list(base_dir, subvolume)
    }

    fn delete(&self, snapshot: &Snapshot) -> Result<(), BtrfsError> {
        snapshots::delete(snapshot)
    }

    fn send(
        &self,
        snapshot: &Path,
        parent: Option<&Path>,
        compressed_data: bool,
        interruption: &Interruption,
    ) -> Result<Stream, BtrfsError> {
        let options = SendOptions { protocol: None, compressed_data };
        let child = self.command.send(snapshot, parent, &[], options)?;
        Ok(SendSource::stream(child, interruption.clone()))
    }
}
