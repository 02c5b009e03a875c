//! `man`

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::CommandFactory as _;
use clap_mangen::Man;

use crate::cli::{Arguments, output};

/// Writes the manual pages
///
/// Without a folder, the page of the program is printed: `btrfs_to_s3 man | man -l -`.
#[derive(Debug, clap::Args)]
pub(crate) struct ManArguments {
    /// Where to write a page for the program and one for each command; made if it is not there
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
}

pub(crate) fn cmd_man(arguments: &ManArguments) -> anyhow::Result<()> {
    let mut program = Arguments::command().disable_help_subcommand(true);
    program.build();
    let Some(directory) = &arguments.directory else { return output::bytes(&rendered(program)?) };
    fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    write_pages(program, directory)
}

/// Writes the page of a command and those of its own commands.
fn write_pages(command: clap::Command, directory: &Path) -> anyhow::Result<()> {
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
        write_pages(inner.clone(), directory)?;
    }
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let path = directory.join(format!("{name}.1"));
    fs::write(&path, rendered(command.display_name(name))?).with_context(|| path.display().to_string())
}

fn rendered(command: clap::Command) -> anyhow::Result<Vec<u8>> {
    let mut page = Vec::new();
    Man::new(command).render(&mut page).context("making a manual page")?;
    Ok(page)
}
