//! What a log is opened with.

mod config;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use config::{Config, Layout, Tuning};
pub(crate) use watch::Watch;
pub use watch::{OnStuck, Stuck};

use crate::device::Device;
#[cfg(feature = "tokio-uring")]
use crate::shard::{Drive, ShardDriver};
use crate::write::Durability;

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

    /// Makes it an error of `open` if what is synced does not survive a power cut there (tmpfs).
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
    #[must_use]
    pub fn directories<P: Into<PathBuf>>(mut self, directories: impl IntoIterator<Item = P>) -> Options {
        self.directories = Some(directories.into_iter().map(Into::into).collect());
        self
    }
}
