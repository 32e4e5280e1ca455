//! Admission: who waits for room, in which order, and who is refused.
//!
//! While nobody waits and nothing is wrong, an append looks at one word ([`Admission::is_clear`])
//! and goes on. Otherwise it queues. Room is taken by a waiter itself, in its own poll or `wait()`;
//! a wake-up is an offer, and one that is not taken within [`OFFER_NS`] passes to the next, so a
//! future that is never polled again stops nobody.
//!
//! Whoever has an offer stands in nobody's way: others go ahead meanwhile. If they were held until it
//! is awake, callers would take turns at one record a wake-up for as long as they keep coming (a lock
//! convoy; it cost a third of the rate). One that finds its room taken waits again, in its old place.

mod delay;

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;
use std::thread::Thread;

use crate::sync::{CacheLine, lock};
use crate::write::Priority;

pub(crate) use delay::retry_after;

/// An offer that is not taken within a millisecond passes on: far above a wake-up (some 60 us), far
/// below what a caller would call a stall.
pub(crate) const OFFER_NS: u64 = 1_000_000;

/// Offers that are out at once. Waking one waiter after the other would drain a queue at one record a
/// wake-up, some tens of thousands a second; whoever takes its offer makes the next ones.
const OFFERS_MAX: usize = 32;

/// Set in the word when nothing is accepted any more.
const SHUT: u64 = 1 << 63;

/// How a waiter is woken.
#[derive(Debug, Clone)]
pub(crate) enum Call {
    Thread(Thread),
    Task(Waker),
}

impl Call {
    /// Wakes a thread; gives back the waker of a task, which is called under no lock of ours.
    #[must_use]
    fn call(self) -> Option<Waker> {
        match self {
            Call::Thread(thread) => {
                thread.unpark();
                None
            }
            Call::Task(waker) => Some(waker),
        }
    }
}

#[derive(Debug)]
struct Ticket {
    id: u64,
    call: Option<Call>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In line; it keeps those behind it from going ahead.
    Waiting,
    /// Offered room, at this time.
    Offered(u64),
    /// It let an offer pass.
    Passed,
}

/// Places in each line that are there from the start, so that to queue allocates nothing; with more
/// waiters than that a line grows now and then, in proportion to the handles.
const PLACES: usize = 256;

#[derive(Debug)]
struct Queue {
    next_id: u64,
    /// By priority, the highest first.
    lines: [VecDeque<Ticket>; 3],
}

impl Default for Queue {
    fn default() -> Queue {
        Queue { next_id: 0, lines: [(); 3].map(|()| VecDeque::with_capacity(PLACES)) }
    }
}

fn line_of(priority: Priority) -> usize {
    match priority {
        Priority::High => 0,
        Priority::Normal => 1,
        Priority::Low => 2,
    }
}

/// A place in the queue. Dropping it without [`Admission::leave`] is safe and leaves the place
/// behind, which then lets its offers pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    id: u64,
    priority: Priority,
}

/// Who may append now, and the queue of those who wait for room.
#[derive(Debug, Default)]
pub(crate) struct Admission {
    /// Tickets that are [`State::Waiting`], and [`SHUT`].
    word: CacheLine<AtomicU64>,
    queue: Mutex<Queue>,
}

impl Admission {
    /// Whether an append may go ahead without a look at the queue.
    #[inline]
    pub(crate) fn is_clear(&self) -> bool {
        self.word.0.load(Ordering::SeqCst) == 0
    }

    pub(crate) fn is_shut(&self) -> bool {
        self.word.0.load(Ordering::SeqCst) & SHUT != 0
    }

    /// Nothing is accepted from now on; gives the wakers of everybody, to be told so.
    #[must_use]
    pub(crate) fn shut(&self) -> Vec<Waker> {
        self.word.0.fetch_or(SHUT, Ordering::SeqCst);
        self.call_all()
    }

    /// Wakes everybody who waits, to look again; gives back the wakers of tasks.
    #[must_use]
    pub(crate) fn call_all(&self) -> Vec<Waker> {
        let mut queue = lock(&self.queue);
        let calls = queue.lines.iter_mut().flatten().filter_map(|ticket| ticket.call.take());
        calls.filter_map(Call::call).collect()
    }

    /// Takes a place at the end of the queue.
    pub(crate) fn enter(&self, priority: Priority) -> Place {
        let mut queue = lock(&self.queue);
        let id = queue.next_id;
        queue.next_id += 1;
        queue.lines[line_of(priority)].push_back(Ticket { id, call: None, state: State::Waiting });
        self.word.0.fetch_add(1, Ordering::SeqCst);
        Place { id, priority }
    }

    fn find<'a>(queue: &'a mut Queue, place: &Place) -> Option<&'a mut Ticket> {
        let line = &mut queue.lines[line_of(place.priority)];
        let index = line.binary_search_by_key(&place.id, |ticket| ticket.id).ok()?;
        line.get_mut(index)
    }

    /// Whether it is this waiter's turn: it was offered room, has let an offer pass before, or
    /// nobody stands before it.
    pub(crate) fn is_turn(&self, place: &Place) -> bool {
        let mut queue = lock(&self.queue);
        let first = queue.lines[..=line_of(place.priority)]
            .iter()
            .flatten()
            .find(|ticket| ticket.state == State::Waiting)
            .map(|ticket| ticket.id);
        Admission::find(&mut queue, place)
            .is_some_and(|ticket| ticket.state != State::Waiting || first == Some(ticket.id))
    }

    /// Leaves a call for the next offer. The caller looks for room once more after this.
    pub(crate) fn wait(&self, place: &Place, call: Call) {
        let mut queue = lock(&self.queue);
        if let Some(ticket) = Admission::find(&mut queue, place) {
            ticket.call = Some(call);
            if ticket.state != State::Waiting {
                ticket.state = State::Waiting;
                self.word.0.fetch_add(1, Ordering::SeqCst);
            }
        }
    }

    /// Gives the place up: the record was accepted, or its handle is gone.
    pub(crate) fn leave(&self, place: &Place) {
        let mut queue = lock(&self.queue);
        let line = &mut queue.lines[line_of(place.priority)];
        let Ok(index) = line.binary_search_by_key(&place.id, |ticket| ticket.id) else { return };
        let ticket = line.remove(index).expect("found");
        if ticket.state == State::Waiting {
            self.word.0.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// There is room, for `admits(priority)`: offers it to those who wait longest, and gives back the
    /// wakers of those that are tasks.
    #[must_use]
    pub(crate) fn offer(&self, now: u64, admits: impl Fn(Priority) -> bool) -> Vec<Waker> {
        let mut tasks = Vec::new();
        if self.is_clear() {
            return tasks;
        }
        let mut queue = lock(&self.queue);
        let priorities = [Priority::High, Priority::Normal, Priority::Low];
        let mut out = 0;
        for (line, priority) in queue.lines.iter_mut().zip(priorities) {
            for ticket in line.iter_mut().filter(|_| admits(priority)) {
                if out == OFFERS_MAX {
                    return tasks;
                }
                if let State::Offered(_) = ticket.state {
                    out += 1;
                } else if let Some(call) = ticket.call.take() {
                    ticket.state = State::Offered(now);
                    self.word.0.fetch_sub(1, Ordering::SeqCst);
                    out += 1;
                    // A thread is woken at once, which runs none of the user's code.
                    tasks.extend(call.call());
                }
            }
        }
        tasks
    }

    /// Lets offers pass that were not taken in time. Returns when to look again.
    pub(crate) fn tick(&self, now: u64) -> Option<u64> {
        if self.is_clear() {
            return None;
        }
        let mut queue = lock(&self.queue);
        let mut next = None;
        for ticket in queue.lines.iter_mut().flatten() {
            let State::Offered(offered) = ticket.state else { continue };
            let due = offered + OFFER_NS;
            if now >= due {
                ticket.state = State::Passed;
            } else {
                next = Some(next.map_or(due, |next: u64| next.min(due)));
            }
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU32;
    use std::task::Wake;

    use super::*;
    use crate::sync::wake;

    #[derive(Default)]
    struct Count(AtomicU32);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn waiter(admission: &Admission, priority: Priority) -> (Place, Arc<Count>) {
        let count = Arc::new(Count::default());
        let place = admission.enter(priority);
        admission.wait(&place, Call::Task(Waker::from(count.clone())));
        (place, count)
    }

    fn calls(count: &Count) -> u32 {
        count.0.load(Ordering::SeqCst)
    }

    #[test]
    fn room_goes_to_the_first_and_then_to_the_next() {
        let admission = Admission::default();
        let (first, first_calls) = waiter(&admission, Priority::Normal);
        let (second, second_calls) = waiter(&admission, Priority::Normal);
        wake(admission.offer(0, |_| true));
        assert_eq!((calls(&first_calls), calls(&second_calls)), (1, 1));
        assert!(admission.is_turn(&first) && admission.is_turn(&second));
        admission.leave(&first);
        admission.leave(&second);
        assert!(admission.is_clear());
    }

    #[test]
    fn offers_go_out_in_order_and_so_many_at_a_time() {
        let admission = Admission::default();
        let waiters: Vec<_> = (0..OFFERS_MAX + 8).map(|_| waiter(&admission, Priority::Normal)).collect();
        wake(admission.offer(0, |_| true));
        wake(admission.offer(0, |_| true));
        let called =
            |waiters: &[(Place, Arc<Count>)]| waiters.iter().map(|(_, count)| calls(count)).sum::<u32>();
        assert_eq!(called(&waiters[..OFFERS_MAX]), OFFERS_MAX as u32, "each is called once");
        assert_eq!(called(&waiters[OFFERS_MAX..]), 0);
        admission.leave(&waiters[0].0);
        wake(admission.offer(0, |_| true));
        assert_eq!(called(&waiters[OFFERS_MAX..OFFERS_MAX + 1]), 1);
    }

    #[test]
    fn the_higher_priority_is_offered_first_and_the_lower_only_what_it_may_use() {
        let admission = Admission::default();
        let (_low, low_calls) = waiter(&admission, Priority::Low);
        let (high, high_calls) = waiter(&admission, Priority::High);
        wake(admission.offer(0, |priority| priority == Priority::High));
        assert_eq!((calls(&low_calls), calls(&high_calls)), (0, 1));
        admission.leave(&high);
        wake(admission.offer(0, |_| true));
        assert_eq!(calls(&low_calls), 1);
    }

    /// The futurelock of Oxide RFD 609: a waiter that is not polled any more must not stop others.
    #[test]
    fn an_offer_that_is_not_taken_passes_on() {
        let admission = Admission::default();
        let (dead, _) = waiter(&admission, Priority::Normal);
        let (alive, alive_calls) = waiter(&admission, Priority::Normal);
        wake(admission.offer(0, |_| true));
        assert_eq!(calls(&alive_calls), 1);
        assert!(admission.is_clear(), "whoever has an offer stands in nobody's way");
        // The one that lives has been polled and waits again; the other lets its offer pass.
        admission.wait(&alive, Call::Task(Waker::from(alive_calls.clone())));
        assert!(!admission.is_clear());
        assert_eq!(admission.tick(10), Some(OFFER_NS));
        assert_eq!(admission.tick(OFFER_NS), None);
        wake(admission.offer(OFFER_NS, |_| true));
        assert_eq!(calls(&alive_calls), 2);
        admission.leave(&alive);
        assert!(admission.is_clear(), "a waiter that let an offer pass holds nobody up");
        assert!(admission.is_turn(&dead), "and may still take room when it is polled");
        admission.leave(&dead);
        assert!(admission.is_clear());
    }
}
