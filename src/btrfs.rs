//! What backups and restores need of a real Btrfs: subvolumes, snapshots, `btrfs send` and `btrfs receive`.
//!
//! Paths that come in may be relative; paths that go out are absolute.

pub mod candidates;
pub mod command;
mod error;
mod ioctl;
pub mod loop_file_system;
mod mounts;
pub mod parents;
pub mod receive_target;
mod root_tree;
pub mod snapshots;
pub mod subvolume;

pub use error::BtrfsError;
