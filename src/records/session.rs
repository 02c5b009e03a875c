//! The records of a writing run: start, beats, end.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::{Digest, SessionId};

/// What a session's objects say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// The session.
    pub session: SessionId,
    /// What happened.
    pub event: SessionEvent,
    /// The number of a beat.
    pub number: u32,
    /// When, by the writer's clock.
    pub at: Timestamp,
    /// Who began it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<SessionStart>,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// BLAKE3 of the manifest's object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_digest: Option<Digest>,
}

/// What a session's object is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SessionEvent {
    /// It has begun.
    Start,
    /// It is alive.
    Beat,
    /// It is over.
    End,
}

/// Who began a session, and for what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionStart {
    /// The host's name.
    pub host: String,
    /// What tells the machine from others of that name.
    pub machine: String,
    /// The name of what is backed up.
    pub subvolume: String,
    /// Why it writes.
    pub purpose: String,
    /// The program.
    pub tool: String,
}

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It has published its manifest.
    Manifest,
    /// It gave up; what it stored may be used.
    None,
    /// It was given up by prune; what it stored counts as never written.
    Void,
}
