//! What goes wrong with requests.

use btrfs_to_s3::store::StoreErrorKind;

use crate::model::board::{Request, RunId};
use crate::model::dice::Dice;

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is done and answered.
    Answer,
    /// It fails and has no effect.
    FailBefore,
    /// The store refuses it; trying again does not help.
    Refuse,
    /// It has its effect and fails.
    LoseReply,
    /// It fails, and has its effect some time later, if it is a `PUT`.
    Delay,
}

impl Fate {
    pub(crate) fn kind(self) -> StoreErrorKind {
        if self == Self::Refuse { StoreErrorKind::Denied } else { StoreErrorKind::Transient }
    }
}

/// A `PUT` that is still under way.
#[derive(Debug)]
pub(crate) struct Late {
    pub(crate) run: RunId,
    pub(crate) request: Request,
}

/// How rough a schedule is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Roughness {
    /// Of a thousand requests, how many fail.
    pub(crate) faults: usize,
    /// Weights of accidents, beside one of 400 for a request.
    pub(crate) kills: usize,
    pub(crate) suspensions: usize,
    pub(crate) copied_hosts: usize,
    /// Whether packs get lost.
    pub(crate) loses_packs: bool,
    pub(crate) page_objects: usize,
    /// Whether the store looks at the length of what is there when it refuses to replace it.
    pub(crate) compares_lengths: bool,
}

impl Roughness {
    pub(crate) fn draw(dice: &mut Dice) -> Self {
        Self {
            faults: dice.pick(&[0, 5, 20, 60, 150]),
            kills: dice.pick(&[0, 1, 3, 6]),
            suspensions: dice.pick(&[0, 0, 2, 6]),
            copied_hosts: dice.pick(&[0, 0, 0, 4]),
            loses_packs: dice.per_mille(150),
            page_objects: dice.pick(&[4, 12, 1000]),
            compares_lengths: dice.per_mille(500),
        }
    }

    /// Draws the fate of a request. The commit is where it matters most.
    pub(crate) fn fate(&self, dice: &mut Dice, request: &Request, in_outage: bool) -> Fate {
        let is_end = matches!(request, Request::Put(key, ..) if key.as_str().ends_with("/end"));
        let share = if is_end { 4 * self.faults } else { self.faults };
        if !in_outage && !dice.per_mille(share) {
            return Fate::Answer;
        }
        dice.pick(&[
            Fate::FailBefore,
            Fate::FailBefore,
            Fate::Refuse,
            Fate::LoseReply,
            Fate::LoseReply,
            Fate::Delay,
            Fate::Delay,
        ])
    }
}
