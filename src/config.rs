//! The configuration file.
//!
//! `docs/config.example.toml` shows every key with its meaning. A file is read whole and checked by hand rather than by
//! a derived deserializer, which would stop at the first fault: here all of them are reported at once. A key that means
//! nothing is a fault too, so that a misspelt key, or one of another version, is never ignored.

use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use toml::de::DeTable;

use self::fault::{Faults, quoted, shortened};
use self::section::{Found, Section};
use crate::cost::prices::Prices;
use crate::retention::RetentionPolicy;
use crate::schedule::Policy;
use crate::size::{ByteSize, KIB, MIB};
use crate::store::s3::settings::S3Settings;

mod fault;
mod prices;
mod rehearsal;
mod reporting;
mod restore;
mod retention;
mod s3;
mod schedule;
mod section;
mod subvolumes;
#[cfg(test)]
mod tests;

pub use self::fault::{ConfigErrors, Fault, Position};
pub use self::reporting::{HooksConfig, MonitoringConfig};
pub use self::restore::{RestoreConfig, THAW_DAYS_MAX};
pub use self::subvolumes::{InvalidName, SUBVOLUME_NAME_LENGTH_MAX, SubvolumeConfig, check_subvolume_name};

/// The longest configuration file that is read, in bytes.
pub const CONFIG_FILE_BYTES_MAX: u64 = MIB;

const STATE_DIR_DEFAULT: &str = "/var/lib/btrfs_to_s3";
const LOCK_FILE_NAME: &str = "lock";

const PACK_TARGET_MIN: ByteSize = ByteSize::from_bytes(4 * MIB);
const PACK_TARGET_DEFAULT: ByteSize = ByteSize::from_bytes(32 * MIB);
const PACK_TARGET_MAX: ByteSize = ByteSize::from_bytes(512 * MIB);

const COMPRESSION_LEVEL_MAX: u32 = 19;
const COMPRESSION_LEVEL_DEFAULT: u32 = 3;

const SUBVOLUMES_AT_ONCE_MAX: u32 = 16;

const SNAPSHOTS_RETAINED_MAX: u32 = 10_000;
const SNAPSHOTS_RETAINED_DEFAULT: u32 = 2;

/// What a configuration file says, with defaults for what it leaves out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The repository's URL, not checked yet.
    pub repository: String,
    /// How much is logged.
    pub log_level: LogLevel,
    /// Directory of what is kept between runs and can be built again, such as the local index.
    pub state_dir: PathBuf,
    /// File whose lock keeps two runs on this host apart.
    pub lock_path: PathBuf,
    /// Whether a stream of everything that `btrfs receive` would fail at is published all the same.
    pub publish_rejected_streams: bool,
    /// How many subvolumes are sent at once.
    pub subvolumes_at_once: u32,
    /// Whether a run makes do with little memory, and may take longer.
    pub low_memory: bool,
    /// How the bucket of a repository on S3 is talked to.
    pub s3: S3Settings,
    /// The chunker's sizes for a new repository.
    pub chunking: ChunkingConfig,
    /// How chunks are compressed and packed.
    pub packing: PackingConfig,
    /// Which backups `forget` keeps; without a rule, it is not to forget any by itself.
    pub retention: RetentionPolicy,
    /// How many snapshots of each subvolume stay on the host, at least one.
    pub snapshots_retained: u32,
    /// How archived objects are thawed for a restore.
    pub restore: RestoreConfig,
    /// What the provider of the bucket asks for.
    pub prices: Prices,
    /// Whether any of them are of the file.
    pub has_prices: bool,
    /// How often a restore of each subvolume is to be rehearsed; without it, `status` does not ask.
    pub rehearse_every: Option<Duration>,
    /// How often subvolumes are backed up; without it, whenever `backup` is started.
    pub schedule: Option<Policy>,
    /// What is run before and after a backup.
    pub hooks: HooksConfig,
    /// Who is told how it went.
    pub monitoring: MonitoringConfig,
    /// The subvolumes to back up, in the file's order; their names and paths are unique. May be empty: see
    /// [`Config::require_subvolumes`].
    pub subvolumes: Vec<SubvolumeConfig>,
}

/// The chunker's sizes, where they are given. The chunker has the defaults and checks how they go together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChunkingConfig {
    /// No chunk is smaller, but for the last of a file.
    pub minimum: Option<ByteSize>,
    /// The size that chunks of long files tend to.
    pub average: Option<ByteSize>,
    /// No chunk is larger.
    pub maximum: Option<ByteSize>,
}

/// How chunks are compressed and packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackingConfig {
    /// A pack is closed when it has reached this size.
    pub pack_target: ByteSize,
    /// The zstd level, from 1 to 19.
    pub compression_level: u32,
}

impl Default for PackingConfig {
    fn default() -> Self {
        Self { pack_target: PACK_TARGET_DEFAULT, compression_level: COMPRESSION_LEVEL_DEFAULT }
    }
}

/// How much is logged: the level named and all above it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum LogLevel {
    /// What ended an operation.
    Error,
    /// What the user should look at, though the operation went on.
    Warn,
    /// The milestones of a run.
    #[default]
    Info,
    /// What a developer needs to follow a run.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// All levels, the most important first.
    pub const ALL: [Self; 5] = [Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    /// The level's name, as it is configured.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is not the name of a log level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a log level is one of error, warn, info, debug and trace")]
pub struct ParseLogLevelError;

impl FromStr for LogLevel {
    type Err = ParseLogLevelError;

    fn from_str(text: &str) -> Result<Self, ParseLogLevelError> {
        Self::ALL.into_iter().find(|level| level.as_str() == text).ok_or(ParseLogLevelError)
    }
}

/// A configuration that names nothing to back up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no subvolume is configured: add a section [[subvolumes]] with a path")]
pub struct NoSubvolumes;

impl Config {
    /// The configuration of somebody who has no file and names the repository only.
    #[must_use]
    pub fn for_repository(url: impl Into<String>) -> Self {
        let state_dir = PathBuf::from(STATE_DIR_DEFAULT);
        Self {
            repository: url.into(),
            log_level: LogLevel::default(),
            lock_path: state_dir.join(LOCK_FILE_NAME),
            publish_rejected_streams: false,
            subvolumes_at_once: 1,
            low_memory: false,
            state_dir,
            s3: S3Settings::default(),
            chunking: ChunkingConfig::default(),
            packing: PackingConfig::default(),
            retention: RetentionPolicy::default(),
            restore: RestoreConfig::default(),
            prices: Prices::default(),
            has_prices: false,
            snapshots_retained: SNAPSHOTS_RETAINED_DEFAULT,
            rehearse_every: None,
            schedule: None,
            hooks: HooksConfig::default(),
            monitoring: MonitoringConfig::default(),
            subvolumes: Vec::new(),
        }
    }

    /// Reads a configuration file.
    ///
    /// # Errors
    ///
    /// All faults of the file, or the one that keeps it from being read: it is missing, a directory, longer than
    /// [`CONFIG_FILE_BYTES_MAX`] or not UTF-8.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        let file_name = path.display().to_string();
        let bytes = read_limited(path).map_err(|message| Faults::one(None, message).into_errors(&file_name, ""))?;
        match std::str::from_utf8(&bytes) {
            Ok(text) => Self::parse(text, &file_name),
            Err(error) => {
                let valid = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
                Err(Faults::one(Some(valid.len()), "not UTF-8 from here on").into_errors(&file_name, &valid))
            }
        }
    }

    /// Reads a configuration from a text; `file_name` is for messages.
    ///
    /// # Errors
    ///
    /// All faults of the text. Where it is not TOML, only the faults of its syntax: what its keys are is then a guess.
    pub fn parse(text: &str, file_name: &str) -> Result<Self, ConfigErrors> {
        let (root, syntax_errors) = DeTable::parse_recoverable(text);
        if !syntax_errors.is_empty() {
            return Err(syntax_faults(&syntax_errors, text).into_errors(file_name, text));
        }
        let mut faults = Faults::default();
        let config = Section::read_root(root.get_ref(), &mut faults, Self::read);
        if faults.is_empty() { Ok(config) } else { Err(faults.into_errors(file_name, text)) }
    }

    /// The subvolumes to back up.
    ///
    /// # Errors
    ///
    /// [`NoSubvolumes`] where there is none.
    pub fn require_subvolumes(&self) -> Result<&[SubvolumeConfig], NoSubvolumes> {
        if self.subvolumes.is_empty() { Err(NoSubvolumes) } else { Ok(&self.subvolumes) }
    }

    fn read(root: &mut Section<'_>, faults: &mut Faults) -> Self {
        let repository = root.required_string("repository", faults);
        let mut config = Self::for_repository(repository.map(Found::into_value).unwrap_or_default());
        root.table("global", faults, |global, faults| config.read_global(global, faults));
        config.s3 = root.table("s3", faults, s3::read_s3);
        config.chunking = root.table("chunking", faults, read_chunking);
        config.packing = root.table("packing", faults, read_packing);
        config.retention = root.table("retention", faults, retention::read_retention);
        let base_dir = root.table("snapshots", faults, |snapshots, faults| {
            if let Some(count) = snapshots.integer("retain", 1..=SNAPSHOTS_RETAINED_MAX, faults) {
                config.snapshots_retained = count.value;
            }
            snapshots.absolute_path("base_dir", faults).map(Found::into_value)
        });
        config.restore = root.table("restore", faults, restore::read_restore);
        config.has_prices = root.has("prices");
        config.prices = root.table("prices", faults, prices::read_prices);
        config.rehearse_every = root.table("rehearsal", faults, rehearsal::read_rehearsal);
        let has_schedule = root.has("schedule");
        let schedule = root.table("schedule", faults, schedule::read_schedule);
        config.schedule = has_schedule.then_some(schedule);
        config.hooks = root.table("hooks", faults, reporting::read_hooks);
        config.monitoring = root.table("monitoring", faults, reporting::read_monitoring);
        config.subvolumes = subvolumes::read_subvolumes(root, base_dir.as_deref(), faults);
        config
    }

    fn read_global(&mut self, global: &mut Section<'_>, faults: &mut Faults) {
        if let Some(level) = global.parsed("log_level", faults) {
            self.log_level = level.value;
        }
        if let Some(publish) = global.boolean("publish_rejected_streams", faults) {
            self.publish_rejected_streams = publish.value;
        }
        if let Some(count) = global.integer("subvolumes_at_once", 1..=SUBVOLUMES_AT_ONCE_MAX, faults) {
            self.subvolumes_at_once = count.value;
        }
        if let Some(low) = global.boolean("low_memory", faults) {
            self.low_memory = low.value;
        }
        if let Some(path) = global.absolute_path("state_dir", faults) {
            self.lock_path = path.value.join(LOCK_FILE_NAME);
            self.state_dir = path.value;
        }
        if let Some(path) = global.absolute_path("lock_path", faults) {
            self.lock_path = path.value;
        }
    }
}

fn read_chunking(chunking: &mut Section<'_>, faults: &mut Faults) -> ChunkingConfig {
    let range = |min_bytes, max_bytes| ByteSize::from_bytes(min_bytes)..=ByteSize::from_bytes(max_bytes);
    let minimum = chunking.size("minimum", range(64, MIB), faults);
    let average = chunking.size("average", range(256, 4 * MIB), faults);
    let maximum = chunking.size("maximum", range(KIB, 16 * MIB), faults);
    let given: Vec<_> = [&minimum, &average, &maximum].into_iter().flatten().collect();
    for pair in given.windows(2).filter(|pair| pair[0].value >= pair[1].value) {
        pair[1].fault(faults, format!("must be more than {}", pair[0].path));
    }
    let value = |size: Option<Found<ByteSize>>| size.map(Found::into_value);
    ChunkingConfig { minimum: value(minimum), average: value(average), maximum: value(maximum) }
}

fn read_packing(packing: &mut Section<'_>, faults: &mut Faults) -> PackingConfig {
    let pack_target = packing.size("pack_target", PACK_TARGET_MIN..=PACK_TARGET_MAX, faults);
    let compression_level = packing.integer("compression_level", 1..=COMPRESSION_LEVEL_MAX, faults);
    PackingConfig {
        pack_target: pack_target.map_or(PACK_TARGET_DEFAULT, Found::into_value),
        compression_level: compression_level.map_or(COMPRESSION_LEVEL_DEFAULT, Found::into_value),
    }
}

/// How other languages write what TOML writes `true` and `false`; in small letters.
const TRUTHS_ELSEWHERE: [&str; 6] = ["yes", "no", "on", "off", "true", "false"];

fn syntax_faults(errors: &[toml::de::Error], text: &str) -> Faults {
    let mut faults = Faults::default();
    for error in errors {
        let span = error.span().unwrap_or(text.len()..text.len());
        let found = text.get(span.clone()).filter(|found| !found.is_empty());
        let is_truth = found.is_some_and(|found| TRUTHS_ELSEWHERE.contains(&found.to_ascii_lowercase().as_str()));
        let message = if is_truth { "a truth is written true or false" } else { &shortened(error.message()) };
        let found = found.map(|found| format!("{}: ", quoted(found))).unwrap_or_default();
        faults.add(Some(span.start), "", format!("not TOML: {found}{message}"));
    }
    faults
}

/// Reads a file of at most [`CONFIG_FILE_BYTES_MAX`], or says in words why not.
fn read_limited(path: &Path) -> Result<Vec<u8>, String> {
    let describe = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => "there is no such file".to_owned(),
        ErrorKind::IsADirectory => "is a directory, not a file".to_owned(),
        ErrorKind::PermissionDenied => "may not be read by this user".to_owned(),
        _ => format!("cannot be read: {error}"),
    };
    let file = File::open(path).map_err(describe)?;
    let mut bytes = Vec::new();
    file.take(CONFIG_FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(describe)?;
    if bytes.len() as u64 > CONFIG_FILE_BYTES_MAX {
        return Err(format!("is longer than {}", ByteSize::from_bytes(CONFIG_FILE_BYTES_MAX).exact()));
    }
    Ok(bytes)
}
