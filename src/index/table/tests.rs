//! Tables that read back, and hostile ones.

use super::*;
use crate::codec::encode_frame;

const REPOSITORY: RepositoryId = RepositoryId::from_bytes([7; 16]);
const SALT: Salt = Salt::from_bytes([3; 16]);

/// Chunks in ascending order.
fn chunks(count: u32) -> Vec<ChunkId> {
    let mut chunks: Vec<ChunkId> = (0..count).map(|number| ChunkId::of(&number.to_le_bytes())).collect();
    chunks.sort_unstable();
    chunks
}

fn packs() -> Vec<(PackClass, PackId)> {
    (0..5).map(|number| (PackClass::Data, PackId::from_bytes([number; 32]))).collect()
}

type BlocksObject = (BlocksId, Vec<u8>);

/// A table of chunks, the object with its blocks, and its own. Each chunk is in the pack of its number modulo five.
fn written(chunks: &[ChunkId]) -> (Vec<BlocksObject>, (TableId, Vec<u8>)) {
    let segments = vec![SegmentId::from_bytes([1; 32]), SegmentId::from_bytes([2; 32])];
    let mut writer = TableWriter::new(REPOSITORY, SessionId::from_bytes([9; 16]), segments, packs());
    let mut objects = Vec::new();
    for (number, chunk) in (0_u32..).zip(chunks) {
        if writer.push(chunk, TablePlace { pack: number % 5, frame: number }) {
            objects.extend(writer.take_blocks(SALT));
        }
    }
    objects.extend(writer.take_blocks(SALT));
    (objects, writer.finish(SALT))
}

fn places(table: &Table, objects: &[(BlocksId, Vec<u8>)], chunk: &ChunkId) -> Vec<TablePlace> {
    let mut places = Vec::new();
    for block in table.blocks_for(chunk) {
        let bytes = &objects.iter().find(|(id, _)| *id == block.object).unwrap().1;
        let range = usize::try_from(block.range.start).unwrap()..usize::try_from(block.range.end).unwrap();
        places.extend(block.decode(&bytes[range]).unwrap().places(chunk));
    }
    places
}

#[test]
fn every_chunk_is_found_in_one_block_and_no_other_is() {
    let chunks = chunks(3 * 2048 + 5);
    let (objects, (id, bytes)) = written(&chunks);
    let table = Table::decode(REPOSITORY, id, &bytes).unwrap();
    assert_eq!((table.blocks.len(), table.objects().len(), table.packs.len()), (4, 1, 5));
    for (number, chunk) in (0_u32..).zip(&chunks) {
        assert_eq!(table.blocks_for(chunk).len(), if number % 2048 == 0 && number > 0 { 2 } else { 1 });
        assert_eq!(places(&table, &objects, chunk), [TablePlace { pack: number % 5, frame: number }]);
    }
    for absent in [[0; 32], [0xff; 32], *ChunkId::of(b"absent").as_bytes()] {
        assert_eq!(places(&table, &objects, &ChunkId::from_bytes(absent)), []);
    }
    for (id, bytes) in &objects {
        check_blocks(REPOSITORY, *id, bytes).unwrap();
    }
}

#[test]
fn all_places_of_a_chunk_are_found_however_many_blocks_they_fill() {
    let mut many = chunks(3);
    many.splice(1..1, std::iter::repeat_n(many[1], 5000));
    let (objects, (id, bytes)) = written(&many);
    let table = Table::decode(REPOSITORY, id, &bytes).unwrap();
    assert_eq!(places(&table, &objects, &many[1]).len(), 5001);
    assert_eq!(places(&table, &objects, &many[0]).len(), 1);
    assert_eq!(places(&table, &objects, &many[5002]).len(), 1);
}

#[test]
fn an_empty_table_finds_nothing() {
    let (objects, (id, bytes)) = written(&[]);
    let table = Table::decode(REPOSITORY, id, &bytes).unwrap();
    assert_eq!((objects.len(), table.blocks_for(&ChunkId::of(b"x")).len()), (0, 0));
}

#[test]
fn a_flipped_bit_a_truncation_and_another_repository_are_found() {
    let (objects, (id, good)) = written(&chunks(50));
    let other = RepositoryId::from_bytes([8; 16]);
    assert_eq!(Table::decode(other, id, &good), Err(FormatError::OtherRepository(REPOSITORY)));
    for position in 0..good.len() * 8 {
        let mut bytes = good.clone();
        bytes[position / 8] ^= 1 << (position % 8);
        assert_eq!(Table::decode(REPOSITORY, id, &bytes), Err(FormatError::HashMismatch));
        // Who could choose the name as well does no harm either.
        let named = TableId::from_bytes(*blake3::hash(&bytes).as_bytes());
        drop(Table::decode(REPOSITORY, named, &bytes));
    }
    for length in 0..good.len() {
        let named = TableId::from_bytes(*blake3::hash(&good[..length]).as_bytes());
        assert!(Table::decode(REPOSITORY, named, &good[..length]).is_err());
    }
    let table = Table::decode(REPOSITORY, id, &good).unwrap();
    let block = &table.blocks[0];
    let whole = &objects[0].1[48..];
    for position in 0..whole.len() {
        let mut bytes = whole.to_vec();
        bytes[position] ^= 1;
        assert_eq!(block.decode(&bytes), Err(FormatError::HashMismatch));
        assert!(block.decode(&whole[..position]).is_err());
        bytes.splice(0..0, objects[0].1[..48].iter().copied());
        assert!(check_blocks(REPOSITORY, objects[0].0, &bytes).is_err());
    }
}

/// What no writer of ours makes: each is refused when it is decoded.
#[test]
fn tables_and_blocks_that_contradict_themselves_are_refused() {
    let (_, (id, bytes)) = written(&chunks(5000));
    let good = Table::decode(REPOSITORY, id, &bytes).unwrap();
    let decoded = |change: &dyn Fn(&mut StoredTable)| {
        let mut stored = StoredTable::from(&good);
        change(&mut stored);
        Table::try_from(stored)
    };
    assert_eq!(decoded(&|_| ()).as_ref(), Ok(&good));
    let changes: [&dyn Fn(&mut StoredTable); 9] = [
        &|stored| stored.block_firsts[..16].fill(0xff),
        &|stored| stored.block_firsts.truncate(47),
        &|stored| stored.block_lengths.truncate(1),
        &|stored| stored.block_digests.truncate(32),
        &|stored| stored.object_blocks[0] -= 1,
        &|stored| stored.object_blocks.push(0),
        &|stored| stored.block_lengths[0] = u32::MAX,
        &|stored| stored.pack_classes[0] = 2,
        &|stored| stored.pack_ids.truncate(32),
    ];
    for (number, change) in changes.iter().enumerate() {
        assert!(decoded(*change).is_err(), "{number}");
    }
    let unsorted: Vec<u8> =
        chunks(2).iter().rev().flat_map(|chunk| [&chunk.as_bytes()[..16], &[0; 8]].concat()).collect();
    let first = *unsorted.first_chunk().unwrap();
    for (entries, first) in
        [(unsorted.clone(), first), (unsorted[..23].to_vec(), first), (unsorted[24..].to_vec(), first)]
    {
        let frame = encode_frame(&entries, LEVEL);
        let block = Block { digest: Digest::of(&frame), first, ..good.blocks[0].clone() };
        assert!(block.decode(&frame).is_err());
    }
}
