//! When a tally is flushed: what its thread waits for. How much is "much": `ledger.rs`; when totals of an idle tally are
//! written again: `flush.rs`.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::sync::lock;

/// What the thread waits for.
#[derive(Debug, Default)]
pub(super) struct Signal {
    state: Mutex<Asked>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Asked {
    /// When the first update came that no flush has taken.
    since: Option<Instant>,
    now: bool,
    checkpoint: bool,
    /// There was no room for the last flush: it is not tried again before.
    not_before: Option<Instant>,
    ended: bool,
}

impl Signal {
    pub(super) fn accumulated(&self, is_much: bool) {
        let mut asked = lock(&self.state);
        let news = asked.since.is_none() || is_much && !asked.now;
        asked.since.get_or_insert_with(Instant::now);
        asked.now |= is_much;
        drop(asked);
        if news {
            self.changed.notify_one();
        }
    }

    pub(super) fn ask(&self, checkpoint: bool) {
        let mut asked = lock(&self.state);
        asked.now = true;
        asked.checkpoint |= checkpoint;
        drop(asked);
        self.changed.notify_one();
    }

    /// Something is to be flushed that could not be, in a while and not before.
    pub(super) fn again(&self, after: Duration, checkpoint: bool) {
        let mut asked = lock(&self.state);
        asked.not_before = Some(Instant::now() + after);
        asked.checkpoint |= checkpoint;
        drop(asked);
        self.changed.notify_one();
    }

    pub(super) fn end(&self) {
        lock(&self.state).ended = true;
        self.changed.notify_all();
    }

    pub(super) fn is_ended(&self) -> bool {
        lock(&self.state).ended
    }

    /// Waits until something is to be flushed, and says whether totals are asked for; `None` at the end.
    pub(super) fn wait(&self, interval: Duration) -> Option<bool> {
        let mut asked = lock(&self.state);
        loop {
            if asked.ended {
                return None;
            }
            let left = match (asked.not_before, asked.now, asked.since) {
                (Some(at), ..) => Some(at.saturating_duration_since(Instant::now())),
                (None, true, _) => Some(Duration::ZERO),
                (None, false, Some(since)) => Some(interval.saturating_sub(since.elapsed())),
                (None, false, None) => None,
            };
            match left {
                Some(left) if left.is_zero() => {
                    let checkpoint = asked.checkpoint;
                    *asked = Asked::default(); // It has not ended.
                    return Some(checkpoint);
                }
                Some(left) => {
                    let woken = self.changed.wait_timeout(asked, left);
                    asked = woken.unwrap_or_else(PoisonError::into_inner).0;
                }
                None => asked = self.changed.wait(asked).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}
