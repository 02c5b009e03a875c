//! Which files of a backup have lost bytes.

use std::ops::Range;

use anyhow::Context;

use crate::check::report::FileLosses;
use crate::pack::format::PackClass;
use crate::records::manifest::{Manifest, RootKind};
use crate::repository::Damage;
use crate::repository::needs::NeedsWalk;
use crate::send_stream::{KeptCommands, LostFiles};

/// Names the files of a backup that was just visited, at most so many, whose bytes are lost. Reads the backup's commands, as
/// far as they can be read, and no file data.
///
/// # Errors
///
/// If the store or the local disk fails.
pub(super) async fn lost_files(
    walk: &mut NeedsWalk<'_>,
    manifest: &Manifest,
    at_most: usize,
) -> anyhow::Result<FileLosses> {
    let spans = match manifest.tree(&RootKind::Data) {
        Some(tree) => walk.lost_spans(tree, PackClass::Data).await?,
        None => Vec::new(),
    };
    let data_bytes = spans.iter().map(|span| span.end - span.start).sum();
    let named = name_files(walk, manifest, &spans, at_most).await;
    let (files, more, commands_unreadable) = named.with_context(|| format!("reading commands of {}", manifest.id()))?;
    Ok(FileLosses { files, more, data_bytes, commands_unreadable })
}

type Named = (Vec<crate::send_stream::LostFile>, u64, Option<String>);

async fn name_files(
    walk: &mut NeedsWalk<'_>,
    manifest: &Manifest,
    lost: &[Range<u64>],
    at_most: usize,
) -> anyhow::Result<Named> {
    let (mut commands, mut files) = (KeptCommands::default(), LostFiles::new(lost, at_most));
    let Some(tree) = manifest.tree(&RootKind::Commands) else { return Ok((Vec::new(), 0, None)) };
    let take = |piece: &[u8]| {
        commands.push(piece);
        while let Some(command) = commands.next_command()? {
            files.follow(&command);
        }
        Ok(())
    };
    let unreadable = match walk.read_string(tree, take).await {
        Ok(()) => None,
        Err(error) if is_damage(&error) => Some(format!("{error:#}")),
        Err(error) => return Err(error),
    };
    let (files, more) = files.finish();
    Ok((files, more, unreadable))
}

/// What is wrong with the commands themselves is found here as well.
fn is_damage(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Damage>().is_some() || error.downcast_ref::<crate::send_stream::StreamError>().is_some()
}
