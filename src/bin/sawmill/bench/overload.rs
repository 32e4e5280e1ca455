//! What happens when more comes than the log can take: an open loop at a multiple of what it can, by priority, beside
//! servers that do not refuse; and a spike.
//!
//! The drive is a modelled one: those of this machine change their minds, and the kernel's own throttle gives out its bytes in
//! slices of a tenth of a second (`block/blk-throttle.c`), so that nothing shorter can be seen on it.
//!
//! Records come when they are due, whatever became of those before, and their delays count from then. A tenth of what the
//! log can take is of high priority, three tenths are of normal, and all else is of low priority.

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use sawmill::ceiling::{DriveModel, ModelledDrive};
use sawmill::{AppendError, Commit, Log, Options, Priority, Write};
use serde_json::{Value, json};

use super::floods::Floods;
use super::loads::Load;
use super::{RETAIN_BYTES, warm_up};
use crate::Error;

/// Large enough that the drive is the limit.
pub const RECORD_BYTES: u32 = 4096;
/// Slow enough for one thread to offer ten times as much.
pub const DRIVE: DriveModel = DriveModel::steady(Duration::from_millis(1), 48 << 20);
/// Of what the log can take.
const TIMES: [f64; 4] = [0.5, 1.0, 2.0, 10.0];
/// In front of what is measured.
pub const SETTLING: Duration = Duration::from_secs(1);
const CALLERS: usize = 256;
pub const SLICE: Duration = Duration::from_millis(100);
/// How long the load sleeps while nothing is due.
const BETWEEN: Duration = Duration::from_micros(50);
const PRIORITIES: [Priority; 3] = [Priority::High, Priority::Normal, Priority::Low];

/// What stands between those who send and the log.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// `try_append`: what is refused is gone.
    Refusing,
    /// A queue without a bound, and one thread that appends from it.
    Queueing,
    /// So many threads that block, each with one record.
    Blocking,
}

impl Server {
    pub fn name(self) -> &'static str {
        match self {
            Server::Refusing => "refusing (try_append)",
            Server::Queueing => "an unbounded queue",
            Server::Blocking => "256 blocking callers",
        }
    }
}

/// At one multiple of what the log can take. By priority, the highest first.
pub struct Point {
    pub times: f64,
    pub server: Server,
    /// Records a second that became durable, of what the closed loop reaches.
    pub goodput: f64,
    pub p99: [Duration; 3],
    /// The part that was accepted.
    pub accepted: [f64; 3],
}

/// A tenth of a second: by when records were due.
#[derive(Clone)]
pub struct Slice {
    pub at: f64,
    /// Records a second, accepted.
    pub accepted: f64,
    /// Of high priority, and of all.
    pub p99: [Duration; 2],
}

/// All of it.
pub struct Overload {
    /// Records a second in the closed loop.
    pub peak: f64,
    pub drive: DriveModel,
    pub points: Vec<Point>,
    pub spike: Vec<Slice>,
    pub floods: Floods,
}

/// A record that was due, and what became of it: `None` was refused.
pub struct Sent {
    pub due: Instant,
    pub priority: usize,
    pub commit: Option<Commit>,
}

/// A record that is durable.
pub struct Done {
    due: Instant,
    priority: usize,
    at: Instant,
}

impl Overload {
    pub fn measure(dir: &Path, drive: DriveModel, time: Duration) -> Result<Overload, Error> {
        let dir = dir.join("overload");
        let modelled = ModelledDrive::new(drive);
        let log = modelled.put_under(Options::new().shards(1).retain_bytes(RETAIN_BYTES)).open(&dir)?;
        // Before the drive is held to its rate: the zeros of new segments would take half of that.
        modelled.set_unlimited(true);
        warm_up(&log)?;
        modelled.set_unlimited(false);
        let closed = Load::windowed(1024, RECORD_BYTES);
        closed.run(&log, SETTLING)?;
        let outcome = closed.run(&log, time)?;
        let peak = outcome.records as f64 / outcome.elapsed.as_secs_f64();
        let mut points = Vec::new();
        for server in [Server::Refusing, Server::Queueing, Server::Blocking] {
            for times in TIMES {
                points.push(Point::measure(&log, server, times, peak, time)?);
                log.sync().wait()?;
            }
        }
        let spike = spike(&log, peak)?;
        let floods = Floods::measure(&log, peak, time)?;
        log.close()?;
        std::fs::remove_dir_all(&dir)?;
        Ok(Overload { peak, drive, points, spike, floods })
    }

    pub fn json(&self) -> Value {
        let millis = |time: &Duration| time.as_secs_f64() * 1e3;
        let points = self.points.iter().map(|point| {
            json!({
                "server": point.server.name(), "times": point.times, "goodput_of_peak": point.goodput,
                "p99_ms": point.p99.iter().map(millis).collect::<Vec<_>>(), "accepted": point.accepted,
            })
        });
        json!({
            "peak_records_per_second": self.peak, "drive": super::in_words(self.drive),
            "points": points.collect::<Vec<_>>(), "recovered_after_seconds": self.recovered(), "floods": self.floods.json(),
        })
    }

    /// Seconds from the end of the spike until delays are what they were before it.
    pub fn recovered(&self) -> Option<f64> {
        let before =
            self.spike.iter().filter(|slice| slice.at < SPIKE[0].0).map(|slice| slice.p99[1]).max()?;
        let end = SPIKE[0].0 + SPIKE[1].0;
        let late = self.spike.iter().rfind(|slice| slice.p99[1] > before * 2);
        Some(late.map_or(0.0, |late| (late.at + SLICE.as_secs_f64() - end).max(0.0)))
    }
}

impl Point {
    fn measure(log: &Log, server: Server, times: f64, peak: f64, time: Duration) -> Result<Point, Error> {
        let rates = rates(times, peak);
        let from = Instant::now() + SETTLING;
        let until = from + time;
        let (sent, done) = offer(log, server, |_| rates, until)?;
        let is_measured = |due: Instant| (from..until).contains(&due);
        let durable = done.iter().filter(|done| is_measured(done.at)).count();
        let p99 = [0, 1, 2].map(|priority| {
            let own = done.iter().filter(|done| done.priority == priority && is_measured(done.due));
            percentile(own.map(|done| done.at - done.due))
        });
        let accepted = [0, 1, 2].map(|priority| {
            let own = || sent.iter().filter(|sent| sent.1 == priority && is_measured(sent.0));
            own().filter(|sent| sent.2).count() as f64 / own().count().max(1) as f64
        });
        let goodput = durable as f64 / time.as_secs_f64() / peak;
        Ok(Point { times, server, goodput, p99, accepted })
    }
}

/// Records a second by priority.
fn rates(times: f64, peak: f64) -> [f64; 3] {
    [peak * 0.1, peak * 0.3, (peak * (times - 0.4)).max(0.0)]
}

fn percentile(times: impl Iterator<Item = Duration>) -> Duration {
    let mut all = Histogram::<u64>::new(3).expect("it has three digits");
    times.for_each(|time| all.record(time.as_micros() as u64).expect("it grows"));
    Duration::from_micros(all.value_at_quantile(0.99))
}

/// Seconds, and times of what the log can take.
const SPIKE: [(f64, f64); 3] = [(2.0, 0.5), (1.0, 10.0), (3.0, 0.5)];

fn spike(log: &Log, peak: f64) -> Result<Vec<Slice>, Error> {
    let all: f64 = SPIKE.iter().map(|phase| phase.0).sum();
    let began = Instant::now();
    let rates_at = |at: Duration| {
        let mut end = 0.0;
        let phase = SPIKE.iter().find(|(seconds, _)| {
            end += seconds;
            at.as_secs_f64() < end
        });
        rates(phase.unwrap_or(&SPIKE[0]).1, peak)
    };
    let until = began + Duration::from_secs_f64(all);
    let (_, done) = offer(log, Server::Refusing, rates_at, until)?;
    let slice_of = |done: &Done| ((done.due - began).as_secs_f64() / SLICE.as_secs_f64()) as usize;
    let count = (all / SLICE.as_secs_f64()) as usize;
    let slices = (0..count).map(|slice| {
        let own = || done.iter().filter(|done| slice_of(done) == slice);
        let delays = |most: usize| {
            percentile(own().filter(|done| done.priority <= most).map(|done| done.at - done.due))
        };
        Slice {
            at: slice as f64 * SLICE.as_secs_f64(),
            accepted: own().count() as f64 / SLICE.as_secs_f64(),
            p99: [delays(0), delays(2)],
        }
    });
    Ok(slices.collect())
}

/// When each record was due, of which priority or other kind, and whether it was accepted.
pub type Offered = Vec<(Instant, usize, bool)>;

/// Sends records at `rates_at(time since the beginning)` until then. What is on its way by then is waited for, but not where
/// a queue has grown that takes seconds to drain.
fn offer(
    log: &Log,
    server: Server,
    rates_at: impl Fn(Duration) -> [f64; 3],
    until: Instant,
) -> Result<(Offered, Vec<Done>), Error> {
    let gives_up = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (commits, to_wait_for) = channel::<Sent>();
        let waits = scope.spawn(move || wait_for(&to_wait_for));
        let front = Front::begin(scope, log, server, commits, &gives_up);
        let sent = send(rates_at, until, |due, priority, payload| front.take(due, priority, payload));
        gives_up.store(true, Ordering::SeqCst);
        drop(front);
        let done = waits.join().map_err(|_| "a thread panicked")??;
        Ok((sent?, done))
    })
}

/// Each of so many kinds when it is due; `take` says whether it was accepted.
pub fn send<const KINDS: usize>(
    rates_at: impl Fn(Duration) -> [f64; KINDS],
    until: Instant,
    mut take: impl FnMut(Instant, usize, &[u8]) -> Result<bool, Error>,
) -> Result<Offered, Error> {
    let payload = vec![1; RECORD_BYTES as usize];
    let began = Instant::now();
    let (mut next, mut offered) = ([began; KINDS], Vec::new());
    loop {
        let kind = (0..KINDS).min_by_key(|&kind| next[kind]).unwrap_or(0);
        let (due, now) = (next[kind], Instant::now());
        if due.max(now) >= until {
            return Ok(offered);
        }
        if due > now {
            std::thread::sleep(BETWEEN.min(due - now));
            continue;
        }
        offered.push((due, kind, take(due, kind, &payload)?));
        next[kind] = due + Duration::from_secs_f64(1.0 / rates_at(due - began)[kind].max(1.0));
    }
}

pub fn wait_for(sent: &Receiver<Sent>) -> Result<Vec<Done>, AppendError> {
    let mut done = Vec::new();
    for Sent { due, priority, commit } in sent {
        if let Some(commit) = commit {
            commit.wait()?;
        }
        done.push(Done { due, priority, at: Instant::now() });
    }
    Ok(done)
}

/// Where records come in.
enum Front<'a> {
    Refusing { log: &'a Log, commits: Sender<Sent> },
    Queueing(Sender<(Instant, usize)>),
    Blocking(SyncSender<(Instant, usize)>),
}

fn write(payload: &[u8], priority: usize) -> Write<'_> {
    Write::new(payload).priority(PRIORITIES[priority])
}

impl<'a> Front<'a> {
    fn begin<'scope>(
        scope: &'scope std::thread::Scope<'scope, 'a>,
        log: &'a Log,
        server: Server,
        commits: Sender<Sent>,
        gives_up: &'a AtomicBool,
    ) -> Front<'a> {
        let payload = || vec![1; RECORD_BYTES as usize];
        match server {
            Server::Refusing => Front::Refusing { log, commits },
            Server::Queueing => {
                let (sender, queue) = channel::<(Instant, usize)>();
                scope.spawn(move || {
                    let payload = payload();
                    for (due, priority) in queue.iter().take_while(|_| !gives_up.load(Ordering::Relaxed)) {
                        let Ok(commit) = log.append(write(&payload, priority)).admitted().wait() else {
                            return;
                        };
                        let _ = commits.send(Sent { due, priority, commit: Some(commit) });
                    }
                });
                Front::Queueing(sender)
            }
            Server::Blocking => {
                let (sender, queue) = sync_channel::<(Instant, usize)>(0);
                let queue = Arc::new(Mutex::new(queue));
                for _ in 0..CALLERS {
                    let (queue, commits) = (queue.clone(), commits.clone());
                    scope.spawn(move || {
                        let payload = payload();
                        loop {
                            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                            let Ok((due, priority)) = next else { return };
                            if log.append(write(&payload, priority)).wait().is_err() {
                                return;
                            }
                            let _ = commits.send(Sent { due, priority, commit: None });
                        }
                    });
                }
                Front::Blocking(sender)
            }
        }
    }

    /// Whether it was accepted.
    fn take(&self, due: Instant, priority: usize, payload: &[u8]) -> Result<bool, Error> {
        match self {
            Front::Refusing { log, commits } => match log.try_append(write(payload, priority)) {
                Ok(commit) => {
                    let _ = commits.send(Sent { due, priority, commit: Some(commit) });
                    Ok(true)
                }
                Err(AppendError::Overloaded { .. }) => Ok(false),
                Err(error) => Err(error.into()),
            },
            Front::Queueing(queue) => Ok(queue.send((due, priority)).is_ok()),
            Front::Blocking(queue) => Ok(queue.send((due, priority)).is_ok()),
        }
    }
}

impl fmt::Display for Overload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "more than the log can take ({:.0} records/s of {RECORD_BYTES} B in the closed loop, on a modelled drive of {}), in an open loop",
            self.peak,
            super::in_words(self.drive)
        )?;
        writeln!(
            f,
            "{:<24}{:>8}{:>9}   p99 ms: high, normal, low      accepted %: high, normal, low",
            "", "offered", "goodput"
        )?;
        for point in &self.points {
            let millis = |time: Duration| match time.is_zero() {
                true => "-".to_owned(),
                false => format!("{:.1}", time.as_secs_f64() * 1e3),
            };
            let [high, normal, low] = point.p99.map(millis);
            let accepted = point.accepted.map(|part| part * 100.0);
            writeln!(
                f,
                "{:<24}{:>8.1}{:>9.2}   {high:>9} {normal:>9} {low:>9}      {:>9.0} {:>9.0} {:>9.0}",
                point.server.name(),
                point.times,
                point.goodput,
                accepted[0],
                accepted[1],
                accepted[2],
            )?;
        }
        writeln!(f, "(-: of what was due in the time that was measured, nothing became durable in time)")?;
        if let Some(seconds) = self.recovered() {
            writeln!(f, "a spike of ten times for a second: delays as before {seconds:.1} s after its end")?;
        }
        write!(f, "{}", self.floods)
    }
}
