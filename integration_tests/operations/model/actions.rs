//! What can happen next: one function for each.

use std::sync::Arc;
use std::time::Duration;

use btrfs_to_s3::clock::Clock;
use btrfs_to_s3::forget::forget;
use btrfs_to_s3::id::ManifestId;
use btrfs_to_s3::prune::MaxUnused;
use btrfs_to_s3::repository::{Repository, layout};
use btrfs_to_s3::store::{Key, ObjectStore, Store};

use crate::model::board::{Request, RunId, Waiting};
use crate::model::checks::{Checked, Invariant, ensure};
use crate::model::events::Event;
use crate::model::faults::{Fate, Late};
use crate::model::quiet::Task;
use crate::model::runs::{Client, Kind, Mark, Memory, Plan, Report, Run, Told};
use crate::model::schedule::Schedule;
use crate::samples::random_bytes;

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
    /// A backup is forgotten.
    Forget(ManifestId),
    /// A host brings a forgotten backup back.
    Unforget(usize),
    /// A host deletes what no backup needs.
    Prune(usize),
    /// A host replaces a pack, and makes the index again.
    Repair(usize),
    /// A host looks at everything.
    Check(usize),
    LosePack,
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
        let counting: Vec<ManifestId> = self.truth.counting_ids().into_iter().collect();
        if !counting.is_empty() {
            choices.push((8, Action::Forget(self.dice.pick(&counting))));
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
            let matters = matches!(
                self.phase(run.id),
                Event::KilledAtTheCommit
                    | Event::KilledAtThePlan
                    | Event::KilledAtTheFinalList
                    | Event::KilledWhileDeleting
                    | Event::KilledRepack
                    | Event::KilledWhileReplacing
            );
            let (requests, accidents) = if matters { (150, 5) } else { (400, 1) };
            let is_slow = run.has(Mark::LeftBehind);
            choices.push((if is_slow { requests / 4 } else { requests }, Action::Serve(run.id)));
            choices.push((accidents * rough.kills, Action::Kill(run.id)));
            choices.push((accidents * rough.suspensions, Action::Suspend(run.id)));
            if run.kind == Kind::Backup && !is_slow {
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
            choices.push((if self.truth.published.is_empty() { 1 } else { 12 }, Action::Prune(host)));
            if !self.truth.forgotten.is_empty() {
                choices.push((6, Action::Unforget(host)));
            }
            if !self.truth.published.is_empty() {
                choices.push((3, Action::Repair(host)));
                choices.push((1, Action::Check(host)));
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
            Action::List(host) => self.begin(host, Kind::Look, |client| Task::new(client.list())),
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
            Action::Forget(id) => self.forget(id).await,
            Action::Unforget(host) => self.begin_unforget(host),
            Action::Prune(host) => {
                let (grace, max_unused) = (self.grace, self.max_unused());
                self.begin(host, Kind::Prune, |client| Task::new(client.prune(grace, max_unused)));
            }
            Action::Repair(host) => self.begin_repair(host),
            Action::Check(host) => self.begin(host, Kind::Check, |client| Task::new(client.check())),
            Action::LosePack => self.lose_pack().await,
        }
        Ok(())
    }

    pub(crate) fn begin(&mut self, host: usize, kind: Kind, start: impl FnOnce(Client) -> Task<Report>) {
        let (id, told) = (self.begun, Arc::new(Told::default()));
        self.begun += 1;
        self.to_begin = self.to_begin.saturating_sub(1);
        let machine = &mut self.machines[host];
        let client = Client::new(&self.shared, machine, id, &told, self.truth.packs_lost);
        machine.running = Some(id);
        let overlaps = self.runs.values().any(|run| run.kind == kind);
        let marks = [(Mark::Overlaps, overlaps), (Mark::MetPlan, self.truth.has_unfinished_plan())];
        let marks = marks.into_iter().filter_map(|(mark, holds)| holds.then_some(mark)).collect();
        let run = Run {
            id,
            host,
            kind,
            task: start(client),
            told,
            faults: 0,
            outage: 0,
            is_suspended: false,
            marks,
            published_before: self.truth.counting_ids(),
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
            unchanged: self.dice.per_mille(80),
        };
        self.begin(host, Kind::Backup, |client| Task::new(client.back_up(plan)));
    }

    /// How far the next prune goes.
    fn max_unused(&mut self) -> MaxUnused {
        if self.is_winding_up {
            return MaxUnused::Bytes(0);
        }
        self.dice.pick(&[MaxUnused::Bytes(0), MaxUnused::Bytes(0), MaxUnused::Share(50_000), MaxUnused::Unlimited])
    }

    fn begin_restore(&mut self, host: usize) {
        let counting = self.truth.counting_ids();
        let ids: Vec<_> = counting.into_iter().filter(|id| !self.truth.published[id].is_damaged).collect();
        if !ids.is_empty() {
            let id = self.dice.pick(&ids);
            self.begin(host, Kind::Look, |client| Task::new(client.restore(id)));
        }
    }

    fn begin_unforget(&mut self, host: usize) {
        let forgotten: Vec<ManifestId> = self.truth.forgotten.keys().copied().collect();
        let id = self.dice.pick(&forgotten);
        let stream = self.truth.published[&id].stream.clone();
        self.shared.streams.lock().unwrap().insert(self.begun, (stream, self.truth.packs_lost));
        self.begin(host, Kind::Unforget, |client| Task::new(client.unforget(id)));
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
        let may_delete = matches!(self.runs[&run].kind, Kind::Prune | Kind::Repair);
        let deletes = matches!(request, Request::Delete(_));
        ensure(Invariant::OnlyPruneDeletes, !deletes || may_delete, || format!("run {run}: {request}"))?;
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
                if matches!(request, Request::Put(..) | Request::Delete(_)) {
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
        if matches!(self.runs[&run].kind, Kind::Look | Kind::Check) {
            Event::KilledRestore
        } else if self.runs[&run].kind == Kind::Repair {
            if self.shared.board.deletes(run) { Event::KilledWhileReplacing } else { Event::KilledRepair }
        } else if self.runs[&run].kind == Kind::Unforget {
            if puts_at("/end") { Event::KilledAtTheCommit } else { Event::KilledUnforget }
        } else if self.runs[&run].kind == Kind::Prune {
            match () {
                () if puts_at("/plan") => Event::KilledAtThePlan,
                () if puts_at("/final") => Event::KilledAtTheFinalList,
                () if self.shared.board.deletes(run) => Event::KilledWhileDeleting,
                () if puts_at("data/") || puts_at("meta/") || puts_at(layout::SEGMENTS) => Event::KilledRepack,
                () => Event::KilledPrune,
            }
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
        let deletes = matches!(request, Request::Delete(_));
        self.events.count(if deletes { Event::DeletedLate } else { Event::LandedLate });
        let session = self.truth.session_of_run.get(&run);
        let end = session.and_then(|session| self.truth.sessions[session].end);
        let is_end = request.target().ends_with("/end");
        match end {
            Some((_, by)) if is_end && by != run => self.events.count(Event::EndLandedAfterThatOfAnother),
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

    /// Puts a marker, which stays for ever.
    pub(crate) async fn forget(&mut self, id: ManifestId) {
        let (store, clock) = (Arc::clone(&self.memory) as Store, Arc::clone(&self.world) as Arc<dyn Clock>);
        forget(&Repository::open(store, clock).await.unwrap(), id, "one", "").await.unwrap();
        self.truth.forgotten.insert(id, self.world.now());
        self.events.count(Event::Forgotten);
        self.listing_changed = true;
    }

    async fn delete(&mut self, key: &Key) {
        // It may have been lost before.
        drop(self.memory.delete(key).await);
        self.truth.note_deleted(key);
    }

    /// Loses a pack. What needs it is damaged; what begins after that must not build on it.
    async fn lose_pack(&mut self) {
        let packs: Vec<Key> = self.truth.packs.keys().cloned().collect();
        let pack = packs[self.dice.below(packs.len())].clone();
        self.delete(&pack).await;
        self.truth.packs_lost += 1;
        self.events.count(Event::PackLost);
        // A prune may have found that the other place of what it has is not needed.
        let is_relied_on = self.truth.has_unfinished_plan();
        for backup in self.truth.published.values_mut() {
            backup.is_damaged |= is_relied_on;
            backup.is_damaged |= backup.used.contains(&pack);
        }
    }
}
