//! A map that forgets the oldest rather than grow without end.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// What is known by a key, at most so much of it.
#[derive(Debug)]
pub(super) struct Bounded<K, V> {
    most: usize,
    next: u64,
    entries: HashMap<K, (u64, V)>,
    /// By age.
    order: BTreeMap<u64, K>,
    /// How many were forgotten to make room.
    pub evicted: u64,
}

impl<K: Copy + Eq + Hash, V> Bounded<K, V> {
    pub(super) fn new(most: usize) -> Self {
        Self { most, next: 0, entries: HashMap::new(), order: BTreeMap::new(), evicted: 0 }
    }

    /// Puts it in the place of what there was of that key, which it gives back.
    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        self.next += 1;
        let before = self.entries.insert(key, (self.next, value));
        if let Some((age, _)) = &before {
            self.order.remove(age);
        }
        self.order.insert(self.next, key);
        if self.order.len() > self.most
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.entries.remove(&oldest);
            self.evicted += 1;
        }
        before.map(|(_, value)| value)
    }

    pub(super) fn get(&self, key: K) -> Option<&V> {
        self.entries.get(&key).map(|(_, value)| value)
    }

    pub(super) fn get_mut(&mut self, key: K) -> Option<&mut V> {
        self.entries.get_mut(&key).map(|(_, value)| value)
    }

    pub(super) fn remove(&mut self, key: K) -> Option<V> {
        let (age, value) = self.entries.remove(&key)?;
        self.order.remove(&age);
        Some(value)
    }

    /// Takes out all that are wanted, the oldest first.
    pub(super) fn take_if(&mut self, wanted: impl Fn(&K, &V) -> bool) -> Vec<(K, V)> {
        let is_wanted = |key: &&K| self.entries.get(*key).is_some_and(|(_, value)| wanted(key, value));
        let keys: Vec<K> = self.order.values().filter(is_wanted).copied().collect();
        keys.into_iter().filter_map(|key| Some((key, self.remove(key)?))).collect()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.entries.iter().map(|(key, (_, value))| (key, value))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_and_is_counted() {
        let mut map = Bounded::new(2);
        assert_eq!((map.insert(1, 'a'), map.insert(2, 'b'), map.insert(1, 'c')), (None, None, Some('a')));
        map.insert(3, 'd');
        assert_eq!((map.get(1), map.get(2), map.get(3), map.evicted), (Some(&'c'), None, Some(&'d'), 1));
        assert_eq!((map.remove(1), map.remove(1), map.len()), (Some('c'), None, 1));
        map.insert(4, 'e');
        assert_eq!(map.take_if(|_, _| true), [(3, 'd'), (4, 'e')]);
        assert_eq!((map.len(), map.order.len(), map.evicted), (0, 0, 1));
    }
}
