//! The records of a prune: what it plans to delete, whom it waits for, what it deletes.
//!
//! `docs/format.md`, "`prune/<plan>/…`"; `docs/ordering.md`, "Prune".

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::id::{ManifestId, PackId, PlanId, SegmentId, SessionId};
use crate::object::FormatError;
use crate::pack::format::PackClass;

/// A list never names more objects than this, so that it is below the limit of a record.
pub const PLAN_LIMIT_OBJECTS: usize = 400_000;

/// What one of a prune's objects says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "StoredRecord", try_from = "StoredRecord")]
pub struct PruneRecord {
    /// The plan.
    pub plan: PlanId,
    /// What the record is.
    pub event: PruneEvent,
    /// When it was made, by the pruner's clock.
    pub at: Timestamp,
    /// What is to be deleted; empty in the record of sessions.
    pub objects: Doomed,
    /// The sessions that the plan waits for; empty in the others.
    pub sessions: Vec<SessionId>,
    /// The program that wrote it.
    pub tool: String,
}

/// What a record of a prune is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PruneEvent {
    /// What is going to be deleted unless it turns out to be needed.
    Plan,
    /// The sessions that were open after the plan had been put.
    Sessions,
    /// What is deleted.
    Final,
}

/// Objects that a prune deletes, or is going to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Doomed {
    /// Packs of file data.
    pub data_packs: Vec<PackId>,
    /// Packs of metadata.
    pub meta_packs: Vec<PackId>,
    /// Index segments.
    pub segments: Vec<SegmentId>,
    /// Manifests.
    pub manifests: Vec<ManifestId>,
}

impl Doomed {
    /// How many these are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.data_packs.len() + self.meta_packs.len() + self.segments.len() + self.manifests.len()
    }

    /// All packs.
    pub fn packs(&self) -> impl Iterator<Item = (PackClass, PackId)> {
        let data = self.data_packs.iter().map(|id| (PackClass::Data, *id));
        data.chain(self.meta_packs.iter().map(|id| (PackClass::Meta, *id)))
    }

    /// Adds a pack.
    pub fn push_pack(&mut self, class: PackClass, id: PackId) {
        match class {
            PackClass::Data => self.data_packs.push(id),
            PackClass::Meta => self.meta_packs.push(id),
        }
    }
}

/// The record as it is stored: ids in columns, which are left out where they are empty.
#[derive(Serialize, Deserialize)]
struct StoredRecord {
    plan: PlanId,
    event: PruneEvent,
    at: Timestamp,
    #[serde(default, skip_serializing_if = "is_empty")]
    data_packs: ByteBuf,
    #[serde(default, skip_serializing_if = "is_empty")]
    meta_packs: ByteBuf,
    #[serde(default, skip_serializing_if = "is_empty")]
    segments: ByteBuf,
    #[serde(default, skip_serializing_if = "is_empty")]
    manifests: ByteBuf,
    #[serde(default, skip_serializing_if = "is_empty")]
    sessions: ByteBuf,
    tool: String,
}

fn is_empty(column: &ByteBuf) -> bool {
    column.is_empty()
}

fn column<const N: usize>(ids: impl Iterator<Item = [u8; N]>) -> ByteBuf {
    ByteBuf::from(ids.flatten().collect::<Vec<u8>>())
}

fn ids<const N: usize, T>(column: &ByteBuf, id: impl Fn([u8; N]) -> T) -> Result<Vec<T>, FormatError> {
    match column.as_chunks::<N>() {
        (ids, []) => Ok(ids.iter().copied().map(id).collect()),
        _ => Err(FormatError::invalid("a column of ids ends within one")),
    }
}

impl From<PruneRecord> for StoredRecord {
    fn from(record: PruneRecord) -> Self {
        let PruneRecord { plan, event, at, objects, sessions, tool } = record;
        Self {
            plan,
            event,
            at,
            data_packs: column(objects.data_packs.iter().map(|id| *id.as_bytes())),
            meta_packs: column(objects.meta_packs.iter().map(|id| *id.as_bytes())),
            segments: column(objects.segments.iter().map(|id| *id.as_bytes())),
            manifests: column(objects.manifests.iter().map(|id| *id.as_bytes())),
            sessions: column(sessions.iter().map(|id| *id.as_bytes())),
            tool,
        }
    }
}

impl TryFrom<StoredRecord> for PruneRecord {
    type Error = FormatError;

    fn try_from(stored: StoredRecord) -> Result<Self, FormatError> {
        let objects = Doomed {
            data_packs: ids(&stored.data_packs, PackId::from_bytes)?,
            meta_packs: ids(&stored.meta_packs, PackId::from_bytes)?,
            segments: ids(&stored.segments, SegmentId::from_bytes)?,
            manifests: ids(&stored.manifests, ManifestId::from_bytes)?,
        };
        let sessions = ids(&stored.sessions, SessionId::from_bytes)?;
        let StoredRecord { plan, event, at, tool, .. } = stored;
        Ok(Self { plan, event, at, objects, sessions, tool })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::RepositoryId;
    use crate::object::{ObjectKind, RECORD_LIMIT_BYTES, decode_cbor, decode_record, encode_cbor, encode_record};

    const REPOSITORY: RepositoryId = RepositoryId::from_bytes([7; 16]);

    fn record(packs: usize) -> PruneRecord {
        let pack = PackId::from_bytes([1; 32]);
        let objects = Doomed {
            data_packs: vec![pack; packs],
            meta_packs: vec![PackId::from_bytes([2; 32])],
            segments: vec![SegmentId::from_bytes([3; 32])],
            manifests: vec![ManifestId::from_bytes([4; 16])],
        };
        PruneRecord {
            plan: PlanId::from_bytes([5; 16]),
            event: PruneEvent::Plan,
            at: Timestamp::UNIX_EPOCH,
            objects,
            sessions: vec![SessionId::from_bytes([6; 16])],
            tool: "a test".to_owned(),
        }
    }

    #[test]
    fn a_record_of_a_prune_reads_back() {
        let record = record(3);
        assert_eq!(decode_cbor::<PruneRecord>(&encode_cbor(&record)).as_ref(), Ok(&record));
        assert_eq!(record.objects.count(), 6);
    }

    #[test]
    fn the_longest_list_is_below_the_limit_of_a_record() {
        let longest = record(PLAN_LIMIT_OBJECTS);
        let bytes = encode_record(ObjectKind::Plan, REPOSITORY, &longest);
        assert!((bytes.len() as u64) < RECORD_LIMIT_BYTES);
        assert_eq!(decode_record::<PruneRecord>(ObjectKind::Plan, &bytes), Ok((REPOSITORY, longest)));
    }

    #[test]
    fn a_column_that_ends_within_an_id_is_refused() {
        let mut stored = StoredRecord::from(record(1));
        stored.segments.pop();
        let refused = decode_cbor::<PruneRecord>(&encode_cbor(&stored)).unwrap_err();
        assert!(refused.to_string().contains("ends within one"), "{refused}");
    }
}
