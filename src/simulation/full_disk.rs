//! A disk without room for what consumers, queues, tallies and the ages of records write down beside the log: they say so,
//! lose nothing, and go on by themselves once there is room.

use std::io::ErrorKind;
use std::time::Duration;

use super::{End, Simulated};
use crate::device::sim::{Faults, SimMachine};
use crate::queue::{Queue, QueueOptions};
use crate::tally::{Sum, Tally, TallyOptions};
use crate::{Consumer, ConsumerError, Log, Lsn, Options, Position, QueueError, ShardId, TruncateError};

const SEEDS: std::ops::Range<u64> = 0..40;
const SHARD: ShardId = ShardId(0);
const LOG: &str = "/log";

fn open(machine: &SimMachine) -> Log {
    let options = Options::new().shards(1).block_bytes(64 << 10).segment_bytes(1 << 20).memory_bytes(1 << 20);
    options.device(&Simulated::of(machine)).open(LOG).unwrap()
}

/// Whether blocking writes find room. They may fill a part of what they were to.
fn set_full(machine: &SimMachine, is_full: bool) {
    machine.set_faults(Faults { shared: if is_full { 1000 } else { 0 }, ..Faults::default() });
}

fn append(log: &Log, count: usize) -> Vec<Position> {
    (0..count).map(|_| log.append(b"one").wait().unwrap()).collect()
}

fn lose_power(machine: &SimMachine, log: Log) -> Log {
    machine.stop();
    drop(log);
    machine.restart(End::PowerCut);
    set_full(machine, false);
    open(machine)
}

fn commit(consumer: &Consumer, position: Position, is_full: bool) {
    consumer.commit(position).unwrap();
    match consumer.flush() {
        Ok(()) => assert!(!is_full),
        Err(ConsumerError::Io { source, .. }) => {
            assert!(is_full && source.kind() == ErrorKind::StorageFull, "{source}");
            assert!(source.to_string().contains("/log/consumer-mailer.manifest."), "{source}");
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_consumer_goes_on_once_there_is_room() {
    for seed in SEEDS {
        let machine = SimMachine::new(seed);
        let mut log = open(&machine);
        let positions = append(&log, 30);
        let mut durable = 0;
        for (round, is_full) in [false, true, true, false, true].into_iter().enumerate() {
            let consumer = log.consumer("mailer").unwrap();
            set_full(&machine, is_full);
            for step in 0..=seed as usize % 3 {
                let next = round * 5 + step;
                commit(&consumer, positions[next], is_full);
                durable = if is_full { durable } else { next };
            }
            if round == 2 {
                // With nothing more committed than what found no room.
                set_full(&machine, false);
                consumer.flush().unwrap();
                durable = round * 5 + seed as usize % 3;
            }
            if seed % 2 == 0 || round == 4 {
                drop(consumer);
                log = lose_power(&machine, log);
                let committed = log.consumer("mailer").unwrap().committed(SHARD).unwrap();
                // What found no room in full may be there or not; what was told to be durable is.
                let found = positions.iter().position(|own| *own == committed).unwrap();
                assert!((durable..=round * 5 + 2).contains(&found), "seed {seed}, round {round}: {found}");
                durable = found;
            } else {
                set_full(&machine, false);
                drop(consumer);
                durable = durable.max(round * 5 + seed as usize % 3);
            }
        }
    }
}

fn finish(queue: &Queue, count: usize, is_full: bool) {
    for _ in 0..count {
        queue.take_timeout(Duration::ZERO).unwrap().unwrap().done().unwrap();
    }
    match queue.flush() {
        Ok(()) => assert!(!is_full),
        Err(QueueError::Io { source, .. }) => {
            assert!(is_full && source.kind() == ErrorKind::StorageFull, "{source}");
            assert!(source.to_string().contains("/log/queue-mailer.manifest."), "{source}");
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_queue_goes_on_once_there_is_room() {
    for seed in SEEDS {
        let machine = SimMachine::new(seed);
        let log = open(&machine);
        append(&log, 30);
        let queue = log.queue("mailer", QueueOptions::new()).unwrap();
        finish(&queue, 5, false);
        set_full(&machine, true);
        finish(&queue, 5, true);
        finish(&queue, 5, true);
        let mut left = 10..=25;
        if seed % 2 == 0 {
            set_full(&machine, false);
            finish(&queue, 0, false);
            left = 15..=15;
        }
        drop(queue);
        let log = lose_power(&machine, log);
        let queue = log.queue("mailer", QueueOptions::new()).unwrap();
        let taken = std::iter::from_fn(|| queue.take_timeout(Duration::ZERO));
        let count = taken.map(|delivery| delivery.unwrap().done().unwrap()).count();
        assert!(left.contains(&count), "seed {seed}: {count}");
        queue.flush().unwrap();
    }
}

/// From where on the tally needs the log.
fn needed(log: &Log) -> Lsn {
    let shard = log.shard(SHARD);
    match shard.truncate_before(shard.durable_lsn()) {
        Err(TruncateError::Needed { from, .. }) => from,
        other => panic!("{other:?}"),
    }
}

fn count(log: &Log, tally: &Tally, expected: i64) {
    tally.add("key", 1).wait().unwrap();
    for _ in 0..20 {
        log.append(vec![7; 16 << 10]).wait().unwrap();
    }
    tally.flush().unwrap();
    assert_eq!(tally.get("key"), Some(expected));
}

#[test]
fn a_tally_goes_on_once_there_is_room() {
    for seed in SEEDS {
        let machine = SimMachine::new(seed);
        let log = open(&machine);
        let tally = log.tally_with::<Sum>("likes", &TallyOptions::new()).unwrap();
        count(&log, &tally, 1);
        count(&log, &tally, 2);
        // Far enough for the next flush to move the anchor, and within a segment, so that the log itself needs no room.
        tally.add("key", 1).wait().unwrap();
        log.append(vec![7; 160 << 10]).wait().unwrap();
        let before = needed(&log);
        set_full(&machine, true);
        tally.add("key", 1).wait().unwrap();
        tally.flush().unwrap();
        tally.flush().unwrap();
        let told = |line: &&String| {
            line.contains("tally likes: the log is kept from") && line.contains("likes.manifest.")
        };
        assert!(log.stats().notices.iter().filter(told).count() == 1, "{:?}", log.stats().notices);
        assert_eq!(needed(&log), before, "seed {seed}");
        let log = if seed % 2 == 0 {
            drop(tally);
            lose_power(&machine, log)
        } else {
            set_full(&machine, false);
            count(&log, &tally, 5);
            count(&log, &tally, 6);
            assert!(needed(&log) > before, "seed {seed}: it goes on");
            drop(tally);
            lose_power(&machine, log)
        };
        let tally = log.tally("likes").unwrap();
        assert_eq!(tally.get("key"), Some(if seed % 2 == 0 { 4 } else { 6 }), "seed {seed}");
    }
}
