//! Btrfs send streams: read, parted into command stream and file data, rebuilt byte for byte, written.
//!
//! `docs/send_stream.md` describes the format and the parting. In short: the *command stream* is the stream without the
//! commands' checksums and without the payloads of its writes; those payloads, in order, are the *file data*. The two
//! are enough to rebuild the stream exactly.
//!
//! - [`Splitter`] reads a stream and gives batches of both parts; [`StreamFacts`] is what it learned on the way.
//! - [`Rebuilder`] takes both parts, cut anywhere, and gives the stream back.
//! - [`CommandReader`] and [`StreamWriter`] read and write single commands, [`KeptCommands`] reads those of a command stream.
//! - [`LostFiles`] says which files have lost bytes, where some of the file data is lost.

mod attribute;
mod batch;
mod checksum;
mod code;
mod command;
mod error;
mod facts;
mod input;
mod kept;
mod lost_files;
mod name_table;
mod names;
mod parting;
mod rebuilder;
mod replay;
mod splitter;
mod writer;

#[cfg(test)]
mod tests;

pub use attribute::{Attribute, Attributes};
pub use batch::{Batch, CommandEnd};
pub use checksum::{StreamDigest, StreamHasher};
pub use code::{ATTRIBUTES, AttributeCode, AttributeRow, COMMANDS, CommandCode, CommandRow, ValueKind};
pub use command::{Command, CommandReader};
pub use error::StreamError;
pub use facts::{StreamFacts, Subject};
pub use kept::{KeptCommand, KeptCommands};
pub use lost_files::{LostFile, LostFiles};
pub use name_table::{NAME_ID_BYTES, NameId, NameRecord, NameStore};
pub use rebuilder::{Rebuilder, Wanted};
pub use replay::{NAMES_IN_MEMORY, Rejected};
pub use splitter::{SplitOptions, Splitter};
pub use writer::{StreamWriter, Value};

/// The newest stream version that is understood; the oldest is 1.
pub const NEWEST_VERSION: u32 = 3;

/// The longest command that is accepted, in bytes after its header. The kernel's own stay below 256 KiB.
pub const MAX_COMMAND_BYTES: usize = 16 << 20;

/// Length of a stream's header: the magic and the version.
pub const STREAM_HEADER_BYTES: usize = MAGIC.len() + 4;

const MAGIC: &[u8; 13] = b"btrfs-stream\0";

/// Length of a command's header in the stream: length, code, checksum.
const COMMAND_HEADER_BYTES: usize = 10;

/// Length of what stays of it in the command stream: length, code.
const KEPT_HEADER_BYTES: usize = 6;

/// What a stream is, as its first bytes tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamKind {
    /// A send stream of a version that is understood.
    Send {
        /// 1 to [`NEWEST_VERSION`].
        version: u32,
    },
    /// A send stream of a version that is not understood, and so a stream of opaque bytes.
    UnknownVersion {
        /// The version it claims.
        version: u32,
    },
    /// A send stream that ends within its header.
    CutShort,
    /// Anything else.
    NotASendStream,
}

/// Tells what a stream is from its first [`STREAM_HEADER_BYTES`] bytes, or from all it has where it is shorter.
#[must_use]
pub fn detect(first_bytes: &[u8]) -> StreamKind {
    let Some(rest) = first_bytes.strip_prefix(MAGIC) else {
        return StreamKind::NotASendStream;
    };
    match rest.first_chunk().map(|bytes| u32::from_le_bytes(*bytes)) {
        None => StreamKind::CutShort,
        Some(version @ 1..=NEWEST_VERSION) => StreamKind::Send { version },
        Some(version) => StreamKind::UnknownVersion { version },
    }
}

/// The version of a stream that must be one we understand.
fn known_version(first_bytes: &[u8]) -> Result<u32, StreamError> {
    match detect(first_bytes) {
        StreamKind::Send { version } => Ok(version),
        StreamKind::UnknownVersion { version } => Err(StreamError::UnknownVersion { version }),
        StreamKind::CutShort => Err(StreamError::CutShort { offset: first_bytes.len() as u64 }),
        StreamKind::NotASendStream => Err(StreamError::NotASendStream),
    }
}
