//! Puts the two parts of a stream together and writes it.

use anyhow::{Context, bail};
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::monitor::{Counter, Monitor};
use crate::records::manifest::StreamRecord;
use crate::repository::Damage;
use crate::restore::StreamSink;
use crate::send_stream::{Rebuilder, StreamDigest, StreamHasher, Wanted};

/// The stream is written in pieces of about this length. The last one is held back until the digest is known.
const WRITE_BYTES: usize = 256 << 10;

/// The parts of a stream, piece by piece.
pub(super) struct Parts {
    /// None of an opaque stream.
    pub(super) commands: Option<mpsc::Receiver<Bytes>>,
    pub(super) data: mpsc::Receiver<Bytes>,
}

/// What has been put together and not written.
struct Output<'a> {
    sink: Box<dyn StreamSink>,
    pending: Vec<u8>,
    hasher: StreamHasher,
    length: u64,
    monitor: &'a dyn Monitor,
}

impl Output<'_> {
    /// Appends bytes; writes what was there before when it is enough.
    fn push(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        if self.pending.len() >= WRITE_BYTES {
            self.write()?;
        }
        self.pending.extend_from_slice(bytes);
        Ok(())
    }

    fn write(&mut self) -> anyhow::Result<()> {
        self.take_up();
        self.sink.write_all(&self.pending).context("writing the stream")?;
        self.monitor.add(Counter::StreamBytes, self.pending.len() as u64);
        self.pending.clear();
        Ok(())
    }

    fn take_up(&mut self) {
        self.hasher.update(&self.pending);
        self.length += self.pending.len() as u64;
    }

    /// Writes the end of the stream if all of it is as recorded.
    fn finish(mut self, stream: &StreamRecord) -> anyhow::Result<Box<dyn StreamSink>> {
        self.take_up();
        if self.length != stream.bytes || self.hasher.digest() != StreamDigest::from_bytes(stream.digest.into_array()) {
            let reason = "its stream does not have the length and digest recorded, although every chunk is right";
            return Err(Damage { object: "the manifest".to_owned(), reason: reason.to_owned() }.into());
        }
        self.sink.write_all(&self.pending).context("writing the stream")?;
        self.sink.flush().context("writing the stream")?;
        self.monitor.add(Counter::StreamBytes, self.pending.len() as u64);
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
    let pending = Vec::with_capacity(2 * WRITE_BYTES);
    let mut output = Output { sink, pending, hasher: StreamHasher::new(), length: 0, monitor };
    let Parts { commands, mut data } = parts;
    match commands {
        Some(commands) => rebuild_commands(commands, data, &mut output)?,
        None => {
            while let Some(piece) = data.blocking_recv() {
                output.push(&piece)?;
            }
        }
    }
    output.finish(stream)
}

fn rebuild_commands(
    mut commands: mpsc::Receiver<Bytes>,
    mut data: mpsc::Receiver<Bytes>,
    output: &mut Output<'_>,
) -> anyhow::Result<()> {
    let mut rebuilder = Rebuilder::new();
    let (mut command_piece, mut data_piece): (Bytes, Bytes);
    let (mut commands_left, mut data_left): (&[u8], &[u8]) = (&[], &[]);
    loop {
        let wanted = rebuilder.feed(&mut commands_left, &mut data_left)?;
        output.push(rebuilder.rebuilt())?;
        rebuilder.clear_rebuilt();
        match wanted {
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
    }
    rebuilder.finish()?;
    if !data_left.is_empty() || data.blocking_recv().is_some() {
        bail!("there is more file data than the commands use");
    }
    Ok(())
}
