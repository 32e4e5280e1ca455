//! Names that the log waits for: what they have still to read or to do is neither truncated nor given up.

use std::time::Duration;

use crate::queue::{Queue, QueueOptions};
use crate::simulation::{End, Simulated};
use crate::{Log, Lsn, OpenError, Options, Position, QueueError, ShardId, TruncateError};

const SHARD: ShardId = ShardId(0);

fn open_for(machine: &Simulated, names: &[&str]) -> Log {
    let options = Options::new().shards(1).block_bytes(4096).segment_bytes(64 << 10).memory_bytes(1 << 20);
    options.retain_bytes(64 << 10).retain_for(names.iter().copied()).device(machine).open("/log").unwrap()
}

fn append(log: &Log, count: usize) -> Vec<Position> {
    (0..count).map(|_| log.append(vec![7; 3_000]).wait().unwrap()).collect()
}

/// Gives up what may go; where the log begins then.
fn retain(log: &Log) -> Lsn {
    log.engine_of(SHARD).retain();
    log.stats().shards[0].horizon
}

/// From where on somebody needs the log, and who.
fn needed(log: &Log) -> Option<(Lsn, String)> {
    let shard = log.shard(SHARD);
    match shard.truncate_before(shard.durable_lsn()) {
        Ok(()) => None,
        Err(TruncateError::Needed { from, by, .. }) => Some((from, by)),
        Err(error) => panic!("{error}"),
    }
}

fn queue(log: &Log) -> Queue {
    log.queue("mailer", QueueOptions::new().lease(Duration::from_secs(3_600))).unwrap()
}

fn drain(queue: &Queue) -> usize {
    let taken = std::iter::from_fn(|| queue.take_timeout(Duration::ZERO));
    taken.map(|delivery| delivery.unwrap().done().unwrap()).count()
}

#[test]
fn what_a_queue_has_not_done_is_kept_whatever_becomes_of_the_process() {
    let machine = Simulated::seed(3);
    let log = open_for(&machine, &["mailer"]);
    let positions = append(&log, 60);
    let (from, by) = needed(&log).expect("nobody has opened it yet");
    assert_eq!(from, Lsn::MIN);
    assert!(by.contains("`mailer`") && by.contains("neither"), "{by}");
    let own = queue(&log);
    let mut taken = own.take_batch(40).wait().unwrap().unwrap();
    taken.remove(5).reject("no").unwrap();
    let delayed = taken.remove(9);
    let (dead, late) = (positions[5].lsn(), delayed.record().lsn());
    delayed.retry_after(Duration::from_secs(86_400)).unwrap();
    taken.drain(..).for_each(|delivery| delivery.done().unwrap());
    assert_eq!(needed(&log).unwrap().0, Lsn::MIN, "what was not flushed is not durable");
    own.flush().unwrap();
    let (from, by) = needed(&log).expect("a dead letter");
    assert!(from == dead && by.contains("the queue `mailer`") && by.contains("remove_queue"), "{by}");
    assert!(retain(&log) <= dead);
    // It is put back and done: the delayed one is next, and holds the log without being opened, too.
    own.requeue(positions[5]).unwrap();
    own.take().wait().unwrap().unwrap().done().unwrap();
    own.flush().unwrap();
    let mut log = log;
    for end in [End::Kill, End::PowerCut] {
        machine.stop();
        drop(log);
        machine.restart(end);
        log = open_for(&machine, &["mailer"]);
        assert_eq!(needed(&log).unwrap().0, late);
    }
    let horizon = retain(&log);
    assert!(Lsn::MIN < horizon && horizon <= late, "what is not needed goes");
    let own = queue(&log);
    assert_eq!(drain(&own), 20, "all that was never handed out");
    own.flush().unwrap();
    assert_eq!(needed(&log).unwrap().0, late);
    machine.device().pause(Duration::from_secs(90_000));
    assert_eq!(drain(&own), 1);
    own.flush().unwrap();
    assert_eq!(needed(&log).unwrap().0, Lsn(positions[59].lsn().0 + 1), "behind the last record");
}

#[test]
fn what_a_consumer_has_not_committed_is_kept_and_others_hold_nothing() {
    let machine = Simulated::seed(4);
    let log = open_for(&machine, &["reader"]);
    let positions = append(&log, 60);
    drop(log.consumer("other").unwrap());
    drop(log.queue("other", QueueOptions::new()).unwrap());
    let consumer = log.consumer("reader").unwrap();
    assert_eq!(needed(&log).unwrap().0, Lsn::MIN);
    consumer.commit(positions[30]).unwrap();
    assert_eq!(needed(&log).unwrap().0, Lsn::MIN);
    consumer.flush().unwrap();
    let behind = Lsn(positions[30].lsn().0 + 1);
    let (from, by) = needed(&log).unwrap();
    assert!(from == behind && by.contains("the consumer `reader`") && by.contains("remove_consumer"), "{by}");
    let horizon = retain(&log);
    assert!(Lsn::MIN < horizon && horizon <= behind);
    drop(consumer);
    log.close().unwrap();
    let log = open_for(&machine, &["reader"]);
    assert_eq!(needed(&log).unwrap().0, behind, "also while nobody has it open");
    // What is told where to go on is held from there; what is removed holds nothing.
    drop(log.consumer_from("reader", crate::consumer::From::Position(positions[40])).unwrap());
    assert_eq!(needed(&log).unwrap().0, Lsn(positions[40].lsn().0 + 1));
    log.remove_consumer("reader").unwrap();
    assert_eq!(needed(&log), None);
    log.close().unwrap();
    let log = open_for(&machine, &["reader"]);
    assert!(needed(&log).unwrap().1.contains("neither"), "after an open it is waited for again");
    let own = log.queue("reader", QueueOptions::new()).unwrap();
    assert!(needed(&log).unwrap().1.contains("the queue `reader`"));
    assert!(log.remove_queue("reader").is_ok() && needed(&log).is_none());
    assert!(matches!(own.flush(), Err(QueueError::Closed)));
}

/// Not what is held, but what goes: it is told and counted, also over a reopen.
#[test]
fn dead_letters_that_are_too_many_are_told_of() {
    let machine = Simulated::seed(6);
    let mut options = QueueOptions::new();
    options.dead = 3;
    let log = open_for(&machine, &[]);
    append(&log, 5);
    let own = log.queue("mailer", options.clone()).unwrap();
    for number in 0..5 {
        own.take().wait().unwrap().unwrap().reject(format!("for {number}")).unwrap();
    }
    let told = "queue `mailer`: there are too many dead letters; the oldest 2 are forgotten";
    let lines = log.stats().notices;
    assert_eq!(lines.iter().filter(|line| line.contains(told)).count(), 1, "{lines:?}");
    let reasons = |own: &Queue| own.rejected().map(|letter| letter.reason().to_owned()).collect::<Vec<_>>();
    assert_eq!(reasons(&own), ["for 2", "for 3", "for 4"]);
    log.close().unwrap();
    let log = open_for(&machine, &[]);
    let own = log.queue("mailer", options).unwrap();
    assert_eq!((reasons(&own).len(), own.rejected().forgotten()), (3, 2));
}

#[test]
fn a_name_that_nobody_can_have_is_refused() {
    let machine = Simulated::seed(5);
    let opened = Options::new().retain_for(["mailer", "a/b"]).device(&machine).open("/log");
    assert!(matches!(opened, Err(OpenError::InvalidOption { option: "retain_for", .. })));
}
