//! The command line: arguments, environment, output and exit codes live here and nowhere else.

mod backup;
mod context;
mod debug;
mod exit;
mod init;
mod list;
mod output;
mod progress;
mod restore;
mod show;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use tokio::sync::oneshot;

use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::config::LogLevel;

/// Backs up Btrfs subvolumes to a deduplicated repository, and restores any backup by its id.
#[derive(Debug, Parser)]
#[command(name = "btrfs_to_s3", version, max_term_width = 110)]
#[command(
    after_help = "Exit codes: 0 done; 1 failed; 2 usage or configuration; 3 everything asked for was published, but \
    something else went wrong; 4 another run holds the lock; 5 repository damaged; 130 interrupted."
)]
struct Arguments {
    #[command(flatten)]
    global: GlobalArguments,
    #[command(subcommand)]
    command: Command,
}

/// Options of all commands.
#[derive(Debug, clap::Args)]
struct GlobalArguments {
    /// Configuration file
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Repository, instead of the configuration's, such as `file:///srv/backups`
    #[arg(long, global = true, value_name = "URL")]
    repository: Option<String>,
    /// How much is logged to standard error: error, warn, info, debug or trace
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<LogLevel>,
    /// How log lines look
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// For people.
    Text,
    /// For programs, one object a line.
    Json,
}

/// After a signal, so much time is left to clear away what was begun.
const CLEARING_AWAY: Duration = Duration::from_secs(4);

#[derive(Debug, Subcommand)]
enum Command {
    Init(init::InitArguments),
    Backup(backup::BackupArguments),
    List(list::ListArguments),
    Show(show::ShowArguments),
    Restore(restore::RestoreArguments),
    Debug(debug::DebugArguments),
}

/// Runs the command that the process' arguments name; gives its exit code.
#[must_use]
pub fn run() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return exit::of_usage(&error),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let exit = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(run_until_signal(arguments));
            // What a run that was interrupted has begun is cleared away now. A thread that reads standard input cannot be
            // stopped; it ends with the process.
            runtime.shutdown_timeout(CLEARING_AWAY);
            result
        }
        Err(error) => Err(anyhow::Error::new(error).context("starting")),
    };
    exit::report(exit)
}

async fn run_until_signal(arguments: Arguments) -> anyhow::Result<Exit> {
    let (sender, interrupted) = oneshot::channel();
    tokio::spawn(async move {
        drop(sender.send(exit::signal().await));
        // The command may be waiting for a child, and then does not see that it is to end.
        tokio::time::sleep(CLEARING_AWAY).await;
        std::process::exit(Exit::Interrupted as i32);
    });
    tokio::select! {
        result = run_command(arguments) => result,
        Ok(signal) = interrupted => signal,
    }
}

async fn run_command(arguments: Arguments) -> anyhow::Result<Exit> {
    let context = Context::new(&arguments.global)?;
    let done = match arguments.command {
        Command::Init(arguments) => init::cmd_init(&context, &arguments).await,
        Command::Backup(arguments) => backup::cmd_backup(&context, arguments).await,
        Command::List(arguments) => list::cmd_list(&context, &arguments).await,
        Command::Show(arguments) => show::cmd_show(&context, &arguments).await,
        Command::Restore(arguments) => restore::cmd_restore(&context, arguments).await,
        Command::Debug(arguments) => debug::cmd_debug(&context, arguments).await,
    };
    context.progress.finish();
    match done {
        // Whoever closed standard output has seen what he wanted.
        Err(error) if !output::is_closed(&error) => return Err(error),
        _ => {}
    }
    Ok(if context.progress.had_problems() { Exit::Problems } else { Exit::Done })
}
