//! Where in a tree's string something is lost, and what is there of it.

use std::ops::Range;

use crate::object::FormatError;
use crate::pack::format::PackClass;
use crate::repository::Damage;
use crate::repository::needs::NeedsWalk;
use crate::tree::Tree;
use crate::tree::walk::{Step, TreeWalk};

impl NeedsWalk<'_> {
    /// Which spans of a tree's string are lost, in order, of a backup that was just visited. Reads the nodes again below which
    /// something is lost; takes 16 bytes of memory for each span.
    ///
    /// # Errors
    ///
    /// If the store or the local disk fails.
    pub async fn lost_spans(&mut self, tree: &Tree, leaves: PackClass) -> anyhow::Result<Vec<Range<u64>>> {
        let mut spans: Vec<Range<u64>> = Vec::new();
        let Ok(mut walk) = TreeWalk::new(tree) else { return Ok(whole(tree)) };
        loop {
            let begin = tree.bytes - walk.remaining_bytes();
            let Ok(step) = walk.step() else { return Ok(whole(tree)) };
            let is_lost = match step {
                Step::End => return Ok(spans),
                Step::Entry(entry) => !self.check_content(&entry, leaves).await?.is_empty(),
                Step::NeedNode(id) => {
                    let key = (leaves, id);
                    let is_whole = self.seen.contains_key(&key) && !self.lost_below.contains_key(&key);
                    let read = if is_whole { None } else { not_damaged(self.read_meta(&id).await)? };
                    let fits = match &read {
                        Some((node, _)) => walk.provide(node),
                        None => walk.pass_over(),
                    };
                    if fits.is_err() {
                        return Ok(whole(tree));
                    }
                    read.is_none() && !is_whole
                }
            };
            if is_lost {
                push(&mut spans, begin..tree.bytes - walk.remaining_bytes());
            }
        }
    }

    /// Reads a tree's string of metadata, and hands on one piece after another.
    ///
    /// # Errors
    ///
    /// [`Damage`] where it cannot be read any further; that of `take`; or the store's error.
    pub async fn read_string(
        &mut self,
        tree: &Tree,
        mut take: impl FnMut(&[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut walk = TreeWalk::new(tree).map_err(|error| unfit(&error))?;
        loop {
            match walk.step().map_err(|error| unfit(&error))? {
                Step::NeedNode(id) => walk.provide(&self.read_meta(&id).await?.0).map_err(|error| unfit(&error))?,
                Step::Entry(entry) => {
                    let (chunk, _) = self.read_meta(&entry.id).await?;
                    let piece = entry.piece(&chunk).ok_or_else(|| unfit(&FormatError::CutShort))?;
                    for _ in 0..entry.repeats {
                        take(&piece)?;
                    }
                }
                Step::End => return Ok(()),
            }
        }
    }
}

/// Nothing of it can be told from the rest.
fn whole(tree: &Tree) -> Vec<Range<u64>> {
    std::iter::once(0..tree.bytes).filter(|span| !span.is_empty()).collect()
}

/// Adds a span to those before it.
fn push(spans: &mut Vec<Range<u64>>, span: Range<u64>) {
    match spans.last_mut() {
        Some(last) if last.end == span.start => last.end = span.end,
        _ => spans.push(span),
    }
}

fn not_damaged<T>(read: anyhow::Result<T>) -> anyhow::Result<Option<T>> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(error) if error.downcast_ref::<Damage>().is_some() => Ok(None),
        Err(error) => Err(error),
    }
}

fn unfit(error: &FormatError) -> anyhow::Error {
    Damage { object: "a tree of the manifest".to_owned(), reason: error.to_string() }.into()
}
