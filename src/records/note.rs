//! What is said of a backup, or of the repository, after it was published.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::{ManifestId, NoteId, PackId};

/// One thing said. Notes are never changed: a later one says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoteRecord {
    /// The note's id.
    pub note: NoteId,
    /// The backup it is about; none if it is about the repository as a whole.
    pub manifest: Option<ManifestId>,
    /// When it was written, by the writer's clock.
    pub at: Timestamp,
    /// The host that wrote it.
    pub host: String,
    /// What it says.
    pub kind: NoteKind,
    /// Of a change of tags.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<TagChange>,
    /// Of a check or a rehearsal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<TrialResult>,
    /// Of a rehearsal: what the backup is one of, so that this is known when its manifest is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Subject>,
    /// Of a check of packs: which of them backups are not to build on, and which they may again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdicts: Option<PackVerdicts>,
    /// The program that wrote it.
    pub tool: String,
}

/// Packs that a check has judged otherwise than those before it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackVerdicts {
    /// Not as they should be.
    pub bad: Vec<PackId>,
    /// As they should be again, as somebody has put them back.
    pub right: Vec<PackId>,
}

/// What a backup is one of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// The host that was backed up.
    pub host: String,
    /// The name of its subvolume.
    pub subvolume: String,
}

/// What a note says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NoteKind {
    /// Tags are put on the backup, or taken off.
    Tags,
    /// The backup, or packs of the repository, have been checked.
    Check,
    /// The backup has been restored to see whether that works.
    Rehearsal,
    /// Something a later program wrote.
    #[serde(other)]
    Unknown,
}

/// Tags put on, and taken off.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagChange {
    /// Put on.
    pub add: Vec<String>,
    /// Taken off.
    pub remove: Vec<String>,
}

/// What came of a check or a rehearsal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrialResult {
    /// How it went.
    pub outcome: TrialOutcome,
    /// What was wrong, in words; empty if nothing was.
    pub reason: String,
    /// Bytes that were read.
    pub bytes: u64,
    /// How long it took.
    pub seconds: u64,
    /// Of a check of packs: which ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packs: Option<PackSpan>,
    /// Of a rehearsal: how the backup was restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<RehearsalMethod>,
}

/// How a rehearsal restores a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RehearsalMethod {
    /// All streams of its chain are rebuilt, and go nowhere.
    Whole,
    /// Some of the packs it needs are read.
    Sample,
    /// All streams of its chain are received by `btrfs receive`.
    Receive,
    /// Something a later program wrote.
    #[serde(other)]
    Unknown,
}

impl RehearsalMethod {
    /// The method's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Sample => "sample",
            Self::Receive => "receive",
            Self::Unknown => "unknown",
        }
    }
}

/// How a check or a rehearsal went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrialOutcome {
    /// All was as it should be.
    Good,
    /// Something was not.
    Damaged,
    /// It came to no end for another reason.
    Failed,
    /// Something a later program wrote.
    #[serde(other)]
    Unknown,
}

/// All packs of the repository whose ids are in a span, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackSpan {
    /// The lowest id.
    pub first: PackId,
    /// The highest id.
    pub last: PackId,
    /// How many packs were read.
    pub count: u64,
}
