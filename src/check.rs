//! Checks a repository: that its objects fit each other, and on request that the packs have the bytes they should have.
//!
//! What is looked at stands in `docs/ordering.md`, "What check looks at", an invariant a function.

mod checksums;
mod data;
mod files;
mod remember;
pub mod report;
mod structure;
pub mod subset;
mod tables;

pub use remember::remember;
pub(crate) use structure::read_footer_copies;
pub(crate) use tables::read_blocks;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;

use crate::check::checksums::{chunks_of, packs_are_those_that_were_stored};
use crate::check::data::{PacksRead, read_packs};
use crate::check::files::lost_files;
use crate::check::report::{Affected, Finding, Report, Severity};
use crate::check::structure::{Structure, footers_have_copies};
use crate::check::subset::{Subset, spans_of};
use crate::check::tables::tables_can_be_read;
use crate::id::{ManifestId, PackId};
use crate::local_index::Access;
use crate::monitor::{Counter, Monitor};
use crate::pack::format::PackClass;
use crate::repository::cache::RecordCache;
use crate::repository::catalog::{Catalog, Published};
use crate::repository::index::ChunkIndex;
use crate::repository::listing::signs_of_moves;
use crate::repository::needs::{BadPlaces, BeyondIndex, NeedsWalk};
use crate::repository::notes::Notes;
use crate::repository::reader::ChunkReader;
use crate::repository::scratch::ScratchFolder;
use crate::repository::{Damage, Repository};

/// All is looked at so often at most, where prunes delete what is looked at.
const LOOKS_MAX: usize = 4;
/// Each takes memory for a pack.
const PACKS_AT_ONCE: usize = 2;

/// What to look at, and with how much.
#[derive(Debug, Clone)]
pub struct CheckOptions {
    /// Which packs are read; none: only the structure is looked at.
    pub data: Option<Subset>,
    /// Packs that are read besides, whether they are there or not.
    pub named: Vec<(PackClass, PackId)>,
    /// Whether what the store has kept of each pack since it was stored is compared with the index.
    pub checksums: bool,
    /// How many files that have lost bytes are named of each backup; 0: none are looked for.
    pub files_at_most: usize,
    /// Packs that are read at once: memory for each is its length and what is inflated of it.
    pub packs_at_once: usize,
    /// Where an index is made; removed afterwards.
    pub scratch_directory: PathBuf,
}

impl CheckOptions {
    /// Those of a check that reads no packs.
    #[must_use]
    pub fn new(scratch_directory: PathBuf) -> Self {
        Self {
            data: None,
            named: Vec::new(),
            checksums: false,
            files_at_most: 0,
            packs_at_once: PACKS_AT_ONCE,
            scratch_directory,
        }
    }
}

/// Looks at all of a repository, past anything that a host remembers of it. Changes nothing.
///
/// Takes, besides the packs that are read at once, about 150 bytes of memory a pack and a quarter of a byte a chunk. Reads
/// each index segment twice and each tree node once; a pack that is to be read, in one request.
///
/// # Errors
///
/// If the store or the local disk fails. Damage is no error: it stands in the report.
pub async fn check(
    repository: &Repository,
    options: &CheckOptions,
    monitor: &Arc<dyn Monitor>,
) -> anyhow::Result<Report> {
    for _ in 1..LOOKS_MAX {
        let signs = signs_of_moves(repository).await?;
        let report = look(repository, options, monitor).await?;
        let is_whole = report.findings.is_empty() && report.affected.is_empty();
        // What was missed may have been deleted by a prune or a repair, and be elsewhere.
        if is_whole || signs_of_moves(repository).await? == signs {
            return Ok(report);
        }
    }
    look(repository, options, monitor).await
}

async fn look(repository: &Repository, options: &CheckOptions, monitor: &Arc<dyn Monitor>) -> anyhow::Result<Report> {
    let mut report = Report::default();
    let structure = Structure::read(repository, &mut report).await.context("looking at the structure")?;
    footers_have_copies(repository, &structure, &mut report).await.context("looking at the copies of footers")?;
    tables_can_be_read(repository, options.data.is_some(), &mut report)
        .await
        .context("looking at the look-up tables")?;
    let folder = ScratchFolder::make(&options.scratch_directory)?;
    // What is wrong with segments and packs is in the report already.
    let told = Untold(Arc::clone(monitor));
    let mut index =
        ChunkIndex::open_to_read(repository, folder.path(), Access::Exclusive, &RecordCache::none(), &told).await?;
    index.compact()?;
    let notes = Notes::load(repository, &RecordCache::none()).await?;
    notes.damaged.iter().for_each(|error| report.add_error(Severity::Flaw, "notes_are_whole", error));
    let mut suspects = if options.checksums {
        packs_are_those_that_were_stored(repository, &structure, &mut report).await?
    } else {
        HashSet::new()
    };
    let mut bad = BadPlaces::new();
    if let Some(subset) = &options.data {
        let chosen = subset.choose(&structure.listed, &notes);
        let packs = read_packs(repository, &chosen, options.packs_at_once, &mut report, monitor).await?;
        let PacksRead { bad: found, read } = packs;
        bad = found;
        // Who has read a pack knows it better.
        suspects.retain(|pack| !read.contains(pack));
        report.mended_packs = mended(&notes, &read, &report.bad_packs);
        let all_were_read = report.counts.packs_archived == 0;
        report.is_complete = *subset == Subset::All && all_were_read;
        if all_were_read && !matches!(subset, Subset::Part { .. }) {
            report.spans = spans_of(&chosen.iter().map(|(_, pack)| *pack).collect::<Vec<_>>());
        }
    }
    let named = read_packs(repository, &options.named, options.packs_at_once, &mut report, monitor).await?;
    suspects.retain(|pack| !named.read.contains(pack));
    bad.extend(named.bad);
    bad.extend(chunks_of(repository, &suspects).await?);
    report.replaced_packs = suspects.into_iter().collect();
    report.replaced_packs.sort_unstable();
    let catalog = Catalog::load(repository, &RecordCache::none()).await?;
    // What has been published since has packs and segments that were not looked at.
    let had_ended = |backup: &&Published| structure.had_ended(backup.id().into());
    let published: Vec<&Published> = catalog.published.iter().filter(had_ended).collect();
    report.counts.backups = published.len() as u64;
    manifests_can_be_read(&catalog, &mut report);
    let reader = ChunkReader::new(repository, &index);
    let walk = NeedsWalk::new(reader).beyond_index(BeyondIndex { listed: &structure.listed, bad: &bad });
    every_chunk_is_there(&catalog, &published, walk, options.files_at_most, &mut report).await?;
    report.drop_repetitions();
    Ok(report)
}

/// Packs that were bad by the notes, and that were read and are not.
fn mended(notes: &Notes, read: &HashSet<(PackClass, PackId)>, bad_packs: &[(PackClass, PackId)]) -> Vec<PackId> {
    let known = notes.bad_packs();
    let is_mended = |pack: &&(PackClass, PackId)| known.contains(&pack.1) && bad_packs.binary_search(pack).is_err();
    let mut mended: Vec<PackId> = read.iter().filter(is_mended).map(|(_, pack)| *pack).collect();
    mended.sort_unstable();
    mended
}

/// The manifests of all backups that count, and of those they were made on, can be read.
fn manifests_can_be_read(catalog: &Catalog, report: &mut Report) {
    catalog.damaged.iter().for_each(|error| report.add_error(Severity::Damage, "manifests_can_be_read", error));
}

/// Every chunk of the trees of every backup is there, and every chain is whole.
async fn every_chunk_is_there(
    catalog: &Catalog,
    published: &[&Published],
    mut walk: NeedsWalk<'_>,
    files_at_most: usize,
    report: &mut Report,
) -> anyhow::Result<()> {
    let forgotten = catalog.forgotten.iter().map(|forgotten| &forgotten.backup);
    let (mut damaged, mut losses) = (HashMap::new(), HashMap::new());
    for backup in published.iter().copied().chain(forgotten) {
        let lost = walk.visit(&backup.manifest).await?;
        if let Some(first) = lost.first() {
            let reason = format!("{} chunks of it are lost: chunk {}: {}", lost.len(), first.chunk, first.reason);
            damaged.insert(backup.id(), reason);
            if files_at_most > 0 {
                losses.insert(backup.id(), lost_files(&mut walk, &backup.manifest, files_at_most).await?);
            }
        }
    }
    for backup in published {
        if let Some(affected) = affected(catalog, backup, &damaged) {
            report.affected.push(Affected { losses: losses.remove(&backup.id()), ..affected });
        }
    }
    report.counts.nodes = walk.visited() as u64;
    if walk.unindexed() > 0 {
        let reason = format!("{} chunks are there, and the index does not know them", walk.unindexed());
        report.findings.push(Finding {
            severity: Severity::Flaw,
            invariant: "the_index_knows_every_chunk",
            object: "the index".to_owned(),
            reason,
        });
    }
    Ok(())
}

/// Whether, and why, a backup does not restore.
fn affected(catalog: &Catalog, backup: &Published, damaged: &HashMap<ManifestId, String>) -> Option<Affected> {
    let manifest = &backup.manifest;
    let new = |reason: String, is_own: bool| {
        let (host, subvolume) = (manifest.host.clone(), manifest.subvolume.clone());
        Some(Affected { id: backup.id(), host, subvolume, reason, is_own, losses: None })
    };
    if let Some(reason) = damaged.get(&backup.id()) {
        return new(reason.clone(), true);
    }
    match catalog.ancestors(backup) {
        Err(error) => new(format!("{error:#}"), true),
        Ok(ancestors) => {
            let cause = ancestors.iter().find(|ancestor| damaged.contains_key(&ancestor.id()))?;
            new(format!("it was made on backup {}, which is damaged", cause.id()), false)
        }
    }
}

/// Passes counts on and keeps everything else to itself.
#[derive(Debug)]
struct Untold(Arc<dyn Monitor>);

impl Monitor for Untold {
    fn add(&self, counter: Counter, amount: u64) {
        self.0.add(counter, amount);
    }

    fn warn(&self, _message: &str) {}

    fn problem(&self, _message: &str) {}
}

impl Report {
    /// Leaves out what is said again as damage of the same object.
    fn drop_repetitions(&mut self) {
        let is_damage = |finding: &&Finding| finding.severity == Severity::Damage;
        let damaged: Vec<String> =
            self.findings.iter().filter(is_damage).map(|finding| finding.object.clone()).collect();
        self.findings.retain(|finding| is_damage(&finding) || !damaged.contains(&finding.object));
    }

    fn add_error(&mut self, severity: Severity, invariant: &'static str, error: &anyhow::Error) {
        let finding = match error.downcast_ref::<Damage>() {
            Some(Damage { object, reason }) => {
                Finding { severity, invariant, object: object.clone(), reason: reason.clone() }
            }
            None => Finding { severity, invariant, object: "a manifest".to_owned(), reason: format!("{error:#}") },
        };
        self.findings.push(finding);
    }
}
