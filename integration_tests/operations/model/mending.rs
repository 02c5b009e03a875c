//! Repairs and checks: what hosts run of them, and whether what they report is true.

use btrfs_to_s3::check::{CheckOptions, check};
use btrfs_to_s3::forget::forget;
use btrfs_to_s3::id::PackId;
use btrfs_to_s3::pack::format::PackClass;
use btrfs_to_s3::repair::{IndexRepair, PackRepair, repair_index, repair_packs};
use btrfs_to_s3::repository::layout;

use crate::model::checks::{Checked, Invariant, ensure};
use crate::model::events::Event;
use crate::model::quiet::Task;
use crate::model::runs::{Client, Kind, Mark, Report, Run};
use crate::model::schedule::Schedule;

/// What a repair has done.
#[derive(Debug)]
pub(crate) struct Repaired {
    packs: Vec<PackRepair>,
    index: IndexRepair,
}

/// What a check has found.
#[derive(Debug)]
pub(crate) struct Checkup {
    damaged: bool,
    details: String,
}

impl Client {
    /// As the command line does it: packs first, then the index.
    pub(crate) async fn repair(self, packs: Vec<(PackClass, PackId)>) -> Report {
        let mend = async {
            let repository = self.open().await?;
            let mut mended = Vec::new();
            if !packs.is_empty() {
                mended = repair_packs(&repository, Some(&self.host), &packs).await?;
            }
            let index = repair_index(&repository, Some(&self.host)).await?;
            anyhow::Ok(Repaired { packs: mended, index })
        };
        Report::Repair(Box::new(mend.await))
    }

    /// What does not restore is forgotten, as `repair manifests` does when it is told to.
    pub(crate) async fn check(self) -> Report {
        let look = async {
            let repository = self.open().await?;
            let options = CheckOptions { files_at_most: 1, ..CheckOptions::new(self.shared.scratch.clone()) };
            let report = check(&repository, &options, &self.monitor()).await?;
            for affected in &report.affected {
                forget(&repository, affected.id, &self.host.name, &affected.reason).await?;
            }
            anyhow::Ok(Checkup { damaged: report.has_damage(), details: format!("{report:?}") })
        };
        Report::Check(Box::new(look.await))
    }
}

impl Schedule {
    /// Sometimes a pack is replaced that has nothing wrong with it: what was in it has to be in the new one.
    pub(crate) fn begin_repair(&mut self, host: usize) {
        let all: Vec<_> = self.truth.packs.keys().filter_map(layout::parse_pack_key).collect();
        let mut packs = Vec::new();
        if !all.is_empty() && self.dice.per_mille(700) {
            packs.push(self.dice.pick(&all));
        }
        self.truth.repairs.insert(self.begun, Vec::new());
        self.begin(host, Kind::Repair, |client| Task::new(client.repair(packs)));
    }

    pub(crate) fn note_repair(&mut self, run: &Run, repaired: &Repaired) {
        for (event, happened) in [
            (Event::Repaired, true),
            (Event::RepairReplacedPacks, repaired.packs.iter().any(|pack| pack.kept > 0)),
            (Event::RepairReplacedSegments, !repaired.index.replaced.is_empty()),
            (Event::RepairAddedPacks, !repaired.index.added.is_empty()),
            (Event::RepairMetPlan, run.has(Mark::MetPlan)),
        ] {
            if happened {
                self.events.count(event);
            }
        }
    }

    /// No damage is found where there is none, whatever goes on beside it.
    pub(crate) fn judge_check(&mut self, run: &Run, checkup: &Checkup) -> Checked {
        self.events.count(Event::CheckCompleted);
        let holds = self.truth.packs_lost > 0 || !checkup.damaged;
        ensure(Invariant::NoDamageIsMadeUp, holds, || format!("run {}: {}", run.id, checkup.details))
    }
}
