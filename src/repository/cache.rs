//! Copies of small records on the host's disk, so that a run asks the store only for what is new.
//!
//! Records are never changed, and carry their own hash: a copy that is damaged is not used, one that is missing is read
//! again. Nothing here can fail a run.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::store::Key;

/// A folder of copies, or none.
#[derive(Debug, Clone, Default)]
pub struct RecordCache {
    folder: Option<PathBuf>,
    /// What was read ahead, for as long as this lives.
    at_hand: Option<Arc<Mutex<HashMap<Key, Bytes>>>>,
}

impl RecordCache {
    /// Keeps copies in `folder`, which is made when needed.
    #[must_use]
    pub fn in_folder(folder: PathBuf) -> Self {
        Self { folder: Some(folder), at_hand: None }
    }

    /// Keeps nothing: everything is read from the store.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// The same, and keeps in memory as well what is put from now on.
    #[must_use]
    pub(crate) fn with_memory(&self) -> Self {
        Self { folder: self.folder.clone(), at_hand: Some(Arc::default()) }
    }

    /// The copy of an object, if there is one.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Bytes> {
        let at_hand = self.at_hand.as_ref();
        let copy = at_hand.and_then(|copies| copies.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned());
        copy.or_else(|| std::fs::read(self.path(key)?).ok().map(Bytes::from))
    }

    /// Whether there seems to be a copy on the disk.
    pub(crate) fn is_on_disk(&self, key: &Key) -> bool {
        self.path(key).is_some_and(|path| path.exists())
    }

    /// Keeps a copy of an object if that is possible.
    pub fn put(&self, key: &Key, bytes: &Bytes) {
        if let Some(copies) = &self.at_hand {
            copies.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), bytes.clone());
        }
        let Some(path) = self.path(key) else { return };
        let temporary = path.with_extension("new");
        let folder = path.parent().unwrap_or(&path);
        let written = std::fs::create_dir_all(folder)
            .and_then(|()| std::fs::write(&temporary, bytes))
            .and_then(|()| std::fs::rename(&temporary, &path));
        if let Err(error) = written {
            tracing::debug!(%key, %error, "no copy kept");
        }
    }

    fn path(&self, key: &Key) -> Option<PathBuf> {
        // '+' is not a character of keys.
        Some(self.folder.as_ref()?.join(key.as_str().replace('/', "+")))
    }
}
