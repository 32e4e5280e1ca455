//! What a tally must remember stands in two copies; and what somebody else sees of it who reads beside the owner.

use std::time::Duration;

use super::super::{Sum, TallyOptions, UpdateError};
use crate::device::sim::SimMachine;
use crate::log::LogReader;
use crate::simulation::{End, Simulated};
use crate::{Log, Lsn, Options, ShardId, TallyError, TruncateError};

const PATH: &str = "/copies";
const COPIES: [&str; 2] = ["tally-likes.manifest.0", "tally-likes.manifest.1"];

fn open(machine: &Simulated) -> Log {
    let options = Options::new().shards(1).segment_bytes(1 << 20).memory_bytes(1 << 20);
    options.device(machine).open(PATH).unwrap()
}

/// Enough for the anchor to move, and for whole segments to go.
fn fill(log: &Log) {
    for _ in 0..150 {
        log.append(vec![7; 16 << 10]).wait().unwrap();
    }
}

/// Truncates as far as tallies let it; true if one held it up.
fn truncate(log: &Log) -> bool {
    let shard = log.shard(ShardId(0));
    match shard.truncate_before(shard.durable_lsn()) {
        Ok(()) => false,
        Err(TruncateError::Needed { from: lsn, by, .. }) => {
            assert_eq!(by, "the tally `likes`");
            shard.truncate_before(lsn).unwrap();
            true
        }
        Err(error) => panic!("{error}"),
    }
}

/// What becomes of a copy.
#[derive(Clone, Copy, Debug)]
enum Loss {
    Missing,
    Rotten,
}

fn lose(machine: &Simulated, copy: &str, loss: Loss) {
    let directory = machine.device().directory(std::path::Path::new(PATH)).unwrap();
    match loss {
        Loss::Missing => directory.remove(copy).unwrap(),
        Loss::Rotten => directory.open(copy).unwrap().write_at(&[0xee; 4096], 0, true).unwrap(),
    }
    directory.sync().unwrap();
}

/// A copy is lost while nobody looks: the other one holds the log, whether the tally is opened or not.
#[test]
fn one_copy_holds_the_log() {
    for (copy, loss) in COPIES.iter().flat_map(|copy| [(copy, Loss::Missing), (copy, Loss::Rotten)]) {
        let machine = Simulated::seed(11);
        let log = open(&machine);
        log.tally("likes").unwrap().add(b"key", 5).wait().unwrap();
        fill(&log);
        log.close().unwrap();
        lose(&machine, copy, loss);
        machine.restart(End::PowerCut);
        let log = open(&machine);
        assert!(truncate(&log), "{copy} {loss:?}: nothing held the log");
        assert_eq!(log.tally("likes").unwrap().get(b"key"), Some(5), "{copy} {loss:?}");
        log.remove_tally("likes").unwrap();
        assert!(!truncate(&log), "{copy} {loss:?}: it is held for a tally that is removed");
        assert!(matches!(log.remove_tally("likes"), Err(TallyError::NoSuchTally(_))));
    }
}

/// Both copies cannot be read when the log is opened, and can be later: nothing of what the tally may need is given up
/// in between.
#[test]
fn copies_that_cannot_be_read_for_now_hold_the_log() {
    let inner = SimMachine::new(13);
    let machine = Simulated::of(&inner);
    let log = open(&machine);
    log.tally("likes").unwrap().add(b"key", 5).wait().unwrap();
    fill(&log);
    log.close().unwrap();
    machine.restart(End::Kill);
    COPIES.iter().for_each(|copy| inner.make_unreadable_at(copy, 0, 1));
    let log = open(&machine);
    let shard = log.shard(ShardId(0));
    let refused = shard.truncate_before(shard.durable_lsn());
    assert!(matches!(refused, Err(TruncateError::Needed { .. })), "{refused:?}");
    assert_eq!(log.tally("likes").unwrap().get(b"key"), Some(5));
}

/// A copy is lost *after* the log was truncated: it was truncated no further than the other one can do with.
#[test]
fn either_copy_will_do_after_a_truncation() {
    for opens in [false, true] {
        for (copy, loss) in COPIES.iter().flat_map(|copy| [(copy, Loss::Missing), (copy, Loss::Rotten)]) {
            let machine = Simulated::seed(12);
            let log = open(&machine);
            let tally = log.tally("likes").unwrap();
            for _ in 0..3 {
                fill(&log);
                tally.add(b"key", 5).accepted().unwrap();
                tally.flush().unwrap();
            }
            log.close().unwrap();
            machine.restart(End::Kill);
            let log = open(&machine);
            if opens {
                assert_eq!(log.tally("likes").unwrap().get(b"key"), Some(15));
            }
            assert!(truncate(&log), "nothing held the log");
            log.close().unwrap();
            assert!(log.stats().shards[0].horizon > Lsn(0), "the anchor had moved");
            lose(&machine, copy, loss);
            machine.restart(End::PowerCut);
            let found = open(&machine).tally("likes").map(|tally| tally.get(b"key"));
            assert!(matches!(found, Ok(Some(15))), "{copy} {loss:?}, opened {opens}: {found:?}");
        }
    }
}

/// The anchor is written once a flush is durable, which no block says yet: it says so itself.
#[test]
fn a_reader_believes_the_anchor() {
    let machine = Simulated::seed(13);
    let log = open(&machine);
    let tally = log.tally("likes").unwrap();
    let reader = LogReader::open_on(machine.device().as_ref(), std::path::Path::new(PATH)).unwrap();
    let mut ahead = 0;
    for round in 1..=5 {
        fill(&log);
        for key in 0..40u8 {
            tally.add([key], 3).accepted().unwrap();
        }
        tally.flush().unwrap();
        let row = crate::tally::anchor::rows(
            machine.device().directory(std::path::Path::new(PATH)).unwrap().as_ref(),
            "likes",
        )
        .unwrap();
        let complete = row.iter().map(|row| Lsn(row.complete)).max().unwrap();
        ahead += u32::from(reader.shard(ShardId(0)).durable_lsn().unwrap() < complete);
        let totals = reader.tally::<Sum>("likes").unwrap();
        assert_eq!(totals, (0..40).map(|key| (vec![key], 3 * round)).collect::<Vec<_>>());
    }
    assert!(ahead > 0, "the anchor was never ahead of what blocks testify: this shows nothing");
}

/// The longest interval that there is, and no room.
#[test]
fn a_full_tally_of_the_longest_interval_refuses() {
    let machine = Simulated::seed(14);
    let log = open(&machine);
    let options = TallyOptions::new().interval(Duration::MAX).bytes(64 << 10);
    let tally = log.tally_with::<Sum>("likes", &options).unwrap();
    let refused = (0..100_000).find_map(|key| tally.add(format!("key {key}"), 1).accepted().err());
    assert!(matches!(refused, Some(UpdateError::Overloaded { .. })), "{refused:?}");
}
