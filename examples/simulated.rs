//! A server's own recovery on the simulated machine: a ledger of accounts that is rebuilt from its log, played
//! through crashes, full disks and failing devices from seeds. Any failure prints the seed that shows it again.
//!
//! ```text
//! cargo run --release --features simulation --example simulated -- 200
//! ```

use std::collections::BTreeMap;

use sawmill::simulation::{End, Faults, Simulated};
use sawmill::{Log, OpenError, Options, ShardId};

type Failed = Box<dyn std::error::Error>;

/// The server: a transfer takes from one account and gives to another, both or none. It is two records of one
/// batch, and the balances are what the log says.
struct Ledger {
    log: Log,
    balances: BTreeMap<u64, i64>,
}

impl Ledger {
    fn open(machine: &Simulated) -> Result<Ledger, OpenError> {
        let options =
            Options::new().shards(1).block_bytes(4096).segment_bytes(64 << 10).memory_bytes(64 << 10);
        let log = options.device(machine).open("/ledger")?;
        let mut ledger = Ledger { log, balances: BTreeMap::new() };
        ledger.recover();
        Ok(ledger)
    }

    fn recover(&mut self) {
        for record in self.log.shard(ShardId(0)).read(..).into_iter().flatten().flatten() {
            let (account, amount) = record.payload().split_at(8);
            let number = |bytes: &[u8]| i64::from_le_bytes(bytes.try_into().expect("eight bytes"));
            *self.balances.entry(number(account) as u64).or_default() += number(amount);
        }
    }

    fn transfer(&mut self, from: u64, to: u64, amount: i64) -> Result<(), sawmill::AppendError> {
        let change = |account: u64, amount: i64| [account.to_le_bytes(), amount.to_le_bytes()].concat();
        let batch = [change(from, -amount), change(to, amount)];
        self.log.shard(ShardId(0)).append_batch(b"", &batch).wait()?;
        // Behind the acknowledgement: what is shown to customers is there after any crash.
        *self.balances.entry(from).or_default() -= amount;
        *self.balances.entry(to).or_default() += amount;
        Ok(())
    }
}

/// What must be so at any time, however the machine ended.
fn check(
    ledger: &Ledger,
    acknowledged: &BTreeMap<u64, i64>,
    unknown: Option<(u64, u64, i64)>,
) -> Result<(), Failed> {
    let sum: i64 = ledger.balances.values().sum();
    if sum != 0 {
        return Err(format!("half a transfer: the balances sum up to {sum}").into());
    }
    let mut with_unknown = acknowledged.clone();
    if let Some((from, to, amount)) = unknown {
        *with_unknown.entry(from).or_default() -= amount;
        *with_unknown.entry(to).or_default() += amount;
    }
    if ledger.balances != *acknowledged && ledger.balances != with_unknown {
        return Err(format!("{:?} is neither {acknowledged:?} nor {with_unknown:?}", ledger.balances).into());
    }
    Ok(())
}

/// Plays one history: some lives, each with some transfers, each ended by a crash.
fn play(seed: u64) -> Result<u64, Failed> {
    let machine = Simulated::seed(seed);
    // Any numbers will do, as long as they follow from the seed.
    let mut random = seed;
    let mut draw = |below: u64| {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (random >> 33) % below
    };
    let mut acknowledged = BTreeMap::new();
    let mut unknown = None;
    let mut transfers = 0;
    for _ in 0..6 {
        let mut faults = Faults::default();
        (faults.write_error, faults.no_space, faults.short) = (5, 50, 100);
        faults.stop_after = Some(draw(200));
        machine.set_faults(&faults);
        if let Ok(mut ledger) = Ledger::open(&machine).inspect_err(|error| {
            assert!(!matches!(error, OpenError::Damaged { .. }), "an honest machine loses nothing: {error}");
        }) {
            if !machine.has_stopped() {
                check(&ledger, &acknowledged, unknown.take())?;
                acknowledged = ledger.balances.clone();
            }
            for _ in 0..draw(40) {
                let (from, to, amount) = (draw(8), draw(8), draw(100) as i64);
                match ledger.transfer(from, to, amount) {
                    Ok(()) => transfers += 1,
                    Err(sawmill::AppendError::ShardFailed(_)) => {
                        // Perhaps it is there, perhaps not: the log says after the reopen.
                        unknown = unknown.or(Some((from, to, amount)));
                        break;
                    }
                    Err(_) => {} // Refused: certainly not there.
                }
            }
            acknowledged.clone_from(&ledger.balances);
            machine.stop();
        }
        machine.stop();
        machine.restart(if draw(2) == 0 { End::Kill } else { End::PowerCut });
    }
    machine.set_faults(&Faults::default());
    check(&Ledger::open(&machine)?, &acknowledged, unknown)?;
    Ok(transfers)
}

fn main() -> Result<(), Failed> {
    let seeds: u64 = std::env::args().nth(1).map_or(Ok(500), |count| count.parse())?;
    let mut transfers = 0;
    for seed in 0..seeds {
        transfers += play(seed).map_err(|error| format!("seed {seed}: {error}"))?;
    }
    println!(
        "{seeds} histories with {} lives and {transfers} acknowledged transfers: nothing lost",
        seeds * 6
    );
    Ok(())
}
