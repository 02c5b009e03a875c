//! What is split and rebuilt is what it was.

use proptest::prelude::*;

use super::generate::any_stream;
use super::*;

/// A parting of a stream by a second, plainer reading of `docs/send_stream.md`, to compare with.
fn part_plainly(stream: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let version = u32::from_le_bytes(stream[13..17].try_into().unwrap());
    let (mut commands, mut data) = (stream[..17].to_vec(), Vec::new());
    let mut rest = &stream[17..];
    while !rest.is_empty() {
        let length = usize::try_from(u32::from_le_bytes(rest[..4].try_into().unwrap())).unwrap();
        let code = u16::from_le_bytes(rest[4..6].try_into().unwrap());
        let body = &rest[10..10 + length];
        let kept = if code == 15 || code == 25 { kept_plainly(version, body) } else { length };
        commands.extend_from_slice(&rest[..6]);
        commands.extend_from_slice(&body[..kept]);
        data.extend_from_slice(&body[kept..]);
        rest = &rest[10 + length..];
    }
    (commands, data)
}

fn kept_plainly(version: u32, body: &[u8]) -> usize {
    let mut at = 0;
    while at < body.len() {
        let code = u16::from_le_bytes(body[at..at + 2].try_into().unwrap());
        if code == 19 && version >= 2 {
            return at + 2;
        }
        let length = usize::from(u16::from_le_bytes(body[at + 2..at + 4].try_into().unwrap()));
        if code == 19 {
            return if at + 4 + length == body.len() { at + 4 } else { body.len() };
        }
        at += 4 + length;
    }
    body.len()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_stream_survives_splitting_and_rebuilding_however_it_is_cut(
        stream in any_stream(),
        read_bytes in prop_oneof![1..20usize, 1000..100_000usize],
        batch_bytes in prop_oneof![1..200usize, 1000..10_000usize],
        headroom_bytes in 0..50usize,
        command_piece in prop_oneof![1..9usize, 10..500usize],
        data_piece in prop_oneof![1..9usize, 10..500usize],
    ) {
        let options = SplitOptions { batch_bytes, headroom_bytes, opaque: false };
        let parted = split(slow(&stream, read_bytes), options).unwrap();
        let rebuilt = rebuild(&parted.commands, &parted.data, command_piece, data_piece).unwrap();
        prop_assert!(rebuilt == stream, "the rebuilt stream differs");
        prop_assert_eq!((parted.commands, parted.data), part_plainly(&stream));
        prop_assert_eq!(parted.facts.stream_bytes, stream.len() as u64);
        prop_assert_eq!(parted.facts.digest.value(), twox_hash::XxHash3_128::oneshot(&stream));
    }

    #[test]
    fn how_a_stream_is_read_does_not_change_how_it_is_parted(
        stream in any_stream(),
        read_bytes in 1..5000usize,
        batch_bytes in 1..5000usize,
    ) {
        let options = SplitOptions { batch_bytes, headroom_bytes: 3, opaque: false };
        let whole = SplitOptions { batch_bytes: 1 << 20, headroom_bytes: 0, opaque: false };
        let parted = split(slow(&stream, read_bytes), options).unwrap();
        prop_assert_eq!(&parted, &split(&stream[..], whole).unwrap());
        prop_assert!(parted.file_starts.is_sorted_by(|one, next| one < next));
        prop_assert!(parted.file_starts.iter().all(|start| *start < parted.facts.data_bytes));
        prop_assert_eq!(parted.command_ends.last(), Some(&(parted.facts.command_bytes, parted.facts.data_bytes)));
    }

    #[test]
    fn any_bytes_are_an_error_or_come_back(bytes in proptest::collection::vec(any::<u8>(), 0..200), version in 1..4u32) {
        let mut stream = MAGIC.to_vec();
        stream.extend_from_slice(&version.to_le_bytes());
        stream.extend_from_slice(&bytes);
        if let Ok(parted) = split(&stream[..], SMALL) {
            prop_assert_eq!(rebuild(&parted.commands, &parted.data, 3, 5).unwrap(), stream);
        }
    }

    #[test]
    fn a_command_stream_of_any_bytes_never_panics(
        bytes in proptest::collection::vec(prop_oneof![Just(0), Just(15), Just(19), any::<u8>()], 0..300),
        version in 1..4u32,
        piece in 1..50usize,
    ) {
        let mut commands = MAGIC.to_vec();
        commands.extend_from_slice(&version.to_le_bytes());
        commands.extend_from_slice(&bytes);
        let data = [5; 1000];
        let mut rebuilder = Rebuilder::new();
        for mut piece in commands.chunks(piece) {
            if rebuilder.feed(&mut piece, &mut &data[..]).is_err() {
                break;
            }
        }
    }

    #[test]
    fn opaque_bytes_are_data_of_one_file(
        bytes in proptest::collection::vec(any::<u8>(), 0..3000),
        read_bytes in 1..100usize,
        batch_bytes in 1..100usize,
    ) {
        let options = SplitOptions { batch_bytes, headroom_bytes: 9, opaque: true };
        let parted = split(slow(&bytes, read_bytes), options).unwrap();
        prop_assert_eq!(&parted.data, &bytes);
        prop_assert!(parted.commands.is_empty() && parted.command_ends.is_empty());
        prop_assert_eq!(parted.file_starts, if bytes.is_empty() { vec![] } else { vec![0] });
        prop_assert_eq!(parted.facts.digest.value(), twox_hash::XxHash3_128::oneshot(&bytes));
    }
}

#[test]
fn every_command_of_every_version_survives() {
    for version in 1..=NEWEST_VERSION {
        let stream = every_command(version);
        let parted = split(&stream[..], SMALL).unwrap();
        assert_eq!(rebuild(&parted.commands, &parted.data, 1, 1).unwrap(), stream);
        assert_eq!(parted.facts.unknown_command_count, 0);
        let writes = if version == 1 { 1 } else { 2 };
        assert_eq!(parted.data, b"data".repeat(writes));
    }
}

#[test]
fn commands_larger_than_the_buffer_survive() {
    let data = vec![0x5a; 5 << 20];
    let stream = stream(2, |writer| {
        write(writer, b"small", 0, &vec![1; 700 << 10])?;
        write(writer, b"large", 0, &data)?;
        write(writer, b"small", 0, b"x")
    });
    let parted = split(slow(&stream, 100_000), SplitOptions { batch_bytes: 1 << 20, ..SMALL }).unwrap();
    assert_eq!(parted.file_starts, [0, 700 << 10, (700 << 10) + (5 << 20)]);
    assert!(rebuild(&parted.commands, &parted.data, 1000, 1 << 20).unwrap() == stream);
}
