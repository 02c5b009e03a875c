//! The subvolumes to back up.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::fault::{Faults, quoted};
use super::section::{Found, Section};

/// The longest name of a subvolume, in characters.
pub const SUBVOLUME_NAME_LENGTH_MAX: usize = 64;

/// Where snapshots go below the directory that holds the subvolume, if nothing is configured.
const BASE_DIR_NAME_DEFAULT: &str = ".btrfs_to_s3";

/// One subvolume to back up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubvolumeConfig {
    /// Where the subvolume is: an absolute path.
    pub path: PathBuf,
    /// The name its backups and snapshots go by.
    pub name: String,
    /// Whether extents are sent compressed, as they are on disk.
    pub compressed_data: bool,
    /// The directory its snapshots are made in: an absolute path on the subvolume's own file system.
    pub base_dir: PathBuf,
}

/// A text that cannot be the name of a subvolume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a name is 1 to {SUBVOLUME_NAME_LENGTH_MAX} letters (a to z), digits, '.', '_' and '-', \
     and begins with neither '.' nor '-'"
)]
pub struct InvalidName;

/// Checks a name for a subvolume's backups. Names become parts of the names of files and objects.
///
/// # Errors
///
/// [`InvalidName`] where it is empty, too long, or has a character that names do not have.
pub fn check_subvolume_name(name: &str) -> Result<(), InvalidName> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let length_fits = (1..=SUBVOLUME_NAME_LENGTH_MAX).contains(&name.len());
    let good = length_fits && name.chars().all(allowed) && !name.starts_with(['.', '-']);
    if good { Ok(()) } else { Err(InvalidName) }
}

/// A subvolume as far as it could be read.
struct PartialSubvolume {
    path: Option<Found<PathBuf>>,
    /// With the place of the path where that is what the name is made of.
    name: Option<Found<String>>,
    compressed_data: bool,
    base_dir: Option<PathBuf>,
}

/// Reads all subvolumes. Those with faults are left out.
///
/// `base_dir` is where their snapshots go if they do not say otherwise.
pub(super) fn read_subvolumes(
    root: &mut Section<'_>,
    base_dir: Option<&Path>,
    faults: &mut Faults,
) -> Vec<SubvolumeConfig> {
    let partial = root.tables("subvolumes", faults, |section, faults| read_subvolume(section, base_dir, faults));
    fault_duplicates(&partial, faults);
    let complete = |subvolume: PartialSubvolume| {
        Some(SubvolumeConfig {
            path: subvolume.path?.into_value(),
            name: subvolume.name?.into_value(),
            compressed_data: subvolume.compressed_data,
            base_dir: subvolume.base_dir?,
        })
    };
    partial.into_iter().filter_map(complete).collect()
}

fn read_subvolume(section: &mut Section<'_>, base_dir: Option<&Path>, faults: &mut Faults) -> PartialSubvolume {
    if !section.has("path") {
        section.fault_missing("path", faults);
    }
    let path = section.absolute_path("path", faults);
    let name = read_name(section, path.as_ref(), faults);
    let compressed_data = section.boolean("compressed_data", faults).is_some_and(Found::into_value);
    let base_dir = read_base_dir(section, path.as_ref(), base_dir, faults);
    PartialSubvolume { path, name, compressed_data, base_dir }
}

fn read_name(section: &mut Section<'_>, path: Option<&Found<PathBuf>>, faults: &mut Faults) -> Option<Found<String>> {
    let is_given = section.has("name");
    let given = section.string("name", faults);
    if is_given {
        let name = given?;
        if let Err(error) = check_subvolume_name(&name.value) {
            name.fault(faults, format!("{}: {error}", quoted(&name.value)));
        }
        return Some(name);
    }
    let path = path?;
    let last = path.value.file_name().unwrap_or_default().to_string_lossy();
    if let Err(error) = check_subvolume_name(&last) {
        let shown = quoted(&path.value.to_string_lossy());
        let name_key = section.path_of("name");
        path.fault(faults, format!("no name can be made of {shown}: set {name_key} ({error})"));
        return None;
    }
    Some(path.with(last.into_owned()))
}

fn read_base_dir(
    section: &mut Section<'_>,
    path: Option<&Found<PathBuf>>,
    common: Option<&Path>,
    faults: &mut Faults,
) -> Option<PathBuf> {
    let is_given = section.has("base_dir");
    let given = section.absolute_path("base_dir", faults);
    if is_given {
        return given.map(Found::into_value);
    }
    if let Some(common) = common {
        return Some(common.to_owned());
    }
    let path = path?;
    let Some(parent) = path.value.parent() else {
        let base_dir_key = section.path_of("base_dir");
        path.fault(faults, format!("'/' is in no directory that could hold its snapshots: set {base_dir_key}"));
        return None;
    };
    Some(parent.join(BASE_DIR_NAME_DEFAULT))
}

/// Notes a fault of each subvolume that has the path or the name of an earlier one.
///
/// The path is checked although names alone tell backups apart: a section that was copied and edited by half would
/// leave the subvolume it was meant for without a backup.
fn fault_duplicates(subvolumes: &[PartialSubvolume], faults: &mut Faults) {
    let (mut paths, mut names) = (BTreeMap::new(), BTreeMap::new());
    for (index, subvolume) in subvolumes.iter().enumerate() {
        if let Some(path) = &subvolume.path {
            let first = *paths.entry(&path.value).or_insert(index);
            if first != index {
                path.fault(faults, format!("is the path of subvolumes[{first}] too"));
                continue;
            }
        }
        if let Some(name) = &subvolume.name {
            let first = *names.entry(&name.value).or_insert(index);
            if first != index {
                let shown = quoted(&name.value);
                name.fault(faults, format!("the name {shown} is that of subvolumes[{first}] too: set another name"));
            }
        }
    }
}
