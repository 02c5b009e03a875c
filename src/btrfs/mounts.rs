//! Finds where a place on a file system can be reached: `/proc/self/mountinfo`.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, StatxFlags, statx};

/// `STATX_MNT_ID` of `linux/stat.h`.
const MOUNT_ID: StatxFlags = StatxFlags::from_bits_retain(0x1000);

/// A mounted part of a file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    /// What is mounted: a path from the top of the file system, relative.
    root: PathBuf,
    /// Where it is mounted.
    mount_point: PathBuf,
}

impl Mount {
    /// The mount through which an open file or folder is reached.
    pub(super) fn of(fd: impl AsFd) -> io::Result<Self> {
        let id = statx(fd, c"", AtFlags::EMPTY_PATH, MOUNT_ID)?.stx_mnt_id;
        let table = fs::read("/proc/self/mountinfo")?;
        find(&table, id).ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "its mount is not in mountinfo"))
    }

    /// The path under which something is reached through this mount; `None` if it lies outside.
    pub(super) fn resolve(&self, path_from_top: &Path) -> Option<PathBuf> {
        let below = path_from_top.strip_prefix(&self.root).ok()?;
        // Joining an empty path would add a slash.
        Some(if below.as_os_str().is_empty() { self.mount_point.clone() } else { self.mount_point.join(below) })
    }
}

/// Undoes the octal escapes of spaces, tabs, line feeds and backslashes.
fn unescape(text: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        let digits = tail.get(..3).filter(|digits| *first == b'\\' && digits.iter().all(|d| (b'0'..b'8').contains(d)));
        let value = digits.map(|digits| digits.iter().fold(0_u32, |value, digit| value * 8 + u32::from(digit - b'0')));
        if let Some(byte) = value.and_then(|value| u8::try_from(value).ok()) {
            bytes.push(byte);
            rest = &tail[3..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

fn find(table: &[u8], id: u64) -> Option<Mount> {
    table.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        let number = std::str::from_utf8(fields.next()?).ok()?;
        if number.parse() != Ok(id) {
            return None;
        }
        let root = unescape(fields.nth(2)?);
        let mount_point = unescape(fields.next()?);
        let root = root.strip_prefix("/").map(Path::to_owned).ok()?;
        Some(Mount { root, mount_point })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"21 1 0:20 / /proc rw - proc proc rw\n\
        30 1 0:25 / /mnt/all rw - btrfs /dev/sda rw\n\
        31 1 0:25 /@home /home\\040of\\134me rw shared:1 - btrfs /dev/sda rw,subvol=/@home\n";

    #[test]
    fn a_mount_of_the_top_reaches_everything() {
        let mount = find(TABLE, 30).unwrap();
        assert_eq!(mount.resolve(Path::new("@home/x")), Some(PathBuf::from("/mnt/all/@home/x")));
        assert_eq!(mount.resolve(Path::new("")), Some(PathBuf::from("/mnt/all")));
    }

    #[test]
    fn a_mount_of_a_subvolume_reaches_what_is_below_it() {
        let mount = find(TABLE, 31).unwrap();
        assert_eq!(mount.resolve(Path::new("@home/x")), Some(PathBuf::from("/home of\\me/x")));
        assert_eq!(mount.resolve(Path::new("@homes/x")), None);
        assert_eq!(mount.resolve(Path::new("@root")), None);
    }

    #[test]
    fn an_unknown_mount_is_not_found() {
        assert_eq!(find(TABLE, 3), None);
        assert_eq!(find(b"", 3), None);
    }

    #[test]
    fn escapes_that_are_none_stay_as_they_are() {
        assert_eq!(unescape(b"a\\9x\\04"), PathBuf::from("a\\9x\\04"));
    }
}
