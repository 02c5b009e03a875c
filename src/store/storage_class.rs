//! Storage classes by name, and which of them have to be thawed.

use std::fmt;
use std::str::FromStr;

/// The name of a storage class, such as `STANDARD_IA`. Servers have classes of their own, so any name of capital
/// letters, digits and `_` will do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StorageClassName(String);

impl StorageClassName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The class of objects that no other is named for.
    #[must_use]
    pub fn standard() -> Self {
        Self("STANDARD".to_owned())
    }

    /// Whether objects of this class have to be thawed before they can be read.
    #[must_use]
    pub fn is_archival(&self) -> bool {
        matches!(self.as_str(), "GLACIER" | "DEEP_ARCHIVE")
    }

    /// Whether each object of this class may be archived or not, as it has been left alone for long or not.
    #[must_use]
    pub fn may_archive(&self) -> bool {
        self.as_str() == "INTELLIGENT_TIERING"
    }
}

impl fmt::Display for StorageClassName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A text that cannot be the name of a storage class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a storage class is named by capital letters, digits and '_', such as STANDARD_IA, GLACIER_IR or DEEP_ARCHIVE")]
pub struct InvalidStorageClass;

impl FromStr for StorageClassName {
    type Err = InvalidStorageClass;

    fn from_str(text: &str) -> Result<Self, InvalidStorageClass> {
        let plain = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
        let good = (1..=64).contains(&text.len()) && text.bytes().all(plain);
        if good { Ok(Self(text.to_owned())) } else { Err(InvalidStorageClass) }
    }
}
