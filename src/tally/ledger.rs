//! Where updates are accumulated: a table a core, taken together by each flush, and behind them the totals.
//!
//! Performs no I/O and reads no clock. A value passes through four layers: a stripe (accumulated on one core),
//! `taken` (by a flush, still a table a core), `pending` (each key once, on its way to the log), and the
//! totals (durable). It is moved from one to the next under the lock of the layers, which readers hold
//! while they add the layers up; so they see every update once.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use hashbrown::DefaultHashBuilder;

use super::fold::Fold;
use super::table::{Entry, Table};
use super::totals::{Changes, Totals, sum};
use crate::sync::{CacheLine, lock, thread_number};

/// Above the number of cores, threads share stripes, which costs little.
const STRIPES: usize = 64;

/// What the ledger may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Bytes of what is not flushed.
    pub bytes: usize,
    /// Keys, all in all.
    pub keys: usize,
}

/// Why an update was not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Too much is not flushed.
    Full,
    /// As many keys as there may be.
    Keys,
    Overflow,
    Shut,
}

/// An update that was counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gathered {
    /// The flush that will carry it.
    pub flush: u64,
    /// The first one of its stripe since the last flush: now there is something to flush.
    pub is_first: bool,
    /// So much is accumulated that a flush should come early.
    pub is_much: bool,
}

#[derive(Debug)]
struct Stripe<F: Fold> {
    table: Table<F::Value>,
    flush: u64,
    /// What it has taken of the bound.
    bytes: usize,
}

/// What a flush took.
#[derive(Debug)]
pub(super) struct Taken<F: Fold> {
    flush: u64,
    tables: Vec<Table<F::Value>>,
    bytes: usize,
    keys: usize,
}

#[derive(Debug)]
struct Layers<F: Fold> {
    /// Number of the flush that will take what is accumulated now.
    accumulating: u64,
    taken: Option<Arc<Taken<F>>>,
    pending: Option<Arc<Changes<F>>>,
}

/// All updates of a tally, from the moment they are counted until they are in the durable totals.
#[derive(Debug)]
pub(super) struct Ledger<F: Fold> {
    stripes: Box<[CacheLine<Mutex<Stripe<F>>>]>,
    layers: RwLock<Layers<F>>,
    totals: Totals<F>,
    bounds: Bounds,
    hasher: DefaultHashBuilder,
    /// Of what is accumulated and not flushed.
    bytes: AtomicUsize,
    keys_held: AtomicUsize,
    /// In the totals.
    keys: AtomicUsize,
    /// Some value is so near to an overflow that each update is checked against its key's total.
    strict: AtomicBool,
    shut: AtomicBool,
}

impl<F: Fold> Ledger<F> {
    pub(super) fn new(bounds: Bounds) -> Ledger<F> {
        let hasher = DefaultHashBuilder::default();
        let cores = crate::sys::cores();
        let stripes = cores.next_power_of_two().min(STRIPES);
        let stripe = || Stripe { table: Table::new(&hasher), flush: 1, bytes: 0 };
        Ledger {
            stripes: (0..stripes).map(|_| CacheLine(Mutex::new(stripe()))).collect(),
            layers: RwLock::new(Layers { accumulating: 1, taken: None, pending: None }),
            totals: Totals::new(bounds.keys, &hasher),
            bounds,
            hasher,
            bytes: AtomicUsize::new(0),
            keys_held: AtomicUsize::new(0),
            keys: AtomicUsize::new(0),
            strict: AtomicBool::new(false),
            shut: AtomicBool::new(false),
        }
    }

    /// What was read from the log is all in: `flush` was the last one.
    pub(super) fn begin(&self, flush: u64) {
        let mut layers = self.layers.write().unwrap_or_else(PoisonError::into_inner);
        layers.accumulating = flush + 1;
        for stripe in &self.stripes {
            lock(&stripe.0).flush = flush + 1;
        }
        let mut keys = 0;
        self.totals.for_each(None, |_, value| {
            keys += 1;
            if !F::is_roomy(value) {
                self.strict.store(true, Ordering::SeqCst);
            }
        });
        self.keys.store(keys, Ordering::SeqCst);
    }

    pub(super) fn totals(&self) -> &Totals<F> {
        &self.totals
    }

    /// Nothing is counted any more once this returns.
    pub(super) fn shut(&self) {
        self.shut.store(true, Ordering::SeqCst);
        // Whoever is counting now is done when its stripe's lock was had.
        self.stripes.iter().for_each(|stripe| drop(lock(&stripe.0)));
    }

    fn own_stripe(&self) -> usize {
        thread_number() as usize & (self.stripes.len() - 1)
    }

    /// Counts a change.
    #[inline]
    pub(super) fn update(&self, key: &[u8], change: F::Value) -> Result<Gathered, Refusal> {
        {
            let mut stripe = lock(&self.stripes[self.own_stripe()].0);
            // Asked under the lock: whoever sets these has held it since.
            if self.shut.load(Ordering::Relaxed) {
                return Err(Refusal::Shut);
            }
            if !self.strict.load(Ordering::Relaxed) && F::is_roomy(&change) {
                if let Ok(result) = self.accumulate(&mut stripe, key, &change) {
                    return result;
                }
            }
        }
        self.update_strictly(key, &change)
    }

    /// Adds to what a stripe has; refuses what needs memory beyond the bound. `Err(())` if what is there is
    /// near an overflow.
    #[inline]
    fn accumulate(
        &self,
        stripe: &mut Stripe<F>,
        key: &[u8],
        change: &F::Value,
    ) -> Result<Result<Gathered, Refusal>, ()> {
        let is_first = stripe.table.is_empty();
        let flush = stripe.flush;
        let more = match stripe.table.entry(key) {
            Entry::Old(own) => {
                if !F::is_roomy(own) {
                    return Err(());
                }
                let before = F::heap_bytes(own);
                F::merge(own, change);
                F::heap_bytes(own).saturating_sub(before)
            }
            Entry::New(vacant) => {
                let cost = Table::<F::Value>::cost(key) + F::heap_bytes(change);
                if self.bytes.load(Ordering::Relaxed) + cost > self.bounds.bytes {
                    return Ok(Err(Refusal::Full));
                }
                if let Err(refusal) = self.admit_key(key) {
                    return Ok(Err(refusal));
                }
                vacant.insert(change.clone());
                self.keys_held.fetch_add(1, Ordering::Relaxed);
                cost
            }
        };
        let mut is_much = false;
        if more > 0 {
            stripe.bytes += more;
            let bytes = self.bytes.fetch_add(more, Ordering::Relaxed) + more;
            is_much = bytes > self.bounds.bytes / 2;
        }
        Ok(Ok(Gathered { flush, is_first, is_much }))
    }

    /// Whether another key may come, which may be an old one that is new in its stripe.
    fn admit_key(&self, key: &[u8]) -> Result<(), Refusal> {
        let known = self.keys.load(Ordering::Relaxed);
        if known + self.keys_held.load(Ordering::Relaxed) < self.bounds.keys || self.totals.get(key).is_some()
        {
            return Ok(());
        }
        // Those that are held may be old ones: the next flush tells.
        Err(if known >= self.bounds.keys { Refusal::Keys } else { Refusal::Full })
    }

    /// Counts a change if the key's total, of all layers and stripes, can be told with it.
    #[cold]
    fn update_strictly(&self, key: &[u8], change: &F::Value) -> Result<Gathered, Refusal> {
        let layers = self.layers.read().unwrap_or_else(PoisonError::into_inner);
        let mut stripes: Vec<MutexGuard<'_, Stripe<F>>> =
            self.stripes.iter().map(|stripe| lock(&stripe.0)).collect();
        if self.shut.load(Ordering::Relaxed) {
            return Err(Refusal::Shut);
        }
        let mut total = self.durable_and_taken(&layers, key);
        for stripe in &stripes {
            total = sum::<F>(total.as_ref(), stripe.table.get(key));
        }
        let total = sum::<F>(total.as_ref(), Some(change)).expect("the change is there");
        if F::total(&total).is_none() {
            return Err(Refusal::Overflow);
        }
        // From here on nobody adds without looking.
        self.strict.store(true, Ordering::SeqCst);
        let stripe = &mut stripes[self.own_stripe()];
        let is_first = stripe.table.is_empty();
        let flush = stripe.flush;
        if let Entry::Old(own) = stripe.table.entry(key) {
            F::merge(own, change);
            return Ok(Gathered { flush, is_first, is_much: false });
        }
        self.accumulate(stripe, key, change).expect("the key is new there")
    }

    fn durable_and_taken(&self, layers: &Layers<F>, key: &[u8]) -> Option<F::Value> {
        let mut total = self.totals.get_with(key, layers.pending.as_deref());
        for table in layers.taken.iter().flat_map(|taken| &taken.tables) {
            total = sum::<F>(total.as_ref(), table.get(key));
        }
        total
    }

    /// The value of a key with all that was counted.
    pub(super) fn get(&self, key: &[u8]) -> Option<F::Value> {
        let layers = self.layers.read().unwrap_or_else(PoisonError::into_inner);
        let mut total = self.durable_and_taken(&layers, key);
        for stripe in &self.stripes {
            total = sum::<F>(total.as_ref(), lock(&stripe.0).table.get(key));
        }
        total
    }

    /// All keys and their values, with all that was counted.
    pub(super) fn snapshot(&self) -> Vec<(Vec<u8>, F::Value)> {
        let layers = self.layers.read().unwrap_or_else(PoisonError::into_inner);
        let mut all = Table::new(&self.hasher);
        let mut add = |key: &[u8], value: &F::Value| {
            all.add(key, value, F::merge);
        };
        self.totals.for_each(layers.pending.as_deref(), &mut add);
        for table in layers.taken.iter().flat_map(|taken| &taken.tables) {
            table.iter().for_each(|(key, value)| add(key, value));
        }
        for stripe in &self.stripes {
            lock(&stripe.0).table.iter().for_each(|(key, value)| add(key, value));
        }
        all.iter().map(|(key, value)| (key.to_vec(), value.clone())).collect()
    }

    /// The flush that must be durable for all that was counted by now to be.
    pub(super) fn target(&self) -> u64 {
        let layers = self.layers.read().unwrap_or_else(PoisonError::into_inner);
        let waits = self.stripes.iter().any(|stripe| !lock(&stripe.0).table.is_empty());
        if waits { layers.accumulating } else { layers.accumulating - 1 }
    }

    /// Takes what was accumulated, if there is anything or if it must; one flush at a time.
    pub(super) fn take(&self, anyway: bool, spare: &mut Vec<Table<F::Value>>) -> Option<Arc<Taken<F>>> {
        let mut layers = self.layers.write().unwrap_or_else(PoisonError::into_inner);
        assert!(layers.taken.is_none() && layers.pending.is_none(), "one flush at a time");
        let is_empty = self.stripes.iter().all(|stripe| lock(&stripe.0).table.is_empty());
        if is_empty && !anyway {
            return None;
        }
        let flush = layers.accumulating;
        layers.accumulating += 1;
        let mut taken = Taken { flush, tables: Vec::new(), bytes: 0, keys: 0 };
        for stripe in &self.stripes {
            let mut stripe = lock(&stripe.0);
            stripe.flush = flush + 1;
            taken.bytes += std::mem::take(&mut stripe.bytes);
            if !stripe.table.is_empty() {
                let spare = spare.pop().unwrap_or_else(|| Table::new(&self.hasher));
                let table = std::mem::replace(&mut stripe.table, spare);
                taken.keys += table.len();
                taken.tables.push(table);
            }
        }
        let taken = Arc::new(taken);
        layers.taken = Some(taken.clone());
        Some(taken)
    }

    /// Empty tables that have room already, out of what a flush took and is done with.
    pub(super) fn give_back(taken: Arc<Taken<F>>) -> Vec<Table<F::Value>> {
        // A reader that still holds it keeps it.
        let mut tables = Arc::into_inner(taken).map_or_else(Vec::new, |taken| taken.tables);
        tables.iter_mut().for_each(Table::clear);
        tables
    }

    /// Each key's changes added up.
    pub(super) fn merge(&self, taken: &Taken<F>) -> Arc<Changes<F>> {
        let largest = taken.tables.iter().enumerate().max_by_key(|(_, table)| table.len());
        let mut all = largest.map_or_else(|| Table::new(&self.hasher), |(_, table)| table.clone());
        let largest = largest.map(|(index, _)| index);
        for (_, table) in taken.tables.iter().enumerate().filter(|(index, _)| Some(*index) != largest) {
            for at in 0..table.len() {
                all.add_from(table, at, F::merge);
            }
        }
        let changes = Arc::new(self.totals.changes(taken.flush, all));
        let mut layers = self.layers.write().unwrap_or_else(PoisonError::into_inner);
        layers.taken = None;
        layers.pending = Some(changes.clone());
        changes
    }

    /// The changes are durable.
    pub(super) fn apply(&self, taken: &Taken<F>, changes: &Changes<F>) {
        let (new, roomy) = self.totals.apply(changes);
        self.keys.fetch_add(new, Ordering::Relaxed);
        self.keys_held.fetch_sub(taken.keys, Ordering::Relaxed);
        self.bytes.fetch_sub(taken.bytes, Ordering::Relaxed);
        if !roomy {
            self.strict.store(true, Ordering::SeqCst);
        }
        self.layers.write().unwrap_or_else(PoisonError::into_inner).pending = None;
    }
}
