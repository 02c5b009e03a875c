//! Streams to archive, made of a seed.

use btrfs_to_s3::id::{SnapshotVersion, Uuid};
use btrfs_to_s3::send_stream::{AttributeCode, CommandCode, StreamWriter, Value};

/// How much one command of version 1 writes, as the kernel does.
const WRITE_BYTES: usize = 48 << 10;

/// Bytes that neither repeat nor compress; the same for the same seed.
pub(crate) fn random_bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        // SplitMix64: every seed gives a sequence of its own.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend_from_slice(&(word ^ (word >> 31)).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// A snapshot's identity.
pub(crate) fn origin(number: u8) -> SnapshotVersion {
    SnapshotVersion { uuid: Uuid::from_bytes([number; 16]), ctransid: 1000 + u64::from(number) }
}

/// A snapshot that a stream can be made of.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    pub(crate) subject: SnapshotVersion,
    pub(crate) parent: Option<SnapshotVersion>,
    pub(crate) files: Vec<Vec<u8>>,
}

impl Sample {
    /// A full snapshot with files of these contents.
    pub(crate) fn of_files(number: u8, files: Vec<Vec<u8>>) -> Self {
        Self { subject: origin(number), parent: None, files }
    }

    /// A full snapshot with one file of random bytes.
    pub(crate) fn random(number: u8, length: usize) -> Self {
        Self::of_files(number, vec![random_bytes(u64::from(number), length)])
    }

    /// The same, as changes to a parent.
    pub(crate) fn on(self, parent: u8) -> Self {
        Self { parent: Some(origin(parent)), ..self }
    }

    /// The snapshot's stream.
    pub(crate) fn stream(&self) -> Vec<u8> {
        self.written().finish().unwrap()
    }

    /// The stream, with the removal at its end of a name that nothing has.
    pub(crate) fn garbled_stream(&self) -> Vec<u8> {
        let mut writer = self.written();
        let path = (AttributeCode::PATH, Value::Bytes(b"file-0/nothing"));
        writer.command(CommandCode::UNLINK, &[path]).unwrap();
        writer.finish().unwrap()
    }

    fn written(&self) -> StreamWriter<Vec<u8>> {
        let mut writer = StreamWriter::new(Vec::new(), 1).unwrap();
        self.write_subject(&mut writer);
        for (number, content) in self.files.iter().enumerate() {
            let path = format!("file-{number}");
            let path = (AttributeCode::PATH, Value::Bytes(path.as_bytes()));
            writer
                .command(CommandCode::MKFILE, &[path, (AttributeCode::INO, Value::U64(257 + number as u64))])
                .unwrap();
            for (piece, data) in content.chunks(WRITE_BYTES).enumerate() {
                let offset = (AttributeCode::FILE_OFFSET, Value::U64((piece * WRITE_BYTES) as u64));
                let data = (AttributeCode::DATA, Value::Bytes(data));
                writer.command(CommandCode::WRITE, &[path, offset, data]).unwrap();
            }
        }
        writer
    }

    fn write_subject(&self, writer: &mut StreamWriter<Vec<u8>>) {
        let mut attributes = vec![
            (AttributeCode::PATH, Value::Bytes(b"data")),
            (AttributeCode::UUID, Value::Uuid(self.subject.uuid)),
            (AttributeCode::CTRANSID, Value::U64(self.subject.ctransid)),
        ];
        let code = match self.parent {
            None => CommandCode::SUBVOL,
            Some(parent) => {
                attributes.push((AttributeCode::CLONE_UUID, Value::Uuid(parent.uuid)));
                attributes.push((AttributeCode::CLONE_CTRANSID, Value::U64(parent.ctransid)));
                CommandCode::SNAPSHOT
            }
        };
        writer.command(code, &attributes).unwrap();
    }
}

/// The streams that a kernel wrote, with their names.
pub(crate) fn captured_streams() -> Vec<(String, Vec<u8>)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/integration_tests/fixtures/streams");
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = paths.filter(|path| path.extension().is_some_and(|end| end == "stream")).collect();
    paths.sort();
    assert!(paths.len() >= 8, "{} captured streams in {folder}", paths.len());
    let read =
        |path: std::path::PathBuf| (path.file_name().unwrap().to_string_lossy().into(), std::fs::read(path).unwrap());
    paths.into_iter().map(read).collect()
}
