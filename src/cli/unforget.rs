//! `unforget`

use crate::cli::context::Context;
use crate::cli::output;
use crate::forget::unforget;
use crate::lock::HostLock;
use crate::repository::catalog::find_manifest;

/// Brings a forgotten backup back, under a new id, if all it needs is still there
#[derive(Debug, clap::Args)]
pub(crate) struct UnforgetArguments {
    /// Its id, or as much of it as no other id begins with
    id: String,
}

pub(crate) async fn cmd_unforget(context: &Context, arguments: &UnforgetArguments) -> anyhow::Result<()> {
    let _lock = HostLock::acquire(&context.config.lock_path, context.clock.as_ref())?;
    let repository = context.repository().await?;
    let id = find_manifest(&repository, &arguments.id).await?;
    let host = context.host(&repository);
    let copy = unforget(&repository, &host, id, &context.interruption, &context.monitor()).await?;
    output::line(&format!("backup {id} is back as backup {}", copy.id()))
}
