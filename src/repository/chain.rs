//! A backup with all it was made against, read past any cache.

use std::collections::{HashMap, HashSet};

use anyhow::Context;
use futures_util::stream::{self, StreamExt};

use crate::id::ManifestId;
use crate::object::{ObjectKind, decode_record};
use crate::records::manifest::Manifest;
use crate::repository::cache::RecordCache;
use crate::repository::catalog::{Published, check_link, read_manifest};
use crate::repository::session::READS_AT_ONCE;
use crate::repository::{Repository, layout};

/// Reads a backup with all it was made against past any cache, the full one first.
///
/// # Errors
///
/// If one of them does not count, or is damaged, or is another than the one it was made against, or the store fails.
pub async fn read_chain(repository: &Repository, id: ManifestId) -> anyhow::Result<Vec<Published>> {
    read_known_chain(repository, id, &RecordCache::none()).await
}

/// As [`read_chain`], but reads those together of which this host has copies. At a distance, one after another takes long.
///
/// # Errors
///
/// As there. The copies only tell what to read.
pub async fn read_known_chain(
    repository: &Repository,
    id: ManifestId,
    copies: &RecordCache,
) -> anyhow::Result<Vec<Published>> {
    let read = |id| async move { (id, read_manifest(repository, id).await) };
    let known = stream::iter(known_chain(id, copies)).map(read).buffered(READS_AT_ONCE);
    let mut at_hand: HashMap<ManifestId, anyhow::Result<Published>> = known.collect().await;
    let mut chain = vec![take(repository, id, &mut at_hand).await?];
    while let Some(parent) = chain.last().and_then(|last| last.manifest.parent.clone()) {
        let reading = || format!("reading a backup that {id} needs");
        let published = take(repository, parent.manifest, &mut at_hand).await.with_context(reading)?;
        check_link(&parent, &published, chain.len())?;
        chain.push(published);
    }
    chain.reverse();
    Ok(chain)
}

async fn take(
    repository: &Repository,
    id: ManifestId,
    at_hand: &mut HashMap<ManifestId, anyhow::Result<Published>>,
) -> anyhow::Result<Published> {
    match at_hand.remove(&id) {
        Some(read) => read,
        None => read_manifest(repository, id).await,
    }
}

/// The chain of a backup as far as copies tell it.
fn known_chain(id: ManifestId, copies: &RecordCache) -> Vec<ManifestId> {
    let copy = |id: &ManifestId| {
        let bytes = copies.get(&layout::manifest_key(id))?;
        decode_record::<Manifest>(ObjectKind::Manifest, &bytes).ok()
    };
    let parent = |id: &ManifestId| copy(id).and_then(|(_, manifest)| manifest.parent).map(|parent| parent.manifest);
    let mut seen = HashSet::new();
    std::iter::successors(Some(id), parent).take_while(|id| seen.insert(*id)).collect()
}
