//! How many requests a store has sent.

use serde::Serialize;

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
