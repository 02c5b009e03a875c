//! Packs.

use std::ops::Range;

use btrfs_to_s3::codec::decode_frame;
use btrfs_to_s3::object::{HEADER_BYTES, ObjectKind, decode_cbor, encode_cbor, read_header};
use btrfs_to_s3::pack::format::{
    FrameKind, PackFooter, PackRecord, TRAILER_BYTES, read_footer, read_trailer, write_footer,
};

/// A whole pack, with the right hash of its footer; else the CBOR of a footer, or of a pack record.
pub(crate) fn pack(bytes: &[u8]) -> bool {
    if bytes.starts_with(b"B2S3") {
        let as_it_is = whole(bytes);
        return mended(bytes).is_some_and(|bytes| whole(&bytes)) || as_it_is;
    }
    match decode_cbor::<PackFooter>(bytes) {
        Ok(footer) => {
            check_footer(&footer);
            true
        }
        Err(_) => record(bytes),
    }
}

fn record(bytes: &[u8]) -> bool {
    let Ok(record) = decode_cbor::<PackRecord>(bytes) else { return false };
    check_record(&record);
    true
}

/// What an index segment, or a copy of a footer, says of a pack.
pub(super) fn check_record(record: &PackRecord) {
    assert_eq!(decode_cbor::<PackRecord>(&encode_cbor(record)).as_ref(), Ok(record));
    check_footer(&record.footer);
}

/// A footer reads back from a pack's end, and its frames lie one after another and share out its chunks.
fn check_footer(footer: &PackFooter) {
    let (mut offset, mut chunk) = (HEADER_BYTES as u64, 0);
    for frame in &footer.frames {
        assert_eq!((frame.range.start, frame.chunks.start), (offset, chunk));
        (offset, chunk) = (frame.range.end, frame.chunks.end);
    }
    assert_eq!(chunk, footer.chunks.len());
    let mut end = Vec::new();
    write_footer(footer, &mut end);
    let place = read_trailer(offset + end.len() as u64, &end).unwrap();
    let frame = &end[..end.len() - TRAILER_BYTES];
    assert_eq!(read_footer(&place, frame).as_ref(), Ok(footer));
}

/// Reads a pack as a restore does: its end, its footer, its frames.
fn whole(bytes: &[u8]) -> bool {
    if read_header(ObjectKind::Pack, bytes).is_err() {
        return false;
    }
    let Ok(place) = read_trailer(bytes.len() as u64, bytes) else { return false };
    let Ok(footer) = read_footer(&place, &bytes[local(&place.range)]) else { return false };
    check_footer(&footer);
    let mut makes_sense = true;
    for frame in &footer.frames {
        match decode_frame(&bytes[local(&frame.range)]) {
            Ok(plaintext) if frame.kind == FrameKind::Footers => drop(record(&plaintext)),
            Ok(_) => {}
            Err(_) => makes_sense = false,
        }
    }
    makes_sense
}

fn local(range: &Range<u64>) -> Range<usize> {
    usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()
}

/// Puts the right hash of the footer into the trailer.
fn mended(bytes: &[u8]) -> Option<Vec<u8>> {
    let trailer = bytes.len().checked_sub(TRAILER_BYTES)?;
    let length = usize::try_from(u32::from_le_bytes(*bytes[trailer..].first_chunk()?)).ok()?;
    let hash = blake3::hash(bytes.get(trailer.checked_sub(length)?..trailer)?);
    let mut mended = bytes.to_vec();
    mended[trailer + 4..trailer + 36].copy_from_slice(hash.as_bytes());
    (mended != bytes).then_some(mended)
}
