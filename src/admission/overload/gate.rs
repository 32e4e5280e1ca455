//! What callers look at while a cut is in force, and where they count.
//!
//! What everybody reads (the windows, the shares, the tenants' chances) is written once per interval. What callers write
//! is in a stripe of their thread's own: to refuse costs no lock, no allocation, and no line that another thread writes.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::fairness::{Fairness, Standing, mixed};
use super::heaviest::Heaviest;
use super::{ByPriority, Cut, PRIORITIES, index};
use crate::sync::{CacheLine, lock, thread_number};
use crate::write::Priority;

/// Why a record was refused ([`AppendError::Overloaded`](crate::AppendError::Overloaded)): one of the causes that there
/// were.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// The shard's memory is full, as far as records of this priority may fill it, or its next segment is not ready yet.
    Room,
    /// Records wait longer than [`Options::delay_target`](crate::Options::delay_target): of this priority only a part is
    /// accepted.
    Delay,
    /// The same, and this tenant offers more than its fair share ([`Write::tenant`](crate::Write::tenant)).
    Tenant,
    /// It would not have been accepted within its deadline, or was not ([`Write::deadline`](crate::Write::deadline)).
    Deadline,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Cause::Room => "there is no room",
            Cause::Delay => "records wait for too long",
            Cause::Tenant => "this tenant offers more than its share",
            Cause::Deadline => "it would come too late",
        })
    }
}

/// In the order in which they are counted.
const ALL_CAUSES: [Cause; CAUSES] = [Cause::Room, Cause::Delay, Cause::Tenant, Cause::Deadline];
const CAUSES: usize = 4;

/// Above the number of cores threads share stripes, which costs little.
const STRIPES: usize = 64;
/// The shares while there is no cut.
const ALL: u64 = u64::MAX;
/// Shares are in parts of this.
const WHOLE: u64 = 1 << 16;
/// A thread that is refused so often in a row lets others have its core for once.
const YIELDS_EVERY: u32 = 64;
/// One refusal of so many is told to the table of those who are refused most.
const SAMPLED: u64 = 64;

/// What a thread has counted.
#[derive(Debug, Default)]
struct Stripe {
    /// Bytes of callers that do not wait, by priority.
    accepted: ByPriority<AtomicU64>,
    /// The same of those that were refused for want of room or for the delay.
    refused: ByPriority<AtomicU64>,
    /// Of those, the bytes that found no room.
    crowded: AtomicU64,
    /// Bytes that were refused for fairness.
    unfair: AtomicU64,
    /// Refusals by cause and priority.
    refusals: [ByPriority<AtomicU64>; CAUSES],
    random: AtomicU64,
    /// Refusals in a row.
    run: AtomicU32,
}

/// What all threads have counted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counted {
    /// Bytes of callers that do not wait, by priority.
    pub accepted: ByPriority<u64>,
    /// The same of those that were refused for want of room or for the delay.
    pub refused: ByPriority<u64>,
    /// Of those, the bytes that found no room.
    pub crowded: u64,
    /// Bytes that were refused for fairness.
    pub unfair: u64,
    /// Refusals by cause and priority.
    pub refusals: [ByPriority<u64>; CAUSES],
}

/// What everybody reads.
#[derive(Debug)]
struct Told {
    blocks_max: ByPriority<AtomicU32>,
    /// Of low priority, of normal; [`ALL`] while there is no cut.
    shares: AtomicU64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Gate {
    told: CacheLine<Told>,
    fairness: Fairness,
    stripes: Box<[CacheLine<Stripe>]>,
    heaviest: Mutex<Heaviest>,
    threaded: bool,
}

/// A record that the gate lets through, and that must find room.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub(crate) struct Passed(Option<Standing>);

impl Gate {
    /// Of a shard without a cut. Where there are no threads the same calls have the same outcome each time.
    pub(crate) fn new(blocks_max: ByPriority<u32>, seed: u64, threaded: bool) -> Gate {
        let stripes = if threaded { crate::sys::cores().next_power_of_two().min(STRIPES) } else { 1 };
        let stripe = |number: usize| {
            // Never 0, from which a xorshift does not get away.
            let random = AtomicU64::new(mixed(seed ^ number as u64) | 1);
            CacheLine(Stripe { random, ..Stripe::default() })
        };
        Gate {
            told: CacheLine(Told { blocks_max: blocks_max.map(AtomicU32::new), shares: AtomicU64::new(ALL) }),
            fairness: Fairness::new(),
            stripes: (0..stripes).map(stripe).collect(),
            heaviest: Mutex::new(Heaviest::new()),
            threaded,
        }
    }

    /// Blocks that records of a priority may have in use now.
    #[inline]
    pub(crate) fn blocks_max(&self, priority: Priority) -> u32 {
        self.told.0.blocks_max[index(priority)].load(Ordering::Relaxed)
    }

    pub(crate) fn fairness(&self) -> &Fairness {
        &self.fairness
    }

    #[inline]
    fn stripe(&self) -> &Stripe {
        &self.stripes[thread_number() as usize & (self.stripes.len() - 1)].0
    }

    /// Whether a record may look for room, of a caller that does not wait for any.
    #[inline]
    pub(crate) fn pass(&self, priority: Priority, tenant: u64, bytes: u64) -> Result<Passed, Cause> {
        let shares = self.told.0.shares.load(Ordering::Relaxed);
        if shares == ALL || priority == Priority::High {
            return Ok(Passed(None));
        }
        self.pass_cut(shares, priority, tenant, bytes)
    }

    fn pass_cut(&self, shares: u64, priority: Priority, tenant: u64, bytes: u64) -> Result<Passed, Cause> {
        let random = self.stripe().random();
        let standing = self.fairness.standing(tenant);
        if standing.is_refused(random as u32) {
            return Err(Cause::Tenant);
        }
        if !self.fairness.takes(&standing, bytes) {
            self.fairness.note_refused(&standing, bytes, (random >> 16) as u32);
            return Err(Cause::Tenant);
        }
        let share = shares >> (index(priority) * 20) & ((1 << 20) - 1);
        let passes = random >> 48 < share;
        if passes {
            return Ok(Passed(Some(standing)));
        }
        self.fairness.note_refused(&standing, bytes, (random >> 16) as u32);
        Err(Cause::Delay)
    }

    /// A record that was let through found no room.
    #[cold]
    pub(crate) fn found_no_room(&self, passed: &Passed, bytes: u64) {
        let stripe = self.stripe();
        stripe.crowded.fetch_add(bytes, Ordering::Relaxed);
        if let Some(standing) = &passed.0 {
            self.fairness.note_refused(standing, bytes, stripe.random() as u32);
        }
    }

    /// A record that was let through was accepted.
    #[inline]
    pub(crate) fn accepted(&self, passed: &Passed, priority: Priority, bytes: u64) {
        let stripe = self.stripe();
        stripe.accepted[index(priority)].fetch_add(bytes, Ordering::Relaxed);
        if stripe.run.load(Ordering::Relaxed) != 0 {
            stripe.run.store(0, Ordering::Relaxed);
        }
        if let Some(standing) = &passed.0 {
            self.fairness.note(standing, bytes);
        }
    }

    /// A record was refused, whether its caller waits or not.
    pub(crate) fn refused(&self, cause: Cause, priority: Priority, tenant: u64, bytes: u64) {
        let (stripe, priority) = (self.stripe(), index(priority));
        stripe.refusals[cause as usize][priority].fetch_add(1, Ordering::Relaxed);
        match cause {
            Cause::Room | Cause::Delay => stripe.refused[priority].fetch_add(bytes, Ordering::Relaxed),
            Cause::Tenant => stripe.unfair.fetch_add(bytes, Ordering::Relaxed),
            // Whoever has no time at all is no sign of more than the shard takes.
            Cause::Deadline => 0,
        };
        if stripe.random() % SAMPLED == 0 {
            if let Ok(mut heaviest) = self.heaviest.try_lock() {
                heaviest.add(tenant, SAMPLED);
            }
        }
        let run = stripe.run.load(Ordering::Relaxed).wrapping_add(1);
        stripe.run.store(run, Ordering::Relaxed);
        if self.threaded && run % YIELDS_EVERY == 0 {
            std::thread::yield_now();
        }
    }

    /// Whether this thread, which is refused again and again, may look under a lock for once.
    pub(crate) fn looks_closely(&self) -> bool {
        !self.threaded || self.stripe().run.load(Ordering::Relaxed) % YIELDS_EVERY == 0
    }

    /// From 0.5 to 1.5, so that those who were refused together do not come back together.
    pub(crate) fn jitter(&self) -> f64 {
        0.5 + (self.stripe().random() >> 32) as f64 / f64::from(u32::MAX)
    }

    /// What was counted so far.
    pub(crate) fn counted(&self) -> Counted {
        let mut all = Counted::default();
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        for CacheLine(stripe) in &self.stripes {
            all.unfair += load(&stripe.unfair);
            all.crowded += load(&stripe.crowded);
            for priority in 0..3 {
                all.accepted[priority] += load(&stripe.accepted[priority]);
                all.refused[priority] += load(&stripe.refused[priority]);
                for cause in 0..CAUSES {
                    all.refusals[cause][priority] += load(&stripe.refusals[cause][priority]);
                }
            }
        }
        all
    }

    /// The tenants that were refused most, with how often, as far as was sampled; the most first.
    pub(crate) fn heaviest(&self) -> Vec<(u64, u64)> {
        lock(&self.heaviest).list()
    }

    /// Whether a cut is in force.
    pub(crate) fn is_cutting(&self) -> bool {
        self.told.0.shares.load(Ordering::Relaxed) != ALL
    }

    /// Puts a cut into force.
    pub(crate) fn apply(&self, cut: &Cut) {
        for (told, blocks_max) in self.told.0.blocks_max.iter().zip(cut.blocks_max) {
            told.store(blocks_max, Ordering::Relaxed);
        }
        let shares = cut.shares.map_or(ALL, |shares| {
            let part = |share: f64| (share * WHOLE as f64) as u64;
            part(shares[0]) | part(shares[1]) << 20
        });
        self.told.0.shares.store(shares, Ordering::Relaxed);
    }
}

impl Stripe {
    /// A xorshift. Threads that share a stripe may draw the same bits at times.
    fn random(&self) -> u64 {
        let mut bits = self.random.load(Ordering::Relaxed);
        bits ^= bits << 13;
        bits ^= bits >> 7;
        bits ^= bits << 17;
        self.random.store(bits, Ordering::Relaxed);
        // The low bits of a xorshift are its weakest.
        bits.wrapping_mul(0x2545_f491_4f6c_dd1d).rotate_left(32)
    }
}

impl Counted {
    /// Refusals by cause and priority, those that there were.
    pub(crate) fn refusals_by(&self) -> Vec<(Cause, Priority, u64)> {
        let all = ALL_CAUSES.into_iter().flat_map(|cause| {
            PRIORITIES.map(|priority| (cause, priority, self.refusals[cause as usize][index(priority)]))
        });
        all.filter(|(_, _, refusals)| *refusals > 0).collect()
    }

    /// What came since, by priority: accepted and refused bytes.
    pub(crate) fn since(&self, before: &Counted) -> [ByPriority<u64>; 2] {
        let less = |now: &ByPriority<u64>, before: &ByPriority<u64>| {
            [0, 1, 2].map(|priority| now[priority].wrapping_sub(before[priority]))
        };
        [less(&self.accepted, &before.accepted), less(&self.refused, &before.refused)]
    }
}

#[cfg(all(test, not(sawmill_loom)))]
mod tests {
    use super::*;

    fn gate() -> Gate {
        Gate::new([4, 7, 8], 1, false)
    }

    fn cut(low: f64, normal: f64) -> Cut {
        Cut {
            flight_max: u64::MAX,
            blocks_max: [3, 5, 8],
            shares: Some([low, normal, 1.0]),
            is_calm: false,
            fair_bytes: 0,
        }
    }

    #[test]
    fn each_priority_gets_its_share_and_the_highest_all() {
        let gate = gate();
        let passes = |priority| (0..10_000).filter(|_| gate.pass(priority, 0, 1).is_ok()).count();
        let all = || [Priority::Low, Priority::Normal, Priority::High].map(passes);
        assert_eq!(all(), [10_000; 3]);
        gate.apply(&cut(0.25, 1.0));
        let [low, normal, high] = all();
        assert!((2_300..2_700).contains(&low), "{low}");
        assert_eq!((normal, high), (10_000, 10_000));
        gate.apply(&cut(0.0, 0.75));
        let [low, normal, high] = all();
        assert!((7_300..7_700).contains(&normal), "{normal}");
        assert_eq!((low, high), (0, 10_000));
        assert_eq!(gate.pass(Priority::Low, 0, 1).unwrap_err(), Cause::Delay);
        assert_eq!(
            [Priority::Low, Priority::Normal, Priority::High].map(|own| gate.blocks_max(own)),
            [3, 5, 8]
        );
        gate.apply(&Cut {
            flight_max: u64::MAX,
            blocks_max: [4, 7, 8],
            shares: None,
            is_calm: true,
            fair_bytes: 0,
        });
        assert_eq!(all(), [10_000; 3]);
    }

    #[test]
    fn what_is_counted_is_told_apart() {
        let gate = gate();
        let before = gate.counted();
        let passed = gate.pass(Priority::Low, 3, 100).unwrap();
        gate.accepted(&passed, Priority::Low, 100);
        gate.refused(Cause::Room, Priority::Normal, 3, 10);
        gate.refused(Cause::Delay, Priority::Normal, 3, 20);
        gate.refused(Cause::Tenant, Priority::Normal, 3, 40);
        gate.refused(Cause::Deadline, Priority::High, 3, 80);
        let counted = gate.counted();
        assert_eq!(counted.since(&before), [[100, 0, 0], [0, 30, 0]], "fairness and deadlines are no offer");
        assert_eq!(counted.unfair - before.unfair, 40);
        assert_eq!(counted.refusals, [[0, 1, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1]]);
    }

    #[test]
    fn who_is_refused_most_is_told() {
        let gate = gate();
        for round in 0..20_000u64 {
            gate.refused(Cause::Tenant, Priority::Low, if round % 4 == 0 { round } else { 7 }, 1);
        }
        let heaviest = gate.heaviest();
        assert_eq!(heaviest[0].0, 7);
        assert!((10_000..20_000).contains(&heaviest[0].1), "{heaviest:?}");
    }

    #[test]
    fn jitter_spreads_from_a_half_to_one_and_a_half() {
        let gate = gate();
        let drawn: Vec<f64> = (0..1_000).map(|_| gate.jitter()).collect();
        assert!(drawn.iter().all(|drawn| (0.5..=1.5).contains(drawn)));
        let mean = drawn.iter().sum::<f64>() / 1_000.0;
        assert!((0.95..1.05).contains(&mean), "{mean}");
    }
}
