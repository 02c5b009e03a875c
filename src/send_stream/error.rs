//! What can be wrong with a stream.

use std::io;

use super::{CommandCode, MAX_COMMAND_BYTES};

/// Why a stream could not be read, parted or rebuilt. Offsets are in the stream, from its first byte.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The stream's source failed.
    #[error("cannot read the send stream at byte {offset}")]
    Read {
        /// How far it was read.
        offset: u64,
        /// What the source said.
        source: io::Error,
    },
    /// The first bytes are not a send stream's.
    #[error("this is not a send stream")]
    NotASendStream,
    /// A send stream of a version that is not understood.
    #[error("version {version} of the send stream is not known")]
    UnknownVersion {
        /// The version it claims.
        version: u32,
    },
    /// The stream ended before its END command.
    #[error("the send stream is cut short: nothing follows byte {offset}, and there was no END command")]
    CutShort {
        /// Its length.
        offset: u64,
    },
    /// Something follows the END command.
    #[error("the send stream goes on after its END command, at byte {offset}")]
    BytesAfterEnd {
        /// Where the END command ends.
        offset: u64,
    },
    /// A command's checksum is not that of its bytes.
    #[error("{command} at byte {offset} of the send stream is damaged: its checksum does not fit")]
    WrongChecksum {
        /// The command.
        command: CommandCode,
        /// Where it begins.
        offset: u64,
    },
    /// A command claims to be longer than any is.
    #[error(
        "{command} at byte {offset} of the send stream claims {length_bytes} bytes, more than the {MAX_COMMAND_BYTES} \
         that are accepted"
    )]
    CommandTooLong {
        /// The command.
        command: CommandCode,
        /// Where it begins.
        offset: u64,
        /// The length it claims.
        length_bytes: u32,
    },
    /// An attribute of a known command goes past the command's end.
    #[error("{command} at byte {offset} of the send stream has attributes that go past its end")]
    AttributeOverrun {
        /// The command.
        command: CommandCode,
        /// Where it begins.
        offset: u64,
    },
    /// The stream clones from more subvolumes than a manifest has room for.
    #[error("the send stream clones from more than {limit} other subvolumes")]
    TooManyCloneSources {
        /// How many are accepted.
        limit: usize,
    },
}
