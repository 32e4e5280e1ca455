//! An append-only log engine for one Linux host.
//!
//! Many threads or tasks append small records. The engine packs them into large aligned blocks, writes the blocks past the
//! page cache (`O_DIRECT`) through io_uring or plain system calls, makes each block durable once for everyone who waits for
//! it (group commit), and acknowledges every caller.
//!
//! A log is a directory. It is split into *shards*: independent sequences, normally one per core, each with its own
//! files and its own thread. Records with the same key go to the same shard and keep their order.
//!
//! This page is a tour. Each step is a whole program.
//!
//! 1. [Open](#open) a log
//! 2. [Append](#append) from threads, [from tasks](#from-tasks), [in batches](#batches),
//!    [with many in flight](#many-in-flight)
//! 3. [Crash and recover](#crash-and-recover)
//! 4. [Read](#read), [one key](#one-key), [follow](#follow), [consume](#consume), [hand out](#hand-out)
//! 5. [Overload](#overload)
//! 6. [Tallies](#tallies): running totals
//! 7. [Free space](#free-space), [tune](#tune), [watch](#watch), [what blocks](#what-blocks),
//!    [after a failure](#after-a-failure)
//!
//! # Open
//!
//! [`Log::open`] recovers the log that is in a directory, or creates one. The process owns the
//! directory until the log is closed; a second open is refused with [`OpenError::Locked`].
//!
//! ```
//! use sawmill::{Log, OpenError};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let dir = tempfile::tempdir()?;
//!     let log = Log::open(dir.path())?;
//!     assert!(matches!(Log::open(dir.path()), Err(OpenError::Locked { .. })));
//!     log.close()?; // writes and syncs what was accepted, and reports errors
//!     Ok(())
//! }
//! ```
//!
//! [`Log`] is cheap to clone, and all clones are the same log. Dropping the last one closes the log
//! too, but an error then only shows in a log line: call [`Log::close`] where you care.
//!
//! # Append
//!
//! [`Log::append`] takes bytes, or a [`Write`], which can also have a key, a durability, a condition and more. The
//! record is accepted in the call itself if there is room; the handle that comes back waits for the rest.
//!
//! ```
//! use sawmill::{Durability, Log, Write};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let dir = tempfile::tempdir()?;
//!     let log = Log::open(dir.path())?;
//!
//!     // Callers that wait at the same time share one write and one sync.
//!     std::thread::scope(|scope| {
//!         for user in 0..4 {
//!             let log = &log;
//!             scope.spawn(move || {
//!                 let write = Write::new("signed up").key(format!("user:{user}"));
//!                 log.append(write).wait().expect("it is durable")
//!             });
//!         }
//!     });
//!
//!     // Acknowledged once it is written: survives this process, but not a power cut.
//!     let cheap = Write::new("page viewed").durability(Durability::Written);
//!     let position = log.append(cheap).wait()?;
//!     assert_eq!(log.get(position)?.payload(), b"page viewed");
//!     Ok(())
//! }
//! ```
//!
//! | [`Durability`] | acknowledged when the record is | survives |
//! |---|---|---|
//! | `Buffered` | in memory; written in the background within 10 ms, and synced within 20 ms | no crash; a clean close writes it |
//! | `Written` | written, but not synced | a crash of the process, but not of the kernel or a power cut |
//! | `Synced` (default) | on the device | a crash of the kernel, a power cut |
//!
//! A failed write or sync stops the shard for good: everyone who waits gets [`AppendError::ShardFailed`], and whether
//! *their* records are kept is known only after the next open. Reads still work. A table in [`AppendError`] says after which
//! errors that is unknown.
//!
//! ## From tasks
//!
//! The handles are futures, and need no particular runtime.
//!
//! ```
//! use sawmill::Log;
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let dir = tempfile::tempdir()?;
//!     let log = Log::open_async(dir.path()).await?; // `open` would block the runtime's thread
//!     let tasks: Vec<_> = (0..10)
//!         .map(|task| {
//!             let log = log.clone();
//!             // Bytes that are owned make the handle `'static`.
//!             tokio::spawn(async move { log.append(format!("from task {task}")).await })
//!         })
//!         .collect();
//!     for task in tasks {
//!         task.await??;
//!     }
//!     log.close_async().await?; // so would `close`
//!     Ok(())
//! }
//! ```
//!
//! ## Batches
//!
//! The records of a batch share a shard, and a key or [have their own](Log::append_keyed). All survive a crash, or none.
//!
//! ```
//! use sawmill::Log;
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let dir = tempfile::tempdir()?;
//!     let log = Log::open(dir.path())?;
//!     let positions = log.append_batch("order:9", &["debit", "credit"]).wait()?;
//!     assert_eq!(log.get(positions[1])?.payload(), b"credit");
//!     Ok(())
//! }
//! ```
//!
//! ## Many in flight
//!
//! A thread that waits for each record in turn pays for a full commit each time. To saturate the device from one
//! thread, keep a [window](Log::window) of appends in flight, or [`post`](Log::post) records and sync once.
//!
//! ```
//! use sawmill::Log;
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let dir = tempfile::tempdir()?;
//!     let log = Log::open(dir.path())?;
//!
//!     // Up to 256 in flight. Positions come in order, each once its record is durable.
//!     let lines = (0..1_000).map(|line| format!("line {line}"));
//!     for position in log.window(256).over(lines) {
//!         position?;
//!     }
//!
//!     // No handle at all, and one sync at the end.
//!     for line in 0..1_000 {
//!         log.post(format!("line {line}"))?;
//!     }
//!     log.sync().wait()?;
//!     Ok(())
//! }
//! ```
//!
//! # Crash and recover
//!
//! There is nothing to call: opening a log recovers it. What was acknowledged is there. Records that were accepted but
//! not yet acknowledged may follow it: always a prefix of the shard, never a part of a batch.
//!
//! ```rust,standalone_crate
//! use std::process::Command;
//!
//! use sawmill::Log;
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     // The child runs this part, and dies without closing its log.
//!     if let Some(dir) = std::env::var_os("CRASH_IN") {
//!         let log = Log::open(dir)?;
//!         log.append(b"acknowledged").wait()?;
//!         let _unknown = log.append(b"only accepted").admitted().wait()?;
//!         std::process::abort();
//!     }
//!
//!     let dir = tempfile::tempdir()?;
//!     let program = std::env::current_exe()?;
//!     let status = Command::new(program).env("CRASH_IN", dir.path()).status()?;
//!     assert!(!status.success());
//!
//!     let log = Log::open(dir.path())?;
//!     let first = log.merged(..)?.next().expect("what was acknowledged is kept")?;
//!     assert_eq!(first.payload(), b"acknowledged");
//!     Ok(())
//! }
//! ```
//!
//! A torn tail (an incomplete, never acknowledged end that a crash left) is truncated without an error. Any other
//! corruption in the part that an open reads (from the last checkpoint on) is damage: the open fails with
//! [`OpenError::Damaged`], which names the shard, the place and the cause, and changes nothing. [`Options::on_damage`] lets
//! you open such a log all the same. Older segments are checked when they are read: run `sawmill verify` from time to time.
//!
//! # Read
//!
//! A record stands at an [`Lsn`], a log sequence number: a byte position in its shard. Ranges, followers, merged readers,
//! readers of a key, consumers and queues stop at the durable LSN: what they have given is still there after a power cut.
//! [`Log::get`] and [`Log::get_many`] give any record that was accepted, whatever its durability, and [`Log::last`] knows of
//! any. All check every checksum, and none contends with appends for a lock.
//!
//! ```
//! use sawmill::{Log, Options, Position, ShardId, Write};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let dir = tempfile::tempdir()?;
//!     let log = Options::new().shards(1).open(dir.path())?;
//!     let a = log.append("a").wait()?;
//!     let b = log.append("b").wait()?;
//!
//!     // By position, which can be stored elsewhere as 16 bytes.
//!     let stored = a.to_bytes();
//!     assert_eq!(log.get(Position::from_bytes(stored))?.payload(), b"a");
//!
//!     // A range of a shard, forwards or backwards.
//!     let shard = log.shard(ShardId(0));
//!     assert_eq!(shard.read(a.lsn()..)?.count(), 2);
//!     let newest = shard.read_back(..)?.next().expect("there are two")?;
//!     assert_eq!(newest.position(), b);
//!
//!     // All shards, in the order of their timestamps.
//!     for record in log.merged(..)? {
//!         let record = record?;
//!         println!("{} at {} ns", record.position(), record.timestamp());
//!     }
//!
//!     // From a time on, which is found in a handful of reads.
//!     let time = log.get(b)?.timestamp();
//!     assert_eq!(log.merged(time..)?.count(), 1);
//!     assert_eq!(log.seek(time)?, [b.lsn()]); // one for each shard
//!
//!     // Also from another process, while this one has it open: takes no lock, writes nothing.
//!     assert_eq!(Log::open_read_only(dir.path())?.shards(), 1);
//!     Ok(())
//! }
//! ```
//!
//! A corrupt region does not end an iterator: it yields the error, and the next call resumes after the damage.
//!
//! ## One key
//!
//! A key names a stream: its records are [read](Log::read_key) and [followed](Log::follow_key) on their own, found by an
//! index. A writer can append [only if](Write::if_last) nothing came between, and [once](Write::id), however often it retries.
//!
//! ```
//! use sawmill::{AppendError, Log, Write};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let dir = tempfile::tempdir()?;
//!     let log = Log::open(dir.path())?;
//!     let opened = log.append(Write::new("opened").key("account:3").if_last(None)).wait()?;
//!
//!     // A request that may come again, decided by what was read up to `opened`.
//!     let debit = || Write::new("debit 5").key("account:3").if_last(Some(opened)).id(0x5eed);
//!     let first = log.append(debit()).wait()?;
//!     assert_eq!(log.append(debit()).wait()?, first); // a retry: nothing was appended
//!
//!     let late = log.append(Write::new("close").key("account:3").if_last(Some(opened))).wait();
//!     assert!(matches!(late, Err(AppendError::Conflict { last, .. }) if last == Some(first)));
//!     assert_eq!(log.read_key("account:3", ..)?.count(), 2);
//!     Ok(())
//! }
//! ```
//!
//! # Follow
//!
//! [`Shard::follow`] reads from an LSN on and then waits for new records, as a blocking iterator or
//! a `futures_core::Stream`. It ends when the log is closed or the shard has failed, after it has delivered all that was
//! durable.
//!
//! ```
//! use sawmill::{Lsn, Options, ShardId};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let dir = tempfile::tempdir()?;
//!     let log = Options::new().shards(1).open(dir.path())?;
//!     let follower = log.shard(ShardId(0)).follow(Lsn::MIN)?;
//!     let seen = std::thread::spawn(move || follower.count());
//!     for line in 0..10 {
//!         log.append(format!("line {line}")).wait()?;
//!     }
//!     log.close()?;
//!     assert_eq!(seen.join().expect("no panic"), 10);
//!     Ok(())
//! }
//! ```
//!
//! # Consume
//!
//! A [consumer](Log::consumer) follows all shards under a name, and remembers durably how far it has
//! got. It gets every record of the log, at least once: after a crash, what was not committed comes again.
//!
//! ```
//! use sawmill::Log;
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let dir = tempfile::tempdir()?;
//!     let log = Log::open(dir.path())?;
//!     log.append("to: you").wait()?;
//!
//!     let mut mailer = log.consumer("mailer")?;
//!     let record = mailer.next().expect("the log is open")?;
//!     // ... send it, then:
//!     mailer.commit(record.position())?; // durable within about a second
//!     mailer.flush()?; // or now
//!     assert_eq!(mailer.lag(), 0);
//!     Ok(())
//! }
//! ```
//!
//! # Hand out
//!
//! A [queue](Log::queue) leases each record to one of many workers, until that one says that it is done, when to try again,
//! or why not. What a worker drops, or holds beyond its lease or a crash, is handed out again. Every record of the log
//! comes, whatever its key: use a log for each kind of job. A worker's loop goes on after an error: the
//! [example of `Queue`](Queue) shows one.
//!
//! ```
//! use sawmill::{Log, QueueOptions};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let dir = tempfile::tempdir()?;
//!     let log = Log::open(dir.path())?;
//!     log.append("to: nobody").wait()?;
//!     let queue = log.queue("mailer", QueueOptions::new().attempts(3))?;
//!     let delivery = queue.take().wait().expect("the log is open")?; // `.await` it in a task
//!     delivery.reject("no such address")?; // or `done()`, or `retry_after(..)`
//!     assert_eq!(queue.rejected().next().expect("there is one").reason(), "no such address");
//!     Ok(())
//! }
//! ```
//!
//! # Overload
//!
//! Memory is bounded when the log is opened. When it is full, or records wait for too long, [`Log::append`] waits in line
//! and [`Log::try_append`] refuses at once, by [`Priority`] and fairly among [tenants](Write::tenant). What was accepted is
//! never dropped. A [deadline](Write::deadline) bounds the wait; [`Log::pressure`] tells how a shard stands.
//!
//! ```
//! use sawmill::{AppendError, Log, Priority, Write};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let dir = tempfile::tempdir()?;
//!     let log = Log::open(dir.path())?;
//!     match log.try_append(Write::new("nice to have").priority(Priority::Low)) {
//!         Ok(commit) => println!("durable at {}", commit.wait()?),
//!         // Tell the client when to come back. Nothing was accepted.
//!         Err(AppendError::Overloaded { retry_after, .. }) => println!("busy for {retry_after:?}"),
//!         Err(error) => return Err(error.into()),
//!     }
//!     Ok(())
//! }
//! ```
//!
//! # Tallies
//!
//! A [tally](Log::tally) keeps running totals by key. Updates are added up in memory, per core, and flushed
//! together, so a million likes of one post cost a few writes. After any crash the totals are exact:
//! each update is counted once or not at all, and those that were acknowledged are counted.
//!
//! ```
//! use sawmill::Log;
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let dir = tempfile::tempdir()?;
//!     let log = Log::open(dir.path())?;
//!     let likes = log.tally("likes")?;
//!     likes.add("post:1", 1).accepted()?; // counted now, durable within about 100 ms
//!     likes.add("post:1", 2).wait()?; // waits until it is durable
//!     assert_eq!(likes.get("post:1"), Some(3));
//!     Ok(())
//! }
//! ```
//!
//! # Free space
//!
//! A log keeps everything until you truncate it, or set a retention by bytes or by age
//! ([`Options::retain_bytes`], [`Options::retain_age`]). Space is freed by whole segment files. **Retention and truncation
//! delete records that consumers and queues have not read yet**, unless their names are in [`Options::retain_for`]; they then
//! get [`ReadError::Truncated`].
//!
//! ```
//! use sawmill::{Options, ReadError, ShardId};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let dir = tempfile::tempdir()?;
//!     let log = Options::new().shards(1).open(dir.path())?;
//!     let old = log.append("old").wait()?;
//!     let new = log.append("new").wait()?;
//!     log.shard(ShardId(0)).truncate_before(new.lsn())?; // durable on return
//!     assert!(matches!(log.get(old), Err(ReadError::Truncated { .. })));
//!     Ok(())
//! }
//! ```
//!
//! # Tune
//!
//! The defaults suit a server with a disk of its own. `sawmill tune DIR` (feature `cli`) measures a
//! device and says which options to change.
//!
//! | option | default | change it |
//! |---|---|---|
//! | [`shards`](Options::shards) | one per core | fewer at low load: every shard pads blocks of its own |
//! | [`memory_bytes`](Options::memory_bytes) | at most 64 MiB, per shard | to bound memory, or to absorb longer bursts |
//! | [`segment_bytes`](Options::segment_bytes) | 256 MiB | to free space in smaller steps |
//! | [`block_bytes`](Options::block_bytes) | 256 KiB | to the value that `sawmill tune` recommends for bulk loads |
//! | [`require_durable`](Options::require_durable) | off | to refuse tmpfs and the like, where a sync means nothing |
//! | [`directories`](Options::directories) | the log's own | to spread the shards over several devices |
//!
//! # Watch
//!
//! [`Log::stats`] has counters for each shard, and in `notices` every fallback, warning and failure as a line of text; the
//! feature `tracing` (on by default) logs the same lines. [`Options::on_stuck`] tells you of a device that does not answer.
//!
//! ```
//! use sawmill::Log;
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let dir = tempfile::tempdir()?;
//!     let log = Log::open(dir.path())?;
//!     for shard in log.stats().shards {
//!         println!("{}: {} records, p99 {:?}", shard.shard, shard.records, shard.commit_latency.quantile(0.99));
//!     }
//!     Ok(())
//! }
//! ```
//!
//! # What blocks
//!
//! These never wait for the disk: [`Log::append`] when it is awaited, [`Log::try_append`], a [`Commit`] or [`Log::sync`] that
//! is awaited, the updates and totals of a [`Tally`], [`Consumer::commit`], what a worker says of a
//! [`Delivery`](queue::Delivery). One exception: an append with [`Write::if_last`] or [`Write::id`], which reads the log in the
//! call if it is the first one after an open or its key was not written lately. [`Log::post`] blocks for room.
//!
//! Whatever else opens, reads, follows, truncates, flushes or closes uses files in the calling thread: readers' `Stream`s and
//! futures ([`Shard::follow`], [`Consumer`], [`Queue::take`]), too, which read in `poll`, and the drop of a [`Consumer`] or of
//! the last [`Log`]. In an async server, use `spawn_blocking` or a thread for these. [`Log::open_async`],
//! [`Log::close_async`] and [`Shard::truncate_before_async`] have a thread of their own.
//!
//! # After a failure
//!
//! A shard that failed stops for good: [`ShardStats::failed`](stats::ShardStats::failed) is set, and a notice says why. Others
//! go on, except those on a device of which a flush failed. What was durable can be read; appends to the shard fail, also those
//! without a key that are sent to it. To recover, close the log, which works all the same, and open it again; or restart the process.
//!
//! # Cargo features
//!
//! `tracing` (default): log lines through `tracing`. `cli`: the `sawmill` command. `ceiling`: `sawmill::ceiling`, bare writes
//! to compare figures with. `simulation`: `sawmill::simulation`, a simulated disk for your own crash tests. `tokio-uring`:
//! shards inside the application's own tokio-uring runtimes.
//! The repository's `docs/` have the architecture, the promises and their tests, the format on disk, and what was measured.
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(not(target_os = "linux"))]
compile_error!("sawmill needs Linux: io_uring, O_DIRECT and fallocate");

mod admission;
pub mod append;
#[cfg(feature = "ceiling")]
pub mod ceiling;
mod committer;
pub mod consumer;
mod device;
pub mod error;
mod format;
mod index;
mod instance;
pub mod log;
mod moves;
mod notice;
mod open;
pub mod options;
mod pool;
mod position;
pub mod queue;
pub mod read;
mod recovery;
mod router;
mod segment;
mod shard;
#[cfg(any(test, feature = "simulation"))]
pub mod simulation;
pub mod stats;
mod sync;
mod sys;
pub mod tally;
mod time;
pub mod write;

/// The programs of the README, compiled with the tests of the documentation.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub use append::{Append, Commit};
pub use consumer::Consumer;
pub use error::{
    AppendError, Cause, CloseError, ConsumerError, MoveError, OpenError, QueueError, ReadError,
    TruncateError, error_chain,
};
pub use log::{Log, LogReader, Shard};
pub use options::{Backend, OnDamage, Options};
pub use position::{LogId, Lsn, Position, ShardId};
pub use queue::{Queue, QueueOptions};
pub use read::Record;
pub use tally::{Tally, TallyError, UpdateError};
pub use write::{BatchBuilder, Durability, Priority, Write};
