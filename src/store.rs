//! Where objects are kept: the contract, and what fulfils it.
//!
//! # The contract
//!
//! - An object is written once and never changed. `put` of a key that exists stores nothing and says
//!   [`PutOutcome::Exists`]; where the object there has another length than the body, it is an error of kind
//!   [`StoreErrorKind::Conflict`]. Of several `put`s of one key at once, exactly one says [`PutOutcome::Stored`].
//! - A `put` that has returned is durable, and seen by every later `get` and `list`.
//! - A `put` that failed has stored the whole object or nothing, never a part.
//! - `get`, `get_range`, `get_end`, `head` and `upload_checksum` of a key that is not there say [`StoreErrorKind::NotFound`].
//!   `delete` of one has nothing to do and succeeds.
//! - `get_range` of an empty range that lies within the object, or at its end, gives no bytes.
//! - `list` gives keys in ascending order of their bytes, each once. A prefix that is neither empty nor a key and a `/`
//!   is an error.
//! - What `thaw_state` calls readable or thawed can be read. `request_thaw` of what is not archived has nothing to do and
//!   says so; one that is made twice does no harm. Nothing else thaws.
//! - A key is never the beginning of another one up to a `/`: not every store can hold `a` beside `a/b`.
//!
//! The same suite of tests (`store/contract.rs`) holds every store to it.

pub mod archiving;
pub mod faulty;
pub mod limit;
pub mod local;
pub mod memory;
pub mod policy;
pub mod recording;
pub mod requests;
pub mod retry;
pub mod s3;
pub mod storage_class;
pub mod thaw;
pub mod url;

#[cfg(test)]
mod contract;
mod failure;

use std::fmt::{self, Debug};
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;

use self::limit::LimitStore;
use self::local::LocalStore;
use self::policy::Policies;
use self::requests::Usage;
use self::retry::{RetryPolicy, RetryStore};
use self::s3::S3Store;
use self::s3::settings::S3Settings;
pub use self::storage_class::StorageClassName;
use self::thaw::{ThawOutcome, ThawRequest, ThawState};
use self::url::StoreUrl;

/// Name of an object below the repository's URL: segments of `[A-Za-z0-9._-]`, none of them empty, `.` or `..`,
/// joined by `/`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

/// A text that cannot be a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not an object key: parts of letters, digits, '.', '_' and '-', joined by '/', are needed")]
pub struct InvalidKey(String);

impl Key {
    /// Checks a text and makes it a key.
    ///
    /// # Errors
    ///
    /// [`InvalidKey`] where the text has an empty segment, a `.` or `..`, or another character.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidKey> {
        let text = text.into();
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let good = |part: &str| !matches!(part, "" | "." | "..") && part.chars().all(plain);
        if text.len() <= 512 && text.split('/').all(good) { Ok(Self(text)) } else { Err(InvalidKey(text)) }
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which storage class an object goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// May be an archival class that cannot be read at once.
    Data,
    /// Readable at any time.
    Metadata,
}

/// What a `put` did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutOutcome {
    /// The object is stored.
    Stored,
    /// An object has that key already; nothing was changed. It may be the one of an earlier try of this very call.
    Exists,
}

/// What a store knows of an object without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// The object's key.
    pub key: Key,
    /// Its length in bytes.
    pub size_bytes: u64,
    /// When it was stored, by the store's clock.
    pub modified_at: Timestamp,
    /// Its storage class, where the store has any and says which.
    pub storage_class: Option<StorageClassName>,
}

/// What a store has kept of an object since it was stored, and knows without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UploadChecksum {
    /// The object's length in bytes.
    pub size_bytes: u64,
    /// CRC-32C of the bytes that were stored, the highest byte first, where the store keeps it.
    pub crc32c: Option<[u8; 4]>,
}

/// The last bytes of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectEnd {
    /// The bytes; the whole object where it is no longer.
    pub bytes: Bytes,
    /// The object's length in bytes.
    pub size_bytes: u64,
}

/// One page of a listing.
#[derive(Debug, Clone, Default)]
pub struct ListPage {
    /// Objects in ascending order of their keys.
    pub objects: Vec<ObjectInfo>,
    /// Whether more may follow, after the last of `objects` (a page that says so has at least one).
    pub more: bool,
}

/// Keeps objects. See the module's documentation for what every store promises.
#[async_trait]
pub trait ObjectStore: Debug + Send + Sync {
    /// The URL that names this store, for messages.
    fn url(&self) -> &str;

    /// Stores an object under a key that is not in use.
    async fn put(&self, key: &Key, body: Bytes, tier: Tier) -> Result<PutOutcome, StoreError>;

    /// Reads a whole object of at most `limit_bytes`; a larger one is an error of kind [`StoreErrorKind::TooLarge`].
    async fn get(&self, key: &Key, limit_bytes: u64) -> Result<Bytes, StoreError>;

    /// Reads a part of an object. A range that goes past its end is an error of kind [`StoreErrorKind::OutOfRange`].
    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, StoreError>;

    /// Reads the last `end_bytes` of an object, or all of it if it is shorter, and tells its length: in one request where the
    /// place can do that.
    async fn get_end(&self, key: &Key, end_bytes: u64) -> Result<ObjectEnd, StoreError>;

    /// Looks an object up without reading it.
    async fn head(&self, key: &Key) -> Result<ObjectInfo, StoreError>;

    /// What is kept of an object since it was stored. Neither reads it nor needs a thaw, so it does not see bytes that have
    /// changed since.
    async fn upload_checksum(&self, key: &Key) -> Result<UploadChecksum, StoreError>;

    /// Whether an object can be read now.
    async fn thaw_state(&self, key: &Key) -> Result<ThawState, StoreError>;

    /// Asks for an object to be thawed, which takes minutes to days and costs money.
    async fn request_thaw(&self, key: &Key, request: ThawRequest) -> Result<ThawOutcome, StoreError>;

    /// Lists objects whose keys begin with `prefix` (empty, or ending in `/`) and come after `after`: one page.
    async fn list_page(&self, prefix: &str, after: Option<&Key>) -> Result<ListPage, StoreError>;

    /// Removes an object, if it is there.
    async fn delete(&self, key: &Key) -> Result<(), StoreError>;

    /// Removes what `put`s of keys that begin with `prefix` have left and never finished, if they were begun before a
    /// moment, by the store's clock; says how many.
    ///
    /// A `put` that still runs may have to begin anew then, so the moment should be before all that anybody waits for.
    async fn remove_unfinished(&self, prefix: &str, before: Timestamp) -> Result<u64, StoreError>;

    /// What it has asked of a server until now; `None` where there is none.
    fn usage(&self) -> Option<Usage> {
        None
    }

    /// What the place does with objects by itself; `None` where it does nothing.
    async fn policies(&self) -> Option<Policies> {
        None
    }
}

/// Whether an error is, or comes from, that an object is archived.
#[must_use]
pub fn is_archived(error: &anyhow::Error) -> bool {
    let is_archived = |error: &StoreError| error.kind == StoreErrorKind::Archived;
    error.chain().any(|cause| cause.downcast_ref().is_some_and(is_archived))
}

/// A shared store of any kind.
pub type Store = Arc<dyn ObjectStore>;

/// Opens the store that `url` names.
///
/// # Errors
///
/// That of the store.
pub async fn open(url: &StoreUrl, s3: &S3Settings) -> Result<Store, StoreError> {
    match url {
        StoreUrl::Local { root } => Ok(Arc::new(LocalStore::open(root).await?)),
        StoreUrl::S3 { bucket, prefix } => open_bucket(bucket, prefix.as_ref(), s3).await,
    }
}

/// Makes the place that `url` names ready for objects, and opens it.
///
/// Stores that have directories make `directories` at once, so that a later `put` need not. A bucket, and the directory that a
/// local store is to be in, have to be there already. May be repeated.
///
/// # Errors
///
/// As for [`open`].
pub async fn create(url: &StoreUrl, s3: &S3Settings, directories: &[Key]) -> Result<Store, StoreError> {
    match url {
        StoreUrl::Local { root } => Ok(Arc::new(LocalStore::create(root, directories).await?)),
        StoreUrl::S3 { bucket, prefix } => open_bucket(bucket, prefix.as_ref(), s3).await,
    }
}

/// Whether the place that `url` names is there for objects. Changes nothing.
///
/// # Errors
///
/// That of [`create`], as far as it can be told beforehand.
pub async fn is_there(url: &StoreUrl) -> Result<bool, StoreError> {
    match url {
        StoreUrl::Local { root } => LocalStore::is_there(root).await,
        StoreUrl::S3 { .. } => Ok(true),
    }
}

/// Opens a bucket so that requests that fail for a while are tried again. One that waits for its next try does not count
/// as one of those that run at once.
async fn open_bucket(bucket: &str, prefix: Option<&Key>, settings: &S3Settings) -> Result<Store, StoreError> {
    let store = Arc::new(S3Store::open(bucket, prefix, settings).await?);
    let limited = Arc::new(LimitStore::new(store, settings.concurrency));
    Ok(Arc::new(RetryStore::new(limited, RetryPolicy::default())))
}

/// Lists all objects below `prefix`, however many pages that takes.
///
/// # Errors
///
/// That of the first page that fails.
pub async fn list_all(store: &dyn ObjectStore, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
    let mut objects: Vec<ObjectInfo> = Vec::new();
    loop {
        let page = store.list_page(prefix, objects.last().map(|object| &object.key)).await?;
        objects.extend(page.objects);
        if !page.more {
            return Ok(objects);
        }
    }
}

/// Why a store could not do something, as far as callers act on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StoreErrorKind {
    /// There is no such object.
    NotFound,
    /// The object is there, but not the bytes asked for.
    OutOfRange,
    /// The object is larger than the caller allows.
    TooLarge,
    /// The object is archived and has to be thawed first.
    Archived,
    /// The store refuses: permissions, credentials.
    Denied,
    /// An object of another length has that key. Where several may write a key with bodies of their own, this means
    /// the same as [`PutOutcome::Exists`]; elsewhere the object there is damaged.
    Conflict,
    /// The store has no room left.
    Full,
    /// Trying again may help.
    Transient,
    /// Anything else.
    Other,
}

/// A failure of a store, with the operation and the object it happened to.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {object}: {reason}")]
pub struct StoreError {
    /// What kind of failure it is.
    pub kind: StoreErrorKind,
    /// The operation, as a verb: "reading", "storing", "listing".
    pub operation: &'static str,
    /// The object's full URL.
    pub object: String,
    /// What went wrong, in words.
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_directory_is_created_and_opened_by_its_url() {
        let directory = tempfile::tempdir().unwrap();
        let url = StoreUrl::Local { root: directory.path().join("repository") };
        let s3 = S3Settings::default();
        assert_eq!(open(&url, &s3).await.unwrap_err().kind, StoreErrorKind::NotFound);

        let created = create(&url, &s3, &[Key::new("data/00").unwrap()]).await.unwrap();
        let key = Key::new("data/00/a").unwrap();
        created.put(&key, Bytes::from_static(b"x"), Tier::Data).await.unwrap();
        let opened = open(&url, &s3).await.unwrap();
        assert_eq!(opened.url(), url.to_string());
        assert_eq!(opened.get(&key, 1).await.unwrap(), "x");
    }
}
