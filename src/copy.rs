//! Copies backups into another repository, without what that has already.
//!
//! `docs/ordering.md`, "Copy". Each backup is published by a session of its own in the destination, as a backup of a stream
//! is, after all it was made against. The source is only read. Chunks have the same ids in both, and each is checked on the
//! way; trees are written anew, as their hints name packs.

mod choose;
mod one;
mod survey;
mod windows;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use anyhow::ensure;

use crate::backup::{BackupOptions, BackupSummary, Host, Interruption, unless_interrupted};
use crate::copy::choose::{Choice, choose};
use crate::copy::one::Copier;
use crate::id::{Digest, ManifestId};
use crate::monitor::Monitor;
use crate::repository::Repository;
use crate::repository::cache::RecordCache;
use crate::repository::catalog::{Catalog, Published, is_forgotten};
use crate::repository::notes::Notes;
use crate::restore::RestoreOptions;

pub use choose::{Refused, Skipped, SkippedAs, Wanted};
pub use survey::{ArchivedSource, Missing, find_archived, find_missing};

/// From where to where backups are copied, and how.
#[derive(Debug, Clone)]
pub struct Copying {
    /// Where they are. It is only read.
    pub source: Repository,
    /// This host's copies of the source's records.
    pub source_cache: RecordCache,
    /// How they are read.
    pub reading: RestoreOptions,
    /// Where they go.
    pub destination: Repository,
    /// This host as a writer of the destination.
    pub host: Host,
    /// How they are stored.
    pub writing: BackupOptions,
    /// When not to go on.
    pub interruption: Interruption,
}

/// What there is to copy.
#[derive(Debug, Default)]
pub struct CopyPlan {
    /// What is to be copied, each after all that it was made against.
    pub steps: Vec<Published>,
    /// What is left out.
    pub skipped: Vec<Skipped>,
    /// What cannot be copied.
    pub refused: Vec<Refused>,
    /// Those that were forgotten in the source, and that others were made against.
    forgotten: HashSet<ManifestId>,
    /// Backups of the source that are in the destination, and what they are there.
    copies: HashMap<ManifestId, CopiedAs>,
}

/// A backup as the destination has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct CopiedAs {
    id: ManifestId,
    digest: Digest,
}

/// What a run has done.
#[derive(Debug, Default)]
pub struct CopyReport {
    /// Backups that were copied, in this order: the original's id, and the copy.
    pub copied: Vec<(ManifestId, BackupSummary)>,
    /// Backups that were left out.
    pub skipped: Vec<Skipped>,
    /// Backups that could not be copied, though others could.
    pub refused: Vec<Refused>,
    /// What has ended the run before all was done.
    pub failure: Option<anyhow::Error>,
}

impl CopyReport {
    /// Whether something of the source is damaged that was to be copied.
    #[must_use]
    pub fn has_damage(&self) -> bool {
        self.refused.iter().any(|refused| refused.is_damaged)
    }
}

/// Checks that what is copied and what is backed up to the destination can share chunks.
///
/// # Errors
///
/// If both are the same repository, or the destination cuts chunks otherwise, or this program may not write there.
pub fn check_destination(source: &Repository, destination: &Repository) -> anyhow::Result<()> {
    let (from, to) = (source.store().url(), destination.store().url());
    ensure!(source.id() != destination.id(), "{to} is the repository {} itself, or a copy of its objects", source.id());
    destination.config().check_writable()?;
    let (ours, theirs) = (source.config(), destination.config());
    ensure!(
        ours.chunker == theirs.chunker && ours.hash == theirs.hash,
        "{to} cuts chunks otherwise than {from}, so that copies and backups would share nothing there: name an empty place, \
         and `copy --init` makes a repository with the same parameters"
    );
    Ok(())
}

/// Decides what to copy. Reads the records of both repositories, and changes nothing.
///
/// # Errors
///
/// If the store fails, or something is wanted that does not count.
pub async fn plan_copy(copying: &Copying, wanted: &Wanted) -> anyhow::Result<CopyPlan> {
    let mut source = Catalog::load(&copying.source, &copying.source_cache).await?;
    let destination = Catalog::load(&copying.destination, &copying.host.cache).await?;
    let unreadable = std::mem::take(&mut source.damaged);
    let Choice { steps, skipped, mut refused, copies } = choose(&source, &destination, wanted)?;
    if wanted.is_everything() {
        refused.extend(unreadable.iter().map(Refused::unreadable));
    }
    let forgotten = source.forgotten.iter().map(|forgotten| forgotten.backup.id()).collect();
    Ok(CopyPlan { steps, skipped, refused, forgotten, copies })
}

/// Copies what was planned, one backup after the other. To be called with the lock of the destination's host held.
///
/// What cannot be read in the source is refused, with all that was made on it; the others are copied. Any other failure ends
/// the run. What was copied by then counts.
pub async fn copy_backups(copying: &Copying, mut plan: CopyPlan, monitor: &Arc<dyn Monitor>) -> CopyReport {
    let (skipped, refused) = (std::mem::take(&mut plan.skipped), std::mem::take(&mut plan.refused));
    let mut report = CopyReport { skipped, refused, ..CopyReport::default() };
    report.failure = copy_steps(copying, plan, &mut report, monitor).await.err();
    report
}

async fn copy_steps(
    copying: &Copying,
    plan: CopyPlan,
    report: &mut CopyReport,
    monitor: &Arc<dyn Monitor>,
) -> anyhow::Result<()> {
    let CopyPlan { steps, forgotten, copies, .. } = plan;
    if steps.is_empty() {
        return Ok(());
    }
    let notes = unless_interrupted(&copying.interruption, Notes::load(&copying.source, &copying.source_cache)).await?;
    let mut copier = Copier::new(copying, notes, copies, monitor);
    for backup in &steps {
        match Box::pin(copier.copy(backup)).await {
            Ok(copy) => {
                tracing::debug!("backup {} is copied as backup {}", backup.id(), copy.id());
                report.copied.push((backup.id(), copy));
            }
            Err(error) if !is_of_source(&error) => {
                return Err(error.context(format!("copying backup {}", backup.id())));
            }
            // One that was forgotten meanwhile may have been pruned: then it is not damaged.
            Err(_) if !forgotten.contains(&backup.id()) && is_forgotten(&copying.source, backup.id()).await? => {
                report.skipped.push(Skipped { id: backup.id(), reason: SkippedAs::ForgottenMeanwhile });
            }
            Err(error) => report.refused.push(Refused::because(backup.id(), &error)),
        }
    }
    Ok(())
}

/// That a backup cannot be copied, for a reason that does not concern the others.
#[derive(Debug, thiserror::Error)]
#[error("it cannot be copied")]
struct NotCopied;

fn is_of_source(error: &anyhow::Error) -> bool {
    error.downcast_ref::<NotCopied>().is_some()
}
