//! What the end-to-end tests stand on.

pub(crate) mod btrfs_fixture;
pub(crate) mod btrfs_shim;
pub(crate) mod documented;
pub(crate) mod fault_proxy;
pub(crate) mod process;
pub(crate) mod s3_server;
pub(crate) mod small_disk;
pub(crate) mod strace;
pub(crate) mod tool;
pub(crate) mod tree;
