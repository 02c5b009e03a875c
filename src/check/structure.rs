//! The objects of a repository beside each other: sessions, segments, packs.

use std::collections::{HashMap, HashSet};

use futures_util::stream::{self, StreamExt};

use crate::check::report::{Finding, Report, Severity};
use crate::id::{Digest, PackId, SessionId};
use crate::object::{FormatError, decode_cbor, encode_cbor};
use crate::pack::format::{Checksum, FrameKind, PackClass, PackRecord};
use crate::records::session::Outcome;
use crate::repository::cache::RecordCache;
use crate::repository::index::{PackSizes, list_packs, list_segments, read_listed_segment};
use crate::repository::packs::{read_frames, read_pack_footer};
use crate::repository::session::{READS_AT_ONCE, REPACK, SessionList, list_sessions, read_outcome, read_start};
use crate::repository::{Damage, Repository, layout, plans};

/// What the index says of a pack.
#[derive(Debug, Clone)]
pub(super) struct IndexedPack {
    pub(super) session: SessionId,
    pub(super) stored_bytes: u64,
    /// CRC-32C of the pack as the store was told at upload.
    pub(super) crc32c: Option<[u8; 4]>,
    /// BLAKE3 of the pack record's CBOR.
    pub(super) record: Digest,
}

/// The objects of a repository, as one look over them shows them.
#[derive(Debug, Default)]
pub(super) struct Structure {
    outcomes: HashMap<SessionId, Outcome>,
    /// Sessions that had ended when they were listed.
    ended: HashSet<SessionId>,
    /// Sessions of prunes, which have put into other packs what backups need.
    repacks: HashSet<SessionId>,
    pub(super) indexed: HashMap<(PackClass, PackId), IndexedPack>,
    /// Packs that are there, and their lengths.
    pub(super) listed: PackSizes,
}

impl Structure {
    /// Looks at sessions first, then at segments and packs: in this order, all that a session has stored which had ended
    /// is in the later listings.
    pub(super) async fn read(repository: &Repository, report: &mut Report) -> anyhow::Result<Self> {
        let mut structure = Self::default();
        let sessions = list_sessions(repository).await?;
        report.counts.sessions = (sessions.ended.len() + sessions.open.len()) as u64;
        structure.ended.extend(&sessions.ended);
        structure.starts_can_be_read(repository, &sessions, report).await?;
        structure.ends_can_be_read(repository, sessions.ended, report).await?;
        structure.segments_can_be_read(repository, report).await?;
        structure.listed = list_packs(repository).await?;
        structure.leave_deleted_packs_out(repository).await?;
        structure.packs_are_there_with_their_lengths(repository, report);
        Ok(structure)
    }

    /// Whether a session had ended before anything else was looked at.
    pub(super) fn had_ended(&self, session: SessionId) -> bool {
        self.ended.contains(&session)
    }

    /// The start of every session can be read: it says whose it is.
    async fn starts_can_be_read(
        &mut self,
        repository: &Repository,
        sessions: &SessionList,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let ids = sessions.ended.iter().copied().chain(sessions.open_ids());
        let read = |id| async move { (id, read_start(repository, id, &RecordCache::none()).await) };
        let mut reads = stream::iter(ids).map(read).buffer_unordered(READS_AT_ONCE);
        while let Some((id, read)) = reads.next().await {
            match read {
                Ok(start) if start.purpose == REPACK => drop(self.repacks.insert(id)),
                Ok(_) => {}
                Err(error) => report.add_damage("starts_can_be_read", error)?,
            }
        }
        Ok(())
    }

    /// The end of every session that has one can be read.
    async fn ends_can_be_read(
        &mut self,
        repository: &Repository,
        ended: Vec<SessionId>,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let no_cache = &RecordCache::none();
        let read = |session| async move { (session, read_outcome(repository, session, no_cache).await) };
        let mut ends = stream::iter(ended).map(read).buffer_unordered(READS_AT_ONCE);
        while let Some((session, end)) = ends.next().await {
            match end {
                Ok(end) => drop(self.outcomes.insert(session, end.outcome)),
                // Whether a backup is lost with it is seen where the manifests are read.
                Err(error) => report.add_damage("ends_can_be_read", error)?,
            }
        }
        Ok(())
    }

    /// Every index segment can be read.
    async fn segments_can_be_read(&mut self, repository: &Repository, report: &mut Report) -> anyhow::Result<()> {
        let segments = list_segments(repository).await?;
        report.counts.segments = segments.len() as u64;
        let mut read = stream::iter(segments).map(|id| read_listed_segment(repository, id)).buffer_unordered(2);
        while let Some(segment) = read.next().await {
            let segment = match segment {
                Ok(Some(segment)) => segment,
                // It has been replaced, or names nothing any more that is there.
                Ok(None) => continue,
                Err(error) => {
                    report.add_damage("segments_can_be_read", error)?;
                    continue;
                }
            };
            let counts = matches!(self.outcomes.get(&segment.session), Some(Outcome::Manifest | Outcome::None));
            for record in segment.packs.iter().filter(|_| counts) {
                let (class, stored_bytes) = (record.footer.class, record.stored_bytes);
                // What a prune has merged is of the sessions that have stored it.
                let is_merged = self.repacks.contains(&segment.session);
                let session = if is_merged { record.footer.session } else { segment.session };
                let crc32c = record.checksum.as_ref().and_then(Checksum::crc32c);
                let indexed = IndexedPack { session, stored_bytes, crc32c, record: digest_of(record) };
                self.indexed.insert((class, record.id), indexed);
            }
        }
        Ok(())
    }

    /// Leaves out what prunes have deleted, or are deleting: segments may name it beside packs that stay.
    async fn leave_deleted_packs_out(&mut self, repository: &Repository) -> anyhow::Result<()> {
        // After the packs: the final list that names one was there before that was deleted.
        for pack in plans::deleted_packs(repository, &RecordCache::none()).await? {
            self.indexed.remove(&pack);
            self.listed.remove(&pack);
        }
        Ok(())
    }

    /// Every pack that a segment speaks of is there, with the length that it says.
    fn packs_are_there_with_their_lengths(&self, repository: &Repository, report: &mut Report) {
        let url = repository.store().url();
        report.counts.packs = self.listed.len() as u64;
        report.counts.packs_unused = self.listed.keys().filter(|pack| !self.indexed.contains_key(pack)).count() as u64;
        let mut indexed: Vec<_> = self.indexed.iter().collect();
        indexed.sort_unstable_by_key(|(pack, _)| **pack);
        for ((class, pack), indexed) in indexed {
            let reason = match self.listed.get(&(*class, *pack)) {
                Some(size) if *size == indexed.stored_bytes => continue,
                Some(size) => format!("it has {size} bytes, and the index says {}", indexed.stored_bytes),
                None => "it is not there, and the index names it".to_owned(),
            };
            report.findings.push(Finding {
                // Whether a backup needs it is seen where their trees are read.
                severity: Severity::Flaw,
                invariant: "packs_are_there_with_their_lengths",
                object: format!("{url}/{}", layout::pack_key(*class, pack)),
                reason,
            });
        }
    }
}

fn digest_of(record: &PackRecord) -> Digest {
    Digest::of(&encode_cbor(record))
}

/// Every data pack of a session that has published a backup, or has rewritten packs, has a copy of its footer in a metadata
/// pack, by which the index can be made again.
pub(super) async fn footers_have_copies(
    repository: &Repository,
    structure: &Structure,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut copied: HashSet<PackId> = HashSet::new();
    let mut packs: Vec<PackId> =
        structure.listed.keys().filter(|(class, _)| *class == PackClass::Meta).map(|(_, pack)| *pack).collect();
    packs.sort_unstable();
    let read = |pack| async move { (pack, read_footer_copies(repository, pack).await) };
    let mut reads = stream::iter(packs).map(read).buffer_unordered(READS_AT_ONCE);
    while let Some((pack, records)) = reads.next().await {
        let records = match records {
            Ok(records) => records,
            Err(error) => {
                report.add_damage("metadata_packs_can_be_read", error)?;
                continue;
            }
        };
        for record in records {
            match structure.indexed.get(&(PackClass::Data, record.id)) {
                Some(indexed) if indexed.record != digest_of(&record) => report.findings.push(Finding {
                    severity: Severity::Flaw,
                    invariant: "footers_have_copies",
                    object: format!("{}/{}", repository.store().url(), layout::pack_key(PackClass::Meta, &pack)),
                    reason: format!("its copy of the footer of data pack {} is not what the index says", record.id),
                }),
                _ => drop(copied.insert(record.id)),
            }
        }
    }
    for ((class, pack), indexed) in &structure.indexed {
        let published = structure.outcomes.get(&indexed.session) == Some(&Outcome::Manifest);
        let must_have = published || structure.repacks.contains(&indexed.session);
        if *class == PackClass::Data && must_have && !copied.contains(pack) {
            report.findings.push(Finding {
                severity: Severity::Flaw,
                invariant: "footers_have_copies",
                object: format!("{}/{}", repository.store().url(), layout::pack_key(*class, pack)),
                reason: "no metadata pack has a copy of its footer".to_owned(),
            });
        }
    }
    Ok(())
}

/// Reads the pack records of data packs that a metadata pack has.
pub(crate) async fn read_footer_copies(repository: &Repository, pack: PackId) -> anyhow::Result<Vec<PackRecord>> {
    let footer = std::sync::Arc::new(read_pack_footer(repository, PackClass::Meta, pack).await?);
    let mut records = Vec::new();
    for (number, frame) in footer.frames.iter().enumerate().filter(|(_, frame)| frame.kind == FrameKind::Footers) {
        let opened = read_frames(repository, pack, &footer, number..number + 1).await?;
        for chunk in &footer.chunks[frame.chunks.clone()] {
            let bytes = opened.first().and_then(|opened| opened.chunk(&chunk.id));
            let record = bytes.ok_or(FormatError::HashMismatch).and_then(|bytes| decode_cbor(&bytes));
            let key = layout::pack_key(PackClass::Meta, &pack);
            records.push(record.map_err(|error| repository.fault(&key, &error))?);
        }
    }
    Ok(records)
}

impl Report {
    /// Adds what is wrong with an object that nothing may be lost with; any other error is passed on.
    pub(super) fn add_damage(&mut self, invariant: &'static str, error: anyhow::Error) -> anyhow::Result<()> {
        let Damage { object, reason } = error.downcast::<Damage>()?;
        self.findings.push(Finding { severity: Severity::Flaw, invariant, object, reason });
        Ok(())
    }
}
