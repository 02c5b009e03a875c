//! Rewrites packs of which little is needed, so that they can be deleted, and merges small ones.
//!
//! `docs/ordering.md`, "Repack". In a session of its own, which has ended before the plan is put that names the old packs.

mod choose;
mod copy;
mod elsewhere;
mod left;
mod store;
mod unreadable;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use anyhow::{Context, anyhow, ensure};
use jiff::Timestamp;

use crate::backup::{Host, send_beats};
use crate::id::PackId;
use crate::monitor::Monitor;
use crate::pack::format::PackClass;
use crate::prune::limits::{MaxUnused, RepackOptions};
use crate::prune::mark::{Fate, MarkedPack, Marking};
use crate::prune::plan::{Observed, Pack, plan_deletion};
use crate::prune::report::{Kept, Repacked};
use crate::prune::sessions::open_repairs;
use crate::records::session::Outcome;
use crate::repository::session::{REPACK, WriteSession, is_data_tier};
use crate::repository::{Damage, Repository};
use crate::store::StoreError;
use choose::{Candidates, Choice, Limits, PackUse, choose_packs, small_below_bytes};
use copy::{Part, copy_packs};
use left::Left;
use store::{PackStore, pack_target_bytes};

/// A repack, and what it works with.
pub(super) struct Repacking<'a> {
    pub(super) repository: &'a Repository,
    pub(super) host: &'a Host,
    pub(super) options: &'a RepackOptions,
    pub(super) monitor: &'a Arc<dyn Monitor>,
    /// By the store's clock.
    pub(super) now: Timestamp,
    /// Whether it is only found out what would be rewritten.
    pub(super) dry_run: bool,
}

/// What a repack has done.
#[derive(Debug, Clone, Default)]
pub(super) struct Done {
    /// Packs whose needed chunks are all in others now, or would be.
    pub(super) emptied: HashSet<Pack>,
    pub(super) repacked: Repacked,
    pub(super) kept: Kept,
    /// Packs of metadata of which it is known which copies of footers are needed.
    pub(super) looked_at: HashSet<PackId>,
}

/// A repack that is under way.
struct Run<'a, 'm> {
    repacking: &'a Repacking<'a>,
    marking: &'a mut Marking<'m>,
    observed: &'a Observed<'a>,
    /// The plaintext in each pack, by its number.
    plaintext_bytes: Vec<u64>,
    /// The session, when there is something to rewrite.
    store: Option<PackStore>,
    /// Packs that were chosen, whether they have been emptied or left alone.
    tried: HashSet<Pack>,
    /// Bytes of those that have been emptied.
    rewritten_bytes: u64,
    done: Done,
}

impl Repacking<'_> {
    /// Rewrites what pays. When this returns, what was copied counts.
    ///
    /// # Errors
    ///
    /// If the local disk fails, or the session was given up by another prune. That a pack is damaged is a problem, and it stays
    /// as it is; that the store fails is one, and all packs do.
    pub(super) async fn run(&self, marking: &mut Marking<'_>, observed: &Observed<'_>) -> anyhow::Result<Done> {
        let is_wanted = self.options.max_unused != MaxUnused::Unlimited;
        // Beside a repair no plan would follow.
        if !is_wanted || !open_repairs(self.repository, &self.host.cache).await?.is_empty() {
            return Ok(Done::default());
        }
        let plaintext_bytes = marking.plaintext_bytes()?;
        let (store, tried, rewritten_bytes, done) = (None, HashSet::new(), 0, Done::default());
        let mut run = Run { repacking: self, marking, observed, plaintext_bytes, store, tried, rewritten_bytes, done };
        let mut rewritten = run.rewrite().await;
        let Run { mut store, mut done, .. } = run;
        if let (Ok(()), Some(store)) = (&rewritten, &mut store) {
            rewritten = end(store, &mut done.repacked).await;
        }
        let Err(error) = rewritten else { return Ok(done) };
        if let Some(store) = store {
            give_up(&store.session()).await;
        }
        self.without(done, error)
    }

    /// What is done when rewriting has failed: nothing is emptied. Where that was the store, what is unused as a whole can go
    /// all the same: perhaps only then there is room again.
    fn without(&self, done: Done, error: anyhow::Error) -> anyhow::Result<Done> {
        // Damage that is met only now is no reason to mark once more.
        if error.downcast_ref::<Damage>().is_some() {
            return Err(anyhow!("rewriting packs: {error:#}"));
        }
        if error.downcast_ref::<StoreError>().is_none() {
            return Err(error.context("rewriting packs"));
        }
        self.monitor.problem(&format!("rewriting packs: {error:#}: only packs of which nothing is needed are deleted"));
        let repacked = Repacked { damaged: done.repacked.damaged, ..Repacked::default() };
        // Which copies of footers are needed is another question when no data pack is emptied: `looked_at` is forgotten.
        Ok(Done { repacked, kept: done.kept, ..Done::default() })
    }

    fn limits(&self, class: PackClass, unused_bytes: u64, rewritten_bytes: u64) -> Limits {
        Limits {
            unused_bytes,
            rewritten_bytes: self.options.max_repack_bytes.unwrap_or(u64::MAX).saturating_sub(rewritten_bytes),
            small_below_bytes: small_below_bytes(pack_target_bytes(class, self.options)),
        }
    }

    async fn begin(&self) -> anyhow::Result<PackStore> {
        let session = WriteSession::start(self.repository.clone(), self.host.session(REPACK, "")).await?;
        Ok(PackStore::new(Arc::new(session), self.options))
    }
}

/// Stores what is left and ends the session, so that it counts.
async fn end(store: &mut PackStore, report: &mut Repacked) -> anyhow::Result<()> {
    store.finish(report).await?;
    let end = store.session().abandon().await?;
    let session = store.session().id();
    ensure!(end.outcome != Outcome::Void, "session {session} was given up by another prune: nothing is replaced");
    Ok(())
}

impl Run<'_, '_> {
    async fn rewrite(&mut self) -> anyhow::Result<()> {
        let data = self.candidates(PackClass::Data);
        (self.done.kept.archived, self.done.kept.paid_for) = (data.archived, data.paid_for);
        // When packs are left alone, others have their room.
        loop {
            let data = self.choose_data(&data);
            self.done.kept.unused_bytes = data.unused_bytes;
            if !self.copy(PackClass::Data, &data.packs).await? {
                break;
            }
        }
        loop {
            let meta = self.choose_meta(data.used_bytes(), self.done.kept.unused_bytes).await?;
            if !self.copy(PackClass::Meta, &meta.packs).await? {
                return Ok(());
            }
        }
    }

    fn choose_data(&self, data: &Candidates) -> Choice {
        let unused = self.repacking.options.max_unused.beside(data.used_bytes());
        let limits = self.repacking.limits(PackClass::Data, unused, self.rewritten_bytes);
        choose_packs(&self.untried(&data.packs), limits)
    }

    fn untried(&self, packs: &[PackUse]) -> Vec<PackUse> {
        packs.iter().filter(|pack| !self.tried.contains(&(pack.class, pack.id))).cloned().collect()
    }

    /// The packs of a class that stay as they are unless they are rewritten.
    fn candidates(&self, class: PackClass) -> Candidates {
        let mut uses: BTreeMap<PackId, PackUse> = BTreeMap::new();
        let is_of_class = |(_, it): &(usize, &MarkedPack)| it.fate == Fate::Stays && it.pack.class == class;
        for (number, marked) in self.marking.packs().iter().enumerate().filter(is_of_class) {
            let id = marked.pack.id;
            let Some(listed) = self.observed.listed.get(&(class, id)) else { continue };
            if self.observed.open.contains(&marked.segment.session) {
                continue;
            }
            let pack = uses.entry(id).or_insert_with(|| PackUse {
                class,
                id,
                size_bytes: listed.size_bytes,
                stored_at: listed.modified_at,
                storage_class: listed.storage_class.clone(),
                plaintext_bytes: 0,
                needed_bytes: 0,
                duplicate_bytes: 0,
            });
            // Several segments may name a pack; each says all that is in it, and one has what is needed.
            pack.plaintext_bytes = pack.plaintext_bytes.max(self.plaintext_bytes[number]);
            pack.needed_bytes += marked.needed.bytes;
            pack.duplicate_bytes += marked.duplicate.bytes;
        }
        let uses = uses.into_values().filter(|pack| pack.needed_bytes + pack.duplicate_bytes > 0).collect();
        Candidates::new(uses, self.repacking.options, self.repacking.now)
    }

    /// Chooses among the packs of metadata. Of those that may be chosen, or deleted, it is looked which copies of footers they
    /// have, as no backup names these.
    async fn choose_meta(&mut self, used_data: u64, unused_data: u64) -> anyhow::Result<Choice> {
        let going = plan_deletion(self.observed, self.marking.packs(), &self.done.emptied).meta_packs;
        self.look_at(going).await?;
        loop {
            let meta = self.candidates(PackClass::Meta);
            let used = used_data.saturating_add(meta.used_bytes());
            let unused = self.repacking.options.max_unused.beside(used).saturating_sub(unused_data);
            let limits = self.repacking.limits(PackClass::Meta, unused, self.rewritten_bytes);
            let choice = choose_packs(&self.untried(&meta.packs), limits);
            if !self.look_at(choice.packs.iter().map(|pack| pack.id)).await? {
                return Ok(choice);
            }
        }
    }

    /// Marks which copies of footers are needed in packs of metadata; says whether it was not known of all.
    async fn look_at(&mut self, packs: impl IntoIterator<Item = PackId>) -> anyhow::Result<bool> {
        let unknown: HashSet<PackId> = packs.into_iter().filter(|id| !self.done.looked_at.contains(id)).collect();
        if unknown.is_empty() {
            return Ok(false);
        }
        let going = plan_deletion(self.observed, self.marking.packs(), &self.done.emptied).data_packs;
        let (going, listed) = (going.into_iter().collect::<HashSet<PackId>>(), self.observed.listed);
        let stays = |id| listed.contains_key(&(PackClass::Data, id)) && !going.contains(&id);
        self.marking.mark_copies_of_footers(|id| unknown.contains(&id), stays).await?;
        self.done.looked_at.extend(unknown);
        Ok(true)
    }

    /// Copies what is needed of some packs; says whether some of them were left alone.
    async fn copy(&mut self, class: PackClass, packs: &[PackUse]) -> anyhow::Result<bool> {
        if packs.is_empty() {
            return Ok(false);
        }
        let repacking = self.repacking;
        let (mut left, mut unreadable) = (HashSet::new(), BTreeMap::new());
        if repacking.dry_run {
            estimate(class, packs, repacking.options, &mut self.done.repacked);
        } else {
            if self.store.is_none() {
                self.store = Some(repacking.begin().await?);
            }
            let store = self.store.as_mut().context("a repack has a session")?;
            let session = store.session();
            let uses: HashMap<PackId, &PackUse> = packs.iter().map(|pack| (pack.id, pack)).collect();
            let (marking, done) = (&*self.marking, &mut self.done);
            let copying = async {
                copy_packs(repacking.repository, marking, packs, async |part: Part| {
                    let storage_class = uses[&part.pack.1].storage_class.clone();
                    let reads = done.repacked.reads.entry(storage_class).or_default();
                    reads.objects += part.read.objects;
                    reads.bytes += part.read.bytes;
                    for (id, error) in part.damaged_elsewhere {
                        repacking.tell_damage((class, id), &error, &mut done.repacked);
                    }
                    match part.frames {
                        Ok(frames) => store.add(class, frames).await?,
                        Err(Left::Unreadable(error)) => drop(unreadable.insert(part.pack.1, error)),
                        Err(why) if left.insert(part.pack.1) => repacking.leave(uses[&part.pack.1], why, done),
                        Err(_) => {}
                    }
                    Ok(())
                })
                .await?;
                store.complete(class).await
            };
            tokio::select! {
                copied = copying => copied?,
                never = send_beats(&session) => match never {},
            }
            left.extend(self.leave_unreadable(class, unreadable).await?);
        }
        self.tried.extend(packs.iter().map(|pack| (class, pack.id)));
        for pack in packs.iter().filter(|pack| !left.contains(&pack.id)) {
            self.rewritten_bytes += pack.size_bytes;
            self.done.repacked.packs.entry(pack.storage_class.clone()).or_default().add(pack.size_bytes);
            self.done.repacked.unused_bytes += pack.unused_bytes();
            self.done.emptied.insert((class, pack.id));
        }
        Ok(!left.is_empty())
    }
}

impl Repacking<'_> {
    /// Notes that a pack stays as it is.
    fn leave(&self, pack: &PackUse, why: Left, done: &mut Done) {
        match why {
            Left::Damaged(error) | Left::Unreadable(error) => {
                self.tell_damage((pack.class, pack.id), &error, &mut done.repacked);
            }
            Left::Archived => done.kept.archived.add(pack.unused_bytes()),
            Left::Unusable => tracing::debug!(pack = %pack.id, "it is not rewritten"),
        }
    }

    /// Tells once of each pack that it is damaged.
    fn tell_damage(&self, pack: Pack, error: &anyhow::Error, repacked: &mut Repacked) {
        if !repacked.damaged.contains(&pack) {
            self.monitor
                .problem(&format!("{error:#}: the pack stays as it is; `check --read-data` tells what is lost"));
            repacked.damaged.push(pack);
        }
    }
}

/// Works out what rewriting these packs would take.
fn estimate(class: PackClass, packs: &[PackUse], options: &RepackOptions, repacked: &mut Repacked) {
    let mut used = 0_u64;
    for pack in packs {
        let reads = repacked.reads.entry(pack.storage_class.clone()).or_default();
        let (requests, bytes) = copy::expected_reads(pack);
        reads.objects += requests;
        reads.bytes = reads.bytes.saturating_add(bytes);
        used = used.saturating_add(pack.used_bytes());
    }
    let target = pack_target_bytes(class, options) as u64;
    let last = used % target;
    let is_data = |bytes| is_data_tier(class, bytes);
    let mut add = |bytes: u64, count: u64| {
        let amount = if is_data(bytes) { &mut repacked.new_data } else { &mut repacked.new_metadata };
        amount.objects += count;
        amount.bytes = amount.bytes.saturating_add(bytes.saturating_mul(count));
    };
    add(target, used / target);
    if last > 0 {
        add(last, 1);
    }
}

/// Ends a session that has failed, if the store lets us.
pub(super) async fn give_up(session: &WriteSession) {
    if let Err(error) = session.abandon().await {
        tracing::debug!(error = %format!("{error:#}"), "the session stays open until the next run");
    }
}
