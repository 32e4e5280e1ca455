//! Batches that do not fit into one block: they get blocks of their own, all or none.

use std::collections::VecDeque;

use super::opener::{NoRoom, Opener, Planned};
use super::{AppendMode, Batch, bytes_of};
use crate::format::{encode_record, encoded_bytes};
use crate::pool::{Reserved, Urgency};
use crate::position::{Lsn, Position};
use crate::shard::engine::{Engine, Placed, Refused};
use crate::sync::lock;
use crate::write::Priority;

/// The blocks of a batch that does not fit into one, opened, with what each is to hold.
pub(super) type OpenedGroup<'p> = (Vec<Planned>, VecDeque<Reserved<'p>>);

impl Engine {
    /// Opens blocks for all of a group, or none.
    fn open_group(&self, bodies: &[u32], mode: AppendMode) -> Result<OpenedGroup<'_>, Refused> {
        let (planned, closed) = {
            let mut opener = lock(&self.opener);
            if self.life.is_shut() || self.life.has_failed() {
                return Err(Refused::Error(self.shut_error().into()));
            }
            // Under the lock under which whoever moves slots notes where the shard ends.
            if !self.router.is_current(mode.turn) {
                return Err(Refused::Moved);
            }
            self.open_planned(&mut opener, bodies, mode.priority)
        };
        self.group_opened(planned, closed)
    }

    /// The same under the lock. Also whether a block was closed for it that was open.
    pub(super) fn open_planned(
        &self,
        opener: &mut Opener,
        bodies: &[u32],
        priority: Priority,
    ) -> (Result<OpenedGroup<'_>, NoRoom>, bool) {
        if opener.held || self.pool.in_use() > self.gate.blocks_max(priority) {
            return (Err(NoRoom::Memory), false);
        }
        // Others go on behind the group; what they have in the open block goes out before it.
        let closed = !self.pool.is_closed();
        let now = self.device.now();
        let before = self.pool.close_any();
        if closed {
            self.pool.note_closed(before, now);
        }
        let planned = opener.plan(&self.pool, bodies, self.blocks_max(priority), now).map(|planned| {
            let mut reserved = VecDeque::with_capacity(planned.len());
            for block in &planned {
                let opened = self.pool.open_closed(&block.place, block.length, block.group);
                let opened = opened.expect("the plan found enough blocks, under the lock");
                self.pool.note_closed(opened.sequence(), now);
                reserved.push_back(opened);
                opener.leave_behind(block.place.lsn);
            }
            self.look_ahead(opener);
            (planned, reserved)
        });
        (planned, closed)
    }

    /// Once the lock is given back.
    pub(super) fn group_opened<'p>(
        &self,
        planned: Result<OpenedGroup<'p>, NoRoom>,
        closed: bool,
    ) -> Result<OpenedGroup<'p>, Refused> {
        planned.map_err(|reason| {
            if closed {
                // It is in the way until the thread has seen it, and may have been opened for nothing.
                self.appended(Urgency::Background, true, false);
            }
            self.refused(reason)
        })
    }

    /// Accepts a batch that does not fit into one block: it gets blocks of its own, all or none.
    pub(super) fn put_group(
        &self,
        batch: &Batch<'_>,
        mode: AppendMode,
        positions: Option<&mut Vec<Position>>,
    ) -> Result<Placed, Refused> {
        let bodies: Vec<u32> = batch.bodies().map(|body| body as u32).collect();
        let opened = self.open_group(&bodies, mode)?;
        Ok(self.fill_group(opened, &bodies, batch, mode, positions))
    }

    /// Writes a batch into the blocks that were opened for it.
    pub(super) fn fill_group(
        &self,
        (planned, mut reserved): OpenedGroup<'_>,
        bodies: &[u32],
        batch: &Batch<'_>,
        mode: AppendMode,
        mut positions: Option<&mut Vec<Position>>,
    ) -> Placed {
        let mut placed = None;
        positions.iter_mut().for_each(|positions| positions.reserve_exact(bodies.len()));
        for block in &planned {
            let mut range = reserved.pop_front().expect("one for each planned block");
            let (seed, epoch, start) = (range.seed(), range.epoch(), range.lsn());
            let mut offset = 0;
            for piece in &block.pieces {
                let (key, payload) = (batch.keys.get(piece.record), batch.payloads.get(piece.record));
                let id = batch.id_of(piece.record);
                let id = bytes_of(id.as_ref());
                let at = Lsn(start.0 + offset as u64);
                let body = [
                    part(key, 0, piece.from, piece.to),
                    part(id, key.len(), piece.from, piece.to),
                    part(payload, key.len() + id.len(), piece.from, piece.to),
                ];
                let bytes = encoded_bytes(piece.to - piece.from) as usize;
                let place = &mut range.bytes_mut()[offset..offset + bytes];
                let (whole, part) = (bodies[piece.record], piece.to - piece.from);
                let header = batch.header(piece.record, whole, part, piece.flags);
                encode_record(place, seed, at, header, body);
                offset += bytes;
                let position = Position::new(self.id, epoch, at, block.place.lsn);
                if let Some(positions) = positions.as_mut().filter(|_| piece.from == 0) {
                    positions.push(position);
                }
                let first = placed.map_or(position, |placed: Placed| placed.position);
                let target = mode.target(at, range.sequence());
                placed = Some(Placed { position: first, target, must_lead: false, is_duplicate: false });
            }
            range.finish(block.pieces.len() as u32, mode.urgency());
        }
        self.appended(mode.urgency(), true, false);
        placed.expect("a group has a piece")
    }
}

/// The part of `bytes`, which start at `at` in the body, that lies in `from..to`.
fn part(bytes: &[u8], at: usize, from: u32, to: u32) -> &[u8] {
    let clip = |edge: u32| (edge as usize).saturating_sub(at).min(bytes.len());
    &bytes[clip(from)..clip(to)]
}
