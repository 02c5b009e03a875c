//! Puts the two parts of a stream together and writes it.

use anyhow::{Context, bail};
use bytes::Bytes;

use crate::monitor::{Counter, Monitor};
use crate::records::manifest::StreamRecord;
use crate::repository::Damage;
use crate::restore::StreamSink;
use crate::restore::pieces::PieceReceiver;
use crate::send_stream::{Rebuilder, StreamDigest, StreamHasher, Wanted};

/// The stream is written in pieces of at least this length.
const WRITE_BYTES: usize = 256 << 10;

/// The parts of a stream, piece by piece.
pub(super) struct Parts {
    /// None of an opaque stream.
    pub(super) commands: Option<PieceReceiver>,
    pub(super) data: PieceReceiver,
}

/// What has become of the stream so far.
struct Output<'a> {
    sink: Box<dyn StreamSink>,
    hasher: StreamHasher,
    length: u64,
    monitor: &'a dyn Monitor,
}

impl Output<'_> {
    /// Writes bytes that are not the stream's last.
    fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.take_up(bytes);
        self.sink.write_all(bytes).context("writing the stream")?;
        self.monitor.add(Counter::StreamBytes, bytes.len() as u64);
        Ok(())
    }

    fn take_up(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
    }

    /// Writes the last bytes of the stream if all of it is as recorded.
    fn finish(mut self, last: &[u8], stream: &StreamRecord) -> anyhow::Result<Box<dyn StreamSink>> {
        self.take_up(last);
        let digest = StreamDigest::from_bytes(stream.digest.into_array());
        if self.length != stream.bytes || self.hasher.digest() != digest {
            let reason = "its stream does not have the length and digest recorded, although every chunk is right";
            return Err(Damage { object: "the manifest".to_owned(), reason: reason.to_owned() }.into());
        }
        self.sink.write_all(last).context("writing the stream")?;
        self.sink.flush().context("writing the stream")?;
        self.monitor.add(Counter::StreamBytes, last.len() as u64);
        Ok(self.sink)
    }
}

/// Puts a stream together as its parts come, and writes it.
pub(super) fn rebuild_stream(
    parts: Parts,
    sink: Box<dyn StreamSink>,
    stream: &StreamRecord,
    monitor: &dyn Monitor,
) -> anyhow::Result<Box<dyn StreamSink>> {
    let output = Output { sink, hasher: StreamHasher::new(), length: 0, monitor };
    match parts.commands {
        Some(commands) => rebuild_commands(commands, parts.data, output, stream),
        None => copy_data(parts.data, output, stream),
    }
}

/// An opaque stream is its data.
fn copy_data(
    mut data: PieceReceiver,
    mut output: Output<'_>,
    stream: &StreamRecord,
) -> anyhow::Result<Box<dyn StreamSink>> {
    let mut held_back = Bytes::new();
    while let Some(piece) = data.blocking_recv() {
        output.write(&held_back)?;
        held_back = piece;
    }
    output.finish(&held_back, stream)
}

fn rebuild_commands(
    mut commands: PieceReceiver,
    mut data: PieceReceiver,
    mut output: Output<'_>,
    stream: &StreamRecord,
) -> anyhow::Result<Box<dyn StreamSink>> {
    let mut rebuilder = Rebuilder::new();
    let (mut command_piece, mut data_piece): (Bytes, Bytes);
    let (mut commands_left, mut data_left): (&[u8], &[u8]) = (&[], &[]);
    loop {
        match rebuilder.feed(&mut commands_left, &mut data_left)? {
            Wanted::Commands => {
                let Some(piece) = commands.blocking_recv() else { break };
                command_piece = piece;
                commands_left = &command_piece;
            }
            Wanted::Data(_) => {
                let Some(piece) = data.blocking_recv() else { bail!("the file data ends too early") };
                data_piece = piece;
                data_left = &data_piece;
            }
        }
        // Only now, as what is there to go on with shows that this is not the stream's end yet.
        if rebuilder.rebuilt().len() >= WRITE_BYTES {
            output.write(rebuilder.rebuilt())?;
            rebuilder.clear_rebuilt();
        }
    }
    rebuilder.finish()?;
    if !data_left.is_empty() || data.blocking_recv().is_some() {
        bail!("there is more file data than the commands use");
    }
    output.finish(rebuilder.rebuilt(), stream)
}
