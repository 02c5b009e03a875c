//! The records of a repository: config, sessions, manifests, what is said of these later, and prunes.
//!
//! `docs/format.md`, "Records". What is stored is what these types say, key for key.

pub mod config;
pub mod forgotten;
pub mod manifest;
pub mod note;
pub mod prune;
pub mod session;

/// Name and version of this program, as it signs what it writes.
pub const TOOL: &str = concat!("btrfs_to_s3 ", env!("CARGO_PKG_VERSION"));
