//! Callers that take more than their share: one tenant among nine that sends ten times as much, and callers that try again
//! and again where they were told to wait.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use sawmill::stats::Latency;
use sawmill::{AppendError, Log, Write};
use serde_json::{Value, json};

use super::overload::{RECORD_BYTES, SETTLING, SLICE, Sent, send, wait_for};
use crate::Error;

/// The last one floods.
const TENANTS: usize = 9;
const FLOODING: usize = TENANTS - 1;
/// Seconds, and times of its share that the last one sends. The others send theirs all along.
const FLOOD: [(f64, f64); 2] = [(2.0, 0.5), (4.0, 10.0)];
/// What the others are to have of theirs.
const AIM: f64 = 0.9;
/// Over so many slices, so that a tenant's part is of some hundred records.
const SETTLED_SLICES: usize = 3;

const CALLERS: usize = 8;
/// In turn, so that a drive that changes its mind counts for both.
const ROUNDS: usize = 3;

/// A tenth of a second: which part of a tenant's share was accepted.
pub struct Part {
    pub at: f64,
    pub flooding: f64,
    /// The mean of the others, and the least.
    pub others: f64,
    pub least: f64,
}

/// Callers that offer all they can.
pub struct Callers {
    pub heed: bool,
    /// Records a second that became durable.
    pub goodput: f64,
    pub tries: f64,
    pub queueing: Latency,
    pub commit: Latency,
}

/// Both.
pub struct Floods {
    pub parts: Vec<Part>,
    pub callers: [Callers; 2],
}

impl Floods {
    pub fn measure(log: &Log, peak: f64, time: Duration) -> Result<Floods, Error> {
        let parts = one_tenant(log, peak)?;
        log.sync().wait()?;
        let mut callers = [Callers::new(true), Callers::new(false)];
        for _ in 0..ROUNDS {
            for callers in &mut callers {
                callers.run(log, time)?;
            }
        }
        Ok(Floods { parts, callers })
    }

    /// When the flood begins.
    pub fn begins() -> f64 {
        FLOOD[0].0
    }

    /// Seconds after which the others have their part for good; `None` if they do not.
    pub fn settled(&self) -> Option<f64> {
        let means: Vec<(f64, f64)> = self
            .parts
            .windows(SETTLED_SLICES)
            .map(|parts| {
                (parts[0].at, parts.iter().map(|part| part.others).sum::<f64>() / parts.len() as f64)
            })
            .collect();
        let last = means.iter().rposition(|(_, part)| *part < AIM);
        match last {
            Some(last) => means.get(last + 1).map(|(at, _)| (at - Floods::begins()).max(0.0)),
            None => Some(0.0),
        }
    }

    /// The mean part of the others, and of the least of them, and the flooding one's, from a second after its beginning on.
    pub fn afterwards(&self) -> [f64; 3] {
        let own = || self.parts.iter().filter(|part| part.at >= Floods::begins() + 1.0);
        let mean = |of: fn(&Part) -> f64| own().map(of).sum::<f64>() / own().count().max(1) as f64;
        [mean(|part| part.others), mean(|part| part.least), mean(|part| part.flooding)]
    }

    /// The goodput of those that do not heed, to that of those that do.
    pub fn hammered(&self) -> f64 {
        self.callers[1].goodput / self.callers[0].goodput.max(1.0)
    }

    pub fn json(&self) -> Value {
        let [others, least, flooding] = self.afterwards();
        let parts = self.parts.iter().map(|part| {
            json!({ "at": part.at, "others": part.others, "least": part.least, "flooding": part.flooding })
        });
        let callers = self.callers.iter().map(|callers| {
            let millis = |latency: &Latency, quantile| latency.quantile(quantile).as_secs_f64() * 1e3;
            json!({
                "heed_retry_after": callers.heed, "records_per_second": callers.goodput,
                "tries_per_second": callers.tries,
                "queueing_p50_ms": millis(&callers.queueing, 0.5), "queueing_p99_ms": millis(&callers.queueing, 0.99),
                "commit_p50_ms": millis(&callers.commit, 0.5), "commit_p99_ms": millis(&callers.commit, 0.99),
                "commit_p999_ms": millis(&callers.commit, 0.999),
            })
        });
        json!({
            "flooding_tenant": {
                "others_have_their_part_after_seconds": self.settled(),
                "others_part": others, "least_part": least, "flooding_part": flooding,
                "tenths_of_a_second": parts.collect::<Vec<_>>(),
            },
            "callers": callers.collect::<Vec<_>>(), "hammering_to_heeding": self.hammered(),
        })
    }
}

fn times_at(seconds: f64) -> f64 {
    if seconds < FLOOD[0].0 { FLOOD[0].1 } else { FLOOD[1].1 }
}

/// In an open loop: what is refused is gone.
fn one_tenant(log: &Log, peak: f64) -> Result<Vec<Part>, Error> {
    let share = peak / TENANTS as f64;
    let began = Instant::now();
    let seconds: f64 = FLOOD.iter().map(|(seconds, _)| seconds).sum();
    let rates_at = |at: Duration| {
        let mut rates = [share; TENANTS];
        rates[FLOODING] *= times_at(at.as_secs_f64());
        rates
    };
    let offered = std::thread::scope(|scope| {
        let (commits, to_wait_for) = channel();
        let waits = scope.spawn(move || wait_for(&to_wait_for));
        let sent = send(rates_at, began + Duration::from_secs_f64(seconds), |due, tenant, payload| match log
            .try_append(Write::new(payload).tenant(1 + tenant as u64))
        {
            Ok(commit) => {
                let _ = commits.send(Sent { due, priority: 0, commit: Some(commit) });
                Ok(true)
            }
            Err(AppendError::Overloaded { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        });
        drop(commits);
        waits.join().map_err(|_| "a thread panicked")??;
        sent
    })?;
    let count = (seconds / SLICE.as_secs_f64()) as usize;
    let mut accepted = vec![[0u32; TENANTS]; count];
    for (due, tenant, _) in offered.into_iter().filter(|(_, _, accepted)| *accepted) {
        let slice = ((due - began).as_secs_f64() / SLICE.as_secs_f64()) as usize;
        accepted[slice.min(count - 1)][tenant] += 1;
    }
    let part = |records: u32| f64::from(records) / (share * SLICE.as_secs_f64());
    let parts = accepted.iter().enumerate().map(|(slice, records)| {
        let others = records[..FLOODING].iter();
        Part {
            at: slice as f64 * SLICE.as_secs_f64(),
            flooding: part(records[FLOODING]),
            others: part(others.clone().sum()) / FLOODING as f64,
            least: part(others.copied().min().unwrap_or(0)),
        }
    });
    Ok(parts.collect())
}

impl Callers {
    fn new(heed: bool) -> Callers {
        let (queueing, commit) = (Latency::default(), Latency::default());
        Callers { heed, goodput: 0.0, tries: 0.0, queueing, commit }
    }

    pub fn name(&self) -> &'static str {
        if self.heed { "8 that heed retry_after" } else { "8 that hammer" }
    }

    /// One of the rounds. What became durable is known by the log itself.
    fn run(&mut self, log: &Log, time: Duration) -> Result<(), Error> {
        let ends = AtomicBool::new(false);
        let (before, after, tries) = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..CALLERS).map(|_| scope.spawn(|| offer_all(log, self.heed, &ends))).collect();
            std::thread::sleep(SETTLING);
            let before = (log.stats(), Instant::now());
            std::thread::sleep(time);
            let after = (log.stats(), Instant::now());
            ends.store(true, Ordering::Relaxed);
            let mut tries = 0;
            for thread in threads {
                tries += thread.join().map_err(|_| "a thread panicked")??;
            }
            Ok::<_, Error>((before, after, tries))
        })?;
        let commit = after.0.commit_latency().since(&before.0.commit_latency());
        let seconds = (after.1 - before.1).as_secs_f64();
        self.goodput += commit.count() as f64 / seconds / ROUNDS as f64;
        self.tries += tries as f64 / (SETTLING.as_secs_f64() + seconds) / ROUNDS as f64;
        self.commit.merge(&commit);
        self.queueing.merge(&after.0.queueing_delay().since(&before.0.queueing_delay()));
        Ok(log.sync().wait().map(drop)?)
    }
}

/// Gives how often it tried.
fn offer_all(log: &Log, heed: bool, ends: &AtomicBool) -> Result<u64, AppendError> {
    let payload = vec![1; RECORD_BYTES as usize];
    let mut tries = 0;
    while !ends.load(Ordering::Relaxed) {
        tries += 1;
        match log.try_append(&payload) {
            Ok(commit) => drop(commit),
            Err(AppendError::Overloaded { retry_after, .. }) if heed => std::thread::sleep(retry_after),
            Err(AppendError::Overloaded { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(tries)
}

impl fmt::Display for Floods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [others, least, flooding] = self.afterwards();
        let settled = match self.settled() {
            Some(seconds) => format!("{seconds:.1} s after it began"),
            None => "not at all".to_owned(),
        };
        writeln!(
            f,
            "one tenant of nine sends ten times its share, the others theirs: the others have {AIM} of it {settled}; from its \
             second second on {others:.2}, the least of them {least:.2}, the one {flooding:.2}"
        )?;
        writeln!(
            f,
            "{:<24}{:>12}{:>12}   queued ms: p50, p99      durable ms: p50, p99, p99.9",
            "callers without a pause", "goodput/s", "tries/s"
        )?;
        for callers in &self.callers {
            let millis = |latency: &Latency, quantile| latency.quantile(quantile).as_secs_f64() * 1e3;
            writeln!(
                f,
                "{:<24}{:>12.0}{:>12.0}   {:>9.1} {:>9.1}      {:>9.1} {:>9.1} {:>9.1}",
                callers.name(),
                callers.goodput,
                callers.tries,
                millis(&callers.queueing, 0.5),
                millis(&callers.queueing, 0.99),
                millis(&callers.commit, 0.5),
                millis(&callers.commit, 0.99),
                millis(&callers.commit, 0.999),
            )?;
        }
        write!(f, "the goodput of those that hammer is {:.2} of that of those that heed", self.hammered())
    }
}
