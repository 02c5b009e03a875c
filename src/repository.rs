//! A repository: its parameters, its sessions, its manifests, and the index of its chunks.
//!
//! `docs/ordering.md` says in which order a backup uses these.

pub mod cache;
pub mod catalog;
mod chain;
pub mod history;
pub mod index;
pub mod layout;
pub(crate) mod listing;
pub mod needs;
pub mod notes;
pub mod packs;
pub mod plans;
pub mod probe;
pub mod reader;
pub mod recent;
pub mod scratch;
pub mod session;
pub(crate) mod tables;

use std::sync::Arc;

use anyhow::{Context, bail};
use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::chunker::ChunkerParameters;
use crate::clock::Clock;
use crate::id::{Digest, Randomness, RepositoryId, Salt, SystemRandomness};
use crate::object::{FormatError, ObjectKind, RECORD_LIMIT_BYTES, decode_record, encode_record};
use crate::records::config::RepositoryConfig;
use crate::repository::cache::RecordCache;
use crate::store::{Key, PutOutcome, Store, StoreError, StoreErrorKind, Tier, list_all};

/// The number of the config that `init` writes.
const FIRST_CONFIG: u32 = 0;

/// An object of the repository is missing or does not have the bytes it should have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("damaged: {object}: {reason}")]
pub struct Damage {
    /// The object's URL.
    pub object: String,
    /// What is wrong with it.
    pub reason: String,
}

/// An open repository. Clones share everything.
#[derive(Debug, Clone)]
pub struct Repository {
    store: Store,
    id: RepositoryId,
    config: Arc<RepositoryConfig>,
    clock: Arc<dyn Clock>,
    randomness: Arc<dyn Randomness>,
}

impl Repository {
    /// Makes a new repository in an empty place.
    ///
    /// # Errors
    ///
    /// If there is one already, or the parameters are not valid, or the store fails.
    pub async fn init(store: Store, parameters: ChunkerParameters, clock: Arc<dyn Clock>) -> anyhow::Result<Self> {
        let config = RepositoryConfig::new(clock.now(), parameters);
        config.check_writable()?;
        let present = store.list_page(layout::CONFIGS, None).await?;
        let id = RepositoryId::random();
        let body = Bytes::from(encode_record(ObjectKind::Config, id, &config));
        let key = layout::config_key(config.number);
        if !present.objects.is_empty() || store.put(&key, body, Tier::Metadata).await? == PutOutcome::Exists {
            bail!("{} is a repository already", store.url());
        }
        Ok(Self { store, id, config: Arc::new(config), clock, randomness: Arc::new(SystemRandomness) })
    }

    /// Opens a repository for reading.
    ///
    /// # Errors
    ///
    /// If there is none, if this program does not know a feature needed to read it, if its config is damaged, or if
    /// the store fails.
    pub async fn open(store: Store, clock: Arc<dyn Clock>) -> anyhow::Result<Self> {
        let first_key = layout::config_key(FIRST_CONFIG);
        // Mostly there is no other one, so it is asked for with the listing that tells.
        let (listed, first) =
            tokio::join!(list_all(store.as_ref(), layout::CONFIGS), store.get(&first_key, RECORD_LIMIT_BYTES));
        let listed = listed?;
        let Some(number) = listed.iter().filter_map(|object| layout::parse_config_key(&object.key)).max() else {
            // Whoever may not even look has to be told that.
            first
                .map(drop)
                .or_else(|error| if error.kind == StoreErrorKind::NotFound { Ok(()) } else { Err(error) })?;
            bail!("there is no repository at {}: `btrfs_to_s3 init` makes one", store.url());
        };
        let key = layout::config_key(number);
        let decode = |bytes: &Bytes| decode_record::<RepositoryConfig>(ObjectKind::Config, bytes);
        let first = match first {
            Ok(bytes) if number == FIRST_CONFIG => decode(&bytes).ok(),
            Err(error) if number == FIRST_CONFIG => return Err(error.into()),
            _ => None,
        };
        let (id, config) = if let Some(config) = first {
            config
        } else {
            let read = async || {
                let bytes = store.get(&key, RECORD_LIMIT_BYTES).await?;
                decode(&bytes).map_err(|error| fault(&store, &key, &error))
            };
            twice_if_damaged(read).await?
        };
        if config.number != number {
            return Err(fault(&store, &key, &FormatError::invalid("it is the config of another number")));
        }
        config.check_readable().with_context(|| format!("opening repository {}", store.url()))?;
        Ok(Self { store, id, config: Arc::new(config), clock, randomness: Arc::new(SystemRandomness) })
    }

    /// The repository's id.
    #[must_use]
    pub fn id(&self) -> RepositoryId {
        self.id
    }

    /// The store that keeps it.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Its parameters.
    #[must_use]
    pub fn config(&self) -> &RepositoryConfig {
        &self.config
    }

    /// Where its time comes from.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Where the ids of what is written come from.
    #[must_use]
    pub fn randomness(&self) -> &Arc<dyn Randomness> {
        &self.randomness
    }

    /// Has the ids of what is written come from another source than the operating system.
    #[must_use]
    pub fn with_randomness(self, randomness: Arc<dyn Randomness>) -> Self {
        Self { randomness, ..self }
    }

    /// Draws the salt of a new object whose key is the hash of its bytes.
    #[must_use]
    pub fn draw_salt(&self) -> Salt {
        Salt::drawn_from(self.randomness.as_ref())
    }

    /// Reads a record and checks that it is whole, belongs to this repository, and is the one of its key, as `check` can
    /// tell; gives its digest as well. A copy in the cache of which that is not true is not used.
    ///
    /// # Errors
    ///
    /// [`Damage`] if it is missing or not as it should be, [`StoreError`] if the store fails.
    pub async fn read_record<T: DeserializeOwned>(
        &self,
        kind: ObjectKind,
        key: &Key,
        cache: &RecordCache,
        check: impl Fn(&T, &StoredAs) -> Result<(), FormatError>,
    ) -> anyhow::Result<(T, StoredAs)> {
        let decode = |bytes: &[u8]| {
            let (value, stored) = (self.decode(kind, bytes)?, StoredAs::of(bytes));
            check(&value, &stored).map(|()| (value, stored))
        };
        if let Some(record) = cache.get(key).and_then(|bytes| decode(&bytes).ok()) {
            return Ok(record);
        }
        twice_if_damaged(async || {
            let bytes = self.get(key, RECORD_LIMIT_BYTES).await?;
            let record = decode(&bytes).map_err(|error| self.fault(key, &error))?;
            cache.put(key, &bytes);
            Ok(record)
        })
        .await
    }

    /// Reads a record that will be asked for with this cache, unless there is a copy. It is not checked, and that it is not
    /// there is no error: whoever asks for it finds out.
    pub(crate) async fn read_ahead(&self, key: &Key, cache: &RecordCache) -> Result<(), StoreError> {
        if cache.is_on_disk(key) {
            return Ok(());
        }
        match self.store.get(key, RECORD_LIMIT_BYTES).await {
            Ok(bytes) => cache.put(key, &bytes),
            Err(error) if error.kind == StoreErrorKind::NotFound => {}
            Err(error) if error.kind == StoreErrorKind::TooLarge => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn decode<T: DeserializeOwned>(&self, kind: ObjectKind, bytes: &[u8]) -> Result<T, FormatError> {
        match decode_record(kind, bytes)? {
            (id, value) if id == self.id => Ok(value),
            (id, _) => Err(FormatError::OtherRepository(id)),
        }
    }

    /// Reads an object that the repository needs: that it is not there is [`Damage`].
    pub async fn get(&self, key: &Key, limit_bytes: u64) -> anyhow::Result<Bytes> {
        self.store.get(key, limit_bytes).await.map_err(|error| self.needed(error))
    }

    /// Makes the error of a read that found nothing where something has to be a [`Damage`].
    #[must_use]
    pub fn needed(&self, error: StoreError) -> anyhow::Error {
        match error.kind {
            StoreErrorKind::NotFound | StoreErrorKind::OutOfRange | StoreErrorKind::TooLarge => {
                Damage { object: error.object, reason: error.reason }.into()
            }
            _ => error.into(),
        }
    }

    /// The error that says what is wrong with an object.
    #[must_use]
    pub fn fault(&self, key: &Key, error: &FormatError) -> anyhow::Error {
        fault(&self.store, key, error)
    }
}

fn fault(store: &Store, key: &Key, error: &FormatError) -> anyhow::Error {
    let object = format!("{}/{key}", store.url());
    match error {
        FormatError::UnknownVersion(_) => anyhow::anyhow!("{object}: {error}"),
        _ => Damage { object, reason: error.to_string() }.into(),
    }
}

/// Reads and checks, and does so once more if that finds damage: it may have come about on the way here, where nothing
/// guards the way.
async fn twice_if_damaged<T>(read: impl AsyncFn() -> anyhow::Result<T>) -> anyhow::Result<T> {
    match read().await {
        Err(error) if error.downcast_ref::<Damage>().is_some() => {
            tracing::debug!("{error:#}: it is read once more");
            read().await
        }
        done => done,
    }
}

/// A record as the store has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredAs {
    /// BLAKE3 of its bytes.
    pub digest: Digest,
    /// Its length.
    pub bytes: u64,
}

impl StoredAs {
    fn of(bytes: &[u8]) -> Self {
        Self { digest: Digest::of(bytes), bytes: bytes.len() as u64 }
    }
}
