//! Send streams: read, parted, rebuilt, written.

use btrfs_to_s3::send_stream::{
    CommandCode, CommandReader, Rebuilder, STREAM_HEADER_BYTES, SplitOptions, Splitter, StreamFacts, StreamHasher,
    StreamKind, StreamWriter, Wanted, detect,
};

/// Length of a command's header: length, code, checksum.
const COMMAND_HEADER_BYTES: usize = 10;
/// So small that a stream makes several batches.
const BATCH_BYTES: usize = 4 << 10;
const HEADROOM_BYTES: usize = 5;
/// The parts are given to the rebuilder in pieces of this length, which no command has.
const PIECE_BYTES: usize = 13;

/// A stream: as it is, and with the right checksums; and its bytes as the two parts of another one.
pub(crate) fn send_stream(bytes: &[u8]) -> bool {
    let as_it_is = check(bytes);
    let mended = mended(bytes).is_some_and(|bytes| check(&bytes));
    check_parts(bytes);
    as_it_is || mended
}

/// What is parted must come back byte for byte.
fn check(bytes: &[u8]) -> bool {
    let Ok((facts, commands, data)) = split(bytes, false) else { return false };
    assert_eq!(facts.stream_bytes, bytes.len() as u64);
    assert_eq!(facts.digest, digest_of(bytes));
    assert_eq!((facts.command_bytes, facts.data_bytes), (commands.len() as u64, data.len() as u64));
    if facts.opaque {
        assert!(commands.is_empty() && data == bytes);
        return true;
    }
    assert_eq!(rebuild(&commands, &data).unwrap().0, bytes, "the parts make another stream");
    assert_eq!(rewrite(bytes), bytes, "its commands make another stream");
    let (opaque, no_commands, same) = split(bytes, true).unwrap();
    assert!(opaque.opaque && no_commands.is_empty() && same == bytes);
    true
}

type Parts = (StreamFacts, Vec<u8>, Vec<u8>);

fn split(bytes: &[u8], opaque: bool) -> Result<Parts, String> {
    let options = SplitOptions { batch_bytes: BATCH_BYTES, headroom_bytes: HEADROOM_BYTES, opaque };
    let mut splitter = Splitter::new(bytes, options).map_err(|error| error.to_string())?;
    let (mut commands, mut data) = (Vec::new(), Vec::new());
    while let Some(batch) = splitter.next_batch().map_err(|error| error.to_string())? {
        let length = u32::try_from(batch.file_data().len()).unwrap();
        assert!(batch.file_starts.is_sorted() && batch.file_starts.iter().all(|start| *start < length));
        commands.extend_from_slice(&batch.commands);
        data.extend_from_slice(batch.file_data());
    }
    let facts = splitter.finish().map_err(|error| error.to_string())?;
    Ok((facts, commands, data))
}

fn digest_of(bytes: &[u8]) -> btrfs_to_s3::send_stream::StreamDigest {
    let mut hasher = StreamHasher::new();
    hasher.update(bytes);
    hasher.digest()
}

/// Rebuilds a stream; gives it and how much of the data it took.
fn rebuild(commands: &[u8], data: &[u8]) -> Result<(Vec<u8>, usize), String> {
    let mut rebuilder = Rebuilder::new();
    let (mut stream, mut data_taken) = (Vec::new(), 0);
    let mut command_pieces = commands.chunks(PIECE_BYTES);
    let mut data_pieces = data.chunks(PIECE_BYTES);
    let (mut command_piece, mut data_piece): (&[u8], &[u8]) = (&[], &[]);
    loop {
        let wanted = rebuilder.feed(&mut command_piece, &mut data_piece).map_err(|error| error.to_string())?;
        stream.extend_from_slice(rebuilder.rebuilt());
        rebuilder.clear_rebuilt();
        let (next, piece) = match wanted {
            Wanted::Commands => (command_pieces.next(), &mut command_piece),
            Wanted::Data(_) => (data_pieces.next(), &mut data_piece),
        };
        let Some(next) = next else { break };
        if matches!(wanted, Wanted::Data(_)) {
            data_taken += next.len();
        }
        *piece = next;
    }
    rebuilder.finish().map_err(|error| error.to_string())?;
    Ok((stream, data_taken - data_piece.len()))
}

/// Writes a stream anew, command by command, having looked at all that they say.
fn rewrite(bytes: &[u8]) -> Vec<u8> {
    let mut reader = CommandReader::new(bytes).unwrap();
    let mut written = Vec::new();
    let mut writer = StreamWriter::new(&mut written, reader.version()).unwrap();
    while let Some(command) = reader.next_command().unwrap() {
        for attribute in command.attributes() {
            drop((attribute.as_u64(), attribute.as_uuid(), attribute.as_time(), attribute.code.to_string()));
        }
        drop(command.code.to_string());
        assert_eq!([command.kept(), command.payload()].concat(), command.body());
        writer.raw_command(command.code, command.body()).unwrap();
    }
    written
}

/// Takes the bytes as a command stream, and as the file data that belongs to it: a stream that can be rebuilt of them
/// parts into the same.
fn check_parts(bytes: &[u8]) {
    let Ok((stream, data_taken)) = rebuild(bytes, bytes) else { return };
    let (_, commands, data) = split(&stream, false).unwrap();
    assert!(commands == bytes && data == bytes[..data_taken]);
}

/// Puts the right checksum into every command that is whole.
fn mended(bytes: &[u8]) -> Option<Vec<u8>> {
    let StreamKind::Send { version } = detect(bytes) else { return None };
    let mut mended = Vec::new();
    let mut writer = StreamWriter::new(&mut mended, version).ok()?;
    let mut rest = bytes.get(STREAM_HEADER_BYTES..)?;
    while let Some((header, body)) = rest.split_first_chunk::<COMMAND_HEADER_BYTES>() {
        let [a, b, c, d, code @ ..] = header;
        let length = usize::try_from(u32::from_le_bytes([*a, *b, *c, *d])).ok()?;
        let Some((body, after)) = body.split_at_checked(length) else { break };
        writer.raw_command(CommandCode(u16::from_le_bytes([code[0], code[1]])), body).ok()?;
        rest = after;
    }
    mended.extend_from_slice(rest);
    (mended != bytes).then_some(mended)
}
