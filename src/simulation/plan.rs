//! What a history does: a value, so that it can be drawn from a seed, made from a fuzzer's bytes,
//! printed and shrunk.

use std::fmt;

use crate::committer::SealThreshold;
use crate::device::sim::{Faults, Random};
use crate::options::Tuning;

/// One step. Its details come from `draw` alone, so that taking other steps away changes none.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step {
    pub kind: Kind,
    pub draw: u64,
}

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Append,
    Batch,
    /// A batch is accepted, and the other steps go on while it is under way.
    BatchPending,
    WaitForOne,
    LookAtAll,
    Sync,
    Read,
    /// A follower takes what has come since it was last asked.
    Follow,
    /// Somebody reads the files of the open log.
    ReadBeside,
    /// Somebody asks where a time begins, and reads from there.
    Seek,
    /// Somebody reads or follows a key, or asks for its last record.
    ReadKey,
    /// A record or a batch is appended on a condition, with an id, or both.
    UnderTerms,
    /// A batch of records with a key each.
    KeyedBatch,
    Turn,
    Idle,
    StepWall,
    TruncateBefore,
    TruncateAfter,
    Consume,
    /// A producer that opens a block is overtaken, and the block is closed without a record.
    LeaveVoid,
    /// A producer is interrupted between reservation and copy, and others go on.
    Interrupted,
    /// The machine stops a few steps of its own later.
    Stop,
    /// The log ends, in one of the ways in which logs end, and is opened again.
    End,
}

impl Kind {
    const ALL: [Kind; 23] = [
        Kind::Append,
        Kind::Batch,
        Kind::WaitForOne,
        Kind::LookAtAll,
        Kind::Sync,
        Kind::Read,
        Kind::Turn,
        Kind::Idle,
        Kind::StepWall,
        Kind::TruncateBefore,
        Kind::TruncateAfter,
        Kind::Consume,
        Kind::Stop,
        Kind::End,
        Kind::LeaveVoid,
        Kind::Interrupted,
        Kind::BatchPending,
        Kind::Follow,
        Kind::ReadBeside,
        Kind::Seek,
        Kind::ReadKey,
        Kind::UnderTerms,
        Kind::KeyedBatch,
    ];
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}:{:x}", self.kind, self.draw)
    }
}

/// Something that no honest disk does; at most one in a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    /// A write that completes and never reaches the disk.
    LostWrite,
    /// A write that lands elsewhere in its file.
    MisdirectedWrite,
    /// A bit that changes while the machine is off.
    Rot,
    /// A sector that cannot be read any more.
    Unreadable,
    /// A segment file that is gone.
    VanishedSegment,
    /// Both copies of a shard's manifest as they were some time ago.
    StaleManifest,
    /// The same, as they were in the middle of the life that ends now.
    OlderManifest,
}

/// The plan of a history: its options, odds, faults and steps.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub seed: u64,
    pub shards: u16,
    pub block_bytes: u32,
    pub segment_bytes: u64,
    pub memory_bytes: u64,
    pub record_bytes: Option<u64>,
    pub tuning: Tuning,
    /// Each shard lies in a directory of its own.
    pub spread: bool,
    /// The file system of the last shard does not honour synchronous writes.
    pub deaf: bool,
    /// How often an open is interrupted, per mille.
    pub crash_in_open: u32,
    pub large: u32,
    pub faults: Faults,
    /// What is done to the disk, and at which write or end.
    pub damage: Option<(Damage, u64)>,
    pub steps: Vec<Step>,
}

impl Plan {
    #[cfg(test)]
    /// The history of a seed. Odds are drawn too, so that some histories have many crashes and no
    /// errors, and others the reverse (swarm testing; Groce et al., ISSTA 2012).
    pub(crate) fn draw(seed: u64) -> Plan {
        let mut random = Random::new(seed);
        let mut plan = Plan::setup(&mut random);
        let mut weights = [40, 6, 8, 8, 6, 6, 10, 4, 3, 3, 3, 4, 4, 4, 4, 6, 6, 8, 4, 4, 6, 12, 6];
        for weight in &mut weights {
            *weight = *random.pick(&[0, *weight, *weight, *weight * 2]);
        }
        weights[0] = weights[0].max(20);
        let total: u64 = weights.iter().sum();
        for _ in 0..100 + random.below(80) {
            let mut at = random.below(total);
            let mut index = 0;
            while at >= weights[index] {
                at -= weights[index];
                index += 1;
            }
            plan.steps.push(Step { kind: Kind::ALL[index], draw: random.next() });
        }
        plan
    }

    fn setup(random: &mut Random) -> Plan {
        let rare =
            |random: &mut Random, most: u64| if random.below(2) == 0 { 0 } else { random.below(most) as u32 };
        let block_bytes = *random.pick(&[4096, 4096, 8192, 16384]);
        let segment_bytes = (u64::from(block_bytes) * *random.pick(&[4, 5, 8, 16])).max(16384);
        let faults = Faults {
            write_error: rare(random, 8),
            sync_error: rare(random, 20),
            no_space: rare(random, 200),
            call_error: rare(random, 6),
            read_error: rare(random, 10),
            short: rare(random, 300),
            stuck: rare(random, 20),
            linger: rare(random, 1000),
            latency_ns_max: *random.pick(&[1, 1_000, 100_000, 20_000_000]),
            write_through: random.below(3) > 0,
            ..Faults::default()
        };
        let kinds = [
            Damage::LostWrite,
            Damage::MisdirectedWrite,
            Damage::Rot,
            Damage::Rot,
            Damage::Unreadable,
            Damage::VanishedSegment,
            Damage::StaleManifest,
            Damage::OlderManifest,
        ];
        let damage = (random.below(3) == 0).then(|| (*random.pick(&kinds), random.next()));
        // A failed sync loses data as well, which would be a second fault.
        let faults = if damage.is_some() {
            Faults { call_error: 0, read_error: 0, write_error: 0, sync_error: 0, ..faults }
        } else {
            faults
        };
        let seed = random.next();
        let mut plan = Plan {
            seed,
            shards: 1 + random.below(2) as u16,
            block_bytes,
            segment_bytes,
            memory_bytes: u64::from(block_bytes) * *random.pick(&[4, 6, 16]),
            record_bytes: (random.below(4) == 0).then(|| 1 + random.below(1_000)),
            tuning: Tuning {
                blocks_before: blocks_before(seed),
                // From the seed, so that the others are what they were.
                index_run_bytes: [4096, 12288, 40960][seed as usize % 3],
                ..draw_tuning(random)
            },
            crash_in_open: random.below(600) as u32,
            large: rare(random, 300),
            faults,
            damage,
            spread: false,
            deaf: false,
            steps: Vec::new(),
        };
        plan.spread = random.below(3) == 0;
        plan.deaf = plan.spread && random.below(2) == 0;
        plan.faults.reserves = random.below(4) > 0;
        // From the seed, so that the others are what they were.
        plan.faults.flush_error = if damage.is_none() && seed % 8 == 0 { 25 } else { 0 };
        plan.faults.shared = if damage.is_none() && seed % 8 == 1 { 60 } else { 0 };
        plan
    }

    /// A history that a fuzzer chose: eight bytes for the setup, then three bytes a step.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Plan {
        let (head, rest) = bytes.split_at(bytes.len().min(8));
        let seed = head.iter().fold(0, |seed, &byte| seed << 8 | u64::from(byte));
        let mut plan = Plan::setup(&mut Random::new(seed));
        for step in rest.chunks_exact(3).take(400) {
            let kind = Kind::ALL[usize::from(step[0]) % Kind::ALL.len()];
            let draw = Random::new(u64::from(step[1]) << 8 | u64::from(step[2])).next();
            plan.steps.push(Step { kind, draw });
        }
        plan
    }

    /// The shortest history that still fails, by taking stretches of steps away for as long as that
    /// helps (Zeller's delta debugging, without the refinement).
    pub(crate) fn shrink(&self, fails: impl Fn(&Plan) -> bool) -> Plan {
        let mut best = self.clone();
        for setting in 0..16 {
            let mut simpler = best.clone();
            match setting {
                0 => simpler.crash_in_open = 0,
                1 => simpler.large = 0,
                2 => simpler.shards = 1,
                3 => simpler.damage = None,
                4 => simpler.faults.no_space = 0,
                5 => simpler.faults.short = 0,
                6 => simpler.faults.stuck = 0,
                7 => simpler.faults.linger = 0,
                8 => simpler.faults.call_error = 0,
                9 => simpler.faults.read_error = 0,
                10 => simpler.record_bytes = None,
                11 => (simpler.spread, simpler.deaf) = (false, false),
                12 => simpler.faults.reserves = true,
                13 => simpler.faults.flush_error = 0,
                14 => simpler.faults.shared = 0,
                _ => simpler.tuning = Tuning::default(),
            }
            if fails(&simpler) {
                best = simpler;
            }
        }
        let mut stretch = best.steps.len() / 2;
        while stretch > 0 {
            let mut at = 0;
            while at < best.steps.len() {
                let mut shorter = best.clone();
                shorter.steps.drain(at..(at + stretch).min(best.steps.len()));
                if fails(&shorter) {
                    best = shorter;
                } else {
                    at += stretch;
                }
            }
            stretch /= 2;
        }
        best
    }
}

/// Where the numbers of blocks begin, mostly just before their low bits begin again at 0.
fn blocks_before(seed: u64) -> u64 {
    [0, (1 << 39) - 2, (1 << 39) - 20, (1 << 39) - 150, (7 << 39) - 60][seed as usize % 5]
}

/// The engine's constants, down to absurd ones.
fn draw_tuning(random: &mut Random) -> Tuning {
    if random.below(3) == 0 {
        return Tuning::default();
    }
    Tuning {
        device_depth: *random.pick(&[1, 2, 3, 16, 64]),
        shard_depth_min: *random.pick(&[1, 1, 2, 5]),
        seal_threshold: *random.pick(&[
            SealThreshold { numerator: 0, denominator: 1 },
            SealThreshold { numerator: 1, denominator: 2 },
            SealThreshold { numerator: 100, denominator: 1 },
        ]),
        background_ns: *random.pick(&[0, 1, 10_000_000, 3_000_000_000]),
        marker_delay_ns: *random.pick(&[0, 20_000_000, 5_000_000_000]),
        marker_interval_ns: *random.pick(&[0, 1_000_000_000, 3_600_000_000_000]),
        first_segments_bytes: *random.pick(&[4096, 65536, 16 << 20]),
        first_segment_bytes_min: *random.pick(&[4096, 65536]),
        read_bytes: *random.pick(&[4096, 8192, 20480, 65536]),
        blocks_before: 0,
        index_run_bytes: 0,
    }
}
