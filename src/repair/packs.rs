//! Takes damaged packs out of the repository, and keeps what is right of them.

use std::sync::Arc;

use anyhow::Context;

use crate::backup::{BackupRun, Host};
use crate::codec::encode_frame;
use crate::id::{ChunkId, PackId};
use crate::monitor::{Monitor, SilentMonitor};
use crate::object::encode_cbor;
use crate::pack::format::{ChunkEntry, FrameKind, PackClass, PackRecord};
use crate::pack::writer::PackWriter;
use crate::repair::{SegmentWriter, end_repair};
use crate::repository::packs::{SalvagedFrame, salvage_pack};
use crate::repository::session::{REPAIR, WriteSession};
use crate::repository::{Repository, layout};

/// The level that frames are compressed with again which are not whole.
const LEVEL: i32 = 3;

/// What has become of a damaged pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackRepair {
    /// Its class.
    pub class: PackClass,
    /// Its id.
    pub pack: PackId,
    /// Chunks that are in a new pack now.
    pub kept: usize,
    /// Chunks that could not be read.
    pub lost: usize,
}

/// Puts the chunks of damaged packs that are right into new packs, and deletes the damaged ones: what was in them and is lost
/// counts as not known from now on, so that the next backup that has it stores it again. That heals older backups too.
///
/// A session of its own: new packs are put first, then their segment, then its end, and only then the damaged ones are
/// deleted. Until then a second session is open: a prune that finds it plans nothing. Otherwise it might delete a new pack
/// while a run builds on what is right of the damaged one. To be called with the host's lock held. Without a `host` it only
/// tells what would be done.
///
/// # Errors
///
/// If the store or the local disk fails.
pub async fn repair_packs(
    repository: &Repository,
    host: Option<&Host>,
    damaged: &[(PackClass, PackId)],
) -> anyhow::Result<Vec<PackRepair>> {
    let Some(host) = host else { return keep_all(repository, None, damaged).await };
    let silent: Arc<dyn Monitor> = Arc::new(SilentMonitor);
    let run = BackupRun::begin_for(REPAIR, repository, host, "", &silent).await?;
    let announced = match WriteSession::start(repository.clone(), host.session(REPAIR, "")).await {
        Ok(announced) => announced,
        Err(error) => {
            run.give_up().await;
            return Err(error);
        }
    };
    let kept = keep_all(repository, Some(run.session()), damaged).await;
    let replaced = match end_repair(run, kept).await {
        Ok(repairs) => delete_damaged(repository, &repairs).await.map(|()| repairs),
        Err(error) => Err(error),
    };
    announced.abandon().await?;
    replaced
}

/// Deletes damaged packs, but not those of which nothing is known: they may be worth something to somebody who looks at
/// their bytes.
async fn delete_damaged(repository: &Repository, repairs: &[PackRepair]) -> anyhow::Result<()> {
    for PackRepair { class, pack, .. } in repairs.iter().filter(|repair| repair.kept + repair.lost > 0) {
        let key = layout::pack_key(*class, pack);
        repository.store().delete(&key).await.with_context(|| format!("deleting {key}, which is damaged"))?;
    }
    Ok(())
}

async fn keep_all(
    repository: &Repository,
    session: Option<&WriteSession>,
    damaged: &[(PackClass, PackId)],
) -> anyhow::Result<Vec<PackRepair>> {
    let mut writer = SegmentWriter::new(session);
    let mut repairs = Vec::new();
    for (class, pack) in damaged {
        let frames = salvage_pack(repository, *class, *pack).await?;
        let kept = frames.iter().map(|frame| frame.chunks.len()).sum();
        let lost = frames.iter().map(|frame| frame.lost).sum();
        repairs.push(PackRepair { class: *class, pack: *pack, kept, lost });
        let (Some(session), true) = (session, kept > 0) else { continue };
        let record = put_pack(session, *class, &frames).await?;
        if *class == PackClass::Data {
            writer.push(put_copy_of_footer(session, &record).await?).await?;
        }
        writer.push(record).await?;
    }
    writer.flush().await?;
    Ok(repairs)
}

/// Stores a pack of what could be read.
async fn put_pack(session: &WriteSession, class: PackClass, frames: &[SalvagedFrame]) -> anyhow::Result<PackRecord> {
    let mut pack = new_pack(session, class);
    for frame in frames.iter().filter(|frame| !frame.chunks.is_empty()) {
        pack.push_frame(frame.kind, &encode_frame(&frame.plaintext, LEVEL), &frame.chunks);
    }
    let pack = pack.finish();
    let record = pack.record.clone();
    session.put_pack(pack).await?;
    Ok(record)
}

/// Stores the copy of a footer, by which the index can be made again.
async fn put_copy_of_footer(session: &WriteSession, record: &PackRecord) -> anyhow::Result<PackRecord> {
    let plaintext = encode_cbor(record);
    let length_bytes = u32::try_from(plaintext.len()).context("a footer is too long")?;
    let mut pack = new_pack(session, PackClass::Meta);
    let chunk = ChunkEntry { id: ChunkId::of(&plaintext), length_bytes };
    pack.push_frame(FrameKind::Footers, &encode_frame(&plaintext, LEVEL), &[chunk]);
    let pack = pack.finish();
    let record = pack.record.clone();
    session.put_pack(pack).await?;
    Ok(record)
}

fn new_pack(session: &WriteSession, class: PackClass) -> PackWriter {
    let repository = session.repository();
    PackWriter::new(repository.id(), session.id(), class, repository.draw_salt(), 0)
}
