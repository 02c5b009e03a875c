//! A table with a bound on its memory. What does not fit goes to a store that its user gives, or the table is full.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::io;

/// Length of a [`NameId`]: two names with the same one are not found in fewer than 2^96 attempts.
pub const NAME_ID_BYTES: usize = 24;

/// Stands for a name in a directory. Ids are hashes, and so spread evenly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct NameId([u8; NAME_ID_BYTES]);

/// What is known of a name, as a number that says nothing to who keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameRecord {
    /// What it is known of.
    pub id: NameId,
    /// What is known.
    pub value: u64,
}

/// Keeps what is known of more names than are to be in memory.
///
/// What fails once is not asked again.
pub trait NameStore: Debug + Send {
    /// Keeps records, in ascending order of their ids, each once. They take the place of those with the same id.
    ///
    /// # Errors
    ///
    /// If they cannot be kept.
    fn put(&mut self, records: &[NameRecord]) -> io::Result<()>;

    /// The value that an id has, if it has one.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    fn get(&mut self, id: &NameId) -> io::Result<Option<u64>>;
}

/// The table.
#[derive(Debug)]
pub(super) struct NameTable {
    recent: HashMap<NameId, Slot, BuildHasherDefault<BytesOfId>>,
    in_memory_at_most: usize,
    store: Option<Box<dyn NameStore>>,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    value: u64,
    /// Whether the store has something else.
    is_new: bool,
}

impl NameId {
    /// That of these bytes.
    pub(super) fn of(bytes: &[u8]) -> Self {
        let mut id = [0; NAME_ID_BYTES];
        id.copy_from_slice(&blake3::hash(bytes).as_bytes()[..NAME_ID_BYTES]);
        Self(id)
    }

    /// An id of these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; NAME_ID_BYTES]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; NAME_ID_BYTES] {
        &self.0
    }
}

/// A hash that is eight bytes of an id, which is a hash already.
#[derive(Debug, Clone, Copy, Default)]
struct BytesOfId(u64);

impl Hash for NameId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.0);
    }
}

impl Hasher for BytesOfId {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl NameTable {
    pub(super) fn new(in_memory_at_most: usize, store: Option<Box<dyn NameStore>>) -> Self {
        Self { recent: HashMap::default(), in_memory_at_most, store }
    }

    pub(super) fn get(&mut self, id: &NameId) -> io::Result<Option<u64>> {
        if let Some(slot) = self.recent.get(id) {
            return Ok(Some(slot.value));
        }
        let stored = self.stored(id)?;
        if let Some(value) = stored {
            self.recent.insert(*id, Slot { value, is_new: false });
        }
        Ok(stored)
    }

    pub(super) fn put(&mut self, id: NameId, value: u64) {
        self.recent.insert(id, Slot { value, is_new: true });
    }

    /// Has an id no value any more. Where one is kept in the store, it becomes one that says as much.
    pub(super) fn clear(&mut self, id: NameId, as_much: u64) -> io::Result<()> {
        if self.stored(&id)?.is_some() {
            self.put(id, as_much);
        } else {
            self.recent.remove(&id);
        }
        Ok(())
    }

    /// Moves to the store what is too much. To be called often: until then the memory grows.
    ///
    /// # Errors
    ///
    /// If the store cannot take it, or there is none.
    pub(super) fn make_room(&mut self) -> io::Result<()> {
        if self.recent.len() <= self.in_memory_at_most {
            return Ok(());
        }
        let Some(store) = &mut self.store else {
            return Err(io::Error::other("there is nowhere to keep more of them"));
        };
        if self.recent.values().filter(|slot| slot.is_new).count() <= self.in_memory_at_most / 2 {
            self.recent.retain(|_, slot| slot.is_new);
            return Ok(());
        }
        let new = self.recent.iter().filter(|(_, slot)| slot.is_new);
        let mut records: Vec<_> = new.map(|(id, slot)| NameRecord { id: *id, value: slot.value }).collect();
        records.sort_unstable_by_key(|record| record.id);
        store.put(&records)?;
        self.recent.clear();
        Ok(())
    }

    /// Forgets everything, and lets go of the store.
    pub(super) fn forget(&mut self) {
        self.recent.clear();
        self.store = None;
    }

    fn stored(&mut self, id: &NameId) -> io::Result<Option<u64>> {
        self.store.as_mut().map_or(Ok(None), |store| store.get(id))
    }
}

#[cfg(test)]
impl NameTable {
    pub(super) fn in_memory(&self) -> usize {
        self.recent.len()
    }
}
