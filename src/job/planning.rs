//! What a run is to do with a subvolume: nothing, note that nothing has changed, or send it, and against what.

use std::collections::HashSet;

use anyhow::Context;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::btrfs::BtrfsError;
use crate::btrfs::parents::{ParentCandidate, ParentChoice, choose_parent, is_unchanged, sent_identity};
use crate::btrfs::snapshots;
use crate::btrfs::subvolume::Subvolume;
use crate::config::SubvolumeConfig;
use crate::id::{ManifestId, PackId, SnapshotVersion, Uuid};
use crate::job::Job;
use crate::records::manifest::{BackupKind, Parent};
use crate::repository::Damage;
use crate::repository::cache::RecordCache;
use crate::repository::catalog::{Catalog, Published, read_known_chain};
use crate::repository::notes::Notes;
use crate::restore::{DataListing, RestoreOptions, data_packs};
use crate::schedule::{Decision, Due, PastBackup, Policy, decide};

/// How often subvolumes are backed up, and where on Earth.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// How often.
    pub policy: Policy,
    /// The zone of its times of day.
    pub zone: TimeZone,
}

/// What is to be done with a subvolume.
#[derive(Debug)]
pub(super) enum Plan {
    /// Nothing yet.
    NotDue(Decision),
    /// It is as it was when this backup was made: that is published, without a snapshot.
    Unchanged {
        parent: Box<Published>,
        /// Since when that has been seen.
        seen_at: Timestamp,
    },
    /// A snapshot is taken and sent.
    Send {
        /// Why it must be sent in full, if it must.
        full: Option<String>,
    },
}

/// A parent that was chosen, or why there is none.
pub(super) enum Chosen {
    Parent { snapshot: Box<Subvolume>, link: Parent },
    None { reason: String },
}

impl Job {
    /// Decides what to do with a subvolume.
    pub(super) fn plan(&self, catalog: &Catalog, subvolume: &SubvolumeConfig) -> anyhow::Result<Plan> {
        let decision = self.schedule.as_ref().map(|schedule| {
            let past = past_backups(catalog, &self.host.name, &subvolume.name);
            decide(&schedule.policy, &schedule.zone, &past, self.repository.clock().now())
        });
        let decision = match decision {
            Some(decision) if decision.due == Due::Nothing && !self.full && !self.once => {
                return Ok(Plan::NotDue(decision));
            }
            other => other,
        };
        let full = match decision {
            _ if self.full => Some("a full backup was asked for".to_owned()),
            // Where no backup is known at all, one of another host may still be there to build on.
            Some(decision) if decision.due == Due::Full && decision.next_due_at.is_some() => Some(decision.reason),
            _ => None,
        };
        self.warn_of_nested(subvolume)?;
        if full.is_some() {
            return Ok(Plan::Send { full });
        }
        let seen_at = self.repository.clock().now();
        let Chosen::Parent { snapshot, link } = self.choose_from(catalog, subvolume, None)? else {
            return Ok(Plan::Send { full: None });
        };
        let source = self.file_system.describe(&subvolume.path)?;
        let backup = catalog.find(link.manifest).filter(|_| is_unchanged(&source, &snapshot.info));
        // A backup of another subvolume or host, from which this one was restored, is not the one to refer to.
        let own = backup.filter(|backup| is_of(backup, &self.host.name, &subvolume.name));
        Ok(match own {
            Some(backup) => Plan::Unchanged { parent: Box::new(backup.clone()), seen_at },
            None => Plan::Send { full: None },
        })
    }

    /// The parent of the next backup: the newest snapshot on this host that is one of a backup with a whole chain.
    pub(super) async fn choose(
        &self,
        subvolume: &SubvolumeConfig,
        new: Option<&Uuid>,
        cache: &RecordCache,
    ) -> anyhow::Result<Chosen> {
        let catalog = Catalog::load(&self.repository, cache).await.context("looking for a parent")?;
        self.choose_from(&catalog, subvolume, new)
    }

    fn choose_from(
        &self,
        catalog: &Catalog,
        subvolume: &SubvolumeConfig,
        new: Option<&Uuid>,
    ) -> anyhow::Result<Chosen> {
        let candidates = candidates(catalog, &subvolume.name);
        // Paths are those below the mount that is asked, and the source may be mounted apart from its snapshots.
        let mut local = match self.file_system.subvolumes(&subvolume.base_dir) {
            Err(BtrfsError::NotFound { .. }) => Vec::new(),
            listed => listed?,
        };
        local.retain(|local| local.path.is_some() && Some(&local.info.uuid) != new);
        Ok(match choose_parent(&local, &candidates) {
            ParentChoice::None { reason } => Chosen::None { reason },
            ParentChoice::Parent { snapshot, manifest } => {
                let backup = catalog.find(manifest).context("the candidates come from the catalog")?;
                let streams = catalog.chain(backup)?.len();
                let too_long = self.schedule.as_ref().and_then(|schedule| schedule.policy.refuses_chain(streams));
                if let Some(reason) = too_long {
                    return Ok(Chosen::None { reason });
                }
                let SnapshotVersion { uuid, ctransid } = sent_identity(&snapshot.info);
                let link = Parent { manifest, digest: backup.digest, uuid, ctransid };
                Chosen::Parent { snapshot: Box::new(snapshot), link }
            }
        })
    }

    /// Takes a full backup for the choice if the chain that was chosen turns out to be damaged.
    pub(super) async fn unless_damaged(&self, chosen: Chosen, missing: &HashSet<PackId>) -> anyhow::Result<Chosen> {
        let Chosen::Parent { link, .. } = &chosen else { return Ok(chosen) };
        match self.damage_of(link.manifest, missing).await? {
            None => Ok(chosen),
            Some(damage) => {
                Ok(Chosen::None { reason: format!("what it could be made against is damaged: {damage:#}") })
            }
        }
    }

    /// What is wrong with the chain of a backup, which is a problem of the run.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub(super) async fn damage_of(
        &self,
        manifest: ManifestId,
        missing: &HashSet<PackId>,
    ) -> anyhow::Result<Option<anyhow::Error>> {
        match self.check_undamaged(manifest, missing).await {
            Ok(()) => Ok(None),
            Err(error) if error.downcast_ref::<Damage>().is_some() => {
                self.monitor.problem(&format!("{error:#}: the next backup is a full one"));
                Ok(Some(error))
            }
            Err(error) => Err(error),
        }
    }

    /// Checks that all manifests of a chain can be read, past this host's copies, that no check has found them damaged, and
    /// that their packs are there.
    async fn check_undamaged(&self, manifest: ManifestId, missing: &HashSet<PackId>) -> anyhow::Result<()> {
        let (repository, cache) = (&self.repository, &self.host.cache);
        let (chain, notes) =
            tokio::try_join!(read_known_chain(repository, manifest, cache), Notes::load(repository, cache))?;
        for backup in &chain {
            if let Some(reason) = notes.known_damage(backup.id()) {
                let reason = format!("the last check has found it damaged: {reason}");
                return Err(Damage { object: format!("backup {}", backup.id()), reason }.into());
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let listing = DataListing::of(repository).await?;
        for backup in &chain {
            let options = RestoreOptions::new(self.scratch_directory.clone());
            let data = data_packs(repository, &backup.manifest, &listing, &options, &self.monitor).await?;
            let mut needed = data.iter().chain(&backup.manifest.meta_packs);
            if let Some(lost) = needed.find(|pack| missing.contains(pack)) {
                let object = format!("backup {}", backup.id());
                return Err(Damage { object, reason: format!("its pack {lost} is missing") }.into());
            }
        }
        Ok(())
    }

    fn warn_of_nested(&self, subvolume: &SubvolumeConfig) -> anyhow::Result<()> {
        let info = self.file_system.describe(&subvolume.path)?;
        let all = self.file_system.subvolumes(&subvolume.path)?;
        for nested in snapshots::nested_subvolumes(&info, &all) {
            self.monitor.warn(&format!(
                "{} is a subvolume of its own and not part of the backup of '{}': configure it too, if it is to be backed up",
                subvolume.path.join(nested).display(),
                subvolume.name
            ));
        }
        Ok(())
    }

    /// Says what a run would do with a subvolume, and changes nothing.
    ///
    /// # Errors
    ///
    /// If the subvolume or the repository cannot be looked at.
    pub async fn describe(&self, subvolume: &SubvolumeConfig) -> anyhow::Result<String> {
        let name = &subvolume.name;
        let catalog = Catalog::load(&self.repository, &RecordCache::none()).await?;
        self.report_damaged(&catalog);
        let full = match self.plan(&catalog, subvolume)? {
            Plan::NotDue(decision) => return Ok(format!("{name}: not due: {}", decision.reason)),
            Plan::Unchanged { parent, .. } => {
                let parent = parent.id();
                return Ok(format!("{name}: would note that nothing has changed since backup {parent}"));
            }
            Plan::Send { full } => full,
        };
        let chosen = match full {
            Some(reason) => Chosen::None { reason },
            None => self.choose_from(&catalog, subvolume, None)?,
        };
        let own = |kind| {
            let is_wanted = |backup: &&Published| backup.manifest.kind == kind && is_of(backup, &self.host.name, name);
            catalog.published.iter().rfind(is_wanted)
        };
        let size = crate::size::ByteSize::from_bytes;
        let told = |last: &Published| {
            format!("{} of stream, {} stored", size(last.manifest.stream.bytes), size(last.stored_bytes))
        };
        let like = |kind| match (own(kind), own(BackupKind::Full)) {
            (Some(last), _) => format!("; the last one was {}", told(last)),
            (None, Some(full)) => format!("; it would be the first of its kind, the last full one was {}", told(full)),
            (None, None) => "; how much that is, the first one will tell".to_owned(),
        };
        let what = match self.unless_damaged(chosen, &HashSet::new()).await? {
            Chosen::Parent { snapshot, link } => {
                let since = format!("{} (backup {})", snapshot.shown_path().display(), link.manifest);
                format!("send what has changed since {since}{}", like(BackupKind::Incremental))
            }
            Chosen::None { reason } => format!("send all of it, as {reason}{}", like(BackupKind::Full)),
        };
        Ok(format!("{name}: would take a snapshot into {} and {what}", subvolume.base_dir.display()))
    }
}

fn is_of(backup: &Published, host: &str, subvolume: &str) -> bool {
    backup.manifest.host == host && backup.manifest.subvolume == subvolume
}

/// The backups of a host's subvolume that can be restored by themselves.
#[must_use]
pub fn past_backups(catalog: &Catalog, host: &str, subvolume: &str) -> Vec<PastBackup> {
    let counts = |backup: &&Published| {
        let of_snapshot = backup.manifest.snapshot.is_some();
        of_snapshot && is_of(backup, host, subvolume) && catalog.chain(backup).is_ok()
    };
    let past = |backup: &Published| PastBackup {
        created_at: backup.manifest.created_at,
        is_full: backup.manifest.kind == BackupKind::Full,
    };
    catalog.published.iter().filter(counts).map(past).collect()
}

/// Backups of a subvolume that another can be built on: those with a stream, whose chain is whole.
fn candidates(catalog: &Catalog, subvolume: &str) -> Vec<ParentCandidate> {
    let whole = |backup: &&Published| {
        let has_stream = backup.manifest.kind != BackupKind::Unchanged;
        has_stream && backup.manifest.subvolume == subvolume && catalog.chain(backup).is_ok()
    };
    let candidate = |backup: &Published| {
        let identity = backup.manifest.version()?;
        Some(ParentCandidate { manifest: backup.id(), identity, created_at: backup.manifest.created_at })
    };
    catalog.published.iter().filter(whole).filter_map(candidate).collect()
}
