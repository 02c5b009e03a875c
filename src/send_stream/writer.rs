//! Writes a stream command by command.

use std::io::{self, Write};

use super::checksum::command_checksum;
use super::{AttributeCode, CommandCode, MAGIC, MAX_COMMAND_BYTES};
use crate::id::Uuid;

/// An attribute's value, to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// One byte.
    U8(u8),
    /// Four bytes.
    U32(u32),
    /// Eight bytes.
    U64(u64),
    /// Sixteen bytes.
    Uuid(Uuid),
    /// A time stamp.
    Time {
        /// Seconds since 1970.
        seconds: i64,
        /// Nanoseconds of the second.
        nanoseconds: u32,
    },
    /// Text or any bytes.
    Bytes(&'a [u8]),
}

impl Value<'_> {
    fn append_to(self, body: &mut Vec<u8>) {
        match self {
            Self::U8(value) => body.push(value),
            Self::U32(value) => body.extend_from_slice(&value.to_le_bytes()),
            Self::U64(value) => body.extend_from_slice(&value.to_le_bytes()),
            Self::Uuid(value) => body.extend_from_slice(value.as_bytes()),
            Self::Time { seconds, nanoseconds } => {
                body.extend_from_slice(&seconds.to_le_bytes());
                body.extend_from_slice(&nanoseconds.to_le_bytes());
            }
            Self::Bytes(value) => body.extend_from_slice(value),
        }
    }
}

/// Writes a stream's header and commands, with their checksums.
#[derive(Debug)]
pub struct StreamWriter<W> {
    writer: W,
    version: u32,
    body: Vec<u8>,
}

impl<W: Write> StreamWriter<W> {
    /// Begins a stream by writing its header.
    pub fn new(mut writer: W, version: u32) -> io::Result<Self> {
        writer.write_all(MAGIC)?;
        writer.write_all(&version.to_le_bytes())?;
        Ok(Self { writer, version, body: Vec::new() })
    }

    /// Writes a command with these attributes.
    ///
    /// # Errors
    ///
    /// Of kind `InvalidInput` if a value is too long, or if something follows a DATA attribute that has no length of its
    /// own, as from version 2 on; otherwise those of the writer.
    pub fn command(&mut self, code: CommandCode, attributes: &[(AttributeCode, Value<'_>)]) -> io::Result<()> {
        let mut body = std::mem::take(&mut self.body);
        body.clear();
        for (number, (code, value)) in attributes.iter().enumerate() {
            let last = number + 1 == attributes.len();
            append_attribute(self.version, *code, *value, last, &mut body)?;
        }
        self.raw_command(code, &body)?;
        self.body = body;
        Ok(())
    }

    /// Writes a command with any bytes as its body.
    ///
    /// # Errors
    ///
    /// Of kind `InvalidInput` if the body is too long; otherwise those of the writer.
    pub fn raw_command(&mut self, code: CommandCode, body: &[u8]) -> io::Result<()> {
        if body.len() > MAX_COMMAND_BYTES {
            return Err(invalid("the command is too long"));
        }
        let length = u32::try_from(body.len()).map_err(|_| invalid("the command is too long"))?.to_le_bytes();
        let code = code.0.to_le_bytes();
        self.writer.write_all(&length)?;
        self.writer.write_all(&code)?;
        self.writer.write_all(&command_checksum(length, code, body).to_le_bytes())?;
        self.writer.write_all(body)
    }

    /// Writes the END command and gives the writer back.
    pub fn finish(mut self) -> io::Result<W> {
        self.command(CommandCode::END, &[])?;
        Ok(self.writer)
    }
}

fn append_attribute(
    version: u32,
    code: AttributeCode,
    value: Value<'_>,
    last: bool,
    body: &mut Vec<u8>,
) -> io::Result<()> {
    body.extend_from_slice(&code.0.to_le_bytes());
    if code == AttributeCode::DATA && version >= 2 {
        value.append_to(body);
        return if last { Ok(()) } else { Err(invalid("an attribute follows DATA, which has no end of its own")) };
    }
    let length_at = body.len();
    body.extend_from_slice(&[0; 2]);
    value.append_to(body);
    let length = u16::try_from(body.len() - length_at - 2).map_err(|_| invalid("the attribute's value is too long"))?;
    body[length_at..length_at + 2].copy_from_slice(&length.to_le_bytes());
    Ok(())
}

fn invalid(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, reason)
}
