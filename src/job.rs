//! One run over the configured subvolumes: what is due is snapshot, sent, backed up, retained. And the way back, through
//! `btrfs receive`.

mod file_system;
mod journal;
mod lanes;
mod orphans;
mod planning;
mod rehearsing;
mod restoring;
mod sending;

pub use file_system::{Btrfs, FileSystem};
pub use planning::{Schedule, past_backups};
pub use rehearsing::{ArchivedPacks, Rehearsal, Rehearsed, rehearse};
pub use restoring::{RestoreTarget, restore_subvolume};
pub use sending::SendSource;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::stream::{self, StreamExt};
use jiff::{SignedDuration, Timestamp};

use crate::backup::{
    BackupOptions, BackupRequest, BackupRun, BackupSummary, Expected, Host, Interrupted, Interruption, RejectedStream,
    Stream, unless_interrupted,
};
use crate::btrfs::BtrfsError;
use crate::btrfs::parents::sent_identity;
use crate::btrfs::snapshots::{self, Snapshot};
use crate::config::SubvolumeConfig;
use crate::id::{PackId, Uuid};
use crate::job::journal::Journal;
use crate::job::lanes::Lanes;
use crate::job::planning::{Chosen, Plan};
use crate::monitor::Monitor;
use crate::repository::Repository;
use crate::repository::catalog::{Catalog, Published};
use crate::repository::session::{Unsettled, end_dead_sessions};
use crate::schedule::Decision;

/// What a run works with.
#[derive(Debug)]
pub struct Job {
    /// The repository.
    pub repository: Repository,
    /// This host.
    pub host: Host,
    /// Where the subvolumes are.
    pub file_system: Arc<dyn FileSystem>,
    /// Bounds of a backup.
    pub options: BackupOptions,
    /// How many snapshots of a subvolume stay.
    pub snapshots_retained: usize,
    /// How many subvolumes are sent at once, at least one.
    pub subvolumes_at_once: usize,
    /// When subvolumes are due; without it they always are.
    pub schedule: Option<Schedule>,
    /// Backs up what is not due, too.
    pub once: bool,
    /// Sends everything, even where a parent could be had, and whether it is due or not.
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
#[derive(Debug)]
pub struct Outcome {
    /// Its name.
    pub subvolume: String,
    /// What was done, or why not.
    pub result: anyhow::Result<Done>,
    /// How long it took, its snapshot not counted.
    pub took: SignedDuration,
}

/// What was done with a subvolume.
#[derive(Debug)]
pub enum Done {
    /// A backup was published.
    Published(Box<BackupSummary>),
    /// Nothing, as none is due.
    NotDue(Decision),
}

/// A subvolume with what to do, and its snapshot, if that was taken.
struct Step<'a> {
    subvolume: &'a SubvolumeConfig,
    work: anyhow::Result<Work>,
}

enum Work {
    NotDue(Decision),
    Unchanged { parent: Box<Published>, seen_at: Timestamp },
    Send { snapshot: Box<Snapshot>, full: Option<String> },
}

/// What a run keeps account of: the snapshots under way, and those that need not be looked for any more.
struct Account {
    journal: Option<Journal>,
    settled: Vec<PathBuf>,
}

/// What the backups of a run share.
struct Shared {
    lanes: Lanes,
    account: Mutex<Account>,
}

impl Shared {
    fn account(&self) -> MutexGuard<'_, Account> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Job {
    /// Backs up subvolumes that are due, so many at once as there may be. One that fails does not keep the others from being
    /// backed up.
    ///
    /// The snapshots are taken first, all together, so that they show one moment. To be called with the host's lock
    /// held.
    pub async fn run(&self, subvolumes: &[SubvolumeConfig]) -> Vec<Outcome> {
        let mut account = Account { journal: self.open_journal(), settled: Vec::new() };
        let begun = match unless_interrupted(&self.interruption, self.begin(&mut account)).await {
            Ok(catalog) => self.open_lanes().map(|lanes| (catalog, lanes)),
            Err(error) => Err(error),
        };
        let (catalog, lanes) = match begun {
            Ok(begun) => begun,
            Err(error) => return all_failed(subvolumes, &error),
        };
        let plans = subvolumes.iter().map(|subvolume| self.plan(&catalog, subvolume)).collect();
        drop(catalog);
        let steps = self.take_snapshots(subvolumes, plans, &mut account);
        let shared = Shared { lanes, account: Mutex::new(account) };
        let run = |(number, step)| {
            let shared = &shared;
            async move { (number, self.take_step(step, shared).await) }
        };
        let at_once = self.subvolumes_at_once.max(1);
        let mut outcomes: Vec<(usize, Outcome)> =
            stream::iter(steps.into_iter().enumerate()).map(run).buffer_unordered(at_once).collect().await;
        outcomes.sort_by_key(|(number, _)| *number);
        let Account { mut journal, settled } = shared.account.into_inner().unwrap_or_else(PoisonError::into_inner);
        self.change_journal(&mut journal, |journal| {
            for path in &settled {
                journal.remove(path);
            }
            journal.save()
        });
        outcomes.into_iter().map(|(_, outcome)| outcome).collect()
    }

    /// Clears away what killed runs have left, and looks which backups there are.
    async fn begin(&self, account: &mut Account) -> anyhow::Result<Catalog> {
        let Host { name, machine, cache, .. } = &self.host;
        end_dead_sessions(&self.repository, name, machine, cache).await?;
        let catalog = Catalog::load(&self.repository, cache).await?;
        self.report_damaged(&catalog);
        if let Some(journal) = &mut account.journal {
            self.delete_orphans(journal, &catalog);
        }
        Ok(catalog)
    }

    fn open_lanes(&self) -> anyhow::Result<Lanes> {
        Lanes::open(&self.host, self.subvolumes_at_once, &self.scratch_directory)
    }

    async fn take_step(&self, Step { subvolume, work }: Step<'_>, shared: &Shared) -> Outcome {
        let started_at = self.repository.clock().now();
        let result = match work {
            Ok(work) => {
                let lane = shared.lanes.take();
                let done = self.work_on(subvolume, work, &lane.host, shared).await;
                shared.lanes.put(lane);
                done
            }
            Err(error) => Err(error),
        };
        let took = self.repository.clock().now().duration_since(started_at);
        Outcome { subvolume: subvolume.name.clone(), result, took }
    }

    fn report_damaged(&self, catalog: &Catalog) {
        for error in &catalog.damaged {
            self.monitor.problem(&format!("{error:#}"));
        }
    }

    /// Takes the snapshots of all that is to be sent. They are in the journal before.
    fn take_snapshots<'a>(
        &self,
        subvolumes: &'a [SubvolumeConfig],
        plans: Vec<anyhow::Result<Plan>>,
        account: &mut Account,
    ) -> Vec<Step<'a>> {
        let mut planned = Vec::new();
        for (subvolume, plan) in subvolumes.iter().zip(plans) {
            let path = match &plan {
                Ok(Plan::Send { .. }) => Some(self.snapshot_path(subvolume)),
                _ => None,
            };
            planned.push((subvolume, plan, path));
        }
        let paths: Vec<PathBuf> =
            planned.iter().filter_map(|(_, _, path)| path.as_ref()?.as_ref().ok().cloned()).collect();
        self.change_journal(&mut account.journal, |journal| journal.add(paths));
        let take = |(subvolume, plan, path): (&'a SubvolumeConfig, anyhow::Result<Plan>, Option<_>)| {
            let work = match (plan, path) {
                (Ok(Plan::Send { full }), Some(path)) => self
                    .take_snapshot(subvolume, path)
                    .map(|snapshot| Work::Send { snapshot: Box::new(snapshot), full }),
                (Ok(Plan::Unchanged { parent, seen_at }), _) => Ok(Work::Unchanged { parent, seen_at }),
                (Ok(Plan::NotDue(decision)), _) => Ok(Work::NotDue(decision)),
                (Ok(Plan::Send { .. }), None) => Err(anyhow::anyhow!("its snapshot has no path")),
                (Err(error), _) => Err(error),
            };
            Step { subvolume, work }
        };
        planned.into_iter().map(take).collect()
    }

    fn snapshot_path(&self, subvolume: &SubvolumeConfig) -> Result<PathBuf, BtrfsError> {
        snapshots::plan(&subvolume.base_dir, &subvolume.name, self.repository.clock().as_ref())
    }

    fn take_snapshot(
        &self,
        subvolume: &SubvolumeConfig,
        path: Result<PathBuf, BtrfsError>,
    ) -> anyhow::Result<Snapshot> {
        Ok(self.file_system.snapshot(&subvolume.path, &path?)?)
    }

    async fn work_on(
        &self,
        subvolume: &SubvolumeConfig,
        work: Work,
        host: &Host,
        shared: &Shared,
    ) -> anyhow::Result<Done> {
        let sent = match work {
            Work::NotDue(decision) => {
                tracing::debug!(subvolume = %subvolume.name, reason = %decision.reason, "not due");
                return Ok(Done::NotDue(decision));
            }
            Work::Send { snapshot, full } => self.back_up(subvolume, &snapshot, full, host, shared).await,
            Work::Unchanged { parent, seen_at } => {
                if let Some(summary) = self.note_unchanged(subvolume, &parent, seen_at, host).await? {
                    self.retain(subvolume, parent.manifest.version().map(|version| version.uuid));
                    return Ok(Done::Published(Box::new(summary)));
                }
                // What it was to refer to is damaged: all is sent again, as it is now.
                let path = self.snapshot_path(subvolume);
                let listed = path.as_ref().ok().cloned();
                self.change_journal(&mut shared.account().journal, |journal| journal.add(listed));
                let snapshot = self.take_snapshot(subvolume, path)?;
                self.back_up(subvolume, &snapshot, None, host, shared).await
            }
        };
        sent.map(|summary| Done::Published(Box::new(summary)))
    }

    /// Publishes that nothing has changed; nothing if the backup it would refer to is damaged.
    async fn note_unchanged(
        &self,
        subvolume: &SubvolumeConfig,
        parent: &Published,
        seen_at: Timestamp,
        host: &Host,
    ) -> anyhow::Result<Option<BackupSummary>> {
        let begin = BackupRun::begin_beside(&self.repository, host, &subvolume.name, &self.monitor);
        let run = unless_interrupted(&self.interruption, begin).await?;
        let look = self.damage_of(parent.id(), run.index().missing_packs());
        match unless_interrupted(&self.interruption, look).await {
            Ok(None) => {}
            Ok(Some(_)) => {
                run.give_up().await;
                return Ok(None);
            }
            Err(error) => {
                run.give_up().await;
                return Err(error);
            }
        }
        tracing::info!(subvolume = %subvolume.name, since = %parent.id(), "nothing has changed");
        run.publish_unchanged(parent, seen_at, &self.interruption).await.map(Some)
    }

    /// Sends one snapshot to the repository. When that fails, the snapshot is of no use and is deleted.
    async fn back_up(
        &self,
        subvolume: &SubvolumeConfig,
        snapshot: &Snapshot,
        full: Option<String>,
        host: &Host,
        shared: &Shared,
    ) -> anyhow::Result<BackupSummary> {
        let sent = self.send(subvolume, snapshot, full, host).await;
        match &sent {
            Ok(_) => {
                shared.account().settled.push(snapshot.path.clone());
                self.retain(subvolume, Some(snapshot.info.uuid));
            }
            // The backup may exist after all, and the next one be made against it.
            Err(error) if error.downcast_ref::<Unsettled>().is_some() => {}
            Err(_) => {
                if self.delete(snapshot) {
                    shared.account().settled.push(snapshot.path.clone());
                }
            }
        }
        sent
    }

    async fn send(
        &self,
        subvolume: &SubvolumeConfig,
        snapshot: &Snapshot,
        full: Option<String>,
        host: &Host,
    ) -> anyhow::Result<BackupSummary> {
        let begin = BackupRun::begin_beside(&self.repository, host, &subvolume.name, &self.monitor);
        let run = unless_interrupted(&self.interruption, begin).await?;
        let prepare = self.prepare(subvolume, snapshot, full, run.index().missing_packs());
        let prepared = unless_interrupted(&self.interruption, prepare).await;
        let (stream, request) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                run.give_up().await;
                return Err(error);
            }
        };
        let is_incremental = matches!(request.expected, Expected::Snapshot { parent: Some(_), .. });
        let published = run.publish(stream, &request, &self.options).await;
        match published {
            // It may be a fault of the kernel's that only streams of changes show.
            Err(error) if is_incremental && error.downcast_ref::<RejectedStream>().is_some() => {
                self.monitor.problem(&format!("{}: {error:#}: everything is sent instead", subvolume.name));
                let full = Some("what has changed was sent in a stream that cannot be received".to_owned());
                Box::pin(self.send(subvolume, snapshot, full, host)).await
            }
            published => published,
        }
    }

    /// Chooses the parent and starts to send.
    async fn prepare(
        &self,
        subvolume: &SubvolumeConfig,
        snapshot: &Snapshot,
        full: Option<String>,
        missing: &HashSet<PackId>,
    ) -> anyhow::Result<(Stream, BackupRequest)> {
        let chosen = match full {
            Some(reason) => Chosen::None { reason },
            None => self.choose(subvolume, Some(&snapshot.info.uuid), &self.host.cache).await?,
        };
        let (parent_path, parent) = match self.unless_damaged(chosen, missing).await? {
            Chosen::Parent { snapshot, link } => (snapshot.path, Some(link)),
            Chosen::None { reason } => {
                tracing::info!(subvolume = %subvolume.name, %reason, "a full backup");
                (None, None)
            }
        };
        let compressed_data = subvolume.compressed_data;
        let stream =
            self.file_system.send(&snapshot.path, parent_path.as_deref(), compressed_data, &self.interruption)?;
        let request = BackupRequest {
            subvolume: subvolume.name.clone(),
            created_at: snapshot.name.taken_at(),
            expected: Expected::Snapshot { subject: sent_identity(&snapshot.info), parent },
            compressed_data,
        };
        Ok((stream, request))
    }

    /// Deletes old snapshots, but never the one that the next backup will be made against.
    fn retain(&self, subvolume: &SubvolumeConfig, newest: Option<Uuid>) {
        let list = self.file_system.snapshots(&subvolume.base_dir, &subvolume.name);
        match list {
            Ok(list) => {
                for old in snapshots::plan_retention(&list, self.snapshots_retained, newest.as_slice()) {
                    self.delete(old);
                }
            }
            Err(error) => self.monitor.problem(&format!("deleting old snapshots: {:#}", anyhow::Error::new(error))),
        }
    }

    /// Deletes a snapshot; whether it could.
    fn delete(&self, snapshot: &Snapshot) -> bool {
        let deleted = self.file_system.delete(snapshot);
        if let Err(error) = deleted {
            self.monitor.problem(&format!("{:#}", anyhow::Error::new(error)));
            return false;
        }
        true
    }
}

/// None of them can be backed up, for the same reason.
fn all_failed(subvolumes: &[SubvolumeConfig], error: &anyhow::Error) -> Vec<Outcome> {
    let failed = |subvolume: &SubvolumeConfig| Outcome {
        subvolume: subvolume.name.clone(),
        result: Err(said_again(error)),
        took: SignedDuration::ZERO,
    };
    subvolumes.iter().map(failed).collect()
}

/// An error for all that fails for the same reason. That it was an interruption stays to be seen.
fn said_again(error: &anyhow::Error) -> anyhow::Error {
    match error.downcast_ref::<Interrupted>() {
        Some(interrupted) => (*interrupted).into(),
        None => anyhow::anyhow!("{error:#}"),
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
