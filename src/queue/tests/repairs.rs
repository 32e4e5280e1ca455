//! What a queue makes of records that cannot be read, and of a state that says what no queue has written.

use std::sync::Arc;
use std::time::Duration;

use super::machine::{at, deliver, fresh, limits, position};
use crate::error::{QueueError, ReadError};
use crate::format::{DeadRecord, Defect, OpenRecord, QueueState, SlotKind, decode_queue, encode_queue};
use crate::position::{Lsn, Position, ShardId};
use crate::queue::backlog::{Ahead, Sum};
use crate::queue::feed::Feed;
use crate::queue::state::{Grant, Next, State};
use crate::queue::{Queue, QueueOptions};
use crate::segment::ManifestFiles;
use crate::simulation::{End, Simulated};
use crate::{Log, Options};

fn open(machine: &Simulated) -> Log {
    Options::new().shards(1).device(machine).open("/log").unwrap()
}

fn append(log: &Log, count: usize) {
    for _ in 0..count {
        log.append(b"abc").wait().unwrap();
    }
}

fn queue(log: &Log, attempts: u32) -> Queue {
    log.queue("mailer", QueueOptions::new().attempts(attempts)).unwrap()
}

/// What the open has made a dead letter is written down soon, though nobody says anything of another record.
#[test]
fn what_an_open_has_changed_is_written_by_the_queues_own_thread() {
    let machine = Simulated::seed(1);
    let log = open(&machine);
    log.append(b"a").wait().unwrap();
    let own = queue(&log, 1);
    let held = own.take().wait().unwrap().unwrap();
    own.flush().unwrap();
    machine.stop();
    drop((held, own, log));
    machine.restart(End::Kill);
    let log = open(&machine);
    let own = queue(&log, 1);
    assert!(own.0.will_write());
    assert_eq!(own.rejected().count(), 1);
}

/// A record that was put down once, and is handed out again but for reading it.
fn again(queue: &Queue) -> Grant {
    match queue.0.act(State::next).unwrap() {
        Next::Again(grant) => grant,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_cannot_be_read_for_a_while_waits_and_costs_no_attempt() {
    let machine = Simulated::seed(1);
    let log = open(&machine);
    log.append(b"a").wait().unwrap();
    let own = queue(&log, 2);
    drop(own.take().wait().unwrap().unwrap());
    let error = std::io::Error::other("passing");
    let error = ReadError::Io { shard: ShardId(0), source: Arc::new(error) };
    for _ in 0..5 {
        let grant = again(&own);
        assert_eq!(grant.attempt, 2);
        own.0.could_not_read(grant, &error);
        assert!(own.take_timeout(Duration::ZERO).is_none(), "not at once");
        machine.device().pause(Duration::from_secs(1));
    }
    assert_eq!(own.rejected().count(), 0);
    assert_eq!(own.take().wait().unwrap().unwrap().attempt(), 2);
}

/// It does not pass: a dead letter, though not within a moment.
#[test]
fn what_is_damaged_is_tried_again_at_times_and_then_a_dead_letter() {
    let machine = Simulated::seed(1);
    let log = open(&machine);
    log.append(b"a").wait().unwrap();
    let own = queue(&log, 3);
    drop(own.take().wait().unwrap().unwrap());
    for attempt in 2..=3 {
        let grant = again(&own);
        assert_eq!(grant.attempt, attempt);
        let (shard, lsn) = (ShardId(0), grant.position.lsn());
        let cause = Defect::RecordChecksum;
        own.0.could_not_read(
            grant,
            &ReadError::Damaged { shard, lsn, end: None, file: None, offset: 0, cause },
        );
        assert!(own.take_timeout(Duration::ZERO).is_none());
        machine.device().pause(Duration::from_secs(1));
    }
    let letter = own.rejected().next().unwrap();
    assert!(letter.reason().contains("could not be read"), "{}", letter.reason());
}

/// Cut off while the queue was open.
#[test]
fn what_is_the_position_of_no_record_any_more_is_done() {
    let log = open(&Simulated::seed(1));
    log.append(b"a").wait().unwrap();
    let own = queue(&log, 2);
    drop(own.take().wait().unwrap().unwrap());
    let grant = again(&own);
    own.0.could_not_read(grant, &ReadError::NotAPosition(grant.position));
    assert_eq!((own.rejected().count(), own.lag().records), (0, 0));
}

fn open_row(index: u64) -> OpenRecord {
    OpenRecord { position: position(index), timestamp: 1, bytes: u64::MAX, delay_ns: 0, attempts: 1 }
}

fn dead_row(index: u64) -> DeadRecord {
    let reason = "no".to_owned();
    DeadRecord { position: position(index), timestamp: 1, bytes: 1, rejected: 1, attempts: 1, reason }
}

/// Behind a checksum that is right.
#[test]
fn rows_of_what_was_never_read_are_not_believed() {
    let mut state = fresh(limits());
    for index in 0..2 {
        deliver(&mut state, index, at(0));
    }
    let saved = state.save(at(0));
    let open = [0, 0, 1, 2, 4].map(open_row).to_vec();
    let dead = [3, 3, 5].map(dead_row).to_vec();
    let forged = QueueState { open, dead, ..saved };
    let mut state = State::restore(limits(), 1, forged, at(1));
    assert_eq!((state.open().0, state.open().1), (2, u64::MAX));
    assert_eq!(state.dead().all().count(), 0);
    let mut taken: Vec<Grant> = (2..6).map(|index| deliver(&mut state, index, at(1))).collect();
    while let Next::Again(grant) = state.next(at(1)) {
        taken.push(grant);
    }
    let mut positions: Vec<_> = taken.iter().map(|grant| grant.position).collect();
    positions.sort_unstable();
    assert_eq!(positions, [0, 1, 2, 3, 4, 5].map(position), "each in one hand");
    for grant in taken {
        state.reject(grant.position, grant.lease, "no", at(1)).unwrap();
    }
}

/// What is handed out while it is counted is not left, and what is appended meanwhile is counted the next time.
#[test]
fn a_backlog_is_counted_beside_whoever_is_handed_it_and_as_far_as_it_went() {
    let log = open(&Simulated::seed(1));
    let engine = log.engine_of(ShardId(0));
    let mut feed = Feed::new(std::slice::from_ref(engine), &[Lsn::MIN]).unwrap();
    let mut ahead = Ahead::new(engine);
    let left = |ahead: &Ahead, feed: &Feed| ahead.left(feed.reached()[0]).records;
    append(&log, 10);
    let (limit, before) = (engine.durable(), feed.reached()[0]);
    append(&log, 5);
    (0..4).for_each(|_| drop(feed.step().unwrap().unwrap()));
    ahead.count_below(limit, before);
    assert_eq!(left(&ahead, &feed), 6);
    (0..2).for_each(|_| drop(feed.step().unwrap().unwrap()));
    assert_eq!(left(&ahead, &feed), 4);
    ahead.count(feed.reached()[0]);
    assert_eq!(ahead.left(feed.reached()[0]), Sum { records: 9, bytes: 27 });
    (0..9).for_each(|_| drop(feed.step().unwrap().unwrap()));
    append(&log, 1);
    assert_eq!(left(&ahead, &feed), 0);
    ahead.count(feed.reached()[0]);
    assert_eq!(left(&ahead, &feed), 1, "from where it was handed out to");
}

/// As long as a backlog is being counted.
#[test]
fn whoever_takes_or_settles_does_not_wait_for_a_count() {
    let log = open(&Simulated::seed(1));
    append(&log, 3);
    let own = queue(&log, 2);
    own.0.while_counting(|| {
        own.take().wait().unwrap().unwrap().done().unwrap();
        drop(own.take().wait().unwrap().unwrap());
        own.flush().unwrap();
    });
    assert_eq!(own.lag().records, 2);
    own.0.while_counting(|| log.close().unwrap());
}

/// Those who wait go by the first end of a lease: one that is made shorter concerns them, one that is made longer does not.
#[test]
fn a_lease_that_is_made_shorter_concerns_those_who_wait() {
    let mut state = fresh(limits());
    let [first, second] = [1, 2].map(|index| deliver(&mut state, index, at(0)));
    let mut extend = |grant: &Grant, for_ns| {
        let before = state.outlook();
        state.extend(grant.position, grant.lease, for_ns, at(0)).unwrap();
        state.outlook().concerns(before)
    };
    assert!(!extend(&first, 3_600_000_000_000), "both still end when, or after, the first one did");
    assert!(!extend(&second, 1_800_000_000_000));
    assert!(extend(&first, 1_000_000), "it ends in a millisecond, and no longer in half an hour");
}

/// What was read of one shard is no place in another.
#[test]
fn a_row_of_another_shard_is_damage() {
    let machine = Simulated::seed(1);
    let log = open(&machine);
    append(&log, 3);
    let own = queue(&log, 5);
    own.take().wait().unwrap().unwrap().done().unwrap();
    own.flush().unwrap();
    log.close().unwrap();
    drop((own, log));
    let device = machine.device();
    let directory = device.directory(std::path::Path::new("/log")).unwrap();
    let fresh = || unreachable!("it is there");
    let opened = ManifestFiles::open_or_create(directory.as_ref(), "queue-mailer", SlotKind::Queue, fresh);
    let (mut files, body) = opened.unwrap();
    let (id, mut saved) = decode_queue(&body).unwrap();
    let read = saved.read[0].as_mut().unwrap();
    let position = read.position;
    read.position = Position::new(ShardId(1), position.epoch(), position.lsn(), position.lsn());
    files.write(&encode_queue(id, &saved)).unwrap();
    drop((files, directory));
    let log = open(&machine);
    let refused = log.queue("mailer", QueueOptions::new());
    assert!(matches!(refused, Err(QueueError::Damaged { .. })), "{refused:?}");
}
