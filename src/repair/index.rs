//! Makes the index again from the footers of packs and from their copies in metadata packs.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use anyhow::Context;

use crate::backup::{BackupRun, Host};
use crate::check::{read_blocks, read_footer_copies};
use crate::id::{PackId, SegmentId, SessionId, TableId};
use crate::index::table::Table;
use crate::monitor::{Monitor, SilentMonitor};
use crate::pack::format::{PackClass, PackRecord};
use crate::repair::{SegmentWriter, end_repair};
use crate::repository::cache::RecordCache;
use crate::repository::index::{PackSizes, list_packs, list_segments, read_segment};
use crate::repository::listing::{list_index, sessions_that_count};
use crate::repository::packs::read_pack_footer;
use crate::repository::session::{REPAIR, WriteSession, list_sessions};
use crate::repository::tables::read_table;
use crate::repository::{Damage, Repository, layout, plans};
use crate::store::is_archived;

/// What is wrong with the index, and was mended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IndexRepair {
    /// Packs that the index did not know.
    pub added: BTreeSet<(PackClass, PackId)>,
    /// Packs that the index knew, and that are gone or have another length.
    pub lost: BTreeSet<(PackClass, PackId)>,
    /// Packs that the index does not know and of which no footer can be read, with the reason.
    pub unreadable: Vec<((PackClass, PackId), String)>,
    /// Segments that cannot be read, or that name packs which are lost; what is right of them is in new ones.
    pub replaced: Vec<SegmentId>,
    /// Look-up tables that cannot be read, or some of whose blocks cannot. They are deleted; the next prune makes others.
    pub tables: Vec<TableId>,
}

impl IndexRepair {
    /// Whether nothing has to be done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.lost.is_empty() && self.replaced.is_empty() && self.tables.is_empty()
    }
}

/// Makes the index name exactly the packs that are there, of sessions that have ended.
///
/// Reads the index, and, for packs that it does not know, the copies of their footers; a data pack itself only where there
/// is no copy. A session of its own: new segments are put first, then its end, then those that they replace are deleted.
/// To be called with the host's lock held. Without a `host` it only tells what would be done.
///
/// # Errors
///
/// If the store or the local disk fails.
pub async fn repair_index(repository: &Repository, host: Option<&Host>) -> anyhow::Result<IndexRepair> {
    let Some(host) = host else { return survey(repository, None).await };
    // What is wrong with the index is what this is about.
    let silent: Arc<dyn Monitor> = Arc::new(SilentMonitor);
    let run = BackupRun::begin_for(REPAIR, repository, host, "", &silent).await?;
    let repaired = survey(repository, Some(run.session())).await;
    // Only when it has ended the new segments count.
    let repair = end_repair(run, repaired).await?;
    for segment in &repair.replaced {
        let key = layout::segment_key(segment);
        repository.store().delete(&key).await.with_context(|| format!("deleting {key}, which was replaced"))?;
    }
    for table in &repair.tables {
        let key = layout::table_key(table);
        repository.store().delete(&key).await.with_context(|| format!("deleting {key}, which is damaged"))?;
    }
    Ok(repair)
}

/// Looks at everything in the order of a backup, and stores segments for what the index does not know.
async fn survey(repository: &Repository, session: Option<&WriteSession>) -> anyhow::Result<IndexRepair> {
    let ended = list_sessions(repository).await?.ended;
    // One whose end is damaged does not count, which is not about the index.
    let counting = sessions_that_count(repository, ended, &RecordCache::none(), &SilentMonitor).await?;
    let segments = list_segments(repository).await?;
    let listed = list_packs(repository).await?;
    // After the packs: the final list that names one was there before that was deleted.
    let deleted = plans::deleted_packs(repository, &RecordCache::none()).await?;
    let mut repair = IndexRepair::default();
    let mut writer = SegmentWriter::new(session);
    let there = There { listed: &listed, deleted: &deleted };
    let known = keep_what_is_right(repository, &segments, &counting, there, &mut writer, &mut repair).await?;
    let is_unknown = |pack: &(PackClass, PackId)| !known.contains(pack) && !deleted.contains(pack);
    let unknown: BTreeSet<_> = listed.keys().copied().filter(is_unknown).collect();
    add_unknown(repository, unknown, &counting, &listed, &mut writer, &mut repair).await?;
    writer.flush().await?;
    repair.lost.retain(|pack| !repair.added.contains(pack));
    repair.tables = damaged_tables(repository).await?;
    Ok(repair)
}

/// The look-up tables that cannot be read as a whole.
async fn damaged_tables(repository: &Repository) -> anyhow::Result<Vec<TableId>> {
    let mut damaged = Vec::new();
    for id in list_index(repository).await?.tables {
        let read = async {
            for object in read_table(repository, id).await?.iter().flat_map(Table::objects) {
                read_blocks(repository, object).await?;
            }
            anyhow::Ok(())
        };
        match read.await {
            Ok(()) => {}
            Err(error) if error.downcast_ref::<Damage>().is_some() => damaged.push(id),
            Err(error) => return Err(error),
        }
    }
    Ok(damaged)
}

/// Which packs there are.
#[derive(Debug, Clone, Copy)]
struct There<'a> {
    listed: &'a PackSizes,
    /// Those that prunes have deleted, or are deleting: a segment may name them beside others that stay.
    deleted: &'a HashSet<(PackClass, PackId)>,
}

/// Gives the packs that the index knows rightly. What is right of segments that are not quite is stored again.
async fn keep_what_is_right(
    repository: &Repository,
    segments: &[SegmentId],
    counting: &HashSet<SessionId>,
    there: There<'_>,
    writer: &mut SegmentWriter<'_>,
    repair: &mut IndexRepair,
) -> anyhow::Result<HashSet<(PackClass, PackId)>> {
    let mut known = HashSet::new();
    for id in segments {
        let segment = match read_segment(repository, *id).await {
            Ok(segment) => segment,
            Err(error) if error.downcast_ref::<Damage>().is_some() => {
                repair.replaced.push(*id);
                continue;
            }
            Err(error) => return Err(error),
        };
        if !counting.contains(&segment.session) {
            continue;
        }
        let pack_of = |record: &PackRecord| (record.footer.class, record.id);
        let is_there = |record: &PackRecord| there.listed.get(&pack_of(record)) == Some(&record.stored_bytes);
        let is_of_interest = |record: &PackRecord| !there.deleted.contains(&pack_of(record));
        let (right, lost): (Vec<_>, Vec<_>) = segment.packs.into_iter().filter(is_of_interest).partition(is_there);
        known.extend(right.iter().map(pack_of));
        if !lost.is_empty() {
            repair.replaced.push(*id);
            repair.lost.extend(lost.iter().map(pack_of));
            for record in right {
                writer.push(record).await?;
            }
        }
    }
    Ok(known)
}

/// Adds packs that the index does not know, if they are of sessions that count.
async fn add_unknown(
    repository: &Repository,
    mut unknown: BTreeSet<(PackClass, PackId)>,
    counting: &HashSet<SessionId>,
    listed: &PackSizes,
    writer: &mut SegmentWriter<'_>,
    repair: &mut IndexRepair,
) -> anyhow::Result<()> {
    if unknown.iter().any(|(class, _)| *class == PackClass::Data) {
        let metas = listed.keys().filter(|(class, _)| *class == PackClass::Meta).map(|(_, pack)| *pack);
        for meta in metas.collect::<BTreeSet<_>>() {
            let copies = match read_footer_copies(repository, meta).await {
                Ok(copies) => copies,
                Err(error) if error.downcast_ref::<Damage>().is_some() => continue,
                Err(error) => return Err(error),
            };
            for record in copies {
                let pack = (PackClass::Data, record.id);
                let fits = listed.get(&pack) == Some(&record.stored_bytes);
                if fits && counting.contains(&record.footer.session) && unknown.remove(&pack) {
                    repair.added.insert(pack);
                    writer.push(record).await?;
                }
            }
        }
    }
    for (class, id) in unknown {
        match read_pack_footer(repository, class, id).await {
            Ok(footer) if counting.contains(&footer.session) => {
                repair.added.insert((class, id));
                let stored_bytes = listed.get(&(class, id)).copied().unwrap_or_default();
                writer.push(PackRecord { id, stored_bytes, checksum: None, footer }).await?;
            }
            // Of a run that is under way, or that prune has given up.
            Ok(_) => {}
            Err(error) if is_unreadable(&error) => repair.unreadable.push(((class, id), format!("{error:#}"))),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn is_unreadable(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Damage>().is_some() || is_archived(error)
}
