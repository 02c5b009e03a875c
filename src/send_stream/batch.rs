//! A stretch of a parted stream.

use super::KEPT_HEADER_BYTES;

/// Where a command ends in the two parts of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommandEnd {
    /// Bytes of the batch's command stream up to the command's end.
    pub command_bytes: u32,
    /// Bytes of the batch's file data up to the command's end.
    pub data_bytes: u32,
}

/// A stretch of a parted stream: whole commands and the file data that belongs to them.
///
/// The command streams of all batches, in order, are the stream's command stream, and likewise for the file data. A batch
/// of an opaque stream has only data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The command stream. The first batch's begins with the stream's header.
    pub commands: Vec<u8>,
    /// The end of the stream's header and of every command, in order.
    pub command_ends: Vec<CommandEnd>,
    /// First the headroom, zeros for the receiver to write over; then the file data.
    pub data: Vec<u8>,
    /// Where in the file data, counted without the headroom, a file begins: ascending, each before the data's end.
    pub file_starts: Vec<u32>,
    headroom_bytes: usize,
}

/// No batch is larger than this and one command more, so that offsets in it fit 32 bits.
pub(super) const MAX_BATCH_BYTES: usize = 1 << 30;

impl Batch {
    /// An empty batch with room for `batch_bytes` of data.
    pub(super) fn with_room(headroom_bytes: usize, batch_bytes: usize) -> Self {
        // The last command may go past the target; v2 of the kernel writes up to 128 KiB with each.
        let mut data = Vec::with_capacity(headroom_bytes + batch_bytes + (128 << 10));
        data.resize(headroom_bytes, 0);
        Self { commands: Vec::new(), command_ends: Vec::new(), data, file_starts: Vec::new(), headroom_bytes }
    }

    /// The file data, without the headroom.
    #[must_use]
    pub fn file_data(&self) -> &[u8] {
        &self.data[self.headroom_bytes..]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.stored_bytes() == 0
    }

    /// Bytes of both parts.
    pub(super) fn stored_bytes(&self) -> usize {
        self.commands.len() + self.file_data().len()
    }

    /// Adds the stream's header.
    pub(super) fn push_stream_header(&mut self, header: &[u8]) {
        self.commands.extend_from_slice(header);
        self.push_end();
    }

    /// Adds a command: its header without the checksum, what stays of its body, and its file data.
    pub(super) fn push_command(&mut self, header: [u8; KEPT_HEADER_BYTES], kept: &[u8], payload: &[u8]) {
        self.commands.extend_from_slice(&header);
        self.commands.extend_from_slice(kept);
        self.data.extend_from_slice(payload);
        self.push_end();
    }

    /// Says that a file begins with the next byte of file data.
    pub(super) fn push_file_start(&mut self) {
        self.file_starts.push(offset(self.file_data().len()));
    }

    fn push_end(&mut self) {
        let end = CommandEnd { command_bytes: offset(self.commands.len()), data_bytes: offset(self.file_data().len()) };
        self.command_ends.push(end);
    }
}

fn offset(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("MAX_BATCH_BYTES and a command fit 32 bits")
}
