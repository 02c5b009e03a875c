//! One schedule: what is done next is drawn from its seed, done, and followed by the checks.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use btrfs_to_s3::chunker::ChunkerParameters;
use btrfs_to_s3::clock::Clock;
use btrfs_to_s3::id::{RepositoryId, SessionId};
use btrfs_to_s3::object::{ObjectKind, encode_record};
use btrfs_to_s3::records::config::RepositoryConfig;
use btrfs_to_s3::repository::layout;
use btrfs_to_s3::store::memory::MemoryStore;
use btrfs_to_s3::store::{Key, ObjectStore, PutOutcome, StoreError, StoreErrorKind, Tier};
use bytes::Bytes;
use jiff::SignedDuration;
use tempfile::TempDir;

use crate::model::actions::Action;
use crate::model::board::{Board, Reply, Request, RunId, Waiting};
use crate::model::checks::{Checked, Invariant, Violation, Visitor, check_packs, ensure};
use crate::model::dice::{Dice, SeededIds};
use crate::model::events::{Event, Events};
use crate::model::faults::{Late, Roughness};
use crate::model::garbage::check_no_garbage;
use crate::model::quiet::{Readers, runtime, settle};
use crate::model::runs::{Machine, Run, Shared, WorldClock};
use crate::model::truth::{Backup, Session, Truth, is_of_table, is_pack};

pub(crate) const REPOSITORY: RepositoryId = RepositoryId::from_bytes([0x11; 16]);
/// A schedule that is not over after so many steps never ends.
const STEPS_MAX: usize = 20_000;

/// A schedule that is under way.
pub(crate) struct Schedule {
    pub(crate) dice: Dice,
    pub(crate) roughness: Roughness,
    pub(crate) memory: Arc<MemoryStore>,
    pub(crate) world: Arc<WorldClock>,
    pub(crate) shared: Shared,
    pub(crate) machines: Vec<Machine>,
    pub(crate) runs: BTreeMap<RunId, Run>,
    pub(crate) late: Vec<Late>,
    /// Forgotten backups stay for so long.
    pub(crate) grace: SignedDuration,
    pub(crate) truth: Truth,
    pub(crate) events: Events,
    pub(crate) trace: Vec<String>,
    /// Runs that have begun.
    pub(crate) begun: usize,
    /// Runs that are still to begin.
    pub(crate) to_begin: usize,
    /// Nothing else goes on any more.
    pub(crate) is_winding_up: bool,
    /// Something that a listing shows has changed.
    pub(crate) listing_changed: bool,
    _folder: TempDir,
}

/// What has become of a schedule.
#[derive(Debug)]
pub(crate) struct Played {
    pub(crate) seed: u64,
    pub(crate) events: Events,
    pub(crate) trace: Vec<String>,
    pub(crate) checked: Checked,
}

/// A folder in memory, where there is one: the local index syncs its files.
fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.unwrap()
}

impl Schedule {
    async fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let (roughness, world, folder) = (Roughness::draw(&mut dice), WorldClock::new(), folder());
        let clock = Arc::clone(&world) as Arc<dyn Clock>;
        let memory = MemoryStore::new(clock).with_page_size(roughness.page_objects);
        let config = RepositoryConfig::new(world.now(), ChunkerParameters::with_average(1 << 10));
        let body = Bytes::from(encode_record(ObjectKind::Config, REPOSITORY, &config));
        memory.put(&layout::config_key(0), body, Tier::Metadata).await.unwrap();
        let shared = Shared {
            board: Arc::new(Board::default()),
            readers: Arc::new(Readers::default()),
            ids: Arc::new(SeededIds::new(seed)),
            scratch: folder.path().join("scratch"),
            streams: Arc::default(),
        };
        let machines = ["one", "two", "three"].map(|name| Machine::new(name, folder.path(), &world)).into();
        Self {
            to_begin: 6 + dice.below(7),
            grace: SignedDuration::from_hours(dice.pick(&[0, 0, 7 * 24])),
            dice,
            roughness,
            memory: Arc::new(memory),
            world,
            shared,
            machines,
            runs: BTreeMap::new(),
            late: Vec::new(),
            truth: Truth::default(),
            events: Events::default(),
            trace: vec![format!("{roughness:?}")],
            begun: 0,
            is_winding_up: false,
            listing_changed: false,
            _folder: folder,
        }
    }

    /// Plays the schedule of a seed, on a thread made for schedules.
    pub(crate) fn play(seed: u64) -> Played {
        let runtime = runtime();
        let mut schedule = runtime.block_on(Self::new(seed));
        let played = catch_unwind(AssertUnwindSafe(|| runtime.block_on(schedule.play_to_the_end())));
        let checked = played.unwrap_or_else(|panic| {
            let message = panic.downcast_ref::<String>().cloned();
            let detail = message.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(Violation { invariant: Invariant::NothingPanics, detail: detail.unwrap_or_default() })
        });
        Played { seed, events: schedule.events, trace: schedule.trace, checked }
    }

    async fn play_to_the_end(&mut self) -> Checked {
        while let Some(action) = self.choose() {
            self.step(action).await?;
        }
        Box::pin(self.wind_up()).await
    }

    pub(crate) async fn step(&mut self, action: Action) -> Checked {
        assert!(self.trace.len() < STEPS_MAX, "the schedule does not end");
        self.world.pass(1);
        self.perform(action).await?;
        self.settle().await;
        self.take_abandoned();
        self.judge_those_that_ended()?;
        if std::mem::take(&mut self.listing_changed) {
            self.visitor().check_listing(&self.truth).await?;
        }
        Ok(())
    }

    /// Everything that is still to come, then a run of each host without faults, and all checks once more.
    async fn wind_up(&mut self) -> Checked {
        self.note("the end: no more accidents".to_owned());
        self.roughness = Roughness { faults: 0, ..self.roughness };
        let (ends, others) =
            std::mem::take(&mut self.late).into_iter().partition(|late| late.request.target().ends_with("/end"));
        self.late = others;
        self.land_everything().await?;
        for host in 0..self.machines.len() {
            self.step(Action::BackUp(host)).await?;
            let run = self.begun - 1;
            while self.runs.contains_key(&run) {
                self.step(Action::Serve(run)).await?;
            }
        }
        let open = self.truth.open();
        ensure(Invariant::NothingIsLeftOpen, open.is_empty(), || format!("{open:?}"))?;
        self.late = ends;
        self.land_everything().await?;
        self.prune_at_last().await?;
        self.visitor().check_listing(&self.truth).await?;
        let protected = self.truth.protected(self.world.now(), self.grace);
        for (id, backup) in self.truth.published.iter().filter(|(id, _)| protected.contains(id)) {
            if !backup.is_damaged {
                self.visitor().restore(*id, &backup.stream, &self.shared.scratch).await?;
            }
        }
        Ok(())
    }

    /// Forgets some backups, and deletes what nothing needs then: in one run, as nothing else goes on.
    async fn prune_at_last(&mut self) -> Checked {
        self.grace = SignedDuration::ZERO;
        self.is_winding_up = true;
        for id in self.truth.counting_ids() {
            if self.dice.per_mille(400) {
                self.step(Action::Forget(id)).await?;
            }
        }
        for _ in 0..2 {
            self.step(Action::Prune(0)).await?;
            let run = self.begun - 1;
            while self.runs.contains_key(&run) {
                self.step(Action::Serve(run)).await?;
            }
            if self.truth.packs_lost == 0 {
                check_no_garbage(&self.memory, &self.truth.protected(self.world.now(), self.grace)).await?;
            }
        }
        Ok(())
    }

    async fn land_everything(&mut self) -> Checked {
        while !self.late.is_empty() {
            self.step(Action::Land).await?;
        }
        Ok(())
    }

    pub(crate) fn note(&mut self, line: String) {
        self.trace.push(line);
    }

    /// Lets all runs go on until they wait for the store.
    async fn settle(&mut self) {
        let ids: Vec<RunId> = self.runs.keys().copied().collect();
        let mut tasks: Vec<_> = self.runs.values_mut().map(|run| &mut run.task).collect();
        let waits_for_store = |number: usize| self.shared.board.runs().contains(&ids[number]);
        settle(&self.shared.readers, &mut tasks, waits_for_store).await;
    }

    pub(crate) fn visitor(&self) -> Visitor {
        Visitor { memory: Arc::clone(&self.memory), clock: Arc::clone(&self.world) as Arc<dyn Clock> }
    }

    /// Requests of runs that were killed, or that a run does not want any more, may have been on their way already.
    fn take_abandoned(&mut self) {
        for Waiting { run, request, .. } in self.shared.board.take_abandoned() {
            let changes = matches!(request, Request::Put(..) | Request::Delete(_));
            let is_late = changes && self.dice.per_mille(500);
            self.note(format!(
                "run {run} no longer waits for {request}{}",
                if is_late { ", which is under way" } else { "" }
            ));
            if is_late {
                self.late.push(Late { run, request });
            }
        }
    }

    /// Has a request its effect, and takes note of it.
    pub(crate) async fn perform_request(
        &mut self,
        run: RunId,
        request: &Request,
    ) -> Checked<Result<Reply, StoreError>> {
        let mut reply = request.perform(&self.memory).await;
        let conflicts = reply.as_ref().is_err_and(|error| error.kind == StoreErrorKind::Conflict);
        if conflicts && !self.roughness.compares_lengths {
            reply = Ok(Reply::Put(PutOutcome::Exists));
        }
        match (request, &reply) {
            (Request::Put(key, body, _), Ok(Reply::Put(PutOutcome::Stored))) => self.stored(run, key, body).await?,
            (Request::Put(key, ..), _) if self.truth.is_by(key, run) => self.events.count(Event::RetriedPutMetItself),
            (Request::Put(key, ..), Ok(_)) if key.as_str().ends_with("/final") => {
                self.events.count(Event::FinalListMetAnother);
            }
            (Request::Delete(key), Ok(_)) => self.deleted(run, key).await?,
            _ => {}
        }
        Ok(reply)
    }

    /// Takes note of an object that a prune or a repair has deleted.
    async fn deleted(&mut self, run: RunId, key: &Key) -> Checked {
        let may_be_deleted = self.truth.may_be_deleted(key) || self.truth.may_be_replaced(run, key);
        ensure(Invariant::OnlySettledObjectsAreDeleted, may_be_deleted, || key.to_string())?;
        if is_pack(key) && self.truth.repairs.contains_key(&run) {
            self.truth.packs_replaced += 1;
        }
        for (event, prefix) in [
            (Event::PackDeleted, "data/"),
            (Event::PackDeleted, "meta/"),
            (Event::SegmentDeleted, layout::SEGMENTS),
            (Event::ManifestDeleted, layout::MANIFESTS),
        ] {
            if key.as_str().starts_with(prefix) && !is_of_table(key) {
                self.events.count(event);
            }
        }
        self.truth.note_deleted(key);
        self.listing_changed |= key.as_str().starts_with(layout::MANIFESTS);
        self.restore_those_that_used(key).await
    }

    /// Takes note of an object that has just been stored.
    async fn stored(&mut self, run: RunId, key: &Key, body: &Bytes) -> Checked {
        let published = self.truth.note(run, key, body, &mut self.events);
        if let Some(id) = layout::parse_forgotten_key(key) {
            self.truth.forgotten.entry(id).or_insert(self.world.now());
            self.listing_changed = true;
        }
        self.listing_changed |= key.as_str().ends_with("/end") || key.as_str().starts_with(layout::MANIFESTS);
        match published {
            Some(session) => self.published(session, run).await,
            None => Ok(()),
        }
    }

    /// Checks a backup as soon as it exists.
    async fn published(&mut self, session: SessionId, run: RunId) -> Checked {
        ensure(Invariant::ReportsAreTrue, !self.truth.failed.contains(&session), || {
            format!("{session} exists, though its run said that it does not")
        })?;
        let streams = &self.shared.streams;
        let (mut stream, lost_before) =
            streams.lock().unwrap().get(&run).cloned().expect("a run has a stream before it commits");
        let mut is_damaged = self.truth.packs_lost != lost_before;
        let Session { parent, is_unchanged, .. } = self.truth.sessions[&session];
        if let Some(parent) = parent.filter(|_| is_unchanged) {
            let parent = &self.truth.published[&parent];
            stream.clone_from(&parent.stream);
            is_damaged |= parent.is_damaged;
        }
        let mut used = BTreeSet::new();
        if !is_damaged {
            used = self.visitor().restore(session.into(), &stream, &self.shared.scratch).await?;
            check_packs(&self.truth, session, &used)?;
            if used.iter().any(|key| is_pack(key) && self.truth.packs.get(key) != Some(&session)) {
                self.events.count(Event::PacksOfOthersUsed);
            }
        }
        self.truth.published.insert(session.into(), Backup { stream, used, parent, is_damaged });
        Ok(())
    }

    /// Lets time pass for everybody.
    pub(crate) async fn pass_time(&mut self, duration: Duration) {
        self.world.pass(u32::try_from(duration.as_secs()).unwrap());
        tokio::time::advance(duration).await;
    }
}
