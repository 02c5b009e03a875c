//! What may happen to a host's state between two runs.

use std::fs;
use std::path::Path;

use crate::support::process::{command, succeed};
use crate::support::tree::{files, random_bytes};

use super::points::Random;

/// What is done to the files of the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spoil {
    Nothing,
    Lose,
    /// Cuts each file to half of its length.
    Truncate,
    Empty,
    /// Fills each file with other bytes, and adds some that nobody knows.
    Garble,
    /// Puts back what there was at an earlier time.
    Older,
}

/// More often nothing than anything else.
const SPOILS: [Spoil; 10] = [
    Spoil::Nothing,
    Spoil::Nothing,
    Spoil::Nothing,
    Spoil::Nothing,
    Spoil::Nothing,
    Spoil::Lose,
    Spoil::Truncate,
    Spoil::Empty,
    Spoil::Garble,
    Spoil::Older,
];

impl Spoil {
    pub(super) fn choose(random: &mut Random) -> Self {
        *random.pick(&SPOILS)
    }

    /// Does it to the folder `state`; `older` is an earlier copy of it.
    pub(super) fn apply(self, state: &Path, older: &Path) {
        if self == Self::Nothing || !state.exists() {
            return;
        }
        match self {
            Self::Lose => fs::remove_dir_all(state).unwrap(),
            Self::Older if older.exists() => {
                fs::remove_dir_all(state).unwrap();
                copy(older, state);
            }
            _ => files(state).iter().for_each(|file| self.apply_to_file(file)),
        }
    }

    fn apply_to_file(self, path: &Path) {
        let length = fs::metadata(path).unwrap().len();
        let file = || fs::OpenOptions::new().write(true).open(path).unwrap();
        match self {
            Self::Truncate => file().set_len(length / 2).unwrap(),
            Self::Empty => file().set_len(0).unwrap(),
            Self::Garble => {
                fs::write(path, random_bytes(usize::try_from(length).unwrap(), length)).unwrap();
                fs::write(path.with_extension("unknown"), "unknown").unwrap();
            }
            _ => {}
        }
    }
}

/// Copies a folder with all in it.
pub(super) fn copy(from: &Path, to: &Path) {
    succeed(command("cp").arg("-a").arg(from).arg(to));
}
