//! A block's memory lent to readers once nobody changes it any more, until it is opened anew.
//!
//! Readers hold a loan for the length of a copy and no longer. Whoever opens the block waits for them,
//! which hardly ever happens: only blocks that are far from being opened again are lent
//! ([`Pool::recall`](super::Pool::recall)).

use std::fmt;
use std::ops::Deref;

use crate::sync::{AtomicU32, Ordering, pause};

/// Who may touch a block's memory: its producers and sealer alone, or any number of readers.
#[derive(Debug)]
pub(super) struct Loan(AtomicU32);

/// Set while producers and the sealer own the block; below it, the number of readers.
const OWNED: u32 = 1 << 31;

impl Loan {
    /// Of a block that was never opened.
    pub(super) fn new() -> Loan {
        Loan(AtomicU32::new(OWNED))
    }

    /// Takes the block from readers; waits for those that are copying.
    pub(super) fn claim(&self) {
        // A void block was never lent, and is owned still.
        while self.0.load(Ordering::Relaxed) != OWNED {
            // Acquire: the readers are done before the next owner writes.
            if self.0.compare_exchange(0, OWNED, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                return;
            }
            pause();
        }
    }

    /// Nobody writes the block any more: it can be lent.
    pub(super) fn offer(&self) {
        // Release: the records, the header and the slot's fields before the first reader's look.
        let before = self.0.swap(0, Ordering::Release);
        assert_eq!(before, OWNED, "a block is sealed by its owner");
    }

    /// Borrows the block, if it is available.
    pub(super) fn borrow(&self) -> Option<Borrowed<'_>> {
        let mut seen = self.0.load(Ordering::Relaxed);
        while seen & OWNED == 0 {
            // Acquire: pairs with `offer`.
            match self.0.compare_exchange_weak(seen, seen + 1, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Some(Borrowed(self)),
                Err(now) => seen = now,
            }
        }
        None
    }
}

/// A reader's hold on a block.
#[derive(Debug)]
pub(super) struct Borrowed<'a>(&'a Loan);

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        // Release: what was read happened before the next owner's writes.
        let before = self.0.0.fetch_sub(1, Ordering::Release);
        debug_assert!(before & OWNED == 0 && before > 0);
    }
}

/// A sealed block that is still in memory, for a short while.
pub(crate) struct Recalled<'a> {
    pub(super) bytes: &'a [u8],
    /// Given up after `bytes` was last used.
    pub(super) _hold: Borrowed<'a>,
}

impl Deref for Recalled<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes
    }
}

impl fmt::Debug for Recalled<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recalled").field("bytes", &self.bytes.len()).finish_non_exhaustive()
    }
}

#[cfg(all(test, sawmill_loom))]
mod loom_tests {
    use super::*;
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;

    struct Block {
        loan: Loan,
        bytes: UnsafeCell<u32>,
    }

    // SAFETY: what the model is to show; loom finds accesses that overlap.
    unsafe impl Sync for Block {}

    /// Is a block ever read while it is written, or read before it was?
    #[test]
    fn loom_readers_and_owners_keep_apart() {
        loom::model(|| {
            let block = Arc::new(Block { loan: Loan::new(), bytes: UnsafeCell::new(0) });
            let readers: Vec<_> = (0..2)
                .map(|_| {
                    let block = block.clone();
                    loom::thread::spawn(move || {
                        if let Some(_hold) = block.loan.borrow() {
                            // SAFETY: as above.
                            let seen = block.bytes.with(|bytes| unsafe { *bytes });
                            assert!(seen == 1 || seen == 2);
                        }
                    })
                })
                .collect();
            for life in 1..=2 {
                block.loan.claim();
                // SAFETY: as above.
                block.bytes.with_mut(|bytes| unsafe { *bytes = life });
                block.loan.offer();
            }
            for reader in readers {
                reader.join().unwrap();
            }
        });
    }
}
