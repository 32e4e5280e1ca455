//! A shard that lives in the application's own tokio-uring runtime: a task turns it, on that runtime's ring.

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Sleep;

use crate::device::{Queue, TaskWake, TokioUringQueue, Wait};
use crate::position::ShardId;
use crate::shard::Engine;
use crate::shard::run::worker::Ended;
use crate::shard::turn::Next;
use crate::sync::lock;

/// Turns in a poll, before other tasks of the runtime have theirs.
const TURNS_MAX: u32 = 32;

/// What turns one shard of a log, in place of a thread of the log's own. By
/// [`Options::drive`](crate::Options::drive).
///
/// It is made when the log is opened, may be sent to the thread whose runtime is to turn the shard, and
/// [`run`](ShardDriver::run) there. Dropped before the log is closed, it stops its shard as a failed write does:
/// everybody who waits is told, and another open recovers.
#[must_use = "a shard whose driver is dropped stops"]
pub struct ShardDriver(Arm);

impl ShardDriver {
    /// A driver, and how one learns that it has ended.
    pub(crate) fn new(engine: Arc<Engine>, wake: Arc<TaskWake>) -> (ShardDriver, Receiver<Ended>) {
        let (sender, ended) = sync_channel(1);
        (ShardDriver(Arm { engine, wake, ended: sender, done: false }), ended)
    }

    /// Which shard it is.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.0.engine.id
    }

    /// Turns the shard until the log is closed. To be spawned (`tokio_uring::spawn`) or awaited, in a tokio-uring
    /// runtime and nowhere else: elsewhere the shard stops at its first write.
    ///
    /// tokio-uring hands the kernel what was submitted when its runtime has nothing else to run (0.5). A task of the
    /// application that wakes itself again and again holds the log's writes back for as long as it does.
    ///
    /// Cancellation: dropping it stops the shard, see [`ShardDriver`].
    pub fn run(self) -> impl Future<Output = ()> + 'static {
        Run { arm: self.0, queue: TokioUringQueue::default(), timer: None, counted: false }
    }
}

impl fmt::Debug for ShardDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShardDriver").field("shard", &self.shard()).finish_non_exhaustive()
    }
}

/// Who is given the drivers of a log's shards.
#[derive(Clone)]
pub(crate) struct Drive(pub Arc<dyn Fn(ShardDriver) + Send + Sync>);

impl fmt::Debug for Drive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Drive")
    }
}

/// What must not go away unnoticed.
struct Arm {
    engine: Arc<Engine>,
    wake: Arc<TaskWake>,
    ended: SyncSender<Ended>,
    done: bool,
}

impl Arm {
    fn stop(&self, reason: &'static str) {
        self.engine.stop_after("the shard's driver", io::Error::other(reason));
    }

    /// Tells who waits for the end of this.
    fn end(&mut self, ended: Ended) {
        self.done = true;
        if ended == Ended::InFlight {
            // tokio-uring forgets what it keeps for the kernel once it is dropped, and cancels then: rather leak
            // the memory than have the kernel write what somebody else puts there.
            std::mem::forget(self.engine.pool.clone());
        }
        // Nobody listens where the log was leaked.
        let _ = self.ended.try_send(ended);
    }

    fn abandon(&mut self, ended: Ended) {
        // In a forked child a drop does nothing.
        if !self.done && self.engine.in_opening_process() {
            self.stop("dropped before the log was closed");
            self.end(ended);
        }
    }
}

impl Drop for Arm {
    fn drop(&mut self) {
        self.abandon(Ended::Clean); // It was never run.
    }
}

struct Run {
    arm: Arm,
    queue: TokioUringQueue,
    timer: Option<Pin<Box<Sleep>>>,
    /// This thread is known to drive a shard.
    counted: bool,
}

impl Run {
    fn turn(&mut self, context: &mut Context<'_>) -> Next {
        self.queue.poll(context);
        let (engine, queue) = (&self.arm.engine, &mut self.queue);
        engine.wake_state.set_awake();
        // As in a thread of the log's own: a panic stops the shard, and nobody hangs.
        let turned = catch_unwind(AssertUnwindSafe(|| {
            let mut core = lock(&engine.core);
            if core.abandoned {
                // The shard has stopped, and what a caller had begun never completes: what the ring has is waited for.
                while queue.pop().is_some() {}
                return (Next::new(Wait::Forever, queue.is_idle()), core.take_wakes());
            }
            let next = engine.turn(&mut core, queue);
            (next, core.take_wakes())
        }));
        let next = match turned {
            Ok((next, wakes)) => {
                engine.wake(wakes);
                next
            }
            Err(_) => {
                self.arm.stop("panicked");
                Next::new(Wait::No, true)
            }
        };
        // What was submitted wakes the task.
        self.queue.poll(context);
        next
    }

    fn ended(&self) -> Ended {
        if self.queue.is_idle() { Ended::Clean } else { Ended::InFlight }
    }

    /// Whether the time is over already.
    fn sleep(&mut self, duration: Duration, context: &mut Context<'_>) -> bool {
        // The timer's grain is a millisecond, and its time is rounded up.
        let until = tokio::time::Instant::now() + duration;
        let timer = match &mut self.timer {
            Some(timer) => {
                timer.as_mut().reset(until);
                timer
            }
            none => none.insert(Box::pin(tokio::time::sleep_until(until))),
        };
        timer.as_mut().poll(context).is_ready()
    }
}

impl Future for Run {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if !this.arm.engine.in_opening_process() {
            return Poll::Ready(()); // A fork that goes on with the runtime: the log, and its memory, are not its.
        }
        if !std::mem::replace(&mut this.counted, true) {
            DRIVEN.with(|driven| driven.set(driven.get() + 1));
        }
        this.arm.wake.register(context.waker());
        for _ in 0..TURNS_MAX {
            let next = this.turn(context);
            if next.finished {
                let ended = this.ended();
                this.arm.end(ended);
                return Poll::Ready(());
            }
            match next.wait {
                Wait::No => {}
                _ if this.queue.has_completed() => {}
                Wait::Forever => return Poll::Pending,
                Wait::AtMost(duration) if this.sleep(duration, context) => {}
                Wait::AtMost(_) => return Poll::Pending,
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let ended = self.ended();
        self.arm.abandon(ended);
        if self.counted {
            // The thread may be ending, its numbers gone.
            let _ = DRIVEN.try_with(|driven| driven.set(driven.get() - 1));
        }
    }
}

thread_local!(static DRIVEN: Cell<u32> = const { Cell::new(0) });

/// Whether this thread turns a shard, and must not block for one.
pub(crate) fn drives() -> bool {
    DRIVEN.try_with(|driven| driven.get() > 0).unwrap_or(false)
}
