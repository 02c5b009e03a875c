//! What a killed run has left, which tells where it was.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display};
use std::path::{Path, PathBuf};

use crate::support::tree::files;

/// How far a killed backup had come: the last of these that is true.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reached {
    Nothing,
    /// It has ended the session of an earlier killed run.
    EarlierEnded,
    Session,
    Packs,
    Segment,
    Manifest,
    /// The session's end: the backup exists.
    End,
}

/// What a killed backup has left besides objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Unfinished {
    EmptyObject,
    Object,
    LocalIndex,
    Record,
}

/// What there was and what is there now, of a repository and a host's state.
#[derive(Debug)]
pub(super) struct Traces {
    pub(super) reached: Reached,
    pub(super) unfinished: BTreeSet<Unfinished>,
}

/// The objects of a repository, as paths below it. Without temporary files.
pub(super) fn objects(repository: &Path) -> BTreeSet<PathBuf> {
    let below = |path: PathBuf| path.strip_prefix(repository).unwrap().to_owned();
    files(repository).into_iter().map(below).filter(|path| !path.starts_with("tmp")).collect()
}

/// Files that a run makes and does not leave if it comes to its end.
pub(super) fn leftovers(repository: &Path, state: &Path) -> Vec<(Unfinished, PathBuf)> {
    let temporary = files(&repository.join("tmp")).into_iter().map(|path| {
        let is_empty = std::fs::metadata(&path).unwrap().len() == 0;
        (if is_empty { Unfinished::EmptyObject } else { Unfinished::Object }, path)
    });
    let local = if state.exists() { files(state) } else { Vec::new() };
    let unfinished = local.into_iter().filter_map(|path| match path.extension()?.to_str()? {
        "tmp" => Some((Unfinished::LocalIndex, path)),
        "new" => Some((Unfinished::Record, path)),
        _ => None,
    });
    temporary.chain(unfinished).collect()
}

impl Traces {
    pub(super) fn of(before: &BTreeSet<PathBuf>, repository: &Path, state: &Path) -> Self {
        let after = objects(repository);
        let new: Vec<&Path> = after.difference(before).map(PathBuf::as_path).collect();
        let some_in = |folder: &str| new.iter().any(|path| path.starts_with(folder));
        let ended = |manifest: &Path| after.contains(&Path::new("sessions").join(manifest).join("end"));
        let mut manifests = new.iter().filter_map(|path| path.strip_prefix("manifests").ok());
        let reached = match manifests.next() {
            Some(manifest) if ended(manifest) => Reached::End,
            Some(_) => Reached::Manifest,
            None if some_in("index") => Reached::Segment,
            None if some_in("data") || some_in("meta") => Reached::Packs,
            None if new.iter().any(|path| path.ends_with("start")) => Reached::Session,
            None if !new.is_empty() => Reached::EarlierEnded,
            None => Reached::Nothing,
        };
        let unfinished = leftovers(repository, state).into_iter().map(|(kind, _)| kind).collect();
        Self { reached, unfinished }
    }
}

/// How often each place was hit.
#[derive(Debug, Default)]
pub(super) struct Tally {
    reached: BTreeMap<Reached, u32>,
    unfinished: BTreeMap<Unfinished, u32>,
    pub(super) kills: u32,
    /// Runs that came to their end before they could be killed.
    pub(super) missed: u32,
}

impl Tally {
    pub(super) fn add(&mut self, traces: &Traces) {
        self.kills += 1;
        *self.reached.entry(traces.reached).or_default() += 1;
        for kind in &traces.unfinished {
            *self.unfinished.entry(*kind).or_default() += 1;
        }
    }

    /// Fails unless each of these was hit at least so often.
    #[track_caller]
    pub(super) fn assert_hit(&self, reached: &[Reached], unfinished: &[Unfinished], least: u32) {
        let seldom = reached.iter().filter(|place| self.reached.get(place).is_none_or(|count| *count < least));
        assert_eq!(seldom.collect::<Vec<_>>(), [&Reached::Nothing; 0], "{self}");
        let seldom = unfinished.iter().filter(|place| self.unfinished.get(place).is_none_or(|count| *count < least));
        assert_eq!(seldom.collect::<Vec<_>>(), [&Unfinished::Object; 0], "{self}");
    }
}

impl Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:4} kills, {} runs were done before theirs", self.kills, self.missed)?;
        for (place, count) in &self.reached {
            writeln!(f, "{count:4} had reached {place:?}")?;
        }
        for (place, count) in &self.unfinished {
            writeln!(f, "{count:4} left unfinished {place:?}")?;
        }
        Ok(())
    }
}
