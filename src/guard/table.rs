//! A table that never grows beyond its bound: what would be missed least makes room.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::hash::Hash;

/// What is in a [`Table`].
pub(super) trait Entry {
    /// Whether it means nothing any more.
    fn is_over(&self, now: u32) -> bool;

    /// How much would be lost with it: the least makes room first.
    fn weight(&self) -> u64;
}

/// A map of at most so many entries.
#[derive(Debug)]
pub(super) struct Table<K, V> {
    entries: HashMap<K, V>,
    max: usize,
}

impl<K: Copy + Eq + Hash, V: Entry> Table<K, V> {
    /// A table of at most `max` entries. Memory is taken as they come.
    pub(super) fn new(max: usize) -> Self {
        Self {
            entries: HashMap::new(),
            max,
        }
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key)
    }

    pub(super) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.entries.get_mut(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.entries.iter()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The entry of `key`, made by `new` if there is none; what makes room for it is shown to `forgotten`.
    pub(super) fn entry(
        &mut self,
        key: K,
        now: u32,
        new: impl FnOnce() -> V,
        forgotten: impl FnMut(&K, &V),
    ) -> &mut V {
        if self.entries.len() >= self.max && !self.entries.contains_key(&key) {
            self.make_room(now, forgotten);
        }
        self.entries.entry(key).or_insert_with(new)
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        self.entries.remove(key)
    }

    /// Keeps what `keep` says.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&K, &V) -> bool) {
        self.entries.retain(|key, value| keep(key, value));
    }

    /// Forgets what is over; and if that is not much, the lightest eighth. So one insertion in many pays for all.
    fn make_room(&mut self, now: u32, mut forgotten: impl FnMut(&K, &V)) {
        let mut keep = |entries: &mut HashMap<K, V>, is_kept: &mut dyn FnMut(&V) -> bool| {
            entries.retain(|key, value| {
                let kept = is_kept(value);
                if !kept {
                    forgotten(key, value);
                }
                kept
            });
        };
        keep(&mut self.entries, &mut |value| !value.is_over(now));
        let wanted = self.max - self.max.div_ceil(8);
        let Some(too_many) = self.entries.len().checked_sub(wanted).filter(|n| *n > 0) else {
            return;
        };
        let mut weights: Vec<u64> = self.entries.values().map(V::weight).collect();
        let (_, &mut heaviest_to_go, _) = weights.select_nth_unstable(too_many - 1);
        // Of the heaviest that go there may be more than have to.
        let lighter = weights[..too_many].iter();
        let mut of_heaviest = lighter.filter(|weight| **weight == heaviest_to_go).count();
        keep(
            &mut self.entries,
            &mut |value| match value.weight().cmp(&heaviest_to_go) {
                Ordering::Less => false,
                Ordering::Equal if of_heaviest > 0 => {
                    of_heaviest -= 1;
                    false
                }
                Ordering::Equal | Ordering::Greater => true,
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Number(u64);

    impl Entry for Number {
        fn is_over(&self, now: u32) -> bool {
            u64::from(now) > self.0 && self.0 < 10
        }

        fn weight(&self) -> u64 {
            self.0
        }
    }

    fn full(weights: impl Iterator<Item = u64>) -> Table<u64, Number> {
        let mut table = Table::new(64);
        for weight in weights {
            table.entry(weight, 0, || Number(weight), |_, _| {});
        }
        table
    }

    #[test]
    fn the_lightest_make_room() {
        let mut table = full((0..64).map(|number| number + 100));
        assert_eq!(table.len(), 64);
        let mut forgotten = Vec::new();
        table.entry(1, 0, || Number(1), |key, _| forgotten.push(*key));
        forgotten.sort_unstable();
        assert_eq!(forgotten, (100..108).collect::<Vec<_>>());
        assert_eq!(table.len(), 57);
        assert!(table.get(&108).is_some() && table.get(&1).is_some());
        // Of equals some, and never one of them in place of somebody lighter.
        for run in 0..100 {
            let mut table = Table::new(64);
            for key in 0..64 {
                let weight = if key == run % 64 { 50 } else { 100 };
                table.entry(key, 0, || Number(weight), |_, _| {});
            }
            table.entry(1000, 0, || Number(1), |_, _| {});
            assert!(table.get(&(run % 64)).is_none());
            assert_eq!(table.len(), 57);
        }
        // Who is there already needs no room.
        let mut table = full(0..64);
        table.entry(5, 0, || unreachable!(), |_, _| unreachable!());
    }

    #[test]
    fn what_is_over_makes_room_first() {
        let mut table = full((0..10).chain(100..154));
        table.entry(1000, 20, || Number(1000), |key, _| assert!(*key < 10));
        assert_eq!(table.len(), 55);
    }

    #[test]
    fn equals_make_room_for_each_other() {
        let mut table = Table::new(64);
        for key in 0..100_000_u32 {
            table.entry(key, 0, || Number(1), |_, _| {});
            assert!(table.len() <= 64);
            assert!(table.get(&key).is_some());
        }
    }
}
