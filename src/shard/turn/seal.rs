//! Sealing: a block is closed, given its header, and handed to the committer. The caller holds the token.
//!
//! *When* a block is sealed is the committer's decision:
//! [`Committer::should_seal`](crate::committer::Committer::should_seal). A caller that leads seals its block without
//! asking (`lead.rs`).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::committer::Sealed;
use crate::format::{BlockHeader, BlockSeal, record_time, round_to_granule};
use crate::pool::Complete;
use crate::position::Lsn;
use crate::segment::Segment;
use crate::shard::Engine;
use crate::shard::token::{Core, SealedBlock};
use crate::stats::Accepted;
use crate::time::Nanos;

impl Engine {
    /// Seals what is to be sealed, as far as the device takes it at once.
    pub(in crate::shard) fn seal_due(&self, core: &mut Core, now: Nanos) {
        loop {
            while core.committer.has_room() && core.sealed.is_empty() {
                let Some(complete) = self.pool.complete(core.next_to_seal) else { break };
                self.seal(core, &complete, now);
                if !core.sealed.is_empty() {
                    return; // Submitted before the next one, so that its header is as fresh as can be.
                }
            }
            let pending = self.pool.pending();
            let own = pending.sequence == core.next_to_seal;
            // Told even if nothing waits: else the deadline of a block that went out otherwise stays
            // behind, and the thread spins on it.
            let left = own && self.leave_to_callers(core, &pending);
            let pending = if own && !left { pending } else { crate::pool::Pending { bytes: 0, ..pending } };
            core.committer.note_pending(&pending, now);
            if !(core.committer.should_seal(&pending, now) && self.pool.close(pending.sequence)) {
                return;
            }
            self.pool.note_closed(pending.sequence, now);
            if self.pool.complete(core.next_to_seal).is_none() {
                return; // Whoever finishes the last copy wakes the thread.
            }
        }
    }

    /// Gives a complete block its header and hands it to the committer.
    pub(in crate::shard) fn seal(&self, core: &mut Core, complete: &Complete, now: Nanos) {
        let sequence = core.next_to_seal;
        core.next_to_seal = sequence.next();
        if complete.records == 0 && !complete.marker {
            // Void: the next block takes its place. Somebody may wait for all up to it.
            core.unresolved.push(sequence, complete.previous_end, core.timestamp, Accepted::default());
            core.committer.handle_void(sequence);
            return;
        }
        let timestamp = self.device.wall().max(core.timestamp + 1).max(self.clock.load(Ordering::SeqCst) + 1);
        core.timestamp = record_time(timestamp, u64::from(complete.length));
        self.published.0.timestamp.store(core.timestamp, Ordering::SeqCst);
        let seal = BlockSeal {
            lsn: complete.lsn,
            previous_end: complete.previous_end,
            covered: core.committer.watermarks().covered.min(complete.lsn),
            timestamp,
            record_count: complete.records,
            length: complete.length,
        };
        assert_eq!(complete.epoch, core.identity.epoch, "a block is sealed in the epoch it was opened in");
        let header = BlockHeader::sealed(&core.identity, &seal);
        let bytes = self.pool.seal(sequence, bytemuck::bytes_of(&header));
        core.last_records = complete.records;
        let segment = self.segment_of(core, complete.lsn);
        let end = Lsn(complete.lsn.0 + round_to_granule(u64::from(complete.length)));
        let block = Sealed {
            sequence,
            end,
            bytes: bytes.len() as u32,
            file: segment.row.file,
            urgency: if complete.marker { crate::pool::Urgency::Synced } else { complete.urgency },
            records: complete.records,
            group: complete.group,
        };
        core.committer.handle_sealed(block, now);
        core.unresolved.push(sequence, end, core.timestamp, self.accepted(sequence));
        let offset = complete.lsn.0 - segment.row.base;
        self.counters.sealed(complete.records, complete.length, bytes.len());
        core.sealed.push_back(SealedBlock { sequence, bytes, segment, offset });
    }

    fn segment_of(&self, core: &mut Core, lsn: Lsn) -> Arc<Segment> {
        if let Some(segment) = core.segments.iter().find(|segment| segment.contains(lsn)) {
            return segment.clone();
        }
        let view = self.view();
        let index = view.segment_of(lsn).expect("blocks are opened in listed segments alone");
        let segment = view.segments[index].clone();
        core.segments.push_back(segment.clone());
        segment
    }

    /// Writes a block without records, which testifies that the last one was covered.
    pub(in crate::shard) fn mark(&self, core: &mut Core, now: Nanos) {
        // Somebody opens a block or truncates: then there is no need for a marker, or no time.
        let Ok(mut opener) = self.opener.try_lock() else { return };
        if opener.held {
            return;
        }
        let last = self.pool.last();
        if !self.pool.is_closed() {
            if last.length > crate::format::BLOCK_HEADER_BYTES {
                // Data has come, which testifies as well, and arms the marker anew once it is sealed.
                core.committer.disarm_marker();
                return;
            }
            self.pool.close_any();
        }
        if !self.life.is_shut() && opener.open_marker(&self.pool, now) {
            drop(opener);
            while let Some(complete) =
                self.pool.complete(core.next_to_seal).filter(|_| core.sealed.is_empty())
            {
                self.seal(core, &complete, now);
            }
        } else if self.pool.in_use() < self.pool.blocks() {
            // Due again once there is a segment for it. On a full disk that may be long: then the
            // window stays open, and an idle shard does not spin.
            core.committer.disarm_marker();
            self.ask_for_segment(crate::format::GRANULE);
        }
    }
}
