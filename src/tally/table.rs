//! Keys and values, in the order in which they came, found by hash. Keys lie behind each other in one
//! piece of memory: a new key costs no allocation of its own, and going through all of them is fast.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

#[derive(Clone, Debug)]
struct Slot<V> {
    /// RetentionPin, so that neither growing nor moving a value to another table reads the key again.
    hash: u64,
    key_at: u32,
    key_bytes: u32,
    value: V,
}

/// A map from keys to values that iterates in the order of insertion.
#[derive(Clone, Debug)]
pub(super) struct Table<V> {
    keys: Vec<u8>,
    slots: Vec<Slot<V>>,
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl<V> Table<V> {
    pub(super) fn new(hasher: &DefaultHashBuilder) -> Table<V> {
        Table { keys: Vec::new(), slots: Vec::new(), index: HashTable::new(), hasher: hasher.clone() }
    }

    /// Bytes that a key takes, about.
    pub(super) const fn cost(key: &[u8]) -> usize {
        key.len() + size_of::<Slot<V>>() + 8
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    fn key_of<'k>(keys: &'k [u8], slot: &Slot<V>) -> &'k [u8] {
        &keys[slot.key_at as usize..][..slot.key_bytes as usize]
    }

    fn find(&self, hash: u64, key: &[u8]) -> Option<usize> {
        let is = |&at: &u32| {
            let slot = &self.slots[at as usize];
            slot.hash == hash && Self::key_of(&self.keys, slot) == key
        };
        self.index.find(hash, is).map(|&at| at as usize)
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<&V> {
        self.find(self.hasher.hash_one(key), key).map(|at| &self.slots[at].value)
    }

    /// The value of a key, or the right to give it one.
    pub(super) fn entry<'a>(&'a mut self, key: &'a [u8]) -> Entry<'a, V> {
        let hash = self.hasher.hash_one(key);
        match self.find(hash, key) {
            Some(at) => Entry::Old(&mut self.slots[at].value),
            None => Entry::New(Vacant { table: self, hash, key }),
        }
    }

    /// Adds to the value of a key, or gives it one. Gives what it comes to, and whether the key is new.
    pub(super) fn add(&mut self, key: &[u8], value: &V, merge: impl FnOnce(&mut V, &V)) -> (&V, bool)
    where
        V: Clone,
    {
        self.add_hashed(self.hasher.hash_one(key), key, value, merge)
    }

    /// Adds what another table, with the same hasher, has at a place.
    pub(super) fn add_from(
        &mut self,
        other: &Table<V>,
        at: usize,
        merge: impl FnOnce(&mut V, &V),
    ) -> (&V, bool)
    where
        V: Clone,
    {
        let slot = &other.slots[at];
        self.add_hashed(slot.hash, Self::key_of(&other.keys, slot), &slot.value, merge)
    }

    fn add_hashed(&mut self, hash: u64, key: &[u8], value: &V, merge: impl FnOnce(&mut V, &V)) -> (&V, bool)
    where
        V: Clone,
    {
        match self.find(hash, key) {
            Some(at) => {
                let own = &mut self.slots[at].value;
                merge(own, value);
                (own, false)
            }
            None => {
                Vacant { table: self, hash, key }.insert(value.clone());
                (&self.slots[self.slots.len() - 1].value, true)
            }
        }
    }

    /// The value of the key that another table, with the same hasher, has at a place.
    pub(super) fn get_from(&self, other: &Table<V>, at: usize) -> Option<&V> {
        let slot = &other.slots[at];
        self.find(slot.hash, Self::key_of(&other.keys, slot)).map(|at| &self.slots[at].value)
    }

    /// By the order in which they came.
    pub(super) fn nth(&self, at: usize) -> (&[u8], &V) {
        let slot = &self.slots[at];
        (Self::key_of(&self.keys, slot), &slot.value)
    }

    /// Keeps what `keep` wants.
    pub(super) fn retain(&mut self, keep: impl Fn(&[u8]) -> bool)
    where
        V: Clone,
    {
        let mut kept = Table::new(&self.hasher);
        for (key, value) in self.iter().filter(|(key, _)| keep(key)) {
            kept.add(key, value, |_, _| unreachable!("keys are there once"));
        }
        *self = kept;
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], &V)> {
        self.slots.iter().map(|slot| (Self::key_of(&self.keys, slot), &slot.value))
    }

    /// Forgets everything and keeps the memory.
    pub(super) fn clear(&mut self) {
        self.keys.clear();
        self.slots.clear();
        self.index.clear();
    }
}

/// See [`Table::entry`].
pub(super) enum Entry<'a, V> {
    Old(&'a mut V),
    New(Vacant<'a, V>),
}

/// A key that has no value yet.
pub(super) struct Vacant<'a, V> {
    table: &'a mut Table<V>,
    hash: u64,
    key: &'a [u8],
}

impl<V> Vacant<'_, V> {
    pub(super) fn insert(self, value: V) {
        let Vacant { table, hash, key } = self;
        let at = u32::try_from(table.slots.len()).expect("a tally is bounded far below this many keys");
        let key_at = u32::try_from(table.keys.len()).expect("... and bytes");
        table.keys.extend_from_slice(key);
        table.slots.push(Slot { hash, key_at, key_bytes: key.len() as u32, value });
        let slots = &table.slots;
        table.index.insert_unique(hash, at, |&at| slots[at as usize].hash);
    }
}
