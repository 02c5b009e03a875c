//! Parts of objects.

use std::ops::Range;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::time::Instant;

use super::error::transient;
use super::flow::Progress;
use super::{FIRST_BYTE_WITHIN, S3Store, body_bytes};
use crate::store::failure::{Failure, check_range};
use crate::store::{Key, ObjectEnd, StoreErrorKind};

impl S3Store {
    pub(super) async fn get_part(&self, key: &Key, range: Range<u64>) -> Result<Bytes, Failure> {
        // There is no asking for nothing, nor for what lies beyond any object.
        if range.is_empty() || i64::try_from(range.end).is_err() {
            let found = self.find(key).await?.ok_or_else(Failure::not_found)?;
            return check_range(&range, found.size_bytes).map(|()| Bytes::new());
        }
        let progress = Progress::new();
        progress.expected_from(Instant::now() + FIRST_BYTE_WITHIN);
        let read = Box::pin(async {
            let request = self.get_request(key).range(format!("bytes={}-{}", range.start, range.end - 1));
            let answer = request.send().await.map_err(|error| self.failure(&error))?;
            let (offset, object_bytes) = answer
                .content_range()
                .and_then(parse_content_range)
                .ok_or_else(|| Failure::other("the server does not say which part of the object it sends"))?;
            check_range(&range, object_bytes)?;
            let part_bytes = range.end - range.start;
            if offset != range.start || body_bytes(&answer)? != part_bytes {
                return Err(transient("the server sends another part of the object than was asked for"));
            }
            self.download(answer, part_bytes, &progress).await
        });
        self.watch(&progress, read).await?
    }

    /// The last bytes, by a range that is counted from the end; where the server knows none, after a look at the length.
    pub(super) async fn get_last(&self, key: &Key, end_bytes: u64) -> Result<ObjectEnd, Failure> {
        let is_known = !self.knows_no_ends.load(Ordering::Relaxed);
        if is_known
            && end_bytes > 0
            && let Some(end) = self.ask_for_end(key, end_bytes).await?
        {
            return Ok(end);
        }
        let size_bytes = self.find(key).await?.ok_or_else(Failure::not_found)?.size_bytes;
        let bytes = self.get_part(key, size_bytes.saturating_sub(end_bytes)..size_bytes).await?;
        Ok(ObjectEnd { bytes, size_bytes })
    }

    /// None where the server sends something else than the end: all of a larger object, another part, or a refusal. None of
    /// it is received.
    async fn ask_for_end(&self, key: &Key, end_bytes: u64) -> Result<Option<ObjectEnd>, Failure> {
        let progress = Progress::new();
        progress.expected_from(Instant::now() + FIRST_BYTE_WITHIN);
        let read = Box::pin(async {
            let request = self.get_request(key).range(format!("bytes=-{end_bytes}"));
            let answer = match request.send().await.map_err(|error| self.failure(&error)) {
                // An empty object has no last bytes, which says nothing about the server.
                Err(Failure { kind: StoreErrorKind::OutOfRange, .. }) => return Ok(None),
                Err(Failure { kind: StoreErrorKind::Other, .. }) => return Ok(self.without_ends()),
                answer => answer?,
            };
            let part_bytes = body_bytes(&answer)?;
            let told = match answer.content_range() {
                Some(text) => parse_content_range(text),
                // All of it, which is as good if it is small.
                None => (part_bytes < end_bytes).then_some((0, part_bytes)),
            };
            let is_end = |(offset, size_bytes): &(u64, u64)| {
                *offset == size_bytes.saturating_sub(end_bytes) && offset.checked_add(part_bytes) == Some(*size_bytes)
            };
            let Some((_, size_bytes)) = told.filter(is_end) else { return Ok(self.without_ends()) };
            let bytes = self.download(answer, part_bytes, &progress).await?;
            Ok(Some(ObjectEnd { bytes, size_bytes }))
        });
        self.watch(&progress, read).await?
    }

    /// Remembers that the server does not know ranges that are counted from the end.
    fn without_ends(&self) -> Option<ObjectEnd> {
        self.knows_no_ends.store(true, Ordering::Relaxed);
        None
    }
}

/// Where a part begins and how large the whole object is, from `bytes 0-9/100`.
fn parse_content_range(text: &str) -> Option<(u64, u64)> {
    let (range, whole) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = range.split_once('-')?;
    Some((start.parse().ok()?, whole.parse().ok()?))
}
