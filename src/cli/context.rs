//! What every command works with: configuration, environment, repository, progress.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::tz::TimeZone;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::backup::{Host, Interruption};
use crate::cli::exit::UsageError;
use crate::cli::progress::Progress;
use crate::cli::{GlobalArguments, LogFormat};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, LogLevel};
use crate::job::Schedule;
use crate::monitor::Monitor;
use crate::repository::cache::RecordCache;
use crate::repository::{Repository, layout};
use crate::restore::RestoreOptions;
use crate::store::url::StoreUrl;
use crate::store::{self, Key, Store};

/// What every command works with.
pub(crate) struct Context {
    pub(crate) config: Config,
    pub(crate) progress: Arc<Progress>,
    pub(crate) clock: Arc<dyn Clock>,
    /// Comes with a signal.
    pub(crate) interruption: Interruption,
}

impl Context {
    pub(crate) fn new(arguments: &GlobalArguments, interruption: Interruption) -> anyhow::Result<Self> {
        let config = load_config(arguments)?;
        start_logging(arguments.log_level.unwrap_or(config.log_level), arguments.log_format);
        Ok(Self { config, progress: Arc::new(Progress::new()), clock: Arc::new(SystemClock), interruption })
    }

    /// The context of another repository: of another configuration, or of this one but for the repository's URL.
    pub(crate) fn of_other(&self, config: Option<&Path>, url: Option<&String>) -> anyhow::Result<Self> {
        let mut config = match config {
            Some(path) => Config::load(path)?,
            None => self.config.clone(),
        };
        if let Some(url) = url {
            config.repository.clone_from(url);
        }
        let interruption = self.interruption.clone();
        Ok(Self { config, progress: Arc::clone(&self.progress), clock: Arc::clone(&self.clock), interruption })
    }

    pub(crate) fn monitor(&self) -> Arc<dyn Monitor> {
        Arc::clone(&self.progress) as Arc<dyn Monitor>
    }

    /// Makes the place of a new repository.
    pub(crate) async fn create_store(&self) -> anyhow::Result<Store> {
        let folders = layout::pack_folders().map(Key::new).collect::<Result<Vec<_>, _>>()?;
        Ok(store::create(&self.url()?, &self.config.s3, &folders).await?)
    }

    /// Whether there is a repository, or one could be made. Changes nothing.
    pub(crate) async fn has_repository(&self) -> anyhow::Result<bool> {
        let url = self.url()?;
        if !store::is_there(&url).await? {
            return Ok(false);
        }
        let store = store::open(&url, &self.config.s3).await?;
        Ok(!store.list_page(layout::CONFIGS, None).await?.objects.is_empty())
    }

    fn url(&self) -> anyhow::Result<StoreUrl> {
        self.config
            .repository
            .parse()
            .map_err(|error: crate::store::url::InvalidUrl| UsageError(error.to_string()).into())
    }

    /// Whether the repository is a directory.
    pub(crate) fn is_local(&self) -> anyhow::Result<bool> {
        Ok(matches!(self.url()?, StoreUrl::Local { .. }))
    }

    pub(crate) async fn repository(&self) -> anyhow::Result<Repository> {
        Repository::open(store::open(&self.url()?, &self.config.s3).await?, Arc::clone(&self.clock)).await
    }

    /// The folder of everything this host remembers of a repository.
    fn cache_directory(&self, repository: &Repository) -> PathBuf {
        self.config.state_dir.join("cache").join(repository.id().to_string())
    }

    pub(crate) fn record_cache(&self, repository: &Repository) -> RecordCache {
        RecordCache::in_folder(self.cache_directory(repository).join("records"))
    }

    /// Where a run writes down which snapshots it has under way.
    pub(crate) fn journal_directory(&self, repository: &Repository) -> PathBuf {
        self.cache_directory(repository).join("snapshots")
    }

    /// When subvolumes are due.
    pub(crate) fn schedule(&self) -> Option<Schedule> {
        let policy = self.config.schedule?;
        Some(Schedule { policy, zone: TimeZone::system() })
    }

    /// Where folders may be made that are gone with the process.
    pub(crate) fn scratch_directory(&self) -> PathBuf {
        self.config.state_dir.join("scratch")
    }

    /// The bounds of whatever reads backups.
    pub(crate) fn restore_options(&self) -> RestoreOptions {
        let requests_in_flight = self.config.s3.concurrency.get();
        let options = RestoreOptions { requests_in_flight, ..RestoreOptions::new(self.scratch_directory()) };
        // What is no URL is refused when the repository is opened.
        let options = if self.is_local().unwrap_or(true) { options } else { options.at_a_distance() };
        if self.config.low_memory { options.with_low_memory() } else { options }
    }

    /// This host as a writer of a repository.
    pub(crate) fn host(&self, repository: &Repository) -> Host {
        let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
        Host {
            name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            machine: format!("{}:{}", machine.trim(), self.config.lock_path.display()),
            index_directory: self.cache_directory(repository).join("index"),
            cache: self.record_cache(repository),
            scratch_directory: self.scratch_directory(),
        }
    }
}

fn load_config(arguments: &GlobalArguments) -> anyhow::Result<Config> {
    let mut config = match (&arguments.config, &arguments.repository) {
        (Some(path), _) => Config::load(path)?,
        (None, Some(url)) => {
            let mut config = Config::for_repository(url.clone());
            if let Some(directory) = unprivileged_state_directory() {
                config.lock_path = directory.join("lock");
                config.state_dir = directory;
            }
            config
        }
        (None, None) => {
            return Err(UsageError("name a configuration (--config) or a repository (--repository)".into()).into());
        }
    };
    if let Some(url) = &arguments.repository {
        config.repository.clone_from(url);
    }
    Ok(config)
}

/// Where somebody who is not root keeps state without a configuration, by the XDG base directory specification.
#[expect(clippy::disallowed_methods, reason = "the environment is read here")]
fn unprivileged_state_directory() -> Option<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return None;
    }
    let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    let state = env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute()).or_else(home)?;
    Some(state.join("btrfs_to_s3"))
}

/// The value of PATH, where programs are looked for.
#[expect(clippy::disallowed_methods, reason = "the environment is read here")]
pub(crate) fn search_path() -> Option<std::ffi::OsString> {
    env::var_os("PATH")
}

fn start_logging(level: LogLevel, format: LogFormat) {
    let level = match level {
        LogLevel::Error => tracing::Level::ERROR,
        LogLevel::Warn => tracing::Level::WARN,
        LogLevel::Info => tracing::Level::INFO,
        LogLevel::Debug => tracing::Level::DEBUG,
        LogLevel::Trace => tracing::Level::TRACE,
    };
    // What libraries say is for their developers, and errors come with their reasons anyway. Only their warnings, and
    // only for who wants to know: below that, they show what may be secret.
    let of_libraries = if level > tracing::Level::INFO { LevelFilter::WARN } else { LevelFilter::OFF };
    let filter = Targets::new().with_target(env!("CARGO_CRATE_NAME"), level).with_default(of_libraries);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    let registry = tracing_subscriber::registry().with(filter);
    // A second call in one process changes nothing, and there is none.
    drop(match format {
        LogFormat::Text => registry.with(layer).try_init(),
        LogFormat::Json => registry.with(layer.json()).try_init(),
    });
}
