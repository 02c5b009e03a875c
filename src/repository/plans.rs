//! What prunes have announced: plans, the sessions they wait for, and the lists they delete.
//!
//! A plan is unfinished as long as `prune/<plan>/plan` is there. Its final list stays for ever: it says of a pack that is
//! gone that it was deleted and not lost, and a pruner that comes late finds it instead of making another.

use std::collections::{BTreeSet, HashSet};

use anyhow::Context;
use bytes::Bytes;

use crate::id::{ManifestId, PackId, PlanId, SegmentId, SessionId};
use crate::object::{FormatError, ObjectKind, encode_record};
use crate::pack::format::PackClass;
use crate::records::TOOL;
use crate::records::prune::{Doomed, PruneEvent, PruneRecord};
use crate::repository::cache::RecordCache;
use crate::repository::{Damage, Repository, StoredAs, layout};
use crate::store::{Key, PutOutcome, StoreError, StoreErrorKind, Tier, list_all};

/// A plan that is not finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnfinishedPlan {
    /// The plan.
    pub id: PlanId,
    /// What it names.
    pub objects: Doomed,
}

/// What unfinished plans name: it may be gone at any time.
#[derive(Debug, Clone, Default)]
pub struct Named {
    packs: HashSet<(PackClass, PackId)>,
    segments: HashSet<SegmentId>,
    manifests: HashSet<ManifestId>,
}

impl Named {
    /// What all of these plans name.
    pub fn by<'a>(plans: impl IntoIterator<Item = &'a UnfinishedPlan>) -> Self {
        let mut named = Self::default();
        for plan in plans {
            named.packs.extend(plan.objects.packs());
            named.segments.extend(&plan.objects.segments);
            named.manifests.extend(&plan.objects.manifests);
        }
        named
    }

    /// Whether no pack is named.
    #[must_use]
    pub fn has_no_packs(&self) -> bool {
        self.packs.is_empty()
    }

    /// Whether a pack is named.
    #[must_use]
    pub fn has_pack(&self, class: PackClass, id: PackId) -> bool {
        self.packs.contains(&(class, id))
    }

    /// Whether an index segment is named.
    #[must_use]
    pub fn has_segment(&self, id: &SegmentId) -> bool {
        self.segments.contains(id)
    }

    /// Whether a manifest is named.
    #[must_use]
    pub fn has_manifest(&self, id: &ManifestId) -> bool {
        self.manifests.contains(id)
    }
}

/// Lists the plans that are not finished. To be called before anything else of the repository is listed.
///
/// One that is finished while it is read does not count: all it names that is going to be deleted is gone.
///
/// # Errors
///
/// If a plan is damaged, as nobody knows then what is safe to build on, or if the store fails.
pub async fn list_unfinished(repository: &Repository) -> anyhow::Result<Vec<UnfinishedPlan>> {
    read_unfinished(repository, &announced(repository).await?).await
}

/// As [`list_unfinished`], of what has just been listed.
pub(crate) async fn read_unfinished(
    repository: &Repository,
    announced: &BTreeSet<Key>,
) -> anyhow::Result<Vec<UnfinishedPlan>> {
    let mut plans = Vec::new();
    for key in announced {
        let Some((id, "plan")) = layout::parse_plan_key(key) else { continue };
        let record = read(repository, key, id, PruneEvent::Plan, &RecordCache::none()).await;
        if let Some(record) = record.with_context(|| format!("reading the plan of a prune, {key}"))? {
            plans.push(UnfinishedPlan { id, objects: record.objects });
        }
    }
    Ok(plans)
}

/// The keys of all that prunes have announced. Where they are as they were before, nothing was deleted in between that
/// had not been announced.
///
/// # Errors
///
/// If the store fails.
pub(crate) async fn announced(repository: &Repository) -> anyhow::Result<BTreeSet<Key>> {
    let listed = list_all(repository.store().as_ref(), layout::PRUNE).await?;
    Ok(listed.into_iter().map(|object| object.key).collect())
}

/// The packs that prunes have deleted, or are deleting: those of all final lists.
///
/// # Errors
///
/// If the store fails. A list that is damaged is passed over.
pub async fn deleted_packs(
    repository: &Repository,
    cache: &RecordCache,
) -> anyhow::Result<HashSet<(PackClass, PackId)>> {
    let mut packs = HashSet::new();
    for object in list_all(repository.store().as_ref(), layout::PRUNE).await? {
        let Some((id, "final")) = layout::parse_plan_key(&object.key) else { continue };
        match read(repository, &object.key, id, PruneEvent::Final, cache).await {
            Ok(record) => packs.extend(record.iter().flat_map(|record| record.objects.packs())),
            Err(error) if error.downcast_ref::<Damage>().is_some() => tracing::warn!("{error:#}"),
            Err(error) => return Err(error),
        }
    }
    Ok(packs)
}

/// Leaves out of some packs those that are not there as a prune has deleted them, and has put what was needed of them into
/// others. One that is not there for another reason is kept.
///
/// Costs a listing of the packs of the class, and reads final lists only where some are not there.
///
/// # Errors
///
/// If the store fails.
pub async fn without_deleted(
    repository: &Repository,
    class: PackClass,
    mut packs: BTreeSet<PackId>,
    cache: &RecordCache,
) -> anyhow::Result<BTreeSet<PackId>> {
    let listed = list_all(repository.store().as_ref(), layout::packs(class)).await?;
    let listed: HashSet<PackId> =
        listed.iter().filter_map(|object| layout::parse_pack_key(&object.key)).map(|(_, pack)| pack).collect();
    if !packs.iter().all(|pack| listed.contains(pack)) {
        // After the packs: the final list that names one was there before that was deleted.
        let deleted = deleted_packs(repository, cache).await?;
        packs.retain(|pack| listed.contains(pack) || !deleted.contains(&(class, *pack)));
    }
    Ok(packs)
}

/// Announces what is going to be deleted.
///
/// # Errors
///
/// If the store fails. The plan may have been stored all the same, or be stored later; then the next prune goes on with it.
pub async fn put_plan(repository: &Repository, objects: Doomed) -> anyhow::Result<UnfinishedPlan> {
    let id = PlanId::drawn_from(repository.randomness().as_ref());
    let plan = record(repository, id, PruneEvent::Plan, objects, Vec::new());
    put(repository, &layout::plan_key(&id), &plan).await.context("announcing what is to be deleted")?;
    Ok(UnfinishedPlan { id, objects: plan.objects })
}

/// The sessions that a plan waits for, if that is settled.
///
/// # Errors
///
/// If the record is damaged, or the store fails.
pub async fn read_sessions(repository: &Repository, plan: PlanId) -> anyhow::Result<Option<Vec<SessionId>>> {
    let key = layout::plan_sessions_key(&plan);
    let record = read(repository, &key, plan, PruneEvent::Sessions, &RecordCache::none()).await?;
    Ok(record.map(|record| record.sessions))
}

/// Settles which sessions a plan waits for: those given, which were listed when the plan was there, unless others have
/// been settled already. Gives those that count.
///
/// Any such list will do: whoever is in none of them began after the plan was there, and has seen it.
///
/// # Errors
///
/// If the store fails.
pub async fn settle_sessions(
    repository: &Repository,
    plan: PlanId,
    sessions: Vec<SessionId>,
) -> anyhow::Result<Vec<SessionId>> {
    let record = record(repository, plan, PruneEvent::Sessions, Doomed::default(), sessions);
    match put(repository, &layout::plan_sessions_key(&plan), &record).await? {
        PutOutcome::Stored => Ok(record.sessions),
        PutOutcome::Exists => Ok(read_sessions(repository, plan).await?.unwrap_or(record.sessions)),
    }
}

/// What a plan's prune deletes, if that is settled.
///
/// # Errors
///
/// If the record is damaged, or the store fails.
pub async fn read_final(repository: &Repository, plan: PlanId) -> anyhow::Result<Option<Doomed>> {
    let key = layout::plan_final_key(&plan);
    let record = read(repository, &key, plan, PruneEvent::Final, &RecordCache::none()).await?;
    Ok(record.map(|record| record.objects))
}

/// Settles what a plan's prune deletes: `objects`, unless another list has been settled already. Gives the one that counts.
///
/// # Errors
///
/// If the store fails; nothing may be deleted then.
pub async fn settle_final(repository: &Repository, plan: PlanId, objects: Doomed) -> anyhow::Result<Doomed> {
    let record = record(repository, plan, PruneEvent::Final, objects, Vec::new());
    match put(repository, &layout::plan_final_key(&plan), &record).await {
        Ok(PutOutcome::Stored) => Ok(record.objects),
        // Ours may have landed although the answer was lost, and so may another's: what is there decides.
        Ok(PutOutcome::Exists) => {
            let settled = read_final(repository, plan).await?;
            settled.with_context(|| format!("{} is there and is not", layout::plan_final_key(&plan)))
        }
        Err(error) => match read_final(repository, plan).await {
            Ok(Some(settled)) => Ok(settled),
            _ => Err(error.context("settling what is deleted")),
        },
    }
}

/// Ends a plan whose final list has been deleted.
///
/// # Errors
///
/// If the store fails; the next prune ends it then.
pub async fn finish(repository: &Repository, plan: PlanId) -> anyhow::Result<()> {
    for key in [layout::plan_sessions_key(&plan), layout::plan_key(&plan)] {
        repository.store().delete(&key).await?;
    }
    Ok(())
}

/// Removes what requests that came late have left of plans which are finished: records of sessions.
///
/// One of a plan that is not finished may be among them, if it is put just now. Others are settled then in its place.
///
/// # Errors
///
/// If the store fails.
pub async fn remove_leftovers(repository: &Repository) -> anyhow::Result<()> {
    let listed = list_all(repository.store().as_ref(), layout::PRUNE).await?;
    let records: Vec<(PlanId, &str)> = listed.iter().filter_map(|object| layout::parse_plan_key(&object.key)).collect();
    let plans: HashSet<PlanId> = records.iter().filter(|(_, name)| *name == "plan").map(|(plan, _)| *plan).collect();
    for (plan, _) in records.iter().filter(|(plan, name)| *name == "sessions" && !plans.contains(plan)) {
        repository.store().delete(&layout::plan_sessions_key(plan)).await?;
    }
    Ok(())
}

fn record(
    repository: &Repository,
    plan: PlanId,
    event: PruneEvent,
    objects: Doomed,
    sessions: Vec<SessionId>,
) -> PruneRecord {
    PruneRecord { plan, event, at: repository.clock().now(), objects, sessions, tool: TOOL.to_owned() }
}

async fn put(repository: &Repository, key: &Key, record: &PruneRecord) -> anyhow::Result<PutOutcome> {
    let bytes = Bytes::from(encode_record(ObjectKind::Plan, repository.id(), record));
    match repository.store().put(key, bytes, Tier::Metadata).await {
        Ok(outcome) => Ok(outcome),
        // Another pruner's has another length.
        Err(StoreError { kind: StoreErrorKind::Conflict, .. }) => Ok(PutOutcome::Exists),
        Err(error) => Err(error.into()),
    }
}

/// Reads a record of a plan, if it is there.
async fn read(
    repository: &Repository,
    key: &Key,
    plan: PlanId,
    event: PruneEvent,
    cache: &RecordCache,
) -> anyhow::Result<Option<PruneRecord>> {
    let check = |record: &PruneRecord, _: &StoredAs| {
        let is_it = record.plan == plan && record.event == event;
        is_it.then_some(()).ok_or_else(|| FormatError::invalid("it is the record of another plan"))
    };
    match repository.read_record(ObjectKind::Plan, key, cache, check).await {
        Ok((record, _)) => return Ok(Some(record)),
        Err(error) if error.downcast_ref::<Damage>().is_none() => return Err(error),
        Err(_) => {}
    }
    match repository.store().head(key).await {
        Err(StoreError { kind: StoreErrorKind::NotFound, .. }) => Ok(None),
        Err(error) => Err(error.into()),
        // It may have been put since.
        Ok(_) => Ok(Some(repository.read_record(ObjectKind::Plan, key, cache, check).await?.0)),
    }
}
