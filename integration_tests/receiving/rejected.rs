//! What is said of a stream is what `btrfs receive` makes of it.

use std::fs::{self, File};
use std::path::Path;

use btrfs_to_s3::id::Uuid;
use btrfs_to_s3::send_stream::{AttributeCode, CommandCode, Rejected, SplitOptions, Splitter, StreamWriter, Value};

use crate::SIZE_MIB;
use crate::support::btrfs_fixture::TestBtrfs;
use crate::support::process::{Ended, command};

const STREAMS: u64 = 60;
const COMMANDS: u64 = 60;

/// Numbers that look random (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }

    fn path(&mut self) -> String {
        let depth = [1, 1, 1, 2, 2, 3][usize::try_from(self.below(6)).unwrap()];
        (0..depth).map(|_| ["a", "b", "c"][usize::try_from(self.below(3)).unwrap()]).collect::<Vec<_>>().join("/")
    }

    /// A command, with the path it is about and what else it needs. Renames lead to names that are new, so that what
    /// they do is certain.
    fn command(&mut self, number: u64) -> Step {
        let (code, other) = match self.below(9) {
            0 | 1 => (CommandCode::MKFILE, None),
            2 | 3 => (CommandCode::MKDIR, None),
            4 => (CommandCode::RENAME, Some((AttributeCode::PATH_TO, format!("{}{number}", self.path())))),
            5 => (CommandCode::UNLINK, None),
            6 => (CommandCode::RMDIR, None),
            7 => (CommandCode::WRITE, None),
            _ => (CommandCode::CHMOD, None),
        };
        Step { code, path: self.path(), other }
    }
}

#[derive(Debug, Clone)]
struct Step {
    code: CommandCode,
    path: String,
    other: Option<(AttributeCode, String)>,
}

impl Step {
    fn write(&self, writer: &mut StreamWriter<Vec<u8>>) {
        let path = (AttributeCode::PATH, Value::Bytes(self.path.as_bytes()));
        let mut attributes = vec![path];
        attributes.extend(self.other.as_ref().map(|(code, other)| (*code, Value::Bytes(other.as_bytes()))));
        match self.code {
            CommandCode::MKFILE | CommandCode::MKDIR => attributes.push((AttributeCode::INO, Value::U64(257))),
            CommandCode::CHMOD => attributes.push((AttributeCode::MODE, Value::U64(0o700))),
            CommandCode::WRITE => {
                attributes.push((AttributeCode::FILE_OFFSET, Value::U64(0)));
                attributes.push((AttributeCode::DATA, Value::Bytes(b"data")));
            }
            _ => {}
        }
        writer.command(self.code, &attributes).unwrap();
    }
}

/// A whole stream of a subvolume with this number.
fn stream(number: u64, steps: &[Step]) -> Vec<u8> {
    let mut writer = StreamWriter::new(Vec::new(), 1).unwrap();
    let (name, mut uuid) = (format!("s{number}"), [1; 16]);
    uuid[..8].copy_from_slice(&number.to_le_bytes());
    let attributes = [
        (AttributeCode::PATH, Value::Bytes(name.as_bytes())),
        (AttributeCode::UUID, Value::Uuid(Uuid::from_bytes(uuid))),
        (AttributeCode::CTRANSID, Value::U64(1)),
    ];
    writer.command(CommandCode::SUBVOL, &attributes).unwrap();
    for step in steps {
        step.write(&mut writer);
    }
    writer.finish().unwrap()
}

fn rejected(stream: &[u8]) -> Option<Rejected> {
    let options = SplitOptions { batch_bytes: 1 << 20, headroom_bytes: 0, opaque: false };
    let mut splitter = Splitter::new(stream, options).unwrap();
    while splitter.next_batch().unwrap().is_some() {}
    splitter.finish().unwrap().rejected
}

fn receive(stream: &[u8], folder: &Path) -> Ended {
    let file = folder.join("stream");
    fs::write(&file, stream).unwrap();
    Ended::from(command("btrfs").arg("receive").arg(folder).stdin(File::open(file).unwrap()).output().unwrap())
}

#[test]
#[ignore = "needs root and Btrfs"]
fn a_stream_is_rejected_exactly_if_btrfs_receive_fails_at_it() {
    let file_system = TestBtrfs::new(SIZE_MIB, "");
    let mut failed = 0;
    for number in 0..STREAMS {
        let (mut random, mut steps) = (Random(number << 32), Vec::new());
        for step in 0..COMMANDS {
            steps.push(random.command(step));
            // Most of what cannot be done is left out, or streams would be short.
            if rejected(&stream(number, &steps)).is_some() {
                if random.below(20) == 0 {
                    break;
                }
                steps.pop();
            }
        }
        let bytes = stream(number, &steps);
        let (ended, said) = (receive(&bytes, file_system.path()), rejected(&bytes));
        assert_eq!(ended.code == Some(0), said.is_none(), "{steps:#?}\n{said:?}\n{}", ended.stderr);
        failed += u64::from(said.is_some());
    }
    assert!((STREAMS / 4..STREAMS).contains(&failed), "{failed} of {STREAMS} failed");
}
