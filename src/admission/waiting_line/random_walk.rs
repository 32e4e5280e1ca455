//! Random walks over admission: handles that are made, polled, dropped and forgotten at any point, callers that do not
//! wait, room that comes and goes, and a shard's thread that looks when a look is due and at no other time. Whatever
//! the walk does, somebody who runs gets in within a bounded time while there is room.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::Wake;

use super::*;
use crate::device::sim::Random;
use crate::sync::wake;

/// Room for so many, of which each priority may use a part, as in a shard.
const ROOM: usize = 8;

fn room_of(priority: Priority) -> usize {
    match priority {
        Priority::High => ROOM,
        Priority::Normal => ROOM - 1,
        Priority::Low => ROOM / 2,
    }
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

struct Handle {
    place: Place,
    woken: Arc<Woken>,
    /// It is polled when it is woken; else it was forgotten.
    runs: bool,
    polled: bool,
}

struct Walk {
    admission: Admission,
    random: Random,
    now: Nanos,
    handles: Vec<Handle>,
    used: usize,
    /// What all of them need is there: a segment.
    open: bool,
    /// Since when there has been room for somebody who runs, and nobody got in.
    starved: Option<Nanos>,
    /// Handles that are forgotten still may be offered room, so many at a time.
    forgotten: u64,
}

impl Walk {
    fn new(seed: u64) -> Walk {
        let random = Random::new(seed);
        Walk {
            admission: Admission::default(),
            random,
            now: Nanos(0),
            handles: Vec::new(),
            used: 0,
            open: true,
            starved: None,
            forgotten: 0,
        }
    }

    fn admits(&self, priority: Priority) -> bool {
        self.used < room_of(priority)
    }

    fn offer(&mut self) {
        let offered = self.admission.offer(self.now, |priority| self.admits(priority));
        assert!(offered.len() <= OFFERS_MAX);
        wake(offered);
    }

    fn takes_room(&mut self, priority: Priority) -> bool {
        let taken = self.open && self.admits(priority);
        if taken {
            self.used += 1;
            self.starved = None;
        }
        taken
    }

    /// As a handle's own poll; true if it is in, and gone.
    fn poll(&mut self, index: usize) -> bool {
        let handle = &mut self.handles[index];
        handle.woken.0.store(false, Ordering::SeqCst);
        handle.polled = true;
        let (place, woken) = (handle.place, handle.woken.clone());
        for _ in 0..2 {
            if self.admission.is_turn(&place, self.now) && self.takes_room(place.priority) {
                self.leave(index);
                return true;
            }
            self.admission.wait(&place, Call::Task(Waker::from(woken.clone())), self.now);
        }
        false
    }

    fn leave(&mut self, index: usize) {
        let handle = self.handles.swap_remove(index);
        self.admission.leave(&handle.place);
        self.offer();
    }

    fn forget(&mut self, index: usize) {
        self.forgotten += u64::from(std::mem::take(&mut self.handles[index].runs));
    }

    fn begin(&mut self) {
        let priority = *self.random.pick(&PRIORITIES);
        if self.admission.is_clear() && self.takes_room(priority) {
            return;
        }
        let place = self.admission.enter(priority, Nanos::NEVER, self.now);
        let woken = Arc::new(Woken(AtomicBool::new(false)));
        self.handles.push(Handle { place, woken, runs: true, polled: false });
        let last = self.handles.len() - 1;
        match self.random.below(8) {
            0 => self.forget(last),
            // Some are polled late.
            1 => {}
            _ => drop(self.poll(last)),
        }
    }

    /// More who are forgotten than are offered room at once.
    fn crowd(&mut self) {
        self.used = ROOM;
        for _ in 0..OFFERS_MAX * 2 {
            self.begin();
        }
        for index in 0..self.handles.len() {
            if self.random.below(8) > 0 {
                self.forget(index);
            }
        }
    }

    fn step(&mut self) {
        let some = (!self.handles.is_empty()).then(|| self.random.below(self.handles.len() as u64) as usize);
        match (self.random.below(16), some) {
            (0..6, _) => self.begin(),
            (6 | 7, Some(index)) => self.forget(index),
            (8, Some(index)) => self.leave(index),
            // Also one that nobody calls any more comes back now and then.
            (9, Some(index)) => drop(self.poll(index)),
            (10, _) => self.used = self.used.saturating_sub(1 + self.random.below(4) as usize),
            (11, _) => self.open = !self.open,
            (12, _) => {
                let priority = *self.random.pick(&PRIORITIES);
                let _ = self.admission.may_bypass(priority, self.now) && self.takes_room(priority);
            }
            (13, _) => self.offer(), // Whoever sees that there is room.
            _ => self.pass_time(),
        }
        self.look();
    }

    /// The woken run, then the time of the next look comes, or a shorter while.
    fn pass_time(&mut self) {
        self.run_woken();
        let (due, short) = (self.admission.due(), self.random.below(OFFER_NS));
        match due {
            Some(due) if self.random.below(4) > 0 => {
                self.now = self.now.max(due);
                self.offer();
                self.run_woken();
            }
            Some(due) => self.now = due.min(self.now + short).max(self.now),
            None => self.now = self.now + short,
        }
    }

    fn run_woken(&mut self) {
        while let Some(index) = self
            .handles
            .iter()
            .position(|handle| handle.runs && (handle.woken.0.load(Ordering::SeqCst) || !handle.polled))
        {
            self.poll(index);
        }
    }

    /// Nobody who runs stands before room for longer than it takes to offer it to all who were forgotten.
    fn look(&mut self) {
        let queue = lock(&self.admission.queue);
        let counted =
            |line: usize| queue.lines[line].iter().filter(|own| own.state.is_in_line()).count() as u64;
        let counted = [0, 1, 2].map(counted);
        let lines: u64 = (0..3).filter(|&line| counted[line] > 0).map(taken).sum();
        assert_eq!(self.admission.word.0.load(Ordering::SeqCst), counted.iter().sum::<u64>() + lines);
        for (line, priority) in PRIORITIES.into_iter().enumerate() {
            let is_free = counted[..=line].iter().all(|&in_line| in_line == 0);
            assert_eq!(self.admission.is_free_for(priority), is_free);
        }
        drop(queue);
        let waits = |handle: &Handle| handle.runs && self.admits(handle.place.priority);
        if !self.open || !self.handles.iter().any(waits) {
            self.starved = None;
            return;
        }
        let since = *self.starved.get_or_insert(self.now);
        let bound = LOOK_NS + (self.forgotten / OFFERS_MAX as u64 + 3) * 2 * OFFER_NS;
        assert!(self.now - since <= bound, "there has been room for {} ns", self.now - since);
    }

    /// Room for all, again and again: those who run get in, and then nobody stands in anybody's way.
    fn end(&mut self) {
        self.open = true;
        let mut looks = 0;
        loop {
            self.used = 0;
            self.run_woken();
            let Some(due) = self.admission.due() else { break };
            self.now = self.now.max(due);
            self.offer();
            looks += 1;
            assert!(looks < 100 + self.forgotten, "it goes on for ever");
        }
        assert!(self.handles.iter().all(|handle| !handle.runs), "one who runs did not get in");
        assert!(self.admission.is_clear(), "one who does not wait is refused for ever");
    }
}

#[test]
fn somebody_who_runs_gets_in_whoever_is_forgotten() {
    for seed in 0..3_000 {
        let mut walk = Walk::new(seed);
        if seed % 8 == 0 {
            walk.crowd();
        }
        for _ in 0..300 {
            walk.step();
        }
        walk.end();
    }
}
