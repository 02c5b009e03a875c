//! Follows what a stream does to names, and finds the commands that `btrfs receive` would fail at.
//!
//! Kernels have written such streams: a rename of a path before it is there, a write to one that is gone, a clone from a
//! file that is not there. Found while the stream is read, it costs another send; found when it is restored, the data.
//!
//! Of an incremental stream's parent nothing is known, so a name that the stream has not touched may be there or not. What is
//! remembered is bounded as well: what is forgotten may be there or not either. So a stream that `btrfs receive` takes is
//! never called wrong, and a wrong one only if it is certain.

use std::collections::BTreeMap;

use super::{AttributeCode, Command, CommandCode};
use crate::id::Uuid;

/// So many names are remembered; some 100 bytes each.
const NAMES_AT_MOST: usize = 1 << 18;
/// A longer path is not a path: `PATH_MAX` of Linux.
const PATH_BYTES_AT_MOST: usize = 4096;

/// The first command of a stream that `btrfs receive` would fail at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// The command.
    pub command: CommandCode,
    /// Where it begins in the stream.
    pub offset: u64,
    /// The path that it is about.
    pub path: Vec<u8>,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// What is known of a name.
#[derive(Debug, Clone, Copy)]
enum Entry {
    /// There is none.
    Absent,
    /// There may be one.
    Perhaps,
    /// There is one; of what kind is not known.
    Something,
    /// There is a directory: its place in [`Names::directories`].
    Directory(usize),
    /// There is something else than a directory.
    Leaf,
}

/// What is known of the names in a directory.
#[derive(Debug, Clone, Default)]
struct Directory {
    names: BTreeMap<Box<[u8]>, Entry>,
    /// Names that are not remembered may be there.
    has_unknown: bool,
}

/// What is known of all names. Directories stand side by side and not in each other, however deep they are.
#[derive(Debug)]
struct Names {
    /// The first one is the subvolume itself.
    directories: Vec<Directory>,
    /// Entries of all directories.
    count: usize,
}

/// What is known of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Absent,
    Directory,
    Leaf,
    Unknown,
}

/// Follows what a stream does to names.
#[derive(Debug)]
pub(super) struct Replay {
    names: Names,
    subject: Option<Uuid>,
    names_at_most: usize,
    /// What the command before was about, if it was one that only needs its file to be there.
    written_path: Vec<u8>,
}

type Verdict = Result<(), &'static str>;

impl Replay {
    pub(super) fn new() -> Self {
        Self::remembering(NAMES_AT_MOST)
    }

    pub(super) fn remembering(names_at_most: usize) -> Self {
        Self { names: Names::new(true), subject: None, names_at_most, written_path: Vec::new() }
    }

    /// Does what a command does; gives why `btrfs receive` would fail at it, if it would.
    pub(super) fn follow(&mut self, command: &Command<'_>) -> Option<Rejected> {
        let path = command.attribute(AttributeCode::PATH)?.value;
        if needs_file_only(command.code) && self.written_path == path && !path.is_empty() {
            return None;
        }
        let verdict =
            if path.len() > PATH_BYTES_AT_MOST { Err("the path is too long") } else { self.act(command, path) };
        self.written_path.clear();
        match verdict {
            Ok(()) if needs_file_only(command.code) => self.written_path.extend_from_slice(path),
            Ok(()) => {}
            Err(reason) => {
                let path = path[..path.len().min(PATH_BYTES_AT_MOST)].to_vec();
                return Some(Rejected { command: command.code, offset: command.offset, path, reason });
            }
        }
        if self.names.remembered() > self.names_at_most {
            self.names.forget(self.names_at_most / 2);
        }
        None
    }

    fn act(&mut self, command: &Command<'_>, path: &[u8]) -> Verdict {
        let other = |code| command.attribute(code).map(|attribute| attribute.value);
        match command.code {
            CommandCode::SUBVOL | CommandCode::SNAPSHOT => {
                self.begin(command);
                Ok(())
            }
            CommandCode::MKFILE => self.make_file(path),
            CommandCode::MKNOD | CommandCode::MKFIFO | CommandCode::MKSOCK | CommandCode::SYMLINK => {
                self.make(path, Entry::Leaf)
            }
            CommandCode::MKDIR => {
                let directory = self.names.add(false);
                self.make(path, directory)
            }
            CommandCode::RENAME => other(AttributeCode::PATH_TO).map_or(Ok(()), |to| self.rename(path, to)),
            CommandCode::LINK => {
                other(AttributeCode::PATH_LINK).map_or(Ok(()), |existing| self.need_file(existing))?;
                self.make(path, Entry::Leaf)
            }
            CommandCode::UNLINK => self.remove(path, Found::Leaf),
            CommandCode::RMDIR => self.remove(path, Found::Directory),
            CommandCode::CLONE => {
                let source = command.attribute(AttributeCode::CLONE_UUID).and_then(|uuid| uuid.as_uuid());
                if source.is_some() && source == self.subject {
                    let reason = "there is no file at the path it clones from";
                    let from = other(AttributeCode::CLONE_PATH);
                    from.map_or(Ok(()), |from| self.need_file(from)).map_err(|_| reason)?;
                }
                self.need_file(path)
            }
            code if needs_file_only(code) => self.need_file(path),
            CommandCode::SET_XATTR
            | CommandCode::REMOVE_XATTR
            | CommandCode::CHMOD
            | CommandCode::CHOWN
            | CommandCode::UTIMES
            | CommandCode::FILEATTR => self.need(path),
            _ => Ok(()),
        }
    }

    /// A subvolume: an empty one, or a snapshot of one that is not known.
    fn begin(&mut self, command: &Command<'_>) {
        let whole = command.code == CommandCode::SUBVOL;
        self.names = Names::new(!whole);
        self.subject = command.attribute(AttributeCode::UUID).and_then(|uuid| uuid.as_uuid());
    }

    fn need(&self, path: &[u8]) -> Verdict {
        match self.names.find(path)? {
            Found::Absent => Err("the path is not there"),
            _ => Ok(()),
        }
    }

    fn need_file(&self, path: &[u8]) -> Verdict {
        match self.names.find(path)? {
            Found::Absent => Err("the path is not there"),
            Found::Directory => Err("the path is a directory"),
            Found::Leaf | Found::Unknown => Ok(()),
        }
    }

    fn make(&mut self, path: &[u8], entry: Entry) -> Verdict {
        match self.names.find(path)? {
            Found::Directory | Found::Leaf => Err("the path is there already"),
            Found::Absent | Found::Unknown => {
                self.names.put(path, entry);
                Ok(())
            }
        }
    }

    /// `btrfs receive` makes a file by opening it, so one that is there is no reason to fail.
    fn make_file(&mut self, path: &[u8]) -> Verdict {
        if self.names.find(path)? == Found::Directory {
            return Err("the path is a directory");
        }
        self.names.put(path, Entry::Leaf);
        Ok(())
    }

    fn remove(&mut self, path: &[u8], expected: Found) -> Verdict {
        match (self.names.find(path)?, expected) {
            (Found::Absent, _) => return Err("the path is not there"),
            (Found::Directory, Found::Leaf) => return Err("the path is a directory"),
            (Found::Leaf, Found::Directory) => return Err("the path is not a directory"),
            _ => {}
        }
        if self.names.has_names_in(path) {
            return Err("the directory is not empty");
        }
        self.names.put(path, Entry::Absent);
        Ok(())
    }

    fn rename(&mut self, from: &[u8], to: &[u8]) -> Verdict {
        let moved = match self.names.find(from)? {
            Found::Absent => return Err("the path is not there"),
            found => found,
        };
        if parts(from).eq(parts(to)) {
            return Ok(());
        }
        if parts(from).eq(parts(to).take(parts(from).count())) {
            return Err("a directory is moved into itself");
        }
        let replaced = self.names.find(to)?;
        match (moved, replaced) {
            (Found::Directory, Found::Leaf) => return Err("a directory takes the place of a file"),
            (Found::Leaf, Found::Directory) => return Err("a file takes the place of a directory"),
            _ => {}
        }
        if self.names.has_names_in(to) {
            return Err("the directory in whose place it is moved is not empty");
        }
        let entry = self.names.entry(from).unwrap_or(Entry::Something);
        // Where both are names of one file, nothing happens.
        let may_be_same = matches!(replaced, Found::Leaf | Found::Unknown) && moved != Found::Directory;
        self.names.put(from, if may_be_same { Entry::Perhaps } else { Entry::Absent });
        self.names.put(to, entry);
        Ok(())
    }
}

/// Whether a command only needs its path to be that of a file.
fn needs_file_only(code: CommandCode) -> bool {
    matches!(code, CommandCode::WRITE | CommandCode::ENCODED_WRITE | CommandCode::TRUNCATE | CommandCode::FALLOCATE)
}

fn parts(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|part| !part.is_empty())
}

impl Names {
    /// Those of a subvolume of which nothing is known, or in which nothing is.
    fn new(has_unknown: bool) -> Self {
        Self { directories: vec![Directory { has_unknown, ..Directory::default() }], count: 0 }
    }

    /// Adds a directory that has no name yet.
    fn add(&mut self, has_unknown: bool) -> Entry {
        self.directories.push(Directory { has_unknown, ..Directory::default() });
        Entry::Directory(self.directories.len() - 1)
    }

    /// What is known of a path. That something on the way is no directory is an error.
    fn find(&self, path: &[u8]) -> Result<Found, &'static str> {
        let mut directory = &self.directories[0];
        let mut parts = parts(path).peekable();
        while let Some(part) = parts.next() {
            let is_last = parts.peek().is_none();
            match directory.names.get(part) {
                Some(Entry::Directory(inner)) => directory = &self.directories[*inner],
                Some(Entry::Leaf) if is_last => return Ok(Found::Leaf),
                Some(Entry::Leaf) => return Err("a part of the path is not a directory"),
                Some(Entry::Something | Entry::Perhaps) => return Ok(Found::Unknown),
                None if directory.has_unknown => return Ok(Found::Unknown),
                Some(Entry::Absent) | None if is_last => return Ok(Found::Absent),
                Some(Entry::Absent) | None => return Err("the directory of the path is not there"),
            }
        }
        Ok(Found::Directory)
    }

    /// The entry of a path, if it is remembered.
    fn entry(&self, path: &[u8]) -> Option<Entry> {
        parts(path).try_fold(Entry::Directory(0), |entry, part| match entry {
            Entry::Directory(directory) => self.directories[directory].names.get(part).copied(),
            _ => None,
        })
    }

    /// Whether the path is that of a directory in which something certainly is.
    fn has_names_in(&self, path: &[u8]) -> bool {
        let Some(Entry::Directory(directory)) = self.entry(path) else { return false };
        self.directories[directory].names.values().any(|entry| !matches!(entry, Entry::Absent | Entry::Perhaps))
    }

    /// Says what a path is from now on. What was not known on the way to it has to be a directory.
    fn put(&mut self, path: &[u8], entry: Entry) {
        let mut directory = 0;
        let mut parts = parts(path).peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                return self.put_in(directory, part, entry);
            }
            directory = if let Some(Entry::Directory(inner)) = self.directories[directory].names.get(part) {
                *inner
            } else {
                let added = self.add(true);
                self.put_in(directory, part, added);
                self.directories.len() - 1
            };
        }
    }

    fn put_in(&mut self, directory: usize, name: &[u8], entry: Entry) {
        let directory = &mut self.directories[directory];
        // Where every name is remembered, one that is not is not there.
        let is_implied = matches!(entry, Entry::Absent) && !directory.has_unknown;
        let before = directory.names.len();
        if is_implied {
            directory.names.remove(name);
        } else {
            directory.names.insert(name.into(), entry);
        }
        self.count = self.count + directory.names.len() - before;
    }

    /// Forgets what is not a directory; and everything, if more than `at_most` names are left.
    fn forget(&mut self, at_most: usize) {
        for directory in &mut self.directories {
            let before = directory.names.len();
            directory.names.retain(|_, entry| matches!(entry, Entry::Directory(_)));
            directory.has_unknown |= directory.names.len() < before;
        }
        self.count = self.directories.iter().map(|directory| directory.names.len()).sum();
        if self.remembered() > at_most {
            *self = Self::new(true);
        }
    }

    /// How much is remembered. Directories that have been removed keep their place, so they count as well.
    fn remembered(&self) -> usize {
        self.count.max(self.directories.len())
    }
}

#[cfg(test)]
impl Replay {
    pub(super) fn remembered(&self) -> usize {
        self.names.remembered()
    }
}

#[cfg(test)]
impl Rejected {
    /// The first of a whole stream, when so many names are remembered.
    pub(super) fn find(stream: &[u8], names_at_most: usize) -> Option<Self> {
        let mut reader = super::CommandReader::new(stream).ok()?;
        let mut replay = Replay::remembering(names_at_most);
        while let Ok(Some(command)) = reader.next_command() {
            if let Some(rejected) = replay.follow(&command) {
                return Some(rejected);
            }
        }
        None
    }
}
