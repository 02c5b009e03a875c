//! Writes a made-up send stream to standard output, always the same: what the guard against regressions backs up.
//!
//! usage: `made_up_stream BYTES` (of file data, half random and half like text). A longer one begins with the files of a
//! shorter one.

#[path = "../support/content.rs"]
mod content;
#[path = "../support/streams.rs"]
mod streams;

use std::io::{self, Write};

use crate::streams::full_stream;

/// Tiny, small, middling and large files, in turn; an odd number of them, so that each length comes as either kind.
const FILE_BYTES: [usize; 7] = [300, 2_000, 9_000, 60_000, 700, 700_000, 3_000_000];

fn main() -> io::Result<()> {
    let bytes = std::env::args().nth(1).and_then(|bytes| bytes.parse().ok());
    let bytes = bytes.ok_or_else(|| io::Error::other("usage: made_up_stream BYTES"))?;
    io::stdout().lock().write_all(&full_stream(2, bytes, &FILE_BYTES))
}
