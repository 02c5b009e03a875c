//! The `btrfs_to_s3` command.

use std::process::ExitCode;

#[cfg(target_env = "gnu")]
use rustix::process::{Resource, getrlimit};

fn main() -> ExitCode {
    keep_freed_memory();
    btrfs_to_s3::cli::run()
}

/// Lets the C library keep what is freed for the next allocation.
///
/// Batches and frames are buffers of some megabytes. By default each is given back to the kernel and taken from it again,
/// page by page: that was half of the time of a backup of which everything was known.
///
/// Where memory is limited (`ulimit -v`) all threads take it from one place instead: the places of their own, which they
/// have by default, are reserved in pieces of 64 MiB, of which most is never used.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "mallopt has no safe wrapper; it is called before any other thread runs")]
fn keep_freed_memory() {
    const LARGEST_KEPT_BYTES: libc::c_int = 64 << 20;
    const KEPT_AT_MOST_BYTES: libc::c_int = 256 << 20;
    let settings = match getrlimit(Resource::As).current {
        None => [(libc::M_MMAP_THRESHOLD, LARGEST_KEPT_BYTES), (libc::M_TRIM_THRESHOLD, KEPT_AT_MOST_BYTES)].as_slice(),
        Some(_) => &[(libc::M_ARENA_MAX, 1)],
    };
    for (setting, value) in settings {
        // SAFETY: mallopt takes two integers and changes only the allocator's own settings. Unknown values are refused
        // by its result, which does not matter: everything works without it.
        unsafe {
            libc::mallopt(*setting, *value);
        }
    }
}

/// Other C libraries are left as they are.
#[cfg(not(target_env = "gnu"))]
fn keep_freed_memory() {}
