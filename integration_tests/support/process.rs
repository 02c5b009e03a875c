//! Starting programs and judging how they ended.

use std::ffi::OsString;
use std::process::{Command, Output};

/// A command that also finds what lies in `/usr/sbin`, as `mkfs.btrfs` does, when the caller's `PATH` lacks it.
pub(crate) fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("PATH", search_path());
    command
}

/// The caller's `PATH` with the system's directories after it.
pub(crate) fn search_path() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin:/usr/bin:/bin");
    path
}

/// How a program ended, with what it wrote.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Ended {
    /// What it wrote to standard output, as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    #[track_caller]
    pub(crate) fn assert_code(&self, expected: i32) {
        assert_eq!(self.code, Some(expected), "stdout:\n{}\nstderr:\n{}", self.text(), self.stderr);
    }

    #[track_caller]
    pub(crate) fn assert_failed_naming(&self, expected: &str) {
        assert_ne!(self.code, Some(0), "it should have failed; stdout:\n{}\nstderr:\n{}", self.text(), self.stderr);
        assert!(self.stderr.contains(expected), "'{expected}' is not named in:\n{}", self.stderr);
    }
}

/// Runs `command` to its end and fails the test, showing everything, unless it exits with 0.
#[track_caller]
pub(crate) fn succeed(command: &mut Command) -> Ended {
    let ended = Ended::from(command.output().unwrap_or_else(|error| panic!("{command:?}: {error}")));
    assert_eq!(ended.code, Some(0), "{command:?}\nstdout:\n{}\nstderr:\n{}", ended.text(), ended.stderr);
    ended
}
