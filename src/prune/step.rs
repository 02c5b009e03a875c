//! What a mark is made for: a plan, or what is left of one.

use std::collections::{HashMap, HashSet};

use crate::id::PackId;
use crate::pack::format::PackClass;
use crate::prune::mark::{MarkedPack, Marking};
use crate::prune::plan::{Observed, Pack, plan_deletion, removable_packs, strike_needed};
use crate::prune::repack::{Done, Repacking};
use crate::prune::report::{ByClass, Kept, Merged, PruneReport, Repacked};
use crate::prune::segments::merge_segments;
use crate::records::prune::Doomed;
use crate::repository::listing::ListedPack;
use crate::repository::plans::UnfinishedPlan;

/// What a mark is made for.
pub(super) enum Step<'a> {
    /// To plan what is deleted, after what pays has been rewritten.
    Plan(Repacking<'a>),
    /// To strike what is needed from a plan.
    Strike(&'a UnfinishedPlan),
}

/// What has been decided.
#[derive(Debug, Clone, Default)]
pub(super) struct Planned {
    pub(super) doomed: Doomed,
    /// The packs among it.
    pub(super) packs: ByClass,
    repacked: Repacked,
    merged: Merged,
    kept: Kept,
}

impl Planned {
    /// Puts into a report what has been rewritten and merged, and what stays.
    pub(super) fn tell(&self, report: &mut PruneReport) {
        (report.repacked, report.merged, report.kept) = (self.repacked.clone(), self.merged, self.kept);
    }
}

impl Step<'_> {
    pub(super) fn plan(&self) -> Option<&UnfinishedPlan> {
        match self {
            Self::Plan(_) => None,
            Self::Strike(plan) => Some(plan),
        }
    }

    /// Packs that would be paid for all the same. In a plan that is there, none are: it has been announced.
    pub(super) fn paid_for(&self, listed: &HashMap<Pack, ListedPack>) -> HashSet<Pack> {
        let Self::Plan(repacking) = self else { return HashSet::new() };
        let is_paid_for = |(_, pack): &(&Pack, &ListedPack)| {
            repacking.options.is_paid_for(pack.storage_class.as_ref(), pack.modified_at, repacking.now)
        };
        listed.iter().filter(is_paid_for).map(|(pack, _)| *pack).collect()
    }

    /// Decides what is deleted, when all that backups need has been marked.
    pub(super) async fn decide(&self, marking: &mut Marking<'_>, observed: &Observed<'_>) -> anyhow::Result<Planned> {
        marking.forget_read();
        let done = match self {
            Self::Plan(repacking) => repacking.run(marking, observed).await?,
            Self::Strike(_) => Done::default(),
        };
        let decide = |marked: &[MarkedPack]| match self {
            Self::Plan(_) => plan_deletion(observed, marked, &done.emptied),
            Self::Strike(plan) => strike_needed(&plan.objects, observed, marked),
        };
        let packs: HashSet<Pack> = decide(marking.packs()).packs().collect();
        let goes = |class, id| packs.contains(&(class, id));
        let data_pack_stays =
            |id: PackId| observed.listed.contains_key(&(PackClass::Data, id)) && !goes(PackClass::Data, id);
        let is_to_be_looked_at = |id| goes(PackClass::Meta, id) && !done.looked_at.contains(&id);
        marking.mark_copies_of_footers(is_to_be_looked_at, data_pack_stays).await?;
        marking.forget_read();
        let mut doomed = decide(marking.packs());
        let merged = match self {
            Self::Plan(repacking) => merge_segments(repacking, marking.packs(), observed, &mut doomed).await?,
            Self::Strike(_) => Merged::default(),
        };
        let mut packs = ByClass::new();
        for listed in doomed.packs().filter_map(|pack| observed.listed.get(&pack)) {
            packs.entry(listed.storage_class.clone()).or_default().add(listed.size_bytes);
        }
        let mut kept = done.kept;
        if matches!(self, Self::Plan(_)) {
            let removable = removable_packs(observed, marking.packs(), &done.emptied);
            for pack in removable.iter().filter(|pack| observed.paid_for.contains(pack)) {
                kept.paid_for.add(observed.listed.get(pack).map_or(0, |listed| listed.size_bytes));
            }
        }
        Ok(Planned { doomed, packs, repacked: done.repacked, merged, kept })
    }
}
