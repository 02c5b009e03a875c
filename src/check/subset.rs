//! Which packs a check reads: all, a fixed part, or those that come next.

use std::str::FromStr;

use jiff::Timestamp;

use crate::id::PackId;
use crate::pack::format::PackClass;
use crate::records::note::{NoteKind, PackSpan};
use crate::repository::index::PackSizes;
use crate::repository::notes::Notes;
use crate::size::ByteSize;

/// Which packs are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subset {
    /// All.
    All,
    /// The part of this number (from 1) of so many, always the same packs.
    Part {
        /// Its number.
        number: u64,
        /// How many parts there are.
        of: u64,
    },
    /// So many millionths of all bytes, going on where the last check has stopped.
    Share(u64),
    /// So many bytes, going on where the last check has stopped.
    Bytes(u64),
}

/// A text that names no subset.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a subset is a part such as 1/30, a share such as 5%, or a size such as 10GiB")]
pub struct ParseSubsetError;

impl FromStr for Subset {
    type Err = ParseSubsetError;

    fn from_str(text: &str) -> Result<Self, ParseSubsetError> {
        let subset = if let Some((number, of)) = text.split_once('/') {
            let part = number.trim().parse().ok().zip(of.trim().parse().ok());
            part.map(|(number, of)| Self::Part { number, of })
        } else if let Some(percent) = text.strip_suffix('%') {
            parse_millionths(percent.trim()).map(Self::Share)
        } else {
            text.parse::<ByteSize>().ok().map(|size| Self::Bytes(size.bytes()))
        };
        let is_something = |subset: &Self| match subset {
            Self::All => true,
            Self::Part { number, of } => (1..=*of).contains(number),
            Self::Share(millionths) => (1..=1_000_000).contains(millionths),
            Self::Bytes(bytes) => *bytes > 0,
        };
        subset.filter(is_something).ok_or(ParseSubsetError)
    }
}

/// Reads a percentage with at most four decimals as millionths.
fn parse_millionths(text: &str) -> Option<u64> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let plain = |text: &str| text.chars().all(|c| c.is_ascii_digit());
    if whole.len() > 3 || decimals.len() > 4 || !plain(whole) || !plain(decimals) || whole.is_empty() {
        return None;
    }
    format!("{whole}{decimals:0<4}").parse().ok()
}

impl Subset {
    /// Chooses from the packs that are there.
    #[must_use]
    pub fn choose(&self, listed: &PackSizes, notes: &Notes) -> Vec<(PackClass, PackId)> {
        let mut packs: Vec<(PackId, PackClass, u64)> =
            listed.iter().map(|((class, pack), size)| (*pack, *class, *size)).collect();
        packs.sort_unstable();
        let total: u64 = packs.iter().map(|(_, _, size)| size).sum();
        let bytes = match self {
            Self::All => u64::MAX,
            Self::Part { number, of } => {
                packs.retain(|(pack, ..)| leading_number(pack) % of == number - 1);
                u64::MAX
            }
            Self::Share(millionths) => {
                u64::try_from(u128::from(total) * u128::from(*millionths) / 1_000_000).unwrap_or(u64::MAX).max(1)
            }
            Self::Bytes(bytes) => *bytes,
        };
        if matches!(self, Self::Share(_) | Self::Bytes(_))
            && let Some(last) = last_span(notes)
        {
            let begin = packs.partition_point(|(pack, ..)| *pack <= last.last);
            packs.rotate_left(begin);
        }
        let mut sum = 0_u64;
        let within = |(_, _, size): &&(PackId, PackClass, u64)| {
            let before = sum;
            sum = sum.saturating_add(*size);
            before < bytes
        };
        packs.iter().take_while(within).map(|(pack, class, _)| (*class, *pack)).collect()
    }
}

fn leading_number(pack: &PackId) -> u64 {
    pack.as_bytes()[..8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The packs that the last check of a subset has read.
fn last_span(notes: &Notes) -> Option<PackSpan> {
    notes.of_repository().iter().rev().find_map(|note| note.record.result.as_ref()?.packs)
}

/// The spans of packs that were read, one after another in the order of reading. Two, where the reading went on from the
/// last pack to the first.
#[must_use]
pub fn spans_of(chosen: &[PackId]) -> Vec<PackSpan> {
    let spans = chosen.chunk_by(|one, next| one < next);
    let span =
        |packs: &[PackId]| Some(PackSpan { first: *packs.first()?, last: *packs.last()?, count: packs.len() as u64 });
    spans.filter_map(span).collect()
}

/// How much of what is there was read by checks, by their notes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Coverage {
    /// Packs that are there.
    pub packs: u64,
    /// Packs of which no note says that they were read.
    pub never: u64,
    /// When the one was read that was read longest ago.
    pub oldest: Option<Timestamp>,
}

/// Says how much of what is there was read by checks.
#[must_use]
pub fn coverage(listed: &PackSizes, notes: &Notes) -> Coverage {
    let is_check = |note: &&crate::repository::notes::Note| note.record.kind == NoteKind::Check;
    let span = |note: &crate::repository::notes::Note| Some((note.record.result.as_ref()?.packs?, note.stored_at));
    let spans: Vec<(PackSpan, Timestamp)> = notes.of_repository().iter().filter(is_check).filter_map(span).collect();
    let read_at = |pack: &PackId| {
        let has = |(span, _): &&(PackSpan, Timestamp)| (span.first..=span.last).contains(pack);
        spans.iter().filter(has).map(|(_, at)| *at).max()
    };
    let read: Vec<Option<Timestamp>> = listed.keys().map(|(_, pack)| read_at(pack)).collect();
    Coverage {
        packs: read.len() as u64,
        never: read.iter().filter(|at| at.is_none()).count() as u64,
        oldest: read.iter().flatten().min().copied(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(first: u8) -> PackId {
        PackId::from_bytes([first; 32])
    }

    #[test]
    fn parts_shares_and_sizes_are_read() {
        assert_eq!("1/30".parse(), Ok(Subset::Part { number: 1, of: 30 }));
        assert_eq!("5%".parse(), Ok(Subset::Share(50_000)));
        assert_eq!("0.5 %".parse(), Ok(Subset::Share(5_000)));
        assert_eq!("10GiB".parse(), Ok(Subset::Bytes(10 << 30)));
        for wrong in ["", "0/3", "4/3", "1/0", "0%", "101%", "x%", "1.%%", "10", "-1%", "0 B"] {
            assert_eq!(wrong.parse::<Subset>(), Err(ParseSubsetError), "{wrong}");
        }
    }

    fn listed() -> PackSizes {
        (0..=250).map(|first| ((PackClass::Data, pack(first)), 10)).collect()
    }

    #[test]
    fn the_parts_have_each_pack_once() {
        let listed = listed();
        let mut all: Vec<(PackClass, PackId)> =
            (1..=7).flat_map(|number| Subset::Part { number, of: 7 }.choose(&listed, &Notes::default())).collect();
        assert_eq!(all.len(), listed.len());
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), listed.len());
    }

    #[test]
    fn a_size_takes_as_many_packs_as_it_begins() {
        let listed = listed();
        assert_eq!(Subset::Bytes(25).choose(&listed, &Notes::default()).len(), 3);
        assert_eq!(Subset::Share(10_000).choose(&listed, &Notes::default()).len(), 3);
        assert_eq!(Subset::Share(1).choose(&listed, &Notes::default()).len(), 1);
        assert_eq!(Subset::All.choose(&listed, &Notes::default()).len(), listed.len());
    }

    #[test]
    fn reading_that_goes_on_from_the_front_makes_two_spans() {
        let spans = spans_of(&[pack(7), pack(9), pack(1), pack(2)]);
        let expected = [
            PackSpan { first: pack(7), last: pack(9), count: 2 },
            PackSpan { first: pack(1), last: pack(2), count: 2 },
        ];
        assert_eq!(spans, expected);
        assert_eq!(spans_of(&[]), []);
    }
}
