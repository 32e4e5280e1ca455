//! Reservation: many producers fill one open block in parallel, without a lock.
//!
//! One word says which block is open, how much of it is reserved, and whether it is closed. A
//! producer reserves by a compare-and-swap on that word, copies and checksums its record in its
//! own range, and then adds its bytes to the block's `filled` counter. A block that is closed and
//! whose `filled` has reached its length is complete; only then is it sealed.
//!
//! Why compare-and-swap and not the fetch-and-add of most logs: the word can never overflow, the
//! final length of a closed block stands in the word itself, and a producer that is descheduled
//! between two instructions leaves nothing half closed (`docs/decisions.md`).
//!
//! Blocks are numbered by a sequence that never repeats; block `n` lies in slot `n % slots`. Opening
//! a block is the only step that needs a lock, and that is the caller's (the shard's opener).

#![allow(unsafe_code)]

use std::sync::Arc;

use super::block::{BlockPlace, Claim, Complete, Group, Last, NO_GROUP, Pending, Sequence, Urgency};
use super::buffer::{Region, SealedBytes};
use super::loan::Recalled;
use super::slot::{Slot, Tail};
use crate::format::{BLOCK_HEADER_BYTES, EpochSeed, GRANULE, round_to_granule};
use crate::position::Lsn;
use crate::sync::{AtomicU64, CacheLine, Ordering, handshake};
use crate::time::Nanos;

/// The blocks of one shard.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(super) region: Arc<Region>,
    block_bytes: u32,
    /// A sequence that is near to all that are about, which tells what the low bits in the tail word mean. It is
    /// moved so seldom that everybody has it at hand.
    sequence_hint: AtomicU64,
    pub(super) tail: CacheLine<AtomicU64>,
    /// All blocks up to this sequence are given back.
    released: CacheLine<AtomicU64>,
    slots: Box<[Slot]>,
}

impl Pool {
    /// Takes the memory for `blocks` blocks of `block_bytes`, which are numbered from the one behind `before`.
    ///
    /// # Errors
    /// Where the memory is not available.
    pub(crate) fn new(block_bytes: u32, blocks: u32, before: u64) -> std::io::Result<Pool> {
        assert!(blocks >= 2 && u64::from(block_bytes) % GRANULE == 0);
        assert!(u64::from(block_bytes) / 8 < 1 << Tail::OFFSET_BITS);
        let region = Region::map(block_bytes as usize * blocks as usize)?;
        Ok(Pool {
            region: Arc::new(region),
            block_bytes,
            sequence_hint: AtomicU64::new(before),
            tail: CacheLine(AtomicU64::new(Tail::new(before, 0, true).0)),
            released: CacheLine(AtomicU64::new(before)),
            slots: (0..blocks as usize).map(|slot| Slot::new(slot * block_bytes as usize)).collect(),
        })
    }

    pub(crate) fn region(&self) -> &Arc<Region> {
        &self.region
    }

    pub(crate) fn block_bytes(&self) -> u32 {
        self.block_bytes
    }

    pub(crate) fn blocks(&self) -> u32 {
        self.slots.len() as u32
    }

    pub(super) fn slot(&self, sequence: Sequence) -> &Slot {
        &self.slots[self.index(sequence)]
    }

    fn index(&self, sequence: Sequence) -> usize {
        (sequence.0 % self.slots.len() as u64) as usize
    }

    pub(super) fn load_tail(&self) -> Tail {
        // SeqCst: pairs with a producer's handshake with a sleeping shard thread (`shard/wait/wake_state.rs`).
        Tail(self.tail.0.load(Ordering::SeqCst))
    }

    /// The whole sequence of the block that the word is about.
    #[inline]
    pub(super) fn sequence(&self, tail: Tail) -> Sequence {
        // Relaxed: an older or a newer value is as near, see `publish`.
        Sequence(tail.sequence_near(self.sequence_hint.load(Ordering::Relaxed)))
    }

    /// Blocks in use: opened and not given back.
    #[inline]
    pub(crate) fn in_use(&self) -> u32 {
        let tail = self.sequence(Tail(self.tail.0.load(Ordering::Relaxed)));
        let released = self.released.0.load(Ordering::Relaxed);
        // The two loads are not one moment: a block given back in between can make it negative.
        tail.0.saturating_sub(released) as u32
    }

    /// Reserves `bytes` (a multiple of eight) in the open block, or closes it if they do not fit.
    #[cfg(any(test, feature = "ceiling"))]
    pub(crate) fn claim(&self, bytes: u32) -> Claim<'_> {
        self.claim_if(bytes, || true)
    }

    /// The same, but only if `may` holds once the block's state is known. So whoever sees to it that it does not, and then
    /// closes the open block, knows that nothing is reserved against that any more.
    #[inline(always)]
    pub(crate) fn claim_if(&self, bytes: u32, may: impl Fn() -> bool) -> Claim<'_> {
        debug_assert!(bytes % 8 == 0);
        // Acquire: the slot's fields, written before the word was published, are read below.
        let mut seen = self.tail.0.load(Ordering::Acquire);
        loop {
            let tail = Tail(seen);
            if !may() {
                return Claim::Stale;
            }
            if tail.closed() {
                return Claim::Closed;
            }
            let sequence = self.sequence(tail);
            let slot = self.slot(sequence);
            // If the block is reused under us the word has changed and the exchange fails.
            let fits = tail.offset() + bytes <= slot.capacity.load(Ordering::Relaxed);
            let next = if fits { tail.with_more(bytes) } else { Tail(seen | Tail::CLOSED) };
            match self.tail.0.compare_exchange_weak(seen, next.0, Ordering::SeqCst, Ordering::Acquire) {
                Ok(_) if fits => {
                    let offset = tail.offset();
                    return Claim::Taken(Reserved { pool: self, slot, sequence, offset, bytes });
                }
                Ok(_) => return Claim::Full(sequence),
                Err(now) => seen = now,
            }
        }
    }

    /// Opens the next block. The caller holds the lock under which blocks are opened.
    ///
    /// Returns false, and changes nothing, if every block is in use.
    pub(crate) fn open(&self, place: &BlockPlace) -> bool {
        self.publish(place, BLOCK_HEADER_BYTES, NO_GROUP, false, false).is_some()
    }

    /// Opens the next block with its first range reserved: `bytes` of it are the caller's to fill. The caller holds the
    /// lock under which blocks are opened.
    pub(crate) fn open_reserved(&self, place: &BlockPlace, bytes: u32) -> Option<Reserved<'_>> {
        assert!(bytes % 8 == 0);
        let sequence = self.publish(place, BLOCK_HEADER_BYTES + bytes, NO_GROUP, false, false)?;
        Some(Reserved { pool: self, slot: self.slot(sequence), sequence, offset: BLOCK_HEADER_BYTES, bytes })
    }

    /// Opens and closes a block without records, which is written for what its header says.
    pub(crate) fn open_marker(&self, place: &BlockPlace) -> bool {
        self.publish(place, BLOCK_HEADER_BYTES, NO_GROUP, true, true).is_some()
    }

    /// Opens and closes the next block in one step, for a part of a group: `length` bytes of it are
    /// the caller's to fill. The caller holds the lock under which blocks are opened.
    pub(crate) fn open_closed(
        &self,
        place: &BlockPlace,
        length: u32,
        group: Option<Group>,
    ) -> Option<Reserved<'_>> {
        assert!(length > BLOCK_HEADER_BYTES && length % 8 == 0);
        let sequence = self.publish(place, length, group, true, false)?;
        let (offset, bytes) = (BLOCK_HEADER_BYTES, length - BLOCK_HEADER_BYTES);
        Some(Reserved { pool: self, slot: self.slot(sequence), sequence, offset, bytes })
    }

    fn publish(
        &self,
        place: &BlockPlace,
        length: u32,
        group: Option<Group>,
        closed: bool,
        marker: bool,
    ) -> Option<Sequence> {
        let tail = self.load_tail();
        assert!(tail.is_closed_for_good(), "one block is open at a time");
        assert!(place.capacity <= self.block_bytes && length <= place.capacity);
        let last = self.sequence(tail);
        let sequence = last.next();
        // Acquire: whoever released the block is done with its memory.
        if sequence.0 - self.released.0.load(Ordering::Acquire) > self.slots.len() as u64 {
            return None;
        }
        if tail.offset() > 0 {
            self.slot(last).final_length.store(tail.offset(), Ordering::Relaxed);
        }
        let slot = self.slot(sequence);
        assert_eq!(slot.sealed.load(Ordering::Acquire), 0, "a block is reused after its completion only");
        slot.loan.claim();
        slot.lsn.store(place.lsn.0, Ordering::Relaxed);
        slot.previous_end.store(place.previous_end.0, Ordering::Relaxed);
        slot.capacity.store(place.capacity, Ordering::Relaxed);
        slot.epoch.store(place.epoch, Ordering::Relaxed);
        slot.seed.store(place.seed.raw(), Ordering::Relaxed);
        slot.group_before.store(group.map_or(u64::MAX, |group| group.before.0), Ordering::Relaxed);
        slot.marker.store(u32::from(marker), Ordering::Relaxed);
        slot.opened_at.store(place.opened_at.0, Ordering::Relaxed);
        slot.closed_at.store(0, Ordering::Relaxed);
        slot.progress.0.filled.store(0, Ordering::Relaxed);
        slot.progress.0.urgency.store(0, Ordering::Relaxed);
        // Far from half of the range: whoever has the word and this from different moments finds the same sequence.
        if sequence.0 - self.sequence_hint.load(Ordering::Relaxed) > Tail::SEQUENCE_MASK / 8 {
            self.sequence_hint.store(sequence.0, Ordering::Relaxed);
        }
        // SeqCst, hence release: publishes the fields above.
        self.tail.0.store(Tail::new(sequence.0, length, closed).0, Ordering::SeqCst);
        Some(sequence)
    }

    /// Closes block `sequence` if it is the open one and holds records.
    pub(crate) fn close(&self, sequence: Sequence) -> bool {
        let mut tail = self.load_tail();
        while self.sequence(tail) == sequence
            && !tail.is_closed_for_good()
            && tail.offset() > BLOCK_HEADER_BYTES
        {
            let closed = tail.into_closed().0;
            match self.tail.0.compare_exchange_weak(tail.0, closed, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return true,
                Err(now) => tail = Tail(now),
            }
        }
        false
    }

    /// Closes the open block even if it holds no record, which makes it void.
    ///
    /// Returns the sequence of the last block, which is closed now.
    pub(crate) fn close_any(&self) -> Sequence {
        let mut tail = self.load_tail();
        while !tail.is_closed_for_good() {
            let closed = tail.into_closed().0;
            match self.tail.0.compare_exchange_weak(tail.0, closed, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => break,
                Err(now) => tail = Tail(now),
            }
        }
        self.sequence(tail)
    }

    /// The caller has closed this block, at this time.
    pub(crate) fn note_closed(&self, sequence: Sequence, now: Nanos) {
        // Whoever is interrupted for so long that the slot has another block by now makes that one's time wrong: it is
        // measured by, and nothing else.
        self.slot(sequence).closed_at.store(now.0, Ordering::Relaxed);
    }

    /// When a block was closed that is not given back yet; `None` if whoever did has not said so.
    pub(crate) fn closed_at(&self, sequence: Sequence) -> Option<Nanos> {
        let closed_at = self.slot(sequence).closed_at.load(Ordering::Relaxed);
        (closed_at != 0).then_some(Nanos(closed_at))
    }

    /// When a sealed block was opened that is not given back yet, and how many records it has.
    pub(crate) fn opened_at(&self, sequence: Sequence) -> (Nanos, u32) {
        let slot = self.slot(sequence);
        let filled = slot.progress.0.filled.load(Ordering::Relaxed);
        (Nanos(slot.opened_at.load(Ordering::Relaxed)), (filled >> 32) as u32)
    }

    /// Whether no block is open.
    pub(crate) fn is_closed(&self) -> bool {
        self.load_tail().is_closed_for_good()
    }

    /// Sequence, place and length so far of the last block opened. Length 0 is none at all.
    pub(crate) fn last(&self) -> Last {
        loop {
            let tail = self.load_tail();
            let sequence = self.sequence(tail);
            let slot = self.slot(sequence);
            let last = Last {
                sequence,
                lsn: Lsn(slot.lsn.load(Ordering::SeqCst)),
                previous_end: Lsn(slot.previous_end.load(Ordering::SeqCst)),
                length: tail.offset(),
                marker: slot.marker.load(Ordering::SeqCst) == 1,
            };
            // Else the slot may have been given to another block between the loads.
            if self.sequence(self.load_tail()) == sequence {
                return last;
            }
        }
    }

    /// What waits in the open block.
    pub(crate) fn pending(&self) -> Pending {
        let tail = self.load_tail();
        let bytes = if tail.is_closed_for_good() { 0 } else { tail.offset() - BLOCK_HEADER_BYTES };
        let sequence = self.sequence(tail);
        let urgency = self.slot(sequence).progress.0.urgency.load(Ordering::Acquire);
        Pending { sequence, bytes, urgency: Urgency::from_raw(urgency) }
    }

    /// Records that are copied into the open block; `None` if no block is open.
    pub(crate) fn open_records(&self) -> Option<u32> {
        let tail = self.load_tail();
        let filled = self.slot(self.sequence(tail)).progress.0.filled.load(Ordering::SeqCst);
        (!tail.is_closed_for_good()).then_some((filled >> 32) as u32)
    }

    /// Length of a closed block; `None` while it is open or before it was.
    fn closed_length(&self, sequence: Sequence) -> Option<u32> {
        let tail = self.load_tail();
        let last = self.sequence(tail);
        if sequence < last {
            Some(self.slot(sequence).final_length.load(Ordering::Relaxed))
        } else {
            (sequence == last && tail.is_closed_for_good()).then(|| tail.offset())
        }
    }

    /// The block, if it is closed and every reserved byte of it is copied.
    pub(crate) fn complete(&self, sequence: Sequence) -> Option<Complete> {
        let length = self.closed_length(sequence)?;
        let slot = self.slot(sequence);
        handshake();
        // SeqCst, hence acquire: the producers' copies happened before their additions.
        let filled = slot.progress.0.filled.load(Ordering::SeqCst);
        let bytes = filled as u32;
        assert!(bytes <= length - BLOCK_HEADER_BYTES, "more copied than reserved");
        if bytes < length - BLOCK_HEADER_BYTES {
            return None;
        }
        let group_before = slot.group_before.load(Ordering::Relaxed);
        Some(Complete {
            lsn: Lsn(slot.lsn.load(Ordering::Relaxed)),
            previous_end: Lsn(slot.previous_end.load(Ordering::Relaxed)),
            epoch: slot.epoch.load(Ordering::Relaxed),
            length,
            records: (filled >> 32) as u32,
            urgency: Urgency::from_raw(slot.progress.0.urgency.load(Ordering::Relaxed)),
            group: (group_before != u64::MAX).then_some(Group { before: Lsn(group_before) }),
            marker: slot.marker.load(Ordering::Relaxed) == 1,
        })
    }

    /// Seals a complete block: writes its header and padding, after which nobody changes it.
    pub(crate) fn seal(self: &Arc<Pool>, sequence: Sequence, header: &[u8]) -> SealedBytes {
        let complete = self.complete(sequence).expect("only a complete block is sealed");
        assert_eq!(header.len(), BLOCK_HEADER_BYTES as usize);
        let slot = self.index(sequence);
        let was = self.slots[slot].sealed.swap(1, Ordering::AcqRel);
        assert_eq!(was, 0, "a block is sealed once");
        let padded = round_to_granule(u64::from(complete.length)) as usize;
        let start = self.slots[slot].start;
        let length = complete.length as usize;
        // Not the records between the two: somebody may look at them (`Pool::peek`).
        // SAFETY: nobody reserves the header's bytes, or those behind the length of a closed block; `sealed` admits one
        // sealer.
        let (head, padding) = unsafe {
            (
                self.region.slice_mut(start, header.len()),
                self.region.slice_mut(start + length, padded - length),
            )
        };
        head.copy_from_slice(header);
        padding.fill(0);
        self.slots[slot].padded.store(padded as u32, Ordering::Relaxed);
        self.slots[slot].loan.offer();
        // SAFETY: as above; and the slot is not opened again while `sealed` is 1.
        unsafe { SealedBytes::new(self.clone(), slot, start, padded) }
    }

    /// The sealed block that stands at `at` or continues the chain from there, if it is still in memory and
    /// far from being opened again.
    pub(crate) fn recall(&self, at: Lsn) -> Option<Recalled<'_>> {
        let last = self.sequence(self.load_tail()).0;
        let reach = self.slots.len() as u64 / 2;
        // Positions rise with the sequence, but for void blocks, in whose place the next one stands. Should
        // slots be opened anew meanwhile nothing is found, or something that is not asked for.
        let (mut low, mut high) = ((last + 1).saturating_sub(reach).max(1), last + 1);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.slot(Sequence(middle)).lsn.load(Ordering::Relaxed) < at.0 {
                low = middle + 1
            } else {
                high = middle
            }
        }
        (low..=last).take(3).find_map(|sequence| self.borrow(Sequence(sequence), at))
    }

    fn borrow(&self, sequence: Sequence, at: Lsn) -> Option<Recalled<'_>> {
        let slot = self.slot(sequence);
        let hold = slot.loan.borrow()?;
        // From here on the slot's fields are those of one sealed block, and no two have the same place.
        let stands = slot.lsn.load(Ordering::Relaxed) == at.0;
        let continues = slot.previous_end.load(Ordering::Relaxed) == at.0;
        if !stands && !continues {
            return None;
        }
        let start = slot.start;
        // SAFETY: the block is sealed, and is not opened, hence not written, while the loan is held.
        let bytes = unsafe { self.region.slice(start, slot.padded.load(Ordering::Relaxed) as usize) };
        Some(Recalled { bytes, _hold: hold })
    }

    /// Called when a [`SealedBytes`] ends.
    pub(super) fn unseal(&self, slot: usize) {
        // Release: what was read through the value happened before the next owner's writes.
        self.slots[slot].sealed.store(0, Ordering::Release);
    }

    /// Gives back all blocks up to `sequence`, whose completions are reaped. Whether there were any.
    pub(crate) fn release(&self, sequence: Sequence) -> bool {
        let before = self.released.0.swap(sequence.0, Ordering::AcqRel);
        assert!(before <= sequence.0, "blocks are given back in order");
        before < sequence.0
    }
}

/// A range of an open block that belongs to one producer until it is finished.
///
/// It must be finished: a range that is not stops its shard. Nothing between reservation and finish
/// may wait or run a user's code.
#[derive(Debug)]
#[must_use]
pub(crate) struct Reserved<'a> {
    pub(super) pool: &'a Pool,
    /// That of `sequence`: finding it takes a division, several of which are felt in what a record costs.
    pub(super) slot: &'a Slot,
    pub(super) sequence: Sequence,
    pub(super) offset: u32,
    pub(super) bytes: u32,
}

impl Reserved<'_> {
    /// The range to fill.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        let start = self.slot.start + self.offset as usize;
        // SAFETY: the exchange in `claim` (or the opener's lock) gave `offset..offset + bytes` of
        // this block to this value alone; the block is not sealed before `finish` adds the bytes.
        unsafe { self.pool.region.slice_mut(start, self.bytes as usize) }
    }

    /// Has the CPU bring near what lies behind the range: another producer's record, or this one's next.
    ///
    /// Where several fill a block no producer's writes follow each other, which is what CPUs look for when they
    /// fetch ahead by themselves (two producers, 256 B: 330 to 220 ns a record).
    #[inline]
    pub(crate) fn fetch_behind(&self) {
        // Above, the CPU has found the pattern before the record ends, and does it better.
        const MOST: u32 = 2048;
        if self.bytes <= MOST {
            let behind = self.slot.start + (self.offset + self.bytes) as usize;
            self.pool.region.prefetch(behind, self.bytes as usize);
        }
    }

    pub(crate) fn sequence(&self) -> Sequence {
        self.sequence
    }

    pub(crate) fn lsn(&self) -> Lsn {
        Lsn(self.block_lsn().0 + u64::from(self.offset))
    }

    pub(crate) fn block_lsn(&self) -> Lsn {
        Lsn(self.slot.lsn.load(Ordering::Relaxed))
    }

    pub(crate) fn epoch(&self) -> u32 {
        self.slot.epoch.load(Ordering::Relaxed)
    }

    pub(crate) fn seed(&self) -> EpochSeed {
        EpochSeed::from_raw(self.slot.seed.load(Ordering::Relaxed))
    }

    /// Says that the range is filled with `records` records; true if that made a closed block
    /// complete.
    #[inline]
    pub(crate) fn finish(self, records: u32, urgency: Urgency) -> bool {
        let slot = self.slot;
        let urgency = urgency as u32;
        if slot.progress.0.urgency.load(Ordering::Relaxed) < urgency {
            slot.progress.0.urgency.fetch_max(urgency, Ordering::Relaxed);
        }
        let add = u64::from(records) << 32 | u64::from(self.bytes);
        // SeqCst, hence release: publishes the copy and the urgency with the count; and orders this
        // before the look at whether the shard's thread sleeps.
        let before = slot.progress.0.filled.fetch_add(add, Ordering::SeqCst);
        handshake();
        let filled = before as u32 + self.bytes;
        self.pool.closed_length(self.sequence).is_some_and(|length| filled == length - BLOCK_HEADER_BYTES)
    }
}
