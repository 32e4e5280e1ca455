//! The line of those who wait for room: who stands in it, whose turn it is, and who is offered room next.
//!
//! Why it is as it is, and that nobody is held up by a handle that was forgotten, says the room's own comment.

#[cfg(all(test, not(sawmill_loom)))]
mod random_walk;
#[cfg(all(test, not(sawmill_loom)))]
mod tests;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;
use std::thread::Thread;

use super::offer::{LOOK_NS, OFFER_NS, OFFERS_MAX};
use super::overload;
use crate::sync::{CacheLine, lock};
use crate::time::Nanos;
use crate::write::Priority;

/// Set in the word when nothing is accepted any more.
const SHUT: u64 = 1 << 63;

/// Set in the word while somebody stands in that line, the highest priority being 0.
const fn taken(line: usize) -> u64 {
    1 << (60 + line)
}

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
    state: State,
}

/// Each state ends by itself: the two that have a time when that is over, the third by an offer.
#[derive(Debug)]
enum State {
    /// Made, and not looked at yet. Until this time it keeps those behind it from going ahead.
    New(Nanos),
    /// In line, with how it is called; it keeps those behind it from going ahead.
    Waiting(Call),
    /// Offered room until this time.
    Offered(Nanos),
}

impl State {
    /// Whether it keeps those behind it from going ahead.
    fn is_in_line(&self) -> bool {
        !matches!(self, State::Offered(_))
    }

    fn until(&self) -> Option<Nanos> {
        match self {
            State::New(until) | State::Offered(until) => Some(*until),
            State::Waiting(_) => None,
        }
    }
}

/// Places in each line that are there from the start, so that to queue allocates nothing; with more
/// waiters than that a line grows now and then, in proportion to the handles.
const PLACES: usize = 256;

/// The highest first, as the lines are.
const PRIORITIES: [Priority; 3] = [Priority::High, Priority::Normal, Priority::Low];

/// The ticket of that id and line is out of line at that time, if it has not changed until then.
#[derive(Clone, Copy, Debug)]
struct Timed {
    until: Nanos,
    id: u64,
    line: usize,
}

/// Whoever has that id and line gives up at that time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Deadline {
    at: Nanos,
    id: u64,
    line: usize,
}

#[derive(Debug)]
struct Queue {
    next_id: u64,
    /// By priority, the highest first; in each by id.
    lines: [VecDeque<Ticket>; 3],
    /// What is over at which time. All are given as long, so that they stand in order.
    timed: VecDeque<Timed>,
    /// Of those who wait and have one, with the next at the top. One that does not wait any more may be there still.
    deadlines: BinaryHeap<Reverse<Deadline>>,
    /// How many stand in each line.
    in_line: [u64; 3],
    /// When room was last looked for, or somebody came into an empty line.
    offered_at: Nanos,
}

impl Default for Queue {
    fn default() -> Queue {
        let lines = [(); 3].map(|()| VecDeque::with_capacity(PLACES));
        Queue {
            next_id: 0,
            lines,
            timed: VecDeque::with_capacity(PLACES),
            deadlines: BinaryHeap::with_capacity(PLACES),
            in_line: [0; 3],
            offered_at: Nanos::default(),
        }
    }
}

impl Queue {
    /// Where it stands in its line, or would.
    fn find(&self, place: &Place) -> Result<usize, usize> {
        self.lines[line_of(place.priority)].binary_search_by_key(&place.id, |ticket| ticket.id)
    }

    /// Where in its line the one stands whose time is over then; `None` if it has been looked at since.
    fn timed(&self, &Timed { until, id, line }: &Timed) -> Option<usize> {
        let line = &self.lines[line];
        let index = line.binary_search_by_key(&id, |ticket| ticket.id).ok()?;
        (line[index].state.until() == Some(until)).then_some(index)
    }

    /// Where in its line one stands that waits, and is called at its deadline.
    fn waiting(&self, &Deadline { id, line, .. }: &Deadline) -> Option<usize> {
        let index = self.lines[line].binary_search_by_key(&id, |ticket| ticket.id).ok()?;
        matches!(self.lines[line][index].state, State::Waiting(_)).then_some(index)
    }

    /// Adds the deadline of one that begins to wait. Forgets those who do not wait once they are most of what is kept.
    fn add_deadline(&mut self, deadline: Deadline) {
        let there: usize = self.lines.iter().map(VecDeque::len).sum();
        if self.deadlines.len() >= 2 * there + PLACES {
            let mut kept = std::mem::take(&mut self.deadlines).into_vec();
            kept.sort_unstable();
            kept.dedup();
            kept.retain(|Reverse(own)| self.waiting(own).is_some());
            self.deadlines = kept.into();
        }
        self.deadlines.push(Reverse(deadline));
    }

    /// Whether nobody of these lines stands in line.
    fn is_free(&self, lines: usize) -> bool {
        self.in_line[..lines] == [0; 3][..lines]
    }
}

fn line_of(priority: Priority) -> usize {
    PRIORITIES.len() - 1 - overload::index(priority)
}

/// A place in the queue. It may be forgotten without [`Admission::leave`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    id: u64,
    priority: Priority,
    /// When it is given up.
    deadline: Nanos,
}

/// See the room's comment.
#[derive(Debug, Default)]
pub(crate) struct Admission {
    /// How many stand in line, in which lines ([`taken`]), and [`SHUT`]. All but that changes under the lock alone.
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
        let mut tasks = Vec::new();
        let mut guard = lock(&self.queue);
        let Queue { lines, in_line, .. } = &mut *guard;
        for (line, tickets) in lines.iter_mut().enumerate() {
            for ticket in tickets.iter_mut().filter(|ticket| matches!(ticket.state, State::Waiting(_))) {
                tasks.extend(self.call(ticket, Nanos::NEVER));
                self.uncount(in_line, line);
            }
        }
        tasks
    }

    /// Calls one that waits, and has it stand in nobody's way until it comes. Under the lock.
    fn call(&self, ticket: &mut Ticket, until: Nanos) -> Option<Waker> {
        let State::Waiting(call) = std::mem::replace(&mut ticket.state, State::Offered(until)) else {
            unreachable!("who waits is called");
        };
        // A thread is woken at once, which runs none of the user's code.
        call.call()
    }

    /// One more stands in this line. Under the lock.
    fn count_waiter(&self, queue: &mut Queue, line: usize, now: Nanos) {
        queue.in_line[line] += 1;
        let first = if queue.in_line[line] == 1 { taken(line) } else { 0 };
        if self.word.0.fetch_add(1 + first, Ordering::SeqCst) & !SHUT == 0 {
            queue.offered_at = now;
        }
    }

    /// One less does. Under the lock.
    fn uncount(&self, in_line: &mut [u64; 3], line: usize) {
        in_line[line] -= 1;
        let last = if in_line[line] == 0 { taken(line) } else { 0 };
        self.word.0.fetch_sub(1 + last, Ordering::SeqCst);
    }

    /// Takes a place at the end of the queue, for somebody who gives up at a time, if he does.
    pub(crate) fn enter(&self, priority: Priority, deadline: Nanos, now: Nanos) -> Place {
        let mut queue = lock(&self.queue);
        self.expire(&mut queue, now);
        let (id, line, until) = (queue.next_id, line_of(priority), now + OFFER_NS);
        queue.next_id += 1;
        queue.lines[line].push_back(Ticket { id, state: State::New(until) });
        queue.timed.push_back(Timed { until, id, line });
        self.count_waiter(&mut queue, line, now);
        Place { id, priority, deadline }
    }

    /// Takes those out of line whose time is over. They have no waker that would be dropped here.
    fn expire(&self, queue: &mut Queue, now: Nanos) {
        while let Some(&timed) = queue.timed.front().filter(|timed| timed.until <= now) {
            queue.timed.pop_front();
            let Some(index) = queue.timed(&timed) else { continue };
            let passed = queue.lines[timed.line].remove(index).expect("found");
            if passed.state.is_in_line() {
                self.uncount(&mut queue.in_line, timed.line);
            }
        }
    }

    /// Calls those whose deadline is over: they give up. Under the lock.
    fn call_late(&self, queue: &mut Queue, now: Nanos, tasks: &mut Vec<Waker>) {
        let until = now + OFFER_NS;
        while let Some(&Reverse(deadline)) = queue.deadlines.peek().filter(|late| late.0.at <= now) {
            queue.deadlines.pop();
            let Some(index) = queue.waiting(&deadline) else { continue };
            tasks.extend(self.call(&mut queue.lines[deadline.line][index], until));
            self.uncount(&mut queue.in_line, deadline.line);
            queue.timed.push_back(Timed { until, id: deadline.id, line: deadline.line });
        }
    }

    /// Whether it is this waiter's turn: it was offered room, or nobody stands in line before it.
    pub(crate) fn is_turn(&self, place: &Place, now: Nanos) -> bool {
        let mut queue = lock(&self.queue);
        self.expire(&mut queue, now);
        let (found, own) = (queue.find(place), line_of(place.priority));
        let line = &queue.lines[own];
        if found.is_ok_and(|index| matches!(line[index].state, State::Offered(_))) {
            return true;
        }
        let mut before = line.range(..found.unwrap_or_else(|index| index));
        queue.is_free(own) && !before.any(|ticket| ticket.state.is_in_line())
    }

    /// Whether nobody stands in a line before which a caller of this priority may not go ahead, as far as one sees without
    /// the lock: some may be out of line by now.
    pub(crate) fn is_free_for(&self, priority: Priority) -> bool {
        let lines = (0..=line_of(priority)).fold(0, |lines, line| lines | taken(line));
        self.word.0.load(Ordering::SeqCst) & lines == 0
    }

    /// Whether a caller of this priority that does not wait may go ahead of all who stand in line.
    pub(crate) fn may_bypass(&self, priority: Priority, now: Nanos) -> bool {
        let mut queue = lock(&self.queue);
        self.expire(&mut queue, now);
        queue.is_free(line_of(priority) + 1)
    }

    /// Leaves a call for the next offer. The caller looks for room once more after this.
    pub(crate) fn wait(&self, place: &Place, call: Call, now: Nanos) {
        let mut guard = lock(&self.queue);
        let queue = &mut *guard;
        let (found, line) = (queue.find(place), line_of(place.priority));
        let waits = State::Waiting(call);
        let before = match found {
            Ok(index) => Some(std::mem::replace(&mut queue.lines[line][index].state, waits)),
            Err(index) => {
                queue.lines[line].insert(index, Ticket { id: place.id, state: waits });
                None
            }
        };
        if !before.as_ref().is_some_and(State::is_in_line) {
            self.count_waiter(queue, line, now);
        }
        if place.deadline != Nanos::NEVER && !matches!(before, Some(State::Waiting(_))) {
            queue.add_deadline(Deadline { at: place.deadline, id: place.id, line });
        }
        drop(guard);
        // A waker may do anything when it is dropped: under no lock.
        drop(before);
    }

    /// Gives the place up: the record was accepted, or its handle is gone.
    pub(crate) fn leave(&self, place: &Place) {
        let mut queue = lock(&self.queue);
        let Ok(index) = queue.find(place) else { return };
        let line = line_of(place.priority);
        let left = queue.lines[line].remove(index).expect("found");
        if left.state.is_in_line() {
            self.uncount(&mut queue.in_line, line);
        }
        drop(queue);
        drop(left); // With its waker, as above.
    }

    /// There is room, for `admits(priority)`, or a deadline is over: calls those who give up, offers it to those who wait longest, and gives back the
    /// wakers of those that are tasks.
    #[must_use]
    pub(crate) fn offer(&self, now: Nanos, admits: impl Fn(Priority) -> bool) -> Vec<Waker> {
        let mut tasks = Vec::new();
        if self.is_clear() {
            return tasks;
        }
        let mut guard = lock(&self.queue);
        let queue = &mut *guard;
        self.expire(queue, now);
        self.call_late(queue, now, &mut tasks);
        queue.offered_at = now;
        let (mut out, until) = (0, now + OFFER_NS);
        for (line, priority) in PRIORITIES.into_iter().enumerate() {
            if !admits(priority) {
                continue;
            }
            for ticket in &mut queue.lines[line] {
                if out == OFFERS_MAX {
                    return tasks;
                }
                match ticket.state {
                    State::New(_) => continue,
                    State::Offered(_) => {}
                    State::Waiting(_) => {
                        tasks.extend(self.call(ticket, until));
                        self.uncount(&mut queue.in_line, line);
                        queue.timed.push_back(Timed { until, id: ticket.id, line });
                    }
                }
                out += 1;
            }
        }
        tasks
    }

    /// When to [`offer`](Admission::offer) next, if nothing happens before; `None` if nobody stands in line.
    pub(crate) fn due(&self) -> Option<Nanos> {
        let word = self.word.0.load(Ordering::SeqCst);
        if word == 0 || word & SHUT != 0 {
            return None;
        }
        let mut queue = lock(&self.queue);
        // Whoever took its offer and came back for want of room is not called again for that.
        while queue.timed.front().is_some_and(|timed| queue.timed(timed).is_none()) {
            queue.timed.pop_front();
        }
        let (soon, late) = (queue.offered_at + OFFER_NS, queue.offered_at + LOOK_NS);
        // Many may be over soon after each other: they are seen to together.
        let look = queue.timed.front().map_or(late, |timed| soon.max(timed.until).min(late));
        while queue.deadlines.peek().is_some_and(|next| queue.waiting(&next.0).is_none()) {
            queue.deadlines.pop();
        }
        Some(queue.deadlines.peek().map_or(look, |next| look.min(next.0.at)))
    }
}
