//! Damaged and hostile streams.

use super::*;

fn small_stream(version: u32) -> Vec<u8> {
    stream(version, |writer| {
        let attributes = [(AttributeCode::PATH, Value::Bytes(b"a")), (AttributeCode::INO, Value::U64(257))];
        writer.command(CommandCode::MKFILE, &attributes)?;
        write(writer, b"a", 0, b"some data")?;
        writer.command(CommandCode(77), &[(AttributeCode::PATH, Value::Bytes(b"a"))])?;
        write(writer, b"b", 4096, b"other data")
    })
}

fn error(stream: &[u8]) -> StreamError {
    split(stream, SMALL).unwrap_err()
}

/// A stream with one command whose header says anything.
fn header_only(length_bytes: u32, code: u16) -> Vec<u8> {
    let mut stream = StreamWriter::new(Vec::new(), 2).unwrap().finish().unwrap();
    stream.truncate(STREAM_HEADER_BYTES);
    stream.extend_from_slice(&length_bytes.to_le_bytes());
    stream.extend_from_slice(&code.to_le_bytes());
    stream
}

#[test]
fn every_stream_that_is_cut_short_is_an_error() {
    for version in 1..=NEWEST_VERSION {
        let stream = small_stream(version);
        assert!(split(&stream[..], SMALL).is_ok());
        for length in MAGIC.len()..stream.len() {
            let error = error(&stream[..length]);
            assert!(matches!(error, StreamError::CutShort { offset } if offset == length as u64), "{error}");
        }
    }
}

#[test]
fn every_flipped_bit_is_an_error_or_comes_back_as_it_is() {
    for version in 1..=NEWEST_VERSION {
        let mut stream = small_stream(version);
        for bit in 0..stream.len() * 8 {
            stream[bit / 8] ^= 1 << (bit % 8);
            let header = bit / 8 < STREAM_HEADER_BYTES;
            match split(&stream[..], SMALL) {
                Err(_) => {}
                Ok(parted) if parted.facts.opaque => assert!(header && parted.data == stream),
                // Nothing guards the version.
                Ok(parted) => assert!(header && rebuild(&parted.commands, &parted.data, 9, 9).unwrap() == stream),
            }
            stream[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

#[test]
fn bytes_after_end_are_an_error() {
    let stream = small_stream(2);
    for tail in [&b"\0"[..], &stream[..]] {
        let longer = [&stream[..], tail].concat();
        let error = error(&longer);
        assert!(matches!(error, StreamError::BytesAfterEnd { offset } if offset == stream.len() as u64), "{error}");
    }
}

#[test]
fn a_wrong_checksum_names_the_command() {
    let mut stream = small_stream(1);
    let at = stream.len() - 11;
    stream[at] ^= 1;
    assert_eq!(error(&stream).to_string(), "write at byte 99 of the send stream is damaged: its checksum does not fit");
}

#[test]
fn a_command_that_claims_too_much_is_an_error_at_once() {
    for length_bytes in [u32::try_from(MAX_COMMAND_BYTES).unwrap() + 1, u32::MAX] {
        let stream = [&header_only(length_bytes, 15)[..], &[0; 4]].concat();
        assert!(matches!(error(&stream), StreamError::CommandTooLong { .. }));
        let mut commands = &header_only(length_bytes, 15)[..];
        assert!(matches!(Rebuilder::new().feed(&mut commands, &mut &[][..]), Err(StreamError::CommandTooLong { .. })));
    }
}

#[test]
fn the_longest_command_is_accepted_and_not_allocated_before_it_is_there() {
    let most = u32::try_from(MAX_COMMAND_BYTES).unwrap();
    let stream = stream(2, |writer| writer.raw_command(CommandCode(99), &vec![1; MAX_COMMAND_BYTES]));
    assert!(split(&stream[..], SMALL).is_ok());
    let mut input = input::Input::new(&stream[..1000]);
    assert!(!input.fill(MAX_COMMAND_BYTES).unwrap());
    assert!(input.buffer_bytes() <= 2 << 20);
    assert!(matches!(error(&header_only(most, 99)), StreamError::CutShort { .. }));
}

#[test]
fn attributes_that_go_past_the_end_of_their_command_are_an_error() {
    let bodies: [&[u8]; 6] =
        [b"\x0f", b"\x0f\0", b"\x0f\0\x01", b"\x0f\0\x02\0a", b"\x63\0\xff\xff", b"\x0f\0\0\0\x0f\0\x01\0"];
    for version in 1..=NEWEST_VERSION {
        for body in bodies {
            for code in [CommandCode::MKFILE, CommandCode::WRITE, CommandCode::END] {
                let damaged = stream(version, |writer| writer.raw_command(code, body));
                assert!(matches!(error(&damaged), StreamError::AttributeOverrun { offset: 17, .. }), "{body:?}");
            }
            let unknown = stream(version, |writer| writer.raw_command(CommandCode(99), body));
            assert!(split(&unknown[..], SMALL).is_ok());
        }
    }
}

#[test]
fn an_error_comes_again() {
    let mut stream = small_stream(1);
    stream[STREAM_HEADER_BYTES + 12] ^= 4;
    let mut reader = CommandReader::new(&stream[..]).unwrap();
    for _ in 0..3 {
        assert!(matches!(reader.next_command(), Err(StreamError::WrongChecksum { offset: 17, .. })));
    }
}

#[test]
fn a_source_that_fails_says_where() {
    struct Failing;
    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the disk is on fire"))
        }
    }
    let stream = small_stream(1);
    for opaque in [false, true] {
        let error = split(stream[..60].chain(Failing), SplitOptions { opaque, ..SMALL }).unwrap_err();
        assert!(matches!(error, StreamError::Read { offset: 60, .. }), "{error:?}");
    }
}

#[test]
fn every_command_stream_that_is_cut_short_is_an_error() {
    for version in 1..=NEWEST_VERSION {
        let parted = split(&small_stream(version)[..], SMALL).unwrap();
        for length in 0..parted.commands.len() {
            let mut rebuilder = Rebuilder::new();
            let fed = rebuilder.feed(&mut &parted.commands[..length], &mut &parted.data[..]);
            assert!(fed.is_ok_and(|wanted| wanted == Wanted::Commands));
            assert!(matches!(rebuilder.finish(), Err(StreamError::CutShort { .. })));
        }
    }
}

#[test]
fn missing_file_data_is_asked_for() {
    let parted = split(&small_stream(2)[..], SMALL).unwrap();
    let mut rebuilder = Rebuilder::new();
    let mut commands = &parted.commands[..];
    assert_eq!(rebuilder.feed(&mut commands, &mut &parted.data[..3]).unwrap(), Wanted::Data(6));
    assert_eq!(rebuilder.feed(&mut commands, &mut &parted.data[3..9]).unwrap(), Wanted::Data(10));
    assert!(rebuilder.finish().is_err());
    assert_eq!(rebuilder.feed(&mut commands, &mut &parted.data[9..]).unwrap(), Wanted::Commands);
    assert!(rebuilder.finish().is_ok());
}

#[test]
fn a_command_stream_that_goes_on_after_end_is_an_error() {
    let parted = split(&small_stream(2)[..], SMALL).unwrap();
    let commands = [&parted.commands[..], b"\0"].concat();
    assert!(matches!(rebuild(&commands, &parted.data, 9, 9), Err(StreamError::BytesAfterEnd { .. })));
}

#[test]
fn too_many_clone_sources_are_an_error() {
    let stream = stream(1, |writer| {
        (0..=1u64 << 16).try_for_each(|ctransid| {
            let uuid = crate::id::Uuid::from_bytes([9; 16]);
            let attributes =
                [(AttributeCode::CLONE_UUID, Value::Uuid(uuid)), (AttributeCode::CLONE_CTRANSID, Value::U64(ctransid))];
            writer.command(CommandCode::CLONE, &attributes)
        })
    });
    assert!(matches!(error(&stream), StreamError::TooManyCloneSources { .. }));
}
