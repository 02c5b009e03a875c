//! Deduplicating, content-addressed archiver of Btrfs send streams.
//!
//! `docs/architecture.md` shows how the modules belong together, `docs/format.md` what is stored.

pub mod chunker;
pub mod clock;
pub mod codec;
pub mod config;
pub mod id;
pub mod index;
pub mod local_index;
pub mod monitor;
pub mod object;
pub mod pack;
pub mod size;
pub mod store;
pub mod tree;
