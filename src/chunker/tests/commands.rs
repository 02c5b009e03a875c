//! How the command stream is cut.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::reference::reference_cut;
use super::*;

#[derive(Debug, Clone)]
struct Command {
    bytes: Vec<u8>,
    data_bytes: u32,
}

/// The rules for chunks of commands, applied to a whole stream: bytes and data bytes of each.
fn reference_chunks(commands: &[Command], parameters: &ChunkerParameters) -> Vec<(Vec<u8>, u64)> {
    let mut chunks = Vec::new();
    let mut rest = commands;
    while !rest.is_empty() {
        let stream: Vec<u8> = rest.iter().flat_map(|command| command.bytes.iter().copied()).collect();
        let cut = reference_cut(&stream, parameters);
        let (mut length, mut data_bytes, mut count) = (0, 0, 0);
        while length < cut {
            length += rest[count].bytes.len();
            data_bytes += u64::from(rest[count].data_bytes);
            count += 1;
        }
        chunks.push((stream[..length].to_vec(), data_bytes));
        rest = &rest[count..];
    }
    chunks
}

/// Feeds batches that end at these offsets of the stream.
fn feed(commands: &[Command], batch_ends: &[usize], parameters: &ChunkerParameters) -> Vec<CommandChunk> {
    let stream: Vec<u8> = commands.iter().flat_map(|command| command.bytes.iter().copied()).collect();
    let mut at = 0;
    let mut ends = Vec::new();
    for command in commands {
        at += command.bytes.len();
        ends.push((at, command.data_bytes));
    }
    let mut ends = ends.into_iter().peekable();
    let mut chunker = CommandChunker::new(parameters).unwrap();
    let mut chunks = Vec::new();
    let mut begin = 0;
    for &batch_end in batch_ends.iter().chain([&stream.len()]) {
        let in_batch: Vec<_> = std::iter::from_fn(|| ends.next_if(|(end, _)| *end <= batch_end))
            .map(|(end, data_bytes)| CommandEnd { end: u32::try_from(end - begin).unwrap(), data_bytes })
            .collect();
        chunks.extend(chunker.push(&stream[begin..batch_end], &in_batch));
        begin = batch_end;
    }
    chunks.extend(chunker.finish());
    chunks
}

fn commands() -> impl Strategy<Value = Vec<Command>> {
    let length = prop_oneof![8 => 1_usize..100, 2 => 1_usize..600, 1 => 900_usize..4000];
    let command = (length, 0_u64..50, 0_u32..200_000).prop_map(|(length, seed, data_bytes)| {
        let bytes = if seed % 2 == 0 { random_bytes(seed, length) } else { text_bytes(seed, length) };
        Command { bytes, data_bytes }
    });
    vec(command, 0..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn commands_are_cut_between_them_however_they_are_batched(
        commands in commands(),
        whole in vec(any::<Index>(), 0..12),
        anywhere in vec(any::<Index>(), 0..6),
    ) {
        let length_of = |commands: &[Command]| commands.iter().map(|command| command.bytes.len()).sum::<usize>();
        let mut ends: Vec<_> = anywhere.iter().map(|index| index.index(length_of(&commands) + 1)).collect();
        ends.extend(whole.iter().map(|index| length_of(&commands[..index.index(commands.len() + 1)])));
        ends.sort_unstable();
        let chunks = feed(&commands, &ends, &small_parameters());
        let expected = reference_chunks(&commands, &small_parameters());
        let lengths: Vec<_> = chunks.iter().map(|chunk| (chunk.chunk.bytes.to_vec(), chunk.data_bytes_used)).collect();
        prop_assert_eq!(lengths, expected);
        for CommandChunk { chunk, .. } in &chunks {
            prop_assert_eq!(chunk.id, ChunkId::of(&chunk.bytes));
        }
    }
}

#[test]
fn a_stream_without_commands_has_no_chunks() {
    assert_eq!(feed(&[], &[], &ChunkerParameters::default()), []);
}

#[test]
fn a_command_far_longer_than_the_maximum_stays_whole() {
    let long = Command { bytes: random_bytes(1, 3 << 20), data_bytes: 5 };
    let short = Command { bytes: text_bytes(2, 90), data_bytes: 7 };
    let chunks = feed(&[short.clone(), long, short], &[90], &ChunkerParameters::default());
    let lengths: Vec<_> = chunks.iter().map(|chunk| (chunk.chunk.bytes.len(), chunk.data_bytes_used)).collect();
    assert_eq!(lengths, [(90 + (3 << 20), 12), (90, 7)]);
}

#[test]
fn bytes_that_no_command_ends_are_kept() {
    let mut chunker = CommandChunker::new(&ChunkerParameters::default()).unwrap();
    assert_eq!(chunker.push(b"commands, then more", &[CommandEnd { end: 8, data_bytes: 3 }]), []);
    let chunks = chunker.finish();
    assert_eq!(chunks.len(), 1);
    assert_eq!(chunks[0].chunk.bytes, &b"commands, then more"[..]);
    assert_eq!(chunks[0].data_bytes_used, 3);
}
