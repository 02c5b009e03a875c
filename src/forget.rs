//! Forgets backups, and brings forgotten ones back.
//!
//! `docs/ordering.md`, "Forget and unforget".

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use jiff::Timestamp;

use crate::backup::{BackupRun, BackupSummary, Host, Interruption, unless_interrupted};
use crate::id::ManifestId;
use crate::monitor::Monitor;
use crate::object::{ObjectKind, encode_record};
use crate::records::TOOL;
use crate::records::forgotten::ForgottenRecord;
use crate::records::manifest::{Manifest, Totals};
use crate::records::note::TagChange;
use crate::repository::catalog::{Catalog, Published, is_forgotten, read_chain, read_manifest};
use crate::repository::needs::NeedsWalk;
use crate::repository::notes::{Notes, Said, put_note};
use crate::repository::reader::ChunkReader;
use crate::repository::{Damage, Repository, layout};
use crate::retention::{Candidate, Decision, RetentionPolicy, Source, decide, time_of_copy};
use crate::store::{PutOutcome, StoreError, StoreErrorKind, Tier};

/// What has become of a backup that was to be forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forgot {
    /// It does not count from now on.
    Now,
    /// It did not count before either.
    Before,
}

/// Puts the marker by which a backup does not count any more. It can be damaged; it stays until prune deletes it.
///
/// One put, whole or not at all; may be repeated.
///
/// # Errors
///
/// If this program may not write to the repository, or the store fails.
pub async fn forget(repository: &Repository, id: ManifestId, host: &str, reason: &str) -> anyhow::Result<Forgot> {
    repository.config().check_writable()?;
    let record = ForgottenRecord {
        manifest: id,
        at: repository.clock().now(),
        host: host.to_owned(),
        reason: reason.to_owned(),
        tool: TOOL.to_owned(),
    };
    let body = Bytes::from(encode_record(ObjectKind::Forgotten, repository.id(), &record));
    match repository.store().put(&layout::forgotten_key(&id), body, Tier::Metadata).await {
        Ok(PutOutcome::Stored) => Ok(Forgot::Now),
        // Somebody else has said so in other words.
        Ok(PutOutcome::Exists) | Err(StoreError { kind: StoreErrorKind::Conflict, .. }) => Ok(Forgot::Before),
        Err(error) => Err(error).with_context(|| format!("forgetting backup {id}")),
    }
}

/// Which backups a policy is to decide on; all, if nothing is named.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Of this host.
    pub host: Option<String>,
    /// Of this subvolume.
    pub subvolume: Option<String>,
}

impl Selection {
    fn has(&self, source: &Source) -> bool {
        self.host.as_ref().is_none_or(|host| *host == source.host)
            && self.subvolume.as_ref().is_none_or(|subvolume| *subvolume == source.subvolume)
    }
}

/// Decides by a policy which backups to keep, and changes nothing.
///
/// # Errors
///
/// The first damage, where a manifest cannot be read: what it needs is not known.
pub fn plan_forget(
    catalog: &mut Catalog,
    notes: &Notes,
    policy: &RetentionPolicy,
    selection: &Selection,
) -> anyhow::Result<Vec<Decision>> {
    if let Some(damage) = catalog.damaged.pop() {
        return Err(damage.context("what a backup needs that cannot be read is not known: forget it by its id first"));
    }
    let candidate = |backup: &Published| {
        let Manifest { host, subvolume, created_at, parent, .. } = &backup.manifest;
        Candidate {
            id: backup.id(),
            source: Source { host: host.clone(), subvolume: subvolume.clone() },
            stored_at: stored_at(catalog, backup),
            created_at: *created_at,
            parent: parent.as_ref().map(|parent| parent.manifest),
            tags: notes.tags(backup.id()),
        }
    };
    let all = catalog.published.iter().map(candidate);
    let (chosen, others): (Vec<_>, Vec<_>) = all.partition(|candidate| selection.has(&candidate.source));
    Ok(decide(policy, &chosen, &others))
}

/// When a backup was stored; of a copy, also of one of a copy, when its original was, as far as that can be told.
fn stored_at(catalog: &Catalog, backup: &Published) -> Timestamp {
    let mut original = backup;
    while let Some(earlier) = original.manifest.copied_from.and_then(|id| catalog.find(id)) {
        original = earlier;
    }
    let created_at = original.manifest.created_at;
    let stored_at = catalog.stored_at(original.id()).unwrap_or(created_at);
    if original.manifest.copied_from.is_some() { time_of_copy(stored_at, created_at) } else { stored_at }
}

/// The sources of which nothing would be kept.
#[must_use]
pub fn sources_without_any(decisions: &[Decision]) -> BTreeSet<Source> {
    let of = |kept: bool| {
        let decisions = decisions.iter().filter(move |decision| decision.is_kept() == kept);
        decisions.map(|decision| decision.source.clone()).collect::<BTreeSet<_>>()
    };
    &of(false) - &of(true)
}

/// Brings a forgotten backup back: publishes a copy of its manifest under a new id, if all it needs is still there.
///
/// A session like that of a backup, so that a prune either sees it or is seen. To be called with the host's lock held.
///
/// # Errors
///
/// If it was not forgotten, or has been brought back before, or something it needs is gone ([`Damage`]) or named by a plan
/// that is not finished, or the store or the local disk fails.
pub async fn unforget(
    repository: &Repository,
    host: &Host,
    id: ManifestId,
    interruption: &Interruption,
    monitor: &Arc<dyn Monitor>,
) -> anyhow::Result<BackupSummary> {
    let subvolume = check_forgotten(repository, id).await?.manifest.subvolume;
    let run = BackupRun::begin_for("unforget", repository, host, &subvolume, monitor).await?;
    // Only what is seen from now on counts: a prune may have begun in between.
    let manifest = unless_interrupted(interruption, copy_of(&run, host, id))
        .await
        .with_context(|| format!("bringing backup {id} back"));
    run.publish_manifest(manifest).await
}

async fn check_forgotten(repository: &Repository, id: ManifestId) -> anyhow::Result<Published> {
    let backup = read_manifest(repository, id).await?;
    ensure!(is_forgotten(repository, id).await?, "backup {id} has not been forgotten");
    Ok(backup)
}

/// Gives a copy the tags of its original. Before the copy counts, so that no policy meets it without them.
async fn copy_tags(repository: &Repository, host: &Host, from: ManifestId, to: ManifestId) -> anyhow::Result<()> {
    let notes = Notes::load(repository, &host.cache).await?;
    let add: Vec<String> = notes.tags(from).into_iter().collect();
    if add.is_empty() {
        return Ok(());
    }
    let change = TagChange { add, remove: Vec::new() };
    put_note(repository, Some(to), &host.name, Said::Tags(change)).await.map(drop)
}

/// The manifest under the id of the run's session.
async fn copy_of(run: &BackupRun, host: &Host, id: ManifestId) -> anyhow::Result<Manifest> {
    let repository = run.session().repository();
    let catalog = Catalog::load(repository, &host.cache).await?;
    if let Some(copy) = catalog.published.iter().find(|backup| backup.manifest.copied_from == Some(id)) {
        bail!("it is there already as backup {}", copy.id());
    }
    let mut chain = read_chain(repository, id).await?;
    let original = chain.pop().context("a chain has a backup")?.manifest;
    for ancestor in &chain {
        let is_named = run.index().named().has_manifest(&ancestor.id());
        ensure!(!is_named, "backup {}, which it was made against, is being pruned", ancestor.id());
    }
    let mut walk = NeedsWalk::new(ChunkReader::new(repository, run.index()));
    let mut lost = BTreeSet::new();
    for ancestor in &chain {
        lost.extend(walk.visit(&ancestor.manifest).await?);
    }
    let (lost_of_it, meta_packs) = walk.visit_alone(&original).await?;
    lost.extend(lost_of_it);
    if let Some(first) = lost.first() {
        // What plans name does not count, whether it is still there or not.
        ensure!(
            run.index().named().has_no_packs(),
            "what it needs may be deleted by a prune that is under way: try again when that has ended, which `btrfs_to_s3 prune` sees to"
        );
        let reason = format!("{} of the chunks it needs are gone: chunk {}: {}", lost.len(), first.chunk, first.reason);
        return Err(Damage { object: format!("backup {id}"), reason }.into());
    }
    let session = run.session();
    copy_tags(repository, host, id, session.id().into()).await?;
    Ok(Manifest {
        session: session.id(),
        started_at: session.started_at(),
        meta_packs: meta_packs.into_iter().collect::<BTreeSet<_>>().into_iter().collect(),
        totals: Totals { chunks: original.totals.chunks, stored_bytes: session.stored_bytes(), ..Totals::default() },
        copied_from: Some(id),
        copied_from_repository: None,
        tool: TOOL.to_owned(),
        ..original
    })
}
