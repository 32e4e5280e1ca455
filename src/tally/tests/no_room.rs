//! A log without room for a flush: the tally keeps what was counted, and goes on by itself once there is room.

use std::time::Duration;

use super::super::{Fold, Sum, Tally, TallyOptions, UpdateError};
use crate::error::AppendError;
use crate::simulation::{End, Faults, Simulated};
use crate::{Log, Options};

const PATH: &str = "/no-room";

fn open(machine: &Simulated) -> Log {
    let options = Options::new().shards(1).block_bytes(4096).segment_bytes(1 << 20).memory_bytes(1 << 20);
    options.device(machine).open(PATH).unwrap()
}

fn set_full(machine: &Simulated, is_full: bool) {
    machine.set_faults(&Faults { no_space: if is_full { 1_000 } else { 0 }, ..Faults::default() });
}

/// Until no block has room.
fn fill(log: &Log) {
    let mut refused = None;
    for _ in 0..10_000 {
        if let Err(error) = log.append(vec![7; 3_000]).wait() {
            refused = Some(error);
            break;
        }
    }
    assert!(matches!(refused, Some(AppendError::NoSpace { .. })), "{refused:?}");
}

fn lacks_room<F: Fold>(tally: &Tally<F>, anyway: bool) {
    let flushed = tally.0.flush_once(anyway);
    assert!(matches!(flushed, Err(UpdateError::Failed(AppendError::NoSpace { .. }))), "{flushed:?}");
}

fn told(log: &Log, what: &str) -> usize {
    log.stats().notices.iter().filter(|line| line.contains(what)).count()
}

#[test]
fn what_was_counted_waits_for_room() {
    // Also where it is the totals of an idle tally that find none.
    for is_idle in [false, true] {
        let machine = Simulated::seed(1);
        let log = open(&machine);
        let tally = log.tally_with::<Sum>("likes", &TallyOptions::new().bytes(64 << 10)).unwrap();
        tally.add("key", 1).wait().unwrap();
        set_full(&machine, true);
        fill(&log);
        if is_idle {
            lacks_room(&tally, true);
        }
        let waiting = tally.add("key", 2);
        (0..3).for_each(|_| lacks_room(&tally, false));
        assert!(waiting.try_result().is_none());
        assert!(waiting.wait_timeout(Duration::from_secs(1)).is_none());
        assert_eq!((tally.get("key"), tally.durable("key")), (Some(3), Some(1)));
        assert_eq!(
            told(&log, "tally likes: what is counted waits to be flushed"),
            1,
            "{:?}",
            log.stats().notices
        );
        // Its memory is bounded all the same.
        let refused = (0..100_000).find_map(|number| {
            let refused = tally.add(format!("key {number}"), 1).accepted().err();
            refused.map(|error| (number, error))
        });
        let Some((counted, UpdateError::Overloaded { .. })) = refused else { panic!("{refused:?}") };
        assert!(counted > 100, "{counted}");
        set_full(&machine, false);
        waiting.wait().unwrap();
        tally.flush().unwrap();
        tally.add("key", 4).wait().unwrap();
        drop((tally, log));
        machine.restart(End::PowerCut);
        let tally = open(&machine).tally("likes").unwrap();
        assert_eq!((tally.get("key"), tally.totals().count()), (Some(7), counted + 1));
    }
}

/// It is tried once more, and then told: nobody waits for room that may never come.
#[test]
fn a_close_does_not_wait_for_room() {
    for has_waited in [false, true] {
        let machine = Simulated::seed(2);
        let log = open(&machine);
        let tally = log.tally("likes").unwrap();
        tally.add("key", 1).wait().unwrap();
        set_full(&machine, true);
        fill(&log);
        let waiting = tally.add("key", 2);
        if has_waited {
            lacks_room(&tally, false);
        }
        let later = tally.add("key", 4);
        log.close().unwrap();
        for update in [waiting, later] {
            let outcome = update.try_result();
            assert!(
                matches!(outcome, Some(Err(UpdateError::Failed(AppendError::NoSpace { .. })))),
                "{outcome:?}"
            );
        }
        assert_eq!(told(&log, "tally likes: nothing more is counted"), 1);
        drop((tally, log));
        set_full(&machine, false);
        assert_eq!(open(&machine).tally("likes").unwrap().get("key"), Some(1));
    }
}

/// Writes far more than it says that it has.
#[derive(Debug)]
struct Wide;

impl Fold for Wide {
    const NAME: &'static str = "test.wide";
    type Change = u8;
    type Value = u8;
    type Total = u8;

    fn lift(change: u8, _: u64) -> u8 {
        change
    }

    fn merge(total: &mut u8, change: &u8) {
        *total += change;
    }

    fn total(value: &u8) -> Option<u8> {
        Some(*value)
    }

    fn encode(value: &u8, into: &mut Vec<u8>) {
        into.push(*value);
        into.extend([0; 40_000]);
    }

    fn decode(bytes: &[u8]) -> Option<u8> {
        bytes.first().copied()
    }
}

/// A flush of several batches, of which some found room: no change is there twice.
#[test]
fn a_flush_goes_on_behind_what_found_room() {
    let mut parts = 0;
    for before in 0..30 {
        let machine = Simulated::seed(3);
        let log = open(&machine);
        let tally = log.tally_of::<Wide>("wide").unwrap();
        for _ in 0..before * 8 {
            log.append(vec![7; 3_000]).wait().unwrap();
        }
        set_full(&machine, true);
        for key in 0..60 {
            tally.update([key], 1).accepted().unwrap();
        }
        lacks_room(&tally, false);
        parts += u32::from(tally.0.waits_for_room().is_some_and(|written| written > 0));
        lacks_room(&tally, false);
        set_full(&machine, false);
        tally.flush().unwrap();
        let is_exact = |tally: &Tally<Wide>| (0..60).all(|key| tally.get([key]) == Some(1));
        assert!(is_exact(&tally));
        drop((tally, log));
        machine.restart(End::PowerCut);
        assert!(is_exact(&open(&machine).tally_of::<Wide>("wide").unwrap()), "with {before} appends before");
    }
    assert!(parts > 3, "{parts}");
}
