//! Listing a tree of files in the order of keys, a page at a time.

use std::ffi::CStr;

use rustix::fs::{AtFlags, Dir, FileType, statat};
use rustix::io::Errno;

use super::root::{Root, TEMPORARY, odd_file};
use crate::store::failure::Failure;
use crate::store::{Key, ListPage, StoreErrorKind};

/// Lists the objects below `prefix` that come after `after`, at most `page_size`.
///
/// Holds the names in one directory for each level, besides the page.
pub(super) fn page(root: &Root, prefix: &str, after: Option<&Key>, page_size: usize) -> Result<ListPage, Failure> {
    let mut walk = Walk { root, after: after.map_or("", Key::as_str), page_size, page: ListPage::default() };
    if !is_own(prefix) {
        walk.directory(prefix)?;
    }
    Ok(walk.page)
}

struct Walk<'a> {
    root: &'a Root,
    after: &'a str,
    page_size: usize,
    page: ListPage,
}

impl Walk<'_> {
    /// Adds what is in a directory, given as the beginning of its keys (empty, or ending in `/`).
    fn directory(&mut self, prefix: &str) -> Result<(), Failure> {
        for path in self.entries(prefix)? {
            if path.ends_with('/') {
                self.directory(&path)?;
            } else {
                self.object(&path)?;
            }
            if self.page.more {
                break;
            }
        }
        Ok(())
    }

    fn object(&mut self, path: &str) -> Result<(), Failure> {
        let Ok(key) = Key::new(path) else { return Ok(()) };
        match self.root.head(&key) {
            Ok(_) if self.page.objects.len() == self.page_size => self.page.more = true,
            Ok(object) => self.page.objects.push(object),
            // It was removed since its directory was read.
            Err(failure) if failure.kind == StoreErrorKind::NotFound => {}
            Err(failure) => return Err(failure),
        }
        Ok(())
    }

    /// What of a directory can still belong to the page, in the order of keys. Directories end in `/`, which is how
    /// they sort: `a-b` comes before what is in `a`.
    fn entries(&self, prefix: &str) -> Result<Vec<String>, Failure> {
        let directory = match self.root.open_directory(prefix.trim_end_matches('/')) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG) => return Ok(Vec::new()),
            other => other?,
        };
        let mut paths = Vec::new();
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            let Some(mut path) = path_below(prefix, entry.file_name()) else { continue };
            let known = Some(entry.file_type()).filter(|kind| *kind != FileType::Unknown);
            let kind = match known.map_or_else(|| file_type(&directory, entry.file_name()), Ok) {
                Err(Errno::NOENT) => continue,
                other => other?,
            };
            match kind {
                FileType::RegularFile => {}
                FileType::Directory => path.push('/'),
                _ => return Err(Failure::other(format!("'{path}': {}", odd_file().reason))),
            }
            if self.is_wanted(&path) {
                paths.push(path);
            }
        }
        paths.sort_unstable();
        Ok(paths)
    }

    fn is_wanted(&self, path: &str) -> bool {
        let goes_on = path.ends_with('/') && self.after.starts_with(path);
        (path > self.after || goes_on) && !is_own(path)
    }
}

/// Whether this is the beginning of keys below [`TEMPORARY`].
fn is_own(prefix: &str) -> bool {
    prefix.split_once('/').is_some_and(|(first, _)| first == TEMPORARY)
}

/// The path of an entry, where that can be a key or the beginning of one.
fn path_below(prefix: &str, name: &CStr) -> Option<String> {
    let path = format!("{prefix}{}", name.to_str().ok()?);
    Key::new(&path).is_ok().then_some(path)
}

fn file_type(directory: &impl std::os::fd::AsFd, name: &CStr) -> Result<FileType, Errno> {
    Ok(FileType::from_raw_mode(statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode))
}
