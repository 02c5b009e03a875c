//! Compares what the store has kept of each pack since it was stored with what the index says. No pack is read, so this
//! works on archived ones.

use std::collections::HashSet;

use anyhow::Context;
use futures_util::stream::{self, StreamExt};

use crate::check::report::{Finding, Report, Severity};
use crate::check::structure::{IndexedPack, Structure};
use crate::id::PackId;
use crate::pack::format::PackClass;
use crate::repository::index::{list_segments, read_segment};
use crate::repository::needs::BadPlaces;
use crate::repository::session::READS_AT_ONCE;
use crate::repository::{Damage, Repository, layout};
use crate::store::{StoreError, StoreErrorKind, UploadChecksum};

/// What a store's word for a pack has shown.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// It is the one that was stored.
    Same,
    /// It has the length of the one that was stored; the store keeps no checksum, or the index has none.
    OnlyLength,
    /// It is another object, or none.
    Other(String),
}

/// Every pack is the one that was stored, by its length and the checksum that the store has kept since. Gives those that are not.
///
/// Costs one look-up for each pack that the index names and that is there.
pub(super) async fn packs_are_those_that_were_stored(
    repository: &Repository,
    structure: &Structure,
    report: &mut Report,
) -> anyhow::Result<HashSet<(PackClass, PackId)>> {
    let is_there = |(pack, indexed): &(&(PackClass, PackId), &IndexedPack)| {
        structure.listed.get(*pack) == Some(&indexed.stored_bytes)
    };
    let mut packs: Vec<_> = structure.indexed.iter().filter(is_there).collect();
    packs.sort_unstable_by_key(|(pack, _)| **pack);
    let ask = |((class, pack), indexed): (&(PackClass, PackId), &IndexedPack)| {
        let (key, class, pack, indexed) = (layout::pack_key(*class, pack), *class, *pack, indexed.clone());
        async move { (class, pack, judge(&indexed, repository.store().upload_checksum(&key).await)) }
    };
    let mut answers = stream::iter(packs).map(ask).buffered(READS_AT_ONCE);
    let mut others = HashSet::new();
    while let Some((class, pack, verdict)) = answers.next().await {
        let key = layout::pack_key(class, &pack);
        match verdict.with_context(|| format!("asking for the checksum of {key}"))? {
            Verdict::Same => report.counts.checksums_compared += 1,
            Verdict::OnlyLength => report.counts.checksums_not_kept += 1,
            Verdict::Other(reason) => {
                others.insert((class, pack));
                report.findings.push(Finding {
                    // Whether a backup needs it is seen where their trees are read.
                    severity: Severity::Flaw,
                    invariant: "packs_are_those_that_were_stored",
                    object: format!("{}/{key}", repository.store().url()),
                    reason,
                });
            }
        }
    }
    Ok(others)
}

fn judge(indexed: &IndexedPack, answer: Result<UploadChecksum, StoreError>) -> Result<Verdict, StoreError> {
    let kept = match answer {
        Ok(kept) => kept,
        Err(StoreError { kind: StoreErrorKind::NotFound, .. }) => {
            return Ok(Verdict::Other("it was listed, and is not there".to_owned()));
        }
        Err(error) => return Err(error),
    };
    if kept.size_bytes != indexed.stored_bytes {
        let reason = format!("it has {} bytes, and the index says {}", kept.size_bytes, indexed.stored_bytes);
        return Ok(Verdict::Other(reason));
    }
    Ok(match (kept.crc32c, indexed.crc32c) {
        (Some(kept), Some(told)) if kept == told => Verdict::Same,
        (Some(kept), Some(told)) => {
            let [kept, told] = [kept, told].map(u32::from_be_bytes);
            Verdict::Other(format!(
                "other bytes were stored in its place: their checksum is {kept:08x}, and the index says {told:08x}"
            ))
        }
        _ => Verdict::OnlyLength,
    })
}

/// All chunks of some packs, by the index. Nobody has read them, so each counts as lost there. Reads all segments, if
/// there is any pack.
pub(super) async fn chunks_of(
    repository: &Repository,
    packs: &HashSet<(PackClass, PackId)>,
) -> anyhow::Result<BadPlaces> {
    let mut places = BadPlaces::new();
    if packs.is_empty() {
        return Ok(places);
    }
    for id in list_segments(repository).await? {
        let segment = match read_segment(repository, id).await {
            Ok(segment) => segment,
            // It is in the report already.
            Err(error) if error.downcast_ref::<Damage>().is_some() => continue,
            Err(error) => return Err(error),
        };
        for record in segment.packs.iter().filter(|record| packs.contains(&(record.footer.class, record.id))) {
            places.extend(record.footer.chunks.iter().map(|chunk| (chunk.id, record.id)));
        }
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Digest, SessionId};

    fn indexed(crc32c: Option<[u8; 4]>) -> IndexedPack {
        let session = SessionId::from_bytes([1; 16]);
        IndexedPack { session, stored_bytes: 100, crc32c, record: Digest::of(b"") }
    }

    fn kept(size_bytes: u64, crc32c: Option<[u8; 4]>) -> UploadChecksum {
        UploadChecksum { size_bytes, crc32c }
    }

    fn failure(kind: StoreErrorKind) -> StoreError {
        StoreError { kind, operation: "looking up", object: String::new(), reason: String::new() }
    }

    #[test]
    fn a_pack_is_the_one_that_was_stored_only_where_length_and_checksum_say_so() {
        let (one, other) = (Some([0, 0, 0, 1]), Some([1, 0, 0, 0]));
        assert_eq!(judge(&indexed(one), Ok(kept(100, one))).unwrap(), Verdict::Same);
        for (told, said) in [(one, None), (None, one), (None, None)] {
            assert_eq!(judge(&indexed(told), Ok(kept(100, said))).unwrap(), Verdict::OnlyLength);
        }
        for (answer, reason) in [
            (Ok(kept(100, other)), "is 01000000, and the index says 00000001"),
            (Ok(kept(99, one)), "99 bytes"),
            (Err(failure(StoreErrorKind::NotFound)), "not there"),
        ] {
            let verdict = judge(&indexed(one), answer).unwrap();
            assert!(matches!(&verdict, Verdict::Other(text) if text.contains(reason)), "{verdict:?}");
        }
        // Who is not answered knows nothing.
        judge(&indexed(one), Err(failure(StoreErrorKind::Denied))).unwrap_err();
    }
}
