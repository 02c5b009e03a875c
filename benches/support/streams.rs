//! Made-up send streams, the same in every run.

use std::io;

use btrfs_to_s3::id::Uuid;
use btrfs_to_s3::send_stream::{AttributeCode, CommandCode, StreamWriter, Value};

use super::content::{random_bytes, text_bytes};

/// Where the files are, in directories of fifty.
const ROOT: &str = "projects/software/source";
const FILES_IN_DIRECTORY: u64 = 50;
/// Inodes of directories are from here on, those of files below.
const FIRST_DIRECTORY_INODE: u64 = 1 << 32;

const TIME: Value<'_> = Value::Time { seconds: 1_700_000_000, nanoseconds: 123_456_789 };

/// How much file data the kernel writes with a command: a v1 attribute ends below 64 KiB.
fn write_bytes(version: u32) -> usize {
    if version == 1 { 48 << 10 } else { 128 << 10 }
}

/// A full send stream with `data_bytes` of files, whose lengths are `file_bytes` in turn.
///
/// Every other file is random; those between are like text.
pub(crate) fn full_stream(version: u32, data_bytes: usize, file_bytes: &[usize]) -> Vec<u8> {
    let (random, text) = (random_bytes(1, data_bytes), text_bytes(2, data_bytes));
    let files = Files { kinds: [&random, &text], file_bytes, begin: 0, number: 0 };
    write_stream(version, files).expect("the commands are valid and go to memory")
}

/// Files that are cut from data of two kinds in turn.
struct Files<'a> {
    kinds: [&'a [u8]; 2],
    file_bytes: &'a [usize],
    begin: usize,
    number: usize,
}

impl<'a> Iterator for Files<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = &self.kinds[self.number % self.kinds.len()][self.begin..];
        let length = self.file_bytes[self.number % self.file_bytes.len()].min(rest.len());
        self.begin += length;
        self.number += 1;
        (length > 0).then(|| &rest[..length])
    }
}

fn write_stream<'a>(version: u32, files: impl Iterator<Item = &'a [u8]>) -> io::Result<Vec<u8>> {
    let mut writer = StreamWriter::new(Vec::new(), version)?;
    let subvolume = [
        (AttributeCode::PATH, Value::Bytes(b"home.20260101T000000Z")),
        (AttributeCode::UUID, Value::Uuid(Uuid::from_bytes([7; 16]))),
        (AttributeCode::CTRANSID, Value::U64(1000)),
    ];
    writer.command(CommandCode::SUBVOL, &subvolume)?;
    let mut directories = 0;
    for (end, _) in ROOT.match_indices('/').chain([(ROOT.len(), "")]) {
        write_directory(&mut writer, &ROOT[..end], &mut directories)?;
    }
    for (number, content) in (0..).zip(files) {
        if number % FILES_IN_DIRECTORY == 0 {
            write_directory(&mut writer, &directory_of(number), &mut directories)?;
        }
        write_file(&mut writer, version, number, content)?;
    }
    writer.finish()
}

fn directory_of(number: u64) -> String {
    format!("{ROOT}/module_{:04}", number / FILES_IN_DIRECTORY)
}

fn write_directory(writer: &mut StreamWriter<Vec<u8>>, path: &str, count: &mut u64) -> io::Result<()> {
    let ino = FIRST_DIRECTORY_INODE + *count;
    *count += 1;
    let path = (AttributeCode::PATH, Value::Bytes(path.as_bytes()));
    writer.command(CommandCode::MKDIR, &[path, (AttributeCode::INO, Value::U64(ino))])
}

/// The commands of a new file, as the kernel orders them.
fn write_file(writer: &mut StreamWriter<Vec<u8>>, version: u32, number: u64, content: &[u8]) -> io::Result<()> {
    let ino = number + 257;
    let orphan = format!("o{ino}-1000-0");
    let directory = directory_of(number);
    let name = format!("{directory}/file_{number:07}.c");
    let orphan_path = (AttributeCode::PATH, Value::Bytes(orphan.as_bytes()));
    let path = (AttributeCode::PATH, Value::Bytes(name.as_bytes()));
    writer.command(CommandCode::MKFILE, &[orphan_path, (AttributeCode::INO, Value::U64(ino))])?;
    writer.command(CommandCode::RENAME, &[orphan_path, (AttributeCode::PATH_TO, Value::Bytes(name.as_bytes()))])?;
    write_times(writer, version, &directory)?;
    for (part, offset) in content.chunks(write_bytes(version)).zip((0..).step_by(write_bytes(version))) {
        let offset = (AttributeCode::FILE_OFFSET, Value::U64(offset));
        writer.command(CommandCode::WRITE, &[path, offset, (AttributeCode::DATA, Value::Bytes(part))])?;
    }
    let owners = [path, (AttributeCode::UID, Value::U64(1000)), (AttributeCode::GID, Value::U64(1000))];
    writer.command(CommandCode::CHOWN, &owners)?;
    writer.command(CommandCode::CHMOD, &[path, (AttributeCode::MODE, Value::U64(0o644))])?;
    write_times(writer, version, &name)
}

fn write_times(writer: &mut StreamWriter<Vec<u8>>, version: u32, path: &str) -> io::Result<()> {
    let mut attributes = vec![(AttributeCode::PATH, Value::Bytes(path.as_bytes()))];
    attributes.extend([AttributeCode::ATIME, AttributeCode::MTIME, AttributeCode::CTIME].map(|code| (code, TIME)));
    if version >= 2 {
        attributes.push((AttributeCode::OTIME, TIME));
    }
    writer.command(CommandCode::UTIMES, &attributes)
}
