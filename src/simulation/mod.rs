//! Histories by seed: the whole engine on the simulated machine, against an oracle.
//!
//! A seed is a history: options, faults, operations, crashes. [`history`] plays it through the
//! public API, [`oracle`] knows only what was appended, acknowledged and cut, and judges what is
//! there after each reopen. `docs/crash-safety.md` says what is modelled and how to rerun a seed.

mod history;
mod oracle;

use history::{History, Tally};

/// Seeds of a plain `cargo test`; `SAWMILL_SEEDS=FROM..TO` runs others.
const SEEDS: std::ops::Range<u64> = 0..1_500;

fn seeds() -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("SAWMILL_SEEDS") else { return SEEDS };
    let parsed = text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    parsed.expect("SAWMILL_SEEDS is FROM..TO")
}

/// Not part of the gate yet: some seeds fail (`docs/status.md` lists them), and each is either a
/// defect of the engine or of the simulator that is still to be told apart.
#[test]
#[ignore = "some seeds fail; see docs/status.md"]
fn histories() {
    let seeds = seeds();
    let began = std::time::Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let tallies: Vec<Tally> = std::thread::scope(|scope| {
        let run = |thread: u64| {
            let seeds = seeds.clone();
            move || {
                let mut tally = Tally::default();
                for seed in seeds.skip(thread as usize).step_by(threads as usize) {
                    play(seed, &mut tally);
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
    tallies.iter().for_each(|tally| total.add(tally));
    let count = seeds.end - seeds.start;
    println!("{count} histories, {:.0} per second: {total:?}", count as f64 / began.elapsed().as_secs_f64());
    if count >= 1_000 {
        total.check_that_everything_happened();
    }
}

/// Plays one history; a failure says how to see it again.
fn play(seed: u64, tally: &mut Tally) {
    let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| History::new(seed).play()));
    match played {
        Ok(own) => tally.add(&own),
        Err(panic) => {
            eprintln!(
                "to see it again: SAWMILL_SEEDS={seed}..{} cargo test --lib simulation::histories",
                seed + 1
            );
            std::panic::resume_unwind(panic);
        }
    }
}
