//! The buffer between a stream's source and its parser.

use std::io::{self, Read};

use super::{StreamDigest, StreamError, StreamHasher};

const BUFFER_BYTES: usize = 1 << 20;

/// With less room than this behind the unread bytes they are moved to the front before reading on.
const MIN_READ_BYTES: usize = BUFFER_BYTES / 4;

/// Reads a stream in large pieces, shows its next bytes in one slice, and digests them as they come.
#[derive(Debug)]
pub(super) struct Input<R> {
    reader: R,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    taken_bytes: u64,
    hasher: StreamHasher,
}

impl<R: Read> Input<R> {
    pub(super) fn new(reader: R) -> Self {
        let buffer = vec![0; BUFFER_BYTES];
        Self { reader, buffer, start: 0, end: 0, taken_bytes: 0, hasher: StreamHasher::new() }
    }

    /// How much of the stream was taken.
    pub(super) fn offset(&self) -> u64 {
        self.taken_bytes
    }

    /// The digest of everything read, taken or not.
    pub(super) fn digest(&self) -> StreamDigest {
        self.hasher.digest()
    }

    /// All bytes that are there and not taken.
    pub(super) fn available(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Reads until `bytes` are available. False if the stream ends before.
    pub(super) fn fill(&mut self, bytes: usize) -> Result<bool, StreamError> {
        while self.end - self.start < bytes {
            if self.read_more()? == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Takes the next bytes, which must be available.
    pub(super) fn take(&mut self, bytes: usize) -> &[u8] {
        let taken = self.start..self.start + bytes;
        self.start = taken.end;
        self.taken_bytes += bytes as u64;
        &self.buffer[taken]
    }

    /// Gives the source back, with the bytes that were read and not taken.
    pub(super) fn into_parts(self) -> (Vec<u8>, R) {
        (self.available().to_vec(), self.reader)
    }

    #[cfg(test)]
    pub(super) fn buffer_bytes(&self) -> usize {
        self.buffer.len()
    }

    fn read_more(&mut self) -> Result<usize, StreamError> {
        self.make_room();
        loop {
            match self.reader.read(&mut self.buffer[self.end..]) {
                Ok(bytes) => {
                    self.hasher.update(&self.buffer[self.end..self.end + bytes]);
                    self.end += bytes;
                    return Ok(bytes);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    let offset = self.taken_bytes + self.available().len() as u64;
                    return Err(StreamError::Read { offset, source });
                }
            }
        }
    }

    /// Grows only a buffer that is full of one command's bytes, and by no more than there are: what a header claims
    /// is never allocated before it is there.
    fn make_room(&mut self) {
        if self.start > 0 && self.buffer.len() - self.end < MIN_READ_BYTES {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == self.buffer.len() {
            self.buffer.resize(2 * self.buffer.len(), 0);
        }
    }
}
