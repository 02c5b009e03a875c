//! Deduplicating, content-addressed archiver of Btrfs send streams.
//!
//! `docs/architecture.md` shows how the modules belong together, `docs/format.md` what is stored.

pub mod backup;
pub mod btrfs;
pub mod check;
pub mod chunker;
pub mod cli;
pub mod clock;
pub mod codec;
pub mod config;
pub mod copy;
pub mod cost;
pub mod doctor;
pub mod forget;
pub mod hooks;
pub mod id;
pub mod index;
pub mod job;
pub mod local_index;
pub mod lock;
pub mod monitor;
pub mod object;
pub mod pack;
pub mod prune;
pub mod records;
pub mod repair;
pub mod repository;
pub mod restore;
pub mod retention;
pub mod schedule;
pub mod send_stream;
pub mod size;
pub mod stats;
pub mod store;
pub mod tree;
