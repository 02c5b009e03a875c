//! Reading a stream command by command.

use std::io::Read;

use super::attribute::{Attribute, Attributes};
use super::checksum::command_checksum;
use super::input::Input;
use super::parting::{Found, PayloadSearch};
use super::{
    AttributeCode, COMMAND_HEADER_BYTES, CommandCode, KEPT_HEADER_BYTES, MAX_COMMAND_BYTES, STREAM_HEADER_BYTES,
    StreamDigest, StreamError, known_version,
};

/// A command, as it is in a stream. Its checksum fits, and the attributes of a known one do not go past its end.
#[derive(Debug, Clone, Copy)]
pub struct Command<'a> {
    /// Its number.
    pub code: CommandCode,
    /// Where it begins in the stream.
    pub offset: u64,
    version: u32,
    body: &'a [u8],
    kept_bytes: usize,
}

impl<'a> Command<'a> {
    /// Everything after the command's header.
    #[must_use]
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    /// What of the command's header stays in the command stream: its length and its number.
    pub(super) fn kept_header(&self) -> [u8; KEPT_HEADER_BYTES] {
        let length_bytes = u32::try_from(self.body.len()).expect("MAX_COMMAND_BYTES fits 32 bits");
        let mut header = [0; KEPT_HEADER_BYTES];
        header[..4].copy_from_slice(&length_bytes.to_le_bytes());
        header[4..].copy_from_slice(&self.code.0.to_le_bytes());
        header
    }

    /// What of the body stays in the command stream.
    #[must_use]
    pub fn kept(&self) -> &'a [u8] {
        &self.body[..self.kept_bytes]
    }

    /// What of the body is file data. Empty where the command has none, or where it is not taken out.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        &self.body[self.kept_bytes..]
    }

    /// The command's attributes, in order.
    #[must_use]
    pub fn attributes(&self) -> Attributes<'a> {
        Attributes::new(self.version, self.body)
    }

    /// The first attribute with this number.
    #[must_use]
    pub fn attribute(&self, code: AttributeCode) -> Option<Attribute<'a>> {
        self.attributes().find(|attribute| attribute.code == code)
    }
}

/// Reads a stream's commands and checks them.
#[derive(Debug)]
pub struct CommandReader<R> {
    input: Input<R>,
    version: u32,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Commands,
    EndSeen,
    Finished,
}

/// Where the next command is, and what is in its header.
struct Located {
    code: CommandCode,
    body_bytes: usize,
    kept_bytes: usize,
}

impl<R: Read> CommandReader<R> {
    /// Begins a stream by reading its header.
    ///
    /// # Errors
    ///
    /// As [`Self::next_command`]; and if it is not a send stream, or of a version that is not known.
    pub fn new(reader: R) -> Result<Self, StreamError> {
        let mut input = Input::new(reader);
        input.fill(STREAM_HEADER_BYTES)?;
        Self::with_input(input)
    }

    /// Begins a stream whose header is available.
    pub(super) fn with_input(mut input: Input<R>) -> Result<Self, StreamError> {
        let version = known_version(input.available())?;
        input.take(STREAM_HEADER_BYTES);
        Ok(Self { input, version, state: State::Commands })
    }

    /// The stream's version.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// How many bytes of the stream came before the next command.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.input.offset()
    }

    /// The digest of the whole stream, once [`Self::next_command`] has said that there is no more.
    #[must_use]
    pub fn digest(&self) -> Option<StreamDigest> {
        (self.state == State::Finished).then(|| self.input.digest())
    }

    /// Reads the next command; none after END, once it is sure that nothing follows it.
    ///
    /// # Errors
    ///
    /// If the source fails, a command is damaged or too long, a known command's attributes go past its end, the stream
    /// ends without END, or goes on after it. The error comes again when asked again.
    pub fn next_command(&mut self) -> Result<Option<Command<'_>>, StreamError> {
        if self.state != State::Commands {
            return self.finish().map(|()| None);
        }
        let offset = self.input.offset();
        let Located { code, body_bytes, kept_bytes } = self.locate(offset)?;
        if code == CommandCode::END {
            self.state = State::EndSeen;
        }
        let body = &self.input.take(COMMAND_HEADER_BYTES + body_bytes)[COMMAND_HEADER_BYTES..];
        Ok(Some(Command { code, offset, version: self.version, body, kept_bytes }))
    }

    fn finish(&mut self) -> Result<(), StreamError> {
        if self.input.fill(1)? {
            return Err(StreamError::BytesAfterEnd { offset: self.input.offset() });
        }
        self.state = State::Finished;
        Ok(())
    }

    /// Makes a whole command available and checks it.
    fn locate(&mut self, offset: u64) -> Result<Located, StreamError> {
        self.need(COMMAND_HEADER_BYTES)?;
        let (length, code, checksum) = parse_header(self.input.available());
        let command = CommandCode(u16::from_le_bytes(code));
        let length_bytes = u32::from_le_bytes(length);
        let body_bytes = checked_length(length_bytes, command, offset)?;
        self.need(COMMAND_HEADER_BYTES + body_bytes)?;
        let body = &self.input.available()[COMMAND_HEADER_BYTES..][..body_bytes];
        if command_checksum(length, code, body) != u32::from_le_bytes(checksum) {
            return Err(StreamError::WrongChecksum { command, offset });
        }
        match PayloadSearch::new(self.version, command, body_bytes).run(body) {
            Found::Kept(kept_bytes) => Ok(Located { code: command, body_bytes, kept_bytes }),
            Found::More(_) | Found::Overrun => Err(StreamError::AttributeOverrun { command, offset }),
        }
    }

    fn need(&mut self, bytes: usize) -> Result<(), StreamError> {
        if self.input.fill(bytes)? {
            return Ok(());
        }
        Err(StreamError::CutShort { offset: self.input.offset() + self.input.available().len() as u64 })
    }
}

/// Checks a command's length against the limit.
pub(super) fn checked_length(length_bytes: u32, command: CommandCode, offset: u64) -> Result<usize, StreamError> {
    usize::try_from(length_bytes).ok().filter(|bytes| *bytes <= MAX_COMMAND_BYTES).ok_or(StreamError::CommandTooLong {
        command,
        offset,
        length_bytes,
    })
}

/// Parts a command's header, which is available, into length, code and checksum.
fn parse_header(header: &[u8]) -> ([u8; 4], [u8; 2], [u8; 4]) {
    let part = || {
        let (length, rest) = header.split_first_chunk()?;
        let (code, rest) = rest.split_first_chunk()?;
        Some((*length, *code, *rest.first_chunk()?))
    };
    part().expect("the header's ten bytes are available")
}
