//! One run over the configured subvolumes: snapshot, send, back up, retain. And the way back, through `btrfs receive`.

mod journal;
mod restoring;
mod sending;

pub use restoring::{RestoreTarget, restore_subvolume};
pub use sending::SendSource;

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;

use crate::backup::{
    BackupOptions, BackupRequest, BackupRun, BackupSummary, Expected, Host, Interruption, Stream, unless_interrupted,
};
use crate::btrfs::BtrfsError;
use crate::btrfs::command::{BtrfsCommand, SendOptions};
use crate::btrfs::parents::{ParentCandidate, ParentChoice, choose_parent, sent_identity};
use crate::btrfs::snapshots::{self, Snapshot};
use crate::btrfs::subvolume::{Subvolume, list_subvolumes, subvolume_info};
use crate::config::SubvolumeConfig;
use crate::id::{ManifestId, PackId, SnapshotVersion, Uuid};
use crate::job::journal::Journal;
use crate::monitor::Monitor;
use crate::records::manifest::Parent;
use crate::repository::cache::RecordCache;
use crate::repository::catalog::{Catalog, Published, read_chain};
use crate::repository::notes::Notes;
use crate::repository::session::{Unsettled, end_dead_sessions};
use crate::repository::{Damage, Repository};
use crate::restore::{RestoreOptions, data_packs};

/// What a run works with.
#[derive(Debug)]
pub struct Job {
    /// The repository.
    pub repository: Repository,
    /// This host.
    pub host: Host,
    /// The `btrfs` command.
    pub btrfs: BtrfsCommand,
    /// Bounds of a backup.
    pub options: BackupOptions,
    /// How many snapshots of a subvolume stay.
    pub snapshots_retained: usize,
    /// Sends everything, even where a parent could be had.
    pub full: bool,
    /// Is told how it goes.
    pub monitor: Arc<dyn Monitor>,
    /// When not to go on. Snapshots of which there is no backup yet are then deleted.
    pub interruption: Interruption,
    /// A folder for what is not kept.
    pub scratch_directory: PathBuf,
    /// The folder in which this host writes down which snapshots a run has under way for this repository.
    pub journal_directory: PathBuf,
}

/// What became of one subvolume.
pub type Outcome = (String, anyhow::Result<BackupSummary>);

/// A parent that was chosen, or why there is none.
enum Chosen {
    Parent { snapshot: Box<Subvolume>, link: Parent },
    None { reason: String },
}

impl Job {
    /// Backs up subvolumes, one after another. One that fails does not keep the others from being backed up.
    ///
    /// The snapshots are taken first, all together, so that they show one moment. To be called with the host's lock
    /// held.
    pub async fn run(&self, subvolumes: &[SubvolumeConfig]) -> Vec<Outcome> {
        let mut journal = self.open_journal();
        if let Some(journal) = &mut journal {
            self.delete_orphans(journal).await;
        }
        let clock = self.repository.clock();
        let plan = |subvolume: &SubvolumeConfig| snapshots::plan(&subvolume.base_dir, &subvolume.name, clock.as_ref());
        let planned: Vec<_> = subvolumes.iter().map(plan).collect();
        self.change_journal(&mut journal, |journal| journal.add(planned.iter().flatten().cloned()));
        let take = |(subvolume, path): (&SubvolumeConfig, Result<PathBuf, BtrfsError>)| {
            path.and_then(|path| snapshots::create(&subvolume.path, &path))
        };
        let taken: Vec<_> = subvolumes.iter().zip(planned).map(take).collect();
        let (mut outcomes, mut settled) = (Vec::new(), Vec::new());
        for (subvolume, snapshot) in subvolumes.iter().zip(taken) {
            let outcome = match snapshot {
                Ok(snapshot) => self.back_up(subvolume, &snapshot, &mut settled).await,
                Err(error) => Err(error.into()),
            };
            outcomes.push((subvolume.name.clone(), outcome));
        }
        self.change_journal(&mut journal, |journal| {
            for path in &settled {
                journal.remove(path);
            }
            journal.save()
        });
        outcomes
    }

    /// Sends one snapshot to the repository. When that fails, the snapshot is of no use and is deleted.
    ///
    /// `settled` gets its path when it has a backup or is gone.
    async fn back_up(
        &self,
        subvolume: &SubvolumeConfig,
        snapshot: &Snapshot,
        settled: &mut Vec<PathBuf>,
    ) -> anyhow::Result<BackupSummary> {
        let sent = self.send(subvolume, snapshot).await;
        match &sent {
            Ok(_) => {
                settled.push(snapshot.path.clone());
                self.retain(subvolume, snapshot.info.uuid);
            }
            // The backup may exist after all, and the next one be made against it.
            Err(error) if error.downcast_ref::<Unsettled>().is_some() => {}
            Err(_) => {
                if self.delete(snapshot) {
                    settled.push(snapshot.path.clone());
                }
            }
        }
        sent
    }

    async fn send(&self, subvolume: &SubvolumeConfig, snapshot: &Snapshot) -> anyhow::Result<BackupSummary> {
        self.warn_of_nested(subvolume)?;
        let begin = BackupRun::begin(&self.repository, &self.host, &subvolume.name, &self.monitor);
        let run = unless_interrupted(&self.interruption, begin).await?;
        let prepare = self.prepare(subvolume, snapshot, run.index().missing_packs());
        let prepared = unless_interrupted(&self.interruption, prepare).await;
        let (stream, request) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                run.give_up().await;
                return Err(error);
            }
        };
        run.publish(stream, &request, &self.options).await
    }

    /// Chooses the parent and starts `btrfs send`.
    async fn prepare(
        &self,
        subvolume: &SubvolumeConfig,
        snapshot: &Snapshot,
        missing: &HashSet<PackId>,
    ) -> anyhow::Result<(Stream, BackupRequest)> {
        let chosen = self.choose(subvolume, Some(&snapshot.info.uuid), &self.host.cache).await?;
        let (parent_path, parent) = match self.unless_damaged(chosen, missing).await? {
            Chosen::Parent { snapshot, link } => (snapshot.path, Some(link)),
            Chosen::None { reason } => {
                tracing::info!(subvolume = %subvolume.name, %reason, "a full backup");
                (None, None)
            }
        };
        let options = SendOptions { protocol: None, compressed_data: subvolume.compressed_data };
        let child = self.btrfs.send(&snapshot.path, parent_path.as_deref(), &[], options)?;
        let request = BackupRequest {
            subvolume: subvolume.name.clone(),
            created_at: snapshot.name.taken_at(),
            expected: Expected::Snapshot { subject: sent_identity(&snapshot.info), parent },
            compressed_data: subvolume.compressed_data,
        };
        Ok((SendSource::stream(child, self.interruption.clone()), request))
    }

    /// Takes a full backup for the choice if the chain that was chosen turns out to be damaged.
    async fn unless_damaged(&self, chosen: Chosen, missing: &HashSet<PackId>) -> anyhow::Result<Chosen> {
        let Chosen::Parent { link, .. } = &chosen else { return Ok(chosen) };
        match self.check_undamaged(link.manifest, missing).await {
            Ok(()) => Ok(chosen),
            Err(error) if error.downcast_ref::<Damage>().is_some() => {
                self.monitor.problem(&format!("{error:#}: the next backup is a full one"));
                Ok(Chosen::None { reason: format!("what it could be made against is damaged: {error:#}") })
            }
            Err(error) => Err(error),
        }
    }

    /// Checks that all manifests of a chain can be read, past this host's copies, that no check has found them damaged, and
    /// that their packs are there.
    async fn check_undamaged(&self, manifest: ManifestId, missing: &HashSet<PackId>) -> anyhow::Result<()> {
        let chain = read_chain(&self.repository, manifest).await?;
        let notes = Notes::load(&self.repository, &self.host.cache).await?;
        for backup in &chain {
            if let Some(reason) = notes.known_damage(backup.id()) {
                let reason = format!("the last check has found it damaged: {reason}");
                return Err(Damage { object: format!("backup {}", backup.id()), reason }.into());
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        for backup in &chain {
            let options = RestoreOptions::new(self.scratch_directory.clone());
            let data = data_packs(&self.repository, &backup.manifest, &options, &self.monitor).await?;
            let mut needed = data.iter().chain(&backup.manifest.meta_packs);
            if let Some(lost) = needed.find(|pack| missing.contains(pack)) {
                let object = format!("backup {}", backup.id());
                return Err(Damage { object, reason: format!("its pack {lost} is missing") }.into());
            }
        }
        Ok(())
    }

    /// The parent of the next backup: the newest snapshot on this host that is one of a backup with a whole chain.
    async fn choose(
        &self,
        subvolume: &SubvolumeConfig,
        new: Option<&Uuid>,
        cache: &RecordCache,
    ) -> anyhow::Result<Chosen> {
        if self.full {
            return Ok(Chosen::None { reason: "a full backup was asked for".to_owned() });
        }
        let catalog = Catalog::load(&self.repository, cache).await.context("looking for a parent")?;
        for error in &catalog.damaged {
            self.monitor.problem(&format!("{error:#}"));
        }
        let candidates = candidates(&catalog, &subvolume.name);
        // Paths are those below the mount that is asked, and the source may be mounted apart from its snapshots.
        let mut local = match list_subvolumes(&subvolume.base_dir) {
            Err(BtrfsError::NotFound { .. }) => Vec::new(),
            listed => listed?,
        };
        local.retain(|local| local.path.is_some() && Some(&local.info.uuid) != new);
        Ok(match choose_parent(&local, &candidates) {
            ParentChoice::None { reason } => Chosen::None { reason },
            ParentChoice::Parent { snapshot, manifest } => {
                let backup = catalog.published.iter().find(|backup| backup.id() == manifest);
                let digest = backup.context("the candidates come from the catalog")?.digest;
                let SnapshotVersion { uuid, ctransid } = sent_identity(&snapshot.info);
                Chosen::Parent { snapshot: Box::new(snapshot), link: Parent { manifest, digest, uuid, ctransid } }
            }
        })
    }

    /// Says what a run would do with a subvolume, and changes nothing.
    ///
    /// # Errors
    ///
    /// If the subvolume or the repository cannot be looked at.
    pub async fn describe(&self, subvolume: &SubvolumeConfig) -> anyhow::Result<String> {
        subvolume_info(&subvolume.path)?;
        self.warn_of_nested(subvolume)?;
        let chosen = self.choose(subvolume, None, &RecordCache::none()).await?;
        let what = match self.unless_damaged(chosen, &HashSet::new()).await? {
            Chosen::Parent { snapshot, link } => {
                format!("send what has changed since {} (backup {})", snapshot.shown_path().display(), link.manifest)
            }
            Chosen::None { reason } => format!("send all of it, as {reason}"),
        };
        Ok(format!("{}: would take a snapshot into {} and {what}", subvolume.name, subvolume.base_dir.display()))
    }

    fn warn_of_nested(&self, subvolume: &SubvolumeConfig) -> anyhow::Result<()> {
        let (info, all) = (subvolume_info(&subvolume.path)?, list_subvolumes(&subvolume.path)?);
        for nested in snapshots::nested_subvolumes(&info, &all) {
            self.monitor.warn(&format!(
                "{} is a subvolume of its own and not part of the backup of '{}': configure it too, if it is to be backed up",
                subvolume.path.join(nested).display(),
                subvolume.name
            ));
        }
        Ok(())
    }

    /// Deletes old snapshots, but never the one that the next backup will be made against.
    fn retain(&self, subvolume: &SubvolumeConfig, newest: Uuid) {
        let list = snapshots::list(&subvolume.base_dir, &subvolume.name);
        match list {
            Ok(list) => {
                for old in snapshots::plan_retention(&list, self.snapshots_retained, &[newest]) {
                    self.delete(old);
                }
            }
            Err(error) => self.monitor.problem(&format!("deleting old snapshots: {:#}", anyhow::Error::new(error))),
        }
    }

    /// Deletes a snapshot; whether it could.
    fn delete(&self, snapshot: &Snapshot) -> bool {
        let deleted = snapshots::delete(snapshot);
        if let Err(error) = deleted {
            self.monitor.problem(&format!("{:#}", anyhow::Error::new(error)));
            return false;
        }
        true
    }

    /// Without a journal a run goes on: it only matters if it is killed.
    fn open_journal(&self) -> Option<Journal> {
        let opened = Journal::open(&self.journal_directory);
        opened.inspect_err(|error| self.warn_of_journal(error)).ok()
    }

    fn change_journal(&self, journal: &mut Option<Journal>, change: impl FnOnce(&mut Journal) -> io::Result<()>) {
        if let Some(Err(error)) = journal.as_mut().map(change) {
            self.warn_of_journal(&error);
        }
    }

    fn warn_of_journal(&self, error: &io::Error) {
        self.monitor.warn(&format!(
            "{}: {error}: should this run be killed, its snapshots stay",
            self.journal_directory.display()
        ));
    }

    /// Deletes the snapshots that killed runs have left, but for those that are in the repository: the next backup is made
    /// against these. What cannot be done now is left to the next run.
    async fn delete_orphans(&self, journal: &mut Journal) {
        if journal.snapshots().is_empty() {
            return;
        }
        let published = match self.published_versions().await {
            Ok(published) => published,
            Err(error) => return tracing::warn!(error = %format!("{error:#}"), "snapshots of killed runs stay for now"),
        };
        for path in journal.snapshots().clone() {
            match delete_unpublished(&path, &published) {
                Ok(()) => journal.remove(&path),
                // Its file system may be mounted again some day.
                Err(error @ BtrfsError::NotFound { .. }) => {
                    tracing::debug!(path = %path.display(), %error, "not looked for");
                }
                Err(error) => tracing::warn!(
                    path = %path.display(),
                    error = %format!("{:#}", anyhow::Error::new(error)),
                    "the snapshot of a killed run cannot be deleted now"
                ),
            }
        }
    }

    /// What all backups were made from. Only known for certain when the sessions of killed runs have ended, and when every
    /// manifest can be read.
    async fn published_versions(&self) -> anyhow::Result<HashSet<SnapshotVersion>> {
        let Host { name, machine, cache, .. } = &self.host;
        end_dead_sessions(&self.repository, name, machine, cache).await?;
        let mut catalog = Catalog::load(&self.repository, cache).await?;
        match catalog.damaged.pop() {
            Some(damage) => Err(damage),
            None => Ok(catalog.published.iter().filter_map(|backup| backup.manifest.version()).collect()),
        }
    }
}

/// Takes a snapshot of a subvolume that is to stay.
///
/// # Errors
///
/// If that is not possible, with the path and what to do.
pub fn take_snapshot(subvolume: &SubvolumeConfig, clock: &dyn crate::clock::Clock) -> anyhow::Result<Snapshot> {
    let path = snapshots::plan(&subvolume.base_dir, &subvolume.name, clock)?;
    Ok(snapshots::create(&subvolume.path, &path)?)
}

/// Deletes the snapshot at `path`, if there is one and no backup was made from it.
fn delete_unpublished(path: &Path, published: &HashSet<SnapshotVersion>) -> Result<(), BtrfsError> {
    match snapshots::find(path)? {
        Some(snapshot) if !published.contains(&sent_identity(&snapshot.info)) => {
            tracing::info!(path = %path.display(), "deleting a snapshot that a killed run has left");
            snapshots::delete(&snapshot)
        }
        _ => Ok(()),
    }
}

/// Backups of a subvolume that another can be built on: those whose chain is whole.
fn candidates(catalog: &Catalog, subvolume: &str) -> Vec<ParentCandidate> {
    let whole = |backup: &&Published| backup.manifest.subvolume == subvolume && catalog.chain(backup).is_ok();
    let candidate = |backup: &Published| {
        let identity = backup.manifest.version()?;
        Some(ParentCandidate { manifest: backup.id(), identity, created_at: backup.manifest.created_at })
    };
    catalog.published.iter().filter(whole).filter_map(candidate).collect()
}
