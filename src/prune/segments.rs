//! Merges index segments, so that they are few and name what is there.
//!
//! `docs/ordering.md`, "Index segments". In a session of its own, which has ended before the plan is put that names the old
//! segments.

mod choose;

use std::collections::{BTreeMap, HashSet};

use anyhow::{Context, ensure};

use crate::backup::send_beats;
use crate::id::SegmentId;
use crate::index::Segment;
use crate::pack::format::PackRecord;
use crate::prune::limits::MaxUnused;
use crate::prune::mark::MarkedPack;
use crate::prune::plan::{Observed, Pack};
use crate::prune::repack::{Repacking, give_up};
use crate::prune::report::{Amount, Merged};
use crate::prune::sessions::open_repairs;
use crate::records::prune::{Doomed, PLAN_LIMIT_OBJECTS};
use crate::records::session::Outcome;
use crate::repository::Damage;
use crate::repository::index::read_listed_segment;
use crate::repository::session::{REPACK, WriteSession};
use crate::store::StoreError;
use choose::{SegmentUse, choose_segments};

/// Merges what pays, and puts the segments that have been replaced on the list of what is deleted. When this returns, the new
/// ones count.
///
/// In memory are one segment that is read and one that is made.
///
/// # Errors
///
/// If the session was given up by another prune. That the store fails is a problem, and all segments stay.
pub(super) async fn merge_segments(
    repacking: &Repacking<'_>,
    marked: &[MarkedPack],
    observed: &Observed<'_>,
    doomed: &mut Doomed,
) -> anyhow::Result<Merged> {
    if repacking.options.max_unused == MaxUnused::Unlimited {
        return Ok(Merged::default());
    }
    let mut chosen = choose_segments(&segments_in_use(marked, observed, doomed), &repacking.options.merging);
    chosen.truncate(PLAN_LIMIT_OBJECTS.saturating_sub(doomed.count()));
    // Beside a repair no plan would follow.
    if chosen.is_empty() || !open_repairs(repacking.repository, &repacking.host.cache).await?.is_empty() {
        return Ok(Merged::default());
    }
    if repacking.dry_run {
        doomed.segments.extend(chosen.iter().map(|segment| segment.id));
        return Ok(Merged { replaced: total(&chosen), new: Amount::default() });
    }
    let gone: HashSet<Pack> = doomed.packs().collect();
    let stays = |pack: &Pack| observed.listed.contains_key(pack) && !gone.contains(pack);
    match merge(repacking, &chosen, stays).await {
        Ok((replaced, new)) => {
            doomed.segments.extend(replaced.iter().map(|segment| segment.id));
            Ok(Merged { replaced: total(&replaced), new })
        }
        Err(error) if error.downcast_ref::<StoreError>().is_some() => {
            repacking.monitor.problem(&format!("merging index segments: {error:#}: they stay as they are"));
            Ok(Merged::default())
        }
        Err(error) => Err(error.context("merging index segments")),
    }
}

fn total(segments: &[SegmentUse]) -> Amount {
    let mut total = Amount::default();
    for segment in segments {
        total.add(segment.size_bytes);
    }
    total
}

/// The segments that count and that nobody means to delete, oldest first.
fn segments_in_use(marked: &[MarkedPack], observed: &Observed<'_>, doomed: &Doomed) -> Vec<SegmentUse> {
    let going: HashSet<&SegmentId> = doomed.segments.iter().collect();
    let gone: HashSet<Pack> = doomed.packs().collect();
    let mut uses: BTreeMap<SegmentId, SegmentUse> = BTreeMap::new();
    let stays = |id: &SegmentId| !going.contains(id) && !observed.named.has_segment(id);
    for marked in marked.iter().filter(|marked| stays(&marked.segment.id)) {
        let id = marked.segment.id;
        let Some(listed) = observed.listed_segments.get(&id) else { continue };
        let pack = (marked.pack.class, marked.pack.id);
        let segment = uses.entry(id).or_insert(SegmentUse { id, size_bytes: listed.size_bytes, packs: 0, gone: 0 });
        segment.packs += 1;
        segment.gone += u64::from(gone.contains(&pack) || !observed.listed.contains_key(&pack));
    }
    let mut uses: Vec<SegmentUse> = uses.into_values().collect();
    uses.sort_by_key(|segment| {
        (observed.listed_segments.get(&segment.id).map(|listed| listed.modified_at), segment.id)
    });
    uses
}

/// Puts what segments say of packs that stay into new ones; gives those that can go for it, and what was put.
async fn merge(
    repacking: &Repacking<'_>,
    chosen: &[SegmentUse],
    stays: impl Fn(&Pack) -> bool,
) -> anyhow::Result<(Vec<SegmentUse>, Amount)> {
    let session = WriteSession::start(repacking.repository.clone(), repacking.host.session(REPACK, "")).await?;
    let mut writer = MergedWriter::new(&session, repacking.options.merging.segment_chunks);
    let merged = tokio::select! {
        merged = merge_into(&mut writer, chosen, stays) => merged,
        never = send_beats(&session) => match never {},
    };
    let new = writer.new;
    let replaced = match merged {
        Ok(replaced) => replaced,
        Err(error) => {
            give_up(&session).await;
            return Err(error);
        }
    };
    let end = session.abandon().await?;
    ensure!(
        end.outcome != Outcome::Void,
        "session {} was given up by another prune: nothing is replaced",
        session.id()
    );
    Ok((replaced, new))
}

/// Reads segments one after another. One that is gone has been replaced by another prune; one that is damaged stays.
async fn merge_into(
    writer: &mut MergedWriter<'_>,
    chosen: &[SegmentUse],
    stays: impl Fn(&Pack) -> bool,
) -> anyhow::Result<Vec<SegmentUse>> {
    let mut seen = HashSet::new();
    let mut replaced = Vec::new();
    for segment in chosen {
        let read = match read_listed_segment(writer.session.repository(), segment.id).await {
            Ok(Some(read)) => read,
            Ok(None) => continue,
            Err(error) if error.downcast_ref::<Damage>().is_some() => {
                tracing::debug!(error = %format!("{error:#}"), "it is not merged");
                continue;
            }
            Err(error) => return Err(error),
        };
        for record in read.packs {
            let pack = (record.footer.class, record.id);
            if stays(&pack) && seen.insert(pack) {
                writer.push(record).await?;
            }
        }
        replaced.push(*segment);
    }
    writer.flush().await?;
    Ok(replaced)
}

/// Packs that are to be put into a new segment.
struct MergedWriter<'a> {
    session: &'a WriteSession,
    chunks_max: usize,
    packs: Vec<PackRecord>,
    chunks: usize,
    new: Amount,
}

impl<'a> MergedWriter<'a> {
    fn new(session: &'a WriteSession, chunks_max: usize) -> Self {
        Self { session, chunks_max, packs: Vec::new(), chunks: 0, new: Amount::default() }
    }

    async fn push(&mut self, record: PackRecord) -> anyhow::Result<()> {
        let chunks = record.footer.chunks.len();
        if self.chunks + chunks > self.chunks_max {
            self.flush().await?;
        }
        self.chunks += chunks;
        self.packs.push(record);
        Ok(())
    }

    async fn flush(&mut self) -> anyhow::Result<()> {
        let packs = std::mem::take(&mut self.packs);
        self.chunks = 0;
        if packs.is_empty() {
            return Ok(());
        }
        let before = self.session.stored_bytes();
        let segment = Segment { session: self.session.id(), packs };
        self.session.put_segment(&segment).await.context("storing an index segment")?;
        self.new.add(self.session.stored_bytes() - before);
        Ok(())
    }
}
