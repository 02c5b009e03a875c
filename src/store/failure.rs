//! Why an operation of a store failed, before it is said which operation and which object.

use std::fmt::Display;
use std::io;
use std::ops::Range;

use bytes::Bytes;
use rustix::io::Errno;

use super::{Key, ObjectEnd, StoreError, StoreErrorKind};

/// A [`StoreError`] that does not know its operation and object yet.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) kind: StoreErrorKind,
    pub(super) reason: String,
}

impl Failure {
    pub(super) fn not_found() -> Self {
        Self { kind: StoreErrorKind::NotFound, reason: "there is no such object".to_owned() }
    }

    pub(super) fn other(reason: impl Into<String>) -> Self {
        Self { kind: StoreErrorKind::Other, reason: reason.into() }
    }

    /// Completes the error. `target` is a key or the prefix of a listing.
    pub(super) fn at(self, operation: &'static str, store_url: &str, target: impl Display) -> StoreError {
        StoreError { kind: self.kind, operation, object: format!("{store_url}/{target}"), reason: self.reason }
    }
}

/// A missing file is not yet a missing object, so that kind is for the caller to give.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let kind = match Errno::from_io_error(&error) {
            Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => StoreErrorKind::Denied,
            Some(Errno::NOSPC | Errno::DQUOT) => StoreErrorKind::Full,
            _ => StoreErrorKind::Other,
        };
        Self { kind, reason: error.to_string() }
    }
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        io::Error::from(errno).into()
    }
}

/// Refuses to read an object larger than the caller allows.
pub(super) fn check_limit(size_bytes: u64, limit_bytes: u64) -> Result<(), Failure> {
    if size_bytes <= limit_bytes {
        return Ok(());
    }
    let reason = format!("it has {size_bytes} bytes, {limit_bytes} are allowed");
    Err(Failure { kind: StoreErrorKind::TooLarge, reason })
}

/// Refuses a range that does not lie within an object.
pub(super) fn check_range(range: &Range<u64>, size_bytes: u64) -> Result<(), Failure> {
    if range.start <= range.end && range.end <= size_bytes {
        return Ok(());
    }
    let reason = format!("bytes {} to {} were asked for, it has {size_bytes}", range.start, range.end);
    Err(Failure { kind: StoreErrorKind::OutOfRange, reason })
}

/// Refuses to take an object of another length for the one that was to be stored.
pub(super) fn check_existing(existing_bytes: u64, body: &Bytes) -> Result<(), Failure> {
    let body_bytes = length(body);
    if existing_bytes == body_bytes {
        return Ok(());
    }
    let reason = format!("an object of {existing_bytes} bytes is there already, {body_bytes} were to be stored");
    Err(Failure { kind: StoreErrorKind::Conflict, reason })
}

/// Refuses what is neither empty nor a key and a `/`.
pub(super) fn check_prefix(prefix: &str) -> Result<(), Failure> {
    let good = |prefix: &str| prefix.strip_suffix('/').is_some_and(|key| Key::new(key).is_ok());
    if prefix.is_empty() || good(prefix) {
        Ok(())
    } else {
        Err(Failure::other("this cannot be the beginning of a key"))
    }
}

/// Takes a part out of an object that is in memory.
pub(super) fn slice(body: &Bytes, range: &Range<u64>) -> Result<Bytes, Failure> {
    check_range(range, length(body))?;
    let position = |offset| usize::try_from(offset).map_err(|_| Failure::other("the offset is beyond memory"));
    Ok(body.slice(position(range.start)?..position(range.end)?))
}

/// The last bytes of an object that is in memory.
pub(super) fn end_of(body: &Bytes, end_bytes: u64) -> ObjectEnd {
    let start = body.len() - usize::try_from(end_bytes).unwrap_or(usize::MAX).min(body.len());
    ObjectEnd { bytes: body.slice(start..), size_bytes: length(body) }
}

pub(super) fn length(body: &Bytes) -> u64 {
    body.len() as u64
}
