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
        // Many at once are told as each for itself.
        let singles: Vec<Position> = (0..128).map(|bit| flipped(position, &[bit])).collect();
        for (position, found) in singles.iter().zip(log.get_many(&singles)) {
            answers.check(&given, *position, found);
        }
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

/// From the device, in any order, from all shards, records of any size: each as the scan has it, its time included.
#[test]
fn many_at_once_are_as_the_scan_has_them() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (log, _) = build(dir.path());
    let small: Vec<u16> = (0..2_000).collect();
    for number in &small {
        log.append(sawmill::Write::new(number.to_le_bytes()).key(number.to_le_bytes())).wait().unwrap();
    }
    log.close().unwrap();
    let log = options().open(dir.path()).unwrap();
    let mut records: Vec<Record> = log.merged(..).unwrap().map(Result::unwrap).collect();
    assert!(records.len() > 2_000);
    // An order that jumps, and some twice.
    let modulus = records.len();
    let mut order: Vec<usize> = (0..modulus).map(|index| index * 7_919 % modulus).collect();
    order.extend([0, 0, modulus - 1]);
    let positions: Vec<Position> = order.iter().map(|&index| records[index].position()).collect();
    let reader = Log::open_read_only(dir.path()).unwrap();
    for found in [log.get_many(&positions), reader.get_many(&positions)] {
        assert_eq!(found.len(), positions.len());
        for (found, &index) in found.into_iter().zip(&order) {
            let (found, there) = (found.unwrap(), &records[index]);
            assert_eq!(found.position(), there.position());
            assert_eq!(found.timestamp(), there.timestamp());
            assert_eq!((found.key(), found.payload()), (there.key(), there.payload()));
        }
    }
    assert!(log.get_many(&[]).is_empty());
    records.sort_by_key(Record::position);
    let rises = |two: &[Record]| two[0].shard() != two[1].shard() || two[0].timestamp() < two[1].timestamp();
    assert!(records.windows(2).all(rises), "times rise along a shard");
}

/// What is damaged beside a record is not the record's.
#[test]
fn a_damaged_record_is_no_damage_to_its_neighbours() {
    use std::os::unix::fs::FileExt;
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let log = Options::new().shards(1).open(dir.path()).unwrap();
    let positions =
        log.append_batch(b"", &[b"before".to_vec(), b"damaged".to_vec(), b"behind".to_vec()]).wait().unwrap();
    let behind = log.append(b"a later block").wait().unwrap();
    log.close().unwrap();
    let path = dir.path().join("shard-0000/0000000001.seg");
    let bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(7).position(|window| window == b"damaged").unwrap();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().write_all_at(b"D", at as u64).unwrap();
    let log = Options::new().shards(1).open(dir.path()).unwrap();
    let found = log.get_many(&[positions[0], positions[1], positions[2], behind]);
    assert_eq!(found[0].as_ref().unwrap().payload(), b"before");
    assert!(matches!(found[1], Err(ReadError::Damaged { .. })), "{:?}", found[1]);
    assert_eq!(found[2].as_ref().unwrap().payload(), b"behind");
    assert_eq!(found[3].as_ref().unwrap().payload(), b"a later block");
    assert!(matches!(log.get(positions[1]), Err(ReadError::Damaged { .. })));
}
