//! How file data is cut.

use std::collections::HashSet;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::reference::reference_cut;
use super::*;

/// Large enough for the usual limit of tiny files.
fn medium_parameters() -> ChunkerParameters {
    ChunkerParameters::with_average(16 << 10)
}

/// The rules for chunks of file data, applied to whole files.
fn reference_chunks(files: &[Vec<u8>], parameters: &ChunkerParameters) -> Vec<Vec<u8>> {
    let mut chunks = Vec::new();
    let mut group = Vec::new();
    for file in files.iter().filter(|file| !file.is_empty()) {
        if file.len() < parameters.tiny_file_bytes as usize {
            group.extend_from_slice(file);
            let hash = u64::from_le_bytes(blake3::hash(file).as_bytes()[..8].try_into().unwrap());
            let is_full = group.len() >= parameters.tiny_group_bytes as usize;
            if is_full || hash % u64::from(parameters.tiny_group_modulus) == 0 {
                chunks.push(std::mem::take(&mut group));
            }
            continue;
        }
        chunks.push(std::mem::take(&mut group));
        let mut rest = &file[..];
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at(reference_cut(rest, parameters));
            chunks.push(chunk.to_vec());
            rest = after;
        }
    }
    chunks.push(group);
    chunks.retain(|chunk| !chunk.is_empty());
    chunks
}

/// How a stream of files is fed: batches that end at `ends`, a file that begins right there belonging to the one or
/// the other.
#[derive(Debug, Clone)]
struct Batching {
    ends: Vec<usize>,
    starts_come_early: bool,
    headroom: usize,
}

fn feed(files: &[Vec<u8>], batching: &Batching, parameters: &ChunkerParameters) -> Vec<Chunk> {
    let stream = files.concat();
    let mut at = 0;
    let mut starts: Vec<usize> = Vec::new();
    for file in files {
        starts.push(at);
        at += file.len();
    }
    let mut starts = starts.into_iter().peekable();
    let mut chunker = DataChunker::new(parameters).unwrap();
    let mut chunks = Vec::new();
    let mut begin = 0;
    for &end in batching.ends.iter().chain([&stream.len()]) {
        let is_last = end == stream.len();
        let belongs = |start: &usize| *start < end || (*start == end && (is_last || batching.starts_come_early));
        let file_starts: Vec<u32> =
            std::iter::from_fn(|| starts.next_if(belongs)).map(|start| u32::try_from(start - begin).unwrap()).collect();
        let mut data = vec![0xee; batching.headroom];
        data.extend_from_slice(&stream[begin..end]);
        let addresses = data.as_ptr_range();
        let pushed = chunker.push(data, batching.headroom, &file_starts);
        if batching.headroom >= chunker.headroom_bytes() {
            assert!(pushed.iter().all(|chunk| addresses.contains(&chunk.bytes.as_ptr())), "the batch was copied");
        }
        chunks.extend(pushed);
        begin = end;
    }
    chunks.extend(chunker.finish());
    chunks
}

fn in_one_batch(files: &[Vec<u8>], parameters: &ChunkerParameters) -> Vec<Chunk> {
    feed(files, &Batching { ends: Vec::new(), starts_come_early: false, headroom: 0 }, parameters)
}

fn files(lengths: impl Strategy<Value = usize>) -> impl Strategy<Value = Vec<Vec<u8>>> {
    let file = (lengths, 0_u64..40).prop_map(|(length, seed)| match seed % 4 {
        0 => random_bytes(seed, length),
        1 => text_bytes(seed, length),
        2 => mixed_bytes(seed, length),
        _ => vec![0; length],
    });
    vec(file, 0..40)
}

/// Any ends, among them the beginnings of files.
fn batched(
    files: impl Strategy<Value = Vec<Vec<u8>>>,
    headroom: usize,
) -> impl Strategy<Value = (Vec<Vec<u8>>, Batching)> {
    let choices = (vec(any::<Index>(), 0..20), vec(any::<Index>(), 0..10), any::<bool>(), any::<bool>());
    (files, choices).prop_map(move |(files, (anywhere, between, starts_come_early, has_headroom))| {
        let length = files.iter().map(Vec::len).sum::<usize>();
        let mut ends: Vec<_> = anywhere.iter().map(|index| index.index(length + 1)).collect();
        let count = |index: &Index| index.index(files.len() + 1);
        ends.extend(between.iter().map(|index| files[..count(index)].iter().map(Vec::len).sum::<usize>()));
        ends.sort_unstable();
        let headroom = if has_headroom { headroom } else { 0 };
        (files, Batching { ends, starts_come_early, headroom })
    })
}

fn check(files: &[Vec<u8>], batching: &Batching, parameters: &ChunkerParameters) -> Result<(), TestCaseError> {
    let chunks = feed(files, batching, parameters);
    prop_assert_eq!(total_bytes(&chunks), files.concat());
    let expected = reference_chunks(files, parameters);
    let lengths = |chunks: &[Vec<u8>]| chunks.iter().map(Vec::len).collect::<Vec<_>>();
    prop_assert_eq!(chunks.iter().map(|chunk| chunk.bytes.len()).collect::<Vec<_>>(), lengths(&expected));
    for chunk in &chunks {
        prop_assert!((1..=parameters.maximum_bytes as usize).contains(&chunk.bytes.len()));
        prop_assert_eq!(chunk.id, ChunkId::of(&chunk.bytes));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn small_chunks_do_not_depend_on_the_batches(
        (files, batching) in batched(
            files(prop_oneof![Just(0_usize), Just(1), Just(47), Just(48), 1_usize..60, 1_usize..400, 1_usize..5000]),
            1024,
        ),
    ) {
        check(&files, &batching, &small_parameters())?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn usual_chunks_do_not_depend_on_the_batches(
        (files, batching) in batched(
            files(prop_oneof![
                Just(1_usize), Just(4095), Just(4096), 1_usize..4096, 1_usize..4096, 1_usize..12_000, 1_usize..200_000,
            ]),
            64 << 10,
        ),
    ) {
        check(&files, &batching, &medium_parameters())?;
    }
}

#[test]
fn a_stream_without_data_has_no_chunks() {
    let parameters = ChunkerParameters::default();
    assert_eq!(DataChunker::new(&parameters).unwrap().finish(), []);
    assert_eq!(in_one_batch(&[Vec::new(), Vec::new()], &parameters), []);
}

#[test]
fn bytes_before_the_first_file_start_are_a_file() {
    let mut chunker = DataChunker::new(&ChunkerParameters::default()).unwrap();
    assert_eq!(chunker.push(b"opaque".to_vec(), 0, &[]), []);
    let chunks = chunker.finish();
    assert_eq!(total_bytes(&chunks), b"opaque");
    assert_eq!(chunks.len(), 1);
}

#[test]
fn batches_of_single_bytes_are_cut_alike() {
    let files = [random_bytes(1, 3000), text_bytes(2, 20), random_bytes(3, 47), random_bytes(4, 48), vec![0; 2500]];
    let length = files.iter().map(Vec::len).sum();
    for starts_come_early in [false, true] {
        let batching = Batching { ends: (0..length).collect(), starts_come_early, headroom: 1024 };
        check(&files, &batching, &small_parameters()).unwrap();
    }
}

#[test]
fn a_batch_with_the_room_it_needs_is_not_copied() {
    let parameters = small_parameters();
    let headroom = parameters.maximum_bytes as usize;
    let tiny = random_bytes(3, 47);
    let most_carried = [vec![tiny; 6], vec![vec![0; 1023 + 500]]].concat();
    for end in 0..=6 * 47 + 1023 + 500 {
        let batching = Batching { ends: vec![end], starts_come_early: false, headroom };
        check(&most_carried, &batching, &parameters).unwrap();
    }
}

#[test]
fn a_shared_chunk_ends_when_it_has_reached_its_limit() {
    let parameters = ChunkerParameters { tiny_group_modulus: u32::MAX, ..small_parameters() };
    let lengths = |length| -> Vec<usize> {
        let files: Vec<_> = (0..25).map(|seed| random_bytes(seed, length)).collect();
        in_one_batch(&files, &parameters).iter().map(|chunk| chunk.bytes.len()).collect()
    };
    assert_eq!(lengths(30), [300, 300, 150]);
    assert_eq!(lengths(31), [310, 310, 155]);
}

#[test]
fn the_short_rest_of_a_long_file_is_no_tiny_file() {
    for rest in 1..48 {
        let files = [vec![0; 1024 + rest], random_bytes(1, 20), random_bytes(2, 20)];
        let batching = Batching { ends: vec![1024], starts_come_early: false, headroom: 1024 };
        check(&files, &batching, &small_parameters()).unwrap();
    }
}

#[test]
fn chunks_of_a_file_stay_within_the_limits() {
    let parameters = ChunkerParameters::with_average(16 << 10);
    let (least, most) = (parameters.minimum_bytes as usize, parameters.maximum_bytes as usize);
    for file in [random_bytes(1, 3 << 20), text_bytes(2, 3 << 20), mixed_bytes(3, 3 << 20), vec![0; 3 << 20]] {
        let chunks = in_one_batch(&[file], &parameters);
        let (_, all_but_last) = chunks.split_last().unwrap();
        assert!(all_but_last.iter().all(|chunk| (least..=most).contains(&chunk.bytes.len())));
    }
}

#[test]
fn a_byte_put_in_front_of_a_file_changes_few_chunks() {
    let parameters = ChunkerParameters::with_average(64 << 10);
    let file = random_bytes(5, 8 << 20);
    let shifted = [&[1], &file[..]].concat();
    let known: HashSet<ChunkId> = in_one_batch(&[file], &parameters).iter().map(|chunk| chunk.id).collect();
    let chunks = in_one_batch(&[shifted], &parameters);
    let new_bytes: usize =
        chunks.iter().filter(|chunk| !known.contains(&chunk.id)).map(|chunk| chunk.bytes.len()).sum();
    assert!(new_bytes <= 1 << 20, "{new_bytes} bytes are new");
}

#[test]
fn tiny_files_share_chunks_that_a_new_neighbour_leaves_alone() {
    let parameters = ChunkerParameters::default();
    let mut files: Vec<_> = (0..1000).map(|seed| random_bytes(seed, 500 + usize::try_from(seed).unwrap())).collect();
    let before = in_one_batch(&files, &parameters);
    assert!((150..400).contains(&before.len()), "{} chunks", before.len());
    files.insert(500, random_bytes(5000, 700));
    let known: HashSet<ChunkId> = before.iter().map(|chunk| chunk.id).collect();
    let after = in_one_batch(&files, &parameters);
    assert!(after.iter().filter(|chunk| !known.contains(&chunk.id)).count() <= 2);
}

#[test]
fn a_file_has_the_same_chunks_whatever_surrounds_it() {
    let parameters = ChunkerParameters::with_average(16 << 10);
    let file = random_bytes(9, 400_000);
    let alone: Vec<_> = in_one_batch(std::slice::from_ref(&file), &parameters);
    let among = in_one_batch(&[text_bytes(1, 9000), b"tiny".to_vec(), file, b"tiny".to_vec()], &parameters);
    let position = among.iter().position(|chunk| chunk == &alone[0]).unwrap();
    assert_eq!(among[position..][..alone.len()], alone);
}
