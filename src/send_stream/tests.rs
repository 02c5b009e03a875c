//! Tests of the whole module; what they share is here.

mod damage;
mod dump;
mod fixtures;
mod generate;
mod lost_files;
mod replay;
mod round_trip;
mod split;

use std::io::{self, Read};

use super::*;

/// Options under which a small stream makes several batches.
const SMALL: SplitOptions = SplitOptions { batch_bytes: 300, headroom_bytes: 7, opaque: false };

/// A parted stream, put together from its batches.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Parted {
    commands: Vec<u8>,
    command_ends: Vec<(u64, u64)>,
    data: Vec<u8>,
    file_starts: Vec<u64>,
    facts: StreamFacts,
}

fn split(stream: impl Read, options: SplitOptions) -> Result<Parted, StreamError> {
    let mut splitter = Splitter::new(stream, options)?;
    let (mut commands, mut command_ends, mut data, mut file_starts) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    while let Some(batch) = splitter.next_batch()? {
        assert_eq!(batch.data[..options.headroom_bytes], vec![0; options.headroom_bytes]);
        let end = |end: &CommandEnd| {
            (commands.len() as u64 + u64::from(end.command_bytes), data.len() as u64 + u64::from(end.data_bytes))
        };
        command_ends.extend(batch.command_ends.iter().map(end));
        file_starts.extend(batch.file_starts.iter().map(|start| data.len() as u64 + u64::from(*start)));
        commands.extend_from_slice(&batch.commands);
        data.extend_from_slice(batch.file_data());
    }
    Ok(Parted { commands, command_ends, data, file_starts, facts: splitter.finish()? })
}

/// Rebuilds from pieces of at most these lengths.
fn rebuild(commands: &[u8], data: &[u8], command_piece: usize, data_piece: usize) -> Result<Vec<u8>, StreamError> {
    let mut rebuilder = Rebuilder::new();
    let (mut command_pieces, mut data_pieces) = (commands.chunks(command_piece), data.chunks(data_piece));
    let (mut commands, mut data, mut output): (&[u8], &[u8], _) = (&[], &[], Vec::new());
    loop {
        let wanted = rebuilder.feed(&mut commands, &mut data)?;
        output.extend_from_slice(rebuilder.rebuilt());
        rebuilder.clear_rebuilt();
        let next = match wanted {
            Wanted::Commands => command_pieces.next().map(|piece| commands = piece),
            Wanted::Data(_) => data_pieces.next().map(|piece| data = piece),
        };
        if next.is_none() {
            break;
        }
    }
    rebuilder.finish()?;
    assert!(data.is_empty() && data_pieces.next().is_none(), "file data is left over");
    Ok(output)
}

/// Gives at most so many bytes at a time, and is interrupted now and then.
struct Slow<'a> {
    bytes: &'a [u8],
    most: usize,
    reads: usize,
}

impl Read for Slow<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reads += 1;
        if self.reads.is_multiple_of(5) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let most = self.most.min(buffer.len());
        self.bytes.read(&mut buffer[..most])
    }
}

fn slow(bytes: &[u8], most: usize) -> Slow<'_> {
    Slow { bytes, most, reads: 0 }
}

/// A stream made of these commands and END.
fn stream(version: u32, commands: impl FnOnce(&mut StreamWriter<Vec<u8>>) -> io::Result<()>) -> Vec<u8> {
    let mut writer = StreamWriter::new(Vec::new(), version).unwrap();
    commands(&mut writer).unwrap();
    writer.finish().unwrap()
}

/// A write of these bytes.
fn write(writer: &mut StreamWriter<Vec<u8>>, path: &[u8], offset: u64, data: &[u8]) -> io::Result<()> {
    let attributes = [
        (AttributeCode::PATH, Value::Bytes(path)),
        (AttributeCode::FILE_OFFSET, Value::U64(offset)),
        (AttributeCode::DATA, Value::Bytes(data)),
    ];
    writer.command(CommandCode::WRITE, &attributes)
}

/// A stream with every known command of its version, each with the attributes it comes with.
fn every_command(version: u32) -> Vec<u8> {
    stream(version, |writer| {
        let known = COMMANDS.iter().filter(|row| row.since_version <= version && row.code != CommandCode::END);
        for row in known {
            let attributes: Vec<_> = row.attributes.iter().map(|code| (*code, sample_value(*code))).collect();
            writer.command(row.code, &attributes)?;
        }
        Ok(())
    })
}

fn sample_value(code: AttributeCode) -> Value<'static> {
    let row = code.row().unwrap();
    match row.value {
        ValueKind::U8 => Value::U8(1),
        ValueKind::U32 => Value::U32(u32::from(code.0)),
        ValueKind::U64 => Value::U64(u64::from(code.0) << 33),
        ValueKind::Uuid => Value::Uuid(crate::id::Uuid::from_bytes([u8::try_from(code.0).unwrap(); 16])),
        ValueKind::Time => Value::Time { seconds: -1, nanoseconds: 999_999_999 },
        ValueKind::Text | ValueKind::Bytes => Value::Bytes(row.name.as_bytes()),
    }
}
