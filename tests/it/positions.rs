//! Positions that were never given: told as such, and never as damage.

use std::collections::HashMap;

use sawmill::{Log, Options, Position, ReadError, Record, ShardId};

/// Every position that was given, with its payload.
type Given = HashMap<Position, Vec<u8>>;

fn options() -> Options {
    Options::new().shards(2).block_bytes(16 << 10).segment_bytes(1 << 20).memory_bytes(1 << 20)
}

fn append(log: &Log, given: &mut Given, shard: u16, payload: Vec<u8>) -> Position {
    let position = log.shard(ShardId(shard)).append(&payload).wait().unwrap();
    given.insert(position, payload);
    position
}

/// Records of many sizes, some of them in several blocks, in a block each or many to one.
fn fill(log: &Log, given: &mut Given, from: u32, count: u32) {
    for number in from..from + count {
        let bytes =
            [9, 700, 5_000, 15_000, 40_000, 90_000][(number % 6) as usize] + number as usize * 13 % 90;
        for shard in 0..2 {
            append(log, given, shard, vec![number as u8; bytes]);
        }
        if number % 5 == 0 {
            let payloads: Vec<Vec<u8>> = (0..6).map(|index| vec![index; 90 + usize::from(index)]).collect();
            let positions = log.append_batch(&number.to_le_bytes(), &payloads).wait().unwrap();
            given.extend(positions.into_iter().zip(payloads));
        }
    }
}

/// A log of several epochs and segments, cut at both ends, and what was ever given in it.
fn build(dir: &std::path::Path) -> (Log, Given) {
    let mut given = Given::new();
    let log = options().open(dir).unwrap();
    fill(&log, &mut given, 0, 60);
    log.close().unwrap();
    let log = options().open(dir).unwrap();
    fill(&log, &mut given, 60, 40);
    for shard in 0..2 {
        let keeps = append(&log, &mut given, shard, b"the last that is kept".to_vec());
        for number in 0..30 {
            append(&log, &mut given, shard, vec![number; 6_000]);
        }
        log.shard(ShardId(shard)).truncate_after(keeps.lsn()).unwrap();
    }
    fill(&log, &mut given, 100, 20);
    for shard in 0..2 {
        let all: Vec<Record> = log.shard(ShardId(shard)).read(..).unwrap().map(Result::unwrap).collect();
        log.shard(ShardId(shard)).truncate_before(all[all.len() / 3].lsn()).unwrap();
    }
    log.close().unwrap();
    (options().open(dir).unwrap(), given)
}

/// Where a segment ends or begins, the ends of the log, and some in between.
fn telling(log: &Log) -> Vec<Position> {
    let mut chosen = Vec::new();
    for shard in 0..2 {
        let records = log.shard(ShardId(shard)).read(..).unwrap();
        let all: Vec<Position> = records.map(|record| record.unwrap().position()).collect();
        let seams = all.windows(2).filter(|two| two[0].lsn().0 >> 20 != two[1].lsn().0 >> 20);
        chosen.extend(seams.flatten().copied().take(6));
        chosen.extend([all[0], all[1], all[all.len() / 2], all[all.len() - 1]]);
    }
    chosen
}

fn flipped(position: Position, bits: &[u32]) -> Position {
    let mut number = u128::from_be_bytes(position.to_bytes());
    bits.iter().for_each(|bit| number ^= 1 << bit);
    Position::from_bytes(number.to_be_bytes())
}

#[derive(Debug, Default)]
struct Answers {
    records: u32,
    not_a_position: u32,
    truncated: u32,
    no_such_shard: u32,
}

impl Answers {
    fn check(&mut self, given: &Given, position: Position, found: Result<Record, ReadError>) {
        match found {
            Ok(record) => {
                assert_eq!(record.position(), position);
                assert_eq!(Some(record.payload()), given.get(&position).map(Vec::as_slice), "{position}");
                self.records += 1;
            }
            Err(ReadError::NotAPosition(_)) => self.not_a_position += 1,
            Err(ReadError::Truncated { .. }) => self.truncated += 1,
            Err(ReadError::NoSuchShard(_)) => self.no_such_shard += 1,
            Err(error) => panic!("{position} ({:032x}): {error}", u128::from_be_bytes(position.to_bytes())),
        }
    }
}

#[test]
fn flipped_bits_are_no_damage() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (log, given) = build(dir.path());
    let reader = Log::open_read_only(dir.path()).unwrap();
    let mut answers = Answers::default();
    // All that were ever given, as they are and with each bit flipped: truncated ones, too.
    for position in given.keys() {
        answers.check(&given, *position, log.get(*position));
        for bit in 0..128 {
            let position = flipped(*position, &[bit]);
            answers.check(&given, position, log.get(position));
        }
    }
    for position in telling(&log) {
        for first in 0..128 {
            let single = flipped(position, &[first]);
            answers.check(&given, single, reader.get(single));
            for second in 0..first {
                let position = flipped(position, &[first, second]);
                answers.check(&given, position, log.get(position));
            }
        }
    }
    let Answers { records, not_a_position, truncated, no_such_shard } = answers;
    assert!(records > 100 && not_a_position > 100 && truncated > 100 && no_such_shard > 100);
}
