//! Choices, all drawn from the seed.

use std::sync::Mutex;

use btrfs_to_s3::id::Randomness;

/// A sequence of numbers that its seed decides (`SplitMix64`).
#[derive(Debug, Clone)]
pub(crate) struct Dice {
    state: u64,
}

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed.wrapping_mul(0x2545_f491_4f6c_dd1d) }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number from 0 to `limit`, which it does not reach.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }

    /// True in so many of a thousand cases.
    pub(crate) fn per_mille(&mut self, share: usize) -> bool {
        self.below(1000) < share
    }

    /// One of several.
    pub(crate) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// One of several, the more likely the greater its weight. At least one weight is not zero.
    pub(crate) fn pick_weighted<T>(&mut self, choices: Vec<(usize, T)>) -> T {
        let total = choices.iter().map(|(weight, _)| weight).sum();
        let mut drawn = self.below(total);
        for (weight, choice) in choices {
            if drawn < weight {
                return choice;
            }
            drawn -= weight;
        }
        unreachable!("the weights add up to their sum")
    }
}

/// Ids that the seed decides.
#[derive(Debug)]
pub(crate) struct SeededIds(Mutex<Dice>);

impl SeededIds {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Mutex::new(Dice::new(!seed)))
    }
}

impl Randomness for SeededIds {
    fn fill(&self, bytes: &mut [u8]) {
        let mut dice = self.0.lock().unwrap();
        for byte in bytes {
            *byte = dice.next().to_le_bytes()[0];
        }
    }
}
