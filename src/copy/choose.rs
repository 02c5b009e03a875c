//! Decides what to copy, and in which order, from what both repositories say of themselves.

use std::collections::{HashMap, HashSet};

use anyhow::{Context, ensure};
use jiff::Timestamp;

use crate::copy::CopiedAs;
use crate::id::ManifestId;
use crate::records::config::check_features;
use crate::records::manifest::{BackupKind, Manifest, RootKind};
use crate::repository::Damage;
use crate::repository::catalog::{Catalog, Published};

/// What is to be copied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// These backups, and what they were made against. If there are none, all that count.
    pub ids: Vec<ManifestId>,
    /// Of all, those of this host.
    pub host: Option<String>,
    /// Of all, those of this subvolume.
    pub subvolume: Option<String>,
    /// Of all, those whose snapshots were taken at this time or later.
    pub since: Option<Timestamp>,
}

impl Wanted {
    /// Whether all backups are wanted.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        *self == Self::default()
    }

    fn has(&self, manifest: &Manifest) -> bool {
        self.host.as_ref().is_none_or(|host| *host == manifest.host)
            && self.subvolume.as_ref().is_none_or(|subvolume| *subvolume == manifest.subvolume)
            && self.since.is_none_or(|since| manifest.created_at >= since)
    }
}

/// A backup that is not copied, as it need not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// The backup.
    pub id: ManifestId,
    /// Why.
    pub reason: SkippedAs,
}

/// Why a backup is not copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SkippedAs {
    /// It is in the destination already, as this backup.
    There(ManifestId),
    /// It was in the destination as this backup, which was forgotten there.
    ForgottenThere(ManifestId),
    /// It was forgotten in the source after the run began.
    ForgottenMeanwhile,
}

/// A backup that cannot be copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The backup, if its manifest can be read.
    pub id: Option<ManifestId>,
    /// Why not.
    pub reason: String,
    /// Whether something of it is missing or damaged in the source.
    pub is_damaged: bool,
}

impl Refused {
    pub(super) fn unreadable(error: &anyhow::Error) -> Self {
        Self { id: None, reason: format!("{error:#}"), is_damaged: true }
    }

    pub(super) fn because(id: ManifestId, error: &anyhow::Error) -> Self {
        let is_damaged = error.chain().any(<dyn std::error::Error>::is::<Damage>);
        Self { id: Some(id), reason: format!("{error:#}"), is_damaged }
    }
}

/// What was decided.
#[derive(Debug, Default)]
pub(super) struct Choice {
    pub(super) steps: Vec<Published>,
    pub(super) skipped: Vec<Skipped>,
    pub(super) refused: Vec<Refused>,
    pub(super) copies: HashMap<ManifestId, CopiedAs>,
}

/// Decides what to copy, and in which order.
///
/// A copy in the destination that does not count, or of which something is missing there that it was made against, is not
/// built on. One that was forgotten there is not made again, unless it is named or needed.
///
/// # Errors
///
/// If something that is named does not count.
pub(super) fn choose(source: &Catalog, destination: &Catalog, wanted: &Wanted) -> anyhow::Result<Choice> {
    let there = There::of(destination);
    let mut choice = Choice::default();
    for backup in source.published.iter().chain(source.forgotten.iter().map(|forgotten| &forgotten.backup)) {
        choice.copies.extend(there.counting(backup).map(|copy| (backup.id(), copy)));
    }
    let mut planned = HashSet::new();
    for backup in chosen(source, wanted)? {
        let id = backup.id();
        if let Some(copy) = choice.copies.get(&id) {
            choice.skipped.push(Skipped { id, reason: SkippedAs::There(copy.id) });
            continue;
        }
        if let (Some(copy), true) = (there.forgotten(backup), wanted.ids.is_empty()) {
            choice.skipped.push(Skipped { id, reason: SkippedAs::ForgottenThere(copy) });
            continue;
        }
        match steps_to(source, backup, &choice.copies) {
            Ok(steps) => choice.steps.extend(steps.into_iter().filter(|step| planned.insert(step.id())).cloned()),
            Err((error, is_damaged)) => {
                choice.refused.push(Refused { id: Some(id), reason: format!("{error:#}"), is_damaged });
            }
        }
    }
    Ok(choice)
}

/// The backups that are wanted, oldest first.
fn chosen<'a>(source: &'a Catalog, wanted: &Wanted) -> anyhow::Result<Vec<&'a Published>> {
    if wanted.ids.is_empty() {
        return Ok(source.published.iter().filter(|backup| wanted.has(&backup.manifest)).collect());
    }
    for id in &wanted.ids {
        source.find(*id).with_context(|| format!("backup {id} cannot be read"))?;
        let counts = source.published.iter().any(|backup| backup.id() == *id);
        ensure!(counts, "backup {id} has been forgotten: `btrfs_to_s3 unforget {id}` brings it back");
    }
    Ok(source.published.iter().filter(|backup| wanted.ids.contains(&backup.id())).collect())
}

/// A backup after all it was made against that is not in the destination; or why it cannot be copied, and whether that is
/// damage.
fn steps_to<'a>(
    source: &'a Catalog,
    backup: &'a Published,
    copies: &HashMap<ManifestId, CopiedAs>,
) -> Result<Vec<&'a Published>, (anyhow::Error, bool)> {
    let ancestors = source.ancestors(backup).map_err(|error| (error, true))?;
    let absent = ancestors.into_iter().take_while(|ancestor| !copies.contains_key(&ancestor.id()));
    let mut steps: Vec<&Published> = absent.collect();
    steps.reverse();
    steps.push(backup);
    for step in &steps {
        check_understood(&step.manifest).map_err(|error| (error, false))?;
    }
    Ok(steps)
}

/// Checks that nothing of a backup is of a kind that is not known: it could not be copied as what it is.
fn check_understood(manifest: &Manifest) -> anyhow::Result<()> {
    let is_known = |kind: &RootKind| !matches!(kind, RootKind::Other(_));
    let understood = manifest.kind != BackupKind::Unknown && manifest.roots.iter().all(|root| is_known(&root.kind));
    ensure!(understood, "backup {} has parts that need a newer btrfs_to_s3 to be copied", manifest.id());
    Ok(check_features("prune", &manifest.required_to_prune)?)
}

/// What is in the destination, by what it is a copy of, directly or by way of other repositories.
struct There<'a> {
    counting: HashMap<ManifestId, &'a Published>,
    forgotten: HashMap<ManifestId, ManifestId>,
}

impl<'a> There<'a> {
    fn of(destination: &'a Catalog) -> Self {
        let names = |backup: &Published| [Some(backup.id()), backup.manifest.copied_from].into_iter().flatten();
        let whole = |backup: &&Published| destination.ancestors(backup).is_ok();
        let counting = destination.published.iter().filter(whole);
        let forgotten = destination.forgotten.iter().map(|forgotten| &forgotten.backup);
        Self {
            counting: counting.flat_map(|backup| names(backup).map(move |name| (name, backup))).collect(),
            forgotten: forgotten.flat_map(|backup| names(backup).map(|name| (name, backup.id()))).collect(),
        }
    }

    fn counting(&self, backup: &Published) -> Option<CopiedAs> {
        let names = [Some(backup.id()), backup.manifest.copied_from];
        let found = names.iter().flatten().find_map(|name| self.counting.get(name))?;
        Some(CopiedAs { id: found.id(), digest: found.digest })
    }

    fn forgotten(&self, backup: &Published) -> Option<ManifestId> {
        let names = [Some(backup.id()), backup.manifest.copied_from];
        names.iter().flatten().find_map(|name| self.forgotten.get(name)).copied()
    }
}
