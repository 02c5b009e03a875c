//! The record of one backup.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_bytes::{ByteArray, ByteBuf};

use crate::id::{Digest, ManifestId, PackId, RepositoryId, SessionId, SnapshotVersion, Uuid};
use crate::object::FormatError;
use crate::tree::Tree;

/// Digest algorithm of a stream: XXH3 with 128 bits, in its canonical big-endian form.
pub const STREAM_DIGEST_XXH3: &str = "xxh3-128";

/// The record of one backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The session that wrote it; its id is the manifest's.
    pub session: SessionId,
    /// What kind of backup it is.
    pub kind: BackupKind,
    /// Features a program must know to read it.
    pub required_to_read: Vec<String>,
    /// Features a program must know to prune a repository that has it.
    pub required_to_prune: Vec<String>,
    /// The host that was backed up.
    pub host: String,
    /// The name of what was backed up.
    pub subvolume: String,
    /// When the run began.
    pub started_at: Timestamp,
    /// When the snapshot was taken.
    pub created_at: Timestamp,
    /// The snapshot that was sent; none for an opaque stream.
    pub snapshot: Option<Subject>,
    /// What the stream was made against.
    pub parent: Option<Parent>,
    /// Other subvolumes the stream clones from.
    pub requires: Vec<SnapshotVersion>,
    /// The stream itself.
    pub stream: StreamRecord,
    /// The parts of the stream and what belongs to them.
    pub roots: Vec<Root>,
    /// Metadata packs that have all chunks of class `meta` it needs.
    pub meta_packs: Vec<PackId>,
    /// What it took.
    pub totals: Totals,
    /// The manifest this is a copy of.
    pub copied_from: Option<ManifestId>,
    /// The repository that has it, if that is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copied_from_repository: Option<RepositoryId>,
    /// The program that wrote it.
    pub tool: String,
}

impl Manifest {
    /// The manifest's id.
    #[must_use]
    pub fn id(&self) -> ManifestId {
        self.session.into()
    }

    /// What identifies the snapshot that was sent.
    #[must_use]
    pub fn version(&self) -> Option<SnapshotVersion> {
        self.snapshot
            .as_ref()
            .map(|Subject { uuid, ctransid, .. }| SnapshotVersion { uuid: *uuid, ctransid: *ctransid })
    }

    /// Checks that a manifest of what has not changed has nothing of its own.
    ///
    /// # Errors
    ///
    /// If it has, or does not refer to the snapshot it has.
    pub fn check_unchanged(&self) -> Result<(), FormatError> {
        if self.kind != BackupKind::Unchanged {
            return Ok(());
        }
        let refers = self.parent.as_ref().is_some_and(|parent| self.version() == Some(parent.version()));
        let is_empty = self.roots.is_empty() && self.requires.is_empty() && self.stream.bytes == 0;
        let error = || FormatError::invalid("it says that nothing has changed, and has what only another kind has");
        (refers && is_empty).then_some(()).ok_or_else(error)
    }

    /// The tree of a kind, if the manifest has one.
    #[must_use]
    pub fn tree(&self, kind: &RootKind) -> Option<&Tree> {
        self.roots.iter().find(|root| root.kind == *kind).map(|root| &root.tree)
    }
}

/// What kind of backup a manifest records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackupKind {
    /// A send stream that needs nothing else.
    Full,
    /// A send stream made against a parent.
    Incremental,
    /// Bytes that are not taken apart.
    Opaque,
    /// No stream: the subvolume was still as its parent has it.
    Unchanged,
    /// Something a later program wrote.
    #[serde(other)]
    Unknown,
}

impl std::fmt::Display for BackupKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Full => "full",
            Self::Incremental => "incremental",
            Self::Opaque => "opaque",
            Self::Unchanged => "unchanged",
            Self::Unknown => "unknown",
        })
    }
}

/// The subvolume that a stream carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// Its UUID, as in the stream.
    pub uuid: Uuid,
    /// Its ctransid, as in the stream.
    pub ctransid: u64,
    /// Its name, as in the stream.
    pub path: ByteBuf,
}

/// The backup that an incremental one was made against.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    /// Its manifest.
    pub manifest: ManifestId,
    /// BLAKE3 of that manifest's object.
    pub digest: Digest,
    /// Its snapshot's UUID, as in the stream.
    pub uuid: Uuid,
    /// Its snapshot's ctransid, as in the stream.
    pub ctransid: u64,
}

impl Parent {
    /// The state of a subvolume that the stream was made against.
    #[must_use]
    pub fn version(&self) -> SnapshotVersion {
        SnapshotVersion { uuid: self.uuid, ctransid: self.ctransid }
    }
}

/// What is known of the stream as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamRecord {
    /// Version of the send stream; none for an opaque one.
    pub version: Option<u32>,
    /// Its length.
    pub bytes: u64,
    /// How `digest` was computed.
    pub digest_algorithm: String,
    /// Digest of all its bytes.
    pub digest: ByteArray<16>,
    /// Whether the sender was asked to send extents compressed as they are.
    pub compressed_data: bool,
}

/// One tree of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// What it is.
    pub kind: RootKind,
    /// Its chunks.
    pub tree: Tree,
}

/// What a tree of a manifest is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RootKind {
    /// The command stream.
    Commands,
    /// The file data, or an opaque stream.
    Data,
    /// The ids of the data packs that the hints name.
    Packs,
    /// Something a later program wrote.
    #[serde(untagged)]
    Other(String),
}

/// What a backup took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Pieces the stream was cut into, tree nodes not counted.
    pub chunks: u64,
    /// Chunks that the repository did not have, tree nodes counted.
    pub new_chunks: u64,
    /// Their plaintext bytes.
    pub new_bytes: u64,
    /// Packs stored.
    pub packs: u64,
    /// Bytes of the objects stored before the manifest.
    pub stored_bytes: u64,
}
