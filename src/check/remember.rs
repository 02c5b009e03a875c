//! Writes down what a check has found, so that later ones, and backups, know of it.

use anyhow::Context;

use crate::check::report::Report;
use crate::records::note::{TrialOutcome, TrialResult};
use crate::repository::Repository;
use crate::repository::notes::{Notes, Said, put_note};

/// Stores notes about the packs that were read, about backups that were found damaged, and about those that had been and are
/// whole again.
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
