//! `tag`

use clap::ValueEnum;

use crate::cli::context::Context;
use crate::cli::exit::UsageError;
use crate::cli::output;
use crate::records::note::TagChange;
use crate::repository::catalog::{check_not_forgotten, find_manifest, read_manifest};
use crate::repository::notes::{Notes, Said, check_tag, put_note};

/// Puts tags on a backup, or takes them off
///
/// `list` and `show` show them, and `forget` keeps backups that have one of `keep_tags`.
#[derive(Debug, clap::Args)]
pub(crate) struct TagArguments {
    /// The backup's id, or as much of it as no other id begins with
    id: String,
    /// Whether they are put on or taken off
    change: Change,
    /// The tags: letters, digits, `.`, `_`, `-`, `:` and `=`
    #[arg(required = true, value_name = "TAG")]
    tags: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Change {
    /// They are put on.
    Add,
    /// They are taken off.
    Remove,
}

pub(crate) async fn cmd_tag(context: &Context, arguments: &TagArguments) -> anyhow::Result<()> {
    let tags = &arguments.tags;
    tags.iter().try_for_each(|tag| check_tag(tag)).map_err(|error| UsageError(error.to_string()))?;
    let repository = context.repository().await?;
    let id = find_manifest(&repository, &arguments.id).await?;
    check_not_forgotten(&repository, id).await?;
    read_manifest(&repository, id).await?;
    let change = match arguments.change {
        Change::Add => TagChange { add: tags.clone(), remove: Vec::new() },
        Change::Remove => TagChange { add: Vec::new(), remove: tags.clone() },
    };
    let before = Notes::load(&repository, &context.record_cache(&repository)).await?.tags(id);
    for tag in tags.iter().filter(|tag| arguments.change == Change::Remove && !before.contains(*tag)) {
        context.monitor().warn(&format!("backup {id} has no tag {tag}"));
    }
    put_note(&repository, Some(id), &context.host(&repository).name, Said::Tags(change)).await?;
    let notes = Notes::load(&repository, &context.record_cache(&repository)).await?;
    let now: Vec<String> = notes.tags(id).into_iter().collect();
    match now.as_slice() {
        [] => output::line(&format!("backup {id} has no tags now")),
        now => output::line(&format!("backup {id} has the tags {} now", now.join(", "))),
    }
}
