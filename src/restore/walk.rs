//! Goes through the trees of a backup.

use bytes::Bytes;

use crate::object::FormatError;
use crate::repository::Damage;
use crate::restore::locate::Locator;
use crate::restore::pieces::PieceSender;
use crate::tree::Tree;
use crate::tree::node::Entry;
use crate::tree::walk::{Step, TreeWalk};

/// The leaves' entries of a tree, in order.
pub(crate) struct Entries<'a> {
    locator: &'a Locator,
    walk: TreeWalk,
}

impl<'a> Entries<'a> {
    pub(crate) fn new(locator: &'a Locator, tree: &Tree) -> anyhow::Result<Self> {
        let walk = TreeWalk::new(tree).map_err(|error| unfit("a tree of the manifest".to_owned(), &error))?;
        Ok(Self { locator, walk })
    }

    pub(crate) async fn next(&mut self) -> anyhow::Result<Option<Entry>> {
        loop {
            match self.walk.step().map_err(|error| unfit("a tree of the manifest".to_owned(), &error))? {
                Step::NeedNode(id) => {
                    let node = self.locator.meta_chunk(&id).await?;
                    self.walk.provide(&node).map_err(|error| unfit(format!("tree node {id}"), &error))?;
                }
                Step::Entry(entry) => return Ok(Some(entry)),
                Step::End => return Ok(None),
            }
        }
    }
}

/// What has the bytes it should have, and makes no sense all the same.
pub(crate) fn unfit(object: String, error: &FormatError) -> anyhow::Error {
    Damage { object, reason: error.to_string() }.into()
}

/// The piece of a chunk that an entry names.
pub(crate) fn piece_of(entry: &Entry, chunk: &Bytes) -> anyhow::Result<Bytes> {
    entry.piece(chunk).ok_or_else(|| {
        let reason = "the recipe names more bytes than the chunk has".to_owned();
        Damage { object: format!("chunk {}", entry.id), reason }.into()
    })
}

/// Sends the command stream, as far as the other side takes it.
pub(crate) async fn send_commands(
    locator: &Locator,
    tree: Option<&Tree>,
    mut pieces: PieceSender,
) -> anyhow::Result<()> {
    let Some(tree) = tree else { return Ok(()) };
    let mut entries = Entries::new(locator, tree)?;
    while let Some(entry) = entries.next().await? {
        let chunk = locator.meta_chunk(&entry.id).await?;
        if pieces.send(piece_of(&entry, &chunk)?, entry.repeats).await.is_err() {
            return Ok(());
        }
    }
    // Whoever does not take the last ones either knows why.
    drop(pieces.flush().await);
    Ok(())
}
