//! What was appended last: the keys and ids of the end of the shard, known to the last record.
//!
//! Appends tell nobody of their keys. Whoever asks ([`Engine::with_recent`]) reads what came since from the pool, where
//! the blocks still are, and so pays for those who never ask. Where the pool has given a block away meanwhile, or an epoch
//! has begun, it begins anew, with what the key index does not cover yet read from the device if that is little.

use std::io;
use std::sync::MutexGuard;

use super::build_runs::Gathered;
use super::memory::is_run_due;
use super::recent_ids::{IdPlace, KeyedId, RecentIds};
use super::walk::{Begun, Name, Walk, Walked, with_id};
use crate::format::{
    BLOCK_HEADER_BYTES, Identity, RawRecord, RecordFlags, WholeKeyHash, own_records, round_to_granule,
};
use crate::index::{Builder, Built, Place, RecentEntry, RecentKeys};
use crate::pool::{Held, Peeked, Sequence};
use crate::position::{Lsn, Position, ShardId};
use crate::segment::StoreView;
use crate::shard::Engine;
use crate::shard::append::opener::Opener;
use crate::sync::lock;

/// So much is looked at before others may open blocks again.
const PIECE_BYTES: u32 = 64 << 10;

/// Of more records of one key no places are given: each question would go through all of them.
const PLACES_MAX: usize = 1024;

/// Looks at a copy that somebody else makes, before others may go on.
const SPINS: u32 = 200;

/// So many pieces are looked at for a run before others may go on with the index.
const PIECES_AT_ONCE: usize = 64;

/// Why nothing can be said now.
#[derive(Debug)]
pub(in crate::shard) enum NotNow {
    /// The shard is shut or has failed.
    Shut,
    /// The end of the log is being cut.
    Cutting,
    Io(io::Error),
}

/// Below there not all ids are known that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UnknownIds {
    pub below: Lsn,
    /// So many.
    pub most: usize,
    pub epoch: u32,
}

/// The last record of a key, as far as it was appended lately.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RecentLast {
    Here(Position),
    /// There is none from here on.
    Below(Lsn),
}

/// The keys and ids of the end of a shard.
#[derive(Debug)]
pub(in crate::shard) struct Recent {
    pub(in crate::shard) keys: RecentKeys,
    pub(in crate::shard) ids: RecentIds,
    shard: ShardId,
    /// What comes next: a block, and how much of it is known.
    next: Sequence,
    offset: u32,
    pub(in crate::shard) epoch: u32,
    /// A record of whose name a part is in the next block, and the block where it begins.
    begun: Option<(Begun, Lsn, Sequence)>,
}

/// How far one look has got.
enum Taken {
    All,
    Some,
    /// Somebody copies.
    Unfinished,
    /// It must begin anew.
    Lost,
}

impl Recent {
    /// A record stands at `lsn`, in the block at `block`.
    fn add(&mut self, name: Name, lsn: Lsn, block: Lsn, epoch: u32, sequence: Sequence) {
        self.keys.add(name.key, lsn, name.id.is_some());
        if let Some(id) = name.id {
            let position = Position::new(self.shard, epoch, lsn, block);
            self.ids.add(IdPlace { id: KeyedId::new(name.key, id), position, sequence });
        }
    }

    /// Where ids are not known that count.
    pub(in crate::shard) fn unknown_ids(&self) -> Option<UnknownIds> {
        let (below, most) = self.ids.unknown()?;
        Some(UnknownIds { below, most, epoch: self.epoch })
    }

    fn take_record(&mut self, record: &RawRecord<'_>, block: Lsn, log_id: &[u8; 16]) {
        if record.header.flags.has(RecordFlags::REST) {
            if let Some((begun, ..)) = &mut self.begun {
                begun.add(record.body);
            }
        } else if record.header.key_bytes > 0 {
            match Name::of(log_id, &record.header, record.body) {
                Some(name) => self.add(name, record.lsn, block, self.epoch, self.next),
                None => self.begun = Some((Begun::new(record), block, self.next)),
            }
        }
        if let Some((begun, block, sequence)) = &self.begun {
            if let Some(name) = begun.name(log_id) {
                let (lsn, block, sequence) = (begun.lsn, *block, *sequence);
                self.begun = None;
                self.add(name, lsn, block, self.epoch, sequence);
            }
        }
    }

    /// Looks at what came since, up to `last`, which is no block that others reserve in.
    fn take_in(&mut self, engine: &Engine, opener: &Opener, view: &StoreView, last: Sequence) -> Taken {
        if opener.epoch() != self.epoch {
            return Taken::Lost;
        }
        let row = view.epochs.last().expect("blocks are opened in an epoch");
        let is_closed = engine.pool.is_closed();
        let mut left = PIECE_BYTES;
        while self.next <= last {
            if left == 0 {
                return Taken::Some;
            }
            let (lsn, from, bytes) = match engine.pool.peek(self.next, self.offset) {
                Peeked::Gone => return Taken::Lost,
                Peeked::Unfinished => return Taken::Unfinished,
                Peeked::Records { lsn, from, bytes } => (lsn, from, bytes),
            };
            self.keys.begin_block(lsn, row.epoch, row.nonce);
            let at = Lsn(lsn.0 + u64::from(from));
            let mut end = at;
            for record in own_records(bytes, at) {
                if end.0 - at.0 >= u64::from(left) {
                    break;
                }
                self.take_record(&record, lsn, &view.log_id);
                end = Lsn(end.0 + u64::from(crate::format::encoded_bytes(record.header.body_bytes)));
            }
            assert!(end > at || bytes.is_empty(), "a record that was copied is whole");
            if self.begun.is_none() && end > at {
                self.keys.reach(end);
            }
            let taken = (end.0 - at.0) as u32;
            self.offset = from + taken;
            left = left.saturating_sub(taken);
            if (taken as usize) < bytes.len() {
                return Taken::Some;
            }
            if self.next == last && !is_closed {
                break;
            }
            self.end_block(lsn);
        }
        Taken::All
    }

    /// All of the block at `lsn` was taken, and nothing more comes there.
    fn end_block(&mut self, lsn: Lsn) {
        // One that holds no record takes no place, unless it is a marker, which has no key.
        if self.offset <= BLOCK_HEADER_BYTES {
            self.keys.drop_block(lsn);
        } else {
            let end = Lsn(lsn.0 + round_to_granule(u64::from(self.offset)));
            self.keys.end_block(end);
            if self.begun.is_none() {
                self.keys.reach(end);
            }
        }
        (self.next, self.offset) = (self.next.next(), 0);
    }
}

impl Engine {
    /// Lets `act` have what was appended last, complete, while nobody can reserve.
    ///
    /// The first time it may read from the device, and waits for it.
    pub(in crate::shard) fn with_recent<'e, R>(
        &'e self,
        act: impl FnOnce(&mut Recent, &mut Opener, Held<'e>) -> R,
    ) -> Result<R, NotNow> {
        let mut guard = lock(&self.indexing.recent);
        let mut may_read = true;
        loop {
            let recent = self.begun_recent(&mut guard, may_read)?;
            let mut opener = self.opener();
            if self.life.is_shut() || self.life.has_failed() {
                return Err(NotNow::Shut);
            }
            if opener.held {
                return Err(NotNow::Cutting);
            }
            let view = self.view();
            // First without keeping anybody from the open block.
            let closed = self.pool.last_closed();
            let mut taken = recent.take_in(self, &opener, &view, closed);
            if matches!(taken, Taken::All) {
                let held = self.pool.hold();
                for _ in 0..SPINS {
                    taken = recent.take_in(self, &opener, &view, held.last());
                    if !matches!(taken, Taken::Unfinished) {
                        break;
                    }
                    std::hint::spin_loop();
                }
                if matches!(taken, Taken::All) {
                    return Ok(act(recent, &mut opener, held));
                }
            }
            drop(opener);
            match taken {
                Taken::Lost => {
                    *guard = None;
                    // What takes longer than the pool lasts is not done twice.
                    may_read = false;
                }
                Taken::Unfinished => crate::sync::pause(),
                Taken::Some | Taken::All => {}
            }
        }
    }

    /// What was begun, or begins now.
    fn begun_recent<'g>(
        &self,
        guard: &'g mut MutexGuard<'_, Option<Recent>>,
        may_read: bool,
    ) -> Result<&'g mut Recent, NotNow> {
        if guard.is_none() {
            **guard = Some(self.begin_recent(may_read).map_err(NotNow::Io)?);
        }
        Ok(guard.as_mut().expect("it was begun just now"))
    }

    /// What is not indexed yet is read, if it may be and is little.
    fn begin_recent(&self, may_read: bool) -> io::Result<Recent> {
        let config = &self.indexing.config;
        let mut keys = RecentKeys::new(config.recent_bytes())?;
        let (epoch, next, at) = {
            let opener = self.opener();
            let last = self.pool.last().sequence;
            // Half of what there is: those that are about to be opened do not catch up with the look at them at once.
            let kept = u64::from(self.pool.blocks() / 2);
            let first = opener.sequence().next();
            let next = Sequence(first.0.max((last.0 + 1).saturating_sub(kept)));
            let at = match () {
                () if next > last => opener.end(&self.pool),
                () if next == first => opener.start(),
                () => self.pool.lsn_of(next),
            };
            (opener.epoch(), next, at)
        };
        keys.restart(at);
        let mut ids = RecentIds::new(config.ids_max);
        ids.restart(at);
        let mut recent = Recent { keys, ids, shard: self.id, next, offset: 0, epoch, begun: None };
        let from = self.indexed();
        if may_read && self.indexes() && from < at && at.0 - from.0 <= 2 * config.run_bytes {
            recent.keys.restart(from);
            recent.ids.restart(from);
            if !self.read_recent(&mut recent, at)? {
                recent.keys.restart(at);
                recent.ids.restart(at);
            }
        }
        Ok(recent)
    }

    /// Reads what the index does not cover from the device, up to `to`; false if that cannot be read.
    fn read_recent(&self, recent: &mut Recent, to: Lsn) -> io::Result<bool> {
        let durable = self.durable();
        let view = self.view();
        let mut reader = self.lend_scanner()?;
        let mut walk = Walk { view: &view, reader: &mut reader, block_bytes: self.block_bytes(), durable };
        let mut at = recent.keys.stretch().end;
        let is_whole = loop {
            if at >= to {
                break true;
            }
            let Ok(Some(Walked { identity, lsn, end, records, .. })) = walk.block(at) else { break false };
            if lsn >= to {
                break true;
            }
            recent.keys.begin_block(lsn, identity.epoch, identity.nonce);
            for (name, place) in records {
                recent.add(name, place, lsn, identity.epoch, Sequence::default());
            }
            recent.keys.end_block(end);
            recent.keys.reach(end);
            at = end;
        };
        self.take_scanner_back(reader);
        recent.keys.reach(to);
        Ok(is_whole)
    }

    /// The last record of a key that was accepted, if it is one of those that were appended lately. `None` where that
    /// cannot be told now.
    pub(crate) fn recent_last(&self, key: &[u8]) -> Option<RecentLast> {
        let view = self.view();
        let hash = WholeKeyHash::of(&view.log_id, key);
        let found = self.with_recent(|recent, _, _| {
            let place = recent.keys.back(hash).next();
            (place, recent.keys.stretch().start)
        });
        let (place, start) = found.ok()?;
        match place {
            Some(place) if place.lsn >= self.view().horizon => place.position(self.id).map(RecentLast::Here),
            _ => Some(RecentLast::Below(start)),
        }
    }

    /// Where records of a key are in the part that is closed, from `from` on, the last one first; and of what stretch these
    /// are all. `None` where that cannot be told now, or they are so many that whoever asks had better read all of it.
    pub(in crate::shard) fn recent_places(
        &self,
        hash: WholeKeyHash,
        from: Lsn,
    ) -> Option<(Vec<Place>, std::ops::Range<Lsn>)> {
        let mut guard = lock(&self.indexing.recent);
        let mut may_read = true;
        loop {
            let recent = self.begun_recent(&mut guard, may_read).ok()?;
            let taken = {
                let opener = self.opener();
                let closed = self.pool.last_closed();
                recent.take_in(self, &opener, &self.view(), closed)
            };
            match taken {
                Taken::Lost => {
                    *guard = None;
                    may_read = false;
                }
                Taken::Some => {}
                // What somebody copies into is not durable.
                Taken::All | Taken::Unfinished => {
                    let places = recent.keys.back(hash).take_while(|place| place.lsn >= from);
                    let places: Vec<Place> = places.take(PLACES_MAX + 1).collect();
                    return (places.len() <= PLACES_MAX).then(|| (places, recent.keys.stretch()));
                }
            }
        }
    }

    /// Whether what was appended last is known from a later place than `from` on, and whether it soon will be.
    pub(super) fn recent_lacks(&self, from: Lsn) -> (bool, bool) {
        let recent = lock(&self.indexing.recent);
        let keys = recent.as_ref().map(|recent| &recent.keys);
        keys.map_or((false, false), |keys| (keys.stretch().start > from, is_run_due(&keys.filled_from(from))))
    }

    /// Adds to a run what was appended last, as far as that is below `limit`; `None` where that is not known, and must be
    /// read.
    pub(super) fn gather_recent(
        &self,
        builder: &mut Builder,
        view: &StoreView,
        limit: Lsn,
    ) -> Option<Gathered> {
        let mut guard = lock(&self.indexing.recent);
        let at = builder.range().end;
        if guard.is_none() && limit.0.saturating_sub(at.0) > self.indexing.config.run_bytes {
            return None; // It would be read for this, and once more for the run.
        }
        for _ in 0..PIECES_AT_ONCE {
            let recent = self.begun_recent(&mut guard, true).ok()?;
            let opener = self.opener();
            let closed = self.pool.last_closed();
            match recent.take_in(self, &opener, &self.view(), closed) {
                Taken::Lost => {
                    *guard = None;
                    return None;
                }
                Taken::Some => {}
                Taken::All | Taken::Unfinished => break,
            }
        }
        let keys = &guard.as_ref()?.keys;
        if keys.stretch().start > at {
            return None;
        }
        let with_id = with_id(&view.log_id);
        for (block, next, entries) in keys.blocks_from(at) {
            if next > limit {
                break;
            }
            let (epoch, nonce) = (block.epoch, block.nonce);
            let identity = Identity { log_id: view.log_id, shard: view.shard, epoch, nonce };
            let entries = entries.flat_map(|RecentEntry { key, lsn, has_id }| {
                std::iter::once((key, lsn)).chain(has_id.then_some((with_id, lsn)))
            });
            // One that owns nothing here any more was cut since.
            let owner =
                view.epochs.owner(block.lsn).filter(|(row, _)| (row.epoch, row.nonce) == (epoch, nonce));
            let owned_end = owner.map_or(next, |(_, end)| end);
            if builder.add_block(&identity, block.lsn, next, owned_end, entries) == Built::Full {
                return Some(Gathered::full(builder, block.lsn));
            }
        }
        Some(Gathered::All)
    }

    /// What was found below where ids are known, the newest one first, if nothing has changed since.
    pub(crate) fn complete_ids(&self, asked: &UnknownIds, older: &[IdPlace]) {
        if let Some(recent) = &mut *lock(&self.indexing.recent) {
            if recent.unknown_ids().as_ref() == Some(asked) {
                recent.ids.complete(older);
            }
        }
    }
}
