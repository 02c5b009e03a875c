//! Follows what a stream does to names, and finds the commands that `btrfs receive` would fail at.
//!
//! Kernels have written such streams: a rename of a path before it is there, a write to one that is gone, a clone from a
//! file that is not there. Found while the stream is read, it costs another send; found when it is restored, the data.
//!
//! Of an incremental stream's parent nothing is known, so a name that the stream has not touched may be there or not. What
//! does not fit into memory goes to a [`NameStore`]; without one, or if that fails, everything is forgotten, and what is
//! forgotten may be there or not either. So a stream that `btrfs receive` takes is never called wrong, and a wrong one only if it
//! is certain.

use super::name_table::NameTable;
use super::names::{Entry, Found, Names, Stop, parts};
use super::{AttributeCode, Command, CommandCode, NameStore};
use crate::id::Uuid;

/// So many entries are in memory unless it is said otherwise: of names, and one for each directory that is not empty. They
/// take 11 MiB, and 7 more while they are moved to a store.
pub const NAMES_IN_MEMORY: usize = 220_000;
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

/// Follows what a stream does to names.
#[derive(Debug)]
pub(super) struct Replay {
    names: Names,
    subject: Option<Uuid>,
    forgotten_because: Option<String>,
    /// What the command before was about, if it was one that only needs its file to be there.
    written_path: Vec<u8>,
}

type Verdict = Result<(), Stop>;

impl Replay {
    /// With this many entries in memory, and the others in a store.
    pub(super) fn new(in_memory_at_most: usize, store: Option<Box<dyn NameStore>>) -> Self {
        let names = Names::new(NameTable::new(in_memory_at_most, store));
        Self { names, subject: None, forgotten_because: None, written_path: Vec::new() }
    }

    /// Why not all was remembered, if it was not.
    pub(super) fn forgotten_because(&self) -> Option<&str> {
        self.forgotten_because.as_deref()
    }

    /// Does what a command does; gives why `btrfs receive` would fail at it, if it would.
    pub(super) fn follow(&mut self, command: &Command<'_>) -> Option<Rejected> {
        let path = command.attribute(AttributeCode::PATH)?.value;
        if needs_file_only(command.code) && self.written_path == path && !path.is_empty() {
            return None;
        }
        let verdict = if path.len() > PATH_BYTES_AT_MOST {
            Err("the path is too long".into())
        } else {
            self.act(command, path).and_then(|()| Ok(self.names.make_room()?))
        };
        self.written_path.clear();
        match verdict {
            Ok(()) if needs_file_only(command.code) => self.written_path.extend_from_slice(path),
            Ok(()) => {}
            Err(Stop::Wrong(reason)) => {
                let path = path[..path.len().min(PATH_BYTES_AT_MOST)].to_vec();
                return Some(Rejected { command: command.code, offset: command.offset, path, reason });
            }
            Err(Stop::Lost(error)) => {
                self.names.forget();
                self.forgotten_because.get_or_insert_with(|| error.to_string());
            }
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
                let directory = self.names.make_directory(false);
                self.make(path, Entry::Directory(directory))
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
                    from.map_or(Ok(()), |from| self.need_file(from)).map_err(|stop| match stop {
                        Stop::Wrong(_) => reason.into(),
                        lost @ Stop::Lost(_) => lost,
                    })?;
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
        self.names.begin(!whole);
        self.subject = command.attribute(AttributeCode::UUID).and_then(|uuid| uuid.as_uuid());
    }

    fn need(&mut self, path: &[u8]) -> Verdict {
        match self.names.find(path)?.found {
            Found::Absent => Err("the path is not there".into()),
            _ => Ok(()),
        }
    }

    fn need_file(&mut self, path: &[u8]) -> Verdict {
        match self.names.find(path)?.found {
            Found::Absent => Err("the path is not there".into()),
            Found::Directory => Err("the path is a directory".into()),
            Found::Leaf | Found::Unknown => Ok(()),
        }
    }

    fn make(&mut self, path: &[u8], entry: Entry) -> Verdict {
        let place = self.names.find(path)?;
        match place.found {
            Found::Directory | Found::Leaf => Err("the path is there already".into()),
            Found::Absent | Found::Unknown => self.names.put(path, &place, entry),
        }
    }

    /// `btrfs receive` makes a file by opening it, so one that is there is no reason to fail.
    fn make_file(&mut self, path: &[u8]) -> Verdict {
        let place = self.names.find(path)?;
        if place.found == Found::Directory {
            return Err("the path is a directory".into());
        }
        self.names.put(path, &place, Entry::Leaf)
    }

    fn remove(&mut self, path: &[u8], expected: Found) -> Verdict {
        let place = self.names.find(path)?;
        match (place.found, expected) {
            (Found::Absent, _) => return Err("the path is not there".into()),
            (Found::Directory, Found::Leaf) => return Err("the path is a directory".into()),
            (Found::Leaf, Found::Directory) => return Err("the path is not a directory".into()),
            _ => {}
        }
        if self.names.has_names_in(&place)? {
            return Err("the directory is not empty".into());
        }
        self.names.put(path, &place, Entry::Absent)
    }

    fn rename(&mut self, from: &[u8], to: &[u8]) -> Verdict {
        let source = self.names.find(from)?;
        if source.found == Found::Absent {
            return Err("the path is not there".into());
        }
        if parts(from).eq(parts(to)) {
            return Ok(());
        }
        if parts(from).eq(parts(to).take(parts(from).count())) {
            return Err("a directory is moved into itself".into());
        }
        let target = self.names.find(to)?;
        match (source.found, target.found) {
            (Found::Directory, Found::Leaf) => return Err("a directory takes the place of a file".into()),
            (Found::Leaf, Found::Directory) => return Err("a file takes the place of a directory".into()),
            _ => {}
        }
        if self.names.has_names_in(&target)? {
            return Err("the directory in whose place it is moved is not empty".into());
        }
        let moved = source.entry().unwrap_or(Entry::Something);
        // Where both are names of one file, nothing happens.
        let may_be_same = matches!(target.found, Found::Leaf | Found::Unknown) && source.found != Found::Directory;
        self.names.put(from, &source, if may_be_same { Entry::Perhaps } else { Entry::Absent })?;
        self.names.put(to, &target, moved)
    }
}

/// Whether a command only needs its path to be that of a file.
fn needs_file_only(code: CommandCode) -> bool {
    matches!(code, CommandCode::WRITE | CommandCode::ENCODED_WRITE | CommandCode::TRUNCATE | CommandCode::FALLOCATE)
}

#[cfg(test)]
impl Replay {
    pub(super) fn in_memory(&self) -> usize {
        self.names.in_memory()
    }

    /// The first of a whole stream.
    pub(super) fn first_rejected(&mut self, stream: &[u8]) -> Option<Rejected> {
        let mut reader = super::CommandReader::new(stream).ok()?;
        while let Ok(Some(command)) = reader.next_command() {
            if let Some(rejected) = self.follow(&command) {
                return Some(rejected);
            }
        }
        None
    }
}
