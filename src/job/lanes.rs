//! What runs side by side share of a host, and what each has for itself.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::Context;

use crate::backup::Host;
use crate::local_index::link_runs;
use crate::repository::scratch::ScratchFolder;

/// As many times this host as backups run side by side.
#[derive(Debug)]
pub(super) struct Lanes {
    free: Mutex<Vec<Lane>>,
}

/// This host, with a local index that no other run changes.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) host: Host,
    /// Holds the index, where that is a copy.
    _folder: Option<ScratchFolder>,
}

impl Lanes {
    /// The first lane has the host's index. Each other has a copy of it that goes with the job, made of links: what is added to
    /// it, the host's own gets from the repository in the next job.
    ///
    /// # Errors
    ///
    /// If a folder for a copy cannot be made.
    pub(super) fn open(host: &Host, count: usize, scratch_directory: &Path) -> anyhow::Result<Self> {
        let mut free = Vec::new();
        for _ in 1..count {
            let folder = ScratchFolder::make(scratch_directory)?;
            let index_directory = folder.path().join("index");
            link_runs(&host.index_directory, &index_directory)
                .with_context(|| format!("copying the local index to {}", index_directory.display()))?;
            free.push(Lane { host: Host { index_directory, ..host.clone() }, _folder: Some(folder) });
        }
        free.push(Lane { host: host.clone(), _folder: None });
        Ok(Self { free: Mutex::new(free) })
    }

    /// Takes one that nobody uses. There is one as long as no more runs are under way than were asked for.
    pub(super) fn take(&self) -> Lane {
        let lane = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        lane.expect("no more runs are under way than there are lanes")
    }

    /// Gives one back.
    pub(super) fn put(&self, lane: Lane) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push(lane);
    }
}
