//! Which segments get a look-up table, and which tables it replaces. Nothing here asks or changes anything.

use std::collections::{BTreeMap, HashSet};

use crate::id::{SegmentId, TableId};

/// A table is merged with those that are at most so many times as long as what is merged already: so there are few, and each
/// entry is written again a few times only.
const OUTWEIGHS: u64 = 2;
/// A table has no more than so many bytes of segments, so that it is below its limits: some 400 million chunks.
const TABLE_BYTES_MAX: u64 = 16 << 30;

/// A table that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TableUse {
    pub(super) id: TableId,
    /// The segments that it has.
    pub(super) segments: Vec<SegmentId>,
}

/// What is to be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Choice {
    /// Segments that get a new table together; none: no table is made.
    pub(super) segments: Vec<SegmentId>,
    /// Tables that are of no use then.
    pub(super) replaced: Vec<TableId>,
}

/// Chooses by the lengths of the segments that are there. So many bytes of them may be in no table.
pub(super) fn choose_tables(segments: &BTreeMap<SegmentId, u64>, tables: &[TableUse], rest_bytes_max: u64) -> Choice {
    let mut there: Vec<Weighed<'_>> = tables.iter().map(|table| Weighed::new(table, segments)).collect();
    there.sort_by_key(|table| (table.bytes, table.id));
    let mut in_some: HashSet<&SegmentId> = HashSet::new();
    let mut choice = Choice::default();
    // The long ones first; two prunes at once may have made the same one.
    for table in there.iter().rev() {
        if table.segments.iter().all(|id| in_some.contains(id)) {
            choice.replaced.push(table.id);
        }
        in_some.extend(&table.segments);
    }
    there.retain(|table| !choice.replaced.contains(&table.id));
    let rest: Vec<SegmentId> = segments.keys().filter(|id| !in_some.contains(id)).copied().collect();
    let mut bytes: u64 = rest.iter().filter_map(|id| segments.get(id)).sum();
    if bytes <= rest_bytes_max {
        return choice;
    }
    let mut chosen = HashSet::new();
    bytes = 0;
    for (id, length) in rest.into_iter().filter_map(|id| Some((id, segments.get(&id)?))) {
        if bytes + length <= TABLE_BYTES_MAX {
            bytes += length;
            chosen.insert(id);
        }
    }
    for table in &there {
        // What most of a table is about may be gone, and what it says with it.
        let is_hollow = table.segments.len() * 2 < table.all;
        let is_light = table.bytes <= bytes.saturating_mul(OUTWEIGHS);
        if (is_light || is_hollow) && bytes + table.bytes <= TABLE_BYTES_MAX {
            bytes += table.bytes;
            chosen.extend(table.segments.iter().copied());
            choice.replaced.push(table.id);
        }
    }
    choice.segments = segments.keys().filter(|id| chosen.contains(id)).copied().collect();
    choice
}

/// A table, and the segments of it that are there.
struct Weighed<'a> {
    id: TableId,
    segments: Vec<&'a SegmentId>,
    all: usize,
    bytes: u64,
}

impl<'a> Weighed<'a> {
    fn new(table: &'a TableUse, there: &BTreeMap<SegmentId, u64>) -> Self {
        let segments: Vec<&SegmentId> = table.segments.iter().filter(|id| there.contains_key(id)).collect();
        let bytes = segments.iter().filter_map(|id| there.get(id)).sum();
        Self { id: table.id, segments, all: table.segments.len(), bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(segments: &[(u8, u64)], tables: &[(u8, &[u8])]) -> (Vec<u8>, Vec<u8>) {
        let segment = |number: u8| SegmentId::from_bytes([number; 32]);
        let segments = segments.iter().map(|(number, bytes)| (segment(*number), *bytes)).collect();
        let table = |(number, segments): &(u8, &[u8])| TableUse {
            id: TableId::from_bytes([*number; 32]),
            segments: segments.iter().copied().map(segment).collect(),
        };
        let tables: Vec<TableUse> = tables.iter().map(table).collect();
        let Choice { segments, replaced } = choose_tables(&segments, &tables, 10);
        let numbers = |bytes: Vec<u8>| bytes;
        (
            numbers(segments.iter().map(|id| id.as_bytes()[0]).collect()),
            numbers(replaced.iter().map(|id| id.as_bytes()[0]).collect()),
        )
    }

    /// Segments with their lengths, tables with their segments, and what is chosen.
    type Case = (&'static [(u8, u64)], &'static [(u8, &'static [u8])], &'static [u8], &'static [u8]);

    #[test]
    fn a_table_is_made_when_enough_is_in_none_and_takes_in_those_that_are_not_much_longer() {
        let cases: [Case; 9] = [
            (&[], &[], &[], &[]),
            (&[(1, 4), (2, 6)], &[], &[], &[]),
            (&[(1, 5), (2, 6)], &[], &[1, 2], &[]),
            // A long one stays.
            (&[(1, 100), (2, 11)], &[(1, &[1])], &[2], &[]),
            (&[(1, 22), (2, 11)], &[(1, &[1])], &[1, 2], &[1]),
            // With what a short one brings, the next is not long any more.
            (&[(1, 20), (2, 62), (3, 11)], &[(1, &[1]), (2, &[2])], &[1, 2, 3], &[1, 2]),
            // Nothing of it is there, whether another is made or not.
            (&[(1, 5)], &[(1, &[7])], &[], &[1]),
            // Another one has the same.
            (&[(1, 50)], &[(1, &[1]), (2, &[1])], &[], &[1]),
            // Most of it is gone.
            (&[(1, 100), (2, 11)], &[(1, &[1, 7, 8])], &[1, 2], &[1]),
        ];
        for (segments, tables, expected, replaced) in cases {
            let expected = (expected.to_vec(), replaced.to_vec());
            assert_eq!(chosen(segments, tables), expected, "{segments:?} {tables:?}");
        }
    }
}
