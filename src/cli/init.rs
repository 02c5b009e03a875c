//! `init`

use std::sync::Arc;

use crate::chunker::ChunkerParameters;
use crate::cli::context::Context;
use crate::cli::exit::UsageError;
use crate::cli::output;
use crate::doctor::OVERWRITES;
use crate::repository::Repository;
use crate::repository::probe::keeps_config;
use crate::size::ByteSize;

/// Makes a new repository
///
/// How chunks are cut is decided now, for as long as the repository lives: `[chunking]` of the configuration says how.
#[derive(Debug, clap::Args)]
pub(crate) struct InitArguments {}

pub(crate) async fn cmd_init(context: &Context, _: &InitArguments) -> anyhow::Result<()> {
    let repository = make_repository(context, parameters(context)?).await?;
    output::line(&format!("made repository {} at {}", repository.id(), repository.store().url()))
}

/// Makes a repository where the configuration says.
pub(crate) async fn make_repository(context: &Context, parameters: ChunkerParameters) -> anyhow::Result<Repository> {
    let store = context.create_store().await?;
    let repository = Repository::init(store, parameters, Arc::clone(&context.clock)).await?;
    if !keeps_config(&repository).await? {
        context.monitor().warn(OVERWRITES);
    }
    Ok(repository)
}

fn parameters(context: &Context) -> anyhow::Result<ChunkerParameters> {
    let chunking = &context.config.chunking;
    let bytes =
        |size: ByteSize| u32::try_from(size.bytes()).map_err(|_| UsageError(format!("[chunking]: {size} is too much")));
    let mut parameters = match chunking.average {
        Some(average) => ChunkerParameters::with_average(bytes(average)?),
        None => ChunkerParameters::default(),
    };
    if let Some(minimum) = chunking.minimum {
        parameters.minimum_bytes = bytes(minimum)?;
    }
    if let Some(maximum) = chunking.maximum {
        parameters.maximum_bytes = bytes(maximum)?;
    }
    parameters.validate().map_err(|error| UsageError(format!("[chunking]: {error}")))?;
    Ok(parameters)
}
