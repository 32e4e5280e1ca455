use super::atomic::{Known, Part, whole_below};
use super::history::{Tally, play};
use super::{Bug, Place, Rules};

/// Every rule, broken, with the first seed that shows it.
pub(crate) const FOUND: [(Bug, u64); 39] = [
    (Bug::OpenBeforeEndIsDurable, 5),
    (Bug::MapBeforeEnd, 293),
    (Bug::EndCoveredNotSettled, 2972),
    (Bug::OpenBeforeMap, 360),
    (Bug::MoveOutlivesFailure, 19),
    (Bug::StaleRoute, 36),
    (Bug::ForgetClock, 1578),
    (Bug::ForgetClockOfFailed, 7779),
    (Bug::ForgetIds, 8),
    (Bug::PlacesWithoutEpoch, 52),
    (Bug::ForgetFrom, 34),
    (Bug::PruneEarly, 13),
    (Bug::HandWhileClosed, 97),
    (Bug::MapVersionReused, 1448),
    (Bug::SpreadBeforeMap, 104),
    (Bug::SpreadTakesAll, 27),
    (Bug::SpreadWithoutWatermark, 386),
    (Bug::ForgetClockOfSpread, 89_719),
    (Bug::ReturnDoesNotObey, 9),
    (Bug::IdsAboveTheCut, 19),
    (Bug::UnknownIsAbsent, 164),
    (Bug::ForgetReturn, 35),
    (Bug::ReserveWithoutHold, 21),
    (Bug::SettledWithoutSibling, 3),
    (Bug::SettledWithoutEarlier, 3209),
    (Bug::CutOnce, 559),
    (Bug::SiblingByPlace, 926),
    (Bug::TruncatedIsLost, 3),
    (Bug::CheckpointAboveUnsettled, 75),
    (Bug::TruncateAboveUnsettled, 11),
    (Bug::TruncateThroughPart, 32),
    (Bug::SettledAfterTheCut, 32),
    (Bug::CutAtPublished, 1576),
    (Bug::VerdictBeforeMap, 30),
    (Bug::VoidWithoutEpoch, 67),
    (Bug::PruneVerdictEarly, 336),
    (Bug::VerdictInOneShard, 459),
    (Bug::VerdictHeededByOne, 15),
    (Bug::OpenBeforeAllAreSynced, 1234),
];

/// Histories of a plain `cargo test`; `SAWMILL_MODEL_SEEDS=FROM..TO` plays others.
const SEEDS: std::ops::Range<u64> = 0..20_000;

fn seeds() -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("SAWMILL_MODEL_SEEDS") else { return SEEDS };
    let parsed = text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    parsed.expect("SAWMILL_MODEL_SEEDS is FROM..TO")
}

#[test]
fn histories() {
    let (seeds, began) = (seeds(), std::time::Instant::now());
    let mut total = Tally::default();
    for seed in seeds.clone() {
        match play(seed, None) {
            Ok(tally) => total.merge(&tally),
            Err(wrong) => panic!("SAWMILL_MODEL_SEEDS={seed}..{}: {wrong}", seed + 1),
        }
    }
    println!("{} histories in {:.1?}: {total:?}", seeds.end - seeds.start, began.elapsed());
    if seeds.end - seeds.start >= SEEDS.end {
        assert_eq!(total.missing(), Vec::<usize>::new(), "never happened (see `Seen`)");
    }
}

/// Each rule is needed: without it, a history goes wrong.
#[test]
fn a_broken_rule_is_found() {
    for (bug, seed) in FOUND {
        // Other seeds, if the world has changed since.
        let red = |seed: &u64| play(*seed, Some(bug)).is_err();
        let found = red(&seed) || (0..200_000).any(|seed| red(&seed));
        assert!(found, "{bug:?} does no harm in 200,000 histories");
        assert!(play(seed, None).is_ok(), "seed {seed}");
    }
}

/// What is settled is the most that can be kept: it does not depend on batches standing in one order.
#[test]
fn batches_in_two_orders_are_settled_together() {
    let part = |batch, one: u32, two: u32| {
        let place = |lsn| Place { epoch: 1, lsn };
        Part { batch, siblings: vec![(0, place(one)), (1, place(two))] }
    };
    let (first, second) = (part(1, 0, 1), part(2, 1, 0));
    let ends = |one, two| {
        let place = |lsn| Place { epoch: 1, lsn };
        let here = |end, parts| Known::Here { end, horizon: 0, epoch: 1, parts };
        let shards = [
            here(one, vec![(place(0), &first), (place(1), &second)]),
            here(two, vec![(place(0), &second), (place(1), &first)]),
        ];
        whole_below(&shards, |_, _| false, false, Rules::default())
    };
    assert_eq!(ends(2, 2), [2, 2]);
    assert_eq!(ends(2, 1), [0, 0], "the second is behind the first in one shard");
}
