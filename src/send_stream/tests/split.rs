//! What the splitter says of a stream.

use super::*;
use crate::id::{SnapshotVersion, Uuid};

fn starts(version: u32, commands: impl FnOnce(&mut StreamWriter<Vec<u8>>) -> io::Result<()>) -> Vec<u64> {
    split(&stream(version, commands)[..], SMALL).unwrap().file_starts
}

#[test]
fn a_file_begins_where_the_path_of_the_writes_changes() {
    let file_starts = starts(2, |writer| {
        write(writer, b"a", 0, b"123")?;
        write(writer, b"a", 1 << 30, b"456")?;
        write(writer, b"b", 0, b"7")?;
        writer.command(CommandCode::TRUNCATE, &[(AttributeCode::PATH, Value::Bytes(b"c"))])?;
        write(writer, b"b", 1, b"8")?;
        write(writer, b"a", 6, b"9")
    });
    assert_eq!(file_starts, [0, 6, 8]);
}

#[test]
fn a_write_without_bytes_belongs_to_no_file() {
    let file_starts = starts(1, |writer| {
        write(writer, b"a", 0, b"")?;
        write(writer, b"b", 0, b"1")?;
        write(writer, b"c", 0, b"")?;
        write(writer, b"b", 1, b"2")?;
        write(writer, b"d", 0, b"3")
    });
    assert_eq!(file_starts, [0, 2]);
}

#[test]
fn a_file_that_goes_on_in_the_next_batch_does_not_begin_there() {
    let file_starts = starts(2, |writer| (0..9).try_for_each(|part| write(writer, b"a", part, &[1; 200])));
    assert_eq!(file_starts, [0]);
}

#[test]
fn data_that_does_not_reach_the_end_of_its_command_stays_in_the_command_stream() {
    let stream = stream(1, |writer| {
        let attributes = [
            (AttributeCode::DATA, Value::Bytes(b"first")),
            (AttributeCode::PATH, Value::Bytes(b"a")),
            (AttributeCode::DATA, Value::Bytes(b"second")),
        ];
        writer.command(CommandCode::WRITE, &attributes)
    });
    let parted = split(&stream[..], SMALL).unwrap();
    assert_eq!((parted.data.len(), parted.file_starts.len()), (0, 0));
    assert_eq!(parted.commands.len(), stream.len() - 2 * 4);
}

#[test]
fn only_writes_have_their_data_taken_out() {
    let stream = stream(2, |writer| {
        writer.command(CommandCode::SET_XATTR, &[(AttributeCode::DATA, Value::Bytes(b"kept"))])?;
        writer.command(CommandCode(99), &[(AttributeCode::DATA, Value::Bytes(b"kept"))])
    });
    assert!(split(&stream[..], SMALL).unwrap().data.is_empty());
}

fn uuid(byte: u8) -> Uuid {
    Uuid::from_bytes([byte; 16])
}

fn clone_from(writer: &mut StreamWriter<Vec<u8>>, byte: u8, ctransid: u64) -> io::Result<()> {
    let attributes =
        [(AttributeCode::CLONE_UUID, Value::Uuid(uuid(byte))), (AttributeCode::CLONE_CTRANSID, Value::U64(ctransid))];
    writer.command(CommandCode::CLONE, &attributes)
}

fn snapshot(writer: &mut StreamWriter<Vec<u8>>) -> io::Result<()> {
    let attributes = [
        (AttributeCode::PATH, Value::Bytes(b"home.1")),
        (AttributeCode::UUID, Value::Uuid(uuid(1))),
        (AttributeCode::CTRANSID, Value::U64(10)),
        (AttributeCode::CLONE_UUID, Value::Uuid(uuid(2))),
        (AttributeCode::CLONE_CTRANSID, Value::U64(20)),
    ];
    writer.command(CommandCode::SNAPSHOT, &attributes)
}

#[test]
fn subject_parent_and_clone_sources_are_found() {
    let stream = stream(3, |writer| {
        snapshot(writer)?;
        clone_from(writer, 1, 10)?;
        clone_from(writer, 3, 30)?;
        clone_from(writer, 2, 20)?;
        clone_from(writer, 3, 30)?;
        writer.command(CommandCode(1000), &[])
    });
    let facts = split(&stream[..], SMALL).unwrap().facts;
    let version = |byte, ctransid| SnapshotVersion { uuid: uuid(byte), ctransid };
    let subject = Subject { path: b"home.1".to_vec(), version: version(1, 10), incremental: true };
    assert_eq!(facts.subject, Some(subject));
    assert_eq!(facts.parent, Some(version(2, 20)));
    assert_eq!(facts.clone_sources, [version(2, 20), version(3, 30)].into());
    assert_eq!((facts.command_count, facts.unknown_command_count), (7, 1));
    assert_eq!((facts.kind, facts.more_subjects), (StreamKind::Send { version: 3 }, false));
}

#[test]
fn the_first_of_several_subjects_counts_and_the_others_are_told() {
    let stream = stream(1, |writer| {
        snapshot(writer)?;
        writer.command(CommandCode::SUBVOL, &[(AttributeCode::PATH, Value::Bytes(b"other"))])
    });
    let facts = split(&stream[..], SMALL).unwrap().facts;
    assert!(facts.more_subjects);
    assert_eq!(facts.subject.map(|subject| subject.path), Some(b"home.1".to_vec()));
}

#[test]
fn a_subject_without_a_uuid_is_none() {
    let stream = stream(1, |writer| {
        let attributes = [(AttributeCode::PATH, Value::Bytes(b"a")), (AttributeCode::UUID, Value::U64(1))];
        writer.command(CommandCode::SUBVOL, &attributes)
    });
    assert_eq!(split(&stream[..], SMALL).unwrap().facts.subject, None);
}

#[test]
fn first_bytes_tell_what_a_stream_is() {
    let header = |version: u32| [MAGIC, &version.to_le_bytes()[..]].concat();
    for version in 1..=NEWEST_VERSION {
        assert_eq!(detect(&header(version)), StreamKind::Send { version });
    }
    for version in [0, NEWEST_VERSION + 1, u32::MAX] {
        assert_eq!(detect(&header(version)), StreamKind::UnknownVersion { version });
    }
    assert_eq!(detect(&header(1)[..16]), StreamKind::CutShort);
    assert_eq!(detect(MAGIC), StreamKind::CutShort);
    for bytes in [&MAGIC[..12], b"", b"btrfs-stream 1234", b"\0\0\0\0"] {
        assert_eq!(detect(bytes), StreamKind::NotASendStream);
    }
}

#[test]
fn an_unknown_version_is_opaque_bytes() {
    let stream = stream(4, |writer| write(writer, b"a", 0, b"data"));
    let parted = split(&stream[..], SMALL).unwrap();
    assert_eq!(parted.facts.kind, StreamKind::UnknownVersion { version: 4 });
    assert!(parted.facts.opaque);
    assert_eq!(parted.data, stream);
}

#[test]
fn a_splitter_that_was_not_read_to_the_end_cannot_be_finished() {
    let stream = stream(2, |writer| (0..9).try_for_each(|part| write(writer, b"a", part, &[1; 200])));
    for opaque in [false, true] {
        let mut splitter = Splitter::new(&stream[..], SplitOptions { opaque, ..SMALL }).unwrap();
        assert!(splitter.next_batch().unwrap().is_some());
        assert!(matches!(splitter.finish(), Err(StreamError::CutShort { .. })));
    }
}

#[test]
fn a_command_reader_shows_attributes() {
    let stream = every_command(3);
    let mut reader = CommandReader::new(&stream[..]).unwrap();
    let mut rows = COMMANDS.iter().filter(|row| row.code != CommandCode::END);
    while let Some(command) = reader.next_command().unwrap() {
        if command.code == CommandCode::END {
            continue;
        }
        let row = rows.next().unwrap();
        assert_eq!(command.code, row.code);
        let codes: Vec<_> = command.attributes().map(|attribute| attribute.code).collect();
        assert_eq!(codes, row.attributes);
        for attribute in command.attributes() {
            match attribute.code.row().unwrap().value {
                ValueKind::U8 | ValueKind::U32 | ValueKind::U64 => assert!(attribute.as_u64().is_some()),
                ValueKind::Uuid => assert!(attribute.as_uuid().is_some()),
                ValueKind::Time => assert_eq!(attribute.as_time(), Some((-1, 999_999_999))),
                ValueKind::Text | ValueKind::Bytes => {
                    assert_eq!(attribute.value, attribute.code.row().unwrap().name.as_bytes());
                }
            }
        }
    }
    assert!(rows.next().is_none());
    assert!(reader.digest().is_some());
}

#[test]
fn the_writer_refuses_what_a_stream_cannot_hold() {
    let mut writer = StreamWriter::new(Vec::new(), 2).unwrap();
    let long = vec![0; 1 << 16];
    let bytes = |code, value| (code, Value::Bytes(value));
    assert!(writer.command(CommandCode::MKFILE, &[bytes(AttributeCode::PATH, &long)]).is_err());
    let data_first = [bytes(AttributeCode::DATA, b"1"), bytes(AttributeCode::PATH, b"a")];
    assert!(writer.command(CommandCode::WRITE, &data_first).is_err());
    assert!(writer.raw_command(CommandCode::WRITE, &vec![0; MAX_COMMAND_BYTES + 1]).is_err());
    assert_eq!(writer.finish().unwrap(), stream(2, |_| Ok(())));
}
