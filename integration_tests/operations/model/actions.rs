//! What can happen next: one function for each.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use btrfs_to_s3::clock::Clock;
use btrfs_to_s3::id::SessionId;
use btrfs_to_s3::object::{ObjectKind, encode_record};
use btrfs_to_s3::records::session::{Outcome, SessionEvent, SessionRecord};
use btrfs_to_s3::repository::layout;
use btrfs_to_s3::store::{Key, ObjectStore, Tier};
use bytes::Bytes;
use jiff::SignedDuration;

use crate::model::board::{Request, RunId, Waiting};
use crate::model::checks::{Checked, Invariant, ensure};
use crate::model::events::Event;
use crate::model::faults::{Fate, Late};
use crate::model::quiet::Task;
use crate::model::runs::{Client, Mark, Memory, Plan, Report, Run, Told};
use crate::model::schedule::{REPOSITORY, Schedule};
use crate::samples::random_bytes;

/// Prune may give up a session when its newest object is as old as this.
const VOID_AFTER: SignedDuration = SignedDuration::from_hours(30 * 24);
/// Contents that hosts have in common.
const SHARED_FILES: usize = 6;

/// What happens next.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Action {
    BackUp(usize),
    Restore(usize),
    List(usize),
    /// A request of a run has its turn.
    Serve(RunId),
    Kill(RunId),
    Suspend(RunId),
    Resume(RunId),
    /// A host goes on from a copy of itself, while its run does so too.
    CopyHost(RunId),
    /// A `PUT` that was under way has its effect.
    Land,
    KeepMemory(usize),
    ReplaceMemory(usize, Memory),
    SetClock(usize),
    PassTime,
    /// Prune gives up a session that is long dead.
    Void(SessionId),
    /// A prune is announced.
    PlanPrune,
    /// It deletes what sessions have stored that were given up.
    Prune,
    LosePack,
}

/// A prune that has been announced.
pub(crate) struct Prune {
    plan: Key,
    waits_for: BTreeSet<SessionId>,
}

impl Schedule {
    /// Draws what happens next; nothing if all runs have come to their end.
    pub(crate) fn choose(&mut self) -> Option<Action> {
        let mut choices = self.choices_for_runs();
        if self.to_begin > 0 {
            choices.extend(self.choices_for_idle_hosts());
        }
        if choices.is_empty() {
            return None;
        }
        if !self.late.is_empty() {
            choices.push((25, Action::Land));
        }
        choices.push((3, Action::PassTime));
        choices.push((2, Action::SetClock(self.dice.below(self.machines.len()))));
        if let Some(session) = self.truth.older_than(self.world.now() - VOID_AFTER) {
            choices.push((40, Action::Void(session)));
        }
        if self.prune_can_go_on() {
            choices.push((40, Action::Prune));
        } else if self.prune.is_none() && self.truth.has_void_objects() {
            choices.push((10, Action::PlanPrune));
        }
        if self.roughness.loses_packs && self.truth.packs_lost < 2 && !self.truth.packs.is_empty() {
            choices.push((1, Action::LosePack));
        }
        Some(self.dice.pick_weighted(choices))
    }

    /// At its commit, a run is slow and accidents are likely: that is where they matter most.
    fn choices_for_runs(&self) -> Vec<(usize, Action)> {
        let mut choices = Vec::new();
        let rough = &self.roughness;
        for run in self.runs.values() {
            if run.is_suspended {
                choices.push((2, Action::Resume(run.id)));
                continue;
            }
            let commits = run.is_backup && self.phase(run.id) == Event::KilledAtTheCommit;
            let (requests, accidents) = if commits { (150, 5) } else { (400, 1) };
            let is_slow = run.has(Mark::LeftBehind);
            choices.push((if is_slow { requests / 4 } else { requests }, Action::Serve(run.id)));
            choices.push((accidents * rough.kills, Action::Kill(run.id)));
            choices.push((accidents * rough.suspensions, Action::Suspend(run.id)));
            if run.is_backup && !is_slow {
                choices.push((accidents * rough.copied_hosts, Action::CopyHost(run.id)));
            }
        }
        choices
    }

    fn choices_for_idle_hosts(&self) -> Vec<(usize, Action)> {
        let mut choices = Vec::new();
        let idle = |host: &usize| self.machines[*host].running.is_none();
        for host in (0..self.machines.len()).filter(idle) {
            // The next run of a host that was copied ends the session of the one that was left behind.
            let left_behind = self.runs.values().any(|run| run.host == host && run.has(Mark::LeftBehind));
            choices.push((if left_behind { 100 } else { 20 }, Action::BackUp(host)));
            if !self.truth.published.is_empty() {
                choices.push((5, Action::Restore(host)));
                choices.push((3, Action::List(host)));
                choices.push((4, Action::KeepMemory(host)));
                for memory in [Memory::Lost, Memory::Old, Memory::Foreign] {
                    choices.push((2, Action::ReplaceMemory(host, memory)));
                }
            }
        }
        choices
    }

    pub(crate) async fn perform(&mut self, action: Action) -> Checked {
        if !matches!(action, Action::Serve(_)) {
            self.note(format!("{action:?}"));
        }
        match action {
            Action::BackUp(host) => self.begin_backup(host),
            Action::Restore(host) => self.begin_restore(host),
            Action::List(host) => self.begin(host, false, |client| Task::new(client.list())),
            Action::Serve(run) => self.serve(run).await?,
            Action::Kill(run) => self.kill(run),
            Action::Suspend(run) => self.suspend(run).await,
            Action::Resume(run) => self.runs.get_mut(&run).unwrap().is_suspended = false,
            Action::CopyHost(run) => self.copy_host(run),
            Action::Land => self.land().await?,
            Action::KeepMemory(host) => self.machines[host].keep_copy(),
            Action::ReplaceMemory(host, memory) => self.replace_memory(host, memory),
            Action::SetClock(host) => self.set_clock(host),
            Action::PassTime => {
                let hours = self.dice.pick(&[1, 5, 24, 24 * 7]);
                self.pass_time(Duration::from_hours(hours)).await;
            }
            Action::Void(session) => self.void(session).await?,
            Action::PlanPrune => self.plan_prune().await,
            Action::Prune => self.prune().await?,
            Action::LosePack => self.lose_pack().await,
        }
        Ok(())
    }

    fn begin(&mut self, host: usize, is_backup: bool, start: impl FnOnce(Client) -> Task<Report>) {
        let (id, told) = (self.begun, Arc::new(Told::default()));
        self.begun += 1;
        self.to_begin = self.to_begin.saturating_sub(1);
        let machine = &mut self.machines[host];
        let client = Client::new(&self.shared, machine, id, &told, self.truth.packs_lost);
        machine.running = Some(id);
        let overlaps = is_backup && self.runs.values().any(|run| run.is_backup);
        let marks = [(Mark::Overlaps, overlaps), (Mark::MetPrune, self.prune.is_some())];
        let marks = marks.into_iter().filter_map(|(mark, holds)| holds.then_some(mark)).collect();
        let run = Run {
            id,
            host,
            is_backup,
            task: start(client),
            told,
            faults: 0,
            outage: 0,
            is_suspended: false,
            marks,
            published_before: self.truth.published_ids(),
        };
        self.runs.insert(id, run);
    }

    fn begin_backup(&mut self, host: usize) {
        let event = match self.machines[host].memory {
            Memory::Own => None,
            Memory::Lost => Some(Event::CacheLost),
            Memory::Old => Some(Event::CacheOld),
            Memory::Foreign => Some(Event::CacheForeign),
        };
        if let Some(event) = event {
            self.events.count(event);
        }
        self.machines[host].memory = Memory::Own;
        let shared_files = (0..=self.dice.below(2)).map(|_| self.dice.below(SHARED_FILES));
        let mut files: Vec<Vec<u8>> = shared_files.map(|file| random_bytes(file as u64, 700 + 600 * file)).collect();
        if self.dice.per_mille(600) {
            let length = 200 + self.dice.below(4000);
            files.push(random_bytes(1000 + self.begun as u64, length));
        }
        let plan = Plan {
            subvolume: self.dice.pick(&["home", "data"]),
            number: u8::try_from(self.begun % 250).unwrap() + 1,
            files,
            incremental: self.dice.per_mille(500),
        };
        self.begin(host, true, |client| Task::new(client.back_up(plan)));
    }

    fn begin_restore(&mut self, host: usize) {
        let whole = self.truth.published.iter().filter(|(_, backup)| !backup.is_damaged);
        let ids: Vec<_> = whole.map(|(id, _)| *id).collect();
        if !ids.is_empty() {
            let id = self.dice.pick(&ids);
            self.begin(host, false, |client| Task::new(client.restore(id)));
        }
    }

    /// Gives a request of a run its turn.
    async fn serve(&mut self, run: RunId) -> Checked {
        let number = self.dice.below(8);
        let waiting = self.shared.board.take(run, number);
        let state = self.runs.get_mut(&run).unwrap();
        if self.roughness.faults > 0 && self.dice.per_mille(self.roughness.faults / 10) {
            state.outage = 2 + self.dice.below(30);
        }
        let in_outage = state.outage > 0;
        state.outage = state.outage.saturating_sub(1);
        let fate = self.roughness.fate(&mut self.dice, &waiting.request, in_outage);
        state.faults += usize::from(fate != Fate::Answer);
        self.trace.push(format!("run {run} of {}: {} {fate:?}", self.machines[state.host].name, waiting.request));
        self.meet(run, waiting, fate).await
    }

    async fn meet(&mut self, run: RunId, waiting: Waiting, fate: Fate) -> Checked {
        let request = waiting.request.clone();
        let is_commit =
            matches!(&request, Request::Put(key, ..) if key.as_str().ends_with("/end") && self.has_manifest(run));
        let deletes = matches!(request, Request::Delete(_));
        ensure(Invariant::NothingIsDeleted, !deletes, || format!("run {run}: {request}"))?;
        let mut reply = Err(request.failure(fate.kind(), &format!("{fate:?}")));
        match fate {
            Fate::Answer => reply = self.perform_request(run, &request).await?,
            Fate::LoseReply => {
                drop(self.perform_request(run, &request).await?);
                self.events.count(if is_commit { Event::ReplyOfTheCommitLost } else { Event::ReplyLost });
            }
            Fate::FailBefore | Fate::Refuse => self.events.count(Event::FailedBeforeItsEffect),
            Fate::Delay => {
                self.events.count(if is_commit { Event::CommitDelayed } else { Event::Delayed });
                if matches!(request, Request::Put(..)) {
                    self.late.push(Late { run, request });
                }
            }
        }
        waiting.answer(reply);
        Ok(())
    }

    fn has_manifest(&self, run: RunId) -> bool {
        let session = self.truth.session_of_run.get(&run).and_then(|session| self.truth.sessions.get(session));
        session.is_some_and(|session| session.has_manifest)
    }

    fn kill(&mut self, run: RunId) {
        let event = self.phase(run);
        self.events.count(event);
        let run = self.runs.remove(&run).unwrap();
        self.let_go(&run);
    }

    /// The host of a run is free for another.
    pub(crate) fn let_go(&mut self, run: &Run) {
        let running = &mut self.machines[run.host].running;
        if *running == Some(run.id) {
            *running = None;
        }
    }

    fn phase(&self, run: RunId) -> Event {
        let puts = self.shared.board.put_targets(run);
        let puts_at = |part: &str| puts.iter().any(|key| key.as_str().contains(part));
        if !self.runs[&run].is_backup {
            Event::KilledRestore
        } else if puts_at("/end") && self.has_manifest(run) {
            Event::KilledAtTheCommit
        } else if puts_at(layout::MANIFESTS) {
            Event::KilledAtTheManifest
        } else if puts_at(layout::SEGMENTS) {
            Event::KilledAtASegment
        } else if puts_at("data/") || puts_at("meta/") {
            Event::KilledAtAPack
        } else if self.truth.session_of_run.contains_key(&run) {
            Event::KilledWhileLooking
        } else {
            Event::KilledBeforeAnnouncing
        }
    }

    async fn suspend(&mut self, run: RunId) {
        let state = self.runs.get_mut(&run).unwrap();
        state.is_suspended = true;
        state.marks.insert(Mark::WasSuspended);
        let weeks = 1 + self.dice.below(7) as u64;
        self.pass_time(Duration::from_hours(24 * 7 * weeks)).await;
    }

    fn copy_host(&mut self, run: RunId) {
        let state = self.runs.get_mut(&run).unwrap();
        state.marks.insert(Mark::LeftBehind);
        let machine = &mut self.machines[state.host];
        let folder = machine.folder.clone();
        machine.replace_memory(machine.memory, Some(&folder));
        machine.running = None;
        self.events.count(Event::RunOfACopiedHost);
    }

    async fn land(&mut self) -> Checked {
        let number = self.dice.below(self.late.len());
        let Late { run, request } = self.late.remove(number);
        self.note(format!("{request} of run {run} has its effect"));
        self.events.count(Event::LandedLate);
        let session = self.truth.session_of_run.get(&run);
        let end = session.and_then(|session| self.truth.sessions[session].end);
        let is_end = request.target().ends_with("/end");
        match end {
            Some((_, by)) if is_end && by != Some(run) => self.events.count(Event::EndLandedAfterThatOfAnother),
            Some(_) if is_end => self.events.count(Event::EndLandedAfterAnEnd),
            Some(_) => self.events.count(Event::LandedAfterTheEnd),
            None => {}
        }
        self.perform_request(run, &request).await.map(drop)
    }

    fn replace_memory(&mut self, host: usize, memory: Memory) {
        let other = (host + 1 + self.dice.below(2)) % self.machines.len();
        let from = match memory {
            Memory::Lost | Memory::Own => None,
            Memory::Old => self.machines[host].copy.clone(),
            Memory::Foreign => Some(self.machines[other].folder.clone()),
        };
        if memory == Memory::Lost || from.is_some() {
            self.machines[host].replace_memory(memory, from.as_deref());
        }
    }

    fn set_clock(&mut self, host: usize) {
        let offset_seconds = self.dice.pick(&[-400 * 24 * 3600, -7 * 3600, -60, 0, 3 * 3600, 3000 * 24 * 3600]);
        if self.machines[host].clock.set(offset_seconds) {
            self.events.count(Event::ClockSetBack);
        }
    }

    async fn void(&mut self, session: SessionId) -> Checked {
        let record = SessionRecord {
            session,
            event: SessionEvent::End,
            number: 0,
            at: self.world.now(),
            start: None,
            outcome: Some(Outcome::Void),
            manifest_digest: None,
        };
        let (key, body) =
            (layout::session_end_key(&session), Bytes::from(encode_record(ObjectKind::Session, REPOSITORY, &record)));
        self.memory.put(&key, body.clone(), Tier::Metadata).await.unwrap();
        self.stored(None, &key, &body).await?;
        self.events.count(Event::SessionVoided);
        Ok(())
    }

    /// Announces a prune. It waits for the sessions that are open then: they may have looked before they could see it.
    async fn plan_prune(&mut self) {
        let plan = Key::new(format!("{}{REPOSITORY}/plan", layout::PRUNE)).unwrap();
        self.memory.put(&plan, Bytes::from_static(b"a plan"), Tier::Metadata).await.unwrap();
        self.prune = Some(Prune { plan, waits_for: self.truth.open() });
        for run in self.runs.values_mut() {
            run.marks.insert(Mark::MetPrune);
        }
    }

    fn prune_can_go_on(&self) -> bool {
        self.prune.as_ref().is_some_and(|prune| prune.waits_for.is_disjoint(&self.truth.open()))
    }

    /// Deletes what void sessions have stored, and ends the prune.
    async fn prune(&mut self) -> Checked {
        let objects = self.truth.take_void_objects();
        for key in &objects {
            self.delete(key).await;
        }
        if !objects.is_empty() {
            self.events.count(Event::Pruned);
        }
        self.end_prune().await;
        self.restore_those_that_used(&objects).await
    }

    pub(crate) async fn end_prune(&mut self) {
        if let Some(prune) = self.prune.take() {
            self.memory.delete(&prune.plan).await.unwrap();
        }
    }

    async fn delete(&mut self, key: &Key) {
        // It may have been lost before.
        drop(self.memory.delete(key).await);
        self.truth.packs.remove(key);
    }

    /// Loses a pack. What needs it is damaged; what begins after that must not build on it.
    async fn lose_pack(&mut self) {
        let packs: Vec<Key> = self.truth.packs.keys().cloned().collect();
        let pack = packs[self.dice.below(packs.len())].clone();
        self.delete(&pack).await;
        self.truth.packs_lost += 1;
        self.events.count(Event::PackLost);
        for backup in self.truth.published.values_mut() {
            backup.is_damaged |= backup.packs.contains(&pack);
        }
    }
}
