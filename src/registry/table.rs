//! A map from text to values that is cheap to copy and cheap to change in a copy.
//!
//! The entries rest in shards behind `Arc`s. A copy shares every shard; a change copies the one shard it
//! touches and the list of shards, so one change among 100,000 entries costs about as much as among 1,000.
//! The number of shards follows the number of entries, so that an empty project costs next to nothing.

use std::collections::HashMap;
use std::sync::Arc;

/// Entries per shard, on average, above which the table gets four times as many shards.
const FILL: usize = 64;
const MAX_SHARDS: usize = 4096;

type Shard<V> = HashMap<Arc<str>, V>;

/// See the module.
#[derive(Clone)]
pub(super) struct Table<V> {
    /// A power of two of them; none while the table is empty.
    shards: Arc<Vec<Arc<Shard<V>>>>,
    len: usize,
}

impl<V> Default for Table<V> {
    fn default() -> Self {
        Self { shards: Arc::default(), len: 0 }
    }
}

impl<V> Table<V> {
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The value under `key`. Allocates nothing.
    pub(super) fn get(&self, key: &str) -> Option<&V> {
        if self.len == 0 {
            return None;
        }
        self.shards[index(key, self.shards.len())].get(key)
    }

    /// All values, in no order.
    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.shards.iter().flat_map(|shard| shard.values())
    }
}

impl<V: Clone> Table<V> {
    pub(super) fn insert(&mut self, key: &str, value: V) -> Option<V> {
        self.grow();
        let old = self.shard(key).insert(key.into(), value);
        self.len += usize::from(old.is_none());
        old
    }

    pub(super) fn remove(&mut self, key: &str) -> Option<V> {
        // Asked first, so that removing nothing copies nothing.
        self.get(key)?;
        let old = self.shard(key).remove(key);
        self.len -= usize::from(old.is_some());
        old
    }

    fn shard(&mut self, key: &str) -> &mut Shard<V> {
        let shards = Arc::make_mut(&mut self.shards);
        let index = index(key, shards.len());
        Arc::make_mut(&mut shards[index])
    }

    fn grow(&mut self) {
        let count = self.shards.len();
        if count > 0 && (self.len < count * FILL || count >= MAX_SHARDS) {
            return;
        }
        let count = (count * 4).max(1);
        let mut shards: Vec<Shard<V>> = (0..count).map(|_| Shard::new()).collect();
        for (key, value) in self.shards.iter().flat_map(|shard| shard.iter()) {
            shards[index(key, count)].insert(key.clone(), value.clone());
        }
        self.shards = Arc::new(shards.into_iter().map(Arc::new).collect());
    }

    /// How many shards two tables do not share.
    #[cfg(test)]
    pub(super) fn differing_shards(&self, other: &Self) -> usize {
        assert_eq!(self.shards.len(), other.shards.len(), "the number of shards changed");
        self.shards.iter().zip(other.shards.iter()).filter(|(a, b)| !Arc::ptr_eq(a, b)).count()
    }
}

/// FNV-1a: no secret, since whoever crowds one shard slows down only the changes of the own project.
/// Lookups inside a shard use the standard library's keyed hash.
fn index(key: &str, shards: usize) -> usize {
    let hash = key
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    // The high half is better mixed; the number of shards is a power of two.
    #[expect(clippy::cast_possible_truncation, reason = "masked to the number of shards")]
    let index = ((hash >> 32) ^ hash) as usize & (shards - 1);
    index
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_one_shard_among_a_hundred_thousand_entries() {
        let mut table = Table::default();
        for n in 0..100_000 {
            table.insert(&format!("host-{n}.example.com"), n);
        }
        let before = table.clone();
        table.insert("host-77.example.com", 1);
        assert_eq!(table.differing_shards(&before), 1);
        assert_eq!((before.get("host-77.example.com"), table.get("host-77.example.com")), (Some(&77), Some(&1)));
        let largest = table.shards.iter().map(|s| s.len()).max().expect("shards");
        assert!(largest < 8 * FILL, "a shard has {largest} entries");
        assert_eq!(table.len(), 100_000);
        table.remove("host-77.example.com");
        assert_eq!((table.len(), table.get("host-77.example.com")), (99_999, None));
        assert_eq!(table.values().count(), 99_999);
    }

    #[test]
    fn removing_nothing_copies_nothing() {
        let mut table = Table::default();
        assert_eq!(table.remove("a"), None);
        table.insert("a", 1);
        let before = table.clone();
        assert_eq!(table.remove("b"), None);
        assert_eq!(table.differing_shards(&before), 0);
    }
}
