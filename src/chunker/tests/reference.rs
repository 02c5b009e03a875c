//! `FastCDC` written from its description (Xia and others, 2020), a byte at a time, and the cuts held to it.

use std::sync::LazyLock;

use fastcdc::v2020::FastCDC;
use proptest::prelude::*;

use super::*;

/// MD5, RFC 1321, of one short message.
fn md5(message: &[u8]) -> [u8; 16] {
    const SHIFTS: [[u32; 4]; 4] = [[7, 12, 17, 22], [5, 9, 14, 20], [4, 11, 16, 23], [6, 10, 15, 21]];
    let mut padded = message.to_vec();
    padded.push(0x80);
    padded.resize((message.len() + 9).next_multiple_of(64) - 8, 0);
    padded.extend_from_slice(&(message.len() as u64 * 8).to_le_bytes());
    let mut state = [0x6745_2301_u32, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];
    for block in padded.chunks_exact(64) {
        let word = |index: usize| u32::from_le_bytes(block[4 * index..][..4].try_into().unwrap());
        let [mut a, mut b, mut c, mut d] = state;
        for step in 0..64 {
            let (mixed, index) = match step / 16 {
                0 => ((b & c) | (!b & d), step),
                1 => ((d & b) | (!d & c), (5 * step + 1) % 16),
                2 => (b ^ c ^ d, (3 * step + 5) % 16),
                _ => (c ^ (b | !d), (7 * step) % 16),
            };
            let constant = md5_constant(step);
            let sum = a.wrapping_add(mixed).wrapping_add(constant).wrapping_add(word(index));
            let rotated = b.wrapping_add(sum.rotate_left(SHIFTS[step / 16][step % 4]));
            (a, b, c, d) = (d, rotated, b, c);
        }
        for (part, change) in state.iter_mut().zip([a, b, c, d]) {
            *part = part.wrapping_add(change);
        }
    }
    let digest: Vec<u8> = state.iter().flat_map(|part| part.to_le_bytes()).collect();
    digest.try_into().unwrap()
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "RFC 1321 defines it by truncation")]
fn md5_constant(step: usize) -> u32 {
    let angle = f64::from(u32::try_from(step + 1).unwrap());
    (angle.sin().abs() * 4_294_967_296.0) as u32
}

/// For each byte value the first 8 bytes of the MD5 of 64 such bytes, big-endian.
static GEAR: LazyLock<[u64; 256]> = LazyLock::new(|| {
    std::array::from_fn(|value| {
        let digest = md5(&[u8::try_from(value).unwrap(); 64]);
        u64::from_le_bytes(digest[..8].try_into().unwrap()).swap_bytes()
    })
});

/// The masks of `FastCDC`, by the logarithm of the chunk size, from 2^5 to 2^25.
const MASKS: [u64; 21] = [
    0x0180_4110,
    0x0180_3110,
    0x1803_5100,
    0x18_0003_5300,
    0x190_0035_3000,
    0x5900_0353_0000,
    0xd900_0353_0000,
    0xd901_0353_0000,
    0xd903_0353_0000,
    0xd903_1353_0000,
    0xd90f_0353_0000,
    0xd903_0353_7000,
    0xd907_0353_7000,
    0xd907_0753_7000,
    0xd917_0753_7000,
    0xd917_4753_7000,
    0xd917_6753_7000,
    0xd937_6753_7000,
    0xd937_7753_7000,
    0xd937_7757_7000,
    0xdb37_7757_7000,
];

pub(super) fn reference_cut(source: &[u8], parameters: &ChunkerParameters) -> usize {
    let length = source.len().min(parameters.maximum_bytes as usize);
    let level = usize::from(parameters.normalization);
    let size_class = parameters.average_bytes.ilog2() as usize - 5;
    let mut hash = 0_u64;
    // Bytes are taken in pairs: a last one without its pair is no place to cut at.
    for position in parameters.minimum_bytes as usize..length / 2 * 2 {
        let is_early = position < parameters.average_bytes as usize;
        let mask = MASKS[if is_early { size_class + level } else { size_class - level }];
        hash = (hash << 1).wrapping_add(GEAR[usize::from(source[position])]);
        if hash & mask == 0 {
            return position;
        }
    }
    length
}

fn reference_lengths(mut source: &[u8], parameters: &ChunkerParameters) -> Vec<usize> {
    let mut lengths = Vec::new();
    while !source.is_empty() {
        lengths.push(reference_cut(source, parameters));
        source = &source[lengths[lengths.len() - 1]..];
    }
    lengths
}

fn lengths(mut source: &[u8], parameters: &ChunkerParameters) -> Vec<usize> {
    let cutter = Cutter::new(parameters).unwrap();
    let mut lengths = Vec::new();
    while !source.is_empty() {
        lengths.push(cutter.cut(source));
        source = &source[lengths[lengths.len() - 1]..];
    }
    lengths
}

fn lengths_by_crate(source: &[u8], parameters: &ChunkerParameters) -> Vec<usize> {
    let [least, average, most] =
        [parameters.minimum_bytes, parameters.average_bytes, parameters.maximum_bytes].map(|size| size as usize);
    FastCDC::new(source, least, average, most).map(|chunk| chunk.length).collect()
}

fn kinds(seed: u64, length: usize) -> [Vec<u8>; 5] {
    let (random, text) = (random_bytes(seed, length), text_bytes(seed, length));
    [random, text, mixed_bytes(seed, length), vec![0; length], vec![0xff; length]]
}

#[test]
fn the_digest_that_makes_the_gear_table_is_md5() {
    let hex = |message: &[u8]| md5(message).iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    assert_eq!(hex(b""), "d41d8cd98f00b204e9800998ecf8427e");
    assert_eq!(hex(b"message digest"), "f96b697d7cb7938d525a2f31aaf161d0");
}

#[test]
fn cuts_agree_with_the_description_at_every_level() {
    for average in [256, 1 << 10, 8 << 10, 64 << 10, 256 << 10] {
        for normalization in 0..=3 {
            let parameters = ChunkerParameters { normalization, ..valid_parameters(average) };
            for source in kinds(u64::from(average), 6 * average as usize + 12_345) {
                assert_eq!(lengths(&source, &parameters), reference_lengths(&source, &parameters), "{parameters:?}");
            }
        }
    }
}

fn valid_parameters(average: u32) -> ChunkerParameters {
    if average == 256 { small_parameters() } else { ChunkerParameters::with_average(average) }
}

#[test]
fn cuts_agree_with_the_description_at_every_length_around_the_limits() {
    let parameters = small_parameters();
    for source in kinds(7, 1100) {
        for length in 0..=source.len() {
            let source = &source[..length];
            assert_eq!(lengths(source, &parameters), reference_lengths(source, &parameters), "length {length}");
        }
    }
}

#[test]
fn cuts_agree_with_the_description_wherever_a_search_begins() {
    let parameters = ChunkerParameters::with_average(1 << 10);
    let cutter = Cutter::new(&parameters).unwrap();
    for source in kinds(8, 8 << 10) {
        for start in 0..source.len() {
            let source = &source[start..];
            assert_eq!(cutter.cut(source), reference_cut(source, &parameters), "from {start}");
        }
    }
}

#[test]
fn cuts_of_known_bytes_are_where_they_have_always_been() {
    let expected = [
        28_128, 87_550, 64_925, 67_788, 30_364, 38_273, 50_371, 101_085, 100_168, 79_822, 94_750, 68_129, 37_731,
        77_250, 65_957, 56_285,
    ];
    assert_eq!(lengths(&random_bytes(1, 1 << 20), &ChunkerParameters::with_average(64 << 10)), expected);
    let expected = [
        108_208, 79_592, 485_226, 111_424, 391_351, 85_816, 452_402, 369_612, 180_358, 626_008, 393_464, 394_383,
        404_452, 112_008,
    ];
    assert_eq!(lengths(&random_bytes(2, 4 << 20), &ChunkerParameters::with_average(256 << 10)), expected);
}

#[test]
fn cuts_agree_with_the_crate_that_the_gear_table_is_from() {
    for average in [1 << 10, 16 << 10, 64 << 10] {
        let parameters = ChunkerParameters::with_average(average);
        for source in kinds(9, 3 << 20) {
            assert_eq!(lengths(&source, &parameters), lengths_by_crate(&source, &parameters), "{average}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Sizes that put the switch of masks and the ends of lanes anywhere.
    #[test]
    fn cuts_agree_with_the_description_whatever_the_parameters(
        (minimum, power, maximum) in (32_u32..6000, 9_u32..14, 1_u32..20_000),
        normalization in 0_u8..=3,
        (seed, length) in (any::<u64>(), 0_usize..60_000),
    ) {
        let minimum_bytes = minimum.min((1 << (power - 1)) - 1) * 2;
        let (average_bytes, maximum_bytes) = (1 << power, (1 << power) + 2 * maximum.max(300));
        let parameters = ChunkerParameters {
            minimum_bytes, average_bytes, maximum_bytes, normalization, tiny_file_bytes: 0, ..small_parameters()
        };
        prop_assert_eq!(parameters.validate(), Ok(()));
        for source in kinds(seed, length) {
            prop_assert_eq!(lengths(&source, &parameters), reference_lengths(&source, &parameters));
        }
    }
}
