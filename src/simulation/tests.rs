use super::*;

/// Seeds of a plain `cargo test`; `SAWMILL_SEEDS=FROM..TO` runs others.
const SEEDS: std::ops::Range<u64> = 0..20_000;

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
    let tallies: Vec<Tally> = std::thread::scope(|scope| {
        let run = |thread: u64| {
            let seeds = seeds.clone();
            move || {
                let mut tally = Tally::default();
                for seed in seeds.skip(thread as usize).step_by(threads as usize) {
                    let again = format!(
                        "SAWMILL_SEEDS={seed}..{} cargo test --lib simulation::tests::histories",
                        seed + 1
                    );
                    tally.merge(&play(&Plan::draw(seed), &again));
                }
                tally
            }
        };
        let handles: Vec<_> = (0..threads).map(|thread| scope.spawn(run(thread))).collect();
        handles
            .into_iter()
            .map(|handle| handle.join().expect("a history failed; its seed is above"))
            .collect()
    });
    let mut total = Tally::default();
    tallies.iter().for_each(|tally| total.merge(tally));
    let count = seeds.end - seeds.start;
    println!("{count} histories, {:.0} per second\n{total}", count as f64 / began.elapsed().as_secs_f64());
    if count >= SEEDS.end {
        assert_eq!(total.missing(), Vec::<&str>::new(), "never happened");
    }
}

/// Seeds that were red once, with what they found. Most are above those of a plain `cargo test`.
const FOUND: [(u64, &str); 4] = [
    (25_584, "a follower by key beside the owner was held against a truncation that failed"),
    (
        71_795,
        "a batch whose beginning was truncated and whose end was never written came back with its manifest",
    ),
    (3_033, "a follower had passed what was cut off in its block and came back with a copy"),
    (85_874, "a torn write that a later epoch's completed came back with its manifest"),
];

#[test]
fn histories_that_found_something() {
    for (seed, found) in FOUND {
        play(&Plan::draw(seed), found);
    }
}
