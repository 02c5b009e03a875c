//! Cuts the command stream.

use bytes::Bytes;

use super::gear::Cutter;
use super::parameters::{ChunkerParameters, InvalidParameters};
use super::{Chunk, hash_chunks};

/// Where a command ends, and what it took from the file data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommandEnd {
    /// Offset of the byte after the command, from the beginning of its batch.
    pub end: u32,
    /// Bytes of file data that belong to the command.
    pub data_bytes: u32,
}

/// A chunk of whole commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandChunk {
    /// The commands.
    pub chunk: Chunk,
    /// Bytes of file data that belong to these commands.
    pub data_bytes_used: u64,
}

/// Cuts a command stream into chunks of whole commands.
///
/// Cuts are searched as in a single file; each is moved to the end of the command it falls in, and the next search
/// starts there. So a chunk may be longer than the maximum, by less than one command.
#[derive(Debug)]
pub struct CommandChunker {
    cutter: Cutter,
    /// What is in no chunk yet.
    pending: Vec<u8>,
    /// The ends of the commands in `pending`, from its beginning, and the data bytes of each.
    ends: Vec<(usize, u32)>,
}

impl CommandChunker {
    /// Begins at a stream's first command.
    ///
    /// # Errors
    ///
    /// Parameters that [`ChunkerParameters::validate`] refuses.
    pub fn new(parameters: &ChunkerParameters) -> Result<Self, InvalidParameters> {
        Ok(Self { cutter: Cutter::new(parameters)?, pending: Vec::new(), ends: Vec::new() })
    }

    /// Takes a batch of commands and gives the chunks that are complete, in stream order.
    ///
    /// The ends ascend, no command being empty. A command that has no end yet goes on in the next batch; keeping a
    /// batch to whole commands keeps what is carried over below the maximum.
    pub fn push(&mut self, commands: &[u8], ends: &[CommandEnd]) -> Vec<CommandChunk> {
        let batch_begin = self.pending.len();
        self.pending.extend_from_slice(commands);
        self.ends.extend(ends.iter().map(|command| (batch_begin + command.end as usize, command.data_bytes)));
        self.cut_pending(self.cutter.maximum_bytes())
    }

    /// Ends the stream and gives its last chunks. Bytes without an end count as one more command.
    #[must_use]
    pub fn finish(mut self) -> Vec<CommandChunk> {
        let length = self.pending.len();
        if self.ends.last().is_none_or(|(end, _)| *end < length) {
            self.ends.push((length, 0));
        }
        self.cut_pending(1)
    }

    /// Cuts as long as `needed` bytes are there to be searched.
    fn cut_pending(&mut self, needed: usize) -> Vec<CommandChunk> {
        let mut start = 0;
        let mut commands_used = 0;
        let mut cuts = Vec::new();
        let mut data_bytes_used = Vec::new();
        while self.pending.len() - start >= needed {
            let target = start + self.cutter.cut(&self.pending[start..]);
            let open = &self.ends[commands_used..];
            let before = open.partition_point(|(end, _)| *end < target);
            let Some((end, _)) = open.get(before) else { break };
            data_bytes_used.push(open[..=before].iter().map(|(_, data_bytes)| u64::from(*data_bytes)).sum());
            cuts.push(*end);
            commands_used += before + 1;
            start = *end;
        }
        if cuts.is_empty() {
            return Vec::new();
        }
        let rest = self.pending.split_off(start);
        let buffer = Bytes::from(std::mem::replace(&mut self.pending, rest));
        self.ends.drain(..commands_used);
        self.ends.iter_mut().for_each(|(end, _)| *end -= start);
        let chunks = hash_chunks(&buffer, 0, &cuts).into_iter().zip(data_bytes_used);
        chunks.map(|(chunk, data_bytes_used)| CommandChunk { chunk, data_bytes_used }).collect()
    }
}
