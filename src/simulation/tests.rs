use std::panic::catch_unwind;
use std::sync::Mutex;

use super::*;
use crate::sync::lock;

/// Seeds of a plain `cargo test`; `SAWMILL_SEEDS=FROM..TO` runs others.
const SEEDS: std::ops::Range<u64> = 0..20_000;

/// A run ends after so many that are red: what they have in common shows in some of them.
const RED_MAX: usize = 8;

fn seeds() -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("SAWMILL_SEEDS") else { return SEEDS };
    let parsed = text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    parsed.expect("SAWMILL_SEEDS is FROM..TO")
}

#[test]
fn histories() {
    #[cfg(target_env = "gnu")]
    crate::sys::keep_freed_memory();
    let seeds = seeds();
    let began = std::time::Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let red = Mutex::new(Vec::new());
    let tallies: Vec<Counts> = std::thread::scope(|scope| {
        let run = |thread: u64| {
            let (seeds, red) = (seeds.clone(), &red);
            move || {
                let mut tally = Counts::default();
                for seed in seeds.skip(thread as usize).step_by(threads as usize) {
                    if lock(red).len() >= RED_MAX {
                        break;
                    }
                    let again = format!(
                        "SAWMILL_SEEDS={seed}..{} cargo test --lib simulation::tests::histories",
                        seed + 1
                    );
                    match catch_unwind(|| play(&Plan::draw(seed), &again)) {
                        Ok(played) => tally.merge(&played),
                        Err(_) => lock(red).push(seed),
                    }
                }
                tally
            }
        };
        let handles: Vec<_> = (0..threads).map(|thread| scope.spawn(run(thread))).collect();
        handles.into_iter().map(|handle| handle.join().expect("each history is contained")).collect()
    });
    let red = red.into_inner().unwrap();
    assert!(red.is_empty(), "these seeds are red: {red:?}");
    let mut total = Counts::default();
    tallies.iter().for_each(|tally| total.merge(tally));
    let count = seeds.end - seeds.start;
    println!("{count} histories, {:.0} per second\n{total}", count as f64 / began.elapsed().as_secs_f64());
    if count >= SEEDS.end {
        assert_eq!(total.missing(), Vec::<&str>::new(), "never happened");
    }
}

/// Seeds that were red once, with what they found. Most are above those of a plain `cargo test`.
const FOUND: [(u64, &str); 18] = [
    (25_584, "a follower by key beside the owner was held against a truncation that failed"),
    (
        71_795,
        "a batch whose beginning was truncated and whose end was never written came back with its manifest",
    ),
    (3_033, "a follower had passed what was cut off in its block and came back with a copy"),
    (85_874, "a torn write that a later epoch's completed came back with its manifest"),
    (
        30_723,
        "a follower that had missed nothing was told of truncation behind a block that was cut before its first record",
    ),
    (
        52_607,
        "a run of the key index hid what a restored copy had behind a cut, from a follower beside the owner",
    ),
    (54_204, "the same from the owner, in a log whose manifest of before the cut was put back"),
    (101_738, "the same, in another shard"),
    (
        101_997,
        "a follower that had passed the rest of a block where the log was cut was told of another history",
    ),
    (140_450, "an append on a condition did not see a last record of which the rest was not written"),
    (209_067, "the same, in a later epoch"),
    (147_017, "a rebuilt manifest began with a segment that had been passed over, and the chain was lost"),
    (174_166, "the same, where shards lie on disks of their own"),
    (
        210_496,
        "a truncation that found no room was seen beside the owner, and taken back: readers were told of another history",
    ),
    (
        63_599,
        "a time was sought beside the owner while one copy of a manifest could not be read that told of a failed truncation",
    ),
    (
        69_163,
        "a torn write that a later epoch's made whole came back with its manifest, in the life that lost that one",
    ),
    (240_437, "the same, where it had been made whole in an earlier life"),
    (
        328_343,
        "a batch that was cut off came back in front of the hole where its rest and the next epoch had been truncated",
    ),
];

#[test]
fn histories_that_found_something() {
    for (seed, found) in FOUND {
        play(&Plan::draw(seed), found);
    }
}
