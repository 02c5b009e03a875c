//! Runs the `btrfs` command. The only place that starts processes but for hooks.
//!
//! A child does not outlive its use: it is killed and reaped when it is dropped. If this process is killed, the pipe
//! between the two closes: `btrfs send` then fails to write, and `btrfs receive` sees its input end too early.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use rustix::fs::Access;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid};

use super::BtrfsError;

/// Where distributions put the command; not all of these are in the search path of cron or of an ordinary user.
const USUAL_FOLDERS: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/usr/local/sbin"];
/// The largest pipe that the kernel gives without special settings.
const PIPE_BYTES: usize = 1 << 20;
/// How much of a child's messages is kept. The last ones say what failed.
const MESSAGE_BYTES: usize = 4096;

/// The `btrfs` command of this host.
#[derive(Debug, Clone)]
pub struct BtrfsCommand {
    program: PathBuf,
}

/// How `btrfs send` is to write its stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SendOptions {
    /// The version of the stream; the command's own default if not given.
    pub protocol: Option<u32>,
    /// Whether to send compressed extents as they are; this makes the version 2 unless one is given.
    pub compressed_data: bool,
}

impl BtrfsCommand {
    /// Finds the command in the folders of `search_path` (the value of `PATH`), then where it usually is.
    ///
    /// # Errors
    ///
    /// [`BtrfsError::CommandNotFound`].
    pub fn find(search_path: Option<&OsStr>) -> Result<Self, BtrfsError> {
        Self::find_in(search_path, &USUAL_FOLDERS)
    }

    fn find_in(search_path: Option<&OsStr>, usual_folders: &[&str]) -> Result<Self, BtrfsError> {
        let program = find_program("btrfs", search_path, usual_folders).ok_or(BtrfsError::CommandNotFound)?;
        Ok(Self { program })
    }

    /// Where the command is.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// What the command says of its version, in one line.
    ///
    /// # Errors
    ///
    /// [`BtrfsError`] if it cannot be started, or fails.
    pub fn version(&self) -> Result<String, BtrfsError> {
        let mut process = Process::start(&self.program, &["--version".into()], Stdio::null(), Stdio::piped())?;
        let mut said = String::new();
        if let Some(output) = process.child.0.stdout.take() {
            output
                .take(MESSAGE_BYTES as u64)
                .read_to_string(&mut said)
                .map_err(BtrfsError::io("asking", &self.program))?;
        }
        process.conclude()?;
        Ok(said.lines().next().unwrap_or_default().trim().to_owned())
    }

    /// Starts `btrfs send` of a read-only snapshot: whole, or what has changed since `parent`.
    ///
    /// The stream may refer to extents of the parent and of `clone_sources`, which the receiving side must then have.
    ///
    /// # Errors
    ///
    /// [`BtrfsError::Io`] if the command cannot be started. What it has to complain of itself comes from
    /// [`SendChild::finish`].
    pub fn send(
        &self,
        snapshot: &Path,
        parent: Option<&Path>,
        clone_sources: &[PathBuf],
        options: SendOptions,
    ) -> Result<SendChild, BtrfsError> {
        let mut arguments: Vec<OsString> = vec!["send".into(), "-q".into()];
        if let Some(version) = options.protocol {
            arguments.extend(["--proto".into(), version.to_string().into()]);
        }
        if options.compressed_data {
            arguments.push("--compressed-data".into());
        }
        if let Some(parent) = parent {
            arguments.extend(["-p".into(), parent.into()]);
        }
        for source in clone_sources {
            arguments.extend(["-c".into(), source.into()]);
        }
        arguments.extend(["--".into(), snapshot.into()]);
        let mut process = Process::start(&self.program, &arguments, Stdio::null(), Stdio::piped())?;
        let stream = process.child.0.stdout.take();
        stream.as_ref().inspect(|pipe| widen(pipe));
        Ok(SendChild { process, stream })
    }

    /// Starts `btrfs receive` of one stream, whose subvolume will appear in `folder`.
    ///
    /// # Errors
    ///
    /// [`BtrfsError::Io`] if the command cannot be started. What it has to complain of itself comes from writing, or
    /// from [`ReceiveChild::finish`].
    pub fn receive(&self, folder: &Path) -> Result<ReceiveChild, BtrfsError> {
        let arguments = ["receive".into(), "-q".into(), "--".into(), folder.into()];
        let mut process = Process::start(&self.program, &arguments, Stdio::piped(), Stdio::null())?;
        let stream = process.child.0.stdin.take();
        stream.as_ref().inspect(|pipe| widen(pipe));
        Ok(ReceiveChild { process, stream })
    }
}

/// Runs another program than `btrfs` to its end.
///
/// # Errors
///
/// [`BtrfsError`] if it is not there, cannot be started, or fails.
pub(super) fn run_program(
    name: &'static str,
    search_path: Option<&OsStr>,
    arguments: &[&OsStr],
) -> Result<(), BtrfsError> {
    let program = find_program(name, search_path, &USUAL_FOLDERS).ok_or(BtrfsError::ProgramNotFound { name })?;
    let arguments: Vec<OsString> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    Process::start(&program, &arguments, Stdio::null(), Stdio::null())?.conclude()
}

fn find_program(name: &str, search_path: Option<&OsStr>, usual_folders: &[&str]) -> Option<PathBuf> {
    // A relative entry would let the current directory decide what root runs.
    let given = std::env::split_paths(search_path.unwrap_or_default()).filter(|folder| folder.is_absolute());
    let mut programs = given.chain(usual_folders.iter().map(PathBuf::from)).map(|folder| folder.join(name));
    programs.find(|program| is_program(program))
}

fn is_program(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, Access::EXEC_OK).is_ok()
}

/// Fewer switches between the two processes. Not being allowed to is no reason to fail.
fn widen(pipe: impl AsFd) {
    if let Err(errno) = rustix::pipe::fcntl_setpipe_size(pipe, PIPE_BYTES) {
        tracing::debug!("a pipe stays as small as it is: {errno}");
    }
}

/// A running `btrfs send`: its stream is read from it.
#[derive(Debug)]
pub struct SendChild {
    process: Process,
    stream: Option<ChildStdout>,
}

impl SendChild {
    /// A handle with which another thread can stop the command.
    #[must_use]
    pub fn kill_handle(&self) -> KillHandle {
        self.process.kill_handle.clone()
    }

    /// Waits for the command to end, once the stream is read to its end. Without its success the stream is worth
    /// nothing, complete as it may look.
    ///
    /// # Errors
    ///
    /// [`BtrfsError::CommandFailed`] with the command's last messages.
    pub fn finish(mut self) -> Result<(), BtrfsError> {
        self.stream = None;
        self.process.conclude()
    }
}

impl Read for SendChild {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.as_mut().map_or(Ok(0), |stream| stream.read(buffer))
    }
}

/// A running `btrfs receive`: the stream is written to it.
#[derive(Debug)]
pub struct ReceiveChild {
    process: Process,
    stream: Option<ChildStdin>,
}

impl ReceiveChild {
    /// A handle with which another thread can stop the command.
    #[must_use]
    pub fn kill_handle(&self) -> KillHandle {
        self.process.kill_handle.clone()
    }

    /// Tells the command that the stream has ended, and waits for it to end as well.
    ///
    /// # Errors
    ///
    /// [`BtrfsError::CommandFailed`] with the command's last messages.
    pub fn finish(mut self) -> Result<(), BtrfsError> {
        self.stream = None;
        self.process.conclude()
    }

    /// What stopped the command from reading says more than that the pipe is broken.
    fn explain(&mut self, error: io::Error) -> io::Error {
        if error.kind() != io::ErrorKind::BrokenPipe {
            return error;
        }
        self.stream = None;
        match self.process.conclude() {
            Ok(()) => error,
            Err(failure) => io::Error::new(io::ErrorKind::BrokenPipe, failure),
        }
    }
}

impl Write for ReceiveChild {
    /// Writes a part of the stream. If the command has ended, the error holds the [`BtrfsError`] that says why.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.stream.as_mut().map_or(Err(Errno::PIPE.into()), |stream| stream.write(bytes));
        written.map_err(|error| self.explain(error))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Stops a child from any thread. Does nothing once the child has ended.
#[derive(Debug, Clone)]
pub struct KillHandle {
    // Unlike a process id this never comes to mean another process.
    process: Arc<OwnedFd>,
}

impl KillHandle {
    /// Kills the child. It still has to be finished or dropped.
    pub fn kill(&self) {
        match pidfd_send_signal(&*self.process, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(errno) => tracing::warn!("a btrfs command cannot be stopped: {errno}"),
        }
    }

    /// Kills the child and returns when it no longer runs.
    pub(super) fn kill_and_wait(&self) {
        self.kill();
        let ended = waitid(WaitId::PidFd(self.process.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        // It has been reaped already.
        if let Err(errno) = ended
            && errno != Errno::CHILD
        {
            tracing::warn!("a btrfs command cannot be waited for: {errno}");
        }
    }
}

#[derive(Debug)]
struct Process {
    child: Reaped,
    kill_handle: KillHandle,
    command: String,
    messages: Option<JoinHandle<io::Result<String>>>,
    /// What `messages` ended with.
    last_messages: String,
}

impl Process {
    #[expect(clippy::disallowed_methods, reason = "the one place that starts processes")]
    fn start(program: &Path, arguments: &[OsString], input: Stdio, output: Stdio) -> Result<Self, BtrfsError> {
        let failed = |error: io::Error| BtrfsError::io("starting", program)(error);
        let mut command = Command::new(program);
        command.args(arguments).stdin(input).stdout(output).stderr(Stdio::piped());
        // Its messages end up in ours.
        command.env("LC_ALL", "C");
        let mut child = Reaped(command.spawn().map_err(failed)?);
        let kill_handle = watch(&child.0).map_err(failed)?;
        let stderr = child.0.stderr.take();
        let read_messages = |stderr| thread::Builder::new().spawn(move || read_tail(stderr));
        let messages = stderr.map(read_messages).transpose().map_err(failed)?;
        Ok(Self { child, kill_handle, command: describe(program, arguments), messages, last_messages: String::new() })
    }

    /// Waits for the end of the child. Can be asked again.
    fn conclude(&mut self) -> Result<(), BtrfsError> {
        let failed = |doing| BtrfsError::io(doing, Path::new("btrfs"));
        let status = self.child.0.wait().map_err(failed("waiting for"))?;
        if let Some(messages) = self.messages.take() {
            let text =
                messages.join().unwrap_or_else(|_| Err(io::Error::other("the thread that reads them has panicked")));
            let text = text.map_err(failed("reading the messages of"))?;
            self.last_messages = text;
        }
        if status.success() {
            return Ok(());
        }
        let message = match self.last_messages.trim() {
            "" => "it said nothing".to_owned(),
            text => text.to_owned(),
        };
        Err(BtrfsError::CommandFailed { command: self.command.clone(), status: status.to_string(), message })
    }
}

/// A child that is killed, if it still runs, and waited for when this is dropped.
#[derive(Debug)]
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        if let Err(error) = self.0.kill().and_then(|()| self.0.wait()) {
            tracing::warn!("a btrfs command cannot be stopped: {error}");
        }
    }
}

fn watch(child: &Child) -> io::Result<KillHandle> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
    Ok(KillHandle { process: Arc::new(pidfd_open(pid, PidfdFlags::empty())?) })
}

fn describe(program: &Path, arguments: &[OsString]) -> String {
    let words = arguments.iter().map(|argument| argument.to_string_lossy());
    let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    words.fold(name, |line, word| line + " " + &word)
}

/// Reads messages to their end and gives the last of them, in whole lines where there is more than is kept.
fn read_tail(mut stderr: impl Read) -> io::Result<String> {
    let mut tail = VecDeque::with_capacity(2 * MESSAGE_BYTES);
    let mut buffer = [0; MESSAGE_BYTES];
    let mut cut = false;
    loop {
        let count = match stderr.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        tail.extend(&buffer[..count]);
        let surplus = tail.len().saturating_sub(MESSAGE_BYTES);
        tail.drain(..surplus);
        cut |= surplus > 0;
    }
    let text = String::from_utf8_lossy(tail.make_contiguous()).into_owned();
    let whole_lines = text.split_once('\n').filter(|(_, rest)| cut && !rest.is_empty());
    Ok(whole_lines.map_or(text.clone(), |(_, rest)| rest.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::{Mutex, PoisonError};

    use super::*;

    /// A program cannot be started while a process that another test is just starting has it open for writing.
    fn alone<T>(action: impl FnOnce() -> T) -> T {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        action()
    }

    /// A command of that name that runs a shell script.
    fn command(script: &str) -> (tempfile::TempDir, BtrfsCommand) {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("btrfs");
        alone(|| fs::write(&program, format!("#!/bin/sh\n{script}\n"))).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        (folder, BtrfsCommand { program })
    }

    fn send(btrfs: &BtrfsCommand) -> SendChild {
        alone(|| btrfs.send(Path::new("/s"), None, &[], SendOptions::default())).unwrap()
    }

    fn receive(btrfs: &BtrfsCommand, folder: &Path) -> ReceiveChild {
        alone(|| btrfs.receive(folder)).unwrap()
    }

    #[test]
    fn the_command_is_looked_for_in_the_search_path_first() {
        let (folder, _) = command("true");
        let found = BtrfsCommand::find(Some(folder.path().as_os_str())).unwrap();
        assert_eq!(found.program(), folder.path().join("btrfs"));
    }

    #[test]
    fn a_missing_command_names_the_package_to_install() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("btrfs"), "not a program").unwrap();
        let search_path = std::env::join_paths([Path::new("."), folder.path()]).unwrap();
        let error = BtrfsCommand::find_in(Some(&search_path), &[]).unwrap_err();
        assert_eq!(error.to_string(), "btrfs not found: install btrfs-progs");
    }

    #[test]
    fn the_options_of_send_become_arguments() {
        let (_folder, btrfs) = command("echo \"$@\"");
        let options = SendOptions { protocol: Some(2), compressed_data: true };
        let sources = [PathBuf::from("/c1"), PathBuf::from("/c2")];
        let (snapshot, parent) = (Path::new("/s"), Some(Path::new("/p")));
        let mut child = alone(|| btrfs.send(snapshot, parent, &sources, options)).unwrap();
        let mut words = String::new();
        child.read_to_string(&mut words).unwrap();
        child.finish().unwrap();
        assert_eq!(words, "send -q --proto 2 --compressed-data -p /p -c /c1 -c /c2 -- /s\n");
    }

    #[test]
    fn a_send_that_fails_after_its_stream_is_a_failure_with_its_messages() {
        let (_folder, btrfs) = command("echo stream; echo 'ERROR: it broke' >&2; exit 3");
        let mut child = send(&btrfs);
        let mut stream = Vec::new();
        child.read_to_end(&mut stream).unwrap();
        assert_eq!(stream, b"stream\n");
        let error = child.finish().unwrap_err().to_string();
        assert_eq!(error, "btrfs send -q -- /s failed (exit status: 3): ERROR: it broke");
    }

    #[test]
    fn a_child_can_be_killed_from_another_thread_while_its_stream_is_read() {
        let (_folder, btrfs) = command("exec sleep 600");
        let mut child = send(&btrfs);
        let handle = child.kill_handle();
        thread::spawn(move || handle.kill()).join().unwrap();
        assert_eq!(child.read(&mut [0; 10]).unwrap(), 0);
        let handle = child.kill_handle();
        let error = child.finish().unwrap_err().to_string();
        assert!(error.contains("signal: 9"), "{error}");
        handle.kill_and_wait();
    }

    #[test]
    fn a_dropped_child_is_gone() {
        let (_folder, btrfs) = command("exec sleep 600");
        let child = send(&btrfs);
        let process = PathBuf::from(format!("/proc/{}", child.process.child.0.id()));
        assert!(process.exists());
        drop(child);
        assert!(!process.exists());
    }

    #[test]
    fn writing_to_a_receive_that_has_failed_gives_its_messages() {
        let (_folder, btrfs) = command("echo 'ERROR: no room' >&2; exit 1");
        let mut child = receive(&btrfs, Path::new("/r"));
        let error = child.write_all(&vec![0; 4 << 20]).unwrap_err();
        assert!(error.to_string().contains("ERROR: no room"), "{error}");
        assert!(matches!(error.get_ref().unwrap().downcast_ref(), Some(BtrfsError::CommandFailed { .. })));
        assert!(child.write(&[0]).is_err());
        assert!(child.finish().is_err());
    }

    #[test]
    fn a_receive_gets_the_whole_stream_and_then_its_end() {
        let (folder, btrfs) = command("cat > \"$4\"");
        let file = folder.path().join("received");
        let mut child = receive(&btrfs, &file);
        let stream = vec![7; 3 << 20];
        child.write_all(&stream).unwrap();
        child.finish().unwrap();
        assert!(fs::read(&file).unwrap() == stream);
    }

    #[test]
    fn of_many_messages_the_last_lines_are_kept() {
        let text: String = (0..5000).fold(String::new(), |text, number| text + "line " + &number.to_string() + "\n");
        let tail = read_tail(text.as_bytes()).unwrap();
        assert!(tail.len() <= MESSAGE_BYTES && tail.starts_with("line ") && tail.ends_with("line 4999\n"), "{tail}");
        assert_eq!(read_tail(&b"one\ntwo"[..]).unwrap(), "one\ntwo");
        assert_eq!(read_tail(&[b'x'; 10_000][..]).unwrap().len(), MESSAGE_BYTES);
    }
}
