//! Writes down what a check has found, so that later ones, and backups, know of it.

use anyhow::Context;

use crate::check::report::Report;
use crate::id::PackId;
use crate::records::note::{PackVerdicts, TrialOutcome, TrialResult};
use crate::repository::Repository;
use crate::repository::notes::{Notes, Said, put_note};

/// A note names so many packs at most, so that it stays far below the length of a record.
const PACKS_IN_NOTE: usize = 100_000;

/// Stores notes about the packs that were read, about those that are damaged, about backups that were found damaged, and about
/// those that had been and are whole again.
///
/// # Errors
///
/// If this program may not write to the repository, or the store fails. Nothing hangs on it.
pub async fn remember(repository: &Repository, host: &str, report: &Report, seconds: u64) -> anyhow::Result<()> {
    let notes = Notes::load(repository, &crate::repository::cache::RecordCache::none()).await?;
    let outcome = if report.has_damage() { TrialOutcome::Damaged } else { TrialOutcome::Good };
    let bytes = report.counts.bytes_read;
    for span in &report.spans {
        let result = TrialResult { outcome, reason: String::new(), bytes, seconds, packs: Some(*span), method: None };
        put_note(repository, None, host, Said::Check(result)).await.context("noting what was read")?;
    }
    let result = |outcome, reason: &str| TrialResult {
        outcome,
        reason: reason.to_owned(),
        bytes,
        seconds,
        packs: None,
        method: None,
    };
    // Before anything is said of backups: what makes the next one send everything tells also what it cannot build on.
    for verdicts in new_verdicts(&notes, report) {
        let said = Said::Packs(result(outcome, ""), verdicts);
        put_note(repository, None, host, said).await.context("noting which packs are damaged")?;
    }
    for affected in report.affected.iter().filter(|affected| affected.is_own) {
        if notes.known_damage(affected.id).is_none() {
            let said = Said::Check(result(TrialOutcome::Damaged, &affected.reason));
            put_note(repository, Some(affected.id), host, said).await.context("noting what is damaged")?;
        }
    }
    // Only who has read everything knows that damage is gone.
    if report.is_complete {
        let is_affected = |id| report.affected.iter().any(|affected| affected.is_own && affected.id == id);
        for id in notes.known_to_be_damaged().filter(|id| !is_affected(*id)) {
            let said = Said::Check(result(TrialOutcome::Good, ""));
            put_note(repository, Some(id), host, said).await.context("noting what is whole again")?;
        }
    }
    Ok(())
}

/// What the check says of packs that is not known yet, as much in each as a note holds.
fn new_verdicts(notes: &Notes, report: &Report) -> Vec<PackVerdicts> {
    let known = notes.bad_packs();
    let found = report.bad_packs.iter().chain(&report.replaced_packs).map(|(_, pack)| *pack);
    let found: Vec<PackId> = found.filter(|pack| !known.contains(pack)).collect();
    let bad = |packs: &[PackId]| PackVerdicts { bad: packs.to_vec(), right: Vec::new() };
    let right = |packs: &[PackId]| PackVerdicts { bad: Vec::new(), right: packs.to_vec() };
    found.chunks(PACKS_IN_NOTE).map(bad).chain(report.mended_packs.chunks(PACKS_IN_NOTE).map(right)).collect()
}
