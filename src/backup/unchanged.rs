//! A backup of what has not changed: a manifest that refers to another one's stream.

use anyhow::Context;
use jiff::Timestamp;
use serde_bytes::ByteArray;

use crate::backup::archiving::check_chain;
use crate::backup::{BackupRun, BackupSummary, Interruption, unless_interrupted};
use crate::records::TOOL;
use crate::records::manifest::{BackupKind, Manifest, STREAM_DIGEST_XXH3, StreamRecord, Totals};
use crate::repository::catalog::Published;
use crate::repository::session::WriteSession;
use crate::send_stream::StreamHasher;

impl BackupRun {
    /// Publishes that at `seen_at` a subvolume was as `parent` has it, which has a stream of its own.
    ///
    /// # Errors
    ///
    /// If the parent does not count any more, or is damaged, or the store fails, or the run is interrupted before. The
    /// session is then given up.
    pub async fn publish_unchanged(
        self,
        parent: &Published,
        seen_at: Timestamp,
        interruption: &Interruption,
    ) -> anyhow::Result<BackupSummary> {
        let manifest = manifest(self.session(), &self.host.name, parent, seen_at);
        let check = async {
            let manifest = manifest?;
            let (repository, named) = (self.session().repository(), self.index().named());
            check_chain(repository, parent.id(), &named, &self.host.cache).await?;
            Ok(manifest)
        };
        let manifest = unless_interrupted(interruption, check).await;
        self.publish_manifest(manifest).await
    }
}

fn manifest(session: &WriteSession, host: &str, parent: &Published, seen_at: Timestamp) -> anyhow::Result<Manifest> {
    Ok(Manifest {
        session: session.id(),
        kind: BackupKind::Unchanged,
        required_to_read: Vec::new(),
        required_to_prune: Vec::new(),
        host: host.to_owned(),
        subvolume: parent.manifest.subvolume.clone(),
        started_at: session.started_at(),
        created_at: seen_at,
        snapshot: parent.manifest.snapshot.clone(),
        parent: Some(parent.as_parent().context("the parent is a backup of a snapshot")?),
        requires: Vec::new(),
        stream: StreamRecord {
            version: None,
            bytes: 0,
            digest_algorithm: STREAM_DIGEST_XXH3.to_owned(),
            digest: ByteArray::new(StreamHasher::new().digest().to_bytes()),
            compressed_data: false,
        },
        roots: Vec::new(),
        meta_packs: Vec::new(),
        totals: Totals { stored_bytes: session.stored_bytes(), ..Totals::default() },
        copied_from: None,
        copied_from_repository: None,
        tool: TOOL.to_owned(),
    })
}
