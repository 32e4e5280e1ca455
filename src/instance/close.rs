//! How a log ends: closed, in the background for tasks, or by the last handle's drop.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use super::Instance;
use super::background::{Background, Lasting, Undone};
use super::lock::Leaving;
use crate::consumer::{self, Registry};
use crate::device::Lock;
use crate::error::{CloseError, error_chain};
use crate::moves::MapFile;
use crate::queue;
use crate::shard::{Ended, Engine, WorkerHandle};
use crate::sync::lock;
use crate::tally;

/// A close on its way. By [`Log::close_async`](crate::Log::close_async).
///
/// The close goes on whether this is polled or not; dropping it does not stop it. In a forked child it gives
/// [`CloseError::Forked`].
#[must_use = "nobody learns how the close ended"]
#[derive(Debug)]
pub struct Close(Lasting<Result<(), CloseError>>);

impl Close {
    pub(crate) fn begin(inner: Arc<Instance>) -> Close {
        let undone = |undone| {
            Err(match undone {
                Undone::NoThread(error) => CloseError::NoThread { source: Arc::new(error) },
                Undone::Panicked => CloseError::Panicked,
            })
        };
        Close(Lasting::OnItsWay(Background::begin("sawmill-close", move || inner.close(), undone)))
    }
}

impl Future for Close {
    type Output = Result<(), CloseError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(context, Err(CloseError::Forked))
    }
}

impl Instance {
    pub(crate) fn close(&self) -> Result<(), CloseError> {
        if !self.in_opening_process() {
            return Err(CloseError::Forked);
        }
        if lock(&self.workers).iter().any(WorkerHandle::is_current) {
            return Err(CloseError::OwnThread);
        }
        if self.closed.swap(true, Ordering::SeqCst) {
            return Err(CloseError::Closed);
        }
        let workers = std::mem::take(&mut *lock(&self.workers));
        let readers = (&self.consumers, &self.queues);
        close_all(&self.engines, readers, &self.tallies, &self.map_file, workers, &self.lock)
    }
}

/// Writes out and ends all shards, then gives the lock up.
fn close_all(
    engines: &[Arc<Engine>],
    (consumers, queues): (&Registry, &queue::Registry),
    tallies: &tally::Registry,
    map_file: &MapFile,
    workers: Vec<WorkerHandle>,
    lock: &Arc<dyn Lock>,
) -> Result<(), CloseError> {
    // What was counted is written while the shards still take records. An error is a shard's, which tells it.
    let _ = tally::end_all(tallies);
    for engine in engines {
        engine.begin_close();
    }
    let mut clean = true;
    let (watch, workers): (Vec<_>, Vec<_>) =
        workers.into_iter().partition(|worker| matches!(worker, WorkerHandle::Watch(..)));
    for worker in workers {
        clean &= worker.join() == Ended::Clean;
    }
    let mut result = Ok(());
    for engine in engines {
        if !engine.is_threaded() {
            engine.turn_until(|| engine.is_settled());
            engine.give_up_queue();
        }
        let closed = engine.finish_close();
        engine.end();
        result = result.and(closed);
    }
    let flushed = consumer::end_all(consumers).map_err(CloseError::Consumer);
    let flushed = flushed.and(queue::end_all(queues).map_err(CloseError::Queue));
    // Last: what hangs until here is told of.
    for watch in watch {
        watch.join();
    }
    // A move that was under way is over: nothing of it is written once the log is somebody else's.
    map_file.close();
    if clean {
        lock.release();
    } else {
        // Something may still land, and nobody can say when: the log stays this process's until it ends.
        std::mem::forget(lock.clone());
    }
    result.and(flushed)
}

impl Drop for Instance {
    fn drop(&mut self) {
        if !self.in_opening_process() || self.closed.swap(true, Ordering::SeqCst) {
            return;
        }
        let workers = std::mem::take(&mut *lock(&self.workers));
        let (engines, held) = (std::mem::take(&mut self.engines), self.lock.clone());
        let (consumers, queues, tallies) =
            (self.consumers.clone(), self.queues.clone(), self.tallies.clone());
        let (notices, path, map_file) = (self.notices.clone(), self.path.clone(), self.map_file.clone());
        let close = move |workers| {
            let readers = (&consumers, &queues);
            if let Err(error) = close_all(&engines, readers, &tallies, &map_file, workers, &held) {
                notices.error(format!("closing {}: {}", path.display(), error_chain(&error)));
            }
        };
        if workers.iter().any(WorkerHandle::is_current) {
            // The last handle was dropped on a shard's thread (by a waker, or by a task of a runtime that turns the
            // shard), which cannot wait for itself.
            let leaving = Leaving::begin();
            let _ = std::thread::Builder::new().name("sawmill-close".into()).spawn(move || {
                crate::sys::block_signals();
                close(workers);
                drop(leaving);
            });
        } else {
            close(workers);
        }
    }
}
