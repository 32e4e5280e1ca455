//! What a log is opened with, and the limits that follow from it.

use std::path::{Path, PathBuf};

use crate::committer::Ripe;
use crate::device::{Device, RealDevice};
use crate::error::OpenError;
use crate::format::{BLOCK_HEADER_BYTES, GRANULE, RECORD_HEADER_BYTES};
use crate::log::Log;
use crate::shard::SpaceConfig;
#[cfg(feature = "tokio-uring")]
use crate::shard::{Drive, ShardDriver};
use crate::watch::{OnStuck, Stuck, Watch};
use std::sync::Arc;
use std::time::Duration;

/// How far an append must have got before its [`Commit`](crate::Commit) says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Durability {
    /// Accepted into memory. Survives nothing; written and synced in the background within 10 ms
    /// and 20 ms.
    Buffered,
    /// Written to the device. Survives the process, not a power cut; synced in the background.
    Written,
    /// Durable: survives a power cut, as far as the device honours a completed flush.
    #[default]
    Synced,
}

/// Which records are refused first when a shard fills up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Priority {
    /// Accepted up to half of the shard's memory.
    Low,
    /// Accepted up to seven eighths of it.
    #[default]
    Normal,
    /// Accepted while there is any.
    High,
}

/// How the log talks to the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Backend {
    /// io_uring where it is to be had, plain system calls elsewhere.
    #[default]
    Auto,
    /// io_uring, or an error from `open`.
    Uring,
    /// Plain system calls.
    Syscall,
}

/// What to do with a log that is damaged in what an open must read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OnDamage {
    /// [`OpenError::Damaged`], and nothing is changed. What is readable can be read by
    /// [`Log::open_read_only`].
    #[default]
    Refuse,
    /// Open it to be read. Nothing of it is changed or given up: every append, truncation and consumer gets
    /// [`AppendError::ShardFailed`](crate::AppendError::ShardFailed) or its like, and readers get
    /// [`ReadError::Damaged`](crate::ReadError::Damaged) for the damaged stretch and go on behind it. Beside
    /// an owner, or without the lock, [`Log::open_read_only`] does the same with less.
    ReadOnly,
    /// Leave the damaged stretch where it is and go on behind everything that was ever durable. Readers
    /// get [`ReadError::Damaged`](crate::ReadError::Damaged) for it; a line of the log says so.
    Continue,
}

/// The most shards that a log can have.
pub(crate) const SHARDS_MAX: u16 = 1024;
/// 256 KiB: with huge pages as good as anything larger, at half the latency of the next size.
const BLOCK_BYTES: u32 = 256 << 10;
/// A block's offset has 24 bits in units of eight bytes; 16 MiB leaves room and is past all use.
const BLOCK_BYTES_MAX: u32 = 16 << 20;
const SEGMENT_BYTES: u64 = 256 << 20;
const SEGMENT_BYTES_MIN: u64 = 1 << 20;
const SEGMENT_BYTES_MAX: u64 = 1 << 40;
const MEMORY_BYTES: u64 = 64 << 20;
const MEMORY_BYTES_MIN: u64 = 1 << 20;
/// With fewer blocks one would be written while none can be filled.
const BLOCKS_MIN: u64 = 4;
const RECORD_BYTES: u64 = 16 << 20;

/// Constants of the engine: nobody needs to set them, and the simulator draws others. Times in nanoseconds.
#[derive(Clone, Debug)]
pub(crate) struct Tuning {
    /// Writes in flight on one device, divided between its shards...
    pub device_depth: u32,
    /// ... of which each has so many.
    pub shard_depth_min: u32,
    pub ripe: Ripe,
    pub background_ns: u64,
    pub marker_delay_ns: u64,
    pub marker_interval_ns: u64,
    /// The first segments of all shards together; later ones grow to `segment_bytes` with the log, so that one
    /// with a single record in it does not take a quarter of a gigabyte.
    pub first_segments_bytes: u64,
    pub first_segment_bytes_min: u64,
    /// What scans read at a time.
    pub read_bytes: usize,
}

impl Default for Tuning {
    fn default() -> Tuning {
        Tuning {
            device_depth: 16,
            shard_depth_min: 2,
            ripe: Ripe { numerator: 1, denominator: 2 },
            background_ns: 10_000_000,
            marker_delay_ns: 20_000_000,
            marker_interval_ns: 1_000_000_000,
            first_segments_bytes: 16 << 20,
            first_segment_bytes_min: 64 << 10,
            read_bytes: crate::segment::READ_BYTES,
        }
    }
}

/// How to open a log. Every option has a default; an existing log keeps the layout (`shards`,
/// `segment_bytes`, `block_bytes`, `directories`) that it was made with.
///
/// ```
/// use sawmill::{Durability, Options};
/// # let dir = tempfile::tempdir()?;
/// let log = Options::new().shards(2).durability(Durability::Written).open(dir.path())?;
/// log.append(b"payload").wait()?;
/// log.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Options {
    shards: Option<u16>,
    segment_bytes: Option<u64>,
    block_bytes: Option<u32>,
    memory_bytes: Option<u64>,
    record_bytes: Option<u64>,
    durability: Durability,
    backend: Backend,
    pin_threads: bool,
    require_durable: bool,
    on_damage: OnDamage,
    retain_bytes: Option<u64>,
    retain_age: Option<Duration>,
    watch: Option<Watch>,
    #[cfg(feature = "tokio-uring")]
    drive: Option<Drive>,
    directories: Option<Vec<PathBuf>>,
    device: Option<Arc<dyn Device>>,
    #[cfg(any(test, feature = "simulation"))]
    tuning: Option<Tuning>,
}

impl Options {
    /// The defaults.
    #[must_use]
    pub fn new() -> Options {
        Options::default()
    }

    /// How many shards the log has, 1 to 1024; by default one per available core.
    #[must_use]
    pub fn shards(mut self, shards: u16) -> Options {
        self.shards = Some(shards);
        self
    }

    /// The largest segment file, in bytes; 256 MiB by default, 1 MiB at least. Space is freed by
    /// segment. The first ones are smaller, 4 MiB or less; they double as the log grows, sooner where they fill faster
    /// than new ones can be made.
    #[must_use]
    pub fn segment_bytes(mut self, bytes: u64) -> Options {
        self.segment_bytes = Some(bytes);
        self
    }

    /// The largest block, in bytes: what one write carries at most. 256 KiB by default, 4 KiB to
    /// 16 MiB, a multiple of 4 KiB.
    #[must_use]
    pub fn block_bytes(mut self, bytes: u32) -> Options {
        self.block_bytes = Some(bytes);
        self
    }

    /// Memory per shard for records that are not written yet, in bytes: the queue's bound. At least
    /// 1 MiB and four blocks; by default 64 MiB, or less so that all shards together take at most a
    /// sixteenth of the machine's memory. Taken at open.
    #[must_use]
    pub fn memory_bytes(mut self, bytes: u64) -> Options {
        self.memory_bytes = Some(bytes);
        self
    }

    /// The largest record (key and payload) or batch, in bytes; 16 MiB by default, or less where
    /// `memory_bytes` or `segment_bytes` force it.
    #[must_use]
    pub fn record_bytes(mut self, bytes: u64) -> Options {
        self.record_bytes = Some(bytes);
        self
    }

    /// The durability of an append that does not say its own; [`Durability::Synced`] by default.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Options {
        self.durability = durability;
        self
    }

    /// How the log talks to the kernel; [`Backend::Auto`] by default.
    #[must_use]
    pub fn backend(mut self, backend: Backend) -> Options {
        self.backend = backend;
        self
    }

    /// Keeps each shard's thread on one CPU; off by default, since a server's own threads want
    /// CPUs too.
    #[must_use]
    pub fn pin_threads(mut self, pin: bool) -> Options {
        self.pin_threads = pin;
        self
    }

    /// Makes it an error of `open` if what is synced does not survive a power cut (tmpfs), in the log's own directory or
    /// where any of its shards lies.
    #[must_use]
    pub fn require_durable(mut self, require: bool) -> Options {
        self.require_durable = require;
        self
    }

    /// What to do if the log is damaged in what must be read to open it; [`OnDamage::Refuse`] by default.
    #[must_use]
    pub fn on_damage(mut self, on_damage: OnDamage) -> Options {
        self.on_damage = on_damage;
        self
    }

    /// Calls `act` while the device has not answered a shard's oldest write or sync for `after`: about once a
    /// second while that lasts, for `after` below four seconds more often. What it answers is done.
    ///
    /// By default nothing is called: a line of the log tells of ten seconds, and `stats()` of any time
    /// ([`ShardStats::oldest_operation`](crate::ShardStats::oldest_operation)). After [`OnStuck::Fail`] the
    /// operation is still in the kernel's hands: to close or drop the log waits for it, and so does a caller
    /// that writes it itself (a blocking one on an idle shard). A handle of the log that `act` keeps keeps the log open. `act` runs on a thread that all shards of the log
    /// share: what takes long holds up the making of segments, and [`Log::close`] is refused there
    /// ([`CloseError::OwnThread`](crate::CloseError::OwnThread)). A panic in it counts as [`OnStuck::Wait`]. A log
    /// on a simulated machine has no such thread, and calls nothing.
    ///
    /// ```
    /// use std::time::Duration;
    /// use sawmill::{OnStuck, Options};
    /// let options = Options::new().on_stuck(Duration::from_secs(5), |stuck| {
    ///     eprintln!("{stuck}");
    ///     if stuck.age > Duration::from_secs(60) { OnStuck::Fail } else { OnStuck::Wait }
    /// });
    /// ```
    #[must_use]
    pub fn on_stuck(
        mut self,
        after: Duration,
        act: impl Fn(Stuck) -> OnStuck + Send + Sync + 'static,
    ) -> Options {
        self.watch = Some(Watch { after, act: Arc::new(act) });
        self
    }

    /// Has the shards turned by the application's own tokio-uring runtimes, one per core, in place of threads of
    /// the log's own: a task that appends to a shard of its own thread commits without a thread hop.
    ///
    /// `drive` is called while the log is opened, once for each shard, with what turns it: to be run in a
    /// runtime of the application's choice ([`ShardDriver::run`]), by way of a channel where that belongs to
    /// another thread. Then [`backend`](Options::backend) and [`pin_threads`](Options::pin_threads) count for
    /// nothing. Segments are still made ready by a thread of the log's own.
    ///
    /// ```
    /// # if tokio_uring_works() {
    /// use sawmill::{Options, ShardDriver};
    /// # let dir = tempfile::tempdir()?;
    /// tokio_uring::start(async {
    ///     let drive = |driver: ShardDriver| drop(tokio_uring::spawn(driver.run()));
    ///     let log = Options::new().shards(1).drive(drive).open(dir.path())?;
    ///     let position = log.append(b"from this core").await?;
    ///     assert_eq!(log.get(position)?.payload(), b"from this core");
    ///     log.close_async().await?; // before the runtime ends
    ///     Ok::<(), Box<dyn std::error::Error>>(())
    /// })?;
    /// # }
    /// # fn tokio_uring_works() -> bool { std::panic::catch_unwind(|| tokio_uring::start(async {})).is_ok() }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// Limits. A thread that turns a shard must not block for one, which gets
    /// [`AppendError::OwnThread`](crate::AppendError::OwnThread) or its like; other threads may. Opening, truncating
    /// and reading block for the disk, as they always do. [`Log::close`] waits for the drivers, which must be run. The last handle dropped there closes the log in the
    /// background, for which the runtime must go on: await [`Log::close_async`] before it ends. A driver that is
    /// dropped before stops its shard; if that had operations in flight, the directory stays locked until the
    /// process ends. Buffers are not registered with a runtime's ring: large writes cost more CPU there.
    /// And the lock of a killed process is free at once, where a log with threads of its own keeps it until the last
    /// write of the dead has landed: whoever opens the log again at once, on a slow device, may be overwritten by that.
    #[cfg(feature = "tokio-uring")]
    #[must_use]
    pub fn drive(mut self, drive: impl Fn(ShardDriver) + Send + Sync + 'static) -> Options {
        self.drive = Some(Drive(Arc::new(drive)));
        self
    }

    /// Lets each shard forget its oldest segments once this many bytes of the log lie behind them;
    /// by default everything is kept until it is truncated.
    ///
    /// At least this much is kept, and at most a segment or two more. Applied in the background,
    /// about once a second and whenever a segment is made; readers that fall behind get
    /// [`ReadError::Truncated`](crate::ReadError::Truncated).
    #[must_use]
    pub fn retain_bytes(mut self, bytes: u64) -> Options {
        self.retain_bytes = Some(bytes);
        self
    }

    /// Lets each shard forget a segment once everything in it is older than this; otherwise as
    /// [`retain_bytes`](Options::retain_bytes). With both, whichever comes first.
    #[must_use]
    pub fn retain_age(mut self, age: Duration) -> Options {
        self.retain_age = Some(age);
        self
    }

    /// Spreads the shards over these directories, one device each: shard `n` in number `n % len`.
    ///
    /// Each shard's folder there belongs to this log alone, and is locked for itself: a log is never made where shards
    /// of another one lie ([`OpenError::NotOfThisLog`]).
    #[must_use]
    pub fn directories<P: Into<PathBuf>>(mut self, directories: impl IntoIterator<Item = P>) -> Options {
        self.directories = Some(directories.into_iter().map(Into::into).collect());
        self
    }

    /// Opens the log on a simulated machine, as the process that lives on it now: it has no threads,
    /// time is virtual, and whoever waits turns the shards.
    #[cfg(any(test, feature = "simulation"))]
    #[must_use]
    pub fn device(mut self, machine: &crate::simulation::Simulated) -> Options {
        self.device = Some(machine.device());
        self
    }

    /// Opens the log in `path`, recovering it if it is there and making it if not.
    ///
    /// The directory is made if it is not there, and so are the [`directories`](Options::directories) of its shards, but
    /// none above them: what is to be mounted there may be missing. Of a log that exists no folder is made.
    ///
    /// The directory is owned until the log is closed. Recovery reads at most the segments behind
    /// the last checkpoint; everything that was accepted and found is durable before this returns.
    ///
    /// # Errors
    /// See [`OpenError`]. On any error what was there is left as it was; where a log could not be made to the end, the
    /// next open there takes up what was made.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Log, OpenError> {
        Log::open_with(path.as_ref(), self)
    }

    pub(crate) fn layout(&self) -> Result<Layout, OpenError> {
        let cores = crate::sys::cores().min(usize::from(SHARDS_MAX));
        let shards = self.shards.unwrap_or(cores as u16);
        let in_simulation = self.device.as_ref().is_some_and(|device| !device.threaded());
        let invalid = |option, reason: String| Err(OpenError::InvalidOption { option, reason });
        if !(1..=SHARDS_MAX).contains(&shards) {
            return invalid("shards", format!("{shards} is not within 1..={SHARDS_MAX}"));
        }
        let block_bytes = self.block_bytes.unwrap_or(BLOCK_BYTES);
        if block_bytes == 0 || block_bytes > BLOCK_BYTES_MAX || u64::from(block_bytes) % GRANULE != 0 {
            let reason = format!("{block_bytes} is not a multiple of {GRANULE} up to {BLOCK_BYTES_MAX}");
            return invalid("block_bytes", reason);
        }
        let segment_bytes = self.segment_bytes.unwrap_or(SEGMENT_BYTES.max(u64::from(block_bytes) * 4));
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
        let memory_bytes = self.memory_bytes.unwrap_or_else(|| {
            let share = crate::device::memory_limit() / 16 / u64::from(layout.shards);
            MEMORY_BYTES.min(share).max(least)
        });
        if memory_bytes < least || memory_bytes > 1 << 40 {
            return invalid(
                "memory_bytes",
                format!("{memory_bytes} is less than {least}, or more than 1 TiB"),
            );
        }
        let blocks = u32::try_from(memory_bytes / block_bytes).unwrap_or(u32::MAX);
        let payload_bytes = block_bytes - u64::from(BLOCK_HEADER_BYTES + RECORD_HEADER_BYTES) - 8;
        // Half of the blocks at the most, which `Low` may fill too, and a quarter of a segment, so
        // that a group never needs more than two.
        let by_memory = payload_bytes * (u64::from(blocks) / 2 - 1).max(1);
        let by_segment = (layout.segment_bytes / 4 / block_bytes).max(1) * payload_bytes;
        let (record_bytes_limit, record_limit) = [(by_memory, "memory_bytes"), (by_segment, "segment_bytes")]
            .into_iter()
            .min()
            .expect("two limits");
        let (record_bytes, record_limit) = match self.record_bytes {
            Some(asked) if asked > record_bytes_limit || asked == 0 => {
                return invalid(
                    "record_bytes",
                    format!("{asked} is 0, or more than {record_limit} allows, {record_bytes_limit}"),
                );
            }
            Some(asked) => (asked, "record_bytes"),
            None if RECORD_BYTES <= record_bytes_limit => (RECORD_BYTES, "record_bytes"),
            None => (record_bytes_limit, record_limit),
        };
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
                retain_ns: self.retain_age.map(|age| u64::try_from(age.as_nanos()).unwrap_or(u64::MAX)),
            },
            blocks,
            read_bytes: tuning.read_bytes,
            record_bytes,
            record_limit,
            durability: self.durability,
            backend: self.backend,
            pin_threads: self.pin_threads,
            on_damage: self.on_damage,
            watch: self.watch.clone(),
            #[cfg(feature = "tokio-uring")]
            drive: self.drive.clone(),
        })
    }

    pub(crate) fn wants_durable(&self) -> bool {
        self.require_durable
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
    /// Blocks of each shard's pool.
    pub blocks: u32,
    /// What scans read at a time.
    pub read_bytes: usize,
    pub record_bytes: u64,
    /// The option that sets `record_bytes`.
    pub record_limit: &'static str,
    pub durability: Durability,
    pub backend: Backend,
    pub pin_threads: bool,
    pub on_damage: OnDamage,
    pub watch: Option<Watch>,
    #[cfg(feature = "tokio-uring")]
    pub drive: Option<Drive>,
}
