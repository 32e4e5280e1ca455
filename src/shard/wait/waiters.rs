//! Who waits: one futex word and one list of tasks per slot. Of those who wait for a block it is the pool's slot;
//! followers have one slot (`followers.rs`), tallies a few.
//!
//! A waiter registers, then looks at the watermarks; whoever moves a watermark publishes it, then
//! looks for registrations. Both sides are sequentially consistent, so one sees the other. A slot
//! may serve two blocks at a time (one waiting for its sync, one being filled): waking a waiter for
//! the other block is harmless, since everybody looks again.

use std::sync::Mutex;
use std::task::Waker;
use std::time::Duration;

use crate::sync::{AtomicU32, Ordering, handshake, lock};

#[derive(Debug)]
enum Entry {
    Taken(Waker),
    /// Its handle is gone; the next free one behind it.
    Free(Option<u32>),
}

/// No waker is cloned or dropped under its lock: that is the user's code.
#[derive(Debug, Default)]
struct Tasks {
    /// Raised when the list is emptied, so that a handle knows whether its entry is still its own.
    generation: u64,
    entries: Vec<Entry>,
    /// An entry to be used again, so that handles that come and go without an event leave nothing behind.
    free: Option<u32>,
}

impl Tasks {
    /// The entry of a handle, if no event has taken it.
    fn own(&mut self, own: Registration) -> Option<&mut Entry> {
        (self.generation == own.generation).then(|| &mut self.entries[own.index as usize])
    }

    fn add(&mut self, waker: Waker) -> u32 {
        let taken = Entry::Taken(waker);
        let Some(index) = self.free else {
            self.entries.push(taken);
            return u32::try_from(self.entries.len() - 1).expect("a handle takes more memory than there is");
        };
        let free = std::mem::replace(&mut self.entries[index as usize], taken);
        let Entry::Free(next) = free else { unreachable!("it is in the list of those that are free") };
        self.free = next;
        index
    }

    /// Takes the waker out of an entry, which is free then.
    fn remove(&mut self, index: u32) -> Entry {
        let next = self.free.replace(index);
        std::mem::replace(&mut self.entries[index as usize], Entry::Free(next))
    }

    /// An event: gives the wakers of all.
    fn take(&mut self, tasks: &mut Vec<Waker>) {
        if self.entries.is_empty() {
            return;
        }
        self.generation += 1;
        self.free = None;
        tasks.extend(self.entries.drain(..).filter_map(|entry| match entry {
            Entry::Taken(waker) => Some(waker),
            Entry::Free(_) => None,
        }));
    }
}

#[derive(Debug)]
#[repr(align(128))]
struct Slot {
    /// Raised at every event; threads wait on it.
    event: AtomicU32,
    /// 1 if somebody registered since the last event.
    waiting: AtomicU32,
    /// Threads that sleep, or are about to.
    sleepers: AtomicU32,
    /// 1 if one of them is to do something, and none has taken it on.
    handoff: AtomicU32,
    tasks: Mutex<Tasks>,
}

impl Slot {
    /// Whether this waker is there already, for the next event.
    fn is_left_by(&self, own: &Registration, waker: &Waker) -> bool {
        let mut tasks = lock(&self.tasks);
        let left = match tasks.own(*own) {
            Some(Entry::Taken(left)) => left.will_wake(waker),
            _ => false,
        };
        if left {
            self.waiting.swap(1, Ordering::SeqCst);
        }
        left
    }

    fn sleeps(&self) {
        self.sleepers.fetch_add(1, Ordering::SeqCst);
    }

    /// True if this thread was passed something. Whoever passes looks for sleepers after it has said so, and
    /// this looks after it has said that it sleeps no more: one sees the other.
    fn wakes(&self) -> bool {
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
        handshake();
        self.handoff.load(Ordering::SeqCst) == 1 && self.handoff.swap(0, Ordering::SeqCst) == 1
    }
}

/// Whom to wake once every lock is given up: whoever is woken may want it next, on another core.
#[derive(Debug, Default)]
pub(crate) struct Wakes {
    /// The slot of the one who was passed something. It comes first: the device waits for it.
    passed: Option<u32>,
    /// Slots whose threads are all to be woken.
    slots: [u32; 6],
    count: usize,
    pub tasks: Vec<Waker>,
}

/// Where a task's waker stands, so that a second poll replaces it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Registration {
    sequence: u64,
    generation: u64,
    index: u32,
}

/// All waiters of a shard, by slot of the pool.
#[derive(Debug)]
pub(crate) struct Waiters {
    slots: Box<[Slot]>,
}

impl Waiters {
    pub(crate) fn new(slots: u32) -> Waiters {
        let slot = || Slot {
            event: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            sleepers: AtomicU32::new(0),
            handoff: AtomicU32::new(0),
            tasks: Mutex::default(),
        };
        Waiters { slots: (0..slots).map(|_| slot()).collect() }
    }

    fn index(&self, sequence: u64) -> u32 {
        (sequence % self.slots.len() as u64) as u32
    }

    fn slot(&self, sequence: u64) -> &Slot {
        &self.slots[self.index(sequence) as usize]
    }

    /// Blocks until `resolved` gives something, looking again at each event of the block, or until
    /// the time is over. With `take_over` it can be [passed](Waiters::pass) something, and calls that then.
    #[cfg(not(sawmill_loom))]
    pub(crate) fn wait<T>(
        &self,
        sequence: u64,
        timeout: Option<Duration>,
        mut resolved: impl FnMut() -> Option<T>,
        mut take_over: Option<impl FnMut()>,
    ) -> Option<T> {
        let deadline = timeout.and_then(|timeout| std::time::Instant::now().checked_add(timeout));
        let slot = self.slot(sequence);
        loop {
            let event = slot.event.load(Ordering::SeqCst);
            slot.waiting.swap(1, Ordering::SeqCst);
            if let Some(value) = resolved() {
                return Some(value);
            }
            let left = match deadline {
                None => None,
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(std::time::Instant::now());
                    if left.is_zero() {
                        return None;
                    }
                    Some(left)
                }
            };
            let Some(take_over) = &mut take_over else {
                crate::sys::futex_wait(&slot.event, event, left);
                if slot.handoff.load(Ordering::SeqCst) == 1 {
                    // The wake-up that was meant for one who can take it over.
                    crate::sys::futex_wake(&slot.event, 1);
                }
                continue;
            };
            slot.sleeps();
            crate::sys::futex_wait(&slot.event, event, left);
            if slot.wakes() {
                take_over();
            }
        }
    }

    /// Loom knows no futex: it looks again whenever another thread has run.
    #[cfg(sawmill_loom)]
    pub(crate) fn wait<T>(
        &self,
        _: u64,
        _: Option<Duration>,
        mut resolved: impl FnMut() -> Option<T>,
        _: Option<impl FnMut()>,
    ) -> Option<T> {
        loop {
            if let Some(value) = resolved() {
                return Some(value);
            }
            loom::thread::yield_now();
        }
    }

    /// Leaves a waker for the next event of the block. The caller looks at the watermarks after it.
    pub(crate) fn register(
        &self,
        sequence: u64,
        waker: &Waker,
        previous: Option<Registration>,
    ) -> Registration {
        let slot = self.slot(sequence);
        let previous = previous.filter(|own| own.sequence == sequence);
        if let Some(own) = previous.filter(|own| slot.is_left_by(own, waker)) {
            return own;
        }
        let waker = waker.clone();
        let mut tasks = lock(&slot.tasks);
        let own = previous.filter(|own| own.generation == tasks.generation);
        let old = own.map(|own| tasks.remove(own.index));
        let index = tasks.add(waker);
        let generation = tasks.generation;
        slot.waiting.swap(1, Ordering::SeqCst);
        drop(tasks);
        drop(old);
        Registration { sequence, generation, index }
    }

    /// Takes a waker back.
    pub(crate) fn forget(&self, own: Registration) {
        let mut tasks = lock(&self.slot(own.sequence).tasks);
        let old = (tasks.generation == own.generation).then(|| tasks.remove(own.index));
        drop(tasks);
        drop(old);
    }

    /// Something happened to block `sequence`, and is published: whoever waits for it goes into `wakes`, which
    /// is given to [`wake`](Waiters::wake) under no lock.
    pub(crate) fn notify(&self, sequence: u64, wakes: &mut Wakes) {
        let Some(index) = self.happened(sequence, &mut wakes.tasks) else { return };
        match wakes.slots.get_mut(wakes.count) {
            Some(slot) => {
                *slot = index;
                wakes.count += 1;
            }
            None => self.wake_threads(index, u32::MAX),
        }
    }

    /// Marks the event, and gives the slot whose threads are to be woken.
    fn happened(&self, sequence: u64, tasks: &mut Vec<Waker>) -> Option<u32> {
        let index = self.index(sequence);
        let slot = &self.slots[index as usize];
        if slot.waiting.swap(0, Ordering::SeqCst) == 0 {
            return None;
        }
        slot.event.fetch_add(1, Ordering::SeqCst);
        lock(&slot.tasks).take(tasks);
        Some(index)
    }

    fn wake_threads(&self, slot: u32, count: u32) {
        let slot = &self.slots[slot as usize];
        #[cfg(not(sawmill_loom))]
        crate::sys::futex_wake(&slot.event, count);
        #[cfg(sawmill_loom)]
        let _ = (slot, count);
    }

    /// Wakes whom [`notify`](Waiters::notify) and [`pass`](Waiters::pass) have found.
    pub(crate) fn wake(&self, wakes: Wakes) {
        if let Some(slot) = wakes.passed {
            self.wake_threads(slot, 1);
        }
        wakes.slots[..wakes.count].iter().for_each(|&slot| self.wake_threads(slot, u32::MAX));
        crate::sync::wake(wakes.tasks);
    }

    /// Makes one of the threads that sleep for block `sequence` (or for another one of its slot) take something
    /// over; false if none does, or one was asked before and has not come yet. It is woken by
    /// [`wake`](Waiters::wake).
    pub(crate) fn pass(&self, sequence: u64, wakes: &mut Wakes) -> bool {
        let index = self.index(sequence);
        let slot = &self.slots[index as usize];
        if slot.sleepers.load(Ordering::SeqCst) == 0 || slot.handoff.swap(1, Ordering::SeqCst) == 1 {
            return false;
        }
        handshake();
        if slot.sleepers.load(Ordering::SeqCst) == 0 {
            // They have all looked, or the last one looks now: whoever gets it back has it.
            return slot.handoff.swap(0, Ordering::SeqCst) == 0;
        }
        slot.event.fetch_add(1, Ordering::SeqCst);
        if let Some(before) = wakes.passed.replace(index) {
            self.wake_threads(before, 1);
        }
        true
    }

    /// Something happened that concerns everybody: wakes the threads, and gives the wakers of the tasks.
    pub(crate) fn notify_all(&self, tasks: &mut Vec<Waker>) {
        for slot in 0..self.slots.len() as u32 {
            self.happened(u64::from(slot), tasks);
            // Also where nobody has registered since the last event: whoever was to wake them may have panicked.
            self.wake_threads(slot, u32::MAX);
        }
    }
}

#[cfg(all(test, not(sawmill_loom)))]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    struct Looks(std::sync::Arc<Waiters>, std::sync::Arc<AtomicU32>);

    impl std::task::Wake for Looks {
        fn wake(self: std::sync::Arc<Self>) {}
    }

    impl Drop for Looks {
        /// As a waker that holds the last handle of something of the log's.
        fn drop(&mut self) {
            let free = self.0.slots.iter().all(|slot| slot.tasks.try_lock().is_ok());
            self.1.fetch_add(if free { 1 } else { 1_000 }, Ordering::SeqCst);
        }
    }

    #[test]
    fn wakers_are_dropped_under_no_lock() {
        let (waiters, dropped) =
            (std::sync::Arc::new(Waiters::new(2)), std::sync::Arc::<AtomicU32>::default());
        let waker = || Waker::from(std::sync::Arc::new(Looks(waiters.clone(), dropped.clone())));
        let first = waiters.register(1, &waker(), None);
        let second = waiters.register(1, &waker(), Some(first));
        assert_eq!(dropped.load(Ordering::SeqCst), 1, "the first one was replaced");
        waiters.forget(second);
        assert_eq!(dropped.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn handles_that_come_and_go_leave_nothing_behind() {
        let waiters = Waiters::new(1);
        let other = waiters.register(1, Waker::noop(), None);
        for _ in 0..1_000 {
            let pair = [(); 2].map(|()| waiters.register(1, Waker::noop(), None));
            pair.into_iter().for_each(|own| waiters.forget(own));
        }
        assert_eq!(lock(&waiters.slot(1).tasks).entries.len(), 3);
        // An event takes those that are left, and whoever looks at its entry after that knows.
        let mut wakes = Wakes::default();
        waiters.notify(1, &mut wakes);
        assert_eq!(wakes.tasks.len(), 1);
        let next = waiters.register(1, Waker::noop(), Some(other));
        waiters.forget(other);
        assert_ne!(next.generation, other.generation);
        waiters.notify(1, &mut wakes);
        assert_eq!(wakes.tasks.len(), 2, "it was not taken for the entry of another");
    }

    /// An event was noted, and whoever noted it panicked before it woke anybody.
    #[test]
    fn what_concerns_everybody_wakes_those_who_were_forgotten() {
        let (waiters, over) = (Waiters::new(2), AtomicBool::new(false));
        let resolved = || over.load(Ordering::SeqCst).then_some(());
        std::thread::scope(|scope| {
            scope.spawn(|| waiters.wait(1, None, resolved, Some(|| ())));
            while waiters.slot(1).sleepers.load(Ordering::SeqCst) == 0 {
                std::thread::yield_now();
            }
            // Long enough for it to have called the kernel, mostly; if not it looks again by itself.
            (0..10_000).for_each(|_| std::thread::yield_now());
            waiters.notify(1, &mut Wakes::default());
            over.store(true, Ordering::SeqCst);
            waiters.notify_all(&mut Vec::new());
        });
    }
}

#[cfg(all(test, sawmill_loom))]
mod loom_tests {
    use super::*;
    use crate::sync::{AtomicU64, ModelArc};

    /// Can a waiter sleep on an event that has happened?
    #[test]
    fn loom_a_waiter_sees_the_mark_or_is_seen() {
        loom::model(|| {
            let waiters = ModelArc::new(Waiters::new(1));
            let mark = ModelArc::new(AtomicU64::new(0));
            let waiter = {
                let (waiters, mark) = (waiters.clone(), mark.clone());
                loom::thread::spawn(move || {
                    let slot = waiters.slot(0);
                    let event = slot.event.load(Ordering::SeqCst);
                    slot.waiting.swap(1, Ordering::SeqCst);
                    let resolved = mark.load(Ordering::SeqCst) > 0;
                    (resolved, event)
                })
            };
            mark.swap(1, Ordering::SeqCst);
            waiters.notify(0, &mut Wakes::default());
            let (resolved, event) = waiter.join().unwrap();
            // Not resolved: then the event has moved on, and the futex wait returns at once.
            let moved = waiters.slot(0).event.load(Ordering::SeqCst) != event;
            assert!(resolved || moved, "asleep for ever");
        });
    }

    /// Is what was passed on always taken over, by exactly one?
    #[test]
    fn loom_what_is_passed_is_taken_once() {
        loom::model(|| {
            let waiters = ModelArc::new(Waiters::new(1));
            let sleepers: Vec<_> = (0..2)
                .map(|_| {
                    let waiters = waiters.clone();
                    loom::thread::spawn(move || {
                        let slot = waiters.slot(0);
                        slot.sleeps();
                        // However short it sleeps: its time may be over, or another event wake it.
                        u32::from(slot.wakes())
                    })
                })
                .collect();
            let passed = u32::from(waiters.pass(0, &mut Wakes::default()));
            let taken: u32 = sleepers.into_iter().map(|sleeper| sleeper.join().unwrap()).sum();
            assert_eq!(passed, taken);
            assert_eq!(waiters.slot(0).handoff.load(Ordering::SeqCst), 0, "left behind");
        });
    }
}
