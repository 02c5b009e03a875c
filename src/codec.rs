//! Frames: the unit of compression.
//!
//! `docs/format.md`, "Frames".

use std::cell::RefCell;

use crate::object::{FormatError, read_u32};

/// Length of a frame's header.
pub const FRAME_HEADER_BYTES: usize = 12;
/// A frame's plaintext, and its body, are never longer than this.
pub const FRAME_LIMIT_BYTES: usize = 64 << 20;

const PLAIN: u8 = 0;
const ZSTD: u8 = 1;
const NOT_SEALED: u8 = 0;
/// Compression has to save at least one part in this many, or the plaintext is stored.
const WORTHWHILE_PART: usize = 32;
/// A thread keeps a buffer of up to so many bytes for its next frame. Frames of packs are smaller; what is larger is rare.
const KEPT_OUTPUT_BYTES: usize = 4 << 20;

/// What a thread compresses with.
struct ThreadCompressor {
    level: i32,
    zstd: zstd::bulk::Compressor<'static>,
    output: Vec<u8>,
}

thread_local! {
    static COMPRESSOR: RefCell<Option<ThreadCompressor>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Encodes plaintext as a frame, compressed at zstd's `level` if that pays.
///
/// # Panics
///
/// If the plaintext is longer than [`FRAME_LIMIT_BYTES`], which no caller lets happen, or if zstd has no memory.
#[must_use]
pub fn encode_frame(plaintext: &[u8], level: i32) -> Vec<u8> {
    let mut frame = Vec::new();
    append_frame(plaintext, level, &mut frame);
    frame
}

/// As [`encode_frame`]; appends the frame to `output`.
///
/// # Panics
///
/// As there.
pub fn append_frame(plaintext: &[u8], level: i32, output: &mut Vec<u8>) {
    with_compressed(plaintext, level, |compressed| {
        let pays = compressed.len() + plaintext.len() / WORTHWHILE_PART < plaintext.len();
        let (compression, body) = if pays { (ZSTD, compressed) } else { (PLAIN, plaintext) };
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("a frame's plaintext is below the limit");
        output.reserve_exact(FRAME_HEADER_BYTES + body.len());
        output.extend_from_slice(&[compression, NOT_SEALED, 0, 0]);
        output.extend_from_slice(&length(plaintext).to_le_bytes());
        output.extend_from_slice(&length(body).to_le_bytes());
        output.extend_from_slice(body);
    });
}

/// Compresses into a buffer that each thread keeps, so that it is neither allocated nor cleared each time.
fn with_compressed(plaintext: &[u8], level: i32, run: impl FnOnce(&[u8])) {
    COMPRESSOR.with_borrow_mut(|slot| {
        if slot.as_ref().is_none_or(|compressor| compressor.level != level) {
            let zstd = zstd::bulk::Compressor::new(level).expect("zstd has memory for a context");
            *slot = Some(ThreadCompressor { level, zstd, output: Vec::new() });
        }
        let ThreadCompressor { zstd, output, .. } = slot.as_mut().expect("just filled");
        output.clear();
        output.reserve(zstd::zstd_safe::compress_bound(plaintext.len()));
        zstd.compress_to_buffer(plaintext, output).expect("the buffer has the size zstd asks for");
        run(output);
        if output.capacity() > KEPT_OUTPUT_BYTES {
            *output = Vec::new();
        }
    });
}

/// Decodes the one frame that fills `frame`.
///
/// # Errors
///
/// For anything but a whole frame of a kind this program knows whose plaintext has the length its header says. That the
/// plaintext is the right one, the caller checks by its chunks' ids.
pub fn decode_frame(frame: &[u8]) -> Result<Vec<u8>, FormatError> {
    let header: &[u8; FRAME_HEADER_BYTES] = frame.first_chunk().ok_or(FormatError::CutShort)?;
    let body = &frame[FRAME_HEADER_BYTES..];
    let plain_length = limited("frame's plaintext length", read_u32(&header[4..8]))?;
    let body_length = limited("frame's body length", read_u32(&header[8..12]))?;
    if header[1] != NOT_SEALED || header[2..4] != [0; 2] {
        return Err(FormatError::invalid("a frame is sealed in a way this program does not know"));
    }
    if body.len() != body_length {
        return Err(FormatError::invalid("a frame's body does not have the length its header says"));
    }
    match header[0] {
        PLAIN if body_length == plain_length => Ok(body.to_vec()),
        PLAIN => Err(FormatError::invalid("a plain frame's two lengths differ")),
        ZSTD => decompress(body, plain_length),
        other => Err(FormatError::Invalid(format!("a frame's compression {other} is not known to this program"))),
    }
}

fn limited(what: &'static str, value: u32) -> Result<usize, FormatError> {
    match usize::try_from(value) {
        Ok(length) if length <= FRAME_LIMIT_BYTES => Ok(length),
        _ => Err(FormatError::OverLimit { what, value: value.into(), limit: FRAME_LIMIT_BYTES as u64 }),
    }
}

fn decompress(body: &[u8], plain_length: usize) -> Result<Vec<u8>, FormatError> {
    let damaged = |error: std::io::Error| FormatError::Invalid(format!("a frame cannot be decompressed: {error}"));
    // A body that claims much more than it can hold does not get memory for it: zstd's own header has to agree first.
    match zstd::zstd_safe::get_frame_content_size(body) {
        Ok(Some(size)) if size == plain_length as u64 => {}
        _ => return Err(FormatError::invalid("a frame's plaintext length is not that of its body")),
    }
    let plaintext = DECOMPRESSOR.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = Some(zstd::bulk::Decompressor::new()?);
        }
        slot.as_mut().expect("just filled").decompress(body, plain_length)
    });
    let plaintext = plaintext.map_err(damaged)?;
    if plaintext.len() == plain_length { Ok(plaintext) } else { Err(FormatError::CutShort) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn a_frame_is_appended_and_no_long_buffer_is_kept() {
        for length in [KEPT_OUTPUT_BYTES / 2, KEPT_OUTPUT_BYTES + 1] {
            let mut output = b"before".to_vec();
            append_frame(&noise(length), 3, &mut output);
            assert_eq!(output.len(), 6 + FRAME_HEADER_BYTES + length);
            assert_eq!((&output[..6], decode_frame(&output[6..]).unwrap()), (&b"before"[..], noise(length)));
            let kept = COMPRESSOR.with_borrow(|slot| slot.as_ref().map(|kept| kept.output.capacity()));
            assert!(kept.is_some_and(|kept| kept <= KEPT_OUTPUT_BYTES), "{length}: {kept:?}");
            assert_eq!(kept > Some(0), length < KEPT_OUTPUT_BYTES);
        }
    }

    #[test]
    fn plaintext_of_any_kind_and_length_reads_back() {
        for length in [0, 1, 31, 32, 1000, 1 << 20] {
            for plaintext in [vec![0; length], noise(length)] {
                assert_eq!(decode_frame(&encode_frame(&plaintext, 3)).unwrap(), plaintext);
            }
        }
    }

    #[test]
    fn noise_is_stored_plain_and_zeros_are_compressed() {
        assert_eq!(encode_frame(&noise(5000), 3).len(), FRAME_HEADER_BYTES + 5000);
        assert!(encode_frame(&[0; 5000], 3).len() < 100);
    }

    #[test]
    fn a_level_may_change_between_frames() {
        let text = "all work and no play ".repeat(1000).into_bytes();
        for level in [1, 19, 3] {
            assert_eq!(decode_frame(&encode_frame(&text, level)).unwrap(), text);
        }
    }

    #[test]
    fn a_flipped_bit_or_a_truncation_is_an_error_or_wrong_bytes_but_never_a_panic() {
        let good = encode_frame(&"0123456789".repeat(40).into_bytes(), 3);
        for position in 0..good.len() * 8 {
            let mut frame = good.clone();
            frame[position / 8] ^= 1 << (position % 8);
            // Wrong plaintext is possible here; chunk ids find it.
            drop(decode_frame(&frame));
        }
        for length in 0..good.len() {
            assert!(decode_frame(&good[..length]).is_err(), "length {length}");
        }
    }

    #[test]
    fn a_frame_that_claims_a_huge_plaintext_gets_no_memory_for_it() {
        let mut frame = encode_frame(&[0; 5000], 3);
        frame[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(decode_frame(&frame), Err(FormatError::OverLimit { .. })));
        frame[4..8].copy_from_slice(&(64_u32 << 20).to_le_bytes());
        assert!(decode_frame(&frame).is_err());
    }
}
