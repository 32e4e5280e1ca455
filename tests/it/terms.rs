//! Appends under a condition, and appends once per id.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::atomic::{AtomicU64, Ordering};

use sawmill::write::BatchBuilder;
use sawmill::{AppendError, Durability, Log, Options, Position, ShardId, Write};

fn small() -> Options {
    Options::new().shards(2).segment_bytes(1 << 20).memory_bytes(1 << 20).block_bytes(16 << 10)
}

fn conflict(result: Result<Position, AppendError>) -> Option<Position> {
    match result {
        Err(AppendError::Conflict { last, .. }) => last,
        other => panic!("no conflict: {other:?}"),
    }
}

#[test]
fn a_condition_is_about_the_last_record_of_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = small().open(dir.path()).unwrap();
    let append = |log: &Log, key: &str, last| log.append(Write::new(b"x").key(key).if_last(last)).wait();
    let first = append(&log, "a", None).unwrap();
    assert_eq!(conflict(append(&log, "a", None)), Some(first));
    let other = log.append(Write::new(b"x").key(b"b").durability(Durability::Buffered)).wait().unwrap();
    let second = append(&log, "a", Some(first)).unwrap();
    assert_eq!(conflict(append(&log, "a", Some(first))), Some(second));
    assert_eq!(conflict(append(&log, "a", Some(other))), Some(second));
    assert_eq!(conflict(append(&log, "c", Some(second))), None);
    // Also of what was appended without one, and across a reopen.
    let third = log.append(Write::new(b"x").key(b"a").durability(Durability::Buffered)).wait().unwrap();
    assert_eq!(conflict(append(&log, "a", Some(second))), Some(third));
    log.close().unwrap();
    log = small().open(dir.path()).unwrap();
    assert_eq!(conflict(append(&log, "a", Some(second))), Some(third));
    let fourth = append(&log, "a", Some(third)).unwrap();
    assert_eq!(log.last(b"a").unwrap(), Some(fourth));
    // Truncated at either end.
    let shard = log.shard(fourth.shard());
    shard.truncate_after(third.lsn()).unwrap();
    assert_eq!(conflict(append(&log, "a", Some(fourth))), Some(third));
    let fifth = append(&log, "a", Some(third)).unwrap();
    shard.truncate_before(shard.durable_lsn()).unwrap();
    assert_eq!(conflict(append(&log, "a", Some(fifth))), None);
    append(&log, "a", None).unwrap();
    log.close().unwrap();
}

#[test]
fn without_a_key_there_is_nothing_that_it_could_be_about() {
    let dir = tempfile::tempdir().unwrap();
    let log = small().dedup_ids(0).open(dir.path()).unwrap();
    let refused = log.append(Write::new(b"x").if_last(None)).wait();
    assert!(matches!(refused, Err(AppendError::KeyRequired)), "{refused:?}");
    let refused = log.try_append(Write::new(b"x").id(1)).map(|commit| commit.position());
    assert!(matches!(refused, Err(AppendError::KeyRequired)), "{refused:?}");
    let refused = log.append(Write::new(b"x").key(b"a").id(1)).wait();
    assert!(matches!(refused, Err(AppendError::IdsNotKept)), "{refused:?}");
    let elsewhere = log.shard(ShardId(1 - log.route(b"a").0));
    let refused = elsewhere.append(Write::new(b"x").key(b"a").if_last(None)).wait();
    assert!(matches!(refused, Err(AppendError::KeyRequired)), "{refused:?}");
    // Such a record belongs to no stream.
    elsewhere.append(Write::new(b"x").key(b"a")).wait().unwrap();
    let mut batch = BatchBuilder::new();
    batch.push(b"x");
    batch.if_last(None);
    let refused = log.append_built(b"", &batch).wait();
    assert!(matches!(refused, Err(AppendError::KeyRequired)), "{refused:?}");
    assert_eq!(log.append_built(b"a", &batch).wait().unwrap().len(), 1);
    log.close().unwrap();
}

/// Threads that append what they have decided by what they have read, and others that do not ask: what was decided is
/// true of the log as it is.
#[test]
fn of_two_writers_with_one_condition_one_wins() {
    const KEYS: u64 = 3;
    let dir = tempfile::tempdir().unwrap();
    let log = small().shards(1).open(dir.path()).unwrap();
    let (won, lost) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (log, won, lost) = (&log, &won, &lost);
            scope.spawn(move || {
                let mut known: BTreeMap<u64, Option<Position>> = BTreeMap::new();
                for round in 0..200 {
                    let key = (round * 7 + thread) % KEYS;
                    // Waited for, so that the others come to be in between.
                    let write = |payload: Vec<u8>| Write::new(payload).key(key.to_le_bytes());
                    if thread == 0 {
                        log.append(write(Vec::new())).wait().unwrap();
                        continue;
                    }
                    let last = *known.entry(key).or_insert(None);
                    let told = last.map_or_else(|| vec![1], |last| last.to_bytes().to_vec());
                    let appended = if thread == 3 && round % 3 == 0 {
                        // Over several blocks, of which the last record is the last of the key.
                        let mut batch = BatchBuilder::new();
                        batch.push(&told);
                        batch.push([7; 20_000]);
                        batch.push([]);
                        batch.if_last(last);
                        log.append_built(&key.to_le_bytes(), &batch).wait().map(|positions| positions[2])
                    } else {
                        log.append(write(told).if_last(last)).wait()
                    };
                    match appended {
                        Ok(position) => {
                            won.fetch_add(1, Ordering::Relaxed);
                            known.insert(key, Some(position));
                        }
                        Err(AppendError::Conflict { last, .. }) => {
                            lost.fetch_add(1, Ordering::Relaxed);
                            known.insert(key, last);
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
    });
    let mut checked = 0;
    for key in 0..KEYS {
        let mut before: Option<Position> = None;
        for record in log.read_key(&key.to_le_bytes(), ..).unwrap() {
            let record = record.unwrap();
            if [1, 16].contains(&record.payload().len()) {
                let expected = before.map_or_else(|| vec![1], |before| before.to_bytes().to_vec());
                assert_eq!(record.payload(), expected, "something came between at {}", record.position());
                checked += 1;
            }
            before = Some(record.position());
        }
        assert_eq!(log.last(&key.to_le_bytes()).unwrap(), before);
    }
    assert_eq!(checked, won.into_inner());
    assert!(checked > 20 && lost.into_inner() > 20);
    log.close().unwrap();
}

#[test]
fn a_retry_is_the_first_one() {
    let dir = tempfile::tempdir().unwrap();
    let open = || small().dedup_ids(4).open(dir.path()).unwrap();
    let mut log = open();
    let put = |log: &Log, key: &str, id| {
        let commit = log.try_append(Write::new(b"debit").key(key).id(id)).unwrap();
        (commit.is_duplicate(), commit.wait().unwrap())
    };
    let (is_duplicate, first) = put(&log, "a", 1);
    assert!(!is_duplicate);
    assert_eq!(put(&log, "a", 1), (true, first));
    assert_eq!(log.get(first).unwrap().id(), Some(1));
    assert_eq!(
        (log.get(first).unwrap().key(), log.get(first).unwrap().payload()),
        (&b"a"[..], &b"debit"[..])
    );
    assert!(!put(&log, "b", 1).0, "another key, another id");
    // The condition was true when it was first asked.
    let conditional = || Write::new(b"x").key("c").if_last(None).id(9);
    let made = log.append(conditional()).wait().unwrap();
    assert_eq!(log.append(conditional()).wait().unwrap(), made);
    let conflict = log.append(Write::new(b"x").key("c").if_last(None).id(10)).wait();
    assert!(
        matches!(conflict, Err(AppendError::Conflict { last, .. }) if last == Some(made)),
        "{conflict:?}"
    );
    log.close().unwrap();
    log = open();
    assert_eq!(put(&log, "a", 1), (true, first));
    assert_eq!(log.append(conditional()).wait().unwrap(), made);
    // Four others in its shard, of which one came before: it is forgotten with the fifth.
    let in_shard: Vec<String> = (0..40)
        .map(|key| format!("key {key}"))
        .filter(|key| log.route(key) == log.route("a"))
        .take(4)
        .collect();
    let before = u128::from(log.route("b") == log.route("a")) + u128::from(log.route("c") == log.route("a"));
    for (id, key) in in_shard.iter().enumerate() {
        let still_known = before + id as u128 <= 3;
        assert_eq!(put(&log, "a", 1).0, still_known, "after {id}");
        if !still_known {
            break;
        }
        assert!(!put(&log, key, 77).0);
    }
    log.close().unwrap();
}

#[test]
fn a_batch_has_one_condition_and_one_id() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = small().open(dir.path()).unwrap();
    let mut batch = BatchBuilder::new();
    for bytes in [1, 300, 9_000, 20_000, 5] {
        batch.push(vec![7; bytes]);
    }
    batch.id(5);
    batch.if_last(None);
    let first = log.append_built(b"a", &batch).wait().unwrap();
    assert_eq!(first.len(), 5);
    let again = log.append_built(b"a", &batch);
    let (commit, positions) = again.admitted().wait().unwrap();
    assert!(commit.is_duplicate());
    assert_eq!((commit.wait().unwrap(), positions), (first[0], first.clone()));
    log.close().unwrap();
    log = small().open(dir.path()).unwrap();
    assert_eq!(log.append_built(b"a", &batch).wait().unwrap(), first);
    let ids: Vec<_> = first.iter().map(|position| log.get(*position).unwrap().id()).collect();
    assert_eq!(ids, [Some(5), None, None, None, None]);
    batch.id(6);
    let refused = log.append_built(b"a", &batch).wait();
    assert!(
        matches!(refused, Err(AppendError::Conflict { last, .. }) if last == first.last().copied()),
        "{refused:?}"
    );
    batch.clear();
    batch.push(b"y");
    assert_eq!(log.append_built(b"a", &batch).wait().unwrap().len(), 1, "what was cleared has no terms");
    let records = log.read_key(b"a", (Excluded(first[2]), Unbounded)).unwrap();
    let lengths: Vec<usize> = records.map(|record| record.unwrap().payload().len()).collect();
    assert_eq!(lengths, [20_000, 5, 1]);
    log.close().unwrap();
}

/// Two retries at once, of what is not durable yet: one record.
#[test]
fn two_appends_of_one_id_at_a_time_are_one() {
    const IDS: u128 = 300;
    let dir = tempfile::tempdir().unwrap();
    let log = small().open(dir.path()).unwrap();
    let all: Vec<Vec<(bool, Position)>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|thread: u32| {
                let log = &log;
                scope.spawn(move || {
                    (0..IDS)
                        .map(|id| {
                            let durability = [Durability::Buffered, Durability::Written, Durability::Synced];
                            let write = Write::new(vec![7; 50 * (id % 40) as usize])
                                .key([(id % 8) as u8])
                                .id(id)
                                .durability(durability[(thread + id as u32) as usize % 3]);
                            let commit = log.append(write).admitted().wait().unwrap();
                            (commit.is_duplicate(), commit.wait().unwrap())
                        })
                        .collect()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for id in 0..IDS as usize {
        assert_eq!(all.iter().filter(|own| !own[id].0).count(), 1, "records of id {id}");
        assert!(all.iter().all(|own| own[id].1 == all[0][id].1));
    }
    let records = log.merged(..).unwrap().map(|record| record.unwrap().id());
    let mut ids: Vec<u128> = records.map(|id| id.expect("all have one")).collect();
    ids.sort_unstable();
    assert!(ids.iter().copied().eq(0..IDS));
    log.close().unwrap();
}
