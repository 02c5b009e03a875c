//! Commands that `btrfs receive` would fail at are found, and no others.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::replay::Replay;
use super::*;
use crate::id::Uuid;

/// Where entries that do not fit into memory go.
#[derive(Debug, Clone, Copy)]
enum Memory {
    Unlimited,
    /// So many fit, and all others are forgotten.
    Forgetting(usize),
    /// So many fit, and the others are kept.
    Keeping(usize),
    /// So many fit, and the others are kept until a store fails, at a call of this number.
    Failing(usize, usize),
}

/// A store of names in memory, which fails when it has been asked so often.
#[derive(Debug)]
struct Kept {
    values: BTreeMap<NameId, u64>,
    calls_left: usize,
    /// Shared with whoever wants to know whether the store is still there.
    _alive: Arc<()>,
}

impl Kept {
    fn call(&mut self) -> io::Result<()> {
        self.calls_left = self.calls_left.checked_sub(1).ok_or_else(|| io::Error::other("the store fails"))?;
        Ok(())
    }
}

impl NameStore for Kept {
    fn put(&mut self, records: &[NameRecord]) -> io::Result<()> {
        self.call()?;
        assert!(records.is_sorted_by(|a, b| a.id < b.id) && !records.is_empty());
        self.values.extend(records.iter().map(|record| (record.id, record.value)));
        Ok(())
    }

    fn get(&mut self, id: &NameId) -> io::Result<Option<u64>> {
        self.call()?;
        Ok(self.values.get(id).copied())
    }
}

impl Memory {
    fn replay(self) -> Replay {
        let kept = |calls_left| -> Option<Box<dyn NameStore>> {
            Some(Box::new(Kept { values: BTreeMap::new(), calls_left, _alive: Arc::default() }))
        };
        match self {
            Self::Unlimited => Replay::new(usize::MAX, None),
            Self::Forgetting(at_most) => Replay::new(at_most, None),
            Self::Keeping(at_most) => Replay::new(at_most, kept(usize::MAX)),
            Self::Failing(at_most, calls) => Replay::new(at_most, kept(calls)),
        }
    }
}

/// What a command does to names.
#[derive(Debug, Clone)]
enum Op {
    MakeFile(String),
    MakeFifo(String),
    MakeDirectory(String),
    Rename(String, String),
    Link(String, String),
    Unlink(String),
    RemoveDirectory(String),
    Write(String),
    Clone(String, String),
    SetMode(String),
}

const OWN: Uuid = Uuid::from_bytes([7; 16]);

impl Op {
    fn write(&self, writer: &mut StreamWriter<Vec<u8>>) -> io::Result<()> {
        let path = |path: &'_ String| (AttributeCode::PATH, path.clone());
        let (code, (first, value), other) = match self {
            Self::MakeFile(name) => (CommandCode::MKFILE, path(name), None),
            Self::MakeFifo(name) => (CommandCode::MKFIFO, path(name), None),
            Self::MakeDirectory(name) => (CommandCode::MKDIR, path(name), None),
            Self::Rename(from, to) => (CommandCode::RENAME, path(from), Some((AttributeCode::PATH_TO, to))),
            Self::Link(name, existing) => (CommandCode::LINK, path(name), Some((AttributeCode::PATH_LINK, existing))),
            Self::Unlink(name) => (CommandCode::UNLINK, path(name), None),
            Self::RemoveDirectory(name) => (CommandCode::RMDIR, path(name), None),
            Self::Write(name) => (CommandCode::WRITE, path(name), None),
            Self::Clone(name, from) => (CommandCode::CLONE, path(name), Some((AttributeCode::CLONE_PATH, from))),
            Self::SetMode(name) => (CommandCode::CHMOD, path(name), None),
        };
        let mut attributes = vec![(first, Value::Bytes(value.as_bytes()))];
        if let Self::Clone(..) = self {
            attributes.push((AttributeCode::CLONE_UUID, Value::Uuid(OWN)));
        }
        attributes.extend(other.map(|(code, other)| (code, Value::Bytes(other.as_bytes()))));
        writer.command(code, &attributes)
    }
}

/// A stream of these commands: whole, or against a parent of which nothing is known.
fn stream_of(whole: bool, ops: &[Op]) -> Vec<u8> {
    stream(2, |writer| {
        let code = if whole { CommandCode::SUBVOL } else { CommandCode::SNAPSHOT };
        let attributes = [(AttributeCode::PATH, Value::Bytes(b"s")), (AttributeCode::UUID, Value::Uuid(OWN))];
        writer.command(code, &attributes)?;
        ops.iter().try_for_each(|op| op.write(writer))
    })
}

/// The number of the first command that is rejected, counted from the one after the subvolume's, and why.
fn rejected(whole: bool, ops: &[Op], memory: Memory) -> Option<(usize, &'static str)> {
    let found = memory.replay().first_rejected(&stream_of(whole, ops))?;
    let number = (0..ops.len()).find(|number| stream_of(whole, &ops[..*number]).len() as u64 - 10 == found.offset);
    Some((number.expect("a command begins there"), found.reason))
}

fn text(text: &str) -> String {
    text.to_owned()
}

#[test]
fn what_real_streams_do_is_never_rejected() {
    for name in fixtures::NAMES {
        assert_eq!(fixtures::facts(name).rejected, None, "{name}");
        assert_eq!(Memory::Keeping(4).replay().first_rejected(&fixtures::captured(name)), None, "{name}");
        assert_eq!(Memory::Forgetting(4).replay().first_rejected(&fixtures::captured(name)), None, "{name}");
    }
}

#[test]
fn a_command_that_cannot_be_done_is_found_with_its_reason() {
    use Op::*;
    let [a, b, d] = ["a", "b", "d"].map(text);
    let inside = || text("d/x");
    let tree = [MakeDirectory(d.clone()), MakeFile(inside()), MakeFile(a.clone())];
    for (last, reason) in [
        (Rename(b.clone(), text("c")), "the path is not there"),
        (Write(b.clone()), "the path is not there"),
        (Write(d.clone()), "the path is a directory"),
        (SetMode(b.clone()), "the path is not there"),
        (Clone(a.clone(), b.clone()), "there is no file at the path it clones from"),
        (Link(b.clone(), text("c")), "the path is not there"),
        (Link(b.clone(), d.clone()), "the path is a directory"),
        (Link(a.clone(), inside()), "the path is there already"),
        (MakeDirectory(a.clone()), "the path is there already"),
        (MakeFifo(a.clone()), "the path is there already"),
        (MakeFile(d.clone()), "the path is a directory"),
        (MakeFile(text("e/x")), "the directory of the path is not there"),
        (MakeFile(text("a/x")), "a part of the path is not a directory"),
        (Unlink(d.clone()), "the path is a directory"),
        (RemoveDirectory(a.clone()), "the path is not a directory"),
        (RemoveDirectory(d.clone()), "the directory is not empty"),
        (Rename(d.clone(), text("d/y")), "a directory is moved into itself"),
        (Rename(d.clone(), text("d//y")), "a directory is moved into itself"),
        (Rename(d.clone(), a.clone()), "a directory takes the place of a file"),
        (Rename(a.clone(), d.clone()), "a file takes the place of a directory"),
        (Write("n/".repeat(2100)), "the path is too long"),
    ] {
        let ops: Vec<Op> = tree.iter().cloned().chain([last]).collect();
        assert_eq!(rejected(true, &ops, Memory::Unlimited), Some((3, reason)), "{:?}", ops[3]);
    }
    assert_eq!(rejected(true, &tree, Memory::Unlimited), None);
}

#[test]
fn of_a_parent_only_what_the_stream_has_done_is_known() {
    use Op::*;
    let [a, b] = ["a", "b"].map(text);
    assert_eq!(
        rejected(false, &[Write(a.clone()), Rename(b.clone(), text("x/y")), Write(text("x/y"))], Memory::Unlimited),
        None
    );
    for ops in [
        vec![Unlink(a.clone()), Write(a.clone())],
        vec![Rename(a.clone(), b.clone()), Unlink(b.clone()), Write(b.clone())],
        vec![Write(a.clone()), Write(text("a/x")), Unlink(a.clone()), SetMode(text("a/x"))],
    ] {
        let last = ops.len() - 1;
        assert_eq!(rejected(false, &ops, Memory::Unlimited).map(|found| found.0), Some(last), "{ops:?}");
    }
}

#[test]
fn a_clone_from_another_subvolume_is_not_looked_for_here() {
    let stream = stream(1, |writer| {
        let attributes = [(AttributeCode::PATH, Value::Bytes(b"s")), (AttributeCode::UUID, Value::Uuid(OWN))];
        writer.command(CommandCode::SUBVOL, &attributes)?;
        writer.command(CommandCode::MKFILE, &[(AttributeCode::PATH, Value::Bytes(b"a"))])?;
        let attributes = [
            (AttributeCode::PATH, Value::Bytes(b"a")),
            (AttributeCode::CLONE_UUID, Value::Uuid(Uuid::from_bytes([8; 16]))),
            (AttributeCode::CLONE_PATH, Value::Bytes(b"elsewhere")),
        ];
        writer.command(CommandCode::CLONE, &attributes)
    });
    assert_eq!(Memory::Unlimited.replay().first_rejected(&stream), None);
}

#[test]
fn what_is_remembered_is_bounded() {
    // Directories that are made and removed, files in one directory, and ever deeper directories.
    let churn: Vec<Op> =
        (0..3000).flat_map(|_| [Op::MakeDirectory(text("d")), Op::RemoveDirectory(text("d"))]).collect();
    let files: Vec<Op> = (0..3000).map(|number| Op::MakeFile(format!("f{number}"))).collect();
    let deep: Vec<Op> = (0..600)
        .flat_map(|_| {
            [Op::MakeDirectory(text("e")), Op::Rename(text("d"), text("e/d")), Op::Rename(text("e"), text("d"))]
        })
        .collect();
    let deep: Vec<Op> = [Op::MakeDirectory(text("d"))].into_iter().chain(deep).collect();
    for ops in [churn, files, deep] {
        let bytes = stream_of(true, &ops);
        for memory in [Memory::Forgetting(100), Memory::Keeping(100)] {
            let mut reader = CommandReader::new(&bytes[..]).unwrap();
            let mut replay = memory.replay();
            while let Some(command) = reader.next_command().unwrap() {
                assert_eq!(replay.follow(&command), None);
                assert!(replay.in_memory() <= 100);
            }
            assert!(replay.forgotten_because().is_none() || matches!(memory, Memory::Forgetting(_)));
        }
    }
}

#[test]
fn what_is_forgotten_stays_unknown_and_what_is_kept_does_not() {
    let files = (0..20).map(|number| Op::MakeFile(format!("d/{number}")));
    let first = [Op::MakeFile(text("f")), Op::MakeDirectory(text("d"))];
    let ops: Vec<Op> = first.into_iter().chain(files).collect();
    let and_then = |op| ops.iter().cloned().chain([op]).collect::<Vec<_>>();
    for there in [Op::Write(text("f")), Op::Write(text("d/0")), Op::MakeFile(text("d/0"))] {
        assert_eq!(rejected(true, &and_then(there.clone()), Memory::Forgetting(6)), None);
        assert_eq!(rejected(true, &and_then(there), Memory::Keeping(6)), None);
    }
    for (wrong, reason) in [
        (Op::Write(text("d/20")), "the path is not there"),
        (Op::MakeFifo(text("d/0")), "the path is there already"),
        (Op::Clone(text("d/0"), text("d/20")), "there is no file at the path it clones from"),
    ] {
        assert_eq!(rejected(true, &and_then(wrong.clone()), Memory::Forgetting(6)), None);
        assert_eq!(rejected(true, &and_then(wrong), Memory::Keeping(6)), Some((22, reason)));
    }
    let remove = and_then(Op::RemoveDirectory(text("d")));
    assert_eq!(rejected(true, &remove, Memory::Keeping(6)), Some((22, "the directory is not empty")));
}

#[test]
fn the_next_subvolume_of_a_stream_has_nothing_of_the_one_before() {
    let bytes = stream(2, |writer| {
        for _ in 0..2 {
            let attributes = [(AttributeCode::PATH, Value::Bytes(b"s")), (AttributeCode::UUID, Value::Uuid(OWN))];
            writer.command(CommandCode::SUBVOL, &attributes)?;
            (0..9).try_for_each(|number| Op::MakeFifo(format!("f{number}")).write(writer))?;
        }
        Op::Write(text("f9")).write(writer)
    });
    for memory in [Memory::Unlimited, Memory::Keeping(3)] {
        assert_eq!(memory.replay().first_rejected(&bytes).map(|found| found.path), Some(b"f9".to_vec()));
    }
}

#[test]
fn a_store_that_fails_is_told_of_and_let_go() {
    let ops: Vec<Op> = (0..40).map(|number| Op::MakeFile(format!("f{number}"))).collect();
    let bytes = stream_of(true, &ops);
    let alive = Arc::default();
    let store = Kept { values: BTreeMap::new(), calls_left: 30, _alive: Arc::clone(&alive) };
    let mut replay = Replay::new(6, Some(Box::new(store)));
    assert_eq!(replay.first_rejected(&bytes), None);
    assert_eq!(replay.forgotten_because(), Some("the store fails"));
    assert_eq!(Arc::strong_count(&alive), 1);
}

/// Names, each with the number of its file and whether that is a directory, and what POSIX says of them.
#[derive(Debug, Default)]
struct Model {
    names: BTreeMap<String, (usize, bool)>,
    made: usize,
}

impl Model {
    fn kind(&self, path: &str) -> Option<bool> {
        self.names.get(path).map(|(_, is_directory)| *is_directory)
    }

    fn has_parent(&self, path: &str) -> bool {
        path.rsplit_once('/').is_none_or(|(parent, _)| self.kind(parent) == Some(true))
    }

    fn is_empty(&self, path: &str) -> bool {
        !self.names.keys().any(|name| name.starts_with(&format!("{path}/")))
    }

    fn make(&mut self, path: &str, is_directory: bool) -> bool {
        self.made += 1;
        let possible = self.has_parent(path) && self.kind(path).is_none();
        if possible {
            self.names.insert(text(path), (self.made, is_directory));
        }
        possible
    }

    /// Does it, if it is possible.
    fn act(&mut self, op: &Op) -> bool {
        match op {
            Op::MakeFile(path) => self.kind(path) == Some(false) || self.make(path, false),
            Op::MakeFifo(path) => self.make(path, false),
            Op::MakeDirectory(path) => self.make(path, true),
            Op::Rename(from, to) => self.rename(from, to),
            Op::Link(path, existing) => {
                let possible = self.kind(existing) == Some(false) && self.make(path, false);
                if possible {
                    self.names.insert(path.clone(), self.names[existing]);
                }
                possible
            }
            Op::Unlink(path) => self.kind(path) == Some(false) && self.names.remove(path).is_some(),
            Op::RemoveDirectory(path) => {
                self.kind(path) == Some(true) && self.is_empty(path) && self.names.remove(path).is_some()
            }
            Op::Write(path) => self.kind(path) == Some(false),
            Op::Clone(path, from) => self.kind(path) == Some(false) && self.kind(from) == Some(false),
            Op::SetMode(path) => self.kind(path).is_some(),
        }
    }

    fn rename(&mut self, from: &str, to: &str) -> bool {
        let Some(moved) = self.names.get(from).copied() else { return false };
        let replaced = self.names.get(to).copied();
        if from == to || replaced == Some(moved) {
            return true;
        }
        let fits = replaced.is_none_or(|(_, is_directory)| is_directory == moved.1) && self.is_empty(to);
        if !fits || !self.has_parent(to) || to.starts_with(&format!("{from}/")) {
            return false;
        }
        let inside = format!("{from}/");
        let names = std::mem::take(&mut self.names);
        self.names = names
            .into_iter()
            .filter(|(name, _)| name != from && name != to)
            .map(|(name, file)| (name.strip_prefix(&inside).map_or(name.clone(), |rest| format!("{to}/{rest}")), file))
            .collect();
        self.names.insert(text(to), moved);
        true
    }
}

fn first_impossible(ops: &[Op]) -> Option<usize> {
    let mut model = Model::default();
    ops.iter().position(|op| !model.act(op))
}

fn any_path() -> impl Strategy<Value = String> {
    let depth = prop_oneof![4 => Just(1), 2 => Just(2), 1 => Just(3)];
    let parts = depth.prop_flat_map(|depth| vec(prop::sample::select(vec!["a", "b", "c"]), depth));
    parts.prop_map(|parts| parts.join("/"))
}

fn any_op() -> impl Strategy<Value = Op> {
    let path = any_path;
    let two = || (any_path(), any_path());
    prop_oneof![
        3 => path().prop_map(Op::MakeFile),
        1 => path().prop_map(Op::MakeFifo),
        3 => path().prop_map(Op::MakeDirectory),
        4 => two().prop_map(|(from, to)| Op::Rename(from, to)),
        3 => two().prop_map(|(path, existing)| Op::Link(path, existing)),
        2 => path().prop_map(Op::Unlink),
        1 => path().prop_map(Op::RemoveDirectory),
        1 => path().prop_map(Op::Write),
        1 => two().prop_map(|(path, from)| Op::Clone(path, from)),
        1 => path().prop_map(Op::SetMode),
    ]
}

/// Commands of which most can be done: those that cannot are mostly left out.
fn any_ops() -> impl Strategy<Value = Vec<Op>> {
    vec((any_op(), 0..150u8), 0..150).prop_map(|ops| {
        let mut model = Model::default();
        ops.into_iter().filter(|(op, keep)| model.act(op) || *keep == 0).map(|(op, _)| op).collect()
    })
}

/// The same without those after which a file may have two names, as far as the replay knows: links, and moves of one file
/// over another.
fn unambiguous_ops() -> impl Strategy<Value = Vec<Op>> {
    any_ops().prop_map(|ops| {
        let mut model = Model::default();
        let is_unambiguous = |op: &Op| {
            let ambiguous = match op {
                Op::Link(..) => true,
                Op::Rename(_, to) => model.kind(to) == Some(false),
                _ => false,
            };
            if !ambiguous {
                model.act(op);
            }
            !ambiguous
        };
        ops.into_iter().filter(is_unambiguous).collect()
    })
}

fn any_memory() -> impl Strategy<Value = Memory> {
    prop_oneof![
        Just(Memory::Unlimited),
        (0..12usize).prop_map(Memory::Forgetting),
        (0..12usize).prop_map(Memory::Keeping),
        (0..12usize, 0..200usize).prop_map(|(at_most, calls)| Memory::Failing(at_most, calls)),
    ]
}

proptest! {
    #[test]
    fn exactly_what_cannot_be_done_is_rejected(ops in unambiguous_ops()) {
        let found = rejected(true, &ops, Memory::Unlimited).map(|found| found.0);
        prop_assert_eq!(found, first_impossible(&ops));
    }

    #[test]
    fn what_does_not_fit_into_memory_is_known_all_the_same(ops in any_ops(), whole: bool, at_most in 0..12usize) {
        let in_memory = rejected(whole, &ops, Memory::Unlimited);
        prop_assert_eq!(rejected(whole, &ops, Memory::Keeping(at_most)), in_memory);
    }

    #[test]
    fn nothing_is_rejected_that_can_be_done(ops in any_ops(), memory in any_memory()) {
        let found = rejected(true, &ops, memory).map(|found| found.0);
        let impossible = first_impossible(&ops);
        prop_assert!(found.is_none_or(|found| impossible.is_some_and(|number| number <= found)), "{found:?} {impossible:?}");
    }

    #[test]
    fn nothing_is_rejected_of_an_increment_that_can_be_done(ops in any_ops(), cut in 0..60usize) {
        // What came before the cut is the parent's.
        let possible = &ops[..first_impossible(&ops).unwrap_or(ops.len())];
        let increment = &possible[cut.min(possible.len())..];
        prop_assert_eq!(rejected(false, increment, Memory::Unlimited), None);
    }
}
