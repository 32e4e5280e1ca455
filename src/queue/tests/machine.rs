//! The state machine beside the model, by seed: the same is handed out, refused and remembered, whatever happens when.

use std::collections::BTreeMap;

use super::Random;
use super::model::{Model, Place};
use crate::format::{Committed, QueueState, decode_queue, encode_queue};
use crate::position::{LogId, Lsn, Position, ShardId};
use crate::queue::state::{Facts, Grant, Limits, Lost, Moment, Next, State};
use crate::time::Nanos;

const SECOND: u64 = 1_000_000_000;
const SHARDS: u64 = 2;

/// What happened, so that what never does is seen.
type Counts = BTreeMap<&'static str, u64>;

struct Machine {
    random: Random,
    limits: Limits,
    state: State,
    model: Model,
    now: u64,
    ends: [u64; SHARDS as usize],
    /// What somebody holds, or believes to hold.
    held: Vec<Grant>,
    saved: (QueueState, Model, u64),
    counts: Counts,
}

impl Machine {
    fn new(seed: u64) -> Machine {
        let mut random = Random::new(seed);
        let limits = Limits {
            lease_ns: (1 + random.below(30)) * SECOND,
            attempts: 1 + random.below(5) as u32,
            in_hand: 1 + random.below(8) as usize,
            waiting: 1 + random.below(8) as usize,
            dead: usize::MAX,
            per_second: None,
        };
        let model = Model::new(limits.lease_ns, limits.attempts, limits.in_hand, limits.waiting);
        let moment = Moment { now: Nanos(0), wall: 0 };
        let state = State::restore(limits.clone(), SHARDS as usize, QueueState::default(), moment);
        let saved = (QueueState::default(), model.clone(), 0);
        let (held, counts, ends) = (Vec::new(), Counts::new(), [0; SHARDS as usize]);
        Machine { random, limits, state, model, now: 0, ends, held, saved, counts }
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn moment(&self) -> Moment {
        // The wall clock is another one.
        Moment { now: Nanos(self.now), wall: 1_000 * SECOND + self.now }
    }

    fn append(&mut self) {
        let shard = self.random.below(SHARDS) as usize;
        self.ends[shard] += 4096 * (1 + self.random.below(3));
        let block = Lsn(self.ends[shard]);
        self.model.append(Position::new(ShardId(shard as u16), 1, Lsn(block.0 + 88), block));
    }

    fn take(&mut self) {
        let moment = self.moment();
        let unread =
            self.model.records.iter().copied().find(|at| self.model.known[at].place == Place::Unread);
        let taken = match self.state.next(moment) {
            Next::Again(grant) => {
                self.count("handed out again");
                Some(grant)
            }
            Next::Read(_) => unread.map(|position| {
                let facts = Facts { timestamp: position.lsn().0, bytes: 7 };
                self.state.deliver(Committed { position, seed: 1 }, facts, moment)
            }),
            Next::Wait(at) => {
                assert!(at.is_none_or(|at| at > moment.now), "it would be asked again at once");
                self.count("at a bound");
                None
            }
        };
        let wanted = self.model.take(self.now);
        let told = taken.map(|grant| (grant.position, grant.attempt, grant.lease));
        assert_eq!(told, wanted, "what is handed out at {}", self.now);
        self.held.extend(taken);
    }

    /// Somebody does something with what they hold, or held once.
    fn settle(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let index = self.random.below(self.held.len() as u64) as usize;
        // Some believe that they hold it after they have said what becomes of it.
        let grant = if self.random.below(8) == 0 { self.held[index] } else { self.held.swap_remove(index) };
        let (moment, delay) = (self.moment(), self.random.below(40) * SECOND);
        let Grant { position, lease, .. } = grant;
        let (told, wanted) = match self.random.below(7) {
            0 | 1 => (self.state.done(position, lease), self.model.done(position, lease)),
            2 => (
                self.state.retry_after(position, lease, delay, moment),
                self.model.retry(position, lease, self.now + delay),
            ),
            3 => (self.state.reject(position, lease, "no", moment), self.model.reject(position, lease)),
            4 => (
                self.state.extend(position, lease, delay + 1, moment),
                self.model.extend(position, lease, self.now + delay + 1),
            ),
            _ => (
                self.state.release(position, lease, "dropped", moment),
                self.model.drop(position, lease, self.now),
            ),
        };
        assert_eq!(told, if wanted { Ok(()) } else { Err(Lost) }, "{grant:?} at {}", self.now);
        self.count(if wanted { "settled" } else { "leases lost" });
    }

    fn requeue(&mut self) {
        if self.model.records.is_empty() {
            return;
        }
        let index = self.random.below(self.model.records.len() as u64) as usize;
        let position = self.model.records[index];
        let moment = self.moment();
        let wanted = self.model.requeue(position, self.now);
        assert_eq!(self.state.requeue(position, moment), wanted);
        if wanted {
            self.count("requeued");
        }
    }

    fn save(&mut self) {
        let state = self.state.save(self.moment());
        let log = LogId::from_bytes([1; 16]);
        assert_eq!(decode_queue(&encode_queue(log, &state)), Ok((log, state.clone())));
        self.saved = (state, self.model.clone(), self.now);
    }

    fn crash(&mut self) {
        self.now += self.random.below(20) * SECOND;
        let (state, model, then) = self.saved.clone();
        self.model.crash(&model, then, self.now);
        self.state = State::restore(self.limits.clone(), SHARDS as usize, state, self.moment());
        self.held.clear();
        self.count("crashes");
    }

    /// What the two say of every record.
    fn compare(&mut self) {
        let saved = self.state.save(self.moment());
        let open: BTreeMap<_, _> = saved.open.iter().map(|open| (open.position, open.attempts)).collect();
        let dead: BTreeMap<_, _> = saved.dead.iter().map(|dead| (dead.position, dead.attempts)).collect();
        for position in &self.model.records {
            let known = self.model.known[position];
            let read = saved.read[usize::from(position.shard().0)];
            let is_read = read.is_some_and(|read| read.position >= *position);
            let (in_open, in_dead) = (open.get(position), dead.get(position));
            let is = (is_read, in_open, in_dead);
            let wanted = match known.place {
                Place::Unread => (false, None, None),
                Place::Waiting { .. } | Place::InHand { .. } => (true, Some(&known.attempts), None),
                Place::Done => (true, None, None),
                Place::Dead => (true, None, Some(&known.attempts)),
            };
            assert_eq!(is, wanted, "{position} at {}", self.now);
        }
        let in_hand = self.model.count(|place| matches!(place, Place::InHand { .. }));
        assert_eq!(self.state.in_hand(), in_hand);
        assert!(in_hand <= self.limits.in_hand + 1, "an extended lease may be one more");
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..20 => self.append(),
            20..50 => self.take(),
            50..75 => self.settle(),
            75..85 => self.now += self.random.below(12) * SECOND / 2,
            85..88 => self.requeue(),
            88..96 => self.save(),
            96 => self.crash(),
            _ => self.compare(),
        }
    }

    /// Everybody does what they take: at the end all is done or dead, and nothing was skipped.
    fn drain(&mut self) {
        self.held.clear();
        loop {
            while let Some(grant) = {
                self.take();
                self.held.pop()
            } {
                assert_eq!(self.state.done(grant.position, grant.lease), Ok(()));
                assert!(self.model.done(grant.position, grant.lease));
            }
            match self.state.next(self.moment()) {
                Next::Wait(Some(at)) | Next::Read(Some(at)) => self.now = at.0,
                Next::Read(None) => break,
                other => panic!("{other:?} when all is done"),
            }
        }
        self.compare();
        assert_eq!(self.model.count(|place| !matches!(place, Place::Done | Place::Dead)), 0);
    }
}

#[test]
fn a_queue_is_what_the_model_says_whatever_happens_when() {
    let mut counts = Counts::new();
    for seed in 0..400 {
        let mut machine = Machine::new(seed);
        (0..400).for_each(|_| machine.step());
        machine.drain();
        for (what, times) in machine.counts {
            *counts.entry(what).or_default() += times;
        }
    }
    for what in ["handed out again", "at a bound", "settled", "leases lost", "requeued", "crashes"] {
        assert!(counts.get(what).copied().unwrap_or(0) > 500, "{what}: {counts:?}");
    }
}

pub(super) fn limits() -> Limits {
    Limits { lease_ns: 30 * SECOND, attempts: 5, in_hand: 100, waiting: 100, dead: 3, per_second: None }
}

pub(super) fn position(index: u64) -> Position {
    Position::new(ShardId(0), 1, Lsn(index * 4096 + 88), Lsn(index * 4096))
}

pub(super) fn at(now: u64) -> Moment {
    Moment { now: Nanos(now), wall: now }
}

pub(super) fn fresh(limits: Limits) -> State {
    State::restore(limits, 1, QueueState::default(), at(0))
}

pub(super) fn deliver(state: &mut State, index: u64, moment: Moment) -> Grant {
    let facts = Facts { timestamp: index, bytes: 10 };
    state.deliver(Committed { position: position(index), seed: 1 }, facts, moment)
}

/// One record at which everybody fails, and a million that are done behind it.
#[test]
fn what_is_done_behind_one_that_is_not_takes_no_room() {
    let mut state = fresh(limits());
    let stuck = deliver(&mut state, 0, at(0));
    for index in 1..100_000 {
        let grant = deliver(&mut state, index, at(0));
        state.done(grant.position, grant.lease).unwrap();
    }
    let saved = state.save(at(0));
    assert_eq!((saved.open.len(), saved.dead.len()), (1, 0));
    let mut state = State::restore(limits(), 1, saved, at(0));
    let Next::Again(again) = state.next(at(0)) else { panic!("it was in hand") };
    assert_eq!((again.position, again.attempt), (stuck.position, 2));
    assert_eq!(state.next(at(0)), Next::Read(Some(Nanos(30 * SECOND))), "and nothing else comes again");
}

#[test]
fn the_oldest_dead_letter_goes_where_there_are_too_many() {
    let mut state = fresh(limits());
    for index in 0..5 {
        let grant = deliver(&mut state, index, at(index));
        state.reject(grant.position, grant.lease, "no", at(index)).unwrap();
    }
    let mut state = State::restore(limits(), 1, state.save(at(9)), at(9));
    let left: Vec<_> = state.dead().all().map(|letter| (letter.position, letter.rejected)).collect();
    assert_eq!(left, [2, 3, 4].map(|index| (position(index), index)));
    assert_eq!(state.dead().forgotten, 2);
    assert!(!state.requeue(position(0), at(9)) && state.requeue(position(3), at(9)));
    let Next::Again(again) = state.next(at(9)) else { panic!("it was put back") };
    assert_eq!((again.position, again.attempt), (position(3), 1), "it begins anew");
}

/// It may be what ends the process, again and again.
#[test]
fn what_was_in_hand_for_the_last_time_when_the_process_ended_is_a_dead_letter() {
    let mut state = fresh(limits());
    deliver(&mut state, 0, at(0));
    for attempt in 2..=5 {
        state = State::restore(limits(), 1, state.save(at(0)), at(0));
        let Next::Again(grant) = state.next(at(0)) else { panic!("attempt {attempt}") };
        assert_eq!(grant.attempt, attempt);
    }
    let state = State::restore(limits(), 1, state.save(at(0)), at(0));
    let letter = state.dead().all().next().expect("it had all its attempts");
    assert_eq!((letter.position, letter.attempts), (position(0), 5));
}

/// A delay goes on where the process ended, also where the wall clock was set back meanwhile.
#[test]
fn a_delay_outlives_the_process_and_a_clock_that_is_set() {
    let saved = {
        let mut state = fresh(limits());
        let grant = deliver(&mut state, 0, at(0));
        state.retry_after(grant.position, grant.lease, 60 * SECOND, at(0)).unwrap();
        state.save(Moment { now: Nanos(20 * SECOND), wall: 1_000 * SECOND })
    };
    for (wall, due) in [(1_010, 30), (1_040, 0), (500, 40)] {
        let moment = Moment { now: Nanos(7), wall: wall * SECOND };
        let mut state = State::restore(limits(), 1, saved.clone(), moment);
        match state.next(moment) {
            Next::Again(grant) => assert_eq!((due, grant.attempt), (0, 2)),
            next => assert_eq!(next, Next::Read(Some(Nanos(7 + due * SECOND))), "at {wall} s"),
        }
    }
}
