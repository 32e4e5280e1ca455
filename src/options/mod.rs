//! The settings a log is opened with. Their defaults: `defaults.rs`; what is refused: `config.rs`.

mod config;
mod defaults;
mod record_limit;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use config::{Config, Layout, Tuning, open_files};
pub(crate) use watch::Watch;
pub use watch::{OnStuck, Stuck};

use crate::device::Device;
#[cfg(feature = "tokio-uring")]
use crate::shard::Drive;
#[cfg(feature = "tokio-uring")]
pub use crate::shard::ShardDriver;
use crate::write::Durability;

/// How the log talks to the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Backend {
    /// io_uring where it is available, plain system calls elsewhere.
    #[default]
    Auto,
    /// io_uring, or an error from `open`.
    Uring,
    /// Plain system calls.
    Syscall,
}

/// What to do with a log that is damaged in the part that an open must read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OnDamage {
    /// Fail with [`OpenError::Damaged`](crate::OpenError::Damaged) and change nothing.
    /// [`Log::open_read_only`](crate::Log::open_read_only) reads what is readable.
    #[default]
    Refuse,
    /// Open it for reading only. Nothing is changed or given up. Every append, truncation and consumer fails
    /// with [`AppendError::ShardFailed`](crate::AppendError::ShardFailed) or its counterpart. Readers get
    /// [`ReadError::Damaged`](crate::ReadError::Damaged) for the damaged stretch and go on after it. To read
    /// while another process has the log open, or without taking the lock, use [`Log::open_read_only`](crate::Log::open_read_only).
    ReadOnly,
    /// Leave the damaged stretch where it is and append after everything that was ever durable. Readers
    /// get [`ReadError::Damaged`](crate::ReadError::Damaged) for it, and a notice says so.
    Continue,
}

/// How to open a log. Every option has a default.
///
/// The layout (`shards`, `segment_bytes`, `block_bytes`, `directories`) is fixed when the log is created. Opening with another
/// value is [`OpenError::Incompatible`](crate::OpenError::Incompatible); leave these options out for an existing log.
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
    finds_only: bool,
    relocated: bool,
    on_damage: OnDamage,
    retain_bytes: Option<u64>,
    retain_age: Option<Duration>,
    retain_for: Vec<String>,
    index_off: bool,
    index_bytes: Option<u64>,
    dedup_ids: Option<usize>,
    delay_target: Option<Duration>,
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

    /// The number of shards, 1 to 1024; by default one per available core. Fixed when the log is created.
    #[must_use]
    pub fn shards(mut self, shards: u16) -> Options {
        self.shards = Some(shards);
        self
    }

    /// The largest segment file, in bytes: a multiple of 4 KiB, at least 1 MiB and two blocks, at most 1 TiB; 256 MiB by
    /// default. Fixed when the log is created. Space is freed by whole segments. The first segments are smaller, 4 MiB or less. They double as the log grows, and sooner if they fill
    /// faster than new ones can be made.
    #[must_use]
    pub fn segment_bytes(mut self, bytes: u64) -> Options {
        self.segment_bytes = Some(bytes);
        self
    }

    /// The largest block, in bytes: the most that one write carries. A multiple of 4 KiB, from 4 KiB to
    /// 16 MiB; 256 KiB by default. Fixed when the log is created.
    #[must_use]
    pub fn block_bytes(mut self, bytes: u32) -> Options {
        self.block_bytes = Some(bytes);
        self
    }

    /// **Per shard.** Memory for records that are not written yet, in bytes. It bounds the queue and is
    /// allocated at open. At least 1 MiB and four blocks, at most 1 TiB; by default 64 MiB, or less so that all shards
    /// together take at most a sixteenth of the machine's memory, or of the least limit of the control groups that the
    /// process is in. More than that limit is an error.
    ///
    /// Readers use memory in addition. A range, follower or consumer has one window of 768 KiB for each shard that it
    /// reads, or two windows and two blocks (2 MiB with blocks of 256 KiB) during a long scan. One that has caught up
    /// and waits has given its memory back; at most one window is kept for each shard. [`Log::get`](crate::Log::get)
    /// reads into 64 KiB, or into two blocks where something is wrong; up to four of either are kept for each shard.
    #[must_use]
    pub fn memory_bytes(mut self, bytes: u64) -> Options {
        self.memory_bytes = Some(bytes);
        self
    }

    /// The largest record (key and payload) or batch, in bytes; 16 MiB by default, or less if
    /// `memory_bytes` or `segment_bytes` are too small for that: a record takes at most about half of a shard's memory, and a
    /// quarter of a segment. A larger record is [`AppendError::TooLarge`](crate::AppendError::TooLarge), as is a key of more than 65,535
    /// bytes. Set it to have the open fail on a machine that is too small for it.
    #[must_use]
    pub fn record_bytes(mut self, bytes: u64) -> Options {
        self.record_bytes = Some(bytes);
        self
    }

    /// The durability of an append that does not set its own; [`Durability::Synced`] by default.
    /// [`Log::post`](crate::Log::post) does not go by it.
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

    /// Pins each shard's thread to a CPU; off by default, since a server's own threads need CPUs
    /// too.
    #[must_use]
    pub fn pin_threads(mut self, pin: bool) -> Options {
        self.pin_threads = pin;
        self
    }

    /// Makes `open` fail where synced data does not survive a power cut (tmpfs): in the log's own directory, or where
    /// any of its shards lies.
    #[must_use]
    pub fn require_durable(mut self, require: bool) -> Options {
        self.require_durable = require;
        self
    }

    /// Whether to create a log where there is none; true by default. With `false`, a mistyped path or a file system
    /// that is not mounted is an error ([`OpenError::NoLog`](crate::OpenError::NoLog)), and nothing is created.
    #[must_use]
    pub fn create(mut self, create: bool) -> Options {
        self.finds_only = !create;
        self
    }

    /// Opens a log whose own directory was moved, copied or restored while its shards lie elsewhere
    /// ([`directories`](Options::directories)), and makes the shards its own from now on. Otherwise such an open is
    /// refused ([`OpenError::Relocated`](crate::OpenError::Relocated)), since only one of two copies may continue.
    #[must_use]
    pub fn relocated(mut self, relocated: bool) -> Options {
        self.relocated = relocated;
        self
    }

    /// What to do if the log is damaged in the part that an open must read; [`OnDamage::Refuse`] by default.
    #[must_use]
    pub fn on_damage(mut self, on_damage: OnDamage) -> Options {
        self.on_damage = on_damage;
        self
    }

    /// Calls `act` while a shard's oldest write or sync has been out for longer than `after` without an answer from
    /// the device: about once a second while that lasts, more often if `after` is below four seconds. The value
    /// that `act` returns decides what happens.
    ///
    /// By default nothing is called. A notice reports an operation that takes ten seconds, and `stats()` shows the
    /// age of the oldest at any time ([`ShardStats::oldest_operation`](crate::stats::ShardStats::oldest_operation)).
    ///
    /// - After [`OnStuck::Fail`] the operation is still with the kernel. Closing or dropping the log waits for it, and
    ///   so does a blocking caller that found the shard idle and wrote the block itself.
    /// - The time in which the process is stopped, or the machine paused, does not count.
    /// - `act` runs on a thread that all shards of the log share. While it runs, no segments are made ready, and
    ///   [`Log::close`](crate::Log::close) is refused there ([`CloseError::OwnThread`](crate::CloseError::OwnThread)).
    /// - If `act` captures a [`Log`](crate::Log), the log stays open while `act` lives.
    /// - A panic in `act` counts as [`OnStuck::Wait`].
    /// - A log on a simulated machine has no such thread and calls nothing.
    ///
    /// ```
    /// use std::time::Duration;
    /// use sawmill::Options;
    /// use sawmill::options::OnStuck;
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

    /// Runs the shards on the application's own tokio-uring runtimes, one per core, instead of on threads of the
    /// log. A task that appends to a shard on its own thread then commits without a thread hop.
    ///
    /// `drive` is called once for each shard while the log is opened, with the [`ShardDriver`] that runs it.
    /// Spawn [`ShardDriver::run`] in the runtime of your choice; if that runtime belongs to another thread, send the
    /// driver there. [`backend`](Options::backend) and [`pin_threads`](Options::pin_threads) then have no effect.
    /// A thread of the log still makes segments ready.
    ///
    /// ```
    /// # if tokio_uring_works() {
    /// use sawmill::Options;
    /// use sawmill::options::ShardDriver;
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
    /// # Limits
    /// - A thread that runs a shard must not block on one: such a call fails with
    ///   [`AppendError::OwnThread`](crate::AppendError::OwnThread) or its counterpart. Other threads may block.
    ///   Opening, truncating and reading block for the disk, as they always do;
    ///   [`open_async`](Options::open_async) and [`Shard::truncate_before_async`](crate::Shard::truncate_before_async) do not.
    /// - [`Log::close`](crate::Log::close) waits for the drivers, so they must be running. If the last handle is
    ///   dropped on a thread that runs a shard, the log closes in the background, which needs the runtime to go on:
    ///   await [`Log::close_async`](crate::Log::close_async) before the runtime ends.
    /// - A driver that is dropped early stops its shard. If operations were in flight, the directory stays locked until
    ///   the process ends.
    /// - Buffers are not registered with the runtime's ring, so large writes cost more CPU.
    /// - When the process is killed, its lock is released at once, while writes that it submitted may still land. On a
    ///   slow device they may overwrite what the next owner has written. A log with its own threads does not have
    ///   this problem: its lock is held until the last write has landed.
    #[cfg(feature = "tokio-uring")]
    #[must_use]
    pub fn drive(mut self, drive: impl Fn(ShardDriver) + Send + Sync + 'static) -> Options {
        self.drive = Some(Drive(Arc::new(drive)));
        self
    }

    /// Indexes the keys of records, so that [`Log::read_key`](crate::Log::read_key), `read_key_back`, `follow_key` and `last`
    /// find those of one without a scan. On by default.
    ///
    /// The index is built in the background: from memory, as long as that keeps up with what is appended, and from the disk
    /// otherwise. It takes 2 % of the log or less, in files beside the segments (`*.idx`). These can be deleted at any time:
    /// they are derived from the log and built anew. [`ShardStats::indexed`](crate::stats::ShardStats::indexed) says how far
    /// it is. With this off, files that are there stay as they are, and readers by key look at all records.
    #[must_use]
    pub fn index_keys(mut self, yes: bool) -> Options {
        self.index_off = !yes;
        self
    }

    /// **Per shard.** Memory for the key index, in bytes; 8 MiB by default, 256 KiB at least, 1 TiB at most. Half of it knows the keys of what
    /// was appended last, from the first time that somebody asks for one ([`Log::last`](crate::Log::last),
    /// [`Write::if_last`](crate::Write::if_last)); a quarter gathers what is indexed next, and a quarter keeps what lookups
    /// have read. With blocks above some megabytes it is somewhat more.
    #[must_use]
    pub fn index_bytes(mut self, bytes: u64) -> Options {
        self.index_bytes = Some(bytes);
        self
    }

    /// Ids ([`Write::id`](crate::Write::id)) that each shard remembers: those of the last records that have one. 65,536 by
    /// default, 16,777,216 at the most; 0 is none, and a write with an id is refused
    /// ([`AppendError::IdsNotKept`](crate::AppendError::IdsNotKept)). It may change from one open to the next.
    ///
    /// Each takes some 100 bytes of memory, from the first time that an id is used.
    #[must_use]
    pub fn dedup_ids(mut self, ids: usize) -> Options {
        self.dedup_ids = Some(ids);
        self
    }

    /// How long records may wait before they go to the device, 100 us to 10 s; by default twice what a commit took when the
    /// log was opened, at least 2 ms and at most 20.
    ///
    /// Once even the quickest record of a tenth of a second has waited for longer, the shard refuses
    /// ([`Cause::Delay`](crate::error::Cause::Delay), [`Cause::Tenant`](crate::error::Cause::Tenant)) and lets wait what it
    /// cannot write, by priority, until the delay is back below the target. The commit itself is not in it, and with a
    /// shorter target than a commit the device may have too little to do. [`Log::pressure`](crate::Log::pressure) shows how
    /// it stands.
    #[must_use]
    pub fn delay_target(mut self, target: Duration) -> Options {
        self.delay_target = Some(target);
        self
    }

    /// **Per shard.** Lets each shard drop its oldest segments once this many bytes of the log came after them. By
    /// default everything is kept until it is truncated.
    ///
    /// At least this much of the log is kept, and up to a segment more. On disk that is up to five segments more: the one in
    /// use and the next one have their full size from the start, and spares of up to two segments are kept for reuse.
    /// Applied in the background, about once a second and whenever a segment is made. Consumers, queues and other readers
    /// that fall behind lose what they have not read, with [`ReadError::Truncated`](crate::ReadError::Truncated), unless
    /// their name is in [`retain_for`](Options::retain_for).
    #[must_use]
    pub fn retain_bytes(mut self, bytes: u64) -> Options {
        self.retain_bytes = Some(bytes);
        self
    }

    /// Lets each shard drop a segment once everything in it is older than this. Otherwise as
    /// [`retain_bytes`](Options::retain_bytes). With both, whichever comes first.
    ///
    /// The age does not depend on the records' timestamps: setting the wall clock, forward or back, makes nothing older
    /// or younger. Each shard records on disk where its log ended at which time. Time during which the log is closed is
    /// taken from the wall clock, once that has run evenly for five minutes or an eighth of the age; in a log that is
    /// never open for so long, only the time during which it is open counts. Up to a thirty-second of the age more is
    /// kept.
    #[must_use]
    pub fn retain_age(mut self, age: Duration) -> Options {
        self.retain_age = Some(age);
        self
    }

    /// Lets truncation and retention wait for the consumers and queues of these names: what they have still to read, or to
    /// do, is kept, a queue's dead letters included. By default the log waits for none.
    ///
    /// A name holds the log from its first record, also before anybody opens it. What was read and committed, or done, is
    /// let go once that is durable, up to the end of the last record of which that is so.
    /// [`Shard::truncate_before`](crate::Shard::truncate_before) is refused with
    /// [`TruncateError::Needed`](crate::TruncateError::Needed); retention keeps more, without a word, so that a reader that is
    /// dead can fill the disk; a notice tells of one that would be refused, since it is from a different point in time than
    /// its shard, and again when it goes on. [`Log::remove_consumer`](crate::Log::remove_consumer) and
    /// [`Log::remove_queue`](crate::Log::remove_queue) are the way on then: what is removed holds nothing until it is
    /// opened again, or the log is.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use sawmill::{Options, QueueOptions, ShardId, TruncateError};
    /// let log = Options::new().shards(1).retain_for(["mailer"]).open(dir.path())?;
    /// let queue = log.queue("mailer", QueueOptions::new())?;
    /// let (first, _next) = (log.append("to: you").wait()?, log.append("to: me").wait()?);
    /// queue.take().wait().expect("it is open")?.done()?;
    /// queue.flush()?; // or a second later
    ///
    /// // As far as possible: here the first record goes, and the next one is kept.
    /// let shard = log.shard(ShardId(0));
    /// if let Err(TruncateError::Needed { from, .. }) = shard.truncate_before(shard.durable_lsn()) {
    ///     assert!(from > first.lsn());
    ///     shard.truncate_before(from)?;
    /// }
    /// assert_eq!(queue.take().wait().expect("it is open")?.record().payload(), b"to: me");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn retain_for<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Options {
        self.retain_for = names.into_iter().map(Into::into).collect();
        self
    }

    /// Spreads the shards over these directories, usually one per device: shard `n` goes to directory `n % len`. At least one,
    /// and at most one per shard; absolute paths in UTF-8. Fixed when the log is created.
    ///
    /// Each shard's folder there belongs to this log alone and is locked for itself. A log is never created where
    /// shards of another one lie ([`OpenError::NotOfThisLog`](crate::OpenError::NotOfThisLog)).
    #[must_use]
    pub fn directories<P: Into<PathBuf>>(mut self, directories: impl IntoIterator<Item = P>) -> Options {
        self.directories = Some(directories.into_iter().map(Into::into).collect());
        self
    }
}
