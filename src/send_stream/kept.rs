//! Reading a command stream: the commands without their file data.

use super::attribute::{Attribute, Attributes};
use super::command::checked_length;
use super::parting::{Found, PayloadSearch};
use super::{AttributeCode, CommandCode, KEPT_HEADER_BYTES, STREAM_HEADER_BYTES, StreamError, known_version};

/// A command as it is in a command stream.
#[derive(Debug, Clone, Copy)]
pub struct KeptCommand<'a> {
    /// Its number.
    pub code: CommandCode,
    /// How many bytes of file data belong to it.
    pub data_bytes: u64,
    version: u32,
    kept: &'a [u8],
}

impl<'a> KeptCommand<'a> {
    /// The first attribute with this number. File data that was taken out is none.
    #[must_use]
    pub fn attribute(&self, code: AttributeCode) -> Option<Attribute<'a>> {
        Attributes::new(self.version, self.kept).find(|attribute| attribute.code == code)
    }

    pub(super) fn bytes(&self, code: AttributeCode) -> Option<&'a [u8]> {
        self.attribute(code).map(|attribute| attribute.value)
    }

    pub(super) fn number(&self, code: AttributeCode) -> Option<u64> {
        self.attribute(code)?.as_u64()
    }
}

/// Reads the commands of a command stream that comes in pieces, cut anywhere. Holds the last piece and one command.
#[derive(Debug, Default)]
pub struct KeptCommands {
    bytes: Vec<u8>,
    taken_bytes: usize,
    /// How much of the command stream was taken before these bytes.
    cleared_bytes: u64,
    version: Option<u32>,
}

impl KeptCommands {
    /// Adds the next piece.
    pub fn push(&mut self, piece: &[u8]) {
        self.bytes.drain(..self.taken_bytes);
        self.cleared_bytes += self.taken_bytes as u64;
        self.taken_bytes = 0;
        self.bytes.extend_from_slice(piece);
    }

    /// The next command; none where more of the command stream is needed for it, or that is at its end.
    ///
    /// # Errors
    ///
    /// If it is no command stream. The error comes again when asked again.
    pub fn next_command(&mut self) -> Result<Option<KeptCommand<'_>>, StreamError> {
        let Some(version) = self.stream_version()? else { return Ok(None) };
        let offset = self.cleared_bytes + self.taken_bytes as u64;
        let Some((header, body)) = self.bytes[self.taken_bytes..].split_first_chunk::<KEPT_HEADER_BYTES>() else {
            return Ok(None);
        };
        let [l0, l1, l2, l3, c0, c1] = *header;
        let code = CommandCode(u16::from_le_bytes([c0, c1]));
        let body_bytes = checked_length(u32::from_le_bytes([l0, l1, l2, l3]), code, offset)?;
        let kept_bytes = match PayloadSearch::new(version, code, body_bytes).run(body) {
            Found::Kept(kept_bytes) => kept_bytes,
            Found::More(_) => return Ok(None),
            Found::Overrun => return Err(StreamError::AttributeOverrun { command: code, offset }),
        };
        let Some(kept) = body.get(..kept_bytes) else { return Ok(None) };
        self.taken_bytes += KEPT_HEADER_BYTES + kept_bytes;
        Ok(Some(KeptCommand { code, data_bytes: (body_bytes - kept_bytes) as u64, version, kept }))
    }

    /// The stream's version, once its header is there.
    fn stream_version(&mut self) -> Result<Option<u32>, StreamError> {
        if self.version.is_none() && self.bytes.len() >= STREAM_HEADER_BYTES {
            self.version = Some(known_version(&self.bytes)?);
            self.taken_bytes = STREAM_HEADER_BYTES;
        }
        Ok(self.version)
    }
}
