//! Whether what a run reports is true.

use std::collections::BTreeSet;

use btrfs_to_s3::backup::BackupSummary;
use btrfs_to_s3::clock::Clock;
use btrfs_to_s3::id::ManifestId;
use btrfs_to_s3::prune::PruneReport;
use btrfs_to_s3::records::manifest::BackupKind;
use btrfs_to_s3::repository::session::Unsettled;
use btrfs_to_s3::store::Key;

use crate::model::checks::{Checked, Invariant, ensure};
use crate::model::events::Event;
use crate::model::runs::{Mark, Report, Run};
use crate::model::schedule::Schedule;

impl Schedule {
    pub(crate) fn judge_those_that_ended(&mut self) -> Checked {
        let ended = self.runs.values().filter(|run| run.task.is_finished()).map(|run| run.id);
        for id in ended.collect::<Vec<_>>() {
            let mut run = self.runs.remove(&id).unwrap();
            self.let_go(&run);
            let report = run.task.take_output().unwrap();
            let outcome = report.error().map_or_else(|| "succeeds".to_owned(), |error| format!("fails: {error:#}"));
            self.note(format!("run {id} {outcome}"));
            self.judge(&run, &report)?;
        }
        Ok(())
    }

    fn judge(&mut self, run: &Run, report: &Report) -> Checked {
        let problems = run.told.notes.problems();
        // Whose session others have ended is not waited for by prune: what it has seen may be gone.
        let excused = self.truth.packs_lost > 0 || self.was_ended_by_others(run);
        // A prune goes on without rewriting, merging or tables where the store has failed at that.
        let left_out = ["rewriting packs: ", "merging index segments: ", "making look-up tables of the index: "];
        let is_of_fault = |problem: &String| run.faults > 0 && left_out.iter().any(|what| problem.starts_with(what));
        // Until a repair has replaced the segments as well, they name packs that it has deleted.
        let is_of_repair = |problem: &String| {
            self.truth.packs_replaced > 0 && problem.contains("of the packs that the index names are missing")
        };
        let holds = problems.iter().all(|problem| is_of_fault(problem) || is_of_repair(problem)) || excused;
        ensure(Invariant::NoDamageIsMadeUp, holds, || format!("run {}: {problems:?}", run.id))?;
        if let Some(seen) = run.told.seen.lock().unwrap().as_ref() {
            self.events.count(Event::CatalogRead);
            self.judge_what_was_seen(run, seen)?;
        }
        match report {
            Report::Backup(ended) => match ended.as_ref() {
                Ok(summary) => self.judge_backup(run, summary),
                Err(error) => self.judge_failed_backup(run, error),
            },
            Report::Restore(id, Ok(bytes)) => {
                self.events.count(Event::RestoreCompleted);
                let holds = self.truth.published[id].stream == *bytes;
                ensure(Invariant::PublishedBackupsRestore, holds, || format!("run {}: other bytes of {id}", run.id))
            }
            Report::Restore(id, Err(error)) => {
                self.events.count(Event::RestoreFailed);
                let may_be_gone = !self.truth.protected(self.world.now(), self.grace).contains(id);
                judge_failure(run, self.truth.published[id].is_damaged || may_be_gone, error)
            }
            Report::Listing(Ok(_)) => Ok(()),
            Report::Listing(Err(error)) => judge_failure(run, false, error),
            Report::Unforget(id, ended) => match ended.as_ref() {
                Ok(summary) => {
                    self.events.count(Event::Unforgotten);
                    let exists = self.truth.published.contains_key(&summary.id());
                    ensure(Invariant::ReportsAreTrue, exists, || {
                        format!("run {} says it is back as {}", run.id, summary.id())
                    })
                }
                Err(error) => self.judge_failed_unforget(run, *id, error),
            },
            Report::Repair(ended) => match ended.as_ref() {
                Ok(repaired) => {
                    self.note_repair(run, repaired);
                    Ok(())
                }
                Err(error) => {
                    self.events.count(Event::RepairFailed);
                    judge_failure(run, self.truth.packs_lost > 0 || self.was_ended_by_others(run), error)
                }
            },
            Report::Check(ended) => match ended.as_ref() {
                Ok(checkup) => self.judge_check(run, checkup),
                Err(error) => judge_failure(run, self.truth.packs_lost > 0, error),
            },
            Report::Prune(ended) => match ended.as_ref() {
                Ok(report) => {
                    self.note_prune(run, report);
                    Ok(())
                }
                Err(error) => {
                    self.events.count(Event::PruneFailed);
                    judge_failure(run, self.truth.packs_lost > 0 || self.was_ended_by_others(run), error)
                }
            },
        }
    }

    fn judge_failed_unforget(&mut self, run: &Run, id: ManifestId, error: &anyhow::Error) -> Checked {
        self.events.count(Event::UnforgetFailed);
        let may_be_gone = !self.truth.protected(self.world.now(), self.grace).contains(&id);
        let message = format!("{error:#}");
        let is_back = message.contains("it is there already as backup");
        let waits = self.truth.plans_put > 0 && message.contains("by a prune that is under way");
        let may_fail = may_be_gone || is_back || waits || self.truth.published[&id].is_damaged;
        judge_failure(run, may_fail || self.was_ended_by_others(run), error)
    }

    fn note_prune(&mut self, run: &Run, report: &PruneReport) {
        let is_done = report.waits_for.is_empty();
        self.events.count(if is_done { Event::Pruned } else { Event::PruneWaits });
        for (event, happened) in [
            (Event::PruneRepacked, report.repacked.all_packs().objects > 0),
            (Event::PruneMerged, report.merged.replaced.objects > 0),
            (Event::PrunesOverlapped, run.has(Mark::Overlaps)),
            (Event::PlanTakenUp, run.has(Mark::MetPlan)),
            (Event::SuspendedPruneEnded, run.has(Mark::WasSuspended)),
        ] {
            if happened {
                self.events.count(event);
            }
        }
    }

    /// All that was published when the run began and was not forgotten since, and nothing that is not now.
    fn judge_what_was_seen(&self, run: &Run, seen: &BTreeSet<ManifestId>) -> Checked {
        let now = self.truth.published_ids();
        let mut before = run.published_before.clone();
        before.retain(|id| !self.truth.forgotten.contains_key(id));
        let holds = before.is_subset(seen) && seen.is_subset(&now);
        ensure(Invariant::ListingIsTrue, holds, || {
            format!("run {} saw {seen:?}; published before {:?}, now {now:?}", run.id, run.published_before)
        })
    }

    fn judge_backup(&mut self, run: &Run, summary: &BackupSummary) -> Checked {
        let exists = self.truth.published.contains_key(&summary.id());
        ensure(Invariant::ReportsAreTrue, exists, || format!("run {} says that {} exists", run.id, summary.id()))?;
        self.events.count(Event::BackupPublished);
        let manifest = &summary.manifest;
        for (event, happened) in [
            (Event::IncrementalPublished, manifest.kind == BackupKind::Incremental),
            (Event::UnchangedPublished, manifest.kind == BackupKind::Unchanged),
            (Event::BackupsOverlapped, run.has(Mark::Overlaps)),
            (Event::SuspendedRunEnded, run.has(Mark::WasSuspended)),
            (Event::BackupMetPlan, run.has(Mark::MetPlan)),
        ] {
            if happened {
                self.events.count(event);
            }
        }
        Ok(())
    }

    fn judge_failed_backup(&mut self, run: &Run, error: &anyhow::Error) -> Checked {
        self.events.count(Event::BackupFailed);
        let session = self.truth.session_of_run.get(&run.id).copied();
        let ended_by_others = self.was_ended_by_others(run);
        if run.has(Mark::WasSuspended) {
            let event = if ended_by_others { Event::SuspendedRunFoundItselfEnded } else { Event::SuspendedRunEnded };
            self.events.count(event);
        }
        if error.downcast_ref::<Unsettled>().is_some() {
            self.events.count(Event::BackupUnsettled);
        } else if let Some(session) = session {
            let exists = self.truth.published.contains_key(&ManifestId::from(session));
            ensure(Invariant::ReportsAreTrue, !exists, || {
                format!("run {} says that {session} failed: {error:#}", run.id)
            })?;
            self.truth.failed.insert(session);
        }
        let message = format!("{error:#}");
        let of_it =
            |id: &ManifestId| message.contains(&format!("the parent is needed: backup {id} has been forgotten"));
        let parent_forgotten = self.truth.forgotten.keys().any(of_it);
        if parent_forgotten {
            self.events.count(Event::ParentForgotten);
        }
        judge_failure(run, ended_by_others || parent_forgotten, error)
    }

    fn was_ended_by_others(&self, run: &Run) -> bool {
        let session = self.truth.session_of_run.get(&run.id);
        let end = session.and_then(|session| self.truth.sessions[session].end);
        end.is_some_and(|(_, by)| by != run.id)
    }

    /// An object has been deleted that no backup which has to stay should need.
    pub(crate) async fn restore_those_that_used(&mut self, deleted: &Key) -> Checked {
        for id in self.truth.protected(self.world.now(), self.grace) {
            let backup = &self.truth.published[&id];
            if !backup.is_damaged && backup.used.contains(deleted) {
                let used = self.visitor().restore(id, &backup.stream, &self.shared.scratch).await?;
                self.truth.published.get_mut(&id).unwrap().used = used;
            }
        }
        Ok(())
    }
}

fn judge_failure(run: &Run, other_cause: bool, error: &anyhow::Error) -> Checked {
    let caused = run.faults > 0 || other_cause;
    ensure(Invariant::NothingFailsWithoutCause, caused, || format!("run {}: {error:#}", run.id))
}
