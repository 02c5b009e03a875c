//! Which files have lost bytes.

#![expect(clippy::single_range_in_vec_init, reason = "what is lost is spans, of which there may be one")]

use proptest::prelude::*;

use super::generate::any_stream;
use super::*;
use crate::id::Uuid;

const SUBJECT: Uuid = Uuid::from_bytes([7; 16]);

type Writer = StreamWriter<Vec<u8>>;

/// The files that have lost bytes where these spans of the file data are lost, the commands coming in pieces of this length.
fn lost_of(stream: &[u8], lost: &[std::ops::Range<u64>], at_most: usize, piece: usize) -> (Vec<(String, u64)>, u64) {
    let parted = split(stream, SMALL).unwrap();
    let (mut commands, mut files) = (KeptCommands::default(), LostFiles::new(lost, at_most));
    for piece in parted.commands.chunks(piece) {
        commands.push(piece);
        while let Some(command) = commands.next_command().unwrap() {
            files.follow(&command);
        }
    }
    let (files, more) = files.finish();
    let text = |path: Vec<u8>| path.escape_ascii().to_string();
    (files.into_iter().map(|file| (text(file.path), file.lost_bytes)).collect(), more)
}

/// As [`lost_of`], of a stream of version 2 that is made of these commands.
fn lost(lost: &[std::ops::Range<u64>], commands: impl FnOnce(&mut Writer) -> io::Result<()>) -> Vec<(String, u64)> {
    let (files, more) = lost_of(&stream(2, commands), lost, 100, 5);
    assert_eq!(more, 0);
    files
}

fn named<const N: usize>(files: [(&str, u64); N]) -> Vec<(String, u64)> {
    files.map(|(path, bytes)| (path.to_owned(), bytes)).into()
}

fn two_paths(writer: &mut Writer, code: CommandCode, path: &[u8], other: (AttributeCode, &[u8])) -> io::Result<()> {
    writer.command(code, &[(AttributeCode::PATH, Value::Bytes(path)), (other.0, Value::Bytes(other.1))])
}

fn rename(writer: &mut Writer, from: &[u8], to: &[u8]) -> io::Result<()> {
    two_paths(writer, CommandCode::RENAME, from, (AttributeCode::PATH_TO, to))
}

fn link(writer: &mut Writer, path: &[u8], existing: &[u8]) -> io::Result<()> {
    two_paths(writer, CommandCode::LINK, path, (AttributeCode::PATH_LINK, existing))
}

fn unlink(writer: &mut Writer, path: &[u8]) -> io::Result<()> {
    writer.command(CommandCode::UNLINK, &[(AttributeCode::PATH, Value::Bytes(path))])
}

fn begin(writer: &mut Writer) -> io::Result<()> {
    let attributes = [(AttributeCode::PATH, Value::Bytes(b"data")), (AttributeCode::UUID, Value::Uuid(SUBJECT))];
    writer.command(CommandCode::SUBVOL, &attributes)
}

fn clone(writer: &mut Writer, source: Uuid, from: (&[u8], u64), to: (&[u8], u64), length: u64) -> io::Result<()> {
    let attributes = [
        (AttributeCode::FILE_OFFSET, Value::U64(to.1)),
        (AttributeCode::CLONE_LEN, Value::U64(length)),
        (AttributeCode::PATH, Value::Bytes(to.0)),
        (AttributeCode::CLONE_UUID, Value::Uuid(source)),
        (AttributeCode::CLONE_PATH, Value::Bytes(from.0)),
        (AttributeCode::CLONE_OFFSET, Value::U64(from.1)),
    ];
    writer.command(CommandCode::CLONE, &attributes)
}

#[test]
fn a_file_has_lost_what_its_writes_have_in_common_with_the_spans() {
    let files = lost(&[1..3, 9..12, 13..14, 20..21], |writer| {
        write(writer, b"a", 0, b"0123")?;
        write(writer, b"b", 0, b"45678")?;
        write(writer, b"c", 0, b"90")?;
        write(writer, b"c", 100, b"12345")?;
        write(writer, b"d", 0, b"6")
    });
    assert_eq!(files, named([("a", 2), ("c", 4)]));
}

#[test]
fn of_a_compressed_extent_all_is_lost() {
    let files = lost(&[2..3], |writer| {
        let attributes = [
            (AttributeCode::PATH, Value::Bytes(b"a")),
            (AttributeCode::FILE_OFFSET, Value::U64(4096)),
            (AttributeCode::UNENCODED_FILE_LEN, Value::U64(70_000)),
            (AttributeCode::DATA, Value::Bytes(b"squeezed")),
        ];
        writer.command(CommandCode::ENCODED_WRITE, &attributes)
    });
    assert_eq!(files, named([("a", 70_000)]));
}

#[test]
fn the_name_is_told_that_a_file_has_at_the_end() {
    let files = lost(&[0..5], |writer| {
        write(writer, b"o257-7-0", 0, b"0")?;
        write(writer, b"o258-7-0/in/it", 0, b"1")?;
        write(writer, b"o258-7-0-not", 0, b"2")?;
        write(writer, b"replaced", 0, b"3")?;
        write(writer, b"stays", 0, b"4")?;
        rename(writer, b"o257-7-0", b"replaced")?;
        rename(writer, b"o258-7-0", b"home/me")?;
        rename(writer, b"home", b"houses")?;
        rename(writer, b"stays", b"/stays/")
    });
    let expected = named([("replaced", 1), ("houses/me/in/it", 1), ("o258-7-0-not", 1), ("replaced", 1), ("stays", 1)]);
    assert_eq!(files, expected);
}

#[test]
fn a_file_is_told_once_whatever_its_names_are() {
    let files = lost(&[0..3], |writer| {
        write(writer, b"a", 0, b"0")?;
        link(writer, b"b", b"a")?;
        write(writer, b"b", 1, b"1")?;
        unlink(writer, b"a")?;
        write(writer, b"c", 1, b"2")?;
        unlink(writer, b"c")
    });
    assert_eq!(files, named([("b", 2), ("c", 1)]));
}

#[test]
fn what_is_cloned_from_lost_bytes_is_lost_as_well() {
    let files = lost(&[2..4], |writer| {
        begin(writer)?;
        write(writer, b"a", 10, b"0123456")?;
        clone(writer, SUBJECT, (b"a", 10), (b"before", 0), 2)?;
        clone(writer, SUBJECT, (b"a", 10), (b"half", 500), 3)?;
        clone(writer, SUBJECT, (b"a", 0), (b"all", 0), 100)?;
        clone(writer, SUBJECT, (b"all", 12), (b"all", 0), 2)?;
        clone(writer, SUBJECT, (b"all", 12), (b"all", 1), 2)?;
        clone(writer, Uuid::from_bytes([8; 16]), (b"a", 0), (b"of another", 0), 100)
    });
    assert_eq!(files, named([("a", 2), ("half", 1), ("all", 5)]));
}

#[test]
fn files_beyond_those_that_are_named_are_counted() {
    let stream = stream(1, |writer| {
        [b"a", b"a", b"b", b"b", b"c", b"c"]
            .into_iter()
            .zip(0..)
            .try_for_each(|(path, at)| write(writer, path, at, b"1"))
    });
    assert_eq!(lost_of(&stream, &[0..6], 1, 1000), (named([("a", 2)]), 2));
    assert_eq!(lost_of(&stream, &[0..1, 5..6], 1, 1000), (named([("a", 1)]), 1));
}

#[test]
fn files_of_streams_that_a_kernel_wrote_have_no_names_of_its_own_making() {
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_made_up = |part: &str| {
        part.strip_prefix('o').is_some_and(|rest| rest.split('-').count() == 3 && rest.split('-').all(is_digits))
    };
    let mut count = 0;
    for name in fixtures::NAMES {
        let (files, more) = lost_of(&fixtures::captured(name), std::slice::from_ref(&(0..u64::MAX)), 1000, 4096);
        let made_up = files.iter().find(|(path, _)| path.split('/').any(is_made_up));
        assert_eq!((made_up, more), (None, 0), "{name}");
        count += files.len();
    }
    assert!(count > 20, "{count} files");
}

proptest! {
    #[test]
    fn a_command_stream_has_the_commands_of_its_stream(stream in any_stream(), piece in 1..40_usize) {
        let parted = split(&stream[..], SMALL).unwrap();
        let (mut kept, mut found) = (KeptCommands::default(), Vec::new());
        for piece in parted.commands.chunks(piece) {
            kept.push(piece);
            while let Some(command) = kept.next_command().unwrap() {
                found.push((command.code, command.data_bytes, command.bytes(AttributeCode::PATH).map(<[u8]>::to_vec)));
            }
        }
        let (mut reader, mut expected) = (CommandReader::new(&stream[..]).unwrap(), Vec::new());
        while let Some(command) = reader.next_command().unwrap() {
            let path = command.attribute(AttributeCode::PATH).map(|path| path.value.to_vec());
            expected.push((command.code, command.payload().len() as u64, path));
        }
        prop_assert_eq!(found, expected);
    }
}
