//! How a bucket is talked to.

use std::fmt;
use std::num::NonZeroUsize;
use std::str::FromStr;
use std::time::Duration;

use crate::size::MIB;
pub use crate::store::storage_class::{InvalidStorageClass, StorageClassName};

/// S3's smallest part, but for the last one of an object.
pub const PART_BYTES_MIN: u64 = 5 * MIB;
/// S3's largest object that is stored by one request.
pub const PART_BYTES_MAX: u64 = 5 << 30;

/// How a bucket is talked to. What is left open, the standard chain of the AWS SDK decides: environment, then profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Settings {
    /// The profile of the AWS files that says who we are, whatever the environment says.
    pub profile: Option<String>,
    /// The bucket's region.
    pub region: Option<String>,
    /// Where the server is; AWS itself if neither this nor the environment says.
    pub endpoint_url: Option<String>,
    /// Whether the bucket is named in the path and not in the host. Left open, it is where an endpoint is given.
    pub force_path_style: Option<bool>,
    /// The storage class of [`Tier::Data`](crate::store::Tier::Data); left open, the bucket's.
    pub storage_class_data: Option<StorageClassName>,
    /// The storage class of [`Tier::Metadata`](crate::store::Tier::Metadata), never an archival one.
    pub storage_class_metadata: Option<StorageClassName>,
    /// How the server shall encrypt objects; left open, as the bucket says.
    pub encryption: Option<Encryption>,
    /// Whether the server refuses to store an object where there is one (`If-None-Match`). Where it does not, each PUT
    /// is preceded by a HEAD.
    pub conditional_put: bool,
    /// Requests at once.
    pub concurrency: NonZeroUsize,
    /// Larger objects are stored in parts of this size.
    pub part_bytes: u64,
    /// How long a connection may take to be made.
    pub connect_timeout: Duration,
    /// How long a request may go without a byte in either direction.
    pub stall_timeout: Duration,
    /// Bytes of objects sent per second, all requests together.
    pub upload_bytes_per_second: Option<u64>,
    /// Bytes of objects received per second, all requests together.
    pub download_bytes_per_second: Option<u64>,
}

impl Default for S3Settings {
    fn default() -> Self {
        Self {
            profile: None,
            region: None,
            endpoint_url: None,
            force_path_style: None,
            storage_class_data: None,
            storage_class_metadata: None,
            encryption: None,
            conditional_put: true,
            concurrency: const { NonZeroUsize::new(8).expect("8 is not 0") },
            part_bytes: 64 * MIB,
            connect_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(30),
            upload_bytes_per_second: None,
            download_bytes_per_second: None,
        }
    }
}

/// How the server encrypts what it stores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Encryption {
    /// With a key of the server's own (SSE-S3).
    Aes256,
    /// With a key of the key management service (SSE-KMS).
    Kms {
        /// Two layers of it (DSSE-KMS).
        dual_layer: bool,
        /// The key's id or ARN; left open, the account's default one.
        key_id: Option<String>,
    },
}

impl Encryption {
    /// Its name in S3's header `x-amz-server-side-encryption`.
    #[must_use]
    pub fn header_value(&self) -> &'static str {
        match self {
            Self::Aes256 => "AES256",
            Self::Kms { dual_layer: false, .. } => "aws:kms",
            Self::Kms { dual_layer: true, .. } => "aws:kms:dsse",
        }
    }
}

impl fmt::Display for Encryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.header_value())
    }
}

/// A text that names no way to encrypt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the server can encrypt with AES256, aws:kms and aws:kms:dsse")]
pub struct InvalidEncryption;

impl FromStr for Encryption {
    type Err = InvalidEncryption;

    fn from_str(text: &str) -> Result<Self, InvalidEncryption> {
        match text {
            "AES256" => Ok(Self::Aes256),
            "aws:kms" => Ok(Self::Kms { dual_layer: false, key_id: None }),
            "aws:kms:dsse" => Ok(Self::Kms { dual_layer: true, key_id: None }),
            _ => Err(InvalidEncryption),
        }
    }
}
