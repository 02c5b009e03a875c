//! What a stream says of itself.

use std::collections::BTreeSet;

use super::{AttributeCode, Command, CommandCode, Rejected, StreamDigest, StreamError, StreamKind};
use crate::id::SnapshotVersion;

/// More clone sources than this are not recorded but refused.
const MAX_CLONE_SOURCES: usize = 1 << 16;

/// The subvolume that a stream makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// Its name.
    pub path: Vec<u8>,
    /// Its UUID and last change.
    pub version: SnapshotVersion,
    /// Whether the stream is a list of changes to a parent.
    pub incremental: bool,
}

/// What a stream says of itself, known when all of it was read.
///
/// An attribute that is missing or has a wrong length leaves its fact out: the stream is kept as it is, and it is for the
/// caller to miss what it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamFacts {
    /// What its first bytes say it is.
    pub kind: StreamKind,
    /// Whether it was taken as opaque bytes, whatever its kind.
    pub opaque: bool,
    /// The subvolume it makes: that of its first SUBVOL or SNAPSHOT command.
    pub subject: Option<Subject>,
    /// Whether it makes further subvolumes after the first.
    pub more_subjects: bool,
    /// The parent that an incremental stream needs.
    pub parent: Option<SnapshotVersion>,
    /// The other subvolumes that CLONE commands take data from. The parent may be among them, the subject is not.
    pub clone_sources: BTreeSet<SnapshotVersion>,
    /// How many commands it has.
    pub command_count: u64,
    /// How many of them are of a kind that is not known.
    pub unknown_command_count: u64,
    /// The first command that `btrfs receive` would fail at, if there is one for certain.
    pub rejected: Option<Rejected>,
    /// Why what the stream does to names could not be remembered throughout, so that such a command may have been missed.
    pub names_forgotten: Option<String>,
    /// How many files its file data is of.
    pub file_count: u64,
    /// Length of its command stream.
    pub command_bytes: u64,
    /// Length of its file data.
    pub data_bytes: u64,
    /// Its whole length.
    pub stream_bytes: u64,
    /// The digest of all its bytes.
    pub digest: StreamDigest,
}

impl StreamFacts {
    /// What is known of a stream before its first command.
    pub(super) fn new(kind: StreamKind, opaque: bool) -> Self {
        Self {
            kind,
            opaque,
            subject: None,
            more_subjects: false,
            parent: None,
            clone_sources: BTreeSet::new(),
            command_count: 0,
            unknown_command_count: 0,
            rejected: None,
            names_forgotten: None,
            file_count: 0,
            command_bytes: 0,
            data_bytes: 0,
            stream_bytes: 0,
            digest: StreamDigest::from_value(0),
        }
    }

    /// Takes up what a command tells.
    pub(super) fn note(&mut self, command: &Command<'_>) -> Result<(), StreamError> {
        self.command_count += 1;
        match command.code {
            CommandCode::SUBVOL | CommandCode::SNAPSHOT => self.note_subject(command),
            CommandCode::CLONE => self.note_clone(command)?,
            code if !code.is_known() => self.unknown_command_count += 1,
            _ => {}
        }
        Ok(())
    }

    fn note_subject(&mut self, command: &Command<'_>) {
        if self.subject.is_some() {
            self.more_subjects = true;
            return;
        }
        let incremental = command.code == CommandCode::SNAPSHOT;
        let version = snapshot_version(command, AttributeCode::UUID, AttributeCode::CTRANSID);
        let path = command.attribute(AttributeCode::PATH).map(|path| path.value.to_vec());
        self.subject = path.zip(version).map(|(path, version)| Subject { path, version, incremental });
        if incremental {
            self.parent = snapshot_version(command, AttributeCode::CLONE_UUID, AttributeCode::CLONE_CTRANSID);
        }
    }

    fn note_clone(&mut self, command: &Command<'_>) -> Result<(), StreamError> {
        let Some(source) = snapshot_version(command, AttributeCode::CLONE_UUID, AttributeCode::CLONE_CTRANSID) else {
            return Ok(());
        };
        let own = self.subject.as_ref().is_some_and(|subject| subject.version.uuid == source.uuid);
        if !own && self.clone_sources.insert(source) && self.clone_sources.len() > MAX_CLONE_SOURCES {
            return Err(StreamError::TooManyCloneSources { limit: MAX_CLONE_SOURCES });
        }
        Ok(())
    }
}

fn snapshot_version(command: &Command<'_>, uuid: AttributeCode, ctransid: AttributeCode) -> Option<SnapshotVersion> {
    let uuid = command.attribute(uuid)?.as_uuid()?;
    let ctransid = command.attribute(ctransid)?.as_u64()?;
    Some(SnapshotVersion { uuid, ctransid })
}
