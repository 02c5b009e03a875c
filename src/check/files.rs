//! Which files of a backup have lost bytes.

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
    let mut files = LostFiles::new(&spans, at_most);
    let followed = follow_commands(walk, manifest, &mut files).await;
    let commands_unreadable = match followed {
        Ok(()) => None,
        Err(error) if is_damage(&error) => Some(format!("{error:#}")),
        Err(error) => return Err(error.context(format!("reading commands of {}", manifest.id()))),
    };
    let (files, more) = files.finish();
    Ok(FileLosses { files, more, data_bytes, commands_unreadable })
}

async fn follow_commands(
    walk: &mut NeedsWalk<'_>,
    manifest: &Manifest,
    files: &mut LostFiles<'_>,
) -> anyhow::Result<()> {
    let mut commands = KeptCommands::default();
    let Some(tree) = manifest.tree(&RootKind::Commands) else { return Ok(()) };
    let take = |piece: &[u8]| {
        commands.push(piece);
        while let Some(command) = commands.next_command()? {
            files.follow(&command);
        }
        Ok(())
    };
    walk.read_string(tree, take).await
}

/// What is wrong with the commands themselves is found here as well.
fn is_damage(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Damage>().is_some() || error.downcast_ref::<crate::send_stream::StreamError>().is_some()
}
