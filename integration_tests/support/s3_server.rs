//! An S3 server in memory, on a port of this machine: what is kept, what was asked, and how it misbehaves are the
//! test's to see and to say. The protocol itself (requests, signatures, XML) is that of the crate `s3s`.

#![allow(dead_code, reason = "the unit tests use a part of it")]
#![allow(clippy::wildcard_imports, reason = "the protocol has a type for each of its words")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]
#![allow(clippy::disallowed_methods, reason = "a server has a clock of its own")]

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{TryStreamExt, stream};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::dto::*;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};
use tokio::net::TcpListener;

#[path = "s3_archive.rs"]
mod archive;

pub(crate) const BUCKET: &str = "test-bucket";
pub(crate) const ACCESS_KEY: &str = "TESTACCESSKEY";
pub(crate) const SECRET_KEY: &str = "test-secret-key";

/// What a server makes of ranges that are counted from an object's end.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) enum Ends {
    #[default]
    Known,
    Ignored,
    TakenForBeginnings,
    Refused,
}

/// What a server does otherwise than AWS.
#[derive(Debug, Clone, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each oddity is there or not")]
pub(crate) struct Oddities {
    /// `If-None-Match` is ignored: an object is overwritten.
    pub(crate) overwrites: bool,
    /// A PUT with `If-None-Match` is refused as not implemented.
    pub(crate) refuses_conditions: bool,
    /// Encryption is accepted and not confirmed.
    pub(crate) hides_encryption: bool,
    /// Checksums are compared at upload, and not kept.
    pub(crate) keeps_no_checksums: bool,
    /// So many of the next listings lack their last object, though they say how many there are.
    pub(crate) short_listings: u32,
    /// Ranges that are counted from an object's end.
    pub(crate) ends: Ends,
    /// Multipart uploads cannot be listed.
    pub(crate) hides_uploads: bool,
    /// So many of the next requests are answered with `SlowDown`.
    pub(crate) slow_downs: u32,
    /// So many of the next PUTs take effect and are answered with an error.
    pub(crate) lost_replies: u32,
    /// Part uploads are never answered.
    pub(crate) silent_parts: bool,
    /// The request of this number, counted from the last [`S3Server::take_requests`], and all later ones are never
    /// answered.
    pub(crate) silent_from: Option<usize>,
    /// The one of that number has its effect, if it stores an object.
    pub(crate) silent_after_effect: bool,
    /// So many of the next part uploads fail for good.
    pub(crate) refused_parts: u32,
    /// The next answers to these, in this order, are errors with this code.
    pub(crate) errors: Vec<&'static str>,
    /// How long a thaw takes, of each tier; as long as AWS says at most, if nothing is said here.
    pub(crate) thaw_takes: Option<Duration>,
}

/// What became of requests that have to do with archived objects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ArchiveCounts {
    /// Reads of objects that were not thawed.
    pub(crate) refused_reads: u32,
    /// Thaws that were begun.
    pub(crate) thaws: u32,
    /// Thaws that were asked for again while they were in progress.
    pub(crate) already_in_progress: u32,
    /// Thaws whose copies were to be kept longer.
    pub(crate) extended: u32,
}

/// A thaw that was asked for: from when to when its copy can be read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Thaw {
    pub(crate) from: SystemTime,
    pub(crate) until: SystemTime,
}

/// An object as it is kept.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    pub(crate) body: Bytes,
    pub(crate) storage_class: Option<String>,
    pub(crate) encryption: Option<String>,
    pub(crate) encryption_key: Option<String>,
    pub(crate) checksum_crc32c: Option<String>,
    pub(crate) thaw: Option<Thaw>,
    modified_at: SystemTime,
}

#[derive(Debug)]
struct Upload {
    key: String,
    kept: Kept,
    parts: BTreeMap<i32, Bytes>,
}

/// What the bucket says that it does with objects by itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct BucketRules {
    pub(crate) versioning: bool,
    pub(crate) object_lock: bool,
    pub(crate) lifecycle: Vec<LifecycleRule>,
}

#[derive(Debug, Default)]
struct State {
    rules: Option<BucketRules>,
    objects: BTreeMap<String, Kept>,
    uploads: BTreeMap<String, Upload>,
    uploads_begun: u32,
    requests: Vec<String>,
    oddities: Oddities,
    archive: ArchiveCounts,
    /// Is told of reads that are refused and of thaws, a line each.
    log: Option<std::fs::File>,
    /// By how much the server's clock goes before this machine's.
    ahead: Duration,
}

/// A server. It ends with the runtime it was started in.
#[derive(Clone)]
pub(crate) struct S3Server {
    endpoint: String,
    state: Arc<Mutex<State>>,
}

impl S3Server {
    /// Starts a server with one empty bucket.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let server = Self { endpoint, state: Arc::default() };
        let mut builder = S3ServiceBuilder::new(server.clone());
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        tokio::spawn(serve(listener, builder.build()));
        server
    }

    /// Starts a server in a thread of its own, for tests that are not asynchronous.
    pub(crate) fn start_in_thread() -> Self {
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                sender.send(Self::start().await).unwrap();
                std::future::pending::<()>().await;
            });
        });
        receiver.recv().unwrap()
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    pub(crate) fn set_oddities(&self, change: impl FnOnce(&mut Oddities)) {
        change(&mut self.state().oddities);
    }

    /// Has the bucket say what it does by itself; before, it does not know such questions.
    pub(crate) fn set_rules(&self, rules: BucketRules) {
        self.state().rules = Some(rules);
    }

    fn rules(&self) -> S3Result<BucketRules> {
        self.state().rules.clone().ok_or_else(|| s3_error!(NotImplemented, "the bucket does not say"))
    }

    /// The object of a key, if it is there.
    pub(crate) fn object(&self, key: &str) -> Option<Kept> {
        self.state().objects.get(key).cloned()
    }

    /// All keys, in order.
    pub(crate) fn keys(&self) -> Vec<String> {
        self.state().objects.keys().cloned().collect()
    }

    /// Puts an object there past the protocol.
    pub(crate) fn insert(&self, key: &str, kept: Kept) {
        self.state().objects.insert(key.to_owned(), kept);
    }

    /// Takes an object away past the protocol.
    pub(crate) fn remove(&self, key: &str) {
        self.state().objects.remove(key).unwrap();
    }

    /// Changes the object of a key in place.
    pub(crate) fn change(&self, key: &str, change: impl FnOnce(&mut Kept)) {
        change(self.state().objects.get_mut(key).unwrap());
    }

    /// How many multipart uploads are neither completed nor aborted.
    pub(crate) fn unfinished_uploads(&self) -> usize {
        self.state().uploads.len()
    }

    /// Lets all unfinished uploads have begun earlier.
    pub(crate) fn age_unfinished_uploads(&self, by: Duration) {
        for upload in self.state().uploads.values_mut() {
            upload.kept.modified_at -= by;
        }
    }

    /// The requests since the last call, as `PutObject key`.
    pub(crate) fn take_requests(&self) -> Vec<String> {
        std::mem::take(&mut self.state().requests)
    }

    /// Lets time pass for the server alone.
    pub(crate) fn pass(&self, time: Duration) {
        self.state().ahead += time;
    }

    /// What became of reads and thaws of archived objects so far.
    pub(crate) fn archive_counts(&self) -> ArchiveCounts {
        self.state().archive
    }

    /// Writes down in a file what becomes of archived objects.
    pub(crate) fn log_to(&self, file: std::fs::File) {
        self.state().log = Some(file);
    }

    fn tell(&self, line: &str) {
        if let Some(log) = &mut self.state().log {
            writeln!(log, "{line}").unwrap();
        }
    }

    fn now(&self) -> SystemTime {
        self.state().now()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Writes a request down, and fails it if it shall fail.
    async fn begin(&self, operation: &str, bucket: &str, key: &str) -> S3Result<()> {
        if self.write_down(operation, key) {
            std::future::pending::<()>().await;
        }
        let mut state = self.state();
        if take(&mut state.oddities.slow_downs) {
            return Err(s3_error!(SlowDown, "please reduce your request rate"));
        }
        if !state.oddities.errors.is_empty() {
            let code = s3s::S3ErrorCode::from_bytes(state.oddities.errors.remove(0).as_bytes()).unwrap();
            return Err(s3s::S3Error::with_message(code, "as the test wants it"));
        }
        drop(state);
        if bucket == BUCKET { Ok(()) } else { Err(s3_error!(NoSuchBucket, "there is no such bucket")) }
    }
}

impl S3Server {
    /// The range as this server understands it.
    fn range_meant(&self, range: Option<Range>, whole_bytes: usize) -> S3Result<Option<Range>> {
        let Some(Range::Suffix { length }) = range else { return Ok(range) };
        match self.state().oddities.ends {
            Ends::Known if whole_bytes == 0 => Err(s3_error!(InvalidRange)),
            Ends::Known => Ok(range),
            Ends::Ignored => Ok(None),
            Ends::TakenForBeginnings => Ok(Some(Range::Int { first: 0, last: Some(length) })),
            Ends::Refused => Err(s3_error!(NotImplemented)),
        }
    }

    /// Writes a request down; says whether it is never answered, and has no effect either.
    fn write_down(&self, operation: &str, key: &str) -> bool {
        let mut state = self.state();
        state.requests.push(format!("{operation} {key}"));
        let number = state.requests.len();
        let stores = matches!(operation, "PutObject" | "CompleteMultipartUpload");
        state.oddities.silent_from.is_some_and(|from| {
            let has_effect = number == from && stores && state.oddities.silent_after_effect;
            number >= from && !has_effect
        })
    }

    /// Waits for ever if the requests of this moment are not answered.
    async fn answer(&self) {
        let is_silent = {
            let state = self.state();
            state.oddities.silent_from.is_some_and(|from| state.requests.len() >= from)
        };
        if is_silent {
            std::future::pending::<()>().await;
        }
    }

    /// Makes an object of the parts of an upload.
    fn complete(&self, input: CompleteMultipartUploadInput) -> S3Result<()> {
        let mut state = self.state();
        let upload = state.uploads.get(&input.upload_id).ok_or_else(|| s3_error!(NoSuchUpload))?;
        let named = input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default();
        let parts: Option<Vec<Bytes>> =
            named.iter().map(|part| upload.parts.get(&part.part_number?).cloned()).collect();
        let body = Bytes::from(parts.ok_or_else(|| s3_error!(InvalidPart))?.concat());
        check_checksum(&body, input.checksum_crc32c.as_ref())?;
        let kept = Kept { body, checksum_crc32c: input.checksum_crc32c, ..upload.kept.clone() };
        state.store(input.key, kept, input.if_none_match.is_some())?;
        state.uploads.remove(&input.upload_id);
        Ok(())
    }

    /// How many requests have come since they were taken.
    pub(crate) fn request_count(&self) -> usize {
        self.state().requests.len()
    }
}

impl State {
    fn now(&self) -> SystemTime {
        SystemTime::now() + self.ahead
    }

    /// Stores an object, unless there is one and there must be none.
    fn store(&mut self, key: String, kept: Kept, must_be_absent: bool) -> S3Result<()> {
        if must_be_absent && self.oddities.refuses_conditions {
            return Err(s3_error!(
                NotImplemented,
                "a header you provided implies functionality that is not implemented"
            ));
        }
        if must_be_absent && !self.oddities.overwrites && self.objects.contains_key(&key) {
            return Err(s3_error!(PreconditionFailed, "at least one of the preconditions did not hold"));
        }
        self.objects.insert(key, kept);
        if take(&mut self.oddities.lost_replies) {
            return Err(s3_error!(InternalError, "the reply is lost"));
        }
        Ok(())
    }
}

fn take(count: &mut u32) -> bool {
    let taken = *count > 0;
    *count = count.saturating_sub(1);
    taken
}

async fn serve(listener: TcpListener, service: S3Service) {
    let http = Builder::new(TokioExecutor::new());
    while let Ok((socket, _)) = listener.accept().await {
        socket.set_nodelay(true).unwrap();
        let connection = http.serve_connection(TokioIo::new(socket), service.clone()).into_owned();
        tokio::spawn(async move { drop(connection.await) });
    }
}

async fn read(body: Option<StreamingBlob>) -> S3Result<Bytes> {
    let Some(body) = body else { return Ok(Bytes::new()) };
    let pieces: Vec<Bytes> = body.try_collect().await.map_err(|_| s3_error!(IncompleteBody))?;
    Ok(pieces.concat().into())
}

/// The CRC-32C of a body, as the header has it.
#[expect(clippy::big_endian_bytes, reason = "S3's header has the highest byte first")]
pub(crate) fn checksum(body: &[u8]) -> String {
    aws_smithy_types::base64::encode(crc32c::crc32c(body).to_be_bytes())
}

fn check_checksum(body: &Bytes, claimed: Option<&String>) -> S3Result<()> {
    if claimed.is_none_or(|claimed| *claimed == checksum(body)) { Ok(()) } else { Err(s3_error!(BadDigest)) }
}

fn size(body: &Bytes) -> i64 {
    i64::try_from(body.len()).unwrap()
}

type Answer<T> = S3Result<S3Response<T>>;

#[async_trait]
impl S3 for S3Server {
    async fn put_object(&self, request: S3Request<PutObjectInput>) -> Answer<PutObjectOutput> {
        let input = request.input;
        self.begin("PutObject", &input.bucket, &input.key).await?;
        let body = read(input.body).await?;
        check_checksum(&body, input.checksum_crc32c.as_ref())?;
        let encryption = input.server_side_encryption.clone();
        let kept = Kept {
            body,
            storage_class: input.storage_class.map(|class| class.as_str().to_owned()),
            encryption: encryption.as_ref().map(|encryption| encryption.as_str().to_owned()),
            encryption_key: input.ssekms_key_id,
            checksum_crc32c: input.checksum_crc32c,
            thaw: None,
            modified_at: self.now(),
        };
        let confirmed = {
            let mut state = self.state();
            state.store(input.key, kept, input.if_none_match.is_some())?;
            encryption.filter(|_| !state.oddities.hides_encryption)
        };
        self.answer().await;
        Ok(S3Response::new(PutObjectOutput { server_side_encryption: confirmed, ..PutObjectOutput::default() }))
    }

    async fn get_object(&self, request: S3Request<GetObjectInput>) -> Answer<GetObjectOutput> {
        let input = request.input;
        self.begin("GetObject", &input.bucket, &input.key).await?;
        let kept = self.object(&input.key).ok_or_else(|| s3_error!(NoSuchKey))?;
        if archive::is_refused(&kept, self.now()) {
            self.state().archive.refused_reads += 1;
            self.tell(&format!("GetObject {} refused", input.key));
            return Err(s3_error!(InvalidObjectState, "the operation is not valid for the object's storage class"));
        }
        let whole_bytes = kept.body.len();
        let (body, content_range) = match self.range_meant(input.range, whole_bytes)? {
            None => (kept.body, None),
            Some(range) => {
                let range = range.check(whole_bytes as u64)?;
                let (start, end) = (usize::try_from(range.start).unwrap(), usize::try_from(range.end).unwrap());
                (kept.body.slice(start..end), Some(format!("bytes {start}-{}/{whole_bytes}", end - 1)))
            }
        };
        Ok(S3Response::new(GetObjectOutput {
            content_length: Some(size(&body)),
            content_range,
            last_modified: Some(kept.modified_at.into()),
            body: Some(StreamingBlob::wrap(stream::iter([Ok::<_, std::io::Error>(body)]))),
            ..GetObjectOutput::default()
        }))
    }

    async fn head_object(&self, request: S3Request<HeadObjectInput>) -> Answer<HeadObjectOutput> {
        let input = request.input;
        self.begin("HeadObject", &input.bucket, &input.key).await?;
        let kept = self.object(&input.key).ok_or_else(|| s3_error!(NoSuchKey))?;
        let is_asked = input.checksum_mode.is_some_and(|mode| mode.as_str() == ChecksumMode::ENABLED);
        let tells_checksum = is_asked && kept.checksum_crc32c.is_some() && !self.state().oddities.keeps_no_checksums;
        Ok(S3Response::new(HeadObjectOutput {
            content_length: Some(size(&kept.body)),
            last_modified: Some(kept.modified_at.into()),
            checksum_crc32c: kept.checksum_crc32c.clone().filter(|_| tells_checksum),
            checksum_type: tells_checksum.then(|| ChecksumType::from_static(ChecksumType::FULL_OBJECT)),
            restore: archive::restore_header(&kept, self.now()),
            storage_class: kept.storage_class.filter(|class| class != "STANDARD").map(StorageClass::from),
            ..HeadObjectOutput::default()
        }))
    }

    async fn restore_object(&self, request: S3Request<RestoreObjectInput>) -> Answer<RestoreObjectOutput> {
        let input = request.input;
        self.begin("RestoreObject", &input.bucket, &input.key).await?;
        let answer = self.state().thaw(&input.key, input.restore_request.unwrap_or_default());
        let word = if answer.is_ok() { "accepted" } else { "refused" };
        self.tell(&format!("RestoreObject {} {word}", input.key));
        answer
    }

    async fn delete_object(&self, request: S3Request<DeleteObjectInput>) -> Answer<DeleteObjectOutput> {
        let input = request.input;
        self.begin("DeleteObject", &input.bucket, &input.key).await?;
        self.state().objects.remove(&input.key);
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn list_objects_v2(&self, request: S3Request<ListObjectsV2Input>) -> Answer<ListObjectsV2Output> {
        let input = request.input;
        let prefix = input.prefix.unwrap_or_default();
        self.begin("ListObjectsV2", &input.bucket, &prefix).await?;
        let after = input.continuation_token.or(input.start_after).unwrap_or_default();
        let limit = usize::try_from(input.max_keys.unwrap_or(1000).min(1000)).unwrap();
        let mut state = self.state();
        let is_short = take(&mut state.oddities.short_listings);
        let mut found = state.objects.iter().filter(|(key, _)| key.starts_with(&prefix) && **key > after);
        let mut contents: Vec<Object> = found.by_ref().take(limit).map(|(key, kept)| listed(key, kept)).collect();
        let more = found.next().is_some();
        let key_count = Some(i32::try_from(contents.len()).unwrap());
        let next_continuation_token = contents.last().filter(|_| more).and_then(|last| last.key.clone());
        if is_short {
            contents.pop();
        }
        Ok(S3Response::new(ListObjectsV2Output {
            key_count,
            next_continuation_token,
            is_truncated: Some(more),
            contents: Some(contents),
            ..ListObjectsV2Output::default()
        }))
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> Answer<CreateMultipartUploadOutput> {
        let input = request.input;
        self.begin("CreateMultipartUpload", &input.bucket, &input.key).await?;
        let kept = Kept {
            body: Bytes::new(),
            storage_class: input.storage_class.map(|class| class.as_str().to_owned()),
            encryption: input.server_side_encryption.map(|encryption| encryption.as_str().to_owned()),
            encryption_key: input.ssekms_key_id,
            checksum_crc32c: None,
            thaw: None,
            modified_at: self.now(),
        };
        let mut state = self.state();
        state.uploads_begun += 1;
        let id = format!("upload-{}", state.uploads_begun);
        state.uploads.insert(id.clone(), Upload { key: input.key, kept, parts: BTreeMap::new() });
        Ok(S3Response::new(CreateMultipartUploadOutput {
            upload_id: Some(id),
            ..CreateMultipartUploadOutput::default()
        }))
    }

    async fn upload_part(&self, request: S3Request<UploadPartInput>) -> Answer<UploadPartOutput> {
        let input = request.input;
        self.begin("UploadPart", &input.bucket, &input.key).await?;
        let body = read(input.body).await?;
        check_checksum(&body, input.checksum_crc32c.as_ref())?;
        if self.state().oddities.silent_parts {
            std::future::pending::<()>().await;
        }
        let mut state = self.state();
        if take(&mut state.oddities.refused_parts) {
            return Err(s3_error!(AccessDenied, "this part is refused"));
        }
        let upload = state.uploads.get_mut(&input.upload_id).ok_or_else(|| s3_error!(NoSuchUpload))?;
        upload.parts.insert(input.part_number, body);
        Ok(S3Response::new(UploadPartOutput {
            e_tag: Some(ETag::Strong(format!("part-{}", input.part_number))),
            ..UploadPartOutput::default()
        }))
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> Answer<CompleteMultipartUploadOutput> {
        let input = request.input;
        self.begin("CompleteMultipartUpload", &input.bucket, &input.key).await?;
        self.complete(input)?;
        self.answer().await;
        Ok(S3Response::new(CompleteMultipartUploadOutput::default()))
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> Answer<AbortMultipartUploadOutput> {
        let input = request.input;
        self.begin("AbortMultipartUpload", &input.bucket, &input.key).await?;
        self.state().uploads.remove(&input.upload_id).ok_or_else(|| s3_error!(NoSuchUpload))?;
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }

    async fn list_multipart_uploads(
        &self,
        request: S3Request<ListMultipartUploadsInput>,
    ) -> Answer<ListMultipartUploadsOutput> {
        let input = request.input;
        let prefix = input.prefix.unwrap_or_default();
        self.begin("ListMultipartUploads", &input.bucket, &prefix).await?;
        let state = self.state();
        if state.oddities.hides_uploads {
            return Err(s3_error!(NotImplemented, "multipart uploads cannot be listed"));
        }
        let uploads = state.uploads.iter().filter(|(_, upload)| upload.key.starts_with(&prefix));
        let uploads = uploads.map(|(id, upload)| MultipartUpload {
            key: Some(upload.key.clone()),
            upload_id: Some(id.clone()),
            initiated: Some(upload.kept.modified_at.into()),
            ..MultipartUpload::default()
        });
        Ok(S3Response::new(ListMultipartUploadsOutput {
            uploads: Some(uploads.collect()),
            is_truncated: Some(false),
            ..ListMultipartUploadsOutput::default()
        }))
    }

    async fn get_bucket_versioning(
        &self,
        request: S3Request<GetBucketVersioningInput>,
    ) -> Answer<GetBucketVersioningOutput> {
        self.begin("GetBucketVersioning", &request.input.bucket, "").await?;
        let status = self.rules()?.versioning.then(|| BucketVersioningStatus::from_static("Enabled"));
        Ok(S3Response::new(GetBucketVersioningOutput { status, ..GetBucketVersioningOutput::default() }))
    }

    async fn get_object_lock_configuration(
        &self,
        request: S3Request<GetObjectLockConfigurationInput>,
    ) -> Answer<GetObjectLockConfigurationOutput> {
        self.begin("GetObjectLockConfiguration", &request.input.bucket, "").await?;
        if !self.rules()?.object_lock {
            return Err(s3_error!(ObjectLockConfigurationNotFoundError, "there is no such configuration"));
        }
        let enabled = Some(ObjectLockEnabled::from_static("Enabled"));
        let lock = ObjectLockConfiguration { object_lock_enabled: enabled, ..ObjectLockConfiguration::default() };
        Ok(S3Response::new(GetObjectLockConfigurationOutput { object_lock_configuration: Some(lock) }))
    }

    async fn get_bucket_lifecycle_configuration(
        &self,
        request: S3Request<GetBucketLifecycleConfigurationInput>,
    ) -> Answer<GetBucketLifecycleConfigurationOutput> {
        self.begin("GetBucketLifecycleConfiguration", &request.input.bucket, "").await?;
        let rules = self.rules()?.lifecycle;
        if rules.is_empty() {
            return Err(s3_error!(NoSuchLifecycleConfiguration, "there is no such configuration"));
        }
        Ok(S3Response::new(GetBucketLifecycleConfigurationOutput {
            rules: Some(rules),
            ..GetBucketLifecycleConfigurationOutput::default()
        }))
    }
}

fn listed(key: &str, kept: &Kept) -> Object {
    Object {
        key: Some(key.to_owned()),
        size: Some(size(&kept.body)),
        last_modified: Some(kept.modified_at.into()),
        storage_class: Some(ObjectStorageClass::from(kept.storage_class.clone().unwrap_or("STANDARD".to_owned()))),
        ..Object::default()
    }
}
