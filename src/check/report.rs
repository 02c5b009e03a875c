//! What a check has found.

use crate::id::{ManifestId, PackId};
use crate::pack::format::PackClass;
use crate::records::note::PackSpan;
use crate::send_stream::LostFile;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Nothing is lost: what it was good for is elsewhere, or can be made again.
    Flaw,
    /// Something that backups need is lost.
    Damage,
}

/// An object that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// The name of the invariant that does not hold.
    pub invariant: &'static str,
    /// The object.
    pub object: String,
    /// What is wrong with it.
    pub reason: String,
}

/// A backup that does not restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Affected {
    /// The backup.
    pub id: ManifestId,
    /// Its host.
    pub host: String,
    /// Its subvolume.
    pub subvolume: String,
    /// Why.
    pub reason: String,
    /// Whether something of its own is lost. Otherwise it is that of one it was made on: its stream alone is whole.
    pub is_own: bool,
    /// What of its own files is lost; looked for where [`CheckOptions::files_at_most`](super::CheckOptions) asks for it.
    pub losses: Option<FileLosses>,
}

/// What is lost of the files of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileLosses {
    /// Files that have lost bytes, in the order of the stream.
    pub files: Vec<LostFile>,
    /// How many more there are.
    pub more: u64,
    /// How much of the stream's file data is lost.
    pub data_bytes: u64,
    /// Why the commands cannot be read, or not all: what they say of files is told as far as they were read.
    pub commands_unreadable: Option<String>,
}

/// How much was looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Sessions.
    pub sessions: u64,
    /// Index segments.
    pub segments: u64,
    /// Packs that are there.
    pub packs: u64,
    /// Packs that no session that counts speaks of: of runs under way or killed, for prune to delete.
    pub packs_unused: u64,
    /// Backups.
    pub backups: u64,
    /// Tree nodes.
    pub nodes: u64,
    /// Packs that were read whole.
    pub packs_read: u64,
    /// Bytes of them.
    pub bytes_read: u64,
    /// Packs that were to be read and are archived.
    pub packs_archived: u64,
    /// Packs whose checksum is still that of what was stored, by the store.
    pub checksums_compared: u64,
    /// Packs of which the store keeps no checksum: only their lengths were compared.
    pub checksums_not_kept: u64,
}

/// What a check has found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Objects that are not as they should be.
    pub findings: Vec<Finding>,
    /// Backups that do not restore.
    pub affected: Vec<Affected>,
    /// How much was looked at.
    pub counts: Counts,
    /// The spans of packs that were read, if they were spans.
    pub spans: Vec<PackSpan>,
    /// Whether all packs were read.
    pub is_complete: bool,
    /// Packs that were read and are not as they should be.
    pub bad_packs: Vec<(PackClass, PackId)>,
    /// Packs that are not those that were stored, by the server's checksums, and were not read.
    pub replaced_packs: Vec<(PackClass, PackId)>,
    /// Packs that an earlier check has found bad, and that were read and are as they should be.
    pub mended_packs: Vec<PackId>,
}

impl Report {
    /// Whether anything that backups need is lost.
    #[must_use]
    pub fn has_damage(&self) -> bool {
        !self.affected.is_empty() || self.findings.iter().any(|finding| finding.severity == Severity::Damage)
    }
}
