//! Waits for packs that are being thawed, and has those thawed again whose copies expire while a restore reads them.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context;
use tokio::sync::Mutex;

use crate::id::PackId;
use crate::pack::format::PackClass;
use crate::records::manifest::Manifest;
use crate::restore::locate::Locator;
use crate::restore::thaw::{DataListing, ThawOptions, thaw_packs};
use crate::restore::walk::Entries;
use crate::restore::{RestoreOptions, packs_named_by};
use crate::store::is_archived;
use crate::tree::Tree;

/// What to do when a thawed copy has expired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThawAgain {
    /// The rules of thaws, and of waiting for them.
    pub options: ThawOptions,
    /// Backups that will be restored after this one: what they need is thawed in the same wave.
    pub later: Vec<Manifest>,
}

/// Watches over the reading of one backup's file data.
#[derive(Debug)]
pub(crate) struct Expiry<'a> {
    locator: &'a Locator,
    tree: &'a Tree,
    options: &'a RestoreOptions,
    /// Entries of the tree that have been handed on: what these need is not read any more.
    done_entries: AtomicUsize,
    /// How often packs have been thawed again.
    waves: AtomicUsize,
    /// Held while that is done.
    thawing: Mutex<()>,
}

impl<'a> Expiry<'a> {
    pub(super) fn new(locator: &'a Locator, tree: &'a Tree, options: &'a RestoreOptions) -> Self {
        Self {
            locator,
            tree,
            options,
            done_entries: AtomicUsize::new(0),
            waves: AtomicUsize::new(0),
            thawing: Mutex::new(()),
        }
    }

    /// That so many more entries have been handed on.
    pub(super) fn done(&self, entries: usize) {
        self.done_entries.fetch_add(entries, Ordering::Relaxed);
    }

    /// Waits until these packs can be read, if they are being thawed.
    ///
    /// # Errors
    ///
    /// [`NotThawed`](super::NotThawed) if there is no waiting any longer.
    pub(super) async fn wait_for(&self, packs: &BTreeSet<PackId>) -> anyhow::Result<()> {
        match &self.options.thawing {
            Some(thawing) => Box::pin(thawing.wait_for(packs)).await,
            None => Ok(()),
        }
    }

    /// Reads. What turns out to be archived is thawed by the rules of the restore, with all else that is still needed, and is
    /// read once more.
    ///
    /// # Errors
    ///
    /// That of reading; [`NotThawed`](super::NotThawed) where there is no waiting, or no longer.
    pub(super) async fn read<T>(&self, read: impl AsyncFn() -> anyhow::Result<T>) -> anyhow::Result<T> {
        let waves_before = self.waves.load(Ordering::Relaxed);
        match (read().await, &self.options.thaw_again) {
            (Err(error), Some(again)) if is_archived(&error) => {
                let thawing = self.thawing.lock().await;
                // Reads go on side by side: another one may have had everything thawed meanwhile.
                if self.waves.load(Ordering::Relaxed) == waves_before {
                    tracing::warn!("a thawed copy has expired before it was read: asking for thaws again");
                    self.thaw_again(again).await.context("a thawed copy has expired before it was read")?;
                    self.waves.fetch_add(1, Ordering::Relaxed);
                }
                drop(thawing);
                read().await
            }
            (done, _) => done,
        }
    }

    async fn thaw_again(&self, again: &ThawAgain) -> anyhow::Result<()> {
        let repository = self.locator.repository();
        let mut needed = self.needed_still().await?;
        let listing = DataListing::of(repository).await?;
        for manifest in &again.later {
            let locator = Locator::open(repository, manifest, self.options, self.locator.monitor()).await?;
            needed.extend(packs_named_by(&locator, manifest, &listing).await?);
        }
        thaw_packs(repository, &needed, &again.options).await
    }

    /// The packs of the entries that have not been handed on.
    async fn needed_still(&self) -> anyhow::Result<BTreeSet<PackId>> {
        let mut entries = Entries::new(self.locator, self.tree)?;
        let (mut needed, mut to_skip) = (BTreeSet::new(), self.done_entries.load(Ordering::Relaxed));
        while let Some(entry) = entries.next().await? {
            if to_skip > 0 {
                to_skip -= 1;
                continue;
            }
            let Some(hint) = entry.hint else { continue };
            let is_gone = self.locator.is_gone(PackClass::Data, hint.pack);
            let moved = if is_gone { self.locator.moved_to(&entry.id).await? } else { None };
            needed.insert(moved.unwrap_or(hint).pack);
        }
        Ok(needed)
    }
}
