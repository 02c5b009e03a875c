//! What a store has asked of its server.

use std::collections::BTreeMap;

use serde::Serialize;

use super::StorageClassName;

/// Requests that were sent to a server, by what they cost: each try, and each part of an upload, is one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct RequestCounts {
    /// PUT and POST: objects, parts and ends of uploads, thaws.
    pub writes: u64,
    /// Pages of listings.
    pub lists: u64,
    /// GET and HEAD.
    pub reads: u64,
    /// DELETE.
    pub deletes: u64,
}

impl RequestCounts {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        let Self { writes, lists, reads, deletes } = self;
        writes + lists + reads + deletes
    }
}

/// Objects from this size on are large: no class counts them as larger than they are.
pub const LARGE_BYTES: u64 = 1 << 20;

/// What was stored in one class since a store was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoredInClass {
    /// Requests that were sent for it, as [`RequestCounts::writes`].
    pub writes: u64,
    /// Objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The sizes of those that are not [large](LARGE_BYTES). A run stores a few for each subvolume.
    pub small: Vec<u64>,
}

impl StoredInClass {
    /// That an object has been stored.
    pub fn add(&mut self, bytes: u64) {
        self.objects += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        if bytes < LARGE_BYTES {
            self.small.push(bytes);
        }
    }
}

/// What a server was asked for since a store was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Requests of all kinds.
    pub requests: RequestCounts,
    /// What was stored, by class. Requests that name none, such as parts of uploads, count as those of STANDARD.
    pub stored: BTreeMap<StorageClassName, StoredInClass>,
    /// Whether the server is AWS, as far as is known.
    pub is_aws: bool,
}
