//! The journal of snapshots under way, and what becomes of those that killed runs have left.

use std::collections::HashSet;
use std::io;
use std::path::Path;

use crate::btrfs::BtrfsError;
use crate::btrfs::parents::sent_identity;
use crate::id::SnapshotVersion;
use crate::job::Job;
use crate::job::journal::Journal;
use crate::repository::catalog::Catalog;

impl Job {
    /// Without a journal a run goes on: it only matters if it is killed.
    pub(super) fn open_journal(&self) -> Option<Journal> {
        let opened = Journal::open(&self.journal_directory);
        opened.inspect_err(|error| self.warn_of_journal(error)).ok()
    }

    pub(super) fn change_journal(
        &self,
        journal: &mut Option<Journal>,
        change: impl FnOnce(&mut Journal) -> io::Result<()>,
    ) {
        if let Some(Err(error)) = journal.as_mut().map(change) {
            self.warn_of_journal(&error);
        }
    }

    fn warn_of_journal(&self, error: &io::Error) {
        self.monitor.warn(&format!(
            "{}: {error}: should this run be killed, its snapshots stay",
            self.journal_directory.display()
        ));
    }

    /// Deletes the snapshots that killed runs have left, but for those that are in the repository: the next backup is made
    /// against these. What cannot be done now is left to the next run.
    ///
    /// The catalog was loaded when the sessions of killed runs had ended, so that no more of them can be published.
    pub(super) fn delete_orphans(&self, journal: &mut Journal, catalog: &Catalog) {
        if !catalog.damaged.is_empty() {
            return tracing::warn!("snapshots of killed runs stay for now, as not every manifest can be read");
        }
        let published: HashSet<SnapshotVersion> =
            catalog.published.iter().filter_map(|backup| backup.manifest.version()).collect();
        for path in journal.snapshots().clone() {
            match self.delete_unpublished(&path, &published) {
                Ok(()) => journal.remove(&path),
                // Its file system may be mounted again some day.
                Err(error @ BtrfsError::NotFound { .. }) => {
                    tracing::debug!(path = %path.display(), %error, "not looked for");
                }
                Err(error) => tracing::warn!(
                    path = %path.display(),
                    error = %format!("{:#}", anyhow::Error::new(error)),
                    "the snapshot of a killed run cannot be deleted now"
                ),
            }
        }
    }

    /// Deletes the snapshot at `path`, if there is one and no backup was made from it.
    fn delete_unpublished(&self, path: &Path, published: &HashSet<SnapshotVersion>) -> Result<(), BtrfsError> {
        match self.file_system.find_snapshot(path)? {
            Some(snapshot) if !published.contains(&sent_identity(&snapshot.info)) => {
                tracing::info!(path = %path.display(), "deleting a snapshot that a killed run has left");
                self.file_system.delete(&snapshot)
            }
            _ => Ok(()),
        }
    }
}
