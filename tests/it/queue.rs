//! Durable queues: each record in one worker's hands at a time, until it is done; what was said of it outlives a crash.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use sawmill::queue::{Delivery, Lag, Queue, QueueOptions};
use sawmill::{Log, Options, QueueError, ReadError, ShardId, Write};

use crate::harness::Ground;
use crate::on_every_ground;

on_every_ground!(
    a_queue_goes_on_where_it_was,
    each_record_is_in_one_workers_hands,
    what_is_dropped_comes_again_at_once_and_then_is_a_dead_letter,
    a_lease_that_runs_out_is_somebody_elses,
    a_delay_is_waited_for,
    dead_letters_say_why_and_can_be_put_back,
    a_batch_waits_for_one_and_takes_what_is_there,
    lag_counts_what_is_durable_and_not_done,
    tasks_wait_for_records_and_for_leases,
    whoever_waits_is_told_of_the_end,
    a_queue_is_removed_and_begins_anew,
    one_name_is_one_queue,
    what_was_truncated_or_cut_off_is_not_handed_out,
    no_more_are_in_hand_than_may_be,
);

const LONG: Duration = Duration::from_secs(600);

/// Leases that do not end within a test.
fn options() -> QueueOptions {
    QueueOptions::new().lease(LONG)
}

fn append(log: &Log, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let number = number.to_le_bytes();
        log.append(Write::new(number).key(number)).wait().unwrap();
    }
}

fn number(delivery: &Delivery) -> u32 {
    u32::from_le_bytes(delivery.record().payload().try_into().unwrap())
}

fn take(queue: &Queue) -> Delivery {
    queue.take().wait().expect("it is open").unwrap()
}

/// Nothing more comes now.
fn is_empty(queue: &Queue) -> bool {
    queue.take_timeout(Duration::ZERO).is_none()
}

fn drain(queue: &Queue) -> Vec<u32> {
    std::iter::from_fn(|| {
        let delivery = queue.take_timeout(Duration::ZERO)?.unwrap();
        let number = number(&delivery);
        delivery.done().unwrap();
        Some(number)
    })
    .collect()
}

fn a_queue_goes_on_where_it_was(ground: Ground) {
    let dir = ground.directory();
    let log = ground.options().shards(2).open(dir.path()).unwrap();
    append(&log, 0..20);
    let queue = log.queue("mailer", options()).unwrap();
    let mut held: Vec<Delivery> = (0..15).map(|_| take(&queue)).collect();
    assert!(held.iter().all(|delivery| delivery.attempt() == 1));
    // Out of order: every second one.
    let mut open = BTreeSet::new();
    for (index, delivery) in held.drain(..).enumerate().collect::<Vec<_>>() {
        if index % 2 == 0 {
            delivery.done().unwrap();
        } else {
            open.insert(number(&delivery));
            held.push(delivery);
        }
    }
    // Nobody says anything of the others before the log is closed.
    log.close().unwrap();
    assert!(held.pop().unwrap().done().is_err_and(|error| matches!(error, QueueError::Closed)));
    drop(held);
    assert!(queue.take().wait().is_none());
    let log = ground.options().shards(2).open(dir.path()).unwrap();
    append(&log, 20..25);
    let queue = log.queue("mailer", options()).unwrap();
    let mut again: Vec<Delivery> = open.iter().map(|_| take(&queue)).collect();
    assert!(again.iter().all(|delivery| delivery.attempt() == 2), "what was in hand comes at once");
    let numbers: BTreeSet<u32> = again.iter().map(number).collect();
    assert_eq!(numbers, open);
    again.drain(..).for_each(|delivery| delivery.done().unwrap());
    assert_eq!(drain(&queue).len(), 10, "and what was never handed out, once");
    queue.flush().unwrap();
    log.close().unwrap();
    let log = ground.options().shards(2).open(dir.path()).unwrap();
    let queue = log.queue("mailer", options()).unwrap();
    assert!(is_empty(&queue));
    assert_eq!(queue.lag(), Lag::default());
}

fn each_record_is_in_one_workers_hands(ground: Ground) {
    const RECORDS: u32 = 400;
    let dir = ground.directory();
    let log = ground.options().shards(2).open(dir.path()).unwrap();
    let queue = log.queue("mailer", options().attempts(1_000)).unwrap();
    let (in_hand, handled) = (Mutex::new(BTreeSet::new()), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let (queue, in_hand, handled) = (queue.clone(), &in_hand, &handled);
            scope.spawn(move || {
                let mut taken = 0;
                while let Some(delivery) = queue.take().wait() {
                    let delivery = delivery.unwrap();
                    let number = number(&delivery);
                    assert!(in_hand.lock().unwrap().insert(number), "{number} is in two hands");
                    std::thread::yield_now();
                    assert!(in_hand.lock().unwrap().remove(&number));
                    taken += 1;
                    // Some drop it, the first time that they see it.
                    if (number + taken + worker) % 5 == 0 {
                        continue;
                    }
                    delivery.done().unwrap();
                    if handled.fetch_add(1, Ordering::SeqCst) + 1 == RECORDS {
                        queue.stop();
                    }
                }
            });
        }
        append(&log, 0..RECORDS);
    });
    assert_eq!(handled.load(Ordering::SeqCst), RECORDS);
    let queue = log.queue("mailer", options()).unwrap();
    assert!(is_empty(&queue), "each was done once");
}

fn what_is_dropped_comes_again_at_once_and_then_is_a_dead_letter(ground: Ground) {
    let dir = ground.directory();
    let log = ground.options().open(dir.path()).unwrap();
    append(&log, 0..2);
    let queue = log.queue("mailer", options().attempts(3)).unwrap();
    for attempt in 1..=3 {
        let delivery = take(&queue);
        assert_eq!((number(&delivery), delivery.attempt()), (0, attempt));
        if attempt == 2 {
            let worker = std::thread::spawn(move || {
                let _in_hand = delivery;
                std::panic::resume_unwind(Box::new("as a worker may"));
            });
            assert!(worker.join().is_err());
        }
    }
    assert_eq!(drain(&queue), [1]);
    let letter = queue.rejected().next().expect("it had all its attempts");
    assert_eq!((letter.attempts(), letter.reason()), (3, "attempt 3: dropped"));
    assert_eq!(letter.record().unwrap().payload(), 0_u32.to_le_bytes());
}

fn a_lease_that_runs_out_is_somebody_elses(ground: Ground) {
    let dir = ground.directory();
    let log = ground.options().open(dir.path()).unwrap();
    append(&log, 0..1);
    let queue = log.queue("mailer", QueueOptions::new().lease(Duration::from_millis(20))).unwrap();
    let first = take(&queue);
    // It waits until the lease of the first has run out, with nothing else to wake it.
    let second = take(&queue);
    assert_eq!((number(&second), second.attempt()), (0, 2));
    second.extend(LONG).unwrap();
    assert!(first.extend(LONG).is_err_and(|error| matches!(error, QueueError::LeaseLost(_))));
    assert!(first.done().is_err_and(|error| matches!(error, QueueError::LeaseLost(_))));
    second.done().unwrap();
    assert!(is_empty(&queue));
    // Where nobody else has it by now, it still counts.
    append(&log, 1..2);
    let late = take(&queue);
    late.extend(Duration::from_nanos(1)).unwrap();
    late.done().unwrap();
    assert!(is_empty(&queue));
}

fn a_delay_is_waited_for(ground: Ground) {
    let dir = ground.directory();
    let log = ground.options().open(dir.path()).unwrap();
    append(&log, 0..2);
    let queue = log.queue("mailer", options()).unwrap();
    take(&queue).retry_after(LONG).unwrap();
    assert_eq!(drain(&queue), [1], "it holds up nobody else");
    append(&log, 2..3);
    take(&queue).retry_after(Duration::from_millis(20)).unwrap();
    let again = take(&queue);
    assert_eq!((number(&again), again.attempt()), (2, 2));
    drop(again);
    // The delay of the first goes on after a reopen.
    log.close().unwrap();
    let log = ground.options().open(dir.path()).unwrap();
    let queue = log.queue("mailer", options()).unwrap();
    assert_eq!(drain(&queue), [2]);
    assert_eq!(queue.lag().records, 1);
}

fn dead_letters_say_why_and_can_be_put_back(ground: Ground) {
    let dir = ground.directory();
    let log = ground.options().open(dir.path()).unwrap();
    append(&log, 0..3);
    let queue = log.queue("mailer", options()).unwrap();
    let position = {
        let delivery = take(&queue);
        let position = delivery.record().position();
        assert!(queue.requeue(position).is_err_and(|error| matches!(error, QueueError::NotRejected(_))));
        delivery.reject("no such address").unwrap();
        position
    };
    take(&queue).reject("x".repeat(300)).unwrap();
    assert_eq!(drain(&queue), [2]);
    log.close().unwrap();
    let log = ground.options().open(dir.path()).unwrap();
    let queue = log.queue("mailer", options()).unwrap();
    assert!(is_empty(&queue));
    let letters: Vec<_> = queue.rejected().collect();
    assert_eq!(letters.iter().map(|letter| letter.reason().len()).collect::<Vec<_>>(), [15, 200]);
    assert_eq!((letters[0].position(), letters[0].attempts()), (position, 1));
    assert!(letters[0].rejected_at() >= letters[0].record().unwrap().timestamp());
    assert_eq!((queue.rejected().len(), queue.rejected().forgotten()), (2, 0));
    queue.requeue(position).unwrap();
    let again = take(&queue);
    assert_eq!((number(&again), again.attempt()), (0, 1), "its attempts begin anew");
    again.done().unwrap();
    assert_eq!(queue.rejected().count(), 1);
    // Without its record it is only told of.
    let next = log.append(b"next").wait().unwrap();
    log.shard(ShardId(0)).truncate_before(next.lsn()).unwrap();
    let letter = queue.rejected().next().unwrap();
    assert!(letter.record().is_none());
    let error = queue.requeue(letter.position()).unwrap_err();
    assert!(matches!(error, QueueError::Read(ReadError::Truncated { .. })), "{error}");
}

fn a_batch_waits_for_one_and_takes_what_is_there(ground: Ground) {
    let dir = ground.directory();
    let log = ground.options().open(dir.path()).unwrap();
    append(&log, 0..30);
    let queue = log.queue("mailer", options()).unwrap();
    let numbers = |batch: &[Delivery]| batch.iter().map(number).collect::<Vec<_>>();
    let first = queue.take_batch(10).wait().unwrap().unwrap();
    assert_eq!(numbers(&first), (0..10).collect::<Vec<_>>());
    let rest = queue.take_batch(100).wait().unwrap().unwrap();
    assert_eq!(numbers(&rest), (10..30).collect::<Vec<_>>());
    drop(first);
    rest.into_iter().for_each(|delivery| delivery.done().unwrap());
    let again = queue.take_batch(100).wait_timeout(LONG).unwrap().unwrap();
    assert_eq!(numbers(&again).into_iter().collect::<BTreeSet<_>>(), (0..10).collect());
    assert!(queue.take_batch(1).wait_timeout(Duration::from_millis(1)).is_none());
}

fn lag_counts_what_is_durable_and_not_done(ground: Ground) {
    let dir = ground.directory();
    let log = ground.options().shards(2).open(dir.path()).unwrap();
    let queue = log.queue("mailer", options()).unwrap();
    assert_eq!(queue.lag(), Lag::default());
    append(&log, 0..10);
    let told = |queue: &Queue| {
        let lag = queue.lag();
        (lag.records, lag.bytes, lag.oldest.is_some())
    };
    assert_eq!(told(&queue), (10, 80, true));
    let (in_hand, delayed, dead) = (take(&queue), take(&queue), take(&queue));
    delayed.retry_after(LONG).unwrap();
    assert_eq!(told(&queue), (10, 80, true), "in hand and delayed ones count");
    dead.reject("no").unwrap();
    assert_eq!(told(&queue), (9, 72, true), "dead letters do not");
    append(&log, 10..15);
    assert_eq!(told(&queue), (14, 112, true));
    in_hand.done().unwrap();
    assert_eq!(drain(&queue).len(), 12);
    assert_eq!(told(&queue), (1, 8, true));
    log.close().unwrap();
    let log = ground.options().shards(2).open(dir.path()).unwrap();
    let queue = log.queue("mailer", options()).unwrap();
    assert_eq!(told(&queue), (1, 8, true), "also of what was handed out in another life");
}

fn tasks_wait_for_records_and_for_leases(ground: Ground) {
    let dir = ground.directory();
    let log = ground.options().shards(2).open(dir.path()).unwrap();
    let queue = log.queue("mailer", QueueOptions::new().lease(Duration::from_millis(20))).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    // Polled once and given up: it keeps nothing from anybody.
    let mut given_up = Box::pin(queue.take());
    assert!(given_up.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    let waiting = {
        let queue = queue.clone();
        std::thread::spawn(move || {
            runtime.block_on(async {
                let first = queue.take().await.unwrap().unwrap();
                // Its lease runs out while somebody waits for the same record.
                let again = queue.take().await.unwrap().unwrap();
                assert_eq!(number(&first), number(&again));
                assert_eq!(again.attempt(), 2);
                again.done().unwrap();
                let batch = queue.take_batch(7).await.unwrap().unwrap();
                batch.into_iter().for_each(|delivery| delivery.done().unwrap());
                queue.take().await.is_none()
            })
        })
    };
    append(&log, 0..1);
    drop(given_up);
    while queue.lag().records > 0 {
        std::thread::yield_now();
    }
    append(&log, 1..2);
    while queue.lag().records > 0 {
        std::thread::yield_now();
    }
    queue.stop();
    assert!(waiting.join().unwrap());
}

fn whoever_waits_is_told_of_the_end(ground: Ground) {
    let dir = ground.directory();
    let log = ground.options().open(dir.path()).unwrap();
    let queue = log.queue("mailer", options()).unwrap();
    let wait = || {
        let queue = queue.clone();
        std::thread::spawn(move || queue.take().wait().is_none())
    };
    let stopped = [wait(), wait(), wait()];
    queue.stop();
    assert!(stopped.into_iter().all(|waits| waits.join().unwrap()));
    let queue = log.queue("mailer", options()).unwrap();
    append(&log, 0..1);
    assert_eq!(drain(&queue), [0], "opened again by its name it goes on");
    let closed = [wait(), wait(), wait()];
    let mut task = Box::pin(queue.take());
    assert!(task.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    log.close().unwrap();
    assert!(closed.into_iter().all(|waits| waits.join().unwrap()));
    assert!(matches!(task.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(None)));
    assert!(matches!(log.queue("mailer", options()), Err(QueueError::Closed)));
    assert!(matches!(queue.flush(), Err(QueueError::Closed)));
}

fn a_queue_is_removed_and_begins_anew(ground: Ground) {
    let dir = ground.directory();
    let log = ground.options().open(dir.path()).unwrap();
    append(&log, 0..3);
    assert!(log.remove_queue("mailer").is_err_and(|error| matches!(error, QueueError::Unknown(_))));
    let queue = log.queue("mailer", options()).unwrap();
    assert_eq!(drain(&queue), [0, 1, 2]);
    append(&log, 3..4);
    let held = take(&queue);
    log.remove_queue("mailer").unwrap();
    assert!(queue.take().wait().is_none());
    assert!(held.done().is_err_and(|error| matches!(error, QueueError::Closed)));
    let left = |name: &str| dir.path().join(name).exists();
    assert!(!left("queue-mailer.manifest.0") && !left("queue-mailer.manifest.1"));
    let queue = log.queue("mailer", options()).unwrap();
    assert_eq!(drain(&queue), [0, 1, 2, 3]);
}

fn one_name_is_one_queue(ground: Ground) {
    let dir = ground.directory();
    let log = ground.options().open(dir.path()).unwrap();
    append(&log, 0..3);
    let queue = log.queue("mailer", options().in_hand(1)).unwrap();
    let same = log.queue("mailer", options()).unwrap();
    let held = take(&queue);
    assert!(is_empty(&same), "the options of the first count");
    held.done().unwrap();
    assert_eq!(drain(&same), [1, 2]);
    assert!(is_empty(&queue));
    let other = log.queue("other", options()).unwrap();
    assert_eq!(drain(&other), [0, 1, 2], "each name is for itself");
    for name in ["", "a/b", &"x".repeat(65)] {
        assert!(matches!(log.queue(name, options()), Err(QueueError::Name(_))), "{name}");
    }
    for wrong in [
        options().attempts(0),
        options().in_hand(0),
        options().in_hand(65_537),
        options().rate(0.0),
        options().rate(f64::NAN),
        options().lease(Duration::from_micros(999)),
    ] {
        assert!(matches!(log.queue("wrong", wrong), Err(QueueError::Options { .. })));
    }
    assert!(!dir.path().join("queue-wrong.manifest.0").exists());
}

fn what_was_truncated_or_cut_off_is_not_handed_out(ground: Ground) {
    let dir = ground.directory();
    let log = ground.options().open(dir.path()).unwrap();
    append(&log, 0..10);
    let queue = log.queue("mailer", options()).unwrap();
    let held: Vec<Delivery> = (0..6).map(|_| take(&queue)).collect();
    let positions: Vec<_> = held.iter().map(|delivery| delivery.record().position()).collect();
    // The last two in hand, and what was never handed out, is cut off; the first two are truncated.
    log.shard(ShardId(0)).truncate_after(positions[3].lsn()).unwrap();
    log.shard(ShardId(0)).truncate_before(positions[2].lsn()).unwrap();
    drop(held);
    append(&log, 100..102);
    let told = |queue: &Queue| {
        let (mut numbers, mut errors) = (Vec::new(), 0);
        while let Some(delivery) = queue.take_timeout(Duration::ZERO) {
            match delivery {
                Ok(delivery) => {
                    numbers.push(number(&delivery));
                    delivery.done().unwrap();
                }
                Err(error) => {
                    assert!(matches!(error, ReadError::Truncated { .. }), "{error}");
                    errors += 1;
                }
            }
        }
        (numbers, errors)
    };
    let (numbers, errors) = told(&queue);
    assert_eq!((numbers, errors), (vec![2, 3, 100, 101], 4));
    assert_eq!(queue.lag(), Lag::default());
    log.close().unwrap();
    let log = ground.options().open(dir.path()).unwrap();
    assert_eq!(told(&log.queue("mailer", options()).unwrap()), (vec![], 0));
}

/// Without a flush or a close: the files as they are some time after it was said.
#[test]
fn what_a_queue_is_told_is_written_down_by_itself() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let files = || {
        ["queue-mailer.manifest.0", "queue-mailer.manifest.1"]
            .map(|name| (dir.path().join(name), std::fs::read(dir.path().join(name)).unwrap()))
    };
    let log = Options::new().shards(1).open(dir.path()).unwrap();
    append(&log, 0..3);
    let queue = log.queue("mailer", options()).unwrap();
    let (first, _in_hand) = (take(&queue), take(&queue));
    queue.flush().unwrap();
    let before = files();
    first.done().unwrap();
    let mut after = files();
    while after == before || after != files() {
        std::thread::yield_now();
        after = files();
    }
    take(&queue).done().unwrap();
    log.close().unwrap();
    after.into_iter().for_each(|(path, bytes)| std::fs::write(path, bytes).unwrap());
    let log = Options::new().shards(1).open(dir.path()).unwrap();
    let queue = log.queue("mailer", options()).unwrap();
    let (in_hand, next) = (take(&queue), take(&queue));
    assert_eq!([&in_hand, &next].map(|own| (number(own), own.attempt())), [(1, 2), (2, 1)]);
    assert!(is_empty(&queue));
}

fn no_more_are_in_hand_than_may_be(ground: Ground) {
    let dir = ground.directory();
    let log = ground.options().open(dir.path()).unwrap();
    append(&log, 0..10);
    let queue = log.queue("mailer", options().in_hand(2)).unwrap();
    let (first, second) = (take(&queue), take(&queue));
    assert!(is_empty(&queue));
    assert!(queue.take_timeout(Duration::from_millis(5)).is_none());
    let waits = {
        let queue = queue.clone();
        std::thread::spawn(move || take(&queue))
    };
    first.done().unwrap();
    let third = waits.join().unwrap();
    assert_eq!(number(&third), 2, "it is woken when there is room");
    third.done().unwrap();
    drop(second);
    assert_eq!(drain(&queue), [1, 3, 4, 5, 6, 7, 8, 9]);
}
