//! `forget`

use crate::cli::context::Context;
use crate::cli::output;
use crate::forget::{Forgot, forget};
use crate::repository::Damage;
use crate::repository::catalog::{Catalog, find_manifest, read_manifest};

/// Takes backups out of the list; prune deletes what only they need
///
/// A backup that others were made against goes on being restored with these. Until a prune has deleted it, `unforget`
/// brings it back.
#[derive(Debug, clap::Args)]
pub(crate) struct ForgetArguments {
    /// The backups' ids, or as much of each as no other id begins with
    #[arg(required = true)]
    ids: Vec<String>,
    /// Why, for whoever asks later
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
}

pub(crate) async fn cmd_forget(context: &Context, arguments: &ForgetArguments) -> anyhow::Result<()> {
    let repository = context.repository().await?;
    let host = context.host(&repository).name;
    // All of them first: a typing error must not leave half of it done.
    let mut ids = Vec::new();
    for prefix in &arguments.ids {
        let id = find_manifest(&repository, prefix).await?;
        match read_manifest(&repository, id).await {
            Err(error) if error.downcast_ref::<Damage>().is_none() => return Err(error),
            // What is damaged is forgotten as well.
            _ => ids.push(id),
        }
    }
    for id in &ids {
        match forget(&repository, *id, &host, &arguments.reason).await? {
            Forgot::Now => output::line(&format!("forgot backup {id}"))?,
            Forgot::Before => output::line(&format!("backup {id} had been forgotten before"))?,
        }
    }
    let catalog = Catalog::load(&repository, &context.record_cache(&repository)).await?;
    for id in &ids {
        let needs_it = |backup: &&_| catalog.chain(backup).is_ok_and(|chain| chain.iter().any(|one| one.id() == *id));
        match catalog.published.iter().filter(needs_it).count() {
            0 => {}
            count => output::line(&format!("backup {id} stays as long as the {count} that were made on it"))?,
        }
    }
    Ok(())
}
