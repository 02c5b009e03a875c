//! Reads packs and checks every chunk in them.

use std::collections::HashSet;
use std::sync::Arc;

use anyhow::Context;
use futures_util::stream::{self, StreamExt};

use crate::check::report::{Finding, Report, Severity};
use crate::id::PackId;
use crate::monitor::{Counter, Monitor};
use crate::pack::format::PackClass;
use crate::repository::needs::BadPlaces;
use crate::repository::packs::verify_pack;
use crate::repository::{Repository, layout};
use crate::store::is_archived;

/// What reading packs has shown.
#[derive(Debug, Default)]
pub(super) struct PacksRead {
    /// Chunks that do not have the bytes their ids say, and the packs they are in.
    pub(super) bad: BadPlaces,
    /// Packs that could be read, right or wrong.
    pub(super) read: HashSet<(PackClass, PackId)>,
}

/// Every pack has the bytes that its name says, and every chunk in it those that its id says.
pub(super) async fn read_packs(
    repository: &Repository,
    packs: &[(PackClass, PackId)],
    packs_at_once: usize,
    report: &mut Report,
    monitor: &Arc<dyn Monitor>,
) -> anyhow::Result<PacksRead> {
    let PacksRead { mut bad, mut read } = PacksRead::default();
    let verify = |(class, pack)| async move { (class, pack, verify_pack(repository, class, pack).await) };
    let mut reads = stream::iter(packs.iter().copied()).map(verify).buffer_unordered(packs_at_once);
    while let Some((class, pack, verdict)) = reads.next().await {
        let key = layout::pack_key(class, &pack);
        let verdict = match verdict {
            Ok(verdict) => verdict,
            Err(error) if is_archived(&error) => {
                report.counts.packs_archived += 1;
                continue;
            }
            Err(error) => return Err(error).with_context(|| format!("reading {key}")),
        };
        monitor.add(Counter::FetchedBytes, verdict.read_bytes);
        report.counts.packs_read += 1;
        read.insert((class, pack));
        report.counts.bytes_read += verdict.read_bytes;
        bad.extend(verdict.bad_chunks.iter().map(|chunk| (*chunk, pack)));
        let Some(fault) = verdict.fault else { continue };
        report.bad_packs.push((class, pack));
        let lost = match (verdict.is_known, verdict.bad_chunks.len()) {
            (false, _) => "; nothing tells which chunks it had".to_owned(),
            (true, 0) => "; all its chunks can be read".to_owned(),
            (true, count) => format!("; {count} chunks of it cannot be read"),
        };
        report.findings.push(Finding {
            // Whether a backup needs one of them, and has no other place, is seen where the trees are read.
            severity: Severity::Flaw,
            invariant: "every_pack_has_its_bytes",
            object: format!("{}/{key}", repository.store().url()),
            reason: format!("{fault}{lost}"),
        });
    }
    report.bad_packs.sort_unstable();
    Ok(PacksRead { bad, read })
}
