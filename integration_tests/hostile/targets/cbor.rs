//! Records, index segments and look-up tables.

use btrfs_to_s3::chunker::{CommandChunker, DataChunker};
use btrfs_to_s3::codec::encode_frame;
use btrfs_to_s3::id::{ChunkId, RepositoryId, Salt, SegmentId, TableId};
use btrfs_to_s3::index::Segment;
use btrfs_to_s3::index::table::{TABLE_LIMIT_BYTES, Table};
use btrfs_to_s3::object::notation::cbor_as_text;
use btrfs_to_s3::object::{
    HEADER_BYTES, ObjectKind, decode_cbor, decode_record, encode_cbor, encode_record, read_header, record_body,
    write_header,
};
use btrfs_to_s3::pack::format::PackClass;
use btrfs_to_s3::records::config::{RepositoryConfig, check_features};
use btrfs_to_s3::records::forgotten::ForgottenRecord;
use btrfs_to_s3::records::manifest::Manifest;
use btrfs_to_s3::records::note::NoteRecord;
use btrfs_to_s3::records::prune::{Doomed, PruneRecord};
use btrfs_to_s3::records::session::SessionRecord;
use btrfs_to_s3::tree::walk::TreeWalk;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::pack::check_record;

const REPOSITORY: RepositoryId = RepositoryId::from_bytes([7; 16]);
const HASH_BYTES: usize = 32;

/// A whole record with the right hash, else the CBOR of one, of any kind.
pub(crate) fn record(bytes: &[u8]) -> bool {
    if !bytes.starts_with(b"B2S3") {
        return body(bytes);
    }
    let mut mended = bytes.to_vec();
    if let Some((content, hash)) = mended.split_last_chunk_mut::<HASH_BYTES>() {
        *hash = *blake3::hash(content).as_bytes();
    }
    whole(bytes) | whole(&mended)
}

fn whole(bytes: &[u8]) -> bool {
    let Ok(cbor) = record_body(bytes) else { return false };
    let kinds = [
        decode_record::<RepositoryConfig>(ObjectKind::Config, bytes).map(drop),
        decode_record::<SessionRecord>(ObjectKind::Session, bytes).map(drop),
        decode_record::<Manifest>(ObjectKind::Manifest, bytes).map(drop),
        decode_record::<PruneRecord>(ObjectKind::Plan, bytes).map(drop),
        decode_record::<ForgottenRecord>(ObjectKind::Forgotten, bytes).map(drop),
        decode_record::<NoteRecord>(ObjectKind::Note, bytes).map(drop),
    ];
    let makes_sense = body(cbor);
    let accepted = kinds.iter().filter(|decoded| decoded.is_ok()).count();
    assert!(accepted <= 1, "a record is of one kind");
    assert!(makes_sense || accepted == 0);
    accepted > 0
}

fn body(cbor: &[u8]) -> bool {
    check_notation(cbor);
    let manifest = stable::<Manifest>(ObjectKind::Manifest, cbor);
    let config = stable::<RepositoryConfig>(ObjectKind::Config, cbor);
    let plan = stable::<PruneRecord>(ObjectKind::Plan, cbor);
    let others = [
        stable::<SessionRecord>(ObjectKind::Session, cbor).is_some(),
        stable::<ForgottenRecord>(ObjectKind::Forgotten, cbor).is_some(),
        stable::<NoteRecord>(ObjectKind::Note, cbor).is_some(),
    ];
    manifest.as_ref().inspect(|manifest| use_manifest(manifest));
    config.as_ref().inspect(|config| use_config(config));
    plan.as_ref().inspect(|plan| use_doomed(&plan.objects));
    manifest.is_some() || config.is_some() || plan.is_some() || others.contains(&true)
}

/// Decodes a record's body; what it says has to survive being a record.
fn stable<T>(kind: ObjectKind, cbor: &[u8]) -> Option<T>
where
    T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let value = decode_cbor::<T>(cbor).ok()?;
    let (repository, again) = decode_record::<T>(kind, &encode_record(kind, REPOSITORY, &value)).unwrap();
    assert_eq!(repository, REPOSITORY);
    assert_eq!(again, value);
    Some(value)
}

fn use_manifest(manifest: &Manifest) {
    drop(check_features("read", &manifest.required_to_read));
    drop(check_features("prune", &manifest.required_to_prune));
    assert_eq!(manifest.version().is_some(), manifest.snapshot.is_some());
    for root in &manifest.roots {
        assert!(manifest.tree(&root.kind).is_some());
        drop(TreeWalk::new(&root.tree).map(|mut walk| walk.step()));
    }
}

fn use_config(config: &RepositoryConfig) {
    drop(config.check_readable());
    if config.check_writable().is_ok() {
        let parameters = config.writing_parameters().unwrap();
        let chunks = DataChunker::new(parameters).unwrap().push(vec![7; 100], 0, &[0, 3, 50]);
        assert!(chunks.iter().map(|chunk| chunk.bytes.len()).sum::<usize>() <= 100);
        drop(CommandChunker::new(parameters).unwrap());
    }
}

fn use_doomed(doomed: &Doomed) {
    let mut again =
        Doomed { segments: doomed.segments.clone(), manifests: doomed.manifests.clone(), ..Doomed::default() };
    doomed.packs().for_each(|(class, pack)| again.push_pack(class, pack));
    assert_eq!(&again, doomed);
    assert_eq!(doomed.packs().filter(|(class, _)| *class == PackClass::Data).count(), doomed.data_packs.len());
}

/// What `debug` shows must not act on the terminal it is shown on.
fn check_notation(cbor: &[u8]) {
    if let Ok(shown) = cbor_as_text(cbor) {
        assert!(!shown.contains(|c: char| c.is_control() && c != '\n'), "{shown:?}");
    }
}

/// A whole index segment, named by its hash; else the CBOR of one.
pub(crate) fn segment(bytes: &[u8]) -> bool {
    let segment = match read_header(ObjectKind::Segment, bytes) {
        Ok(repository) => {
            let id = SegmentId::from_bytes(*blake3::hash(bytes).as_bytes());
            Segment::decode(repository, id, bytes)
        }
        Err(_) => decode_cbor(bytes),
    };
    let Ok(segment) = segment else { return false };
    segment.packs.iter().for_each(check_record);
    assert_eq!(decode_cbor::<Segment>(&encode_cbor(&segment)).as_ref(), Ok(&segment));
    let (id, object) = segment.encode(REPOSITORY, Salt::from_bytes([3; 16]));
    assert!(object.len() > HEADER_BYTES);
    assert_eq!(Segment::decode(REPOSITORY, id, &object).as_ref(), Ok(&segment));
    true
}

/// A whole look-up table, named by its hash; else the CBOR of one. What is found by it lies in its objects.
pub(crate) fn table(bytes: &[u8]) -> bool {
    let object = if bytes.starts_with(b"B2S3") {
        bytes.to_vec()
    } else {
        let mut object = Vec::new();
        write_header(ObjectKind::Table, REPOSITORY, Salt::from_bytes([3; 16]), &mut object);
        object.extend(encode_frame(bytes, 3));
        object
    };
    let id = TableId::from_bytes(*blake3::hash(&object).as_bytes());
    let Ok(table) = Table::decode(REPOSITORY, id, &object) else { return false };
    let (mut objects, mut ends) = (Vec::new(), 0);
    for block in &table.blocks {
        if objects.last() != Some(&block.object) {
            objects.push(block.object);
            ends = HEADER_BYTES as u64;
        }
        assert!(
            block.range.start >= HEADER_BYTES as u64 && block.range.end <= TABLE_LIMIT_BYTES && ends <= block.range.end
        );
        ends = block.range.end;
    }
    assert_eq!(table.objects(), objects);
    for byte in [0, 1, 127] {
        assert!(table.blocks_for(&ChunkId::from_bytes([byte; 32])).iter().all(|block| table.blocks.contains(block)));
    }
    // No block begins after that one.
    assert_eq!(table.blocks_for(&ChunkId::from_bytes([255; 32])).is_empty(), table.blocks.is_empty());
    true
}
