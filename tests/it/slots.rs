//! Slots that move: under callers that go on, across reopens, and with files from another moment.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use sawmill::write::BatchBuilder;
use sawmill::{
    AppendError, Durability, Log, MoveError, OpenError, Options, Position, ReadError, ShardId, Write,
};

const KEYS: usize = 6;

fn key(number: usize) -> Vec<u8> {
    format!("key-{number}").into_bytes()
}

fn open(dir: &std::path::Path, shards: u16) -> Log {
    Options::new().shards(shards).memory_bytes(4 << 20).open(dir).unwrap()
}

fn number(payload: &[u8]) -> u64 {
    u64::from_le_bytes(payload[..8].try_into().unwrap())
}

/// Each key has one producer, which numbers its records: whatever way they take, they are read once and in order.
#[test]
fn callers_go_on_while_slots_move() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), 3);
    let over = AtomicBool::new(false);
    let appended: Vec<AtomicU64> = (0..KEYS).map(|_| AtomicU64::new(0)).collect();
    let moves = std::thread::scope(|scope| {
        for (own, appended) in appended.iter().enumerate() {
            let (log, over) = (&log, &over);
            scope.spawn(move || {
                let key = key(own);
                let mut window = log.window(64);
                let mut next = 0u64;
                // Enough to be under way whenever slots move, and not so many that reading them takes long.
                while !over.load(Ordering::Relaxed) && next < 20_000 {
                    let payload = next.to_le_bytes();
                    let write = Write::new(&payload[..]).key(&key[..]);
                    let accepted = match own {
                        0 => log.append(write).wait().map(|_| 1),
                        1 => window.push(write).map(|_| 1),
                        2 => log.post(write).map(|_| 1),
                        3 => match log.try_append(write.durability(Durability::Buffered)) {
                            Ok(_) => Ok(1),
                            Err(AppendError::Overloaded { .. }) => Ok(0),
                            Err(error) => Err(error),
                        },
                        4 => {
                            let second = (next + 1).to_le_bytes();
                            log.append_batch(&key, &[&payload[..], &second[..]]).wait().map(|_| 2)
                        }
                        _ => {
                            let mut batch = BatchBuilder::new();
                            batch.push_keyed(&key, payload);
                            log.append_keyed(&batch).wait().map(|_| 1)
                        }
                    };
                    next += accepted.unwrap();
                }
                for position in window {
                    position.unwrap();
                }
                appended.store(next, Ordering::Relaxed);
            });
        }
        let mut moves = 0;
        let mut full = false;
        while !full {
            for number in 0..KEYS {
                let to = ShardId((log.route(&key(number)).0 + 1 + (moves % 2) as u16) % 3);
                match log.move_slots(&[log.slot(&key(number))], to) {
                    Ok(()) => moves += 1,
                    Err(MoveError::HistoryFull { .. }) => full = true,
                    Err(error) => panic!("{error}"),
                }
            }
        }
        over.store(true, Ordering::Relaxed);
        moves
    });
    assert!(moves > 10, "{moves}");
    log.sync().wait().unwrap();
    let check = |log: &Log| {
        let mut merged: BTreeMap<Vec<u8>, Vec<u64>> = BTreeMap::new();
        for record in log.merged(..).unwrap().map(Result::unwrap) {
            merged.entry(record.key().to_vec()).or_default().push(number(record.payload()));
        }
        for (own, appended) in appended.iter().enumerate() {
            let records = log.read_key(&key(own), ..).unwrap().map(Result::unwrap);
            let numbers: Vec<u64> = records.map(|record| number(record.payload())).collect();
            let expected: Vec<u64> = (0..appended.load(Ordering::Relaxed)).collect();
            assert!(numbers == expected, "key {own}: {} of {}", numbers.len(), expected.len());
            let back = log.read_key_back(&key(own), ..).unwrap().map(Result::unwrap);
            assert!(back.map(|record| number(record.payload())).eq(expected.iter().rev().copied()));
            // By time they are in the same order.
            assert!(merged.get(&key(own)).is_none_or(|found| *found == expected));
        }
    };
    check(&log);
    log.close().unwrap();
    check(&open(dir.path(), 3));
}

/// One that follows a key as it goes from shard to shard, in this process and beside it, blocking and as a stream.
#[test]
fn followers_go_along() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), 2);
    let reader = Log::open_read_only(dir.path()).unwrap();
    let last = 400u64;
    std::thread::scope(|scope| {
        let mut own = log.follow_key(&key(0), None).unwrap();
        let mut beside = reader.follow_key(&key(0), None).unwrap();
        scope.spawn(move || {
            for expected in 0..last {
                assert_eq!(number(own.next().unwrap().unwrap().payload()), expected);
            }
        });
        scope.spawn(move || {
            for expected in 0..last {
                assert_eq!(number(beside.next().unwrap().unwrap().payload()), expected);
            }
        });
        let mut task = log.follow_key(&key(0), None).unwrap();
        scope.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                for expected in 0..last {
                    let next = std::future::poll_fn(|context| {
                        futures_core::Stream::poll_next(std::pin::Pin::new(&mut task), context)
                    });
                    assert_eq!(number(next.await.unwrap().unwrap().payload()), expected);
                }
            });
        });
        for next in 0..last {
            if next % 80 == 40 {
                let to = ShardId(1 - log.route(&key(0)).0);
                log.move_slots(&[log.slot(&key(0))], to).unwrap();
            }
            log.append(Write::new(&next.to_le_bytes()[..]).key(&key(0)[..])).wait().unwrap();
        }
    });
}

/// Nobody waits for each record: moves come while some are not durable yet.
#[test]
fn followers_of_what_is_posted_go_along() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), 2);
    let last = 6_000u64;
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let mut own = log.follow_key(&key(0), None).unwrap();
            scope.spawn(move || {
                for expected in 0..last {
                    assert_eq!(number(own.next().unwrap().unwrap().payload()), expected);
                }
            });
        }
        for next in 0..last {
            log.post(Write::new(&next.to_le_bytes()[..]).key(&key(0)[..])).unwrap();
            if next % 1_000 == 999 {
                let to = ShardId(1 - log.route(&key(0)).0);
                log.move_slots(&[log.slot(&key(0))], to).unwrap();
            }
        }
        log.sync().wait().unwrap();
    });
}

/// What was there is delivered from wherever it is, and then it ends.
#[test]
fn a_follower_outlives_the_log_through_its_shards() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), 2);
    let mut tail = log.follow_key(&key(0), None).unwrap();
    let mut appended = Vec::new();
    for _ in 0..3 {
        for _ in 0..3 {
            appended.push(log.append(Write::new(b"record").key(&key(0)[..])).wait().unwrap());
        }
        log.move_slots(&[log.slot(&key(0))], ShardId(1 - log.route(&key(0)).0)).unwrap();
    }
    drop(log);
    let followed: Vec<Position> = tail.by_ref().map(|record| record.unwrap().position()).collect();
    assert_eq!(followed, appended);
    assert!(tail.next().is_none());
}

/// Callers stand in line for room, in shards whose memory is full, as slots are closed and opened elsewhere.
#[test]
fn callers_in_line_for_room_go_along() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new().shards(2).block_bytes(64 << 10).memory_bytes(1 << 20);
    let log = options.open(dir.path()).unwrap();
    let (callers, each) = (12, 60);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..callers)
            .map(|caller| {
                let log = &log;
                scope.spawn(move || {
                    let payload = vec![caller as u8; 60_000];
                    for _ in 0..each {
                        let write = Write::new(&payload).key(key(caller % KEYS));
                        log.append(write.durability(Durability::Buffered)).wait().unwrap();
                    }
                })
            })
            .collect();
        let (log, over) = (&log, &over);
        scope.spawn(move || {
            let slots: Vec<u32> = (0..KEYS).map(|number| log.slot(&key(number))).collect();
            let mut to = 0;
            while !over.load(Ordering::Relaxed) {
                match log.move_slots(&slots, ShardId(to)) {
                    Ok(()) => to = 1 - to,
                    Err(MoveError::HistoryFull { oldest, .. }) => {
                        let shard = log.shard(oldest);
                        shard.truncate_before(shard.durable_lsn()).unwrap();
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        });
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        over.store(true, Ordering::Relaxed);
    });
    log.close().unwrap();
}

/// What is acknowledged before a close is found after it, whatever move it came into.
#[test]
fn a_close_comes_into_a_move() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = Vec::new();
    for round in 0..12u64 {
        let log = open(dir.path(), 2);
        let read = log.read_key(&key(0), ..).unwrap().map(|record| record.unwrap().position());
        assert_eq!(read.collect::<Vec<_>>(), acknowledged, "round {round}");
        let other = log.clone();
        let mover = std::thread::spawn(move || {
            let slots: Vec<u32> = (0..64).collect();
            let mut to = 0;
            loop {
                let all = other.move_slots(&slots, ShardId(to));
                let own = other.move_slots(&[other.slot(&key(0))], ShardId(to));
                match all.and(own) {
                    Ok(()) | Err(MoveError::HistoryFull { .. }) => to = 1 - to,
                    Err(error) => return error,
                }
            }
        });
        for _ in 0..=round {
            acknowledged.push(log.append(Write::new(b"record").key(&key(0)[..])).wait().unwrap());
        }
        log.close().unwrap();
        let error = mover.join().unwrap();
        assert!(matches!(error, MoveError::Closed), "{error}");
    }
}

#[test]
fn terms_hold_across_a_move() {
    let dir = tempfile::tempdir().unwrap();
    let log = Options::new().shards(2).dedup_ids(1 << 10).open(dir.path()).unwrap();
    let write = || Write::new(b"debit").key(b"account:7");
    let first = log.append(write().id(1)).wait().unwrap();
    let to = ShardId(1 - first.shard().0);
    log.move_slots(&[log.slot(b"account:7")], to).unwrap();
    for _ in 0..2 {
        let retried = log.append(write().id(1)).admitted().wait().unwrap();
        assert!(retried.is_duplicate());
        assert_eq!(retried.wait().unwrap(), first);
    }
    let none = log.append(write().if_last(None)).wait().unwrap_err();
    assert!(matches!(none, AppendError::Conflict { last: Some(last), .. } if last == first), "{none}");
    let second = log.append(write().if_last(Some(first)).id(2)).wait().unwrap();
    assert_eq!(second.shard(), to);
    let old = log.append(write().if_last(Some(first))).wait().unwrap_err();
    assert!(matches!(old, AppendError::Conflict { last: Some(last), .. } if last == second), "{old}");
    // Where its slot was it is no stream's any more.
    let elsewhere = log.shard(first.shard()).append(write().id(3)).wait().unwrap_err();
    assert!(matches!(elsewhere, AppendError::KeyRequired), "{elsewhere}");
    log.close().unwrap();
    let log = Options::new().shards(2).dedup_ids(1 << 10).open(dir.path()).unwrap();
    assert_eq!(log.last(b"account:7").unwrap(), Some(second));
    for (id, position) in [(1, first), (2, second)] {
        let retried = log.append(write().id(id)).admitted().wait().unwrap();
        assert!(retried.is_duplicate() && retried.position() == position);
    }
    // What is truncated is forgotten, in whichever shard it was.
    log.shard(first.shard()).append(b"so that something is behind it").wait().unwrap();
    let end = log.shard(first.shard()).durable_lsn();
    log.shard(first.shard()).truncate_before(end).unwrap();
    let anew = log.append(write().id(1)).admitted().wait().unwrap();
    assert!(!anew.is_duplicate());
    let positions: Vec<Position> =
        log.read_key(b"account:7", ..).unwrap().map(|record| record.unwrap().position()).collect();
    assert_eq!(positions, [second, anew.wait().unwrap()]);
}

#[test]
fn a_record_put_elsewhere_by_hand_is_no_record_of_the_key() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), 2);
    let write = |payload: &'static [u8]| Write::new(payload).key(b"key");
    let (own, other) = (log.route(b"key"), ShardId(1 - log.route(b"key").0));
    let append = |shard: ShardId, payload| log.shard(shard).append(write(payload)).wait().unwrap();
    let mut expected = vec![append(own, b"here")];
    append(other, b"not here yet");
    log.move_slots(&[log.slot(b"key")], other).unwrap();
    append(own, b"not here any more");
    assert_eq!(log.last(b"key").unwrap(), Some(expected[0]));
    expected.push(append(other, b"here now"));
    let read = |log: &Log| -> Vec<Position> {
        log.read_key(b"key", ..).unwrap().map(|record| record.unwrap().position()).collect()
    };
    assert_eq!(read(&log), expected);
    log.move_slots(&[log.slot(b"key")], own).unwrap();
    expected.push(append(own, b"back again"));
    append(other, b"not here any more");
    assert_eq!(read(&log), expected);
    assert_eq!(log.last(b"key").unwrap(), expected.last().copied());
    let foreign = append(other, b"nobody's");
    assert!(matches!(log.read_key(b"key", foreign..), Err(ReadError::NotAPosition(_))));
    drop(log);
    assert_eq!(read(&open(dir.path(), 2)), expected);
}

#[test]
fn what_is_asked_wrongly_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), 2);
    let slots = log.slots();
    let error = log.move_slots(&[slots], ShardId(0)).unwrap_err();
    assert!(matches!(error, MoveError::NoSuchSlot { slot, .. } if slot == slots), "{error}");
    let error = log.move_slots(&[0], ShardId(2)).unwrap_err();
    assert!(matches!(error, MoveError::NoSuchShard(ShardId(2))), "{error}");
    log.move_slots(&[], ShardId(0)).unwrap();
    let (slot, mut to) = (log.slot(b"key"), ShardId(1 - log.route(b"key").0));
    let error = loop {
        log.append(Write::new(b"a").key(b"key")).wait().unwrap();
        match log.move_slots(&[slot, slot], to) {
            Ok(()) => to = ShardId(1 - to.0),
            Err(error) => break error,
        }
    };
    let MoveError::HistoryFull { slot: full, oldest } = error else { panic!("{error}") };
    assert_eq!(full, slot);
    // Once the oldest part is truncated away it moves again.
    let first = log.read_key(b"key", ..).unwrap().next().unwrap().unwrap().position();
    log.shard(oldest).truncate_before(log.shard(oldest).durable_lsn()).unwrap();
    log.move_slots(&[slot], to).unwrap();
    // And what was there stands for the beginning, though nothing knows any more that the slot was.
    assert_eq!(first.shard(), oldest);
    let rest = log.read_key(b"key", ..).unwrap().count();
    assert_eq!(log.read_key(b"key", first..).unwrap().count(), rest);
    let reader = Log::open_read_only(dir.path()).unwrap();
    assert!(reader.follow_key(b"key", Some(first)).is_ok());
    log.close().unwrap();
}

/// Copies the files of a folder, not those of its folders.
fn copy_files(from: &std::path::Path, to: &std::path::Path, is_one: impl Fn(&str) -> bool) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if entry.file_type().unwrap().is_file() && is_one(&name) {
            std::fs::copy(entry.path(), to.join(&name)).unwrap();
        }
    }
}

/// The log's own manifest says where slots are: an older one would hide what was appended since.
#[test]
fn an_older_map_is_refused() {
    let (dir, kept) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let log = open(dir.path(), 2);
    log.append(Write::new(b"before").key(b"key")).wait().unwrap();
    let is_manifest = |name: &str| name.starts_with("log.manifest.");
    copy_files(dir.path(), kept.path(), is_manifest);
    let to = ShardId(1 - log.route(b"key").0);
    log.move_slots(&[log.slot(b"key")], to).unwrap();
    log.append(Write::new(b"after").key(b"key")).wait().unwrap();
    log.close().unwrap();
    let newest = tempfile::tempdir().unwrap();
    copy_files(dir.path(), newest.path(), is_manifest);
    copy_files(kept.path(), dir.path(), is_manifest);
    let error = Options::new().open(dir.path()).unwrap_err();
    assert!(
        matches!(error, OpenError::MapOlder { version: 0, known: 1, shard, .. } if shard == to),
        "{error}"
    );
    copy_files(newest.path(), dir.path(), is_manifest);
    let log = Options::new().open(dir.path()).unwrap();
    assert_eq!(log.read_key(b"key", ..).unwrap().count(), 2);
    // One copy of an older moment is told, and mended.
    log.close().unwrap();
    std::fs::copy(kept.path().join("log.manifest.0"), dir.path().join("log.manifest.0")).unwrap();
    let log = Options::new().open(dir.path()).unwrap();
    assert_eq!(log.read_key(b"key", ..).unwrap().count(), 2);
}

/// A shard that is put back from before a move: what is appended to it from now on is found all the same.
#[test]
fn a_shard_that_was_put_back_takes_what_goes_there() {
    let (dir, kept) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let log = open(dir.path(), 2);
    let (own, to) = (log.route(b"key"), ShardId(1 - log.route(b"key").0));
    let first = log.append(Write::new(b"first").key(b"key")).wait().unwrap();
    log.shard(to).append(b"something").wait().unwrap();
    log.close().unwrap();
    let folder = dir.path().join(format!("shard-{:04}", to.0));
    copy_files(&folder, kept.path(), |_| true);
    for _ in 0..3 {
        let log = open(dir.path(), 2);
        log.shard(to).append(b"in a later epoch").wait().unwrap();
        log.close().unwrap();
    }
    let log = open(dir.path(), 2);
    log.move_slots(&[log.slot(b"key")], to).unwrap();
    log.append(Write::new(b"lost with the shard").key(b"key")).wait().unwrap();
    log.close().unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    std::fs::create_dir(&folder).unwrap();
    copy_files(kept.path(), &folder, |_| true);
    let log = Options::new().open(dir.path()).unwrap();
    assert_eq!(log.route(b"key"), to);
    let next = log.append(Write::new(b"next").key(b"key")).wait().unwrap();
    let read: BTreeMap<usize, Position> =
        log.read_key(b"key", ..).unwrap().map(|record| record.unwrap().position()).enumerate().collect();
    assert_eq!(read.into_values().collect::<Vec<_>>(), [first, next]);
    assert_eq!((first.shard(), next.shard()), (own, to));
}
