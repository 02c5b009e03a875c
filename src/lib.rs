//! Deduplicating, content-addressed archiver of Btrfs send streams.
//!
//! `docs/architecture.md` shows how the modules belong together, `docs/format.md` what is stored.

pub mod clock;
pub mod config;
pub mod id;
pub mod monitor;
pub mod size;
pub mod store;
