//! Parts a stream as it is read.

use std::io::{Chain, Cursor, Read};

use super::batch::MAX_BATCH_BYTES;
use super::input::Input;
use super::replay::{NAMES_IN_MEMORY, Replay};
use super::{
    AttributeCode, Batch, Command, CommandReader, MAGIC, NameStore, STREAM_HEADER_BYTES, StreamError, StreamFacts,
    StreamHasher, StreamKind, detect,
};

/// How a stream is split.
#[derive(Debug, Clone, Copy)]
pub struct SplitOptions {
    /// A batch ends with the first command at which it has this many bytes, 1 GiB at most.
    pub batch_bytes: usize,
    /// Bytes to leave unused before each batch's data.
    pub headroom_bytes: usize,
    /// Takes the stream as opaque bytes, even if it is a send stream.
    pub opaque: bool,
}

/// Reads a stream and parts it into command stream and file data.
///
/// A send stream of an unknown version, and anything that is not a send stream, is taken as opaque bytes: all of it is
/// data of one file.
#[derive(Debug)]
pub struct Splitter<R> {
    source: Source<R>,
    options: SplitOptions,
    facts: StreamFacts,
    /// The path of the file that the data before belongs to.
    current_path: Option<Vec<u8>>,
    replay: Replay,
}

#[derive(Debug)]
enum Source<R> {
    Commands(CommandReader<R>),
    Bytes { reader: Chain<Cursor<Vec<u8>>, R>, hasher: StreamHasher, finished: bool },
}

impl<R: Read> Splitter<R> {
    /// Begins a stream by reading its first bytes.
    ///
    /// # Errors
    ///
    /// If the source fails, or a send stream ends within its header (unless it is to be taken as opaque bytes).
    pub fn new(reader: R, options: SplitOptions) -> Result<Self, StreamError> {
        let mut input = Input::new(reader);
        input.fill(STREAM_HEADER_BYTES)?;
        let kind = detect(input.available());
        let opaque = options.opaque || matches!(kind, StreamKind::UnknownVersion { .. } | StreamKind::NotASendStream);
        let source = if opaque {
            let (first_bytes, reader) = input.into_parts();
            let reader = Cursor::new(first_bytes).chain(reader);
            Source::Bytes { reader, hasher: StreamHasher::new(), finished: false }
        } else {
            Source::Commands(CommandReader::with_input(input)?)
        };
        let options = SplitOptions { batch_bytes: options.batch_bytes.clamp(1, MAX_BATCH_BYTES), ..options };
        let replay = Replay::new(NAMES_IN_MEMORY, None);
        Ok(Self { source, options, facts: StreamFacts::new(kind, opaque), current_path: None, replay })
    }

    /// Keeps only so many entries of the stream's names in memory, and the others in a store. To be said before the first batch.
    #[must_use]
    pub fn with_names(self, in_memory_at_most: usize, store: Box<dyn NameStore>) -> Self {
        Self { replay: Replay::new(in_memory_at_most, Some(store)), ..self }
    }

    /// What the stream's first bytes say it is.
    #[must_use]
    pub fn kind(&self) -> StreamKind {
        self.facts.kind
    }

    /// Whether the stream is taken as opaque bytes.
    #[must_use]
    pub fn is_opaque(&self) -> bool {
        self.facts.opaque
    }

    /// How many bytes of the stream the batches so far stand for.
    #[must_use]
    pub fn stream_bytes(&self) -> u64 {
        self.facts.stream_bytes
    }

    /// Reads the next batch; none at the stream's end.
    ///
    /// # Errors
    ///
    /// As [`CommandReader::next_command`]; and if the stream clones from more subvolumes than are recorded. After an error
    /// the stream is worthless, and what was given of it too.
    pub fn next_batch(&mut self) -> Result<Option<Batch>, StreamError> {
        let mut batch = Batch::with_room(self.options.headroom_bytes, self.options.batch_bytes);
        match &mut self.source {
            Source::Commands(reader) => {
                if self.facts.stream_bytes == 0 {
                    batch.push_stream_header(&stream_header(reader.version()));
                }
                while batch.stored_bytes() < self.options.batch_bytes {
                    let Some(command) = reader.next_command()? else { break };
                    self.facts.note(&command)?;
                    if self.facts.rejected.is_none() {
                        self.facts.rejected = self.replay.follow(&command);
                    }
                    part(&command, &mut self.current_path, &mut batch);
                }
                self.facts.stream_bytes = reader.offset();
            }
            Source::Bytes { reader, hasher, finished } => {
                let read = reader.take(self.options.batch_bytes as u64).read_to_end(&mut batch.data);
                let offset = self.facts.stream_bytes + batch.file_data().len() as u64;
                read.map_err(|source| StreamError::Read { offset, source })?;
                if self.facts.stream_bytes == 0 && !batch.is_empty() {
                    batch.file_starts.push(0);
                }
                hasher.update(batch.file_data());
                *finished = batch.is_empty();
                self.facts.stream_bytes += batch.file_data().len() as u64;
            }
        }
        self.count(&batch);
        Ok((!batch.is_empty()).then_some(batch))
    }

    /// Ends the stream and says what it was.
    ///
    /// # Errors
    ///
    /// If [`Self::next_batch`] has not said that there is no more: the stream was not read to its end.
    pub fn finish(self) -> Result<StreamFacts, StreamError> {
        let digest = match &self.source {
            Source::Commands(reader) => reader.digest(),
            Source::Bytes { hasher, finished, .. } => finished.then(|| hasher.digest()),
        };
        let digest = digest.ok_or(StreamError::CutShort { offset: self.facts.stream_bytes })?;
        let names_forgotten = self.replay.forgotten_because().map(str::to_owned);
        Ok(StreamFacts { names_forgotten, digest, ..self.facts })
    }

    fn count(&mut self, batch: &Batch) {
        self.facts.command_bytes += batch.commands.len() as u64;
        self.facts.data_bytes += batch.file_data().len() as u64;
        self.facts.file_count += batch.file_starts.len() as u64;
    }
}

fn stream_header(version: u32) -> [u8; STREAM_HEADER_BYTES] {
    let mut header = [0; STREAM_HEADER_BYTES];
    header[..MAGIC.len()].copy_from_slice(MAGIC);
    header[MAGIC.len()..].copy_from_slice(&version.to_le_bytes());
    header
}

fn part(command: &Command<'_>, current_path: &mut Option<Vec<u8>>, batch: &mut Batch) {
    let payload = command.payload();
    // A write without bytes belongs to no file: a cut there would be one between the files around it.
    if !payload.is_empty() {
        let path = command.attribute(AttributeCode::PATH).map(|path| path.value).unwrap_or_default();
        if current_path.as_deref() != Some(path) {
            batch.push_file_start();
            let current = current_path.get_or_insert_default();
            current.clear();
            current.extend_from_slice(path);
        }
    }
    batch.push_command(command.kept_header(), command.kept(), payload);
}
