//! Has archived packs thawed before a restore reads them: all of a chain's in one wave. The restore waits for those that it
//! comes to next, and reads them while others are still being thawed.
//!
//! What counts is the class that each object has now, not the one that it was stored with: rules of the server may have
//! moved it. Only packs of file data are ever archived.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use jiff::Timestamp;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use crate::id::PackId;
use crate::pack::format::PackClass;
use crate::repository::{Repository, layout};
use crate::size::ByteSize;
use crate::store::thaw::{ThawOutcome, ThawRequest, ThawState, ThawTier};
use crate::store::{ObjectInfo, StorageClassName, list_all};

/// Requests at once. The store may allow fewer.
const REQUESTS_AT_ONCE: usize = 8;
/// It is looked at least this often whether packs are thawed, and more often at first.
const LONGEST_PAUSE: Duration = Duration::from_mins(5);
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
/// What a line is trusted to carry in a second where nothing is known of it.
pub const ASSUMED_BYTES_PER_SECOND: u64 = 4 << 20;
const DAY_SECONDS: u64 = 24 * 60 * 60;

/// How archived packs are thawed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThawOptions {
    /// Whether to wait for it.
    pub wait: bool,
    /// For how long at most.
    pub timeout: Duration,
    /// How fast it shall be.
    pub tier: ThawTier,
    /// For how many days copies are kept; else as many as reading them may take.
    pub days: Option<u32>,
    /// What reading is limited to.
    pub bytes_per_second: Option<u64>,
}

/// Packs that are needed cannot be read yet; their thaw has been asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{waiting} of {packs} archived packs are not thawed yet ({}); all have been asked for, and can be read by \
     {expected_at} at the latest: run it again then",
    ByteSize::from_bytes(*.waiting_bytes)
)]
pub struct NotThawed {
    /// How many.
    pub waiting: usize,
    /// Of how many.
    pub packs: usize,
    /// How large they are.
    pub waiting_bytes: u64,
    /// When the slowest should be done.
    pub expected_at: Timestamp,
}

/// A pack that may have to be thawed.
type ColdPack = ObjectInfo;

/// A pack as the store has it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackState {
    /// Its object.
    pub object: ObjectInfo,
    /// Whether it can be read.
    pub thaw: ThawState,
}

/// The packs of file data as one listing shows them.
#[derive(Debug, Clone)]
pub struct DataListing(HashMap<PackId, ObjectInfo>);

impl DataListing {
    /// Lists them all.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn of(repository: &Repository) -> anyhow::Result<Self> {
        let listed = list_all(repository.store().as_ref(), layout::packs(PackClass::Data)).await?;
        let with_id = |object: ObjectInfo| Some((layout::parse_pack_key(&object.key)?.1, object));
        Ok(Self(listed.into_iter().filter_map(with_id).collect()))
    }

    /// Whether a pack is there.
    #[must_use]
    pub fn has(&self, pack: &PackId) -> bool {
        self.0.contains_key(pack)
    }

    /// Whether any pack is of a class whose objects may be archived.
    #[must_use]
    pub fn has_cold(&self) -> bool {
        self.0.values().any(is_cold)
    }

    /// Looks whether some packs can be read, and asks for nothing. Packs that are not there are not in the result.
    ///
    /// Costs a look-up for each that may be archived.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn states(&self, repository: &Repository, packs: &BTreeSet<PackId>) -> anyhow::Result<Vec<PackState>> {
        let listed = packs.iter().filter_map(|pack| self.0.get(pack).cloned());
        states_of(repository, listed.collect()).await
    }
}

/// Looks whether packs can be read, and asks for nothing. Packs that are not there are not in the result.
///
/// Costs a listing of all packs of the class, and a look-up for each that may be archived.
///
/// # Errors
///
/// If the store fails.
pub async fn pack_states(
    repository: &Repository,
    class: PackClass,
    packs: &BTreeSet<PackId>,
) -> anyhow::Result<Vec<PackState>> {
    states_of(repository, listed_packs(repository, class, packs).await?).await
}

async fn states_of(repository: &Repository, listed: Vec<ObjectInfo>) -> anyhow::Result<Vec<PackState>> {
    let look = |object| pack_state(repository, object);
    stream::iter(listed).map(look).buffered(REQUESTS_AT_ONCE).try_collect().await
}

/// Looks whether a pack can be read. Costs a look-up where its class says that it may be archived.
pub(super) async fn pack_state(repository: &Repository, object: ObjectInfo) -> anyhow::Result<PackState> {
    let thaw = if is_cold(&object) { state_of(repository, &object).await? } else { ThawState::Readable };
    Ok(PackState { object, thaw })
}

/// Whether a pack can be read. A thawed copy that has expired is none.
async fn state_of(repository: &Repository, pack: &ObjectInfo) -> anyhow::Result<ThawState> {
    let state = repository.store().thaw_state(&pack.key).await.map_err(|error| repository.needed(error))?;
    let now = repository.clock().now();
    let is_over = |until: Option<Timestamp>| until.is_some_and(|until| until <= now);
    Ok(match state {
        ThawState::Thawed { until } if is_over(until) => ThawState::Archived,
        other => other,
    })
}

/// Sees to it that these packs can be read: as [`Thawing`], and then waits for all of them, if it is told to.
///
/// Costs a listing of all packs of file data, and a look-up and a request for each archived one.
///
/// # Errors
///
/// As for [`Thawing::begin`] and [`Thawing::wait_for_all`].
pub async fn thaw_packs(
    repository: &Repository,
    packs: &BTreeSet<PackId>,
    options: &ThawOptions,
) -> anyhow::Result<()> {
    let states = pack_states(repository, PackClass::Data, packs).await?;
    Thawing::begin(repository, &states, options).await?.wait_for_all().await
}

/// Packs whose thaw has been asked for, all at once. Dropped, also while it is waited for, it takes nothing back.
#[derive(Debug)]
pub struct Thawing {
    repository: Repository,
    options: ThawOptions,
    days: u32,
    /// How many there are that may be archived.
    packs: usize,
    begun_at: Instant,
    expected_at: Timestamp,
    /// Those that could not be read when they were last looked at. Locked as long as somebody waits: who comes next knows then
    /// what he has found.
    waiting: Mutex<BTreeMap<PackId, ColdPack>>,
}

impl Thawing {
    /// Asks for the thaw of those that are archived and of which nobody has asked for it, all at once. These packs have just
    /// been looked at.
    ///
    /// # Errors
    ///
    /// [`NotThawed`] where some cannot be read yet, and there is no waiting. Otherwise the store's error.
    pub async fn begin(repository: &Repository, packs: &[PackState], options: &ThawOptions) -> anyhow::Result<Self> {
        let known: Vec<&PackState> = packs.iter().filter(|pack| is_cold(&pack.object)).collect();
        let cold: Vec<ColdPack> = known.iter().map(|pack| pack.object.clone()).collect();
        check_tier(&cold, options.tier)?;
        let days = days(bytes_of(&cold), options);
        let begun_at = Instant::now();
        let waiting = Wave { repository, options, days }.ask_known(&known).await?;
        let expected_at = expected_at(&waiting, options.tier, repository.clock().now());
        let (count, bytes) = (waiting.len(), ByteSize::from_bytes(bytes_of(&waiting)));
        let thawing = Self {
            repository: repository.clone(),
            options: options.clone(),
            days,
            packs: cold.len(),
            begun_at,
            expected_at,
            waiting: Mutex::new(by_id(waiting)),
        };
        if count > 0 && !options.wait {
            let waiting = thawing.waiting.lock().await;
            return Err(thawing.not_thawed(&waiting).into());
        }
        if count > 0 {
            tracing::info!(
                "{count} archived packs ({bytes}) are being thawed, which takes until {expected_at} at the latest; \
                 ending this run takes nothing back"
            );
        }
        Ok(thawing)
    }

    /// Waits until these packs can be read. What is not among those that were asked for is not waited for.
    ///
    /// Copies that have expired before they were read are asked for again.
    ///
    /// # Errors
    ///
    /// [`NotThawed`] where that takes longer, since all were asked for, than it may. Otherwise the store's error.
    pub async fn wait_for(&self, packs: &BTreeSet<PackId>) -> anyhow::Result<()> {
        let mut waiting = self.waiting.lock().await;
        let is_needed = |(id, _): &(&PackId, &ColdPack)| packs.contains(id);
        let mut needed: Vec<ColdPack> = waiting.iter().filter(is_needed).map(|(_, pack)| pack.clone()).collect();
        let wave = Wave { repository: &self.repository, options: &self.options, days: self.days };
        while !needed.is_empty() {
            let still = by_id(wave.ask_some(needed).await?);
            let before = waiting.len();
            waiting.retain(|id, _| !packs.contains(id) || still.contains_key(id));
            if waiting.len() < before {
                tracing::info!("{} of {} archived packs were found thawed", self.packs - waiting.len(), self.packs);
            }
            needed = still.into_values().collect();
            if !needed.is_empty() {
                self.pause(&waiting).await?;
            }
        }
        Ok(())
    }

    /// Waits until all of them can be read.
    ///
    /// # Errors
    ///
    /// As for [`wait_for`](Self::wait_for).
    pub async fn wait_for_all(&self) -> anyhow::Result<()> {
        let all = self.waiting.lock().await.keys().copied().collect();
        self.wait_for(&all).await
    }

    /// Lets some time pass, if there is any left.
    async fn pause(&self, waiting: &BTreeMap<PackId, ColdPack>) -> Result<(), NotThawed> {
        let left = self.options.timeout.saturating_sub(self.begun_at.elapsed());
        if left.is_zero() {
            return Err(self.not_thawed(waiting));
        }
        sleep(pause(self.begun_at.elapsed()).min(left)).await;
        Ok(())
    }

    fn not_thawed(&self, waiting: &BTreeMap<PackId, ColdPack>) -> NotThawed {
        NotThawed {
            waiting: waiting.len(),
            packs: self.packs,
            waiting_bytes: waiting.values().map(|pack| pack.size_bytes).sum(),
            expected_at: self.expected_at,
        }
    }
}

fn by_id(packs: Vec<ColdPack>) -> BTreeMap<PackId, ColdPack> {
    let with_id = |pack: ColdPack| Some((layout::parse_pack_key(&pack.key)?.1, pack));
    packs.into_iter().filter_map(with_id).collect()
}

/// Whether a pack is of a class whose objects may be archived.
fn is_cold(pack: &ObjectInfo) -> bool {
    pack.storage_class.as_ref().is_some_and(|class| class.is_archival() || class.may_archive())
}

async fn listed_packs(
    repository: &Repository,
    class: PackClass,
    packs: &BTreeSet<PackId>,
) -> anyhow::Result<Vec<ObjectInfo>> {
    if packs.is_empty() {
        return Ok(Vec::new());
    }
    let listed = list_all(repository.store().as_ref(), layout::packs(class)).await?;
    let is_needed =
        |object: &ObjectInfo| layout::parse_pack_key(&object.key).is_some_and(|(_, pack)| packs.contains(&pack));
    Ok(listed.into_iter().filter(is_needed).collect())
}

/// Refuses a tier that one of the classes does not know, before anything is asked for.
fn check_tier(packs: &[ColdPack], tier: ThawTier) -> anyhow::Result<()> {
    let unknown =
        packs.iter().filter_map(|pack| pack.storage_class.as_ref()).find(|class| tier.longest(class).is_none());
    if let Some(class) = unknown {
        anyhow::bail!("objects of class {class} know no {tier} thaw: choose another tier (--thaw-tier)");
    }
    Ok(())
}

fn bytes_of(packs: &[ColdPack]) -> u64 {
    packs.iter().map(|pack| pack.size_bytes).sum()
}

impl ThawOptions {
    /// For how many days copies of so many bytes are kept.
    #[must_use]
    pub fn days_for(&self, bytes: u64) -> u32 {
        days(bytes, self)
    }
}

/// For how many days copies are kept: as many as reading takes, one for what was thawed first, and one for rounding. Who
/// does not wait needs some more to come back.
fn days(bytes: u64, options: &ThawOptions) -> u32 {
    let rate = options.bytes_per_second.unwrap_or(ASSUMED_BYTES_PER_SECOND).max(1);
    let reading = u32::try_from((bytes / rate).div_ceil(DAY_SECONDS)).unwrap_or(u32::MAX);
    let spare = if options.wait { 2 } else { 5 };
    options.days.unwrap_or_else(|| reading.saturating_add(spare).min(365))
}

/// When the slowest of these packs should be thawed, if all were asked for now.
fn expected_at(packs: &[ColdPack], tier: ThawTier, now: Timestamp) -> Timestamp {
    let longest = packs.iter().filter_map(|pack| tier.longest(pack.storage_class.as_ref()?)).max().unwrap_or_default();
    // In whole minutes, as it is no more than a promise.
    let then = now.as_second().saturating_add(i64::try_from(longest.as_secs()).unwrap_or(i64::MAX));
    Timestamp::from_second(then - then.rem_euclid(60) + 60).unwrap_or(Timestamp::MAX)
}

/// How long not to look, after having waited for so long: a tenth of it, within bounds.
fn pause(waited: Duration) -> Duration {
    (waited / 10).clamp(SHORTEST_PAUSE, LONGEST_PAUSE)
}

/// One restore's requests.
struct Wave<'a> {
    repository: &'a Repository,
    options: &'a ThawOptions,
    days: u32,
}

impl Wave<'_> {
    /// Asks for all that are archived; gives those that cannot be read yet, in order.
    async fn ask_known(&self, packs: &[&PackState]) -> anyhow::Result<Vec<ColdPack>> {
        let ask = |pack: &PackState| self.ask_as(pack.object.clone(), pack.thaw);
        let asked = stream::iter(packs.iter().copied()).map(ask).buffered(REQUESTS_AT_ONCE);
        let waiting: Vec<Option<ColdPack>> = asked.try_collect().await?;
        Ok(waiting.into_iter().flatten().collect())
    }

    /// Asks for all that is neither thawed nor being thawed; gives those that cannot be read yet, in order.
    async fn ask(&self, packs: &[ColdPack]) -> anyhow::Result<Vec<ColdPack>> {
        let asked = stream::iter(packs.iter().cloned()).map(|pack| self.ask_one(pack)).buffered(REQUESTS_AT_ONCE);
        let waiting: Vec<Option<ColdPack>> = asked.try_collect().await?;
        Ok(waiting.into_iter().flatten().collect())
    }

    /// As [`Self::ask`], but stops where no pack is thawed any more: the others will hardly be either.
    async fn ask_some(&self, packs: Vec<ColdPack>) -> anyhow::Result<Vec<ColdPack>> {
        let mut waiting = Vec::new();
        for (number, some) in packs.chunks(REQUESTS_AT_ONCE).enumerate() {
            let still = self.ask(some).await?;
            let is_end = still.len() == some.len();
            waiting.extend(still);
            if is_end {
                waiting.extend_from_slice(packs.get((number + 1) * REQUESTS_AT_ONCE..).unwrap_or_default());
                break;
            }
        }
        Ok(waiting)
    }

    /// The pack, if it cannot be read yet.
    async fn ask_one(&self, pack: ColdPack) -> anyhow::Result<Option<ColdPack>> {
        let state = state_of(self.repository, &pack).await?;
        self.ask_as(pack, state).await
    }

    /// The pack, if it cannot be read yet, being in this state.
    async fn ask_as(&self, pack: ColdPack, state: ThawState) -> anyhow::Result<Option<ColdPack>> {
        match state {
            ThawState::Readable | ThawState::Thawed { .. } => return Ok(None),
            ThawState::Thawing => return Ok(Some(pack)),
            ThawState::Archived => {}
        }
        let stays = pack.storage_class.as_ref().is_some_and(StorageClassName::may_archive);
        let request = ThawRequest { days: (!stays).then_some(self.days), tier: self.options.tier };
        ensure!(request.days != Some(0), "a thaw for no days is none");
        let outcome = self.repository.store().request_thaw(&pack.key, request).await.context("asking for a thaw")?;
        Ok((outcome != ThawOutcome::NotNeeded).then_some(pack))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(wait: bool, days: Option<u32>, bytes_per_second: Option<u64>) -> ThawOptions {
        ThawOptions { wait, timeout: Duration::ZERO, tier: ThawTier::Bulk, days, bytes_per_second }
    }

    #[test]
    fn copies_are_kept_for_as_long_as_reading_may_take() {
        // 1 TiB at 4 MiB/s are 262,144 seconds: three days and some minutes.
        assert_eq!(days(1 << 40, &options(true, None, None)), 4 + 2);
        assert_eq!(days(1 << 40, &options(false, None, None)), 4 + 5);
        assert_eq!(days(1 << 40, &options(true, None, Some(40 << 20))), 1 + 2);
        assert_eq!(days(u64::MAX, &options(true, None, Some(1))), 365);
        assert_eq!(days(1 << 40, &options(true, Some(1), None)), 1);
    }

    #[test]
    fn it_is_looked_less_often_the_longer_it_takes() {
        let seconds = |waited| pause(Duration::from_secs(waited)).as_secs();
        assert_eq!([0, 9, 100, 1000, 100_000].map(seconds), [1, 1, 10, 100, 300]);
    }
}
