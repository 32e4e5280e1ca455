//! Tallies whose fold goes by the time.

use super::super::Last;
use crate::simulation::{End, Simulated};
use crate::{Log, Options};

fn open(machine: &Simulated) -> Log {
    let options = Options::new().shards(1).segment_bytes(1 << 20).memory_bytes(1 << 20);
    options.device(machine).open("/clock").unwrap()
}

/// The wall clock is set back, and stands behind what it was for long: a later update is the later one all the same, also
/// where its bytes are the lesser ones, and after a reopen.
#[test]
fn the_last_value_is_the_last_one_whatever_the_clock_does() {
    let machine = Simulated::seed(1);
    let mut log = open(&machine);
    let hour = 3_600_000_000_000;
    for round in 0..4_u8 {
        let tally = log.tally_of::<Last>("names").unwrap();
        for value in [9 - 2 * round, 8 - 2 * round] {
            tally.update("key", vec![value]).wait().unwrap();
            assert_eq!(tally.get("key"), Some(vec![value]));
            tally.update("key", vec![value, 1]).accepted().unwrap();
            // In one flush.
            tally.update("key", vec![value, 0]).wait().unwrap();
            assert_eq!(
                (tally.get("key"), tally.durable("key")),
                (Some(vec![value, 0]), Some(vec![value, 0]))
            );
            machine.step_wall_clock(-hour);
        }
        drop((tally, log));
        machine.restart(End::PowerCut);
        log = open(&machine);
        let tally = log.tally_of::<Last>("names").unwrap();
        assert_eq!(tally.get("key"), Some(vec![8 - 2 * round, 0]));
    }
}
