//! Deletes what no backup needs any more.
//!
//! `docs/ordering.md`, "Prune", says in which order, and why nothing is deleted that a run which goes on meanwhile builds
//! upon. In short: a plan is announced, the sessions are waited for that may not have seen it, and what they turn out to
//! need is struck from it.

mod bits;
mod limits;
mod live;
mod mark;
mod nodes;
mod plan;
mod repack;
mod report;
mod segments;
mod sessions;
mod step;
mod tables;

use std::collections::HashSet;
use std::sync::Arc;

use anyhow::{Context, ensure};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use jiff::{SignedDuration, Timestamp};

use crate::backup::Host;
use crate::id::{ManifestId, SegmentId, SessionId};
use crate::local_index::{Access, LocalIndex, LocalIndexError};
use crate::monitor::Monitor;
use crate::prune::live::list_manifests;
use crate::prune::mark::{Fate, Marking};
use crate::prune::plan::Observed;
use crate::prune::repack::Repacking;
use crate::prune::sessions::{StoreFacts, open_repairs, try_store, void_dead_sessions, waits_for};
use crate::prune::step::{Planned, Step};
use crate::prune::tables::Tabling;
use crate::records::config::check_features;
use crate::records::prune::Doomed;
use crate::repository::index::ChunkIndex;
use crate::repository::plans::{self, Named, UnfinishedPlan};
use crate::repository::session::end_dead_sessions;
use crate::repository::{Damage, Repository, layout};
use crate::store::{Key, list_all};

pub use limits::{MaxUnused, MergeOptions, ParseMaxUnusedError, RepackOptions};
pub use report::{Amount, ByClass, Deleted, Kept, Merged, PruneReport, Repacked};
pub use sessions::WaitedFor;

/// Objects that are deleted at once.
const DELETIONS_AT_ONCE: usize = 16;
/// A mark is made so often at most, where other prunes delete what it reads, or the local index is damaged.
const MARKS_MAX: usize = 4;

/// What a prune may do.
#[derive(Debug, Clone)]
pub struct PruneOptions {
    /// A forgotten backup stays for so long, by the store's clock, so that people can undo it.
    pub grace: SignedDuration,
    /// Whether sessions are given up whose newest object is 30 days old.
    pub voiding: Voiding,
    /// Whether nothing is changed.
    pub dry_run: bool,
    /// What is rewritten to win space back.
    pub repack: RepackOptions,
}

/// Whether sessions are given up that nobody goes on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Voiding {
    /// They are not. A plan may have to wait for them for ever.
    Never,
    /// They are if the store turns out to keep the first end of a session: then none can be given up that has published.
    IfSafe,
    /// They are. The caller knows that they are dead.
    Always,
}

/// What a prune works with.
struct Pruning<'a> {
    repository: &'a Repository,
    host: &'a Host,
    options: &'a PruneOptions,
    monitor: &'a Arc<dyn Monitor>,
}

/// Deletes what no backup needs any more, or goes on with what an earlier prune has begun.
///
/// To be called with the host's lock held. May be ended at any moment: the next prune goes on.
///
/// # Errors
///
/// If this program may not prune the repository; if a backup that stays, the end of a session or a segment of the index
/// cannot be read, or something a backup needs is missing: then nothing is deleted. Or if the store or the local disk fails.
pub async fn prune(
    repository: &Repository,
    host: &Host,
    options: &PruneOptions,
    monitor: &Arc<dyn Monitor>,
) -> anyhow::Result<PruneReport> {
    let required = &repository.config().required_to_prune;
    check_features("prune", required).with_context(|| format!("pruning {}", repository.store().url()))?;
    let pruning = Pruning { repository, host, options, monitor };
    if options.dry_run { pruning.describe().await } else { pruning.run().await }
}

impl Pruning<'_> {
    async fn run(&self) -> anyhow::Result<PruneReport> {
        let mut report = PruneReport::default();
        end_dead_sessions(self.repository, &self.host.name, &self.host.machine, &self.host.cache).await?;
        let StoreFacts { now, keeps_ends } = try_store(self.repository, self.host).await?;
        if self.options.voiding == Voiding::Always || (self.options.voiding == Voiding::IfSafe && keeps_ends) {
            let repairs_too = self.options.voiding == Voiding::Always;
            report.voided = void_dead_sessions(self.repository, now, repairs_too, &self.host.cache).await?;
        }
        for plan in plans::list_unfinished(self.repository).await? {
            if !self.finish(&plan, &mut report).await? {
                return Ok(report);
            }
        }
        plans::remove_leftovers(self.repository).await?;
        let planned = self.make_plan(now, false).await?;
        planned.tell(&mut report);
        if planned.doomed.count() > 0 {
            // One that began after the mark has stored nothing that the plan names.
            report.waits_for = open_repairs(self.repository, &self.host.cache).await?;
            if !report.waits_for.is_empty() {
                return Ok(report);
            }
            let plan = plans::put_plan(self.repository, planned.doomed).await?;
            self.finish(&plan, &mut report).await?;
        }
        self.renew_tables().await;
        Ok(report)
    }

    /// Makes look-up tables of what is in the index now. Nothing hangs on them, so a failure keeps nothing else from its end.
    async fn renew_tables(&self) {
        let rest_bytes_max = self.options.repack.merging.untabled_bytes_max;
        let (repository, host, monitor) = (self.repository, self.host, self.monitor.as_ref());
        if let Err(error) = (Tabling { repository, host, monitor, rest_bytes_max }).renew().await {
            self.monitor.problem(&format!("making look-up tables of the index: {error:#}"));
        }
    }

    /// Says what a run would do, and changes nothing in the repository.
    async fn describe(&self) -> anyhow::Result<PruneReport> {
        let mut report = PruneReport::default();
        for plan in plans::list_unfinished(self.repository).await? {
            report.add_deleted(&plan.objects, &ByClass::new());
            report.waits_for.extend(waits_for(self.repository, plan.id, false, &self.host.cache).await?);
        }
        if report.deleted == Deleted::default() {
            let planned = self.make_plan(self.repository.clock().now(), true).await?;
            planned.tell(&mut report);
            report.add_deleted(&planned.doomed, &planned.packs);
        } else if self.options.repack.max_unused != MaxUnused::Unlimited {
            // What is needed then depends on what that plan turns out to delete.
            self.monitor.warn("an earlier prune is not finished: what would be rewritten cannot be told before it is");
        }
        Ok(report)
    }

    /// Finds out what is to be deleted, if nobody needs it by the time it is. What pays to be rewritten is rewritten before.
    async fn make_plan(&self, now: Timestamp, dry_run: bool) -> anyhow::Result<Planned> {
        let forgotten = list_all(self.repository.store().as_ref(), layout::FORGOTTEN).await?;
        let is_over = |modified_at: Timestamp| now.duration_since(modified_at) >= self.options.grace;
        let over = forgotten.iter().filter(|marker| is_over(marker.modified_at));
        let over: HashSet<ManifestId> = over.filter_map(|marker| layout::parse_forgotten_key(&marker.key)).collect();
        let (repository, host, monitor) = (self.repository, self.host, self.monitor);
        let repacking = Repacking { repository, host, monitor, options: &self.options.repack, now, dry_run };
        let planned = self.observe(&Step::Plan(repacking), |id| over.contains(id)).await?;
        planned.context("only a plan can vanish")
    }

    /// Goes on with a plan as far as possible; says whether it is finished.
    async fn finish(&self, plan: &UnfinishedPlan, report: &mut PruneReport) -> anyhow::Result<bool> {
        let mut packs = ByClass::new();
        let objects = if let Some(objects) = plans::read_final(self.repository, plan.id).await? {
            objects
        } else {
            report.waits_for = waits_for(self.repository, plan.id, true, &self.host.cache).await?;
            if !report.waits_for.is_empty() {
                return Ok(false);
            }
            let left = self.mark_again(plan).await?;
            packs = left.as_ref().map(|left| left.packs.clone()).unwrap_or_default();
            self.settle(plan, left.map(|left| left.doomed)).await?
        };
        self.delete(&objects).await?;
        plans::finish(self.repository, plan.id).await?;
        report.add_deleted(&objects, &packs);
        Ok(true)
    }

    /// What is left of a plan when all that is needed is struck: what it does not name is, and what was forgotten since as
    /// well. Gives none where another prune has finished the plan.
    async fn mark_again(&self, plan: &UnfinishedPlan) -> anyhow::Result<Option<Planned>> {
        let named: HashSet<ManifestId> = plan.objects.manifests.iter().copied().collect();
        self.observe(&Step::Strike(plan), |id| named.contains(id)).await
    }

    /// Settles what is deleted: what this prune has found, unless another one was faster.
    async fn settle(&self, plan: &UnfinishedPlan, left: Option<Doomed>) -> anyhow::Result<Doomed> {
        match left {
            Some(objects) => plans::settle_final(self.repository, plan.id, objects).await,
            None => Ok(plans::read_final(self.repository, plan.id).await?.unwrap_or_default()),
        }
    }

    /// Lists and marks; gives what is decided then. Gives none where the plan has been finished by another prune.
    async fn observe(&self, step: &Step<'_>, may_go: impl Fn(&ManifestId) -> bool) -> anyhow::Result<Option<Planned>> {
        for attempt in 1.. {
            match self.observe_once(step, &may_go).await {
                // What is missing may have been deleted by another prune, and be elsewhere by now.
                Err(error) if attempt < MARKS_MAX && error.downcast_ref::<Damage>().is_some() => {
                    tracing::debug!(error = %format!("{error:#}"), "it is looked for once more");
                }
                Err(error)
                    if attempt < MARKS_MAX && error.downcast_ref().is_some_and(LocalIndexError::means_rebuild) =>
                {
                    tracing::info!(error = %format!("{error:#}"), "damaged files of the local index are made again");
                    self.discard_damaged_index()?;
                }
                observed => return observed,
            }
        }
        unreachable!("the last attempt is an answer")
    }

    /// Removes what is damaged of the local index, so that it is made again when that is opened next.
    fn discard_damaged_index(&self) -> anyhow::Result<()> {
        let (directory, repository) = (&self.host.index_directory, self.repository.id());
        let (mut index, _) = LocalIndex::open(directory, repository, Access::Exclusive)?;
        index.discard_damaged()?;
        Ok(())
    }

    /// Lists, in this order, plans, sessions, manifests, segments and packs, and marks what is needed.
    async fn observe_once(
        &self,
        step: &Step<'_>,
        may_go: &impl Fn(&ManifestId) -> bool,
    ) -> anyhow::Result<Option<Planned>> {
        let (repository, cache, monitor) = (self.repository, &self.host.cache, self.monitor.as_ref());
        let plan = step.plan();
        let unfinished = plans::list_unfinished(repository).await?;
        if plan.is_some_and(|plan| unfinished.iter().all(|other| other.id != plan.id)) {
            return Ok(None);
        }
        let is_other = |other: &&UnfinishedPlan| plan.is_none_or(|plan| plan.id != other.id);
        let ours = Named::by(plan);
        let others = Named::by(unfinished.iter().filter(is_other));
        // What these need may be gone already.
        let mut settled = HashSet::new();
        for other in unfinished.iter().filter(is_other) {
            let list = plans::read_final(repository, other.id).await?;
            settled.extend(list.into_iter().flat_map(|list| list.manifests));
        }
        let may_go = |id: &ManifestId| settled.contains(id) || may_go(id);
        let manifests = list_manifests(repository, cache, monitor, may_go).await?;
        let (directory, access) = (&self.host.index_directory, Access::Exclusive);
        let (mut index, listing) = ChunkIndex::open_listed(repository, directory, access, cache, monitor).await?;
        index.compact()?;
        ensure!(index.unreadable_segments() == 0, "nothing is pruned while a segment of the index cannot be read");
        let fate = |class, pack| {
            if ours.has_pack(class, pack) {
                Fate::Goes
            } else if others.has_pack(class, pack) {
                Fate::IsOfOthers
            } else {
                Fate::Stays
            }
        };
        let stored_at = |class, pack| listing.packs.get(&(class, pack)).map(|listed| listed.modified_at);
        let mut marking = Marking::new(repository, index.survey(), fate, stored_at)?;
        for manifest in &manifests.live {
            let what = || format!("looking for what backup {} of '{}' needs", manifest.id(), manifest.subvolume);
            marking.mark(manifest).await.with_context(what)?;
        }
        let segments: Vec<SegmentId> = index.survey().segments().map(|segment| segment.id).collect();
        let is_void = |(_, session): &&(SegmentId, SessionId)| manifests.void.contains(session);
        let void_segments = index.uncounted_segments().iter().filter(is_void).map(|(id, _)| *id).collect::<Vec<_>>();
        let observed = Observed {
            listed: &listing.packs,
            listed_segments: &listing.segments,
            segments: &segments,
            void_segments: &void_segments,
            manifests: &manifests.going,
            open: &manifests.open,
            open_since: manifests.open_since,
            named: &others,
            paid_for: &step.paid_for(&listing.packs),
        };
        step.decide(&mut marking, &observed).await.map(Some)
    }

    /// Deletes exactly what is on a list: packs, then segments, then manifests, so that what is gone is named by nothing
    /// that was read later.
    async fn delete(&self, objects: &Doomed) -> anyhow::Result<()> {
        let packs = objects.packs().map(|(class, id)| layout::pack_key(class, &id)).collect();
        let segments = objects.segments.iter().map(layout::segment_key).collect();
        let manifests = objects.manifests.iter().map(layout::manifest_key).collect();
        for keys in [packs, segments, manifests] {
            self.delete_all(keys).await?;
        }
        Ok(())
    }

    async fn delete_all(&self, keys: Vec<Key>) -> anyhow::Result<()> {
        let store = self.repository.store();
        let delete = |key: Key| async move { store.delete(&key).await };
        stream::iter(keys).map(delete).buffer_unordered(DELETIONS_AT_ONCE).try_collect::<()>().await?;
        Ok(())
    }
}
