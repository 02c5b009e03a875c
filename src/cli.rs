//! The command line: arguments, environment, output and exit codes live here and nowhere else.

mod backup;
mod check;
mod completions;
mod context;
mod copy;
mod cost;
mod debug;
mod doctor;
mod exit;
mod forget;
mod init;
mod limits;
mod list;
mod man;
mod output;
mod progress;
mod prune;
mod rehearse;
mod repair;
mod restore;
mod show;
mod stats;
mod status;
mod tag;
mod thaw;
mod unforget;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};
use futures_util::future::FutureExt;
use tokio::sync::oneshot;

use crate::backup::{Interrupted, Interruption, unless_interrupted};
use crate::btrfs::loop_file_system::enter_own_mounts;
use crate::cli::context::Context;
use crate::cli::exit::{Exit, Signals};
use crate::config::LogLevel;

/// Backs up Btrfs subvolumes to a deduplicated repository, and restores any backup by its id.
#[derive(Debug, Parser)]
#[command(name = "btrfs_to_s3", version, max_term_width = 110)]
#[command(
    after_help = "Exit codes: 0 done; 1 failed; 2 usage or configuration; 3 everything asked for was published, but \
    something else went wrong; 4 another run holds the lock; 5 repository damaged; \
    6 objects are archived; 130 interrupted."
)]
struct Arguments {
    #[command(flatten)]
    global: GlobalArguments,
    #[command(subcommand)]
    command: AnyCommand,
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
const CLEARING_AWAY: Duration = Duration::from_secs(3);

#[derive(Debug, Subcommand)]
enum AnyCommand {
    #[command(flatten)]
    OnHost(Command),
    Completions(completions::CompletionsArguments),
    Man(man::ManArguments),
}

/// What needs a configuration. The others are about the program itself.
#[derive(Debug, Subcommand)]
enum Command {
    Init(init::InitArguments),
    Doctor(doctor::DoctorArguments),
    Backup(backup::BackupArguments),
    List(list::ListArguments),
    Show(show::ShowArguments),
    Status(status::StatusArguments),
    Restore(restore::RestoreArguments),
    Rehearse(rehearse::RehearseArguments),
    Stats(stats::StatsArguments),
    Cost(cost::CostArguments),
    Tag(tag::TagArguments),
    Check(check::CheckArguments),
    Repair(repair::RepairArguments),
    Forget(forget::ForgetArguments),
    Unforget(unforget::UnforgetArguments),
    Prune(prune::PruneArguments),
    Copy(copy::CopyArguments),
    Debug(debug::DebugArguments),
}

/// Runs the command that the process' arguments name; gives its exit code.
#[must_use]
pub fn run() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return exit::of_usage(&error),
    };
    exit::report(match arguments.command {
        AnyCommand::OnHost(command) => start(&arguments.global, command),
        AnyCommand::Completions(arguments) => told(completions::cmd_completions(&arguments)),
        AnyCommand::Man(arguments) => told(man::cmd_man(&arguments)),
    })
}

/// Whoever closed standard output has seen what he wanted.
fn told(done: anyhow::Result<()>) -> anyhow::Result<Exit> {
    match done {
        Err(error) if !output::is_closed(&error) => Err(error),
        _ => Ok(Exit::Done),
    }
}

fn start(global: &GlobalArguments, command: Command) -> anyhow::Result<Exit> {
    if matches!(&command, Command::Rehearse(arguments) if arguments.mounts()) {
        // Before there are threads, which would not be in it.
        enter_own_mounts()?;
    }
    limits::raise_open_files()?;
    limits::limit_threads();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.context("starting")?;
    let interruption = watch_for_signals()?;
    let result = runtime.block_on(run_command(global, command, interruption));
    // What a run that was interrupted has begun is cleared away now. A thread that reads standard input cannot be
    // stopped; it ends with the process.
    runtime.shutdown_timeout(CLEARING_AWAY);
    result
}

/// Gives the interruption that comes with the first signal. The process ends with the second, or a while after the
/// first: the command may be waiting for something that cannot be cancelled, and who asks twice does not want to wait.
fn watch_for_signals() -> anyhow::Result<Interruption> {
    let (sender, receiver) = oneshot::channel();
    // Apart from the command's, which is busy ending when the second signal comes.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting")?;
    let mut signals = runtime.block_on(async { Signals::listen() })?;
    let watch = async move {
        let name = signals.next().await;
        // There is nobody left to be told when the command is done already.
        sender.send(Interrupted(name)).ok();
        tokio::time::timeout(CLEARING_AWAY, signals.next()).await.ok();
        std::process::exit(Exit::Interrupted as i32)
    };
    let watch = move || runtime.block_on(watch);
    std::thread::Builder::new().name("signals".to_owned()).spawn(watch).context("starting a thread")?;
    Ok(receiver.map(|received| received.unwrap_or(Interrupted("the end of the program"))).boxed().shared())
}

async fn run_command(global: &GlobalArguments, command: Command, interruption: Interruption) -> anyhow::Result<Exit> {
    let context = Context::new(global, interruption.clone())?;
    // These end what they have begun. The others have begun nothing, or end it when they are dropped.
    let ends_itself = matches!(command, Command::Backup(_) | Command::Unforget(_) | Command::Copy(_));
    let command = Box::pin(dispatch(&context, command));
    let done = if ends_itself { command.await } else { unless_interrupted(&interruption, command).await };
    context.progress.finish();
    let exit = told(done)?;
    Ok(if context.progress.had_problems() { Exit::Problems } else { exit })
}

async fn dispatch(context: &Context, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Init(arguments) => init::cmd_init(context, &arguments).await,
        Command::Doctor(arguments) => doctor::cmd_doctor(context, &arguments).await,
        Command::Backup(arguments) => backup::cmd_backup(context, arguments).await,
        Command::List(arguments) => list::cmd_list(context, &arguments).await,
        Command::Show(arguments) => show::cmd_show(context, &arguments).await,
        Command::Status(arguments) => status::cmd_status(context, &arguments).await,
        Command::Restore(arguments) => Box::pin(restore::cmd_restore(context, arguments)).await,
        Command::Rehearse(arguments) => rehearse::cmd_rehearse(context, &arguments).await,
        Command::Stats(arguments) => stats::cmd_stats(context, &arguments).await,
        Command::Cost(arguments) => cost::cmd_cost(context, &arguments).await,
        Command::Tag(arguments) => tag::cmd_tag(context, &arguments).await,
        Command::Check(arguments) => check::cmd_check(context, &arguments).await,
        Command::Repair(arguments) => repair::cmd_repair(context, arguments).await,
        Command::Forget(arguments) => forget::cmd_forget(context, &arguments).await,
        Command::Unforget(arguments) => unforget::cmd_unforget(context, &arguments).await,
        Command::Prune(arguments) => prune::cmd_prune(context, &arguments).await,
        Command::Copy(arguments) => copy::cmd_copy(context, &arguments).await,
        Command::Debug(arguments) => debug::cmd_debug(context, arguments).await,
    }
}
