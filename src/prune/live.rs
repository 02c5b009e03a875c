//! Which backups have to stay, with all that they were made against.

use std::collections::{HashMap, HashSet};

use anyhow::{Context, ensure};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use jiff::Timestamp;

use crate::id::{ManifestId, SessionId};
use crate::monitor::Monitor;
use crate::records::config::check_features;
use crate::records::manifest::{Manifest, Parent};
use crate::records::session::Outcome;
use crate::repository::cache::RecordCache;
use crate::repository::catalog::{Published, read_published};
use crate::repository::session::{READS_AT_ONCE, SessionEnd, list_sessions, read_outcome};
use crate::repository::{Damage, Repository, layout};
use crate::store::list_all;

/// The manifests of a repository, parted in two.
#[derive(Debug, Default)]
pub(super) struct Manifests {
    /// Those that have to stay.
    pub(super) live: Vec<Manifest>,
    /// Those that may go, as far as their objects are there.
    pub(super) going: Vec<ManifestId>,
    /// Sessions that were given up by prune.
    pub(super) void: HashSet<SessionId>,
    /// Sessions that had no end: their manifests, if they have published them since, are not among the live ones.
    pub(super) open: HashSet<SessionId>,
    /// When the first of these began, by the store's clock.
    pub(super) open_since: Option<Timestamp>,
}

/// Reads all manifests that have to stay: those that were published and that `may_go` does not name, and those that they
/// were made against. Sessions are listed before manifests, so that a manifest that counts is listed.
///
/// # Errors
///
/// If one of them, or the end of a session, cannot be read, or has to be pruned by a newer program; or the store fails.
pub(super) async fn list_manifests(
    repository: &Repository,
    cache: &RecordCache,
    monitor: &dyn Monitor,
    may_go: impl Fn(&ManifestId) -> bool,
) -> anyhow::Result<Manifests> {
    let sessions = list_sessions(repository).await?;
    let (open, open_since) = (sessions.open_ids().collect(), sessions.open_since);
    let ends = read_ends(repository, sessions.ended, cache).await?;
    let listed = list_all(repository.store().as_ref(), layout::MANIFESTS).await?;
    let listed: Vec<ManifestId> = listed.iter().filter_map(|object| layout::parse_manifest_key(&object.key)).collect();
    let there: HashSet<ManifestId> = listed.iter().copied().collect();
    // In the order of their ids, so that one state of the store always leads to the same requests.
    let mut published: Vec<ManifestId> = ends.iter().filter(|end| end.is_backup()).map(SessionOver::manifest).collect();
    published.sort_unstable();
    let wanted: Vec<ManifestId> = published.iter().copied().filter(|id| !may_go(id)).collect();
    let mut live = HashMap::new();
    let (wanted, gone): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|id| there.contains(id));
    ensure_forgotten(repository, &gone).await?;
    read_all(repository, wanted, cache, &mut live).await?;
    let published: HashSet<ManifestId> = published.into_iter().collect();
    read_ancestors(repository, &published, cache, monitor, &mut live).await?;
    let is_over: HashSet<ManifestId> = ends.iter().map(SessionOver::manifest).collect();
    // What belongs to a session that is open, or to none, is left alone.
    let goes = |id: &ManifestId| is_over.contains(id) && !live.contains_key(id);
    let going = listed.into_iter().filter(goes).collect();
    let void = ends.iter().filter(|end| end.end.outcome == Outcome::Void).map(|end| end.session).collect();
    let mut live: Vec<Manifest> = live.into_values().map(|published| published.manifest).collect();
    live.sort_by_key(Manifest::id);
    Ok(Manifests { live, going, void, open, open_since })
}

/// A session that has ended.
struct SessionOver {
    session: SessionId,
    end: SessionEnd,
}

impl SessionOver {
    fn is_backup(&self) -> bool {
        self.end.outcome == Outcome::Manifest
    }

    fn manifest(&self) -> ManifestId {
        self.session.into()
    }
}

async fn read_ends(
    repository: &Repository,
    ended: Vec<SessionId>,
    cache: &RecordCache,
) -> anyhow::Result<Vec<SessionOver>> {
    let read = |session| async move {
        let end = read_outcome(repository, session, cache).await;
        anyhow::Ok(SessionOver { session, end: end.context("a backup may have to stay that cannot be read")? })
    };
    stream::iter(ended).map(read).buffer_unordered(READS_AT_ONCE).try_collect().await
}

/// Checks that manifests which are not there are those of backups that were pruned earlier.
async fn ensure_forgotten(repository: &Repository, gone: &[ManifestId]) -> anyhow::Result<()> {
    if gone.is_empty() {
        return Ok(());
    }
    let markers = list_all(repository.store().as_ref(), layout::FORGOTTEN).await?;
    let forgotten: HashSet<ManifestId> =
        markers.iter().filter_map(|marker| layout::parse_forgotten_key(&marker.key)).collect();
    let Some(id) = gone.iter().find(|id| !forgotten.contains(id)) else { return Ok(()) };
    let object = format!("{}/{}", repository.store().url(), layout::manifest_key(id));
    let damage = Damage { object, reason: "it is not there".to_owned() };
    Err(anyhow::Error::new(damage).context(format!("nothing is pruned while backup {id} is damaged and not forgotten")))
}

/// Reads manifests that are there and adds them to `live`.
async fn read_all(
    repository: &Repository,
    ids: Vec<ManifestId>,
    cache: &RecordCache,
    live: &mut HashMap<ManifestId, Published>,
) -> anyhow::Result<()> {
    let read = |id: ManifestId| async move {
        let published = read_published(repository, id.into(), cache).await;
        let published = published.with_context(|| format!("nothing is pruned while backup {id} cannot be read"))?;
        published.with_context(|| format!("backup {id} was published and is not"))
    };
    let mut published = stream::iter(ids).map(read).buffer_unordered(READS_AT_ONCE);
    while let Some(published) = published.try_next().await? {
        let id = published.id();
        check_features("prune", &published.manifest.required_to_prune).with_context(|| format!("backup {id}"))?;
        live.insert(id, published);
    }
    Ok(())
}

/// Reads what the live ones were made against, until nothing is missing.
async fn read_ancestors(
    repository: &Repository,
    published: &HashSet<ManifestId>,
    cache: &RecordCache,
    monitor: &dyn Monitor,
    live: &mut HashMap<ManifestId, Published>,
) -> anyhow::Result<()> {
    let mut unknown = HashSet::new();
    loop {
        let parents = live.values().filter_map(|child| child.manifest.parent.as_ref().map(|parent| parent.manifest));
        let mut missing: Vec<ManifestId> =
            parents.filter(|id| !live.contains_key(id) && !unknown.contains(id)).collect();
        missing.sort_unstable();
        missing.dedup();
        if missing.is_empty() {
            break;
        }
        let (there, not): (Vec<_>, Vec<_>) = missing.into_iter().partition(|id| published.contains(id));
        for id in &not {
            monitor.problem(&format!("backup {id}, which others were made against, is not in the repository"));
        }
        unknown.extend(not);
        read_all(repository, there, cache, live).await?;
    }
    live.values().filter_map(|child| child.manifest.parent.as_ref()).try_for_each(|parent| check_parent(parent, live))
}

fn check_parent(parent: &Parent, live: &HashMap<ManifestId, Published>) -> anyhow::Result<()> {
    let is_it = live.get(&parent.manifest).is_none_or(|found| found.digest == parent.digest);
    ensure!(is_it, "backup {} is not the one that another was made against", parent.manifest);
    Ok(())
}
