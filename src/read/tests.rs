//! Readers that are under way while the log is truncated: from then on nobody is served what is gone, nor told of
//! what it has not missed.

use crate::simulation::Simulated;
use crate::{Log, Lsn, Options, Position, ReadError, Record, ShardId};

fn open(segment_bytes: u64) -> Log {
    let options = Options::new().shards(1).block_bytes(4096).segment_bytes(segment_bytes);
    options.device(&Simulated::seed(1)).open("/log").unwrap()
}

/// Records that lie in one block.
fn ten(log: &Log) -> Vec<Position> {
    let commits: Vec<_> = (0..10).map(|index| log.append([index; 100]).admitted().wait().unwrap()).collect();
    commits.into_iter().map(|commit| commit.wait().unwrap()).collect()
}

fn position(item: Option<Result<Record, ReadError>>) -> Position {
    item.expect("there is one").expect("it is no error").position()
}

fn is_truncated(item: Option<Result<Record, ReadError>>) -> bool {
    matches!(item, Some(Err(ReadError::Truncated { .. })))
}

#[test]
fn what_is_cut_is_not_served_by_who_reads_its_block() {
    let log = open(1 << 20);
    let shard = log.shard(ShardId(0));
    let positions = ten(&log);
    let mut read = shard.read(..).unwrap();
    let mut merged = log.merged(..).unwrap();
    let mut follow = shard.follow(Lsn::MIN).unwrap();
    for own in &positions[..3] {
        assert_eq!(position(read.next()), *own);
        assert_eq!(position(merged.next()), *own);
        assert_eq!(position(follow.next()), *own);
    }
    let mut back = shard.read_back(..).unwrap();
    assert_eq!(position(back.next()), positions[9]);
    shard.truncate_after(positions[5].lsn()).unwrap();
    let new = log.append(b"new").wait().unwrap();
    for own in &positions[3..=5] {
        assert_eq!(position(read.next()), *own);
        assert_eq!(position(merged.next()), *own);
        assert_eq!(position(follow.next()), *own);
    }
    assert!(read.next().is_none());
    assert!(merged.next().is_none());
    assert_eq!(position(follow.next()), new);
    for own in positions[..=5].iter().rev() {
        assert_eq!(position(back.next()), *own);
    }
    assert!(back.next().is_none());
}

#[test]
fn what_is_truncated_is_not_served_by_who_reads_its_block() {
    let log = open(1 << 20);
    let shard = log.shard(ShardId(0));
    let positions = ten(&log);
    let mut read = shard.read(..).unwrap();
    let mut merged = log.merged(..).unwrap();
    let mut back = shard.read_back(..).unwrap();
    for index in 0..3 {
        assert_eq!(position(read.next()), positions[index]);
        assert_eq!(position(merged.next()), positions[index]);
        assert_eq!(position(back.next()), positions[9 - index]);
    }
    shard.truncate_before(positions[6].lsn()).unwrap();
    assert!(is_truncated(read.next()));
    assert!(is_truncated(merged.next()));
    for own in &positions[6..] {
        assert_eq!(position(read.next()), *own);
        assert_eq!(position(merged.next()), *own);
    }
    assert_eq!(position(back.next()), positions[6]);
    assert!(is_truncated(back.next()));
    assert!(back.next().is_none());
}

#[test]
fn a_record_over_several_blocks_is_begun_again_or_gone() {
    for keep in [0, 1] {
        let log = open(1 << 20);
        let shard = log.shard(ShardId(0));
        let long = log.append([1; 10_000]).wait().unwrap();
        let behind = log.append(b"behind").wait().unwrap();
        let mut follow = shard.follow(Lsn::MIN).unwrap();
        // In the middle of it.
        follow.stop_at(Lsn(5_000));
        shard.truncate_before(Lsn(long.lsn().0 + keep)).unwrap();
        if keep == 0 {
            assert_eq!(position(follow.next()), long);
        } else {
            assert!(is_truncated(follow.next()));
        }
        assert_eq!(position(follow.next()), behind);
    }
}

#[test]
fn who_has_read_all_that_is_truncated_has_missed_nothing() {
    let log = open(1 << 20);
    let shard = log.shard(ShardId(0));
    let mut follow = shard.follow(Lsn::MIN).unwrap();
    for _ in 0..20 {
        let own = log.append(b"record").wait().unwrap();
        shard.truncate_before(own.lsn()).unwrap();
        assert_eq!(position(follow.next()), own);
    }
}

/// Room at the end of a segment that no block was put into is nothing that anybody can miss.
#[test]
fn who_stands_at_the_end_of_a_segment_that_is_truncated_has_missed_nothing() {
    let options = Options::new().shards(1).block_bytes(16 << 10).segment_bytes(64 << 10);
    let log = options.device(&Simulated::seed(1)).open("/log").unwrap();
    let shard = log.shard(ShardId(0));
    let (mut follow, mut behind) = (shard.follow(Lsn::MIN).unwrap(), shard.follow(Lsn::MIN).unwrap());
    let mut seams = 0;
    let mut last = log.append([1; 9_000]).wait().unwrap();
    assert_eq!(position(behind.next()), last);
    for _ in 0..40 {
        assert_eq!(position(follow.next()), last);
        let own = log.append([1; 9_000]).wait().unwrap();
        let is_seam = own.lsn().0 - last.lsn().0 > 12 << 10;
        seams += u32::from(is_seam);
        shard.truncate_before(own.lsn()).unwrap();
        last = own;
    }
    assert!(seams > 4, "{seams}");
    assert_eq!(position(follow.next()), last);
    assert!(is_truncated(behind.next()), "it has missed all but the first and the last");
    assert_eq!(position(behind.next()), last);
}

/// Nor who stands in front of a marker, which is a block without records, behind the last record itself, or where the
/// log was cut.
#[test]
fn who_stands_in_front_of_no_record_that_is_truncated_has_missed_nothing() {
    for seams in [false, true] {
        let (blocks, bytes) = if seams { (40, 4_000) } else { (6, 100) };
        let log = open(64 << 10);
        let shard = log.shard(ShardId(0));
        let mut follow = shard.follow(Lsn::MIN).unwrap();
        let mut markers = 0;
        for _ in 0..blocks {
            let last = log.append(vec![1; bytes]).wait().unwrap();
            assert_eq!(position(follow.next()), last);
            let before = log.stats().shards[0].markers;
            log.turn_shard(ShardId(0), false);
            markers += log.stats().shards[0].markers - before;
            let mut behind = shard.follow(Lsn(last.lsn().0 + 1)).unwrap();
            let own = log.append(vec![2; bytes]).wait().unwrap();
            shard.truncate_before(own.lsn()).unwrap();
            assert_eq!(position(follow.next()), own);
            assert_eq!(position(behind.next()), own);
            let cut_off = [log.append(vec![3; bytes]).wait().unwrap(), log.append([4; 10]).wait().unwrap()];
            shard.truncate_after(own.lsn()).unwrap();
            let next = log.append(vec![5; bytes]).wait().unwrap();
            assert!(next > cut_off[1]);
            shard.truncate_before(next.lsn()).unwrap();
            assert_eq!(position(follow.next()), next);
            let mut missed = shard.follow(last.lsn()).unwrap();
            assert!(is_truncated(missed.next()));
            assert_eq!(position(missed.next()), next);
        }
        assert!(markers >= blocks / 2, "{markers} markers");
    }
}

/// A file that was read is another segment by now: what was read of it says nothing.
#[test]
fn a_file_that_is_used_again_is_read_again() {
    for back in 0..16 {
        let options = Options::new().shards(1).block_bytes(16 << 10).segment_bytes(64 << 10);
        let log = options.device(&Simulated::seed(1)).open("/log").unwrap();
        let shard = log.shard(ShardId(0));
        let append = || log.append([1; 9_000]).wait().unwrap();
        let mut positions: Vec<Position> = (0..20).map(|_| append()).collect();
        for round in 0..6 {
            let mut follow = shard.follow(positions[0].lsn()).unwrap();
            assert_eq!(position(follow.next()), positions[0]);
            for _ in 0..50 + round * 16 {
                positions.push(append());
                let keep = positions.len() - 20;
                shard.truncate_before(positions[keep].lsn()).unwrap();
            }
            positions.drain(..positions.len() - 1 - back);
            shard.truncate_before(positions[0].lsn()).unwrap();
            assert!(is_truncated(follow.next()));
            for own in &positions {
                assert_eq!(position(follow.next()), *own, "{back} back, round {round}");
            }
            positions.extend((0..20).map(|_| append()));
        }
    }
}

/// A follower that has caught up waits without the memory that it reads into; one that lags keeps it, and what it reads
/// ahead.
#[test]
fn followers_that_wait_hold_no_buffers() {
    let options = Options::new().shards(1).block_bytes(4096).segment_bytes(1 << 20).memory_bytes(1 << 20);
    let log = options.device(&Simulated::seed(1)).open("/log").unwrap();
    let shard = log.shard(ShardId(0));
    // More than memory holds: it is read from the files.
    let positions: Vec<Position> = (0..600).map(|_| log.append([1; 3_900]).wait().unwrap()).collect();
    let mut tails: Vec<_> = (0..20).map(|_| shard.follow(Lsn::MIN).unwrap()).collect();
    for tail in &mut tails {
        assert!(tail.is_resting(), "it was not asked yet");
        for own in &positions[..300] {
            assert_eq!(position(tail.next()), *own);
            assert!(!tail.is_resting());
        }
        for own in &positions[300..] {
            assert_eq!(position(tail.next()), *own);
        }
        assert!(tail.next().is_none());
        assert!(tail.is_resting());
    }
    let new = log.append(b"new").wait().unwrap();
    for tail in &mut tails {
        assert_eq!(position(tail.next()), new);
    }
}
