//! Tries out what a repository needs its store to promise.

use bytes::Bytes;
use jiff::Timestamp;

use crate::object::RECORD_LIMIT_BYTES;
use crate::records::session::SessionStart;
use crate::repository::session::WriteSession;
use crate::repository::{Repository, layout};
use crate::store::{Key, ObjectStore, PutOutcome, Tier, list_all};

/// What a store was found to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probed {
    /// When the object that had just been put was stored, by the store's clock; `None` if a listing did not show it.
    pub listed_at: Option<Timestamp>,
    /// Whether a second PUT of it was refused.
    pub keeps_what_is_there: bool,
}

/// Announces a session that stores nothing, looks whether it is seen, puts its start once more as it is, and ends it. What
/// stays are two small records, as after a run that was given up.
///
/// # Errors
///
/// If this program may not write to the repository, or the store fails.
pub async fn probe(repository: &Repository, start: SessionStart) -> anyhow::Result<Probed> {
    let session = WriteSession::start(repository.clone(), start).await?;
    let probed = examine(repository, &session).await;
    session.abandon().await?;
    probed
}

async fn examine(repository: &Repository, session: &WriteSession) -> anyhow::Result<Probed> {
    let (store, key) = (repository.store().as_ref(), layout::session_start_key(&session.id()));
    let listed = list_all(store, layout::SESSIONS).await?;
    let listed_at = listed.iter().find(|object| object.key == key).map(|object| object.modified_at);
    let stored = store.get(&key, RECORD_LIMIT_BYTES).await?;
    let keeps_what_is_there = is_kept(store, &key, stored).await?;
    Ok(Probed { listed_at, keeps_what_is_there })
}

/// Whether the store keeps the config when it is put once more, as it is.
///
/// # Errors
///
/// If the store fails.
pub async fn keeps_config(repository: &Repository) -> anyhow::Result<bool> {
    let (store, key) = (repository.store().as_ref(), layout::config_key(repository.config().number));
    let stored = store.get(&key, RECORD_LIMIT_BYTES).await?;
    is_kept(store, &key, stored).await
}

/// Puts an object once more, as it is, so that a store which overwrites does no harm.
async fn is_kept(store: &dyn ObjectStore, key: &Key, stored: Bytes) -> anyhow::Result<bool> {
    Ok(store.put(key, stored, Tier::Metadata).await? == PutOutcome::Exists)
}
