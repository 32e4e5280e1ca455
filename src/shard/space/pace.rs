//! How fast a new segment is filled with zeros: no faster than it is needed.
//!
//! Zeros go to the device beside the records, and each flush that a caller waits for takes along what lies in the
//! device's cache by then. A segment filled at full speed makes every commit meanwhile wait ten times as long; filled
//! a piece at a time, with rests as long as the room in use will last, it is hardly felt. Whoever fills up segments
//! quickly gets no rests.
//!
//! When the next segment is begun, and so how far ahead the zeros are: `Engine::look_ahead` (`make_ahead.rs`).

use std::io;
use std::sync::Arc;

use crate::position::Lsn;
use crate::segment::{Draft, Marks, Segment, ShardStore};
use crate::time::Nanos;

/// What is filled at a time where there is time.
const PIECE_BYTES: u64 = 128 << 10;

/// The same where there is none.
const HASTY_PIECE_BYTES: u64 = 1 << 20;

/// No rest is longer: a slow log may become a fast one, whose producers then wait for the rest to end.
const REST_NS_MAX: u64 = 5_000_000;

/// How room is used up.
#[derive(Clone, Copy, Debug)]
pub(in crate::shard) struct FillSample {
    /// Bytes that are ready behind the last block.
    pub ready: u64,
    pub at: Nanos,
}

/// A segment that is being made.
#[derive(Debug)]
pub(crate) struct Filling {
    draft: Draft,
    /// How often space had been given up when it began.
    pub(in crate::shard) given_up: u64,
    filled: u64,
    /// Bytes of the segment in use; 0 before the first one.
    last: u64,
    /// When that was made, at the start of the fill, and the last time.
    looks: [FillSample; 3],
    piece: u64,
    error: Option<io::Error>,
}

/// What to do with a segment that is being made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filled {
    /// Go on after so many nanoseconds.
    After(u64),
    /// It is as ready as it is going to be.
    Enough,
}

impl Filling {
    /// Of the segment behind one of `last` bytes, made at `made_at`.
    pub(in crate::shard) fn new(
        draft: Draft,
        last: u64,
        made_at: Nanos,
        given_up: u64,
        start: FillSample,
    ) -> Filling {
        let made = FillSample { ready: last, at: made_at };
        Filling {
            draft,
            given_up,
            filled: 0,
            last,
            looks: [made, start, start],
            piece: HASTY_PIECE_BYTES,
            error: None,
        }
    }

    /// Bytes that were ready when something was last seen of them.
    pub(in crate::shard) fn ready(&self) -> u64 {
        self.looks[2].ready
    }

    /// Fills a piece, unless somebody waits for the segment or will soon: then space that is merely allocated must do,
    /// if it is.
    /// `look` gives what is ready and the time, before and after it.
    pub(in crate::shard) fn fill_next(&mut self, look: impl Fn() -> FillSample) -> Filled {
        let before = look();
        let hurry = self.last > 0 && before.ready < (self.last / 16).max(1);
        let left = self.draft.bytes - self.filled;
        if hurry && self.draft.may_be_listed(self.filled) || left == 0 || !self.draft.wants_filling() {
            return Filled::Enough;
        }
        let length = match self.draft.fill(self.filled, self.piece) {
            Ok(length) => length,
            Err(error) => {
                self.error = Some(error);
                return Filled::Enough;
            }
        };
        self.filled += length;
        let now = look();
        let until = runs_low_soonest(&self.looks, &now, self.last / 4);
        self.looks[2] = now;
        // Nobody appends before the first segment is there.
        let may_rest = self.last > 0;
        let took = now.at - before.at;
        let rest = if may_rest { rest(until, took, length, left - length) } else { 0 };
        self.piece = if rest > 0 { PIECE_BYTES } else { HASTY_PIECE_BYTES };
        Filled::After(rest)
    }

    /// Lists the segment, or gives its space back if it could not be filled.
    pub(in crate::shard) fn finish(
        self,
        store: &mut ShardStore,
        from: Lsn,
        marks: impl Fn() -> Marks,
    ) -> io::Result<Arc<Segment>> {
        let error = match self.error {
            None if self.draft.may_be_listed(self.filled) => {
                return store.list(self.draft, from, &marks());
            }
            None => io::Error::other("the log ends before the segment is made"),
            Some(error) => error,
        };
        match self.draft.shortened(self.filled, error) {
            Ok(draft) => store.list(draft, from, &marks()),
            Err((draft, error)) => {
                store.discard(&draft);
                Err(error)
            }
        }
    }
}

/// Nanoseconds until no more than `reserve` is ready, at the highest of the paces since several looks.
fn runs_low_soonest(looks: &[FillSample], now: &FillSample, reserve: u64) -> u64 {
    looks.iter().map(|look| runs_low_in(look, now, reserve)).min().unwrap_or(u64::MAX)
}

/// The same, at the pace between two looks.
fn runs_low_in(before: &FillSample, now: &FillSample, reserve: u64) -> u64 {
    let used = before.ready.saturating_sub(now.ready);
    let time = now.at - before.at;
    if used == 0 {
        return u64::MAX;
    }
    let room = now.ready.saturating_sub(reserve);
    u64::try_from(u128::from(room) * u128::from(time) / u128::from(used)).unwrap_or(u64::MAX)
}

/// Nanoseconds to rest after a piece that took so long, with so many bytes left to fill in a time of `until_ns`.
fn rest(until_ns: u64, took_ns: u64, piece_bytes: u64, left_bytes: u64) -> u64 {
    let share =
        u128::from(until_ns) * u128::from(piece_bytes) / u128::from(left_bytes.max(piece_bytes).max(1));
    u64::try_from(share).unwrap_or(u64::MAX).saturating_sub(took_ns).min(REST_NS_MAX)
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
            let look = |at: Nanos| {
                let used = u128::from(at.0) * u128::from(PIECE_BYTES) / u128::from(used_ns);
                FillSample { ready: start.saturating_sub(u64::try_from(used).unwrap_or(u64::MAX)), at }
            };
            let (mut left, mut looks) = (bytes, [look(Nanos(0)); 2]);
            while left > 0 {
                let now = look(looks[1].at + piece_ns);
                left -= PIECE_BYTES.min(left);
                if now.ready < bytes / 16 {
                    break;
                }
                let rest = rest(runs_low_soonest(&looks, &now, bytes / 4), piece_ns, PIECE_BYTES, left);
                assert!(rest <= REST_NS_MAX);
                rested += u64::from(rest > 0);
                looks[1] = look(now.at + rest);
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
        assert_eq!(rest(u64::MAX, 100, 1, 1_000), REST_NS_MAX);
        assert_eq!(rest(0, 100, 1, 1_000), 0);
        let look = FillSample { ready: 10, at: Nanos(5) };
        assert_eq!(runs_low_in(&look, &look, 0), u64::MAX);
        assert_eq!(
            runs_low_in(&FillSample { ready: 30, at: Nanos(5) }, &FillSample { ready: 12, at: Nanos(23) }, 2),
            10
        );
    }
}
