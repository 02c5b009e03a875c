//! The marker that a backup does not count any more.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::ManifestId;

/// Says that a backup does not count any more. That it is there is enough: what it says is for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForgottenRecord {
    /// The backup's manifest.
    pub manifest: ManifestId,
    /// When it was forgotten, by the clock of the host that did.
    pub at: Timestamp,
    /// The host that did.
    pub host: String,
    /// Why.
    pub reason: String,
    /// The program that wrote it.
    pub tool: String,
}
