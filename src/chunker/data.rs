//! Cuts file data.

use std::ops::Range;

use bytes::Bytes;
use rayon::prelude::*;

use super::gear::Cutter;
use super::parameters::{ChunkerParameters, InvalidParameters};
use super::{Chunk, hash_chunks};

/// Cuts a stream's file data into chunks, anew at each file.
///
/// Consecutive tiny files share a chunk, which ends after a file whose hash says so, when it has reached its limit,
/// before a file that is not tiny, and at the end. Empty files leave no trace.
#[derive(Debug)]
pub struct DataChunker {
    cutter: Cutter,
    tiny_file_bytes: usize,
    tiny_group_bytes: usize,
    tiny_group_modulus: u64,
    /// What is in no chunk yet: the files of the open group, then the open file from its last cut on.
    carry: Bytes,
    group_bytes: usize,
    /// The open file is not tiny, though what is left of it may be short.
    open_file_is_large: bool,
}

/// What a buffer holds of a file.
#[derive(Debug)]
struct FilePart {
    range: Range<usize>,
    is_large: bool,
    has_ended: bool,
}

/// What the bytes up to a cut are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece {
    /// A chunk of a file that is not tiny.
    Chunk,
    /// A tiny file.
    TinyFile,
    /// A tiny file after which the shared chunk ends.
    LastTinyFile,
}

impl DataChunker {
    /// Begins at a stream's first byte.
    ///
    /// # Errors
    ///
    /// Parameters that [`ChunkerParameters::validate`] refuses.
    pub fn new(parameters: &ChunkerParameters) -> Result<Self, InvalidParameters> {
        Ok(Self {
            cutter: Cutter::new(parameters)?,
            tiny_file_bytes: parameters.tiny_file_bytes as usize,
            tiny_group_bytes: parameters.tiny_group_bytes as usize,
            tiny_group_modulus: u64::from(parameters.tiny_group_modulus),
            carry: Bytes::new(),
            group_bytes: 0,
            open_file_is_large: false,
        })
    }

    /// The most bytes that are carried over from one batch to the next.
    #[must_use]
    pub fn headroom_bytes(&self) -> usize {
        // Of a file that is not tiny less than this is left, and no group is open before it; an open group and a file
        // that may turn out tiny are less together, as the parameters were checked for.
        self.cutter.maximum_bytes()
    }

    /// Cuts a batch, the bytes of `data` from `headroom` on, and gives the chunks that are complete, in stream order.
    ///
    /// A file begins at each of `file_starts`, ascending offsets into the batch; bytes before the first belong to the
    /// file still open. The batch's last file stays open until a later batch begins another one.
    ///
    /// What earlier batches left uncut is put into the headroom, for which [`DataChunker::headroom_bytes`] is always
    /// enough. A batch with less room than is needed is copied.
    ///
    /// # Panics
    ///
    /// Where `headroom` or a file's start is beyond the end of `data`.
    pub fn push(&mut self, data: Vec<u8>, headroom: usize, file_starts: &[u32]) -> Vec<Chunk> {
        let carried = std::mem::take(&mut self.carry);
        let (buffer, begin) = join(&carried, data, headroom);
        let batch_begin = begin + carried.len();
        let file_starts = file_starts.iter().map(|start| batch_begin + *start as usize);
        self.cut_buffer(&Bytes::from(buffer), begin, file_starts, false)
    }

    /// Ends the stream and its last file, and gives the chunks still open.
    #[must_use]
    pub fn finish(mut self) -> Vec<Chunk> {
        let rest = std::mem::take(&mut self.carry);
        self.cut_buffer(&rest, 0, std::iter::empty(), true)
    }

    fn cut_buffer(
        &mut self,
        buffer: &Bytes,
        begin: usize,
        file_starts: impl Iterator<Item = usize>,
        at_end: bool,
    ) -> Vec<Chunk> {
        let files = self.part_files(begin + self.group_bytes..buffer.len(), file_starts, at_end);
        self.open_file_is_large = files.last().is_some_and(|file| file.is_large);
        let pieces: Vec<_> = files.into_par_iter().flat_map_iter(|file| self.cut_file(buffer, file)).collect();
        let ends = self.group_tiny_files(begin, &pieces, at_end);
        self.carry = buffer.slice(ends.last().copied().unwrap_or(begin)..);
        hash_chunks(buffer, begin, &ends)
    }

    /// Parts the bytes from the open file on by `file_starts`.
    fn part_files(&self, range: Range<usize>, file_starts: impl Iterator<Item = usize>, at_end: bool) -> Vec<FilePart> {
        let mut files = Vec::new();
        let mut start = range.start;
        let mut is_large = self.open_file_is_large;
        for end in file_starts {
            files.push(FilePart {
                range: start..end,
                is_large: is_large || end - start >= self.tiny_file_bytes,
                has_ended: true,
            });
            (start, is_large) = (end, false);
        }
        let is_large = is_large || range.end - start >= self.tiny_file_bytes;
        files.push(FilePart { range: start..range.end, is_large, has_ended: at_end });
        files
    }

    /// Finds the cuts in what there is of a file. A tiny one that has ended has a single cut, its end, as it is
    /// shorter than the shortest chunk.
    fn cut_file(&self, buffer: &[u8], file: FilePart) -> impl Iterator<Item = (usize, Piece)> {
        let FilePart { range, is_large, has_ended } = file;
        let piece = if is_large {
            Piece::Chunk
        } else if has_ended && self.closes_group(&buffer[range.clone()]) {
            Piece::LastTinyFile
        } else {
            Piece::TinyFile
        };
        let needed = if has_ended { 1 } else { self.cutter.maximum_bytes() };
        let mut at = range.start;
        std::iter::from_fn(move || {
            let rest = &buffer[at..range.end];
            (rest.len() >= needed).then(|| {
                at += self.cutter.cut(rest);
                (at, piece)
            })
        })
    }

    /// Whether a shared chunk ends after this tiny file.
    fn closes_group(&self, file: &[u8]) -> bool {
        let hash = blake3::hash(file);
        let (first, _) = hash.as_bytes().split_first_chunk().expect("a hash is longer than its first 8 bytes");
        u64::from_le_bytes(*first).is_multiple_of(self.tiny_group_modulus)
    }

    /// Tells which cuts end a chunk, and remembers how much of the buffer is left in an open group.
    fn group_tiny_files(&mut self, begin: usize, cuts: &[(usize, Piece)], at_end: bool) -> Vec<usize> {
        let mut ends = Vec::with_capacity(cuts.len() + 1);
        let mut start = begin;
        let mut group_end = begin + self.group_bytes;
        for &(end, piece) in cuts {
            if piece == Piece::Chunk && group_end > start {
                ends.push(group_end);
                start = group_end;
            }
            group_end = end;
            if piece != Piece::TinyFile || end - start >= self.tiny_group_bytes {
                ends.push(end);
                start = end;
            }
        }
        if (at_end || self.open_file_is_large) && group_end > start {
            ends.push(group_end);
            start = group_end;
        }
        self.group_bytes = group_end - start;
        ends
    }
}

/// Puts what was carried over right before a batch, and tells where it begins.
fn join(carried: &[u8], mut data: Vec<u8>, headroom: usize) -> (Vec<u8>, usize) {
    match headroom.checked_sub(carried.len()) {
        Some(begin) => {
            data[begin..headroom].copy_from_slice(carried);
            (data, begin)
        }
        None => ([carried, &data[headroom..]].concat(), 0),
    }
}
