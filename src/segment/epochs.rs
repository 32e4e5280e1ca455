//! What of a shard's manifest changes when epochs begin, and when slots of the log are moved there.

use std::io;

use super::change::{Marks, NewEpoch};
use super::store::ShardStore;
use crate::format::{EpochRow, Identity};

impl ShardStore {
    /// Begins a new epoch. The caller has synced everything below its cut that is to be kept.
    pub(crate) fn begin_epoch(&mut self, new: &NewEpoch) -> io::Result<Identity> {
        let &NewEpoch { cut, start, nonce, timestamp, after_nothing } = new;
        let mut next = self.manifest.clone();
        // The row of an epoch that stayed empty goes. That it did must stay: of another history of the shard, from which
        // this one was put back, there may be positions of an epoch of its number.
        let last = next.epochs.last().filter(|_| after_nothing);
        let empty_from =
            last.map_or(0, |last| if last.empty_from == 0 { last.epoch } else { last.empty_from });
        let row = EpochRow { epoch: next.next_epoch, empty_from, nonce, start: start.0, cut: cut.0 };
        next.next_epoch += 1;
        next.epochs.push(row);
        next.epochs.prune(next.horizon);
        next.checkpoint = start;
        next.covered = start;
        next.clean_end = None;
        next.timestamp = next.timestamp.max(timestamp);
        let identity = next.identity(&row);
        self.commit(next)?;
        Ok(identity)
    }

    /// The shard is opened past damage: what is missing is listed no more, and epochs go on above those
    /// that were seen. Nothing is written yet; the epoch that begins next does so.
    pub(crate) fn pass_damage(&mut self, next_epoch: u32) {
        let here = &self.segments;
        self.manifest.segments.retain(|row| here.iter().any(|segment| segment.row.file == row.file));
        self.manifest.next_epoch = self.manifest.next_epoch.max(next_epoch);
    }

    /// Epochs go on above this one, and this version of the log's map of slots is known. Nothing is written yet; the epoch
    /// that begins next does so.
    pub(crate) fn pass_epochs(&mut self, epoch: u32, map_version: u32) {
        self.manifest.map_version = self.manifest.map_version.max(map_version);
        self.manifest.next_epoch = self.manifest.next_epoch.max(epoch.saturating_add(1));
    }

    /// Notes that this version of the log's map of slots names the shard.
    pub(crate) fn note_map_version(&mut self, version: u32, marks: &Marks) -> io::Result<()> {
        let mut next = self.renewed(marks);
        next.map_version = next.map_version.max(version);
        self.commit(next)
    }
}
