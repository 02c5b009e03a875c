//! Rebuilds a stream from its two parts.

use super::checksum::command_checksum;
use super::command::checked_length;
use super::parting::{Found, PayloadSearch};
use super::{COMMAND_HEADER_BYTES, CommandCode, KEPT_HEADER_BYTES, STREAM_HEADER_BYTES, StreamError, known_version};

/// What a [`Rebuilder`] needs to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// More of the command stream; or its end, after the END command.
    Commands,
    /// More of the file data: this many bytes belong to the command at hand.
    Data(u64),
}

/// Rebuilds a stream from its command stream and its file data.
///
/// It is fed from both, in pieces cut anywhere, and takes of each what it can use: file data only when a command asks
/// for it, so that the two can be fetched side by side. What it has rebuilt it keeps until that is written and cleared.
/// It holds at most what it was fed since, four bytes more for each command, and one command.
///
/// ```
/// # use btrfs_to_s3::send_stream::{Rebuilder, StreamError, Wanted};
/// fn rebuild<'a>(
///     mut command_pieces: impl Iterator<Item = &'a [u8]>,
///     mut data_pieces: impl Iterator<Item = &'a [u8]>,
/// ) -> Result<Vec<u8>, StreamError> {
///     let (mut rebuilder, mut output) = (Rebuilder::new(), Vec::new());
///     let (mut commands, mut data): (&[u8], &[u8]) = (&[], &[]);
///     loop {
///         let wanted = rebuilder.feed(&mut commands, &mut data)?;
///         output.extend_from_slice(rebuilder.rebuilt());
///         rebuilder.clear_rebuilt();
///         let (next_piece, piece) = match wanted {
///             Wanted::Commands => (command_pieces.next(), &mut commands),
///             Wanted::Data(_) => (data_pieces.next(), &mut data),
///         };
///         match next_piece {
///             Some(next) => *piece = next,
///             None => break,
///         }
///     }
///     rebuilder.finish()?;
///     Ok(output)
/// }
/// # let commands = b"btrfs-stream\0\x01\0\0\0\0\0\0\0\x15\0";
/// # let stream = b"btrfs-stream\0\x01\0\0\0\0\0\0\0\x15\0\x50\x6c\xc9\x9d";
/// # assert_eq!(rebuild(commands.chunks(5), std::iter::empty()).unwrap(), stream);
/// ```
#[derive(Debug)]
pub struct Rebuilder {
    /// Whole commands, then what there is of the one at hand.
    output: Vec<u8>,
    whole_bytes: usize,
    /// How much of the stream was cleared away.
    cleared_bytes: u64,
    version: u32,
    stage: Stage,
}

/// What the rebuilder is in the middle of.
#[derive(Debug, Clone, Copy)]
enum Stage {
    StreamHeader,
    CommandHeader,
    /// Finding out how far the body comes from the command stream takes the body's first `needed_bytes`.
    Search {
        search: PayloadSearch,
        needed_bytes: usize,
        body: Body,
    },
    /// The body's first `kept_bytes` come from the command stream.
    Kept {
        kept_bytes: usize,
        body: Body,
    },
    /// The rest of the body is file data.
    Payload(Body),
    Ended,
}

#[derive(Debug, Clone, Copy)]
struct Body {
    code: CommandCode,
    length_bytes: usize,
}

impl Default for Rebuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl Rebuilder {
    /// Begins a stream.
    #[must_use]
    pub fn new() -> Self {
        Self { output: Vec::new(), whole_bytes: 0, cleared_bytes: 0, version: 0, stage: Stage::StreamHeader }
    }

    /// Rebuilds as much as both pieces allow, and leaves in them what it did not take.
    ///
    /// # Errors
    ///
    /// If the command stream is not one: the same faults as in a stream that is read, but for checksums.
    pub fn feed(&mut self, commands: &mut &[u8], data: &mut &[u8]) -> Result<Wanted, StreamError> {
        loop {
            if let Some(wanted) = self.step(commands, data)? {
                return Ok(wanted);
            }
        }
    }

    /// What is rebuilt and not cleared: whole commands.
    #[must_use]
    pub fn rebuilt(&self) -> &[u8] {
        &self.output[..self.whole_bytes]
    }

    /// Forgets what is rebuilt, when it was written.
    pub fn clear_rebuilt(&mut self) {
        self.output.drain(..self.whole_bytes);
        self.cleared_bytes += self.whole_bytes as u64;
        self.whole_bytes = 0;
    }

    /// Checks that the stream is whole. File data that it did not take is for the caller to notice.
    ///
    /// # Errors
    ///
    /// If END was not rebuilt yet.
    pub fn finish(&self) -> Result<(), StreamError> {
        if matches!(self.stage, Stage::Ended) { Ok(()) } else { Err(StreamError::CutShort { offset: self.offset() }) }
    }

    /// Goes one stage further, or says what that takes.
    fn step(&mut self, commands: &mut &[u8], data: &mut &[u8]) -> Result<Option<Wanted>, StreamError> {
        let needed_bytes = match self.stage {
            Stage::StreamHeader => STREAM_HEADER_BYTES,
            Stage::CommandHeader => KEPT_HEADER_BYTES,
            Stage::Search { needed_bytes: bytes, .. } | Stage::Kept { kept_bytes: bytes, .. } => {
                COMMAND_HEADER_BYTES + bytes
            }
            Stage::Payload(body) => return self.step_payload(body, data),
            Stage::Ended if commands.is_empty() => return Ok(Some(Wanted::Commands)),
            Stage::Ended => return Err(StreamError::BytesAfterEnd { offset: self.offset() }),
        };
        if pull(commands, &mut self.output, self.whole_bytes + needed_bytes) > 0 {
            return Ok(Some(Wanted::Commands));
        }
        self.advance().map(|()| None)
    }

    fn step_payload(&mut self, body: Body, data: &mut &[u8]) -> Result<Option<Wanted>, StreamError> {
        let target_bytes = self.whole_bytes + COMMAND_HEADER_BYTES + body.length_bytes;
        let missing_bytes = pull(data, &mut self.output, target_bytes);
        if missing_bytes > 0 {
            return Ok(Some(Wanted::Data(missing_bytes as u64)));
        }
        self.advance().map(|()| None)
    }

    /// Enters the next stage, when all that this one needs is there.
    fn advance(&mut self) -> Result<(), StreamError> {
        let at_hand = &self.output[self.whole_bytes..];
        self.stage = match self.stage {
            Stage::StreamHeader => {
                self.version = known_version(at_hand)?;
                self.whole_bytes = self.output.len();
                Stage::CommandHeader
            }
            Stage::CommandHeader => self.begin_command()?,
            Stage::Search { mut search, body, .. } => match search.run(&at_hand[COMMAND_HEADER_BYTES..]) {
                Found::More(needed_bytes) => Stage::Search { search, needed_bytes, body },
                Found::Kept(kept_bytes) => Stage::Kept { kept_bytes, body },
                Found::Overrun => {
                    return Err(StreamError::AttributeOverrun { command: body.code, offset: self.offset() });
                }
            },
            Stage::Kept { body, .. } => Stage::Payload(body),
            Stage::Payload(body) => self.end_command(body),
            Stage::Ended => Stage::Ended,
        };
        Ok(())
    }

    /// Reads a command's header and leaves room for its checksum.
    fn begin_command(&mut self) -> Result<Stage, StreamError> {
        let (length, code) = header_fields(&self.output[self.whole_bytes..]);
        let code = CommandCode(u16::from_le_bytes(code));
        let length_bytes = checked_length(u32::from_le_bytes(length), code, self.offset())?;
        self.output.extend_from_slice(&[0; COMMAND_HEADER_BYTES - KEPT_HEADER_BYTES]);
        let search = PayloadSearch::new(self.version, code, length_bytes);
        // Only a write can have bytes elsewhere; of it no more may be taken than the search asks for.
        let needed_bytes = if code.is_write() { 0 } else { length_bytes };
        Ok(Stage::Search { search, needed_bytes, body: Body { code, length_bytes } })
    }

    /// Puts the checksum into a command that is whole.
    fn end_command(&mut self, body: Body) -> Stage {
        let command = &mut self.output[self.whole_bytes..];
        let (length, code) = header_fields(command);
        let (header, rest) = command.split_at_mut(COMMAND_HEADER_BYTES);
        header[KEPT_HEADER_BYTES..].copy_from_slice(&command_checksum(length, code, rest).to_le_bytes());
        self.whole_bytes = self.output.len();
        if body.code == CommandCode::END { Stage::Ended } else { Stage::CommandHeader }
    }

    /// Where the command at hand begins in the stream.
    fn offset(&self) -> u64 {
        self.cleared_bytes + self.whole_bytes as u64
    }
}

/// Moves bytes until `output` has `target_bytes`, and says how many are missing.
fn pull(source: &mut &[u8], output: &mut Vec<u8>, target_bytes: usize) -> usize {
    let wanted_bytes = target_bytes - output.len();
    let (taken, rest) = source.split_at(wanted_bytes.min(source.len()));
    output.extend_from_slice(taken);
    *source = rest;
    wanted_bytes - taken.len()
}

/// Length and code of a command, as they are in its header.
fn header_fields(command: &[u8]) -> ([u8; 4], [u8; 2]) {
    let part = || {
        let (length, rest) = command.split_first_chunk()?;
        Some((*length, *rest.first_chunk()?))
    };
    part().expect("the command's header was taken before")
}
