//! Which runs to merge, and when.

/// After [`maintain`](super::LocalIndex::maintain) there are at most so many runs: a look-up of a chunk that is not
/// there asks each of them.
pub(super) const RUNS_LIMIT: usize = 8;
/// At most so many runs are read at once.
const INPUTS_LIMIT: usize = 64;

/// What a run weighs when it is to be decided whether to merge it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Weight {
    pub(super) entries: u32,
    pub(super) packs: u32,
    /// Packs of segments that were dropped.
    pub(super) dropped_packs: u32,
    /// Whether no segment is left.
    pub(super) hollow: bool,
}

impl Weight {
    fn is_mostly_dropped(&self) -> bool {
        self.hollow || self.dropped_packs > self.packs / 2
    }
}

/// Chooses runs, by number, to be replaced by one. `None`: all is well.
///
/// A run of which more than half was dropped is written anew. Otherwise, while there are more than [`RUNS_LIMIT`], the
/// smallest two are merged, and with them each next larger one that is at most twice what was chosen before. So a large
/// run is left alone until enough has gathered beside it: hundreds of additions write an entry about five times,
/// thousands about eight times. (Without the factor of two, small runs are merged pair by pair and written more often;
/// with a larger one, so are the large ones.)
pub(super) fn choose_merge(runs: &[Weight]) -> Option<Vec<usize>> {
    if let Some(number) = runs.iter().position(Weight::is_mostly_dropped) {
        return Some(vec![number]);
    }
    if runs.len() <= RUNS_LIMIT {
        return None;
    }
    let mut ascending: Vec<usize> = (0..runs.len()).collect();
    ascending.sort_by_key(|number| runs[*number].entries);
    let mut chosen = Vec::new();
    let mut chosen_entries: u32 = 0;
    for number in ascending.into_iter().take(INPUTS_LIMIT) {
        let entries = runs[number].entries;
        let outweighs = chosen.len() >= 2 && entries / 2 > chosen_entries;
        let Some(sum) = chosen_entries.checked_add(entries).filter(|_| !outweighs) else { break };
        chosen.push(number);
        chosen_entries = sum;
    }
    (chosen.len() >= 2).then_some(chosen)
}

/// Chooses runs, by number, to be replaced by one, so that there are one or two, of which one is small. `None`: all is well.
///
/// A run that is much larger than all others together is left alone.
pub(super) fn choose_compaction(runs: &[Weight]) -> Option<Vec<usize>> {
    let mut descending: Vec<usize> = (0..runs.len()).collect();
    descending.sort_by_key(|number| std::cmp::Reverse(runs[*number].entries));
    let entries = |numbers: &[usize]| numbers.iter().map(|number| u64::from(runs[*number].entries)).sum::<u64>();
    let chosen = match descending.split_first() {
        Some((largest, others)) if entries(others) <= u64::from(runs[*largest].entries) / 8 => others.to_vec(),
        _ => descending,
    };
    let fits = chosen.len() <= INPUTS_LIMIT && u32::try_from(entries(&chosen)).is_ok();
    (chosen.len() >= 2 && fits).then_some(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(entries: u32) -> Weight {
        Weight { entries, packs: entries / 1000 + 1, dropped_packs: 0, hollow: false }
    }

    /// Adds runs one by one, merges after each, and gives how many entries were written for each one added.
    fn written_per_entry(additions: impl Iterator<Item = u32>) -> f64 {
        let mut runs: Vec<Weight> = Vec::new();
        let (mut added, mut written) = (0.0, 0.0);
        for entries in additions {
            runs.push(run(entries));
            added += f64::from(entries);
            written += f64::from(entries);
            while let Some(mut chosen) = choose_merge(&runs) {
                chosen.sort_unstable();
                let merged = chosen.iter().rev().map(|number| runs.remove(*number).entries).sum();
                written += f64::from(merged);
                runs.push(run(merged));
            }
            assert!(runs.len() <= RUNS_LIMIT);
        }
        written / added
    }

    #[test]
    fn six_hundred_equal_segments_are_written_five_times_at_most() {
        let written = written_per_entry(std::iter::repeat_n(130_000, 600));
        assert!(written < 5.0, "{written}");
    }

    #[test]
    fn ten_thousand_uneven_segments_are_written_nine_times_at_most() {
        let written = written_per_entry((0u32..10_000).map(|n| n.wrapping_mul(2_654_435_761) % 130_000));
        assert!(written < 9.0, "{written}");
    }

    #[test]
    fn small_additions_leave_a_large_run_alone() {
        let written = written_per_entry([100_000_000].into_iter().chain(std::iter::repeat_n(100, 365)));
        assert!(written < 1.01, "{written}");
    }

    #[test]
    fn compaction_leaves_one_run_or_a_small_one_beside_it() {
        for (entries, expected) in [
            (&[][..], None),
            (&[5], None),
            (&[80, 10], None),
            (&[80, 11], Some(vec![0, 1])),
            (&[5, 80, 5], Some(vec![0, 2])),
            (&[5, 80, 6], Some(vec![1, 2, 0])),
            (&[u32::MAX - 1, u32::MAX - 1], None),
        ] {
            let runs: Vec<Weight> = entries.iter().map(|entries| run(*entries)).collect();
            assert_eq!(choose_compaction(&runs), expected, "{entries:?}");
        }
    }

    #[test]
    fn many_runs_at_once_are_merged_in_bounded_batches() {
        let chosen = choose_merge(&[run(130_000); 600]).expect("600 runs are too many");
        assert_eq!(chosen.len(), INPUTS_LIMIT);
    }

    #[test]
    fn runs_whose_merger_would_overflow_the_counts_stay_apart() {
        assert_eq!(choose_merge(&[run(u32::MAX - 1); 20]), None);
    }

    #[test]
    fn a_run_is_written_anew_when_more_than_half_of_it_was_dropped() {
        let mut runs = [run(1_000_000), run(2_000_000)];
        runs[1].dropped_packs = 1000;
        assert_eq!(choose_merge(&runs), None);
        runs[1].dropped_packs = 1001;
        assert_eq!(choose_merge(&runs), Some(vec![1]));
    }
}
