//! Appends under terms: only behind a certain record of the key, or once per id.
//!
//! What the terms are held against is complete only while nobody else can reserve
//! ([`with_recent`](Engine::with_recent)), and the range is reserved in that same step: of two writers with one condition,
//! one wins. What is not in memory is not read there: the caller is told what to look up, and comes again.

use std::sync::Arc;

use super::group::OpenedGroup;
use super::opener::{NoRoom, Opener};
use super::{AppendMode, Batch};
use crate::error::{AppendError, ReadError};
use crate::format::WholeKeyHash;
use crate::pool::{Held, Reserved, Sequence};
use crate::position::{Lsn, Position};
use crate::shard::engine::{Engine, Placed, Refused, Target, Undecided, Unknown};
use crate::shard::index::{IdPlace, KeyedId, NotNow, Recent};
use crate::write::{Durability, Terms};

/// The last record of a key below a place, as whoever was asked for it has found it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LastBelow {
    pub below: Lsn,
    /// While this was the shard's epoch.
    pub epoch: u32,
    pub last: Option<Position>,
}

/// What came of it, under the lock.
enum Decided<'p> {
    Duplicate(IdPlace),
    Conflict(Option<Position>),
    /// The key's slot is not here any more, or is being moved.
    Moved,
    Unknown(Unknown),
    NoRoom(NoRoom),
    /// There are more blocks in use than this priority may have.
    Full,
    Range(Reserved<'p>),
    Group(Result<OpenedGroup<'p>, NoRoom>),
}

impl Engine {
    /// Accepts a batch if its terms hold and there is room now. The batch is not empty, and of one key, which is not empty
    /// either, whose records begin here at `first`.
    pub(crate) fn put_under(
        &self,
        batch: &Batch<'_>,
        terms: &Terms,
        known: Option<&LastBelow>,
        first: Lsn,
        mode: AppendMode,
        positions: Option<&mut Vec<Position>>,
    ) -> Result<Placed, Undecided> {
        if terms.id.is_some() && !self.keeps_ids() {
            return Err(Refused::Error(AppendError::IdsNotKept).into());
        }
        let need = self.check_size(batch)?;
        let bodies: Vec<u32> = batch.bodies().map(|body| body as u32).collect();
        let hash = WholeKeyHash::of(&self.view().log_id, batch.keys.get(0));
        let mut closed = false;
        let mut last = Sequence::default();
        let decided = self.with_recent(|recent, opener, held| {
            last = held.last();
            // Under the lock under which whoever moves slots notes where the shard ends.
            if !self.router.is_current(mode.turn) {
                return Decided::Moved;
            }
            if let Some(decided) = self.refuse(recent, hash, terms, known, first) {
                return decided;
            }
            match need {
                Some(need) => self.reserve_held(opener, held, need, mode, &mut closed),
                None => {
                    let was_open = held.close();
                    let (opened, _) = self.open_planned(opener, &bodies, mode.priority);
                    closed = was_open && opened.is_err();
                    Decided::Group(opened)
                }
            }
        });
        if closed {
            self.closed_full(last);
        }
        match decided.map_err(|reason| self.not_now(reason))? {
            Decided::Range(reserved) => Ok(self.fill(reserved, batch, mode, positions)),
            Decided::Group(opened) => {
                let opened = self.group_opened(opened, false)?;
                Ok(self.fill_group(opened, &bodies, batch, mode, positions))
            }
            Decided::Duplicate(place) => Ok(self.placed_before(&place, mode.durability)),
            Decided::Conflict(last) => {
                Err(Refused::Error(AppendError::Conflict { shard: self.id, last }).into())
            }
            Decided::Unknown(unknown) => Err(Undecided::Unknown(unknown)),
            Decided::NoRoom(reason) => Err(self.refused(reason).into()),
            Decided::Full => Err(Refused::NoRoom.into()),
            Decided::Moved => Err(Refused::Moved.into()),
        }
    }

    fn not_now(&self, reason: NotNow) -> Refused {
        match reason {
            NotNow::Shut => Refused::Error(self.shut_error().into()),
            NotNow::Cutting => Refused::NoRoom,
            NotNow::Io(error) => {
                let source = ReadError::Io { shard: self.id, source: Arc::new(error) };
                Refused::Error(AppendError::unreadable(self.id, source))
            }
        }
    }

    /// Why the batch is not accepted, if it is not for want of room.
    fn refuse(
        &self,
        recent: &Recent,
        hash: WholeKeyHash,
        terms: &Terms,
        known: Option<&LastBelow>,
        first: Lsn,
    ) -> Option<Decided<'static>> {
        let horizon = self.view().horizon;
        if let Some(id) = terms.id {
            if let Some(unknown) = recent.unknown_ids() {
                return Some(Decided::Unknown(Unknown::Ids(unknown)));
            }
            let place = recent.ids.get(&KeyedId::new(hash, id)).copied();
            if let Some(place) = place.filter(|place| place.position.lsn() >= horizon) {
                return Some(Decided::Duplicate(place));
            }
        }
        let expected = terms.if_last?;
        let start = recent.keys.stretch().start;
        // What lies before that was put there by hand, when the key's slot was elsewhere. And where one is truncated, an
        // older one may still be where the slot was then.
        let first = first.max(horizon);
        let recently = recent.keys.back(hash).next().filter(|place| place.lsn >= first);
        let last = match (recently, known) {
            (Some(place), _) => place.position(self.id),
            // It is all below that, and what was found there is still so.
            (None, Some(known)) if known.epoch == recent.epoch && known.below >= start => known.last,
            (None, _) => return Some(Decided::Unknown(Unknown::Last { below: start, epoch: recent.epoch })),
        };
        if last.is_some_and(|last| last.shard() == self.id && last.lsn() < horizon) {
            return Some(Decided::Unknown(Unknown::Last { below: start, epoch: recent.epoch }));
        }
        (last != expected).then_some(Decided::Conflict(last))
    }

    /// Where a record with this key and id is, if it is one of those whose ids are kept.
    pub(crate) fn find_id(&self, key: &[u8], id: u128) -> Result<Option<IdPlace>, Undecided> {
        let view = self.view();
        let keyed = KeyedId::new(WholeKeyHash::of(&view.log_id, key), id);
        let found = self.with_recent(|recent, _, _| match recent.unknown_ids() {
            Some(unknown) => Err(unknown),
            None => Ok(recent.ids.get(&keyed).copied()),
        });
        match found.map_err(|reason| self.not_now(reason))? {
            Err(unknown) => Err(Undecided::Unknown(Unknown::Ids(unknown))),
            Ok(place) => Ok(place.filter(|place| place.position.lsn() >= view.horizon)),
        }
    }

    /// Takes a range of the block that is held, or of the next one.
    fn reserve_held<'p>(
        &'p self,
        opener: &mut Opener,
        held: Held<'p>,
        need: u32,
        mode: AppendMode,
        closed: &mut bool,
    ) -> Decided<'p> {
        if self.pool.in_use() > self.gate.blocks_max(mode.priority) {
            return Decided::Full;
        }
        if let Some(reserved) = held.claim(need, closed) {
            return Decided::Range(reserved);
        }
        match opener.open_reserved(&self.pool, need, self.blocks_max(mode.priority), self.device.now()) {
            Ok(reserved) => {
                self.look_ahead(opener);
                Decided::Range(reserved)
            }
            Err(reason) => Decided::NoRoom(reason),
        }
    }

    /// What a retry gets: the first one's place. If that is not as durable as the retry asks for, it is made so.
    pub(crate) fn placed_before(&self, place: &IdPlace, durability: Durability) -> Placed {
        let lsn = place.position.lsn();
        // Of a block that was opened by another process, or was found in the log: with the last one, if not before.
        let is_known = place.sequence != Sequence::default();
        let sequence = if is_known { place.sequence } else { self.pool.last().sequence };
        // Of a batch it is the first record, and what is durable behind that is whole: what is written may not be.
        let durability = if durability == Durability::Written { Durability::Synced } else { durability };
        let target = Target { lsn, sequence, durability };
        if durability == Durability::Synced && self.durable() <= lsn {
            self.last_target(durability).iter().for_each(|last| self.ask_sync(last));
        }
        Placed { position: place.position, target, must_lead: false, is_duplicate: true }
    }
}
