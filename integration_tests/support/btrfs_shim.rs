//! A stand-in for `btrfs` that stops or fails where a test wants it to, and otherwise runs the real one.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use super::process::{command, succeed};

/// How long a program may take until it reaches the place where it is held.
const HELD_WITHIN: Duration = Duration::from_mins(2);

/// What the shim does for one of the commands of `btrfs`.
pub(crate) enum Act {
    /// Waits before it starts the real `btrfs send`, which it does not if the program has been killed meanwhile.
    HoldSend,
    /// Keeps what the real `btrfs send` wrote, see [`BtrfsShim::sent`].
    KeepSent,
    /// Sends these bytes in place of what has changed since a parent, and is content.
    SendInsteadOfIncrements(Vec<u8>),
    /// Sends everything, then fails.
    FailAfterSend,
    /// Receives only the first 256 KiB, then waits, with the rest of the stream unread.
    HoldReceiveHalfWay,
}

/// A folder with a `btrfs` in it, to be put first into `PATH`.
pub(crate) struct BtrfsShim {
    folder: tempfile::TempDir,
}

impl BtrfsShim {
    pub(crate) fn new(act: &Act) -> Self {
        let shim = Self { folder: tempfile::tempdir().unwrap() };
        let real = succeed(command("sh").args(["-c", "command -v btrfs"])).text();
        let (verb, action) = match act {
            Act::HoldSend => (
                "send",
                "echo > \"$folder/held\"; read -r _ < \"$folder/release\"; kill -0 $PPID 2>/dev/null || exit 1",
            ),
            Act::KeepSent => ("send", "\"$real\" \"$@\" > \"$folder/sent\" && cat \"$folder/sent\"; exit"),
            Act::SendInsteadOfIncrements(bytes) => {
                fs::write(shim.path().join("instead"), bytes).unwrap();
                ("send", "case \" $* \" in *' -p '*) cat \"$folder/instead\"; exit ;; esac")
            }
            Act::FailAfterSend => ("send", "\"$real\" \"$@\"; echo 'ERROR: made to fail' >&2; exit 1"),
            Act::HoldReceiveHalfWay => (
                "receive",
                "head -c 262144 | \"$real\" \"$@\"; echo > \"$folder/held\"; read -r _ < \"$folder/release\"; exit 1",
            ),
        };
        let script = format!(
            "#!/bin/sh\nfolder='{}'\nreal='{}'\ncase \" $* \" in *' {verb} '*) {action} ;; esac\nexec \"$real\" \"$@\"\n",
            shim.path().display(),
            real.trim()
        );
        let program = shim.path().join("btrfs");
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        succeed(command("mkfifo").arg(shim.pipe("held")).arg(shim.pipe("release")));
        shim
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Returns when the shim has reached the place where it waits.
    #[track_caller]
    pub(crate) fn wait_until_held(&self) {
        let (sender, receiver) = mpsc::channel();
        let held = self.pipe("held");
        std::thread::spawn(move || {
            let mut line = String::new();
            let read = fs::File::open(held).and_then(|mut pipe| pipe.read_to_string(&mut line));
            sender.send(read.is_ok())
        });
        assert_eq!(receiver.recv_timeout(HELD_WITHIN), Ok(true), "the program never ran the `btrfs` put into its PATH");
    }

    /// Lets the shim go on; only to be called while it waits.
    pub(crate) fn release(&self) {
        fs::write(self.pipe("release"), "\n").unwrap();
    }

    /// Has the real one run in its place from now on; what is held stays so.
    pub(crate) fn step_aside(&self) {
        let real = succeed(command("sh").args(["-c", "command -v btrfs"])).text();
        // Whoever runs the old script goes on reading it.
        let new = self.folder.path().join("new");
        std::os::unix::fs::symlink(real.trim(), &new).unwrap();
        fs::rename(new, self.folder.path().join("btrfs")).unwrap();
    }

    /// The bytes of the last `btrfs send`. Sending a snapshot again need not give them: of several reflinks, which is
    /// the source of the others depends on the order of references in the file system, and that changes.
    pub(crate) fn sent(&self) -> Vec<u8> {
        fs::read(self.path().join("sent")).unwrap()
    }

    fn pipe(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}
