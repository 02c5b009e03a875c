//! From a stream's parts to the manifest that is to be published.

use std::sync::Arc;

use anyhow::{Context, ensure};
use serde_bytes::{ByteArray, ByteBuf};

use crate::backup::reading::{Part, StreamReading};
use crate::backup::recipe::Recipe;
use crate::backup::uploader::Uploader;
use crate::backup::{BackupRequest, Expected, Host, RejectedStream};
use crate::id::{ManifestId, SnapshotVersion};
use crate::monitor::{Counter, Monitor};
use crate::records::TOOL;
use crate::records::manifest::{BackupKind, Manifest, Parent, STREAM_DIGEST_XXH3, StreamRecord, Subject};
use crate::repository::Repository;
use crate::repository::cache::RecordCache;
use crate::repository::catalog::{Catalog, Published, check_not_forgotten, read_known_chain};
use crate::repository::plans::Named;
use crate::repository::session::WriteSession;
use crate::send_stream::{StreamFacts, StreamKind};

/// What a stream is archived with, besides the uploader.
pub(super) struct Archiving<'a> {
    pub(super) session: &'a WriteSession,
    pub(super) host: &'a Host,
    /// What prunes may delete that were under way when the run began.
    pub(super) named: Arc<Named>,
    pub(super) monitor: &'a dyn Monitor,
    /// See [`BackupOptions::publish_rejected`](crate::backup::BackupOptions::publish_rejected).
    pub(super) publish_rejected: bool,
}

impl Archiving<'_> {
    /// Reads the stream to its end and stores all but the manifest.
    ///
    /// # Errors
    ///
    /// The first error of any stage.
    pub(super) async fn archive(
        &self,
        uploader: &mut Uploader<'_>,
        reading: &mut StreamReading,
        request: &BackupRequest,
    ) -> anyhow::Result<Manifest> {
        let (session, monitor, cache) = (self.session, self.monitor, &self.host.cache);
        let mut recipe = Recipe::default();
        while let Some(part) = reading.next().await {
            store_part(&part, &mut recipe, uploader).await?;
            monitor.add(Counter::StreamBytes, part.stream_bytes);
        }
        // The parts also end when the reader fails, and the producer may be discontent with a stream that looks complete.
        let facts = reading.finish().await.context("reading the stream")?;
        if request.expected != Expected::Opaque {
            warn_of_oddities(&facts, monitor);
        }
        let (snapshot, version) = self.judge(&facts, request)?;
        let parent = match version {
            Some(version) => find_parent(session.repository(), version, request, cache, monitor).await?,
            None => None,
        };
        let roots = recipe.finish(uploader).await?;
        let (totals, meta_packs) = uploader.finish().await?;
        if let Some(parent) = &parent {
            check_chain(session.repository(), parent.manifest, &self.named, cache).await?;
        }
        let kind = match (facts.opaque, version) {
            (true, _) => BackupKind::Opaque,
            (false, Some(_)) => BackupKind::Incremental,
            (false, None) => BackupKind::Full,
        };
        Ok(Manifest {
            session: session.id(),
            kind,
            required_to_read: Vec::new(),
            required_to_prune: Vec::new(),
            host: self.host.name.clone(),
            subvolume: request.subvolume.clone(),
            started_at: session.started_at(),
            created_at: request.created_at,
            snapshot,
            parent,
            requires: facts.clone_sources.iter().copied().collect(),
            stream: StreamRecord {
                version: match facts.kind {
                    StreamKind::Send { version } if !facts.opaque => Some(version),
                    _ => None,
                },
                bytes: facts.stream_bytes,
                digest_algorithm: STREAM_DIGEST_XXH3.to_owned(),
                digest: ByteArray::new(facts.digest.to_bytes()),
                compressed_data: request.compressed_data,
            },
            roots,
            meta_packs,
            totals,
            copied_from: None,
            copied_from_repository: None,
            tool: TOOL.to_owned(),
        })
    }

    /// What the manifest says of the stream, if it is what was asked for, and `btrfs receive` would take it.
    fn judge(
        &self,
        facts: &StreamFacts,
        request: &BackupRequest,
    ) -> anyhow::Result<(Option<Subject>, Option<SnapshotVersion>)> {
        let checked = check_expected(facts, request);
        let Some(rejected) = facts.rejected.clone().map(RejectedStream) else { return checked };
        // A stream that cannot be received need not say what it is of. That it is rejected says more, and has everything sent.
        let whole_stream = checked.is_ok_and(|(_, version)| version.is_none());
        if !whole_stream || !self.publish_rejected {
            return Err(rejected.into());
        }
        self.monitor.problem(&format!(
            "{}: {rejected}: it is published as one that can be restored with --stream only",
            request.subvolume
        ));
        // Without a snapshot, nothing is made against this backup, and the next run sends everything again.
        Ok((None, None))
    }
}

async fn store_part(part: &Part, recipe: &mut Recipe, uploader: &mut Uploader<'_>) -> anyhow::Result<()> {
    for chunk in &part.data {
        recipe.push_data(chunk, uploader).await?;
    }
    for chunk in &part.commands {
        recipe.push_commands(chunk, uploader).await?;
    }
    Ok(())
}

/// Says what is odd about a stream that was not announced as mere bytes.
fn warn_of_oddities(facts: &StreamFacts, monitor: &dyn Monitor) {
    if facts.stream_bytes == 0 {
        monitor.warn("the stream is empty: has its producer failed?");
    }
    if let StreamKind::UnknownVersion { version } = facts.kind {
        monitor.warn(&format!("version {version} of send streams is not known: the stream is kept as undivided bytes"));
    }
    if facts.more_subjects {
        monitor.warn("the stream holds several subvolumes: it can be restored with --stream only");
    }
    if let Some(reason) = &facts.names_forgotten {
        monitor.warn(&format!(
            "what the stream does to names could not be followed throughout: {reason}: if btrfs receive would fail at it, that \
             may not have been found"
        ));
    }
    if facts.unknown_command_count > 0 {
        monitor
            .warn(&format!("{} commands of the stream are of a kind that is not known", facts.unknown_command_count));
    }
}

/// Checks what the stream turned out to be; gives what the manifest says of it.
fn check_expected(
    facts: &StreamFacts,
    request: &BackupRequest,
) -> anyhow::Result<(Option<Subject>, Option<SnapshotVersion>)> {
    let subject = facts.subject.as_ref();
    let parent = facts.parent;
    if let Expected::Snapshot { subject: expected, parent: expected_parent } = &request.expected {
        ensure!(!facts.more_subjects, "the stream holds more than one subvolume");
        let found = subject.map(|subject| subject.version);
        ensure!(
            found == Some(*expected),
            "the stream is not that of the snapshot that was to be sent: it names {}, not {}",
            found.map_or_else(|| "none".to_owned(), |version| version.to_string()),
            expected
        );
        ensure!(
            parent == expected_parent.as_ref().map(Parent::version),
            "the stream was not made against the parent that was chosen"
        );
    }
    let snapshot = subject.map(|subject| Subject {
        uuid: subject.version.uuid,
        ctransid: subject.version.ctransid,
        path: ByteBuf::from(subject.path.clone()),
    });
    Ok((snapshot, parent))
}

/// The backup that an incremental stream was made against.
async fn find_parent(
    repository: &Repository,
    version: SnapshotVersion,
    request: &BackupRequest,
    cache: &RecordCache,
    monitor: &dyn Monitor,
) -> anyhow::Result<Option<Parent>> {
    if let Expected::Snapshot { parent, .. } = &request.expected {
        return Ok(parent.clone());
    }
    let catalog = Catalog::load(repository, cache).await.context("looking for the parent's backup")?;
    for error in &catalog.damaged {
        monitor.problem(&format!("{error:#}"));
    }
    // One that says only that nothing has changed has no stream to build on; the one it refers to has the same version.
    let has_stream = |backup: &&Published| backup.manifest.kind != BackupKind::Unchanged;
    let of_version = |backup: &&Published| backup.manifest.version() == Some(version) && has_stream(backup);
    let whole = |backup: &&Published| of_version(backup) && catalog.chain(backup).is_ok();
    let parent = catalog.published.iter().rfind(whole);
    if parent.is_none() {
        monitor.warn(&format!(
            "no backup of the parent {version} that can be restored is in the repository: this one cannot be restored \
             without it"
        ));
    }
    Ok(parent.and_then(Published::as_parent))
}

/// Checks that a manifest still counts, that no prune is deleting it, and that all it was made against is still there.
/// Older ones may have been forgotten: they stay as long as they are needed.
pub(crate) async fn check_chain(
    repository: &Repository,
    manifest: ManifestId,
    named: &Named,
    copies: &RecordCache,
) -> anyhow::Result<()> {
    ensure!(!named.has_manifest(&manifest), "the parent is needed: backup {manifest} is being pruned");
    let chain = async {
        read_known_chain(repository, manifest, copies).await.context("looking whether the parent is still there")
    };
    let not_forgotten = async { check_not_forgotten(repository, manifest).await.context("the parent is needed") };
    tokio::try_join!(chain, not_forgotten).map(drop)
}
