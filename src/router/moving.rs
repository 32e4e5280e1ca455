//! How slots change hands under those who append, and who waits for it.
//!
//! A move closes its slots, waits for what their shards have of them, and opens them elsewhere
//! (`docs/sharding-protocol.md`). An append looks up its shard, and reserves later: in between the slots may have closed.
//! So each change of the routes raises the turn, the word that the reservation looks at between reading the open block's
//! state and taking its range; and whoever closes slots closes the open block afterwards. A range that was taken all the
//! same was taken before that, and lies below the end that the move waits for.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::task::Waker;
use std::thread::Thread;

use super::{MOVING, Router};
use crate::format::SlotMap;
use crate::sync::{lock, wake};

/// Who waits until slots are open again.
#[derive(Debug, Default)]
pub(super) struct Waiting(Mutex<Callers>);

#[derive(Debug, Default)]
struct Callers {
    threads: Vec<Thread>,
    tasks: Vec<Waker>,
}

impl Router {
    /// Closes slots: from now on nothing new looks up their shards. What has looked them up before is kept out once the
    /// open blocks of these shards are closed.
    pub(crate) fn close(&self, slots: &[u32]) {
        self.change(|| {
            for &slot in slots {
                self.routes[slot as usize].fetch_or(MOVING, Ordering::Release);
            }
        });
    }

    /// Opens slots again where they were.
    pub(crate) fn reopen(&self, slots: &[u32]) {
        self.change(|| {
            for &slot in slots {
                self.routes[slot as usize].fetch_and(!MOVING, Ordering::Release);
            }
        });
        self.wake_all();
    }

    /// Opens slots where this map, which is durable, has them.
    pub(crate) fn open(&self, map: SlotMap, slots: &[u32]) {
        let map = Arc::new(map);
        *lock(&self.map) = map.clone();
        self.change(|| {
            for &slot in slots {
                self.routes[slot as usize].store(map.shards[slot as usize], Ordering::Release);
            }
        });
        self.wake_all();
    }

    /// One at a time: those who move slots wait for each other.
    fn change(&self, act: impl FnOnce()) {
        act();
        // SeqCst: before the open blocks are closed.
        self.turn.store(self.turn().next().0, Ordering::SeqCst);
    }

    /// Leaves a waker for when slots are opened. Whoever does looks once more before waiting.
    pub(crate) fn register(&self, waker: &Waker) {
        let mut callers = lock(&self.waiting.0);
        if !callers.tasks.iter().any(|left| left.will_wake(waker)) {
            callers.tasks.push(waker.clone());
        }
    }

    /// The same for a thread, which is unparked.
    pub(crate) fn register_thread(&self, thread: Thread) {
        let mut callers = lock(&self.waiting.0);
        if callers.threads.iter().all(|left| left.id() != thread.id()) {
            callers.threads.push(thread);
        }
    }

    fn wake_all(&self) {
        let callers = std::mem::take(&mut *lock(&self.waiting.0));
        callers.threads.iter().for_each(Thread::unpark);
        wake(callers.tasks);
    }
}
