//! Backups that are killed, and what must hold after each kill.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::points::{Deck, Ending, Point, Random};
use super::spoil::{Spoil, copy};
use super::traces::{Reached, Tally, Traces, leftovers, objects};
use crate::support::tool::{Backup, Tool};

/// What is backed up.
pub(super) trait Source {
    /// Makes the next version of it.
    fn change(&mut self);
    /// The program that backs up what there is now.
    fn backup(&self, tool: &Tool) -> Command;
    /// Its standard input.
    fn stdin(&self) -> Stdio;
    /// The stream that has to come back, where it is known beforehand.
    fn stream(&self) -> Option<Vec<u8>>;
}

/// Where runs are killed, and where they have been.
pub(super) struct Plan {
    pub(super) random: Random,
    pub(super) deck: Deck,
    pub(super) tally: Tally,
}

impl Plan {
    pub(super) fn new(seed: u64, points: Vec<Point>) -> Self {
        Self { random: Random::new(seed), deck: Deck::new(points), tally: Tally::default() }
    }
}

/// A repository, and a host whose runs are killed.
pub(super) struct World<S> {
    tool: Tool,
    source: S,
    /// How long a whole run takes.
    whole: Duration,
    /// All that was published, with its stream.
    published: Vec<(Backup, Vec<u8>)>,
    /// What the last whole run with as much new data has stored in data packs.
    packs_bytes: u64,
}

impl<S: Source> World<S> {
    /// One backup is there.
    pub(super) fn new(tool: Tool, source: S) -> Self {
        let mut world = Self { tool, source, whole: Duration::ZERO, published: Vec::new(), packs_bytes: 0 };
        let start = Instant::now();
        world.source.change();
        world.converge();
        world.whole = start.elapsed();
        world.packs_bytes = world.data_packs_bytes();
        copy(&world.tool.state(), &world.older_state());
        world
    }

    pub(super) fn published(&self) -> &[(Backup, Vec<u8>)] {
        &self.published
    }

    pub(super) fn source(&self) -> &S {
        &self.source
    }

    pub(super) fn tool(&self) -> &Tool {
        &self.tool
    }

    /// Kills one to three backups of a new version, checks after each, and runs it to its end.
    pub(super) fn night(&mut self, plan: &mut Plan) {
        self.source.change();
        let mut reached = Reached::Nothing;
        for _ in 0..=plan.random.below(3) {
            reached = reached.max(self.kill(plan));
            self.check();
        }
        let before = self.data_packs_bytes();
        self.converge();
        let stored = self.data_packs_bytes() - before;
        if reached >= Reached::Segment {
            assert_eq!(stored, 0, "all packs were in a segment of a run that has reached {reached:?}");
        }
        // Nothing of this size has two segments, so all of it may be in flight.
        assert!(stored * 10 <= self.packs_bytes * 11, "{stored} bytes stored after {reached:?}");
    }

    /// Starts a backup and kills it somewhere; then something may happen to the host's state.
    fn kill(&mut self, plan: &mut Plan) -> Reached {
        let point = plan.deck.draw(&mut plan.random);
        let before = objects(&self.tool.repository());
        let ending = point.run(&self.tool, self.source.backup(&self.tool), self.source.stdin(), self.whole);
        let traces = Traces::of(&before, &self.tool.repository(), &self.tool.state());
        match ending {
            Ending::Killed => plan.tally.add(&traces),
            Ending::Done => plan.tally.missed += 1,
        }
        self.note_published(traces.reached);
        Spoil::choose(&mut plan.random).apply(&self.tool.state(), &self.older_state());
        traces.reached
    }

    /// The list has the backup of a run that was killed exactly if it had put its session's end.
    #[track_caller]
    fn note_published(&mut self, reached: Reached) {
        let mut listed = self.tool.list();
        let is_new = reached == Reached::End;
        assert_eq!(listed.len(), self.published.len() + usize::from(is_new), "after {reached:?}: {listed:?}");
        if is_new {
            let newest = listed.pop().unwrap();
            self.note(newest);
        }
    }

    fn note(&mut self, backup: Backup) {
        let restored = self.tool.restore_stream(&backup.id);
        if let Some(expected) = self.source.stream() {
            assert!(restored == expected, "backup {} is of {} bytes", backup.id, restored.len());
        }
        self.published.push((backup, restored));
    }

    /// Every backup is listed and comes back.
    #[track_caller]
    fn check(&self) {
        let published: Vec<_> = self.published.iter().map(|(backup, _)| backup.clone()).collect();
        assert_eq!(self.tool.list(), published);
        for (backup, stream) in &self.published {
            assert!(self.tool.restore_stream(&backup.id) == *stream, "backup {} has changed", backup.id);
        }
    }

    /// Runs the backup to its end, without any cleaning up before; nothing of the killed ones is left then.
    #[track_caller]
    fn converge(&mut self) {
        let backup = self.source.backup(&self.tool).stdin(self.source.stdin()).output().unwrap();
        crate::support::process::Ended::from(backup).assert_code(0);
        let repository = self.tool.repository();
        assert_eq!(leftovers(&repository, &self.tool.state()), []);
        assert_eq!(open_sessions(&objects(&repository)), Vec::<PathBuf>::new());
        self.note_published(Reached::End);
    }

    fn data_packs_bytes(&self) -> u64 {
        crate::support::tree::total_bytes(&self.tool.repository().join("data"))
    }

    fn older_state(&self) -> PathBuf {
        self.tool.folder().join("older-state")
    }
}

/// The folders of sessions without an end.
fn open_sessions(objects: &BTreeSet<PathBuf>) -> Vec<PathBuf> {
    let starts = objects.iter().filter(|path| path.starts_with("sessions") && path.ends_with("start"));
    let folders = starts.filter_map(|path| path.parent()).map(PathBuf::from);
    folders.filter(|folder| !objects.contains(&folder.join("end"))).collect()
}
