//! The parameters of a repository.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::chunker::ChunkerParameters;
use crate::object::FormatError;
use crate::records::TOOL;

/// The only way of cutting this program knows.
pub const CHUNKER_ALGORITHM: &str = "fastcdc-v2020";
/// The only gear table this program knows.
pub const CHUNKER_GEAR: &str = "v2020";
/// The only chunk hash this program knows.
pub const CHUNK_HASH: &str = "blake3";
/// The features this program knows, beyond those of every format 1 repository.
const KNOWN_FEATURES: &[&str] = &[];

/// What all programs that use a repository have to agree on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryConfig {
    /// The config's number; the highest is in force.
    pub number: u32,
    /// When it was written.
    pub created_at: Timestamp,
    /// Features needed to read the repository.
    pub required_to_read: Vec<String>,
    /// Features needed to write to it.
    pub required_to_write: Vec<String>,
    /// Features needed to prune it.
    pub required_to_prune: Vec<String>,
    /// How chunks are cut.
    pub chunker: ChunkerConfig,
    /// What a chunk's id is.
    pub hash: String,
    /// The program that wrote it.
    pub tool: String,
}

/// How chunks are cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkerConfig {
    /// The algorithm.
    pub algorithm: String,
    /// Its gear table.
    pub gear: String,
    /// Its parameters.
    ///
    /// None where they are of another algorithm: how chunks were cut does not matter to a reader.
    #[serde(flatten)]
    pub parameters: Option<ChunkerParameters>,
}

impl RepositoryConfig {
    /// The config of a new repository.
    #[must_use]
    pub fn new(created_at: Timestamp, parameters: ChunkerParameters) -> Self {
        Self {
            number: 0,
            created_at,
            required_to_read: Vec::new(),
            required_to_write: Vec::new(),
            required_to_prune: Vec::new(),
            chunker: ChunkerConfig {
                algorithm: CHUNKER_ALGORITHM.to_owned(),
                gear: CHUNKER_GEAR.to_owned(),
                parameters: Some(parameters),
            },
            hash: CHUNK_HASH.to_owned(),
            tool: TOOL.to_owned(),
        }
    }

    /// Checks that this program can read the repository.
    pub fn check_readable(&self) -> Result<(), FormatError> {
        check_features("read", &self.required_to_read)?;
        known("chunk hash", &self.hash, CHUNK_HASH)
    }

    /// Checks that this program can write to the repository.
    pub fn check_writable(&self) -> Result<(), FormatError> {
        check_features("write", &self.required_to_write)?;
        known("chunking algorithm", &self.chunker.algorithm, CHUNKER_ALGORITHM)?;
        known("gear table", &self.chunker.gear, CHUNKER_GEAR)?;
        self.writing_parameters().map(drop)
    }

    /// How chunks are to be cut.
    pub fn writing_parameters(&self) -> Result<&ChunkerParameters, FormatError> {
        let parameters = self.chunker.parameters.as_ref();
        let parameters =
            parameters.ok_or_else(|| FormatError::invalid("its chunker has parameters that are not known"))?;
        parameters.validate().map_err(|error| FormatError::invalid(error.to_string()))?;
        Ok(parameters)
    }
}

/// Refuses features this program does not know, all of them by name.
pub fn check_features(purpose: &str, required: &[String]) -> Result<(), FormatError> {
    let unknown = |name: &&String| !KNOWN_FEATURES.contains(&name.as_str());
    let unknown: Vec<&str> = required.iter().filter(unknown).map(String::as_str).collect();
    if unknown.is_empty() {
        return Ok(());
    }
    let names = unknown.join(", ");
    Err(FormatError::Invalid(format!("to {purpose}, a newer btrfs_to_s3 is needed that knows: {names}")))
}

fn known(what: &str, value: &str, ours: &str) -> Result<(), FormatError> {
    if value == ours {
        return Ok(());
    }
    Err(FormatError::Invalid(format!(
        "its {what} is '{value}', and this program knows '{ours}': a newer one is needed"
    )))
}
