//! The `btrfs_to_s3` command.

fn main() {}
