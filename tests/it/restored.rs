//! Two things that remember places, put back from copies of different moments: what goes on does so where it should, or
//! says why it does not. Nothing is passed over in silence.

use std::path::Path;
use std::time::Duration;

use sawmill::consumer::From;
use sawmill::queue::QueueOptions;
use sawmill::tally::{Sum, TallyOptions};
use sawmill::{
    ConsumerError, Log, LogId, Lsn, Options, Position, QueueError, ReadError, ShardId, TallyError,
    TruncateError, Write,
};
use tempfile::TempDir;

const SHARD: ShardId = ShardId(0);

fn open(dir: &TempDir, shards: u16) -> Log {
    let options =
        Options::new().shards(shards).block_bytes(4096).segment_bytes(1 << 20).memory_bytes(1 << 20);
    options.open(dir.path()).unwrap()
}

fn append(log: &Log, shard: ShardId, count: usize) -> Vec<Position> {
    (0..count).map(|_| log.shard(shard).append([7; 3_000]).wait().unwrap()).collect()
}

/// In an open of its own.
fn append_between(dir: &TempDir, count: usize) -> Vec<Position> {
    let log = open(dir, 1);
    let positions = append(&log, SHARD, count);
    log.close().unwrap();
    positions
}

/// Copies the files of a folder over those that are there.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

fn put_back(copied: &TempDir, folder: &Path) {
    std::fs::remove_dir_all(folder).unwrap();
    copy(copied.path(), folder);
}

fn commit(dir: &TempDir, name: &str, position: Position) {
    let log = open(dir, 1);
    log.consumer(name).unwrap().commit(position).unwrap();
    log.close().unwrap();
}

fn rest(consumer: sawmill::Consumer) -> Vec<Position> {
    let stop = consumer.stop();
    stop.stop();
    consumer.map(|record| record.unwrap().position()).collect()
}

/// How many opens the copy is older by: the position's epoch is to come then, or is another one of the same number.
#[test]
fn a_consumer_that_is_newer_than_its_shard_says_so() {
    for opens in [1, 2, 3] {
        let dir = tempfile::tempdir().unwrap();
        let shard = dir.path().join("shard-0000");
        let old = append_between(&dir, 10);
        let copied = tempfile::tempdir().unwrap();
        copy(&shard, copied.path());
        let committed = (0..opens).fold(old[9], |_, _| append_between(&dir, 20)[19]);
        // By the consumer, in the open after that: in the same epoch it is set back to the cut, as ever.
        commit(&dir, "mailer", committed);
        put_back(&copied, &shard);
        let log = open(&dir, 1);
        let error = log.consumer("mailer").unwrap_err();
        let end = log.shard(SHARD).durable_lsn();
        let ConsumerError::AboveEnd { name, shard: SHARD, position, end: told } = &error else {
            panic!("{opens}: {error}")
        };
        assert_eq!((name.as_str(), *position, *told), ("mailer", committed, end));
        let text = error.to_string();
        assert!(text.contains("`mailer`") && text.contains(&format!("{committed}")), "{text}");
        assert!(text.contains(&format!("ends at LSN {end}")) && text.contains("consumer_from"), "{text}");
        // Once the shard has regrown beyond it, it is no better.
        let new = append(&log, SHARD, 100);
        assert!(new.last().unwrap().lsn() > committed.lsn());
        let error = log.consumer("mailer").unwrap_err();
        assert!(
            matches!(error, ConsumerError::OtherHistory { position, .. } if position == committed),
            "{error}"
        );
        log.close().unwrap();
        let log = open(&dir, 1);
        let error = log.consumer("mailer").unwrap_err();
        assert!(matches!(error, ConsumerError::OtherHistory { .. }), "{opens}: {error}");
        // The ways on, each for good.
        assert_eq!(rest(log.consumer_from("mailer", From::Position(old[6])).unwrap()).len(), 103);
        log.close().unwrap();
        let log = open(&dir, 1);
        let consumer = log.consumer("mailer").unwrap();
        assert_eq!(consumer.committed(SHARD), Some(old[6]));
        assert_eq!(rest(consumer), [&old[7..], &new].concat());
        assert_eq!(rest(log.consumer_from("mailer", From::Start).unwrap()), [&old[..], &new].concat());
        let consumer = log.consumer_from("mailer", From::End).unwrap();
        assert_eq!((consumer.committed(SHARD), consumer.lag()), (new.last().copied(), 0));
        drop(consumer);
        let next = append(&log, SHARD, 2);
        assert_eq!(rest(log.consumer("mailer").unwrap()), next);
    }
}

fn epoch_of(position: Position) -> u32 {
    u32::from_be_bytes(position.to_bytes()[2..6].try_into().unwrap())
}

/// In the other history the epoch of the position has no row: nothing was written in that open, and another one came. Where
/// the position was, the epoch before has something now, or the one behind.
#[test]
fn what_is_of_an_epoch_that_stayed_empty_in_the_other_history_says_so() {
    for (grown, empty_opens) in [(40, 1), (5, 1), (40, 3), (5, 3)] {
        let dir = tempfile::tempdir().unwrap();
        let shard = dir.path().join("shard-0000");
        append_between(&dir, 10);
        let copied = tempfile::tempdir().unwrap();
        copy(&shard, copied.path());
        append_between(&dir, 10);
        let log = open(&dir, 1);
        let committed = append(&log, SHARD, 10)[9];
        log.consumer("mailer").unwrap().commit(committed).unwrap();
        let queue = log.queue("jobs", QueueOptions::new()).unwrap();
        let taken = std::iter::from_fn(|| queue.take_timeout(Duration::ZERO));
        assert_eq!(taken.map(|delivery| delivery.unwrap().done().unwrap()).count(), 30);
        drop(queue);
        log.tally("likes").unwrap().add("key", 1).wait().unwrap();
        log.close().unwrap();
        put_back(&copied, &shard);
        let new = append_between(&dir, grown);
        assert_eq!(epoch_of(new[0]) + 1, epoch_of(committed));
        assert_eq!(new[grown - 1].lsn() > committed.lsn(), grown > 20);
        (0..empty_opens).for_each(|_| drop(append_between(&dir, 0)));
        let log = open(&dir, 1);
        append(&log, SHARD, 100);
        for _ in 0..2 {
            let error = log.consumer("mailer").unwrap_err();
            assert!(
                matches!(error, ConsumerError::OtherHistory { position, .. } if position == committed),
                "{error}"
            );
            let error = log.queue("jobs", QueueOptions::new()).unwrap_err();
            assert!(matches!(error, QueueError::OtherHistory { .. }), "{error}");
            let error = Log::open_read_only(dir.path()).unwrap().queue("jobs").unwrap_err();
            assert!(matches!(error, QueueError::OtherHistory { .. }), "{error}");
            let error = log.tally("likes").unwrap_err();
            assert!(matches!(error, TallyError::OtherHistory { .. }), "{error}");
        }
        // Of the position itself there is nothing here, whatever stands in its place.
        assert!(matches!(log.get(committed), Err(ReadError::Truncated { .. })));
        log.close().unwrap();
        // The log gives up nothing for such a name.
        let options = Options::new().retain_for(["mailer", "jobs"]);
        let log = options.open(dir.path()).unwrap();
        let shard = log.shard(SHARD);
        log.remove_tally("likes").unwrap();
        let held = shard.truncate_before(shard.durable_lsn());
        assert!(matches!(held, Err(TruncateError::Needed { .. })), "{held:?}");
    }
}

/// Its positions are of another moment than the shard, of another log, or damaged: nothing is passed over in silence, and
/// it begins anew once it was removed.
#[test]
fn a_queue_that_is_not_of_its_log_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let shard = dir.path().join("shard-0000");
    append_between(&dir, 10);
    let copied = tempfile::tempdir().unwrap();
    copy(&shard, copied.path());
    append_between(&dir, 20);
    let queue_of = |log: &Log| log.queue("mailer", QueueOptions::new());
    // Read beside the owner it says the same.
    let beside = || Log::open_read_only(dir.path()).unwrap().queue("mailer");
    let drain = |log: &Log| {
        let queue = queue_of(log).unwrap();
        let taken = std::iter::from_fn(|| queue.take_timeout(Duration::ZERO));
        taken.map(|delivery| delivery.unwrap().done().unwrap()).count()
    };
    let log = open(&dir, 1);
    append(&log, SHARD, 5);
    assert_eq!(drain(&log), 35);
    queue_of(&log).unwrap().flush().unwrap();
    assert_eq!(beside().unwrap().lag.records, 0);
    log.close().unwrap();
    assert_eq!(beside().unwrap().lag.records, 0);
    put_back(&copied, &shard);
    let log = open(&dir, 1);
    let error = queue_of(&log).unwrap_err();
    assert!(matches!(&error, QueueError::AboveEnd { name, .. } if name == "mailer"), "{error}");
    assert!(matches!(beside(), Err(QueueError::AboveEnd { .. })));
    append(&log, SHARD, 100);
    let error = queue_of(&log).unwrap_err();
    assert!(matches!(error, QueueError::OtherHistory { shard: SHARD, .. }), "{error}");
    assert!(matches!(beside(), Err(QueueError::OtherHistory { shard: SHARD, .. })));
    log.remove_queue("mailer").unwrap();
    assert_eq!(drain(&log), 110);
    log.close().unwrap();

    let other = tempfile::tempdir().unwrap();
    drop(open(&other, 1));
    let copies = ["queue-mailer.manifest.0", "queue-mailer.manifest.1"];
    for name in copies {
        std::fs::copy(dir.path().join(name), other.path().join(name)).unwrap();
    }
    let log = open(&other, 1);
    let error = queue_of(&log).unwrap_err();
    assert!(matches!(error, QueueError::OtherLog { own, .. } if own == log.id()), "{error}");
    log.close().unwrap();
    for name in copies {
        let mut bytes = std::fs::read(other.path().join(name)).unwrap();
        bytes[40] ^= 1;
        std::fs::write(other.path().join(name), bytes).unwrap();
    }
    let log = open(&other, 1);
    assert!(matches!(queue_of(&log), Err(QueueError::Damaged { .. })));
    log.remove_queue("mailer").unwrap();
    assert_eq!(drain(&log), 0);
}

/// The copy is of the epoch that the position is of: what is missing was cut, as by `truncate_after`.
#[test]
fn a_consumer_of_the_copied_epoch_is_set_back_to_the_cut() {
    let dir = tempfile::tempdir().unwrap();
    let shard = dir.path().join("shard-0000");
    let log = open(&dir, 1);
    let old = append(&log, SHARD, 10);
    log.sync().wait().unwrap();
    let copied = tempfile::tempdir().unwrap();
    copy(&shard, copied.path());
    let gone = append(&log, SHARD, 10);
    log.consumer("mailer").unwrap().commit(gone[9]).unwrap();
    log.close().unwrap();
    put_back(&copied, &shard);
    for _ in 0..2 {
        let log = open(&dir, 1);
        let new = append(&log, SHARD, 30);
        let seen = rest(log.consumer("mailer").unwrap());
        assert_eq!(seen[seen.len() - 30..], new, "{} of the old ones come again", seen.len() - 30);
        assert!(seen.len() < 30 + old.len() + 30);
        log.close().unwrap();
    }
}

#[test]
fn a_consumer_that_is_older_than_its_shard_is_given_some_twice() {
    let dir = tempfile::tempdir().unwrap();
    let positions = append_between(&dir, 20);
    commit(&dir, "mailer", positions[4]);
    let copied = tempfile::tempdir().unwrap();
    copy(dir.path(), copied.path());
    commit(&dir, "mailer", positions[15]);
    copy(copied.path(), dir.path());
    let log = open(&dir, 1);
    assert_eq!(rest(log.consumer("mailer").unwrap()), positions[5..]);
}

/// Shard, epoch and LSN fit, and so do the records' sizes.
#[test]
fn a_consumer_of_another_log_is_refused() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (positions, others) = (append_between(&dir, 20), append_between(&other, 20));
    commit(&other, "mailer", others[15]);
    let ids = [&dir, &other].map(|dir| Log::open_read_only(dir.path()).unwrap().id());
    for file in ["consumer-mailer.manifest.0", "consumer-mailer.manifest.1"] {
        std::fs::copy(other.path().join(file), dir.path().join(file)).unwrap();
    }
    let log = open(&dir, 1);
    // Of the position alone nobody could tell.
    assert_eq!(positions[15].to_bytes()[..8], others[15].to_bytes()[..8]);
    for error in [
        log.consumer("mailer").unwrap_err(),
        log.consumer_from("mailer", From::Position(positions[3])).unwrap_err(),
    ] {
        let ConsumerError::OtherLog { name, log, own } = &error else { panic!("{error}") };
        assert_eq!((name.as_str(), [*own, *log]), ("mailer", ids));
        assert!(ids.iter().all(|id| error.to_string().contains(&id.to_string())), "{error}");
    }
    assert_eq!(rest(log.consumer_from("mailer", From::Start).unwrap()), positions);
    log.close().unwrap();
    let log = open(&dir, 1);
    assert_eq!(rest(log.consumer("mailer").unwrap()), positions);
}

#[test]
fn several_shards_are_set_one_after_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir, 2);
    let shards = [ShardId(0), ShardId(1)];
    let old = shards.map(|shard| append(&log, shard, 10));
    log.close().unwrap();
    let copies = [0, 1].map(|shard| {
        let copied = tempfile::tempdir().unwrap();
        copy(&dir.path().join(format!("shard-000{shard}")), copied.path());
        copied
    });
    let log = open(&dir, 2);
    let consumer = log.consumer("mailer").unwrap();
    for shard in shards {
        consumer.commit(append(&log, shard, 10)[9]).unwrap();
    }
    drop(consumer);
    log.close().unwrap();
    for (shard, copied) in copies.iter().enumerate() {
        put_back(copied, &dir.path().join(format!("shard-000{shard}")));
    }
    let log = open(&dir, 2);
    let error = log.consumer_from("mailer", From::Position(old[0][4])).unwrap_err();
    assert!(matches!(error, ConsumerError::AboveEnd { shard: ShardId(1), .. }), "{error}");
    let mut seen = rest(log.consumer_from("mailer", From::Position(old[1][7])).unwrap());
    seen.sort_unstable();
    assert_eq!(seen, [&old[0][5..], &old[1][8..]].concat());
}

#[test]
fn what_is_no_position_of_this_log_is_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let positions = append_between(&dir, 10);
    let log = open(&dir, 1);
    // Of an epoch that is to come.
    let mut bytes = positions[5].to_bytes();
    bytes[2..6].copy_from_slice(&99u32.to_be_bytes());
    let later = Position::from_bytes(bytes);
    let error = log.consumer_from("mailer", From::Position(later)).unwrap_err();
    assert!(matches!(error, ConsumerError::NotAPosition(position) if position == later), "{error}");
    let consumer = log.consumer("mailer").unwrap();
    let error = consumer.commit(later).unwrap_err();
    assert!(matches!(error, ConsumerError::NotAPosition(position) if position == later), "{error}");
    assert!(matches!(log.get(later), Err(ReadError::NotAPosition(_))));
    drop(consumer);
    bytes[..2].copy_from_slice(&9u16.to_be_bytes());
    let elsewhere = From::Position(Position::from_bytes(bytes));
    assert!(matches!(log.consumer_from("mailer", elsewhere), Err(ConsumerError::NotAPosition(_))));
}

#[test]
fn a_follower_from_above_the_end_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let positions = append_between(&dir, 10);
    for open_again in [false, true] {
        let log = open(&dir, 1);
        let shard = log.shard(SHARD);
        if !open_again {
            append(&log, SHARD, 1);
        }
        let end = shard.durable_lsn();
        let mut tail = shard.follow(end).unwrap();
        let error = shard.follow(Lsn(end.0 + (1 << 20))).unwrap_err();
        assert!(
            matches!(error, ReadError::AboveEnd { shard: SHARD, end: told, .. } if told == end),
            "{error}"
        );
        // A range says what is there; of what is not, nothing is cut.
        assert_eq!(shard.read(Lsn(end.0 + (1 << 20))..).unwrap().count(), 0);
        let error = shard.truncate_after(Lsn(end.0 + (1 << 20))).unwrap_err();
        assert!(matches!(error, TruncateError::NotARecord { .. }), "{error}");
        let next = append(&log, SHARD, 1)[0];
        assert_eq!(tail.next().unwrap().unwrap().position(), next);
        assert_eq!(
            shard.follow(positions[9].lsn()).unwrap().next().unwrap().unwrap().position(),
            positions[9]
        );
    }
}

/// Flushes so much that the tally's anchor moves.
fn add(log: &Log, rounds: usize) {
    // Each of its updates is waited for, and none needs to share a flush with another.
    let options = TallyOptions::new().interval(Duration::from_millis(1));
    let tally = log.tally_with::<Sum>("likes", &options).unwrap();
    for key in 0..rounds * 40 {
        tally.add(format!("key {}", key % 40), 1).wait().unwrap();
        if key % 4 == 0 {
            log.append(Write::new([7; 16 << 10])).wait().unwrap();
        }
    }
    tally.flush().unwrap();
}

#[test]
fn a_tally_that_is_newer_than_its_shard_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let shard = dir.path().join("shard-0000");
    append_between(&dir, 10);
    let copied = tempfile::tempdir().unwrap();
    copy(&shard, copied.path());
    let log = open(&dir, 1);
    add(&log, 2);
    log.close().unwrap();
    put_back(&copied, &shard);
    let log = open(&dir, 1);
    let told = |log: &Log| {
        [log.tally("likes").unwrap_err(), {
            let reader = Log::open_read_only(dir.path()).unwrap();
            reader.tally::<Sum>("likes").unwrap_err()
        }]
    };
    for error in told(&log) {
        assert!(
            matches!(&error, TallyError::AboveEnd { name, shard: SHARD, .. } if name == "likes"),
            "{error}"
        );
    }
    append(&log, SHARD, 1_000);
    log.close().unwrap();
    let log = open(&dir, 1);
    for error in told(&log) {
        assert!(matches!(&error, TallyError::OtherHistory { name, .. } if name == "likes"), "{error}");
    }
    log.remove_tally("likes").unwrap();
    let tally = log.tally("likes").unwrap();
    tally.add("key 1", 5).wait().unwrap();
    assert_eq!(tally.get("key 1"), Some(5), "it began anew");
}

#[test]
fn a_tally_that_is_older_than_its_shard_has_the_same_totals() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir, 1);
    add(&log, 2);
    log.close().unwrap();
    let copied = tempfile::tempdir().unwrap();
    copy(dir.path(), copied.path());
    let log = open(&dir, 1);
    add(&log, 1);
    log.close().unwrap();
    copy(copied.path(), dir.path());
    let log = open(&dir, 1);
    assert_eq!(log.tally("likes").unwrap().get("key 1"), Some(3));
}

#[test]
fn a_tally_of_another_log_is_refused_and_holds_nothing() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let log = open(&other, 1);
    add(&log, 1);
    log.close().unwrap();
    append_between(&dir, 1_000);
    for file in ["tally-likes.manifest.0", "tally-likes.manifest.1"] {
        std::fs::copy(other.path().join(file), dir.path().join(file)).unwrap();
    }
    let log = open(&dir, 1);
    log.shard(SHARD).truncate_before(log.shard(SHARD).durable_lsn()).unwrap();
    for _ in 0..2 {
        let error = log.tally("likes").unwrap_err();
        assert!(matches!(&error, TallyError::OtherLog { own, .. } if *own == log.id()), "{error}");
        log.shard(SHARD).truncate_before(append(&log, SHARD, 1)[0].lsn()).unwrap();
    }
    log.remove_tally("likes").unwrap();
    assert_eq!(log.tally("likes").unwrap().get("key 1"), None);
}

#[test]
fn a_log_is_known_by_its_id_wherever_it_is() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let log = open(&dir, 2);
    let id = log.id();
    assert_ne!(id, open(&other, 2).id());
    assert_eq!(Log::open_read_only(dir.path()).unwrap().id(), id);
    log.close().unwrap();
    let moved = other.path().join("moved");
    std::fs::rename(dir.path(), &moved).unwrap();
    assert_eq!(Log::open(&moved).unwrap().id(), id);
    assert_eq!(LogId::from_bytes(id.to_bytes()), id);
    assert_eq!(id.to_string().len(), 32);
    // What is told is not what blocks carry.
    let manifest = std::fs::read(moved.join("log.manifest.0")).unwrap();
    assert!(!manifest.windows(16).any(|bytes| bytes == id.to_bytes()));
}
