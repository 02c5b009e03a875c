//! Sessions, as a prune has to do with them: those that it waits for, those that are dead, and its own.

use std::collections::HashSet;

use jiff::{SignedDuration, Timestamp};

use crate::backup::Host;
use crate::id::{PlanId, SessionId};
use crate::records::session::{Outcome, SessionStart};
use crate::repository::Repository;
use crate::repository::cache::RecordCache;
use crate::repository::plans;
use crate::repository::session::{OpenSession, REPAIR, WriteSession, find_start, list_sessions, void_session};

/// A session whose newest object is as old as this is dead.
const DEAD_AFTER: SignedDuration = SignedDuration::from_hours(30 * 24);

/// A session that has to end before a prune can go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitedFor {
    /// The session.
    pub session: SessionId,
    /// The host that writes it, if that can be read.
    pub host: Option<String>,
    /// What is backed up.
    pub subvolume: Option<String>,
    /// When it began, by the store's clock.
    pub since: Timestamp,
    /// When it was last heard of, by the store's clock.
    pub newest_at: Timestamp,
}

impl WaitedFor {
    fn new(open: OpenSession, start: Option<SessionStart>) -> Self {
        let (host, subvolume) = start.map(|start| (start.host, start.subvolume)).unzip();
        let OpenSession { id: session, began_at: since, newest_at } = open;
        Self { session, host, subvolume, since, newest_at }
    }
}

/// What a prune finds out about the store.
#[derive(Debug, Clone, Copy)]
pub(super) struct StoreFacts {
    /// What time it is by the store's clock, at least: that of hosts may be wrong by years.
    pub(super) now: Timestamp,
    /// Whether an object that is there is not stored again, so that one end of a session is its only one.
    pub(super) keeps_ends: bool,
}

/// Opens a session and ends it, and so learns how the store behaves.
///
/// # Errors
///
/// If the store fails.
pub(super) async fn try_store(repository: &Repository, host: &Host) -> anyhow::Result<StoreFacts> {
    let session = WriteSession::start(repository.clone(), host.session("prune", "")).await?;
    let newest_at = list_sessions(repository).await?.newest_at;
    session.abandon().await?;
    let keeps_ends = session.is_end_kept().await?;
    let now = newest_at.ok_or_else(|| anyhow::anyhow!("session {} was stored and is not listed", session.id()))?;
    Ok(StoreFacts { now, keeps_ends })
}

/// Gives up the sessions that are dead; says how many. Those of repairs stay unless `repairs_too`: they would go on deleting.
///
/// # Errors
///
/// If the store fails.
pub(super) async fn void_dead_sessions(
    repository: &Repository,
    now: Timestamp,
    repairs_too: bool,
    cache: &RecordCache,
) -> anyhow::Result<usize> {
    let open = list_sessions(repository).await?.open;
    let mut voided = 0;
    for session in open.iter().filter(|session| is_dead(session, now)) {
        let start = find_start(repository, session.id, cache).await?;
        if !repairs_too && start.is_some_and(|start| start.purpose == REPAIR) {
            continue;
        }
        let end = void_session(repository, session.id).await?;
        voided += usize::from(end.outcome == Outcome::Void);
    }
    Ok(voided)
}

fn is_dead(session: &OpenSession, now: Timestamp) -> bool {
    now.duration_since(session.newest_at) >= DEAD_AFTER
}

/// Repairs that are under way, beside which nothing is planned. A session of which it cannot be read what it is for may be
/// one.
///
/// # Errors
///
/// If the store fails.
pub(super) async fn open_repairs(repository: &Repository, cache: &RecordCache) -> anyhow::Result<Vec<WaitedFor>> {
    let mut repairs = Vec::new();
    for open in list_sessions(repository).await?.open {
        let start = find_start(repository, open.id, cache).await?;
        if start.as_ref().is_none_or(|start| start.purpose == REPAIR) {
            repairs.push(WaitedFor::new(open, start));
        }
    }
    Ok(repairs)
}

/// The sessions that a plan still waits for. Which those are is settled first if it is not yet, unless nothing is to be
/// changed: all that are open now, as the plan is there already.
///
/// # Errors
///
/// If the store fails, or a record of the plan is damaged.
pub(super) async fn waits_for(
    repository: &Repository,
    plan: PlanId,
    settle: bool,
    cache: &RecordCache,
) -> anyhow::Result<Vec<WaitedFor>> {
    let settled = if let Some(sessions) = plans::read_sessions(repository, plan).await? {
        sessions
    } else {
        let open: Vec<SessionId> = list_sessions(repository).await?.open_ids().collect();
        if settle { plans::settle_sessions(repository, plan, open).await? } else { open }
    };
    let settled: HashSet<SessionId> = settled.into_iter().collect();
    let mut waits_for = Vec::new();
    for open in list_sessions(repository).await?.open {
        if settled.contains(&open.id) {
            waits_for.push(WaitedFor::new(open, find_start(repository, open.id, cache).await?));
        }
    }
    Ok(waits_for)
}
