//! What is known of the names in a subvolume while a stream changes it.
//!
//! Every directory has a number, and what is known of a name stands in one table under an id of the number and the name. So a
//! directory that is moved takes along what is in it, however much that is.

use std::ops::Range;

use super::name_table::{NameId, NameTable};

/// What is known of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    /// There is none.
    Absent,
    /// There may be one.
    Perhaps,
    /// There is one; of what kind is not known.
    Something,
    /// There is something else than a directory.
    Leaf,
    /// There is a directory.
    Directory(Directory),
}

/// A directory that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Directory {
    number: u64,
    /// Names that nothing is known of may be there.
    has_unknown: bool,
}

/// What is known of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Absent,
    Directory,
    Leaf,
    Unknown,
}

/// What a path was found to be, and where.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) found: Found,
    /// The last of the directories on the way that is known.
    directory: Directory,
    /// The name that was looked up in it; none in the path of the subvolume itself.
    name: Option<NameId>,
    entry: Option<Entry>,
    /// Whether that name is the path's last.
    is_last: bool,
}

/// Why a command is not followed.
#[derive(Debug)]
pub(super) enum Stop {
    /// `btrfs receive` would fail at it.
    Wrong(&'static str),
    /// What is known of the names cannot be had.
    Lost(std::io::Error),
}

/// What is known of all names.
#[derive(Debug)]
pub(super) struct Names {
    table: NameTable,
    /// The subvolume itself.
    root: Directory,
    next_number: u64,
    trail: Trail,
    /// For what ids are made of.
    hashed: Vec<u8>,
}

/// The directories on the way to the last of the paths. Most paths have them in common with the one before.
#[derive(Debug, Default)]
struct Trail {
    path: Vec<u8>,
    /// Each with where its path ends in `path`.
    directories: Vec<(usize, Directory)>,
}

impl From<&'static str> for Stop {
    fn from(reason: &'static str) -> Self {
        Self::Wrong(reason)
    }
}

impl From<std::io::Error> for Stop {
    fn from(error: std::io::Error) -> Self {
        Self::Lost(error)
    }
}

impl Entry {
    fn encode(self) -> u64 {
        match self {
            Self::Absent => 0,
            Self::Perhaps => 1,
            Self::Something => 2,
            Self::Leaf => 3,
            Self::Directory(Directory { number, has_unknown }) => 4 + 2 * number + u64::from(has_unknown),
        }
    }

    fn decode(value: u64) -> Self {
        match value {
            0 => Self::Absent,
            1 => Self::Perhaps,
            2 => Self::Something,
            3 => Self::Leaf,
            _ => Self::Directory(Directory { number: (value - 4) / 2, has_unknown: value % 2 == 1 }),
        }
    }

    /// Whether there certainly is one.
    fn is_there(self) -> bool {
        !matches!(self, Self::Absent | Self::Perhaps)
    }
}

impl Place {
    /// What is known of the path's last name.
    pub(super) fn entry(&self) -> Option<Entry> {
        self.entry.filter(|_| self.is_last)
    }

    /// The directory that is at the path.
    fn inner(&self) -> Option<Directory> {
        match (self.found, self.entry) {
            (Found::Directory, Some(Entry::Directory(inner))) => Some(inner),
            (Found::Directory, _) => Some(self.directory),
            _ => None,
        }
    }
}

impl Names {
    /// Those of a subvolume of which nothing is known.
    pub(super) fn new(table: NameTable) -> Self {
        let root = Directory { number: 0, has_unknown: true };
        Self { table, root, next_number: 1, trail: Trail::default(), hashed: Vec::new() }
    }

    /// Goes on to a subvolume in which nothing is, or of which nothing is known.
    pub(super) fn begin(&mut self, has_unknown: bool) {
        self.root = self.make_directory(has_unknown);
        self.trail = Trail::default();
    }

    /// Forgets everything.
    pub(super) fn forget(&mut self) {
        self.table.forget();
        self.begin(true);
    }

    /// Has the table keep its bound, after each command.
    pub(super) fn make_room(&mut self) -> std::io::Result<()> {
        self.table.make_room()
    }

    /// A directory that has no name yet.
    pub(super) fn make_directory(&mut self, has_unknown: bool) -> Directory {
        self.next_number += 1;
        Directory { number: self.next_number - 1, has_unknown }
    }

    /// What is known of a path. That something on the way is no directory is an error.
    pub(super) fn find(&mut self, path: &[u8]) -> Result<Place, Stop> {
        let (mut known, mut directory) = self.trail.common_with(path).unwrap_or((0, self.root));
        let mut found = Place { found: Found::Directory, directory, name: None, entry: None, is_last: true };
        while let Some(part) = next_part(path, known) {
            let is_last = next_part(path, part.end).is_none();
            let name = self.id(directory, &path[part.clone()]);
            let entry = self.table.get(&name)?.map(Entry::decode);
            found = Place { found: Found::Unknown, directory, name: Some(name), entry, is_last };
            match entry {
                Some(Entry::Directory(inner)) => {
                    found.found = Found::Directory;
                    if !is_last {
                        self.trail.enter(path, known..part.end, inner);
                    }
                    (known, directory) = (part.end, inner);
                    continue;
                }
                Some(Entry::Leaf) if is_last => found.found = Found::Leaf,
                Some(Entry::Leaf) => return Err("a part of the path is not a directory".into()),
                Some(Entry::Something | Entry::Perhaps) => {}
                None if directory.has_unknown => {}
                Some(Entry::Absent) | None if is_last => found.found = Found::Absent,
                Some(Entry::Absent) | None => return Err("the directory of the path is not there".into()),
            }
            break;
        }
        Ok(found)
    }

    /// Whether what was found is a directory in which something certainly is.
    pub(super) fn has_names_in(&mut self, place: &Place) -> Result<bool, Stop> {
        let Some(directory) = place.inner() else { return Ok(false) };
        let count = self.count_id(directory);
        Ok(self.table.get(&count)?.is_some_and(|count| count > 0))
    }

    /// Says what a path is from now on. What was not known on the way to it has to be a directory.
    pub(super) fn put(&mut self, path: &[u8], place: &Place, entry: Entry) -> Result<(), Stop> {
        match place.name {
            Some(name) if place.is_last => self.put_in(place.directory, name, entry),
            _ => self.put_on_new_way(path, entry),
        }
    }

    /// Makes a directory of whatever on the way to a path is not known to be one.
    fn put_on_new_way(&mut self, path: &[u8], entry: Entry) -> Result<(), Stop> {
        let (mut known, mut directory) = (0, self.root);
        while let Some(part) = next_part(path, known) {
            let name = self.id(directory, &path[part.clone()]);
            if next_part(path, part.end).is_none() {
                return self.put_in(directory, name, entry);
            }
            let inner = if let Some(Entry::Directory(inner)) = self.table.get(&name)?.map(Entry::decode) {
                inner
            } else {
                let inner = self.make_directory(true);
                self.put_in(directory, name, Entry::Directory(inner))?;
                inner
            };
            (known, directory) = (part.end, inner);
        }
        Ok(())
    }

    fn put_in(&mut self, directory: Directory, name: NameId, entry: Entry) -> Result<(), Stop> {
        let before = self.table.get(&name)?.map(Entry::decode);
        if let Some(Entry::Directory(_)) = before {
            self.trail = Trail::default();
        }
        if entry == Entry::Absent && !directory.has_unknown {
            // Of the names in it all are known, so nothing says as much.
            self.table.clear(name, entry.encode())?;
        } else {
            self.table.put(name, entry.encode());
        }
        match (before.is_some_and(Entry::is_there), entry.is_there()) {
            (false, true) => self.count(directory, |count| count + 1),
            (true, false) => self.count(directory, |count| count - 1),
            _ => Ok(()),
        }
    }

    /// Changes how many names certainly are in a directory.
    fn count(&mut self, directory: Directory, change: impl FnOnce(u64) -> u64) -> Result<(), Stop> {
        let id = self.count_id(directory);
        match change(self.table.get(&id)?.unwrap_or(0)) {
            0 => self.table.clear(id, 0)?,
            count => self.table.put(id, count),
        }
        Ok(())
    }

    /// Where the count of a directory's names stands: no name is empty.
    fn count_id(&mut self, directory: Directory) -> NameId {
        self.id(directory, b"")
    }

    fn id(&mut self, directory: Directory, name: &[u8]) -> NameId {
        self.hashed.clear();
        self.hashed.extend_from_slice(&directory.number.to_le_bytes());
        self.hashed.extend_from_slice(name);
        NameId::of(&self.hashed)
    }
}

impl Trail {
    /// The last directory of it on the way to a path, and where in the path it ends.
    fn common_with(&self, path: &[u8]) -> Option<(usize, Directory)> {
        let is_on_way = |end: usize| {
            path.get(end) == Some(&b'/') && path[..end] == self.path[..end] && next_part(path, end).is_some()
        };
        self.directories.iter().rev().find(|(end, _)| is_on_way(*end)).copied()
    }

    /// Goes on into a directory whose name is at `part` of a path, which has in common with this one what is before.
    fn enter(&mut self, path: &[u8], part: Range<usize>, directory: Directory) {
        self.directories.retain(|(end, _)| *end <= part.start);
        self.path.truncate(part.start);
        self.path.extend_from_slice(&path[part.clone()]);
        self.directories.push((part.end, directory));
    }
}

/// The parts of a path.
pub(super) fn parts(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|part| !part.is_empty())
}

/// Where the next part of a path stands, after what is known of it.
fn next_part(path: &[u8], known: usize) -> Option<Range<usize>> {
    let start = known + path[known..].iter().position(|byte| *byte != b'/')?;
    let bytes = path[start..].iter().position(|byte| *byte == b'/').unwrap_or(path.len() - start);
    Some(start..start + bytes)
}

#[cfg(test)]
impl Names {
    pub(super) fn in_memory(&self) -> usize {
        self.table.in_memory()
    }
}
