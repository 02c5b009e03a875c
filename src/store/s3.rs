//! Objects in a bucket of S3, or of a server that speaks its protocol.
//!
//! An object's key is the repository's prefix, a `/`, and its own. The store sends each request once and says of a
//! failure whether trying again may help; [`RetryStore`](super::retry::RetryStore) does that. `docs/s3.md` says what is
//! asked of a server, and what is done about one that lacks it.
//!
//! - **Put if absent.** By `If-None-Match: *`. A server that does not know it refuses, or overwrites: for these there is
//!   [`S3Settings::conditional_put`], which has each PUT look first. That is no guarantee when two write one key at the
//!   same moment; `docs/ordering.md` says why nothing that was reported done hangs on it.
//! - **Checksums.** A body is sent with the CRC-32C of its bytes, which the server compares before it stores them and
//!   keeps with the object. What is read is checked by whoever knows what it should be.
//! - **Stalls.** A request without a byte of progress for [`S3Settings::stall_timeout`] is given up, however long it may
//!   take as a whole.

mod checksum;
mod connect;
mod counting;
mod error;
mod flow;
mod multipart;
mod policies;
mod ranges;
pub mod settings;
mod thaw;

#[cfg(test)]
pub(super) mod tests;

use std::error::Error;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::operation::get_object::builders::GetObjectFluentBuilder;
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::operation::head_object::builders::HeadObjectFluentBuilder;
use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{Object, ObjectStorageClass, ServerSideEncryption, StorageClass};
use bytes::{Bytes, BytesMut};
use jiff::Timestamp;
use tokio::time::Instant;

use self::checksum::checksum_text;
use self::connect::Connection;
use self::counting::RequestCounter;
use self::error::{OperationError, failure, is_precondition_failed, root_cause, transient};
use self::flow::{Bandwidth, Progress, upload};
use self::settings::{Encryption, S3Settings};
use super::failure::{Failure, check_existing, check_limit, check_prefix, length};
use super::policy::Policies;
use super::requests::Usage;
use super::thaw::{ThawOutcome, ThawRequest, ThawState};
use super::url::StoreUrl;
use super::{
    Key, ListPage, ObjectEnd, ObjectInfo, ObjectStore, PutOutcome, StorageClassName, StoreError, StoreErrorKind, Tier,
    UploadChecksum,
};

/// An answer to a request without a body may take this long, or [`S3Settings::stall_timeout`] if that is longer.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(2);
/// Before the first byte of an object, credentials may have to be renewed and a connection be made.
const FIRST_BYTE_WITHIN: Duration = Duration::from_mins(1);

/// Keeps objects in a bucket. See the module's documentation.
pub struct S3Store {
    client: Client,
    counter: RequestCounter,
    is_aws: bool,
    url: String,
    bucket: String,
    /// Empty, or ending in `/`.
    key_prefix: String,
    settings: S3Settings,
    upload_bandwidth: Bandwidth,
    download_bandwidth: Bandwidth,
    page_size: Option<i32>,
    warned_of_encryption: AtomicBool,
    /// The server has answered a request, so there are credentials that it takes.
    was_let_in: AtomicBool,
    /// The server does not give the end of an object without being told its length.
    knows_no_ends: AtomicBool,
}

impl fmt::Debug for S3Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Store").field("url", &self.url).finish_non_exhaustive()
    }
}

/// What became of a request to store an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stored {
    New,
    /// There is one already, or may be.
    Refused,
}

impl S3Store {
    /// Makes ready for a bucket; nothing is asked of the server yet.
    ///
    /// # Errors
    ///
    /// If the region is not known.
    pub async fn open(bucket: &str, prefix: Option<&Key>, settings: &S3Settings) -> Result<Self, StoreError> {
        let connection = Box::pin(connect::connect(settings)).await.map_err(|Failure { kind, reason }| {
            let url = StoreUrl::S3 { bucket: bucket.to_owned(), prefix: prefix.cloned() };
            StoreError { kind, operation: "opening", object: url.to_string(), reason }
        })?;
        Ok(Self::over(connection, bucket, prefix, settings))
    }

    fn over(connection: Connection, bucket: &str, prefix: Option<&Key>, settings: &S3Settings) -> Self {
        let Connection { client, counter, is_aws } = connection;
        Self {
            client,
            counter,
            is_aws,
            url: StoreUrl::S3 { bucket: bucket.to_owned(), prefix: prefix.cloned() }.to_string(),
            bucket: bucket.to_owned(),
            key_prefix: prefix.map(|prefix| format!("{prefix}/")).unwrap_or_default(),
            settings: settings.clone(),
            upload_bandwidth: Bandwidth::new(settings.upload_bytes_per_second),
            download_bandwidth: Bandwidth::new(settings.download_bytes_per_second),
            page_size: None,
            warned_of_encryption: AtomicBool::new(false),
            was_let_in: AtomicBool::new(false),
            knows_no_ends: AtomicBool::new(false),
        }
    }

    /// Has listings come in pages of at most `page_size` objects; the server's own limit is 1000.
    #[must_use]
    pub fn with_page_size(self, page_size: u16) -> Self {
        Self { page_size: Some(i32::from(page_size)), ..self }
    }

    fn full_key(&self, key: &Key) -> String {
        format!("{}{key}", self.key_prefix)
    }

    fn class_of(&self, tier: Tier) -> Option<&StorageClassName> {
        match tier {
            Tier::Data => self.settings.storage_class_data.as_ref(),
            Tier::Metadata => self.settings.storage_class_metadata.as_ref(),
        }
    }

    fn storage_class(&self, tier: Tier) -> Option<StorageClass> {
        self.class_of(tier).map(|class| StorageClass::from(class.as_str()))
    }

    fn encryption(&self) -> (Option<ServerSideEncryption>, Option<String>) {
        let encryption = self.settings.encryption.as_ref();
        let key_id = match encryption {
            Some(Encryption::Kms { key_id, .. }) => key_id.clone(),
            _ => None,
        };
        (encryption.map(|encryption| ServerSideEncryption::from(encryption.header_value())), key_id)
    }

    fn if_none_match(&self) -> Option<String> {
        self.settings.conditional_put.then(|| "*".to_owned())
    }

    /// What an error means.
    fn failure<E: ProvideErrorMetadata + Error + 'static>(&self, error: &OperationError<E>) -> Failure {
        failure(error, self.was_let_in.load(Ordering::Relaxed))
    }

    /// Waits for the answer to a request that has no body to tell of its progress.
    async fn request<T, E: ProvideErrorMetadata + Error + 'static>(
        &self,
        request: impl Future<Output = Result<T, OperationError<E>>>,
    ) -> Result<T, Failure> {
        self.answer(request).await?.map_err(|error| self.failure(&error))
    }

    /// As [`Self::request`], for callers who look at the error themselves.
    async fn answer<T, E>(
        &self,
        request: impl Future<Output = Result<T, OperationError<E>>>,
    ) -> Result<Result<T, OperationError<E>>, Failure> {
        let timeout = self.settings.stall_timeout.max(ANSWER_TIMEOUT);
        let answer = watch_for(timeout, &Progress::new(), request).await?;
        self.was_let_in.fetch_or(answer.is_ok(), Ordering::Relaxed);
        Ok(answer)
    }

    /// Waits as long as there is progress.
    async fn watch<T>(&self, progress: &Progress, request: impl Future<Output = T>) -> Result<T, Failure> {
        watch_for(self.settings.stall_timeout, progress, request).await
    }

    async fn put_object(&self, key: &Key, body: Bytes, tier: Tier) -> Result<PutOutcome, Failure> {
        if !self.settings.conditional_put && self.find(key).await?.is_some() {
            return self.outcome_of_existing(key, &body).await;
        }
        let stored = if length(&body) > self.settings.part_bytes {
            self.put_in_parts(key, &body, tier).await?
        } else {
            self.put_whole(key, body.clone(), tier).await?
        };
        match stored {
            Stored::New => self.counter.add(self.class_of(tier), length(&body)),
            Stored::Refused => return self.outcome_of_existing(key, &body).await,
        }
        Ok(PutOutcome::Stored)
    }

    async fn put_whole(&self, key: &Key, body: Bytes, tier: Tier) -> Result<Stored, Failure> {
        let progress = Progress::new();
        let (encryption, key_id) = self.encryption();
        let request = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(self.full_key(key))
            .set_if_none_match(self.if_none_match())
            .set_storage_class(self.storage_class(tier))
            .set_server_side_encryption(encryption)
            .set_ssekms_key_id(key_id)
            .checksum_crc32_c(checksum_text(&body))
            .content_length(i64::try_from(length(&body)).unwrap_or(i64::MAX))
            .body(upload(body, self.upload_bandwidth.clone(), progress.clone()));
        match self.watch(&progress, Box::pin(request.send())).await? {
            Ok(stored) => {
                self.was_let_in.store(true, Ordering::Relaxed);
                self.check_encryption(stored.server_side_encryption());
                Ok(Stored::New)
            }
            Err(error) if is_precondition_failed(&error) => Ok(Stored::Refused),
            Err(error) => Err(self.failure(&error)),
        }
    }

    /// Says once if the server does not confirm that it encrypts as it was asked to.
    fn check_encryption(&self, confirmed: Option<&ServerSideEncryption>) {
        let Some(asked) = &self.settings.encryption else { return };
        let is_confirmed = confirmed.is_some_and(|confirmed| confirmed.as_str() == asked.header_value());
        if !is_confirmed && !self.warned_of_encryption.swap(true, Ordering::Relaxed) {
            tracing::warn!("{}: the server does not confirm that it encrypts with {asked}", self.url);
        }
    }

    /// Looks at the object that was in the way of a put.
    async fn outcome_of_existing(&self, key: &Key, body: &Bytes) -> Result<PutOutcome, Failure> {
        let Some(existing) = self.find(key).await? else {
            return Err(transient("the server said that there is such an object, and then that there is none"));
        };
        check_existing(existing.size_bytes, body)?;
        Ok(PutOutcome::Exists)
    }

    async fn head_object(&self, key: &Key) -> Result<Option<HeadObjectOutput>, Failure> {
        self.head_by(self.client.head_object(), key).await
    }

    async fn head_by(&self, head: HeadObjectFluentBuilder, key: &Key) -> Result<Option<HeadObjectOutput>, Failure> {
        let request = head.bucket(&self.bucket).key(self.full_key(key));
        match self.request(Box::pin(request.send())).await {
            Err(Failure { kind: StoreErrorKind::NotFound, .. }) => Ok(None),
            found => found.map(Some),
        }
    }

    async fn find(&self, key: &Key) -> Result<Option<ObjectInfo>, Failure> {
        let Some(found) = self.head_object(key).await? else { return Ok(None) };
        let size_bytes = found.content_length().and_then(|size| u64::try_from(size).ok());
        let modified_at = found.last_modified().and_then(timestamp);
        match (size_bytes, modified_at) {
            (Some(size_bytes), Some(modified_at)) => {
                let storage_class = class_name(found.storage_class().map(StorageClass::as_str));
                Ok(Some(ObjectInfo { key: key.clone(), size_bytes, modified_at, storage_class }))
            }
            _ => Err(Failure::other("the server does not say how large the object is, or when it was stored")),
        }
    }

    fn get_request(&self, key: &Key) -> GetObjectFluentBuilder {
        self.client.get_object().bucket(&self.bucket).key(self.full_key(key))
    }

    async fn get_whole(&self, key: &Key, limit_bytes: u64) -> Result<Bytes, Failure> {
        let progress = Progress::new();
        progress.expected_from(Instant::now() + FIRST_BYTE_WITHIN);
        let read = Box::pin(async {
            let answer = self.get_request(key).send().await.map_err(|error| self.failure(&error))?;
            let size_bytes = body_bytes(&answer)?;
            check_limit(size_bytes, limit_bytes)?;
            self.download(answer, size_bytes, &progress).await
        });
        self.watch(&progress, read).await?
    }

    /// Receives a body of a known length.
    async fn download(&self, mut answer: GetObjectOutput, bytes: u64, progress: &Progress) -> Result<Bytes, Failure> {
        let capacity = usize::try_from(bytes).map_err(|_| Failure::other("the object is beyond memory"))?;
        let mut body = BytesMut::with_capacity(capacity);
        while let Some(piece) = answer.body.next().await {
            let piece = piece.map_err(|error| transient(format!("the answer broke off: {}", root_cause(&error))))?;
            self.download_bandwidth.pass(piece.len(), progress).await;
            progress.made();
            if body.len() + piece.len() > capacity {
                return Err(transient("the server sends more than it said"));
            }
            body.extend_from_slice(&piece);
        }
        if body.len() < capacity {
            return Err(transient(format!("the answer broke off after {} of {capacity} bytes", body.len())));
        }
        Ok(body.freeze())
    }

    async fn list(&self, prefix: &str, after: Option<&Key>) -> Result<ListPage, Failure> {
        check_prefix(prefix)?;
        let prefix = format!("{}{prefix}", self.key_prefix);
        // Not every server understands going on after a key that comes before the prefix.
        let start_after = after.map(|after| self.full_key(after)).filter(|after| *after > prefix);
        let mut token: Option<String> = None;
        loop {
            let request = self
                .client
                .list_objects_v2()
                .bucket(&self.bucket)
                .prefix(&prefix)
                .set_start_after(start_after.clone().filter(|_| token.is_none()))
                .set_continuation_token(token.clone())
                .set_max_keys(self.page_size);
            let answer = self.request(Box::pin(request.send())).await.map_err(no_such_place)?;
            let more = check_page(&answer)?;
            let listed = answer.contents().iter().filter_map(|object| self.listed(object));
            let objects = listed.collect::<Result<Vec<ObjectInfo>, Failure>>()?;
            let in_order = objects.is_sorted_by(|one, other| one.key < other.key)
                && objects.first().is_none_or(|first| after.is_none_or(|after| first.key > *after));
            if !in_order {
                return Err(Failure::other("the server does not list keys in the order of their bytes"));
            }
            // Only foreign objects: what the caller could go on after is further on.
            if more && objects.is_empty() {
                let next = answer.next_continuation_token;
                if next == token {
                    return Err(Failure::other("the server gives the same page of a listing again and again"));
                }
                token = next;
            } else {
                return Ok(ListPage { objects, more });
            }
        }
    }

    /// An object of a listing, unless it is foreign: its name is none that a repository gives.
    fn listed(&self, object: &Object) -> Option<Result<ObjectInfo, Failure>> {
        let key = Key::new(object.key()?.strip_prefix(&self.key_prefix)?).ok()?;
        let size_bytes = object.size().and_then(|size| u64::try_from(size).ok());
        let modified_at = object.last_modified().and_then(timestamp);
        Some(match (size_bytes, modified_at) {
            (Some(size_bytes), Some(modified_at)) => {
                let storage_class = class_name(object.storage_class().map(ObjectStorageClass::as_str));
                Ok(ObjectInfo { key, size_bytes, modified_at, storage_class })
            }
            _ => Err(transient("the listing does not say how large an object is, or when it was stored")),
        })
    }
}

#[async_trait]
impl ObjectStore for S3Store {
    fn url(&self) -> &str {
        &self.url
    }

    async fn put(&self, key: &Key, body: Bytes, tier: Tier) -> Result<PutOutcome, StoreError> {
        let put = self.put_object(key, body, tier).await.map_err(no_such_place);
        put.map_err(|failure| failure.at("storing", &self.url, key))
    }

    async fn get(&self, key: &Key, limit_bytes: u64) -> Result<Bytes, StoreError> {
        self.get_whole(key, limit_bytes).await.map_err(|failure| failure.at("reading", &self.url, key))
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.get_part(key, range).await.map_err(|failure| failure.at("reading", &self.url, key))
    }

    async fn get_end(&self, key: &Key, end_bytes: u64) -> Result<ObjectEnd, StoreError> {
        self.get_last(key, end_bytes).await.map_err(|failure| failure.at("reading", &self.url, key))
    }

    async fn head(&self, key: &Key) -> Result<ObjectInfo, StoreError> {
        let found = self.find(key).await.and_then(|found| found.ok_or_else(Failure::not_found));
        found.map_err(|failure| failure.at("looking up", &self.url, key))
    }

    async fn upload_checksum(&self, key: &Key) -> Result<UploadChecksum, StoreError> {
        let kept = self.kept_of(key).await;
        kept.map_err(|failure| failure.at("looking up", &self.url, key))
    }

    async fn thaw_state(&self, key: &Key) -> Result<ThawState, StoreError> {
        self.state_of(key).await.map_err(|failure| failure.at("looking up", &self.url, key))
    }

    async fn request_thaw(&self, key: &Key, request: ThawRequest) -> Result<ThawOutcome, StoreError> {
        self.ask_for_thaw(key, request).await.map_err(|failure| failure.at("thawing", &self.url, key))
    }

    async fn list_page(&self, prefix: &str, after: Option<&Key>) -> Result<ListPage, StoreError> {
        self.list(prefix, after).await.map_err(|failure| failure.at("listing", &self.url, prefix))
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        let request = self.client.delete_object().bucket(&self.bucket).key(self.full_key(key));
        let deleted = match self.request(Box::pin(request.send())).await {
            Err(Failure { kind: StoreErrorKind::NotFound, .. }) => Ok(()),
            deleted => deleted.map(drop),
        };
        deleted.map_err(|failure| failure.at("removing", &self.url, key))
    }

    async fn remove_unfinished(&self, prefix: &str, before: Timestamp) -> Result<u64, StoreError> {
        let removed = self.abort_uploads(prefix, before).await;
        removed.map_err(|failure| failure.at("removing unfinished uploads of", &self.url, prefix))
    }

    fn usage(&self) -> Option<Usage> {
        Some(self.counter.usage(self.is_aws))
    }

    async fn policies(&self) -> Option<Policies> {
        Some(self.read_policies().await)
    }
}

/// Checks that a page of a listing has arrived whole: one that was cut short would be taken for a short one. Says whether
/// more follow.
fn check_page(page: &ListObjectsV2Output) -> Result<bool, Failure> {
    let count = page.key_count().and_then(|count| usize::try_from(count).ok());
    let is_whole = count.is_none_or(|count| count == page.contents().len());
    match page.is_truncated() {
        Some(more) if is_whole && (!more || page.next_continuation_token().is_some()) => Ok(more),
        _ => Err(transient("the listing is not whole")),
    }
}

/// In a place that is not there, nothing can be listed or stored: that is no missing object.
fn no_such_place(failure: Failure) -> Failure {
    match failure.kind {
        StoreErrorKind::NotFound => Failure::other("the server knows no such place: check endpoint and bucket"),
        _ => failure,
    }
}

async fn watch_for<T>(timeout: Duration, progress: &Progress, request: impl Future<Output = T>) -> Result<T, Failure> {
    let answer = progress.watch(timeout, request).await;
    answer.ok_or_else(|| transient(format!("no byte went either way for {} seconds", timeout.as_secs())))
}

fn body_bytes(answer: &GetObjectOutput) -> Result<u64, Failure> {
    let bytes = answer.content_length().and_then(|bytes| u64::try_from(bytes).ok());
    bytes.ok_or_else(|| transient("the server does not say how much it sends"))
}

/// The class that an answer names. The usual one goes without saying in some.
fn class_name(named: Option<&str>) -> Option<StorageClassName> {
    named.map_or_else(|| Some(StorageClassName::standard()), |name| name.parse().ok())
}

/// A time in whole seconds: HTTP's headers have no more, listings do.
fn timestamp(time: &DateTime) -> Option<Timestamp> {
    Timestamp::from_second(time.secs()).ok()
}
