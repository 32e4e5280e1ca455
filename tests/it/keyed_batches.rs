//! Batches of records with a key each, and batches that are refused in place of waiting for room.

use std::time::{Duration, Instant};

use sawmill::append::CommitBatch;
use sawmill::write::BatchBuilder;
use sawmill::{AppendError, Durability, Log, Options, Position, Priority, ShardId, Write};

use crate::harness::{Ground, payloads};
use crate::on_every_ground;

on_every_ground!(
    records_of_a_batch_have_their_own_keys,
    keys_of_several_shards_are_refused,
    refused_batches_leave_nothing_behind,
);

/// Of two shards, keys that go to each of them.
fn keys_of_each_shard(log: &Log) -> [Vec<String>; 2] {
    let keys = (0..40).map(|number| format!("key {number}"));
    let (first, second) = keys.partition(|key| log.route(key) == ShardId(0));
    [first, second]
}

fn built(records: &[(&[u8], Vec<u8>)]) -> BatchBuilder {
    let mut batch = BatchBuilder::new();
    for (index, (key, payload)) in records.iter().enumerate() {
        match index % 3 {
            0 if key.is_empty() => batch.push(payload),
            1 => batch.push_keyed_with(key, |bytes| bytes.extend_from_slice(payload)),
            _ => batch.push_keyed(key, payload),
        }
    }
    batch
}

fn assert_keyed(log: &Log, all: &[(Position, Vec<u8>, Vec<u8>)]) {
    for (position, key, payload) in all {
        let record = log.get(*position).unwrap();
        assert_eq!((record.key(), record.payload()), (&key[..], &payload[..]), "at {position}");
        let own = all.iter().filter(|(_, own, _)| !key.is_empty() && own == key);
        let own: Vec<Position> = own.map(|(position, ..)| *position).collect();
        let found = log.read_key(key, ..).unwrap().map(|record| record.unwrap().position());
        assert_eq!(found.collect::<Vec<_>>(), own, "of {}", key.escape_ascii());
        assert_eq!(log.last(key).unwrap(), own.last().copied());
    }
}

/// Within a block and over several, with keys longer than one; before and after a reopen.
fn records_of_a_batch_have_their_own_keys(ground: Ground) {
    let dir = ground.directory();
    let log = ground.small().index_keys(true).open(dir.path()).unwrap();
    let long = vec![7; 9_000];
    let mut all = Vec::new();
    for size in [0, 10, 700, 3_000, 9_000] {
        let records = [
            (&b"a"[..], vec![1; size]),
            (b"b", vec![2; 10]),
            (b"", vec![3; size]),
            (b"", vec![4; 10]),
            (b"a", vec![5; size]),
            (&long, vec![6; size]),
        ];
        let batch = built(&records);
        let mut batches = vec![log.append_keyed(&batch).wait().unwrap()];
        batches.push(log.shard(ShardId(0)).append_keyed(&batch).wait().unwrap());
        batches.push(try_until(|| log.try_append_built(&batch)).wait().unwrap());
        batches.push(try_until(|| log.shard(ShardId(0)).try_append_built(&batch)).wait().unwrap());
        for positions in batches {
            assert_eq!(positions.len(), records.len());
            let records = records.iter().map(|(key, payload)| (key.to_vec(), payload.clone()));
            all.extend(positions.into_iter().zip(records).map(|(at, (key, payload))| (at, key, payload)));
        }
        // Those that have none may be given one.
        let positions = log.append_built(b"others", &batch).wait().unwrap();
        for (position, (key, payload)) in positions.into_iter().zip(records) {
            let key = if key.is_empty() { b"others" } else { key };
            all.push((position, key.to_vec(), payload));
        }
        assert_keyed(&log, &all);
    }
    log.close().unwrap();
    let log = ground.options().open(dir.path()).unwrap();
    assert_keyed(&log, &all);
}

/// Until there is room, which there is soon.
fn try_until(append: impl Fn() -> Result<CommitBatch, AppendError>) -> CommitBatch {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        match append() {
            Err(AppendError::Overloaded { .. }) if Instant::now() < until => std::thread::yield_now(),
            appended => return appended.unwrap(),
        }
    }
}

fn keys_of_several_shards_are_refused(ground: Ground) {
    let dir = ground.directory();
    let log = ground.options().shards(2).open(dir.path()).unwrap();
    let [here, there] = keys_of_each_shard(&log);
    let batch = |keys: &[&str]| {
        let mut batch = BatchBuilder::new();
        keys.iter().for_each(|key| batch.push_keyed(key, b"x"));
        batch
    };
    // Wherever the one stands that goes elsewhere, and with what is given to those that have none.
    for keys in [[&there[0], &here[0], &here[1]], [&here[0], &there[0], &here[1]]] {
        let mixed = batch(&[keys[0], "", keys[1], keys[2]]);
        let refused = log.append_keyed(&mixed).wait();
        assert!(matches!(refused, Err(AppendError::MixedShards)), "{refused:?}");
        let refused = log.try_append_built(&mixed);
        assert!(matches!(refused, Err(AppendError::MixedShards)), "{refused:?}");
    }
    let mixed = batch(&["", &here[0]]);
    let refused = log.append_built(&there[0], &mixed).wait();
    assert!(matches!(refused, Err(AppendError::MixedShards)), "{refused:?}");
    for shard in [0, 1].map(|shard| log.shard(ShardId(shard))) {
        assert!(payloads(&shard).is_empty(), "nothing was accepted");
    }
    // What has no key goes with the others, wherever they go.
    for keys in [&here, &there] {
        let positions = log.append_keyed(&batch(&["", &keys[0], "", &keys[1], &keys[0]])).wait().unwrap();
        let shard = log.route(&keys[0]);
        assert!(positions.iter().all(|position| position.shard() == shard), "{positions:?} not in {shard}");
        assert_eq!(log.last(&keys[1]).unwrap(), Some(positions[3]));
    }
    // Without any, where a record without one goes; a shard that is named takes all.
    let nearest = log.append(b"x").wait().unwrap().shard();
    for keyless in [batch(&["", ""]), batch(&[""])] {
        let positions = log.append_keyed(&keyless).wait().unwrap();
        assert!(positions.iter().all(|position| position.shard() == nearest), "{positions:?}");
    }
    let positions = log.shard(ShardId(1)).append_keyed(&batch(&[&here[0], &there[0]])).wait().unwrap();
    assert!(positions.iter().all(|position| position.shard() == ShardId(1)), "{positions:?}");
}

/// Batches that are tried until some are refused: those that were accepted are there, whole, and nothing else.
fn refused_batches_leave_nothing_behind(ground: Ground) {
    let dir = ground.directory();
    let log = ground.small().open(dir.path()).unwrap();
    let shard = log.shard(ShardId(0));
    let (mut accepted, mut refused) = (Vec::new(), 0);
    let mut batch = BatchBuilder::new();
    for number in 0..4_000u32 {
        let bytes = [number.to_le_bytes(); 300];
        let bytes = bytes.as_flattened();
        batch.clear();
        (0..4).for_each(|index: u32| batch.push_keyed(index.to_le_bytes(), bytes));
        batch.priority(Priority::Low);
        batch.durability(Durability::Buffered);
        let tried = match number % 4 {
            0 => log.try_append_batch(b"key", &[bytes; 4]),
            1 => shard.try_append_batch(b"key", &vec![bytes.to_vec(); 4]),
            2 => log.try_append_built(&batch),
            _ => shard.try_append_built(&batch),
        };
        match tried {
            Ok(commit) => {
                assert_eq!(commit.positions().len(), 4);
                accepted.push((commit, bytes.to_vec()));
            }
            Err(AppendError::Overloaded { retry_after, .. }) => {
                assert!(!retry_after.is_zero());
                refused += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(refused > 0 && !accepted.is_empty(), "{refused} refused, {} accepted", accepted.len());
    let mut expected = Vec::new();
    for (commit, bytes) in accepted {
        let positions = commit.wait().unwrap();
        assert!(positions.iter().all(|position| log.get(*position).unwrap().payload() == bytes));
        expected.extend([const { Vec::new() }; 4].map(|_: Vec<u8>| bytes.clone()));
    }
    log.close().unwrap();
    let log = ground.options().open(dir.path()).unwrap();
    assert!(payloads(&log.shard(ShardId(0))) == expected, "what is there is not what was accepted");
}

fn two_shards() -> Options {
    Options::new().shards(2).segment_bytes(1 << 20).memory_bytes(1 << 20).block_bytes(16 << 10)
}

#[test]
fn a_condition_or_an_id_is_about_one_key() {
    let dir = tempfile::tempdir().unwrap();
    let log = two_shards().open(dir.path()).unwrap();
    let [here, there] = keys_of_each_shard(&log);
    let (own, other) = (log.shard(ShardId(0)), log.shard(ShardId(1)));
    let mut batch = BatchBuilder::new();
    let mut begin = |keys: &[&str]| {
        batch.clear();
        keys.iter().for_each(|key| batch.push_keyed(key, b"x"));
        batch.id(7);
        batch.if_last(None);
        batch.clone()
    };
    for keys in [[&*here[0], &here[1]], [&here[0], &there[0]], [&here[0], ""], ["", &here[0]]] {
        let mixed = begin(&keys);
        let refused = log.append_keyed(&mixed).wait();
        assert!(matches!(refused, Err(AppendError::MixedKeys)), "{refused:?}");
        for refused in [log.try_append_built(&mixed), own.try_append_built(&mixed)] {
            assert!(matches!(refused, Err(AppendError::MixedKeys)), "{refused:?}");
        }
    }
    let keyless = begin(&["", ""]);
    let refused = log.append_keyed(&keyless).wait();
    assert!(matches!(refused, Err(AppendError::KeyRequired)), "{refused:?}");
    let one = begin(&[&here[0], &here[0]]);
    let refused = other.try_append_built(&one);
    assert!(matches!(refused, Err(AppendError::KeyRequired)), "{refused:?}");
    assert!(payloads(&own).is_empty() && payloads(&other).is_empty(), "nothing was accepted");
    let first = log.try_append_built(&one).unwrap();
    assert!(!first.is_duplicate());
    let first = first.wait().unwrap();
    let retry = own.try_append_built(&one).unwrap();
    assert!(retry.is_duplicate());
    assert_eq!(retry.positions(), first);
    assert_eq!(log.append_keyed(&one).wait().unwrap(), first);
    // Those that have none get the one that the others have.
    let given = begin(&["", &here[0]]);
    assert_eq!(log.append_built(&here[0], &given).wait().unwrap(), first);
    let mut late = begin(&[&here[0]]);
    late.id(8);
    let late = log.try_append_built(&late);
    assert!(matches!(&late, Err(AppendError::Conflict { last, .. }) if *last == Some(first[1])), "{late:?}");
}

#[test]
fn handles_of_batches_go_to_other_threads_and_tasks() {
    let dir = tempfile::tempdir().unwrap();
    let log = two_shards().open(dir.path()).unwrap();
    let commit = log.try_append_batch("key", &["a", "b"]).unwrap();
    let positions = std::thread::spawn(move || commit.wait().unwrap()).join().unwrap();
    let commit = log.try_append_batch("key", &["c"]).unwrap();
    let waited = commit.wait_timeout(Duration::from_secs(60)).expect("it does not take a minute").unwrap();
    assert_eq!(waited, commit.positions());
    assert!(commit.is_durable() && commit.try_result().unwrap().unwrap() == commit.positions());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let commit = log.try_append_batch("key", &["d", "e"]).unwrap();
    let (expected, awaited) = runtime
        .block_on(async { (commit.positions().to_vec(), tokio::spawn(commit).await.unwrap().unwrap()) });
    assert_eq!(expected, awaited);
    let (commit, parts) = log.try_append_batch("key", &["f", "g"]).unwrap().into_parts();
    assert_eq!(commit.wait().unwrap(), parts[0]);
    let stream: Vec<Vec<u8>> =
        log.read_key("key", ..).unwrap().map(|record| record.unwrap().payload().to_vec()).collect();
    assert_eq!(stream.concat(), b"abcdefg");
    assert_eq!(log.get(positions[1]).unwrap().payload(), b"b");
}

#[test]
fn what_no_log_takes_is_refused_for_good() {
    let dir = tempfile::tempdir().unwrap();
    let log = two_shards().open(dir.path()).unwrap();
    let none: [&[u8]; 0] = [];
    for refused in [log.try_append_batch(b"a", &none), log.try_append_built(&BatchBuilder::new())] {
        assert!(matches!(refused, Err(AppendError::EmptyBatch)), "{refused:?}");
    }
    let refused = log.append_keyed(&BatchBuilder::new()).wait();
    assert!(matches!(refused, Err(AppendError::EmptyBatch)), "{refused:?}");
    let mut batch = BatchBuilder::new();
    batch.push_keyed(b"a", b"x");
    batch.push_keyed(vec![7; 70_000], b"x");
    for refused in [
        log.shard(ShardId(0)).try_append_built(&batch),
        log.try_append_batch(b"a", &vec![vec![0; 1 << 20]; 20]),
    ] {
        assert!(matches!(refused, Err(AppendError::TooLarge { .. })), "{refused:?}");
    }
    let nowhere = log.shard(ShardId(2));
    for refused in [nowhere.try_append_batch(b"a", &[b"x"]), nowhere.try_append_built(&batch)] {
        assert!(matches!(refused, Err(AppendError::NoSuchShard(ShardId(2)))), "{refused:?}");
    }
    assert!(matches!(nowhere.append_keyed(&batch).wait(), Err(AppendError::NoSuchShard(_))));
    log.close().unwrap();
    let refused = log.try_append_batch(b"a", &[b"x"]);
    assert!(matches!(refused, Err(AppendError::Closed)), "{refused:?}");
    assert!(log.append(Write::new(b"x")).wait().is_err());
}
