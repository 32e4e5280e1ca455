//! Holding the open block for a moment, to decide by all that was accepted and reserve in one step.
//!
//! Who reserves under a condition ("append this if nothing came between") must know everything that was reserved before
//! it. Producers reserve without a lock, so it closes the open block to them, as if it were full, waits until their
//! copies are done, looks at what is there, reserves, and opens the block again. Who comes meanwhile finds it closed and
//! waits for the lock under which blocks are opened, which the holder has. Nobody else pays for it.

#![allow(unsafe_code)]

use super::block::Sequence;
use super::reservation::{Pool, Reserved};
use super::slot::Tail;
use crate::format::BLOCK_HEADER_BYTES;
use crate::position::Lsn;
use crate::sync::{Ordering, handshake};

/// Nobody reserves while this lives. The open block, if there is one, goes on when it is dropped.
#[derive(Debug)]
pub(crate) struct Held<'a> {
    pool: &'a Pool,
    /// The word as it was, if a block was open.
    open: Option<Tail>,
}

/// What a block shows of itself.
#[derive(Debug)]
pub(crate) enum Peeked<'a> {
    /// Its memory has been given to another one.
    Gone,
    /// Somebody still copies into it.
    Unfinished,
    /// Its records, from the first one on or from where was asked for, all of them copied.
    Records { lsn: Lsn, from: u32, bytes: &'a [u8] },
}

impl Pool {
    /// Keeps everybody from reserving. The caller holds the lock under which blocks are opened, for as long as what this
    /// gives lives.
    pub(crate) fn hold(&self) -> Held<'_> {
        let mut tail = self.load_tail();
        while !tail.closed() {
            let held = tail.0 | Tail::CLOSED | Tail::HELD;
            match self.tail.0.compare_exchange_weak(tail.0, held, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return Held { pool: self, open: Some(tail) },
                Err(now) => tail = Tail(now),
            }
        }
        assert!(tail.is_closed_for_good(), "a block is held once, under the lock");
        Held { pool: self, open: None }
    }

    /// The last block in which nobody reserves any more. The caller holds the lock under which blocks are opened.
    pub(crate) fn last_closed(&self) -> Sequence {
        let tail = self.load_tail();
        let last = self.sequence(tail);
        if tail.closed() { last } else { Sequence(last.0.saturating_sub(1)) }
    }

    /// Where a block stands whose memory was not given to another one. The caller holds the lock under which blocks are
    /// opened.
    pub(crate) fn lsn_of(&self, sequence: Sequence) -> Lsn {
        Lsn(self.slot(sequence).lsn.load(Ordering::SeqCst))
    }

    /// The records of block `sequence` from offset `from` on, if all that is reserved there is copied. The block is closed
    /// or held, and the caller holds the lock under which blocks are opened, for as long as it looks.
    pub(crate) fn peek(&self, sequence: Sequence, from: u32) -> Peeked<'_> {
        let tail = self.load_tail();
        let last = self.sequence(tail);
        assert!(
            sequence < last || (sequence == last && tail.closed()),
            "what others may still reserve in is not looked at"
        );
        if last.0 - sequence.0 >= u64::from(self.blocks()) {
            return Peeked::Gone;
        }
        let slot = self.slot(sequence);
        let length = if sequence == last { tail.offset() } else { slot.final_length.load(Ordering::Relaxed) };
        handshake();
        // SeqCst, hence acquire: the producers' copies happened before their additions.
        let filled = slot.progress.0.filled.load(Ordering::SeqCst) as u32;
        if filled < length.saturating_sub(BLOCK_HEADER_BYTES) {
            return Peeked::Unfinished;
        }
        let from = from.clamp(BLOCK_HEADER_BYTES, length.max(BLOCK_HEADER_BYTES));
        let bytes = length.saturating_sub(from) as usize;
        // SAFETY: every range below `length` was given up by `Reserved::finish`, and sealing writes around them. The slot
        // is not opened again, hence not written, without the lock that the caller holds.
        let bytes = unsafe { self.region.slice(slot.start + from as usize, bytes) };
        Peeked::Records { lsn: Lsn(slot.lsn.load(Ordering::Relaxed)), from, bytes }
    }
}

impl<'a> Held<'a> {
    /// The last block that was opened.
    pub(crate) fn last(&self) -> Sequence {
        self.pool.sequence(self.pool.load_tail())
    }

    /// Reserves `bytes` in the block that is held. `None` if no block is open, or it has no room: then none is afterwards,
    /// and true is set if it was closed by this.
    pub(crate) fn claim(mut self, bytes: u32, closed: &mut bool) -> Option<Reserved<'a>> {
        debug_assert!(bytes % 8 == 0);
        let tail = self.open.take()?;
        let (pool, sequence) = (self.pool, self.pool.sequence(tail));
        let slot = pool.slot(sequence);
        let fits = tail.offset() + bytes <= slot.capacity.load(Ordering::Relaxed);
        let next = if fits { tail.with_more(bytes) } else { tail.into_closed() };
        // Else it was closed for good meanwhile.
        let swapped = self.swap(tail, next);
        *closed = swapped && !fits;
        (swapped && fits).then(|| Reserved { pool, slot, sequence, offset: tail.offset(), bytes })
    }

    /// Closes the block that is held for good, so that nobody reserves before others are opened; false if none was open.
    pub(crate) fn close(mut self) -> bool {
        let Some(tail) = self.open.take() else { return false };
        self.swap(tail, tail.into_closed())
    }

    /// Makes `next` of the word that was held.
    fn swap(&self, tail: Tail, next: Tail) -> bool {
        let held = tail.0 | Tail::CLOSED | Tail::HELD;
        self.pool.tail.0.compare_exchange(held, next.0, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Some(tail) = self.open.take() {
            let _closed_meanwhile = self.swap(tail, tail);
        }
    }
}
