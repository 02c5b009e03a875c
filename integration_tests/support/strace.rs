//! Ends the program at an exact place: when it enters a certain system call.

use std::path::PathBuf;
use std::process::Command;

use super::process::{command, search_path};

/// The system call at which the program is killed, before the kernel does anything of it.
#[derive(Debug, Clone)]
pub(crate) struct KillAt {
    /// Names as in strace(1): a name, or a regular expression after a `/`.
    pub(crate) call: &'static str,
    /// Only calls on these folders, or on files in them that are opened by the folder's descriptor; all, if none.
    pub(crate) folders: Vec<PathBuf>,
    /// The first such call of a thread is 1. Each thread counts for itself: above 1 it is not exact.
    pub(crate) when: u32,
}

impl KillAt {
    /// The same program with the same arguments and environment, to be killed there. It ends as if nothing had happened
    /// where it never makes the call.
    pub(crate) fn wrap(&self, program: &Command) -> Command {
        let mut traced = command("strace");
        traced.args(["-f", "-qqq", "-o", "/dev/null", "-e", "signal=none"]);
        traced.arg("-e").arg(format!("trace={}", self.call));
        traced.arg("-e").arg(format!("inject={}:signal=KILL:when={}", self.call, self.when));
        for folder in &self.folders {
            traced.arg("-P").arg(folder);
        }
        traced.arg("--").arg(program.get_program()).args(program.get_args());
        traced.env_clear().env("PATH", search_path());
        traced.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        traced
    }
}
