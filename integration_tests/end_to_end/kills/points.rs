//! Where a run is killed.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::support::strace::KillAt;
use crate::support::tool::Tool;

/// Numbers that look random, the same for each seed.
#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `limit` (splitmix64).
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }

    pub(super) fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        let limit = all.len() as u64;
        &all[usize::try_from(self.below(limit)).unwrap()]
    }
}

/// A folder, mostly of a workspace.
#[derive(Debug, Clone)]
pub(super) enum Folder {
    /// Of the repository.
    Repository(&'static str),
    LocalIndex,
    At(PathBuf),
}

impl Folder {
    fn path(&self, tool: &Tool) -> PathBuf {
        match self {
            Self::Repository(name) => tool.repository().join(name),
            Self::LocalIndex => tool.local_index(),
            Self::At(path) => path.clone(),
        }
    }
}

/// The place where a run is killed.
#[derive(Debug, Clone)]
pub(super) enum Point {
    /// At a system call, as in [`KillAt`].
    Call { call: &'static str, folder: Option<Folder>, when: u32 },
    /// After so many thousandths of the time that a whole run takes.
    After { thousandths: u32 },
}

/// How a run ended that was to be killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Killed,
    /// It came to its end first.
    Done,
}

impl Point {
    pub(super) fn call(call: &'static str, when: u32) -> Self {
        Self::Call { call, folder: None, when }
    }

    /// A call on a folder, or on a name in it that is given together with the folder's descriptor.
    pub(super) fn call_in(call: &'static str, folder: Folder) -> Self {
        Self::Call { call, folder: Some(folder), when: 1 }
    }

    /// Runs the program until it is killed here; `whole` is how long it takes else. It fails the test when it ends
    /// otherwise than well, or by the kill.
    #[track_caller]
    pub(super) fn run(&self, tool: &Tool, program: Command, stdin: Stdio, whole: Duration) -> Ending {
        let said = tool.folder().join("said");
        let status = match self {
            Self::Call { call, folder, when } => {
                let folders = folder.iter().map(|folder| folder.path(tool)).collect();
                run_quietly(KillAt { call, folders, when: *when }.wrap(&program), stdin, &said, None)
            }
            Self::After { thousandths } => run_quietly(program, stdin, &said, Some(whole * *thousandths / 1000)),
        };
        match (status.signal(), status.code()) {
            (Some(9), _) => Ending::Killed,
            (_, Some(0)) => Ending::Done,
            _ => panic!("{self:?}: {status}: {}", fs::read_to_string(&said).unwrap()),
        }
    }
}

/// Runs a program that is killed, or ends before; what it says goes to a file, which nobody has to read for it to go on.
fn run_quietly(mut program: Command, stdin: Stdio, said: &Path, kill_after: Option<Duration>) -> ExitStatus {
    let said = File::create(said).unwrap();
    let mut child = program.stdin(stdin).stdout(Stdio::null()).stderr(said).spawn().unwrap();
    if let Some(delay) = kill_after {
        std::thread::sleep(delay);
        child.kill().unwrap();
    }
    child.wait().unwrap()
}

/// Points that come in random order, each as often as any other.
#[derive(Debug)]
pub(super) struct Deck {
    all: Vec<Point>,
    left: Vec<Point>,
}

impl Deck {
    pub(super) fn new(all: Vec<Point>) -> Self {
        Self { all, left: Vec::new() }
    }

    pub(super) fn draw(&mut self, random: &mut Random) -> Point {
        if self.left.is_empty() {
            self.left.clone_from(&self.all);
        }
        let position = random.below(self.left.len() as u64);
        match self.left.swap_remove(usize::try_from(position).unwrap()) {
            Point::After { .. } => Point::After { thousandths: u32::try_from(random.below(1000)).unwrap() },
            exact @ Point::Call { .. } => exact,
        }
    }
}

/// Points of a backup: most are exact, whatever the machine's speed.
pub(super) fn of_a_backup() -> Vec<Point> {
    use Folder::{LocalIndex, Repository};
    let mut points = vec![
        // Before the session is announced, and between its folder and its record.
        Point::call("mkdirat", 1),
        Point::call_in("fsync", Repository("sessions")),
        // An object's temporary file is to be made; is empty; is whole, but without its name; has it, but not for sure.
        Point::call_in("openat", Repository("tmp")),
        Point::call("flock", 2),
        Point::call("flock", 3),
        Point::call_in("renameat2", Repository("index")),
        Point::call_in("fsync", Repository("index")),
        Point::call_in("renameat2", Repository("manifests")),
        Point::call_in("fsync", Repository("manifests")),
        Point::call_in("fsync", Repository("manifests")),
        // Copies of records, and the local index.
        Point::call("/^rename(at)?$", 1),
        Point::call("/^rename(at)?$", 1),
        Point::call("/^rename(at)?$", 2),
        Point::call_in("fsync", LocalIndex),
        Point::call("exit_group", 1),
        Point::call("exit_group", 1),
    ];
    // Which thread does the work is chance: these are spread over all objects.
    points.extend((1..=3).map(|when| Point::call("renameat2", when)));
    points.extend([3, 5, 7].map(|when| Point::call("fsync", when)));
    points.extend([Point::After { thousandths: 0 }, Point::After { thousandths: 0 }, Point::After { thousandths: 0 }]);
    points
}
