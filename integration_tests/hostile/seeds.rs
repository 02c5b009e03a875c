//! Samples of each format, made by the program's own encoders. The same ones each time.

use std::collections::HashMap;

use btrfs_to_s3::chunker::ChunkerParameters;
use btrfs_to_s3::codec::encode_frame;
use btrfs_to_s3::id::{
    ChunkId, Digest, ManifestId, NoteId, PackId, PlanId, RepositoryId, Salt, SegmentId, SessionId, SnapshotVersion,
    Uuid,
};
use btrfs_to_s3::index::Segment;
use btrfs_to_s3::index::table::{TablePlace, TableWriter, table_body};
use btrfs_to_s3::object::{ObjectKind, encode_cbor, encode_record};
use btrfs_to_s3::pack::format::{ChunkEntry, FrameKind, PackClass};
use btrfs_to_s3::pack::writer::{FinishedPack, PackWriter};
use btrfs_to_s3::records::config::RepositoryConfig;
use btrfs_to_s3::records::forgotten::ForgottenRecord;
use btrfs_to_s3::records::manifest::{
    BackupKind, Manifest, Parent, Root, RootKind, STREAM_DIGEST_XXH3, StreamRecord, Subject, Totals,
};
use btrfs_to_s3::records::note::{
    self, NoteKind, NoteRecord, PackSpan, PackVerdicts, RehearsalMethod, TagChange, TrialOutcome, TrialResult,
};
use btrfs_to_s3::records::prune::{Doomed, PruneEvent, PruneRecord};
use btrfs_to_s3::records::session::{Outcome, SessionEvent, SessionRecord, SessionStart};
use btrfs_to_s3::send_stream::{AttributeCode, COMMANDS, CommandCode, NEWEST_VERSION, StreamWriter, Value, ValueKind};
use btrfs_to_s3::tree::Tree;
use btrfs_to_s3::tree::node::{Entry, Hint};
use btrfs_to_s3::tree::walk::{Step, TreeWalk};
use btrfs_to_s3::tree::writer::{NodeChunk, TreeWriter};
use jiff::Timestamp;
use serde::Serialize;
use serde_bytes::{ByteArray, ByteBuf};

const REPOSITORY: RepositoryId = RepositoryId::from_bytes([7; 16]);
const SESSION: SessionId = SessionId::from_bytes([9; 16]);
const SALT: Salt = Salt::from_bytes([3; 16]);
/// Where the salt is in an object.
const SALT_OFFSET: usize = 32;

/// Samples for the target of that name.
pub(crate) fn seeds_of(target: &str) -> Vec<Vec<u8>> {
    match target {
        "config_file" => config_files(),
        "frame" => vec![encode_frame(b"", 3), encode_frame(b"noise", 3), encode_frame(text().as_bytes(), 3)],
        "pack" => packs(),
        "recipe" => recipes(),
        "record" => records(),
        "segment" => segments(),
        "send_stream" => send_streams(),
        "table" => tables(),
        other => panic!("there are no seeds for {other}"),
    }
}

fn text() -> String {
    "all work and no play ".repeat(40)
}

fn config_files() -> Vec<Vec<u8>> {
    let example = include_str!("../../docs/config.example.toml");
    // Every key that is commented out, in force.
    let in_force: Vec<&str> = example
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(key) if !key.starts_with(' ') => key,
            _ => line,
        })
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    vec![example.into(), in_force.join("\n").into(), b"repository = 'file:///r'".to_vec()]
}

fn entry(plaintext: &[u8]) -> ChunkEntry {
    ChunkEntry { id: ChunkId::of(plaintext), length_bytes: u32::try_from(plaintext.len()).unwrap() }
}

fn data_pack() -> FinishedPack {
    let mut pack = PackWriter::new(REPOSITORY, SESSION, PackClass::Data, SALT, 0);
    pack.push_frame(FrameKind::Content, &encode_frame(b"onetwo", 3), &[entry(b"one"), entry(b"two")]);
    pack.push_frame(FrameKind::Content, &encode_frame(text().as_bytes(), 3), &[entry(text().as_bytes())]);
    pack.finish()
}

fn meta_pack() -> FinishedPack {
    let record = encode_cbor(&data_pack().record);
    let mut pack = PackWriter::new(REPOSITORY, SESSION, PackClass::Meta, SALT, 0);
    pack.push_frame(FrameKind::Footers, &encode_frame(&record, 3), &[entry(&record)]);
    pack.finish()
}

fn packs() -> Vec<Vec<u8>> {
    let (data, meta) = (data_pack(), meta_pack());
    let empty = PackWriter::new(REPOSITORY, SESSION, PackClass::Data, SALT, 0).finish();
    vec![
        data.bytes.to_vec(),
        meta.bytes.to_vec(),
        empty.bytes.to_vec(),
        encode_cbor(&data.record.footer),
        encode_cbor(&meta.record),
    ]
}

fn segments() -> Vec<Vec<u8>> {
    let segment = Segment { session: SESSION, packs: vec![data_pack().record, meta_pack().record] };
    let empty = Segment { session: SESSION, packs: Vec::new() };
    vec![segment.encode(REPOSITORY, SALT).1, empty.encode(REPOSITORY, SALT).1, encode_cbor(&segment)]
}

fn tables() -> Vec<Vec<u8>> {
    let segments = vec![SegmentId::from_bytes([1; 32]), SegmentId::from_bytes([2; 32])];
    let packs = vec![(PackClass::Data, PackId::from_bytes([3; 32])), (PackClass::Meta, PackId::from_bytes([4; 32]))];
    let mut writer = TableWriter::new(REPOSITORY, SESSION, segments, packs);
    let mut chunks: Vec<ChunkId> = (0..5000_u32).map(|number| ChunkId::of(&number.to_le_bytes())).collect();
    chunks.sort_unstable();
    for (number, chunk) in (0..).zip(&chunks) {
        writer.push(chunk, TablePlace { pack: number % 2, frame: number });
    }
    writer.take_blocks(SALT);
    let (id, object) = writer.finish(SALT);
    let cbor = table_body(REPOSITORY, id, &object).unwrap();
    let (id, empty) = TableWriter::new(REPOSITORY, SESSION, Vec::new(), Vec::new()).finish(SALT);
    let empty_cbor = table_body(REPOSITORY, id, &empty).unwrap();
    vec![object, cbor, empty, empty_cbor]
}

/// Puts a tree's nodes behind its height and length, in the order in which a walk asks for them.
fn recipe(entries: Vec<Entry>) -> Vec<u8> {
    let mut writer = TreeWriter::new();
    let mut nodes: Vec<NodeChunk> = entries.into_iter().flat_map(|entry| writer.push(entry)).collect();
    let (tree, last) = writer.finish();
    nodes.extend(last);
    let nodes: HashMap<ChunkId, Vec<u8>> = nodes.into_iter().map(|node| (node.id, node.plaintext)).collect();
    let mut bytes = vec![tree.height];
    bytes.extend_from_slice(&tree.bytes.to_le_bytes());
    let mut walk = TreeWalk::new(&tree).unwrap();
    loop {
        match walk.step().unwrap() {
            Step::NeedNode(id) => {
                bytes.extend_from_slice(&u16::try_from(nodes[&id].len()).unwrap().to_le_bytes());
                bytes.extend_from_slice(&nodes[&id]);
                walk.provide(&nodes[&id]).unwrap();
            }
            Step::Entry(_) => {}
            Step::End => return bytes,
        }
    }
}

fn recipes() -> Vec<Vec<u8>> {
    let chunk = |number: u8| Entry::whole(ChunkId::of(&[number]), 1000 + u64::from(number));
    let hint = |number: u8| Some(Hint { pack: PackId::from_bytes([number / 4; 32]), frame: u32::from(number) });
    // Its id closes a node, once that has entries enough.
    let closing = Entry::whole(ChunkId::from_bytes([0; 32]), 5);
    let (mut skipped, mut used) = (chunk(1), chunk(2));
    (skipped.skip, skipped.length, used.data_used) = (10, 20, 4000);
    vec![
        recipe(Vec::new()),
        recipe(vec![chunk(1), chunk(2), chunk(2), chunk(3)]),
        recipe(vec![skipped, used]),
        recipe((0..9).map(|number| Entry { hint: hint(number), ..chunk(number) }).collect()),
        recipe((0..70).map(|number| if number == 40 { closing.clone() } else { chunk(number) }).collect()),
    ]
}

/// A whole record, and its body alone.
fn record<T: Serialize>(kind: ObjectKind, value: &T) -> [Vec<u8>; 2] {
    let mut object = encode_record(kind, REPOSITORY, value);
    object[SALT_OFFSET..SALT_OFFSET + Salt::LENGTH].copy_from_slice(SALT.as_bytes());
    let content = object.len() - Digest::LENGTH;
    let hash = Digest::of(&object[..content]);
    object[content..].copy_from_slice(hash.as_bytes());
    [object, encode_cbor(value)]
}

fn records() -> Vec<Vec<u8>> {
    let at = Timestamp::from_second(1_700_000_000).unwrap();
    let config = RepositoryConfig::new(at, ChunkerParameters::default());
    let session = |event| SessionRecord {
        session: SESSION,
        event,
        number: 0,
        at,
        start: None,
        outcome: None,
        manifest_digest: None,
    };
    let text = |text: &str| text.to_owned();
    let start = SessionStart {
        host: text("host"),
        machine: text("machine"),
        subvolume: text("home"),
        purpose: text("backup"),
        tool: text("tool"),
    };
    let start = SessionRecord { start: Some(start), ..session(SessionEvent::Start) };
    let digest = Some(Digest::of(b"manifest"));
    let end = SessionRecord { outcome: Some(Outcome::Manifest), manifest_digest: digest, ..session(SessionEvent::End) };
    let records = [
        record(ObjectKind::Config, &config),
        record(ObjectKind::Session, &start),
        record(ObjectKind::Session, &end),
        record(ObjectKind::Manifest, &full_manifest(at)),
        record(ObjectKind::Manifest, &incremental_manifest(at)),
        record(ObjectKind::Plan, &plan(at)),
        record(ObjectKind::Plan, &PruneRecord { event: PruneEvent::Sessions, objects: Doomed::default(), ..plan(at) }),
        record(ObjectKind::Forgotten, &forgotten(at)),
    ];
    let notes = notes(at);
    records.into_iter().chain(notes.iter().map(|note| record(ObjectKind::Note, note))).flatten().collect()
}

fn plan(at: Timestamp) -> PruneRecord {
    PruneRecord {
        plan: PlanId::from_bytes([10; 16]),
        event: PruneEvent::Plan,
        at,
        objects: Doomed {
            data_packs: vec![PackId::from_bytes([11; 32]), PackId::from_bytes([12; 32])],
            meta_packs: vec![PackId::from_bytes([13; 32])],
            segments: vec![SegmentId::from_bytes([14; 32])],
            manifests: vec![ManifestId::from_bytes([15; 16])],
        },
        sessions: vec![SESSION],
        tool: "tool".to_owned(),
    }
}

fn forgotten(at: Timestamp) -> ForgottenRecord {
    let [host, reason, tool] = ["host", "asked for", "tool"].map(str::to_owned);
    ForgottenRecord { manifest: ManifestId::from_bytes([16; 16]), at, host, reason, tool }
}

/// Tags of a backup, a rehearsal of one, and a check of packs.
fn notes(at: Timestamp) -> [NoteRecord; 3] {
    let pack = |byte| PackId::from_bytes([byte; 32]);
    let note = |kind| NoteRecord {
        note: NoteId::from_bytes([17; 16]),
        manifest: None,
        at,
        host: "host".to_owned(),
        kind,
        tags: None,
        result: None,
        subject: None,
        verdicts: None,
        tool: "tool".to_owned(),
    };
    let result = |packs, method| TrialResult {
        outcome: TrialOutcome::Damaged,
        reason: "a chunk is lost".to_owned(),
        bytes: 1000,
        seconds: 2,
        packs,
        method,
    };
    let manifest = Some(ManifestId::from_bytes([18; 16]));
    let tags = Some(TagChange { add: vec!["kept".to_owned()], remove: vec!["new".to_owned()] });
    let subject = Some(note::Subject { host: "host".to_owned(), subvolume: "home".to_owned() });
    let span = PackSpan { first: pack(1), last: pack(2), count: 2 };
    let verdicts = Some(PackVerdicts { bad: vec![pack(1)], right: vec![pack(3), pack(4)] });
    [
        NoteRecord { manifest, tags, ..note(NoteKind::Tags) },
        NoteRecord {
            manifest,
            result: Some(result(None, Some(RehearsalMethod::Sample))),
            subject,
            ..note(NoteKind::Rehearsal)
        },
        NoteRecord { result: Some(result(Some(span), None)), verdicts, ..note(NoteKind::Check) },
    ]
}

fn full_manifest(at: Timestamp) -> Manifest {
    let tree = |height, bytes| Tree { bytes, height, root: (height > 0).then(|| ChunkId::of(&[height])) };
    Manifest {
        session: SESSION,
        kind: BackupKind::Full,
        required_to_read: Vec::new(),
        required_to_prune: Vec::new(),
        host: "host".to_owned(),
        subvolume: "home".to_owned(),
        started_at: at,
        created_at: at,
        snapshot: Some(Subject {
            uuid: Uuid::from_bytes([1; 16]),
            ctransid: 1000,
            path: ByteBuf::from(b"home".to_vec()),
        }),
        parent: None,
        requires: Vec::new(),
        stream: StreamRecord {
            version: Some(2),
            bytes: 100_000,
            digest_algorithm: STREAM_DIGEST_XXH3.to_owned(),
            digest: ByteArray::new([4; 16]),
            compressed_data: true,
        },
        roots: vec![
            Root { kind: RootKind::Commands, tree: tree(1, 10_000) },
            Root { kind: RootKind::Data, tree: tree(2, 90_000) },
            Root { kind: RootKind::Packs, tree: tree(0, 0) },
        ],
        meta_packs: vec![PackId::from_bytes([5; 32])],
        totals: Totals { chunks: 9, new_chunks: 8, new_bytes: 7, packs: 6, stored_bytes: 5 },
        copied_from: None,
        copied_from_repository: None,
        tool: "tool".to_owned(),
    }
}

/// What a later program writes is in it as well.
fn incremental_manifest(at: Timestamp) -> Manifest {
    let mut manifest = full_manifest(at);
    manifest.kind = BackupKind::Incremental;
    manifest.required_to_read.push("magic".to_owned());
    manifest.parent = Some(Parent {
        manifest: ManifestId::from_bytes([6; 16]),
        digest: Digest::of(b"parent"),
        uuid: Uuid::from_bytes([2; 16]),
        ctransid: 999,
    });
    manifest.requires.push(SnapshotVersion { uuid: Uuid::from_bytes([3; 16]), ctransid: 998 });
    manifest.roots[2].kind = RootKind::Other("parity".to_owned());
    manifest.copied_from = Some(ManifestId::from_bytes([8; 16]));
    manifest
}

fn send_streams() -> Vec<Vec<u8>> {
    let mut streams = vec![
        include_bytes!("../fixtures/streams/v1_clone_source.stream").to_vec(),
        include_bytes!("../fixtures/streams/v1_no_data.stream").to_vec(),
        include_bytes!("../fixtures/streams/v2_unchanged.stream").to_vec(),
        b"anything else is taken as it is".to_vec(),
    ];
    streams.extend((1..=NEWEST_VERSION).map(every_command));
    streams
}

/// Every command of a version with all its attributes, several writes, and a command that is not known.
fn every_command(version: u32) -> Vec<u8> {
    let mut writer = StreamWriter::new(Vec::new(), version).unwrap();
    for row in COMMANDS.iter().filter(|row| row.code != CommandCode::END && row.since_version <= version) {
        let attributes: Vec<_> = row.attributes.iter().map(|code| (*code, value_of(*code))).collect();
        writer.command(row.code, &attributes).unwrap();
    }
    let data = text();
    for path in ["a", "a", "b"] {
        let path = (AttributeCode::PATH, Value::Bytes(path.as_bytes()));
        let data = (AttributeCode::DATA, Value::Bytes(data.as_bytes()));
        writer.command(CommandCode::WRITE, &[path, data]).unwrap();
    }
    writer.raw_command(CommandCode(999), b"not attributes").unwrap();
    writer.finish().unwrap()
}

fn value_of(code: AttributeCode) -> Value<'static> {
    match code.row().map(|row| row.value) {
        Some(ValueKind::U8) => Value::U8(1),
        Some(ValueKind::U32) => Value::U32(2),
        Some(ValueKind::U64) => Value::U64(3),
        Some(ValueKind::Uuid) => Value::Uuid(Uuid::from_bytes([4; 16])),
        Some(ValueKind::Time) => Value::Time { seconds: 5, nanoseconds: 6 },
        Some(ValueKind::Text | ValueKind::Bytes) | None => Value::Bytes(b"value"),
    }
}
