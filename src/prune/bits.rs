//! A bit for each of many numbers.

/// A set of numbers below a limit. Takes an eighth of a byte for each number, in it or not.
#[derive(Debug)]
pub(super) struct BitSet {
    words: Vec<u64>,
}

impl BitSet {
    /// An empty set of numbers below `limit`.
    pub(super) fn new(limit: u64) -> Self {
        let words = usize::try_from(limit.div_ceil(64)).expect("the index has a limit far below");
        Self { words: vec![0; words] }
    }

    /// Puts a number in; says whether it was not there.
    pub(super) fn insert(&mut self, number: u64) -> bool {
        let word = usize::try_from(number / 64).expect("the number is below the limit");
        let bit = 1 << (number % 64);
        let is_new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        is_new
    }

    /// Whether a number is in it.
    pub(super) fn contains(&self, number: u64) -> bool {
        let word = usize::try_from(number / 64).expect("the number is below the limit");
        self.words[word] & (1 << (number % 64)) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_new_once() {
        let mut set = BitSet::new(130);
        for number in [0, 63, 64, 129] {
            assert!(!set.contains(number));
            assert!(set.insert(number));
            assert!(set.contains(number) && !set.insert(number));
        }
        assert!(set.insert(1) && set.insert(128));
    }
}
