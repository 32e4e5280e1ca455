//! What the log keeps for those it waits for, where they and their shards were put back from copies of different moments:
//! all that they may still be told to read.

use std::path::Path;
use std::time::Duration;

use sawmill::consumer::From;
use sawmill::queue::QueueOptions;
use sawmill::tally::TallyOptions;
use sawmill::{ConsumerError, Log, Options, Position, QueueError, ShardId, TallyError, TruncateError};
use tempfile::TempDir;

const SHARD: ShardId = ShardId(0);
const OTHER: ShardId = ShardId(1);

fn open(dir: &TempDir) -> Log {
    let options = Options::new().shards(2).block_bytes(4096).segment_bytes(1 << 20).memory_bytes(1 << 20);
    options.retain_for(["mailer"]).open(dir.path()).unwrap()
}

fn append(log: &Log, shard: ShardId, count: usize) -> Vec<Position> {
    (0..count).map(|_| log.shard(shard).append([7; 3_000]).wait().unwrap()).collect()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

fn put_back(copied: &TempDir, folder: &Path) {
    std::fs::remove_dir_all(folder).unwrap();
    copy(copied.path(), folder);
}

/// A consumer or a queue of this name is through with all that there is.
fn read_all(log: &Log, by_queue: bool) {
    if by_queue {
        let queue = log.queue("mailer", QueueOptions::new()).unwrap();
        while let Some(delivery) = queue.take_timeout(Duration::ZERO) {
            delivery.unwrap().done().unwrap();
        }
        return queue.flush().unwrap();
    }
    let mut consumer = log.consumer("mailer").unwrap();
    while let Some(record) = consumer.next_timeout(Duration::ZERO) {
        consumer.commit(record.unwrap().position()).unwrap();
    }
    consumer.flush().unwrap();
}

fn is_refused(log: &Log, by_queue: bool) -> bool {
    if by_queue {
        let error = log.queue("mailer", QueueOptions::new()).unwrap_err();
        matches!(error, QueueError::AboveEnd { .. } | QueueError::OtherHistory { .. })
    } else {
        let error = log.consumer("mailer").unwrap_err();
        matches!(error, ConsumerError::AboveEnd { .. } | ConsumerError::OtherHistory { .. })
    }
}

fn assert_kept(log: &Log, position: Position, what: &str) {
    let truncated = log.shard(position.shard()).truncate_before(position.lsn());
    assert!(matches!(truncated, Err(TruncateError::Needed { .. })), "{what}: {truncated:?}");
}

#[test]
fn what_was_refused_may_be_told_to_read_anything() {
    for by_queue in [false, true] {
        let (dir, copied) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let shard = dir.path().join("shard-0000");
        let log = open(&dir);
        let old = append(&log, SHARD, 10);
        log.close().unwrap();
        copy(&shard, copied.path());
        let log = open(&dir);
        append(&log, SHARD, 100);
        read_all(&log, by_queue);
        log.close().unwrap();
        put_back(&copied, &shard);
        // First it is above the end, then the log has gone on.
        for round in 0..2 {
            let log = open(&dir);
            assert!(is_refused(&log, by_queue), "{round}");
            let new = append(&log, SHARD, 80);
            assert_kept(&log, new[5], "what it never saw");
            assert!(is_refused(&log, by_queue), "{round}");
            assert_kept(&log, old[5], "what it may be told to see again");
            log.close().unwrap();
        }
        let log = open(&dir);
        let last = append(&log, SHARD, 1)[0];
        if by_queue {
            log.remove_queue("mailer").unwrap();
        } else {
            drop(log.consumer_from("mailer", From::End).unwrap());
        }
        log.shard(SHARD).truncate_before(last.lsn()).unwrap();
    }
}

/// How often a line says so.
fn told(log: &Log, what: &str) -> usize {
    log.stats().notices.iter().filter(|line| line.contains(what)).count()
}

const REFUSED: &str = "`mailer` (in `retain_for`) may have to read, since it is refused: ";
const GOES_ON: &str = "`mailer` (in `retain_for`) goes on";

/// That all is kept for one that is refused is told with its name and the reason, and that it goes on, once each.
#[test]
fn that_retention_waits_for_one_that_is_refused_is_told() {
    for (by_queue, kind) in
        [(false, "consumer `mailer` has committed"), (true, "queue `mailer` has handed out")]
    {
        let (dir, copied) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let shard = dir.path().join("shard-0000");
        let log = open(&dir);
        append(&log, SHARD, 10);
        log.close().unwrap();
        copy(&shard, copied.path());
        let log = open(&dir);
        append(&log, SHARD, 100);
        read_all(&log, by_queue);
        log.close().unwrap();
        let log = open(&dir);
        assert_eq!((told(&log, REFUSED), told(&log, GOES_ON)), (0, 0));
        log.close().unwrap();
        put_back(&copied, &shard);
        let log = open(&dir);
        let line = format!("{REFUSED}{kind}");
        assert_eq!((told(&log, &line), told(&log, GOES_ON)), (1, 0), "{:?}", log.stats().notices);
        assert!(is_refused(&log, by_queue));
        append(&log, SHARD, 80);
        assert!(is_refused(&log, by_queue));
        assert_eq!((told(&log, &line), told(&log, GOES_ON)), (1, 0), "{:?}", log.stats().notices);
        if by_queue {
            log.remove_queue("mailer").unwrap();
        } else {
            drop(log.consumer_from("mailer", From::End).unwrap());
        }
        read_all(&log, by_queue);
        assert_eq!((told(&log, &line), told(&log, GOES_ON)), (1, 1), "{:?}", log.stats().notices);
        log.close().unwrap();
        assert_eq!(told(&open(&dir), REFUSED), 0);
    }
}

/// Nothing of it can be read, or it is another log's.
#[test]
fn that_retention_waits_for_what_cannot_be_read_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir);
    append(&log, SHARD, 10);
    read_all(&log, false);
    log.close().unwrap();
    let copies = [0, 1].map(|copy| dir.path().join(format!("consumer-mailer.manifest.{copy}")));
    for is_damaged in [true, false] {
        for copy in &copies {
            std::fs::remove_file(copy).unwrap();
            if is_damaged {
                std::fs::write(copy, [7; 4096]).unwrap();
            } else {
                std::fs::create_dir(copy).unwrap();
            }
        }
        let log = open(&dir);
        let why = if is_damaged { "damaged in both copies" } else { "consumer-mailer.manifest." };
        assert!(told(&log, REFUSED) == 1 && told(&log, why) == 1, "{:?}", log.stats().notices);
        let last = append(&log, SHARD, 1)[0];
        assert_kept(&log, last, "it may need anything");
    }
}

/// The copy is of the epoch in which it had read.
#[test]
fn what_was_set_back_to_a_cut_has_still_to_read_what_follows() {
    for by_queue in [false, true] {
        let (dir, copied) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let shard = dir.path().join("shard-0000");
        let log = open(&dir);
        append(&log, SHARD, 10);
        log.sync().wait().unwrap();
        copy(&shard, copied.path());
        append(&log, SHARD, 100);
        append(&log, OTHER, 10);
        read_all(&log, by_queue);
        log.close().unwrap();
        put_back(&copied, &shard);
        let log = open(&dir);
        let new = append(&log, SHARD, 60);
        assert_kept(&log, new[5], "before it is opened");
        let other = append(&log, OTHER, 1)[0];
        // It is told of the other shard alone, and says so.
        let (consumer, queue) = if by_queue {
            (None, Some(log.queue("mailer", QueueOptions::new()).unwrap()))
        } else {
            (Some(log.consumer("mailer").unwrap()), None)
        };
        assert_kept(&log, new[5], "once it is open");
        if let Some(consumer) = &consumer {
            consumer.commit(other).unwrap();
            consumer.flush().unwrap();
        }
        if let Some(queue) = &queue {
            let held = queue.take_batch(4).wait().unwrap();
            queue.flush().unwrap();
            drop(held);
        }
        assert_kept(&log, new[5], "once it has written");
        drop((consumer, queue));
        read_all(&log, by_queue);
        log.shard(SHARD).truncate_before(new[5].lsn()).unwrap();
    }
}

/// Put back as well, its anchor may ask for what the newer one does not.
#[test]
fn a_tally_that_is_newer_than_its_shard_may_need_all_of_it() {
    let (dir, copied) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let options = Options::new().shards(1).block_bytes(4096).segment_bytes(1 << 20).memory_bytes(1 << 20);
    let open = || options.clone().open(dir.path()).unwrap();
    let add = |log: &Log| {
        let options = TallyOptions::new().interval(Duration::from_millis(1));
        let tally = log.tally_with::<sawmill::tally::Sum>("likes", &options).unwrap();
        for key in 0..80 {
            tally.add(format!("key {}", key % 40), 1).wait().unwrap();
            log.append([7; 16 << 10]).wait().unwrap();
        }
        tally.flush().unwrap();
    };
    let log = open();
    add(&log);
    log.close().unwrap();
    copy(dir.path().join("shard-0000").as_path(), copied.path());
    let log = open();
    (0..3).for_each(|_| add(&log));
    log.close().unwrap();
    put_back(&copied, &dir.path().join("shard-0000"));
    let log = open();
    let last = append(&log, SHARD, 1)[0];
    assert_kept(&log, last, "before it is opened");
    assert_eq!(
        told(&log, "nothing that the tally `likes` may need: the tally"),
        1,
        "{:?}",
        log.stats().notices
    );
    let error = log.tally("likes").unwrap_err();
    assert!(matches!(error, TallyError::AboveEnd { .. }), "{error}");
    assert_kept(&log, last, "once it was refused");
    log.remove_tally("likes").unwrap();
    log.shard(SHARD).truncate_before(last.lsn()).unwrap();
}
