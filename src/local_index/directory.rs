//! Which files of a directory are the index's.

use std::fs;
use std::path::{Path, PathBuf};

use super::LocalIndexError;
use super::writer::TEMPORARY_SUFFIX;

const RUN_SUFFIX: &str = ".run";
const NUMBER_DIGITS: usize = 16;

/// What is in the index's directory. Files with other names are not the index's, and left alone.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Listing {
    /// The numbers of the runs, descending: later ones have higher numbers.
    pub(super) runs: Vec<u64>,
    /// What runs that were not finished left behind.
    pub(super) temporary: Vec<PathBuf>,
}

impl Listing {
    pub(super) fn read(directory: &Path) -> Result<Self, LocalIndexError> {
        let failed = || LocalIndexError::io("listing", directory);
        let mut listing = Self::default();
        for file in fs::read_dir(directory).map_err(failed())? {
            let name = file.map_err(failed())?.file_name();
            let Some(name) = name.to_str() else { continue };
            if let Some(number) = run_number(name) {
                listing.runs.push(number);
            } else if name.strip_suffix(TEMPORARY_SUFFIX).and_then(run_number).is_some() {
                listing.temporary.push(directory.join(name));
            }
        }
        listing.runs.sort_unstable_by(|a, b| b.cmp(a));
        Ok(listing)
    }
}

pub(super) fn run_path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:0NUMBER_DIGITS$x}{RUN_SUFFIX}"))
}

/// Links all runs of a directory into another one, which is made. What the index has not got there, because a run has been
/// replaced meanwhile or cannot be linked, it gets from the repository.
///
/// # Errors
///
/// If the other directory cannot be made.
pub fn link_runs(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    let Ok(listing) = Listing::read(from) else { return Ok(()) };
    for number in listing.runs {
        if let Err(error) = fs::hard_link(run_path(from, number), run_path(to, number)) {
            tracing::debug!(%error, directory = %from.display(), "a file of the local index is not linked");
        }
    }
    Ok(())
}

fn run_number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(RUN_SUFFIX)?;
    let plain = digits.len() == NUMBER_DIGITS && digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    // The upper half is left out, so that a file of that name cannot end the numbering.
    u64::from_str_radix(digits, 16).ok().filter(|number| plain && *number < 1 << 63)
}

/// Removes a file, which may be gone already.
pub(super) fn remove(path: &Path) -> Result<(), LocalIndexError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(LocalIndexError::io("removing", path)(error)),
        _ => Ok(()),
    }
}
