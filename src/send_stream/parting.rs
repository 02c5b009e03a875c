//! The rule that says which bytes of a command are file data.
//!
//! Splitting and rebuilding both ask here, so they cannot disagree. The answer hangs only on bytes that stay in the
//! command stream.

use super::attribute::{HeaderStep, read_header};
use super::{AttributeCode, CommandCode};

/// Looks for the file data of one command, and checks its attributes on the way.
///
/// It can be asked again when more of the command's body is there, and goes on where it stopped.
#[derive(Debug, Clone, Copy)]
pub(super) struct PayloadSearch {
    version: u32,
    code: CommandCode,
    body_bytes: usize,
    position: usize,
    data_seen: bool,
}

/// What a [`PayloadSearch`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// The first bytes of the body stay, this many; the rest is file data.
    Kept(usize),
    /// The body's first bytes are needed up to here.
    More(usize),
    /// An attribute goes past the command's end.
    Overrun,
}

impl PayloadSearch {
    pub(super) fn new(version: u32, code: CommandCode, body_bytes: usize) -> Self {
        // The bytes of a command that is not known need not be attributes: it stays whole, unread.
        let position = if code.is_known() { 0 } else { body_bytes };
        Self { version, code, body_bytes, position, data_seen: false }
    }

    /// Goes on with what is there of the body, from its first byte.
    pub(super) fn run(&mut self, available: &[u8]) -> Found {
        while self.position < self.body_bytes {
            let rest = available.get(self.position..).unwrap_or_default();
            match read_header(self.version, rest, self.body_bytes - self.position) {
                HeaderStep::Overrun => return Found::Overrun,
                HeaderStep::More(bytes) => return Found::More(self.position + bytes),
                HeaderStep::Found(header) => {
                    let value_start = self.position + header.header_bytes;
                    self.position = value_start + header.value_bytes;
                    let first_data = header.code == AttributeCode::DATA && !self.data_seen;
                    if first_data && self.code.is_write() && self.position == self.body_bytes {
                        return Found::Kept(value_start);
                    }
                    self.data_seen |= first_data;
                }
            }
        }
        Found::Kept(self.body_bytes)
    }
}
