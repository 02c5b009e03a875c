//! Limits that the system sets to this process: raised where that is allowed, and else told before they are met.

use std::num::NonZero;

use anyhow::ensure;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::backup::BackupOptions;
use crate::size::ByteSize;

/// Fewer open files are not enough for the runtime, the local index and the store's requests.
const LEAST_OPEN_FILES: u64 = 32;
/// What is mapped before anything is done: the program, its libraries, the stacks of its threads.
const AT_START_BYTES: u64 = 96 << 20;
/// Threads that compute, at most, where memory is limited.
const THREADS_IF_LIMITED: usize = 4;
/// Packs of a backup that are filled, one of each class; besides those that are being stored.
const PACKS_FILLED: usize = 2;
/// What a pack may have beyond its target.
const PACK_SURPLUS_BYTES: u64 = 2 << 20;
/// Frames and pieces that a restore holds, see `RestoreOptions`.
const RESTORE_BYTES: u64 = 128 << 20;

/// Allows as many open files as the system lets this process have.
///
/// # Errors
///
/// If those are too few.
pub(crate) fn raise_open_files() -> anyhow::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        // That it stays as it is matters only if it is too low.
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).ok();
    }
    match getrlimit(Resource::Nofile).current {
        Some(files) if files < LEAST_OPEN_FILES => Err(anyhow::anyhow!(
            "at most {files} files may be open at once, {LEAST_OPEN_FILES} are needed: raise the limit (ulimit -n)"
        )),
        _ => Ok(()),
    }
}

/// Has fewer threads compute where memory is limited: a machine with many cores would fill it with their stacks.
pub(crate) fn limit_threads() {
    if getrlimit(Resource::As).current.is_some() {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        // If they have been started already, they stay as many as they are.
        rayon::ThreadPoolBuilder::new().num_threads(cores.min(THREADS_IF_LIMITED)).build_global().ok();
    }
}

/// Checks that so many backups at once find room in memory.
///
/// # Errors
///
/// If they do not: the process would be ended in the middle of it, without a word of the reason.
pub(crate) fn require_memory_for_backup(options: &BackupOptions, at_once: u32) -> anyhow::Result<()> {
    let least_bytes = AT_START_BYTES.saturating_add(packs_bytes(options).saturating_mul(u64::from(at_once)));
    require_memory(least_bytes, "raise it, or set a smaller packing.pack_target or global.subvolumes_at_once")
}

/// Checks that a restore finds room in memory.
///
/// # Errors
///
/// If it does not.
pub(crate) fn require_memory_for_restore() -> anyhow::Result<()> {
    require_memory(AT_START_BYTES + RESTORE_BYTES, "raise it")
}

/// Checks that a copy finds room in memory, which reads as a restore does and stores as a backup does.
///
/// # Errors
///
/// If it does not.
pub(crate) fn require_memory_for_copy(options: &BackupOptions) -> anyhow::Result<()> {
    let least = AT_START_BYTES.saturating_add(packs_bytes(options)).saturating_add(RESTORE_BYTES);
    require_memory(least, "raise it, or set a smaller packing.pack_target")
}

/// What the packs take that a run fills and stores.
fn packs_bytes(options: &BackupOptions) -> u64 {
    let bytes = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let pack_bytes = bytes(options.pack_target_bytes).saturating_add(PACK_SURPLUS_BYTES);
    bytes(PACKS_FILLED + options.uploads_in_flight).saturating_mul(pack_bytes)
}

fn require_memory(least_bytes: u64, advice: &str) -> anyhow::Result<()> {
    let Some(limit_bytes) = getrlimit(Resource::As).current else { return Ok(()) };
    ensure!(
        limit_bytes >= least_bytes,
        "the limit of memory (ulimit -v) is {}, at least {} are needed: {advice}",
        ByteSize::from_bytes(limit_bytes),
        ByteSize::from_bytes(least_bytes)
    );
    Ok(())
}
