//! Objects that are stored in parts.

use std::time::Duration;

use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumType, CompletedMultipartUpload, CompletedPart, MultipartUpload};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use jiff::Timestamp;

use super::checksum::checksum_text;
use super::error::{OperationError, is_not_offered, is_precondition_failed, transient};
use super::flow::{Progress, upload};
use super::{S3Store, Stored, timestamp, watch_for};
use crate::store::failure::{Failure, check_prefix, length};
use crate::store::{Key, Tier};

/// The server may take some minutes to put the parts of a large object together (`CompleteMultipartUpload` in the S3 API
/// reference), and says nothing until it has.
const PUTTING_TOGETHER: Duration = Duration::from_mins(5);
/// Parts of one object that are on their way at once.
const PARTS_AT_ONCE: usize = 3;

impl S3Store {
    /// Stores an object in parts. One that cannot be completed is taken back.
    pub(super) async fn put_in_parts(&self, key: &Key, body: &Bytes, tier: Tier) -> Result<Stored, Failure> {
        let id = self.begin_parts(key, tier).await?;
        let stored = match self.put_parts(key, &id, body).await {
            Ok(parts) => self.complete_parts(key, &id, parts, body).await,
            Err(error) => Err(error),
        };
        if !matches!(stored, Ok(Stored::New)) {
            self.abort_parts(&self.full_key(key), &id).await;
        }
        stored
    }

    pub(super) async fn begin_parts(&self, key: &Key, tier: Tier) -> Result<String, Failure> {
        let mut request = self
            .client
            .create_multipart_upload()
            .bucket(&self.bucket)
            .key(self.full_key(key))
            .checksum_algorithm(ChecksumAlgorithm::Crc32C)
            .checksum_type(ChecksumType::FullObject)
            .set_storage_class(self.storage_class(tier));
        let (encryption, key_id) = self.encryption();
        request = request.set_server_side_encryption(encryption).set_ssekms_key_id(key_id);
        let begun = self.request(Box::pin(request.send())).await?;
        self.check_encryption(begun.server_side_encryption());
        begun.upload_id.ok_or_else(|| transient("the server did not say how it calls the upload"))
    }

    async fn put_parts(&self, key: &Key, id: &str, body: &Bytes) -> Result<Vec<CompletedPart>, Failure> {
        let part_bytes = usize::try_from(self.settings.part_bytes).unwrap_or(usize::MAX);
        let starts = (0..body.len()).step_by(part_bytes);
        let part = |start: usize| body.slice(start..body.len().min(start.saturating_add(part_bytes)));
        let put = |(number, start)| self.put_part(key, id, number, part(start));
        let parts = stream::iter((1..).zip(starts)).map(put).buffered(PARTS_AT_ONCE);
        parts.try_collect().await
    }

    pub(super) async fn put_part(
        &self,
        key: &Key,
        id: &str,
        number: i32,
        part: Bytes,
    ) -> Result<CompletedPart, Failure> {
        let progress = Progress::new();
        let checksum = checksum_text(&part);
        let request = self
            .client
            .upload_part()
            .bucket(&self.bucket)
            .key(self.full_key(key))
            .upload_id(id)
            .part_number(number)
            .checksum_crc32_c(&checksum)
            .content_length(i64::try_from(length(&part)).unwrap_or(i64::MAX))
            .body(upload(part, self.upload_bandwidth.clone(), progress.clone()));
        let put = match self.watch(&progress, Box::pin(request.send())).await? {
            Ok(put) => put,
            // Somebody has taken the upload for one of a dead run; another can be begun.
            Err(error) if is_unknown_upload(&error) => return Err(transient("the upload is not there any more")),
            Err(error) => return Err(self.failure(&error)),
        };
        Ok(CompletedPart::builder().part_number(number).checksum_crc32_c(checksum).set_e_tag(put.e_tag).build())
    }

    async fn complete_parts(
        &self,
        key: &Key,
        id: &str,
        parts: Vec<CompletedPart>,
        body: &Bytes,
    ) -> Result<Stored, Failure> {
        let request = self
            .client
            .complete_multipart_upload()
            .bucket(&self.bucket)
            .key(self.full_key(key))
            .upload_id(id)
            .multipart_upload(CompletedMultipartUpload::builder().set_parts(Some(parts)).build())
            .checksum_type(ChecksumType::FullObject)
            .checksum_crc32_c(checksum_text(body))
            .set_if_none_match(self.if_none_match());
        match watch_for(PUTTING_TOGETHER, &Progress::new(), Box::pin(request.send())).await? {
            Ok(_) => Ok(Stored::New),
            Err(error) if is_precondition_failed(&error) => Ok(Stored::Refused),
            // The upload's end may have been reached by an earlier try whose reply was lost.
            Err(error) if is_unknown_upload(&error) => Ok(Stored::Refused),
            Err(error) => Err(self.failure(&error)),
        }
    }

    /// Takes back what has been stored of an object; says whether that is done. Where it is not, the next run does it.
    async fn abort_parts(&self, full_key: &str, id: &str) -> bool {
        let request = self.client.abort_multipart_upload().bucket(&self.bucket).key(full_key).upload_id(id);
        if let Err(error) = self.request(Box::pin(request.send())).await {
            tracing::debug!(key = full_key, reason = error.reason, "parts of an object stay for now");
            return false;
        }
        true
    }

    /// Takes back objects of which only parts were stored, by uploads begun before a moment; says how many.
    ///
    /// Where the server's clocks differ, this may hit an upload that somebody waits for, who then begins another.
    pub(super) async fn abort_uploads(&self, prefix: &str, before: Timestamp) -> Result<u64, Failure> {
        check_prefix(prefix)?;
        let mut aborted = 0;
        let (mut key_marker, mut id_marker) = (None, None);
        loop {
            let request = self
                .client
                .list_multipart_uploads()
                .bucket(&self.bucket)
                .prefix(format!("{}{prefix}", self.key_prefix))
                .set_key_marker(key_marker.take())
                .set_upload_id_marker(id_marker.take());
            let page = match self.answer(Box::pin(request.send())).await? {
                Ok(page) => page,
                Err(error) if is_not_offered(&error) => return Ok(0),
                Err(error) => return Err(self.failure(&error)),
            };
            for upload in page.uploads() {
                if let Some((key, id)) = begun_before(upload, before)
                    && self.abort_parts(key, id).await
                {
                    aborted += 1;
                }
            }
            (key_marker, id_marker) = (page.next_key_marker, page.next_upload_id_marker);
            if page.is_truncated != Some(true) || key_marker.is_none() {
                return Ok(aborted);
            }
        }
    }
}

fn is_unknown_upload<E>(error: &OperationError<E>) -> bool {
    matches!(error, SdkError::ServiceError(answer) if answer.raw().status().as_u16() == 404)
}

fn begun_before(upload: &MultipartUpload, moment: Timestamp) -> Option<(&str, &str)> {
    let begun_at = timestamp(upload.initiated()?)?;
    if begun_at < moment { Some((upload.key()?, upload.upload_id()?)) } else { None }
}
