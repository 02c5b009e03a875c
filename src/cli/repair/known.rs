//! What checks have found before, and a look at the structure alone does not see.

use crate::check::report::Report;
use crate::cli::context::Context;
use crate::cli::output;
use crate::monitor::Monitor;
use crate::repository::catalog::Catalog;
use crate::repository::index::list_packs;
use crate::repository::notes::Notes;
use crate::repository::{Repository, layout};

/// Says which packs are missing or damaged that are still in the way, and which backups were damaged by the last check that has
/// read them; whether there is anything of the kind, which is a problem.
pub(super) async fn tell(context: &Context, repository: &Repository, report: &Report) -> anyhow::Result<bool> {
    let (cache, progress) = (context.record_cache(repository), &context.progress);
    let notes = Notes::load(repository, &cache).await?;
    let bad = notes.bad_packs();
    let listed = list_packs(repository).await?;
    let damaged = listed
        .keys()
        .filter(|(_, pack)| bad.contains(pack))
        .map(|(class, pack)| layout::pack_key(*class, pack).to_string());
    let damaged: Vec<String> = damaged.collect();
    let is_missing = |invariant: &str| invariant == "packs_are_there_with_their_lengths";
    let missing = report.findings.iter().filter(|finding| is_missing(finding.invariant));
    let missing: Vec<String> = missing.map(|finding| finding.object.clone()).collect();
    let packs = |count: usize| output::counted(count as u64, "pack");
    if let Some(first) = missing.first() {
        let packs = packs(missing.len());
        progress.problem(&format!(
            "{packs} missing or of another length: run `repair packs` first, or `repair index`; {first} is one"
        ));
    }
    if let Some(first) = damaged.first() {
        let packs = packs(damaged.len());
        progress.problem(&format!(
            "{packs} damaged, as a check has found: run `repair packs` first, then this again; {first} is one"
        ));
    }
    let catalog = Catalog::load(repository, &cache).await?;
    let is_told = |id| report.affected.iter().any(|affected| affected.id == id);
    let mut uncertain = 0;
    for backup in catalog.published.iter().filter(|backup| !is_told(backup.id())) {
        let Some(reason) = notes.known_damage(backup.id()) else { continue };
        let (id, manifest) = (backup.id(), &backup.manifest);
        let of = format!("'{}' of host {}", manifest.subvolume, manifest.host);
        output::line(&format!("did not restore when it was last checked: backup {id} of {of}: {reason}"))?;
        uncertain += 1;
    }
    if uncertain > 0 {
        let backups = output::counted(uncertain, "backup");
        progress.problem(&format!(
            "{backups} did not restore when last checked: `check --read-data` tells whether that holds"
        ));
    }
    Ok(!missing.is_empty() || !damaged.is_empty() || uncertain > 0)
}
