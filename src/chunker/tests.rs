//! Tests of the chunkers.

mod commands;
mod data;
mod reference;

use super::*;

/// Even pseudo-random bytes: the outputs of `SplitMix64`, little-endian.
fn random_bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let mut words = std::iter::repeat_with(move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    });
    let mut bytes: Vec<u8> = words.by_ref().take(length.div_ceil(8)).flat_map(u64::to_le_bytes).collect();
    bytes.truncate(length);
    bytes
}

/// Words of a small vocabulary, most of them often.
fn text_bytes(seed: u64, length: usize) -> Vec<u8> {
    const WORDS: [&str; 16] = [
        "the ",
        "of ",
        "snapshot ",
        "return ",
        "chunk",
        "\n    ",
        "if ",
        "= ",
        "let ",
        "bytes",
        ".",
        ", ",
        "self",
        "();\n",
        "u64 ",
        "length",
    ];
    let choices = random_bytes(seed, length);
    let words = choices.iter().flat_map(|choice| WORDS[usize::from(choice & choice.rotate_left(4)) % 16].bytes());
    words.take(length).collect()
}

/// Stretches of random, text-like and zero bytes in turn.
fn mixed_bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length);
    let mut turn = seed;
    while bytes.len() < length {
        let stretch = 700 + usize::try_from(turn % 7).unwrap() * 9_001;
        match turn % 3 {
            0 => bytes.extend(random_bytes(turn, stretch)),
            1 => bytes.extend(text_bytes(turn, stretch)),
            _ => bytes.resize(bytes.len() + stretch, 0),
        }
        turn += 1;
    }
    bytes.truncate(length);
    bytes
}

/// Small enough that short inputs have many chunks.
fn small_parameters() -> ChunkerParameters {
    ChunkerParameters {
        minimum_bytes: 64,
        average_bytes: 256,
        maximum_bytes: 1024,
        normalization: 1,
        tiny_file_bytes: 48,
        tiny_group_modulus: 4,
        tiny_group_bytes: 300,
    }
}

fn total_bytes(chunks: &[Chunk]) -> Vec<u8> {
    chunks.iter().flat_map(|chunk| chunk.bytes.iter().copied()).collect()
}

#[test]
fn usual_parameters_are_valid_for_every_average() {
    assert_eq!(ChunkerParameters::default().validate(), Ok(()));
    for power in 10..=22 {
        assert_eq!(ChunkerParameters::with_average(1 << power).validate(), Ok(()), "2^{power}");
    }
}

#[test]
fn parameters_out_of_their_limits_are_refused() {
    type Change = fn(&mut ChunkerParameters);
    let refused: [(Change, InvalidParameters); 17] = [
        (|p| p.minimum_bytes = 62, InvalidParameters::Minimum(62)),
        (|p| p.minimum_bytes = 16_385, InvalidParameters::Minimum(16_385)),
        (|p| p.minimum_bytes = (1 << 20) + 2, InvalidParameters::Minimum((1 << 20) + 2)),
        (|p| p.average_bytes = 128, InvalidParameters::Average(128)),
        (|p| p.average_bytes = 65_534, InvalidParameters::Average(65_534)),
        (|p| p.average_bytes = 8 << 20, InvalidParameters::Average(8 << 20)),
        (|p| p.maximum_bytes = 1022, InvalidParameters::Maximum(1022)),
        (|p| p.maximum_bytes = 262_143, InvalidParameters::Maximum(262_143)),
        (|p| p.maximum_bytes = (16 << 20) + 2, InvalidParameters::Maximum((16 << 20) + 2)),
        (|p| p.minimum_bytes = p.average_bytes, InvalidParameters::Order),
        (|p| p.maximum_bytes = p.average_bytes, InvalidParameters::Order),
        (|p| p.average_bytes = 512 << 10, InvalidParameters::Order),
        (|p| p.normalization = 4, InvalidParameters::Normalization(4)),
        (|p| p.tiny_file_bytes = p.minimum_bytes + 1, InvalidParameters::TinyFile(16_385)),
        (|p| p.tiny_group_modulus = 0, InvalidParameters::TinyGroupModulus),
        (|p| p.tiny_group_bytes = p.maximum_bytes, InvalidParameters::TinyGroup(262_144)),
        (|p| p.tiny_group_bytes = u32::MAX, InvalidParameters::TinyGroup(u32::MAX)),
    ];
    for (change, expected) in refused {
        let mut parameters = ChunkerParameters::with_average(64 << 10);
        change(&mut parameters);
        assert_eq!(parameters.validate(), Err(expected), "{parameters:?}");
        assert_eq!(DataChunker::new(&parameters).err(), Some(expected));
        assert_eq!(CommandChunker::new(&parameters).err(), Some(expected));
    }
}

#[test]
fn parameters_at_their_limits_are_taken() {
    let least = small_parameters();
    let most = ChunkerParameters {
        minimum_bytes: 1 << 20,
        average_bytes: 4 << 20,
        maximum_bytes: 16 << 20,
        normalization: 3,
        tiny_file_bytes: 1 << 20,
        tiny_group_modulus: u32::MAX,
        tiny_group_bytes: 15 << 20,
    };
    let none_tiny = ChunkerParameters { tiny_file_bytes: 0, tiny_group_modulus: 1, tiny_group_bytes: 0, ..least };
    for parameters in [least, most, none_tiny] {
        assert_eq!(parameters.validate(), Ok(()), "{parameters:?}");
    }
}

#[test]
fn parameters_are_stored_under_their_names() {
    let mut stored = Vec::new();
    ciborium::into_writer(&ChunkerParameters::default(), &mut stored).unwrap();
    let value: ciborium::Value = ciborium::from_reader(&stored[..]).unwrap();
    let names: Vec<_> = value.as_map().unwrap().iter().map(|(name, _)| name.as_text().unwrap()).collect();
    let expected = [
        "minimum_bytes",
        "average_bytes",
        "maximum_bytes",
        "normalization",
        "tiny_file_bytes",
        "tiny_group_modulus",
        "tiny_group_bytes",
    ];
    assert_eq!(names, expected);
    assert_eq!(ciborium::from_reader::<ChunkerParameters, _>(&stored[..]).unwrap(), ChunkerParameters::default());
}
