//! Objects as files below a directory.
//!
//! An object's key is its path below the root. Directories that a key needs are made when they are missing, and stay
//! when they become empty. `tmp`, where objects are written before they get their names, is the store's own: no key
//! begins with it. Files and directories are readable by their owner only.
//!
//! - **Durability.** An object is written to `tmp` and synced, then given its name in one step that replaces nothing,
//!   then the directory is synced, as is every directory on the way to the root that may be new.
//! - **Crashes.** A crash leaves at most files in `tmp`. A writer locks its file, so one that nobody holds is dead, and
//!   the next [`LocalStore::open`] removes it.
//! - **Foreign things.** Listings leave out files and directories whose names cannot be part of a key (`lost+found`).
//!   What has such a name and is neither file nor directory, a symbolic link too, is an error: an object that can be
//!   read but is not listed would be taken for lost. The root itself may be a link.
//! - **Keys.** `a` and `a/b` cannot both be objects here.
//!
//! Files are read and written on tokio's threads for blocking work, one for each operation; as these are limited and
//! shared, [`LimitStore`](super::limit::LimitStore) should bound the operations. An operation whose future is dropped goes on there
//! to its end.

mod list;
mod root;
mod temporary;

#[cfg(test)]
mod tests;

use std::fmt::Display;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;

use self::root::Root;
use super::failure::{Failure, check_prefix};
use super::thaw::{ThawOutcome, ThawRequest, ThawState};
use super::url::file_url;
use super::{Key, ListPage, ObjectEnd, ObjectInfo, ObjectStore, PutOutcome, StoreError, Tier, UploadChecksum};

/// Small enough to be nothing beside a pack, large enough that a directory is read a few times only.
const PAGE_SIZE: usize = 4096;

/// Keeps objects in files below a directory. See the module's documentation.
#[derive(Debug)]
pub struct LocalStore {
    url: String,
    root: Arc<Root>,
    page_size: usize,
}

impl LocalStore {
    /// Makes the directory `path`, and in it `directories` (as keys that objects' keys go on from), durably; then opens it.
    ///
    /// What is there already is left as it is, so this may be repeated after a crash.
    ///
    /// # Errors
    ///
    /// [`NotFound`](super::StoreErrorKind::NotFound) where the directory that it is to be in is missing: what it is on may not be
    /// mounted. Those of the file system.
    pub async fn create(path: &Path, directories: &[Key]) -> Result<Self, StoreError> {
        let owned_path = path.to_owned();
        let directories = directories.to_vec();
        Self::start("creating", path, move || Root::create(&owned_path, &directories)).await
    }

    /// Whether the directory `path` is there. Changes nothing.
    ///
    /// # Errors
    ///
    /// As for [`create`](Self::create), where it is not there and could not be made either.
    pub async fn is_there(path: &Path) -> Result<bool, StoreError> {
        let owned_path = path.to_owned();
        let is_there = run_blocking(move || root::is_there(&owned_path)).await;
        is_there.map_err(|Failure { kind, reason }| StoreError {
            kind,
            operation: "creating",
            object: file_url(path),
            reason,
        })
    }

    /// Opens the directory `path`, which has to be there, and removes what killed writers left in it.
    ///
    /// # Errors
    ///
    /// [`NotFound`](super::StoreErrorKind::NotFound) where there is no such directory. Leftovers that cannot be removed
    /// (on a file system mounted read-only) are no error.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let owned_path = path.to_owned();
        Self::start("opening", path, move || Root::open(&owned_path)).await
    }

    /// Has listings come in pages of `page_size` objects, at least one.
    #[must_use]
    pub fn with_page_size(self, page_size: usize) -> Self {
        Self { page_size: page_size.max(1), ..self }
    }

    async fn start(
        operation: &'static str,
        path: &Path,
        work: impl FnOnce() -> Result<Root, Failure> + Send + 'static,
    ) -> Result<Self, StoreError> {
        let url = file_url(path);
        match run_blocking(work).await {
            Ok(root) => Ok(Self { url, root: Arc::new(root), page_size: PAGE_SIZE }),
            Err(Failure { kind, reason }) => Err(StoreError { kind, operation, object: url, reason }),
        }
    }

    async fn run<T: Send + 'static>(
        &self,
        operation: &'static str,
        target: impl Display,
        work: impl FnOnce(&Root) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        let root = Arc::clone(&self.root);
        run_blocking(move || work(&root)).await.map_err(|failure| failure.at(operation, &self.url, target))
    }
}

async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_cancelled) => Err(Failure::other("the program is about to end")),
        },
    }
}

#[async_trait]
impl ObjectStore for LocalStore {
    fn url(&self) -> &str {
        &self.url
    }

    async fn put(&self, key: &Key, body: Bytes, _tier: Tier) -> Result<PutOutcome, StoreError> {
        let owned_key = key.clone();
        self.run("storing", key, move |root| root.put(&owned_key, &body)).await
    }

    async fn get(&self, key: &Key, limit_bytes: u64) -> Result<Bytes, StoreError> {
        let owned_key = key.clone();
        self.run("reading", key, move |root| root.get(&owned_key, limit_bytes)).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, StoreError> {
        let owned_key = key.clone();
        self.run("reading", key, move |root| root.get_range(&owned_key, &range)).await
    }

    async fn get_end(&self, key: &Key, end_bytes: u64) -> Result<ObjectEnd, StoreError> {
        let owned_key = key.clone();
        self.run("reading", key, move |root| root.get_end(&owned_key, end_bytes)).await
    }

    async fn head(&self, key: &Key) -> Result<ObjectInfo, StoreError> {
        let owned_key = key.clone();
        self.run("looking up", key, move |root| root.head(&owned_key)).await
    }

    async fn upload_checksum(&self, key: &Key) -> Result<UploadChecksum, StoreError> {
        let size_bytes = self.head(key).await?.size_bytes;
        Ok(UploadChecksum { size_bytes, crc32c: None })
    }

    async fn thaw_state(&self, key: &Key) -> Result<ThawState, StoreError> {
        self.head(key).await.map(|_| ThawState::Readable)
    }

    async fn request_thaw(&self, key: &Key, _request: ThawRequest) -> Result<ThawOutcome, StoreError> {
        self.head(key).await.map(|_| ThawOutcome::NotNeeded)
    }

    async fn list_page(&self, prefix: &str, after: Option<&Key>) -> Result<ListPage, StoreError> {
        let owned_prefix = prefix.to_owned();
        let after = after.cloned();
        let page_size = self.page_size;
        let work = move |root: &Root| {
            check_prefix(&owned_prefix)?;
            list::page(root, &owned_prefix, after.as_ref(), page_size)
        };
        self.run("listing", prefix, work).await
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        let owned_key = key.clone();
        self.run("removing", key, move |root| root.delete(&owned_key)).await
    }

    /// Files of writers that are gone are removed when the store is opened.
    async fn remove_unfinished(&self, _prefix: &str, _before: Timestamp) -> Result<u64, StoreError> {
        Ok(0)
    }
}
