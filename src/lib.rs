//! Deduplicating, content-addressed archiver of Btrfs send streams.
//!
//! `docs/architecture.md` shows how the modules belong together, `docs/format.md` what is stored.

pub mod btrfs;
pub mod clock;
pub mod id;
pub mod lock;
pub mod monitor;
pub mod store;
