//! The backups of a repository.

use std::collections::{HashMap, HashSet};

use anyhow::Context;
use futures_util::stream::{self, StreamExt};
use jiff::Timestamp;
use serde::Deserialize;

use crate::id::{Digest, ManifestId, SessionId, SnapshotVersion, Uuid};
use crate::object::{FormatError, ObjectKind};
use crate::records::config::check_features;
use crate::records::manifest::{BackupKind, Manifest, Parent};
use crate::records::session::Outcome;
use crate::repository::cache::RecordCache;
use crate::repository::session::{READS_AT_ONCE, SessionEnd, list_sessions, read_outcome};
use crate::repository::{Damage, Repository, StoredAs, layout};
use crate::store::{Key, ObjectInfo, StoreError, StoreErrorKind, list_all};

pub use crate::repository::chain::{read_chain, read_known_chain};

/// No chain is longer; one that seems to be goes in a circle.
const CHAIN_LIMIT: usize = 100_000;

/// A backup that counts.
#[derive(Debug, Clone)]
pub struct Published {
    /// Its record.
    pub manifest: Manifest,
    /// BLAKE3 of the record's object.
    pub digest: Digest,
    /// Bytes of all objects the backup added.
    pub stored_bytes: u64,
}

impl Published {
    /// The backup as the parent of another, if it is one of a snapshot.
    #[must_use]
    pub fn as_parent(&self) -> Option<Parent> {
        let SnapshotVersion { uuid, ctransid } = self.manifest.version()?;
        Some(Parent { manifest: self.id(), digest: self.digest, uuid, ctransid })
    }

    /// The backup's id.
    #[must_use]
    pub fn id(&self) -> ManifestId {
        self.manifest.id()
    }
}

/// A backup that does not count any more, and whose manifest is still there.
#[derive(Debug, Clone)]
pub struct Forgotten {
    /// The backup.
    pub backup: Published,
    /// When it was forgotten, by the store's clock.
    pub forgotten_at: Timestamp,
}

/// All backups of a repository.
#[derive(Debug, Default)]
pub struct Catalog {
    /// Backups that can be read, oldest first.
    pub published: Vec<Published>,
    /// Backups that were forgotten, oldest first. Those that count may have been made against them.
    pub forgotten: Vec<Forgotten>,
    /// Backups that were forgotten and are gone, and when they were forgotten, by the store's clock: the first one first.
    pub pruned: Vec<(ManifestId, Timestamp)>,
    /// What is wrong with the others.
    pub damaged: Vec<anyhow::Error>,
    /// Manifests whose session has no end: never completed, or under way.
    pub unfinished: Vec<ManifestId>,
    /// Where each backup stands, counted over `published` and then `forgotten`.
    positions: HashMap<ManifestId, usize>,
    /// When each manifest was stored, by the store's clock.
    stored_at: HashMap<ManifestId, Timestamp>,
}

/// What the listings of a repository say of its manifests.
struct Listed {
    ended: HashSet<SessionId>,
    manifests: HashSet<ManifestId>,
    /// When each was forgotten.
    forgotten: HashMap<ManifestId, Timestamp>,
}

impl Catalog {
    /// Reads all manifests that count, and those that were forgotten and are still there.
    ///
    /// # Errors
    ///
    /// If the store fails. A damaged manifest is no error here: it stands in `damaged`.
    pub async fn load(repository: &Repository, cache: &RecordCache) -> anyhow::Result<Self> {
        let sessions = list_sessions(repository).await?;
        let list = |prefix| list_all(repository.store().as_ref(), prefix);
        let (manifests, forgotten) = tokio::try_join!(list(layout::MANIFESTS), list(layout::FORGOTTEN))?;
        let open: HashSet<SessionId> = sessions.open_ids().collect();
        let marker = |object: &ObjectInfo| Some((layout::parse_forgotten_key(&object.key)?, object.modified_at));
        let stored = |object: &ObjectInfo| Some((layout::parse_manifest_key(&object.key)?, object.modified_at));
        let stored_at: HashMap<ManifestId, Timestamp> = manifests.iter().filter_map(stored).collect();
        let listed = Listed {
            ended: sessions.ended.iter().copied().collect(),
            manifests: stored_at.keys().copied().collect(),
            forgotten: forgotten.iter().filter_map(marker).collect(),
        };
        let is_gone = |(id, _): &(&ManifestId, &Timestamp)| !listed.manifests.contains(*id);
        let mut pruned: Vec<_> = listed.forgotten.iter().filter(is_gone).map(|(id, at)| (*id, *at)).collect();
        pruned.sort_unstable_by_key(|(id, at)| (*at, *id));
        let unfinished = listed.manifests.iter().copied().filter(|id| open.contains(&SessionId::from(*id))).collect();
        let mut catalog = Self { pruned, unfinished, stored_at, ..Self::default() };
        catalog.read_all(repository, sessions.ended, &listed, cache).await?;
        let age = |backup: &Published| (backup.manifest.created_at, backup.id());
        catalog.published.sort_by_key(age);
        catalog.forgotten.sort_by_key(|forgotten| age(&forgotten.backup));
        catalog.positions = catalog.all().map(Published::id).zip(0..).collect();
        Ok(catalog)
    }

    async fn read_all(
        &mut self,
        repository: &Repository,
        ended: Vec<SessionId>,
        listed: &Listed,
        cache: &RecordCache,
    ) -> anyhow::Result<()> {
        // A forgotten one may be gone, as prune deletes them.
        let wanted = |id: &ManifestId| !listed.forgotten.contains_key(id) || listed.manifests.contains(id);
        // In the order they were listed in, so that one state of the store always leads to the same requests.
        let wanted = ended.into_iter().filter(|session| wanted(&ManifestId::from(*session)));
        let mut read = stream::iter(wanted)
            .map(|session| async move {
                let id = ManifestId::from(session);
                let is_listed = listed.manifests.contains(&id);
                let read = if is_listed {
                    read_both(repository, session, cache).await
                } else {
                    read_published(repository, session, cache).await
                };
                (id, read)
            })
            .buffer_unordered(READS_AT_ONCE);
        let mut unreadable = HashMap::new();
        while let Some((id, published)) = read.next().await {
            let published = published.and_then(|published| match published {
                // The copy on this host does not help anybody else.
                Some(backup) if !listed.manifests.contains(&backup.id()) => {
                    Err(missing(repository, &layout::manifest_key(&backup.id())))
                }
                other => Ok(other),
            });
            let forgotten_at = listed.forgotten.get(&id).copied();
            match published {
                // A prune may have deleted it since the markers were listed.
                Err(error) if is_damage(&error) && forgotten_at.is_none() && is_forgotten(repository, id).await? => {
                    unreadable.insert(id, error);
                }
                published => self.add(id, published, forgotten_at, &mut unreadable)?,
            }
        }
        drop(read);
        let lost = self.lost_ancestors(repository, listed, unreadable);
        self.damaged.extend(lost);
        Ok(())
    }

    fn add(
        &mut self,
        id: ManifestId,
        published: anyhow::Result<Option<Published>>,
        forgotten_at: Option<Timestamp>,
        unreadable: &mut HashMap<ManifestId, anyhow::Error>,
    ) -> anyhow::Result<()> {
        match (published, forgotten_at) {
            (Ok(None), _) => {}
            (Ok(Some(published)), None) => self.published.push(published),
            (Ok(Some(backup)), Some(forgotten_at)) => self.forgotten.push(Forgotten { backup, forgotten_at }),
            // A store that does not answer says nothing about the manifest.
            (Err(error), _) if error.downcast_ref::<StoreError>().is_some() => return Err(error),
            (Err(error), None) => self.damaged.push(error),
            // It only matters if another was made against it.
            (Err(error), Some(_)) => drop(unreadable.insert(id, error)),
        }
        Ok(())
    }

    /// What is wrong with backups that are needed by those that count: their end is gone, or they were forgotten and cannot
    /// be read any more. Others that have an end and cannot be read have been reported.
    fn lost_ancestors(
        &self,
        repository: &Repository,
        listed: &Listed,
        mut unreadable: HashMap<ManifestId, anyhow::Error>,
    ) -> Vec<anyhow::Error> {
        let forgotten: HashMap<ManifestId, &Published> =
            self.forgotten.iter().map(|forgotten| (forgotten.backup.id(), &forgotten.backup)).collect();
        let parent_of = |backup: &Published| backup.manifest.parent.as_ref().map(|parent| parent.manifest);
        let mut wanted: Vec<ManifestId> = self.published.iter().filter_map(parent_of).collect();
        let (mut seen, mut lost) = (HashSet::new(), Vec::new());
        while let Some(id) = wanted.pop() {
            if !seen.insert(id) {
                continue;
            }
            match forgotten.get(&id) {
                Some(backup) => wanted.extend(parent_of(backup)),
                None if !listed.ended.contains(&SessionId::from(id)) => {
                    lost.push(missing(repository, &layout::session_end_key(&id.into())));
                }
                None if listed.forgotten.contains_key(&id) => {
                    let unread = unreadable.remove(&id);
                    lost.push(unread.unwrap_or_else(|| missing(repository, &layout::manifest_key(&id))));
                }
                None => {}
            }
        }
        lost
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Published> {
        self.published.iter().chain(self.forgotten.iter().map(|forgotten| &forgotten.backup))
    }

    /// When a backup's manifest was stored, by the store's clock.
    #[must_use]
    pub fn stored_at(&self, id: ManifestId) -> Option<Timestamp> {
        self.stored_at.get(&id).copied()
    }

    /// A backup by its id, also one that was forgotten.
    #[must_use]
    pub fn find(&self, id: ManifestId) -> Option<&Published> {
        let position = *self.positions.get(&id)?;
        let forgotten = || Some(&self.forgotten.get(position - self.published.len())?.backup);
        self.published.get(position).or_else(forgotten).filter(|backup| backup.id() == id)
    }

    /// All that a backup was made against, the nearest first, also where that needs something that is not in the repository.
    ///
    /// # Errors
    ///
    /// If one of them is not there or is another than the one it was made against.
    pub fn ancestors<'a>(&'a self, backup: &'a Published) -> anyhow::Result<Vec<&'a Published>> {
        let (mut ancestors, mut last) = (Vec::new(), backup);
        while let Some(parent) = &last.manifest.parent {
            let found = self.find(parent.manifest);
            last = found.ok_or_else(|| anyhow::anyhow!("backup {} needs backup {}", last.id(), parent.manifest))?;
            check_link(parent, last, ancestors.len())?;
            ancestors.push(last);
        }
        Ok(ancestors)
    }

    /// A backup with all it was made against, the full one first. Ancestors that were forgotten are still there as long as
    /// a backup needs them.
    ///
    /// # Errors
    ///
    /// If one of them is not there or is another than the one it was made against.
    pub fn chain<'a>(&'a self, backup: &'a Published) -> anyhow::Result<Vec<&'a Published>> {
        let mut chain = self.ancestors(backup)?;
        chain.reverse();
        chain.push(backup);
        check_complete(&chain)?;
        Ok(chain)
    }

    /// The newest backup of a host's subvolume (of the only one there is, if none is named), not after a time.
    ///
    /// # Errors
    ///
    /// If there is none, or the repository has backups of several subvolumes and none is named.
    pub fn latest(
        &self,
        host: Option<&str>,
        subvolume: Option<&str>,
        at: Option<Timestamp>,
    ) -> anyhow::Result<&Published> {
        let wanted = |backup: &&Published| {
            subvolume.is_none_or(|name| backup.manifest.subvolume == name)
                && host.is_none_or(|name| backup.manifest.host == name)
        };
        let named: Vec<&Published> = self.published.iter().filter(wanted).collect();
        let sources: std::collections::BTreeSet<(&str, &str)> =
            named.iter().map(|backup| (backup.manifest.host.as_str(), backup.manifest.subvolume.as_str())).collect();
        if sources.len() > 1 {
            let sources: Vec<String> = sources.iter().map(|(host, name)| format!("'{name}' of host {host}")).collect();
            let text = format!("there are backups of {}: name one (--subvolume, --host)", sources.join(", "));
            return Err(UnclearBackup(text).into());
        }
        let early = |backup: &&&Published| at.is_none_or(|at| backup.manifest.created_at <= at);
        named.iter().rfind(early).copied().ok_or_else(|| {
            let of = subvolume.map_or(String::new(), |name| format!(" of '{name}'"));
            let until = at.map_or(String::new(), |at| format!(" from {at} or before"));
            anyhow::anyhow!("there is no backup{of}{until}: `btrfs_to_s3 list` shows what there is")
        })
    }
}

/// What was said does not name one backup, whatever the repository has.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UnclearBackup(String);

/// Finds the one manifest whose id begins with `prefix`.
///
/// # Errors
///
/// [`UnclearBackup`] if this is no id or several begin so; or if there is none, or the store fails.
pub async fn find_manifest(repository: &Repository, prefix: &str) -> anyhow::Result<ManifestId> {
    let hexadecimal = prefix.len() <= 32 && prefix.chars().all(|c| c.is_ascii_hexdigit());
    if prefix.is_empty() || !hexadecimal {
        return Err(UnclearBackup(format!("'{prefix}' is not a manifest id: `btrfs_to_s3 list` shows them")).into());
    }
    let lower = prefix.to_ascii_lowercase();
    let listed = list_all(repository.store().as_ref(), layout::MANIFESTS).await?;
    let ids = listed.iter().filter_map(|object| layout::parse_manifest_key(&object.key));
    let mut found: Vec<ManifestId> = ids.filter(|id| id.to_string().starts_with(&lower)).collect();
    if let (Ok(whole), true) = (lower.parse::<ManifestId>(), found.is_empty()) {
        let is_pruned = is_forgotten(repository, whole).await?;
        anyhow::ensure!(!is_pruned, "backup {whole} was forgotten, and a prune has deleted it");
        // Reading it tells whether it never was there or its object is missing.
        found.push(whole);
    }
    match found.as_slice() {
        [id] => Ok(*id),
        [] => anyhow::bail!("there is no backup {prefix}: `btrfs_to_s3 list` shows what there is"),
        several => {
            Err(UnclearBackup(format!("{} backups begin with {prefix}: give more of the id", several.len())).into())
        }
    }
}

/// What a program has to know to read a manifest.
#[derive(Deserialize)]
struct Needs {
    required_to_read: Vec<String>,
}

/// Whether a backup has been forgotten.
///
/// # Errors
///
/// If the store fails.
pub async fn is_forgotten(repository: &Repository, id: ManifestId) -> anyhow::Result<bool> {
    match repository.store().head(&layout::forgotten_key(&id)).await {
        Err(StoreError { kind: StoreErrorKind::NotFound, .. }) => Ok(false),
        Err(error) => Err(error.into()),
        Ok(_) => Ok(true),
    }
}

/// Checks that a backup has not been forgotten.
///
/// # Errors
///
/// If it has, or the store fails.
pub async fn check_not_forgotten(repository: &Repository, id: ManifestId) -> anyhow::Result<()> {
    let forgotten = is_forgotten(repository, id).await?;
    anyhow::ensure!(!forgotten, "backup {id} has been forgotten: `btrfs_to_s3 unforget {id}` brings it back");
    Ok(())
}

/// Reads a backup's manifest past any cache, if the backup counts.
///
/// # Errors
///
/// If it does not count, or is damaged, or the store fails.
pub async fn read_manifest(repository: &Repository, id: ManifestId) -> anyhow::Result<Published> {
    let session = SessionId::from(id);
    let read = read_both(repository, session, &RecordCache::none()).await;
    if read.as_ref().is_err_and(is_damage) {
        let end_key = layout::session_end_key(&session);
        if let Err(StoreError { kind: StoreErrorKind::NotFound, .. }) = repository.store().head(&end_key).await {
            anyhow::bail!("there is no completed backup {id}: {end_key} is not there");
        }
    }
    read?.ok_or_else(|| anyhow::anyhow!("there is no backup {id}: its run gave up"))
}

/// The backup whose stream gives what `backup` shows: itself, or the one that it says nothing has changed since.
///
/// # Errors
///
/// As for [`read_chain`].
pub async fn read_streamed(repository: &Repository, backup: Published) -> anyhow::Result<Published> {
    if backup.manifest.kind != BackupKind::Unchanged {
        return Ok(backup);
    }
    let mut chain = read_chain(repository, backup.id()).await?;
    chain.pop();
    chain.pop().context("what has not changed refers to another backup")
}

/// Checks that a chain needs nothing that is not in it.
fn check_complete(chain: &[&Published]) -> anyhow::Result<()> {
    let first = &chain[0].manifest;
    anyhow::ensure!(
        first.kind == BackupKind::Full,
        "backup {} was made against a snapshot that is not in the repository",
        first.id()
    );
    let mut present: HashSet<Uuid> = HashSet::new();
    for backup in chain {
        let manifest = &backup.manifest;
        present.extend(manifest.parent.as_ref().map(|parent| parent.uuid));
        let absent = manifest.requires.iter().find(|version| !present.contains(&version.uuid));
        if let Some(absent) = absent {
            anyhow::bail!("backup {} clones from {absent}, which is not in the repository", manifest.id());
        }
        present.extend(manifest.snapshot.as_ref().map(|snapshot| snapshot.uuid));
    }
    Ok(())
}

/// Checks that a backup is the one that its child was made against.
pub(super) fn check_link(parent: &Parent, found: &Published, position: usize) -> anyhow::Result<()> {
    anyhow::ensure!(position < CHAIN_LIMIT, "a chain of more than {CHAIN_LIMIT} backups is no chain");
    anyhow::ensure!(found.digest == parent.digest, "backup {} is not the one its child was made against", found.id());
    let has_stream = found.manifest.kind != BackupKind::Unchanged;
    anyhow::ensure!(has_stream, "backup {} has no stream that another could be made against", found.id());
    Ok(())
}

fn is_damage(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Damage>().is_some()
}

fn missing(repository: &Repository, key: &Key) -> anyhow::Error {
    let object = format!("{}/{key}", repository.store().url());
    Damage { object, reason: "it is not there".to_owned() }.into()
}

/// That a manifest needs features which this program does not know, if that is what is the matter with it.
async fn unknown_features(repository: &Repository, key: &Key) -> Option<anyhow::Error> {
    let no_check = |_: &Needs, _: &StoredAs| Ok(());
    let read = repository.read_record(ObjectKind::Manifest, key, &RecordCache::none(), no_check).await;
    let (needs, _) = read.ok()?;
    let unknown = check_features("read", &needs.required_to_read).err()?;
    Some(anyhow::Error::new(unknown).context(format!("reading {key}")))
}

/// As [`read_published`], but asks for both records at once, which takes one round trip instead of two. For sessions that
/// have published a backup, as far as is known: of others, it asks for something that is not there.
async fn read_both(
    repository: &Repository,
    session: SessionId,
    cache: &RecordCache,
) -> anyhow::Result<Option<Published>> {
    let cache = cache.with_memory();
    let (end, manifest) = (layout::session_end_key(&session), layout::manifest_key(&session.into()));
    tokio::try_join!(repository.read_ahead(&end, &cache), repository.read_ahead(&manifest, &cache))?;
    read_published(repository, session, &cache).await
}

/// Reads the backup of a session, if that has published one.
///
/// # Errors
///
/// If its end or manifest is damaged or missing, or the store fails.
pub(crate) async fn read_published(
    repository: &Repository,
    session: SessionId,
    cache: &RecordCache,
) -> anyhow::Result<Option<Published>> {
    let end = read_outcome(repository, session, cache).await?;
    if end.outcome != Outcome::Manifest {
        return Ok(None);
    }
    let SessionEnd { manifest_digest, bytes: end_bytes, .. } = end;
    let key = layout::manifest_key(&session.into());
    let check = |manifest: &Manifest, stored: &StoredAs| {
        let published = manifest.session == session && manifest_digest == Some(stored.digest);
        let error = || FormatError::invalid("it is not the manifest its session published");
        published.then_some(()).ok_or_else(error)
    };
    let (manifest, stored) = match repository.read_record(ObjectKind::Manifest, &key, cache, check).await {
        Ok(read) => read,
        // It may be of a form that only the features it needs explain.
        Err(error) => return Err(unknown_features(repository, &key).await.unwrap_or(error)),
    };
    check_features("read", &manifest.required_to_read).with_context(|| format!("reading {key}"))?;
    manifest.check_unchanged().map_err(|error| repository.fault(&key, &error))?;
    let own_bytes = stored.bytes.saturating_add(end_bytes);
    let stored_bytes = manifest.totals.stored_bytes.saturating_add(own_bytes);
    Ok(Some(Published { manifest, digest: stored.digest, stored_bytes }))
}
