//! Commands of the administrator that are run before and after a backup.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// A command that did not do what it was run for.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// It cannot be started.
    #[error("{program} cannot be run")]
    NotStarted {
        /// What was to be run.
        program: String,
        /// Why not.
        source: io::Error,
    },
    /// It has failed.
    #[error("{program} has failed: {status}")]
    Failed {
        /// What was run.
        program: String,
        /// How it ended.
        status: String,
    },
    /// It was ended.
    #[error("{program} was ended after {} s", limit.as_secs())]
    TooLong {
        /// What was run.
        program: String,
        /// How long it might run.
        limit: Duration,
    },
}

/// Runs a command, a program and its arguments, to its end; kills it, and all that it has started, when that takes longer
/// than `limit`, or when this is dropped.
///
/// What it prints goes to standard error, so that it does not get between the results. `input` is what it reads. It has
/// this process' environment, and `facts`.
///
/// # Errors
///
/// [`HookError`]. An empty command does nothing.
pub async fn run_hook(
    command: &[String],
    facts: &[(&'static str, String)],
    input: &str,
    limit: Duration,
) -> Result<(), HookError> {
    let Some((program, arguments)) = command.split_first() else { return Ok(()) };
    let named = || program.clone();
    let not_started = |source| HookError::NotStarted { program: named(), source };
    let mut process = Command::new(program);
    process.args(arguments).envs(facts.iter().map(|(name, value)| (name, value)));
    process.stdin(Stdio::piped()).stdout(io::stderr()).kill_on_drop(true).process_group(0);
    let mut child = process.spawn().map_err(not_started)?;
    let mut group = Group(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)));
    let stdin = child.stdin.take();
    let ended = async {
        if let Some(mut stdin) = stdin {
            // Who does not read what it is told has a reason; how it ends is what counts.
            stdin.write_all(input.as_bytes()).await.ok();
        }
        child.wait().await
    };
    let ended = tokio::time::timeout(limit, ended).await;
    if ended.is_ok() {
        // What it has left behind on purpose goes on.
        group.0 = None;
    }
    match ended {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(HookError::Failed { program: named(), status: status.to_string() }),
        Ok(Err(source)) => Err(not_started(source)),
        Err(_elapsed) => Err(HookError::TooLong { program: named(), limit }),
    }
}

/// The processes of a hook, which are killed when this is dropped.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // There is nothing left to do where it has ended by itself.
            kill_process_group(leader, Signal::KILL).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{Mode, OFlags};
    use rustix::io::Errno;

    use super::*;

    async fn shell(script: &str, facts: &[(&'static str, String)], input: &str) -> Result<(), HookError> {
        let command = ["/bin/sh", "-c", script].map(str::to_owned);
        run_hook(&command, facts, input, Duration::from_mins(1)).await
    }

    #[tokio::test]
    async fn a_hook_is_told_the_facts_and_given_its_input() {
        let facts = [("BTRFS_TO_S3_RESULT", "suc cess".to_owned())];
        shell("read line; test \"$line\" = hello -a \"$BTRFS_TO_S3_RESULT\" = 'suc cess'", &facts, "hello\n")
            .await
            .unwrap();
        assert!(shell("test \"$BTRFS_TO_S3_RESULT\" = other", &facts, "").await.is_err());
    }

    #[tokio::test]
    async fn a_hook_that_fails_says_how() {
        let error = shell("exit 7", &[], "").await.unwrap_err();
        assert_eq!(error.to_string(), "/bin/sh has failed: exit status: 7");
        let error = run_hook(&["/no/such/program".to_owned()], &[], "", Duration::from_secs(9)).await.unwrap_err();
        assert_eq!(error.to_string(), "/no/such/program cannot be run");
    }

    #[tokio::test]
    async fn a_hook_that_does_not_end_is_ended() {
        let command = ["/bin/sh", "-c", "exec cat /dev/zero > /dev/null"].map(str::to_owned);
        let error = run_hook(&command, &[], "", Duration::from_millis(50)).await.unwrap_err();
        assert!(matches!(error, HookError::TooLong { .. }), "{error}");
    }

    #[tokio::test]
    async fn what_a_hook_has_started_is_ended_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        // Both have the other end open until they end.
        let script = format!("mkfifo {0}; exec 3<>{0}; sleep 600 & wait", pipe.display());
        let command = ["/bin/sh", "-c", &script].map(str::to_owned);
        let error = run_hook(&command, &[], "", Duration::from_secs(1)).await.unwrap_err();
        assert!(matches!(error, HookError::TooLong { .. }), "{error}");
        let open = || rustix::fs::open(&pipe, OFlags::WRONLY | OFlags::NONBLOCK, Mode::empty());
        let until = tokio::time::Instant::now() + Duration::from_secs(10);
        while open().err() != Some(Errno::NXIO) {
            assert!(tokio::time::Instant::now() < until, "somebody still reads the pipe");
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn input_that_is_not_read_and_no_command_are_no_failures() {
        shell("true", &[], &"x".repeat(1 << 20)).await.unwrap();
        run_hook(&[], &[], "", Duration::ZERO).await.unwrap();
    }
}
