//! The append path: reserve, copy and checksum in the caller's own thread, then wake the shard if it must be.

mod group;
mod hand_over;
#[cfg(any(test, feature = "simulation"))]
mod interrupted;
pub(in crate::shard) mod opener;
mod overload;
mod queueing;
mod terms;

pub(crate) use overload::about_encoded;
pub(crate) use terms::LastBelow;

use std::io::IoSlice;

use crate::admission;
use crate::error::{AppendError, Unavailable};
use crate::format::{
    BLOCK_HEADER_BYTES, RECORD_ID_BYTES, RecordFlags, RecordHeader, encode_record, encoded_bytes,
};
use crate::pool::{Claim, Reserved, Sequence, Urgency};
use crate::position::{Lsn, Position};
use crate::router::Turn;
use crate::shard::append::opener::{NoRoom, part_flags};
use crate::shard::engine::{Engine, Placed, Refused, Target};
use crate::shard::wait::wake_state::Waking;
use crate::sync::lock;
use crate::write::{Durability, Priority};
use crate::write::{Keys, List, Payload, joined};

/// Records for one shard, to be accepted together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Batch<'a> {
    pub keys: Keys<'a>,
    /// Of the batch as a whole: the first record carries it.
    pub id: Option<u128>,
    pub payloads: List<'a>,
}

/// How something is to be accepted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AppendMode {
    pub priority: Priority,
    pub durability: Durability,
    /// The caller may be given the duty to write its own block.
    pub may_lead: bool,
    /// When the shard was looked up: else it must be looked up again.
    pub turn: Turn,
}

impl AppendMode {
    /// By a caller that does not lead.
    #[inline]
    pub(crate) fn without_lead(priority: Priority, durability: Durability) -> AppendMode {
        AppendMode { priority, durability, may_lead: false, turn: Turn::ANY }
    }

    /// By a caller that may lead, if there is something to wait for.
    #[inline]
    pub(crate) fn may_lead(priority: Priority, durability: Durability) -> AppendMode {
        AppendMode { priority, durability, may_lead: durability > Durability::Buffered, turn: Turn::ANY }
    }

    /// In the shard that was looked up in this turn.
    #[inline]
    pub(crate) fn at(self, turn: Turn) -> AppendMode {
        AppendMode { turn, ..self }
    }

    /// How soon the block must go out.
    #[inline]
    fn urgency(self) -> Urgency {
        match self.durability {
            Durability::Buffered => Urgency::Background,
            Durability::Written => Urgency::Written,
            Durability::Synced => Urgency::Synced,
        }
    }

    /// What is waited for, once it ends at `lsn` in this block.
    #[inline]
    fn target(self, lsn: Lsn, sequence: Sequence) -> Target {
        Target { lsn, sequence, durability: self.durability }
    }
}

impl Batch<'_> {
    /// Bytes of keys, ids and payloads.
    pub(crate) fn bytes(&self) -> u64 {
        self.bodies().sum()
    }

    /// Of each record the bytes of key, id and payload.
    fn bodies(&self) -> impl Iterator<Item = u64> + '_ {
        let body = move |(index, payload): (usize, &[u8])| {
            let id = self.id_of(index).map_or(0, |id| id.len());
            (self.keys.get(index).len() + id + payload.len()) as u64
        };
        self.payloads.iter().enumerate().map(body)
    }

    fn id_of(&self, index: usize) -> Option<[u8; RECORD_ID_BYTES]> {
        self.id.filter(|_| index == 0).map(u128::to_le_bytes)
    }

    /// The header of a part of a record, of `whole` bytes.
    fn header(&self, index: usize, whole: u32, body_bytes: u32, flags: RecordFlags) -> RecordHeader {
        let flags = if self.id_of(index).is_some() { flags.with(RecordFlags::ID) } else { flags };
        RecordHeader { body_bytes, flags, ..RecordHeader::whole(self.keys.get(index).len() as u16, whole) }
    }
}

impl Engine {
    // Appending.

    /// Blocks that records of a priority may take, of all. What they may have in use while records wait for too long is
    /// less ([`Gate::blocks_max`](crate::admission::Gate::blocks_max)), and is looked at before a record is let in: a
    /// batch that was let in may take all that it needs.
    pub(in crate::shard) fn blocks_max(&self, priority: Priority) -> u32 {
        admission::blocks_max(priority, self.pool.blocks())
    }

    /// Whether there is enough room to offer it to waiters of this priority.
    pub(in crate::shard) fn admits(&self, priority: Priority) -> bool {
        admission::admits(self.gate.blocks_max(priority), self.pool.in_use(), self.pool.blocks())
    }

    /// Accepts a batch if there is room now. The batch is not empty.
    ///
    /// Positions of all records are pushed to `positions` if it is given; memory for them is taken once there is room.
    pub(crate) fn put(
        &self,
        batch: &Batch<'_>,
        mode: AppendMode,
        positions: Option<&mut Vec<Position>>,
    ) -> Result<Placed, Refused> {
        let Some(need) = self.check_size(batch)? else {
            return self.put_group(batch, mode, positions);
        };
        let reserved = self.reserve(need, mode)?;
        Ok(self.fill(reserved, batch, mode, positions))
    }

    /// Writes a batch into the range that was reserved for it.
    fn fill(
        &self,
        mut reserved: Reserved<'_>,
        batch: &Batch<'_>,
        mode: AppendMode,
        mut positions: Option<&mut Vec<Position>>,
    ) -> Placed {
        let (lsn, block) = (reserved.lsn(), reserved.block_lsn());
        let position = Position::new(self.id, reserved.epoch(), lsn, block);
        let mut offset = 0;
        let count = batch.payloads.len();
        positions.iter_mut().for_each(|positions| positions.reserve_exact(count));
        for (index, (payload, body)) in batch.payloads.iter().zip(batch.bodies()).enumerate() {
            let at = Lsn(lsn.0 + offset as u64);
            if let Some(positions) = &mut positions {
                positions.push(Position::new(self.id, reserved.epoch(), at, block));
            }
            let body = body as u32;
            let bytes = encoded_bytes(body) as usize;
            let flags = part_flags(index, count, 0..body, body);
            let seed = reserved.seed();
            let place = &mut reserved.bytes_mut()[offset..offset + bytes];
            let header = batch.header(index, body, body, flags);
            let id = batch.id_of(index);
            encode_record(place, seed, at, header, [batch.keys.get(index), bytes_of(id.as_ref()), payload]);
            offset += bytes;
        }
        let target = mode.target(lsn, reserved.sequence());
        let ready = reserved.finish(count as u32, mode.urgency());
        let must_lead = self.appended(mode.urgency(), ready, mode.may_lead);
        Placed { position, target, must_lead, is_duplicate: false }
    }

    /// Accepts a record in this call if there is room and nobody waits for it; `None` where the slow way must be
    /// taken, which tells why.
    #[inline(always)]
    pub(crate) fn accept(&self, key: &[u8], payload: &Payload<'_>, mode: AppendMode) -> Option<Placed> {
        // Taken apart here, into what goes through registers: a reference would keep all of a `Write` in memory.
        match payload {
            Payload::Whole(payload) => self.accept_whole(key, payload, mode),
            Payload::Parts(parts) => self.accept_parts(key, parts, mode),
        }
    }

    #[inline(never)]
    fn accept_whole(&self, key: &[u8], payload: &[u8], mode: AppendMode) -> Option<Placed> {
        let body = key.len() + payload.len();
        if !self.in_opening_process() || !self.admission.is_clear() || !self.fits(key, body) {
            return None;
        }
        self.put_body(key, body, [key, payload], mode).ok()
    }

    fn accept_parts(&self, key: &[u8], parts: &[IoSlice<'_>], mode: AppendMode) -> Option<Placed> {
        if !self.in_opening_process() || !self.admission.is_clear() {
            return None;
        }
        self.put_parts(key, parts, mode).ok()
    }

    /// Accepts one record if there is room now: what [`put`](Engine::put) does.
    pub(crate) fn put_payload(
        &self,
        key: &[u8],
        payload: &Payload<'_>,
        mode: AppendMode,
    ) -> Result<Placed, Refused> {
        match payload {
            Payload::Whole(payload) => self.put_one(key, payload, mode),
            Payload::Parts(parts) => self.put_parts(key, parts, mode),
        }
    }

    fn put_one(&self, key: &[u8], payload: &[u8], mode: AppendMode) -> Result<Placed, Refused> {
        let body = key.len() + payload.len();
        if self.fits(key, body) {
            return self.put_body(key, body, [key, payload], mode);
        }
        let one = [payload];
        self.put(&Batch { keys: Keys::One(key), id: None, payloads: List::Slices(&one) }, mode, None)
    }

    fn put_parts(&self, key: &[u8], parts: &[IoSlice<'_>], mode: AppendMode) -> Result<Placed, Refused> {
        let body = key.len() + parts.iter().map(|part| part.len()).sum::<usize>();
        if self.fits(key, body) {
            let all = std::iter::once(key).chain(parts.iter().map(|part| &**part));
            return self.put_body(key, body, all, mode);
        }
        // Refused before it is put together, if it is too large for that.
        self.check_bytes(body as u64)?;
        self.put_one(key, &joined(parts), mode)
    }

    /// Whether a record fits into a block, as nearly all do.
    #[inline]
    fn fits(&self, key: &[u8], body: usize) -> bool {
        body <= self.limits.one_block_bytes && key.len() <= usize::from(u16::MAX)
    }

    /// A record that fits into a block: its body, key first, in parts.
    #[inline(always)]
    pub(in crate::shard) fn put_body<'b>(
        &self,
        key: &[u8],
        body: usize,
        parts: impl IntoIterator<Item = &'b [u8]>,
        mode: AppendMode,
    ) -> Result<Placed, Refused> {
        let urgency = mode.urgency();
        let mut reserved = self.reserve(encoded_bytes(body as u32), mode)?;
        reserved.fetch_behind();
        let (lsn, sequence, seed) = (reserved.lsn(), reserved.sequence(), reserved.seed());
        let position = Position::new(self.id, reserved.epoch(), lsn, reserved.block_lsn());
        let header = RecordHeader::whole(key.len() as u16, body as u32);
        encode_record(reserved.bytes_mut(), seed, lsn, header, parts);
        let ready = reserved.finish(1, urgency);
        let must_lead = self.appended(urgency, ready, mode.may_lead);
        Ok(Placed { position, target: mode.target(lsn, sequence), must_lead, is_duplicate: false })
    }

    /// Takes a range of the open block, or of the next one.
    #[inline(always)]
    fn reserve(&self, need: u32, mode: AppendMode) -> Result<Reserved<'_>, Refused> {
        if self.pool.in_use() > self.gate.blocks_max(mode.priority) {
            return Err(Refused::NoRoom);
        }
        loop {
            match self.pool.claim_if(need, || self.router.is_current(mode.turn)) {
                Claim::Taken(reserved) => return Ok(reserved),
                Claim::Full(sequence) => self.closed_full(sequence),
                Claim::Closed => {}
                Claim::Stale => return Err(Refused::Moved),
            }
            self.open_block(need, self.blocks_max(mode.priority))?;
        }
    }

    /// The open block was full and is closed.
    #[cold]
    fn closed_full(&self, sequence: Sequence) {
        self.pool.note_closed(sequence, self.device.now());
        self.appended(Urgency::Background, true, false);
    }

    /// Whether a record or batch may be so large.
    fn check_bytes(&self, bytes: u64) -> Result<(), Refused> {
        if bytes <= self.limits.record_bytes {
            return Ok(());
        }
        let (limit, limit_bytes) = (self.limits.record_limit, self.limits.record_bytes);
        Err(Refused::Error(AppendError::TooLarge { bytes, limit, limit_bytes }))
    }

    /// Bytes that the batch takes in a block; `None` if it does not fit into one.
    fn check_size(&self, batch: &Batch<'_>) -> Result<Option<u32>, Refused> {
        let longest = batch.keys.iter(batch.payloads.len()).map(<[u8]>::len).max().unwrap_or(0);
        if longest > usize::from(u16::MAX) {
            let (bytes, limit_bytes) = (longest as u64, u64::from(u16::MAX));
            let limit = "the format's key length";
            return Err(Refused::Error(AppendError::TooLarge { bytes, limit, limit_bytes }));
        }
        let headers = 24 * (batch.payloads.len() as u64 - 1);
        self.check_bytes(batch.bytes() + headers)?;
        let need: u64 = batch.bodies().map(|body| u64::from(encoded_bytes(body as u32))).sum();
        let fits = need <= u64::from(self.pool.block_bytes() - BLOCK_HEADER_BYTES);
        Ok(fits.then_some(need as u32))
    }

    /// Opens the next block, unless somebody else just did.
    #[cold]
    pub(in crate::shard) fn open_block(&self, need: u32, blocks_max: u32) -> Result<(), Refused> {
        let opened = {
            let mut opener = lock(&self.opener);
            let opened = match () {
                () if self.life.has_failed() => Err(NoRoom::Shut),
                () if !self.pool.is_closed() => Ok(()),
                () if self.life.is_shut() => Err(NoRoom::Shut),
                () => opener.open(&self.pool, need, blocks_max, self.device.now()),
            };
            if opened.is_ok() {
                self.look_ahead(&opener);
            }
            opened
        };
        opened.map_err(|reason| self.refused(reason))
    }

    fn refused(&self, reason: NoRoom) -> Refused {
        match reason {
            NoRoom::Memory => Refused::NoRoom,
            NoRoom::Shut => Refused::Error(self.shut_error().into()),
            NoRoom::Segment { bytes } => {
                let error = self.segment_error();
                self.ask_for_segment(bytes);
                error.map_or(Refused::NoRoom, |source| {
                    Refused::Error(AppendError::no_segment(self.id, source))
                })
            }
        }
    }

    /// Why nothing is accepted any more.
    pub(crate) fn shut_error(&self) -> Unavailable {
        self.life.failure().map_or(Unavailable::Closed, |failure| Unavailable::ShardFailed(failure.clone()))
    }

    /// Wakes the thread if it must be; true if the caller was given the duty.
    #[inline]
    fn appended(&self, urgency: Urgency, ready: bool, may_lead: bool) -> bool {
        match self.wake_state.appended(urgency, ready, may_lead && self.threaded) {
            Waking::Nothing => false,
            Waking::MustLead => true,
            Waking::Wake => {
                self.wake.wake();
                false
            }
        }
    }

    /// Gives the duty of an accepted batch to the thread.
    pub(crate) fn announce(&self) {
        if self.wake_state.delegate() == Waking::Wake {
            self.wake.wake();
        }
    }

    /// Makes the thread look at everything, whatever it does.
    pub(crate) fn wake_shard(&self) {
        if self.wake_state.ask() == Waking::Wake {
            self.wake.wake();
        }
    }
}

fn bytes_of(id: Option<&[u8; RECORD_ID_BYTES]>) -> &[u8] {
    id.map_or(&[], |id| id)
}
