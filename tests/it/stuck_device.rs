//! A device that answers some requests and not others (`fuse/`): who watches sees it, and what hangs holds up
//! nobody else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use sawmill::options::{OnStuck, Stuck};
use sawmill::queue::QueueOptions;
use sawmill::{AppendError, Log, Options, Position};

use crate::fuse::{Disk, Faults};

/// Far longer than an answer takes on the busiest machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Lets the device answer when it is dropped.
pub struct Answers(pub Disk);

impl Drop for Answers {
    fn drop(&mut self) {
        self.0.unpin();
    }
}

fn options() -> Options {
    Options::new().shards(1).block_bytes(64 << 10).segment_bytes(1 << 20).memory_bytes(1 << 20)
}

/// Options of a log whose watch tells of each look, and gives up once it is told to.
fn watched() -> (Options, Receiver<Stuck>, Arc<AtomicBool>) {
    let (sender, told) = channel();
    let gives_up = Arc::new(AtomicBool::new(false));
    let ends = gives_up.clone();
    let options = options().on_stuck(Duration::from_millis(20), move |stuck| {
        let _ = sender.send(stuck);
        if ends.load(Ordering::SeqCst) { OnStuck::Fail } else { OnStuck::Wait }
    });
    (options, told, gives_up)
}

/// Something is held up: it is told of from now on, whatever was told before.
fn assert_told(told: &Receiver<Stuck>) {
    told.try_iter().for_each(drop);
    for _ in 0..2 {
        let stuck = told.recv_timeout(PATIENCE).expect("whoever watches is held up");
        assert!(stuck.age >= Duration::from_millis(20), "{stuck}");
    }
}

fn append(log: &Log, records: usize) -> Result<Vec<Position>, AppendError> {
    (0..records).map(|_| log.append(vec![7; 32 << 10]).wait()).collect()
}

fn hold(disk: &Disk, only: &'static str) {
    disk.set_faults(Faults { hold: true, only: Some(only), ..Faults::default() });
}

/// A consumer's flush hangs: that is told of, commits of that very consumer cost no I/O, other consumers are flushed,
/// opened and dropped, and segments are made.
#[test]
fn a_flush_that_hangs_is_told_of_and_holds_up_nobody() {
    let disk = Disk::new(11);
    let Some(mounted) = disk.mount() else { return };
    let (options, told, _) = watched();
    let log = options.clone().open(mounted.log()).unwrap();
    let [slow, quick] = ["slow", "quick"].map(|name| log.consumer(name).unwrap());
    let _answers = Answers(disk.clone());
    let first = append(&log, 3).unwrap();
    hold(&disk, "consumer-slow");
    slow.commit(first[0]).unwrap();
    disk.wait_for_held(1); // By itself, within a second or so.
    assert_told(&told);
    slow.commit(first[1]).unwrap();
    let before = disk.syncs("consumer-quick");
    quick.commit(first[2]).unwrap();
    disk.wait_for_syncs("consumer-quick", before + 1);
    drop(log.consumer("another").unwrap());
    append(&log, 256).unwrap();
    assert_eq!(disk.held(), 1, "the flush has hung all the while");
    disk.unpin();
    log.close().unwrap();
    let log = options.open(mounted.log()).unwrap();
    let next = |name| log.consumer(name).unwrap().next().unwrap().unwrap().position();
    assert_eq!(next("slow"), first[2], "what was committed while it hung was recorded by the close");
    assert!(next("quick") > first[2]);
}

/// The same of a queue's flush, which comes by itself: what it is told meanwhile costs no I/O, other queues are flushed, and
/// leases end.
#[test]
fn a_queues_flush_that_hangs_holds_up_nobody() {
    let disk = Disk::new(13);
    let Some(mounted) = disk.mount() else { return };
    let (options, told, _) = watched();
    let log = options.clone().open(mounted.log()).unwrap();
    let lease = Duration::from_millis(20);
    let [slow, quick] =
        ["slow", "quick"].map(|name| log.queue(name, QueueOptions::new().lease(lease)).unwrap());
    let _answers = Answers(disk.clone());
    append(&log, 3).unwrap();
    hold(&disk, "queue-slow");
    slow.take().wait().unwrap().unwrap().done().unwrap();
    disk.wait_for_held(1); // By itself, within a second or so.
    assert_told(&told);
    let held = slow.take().wait().unwrap().unwrap();
    let last = slow.take().wait().unwrap().unwrap();
    last.done().unwrap();
    let again = slow.take().wait().unwrap().unwrap();
    assert_eq!((again.record().position(), again.attempt()), (held.record().position(), 2));
    again.done().unwrap();
    quick.take().wait().unwrap().unwrap().done().unwrap();
    quick.flush().unwrap();
    drop(log.queue("another", QueueOptions::new()).unwrap());
    assert_eq!(disk.held(), 1, "the flush has hung all the while");
    disk.unpin();
    log.close().unwrap();
    let log = options.open(mounted.log()).unwrap();
    let left = |name| log.queue(name, QueueOptions::new()).unwrap().lag().records;
    assert_eq!(
        (left("slow"), left("quick")),
        (0, 2),
        "what was said while it hung was recorded by the close"
    );
}

/// While a consumer is opened, too, and the close waits for no longer than the device lets it.
#[test]
fn a_consumer_that_is_being_opened_holds_up_no_other() {
    let disk = Disk::new(12);
    let Some(mounted) = disk.mount() else { return };
    let (options, told, _) = watched();
    let log = options.open(mounted.log()).unwrap();
    let quick = log.consumer("quick").unwrap();
    let _answers = Answers(disk.clone());
    let first = append(&log, 1).unwrap();
    hold(&disk, "consumer-slow");
    let slow = std::thread::spawn({
        let log = log.clone();
        move || log.consumer("slow").map(drop)
    });
    disk.wait_for_held(1);
    assert_told(&told);
    assert!(matches!(log.consumer("slow"), Err(sawmill::ConsumerError::InUse(_))));
    quick.commit(first[0]).unwrap();
    quick.flush().unwrap();
    drop(quick);
    drop(log.consumer("quick").unwrap());
    assert_eq!(disk.held(), 1);
    disk.unpin();
    slow.join().unwrap().unwrap();
    log.close().unwrap();
}

/// The maintenance thread hangs in a manifest, with no operation of the shard's out: that is told of, and whoever waits
/// for the segment is told once the shard is given up.
#[test]
fn maintenance_that_hangs_is_told_of_and_can_be_given_up() {
    let disk = Disk::new(13);
    let Some(mounted) = disk.mount() else { return };
    let (options, told, gives_up) = watched();
    let log = options.clone().open(mounted.log()).unwrap();
    let _answers = Answers(disk.clone());
    let first = append(&log, 1).unwrap();
    hold(&disk, "shard.manifest");
    let appends = std::thread::spawn({
        let log = log.clone();
        move || append(&log, 256)
    });
    disk.wait_for_held(1);
    assert_told(&told);
    gives_up.store(true, Ordering::SeqCst);
    let error = appends.join().unwrap().unwrap_err();
    assert!(sawmill::error_chain(&error).to_string().contains("has not answered"), "{error}");
    assert_eq!(disk.held(), 1, "the maintenance thread hangs still");
    disk.unpin();
    assert!(log.close().is_err());
    drop(log);
    let log = options.open(mounted.log()).unwrap();
    log.get(first[0]).unwrap();
}
