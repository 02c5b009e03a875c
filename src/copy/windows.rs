//! Gathers the file data of a backup, to be read ahead of its use: only what the destination does not have.

use futures_util::stream::{self, Stream};
use tokio::sync::Mutex;

use crate::backup::Uploader;
use crate::restore::{Entries, Locator, RestoreOptions, Window};
use crate::tree::Tree;
use crate::tree::node::Entry;

/// What stores chunks, and is asked meanwhile which ones it has.
pub(super) type SharedUploader<'a, 'b> = Mutex<&'a mut Uploader<'b>>;

/// Whether the destination has, or will have, a chunk.
type IsKnown = bool;

/// The entries of a tree, and one of them that belongs into the next window.
struct Ahead<'a> {
    entries: Entries<'a>,
    next: Option<(Entry, IsKnown)>,
}

/// Gives the entries of a tree of file data in windows.
pub(super) fn gather_windows<'a>(
    locator: &'a Locator,
    tree: &Tree,
    options: &'a RestoreOptions,
    uploader: &'a SharedUploader<'_, '_>,
) -> anyhow::Result<impl Stream<Item = anyhow::Result<Window>>> {
    let ahead = Ahead { entries: Entries::new(locator, tree)?, next: None };
    Ok(stream::try_unfold(ahead, move |mut ahead| async move {
        let window = ahead.gather(options, uploader).await?;
        Ok(window.map(|window| (window, ahead)))
    }))
}

impl Ahead<'_> {
    /// Gathers entries until enough is to be read for them.
    async fn gather(
        &mut self,
        options: &RestoreOptions,
        uploader: &SharedUploader<'_, '_>,
    ) -> anyhow::Result<Option<Window>> {
        let mut window = Window::default();
        while let Some((entry, is_known)) = self.next_entry(uploader).await? {
            if window.ends_before(&entry, options) {
                self.next = Some((entry, is_known));
                break;
            }
            if is_known {
                window.push_unread(entry);
            } else {
                window.push(entry);
            }
        }
        Ok((!window.entries.is_empty()).then_some(window))
    }

    async fn next_entry(&mut self, uploader: &SharedUploader<'_, '_>) -> anyhow::Result<Option<(Entry, IsKnown)>> {
        if let Some(next) = self.next.take() {
            return Ok(Some(next));
        }
        let Some(entry) = self.entries.next().await? else { return Ok(None) };
        let is_known = uploader.lock().await.known_data(&entry.id)?.is_some();
        Ok(Some((entry, is_known)))
    }
}
