//! Exit codes, and the one line that explains them.

use std::io;
use std::process::ExitCode;

use anyhow::Context;
use rustix::io::Errno;
use tokio::signal::unix::{Signal, SignalKind, signal as listen};

use crate::backup::Interrupted;
use crate::cli::output;
use crate::config::ConfigErrors;
use crate::copy::ArchivedSource;
use crate::job::ArchivedPacks;
use crate::lock::LockError;
use crate::repository::Damage;
use crate::repository::catalog::UnclearBackup;
use crate::restore::NotThawed;
use crate::store::{StoreError, StoreErrorKind};

/// How a command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// What was asked has been done.
    Done = 0,
    /// It has not.
    Failed = 1,
    /// It could not be understood.
    Usage = 2,
    /// It has been done, but something else is wrong.
    Problems = 3,
    /// Another run holds the lock.
    Locked = 4,
    /// The repository is damaged.
    Damaged = 5,
    /// Objects are archived and have to be thawed first.
    Archived = 6,
    /// A signal came.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A request that makes no sense, as opposed to one that failed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct UsageError(pub(crate) String);

/// The signals that ask to stop; those are left out that whoever started this process has it ignore, as nohup does.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Option<Signal>,
    terminate: Option<Signal>,
    hang_up: Option<Signal>,
}

impl Signals {
    /// Begins to take them; from now on they do nothing else.
    pub(crate) fn listen() -> anyhow::Result<Self> {
        let ignored = ignored_signals(&std::fs::read_to_string("/proc/self/status").unwrap_or_default());
        let listen = |kind: SignalKind| {
            let is_ignored = ignored & (1 << (kind.as_raw_value() - 1)) != 0;
            (!is_ignored).then(|| listen(kind)).transpose().context("listening for signals")
        };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }

    /// Waits for one; gives its name.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            () = received(&mut self.interrupt) => "SIGINT",
            () = received(&mut self.terminate) => "SIGTERM",
            () = received(&mut self.hang_up) => "SIGHUP",
        }
    }
}

async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// The signals that a process ignores, a bit for each, as the kernel says in its status; none if it does not say.
fn ignored_signals(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// Prints what the argument parser says.
pub(crate) fn of_usage(error: &clap::Error) -> ExitCode {
    // Help and version go to standard output and are no error; a broken pipe there is none either.
    drop(error.print());
    if error.use_stderr() { Exit::Usage.into() } else { Exit::Done.into() }
}

/// Prints why a command failed, if it did.
pub(crate) fn report(result: anyhow::Result<Exit>) -> ExitCode {
    match result {
        Ok(exit) => exit.into(),
        Err(error) => {
            let exit = exit_of(&error);
            match exit {
                Exit::Interrupted => {
                    output::error_line(&format!("{error:#}: run it again, and it goes on with what has been stored"));
                }
                _ => output::error_line(&format!("error: {error:#}{}", advice(&error))),
            }
            exit.into()
        }
    }
}

/// What to do about an error, where the error itself does not say.
fn advice(error: &anyhow::Error) -> &'static str {
    let is = |is_io: fn(&io::Error) -> bool, kind: Option<StoreErrorKind>| {
        error.chain().any(|cause| {
            cause.downcast_ref().is_some_and(is_io)
                || cause.downcast_ref().is_some_and(|error: &StoreError| Some(error.kind) == kind)
        })
    };
    let is_full = |error: &io::Error| matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    if is(is_full, Some(StoreErrorKind::Full)) {
        return ": make room there, then run it again";
    }
    if is(|error| Errno::from_io_error(error) == Some(Errno::MFILE), None) {
        return ": raise the limit of open files (ulimit -n)";
    }
    ""
}

pub(crate) fn exit_of(error: &anyhow::Error) -> Exit {
    let any = |test: fn(&(dyn std::error::Error + 'static)) -> bool| error.chain().any(test);
    if any(<dyn std::error::Error>::is::<Interrupted>) {
        Exit::Interrupted
    } else if any(|cause| cause.is::<UsageError>() || cause.is::<UnclearBackup>() || cause.is::<ConfigErrors>()) {
        Exit::Usage
    } else if any(|cause| matches!(cause.downcast_ref(), Some(LockError::Held { .. }))) {
        Exit::Locked
    } else if any(<dyn std::error::Error>::is::<Damage>) {
        Exit::Damaged
    } else if any(|cause| cause.is::<NotThawed>() || cause.is::<ArchivedPacks>() || cause.is::<ArchivedSource>())
        || any(|cause| matches!(cause.downcast_ref(), Some(StoreError { kind: StoreErrorKind::Archived, .. })))
    {
        Exit::Archived
    } else {
        Exit::Failed
    }
}

impl output::ClosedOutput {
    /// Tells a closed output from one that fails.
    pub(crate) fn or(error: io::Error) -> anyhow::Error {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self.into(),
            _ => anyhow::Error::new(error).context("writing to standard output"),
        }
    }
}
