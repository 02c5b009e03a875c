//! Frames.

use btrfs_to_s3::codec::{FRAME_HEADER_BYTES, FRAME_LIMIT_BYTES, decode_frame, encode_frame};

/// Encoding what a frame holds costs time, and what is longer shows nothing new.
const ENCODED_AGAIN_BYTES: usize = 1 << 20;

/// A frame: as it is, and with the right length of its body.
pub(crate) fn frame(bytes: &[u8]) -> bool {
    let as_it_is = check(bytes);
    mended(bytes).is_some_and(|bytes| check(&bytes)) || as_it_is
}

fn check(bytes: &[u8]) -> bool {
    let Ok(plaintext) = decode_frame(bytes) else { return false };
    assert!(plaintext.len() <= FRAME_LIMIT_BYTES);
    if plaintext.len() <= ENCODED_AGAIN_BYTES {
        assert_eq!(decode_frame(&encode_frame(&plaintext, 1)).as_ref(), Ok(&plaintext));
    }
    true
}

fn mended(bytes: &[u8]) -> Option<Vec<u8>> {
    let length = u32::try_from(bytes.len().checked_sub(FRAME_HEADER_BYTES)?).ok()?;
    let mut mended = bytes.to_vec();
    mended[FRAME_HEADER_BYTES - 4..FRAME_HEADER_BYTES].copy_from_slice(&length.to_le_bytes());
    (mended != bytes).then_some(mended)
}
