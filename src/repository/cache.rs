//! Copies of small records on the host's disk, so that a run asks the store only for what is new.
//!
//! Records are never changed, and carry their own hash: a copy that is damaged is not used, one that is missing is read
//! again. Nothing here can fail a run.

use std::path::PathBuf;

use crate::store::Key;

/// A folder of copies, or none.
#[derive(Debug, Clone, Default)]
pub struct RecordCache {
    folder: Option<PathBuf>,
}

impl RecordCache {
    /// Keeps copies in `folder`, which is made when needed.
    #[must_use]
    pub fn in_folder(folder: PathBuf) -> Self {
        Self { folder: Some(folder) }
    }

    /// Keeps nothing: everything is read from the store.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// The copy of an object, if there is one.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Vec<u8>> {
        std::fs::read(self.path(key)?).ok()
    }

    /// Keeps a copy of an object if that is possible.
    pub fn put(&self, key: &Key, bytes: &[u8]) {
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
