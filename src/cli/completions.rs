//! `completions`

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::cli::{Arguments, output};

/// Prints what a shell needs to complete commands and options
#[derive(Debug, clap::Args)]
pub(crate) struct CompletionsArguments {
    /// The shell
    shell: Shell,
}

pub(crate) fn cmd_completions(arguments: &CompletionsArguments) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Arguments::command(), env!("CARGO_PKG_NAME"), &mut script);
    output::bytes(&script)
}
