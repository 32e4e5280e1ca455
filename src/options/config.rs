//! The checked settings, and the limits that they are held against. What is not set: `defaults.rs`.

use std::sync::Arc;
use std::time::Duration;

use super::record_limit::record_limit;
use super::{Backend, OnDamage, Options, Watch, defaults};
use crate::committer::SealThreshold;
use crate::device::{Device, RealDevice};
use crate::error::OpenError;
use crate::format::GRANULE;
use crate::segment::is_name;
#[cfg(feature = "tokio-uring")]
use crate::shard::Drive;
use crate::shard::{IndexConfig, SpaceConfig};
use crate::time::nanos;
use crate::write::Durability;

/// The most shards that a log can have.
pub(crate) const SHARDS_MAX: u16 = 1024;
const _: () = assert!(
    SHARDS_MAX < crate::router::MOVING,
    "a shard number leaves room for the mark of a slot that moves"
);
/// A block's offset has 24 bits in units of eight bytes; 16 MiB leaves room and is past all use.
const BLOCK_BYTES_MAX: u32 = 16 << 20;
const SEGMENT_BYTES_MIN: u64 = 1 << 20;
const SEGMENT_BYTES_MAX: u64 = 1 << 40;
const MEMORY_BYTES_MIN: u64 = 1 << 20;
/// With fewer blocks one would be written while none can be filled.
const BLOCKS_MIN: u64 = 4;
const INDEX_BYTES_MIN: u64 = 256 << 10;
const INDEX_BYTES_MAX: u64 = 1 << 40;

/// Less than this a thread that has to wake up takes; more is no bound.
const DELAY_TARGETS: std::ops::RangeInclusive<Duration> =
    Duration::from_micros(100)..=Duration::from_secs(10);

/// Some gigabytes of memory.
const DEDUP_IDS_MAX: usize = 1 << 24;
/// To open a file costs a fraction of what it costs to read a window of it.
const OPEN_FILES_MAX: u64 = 64;

/// Constants of the engine: nobody needs to set them, and the simulator draws others. Times in nanoseconds.
#[derive(Clone, Debug)]
pub(crate) struct Tuning {
    /// Writes in flight on one device, divided between its shards...
    pub device_depth: u32,
    /// ... of which each has so many.
    pub shard_depth_min: u32,
    pub seal_threshold: SealThreshold,
    pub background_ns: u64,
    pub marker_delay_ns: u64,
    pub marker_interval_ns: u64,
    /// The first segments of all shards together; later ones grow to `segment_bytes` with the log, so that one
    /// with a single record in it does not take a quarter of a gigabyte.
    pub first_segments_bytes: u64,
    pub first_segment_bytes_min: u64,
    /// What scans read at a time.
    pub read_bytes: usize,
    /// Blocks are numbered from the one behind it, in each open anew.
    pub blocks_before: u64,
    /// So much of the log is indexed at once.
    pub index_run_bytes: u64,
}

/// Files of each shard that stay open to be read: of all that the process may have open, a quarter for all shards.
pub(crate) fn open_files(shards: u16) -> usize {
    let share = crate::device::descriptors_max().map_or(u64::MAX, |most| most / 4 / u64::from(shards));
    share.min(OPEN_FILES_MAX) as usize
}

impl Options {
    pub(crate) fn layout(&self) -> Result<Layout, OpenError> {
        let shards = self.shards.unwrap_or_else(defaults::shards);
        let in_simulation = self.device.as_ref().is_some_and(|device| !device.threaded());
        let invalid = |option, reason: String| Err(OpenError::InvalidOption { option, reason });
        if !(1..=SHARDS_MAX).contains(&shards) {
            return invalid("shards", format!("{shards} is not within 1..={SHARDS_MAX}"));
        }
        let block_bytes = self.block_bytes.unwrap_or(defaults::BLOCK_BYTES);
        if block_bytes == 0 || block_bytes > BLOCK_BYTES_MAX || u64::from(block_bytes) % GRANULE != 0 {
            let reason = format!("{block_bytes} is not a multiple of {GRANULE} up to {BLOCK_BYTES_MAX}");
            return invalid("block_bytes", reason);
        }
        let segment_bytes = self.segment_bytes.unwrap_or_else(|| defaults::segment_bytes(block_bytes));
        let least =
            if in_simulation { GRANULE * 4 } else { SEGMENT_BYTES_MIN }.max(u64::from(block_bytes) * 2);
        if !(least..=SEGMENT_BYTES_MAX).contains(&segment_bytes) || segment_bytes % GRANULE != 0 {
            let reason = format!(
                "{segment_bytes} is not a multiple of {GRANULE} within {least}..={SEGMENT_BYTES_MAX}"
            );
            return invalid("segment_bytes", reason);
        }
        let directories = self.directories.clone().unwrap_or_default();
        if self
            .directories
            .as_ref()
            .is_some_and(|directories| directories.is_empty() || directories.len() > usize::from(shards))
        {
            return invalid("directories", "there must be at least one, and at most one per shard".into());
        }
        let mut names = Vec::new();
        for directory in directories {
            let Some(name) = directory.to_str().filter(|_| directory.is_absolute()) else {
                return invalid(
                    "directories",
                    format!("{} is not an absolute path in UTF-8", directory.display()),
                );
            };
            names.push(name.to_owned());
        }
        Ok(Layout { shards, block_bytes, segment_bytes, directories: names })
    }

    /// An error if what was set contradicts what is there.
    pub(crate) fn check_against(&self, there: &Layout) -> Result<(), OpenError> {
        let check = |option, set: Option<u64>, there: u64| match set {
            Some(asked) if asked != there => {
                Err(OpenError::Incompatible { option, there: there.to_string(), asked: asked.to_string() })
            }
            _ => Ok(()),
        };
        check("shards", self.shards.map(u64::from), u64::from(there.shards))?;
        check("block_bytes", self.block_bytes.map(u64::from), u64::from(there.block_bytes))?;
        check("segment_bytes", self.segment_bytes, there.segment_bytes)?;
        let asked = self
            .directories
            .as_ref()
            .map(|asked| asked.iter().map(|path| path.to_string_lossy().into_owned()).collect::<Vec<_>>());
        match asked {
            Some(asked) if asked != there.directories => Err(OpenError::Incompatible {
                option: "directories",
                there: format!("{:?}", there.directories),
                asked: format!("{asked:?}"),
            }),
            _ => Ok(()),
        }
    }

    /// The checked settings of a log with this layout. Below this nobody checks again.
    pub(crate) fn config(&self, layout: &Layout) -> Result<Config, OpenError> {
        let in_simulation = self.device.as_ref().is_some_and(|device| !device.threaded());
        let invalid = |option, reason: String| Err(OpenError::InvalidOption { option, reason });
        let block_bytes = u64::from(layout.block_bytes);
        let least = if in_simulation { 0 } else { MEMORY_BYTES_MIN }.max(block_bytes * BLOCKS_MIN);
        let memory_bytes = self.memory_bytes.unwrap_or_else(|| defaults::memory_bytes(layout.shards, least));
        if memory_bytes < least || memory_bytes > 1 << 40 {
            return invalid(
                "memory_bytes",
                format!("{memory_bytes} is less than {least}, or more than 1 TiB"),
            );
        }
        // A simulated machine asks nothing of the real one.
        let machine = if in_simulation { u64::MAX } else { crate::device::memory_limit() };
        if memory_bytes.saturating_mul(layout.shards.into()) > machine {
            let reason = format!(
                "{} shards with {memory_bytes} bytes each need more than this process may have, {machine} (the \
                 machine's, or by the limit of a control group)",
                layout.shards
            );
            return invalid("memory_bytes", reason);
        }
        if let Some(name) = self.retain_for.iter().find(|name| !is_name(name)) {
            let reason = format!("`{name}` is no name for a consumer or a queue");
            return invalid("retain_for", reason);
        }
        let blocks = u32::try_from(memory_bytes / block_bytes).unwrap_or(u32::MAX);
        let (record_bytes, record_limit) =
            record_limit(self.record_bytes, u64::from(blocks), block_bytes, layout.segment_bytes)?;
        let tuning = self.tuning();
        Ok(Config {
            shards: layout.shards,
            block_bytes: layout.block_bytes,
            space: SpaceConfig {
                segment_bytes: layout.segment_bytes,
                first_segment_bytes: (tuning.first_segments_bytes / u64::from(layout.shards))
                    .clamp(tuning.first_segment_bytes_min, 4 << 20)
                    .min(layout.segment_bytes)
                    .next_multiple_of(GRANULE),
                retain_bytes: self.retain_bytes,
                retain_ns: self.retain_age.map(nanos),
            },
            index: self.index_config(&tuning)?,
            blocks,
            read_bytes: tuning.read_bytes,
            open_files: if in_simulation { 2 } else { open_files(layout.shards) },
            blocks_before: tuning.blocks_before,
            record_bytes,
            record_limit,
            durability: self.durability,
            backend: self.backend,
            pin_threads: self.pin_threads,
            on_damage: self.on_damage,
            retain_for: self.retain_for.clone(),
            delay_target: self.checked_delay_target()?,
            watch: self.watch.clone(),
            #[cfg(feature = "tokio-uring")]
            drive: self.drive.clone(),
        })
    }

    fn checked_delay_target(&self) -> Result<Option<Duration>, OpenError> {
        if self.delay_target.is_some_and(|target| !DELAY_TARGETS.contains(&target)) {
            let [least, most] = [DELAY_TARGETS.start(), DELAY_TARGETS.end()];
            let reason =
                format!("{:?} is not within {least:?} and {most:?}", self.delay_target.unwrap_or_default());
            return Err(OpenError::InvalidOption { option: "delay_target", reason });
        }
        Ok(self.delay_target)
    }

    fn index_config(&self, tuning: &Tuning) -> Result<IndexConfig, OpenError> {
        let bytes = self.index_bytes.unwrap_or(defaults::INDEX_BYTES);
        if !(INDEX_BYTES_MIN..=INDEX_BYTES_MAX).contains(&bytes) {
            let reason = format!("{bytes} is less than {INDEX_BYTES_MIN}, or more than {INDEX_BYTES_MAX}");
            return Err(OpenError::InvalidOption { option: "index_bytes", reason });
        }
        let memory_bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        let ids_max = self.dedup_ids.unwrap_or(defaults::DEDUP_IDS);
        if ids_max > DEDUP_IDS_MAX {
            let reason = format!("{ids_max} is more than {DEDUP_IDS_MAX}");
            return Err(OpenError::InvalidOption { option: "dedup_ids", reason });
        }
        Ok(IndexConfig { on: !self.index_off, ids_max, run_bytes: tuning.index_run_bytes, memory_bytes })
    }

    pub(crate) fn wants_durable(&self) -> bool {
        self.require_durable
    }

    /// Whether a log may be made.
    pub(crate) fn makes(&self) -> bool {
        !self.finds_only
    }

    pub(crate) fn is_relocated(&self) -> bool {
        self.relocated
    }

    pub(crate) fn tuning(&self) -> Tuning {
        #[cfg(any(test, feature = "simulation"))]
        if let Some(tuning) = &self.tuning {
            return tuning.clone();
        }
        Tuning::default()
    }

    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn tuned(mut self, tuning: Tuning) -> Options {
        self.tuning = Some(tuning);
        self
    }

    /// On this device in place of the real one.
    #[cfg(any(test, feature = "simulation", feature = "ceiling"))]
    pub(crate) fn on_device(mut self, device: Arc<dyn Device>) -> Options {
        self.device = Some(device);
        self
    }

    pub(crate) fn chosen_device(&self) -> Arc<dyn Device> {
        self.device.clone().unwrap_or_else(|| match self.backend {
            Backend::Syscall => Arc::new(RealDevice::without_uring()),
            _ => Arc::new(RealDevice::new()),
        })
    }
}

/// What a log is made with and keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub shards: u16,
    pub block_bytes: u32,
    pub segment_bytes: u64,
    pub directories: Vec<String>,
}

/// Settings that have been checked.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub shards: u16,
    pub block_bytes: u32,
    pub space: SpaceConfig,
    pub index: IndexConfig,
    /// Blocks of each shard's pool.
    pub blocks: u32,
    /// What scans read at a time.
    pub read_bytes: usize,
    /// Files of each shard that stay open to be read.
    pub open_files: usize,
    /// The last number that no block gets.
    pub blocks_before: u64,
    pub record_bytes: u64,
    /// The option that sets `record_bytes`.
    pub record_limit: &'static str,
    pub durability: Durability,
    pub backend: Backend,
    pub pin_threads: bool,
    pub on_damage: OnDamage,
    /// Names that truncation and retention wait for.
    pub retain_for: Vec<String>,
    /// `None`: by what a commit takes.
    pub delay_target: Option<Duration>,
    pub watch: Option<Watch>,
    #[cfg(feature = "tokio-uring")]
    pub drive: Option<Drive>,
}
