//! Whether what a run reports is true.

use std::collections::BTreeSet;

use btrfs_to_s3::backup::BackupSummary;
use btrfs_to_s3::id::ManifestId;
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
        let holds = problems.is_empty() || excused;
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
                let cause = self.truth.published[id].is_damaged;
                judge_failure(run, cause, error)
            }
            Report::Listing(Ok(_)) => Ok(()),
            Report::Listing(Err(error)) => judge_failure(run, false, error),
        }
    }

    /// All that was published when the run began, and nothing that is not now.
    fn judge_what_was_seen(&self, run: &Run, seen: &BTreeSet<ManifestId>) -> Checked {
        let now = self.truth.published_ids();
        let holds = run.published_before.is_subset(seen) && seen.is_subset(&now);
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
            (Event::IncrementalPublished, manifest.parent.is_some()),
            (Event::BackupsOverlapped, run.has(Mark::Overlaps)),
            (Event::SuspendedRunEnded, run.has(Mark::WasSuspended)),
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
        let refused = run.has(Mark::MetPrune) && error.to_string().contains("a prune of memory:// is under way");
        if refused {
            self.events.count(Event::RefusedBecauseOfPrune);
        }
        judge_failure(run, ended_by_others || refused, error)
    }

    fn was_ended_by_others(&self, run: &Run) -> bool {
        let session = self.truth.session_of_run.get(&run.id);
        let end = session.and_then(|session| self.truth.sessions[session].end);
        end.is_some_and(|(_, by)| by != Some(run.id))
    }

    /// Packs have been deleted that nothing should need.
    pub(crate) async fn restore_those_that_used(&mut self, deleted: &BTreeSet<Key>) -> Checked {
        for (id, backup) in &self.truth.published {
            if !backup.is_damaged && !backup.packs.is_disjoint(deleted) {
                self.visitor().restore(*id, &backup.stream, &self.shared.scratch).await?;
            }
        }
        Ok(())
    }
}

fn judge_failure(run: &Run, other_cause: bool, error: &anyhow::Error) -> Checked {
    let caused = run.faults > 0 || other_cause;
    ensure(Invariant::NothingFailsWithoutCause, caused, || format!("run {}: {error:#}", run.id))
}
