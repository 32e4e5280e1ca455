//! What blocks for the disk, for tasks: on a thread of its own, with a handle that is a future.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use super::{Log, Shard};
use crate::error::{OpenError, TruncateError};
use crate::instance::{Background, Lasting, Undone};
use crate::open::NO_THREAD;
use crate::options::Options;
use crate::position::{Lsn, ShardId};

impl Log {
    /// As [`open`](Log::open), for tasks: see [`Options::open_async`].
    pub fn open_async(path: impl AsRef<Path>) -> Open {
        Options::new().open_async(path)
    }
}

impl Options {
    /// As [`open`](Options::open), for tasks: the open starts now, on a thread of its own, and the handle resolves to its
    /// outcome. The task's thread goes on meanwhile, however long recovery, or a device that does not answer, takes.
    ///
    /// What `drive` was given (feature `tokio-uring`) is called on that thread, too, and hands its drivers on from there.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
    /// let log = sawmill::Options::new().shards(2).open_async(dir.path()).await?;
    /// log.append(b"from a task").await?;
    /// log.close_async().await?;
    /// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`open`](Options::open); where no thread can be made, [`OpenError::Io`].
    pub fn open_async(&self, path: impl AsRef<Path>) -> Open {
        let (options, path) = (self.clone(), path.as_ref().to_owned());
        let place = path.clone();
        let undone = move |undone: Undone| {
            let operation = match undone {
                Undone::NoThread(_) => NO_THREAD,
                Undone::Panicked => "opening the log on a thread of its own",
            };
            Err(OpenError::at(operation, &place)(undone.error()))
        };
        let work = Background::begin("sawmill-open", move || options.open(path), undone);
        Open { work, told: false }
    }
}

/// An open on its way. By [`Options::open_async`] and [`Log::open_async`].
///
/// # Cancellation
/// The open goes on whether this is polled or not. If this is dropped before it has given the log, the log is closed as
/// soon as it is open, on a thread of its own; until then its directory is locked.
///
/// In a forked child it gives [`OpenError::Forked`]: the open is its parent's.
///
/// # Panics
/// If it is polled again after it has given the log.
#[must_use = "a log that nobody takes is closed again"]
#[derive(Debug)]
pub struct Open {
    work: Background<Result<Log, OpenError>>,
    told: bool,
}

impl Future for Open {
    type Output = Result<Log, OpenError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        assert!(!self.told, "the handle was polled after it was ready");
        let outcome = ready!(self.work.poll(context)).unwrap_or(Err(OpenError::Forked));
        self.told = true;
        Poll::Ready(outcome)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // To close it waits for the disk, which whoever drops this must not.
        if let Some(Ok(log)) = self.work.abandon() {
            drop(Background::begin("sawmill-close", move || drop(log), |_| ()));
        }
    }
}

impl Shard {
    /// As [`truncate_before`](Shard::truncate_before), for tasks: the truncation starts now, on a thread of its own, and the
    /// handle resolves to its outcome. Also for tasks of a runtime that runs the shard, in which the other one would be
    /// [`TruncateError::OwnThread`] where it must wait.
    ///
    /// Those of one shard take effect one at a time, in any order: what the highest of them drops is dropped.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
    /// # let log = sawmill::Options::new().shards(1).open(dir.path())?;
    /// let done = log.append(b"done").await?;
    /// let next = log.append(b"next").await?;
    /// let shard = log.shard(next.shard());
    /// shard.truncate_before_async(next.lsn()).await?;
    /// assert!(log.get(done).is_err() && log.get(next).is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`truncate_before`](Shard::truncate_before); where no thread can be made, [`TruncateError::Io`], and nothing was
    /// cut.
    pub fn truncate_before_async(&self, lsn: Lsn) -> Truncate {
        let (shard, id) = (self.clone(), self.id);
        if !self.log.inner.in_opening_process() {
            return Truncate(Lasting::Told(Err(TruncateError::Forked)));
        }
        let work = move || shard.truncate_before(lsn);
        let undone = move |undone| Err(not_cut(id, undone));
        Truncate(Lasting::OnItsWay(Background::begin("sawmill-cut", work, undone)))
    }
}

fn not_cut(shard: ShardId, undone: Undone) -> TruncateError {
    let operation = match undone {
        Undone::NoThread(_) => NO_THREAD,
        Undone::Panicked => "truncating on a thread of its own",
    };
    TruncateError::Io { shard, operation, source: Arc::new(undone.error()) }
}

/// A truncation on its way. By [`Shard::truncate_before_async`].
///
/// # Cancellation
/// The truncation goes on whether this is polled or not; dropping it does not stop it. It keeps the log open until it is
/// done.
///
/// In a forked child it gives [`TruncateError::Forked`].
#[must_use = "nobody learns whether anything was cut"]
#[derive(Debug)]
pub struct Truncate(Lasting<Result<(), TruncateError>>);

impl Future for Truncate {
    type Output = Result<(), TruncateError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(context, Err(TruncateError::Forked))
    }
}
