//! The `btrfs_to_s3` command.

use std::process::ExitCode;

#[cfg(target_env = "gnu")]
use rustix::process::{Resource, getrlimit};

fn main() -> ExitCode {
    tune_allocator();
    btrfs_to_s3::cli::run()
}

/// Lets the C library keep what is freed for the next allocation, of whichever thread.
///
/// Batches and frames are buffers of some megabytes. By default each is given back to the kernel and taken from it again,
/// page by page: that was half of the time of a backup of which everything was known.
///
/// And they are filled by one thread and freed by another. With a heap for each thread, what one keeps is of no use to the
/// others: a restore had twice the memory, each page of which the kernel has to clear. A thread keeps small pieces for
/// itself in any case, so that the one heap is seldom waited for.
///
/// Where memory is limited (`ulimit -v`), nothing is kept.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "mallopt has no safe wrapper; it is called before any other thread runs")]
fn tune_allocator() {
    const LARGEST_KEPT_BYTES: libc::c_int = 64 << 20;
    const KEPT_AT_MOST_BYTES: libc::c_int = 256 << 20;
    const ONE_HEAP: (libc::c_int, libc::c_int) = (libc::M_ARENA_MAX, 1);
    const KEEP: [(libc::c_int, libc::c_int); 2] =
        [(libc::M_MMAP_THRESHOLD, LARGEST_KEPT_BYTES), (libc::M_TRIM_THRESHOLD, KEPT_AT_MOST_BYTES)];
    let is_limited = getrlimit(Resource::As).current.is_some();
    let keep = if is_limited { [].as_slice() } else { &KEEP };
    for (setting, value) in keep.iter().chain([&ONE_HEAP]) {
        // SAFETY: mallopt takes two integers and changes only the allocator's own settings. Unknown values are refused
        // by its result, which does not matter: everything works without it.
        unsafe {
            libc::mallopt(*setting, *value);
        }
    }
}

/// Other C libraries are left as they are; that of musl is not asked at all.
#[cfg(not(target_env = "gnu"))]
fn tune_allocator() {}

/// Musl's own gives every large buffer back to the kernel: a restore took two and a half times the processor time.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
