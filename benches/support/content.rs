//! Made-up data of several kinds, the same in every run.

/// Even pseudo-random bytes, by `xorshift64*`.
pub(crate) fn random_bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let word = || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes()
    };
    std::iter::repeat_with(word).flatten().take(length).collect()
}

/// Lines of words that are drawn from a vocabulary of 512, the first of them most often.
pub(crate) fn text_bytes(seed: u64, length: usize) -> Vec<u8> {
    let vocabulary: Vec<Vec<u8>> = random_bytes(seed + 1, 512 * 8)
        .chunks_exact(8)
        .map(|word| word[..2 + usize::from(word[0] % 7)].iter().map(|byte| b'a' + byte % 26).collect())
        .collect();
    let choices = random_bytes(seed, length);
    let words = choices.chunks_exact(2).enumerate().flat_map(|(position, choice)| {
        let word = (usize::from(choice[0]) * usize::from(choice[1])) >> 7;
        let separator = if position % 12 == 0 { b'\n' } else { b' ' };
        vocabulary[word].iter().copied().chain([separator])
    });
    words.take(length).collect()
}
