//! A command's attributes.

use super::AttributeCode;
use crate::id::Uuid;

/// An attribute as it is in a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// Its number.
    pub code: AttributeCode,
    /// Its value's bytes.
    pub value: &'a [u8],
}

impl Attribute<'_> {
    /// The value as an integer, where it has the length of one.
    #[must_use]
    pub fn as_u64(&self) -> Option<u64> {
        match *self.value {
            [byte] => Some(u64::from(byte)),
            [a, b, c, d] => Some(u64::from(u32::from_le_bytes([a, b, c, d]))),
            _ => self.value.try_into().ok().map(u64::from_le_bytes),
        }
    }

    /// The value as a UUID, where it has the length of one.
    #[must_use]
    pub fn as_uuid(&self) -> Option<Uuid> {
        self.value.try_into().ok().map(Uuid::from_bytes)
    }

    /// The value as seconds since 1970 and nanoseconds, where it has the length of a time stamp.
    #[must_use]
    pub fn as_time(&self) -> Option<(i64, u32)> {
        let (seconds, nanoseconds) = self.value.split_first_chunk::<8>()?;
        Some((i64::from_le_bytes(*seconds), u32::from_le_bytes(nanoseconds.try_into().ok()?)))
    }
}

/// The attributes of a command, in order. Ends early where the bytes are not attributes, which only happens in a command
/// that is not known: in the others the reader has checked them.
#[derive(Debug, Clone)]
pub struct Attributes<'a> {
    version: u32,
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    pub(super) fn new(version: u32, body: &'a [u8]) -> Self {
        Self { version, rest: body }
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Attribute<'a>;

    fn next(&mut self) -> Option<Attribute<'a>> {
        let HeaderStep::Found(header) = read_header(self.version, self.rest, self.rest.len()) else {
            return None;
        };
        let (attribute, rest) = self.rest.split_at(header.header_bytes + header.value_bytes);
        self.rest = rest;
        Some(Attribute { code: header.code, value: &attribute[header.header_bytes..] })
    }
}

/// An attribute's header.
#[derive(Debug, Clone, Copy)]
pub(super) struct AttributeHeader {
    pub(super) code: AttributeCode,
    pub(super) header_bytes: usize,
    pub(super) value_bytes: usize,
}

/// What [`read_header`] found.
#[derive(Debug, Clone, Copy)]
pub(super) enum HeaderStep {
    /// A header whose attribute fits its command.
    Found(AttributeHeader),
    /// The header is not all there: this many bytes of it are needed to go on.
    More(usize),
    /// The attribute does not fit its command.
    Overrun,
}

/// Reads the header of an attribute that begins with `available` and has `remaining_bytes` up to its command's end.
pub(super) fn read_header(version: u32, available: &[u8], remaining_bytes: usize) -> HeaderStep {
    if remaining_bytes < 2 {
        return HeaderStep::Overrun;
    }
    let Some((code, rest)) = available.split_first_chunk::<2>() else {
        return HeaderStep::More(2);
    };
    let code = AttributeCode(u16::from_le_bytes(*code));
    if code == AttributeCode::DATA && version >= 2 {
        return HeaderStep::Found(AttributeHeader { code, header_bytes: 2, value_bytes: remaining_bytes - 2 });
    }
    if remaining_bytes < 4 {
        return HeaderStep::Overrun;
    }
    let Some(length) = rest.first_chunk::<2>() else {
        return HeaderStep::More(4);
    };
    let value_bytes = usize::from(u16::from_le_bytes(*length));
    if value_bytes > remaining_bytes - 4 {
        return HeaderStep::Overrun;
    }
    HeaderStep::Found(AttributeHeader { code, header_bytes: 4, value_bytes })
}
