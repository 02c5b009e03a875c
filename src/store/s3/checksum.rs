//! The CRC-32C that a server is told of a body, and keeps with the object.

use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::types::{ChecksumMode, ChecksumType};
use bytes::Bytes;

use super::S3Store;
use crate::store::failure::Failure;
use crate::store::{Key, UploadChecksum};

/// The CRC-32C of a body as S3's headers have it: base64 of its bytes, the highest first.
#[expect(clippy::big_endian_bytes, reason = "S3's header has the highest byte first")]
pub(super) fn checksum_text(body: &Bytes) -> String {
    aws_smithy_types::base64::encode(crc32c::crc32c(body).to_be_bytes())
}

impl S3Store {
    /// What the server has kept of an object since it was stored, archived or not.
    pub(super) async fn kept_of(&self, key: &Key) -> Result<UploadChecksum, Failure> {
        let head = self.client.head_object().checksum_mode(ChecksumMode::Enabled);
        let found = self.head_by(head, key).await?.ok_or_else(Failure::not_found)?;
        let size_bytes = found.content_length().and_then(|size| u64::try_from(size).ok());
        let size_bytes = size_bytes.ok_or_else(|| Failure::other("the server does not say how large the object is"))?;
        Ok(UploadChecksum { size_bytes, crc32c: kept_crc32c(&found) })
    }
}

/// The CRC-32C of the whole object. One that is made of the checksums of parts says nothing that could be compared.
fn kept_crc32c(found: &HeadObjectOutput) -> Option<[u8; 4]> {
    if found.checksum_type() == Some(&ChecksumType::Composite) {
        return None;
    }
    let text = found.checksum_crc32_c()?;
    aws_smithy_types::base64::decode(text).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: Option<&str>, kind: Option<ChecksumType>) -> HeadObjectOutput {
        HeadObjectOutput::builder().set_checksum_crc32_c(text.map(str::to_owned)).set_checksum_type(kind).build()
    }

    #[test]
    fn only_the_checksum_of_a_whole_object_is_taken() {
        // CRC-32C of "123456789", by RFC 3720 and its errata.
        let text = checksum_text(&Bytes::from_static(b"123456789"));
        let sum = Some([0xe3, 0x06, 0x92, 0x83]);
        assert_eq!(kept_crc32c(&answer(Some(&text), None)), sum);
        assert_eq!(kept_crc32c(&answer(Some(&text), Some(ChecksumType::FullObject))), sum);
        assert_eq!(kept_crc32c(&answer(Some(&text), Some(ChecksumType::Composite))), None);
        for other in [None, Some("4waSgw==-3"), Some("4waSgwA="), Some("?")] {
            assert_eq!(kept_crc32c(&answer(other, None)), None, "{other:?}");
        }
    }
}
