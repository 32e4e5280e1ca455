//! Workers that die at random, on a machine that dies at random: a seed is the whole history.
//!
//! The oracle knows only what was appended, handed out, said and flushed. What was said since the last flush that
//! succeeded may be remembered or not after a crash, as may what a flush that failed has written.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Random;
use crate::queue::{Delivery, Queue, QueueOptions};
use crate::simulation::{End, Faults, Simulated};
use crate::{Log, Options, Position, QueueError, ShardId, TruncateError};

const PATH: &str = "/queues";
const SECOND: u64 = 1_000_000_000;

/// Seeds of a plain `cargo test`; `SAWMILL_QUEUE_SEEDS=FROM..TO` runs others.
fn seeds() -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("SAWMILL_QUEUE_SEEDS") else { return 0..300 };
    let parsed = text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    parsed.expect("SAWMILL_QUEUE_SEEDS is FROM..TO")
}

/// What is known for certain of a record, or between which bounds.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    /// How often it was handed out: at least, at most.
    attempts: (u32, u32),
    is_done: bool,
    is_dead: bool,
    /// It is not handed out before this moment.
    not_before: u64,
}

impl Told {
    /// What is known after a crash: one of the two is remembered, or something between them.
    fn or(self, other: Told) -> Told {
        let ((low, high), (other_low, other_high)) = (self.attempts, other.attempts);
        Told {
            attempts: (low.min(other_low), high.max(other_high)),
            is_done: self.is_done && other.is_done,
            is_dead: self.is_dead && other.is_dead,
            not_before: self.not_before.min(other.not_before),
        }
    }
}

/// What is known of a record in this life, and what was flushed of that.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    live: Told,
    flushed: Told,
    /// Somebody has said once that it is done.
    was_done: bool,
}

/// In a worker's hands, until no moment before `until`.
struct InHand {
    delivery: Delivery,
    until: u64,
}

struct History {
    random: Random,
    machine: Simulated,
    attempts: u32,
    lease: u64,
    /// The log waits for the queue, and is truncated as far as that lets it.
    is_held: bool,
    log: Option<(Log, Queue)>,
    held: Vec<InHand>,
    /// What was acknowledged, or found after a crash.
    known: BTreeMap<Position, Known>,
    counts: BTreeMap<&'static str, u64>,
}

impl History {
    fn new(seed: u64) -> History {
        let mut random = Random::new(seed);
        let (attempts, lease) = (1 + random.below(5) as u32, (1 + random.below(20)) * SECOND);
        let machine = Simulated::seed(seed);
        let (log, held, known, counts) = (None, Vec::new(), BTreeMap::new(), BTreeMap::new());
        let is_held = random.below(2) == 0;
        let mut history = History { random, machine, attempts, lease, is_held, log, held, known, counts };
        history.open();
        history
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn now(&self) -> u64 {
        self.machine.device().now().0
    }

    fn queue(&self) -> &Queue {
        &self.log.as_ref().expect("it is open").1
    }

    /// Opens the log without faults, looks what is there, and lets faults come.
    fn open(&mut self) {
        self.machine.set_faults(&Faults::default());
        let options = Options::new().shards(2).block_bytes(4096).segment_bytes(16_384).memory_bytes(1 << 16);
        let options = if self.is_held { options.retain_for(["mailer"]) } else { options };
        let log = options.device(&self.machine).open(PATH).expect("a crash does no harm");
        let found: Vec<Position> =
            log.merged(..).unwrap().map(|record| record.expect("nothing is damaged").position()).collect();
        self.known.retain(|position, known| {
            let is_there = found.contains(position);
            assert!(
                is_there || self.is_held && known.was_done,
                "{position} is gone, and was not done: {known:?}"
            );
            is_there
        });
        found.into_iter().for_each(|position| {
            self.known.entry(position).or_default();
        });
        let options = QueueOptions::new()
            .lease(Duration::from_nanos(self.lease))
            .attempts(self.attempts)
            .in_hand(1 + self.random.below(20) as usize);
        let queue = log.queue("mailer", options).expect("a crash does no harm");
        self.log = Some((log, queue));
        let mut faults = Faults::default();
        if self.random.below(2) == 0 {
            faults.stop_after = Some(self.random.below(300));
        }
        if self.random.below(4) == 0 {
            faults.call_error = 30;
        }
        self.machine.set_faults(&faults);
    }

    /// The life ends, with whatever is in somebody's hands.
    fn crash(&mut self) {
        let is_clean = self.random.below(4) == 0 && !self.machine.has_stopped();
        let closed = is_clean && self.log.as_ref().expect("it is open").0.close().is_ok();
        self.machine.stop();
        self.held.clear();
        self.log = None;
        let end = if self.random.below(3) == 0 { End::Kill } else { End::PowerCut };
        self.machine.restart(end);
        for known in self.known.values_mut() {
            if closed {
                known.flushed = known.live;
            }
            known.live = known.live.or(known.flushed);
            known.flushed = known.live;
        }
        self.count(if closed { "closes" } else { "crashes" });
        self.open();
    }

    fn append(&mut self) {
        let bytes = self.random.below(1_500) as usize;
        let appended = self.log.as_ref().expect("it is open").0.append(vec![7; bytes]).wait();
        match appended {
            Ok(position) => drop(self.known.insert(position, Known::default())),
            Err(_) => self.crash(),
        }
    }

    fn take(&mut self) {
        let before = self.now();
        let most = 1 + self.random.below(4) as usize;
        let batch = match self.queue().take_batch(most).wait_timeout(Duration::ZERO) {
            None => return,
            Some(Err(_)) => return self.crash(),
            Some(Ok(batch)) => batch,
        };
        assert!((1..=most).contains(&batch.len()));
        for delivery in batch {
            self.handed_out(&delivery, before);
            self.held.push(InHand { delivery, until: before + self.lease });
        }
    }

    fn handed_out(&mut self, delivery: &Delivery, before: u64) {
        let (now, attempt) = (self.now(), delivery.attempt());
        let position = delivery.record().position();
        let other = self.held.iter().find(|own| own.delivery.record().position() == position);
        assert!(other.is_none_or(|own| own.until <= now), "{position} is in two hands at {before}");
        if other.is_some() {
            self.count("leases that ran out");
        }
        let known = self.known.entry(position).or_default();
        let Told { attempts: (low, high), is_done, is_dead, not_before } = known.live;
        assert!(!is_done, "{position} comes again, and was durably done");
        assert!(!is_dead, "{position} comes again, and was a dead letter");
        assert!(not_before <= now, "{position} comes at {now}, before {not_before}");
        assert!((low + 1..=high + 1).contains(&attempt), "attempt {attempt} of {position}: {known:?}");
        assert!(attempt <= self.attempts, "attempt {attempt} of {position}");
        let was_done = known.was_done;
        known.live = Told { attempts: (attempt, attempt), ..Told::default() };
        if was_done {
            self.count("done again after a crash");
        }
        if attempt > 1 {
            self.count("handed out again");
        }
    }

    /// Somebody says what becomes of what they hold, or dies.
    fn settle(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let index = self.random.below(self.held.len() as u64) as usize;
        let (position, attempt, now) = {
            let delivery = &self.held[index].delivery;
            (delivery.record().position(), delivery.attempt(), self.now())
        };
        let (is_last, delay) = (attempt == self.attempts, self.random.below(30) * SECOND);
        let what = self.random.below(8);
        if what == 0 {
            let told = self.held[index].delivery.extend(Duration::from_nanos(delay));
            if told.is_ok() {
                self.held[index].until = now + delay;
            }
            return;
        }
        let InHand { delivery, until } = self.held.swap_remove(index);
        // With whom it is if that is not said.
        let is_mine = until > self.now();
        let live = &mut self.known.get_mut(&position).expect("it was handed out").live;
        let told = match what {
            1..=3 => delivery.done().map(|()| live.is_done = true),
            4 => delivery.reject("no").map(|()| live.is_dead = true),
            5 => delivery.retry_after(Duration::from_nanos(delay)).map(|()| {
                live.not_before = now + delay;
                live.is_dead = is_last;
            }),
            _ => {
                drop(delivery);
                live.is_dead |= is_mine && is_last;
                Ok(())
            }
        };
        let is_done = live.is_done && told.is_ok();
        match told {
            Ok(()) => self.known.get_mut(&position).expect("as before").was_done |= is_done,
            Err(QueueError::LeaseLost(lost)) => {
                assert!(lost == position && !is_mine, "{position} was lost before its lease ran out");
                self.count("leases lost");
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn flush(&mut self) {
        if self.queue().flush().is_ok() {
            self.known.values_mut().for_each(|known| known.flushed = known.live);
            self.count("flushes");
        } else {
            self.count("flushes that failed");
        }
    }

    fn requeue(&mut self) {
        let letters: Vec<Position> = self.queue().rejected().map(|letter| letter.position()).collect();
        if letters.is_empty() {
            return;
        }
        let position = letters[self.random.below(letters.len() as u64) as usize];
        if self.queue().requeue(position).is_ok() {
            let known = self.known.get_mut(&position).expect("it was handed out");
            let before = std::mem::take(&mut known.live);
            // A flush that fails may write either, whatever comes after it.
            known.flushed = known.flushed.or(before).or(known.live);
            self.count("requeued");
        }
    }

    fn truncate(&mut self) {
        let (log, _) = self.log.as_ref().expect("it is open");
        let shard = ShardId(self.random.below(2) as u16);
        let shard = log.shard(shard);
        let cut = match shard.truncate_before(shard.durable_lsn()) {
            Ok(()) => return,
            Err(TruncateError::Needed { from, .. }) => from,
            Err(_) => return,
        };
        if shard.truncate_before(cut).is_err() {
            return; // It may be cut for all that, or not, and what is there shows after the crash.
        }
        self.count("truncations to what is held");
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..18 => self.append(),
            18..45 => self.take(),
            45..75 => self.settle(),
            75..83 => self.machine.device().pause(Duration::from_nanos(self.random.below(8 * SECOND))),
            83..93 => self.flush(),
            93..95 => self.requeue(),
            95..97 if self.is_held => self.truncate(),
            _ => self.crash(),
        }
        if self.machine.has_stopped() {
            self.crash();
        }
    }

    /// Nothing goes wrong any more: all that was ever acknowledged is done, or a dead letter.
    fn end(mut self) -> BTreeMap<&'static str, u64> {
        self.crash();
        self.machine.set_faults(&Faults::default());
        loop {
            let before = self.now();
            let Some(delivery) = self.queue().take().wait() else { break };
            let delivery = delivery.expect("nothing is damaged");
            self.handed_out(&delivery, before);
            let position = delivery.record().position();
            delivery.done().unwrap();
            let known = self.known.get_mut(&position).expect("just handed out");
            (known.was_done, known.live.is_done) = (true, true);
        }
        let letters: Vec<_> = self.queue().rejected().collect();
        for (position, known) in &self.known {
            let is_dead = letters.iter().any(|letter| letter.position() == *position);
            assert!(known.was_done || is_dead, "{position} was skipped: {known:?}");
        }
        assert!(letters.iter().all(|letter| letter.record().is_some() && letter.attempts() <= self.attempts));
        assert_eq!(self.queue().lag().records, 0);
        self.counts.insert("dead letters", letters.len() as u64);
        self.counts
    }
}

#[test]
fn workers_and_machines_die_and_every_record_is_handled() {
    let (mut total, seeds) = (BTreeMap::<&str, u64>::new(), seeds());
    let count = seeds.end - seeds.start;
    for seed in seeds {
        let told = std::panic::catch_unwind(|| {
            let mut history = History::new(seed);
            (0..250).for_each(|_| history.step());
            history.end()
        });
        let counts = told.unwrap_or_else(|panic| {
            eprintln!(
                "to see it again: SAWMILL_QUEUE_SEEDS={seed}..{} cargo test --lib queue::tests::crashes",
                seed + 1
            );
            std::panic::resume_unwind(panic)
        });
        counts.into_iter().for_each(|(what, times)| *total.entry(what).or_default() += times);
    }
    println!("{count} histories: {total:?}");
    let all = [
        "closes",
        "crashes",
        "dead letters",
        "done again after a crash",
        "flushes",
        "flushes that failed",
        "handed out again",
        "leases lost",
        "leases that ran out",
        "requeued",
        "truncations to what is held",
    ];
    let missing: Vec<_> = all.into_iter().filter(|what| !total.contains_key(what)).collect();
    assert!(count < 300 || missing.is_empty(), "never happened: {missing:?}");
}
