//! How fast a new segment is filled with zeros: no faster than it is needed.
//!
//! Zeros go to the device beside the records, and each flush that a caller waits for takes along what lies in the
//! device's cache by then. A segment filled at full speed makes every commit meanwhile wait ten times as long; filled
//! a piece at a time, with rests as long as the room in use will last, it is hardly felt. Whoever fills up segments
//! quickly gets no rests.

use std::time::Duration;

use super::Engine;
use super::opener::Opener;

/// What is filled at a time where there is time.
const PIECE_BYTES: u64 = 256 << 10;

/// The same where there is none.
const HASTY_PIECE_BYTES: u64 = 1 << 20;

/// The device is left alone for at most so many times as long as the last piece took: the keeper has other things to
/// do, and a slow log may become a fast one.
const REST_MAX: u64 = 3;

/// After so long it goes on without rests: what the keeper does every second waits for it.
const LONG_NS: u64 = 500_000_000;

/// How room is used up.
#[derive(Clone, Copy, Debug)]
struct Look {
    /// Bytes that are ready behind the last block.
    ready: u64,
    at_ns: u64,
}

/// A segment that is being filled.
pub(super) struct Filling<'a> {
    engine: &'a Engine,
    /// Bytes of the segment in use.
    last: u64,
    /// When that was made, at the start of the fill, and the last time.
    looks: [Look; 3],
    piece: u64,
}

impl<'a> Filling<'a> {
    /// Of the segment behind one of `last` bytes, made at `made_at`, of which `ready` are left.
    pub(super) fn new(engine: &'a Engine, ready: u64, last: u64, made_at: u64, now: u64) -> Filling<'a> {
        let start = Look { ready, at_ns: now };
        Filling { engine, last, looks: [Look { ready: last, at_ns: made_at }, start, start], piece: 0 }
    }

    /// How many bytes to fill next, after a rest; `None` if somebody waits for the segment, or will soon: then
    /// space that is merely allocated must do.
    pub(super) fn next(&mut self, filled: u64, of: u64) -> Option<u64> {
        let [_, start, before] = self.looks;
        let left = of - filled;
        if self.last > 0 && start.ready == 0 || self.engine.is_closing() {
            return None;
        }
        // Not known while somebody else opens a block: then the next look tells.
        let known = self
            .engine
            .opener
            .try_lock()
            .ok()
            .map(|opener: std::sync::MutexGuard<'_, Opener>| opener.bytes_ready(&self.engine.pool).0);
        if known.is_some_and(|ready| ready < self.last / 16) {
            return None;
        }
        let now = Look { ready: known.unwrap_or(before.ready), at_ns: self.engine.device.now() };
        let took = now.at_ns.saturating_sub(before.at_ns);
        // No rest before the first segment, nor before the first piece.
        let may_rest = self.last > 0 && self.piece > 0 && !self.engine.space_is_wanted();
        let long = now.at_ns.saturating_sub(start.at_ns) > LONG_NS;
        let rest = if may_rest && !long { self.rest(&now, took, left) } else { 0 };
        if rest > 0 {
            std::thread::sleep(Duration::from_nanos(rest));
        }
        self.looks[2] = Look { at_ns: now.at_ns + rest, ..now };
        self.piece = if rest > 0 { PIECE_BYTES } else { HASTY_PIECE_BYTES }.min(left);
        Some(self.piece)
    }

    fn rest(&self, now: &Look, took: u64, left: u64) -> u64 {
        rest(runs_out_soonest(&self.looks, now), took, self.piece, left)
    }
}

/// Nanoseconds until nothing is ready any more, at the highest of the paces since several looks.
fn runs_out_soonest(looks: &[Look], now: &Look) -> u64 {
    looks.iter().map(|look| runs_out_in(look, now)).min().unwrap_or(u64::MAX)
}

/// The same, at the pace between two looks.
fn runs_out_in(before: &Look, now: &Look) -> u64 {
    let used = before.ready.saturating_sub(now.ready);
    let time = now.at_ns.saturating_sub(before.at_ns);
    if used == 0 {
        return u64::MAX;
    }
    u64::try_from(u128::from(now.ready) * u128::from(time) / u128::from(used)).unwrap_or(u64::MAX)
}

/// Nanoseconds to rest after a piece that took `took`, with so many bytes left to fill and the room in use lasting
/// for `until`: as long as the fill is over in half of that.
fn rest(until: u64, took: u64, piece: u64, left: u64) -> u64 {
    let share = u128::from(until / 2) * u128::from(piece) / u128::from(left.max(piece).max(1));
    u64::try_from(share).unwrap_or(u64::MAX).saturating_sub(took).min(took.saturating_mul(REST_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::sim::Random;

    #[test]
    fn a_segment_is_ready_before_it_is_needed_wherever_it_can_be() {
        let mut random = Random::new(7);
        let (mut filled, mut stopped, mut rested) = (0, 0, 0);
        for _ in 0..2_000 {
            // Bytes of both segments; nanoseconds that a piece takes, and those in which as much is used up.
            let bytes = (1 + random.below(256)) << 20;
            let piece_ns = 50_000 + random.below(5_000_000);
            let used_ns = 1 + random.below(40_000_000);
            let start = bytes / 2;
            let look = |at_ns: u64| {
                let used = u128::from(at_ns) * u128::from(PIECE_BYTES) / u128::from(used_ns);
                Look { ready: start.saturating_sub(u64::try_from(used).unwrap_or(u64::MAX)), at_ns }
            };
            let (mut left, mut looks) = (bytes, [look(0); 2]);
            while left > 0 {
                let now = look(looks[1].at_ns + piece_ns);
                left -= PIECE_BYTES.min(left);
                if now.ready < bytes / 16 {
                    break;
                }
                let rest = rest(runs_out_soonest(&looks, &now), piece_ns, PIECE_BYTES, left);
                assert!(rest <= piece_ns * REST_MAX);
                rested += u64::from(rest > 0);
                looks[1] = look(now.at_ns + rest);
            }
            if left == 0 {
                filled += 1;
                continue;
            }
            stopped += 1;
            // Without a rest it would have taken more than half of the time that there was, or nearly.
            let (possible, lasts) = (bytes / PIECE_BYTES * piece_ns, start / PIECE_BYTES * used_ns);
            assert!(possible > lasts / 3, "{left} of {bytes} left after rests: {possible} of {lasts} ns");
        }
        assert!(filled > 200 && stopped > 200 && rested > 10_000, "{filled} {stopped} {rested}");
    }

    #[test]
    fn where_nobody_appends_it_takes_its_time_and_no_more() {
        assert_eq!(rest(u64::MAX, 100, 1, 1_000), 100 * REST_MAX);
        assert_eq!(rest(0, 100, 1, 1_000), 0);
        let look = Look { ready: 10, at_ns: 5 };
        assert_eq!(runs_out_in(&look, &look), u64::MAX);
        assert_eq!(runs_out_in(&Look { ready: 30, at_ns: 5 }, &Look { ready: 10, at_ns: 25 }), 10);
    }
}
