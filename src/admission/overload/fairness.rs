//! Fairness among tenants without quotas: in tables of a fixed size, whatever tenants there are (stochastic fair BLUE).
//!
//! Each tenant falls into one bin of each of two rows. A bin has a chance to be refused, which rises while the bin is above
//! its fair share of what is let in, and falls otherwise; a tenant's is the lower one of its two bins. One that is above its
//! share has an allowance besides, of about that share in each interval: however fast it tries, no more of it gets past
//! here than that, so that the share of its priority is not reckoned from what it tries. Who shares a bin with
//! a flood in one row hardly does in the other, and not for long: the rows' hashes are salted anew in turn, and a row
//! that has a new salt learns for a while before it counts.
//!
//! The fair share is max-min: what is let in is divided equally, and what a tenant does not use falls to the others. Those
//! that are equally far above it are not told apart here; the cut by priorities is for them.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU16, AtomicU64, Ordering};

use crate::time::Nanos;

const BINS: usize = 1024;
/// Chances are in parts of this.
const WHOLE: u32 = 1 << 16;
/// Nobody is shut out: what gets in is how a tenant's offer is measured. A thread that tries in a loop offers some hundred
/// times what a drive takes.
const CHANCE_MAX: u32 = WHOLE - WHOLE / 4096;
/// What a bin above its share may get past in an interval, in parts of that share: what its chance lets through of the same
/// offer is sometimes more.
const ALLOWED: f32 = 1.1;
/// The allowance of a bin that is not above its share.
const UNBOUNDED: i64 = i64::MAX;
/// Each row gets a new salt so often, and the other one half of it later.
const SALTED_NS: u64 = 4_000_000_000;
/// A row with a new salt learns for so long.
const LEARNS_NS: u64 = 1_000_000_000;
/// A bin in which nothing was let in for so many steps, a second in all, is nobody's.
const QUIET_STEPS: u8 = 10;
/// What the last step adds to what is known: of a tenant that is refused a few records tell.
const NEW: f32 = 0.3;
/// Of so many records that get past a tenant's chance and are refused after all, one is counted: to refuse writes next to
/// nothing that others read.
const SAMPLED: u32 = 16;

#[derive(Debug)]
struct Row {
    salt: AtomicU64,
    /// It is not learning.
    counts: AtomicBool,
    /// Bytes that its tenants have offered since the last step, as far as one can tell from what got past their chances.
    offered: Box<[AtomicU64]>,
    chances: Box<[AtomicU16]>,
    /// Bytes that may still get past in this interval.
    allowances: Box<[AtomicI64]>,
}

/// What callers look at.
#[derive(Debug)]
pub(crate) struct Fairness {
    rows: [Row; 2],
}

/// Where a tenant stands at the moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing {
    bins: [usize; 2],
    /// Of [`WHOLE`], to be refused.
    chance: u32,
    /// The row in which that is so.
    row: usize,
}

impl Row {
    fn new() -> Row {
        Row {
            salt: AtomicU64::new(0),
            counts: AtomicBool::new(true),
            offered: (0..BINS).map(|_| AtomicU64::new(0)).collect(),
            chances: (0..BINS).map(|_| AtomicU16::new(0)).collect(),
            allowances: (0..BINS).map(|_| AtomicI64::new(UNBOUNDED)).collect(),
        }
    }

    fn bin(&self, tenant: u64) -> usize {
        (mixed(tenant ^ self.salt.load(Ordering::Relaxed)) % BINS as u64) as usize
    }
}

/// The finaliser of SplitMix64: every bit of the result depends on every bit.
pub(super) fn mixed(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

impl Standing {
    /// Whether it is refused, by some random bits.
    pub(crate) fn is_refused(&self, random: u32) -> bool {
        random % WHOLE < self.chance
    }
}

impl Fairness {
    pub(crate) fn new() -> Fairness {
        Fairness { rows: [Row::new(), Row::new()] }
    }

    /// Where a tenant stands.
    pub(crate) fn standing(&self, tenant: u64) -> Standing {
        let bins = [0, 1].map(|row| self.rows[row].bin(tenant));
        let chance = |row: usize| u32::from(self.rows[row].chances[bins[row]].load(Ordering::Relaxed));
        let counting = (0..2).filter(|&row| self.rows[row].counts.load(Ordering::Relaxed));
        // Where nothing is known nobody is refused.
        let (chance, row) = counting.map(|row| (chance(row), row)).min().unwrap_or((0, 0));
        Standing { bins, chance, row }
    }

    /// So many bytes of it want to get past: whether its allowance holds that.
    pub(crate) fn takes(&self, standing: &Standing, bytes: u64) -> bool {
        if standing.chance == 0 {
            return true;
        }
        let allowance = &self.rows[standing.row].allowances[standing.bins[standing.row]];
        match allowance.load(Ordering::Relaxed) {
            UNBOUNDED => true,
            left => left > 0 && allowance.fetch_sub(bytes.min(1 << 40) as i64, Ordering::Relaxed) > 0,
        }
    }

    /// So many bytes of it were let in.
    pub(crate) fn note(&self, standing: &Standing, bytes: u64) {
        // For each byte that is let in so many were offered.
        let offered = bytes.min(1 << 40) * u64::from(WHOLE) / u64::from(WHOLE - standing.chance);
        for (row, bin) in self.rows.iter().zip(standing.bins) {
            row.offered[bin].fetch_add(offered, Ordering::Relaxed);
        }
    }

    /// So many bytes of it got past its chance and were refused after all; by some random bits.
    pub(crate) fn note_refused(&self, standing: &Standing, bytes: u64, random: u32) {
        if random % SAMPLED == 0 {
            self.note(standing, bytes.saturating_mul(SAMPLED.into()));
        }
    }
}

/// What is known of a row, by whoever steps.
#[derive(Debug)]
struct Learnt {
    /// Bytes per step that each bin offers.
    offered: Box<[f32]>,
    quiet: Box<[u8]>,
    salted_at: Nanos,
}

impl Learnt {
    fn new() -> Learnt {
        let offered = vec![0.0; BINS].into_boxed_slice();
        Learnt { offered, quiet: vec![QUIET_STEPS; BINS].into_boxed_slice(), salted_at: Nanos::default() }
    }

    fn forget(&mut self) {
        self.offered.fill(0.0);
        self.quiet.fill(QUIET_STEPS);
    }
}

/// Whoever steps: it moves the chances, and changes the salts.
#[derive(Debug)]
pub(crate) struct Learner {
    rows: [Learnt; 2],
    /// The next salt is made of it.
    salt: u64,
    /// Nothing has been learnt, as long as there was no cut.
    is_empty: bool,
}

impl Learner {
    pub(crate) fn new(seed: u64) -> Learner {
        Learner { rows: [Learnt::new(), Learnt::new()], salt: seed, is_empty: true }
    }

    /// There is no cut: nobody is refused, and what was known is forgotten.
    pub(crate) fn end(&mut self, fairness: &Fairness) {
        if std::mem::replace(&mut self.is_empty, true) {
            return;
        }
        for (own, row) in self.rows.iter_mut().zip(&fairness.rows) {
            own.forget();
            row.clear();
        }
    }

    /// An interval of the cut has ended, in which `bytes` could be let in.
    pub(crate) fn step(&mut self, fairness: &Fairness, now: Nanos, bytes: u64) {
        if std::mem::replace(&mut self.is_empty, false) {
            self.begin(fairness, now);
        }
        for (own, row) in self.rows.iter_mut().zip(&fairness.rows) {
            own.learn(row);
            own.move_chances(row, bytes as f32);
            let passed = now - own.salted_at;
            if passed >= SALTED_NS {
                self.salt = self.salt.wrapping_add(0x9e37_79b9_7f4a_7c15);
                // When it was due, however late this comes: so both never learn at once.
                own.salt(row, mixed(self.salt), own.salted_at + passed / SALTED_NS * SALTED_NS);
            }
            if now - own.salted_at >= LEARNS_NS {
                row.counts.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Both rows count at once: neither knows anything yet.
    fn begin(&mut self, fairness: &Fairness, now: Nanos) {
        for (index, (own, row)) in self.rows.iter_mut().zip(&fairness.rows).enumerate() {
            self.salt = self.salt.wrapping_add(0x9e37_79b9_7f4a_7c15);
            own.salt(row, mixed(self.salt), now);
            row.counts.store(true, Ordering::Relaxed);
            if index == 1 {
                own.salted_at = now + SALTED_NS / 2;
            }
        }
    }
}

impl Row {
    fn clear(&self) {
        self.offered.iter().for_each(|offered| offered.store(0, Ordering::Relaxed));
        self.chances.iter().for_each(|chance| chance.store(0, Ordering::Relaxed));
        self.allowances.iter().for_each(|allowance| allowance.store(UNBOUNDED, Ordering::Relaxed));
    }
}

impl Learnt {
    fn salt(&mut self, row: &Row, salt: u64, now: Nanos) {
        row.counts.store(false, Ordering::Relaxed);
        row.salt.store(salt, Ordering::Relaxed);
        row.clear();
        self.forget();
        self.salted_at = now;
    }

    fn learn(&mut self, row: &Row) {
        for (bin, offered) in row.offered.iter().enumerate() {
            let bytes =
                if offered.load(Ordering::Relaxed) == 0 { 0 } else { offered.swap(0, Ordering::Relaxed) };
            let quiet = &mut self.quiet[bin];
            if bytes > 0 {
                let (now, known) = (bytes as f32, self.offered[bin]);
                self.offered[bin] = if *quiet == QUIET_STEPS { now } else { known + (now - known) * NEW };
                *quiet = 0;
            } else if *quiet < QUIET_STEPS {
                self.offered[bin] /= 2.0;
                *quiet += 1;
                if *quiet == QUIET_STEPS {
                    self.offered[bin] = 0.0;
                    row.chances[bin].store(0, Ordering::Relaxed);
                    row.allowances[bin].store(UNBOUNDED, Ordering::Relaxed);
                }
            }
        }
    }

    fn move_chances(&self, row: &Row, bytes: f32) {
        let level = level(&self.offered, bytes);
        let part = |offered: f32| (level / offered).min(1.0);
        let active = || self.offered.iter().copied().filter(|&offered| offered > 0.0);
        // Of the one that is least above: what all have above their share is the cut's to refuse.
        let most = active().map(part).fold(0.0, f32::max);
        for (bin, (offered, chance)) in self.offered.iter().zip(&row.chances).enumerate() {
            if *offered == 0.0 {
                continue;
            }
            let is_above = *offered * most > level * ALLOWED;
            let allowed = if is_above { (level / most * ALLOWED) as i64 } else { UNBOUNDED };
            row.allowances[bin].store(allowed, Ordering::Relaxed);
            let wanted = (1.0 - part(*offered) / most) * WHOLE as f32;
            let wanted = (wanted.max(0.0) as u32).min(CHANCE_MAX);
            let before = u32::from(chance.load(Ordering::Relaxed));
            chance.store(((before + wanted) / 2) as u16, Ordering::Relaxed);
        }
    }
}

/// The most that each may have, so that all together have `bytes`.
fn level(offered: &[f32], bytes: f32) -> f32 {
    let (mut low, mut high) = (0.0f32, offered.iter().copied().fold(0.0, f32::max));
    // Whoever has no more than that is left alone: nobody is above it.
    if offered.iter().sum::<f32>() <= bytes {
        return high.max(1.0);
    }
    for _ in 0..24 {
        let middle = (low + high) / 2.0;
        if offered.iter().map(|offered| offered.min(middle)).sum::<f32>() > bytes {
            high = middle;
        } else {
            low = middle;
        }
    }
    high.max(1.0)
}

#[cfg(all(test, not(sawmill_loom)))]
mod tests {
    use super::super::STEP_NS;
    use super::*;

    /// Offers in each interval so many bytes of each tenant, as records of 1,000; what is let in is then thinned to `room`
    /// by the share that a controller would reckon.
    struct Walk {
        fairness: Fairness,
        learner: Learner,
        now: u64,
        share: f64,
        random: u64,
    }

    impl Walk {
        fn new(seed: u64) -> Walk {
            let (fairness, learner) = (Fairness::new(), Learner::new(seed));
            Walk { fairness, learner, now: 0, share: 1.0, random: seed }
        }

        fn random(&mut self) -> u32 {
            self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
            mixed(self.random) as u32
        }

        /// The bytes of each that were let in.
        fn interval(&mut self, tenants: &[(u64, u64)], room: u64) -> Vec<u64> {
            let mut passed = 0;
            let mut got = vec![0; tenants.len()];
            for (index, &(tenant, bytes)) in tenants.iter().enumerate() {
                for _ in 0..bytes / 1_000 {
                    let standing = self.fairness.standing(tenant);
                    let random = self.random();
                    if standing.is_refused(random) {
                        continue;
                    }
                    if !self.fairness.takes(&standing, 1_000) {
                        self.fairness.note_refused(&standing, 1_000, random >> 16);
                        continue;
                    }
                    passed += 1_000;
                    if f64::from(self.random() % 10_000) < self.share * 10_000.0 {
                        got[index] += 1_000;
                        self.fairness.note(&standing, 1_000);
                    } else {
                        self.fairness.note_refused(&standing, 1_000, random >> 16);
                    }
                }
            }
            self.now += STEP_NS;
            self.learner.step(&self.fairness, Nanos(self.now), room);
            self.share = (room as f64 / (passed as f64).max(1.0)).min(1.0);
            got
        }
    }

    const SHARE: u64 = 100_000;

    /// Nine at their share and one at ten times it: the nine have nine tenths of theirs within a second, and keep it
    /// while salts change, but for a moment in which two of them share a bin of the only row that counts.
    #[test]
    fn a_flood_of_one_takes_nothing_from_the_others() {
        for seed in 0..20 {
            let mut walk = Walk::new(seed);
            let mut tenants: Vec<_> = (1..10).map(|tenant| (tenant, SHARE)).collect();
            tenants.push((99, 10 * SHARE));
            let mut whole = 0;
            for step in 0..150 {
                let got = walk.interval(&tenants, 10 * SHARE);
                let others: u64 = got[..9].iter().sum();
                if step >= 9 {
                    let least = if step < 20 { 90 } else { 80 };
                    assert!(others >= 9 * SHARE * least / 100, "seed {seed}, step {step}: {got:?}");
                    // What they leave is the tenth's.
                    assert!(got[9] >= SHARE / 2, "seed {seed}, step {step}: {got:?}");
                    whole += others;
                }
            }
            assert!(whole >= 141 * 9 * SHARE * 93 / 100, "seed {seed}: {whole}");
        }
    }

    /// However fast one tries, in a loop or in many, the others keep theirs.
    #[test]
    fn a_tenant_that_tries_in_a_loop_gets_no_more_than_one_that_does_not() {
        for times in [100, 1_000, 20_000] {
            let mut walk = Walk::new(times);
            let tenants = [(1, SHARE), (2, SHARE), (3, SHARE), (99, times * SHARE)];
            let intervals = if times > 1_000 { 25 } else { 60 };
            for step in 0..intervals {
                let got = walk.interval(&tenants, 10 * SHARE);
                let others: u64 = got[..3].iter().sum();
                assert!(step < 9 || others >= 3 * SHARE * 80 / 100, "{times} times, step {step}: {got:?}");
                assert!(step < 9 || got[3] >= 3 * SHARE, "{times} times, step {step}: {got:?}");
            }
        }
    }

    /// Steps that come late do not bring the rows' salts together: one of them counts at any time.
    #[test]
    fn rows_never_learn_at_once() {
        let mut walk = Walk::new(11);
        for step in 0..20_000 {
            walk.interval(&[(1, 2_000)], 1_000);
            walk.now += u64::from(walk.random()) % (STEP_NS / 4);
            let count = walk.fairness.rows.iter().filter(|row| row.counts.load(Ordering::Relaxed)).count();
            assert!(count > 0, "step {step}");
        }
        // And where none did, nobody would be refused.
        walk.fairness.rows.iter().for_each(|row| row.counts.store(false, Ordering::Relaxed));
        assert_eq!(walk.fairness.standing(1).chance, 0);
    }

    /// Tenants that are equally far above their share, or one alone, are left to the cut.
    #[test]
    fn equals_are_not_refused_for_fairness() {
        for count in [1, 2, 10] {
            let mut walk = Walk::new(7);
            let tenants: Vec<_> = (0..count).map(|tenant| (tenant, 10 * SHARE)).collect();
            for _ in 0..60 {
                walk.interval(&tenants, count * SHARE);
            }
            for (tenant, _) in tenants {
                let chance = walk.fairness.standing(tenant).chance;
                assert!(chance < WHOLE / 4, "{count} tenants: {chance} of {WHOLE}");
            }
        }
    }

    #[test]
    fn who_stops_is_forgiven_within_a_second() {
        let mut walk = Walk::new(3);
        let both = [(1, SHARE), (2, 20 * SHARE)];
        for _ in 0..20 {
            walk.interval(&both, 2 * SHARE);
        }
        assert!(walk.fairness.standing(2).chance > WHOLE / 2);
        for _ in 0..11 {
            walk.interval(&both[..1], 2 * SHARE);
        }
        assert_eq!(walk.fairness.standing(2).chance, 0);
        walk.learner.end(&walk.fairness);
        assert_eq!(walk.fairness.standing(1).chance, 0);
    }

    #[test]
    fn the_level_divides_what_there_is() {
        assert_eq!(level(&[1.0, 2.0, 3.0], 10.0), 3.0);
        let found = level(&[1.0, 8.0, 9.0], 11.0);
        assert!((found - 5.0).abs() < 0.01, "{found}");
        assert_eq!(level(&[0.0; 4], 0.0), 1.0);
    }
}
