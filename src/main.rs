//! The `btrfs_to_s3` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    btrfs_to_s3::cli::run()
}
