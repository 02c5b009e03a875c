//! Tells which files have lost bytes, where some of a stream's file data is lost.
//!
//! A write names the path that its file has at that moment, which may be a name for a while only (`o257-7-0`), or be below a
//! directory that is moved later. So the names of files that have lost bytes are followed to the end of the stream.

use std::collections::BTreeMap;
use std::ops::Range;

use super::kept::KeptCommand;
use super::names::parts;
use super::{AttributeCode, CommandCode};
use crate::id::Uuid;

/// A file that has lost bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostFile {
    /// Its path in the subvolume, at the end of the stream.
    pub path: Vec<u8>,
    /// How many of the bytes that the stream writes to it are lost.
    pub lost_bytes: u64,
}

/// Follows a stream's commands, knowing which of its file data is lost.
#[derive(Debug)]
pub struct LostFiles<'a> {
    /// What is lost of the file data, in order, and not yet passed by.
    lost: &'a [Range<u64>],
    /// How much of the file data the commands have used.
    data_used: u64,
    /// The subvolume of the stream.
    subject: Option<Uuid>,
    at_most: usize,
    files: Vec<Found>,
    /// The names of these files, and their numbers.
    names: BTreeMap<Vec<u8>, usize>,
    uncounted: Uncounted,
}

/// A file that has lost bytes, whatever its names are.
#[derive(Debug, Default)]
struct Found {
    /// What is lost of it, in the order of the commands.
    lost: Vec<Range<u64>>,
    /// The name that was taken from it last.
    former_name: Vec<u8>,
}

/// Files beyond those that are followed.
#[derive(Debug, Default)]
struct Uncounted {
    count: u64,
    /// The last one: all that is written to a file comes together.
    last: Vec<u8>,
}

impl<'a> LostFiles<'a> {
    /// With what is lost of the file data, in order, at the beginning of the stream. So many files are followed at most: each
    /// takes memory for its path and 16 bytes for each span of it that is lost.
    #[must_use]
    pub fn new(lost: &'a [Range<u64>], at_most: usize) -> Self {
        Self {
            lost,
            data_used: 0,
            subject: None,
            at_most,
            files: Vec::new(),
            names: BTreeMap::new(),
            uncounted: Uncounted::default(),
        }
    }

    /// Does what a command does.
    pub fn follow(&mut self, command: &KeptCommand<'_>) {
        let Some(path) = command.bytes(AttributeCode::PATH) else { return };
        let other = |code| command.bytes(code).map(normal).unwrap_or_default();
        match command.code {
            CommandCode::SUBVOL | CommandCode::SNAPSHOT => {
                self.subject = command.attribute(AttributeCode::UUID).and_then(|uuid| uuid.as_uuid());
            }
            CommandCode::WRITE | CommandCode::ENCODED_WRITE => self.write(command, path),
            CommandCode::CLONE => self.clone_range(command, path),
            CommandCode::RENAME => self.rename(&normal(path), &other(AttributeCode::PATH_TO)),
            CommandCode::LINK => self.link(normal(path), &other(AttributeCode::PATH_LINK)),
            CommandCode::UNLINK => self.take_name(&normal(path)),
            _ => {}
        }
    }

    /// The files, in the order in which they lost bytes, and how many there are beyond those that were followed.
    #[must_use]
    pub fn finish(self) -> (Vec<LostFile>, u64) {
        let mut files: Vec<LostFile> = Vec::with_capacity(self.files.len());
        for found in self.files {
            let lost_bytes = total(found.lost);
            files.push(LostFile { path: found.former_name, lost_bytes });
        }
        // Of several names the first by its bytes is told.
        for (name, number) in self.names.into_iter().rev() {
            files[number].path = name;
        }
        (files, self.uncounted.count)
    }

    fn write(&mut self, command: &KeptCommand<'_>, path: &[u8]) {
        let used = self.data_used..self.data_used.saturating_add(command.data_bytes);
        self.data_used = used.end;
        let lost = self.take_lost(&used);
        if lost.is_empty() {
            return;
        }
        let offset = command.number(AttributeCode::FILE_OFFSET).unwrap_or(0);
        // An extent of which something is lost cannot be decompressed.
        let whole = command.number(AttributeCode::UNENCODED_FILE_LEN).filter(|_| command.code != CommandCode::WRITE);
        let in_file = match whole.map(|length| offset..offset.saturating_add(length)) {
            Some(all) => vec![all],
            None => lost.into_iter().map(|lost| moved(lost, used.start, offset)).collect(),
        };
        self.add(&normal(path), in_file);
    }

    /// What is lost of a span of the file data, which no later one begins before.
    fn take_lost(&mut self, used: &Range<u64>) -> Vec<Range<u64>> {
        let passed = self.lost.iter().take_while(|lost| lost.end <= used.start).count();
        self.lost = &self.lost[passed..];
        let touched = self.lost.iter().take_while(|lost| lost.start < used.end);
        touched.filter_map(|lost| common(lost, used)).collect()
    }

    /// What was written with lost bytes is lost also where it is cloned to.
    fn clone_range(&mut self, command: &KeptCommand<'_>, path: &[u8]) {
        let source = command.attribute(AttributeCode::CLONE_UUID).and_then(|uuid| uuid.as_uuid());
        let from = command.bytes(AttributeCode::CLONE_PATH).filter(|_| source.is_some() && source == self.subject);
        let Some(number) = from.and_then(|from| self.names.get(&normal(from))) else { return };
        let value = |code| command.number(code).unwrap_or(0);
        let begin = value(AttributeCode::CLONE_OFFSET);
        let cloned = begin..begin.saturating_add(value(AttributeCode::CLONE_LEN));
        let lost = self.files[*number].lost.iter().filter_map(|lost| common(lost, &cloned));
        let offset = value(AttributeCode::FILE_OFFSET);
        let lost: Vec<Range<u64>> = lost.map(|lost| moved(lost, begin, offset)).collect();
        if !lost.is_empty() {
            self.add(&normal(path), lost);
        }
    }

    fn add(&mut self, path: &[u8], lost: Vec<Range<u64>>) {
        if let Some(number) = self.names.get(path) {
            return self.files[*number].lost.extend(lost);
        }
        if self.files.len() < self.at_most {
            self.names.insert(path.to_vec(), self.files.len());
            self.files.push(Found { lost, former_name: Vec::new() });
        } else if self.uncounted.count == 0 || self.uncounted.last != path {
            self.uncounted = Uncounted { count: self.uncounted.count + 1, last: path.to_vec() };
        }
    }

    fn link(&mut self, path: Vec<u8>, existing: &[u8]) {
        if let Some(number) = self.names.get(existing) {
            self.names.insert(path, *number);
        }
    }

    fn rename(&mut self, from: &[u8], to: &[u8]) {
        if from == to {
            return;
        }
        self.take_name(to);
        if let Some(number) = self.names.remove(from) {
            self.names.insert(to.to_vec(), number);
        }
        let inside = [from, b"/"].concat();
        let is_inside = |(name, _): &(&Vec<u8>, &usize)| name.starts_with(&inside);
        let below: Vec<Vec<u8>> =
            self.names.range(inside.clone()..).take_while(is_inside).map(|(name, _)| name.clone()).collect();
        for name in below {
            if let Some(number) = self.names.remove(&name) {
                self.names.insert([to, &name[from.len()..]].concat(), number);
            }
        }
    }

    fn take_name(&mut self, name: &[u8]) {
        if let Some(number) = self.names.remove(name) {
            self.files[number].former_name = name.to_vec();
        }
    }
}

/// A path as there is only one way to write it.
fn normal(path: &[u8]) -> Vec<u8> {
    parts(path).collect::<Vec<_>>().join(&b'/')
}

/// What two spans have in common.
fn common(one: &Range<u64>, other: &Range<u64>) -> Option<Range<u64>> {
    let both = one.start.max(other.start)..one.end.min(other.end);
    (!both.is_empty()).then_some(both)
}

/// A span that begins at or after `from`, as it is where that is at `to`.
fn moved(span: Range<u64>, from: u64, to: u64) -> Range<u64> {
    let at = |place: u64| to.saturating_add(place - from);
    at(span.start)..at(span.end)
}

/// How much spans have together that may overlap.
fn total(mut spans: Vec<Range<u64>>) -> u64 {
    spans.sort_unstable_by_key(|span| span.start);
    let (mut sum, mut end) = (0_u64, 0);
    for span in spans {
        let begin = span.start.max(end);
        sum = sum.saturating_add(span.end.saturating_sub(begin));
        end = end.max(span.end);
    }
    sum
}
