//! The index against the plainest thing that does the same.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const CHUNKS: u8 = 48;

/// Some share their leading bytes, and with them their bucket.
fn model_chunk(number: u8) -> ChunkId {
    let mut bytes = [0; 32];
    bytes[0] = (number % 12) * 21;
    bytes[31] = number;
    ChunkId::from_bytes(bytes)
}

/// The segment `number`, always the same. Each shares its packs with a neighbour, as merged segments do.
fn model_segment(number: u8, usable: bool) -> NewSegment {
    let pack_count = number % 3 + 1;
    let class = |n: u8| if n.is_multiple_of(2) { PackClass::Data } else { PackClass::Meta };
    let packs = (0..pack_count).map(|n| pack(number / 2 * 4 + n, class(n))).collect();
    let random = |n: u32, salt: u32| (n + u32::from(number) * 77).wrapping_mul(0x9e37_79b1 ^ salt) >> 8;
    let entries = (0..u32::from(number) * 4)
        .map(|n| {
            let chunk = model_chunk(u8::try_from(random(n, 1) % u32::from(CHUNKS)).unwrap());
            entry(chunk, random(n, 2) % u32::from(pack_count), random(n, 3) % 4)
        })
        .collect();
    NewSegment { segment: segment(number), packs, entries, usable }
}

#[derive(Debug, Clone)]
enum Operation {
    Add { number: u8, usable: bool },
    Drop { modulus: u8 },
    SetUsable { modulus: u8 },
    Maintain,
    Reopen { modulus: u8 },
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        12 => (0u8..30, any::<bool>()).prop_map(|(number, usable)| Operation::Add { number, usable }),
        1 => (2u8..6).prop_map(|modulus| Operation::Drop { modulus }),
        2 => (1u8..5).prop_map(|modulus| Operation::SetUsable { modulus }),
        3 => Just(Operation::Maintain),
        1 => (1u8..5).prop_map(|modulus| Operation::Reopen { modulus }),
    ]
}

fn is_divisible(id: &[u8; 32], modulus: u8) -> bool {
    id[0].is_multiple_of(modulus)
}

/// For each segment covered, its chunks' places, and which of its packs are usable.
#[derive(Debug, Default)]
struct Model {
    segments: BTreeMap<SegmentId, (NewSegment, Vec<bool>)>,
}

impl Model {
    fn set_usable(&mut self, modulus: u8) {
        for (segment, usable) in self.segments.values_mut() {
            *usable = segment.packs.iter().map(|pack| is_divisible(pack.id.as_bytes(), modulus)).collect();
        }
    }

    fn locations(&self, chunk: &ChunkId) -> BTreeSet<Location> {
        let mut locations = BTreeSet::new();
        for (segment, usable) in self.segments.values() {
            for entry in segment.entries.iter().filter(|entry| entry.chunk == *chunk) {
                let Place { pack, frame, length_bytes } = entry.place;
                let IndexedPack { id, class, stored_bytes, .. } = segment.packs[pack as usize];
                if usable[pack as usize] {
                    locations.insert(Location {
                        pack: id,
                        class,
                        pack_stored_bytes: stored_bytes,
                        frame,
                        length_bytes,
                    });
                }
            }
        }
        locations
    }

    fn assert_agrees(&self, index: &LocalIndex) {
        assert_eq!(index.segments(), self.segments.keys().copied().collect());
        for number in 0..=CHUNKS {
            let chunk = model_chunk(number);
            let expected = self.locations(&chunk);
            let found = index.lookup_all(&chunk).unwrap();
            assert_eq!(found, expected.iter().cloned().collect::<Vec<_>>());
            for class in [PackClass::Data, PackClass::Meta] {
                let of_class: Vec<_> = expected.iter().filter(|location| location.class == class).collect();
                match index.lookup(&chunk, class).unwrap() {
                    Some(location) => assert!(of_class.contains(&&location), "{location:?}"),
                    None => assert!(of_class.is_empty(), "{of_class:?}"),
                }
            }
        }
    }
}

fn apply(operation: &Operation, directory: &TempDir, index: &mut LocalIndex, model: &mut Model) {
    match *operation {
        Operation::Add { number, usable } => {
            let new = model_segment(number, usable);
            index.add_segment(new.clone()).unwrap();
            model.segments.insert(new.segment.id, (new.clone(), vec![usable; new.packs.len()]));
        }
        Operation::Drop { modulus } => {
            index.drop_segments(|segment| is_divisible(segment.id.as_bytes(), modulus)).unwrap();
            model.segments.retain(|id, _| !is_divisible(id.as_bytes(), modulus));
        }
        Operation::SetUsable { modulus } => {
            index.set_usable(|_, pack| is_divisible(pack.id.as_bytes(), modulus)).unwrap();
            model.set_usable(modulus);
        }
        Operation::Maintain => {
            index.maintain().unwrap();
            assert!(index.size().runs <= plan::RUNS_LIMIT);
        }
        Operation::Reopen { modulus } => {
            *index = open(directory);
            // What a caller does that has just listed the repository.
            index.drop_segments(|segment| !model.segments.contains_key(&segment.id)).unwrap();
            index.set_usable(|_, pack| is_divisible(pack.id.as_bytes(), modulus)).unwrap();
            model.set_usable(modulus);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_index_agrees_with_a_plain_map(operations in prop::collection::vec(operation(), 1..60)) {
        let directory = TempDir::new().unwrap();
        let mut index = open(&directory);
        let mut model = Model::default();
        for operation in &operations {
            apply(operation, &directory, &mut index, &mut model);
            model.assert_agrees(&index);
        }
    }
}
