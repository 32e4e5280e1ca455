//! Named consumers: every record at least once, progress durable, set back where the log was cut.

use std::time::Duration;

use sawmill::{Consumer, ConsumerError, Log, Position, ReadError, ShardId, Write};

use crate::harness::Ground;
use crate::on_every_ground;

on_every_ground!(
    a_consumer_goes_on_where_it_had_committed,
    what_was_not_committed_comes_again,
    a_consumer_is_set_back_to_a_cut,
    a_consumer_that_falls_behind_the_horizon_is_told,
    one_consumer_a_name_and_good_names_only,
    a_consumer_ends_with_the_log_and_by_its_stop,
    a_consumer_writes_nothing_once_its_log_is_closed,
    a_consumer_that_committed_all_is_not_behind,
    consumers_are_listed_asked_and_removed,
);

fn numbers(consumer: &mut Consumer, count: usize) -> Vec<(u32, Position)> {
    let take = consumer.by_ref().take(count);
    take.map(|record| {
        let record = record.unwrap();
        (u32::from_le_bytes(record.payload().try_into().unwrap()), record.position())
    })
    .collect()
}

fn append(log: &Log, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let number = number.to_le_bytes();
        log.append(Write::new(number).key(number)).wait().unwrap();
    }
}

fn a_consumer_goes_on_where_it_had_committed(ground: Ground) {
    let dir = ground.directory();
    let log = ground.options().shards(3).open(dir.path()).unwrap();
    append(&log, 0..200);
    let mut consumer = log.consumer("mailer").unwrap();
    let mut seen = numbers(&mut consumer, 120);
    seen.iter().for_each(|(_, position)| consumer.commit(*position).unwrap());
    drop(consumer);
    log.close().unwrap();
    let log = ground.options().shards(3).open(dir.path()).unwrap();
    append(&log, 200..250);
    let mut consumer = log.consumer("mailer").unwrap();
    seen.extend(numbers(&mut consumer, 130));
    assert!(consumer.lag() > 0);
    seen.iter().for_each(|(_, position)| consumer.commit(*position).unwrap());
    assert_eq!(consumer.lag(), 0);
    assert!(consumer.next_timeout(Duration::from_millis(1)).is_none());
    let mut all: Vec<u32> = seen.iter().map(|(number, _)| *number).collect();
    all.sort_unstable();
    assert_eq!(all, (0..250).collect::<Vec<_>>());
    for shard in 0..3 {
        let positions: Vec<_> =
            seen.iter().map(|(_, position)| *position).filter(|p| p.shard() == ShardId(shard)).collect();
        assert!(positions.is_sorted(), "the records of a shard come in order");
    }
}

fn what_was_not_committed_comes_again(ground: Ground) {
    let dir = ground.directory();
    let log = ground.options().open(dir.path()).unwrap();
    append(&log, 0..50);
    let mut consumer = log.consumer("mailer").unwrap();
    let seen = numbers(&mut consumer, 30);
    consumer.commit(seen[9].1).unwrap();
    consumer.commit(seen[4].1).unwrap(); // Earlier: changes nothing.
    consumer.flush().unwrap();
    drop(consumer);
    let mut consumer = log.consumer("mailer").unwrap();
    assert_eq!(
        numbers(&mut consumer, 40),
        (seen[10..].iter().copied().chain(rest(&log, 30)).collect::<Vec<_>>())
    );
    let mut other = log.consumer("other").unwrap();
    assert_eq!(numbers(&mut other, 1)[0].0, 0, "each name has its own progress");
}

fn rest(log: &Log, from: usize) -> impl Iterator<Item = (u32, Position)> {
    log.merged(..).unwrap().skip(from).map(|record| {
        let record = record.unwrap();
        (u32::from_le_bytes(record.payload().try_into().unwrap()), record.position())
    })
}

fn a_consumer_is_set_back_to_a_cut(ground: Ground) {
    let dir = ground.directory();
    let log = ground.options().open(dir.path()).unwrap();
    append(&log, 0..20);
    let mut consumer = log.consumer("mailer").unwrap();
    let seen = numbers(&mut consumer, 20);
    consumer.commit(seen[19].1).unwrap();
    drop(consumer);
    log.shard(ShardId(0)).truncate_after(seen[9].1.lsn()).unwrap();
    append(&log, 100..103);
    let mut consumer = log.consumer("mailer").unwrap();
    let now: Vec<u32> = numbers(&mut consumer, 3).iter().map(|(number, _)| *number).collect();
    assert_eq!(now, [100, 101, 102], "what stands where the committed records were is new");
}

fn a_consumer_that_falls_behind_the_horizon_is_told(ground: Ground) {
    let dir = ground.directory();
    let log = ground.options().open(dir.path()).unwrap();
    append(&log, 0..20);
    let mut consumer = log.consumer("mailer").unwrap();
    let seen = numbers(&mut consumer, 5);
    consumer.commit(seen[4].1).unwrap();
    drop(consumer);
    let later = rest(&log, 12).next().unwrap();
    log.shard(ShardId(0)).truncate_before(later.1.lsn()).unwrap();
    let mut consumer = log.consumer("mailer").unwrap();
    assert!(matches!(consumer.next(), Some(Err(ReadError::Truncated { .. }))));
    assert_eq!(numbers(&mut consumer, 8)[0], later);
}

fn one_consumer_a_name_and_good_names_only(ground: Ground) {
    let dir = ground.directory();
    let log = ground.options().open(dir.path()).unwrap();
    let consumer = log.consumer("mailer").unwrap();
    assert!(matches!(log.consumer("mailer"), Err(ConsumerError::InUse(_))));
    for name in ["", "a/b", "..\\", "\u{e4}", &"x".repeat(65)] {
        assert!(matches!(log.consumer(name), Err(ConsumerError::Name(_))), "{name}");
    }
    let position = log.append(b"x").wait().unwrap();
    let mut bytes = position.to_bytes();
    bytes[0] = 9; // A shard that does not exist.
    let error = consumer.commit(Position::from_bytes(bytes)).unwrap_err();
    assert!(matches!(error, ConsumerError::NotAPosition(_)));
    drop(consumer);
    drop(log.consumer("mailer").unwrap());
    log.close().unwrap();
    assert!(matches!(log.consumer("mailer"), Err(ConsumerError::Closed)));
}

fn a_consumer_ends_with_the_log_and_by_its_stop(ground: Ground) {
    let dir = ground.directory();
    let log = ground.options().shards(2).open(dir.path()).unwrap();
    append(&log, 0..10);
    let consumer = log.consumer("stopped").unwrap();
    let stop = consumer.stop();
    let stopped = std::thread::spawn(move || consumer.map(Result::unwrap).count());
    let consumer = log.consumer("closed").unwrap();
    let closed = std::thread::spawn(move || consumer.map(Result::unwrap).count());
    let watcher = log.consumer("async").unwrap();
    let watched = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut watcher = std::pin::pin!(watcher);
            let mut count = 0;
            while let Some(record) =
                std::future::poll_fn(|context| futures_core::Stream::poll_next(watcher.as_mut(), context))
                    .await
            {
                record.unwrap();
                count += 1;
            }
            count
        })
    });
    append(&log, 10..20);
    stop.stop();
    assert!(stopped.join().unwrap() <= 20);
    log.close().unwrap();
    assert_eq!(closed.join().unwrap(), 20);

    assert_eq!(watched.join().unwrap(), 20);
}

/// It outlives its log, whose directory belongs to somebody else by then (promise 9).
fn a_consumer_writes_nothing_once_its_log_is_closed(ground: Ground) {
    let dir = ground.directory();
    let log = ground.options().open(dir.path()).unwrap();
    append(&log, 0..10);
    let mut consumer = log.consumer("mailer").unwrap();
    let seen = numbers(&mut consumer, 5);
    consumer.commit(seen[1].1).unwrap();
    log.close().unwrap();
    let next = ground.options().open(dir.path()).unwrap();
    assert!(matches!(consumer.commit(seen[4].1), Err(ConsumerError::Closed)));
    assert!(matches!(consumer.flush(), Err(ConsumerError::Closed)));
    assert!(log.shard(ShardId(0)).truncate_before(seen[4].1.lsn()).is_err());
    drop(consumer);
    let mut consumer = next.consumer("mailer").unwrap();
    assert_eq!(numbers(&mut consumer, 1)[0], seen[2], "what was committed before the close, and no more");
}

/// Also where the last record goes on over many blocks behind its position, and where there is no record at all.
fn a_consumer_that_committed_all_is_not_behind(ground: Ground) {
    let dir = ground.directory();
    let log = ground.small().open(dir.path()).unwrap();
    let mut consumer = log.consumer("mailer").unwrap();
    assert_eq!(consumer.lag(), 0);
    log.append(b"small").wait().unwrap();
    let large = log.append(vec![7; 60_000]).wait().unwrap();
    assert!(consumer.lag() > 60_000);
    let small = consumer.next().unwrap().unwrap();
    consumer.commit(small.position()).unwrap();
    assert!(consumer.lag() > 60_000);
    consumer.commit(large).unwrap();
    assert_eq!(consumer.lag(), 0);
    drop(consumer);
    log.close().unwrap();
    let log = ground.small().open(dir.path()).unwrap();
    assert_eq!(log.consumer("mailer").unwrap().lag(), 0);
}

fn consumers_are_listed_asked_and_removed(ground: Ground) {
    let dir = ground.directory();
    let log = ground.options().shards(2).open(dir.path()).unwrap();
    assert!(log.consumers().unwrap().is_empty());
    append(&log, 0..20);
    let mut consumer = log.consumer("mailer.eu-1").unwrap();
    drop(log.consumer("archive").unwrap());
    assert_eq!(log.consumers().unwrap(), ["archive", "mailer.eu-1"]);
    let seen = numbers(&mut consumer, 20);
    let of = |shard| seen.iter().map(|(_, position)| *position).filter(move |p| p.shard() == ShardId(shard));
    assert_eq!([0, 1, 2].map(|shard| consumer.committed(ShardId(shard))), [None; 3]);
    of(1).for_each(|position| consumer.commit(position).unwrap());
    assert_eq!([0, 1, 2].map(|shard| consumer.committed(ShardId(shard))), [None, of(1).max(), None]);
    assert!(matches!(log.remove_consumer("mailer.eu-1"), Err(ConsumerError::InUse(_))));
    drop(consumer);
    assert!(matches!(log.remove_consumer("nobody"), Err(ConsumerError::Unknown(_))));
    assert!(matches!(log.remove_consumer("../log"), Err(ConsumerError::Name(_))));
    log.remove_consumer("mailer.eu-1").unwrap();
    assert_eq!(log.consumers().unwrap(), ["archive"]);
    // One of the same name is new, also after a reopen.
    log.close().unwrap();
    assert!(matches!(log.consumers(), Err(ConsumerError::Closed)));
    let log = ground.options().shards(2).open(dir.path()).unwrap();
    let mut consumer = log.consumer("mailer.eu-1").unwrap();
    assert_eq!(consumer.committed(ShardId(1)), None);
    assert_eq!(numbers(&mut consumer, 20).len(), 20);
}
