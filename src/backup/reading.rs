//! Reads a stream on a thread of its own, and cuts and hashes what comes.

use anyhow::Context;
use tokio::sync::{mpsc, oneshot};

use crate::backup::names::NamesOnDisk;
use crate::backup::{BackupOptions, Host, StreamSource};
use crate::chunker::{Chunk, ChunkerParameters, CommandChunk, CommandChunker, CommandEnd, DataChunker};
use crate::repository::packs::compute;
use crate::send_stream::{Batch, SplitOptions, Splitter, StreamFacts};

/// Batches that wait to be cut, besides the ones being read and cut.
const BATCHES_WAITING: usize = 2;

/// Chunks of both parts of the stream.
#[derive(Debug, Default)]
pub(crate) struct Part {
    pub(crate) data: Vec<Chunk>,
    pub(crate) commands: Vec<CommandChunk>,
    /// Bytes of the stream that were read for it.
    pub(crate) stream_bytes: u64,
}

/// A stream that is being read.
pub(crate) struct StreamReading {
    batches: mpsc::Receiver<(Batch, u64)>,
    result: oneshot::Receiver<anyhow::Result<StreamFacts>>,
    /// None when the end has been cut.
    chunkers: Option<(DataChunker, CommandChunker)>,
    headroom_bytes: usize,
}

impl StreamReading {
    pub(crate) fn start(
        source: Box<dyn StreamSource>,
        host: &Host,
        parameters: &ChunkerParameters,
        opaque: bool,
        options: &BackupOptions,
    ) -> anyhow::Result<Self> {
        let chunkers = (DataChunker::new(parameters)?, CommandChunker::new(parameters)?);
        let headroom_bytes = chunkers.0.headroom_bytes();
        let split = SplitOptions { batch_bytes: options.batch_bytes, headroom_bytes, opaque };
        let names = (options.names_in_memory, NamesOnDisk::below(host.scratch_directory.clone()));
        // The channel is bounded: when storing falls behind, the producer stalls instead of memory growing.
        let (batch_sender, batches) = mpsc::channel(BATCHES_WAITING);
        let (result_sender, result) = oneshot::channel();
        // Reading a pipe blocks and cannot be cancelled, so it has a thread, which ends when its producer is stopped.
        let run = move || drop(result_sender.send(read_stream(source, split, names, &batch_sender)));
        std::thread::Builder::new().name("stream".to_owned()).spawn(run).context("starting a thread")?;
        Ok(Self { batches, result, chunkers: Some(chunkers), headroom_bytes })
    }

    /// The next chunks; none at the stream's end, and none when reading it failed: [`finish`](Self::finish) says which.
    pub(crate) async fn next(&mut self) -> Option<Part> {
        let (mut data_chunker, mut command_chunker) = self.chunkers.take()?;
        let Some((batch, stream_bytes)) = self.batches.recv().await else {
            let finish =
                move || Part { data: data_chunker.finish(), commands: command_chunker.finish(), stream_bytes: 0 };
            return Some(compute(finish).await);
        };
        let headroom_bytes = self.headroom_bytes;
        let cut = move || {
            let ends = command_ends(&batch);
            let commands = command_chunker.push(&batch.commands, &ends);
            let data = data_chunker.push(batch.data, headroom_bytes, &batch.file_starts);
            (Part { data, commands, stream_bytes }, (data_chunker, command_chunker))
        };
        let (part, chunkers) = compute(cut).await;
        self.chunkers = Some(chunkers);
        Some(part)
    }

    /// Whether the stream was whole, and its producer content. To be asked once, when there are no more parts.
    pub(crate) async fn finish(&mut self) -> anyhow::Result<StreamFacts> {
        (&mut self.result).await.context("the thread that reads the stream has ended")?
    }

    /// Waits until the thread that reads has let go of the stream, whose producer has been stopped.
    pub(crate) async fn wait_for_end(mut self) {
        self.batches.close();
        while self.batches.recv().await.is_some() {}
        if !self.result.is_terminated() {
            drop(self.result.await);
        }
    }
}

fn read_stream(
    mut source: Box<dyn StreamSource>,
    options: SplitOptions,
    (names_in_memory, names): (usize, NamesOnDisk),
    batches: &mpsc::Sender<(Batch, u64)>,
) -> anyhow::Result<StreamFacts> {
    let splitter = Splitter::new(source.as_mut(), options)?;
    let mut splitter = splitter.with_names(names_in_memory, Box::new(names));
    let mut read_bytes = 0;
    while let Some(batch) = splitter.next_batch()? {
        let stream_bytes = splitter.stream_bytes() - read_bytes;
        read_bytes = splitter.stream_bytes();
        // The receiver only goes away when the backup has failed already.
        batches.blocking_send((batch, stream_bytes)).map_err(|_| anyhow::anyhow!("the backup has been given up"))?;
    }
    let facts = splitter.finish()?;
    source.finish()?;
    Ok(facts)
}

/// The ends of a batch's commands as the chunker wants them: with the data of each command alone.
fn command_ends(batch: &Batch) -> Vec<CommandEnd> {
    let mut before = 0;
    let end = |end: &crate::send_stream::CommandEnd| {
        let data_bytes = end.data_bytes - before;
        before = end.data_bytes;
        CommandEnd { end: end.command_bytes, data_bytes }
    };
    batch.command_ends.iter().map(end).collect()
}
