//! Copies one backup: a session in the destination, what that does not have, and a manifest.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Context;
use tokio::sync::{Mutex, mpsc};

use crate::backup::{
    BackupRun, BackupSummary, Recipe, Uploader, check_chain, keep_if_interrupted, unless_interrupted, with_beats,
};
use crate::chunker::Chunk;
use crate::copy::windows::gather_windows;
use crate::copy::{CopiedAs, Copying, NotCopied};
use crate::id::ManifestId;
use crate::monitor::{Counter, Monitor};
use crate::records::TOOL;
use crate::records::manifest::{BackupKind, Manifest, Parent, RootKind, Totals};
use crate::records::note::TagChange;
use crate::repository::Damage;
use crate::repository::catalog::Published;
use crate::repository::index::ChunkIndex;
use crate::repository::notes::{Notes, Said, put_note};
use crate::repository::session::WriteSession;
use crate::restore::{Entries, Frames, Locator, Window, chunk_of, fetch_window, forward_windows};
use crate::tree::Tree;
use crate::tree::node::Entry;

/// Copies backups one after the other, and remembers what it has read and copied.
pub(super) struct Copier<'a> {
    copying: &'a Copying,
    /// Of the source.
    notes: Notes,
    /// Backups of the source that are in the destination.
    copies: HashMap<ManifestId, CopiedAs>,
    reader: Locator,
    /// What the destination has, after a backup was published there.
    index: Option<ChunkIndex>,
    monitor: &'a Arc<dyn Monitor>,
}

impl<'a> Copier<'a> {
    pub(super) fn new(
        copying: &'a Copying,
        notes: Notes,
        copies: HashMap<ManifestId, CopiedAs>,
        monitor: &'a Arc<dyn Monitor>,
    ) -> Self {
        let reader = Locator::of_nothing(&copying.source, &copying.reading, monitor);
        Self { copying, notes, copies, reader, index: None, monitor }
    }

    /// Copies a backup, whose parent has been copied.
    ///
    /// # Errors
    ///
    /// [`NotCopied`] where the reason is in the source; otherwise the destination's error. The session is given up then.
    pub(super) async fn copy(&mut self, backup: &Published) -> anyhow::Result<BackupSummary> {
        let parent = self.parent_of(&backup.manifest)?;
        let Copying { destination, writing, interruption, .. } = self.copying;
        unless_interrupted(interruption, async { Ok(()) }).await?;
        let mut run = Box::pin(self.begin(&backup.manifest.subvolume)).await?;
        let session = run.shared_session();
        let named = run.index().named();
        let mut uploader = run.uploader(writing);
        let storing = Box::pin(async {
            let manifest = self.store(&session, backup, parent.as_ref(), &mut uploader).await?;
            if let Some(parent) = &parent {
                check_chain(destination, parent.manifest, &named, &self.copying.host.cache).await?;
            }
            self.copy_tags(backup.id(), manifest.id()).await?;
            Ok(manifest)
        });
        let manifest = with_beats(&session, unless_interrupted(interruption, storing)).await;
        keep_if_interrupted(&manifest, &mut uploader).await;
        drop(uploader);
        let (copy, index) = run.publish_and_keep_index(manifest).await?;
        self.index = Some(index);
        self.copies.insert(backup.id(), CopiedAs { id: copy.id(), digest: copy.digest });
        Ok(copy)
    }

    /// Announces a session in the destination. What the last one knew is kept: a session that was given up may still be open,
    /// and what it has stored may not count, so nothing is kept of that.
    async fn begin(&mut self, subvolume: &str) -> anyhow::Result<BackupRun> {
        let Copying { destination, host, .. } = self.copying;
        match self.index.take() {
            Some(index) => BackupRun::begin_after(index, "copy", destination, host, subvolume, self.monitor).await,
            None => BackupRun::begin_for("copy", destination, host, subvolume, self.monitor).await,
        }
    }

    /// What a backup was made against, as the destination has it.
    fn parent_of(&self, manifest: &Manifest) -> anyhow::Result<Option<Parent>> {
        let Some(parent) = &manifest.parent else { return Ok(None) };
        let copy = self.copies.get(&parent.manifest).with_context(|| {
            let reason = format!("backup {}, which it was made against, could not be copied", parent.manifest);
            Damage { object: format!("backup {}", manifest.id()), reason }
        });
        let copy = copy.context(NotCopied)?;
        Ok(Some(Parent { manifest: copy.id, digest: copy.digest, ..parent.clone() }))
    }

    /// Stores all that a backup needs and the destination does not have; gives the copy's manifest.
    async fn store(
        &self,
        session: &WriteSession,
        backup: &Published,
        parent: Option<&Parent>,
        uploader: &mut Uploader<'_>,
    ) -> anyhow::Result<Manifest> {
        let original = &backup.manifest;
        let roots = if original.kind == BackupKind::Unchanged {
            Vec::new()
        } else {
            let reader = self.reader.turned_to(original).await.map_err(of_source)?;
            let mut recipe = Recipe::default();
            if let Some(tree) = original.tree(&RootKind::Data) {
                self.copy_data(&reader, tree, &mut recipe, uploader).await?;
            }
            if let Some(tree) = original.tree(&RootKind::Commands) {
                copy_commands(&reader, tree, &mut recipe, uploader).await?;
            }
            recipe.finish(uploader).await?
        };
        let (totals, meta_packs) = uploader.finish().await?;
        Ok(Manifest {
            session: session.id(),
            started_at: session.started_at(),
            parent: parent.cloned(),
            roots,
            meta_packs,
            totals: Totals { chunks: original.totals.chunks, ..totals },
            // Of a copy, where that came from: so both are known for what they are, wherever they meet.
            copied_from: Some(original.copied_from.unwrap_or(backup.id())),
            copied_from_repository: Some(original.copied_from_repository.unwrap_or(self.copying.source.id())),
            tool: TOOL.to_owned(),
            ..original.clone()
        })
    }

    async fn copy_data(
        &self,
        reader: &Locator,
        tree: &Tree,
        recipe: &mut Recipe,
        uploader: &mut Uploader<'_>,
    ) -> anyhow::Result<()> {
        let uploader = Mutex::new(uploader);
        let options = &self.copying.reading;
        let gathered = gather_windows(reader, tree, options, &uploader).map_err(of_source)?;
        let fetch = |window| fetch_window(reader, window, options, None);
        // Two sides, so that reading goes on while the other waits for packs to be stored.
        let (sender, mut windows) = mpsc::channel(1);
        let reading =
            async { forward_windows(gathered, fetch, options.windows_ahead, sender).await.map_err(of_source) };
        let storing = async {
            while let Some((window, frames)) = windows.recv().await {
                let mut uploader = uploader.lock().await;
                self.store_window(reader, window, &frames, recipe, &mut uploader).await?;
            }
            Ok(())
        };
        tokio::try_join!(reading, storing).map(drop)
    }

    async fn store_window(
        &self,
        reader: &Locator,
        window: Window,
        frames: &Frames,
        recipe: &mut Recipe,
        uploader: &mut Uploader<'_>,
    ) -> anyhow::Result<()> {
        for entry in window.entries {
            let place = if let Some(place) = uploader.known_data(&entry.id)? {
                place
            } else {
                let bytes = chunk_of(reader, &entry, frames).await.map_err(of_source)?;
                check_piece(&entry, bytes.len())?;
                uploader.add_data(&Chunk { id: entry.id, bytes }).await?
            };
            self.monitor.add(Counter::StreamBytes, entry.total().unwrap_or_default());
            recipe.push_data_entry(entry, place, uploader).await?;
        }
        Ok(())
    }

    /// Gives a copy the tags of its original. Before the copy counts, so that no policy meets it without them.
    async fn copy_tags(&self, from: ManifestId, to: ManifestId) -> anyhow::Result<()> {
        let add: Vec<String> = self.notes.tags(from).into_iter().collect();
        if add.is_empty() {
            return Ok(());
        }
        let change = TagChange { add, remove: Vec::new() };
        let host = &self.copying.host.name;
        put_note(&self.copying.destination, Some(to), host, Said::Tags(change)).await.map(drop)
    }
}

async fn copy_commands(
    reader: &Locator,
    tree: &Tree,
    recipe: &mut Recipe,
    uploader: &mut Uploader<'_>,
) -> anyhow::Result<()> {
    let mut entries = Entries::new(reader, tree).map_err(of_source)?;
    while let Some(entry) = entries.next().await.map_err(of_source)? {
        if !uploader.uses_known_meta(&entry.id)? {
            let bytes = reader.meta_chunk(&entry.id).await.map_err(of_source)?;
            check_piece(&entry, bytes.len())?;
            uploader.add_meta(&Chunk { id: entry.id, bytes }).await?;
        }
        recipe.push_commands_entry(entry, uploader).await?;
    }
    Ok(())
}

/// Checks that a chunk has what the recipe names of it: a restore would fail otherwise.
fn check_piece(entry: &Entry, chunk_bytes: usize) -> anyhow::Result<()> {
    if entry.skip.checked_add(entry.length).is_some_and(|end| end <= chunk_bytes as u64) {
        return Ok(());
    }
    let reason = "the recipe names more bytes than the chunk has".to_owned();
    Err(of_source(Damage { object: format!("chunk {}", entry.id), reason }.into()))
}

/// Damage that was found in reading is of this backup alone. A store that fails is not.
fn of_source(error: anyhow::Error) -> anyhow::Error {
    if error.downcast_ref::<Damage>().is_some() { error.context(NotCopied) } else { error }
}
