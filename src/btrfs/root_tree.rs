//! Reads the list of all subvolumes out of the tree of tree roots.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use super::ioctl::{self, ItemKey};
use super::subvolume::{SubvolumeInfo, optional_uuid, timestamp};
use crate::id::Uuid;

const ROOT_TREE: u64 = 1;
/// The subvolume at the top of every file system.
pub(super) const TOP_LEVEL: u64 = 5;
const FIRST_SUBVOLUME: u64 = 256;
const LAST_SUBVOLUME: u64 = u64::MAX - 255;
/// The inode of a subvolume's own root folder.
pub(super) const ROOT_INODE: u64 = 256;
const ROOT_ITEM: u32 = 132;
const ROOT_BACKREF: u32 = 144;
/// `BTRFS_ROOT_SUBVOL_RDONLY` of `linux/btrfs_tree.h`.
pub(super) const READ_ONLY: u64 = 1;
/// Subvolumes can be nested, not as deep as this.
const LARGEST_DEPTH: usize = 1000;

/// An item of a tree, as the kernel gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Item<'a> {
    key: ItemKey,
    data: &'a [u8],
}

fn damaged(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Takes bytes off a buffer.
#[derive(Debug, Clone, Copy)]
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, bytes: usize) -> io::Result<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(bytes).ok_or_else(|| damaged("an item is shorter than it says"))?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        self.take(N)?.try_into().map_err(|_| damaged("an item is shorter than it says"))
    }

    // What is on the disk is little-endian; only the headers of a search's results are in the host's order.
    fn u16(&mut self) -> io::Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    fn u32(&mut self) -> io::Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> io::Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    #[expect(clippy::host_endian_bytes, reason = "the kernel writes the header of a result in the host's order")]
    fn header(&mut self) -> io::Result<(ItemKey, usize)> {
        let _transid = self.take(8)?;
        let object = u64::from_ne_bytes(self.array()?);
        let offset = u64::from_ne_bytes(self.array()?);
        let kind = u32::from_ne_bytes(self.array()?);
        let length = u32::from_ne_bytes(self.array()?);
        let length = usize::try_from(length).map_err(|_| damaged("an item is too long"))?;
        Ok((ItemKey { object, kind, offset }, length))
    }
}

fn parse_items(count: u32, bytes: &[u8]) -> io::Result<Vec<Item<'_>>> {
    let mut cursor = Cursor(bytes);
    let mut items = Vec::new();
    for _ in 0..count {
        let (key, length) = cursor.header()?;
        items.push(Item { key, data: cursor.take(length)? });
    }
    Ok(items)
}

fn after(key: ItemKey) -> Option<ItemKey> {
    match key.offset.checked_add(1) {
        Some(offset) => Some(ItemKey { offset, ..key }),
        None => Some(ItemKey { object: key.object, kind: key.kind.checked_add(1)?, offset: 0 }),
    }
}

/// Where a subvolume hangs in the one above it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Backref {
    parent_id: u64,
    directory_inode: u64,
    name: OsString,
}

fn parse_backref(parent_id: u64, data: &[u8]) -> io::Result<Backref> {
    let mut cursor = Cursor(data);
    let directory_inode = cursor.u64()?;
    let _sequence = cursor.u64()?;
    let length = cursor.u16()?;
    let name = OsString::from_vec(cursor.take(length.into())?.to_vec());
    Ok(Backref { parent_id, directory_inode, name })
}

/// Reads a `btrfs_root_item`; `None` if the subvolume is deleted and only waits to be cleaned away.
fn parse_root_item(id: u64, data: &[u8]) -> io::Result<Option<SubvolumeInfo>> {
    let mut cursor = Cursor(data);
    let _inode = cursor.take(160)?;
    let generation = cursor.u64()?;
    let _addresses = cursor.take(40)?;
    let flags = cursor.u64()?;
    let references = cursor.u32()?;
    let _progress = cursor.take(19)?;
    // Items written by kernels before 3.6 end here, or have rubbish behind a generation that was not kept up.
    let modern = cursor.u64().is_ok_and(|second| second == generation) && cursor.0.len() >= 128;
    let blank = [0; 128];
    let mut cursor = if modern { cursor } else { Cursor(&blank) };
    let info = SubvolumeInfo {
        id,
        parent_id: 0,
        generation,
        uuid: Uuid::from_bytes(cursor.array()?),
        parent_uuid: optional_uuid(cursor.array()?),
        received_uuid: optional_uuid(cursor.array()?),
        ctransid: cursor.u64()?,
        otransid: cursor.u64()?,
        stransid: cursor.u64()?,
        rtransid: cursor.u64()?,
        read_only: flags & READ_ONLY != 0,
        created_at: {
            let _ctime = cursor.take(12)?;
            timestamp(cursor.u64()?, cursor.u32()?)
        },
    };
    Ok((references > 0).then_some(info))
}

#[derive(Debug, Default)]
struct RootTree {
    infos: BTreeMap<u64, SubvolumeInfo>,
    backrefs: BTreeMap<u64, Backref>,
}

impl RootTree {
    fn add(&mut self, item: &Item<'_>) -> io::Result<()> {
        let id = item.key.object;
        if id != TOP_LEVEL && !(FIRST_SUBVOLUME..=LAST_SUBVOLUME).contains(&id) {
            return Ok(());
        }
        match item.key.kind {
            ROOT_ITEM => {
                if let Some(info) = parse_root_item(id, item.data)? {
                    self.infos.insert(id, info);
                }
            }
            ROOT_BACKREF => {
                self.backrefs.insert(id, parse_backref(item.key.offset, item.data)?);
            }
            _ => {}
        }
        Ok(())
    }

    fn read(fd: impl AsFd) -> io::Result<Self> {
        let mut tree = Self::default();
        let mut first = ItemKey { object: TOP_LEVEL, kind: ROOT_ITEM, offset: 0 };
        let last = ItemKey { object: LAST_SUBVOLUME, kind: ROOT_BACKREF, offset: u64::MAX };
        loop {
            let (count, bytes) = ioctl::search(&fd, ROOT_TREE, first, last)?;
            let items = parse_items(count, &bytes)?;
            items.iter().try_for_each(|item| tree.add(item))?;
            match items.last().and_then(|item| after(item.key)) {
                Some(next) if next <= last => first = next,
                _ => return Ok(tree),
            }
        }
    }

    /// The path of a subvolume from the top of the file system; `None` if it hangs nowhere.
    fn path(&self, id: u64, folder: &dyn Fn(u64, u64) -> io::Result<Vec<u8>>) -> io::Result<Option<PathBuf>> {
        let mut parts = Vec::new();
        let mut current = id;
        while current != TOP_LEVEL {
            let Some(backref) = self.backrefs.get(&current).filter(|_| parts.len() < LARGEST_DEPTH) else {
                return Ok(None);
            };
            let mut part = match backref.directory_inode {
                ROOT_INODE => Vec::new(),
                inode => folder(backref.parent_id, inode)?,
            };
            part.extend_from_slice(backref.name.as_encoded_bytes());
            parts.push(OsString::from_vec(part));
            current = backref.parent_id;
        }
        Ok(Some(parts.iter().rev().collect()))
    }
}

/// All subvolumes of the file system with their paths from its top, in the order of their ids.
///
/// As of the last commit: sync the file system before.
pub(super) fn list(fd: impl AsFd) -> io::Result<Vec<(SubvolumeInfo, PathBuf)>> {
    let tree = RootTree::read(&fd)?;
    let folder = |subvolume, inode| ioctl::path_of_inode(&fd, subvolume, inode);
    let mut found = Vec::new();
    for (id, info) in &tree.infos {
        let path = match tree.path(*id, &folder) {
            Ok(path) => path,
            // The folder it hung in has been removed since the tree was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        if let Some(path) = path {
            let parent_id = tree.backrefs.get(id).map_or(0, |backref| backref.parent_id);
            found.push((SubvolumeInfo { parent_id, ..info.clone() }, path));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root_item(generation_v2: u64, references: u32) -> Vec<u8> {
        let mut item = vec![0; 160];
        item.extend(7_u64.to_le_bytes());
        item.extend([0; 40]);
        item.extend(READ_ONLY.to_le_bytes());
        item.extend(references.to_le_bytes());
        item.extend([0; 19]);
        item.extend(generation_v2.to_le_bytes());
        item.extend([1; 16]);
        item.extend([0; 16]);
        item.extend([3; 16]);
        item.extend([11_u64, 12, 13, 14].iter().flat_map(|id| id.to_le_bytes()));
        item.extend([0; 12]);
        item.extend(1_700_000_000_u64.to_le_bytes());
        item.extend(5_u32.to_le_bytes());
        item.extend([0; 88]);
        assert_eq!(item.len(), 439);
        item
    }

    #[test]
    fn a_root_item_gives_what_identifies_a_subvolume() {
        let info = parse_root_item(300, &root_item(7, 1)).unwrap().unwrap();
        assert_eq!((info.id, info.generation, info.read_only), (300, 7, true));
        assert_eq!((info.uuid, info.parent_uuid), (Uuid::from_bytes([1; 16]), None));
        assert_eq!(info.received_uuid, Some(Uuid::from_bytes([3; 16])));
        assert_eq!((info.ctransid, info.otransid, info.stransid, info.rtransid), (11, 12, 13, 14));
        assert_eq!(info.created_at.as_nanosecond(), 1_700_000_000_000_000_005);
    }

    #[test]
    fn a_root_item_of_an_old_kernel_has_no_identity() {
        for item in [root_item(6, 1), root_item(7, 1)[..239].to_vec()] {
            let info = parse_root_item(300, &item).unwrap().unwrap();
            assert!(info.uuid.is_nil() && info.received_uuid.is_none() && info.ctransid == 0);
        }
    }

    #[test]
    fn a_deleted_subvolume_is_passed_over() {
        assert!(parse_root_item(300, &root_item(7, 0)).unwrap().is_none());
    }

    #[test]
    fn items_cut_short_are_an_error() {
        assert!(parse_root_item(300, &root_item(7, 1)[..100]).is_err());
        assert!(parse_backref(5, &[0; 17]).is_err());
        assert!(parse_items(1, &[0xff; 40]).is_err());
    }

    #[test]
    fn a_path_goes_through_folders_and_subvolumes() {
        let mut tree = RootTree::default();
        let backref =
            |parent_id, directory_inode, name: &str| Backref { parent_id, directory_inode, name: name.into() };
        tree.backrefs.insert(300, backref(TOP_LEVEL, ROOT_INODE, "@"));
        tree.backrefs.insert(301, backref(300, 270, "inner"));
        tree.backrefs.insert(302, backref(302, ROOT_INODE, "loop"));
        let folder = |subvolume, inode| {
            assert_eq!((subvolume, inode), (300, 270));
            Ok(b"some/where/".to_vec())
        };
        assert_eq!(tree.path(301, &folder).unwrap(), Some(PathBuf::from("@/some/where/inner")));
        assert_eq!(tree.path(TOP_LEVEL, &folder).unwrap(), Some(PathBuf::new()));
        assert_eq!(tree.path(302, &folder).unwrap(), None);
        assert_eq!(tree.path(303, &folder).unwrap(), None);
    }

    #[test]
    fn the_search_goes_on_behind_the_last_item() {
        let key = |object, kind, offset| ItemKey { object, kind, offset };
        assert_eq!(after(key(5, 132, 0)), Some(key(5, 132, 1)));
        assert_eq!(after(key(5, 132, u64::MAX)), Some(key(5, 133, 0)));
    }
}
