//! What was read lately.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// The values that came last, as many as their sizes allow.
#[derive(Debug)]
pub struct Recent<K, V> {
    limit: usize,
    size: usize,
    values: HashMap<K, (V, usize)>,
    /// Keys in the order they came.
    order: VecDeque<K>,
}

impl<K: Copy + Eq + Hash, V: Clone> Recent<K, V> {
    /// Keeps values up to a total size.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit, size: 0, values: HashMap::new(), order: VecDeque::new() }
    }

    /// A value, if it is still kept.
    pub fn get(&self, key: &K) -> Option<V> {
        self.values.get(key).map(|(value, _)| value.clone())
    }

    /// Keeps a value, and drops the oldest ones if they are too large together.
    pub fn insert(&mut self, key: K, value: V, size: usize) {
        if self.values.insert(key, (value, size)).is_none() {
            self.order.push_back(key);
            self.size += size;
        }
        while self.size > self.limit
            && let Some(oldest) = self.order.pop_front()
        {
            let removed = self.values.remove(&oldest);
            self.size -= removed.map_or(0, |(_, size)| size);
        }
    }
}
