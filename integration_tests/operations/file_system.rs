//! A file system in memory with subvolumes and snapshots, as a run sees one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use btrfs_to_s3::backup::{Interruption, Stream};
use btrfs_to_s3::btrfs::BtrfsError;
use btrfs_to_s3::btrfs::snapshots::{Snapshot, SnapshotName};
use btrfs_to_s3::btrfs::subvolume::{Subvolume, SubvolumeInfo};
use btrfs_to_s3::id::{SnapshotVersion, Uuid};
use btrfs_to_s3::job::FileSystem;
use jiff::Timestamp;

use crate::samples::Sample;
use crate::world::MemorySource;

#[derive(Debug, Clone)]
struct Kept {
    info: SubvolumeInfo,
    files: Vec<Vec<u8>>,
}

#[derive(Debug, Default)]
struct State {
    transaction: u64,
    subvolumes: BTreeMap<PathBuf, Kept>,
    /// The stream that was sent of each snapshot, by its UUID.
    sent: BTreeMap<Uuid, Vec<u8>>,
    failing: Option<PathBuf>,
    /// Streams have a command that `btrfs receive` fails at.
    is_garbled: bool,
}

/// Subvolumes by their paths.
#[derive(Debug, Default)]
pub(crate) struct MemoryFileSystem(Mutex<State>);

fn info(number: u64, transaction: u64) -> SubvolumeInfo {
    let mut uuid = [0; 16];
    uuid[..8].copy_from_slice(&number.to_le_bytes());
    SubvolumeInfo {
        id: 256 + number,
        parent_id: 5,
        generation: transaction,
        ctransid: transaction,
        otransid: transaction,
        stransid: 0,
        rtransid: 0,
        uuid: Uuid::from_bytes(uuid),
        parent_uuid: None,
        received_uuid: None,
        read_only: false,
        created_at: Timestamp::UNIX_EPOCH,
    }
}

fn missing(path: &Path) -> BtrfsError {
    BtrfsError::NotFound { path: path.to_owned() }
}

impl MemoryFileSystem {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Makes a subvolume, or puts other files into it.
    pub(crate) fn write(&self, path: &str, files: Vec<Vec<u8>>) {
        let mut state = self.state();
        state.transaction += 1;
        let transaction = state.transaction;
        let kept = state
            .subvolumes
            .entry(path.into())
            .or_insert_with(|| Kept { info: info(transaction, 0), files: Vec::new() });
        kept.files = files;
        (kept.info.ctransid, kept.info.generation) = (transaction, transaction);
    }

    /// From now on, nothing can be done with this subvolume, or with none.
    pub(crate) fn fail(&self, path: Option<&str>) {
        self.state().failing = path.map(PathBuf::from);
    }

    /// From now on, streams have a command that `btrfs receive` fails at, or have none.
    pub(crate) fn garble(&self, is_garbled: bool) {
        self.state().is_garbled = is_garbled;
    }

    /// The stream that was sent of the snapshot with this UUID.
    pub(crate) fn sent(&self, uuid: Uuid) -> Vec<u8> {
        self.state().sent[&uuid].clone()
    }

    /// How many snapshots there are of a subvolume of this name.
    pub(crate) fn count(&self, name: &str) -> usize {
        let is_one = |path: &&PathBuf| snapshot_name(path).is_some_and(|snapshot| snapshot.subvolume() == name);
        self.state().subvolumes.keys().filter(is_one).count()
    }
}

fn snapshot_name(path: &Path) -> Option<SnapshotName> {
    SnapshotName::parse(path.file_name()?.to_str()?)
}

fn snapshot(path: &Path, kept: &Kept) -> Option<Snapshot> {
    Some(Snapshot { name: snapshot_name(path)?, path: path.to_owned(), info: kept.info.clone() })
}

impl FileSystem for MemoryFileSystem {
    fn describe(&self, path: &Path) -> Result<SubvolumeInfo, BtrfsError> {
        let state = self.state();
        let found = state.subvolumes.get(path).filter(|_| state.failing.as_deref() != Some(path));
        found.map(|kept| kept.info.clone()).ok_or_else(|| missing(path))
    }

    fn subvolumes(&self, _folder: &Path) -> Result<Vec<Subvolume>, BtrfsError> {
        let listed = |(path, kept): (&PathBuf, &Kept)| Subvolume {
            info: kept.info.clone(),
            path_from_top: path.strip_prefix("/").unwrap().to_owned(),
            path: Some(path.clone()),
        };
        Ok(self.state().subvolumes.iter().map(listed).collect())
    }

    fn snapshot(&self, source: &Path, path: &Path) -> Result<Snapshot, BtrfsError> {
        let mut state = self.state();
        state.transaction += 1;
        let transaction = state.transaction;
        let kept = state.subvolumes.get_mut(source).ok_or_else(|| missing(source))?;
        kept.info.generation = transaction;
        let mut taken = kept.clone();
        let SubvolumeInfo { id, uuid, .. } = info(transaction, transaction);
        taken.info = SubvolumeInfo {
            id,
            uuid,
            otransid: transaction,
            parent_uuid: Some(kept.info.uuid),
            read_only: true,
            ..kept.info.clone()
        };
        let made = snapshot(path, &taken).unwrap();
        assert!(state.subvolumes.insert(path.to_owned(), taken).is_none(), "two snapshots with one name");
        Ok(made)
    }

    fn find_snapshot(&self, path: &Path) -> Result<Option<Snapshot>, BtrfsError> {
        Ok(self.state().subvolumes.get(path).and_then(|kept| snapshot(path, kept)))
    }

    fn snapshots(&self, _base_dir: &Path, subvolume: &str) -> Result<Vec<Snapshot>, BtrfsError> {
        let state = self.state();
        let all = state.subvolumes.iter().filter_map(|(path, kept)| snapshot(path, kept));
        let mut own: Vec<Snapshot> = all.filter(|snapshot| snapshot.name.subvolume() == subvolume).collect();
        own.sort_by_key(|snapshot| snapshot.info.otransid);
        Ok(own)
    }

    fn delete(&self, snapshot: &Snapshot) -> Result<(), BtrfsError> {
        self.state().subvolumes.remove(&snapshot.path).map(drop).ok_or_else(|| missing(&snapshot.path))
    }

    fn send(
        &self,
        snapshot: &Path,
        parent: Option<&Path>,
        _compressed_data: bool,
        interruption: &Interruption,
    ) -> Result<Stream, BtrfsError> {
        let mut state = self.state();
        let version = |kept: &Kept| SnapshotVersion { uuid: kept.info.uuid, ctransid: kept.info.ctransid };
        let own = state.subvolumes.get(snapshot).ok_or_else(|| missing(snapshot))?;
        let parent = parent.map(|path| state.subvolumes.get(path).ok_or_else(|| missing(path))).transpose()?;
        let is_new = |file: &&Vec<u8>| parent.is_none_or(|parent| !parent.files.contains(file));
        let files = own.files.iter().filter(is_new).cloned().collect();
        let (subject, parent) = (version(own), parent.map(version));
        let sample = Sample { subject, parent, files };
        let bytes = if state.is_garbled { sample.garbled_stream() } else { sample.stream() };
        state.sent.insert(subject.uuid, bytes.clone());
        Ok(Stream { source: Box::new(MemorySource::new(bytes)), stop: None, interruption: interruption.clone() })
    }
}
