//! The rule by which a block is sealed: at once while nothing is in flight, else as soon as enough waits; one that nobody
//! waits for, after a while. Without asking are sealed a full block (`shard/turn/seal.rs`) and the one that a caller leads
//! (`shard/turn/lead.rs`).

use super::{Committer, Timer};
use crate::pool::{Pending, Urgency};
use crate::time::Nanos;

/// A part of something, as a fraction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SealThreshold {
    pub numerator: u64,
    pub denominator: u64,
}

impl Committer {
    /// Whether to seal the open block now, of which [`note_pending`](Committer::note_pending) was told.
    ///
    /// With nothing in flight at once; otherwise when at least half ([`SealThreshold`]) a mean block in flight waits.
    /// There is no timer for what somebody waits for (arXiv 2606.18187: flushing when the device is
    /// free comes within 0.1 % of the best timer).
    pub(crate) fn should_seal(&self, pending: &Pending, now: Nanos) -> bool {
        if self.failed || pending.bytes == 0 {
            return false;
        }
        if self.may_linger(pending) {
            return self.deadline_of(Timer::Seal).is_some_and(|due| now >= due);
        }
        if self.is_idle() {
            return true;
        }
        let writes = self.flight.writes_in_flight();
        self.may_write()
            && u64::from(pending.bytes) * u64::from(writes) * self.config.seal_threshold.denominator
                >= self.flight.bytes_in_flight() * self.config.seal_threshold.numerator
    }

    /// Nobody waits for the open block.
    pub(super) fn may_linger(&self, pending: &Pending) -> bool {
        pending.urgency == Urgency::Background && pending.sequence > self.sync_target
    }
}
