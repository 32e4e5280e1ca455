//! Who waits for a record: one of them is woken for an event, not all.
//!
//! Whoever leaves wakes the next, whether with a record or without, so that there is always one who knows when the next
//! lease ends, and no event is lost with a handle that is dropped.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::task::{Wake, Waker};

use crate::sync::{lock, wake};

/// See the module. As a [`Waker`] it wakes one of those who wait.
#[derive(Debug, Default)]
pub(super) struct Waiting(Mutex<Line>);

/// No waker is cloned or dropped under its lock: that is the user's code.
#[derive(Debug, Default)]
struct Line {
    next: u64,
    wakers: BTreeMap<u64, Waker>,
}

/// A place in the line.
#[derive(Debug)]
pub(super) struct Place(u64);

impl Waiting {
    /// Takes a place, or leaves another waker at the one that it has.
    pub(super) fn join(&self, place: &mut Option<Place>, waker: &Waker) {
        let waker = waker.clone();
        let mut line = lock(&self.0);
        let own = match place {
            Some(Place(own)) if line.wakers.contains_key(own) => *own,
            _ => {
                line.next += 1;
                line.next
            }
        };
        *place = Some(Place(own));
        let before = line.wakers.insert(own, waker);
        drop(line);
        drop(before);
    }

    /// Gives up a place, and wakes the next.
    pub(super) fn leave(&self, place: Option<Place>) {
        if let Some(Place(own)) = place {
            let own = lock(&self.0).wakers.remove(&own);
            drop(own);
        }
        self.ring();
    }

    /// Wakes the one who has waited longest.
    pub(super) fn ring(&self) {
        let first = lock(&self.0).wakers.pop_first();
        wake(first.map(|(_, waker)| waker));
    }

    pub(super) fn ring_all(&self) {
        let all = std::mem::take(&mut lock(&self.0).wakers);
        wake(all.into_values());
    }
}

impl Wake for Waiting {
    fn wake(self: Arc<Waiting>) {
        self.ring();
    }

    fn wake_by_ref(self: &Arc<Waiting>) {
        self.ring();
    }
}

/// Wakes a thread that waits.
pub(super) struct Unpark(pub std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Unpark>) {
        self.0.unpark();
    }
}
