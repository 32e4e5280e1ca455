//! The shard's own thread: turns while there is something to do, then sleeps in its queue.
//!
//! It does not spin first. Who appends looks whether it sleeps, and wakes it (`shard/wait/wake_state.rs`).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::device::{Queue, Wait};
use crate::shard::{Engine, WorkerHandle};
use crate::sync::lock;
use crate::sys;

impl Engine {
    /// Starts the thread, which owns the queue until the shard is closed or stopped.
    pub(crate) fn start(self: &Arc<Engine>, pin_to: Option<usize>) -> std::io::Result<WorkerHandle> {
        let engine = self.clone();
        let thread = std::thread::Builder::new().name(format!("sawmill-{}", self.id)).spawn(move || {
            sys::block_signals();
            engine.claim_thread();
            if let Some((cpu, error)) = pin_to.and_then(|cpu| Some((cpu, sys::pin_to(cpu).err()?))) {
                engine.notices.warn(format!("shard {}: not pinned to CPU {cpu}: {error}", engine.id));
            }
            let mut queue = lock(&engine.queue).take().expect("one thread per shard");
            // Promise 5 holds for our own mistakes, too: a panic stops the shard and nobody hangs.
            let run = catch_unwind(AssertUnwindSafe(|| engine.run(queue.as_mut())));
            if run.is_err() {
                engine.stop_after("the shard's thread", std::io::Error::other("panicked"));
            }
            // Dropping the queue waits for what the kernel still has in its hands.
            drop(queue);
        })?;
        Ok(WorkerHandle::Thread(thread))
    }

    fn run(&self, queue: &mut dyn Queue) {
        loop {
            self.wake_state.set_awake();
            let (mut next, wakes) = {
                let mut core = lock(&self.core);
                if core.abandoned {
                    return;
                }
                let next = self.turn(&mut core, queue);
                (next, core.take_wakes())
            };
            self.wake(wakes);
            if let Some(operation) = next.own.take() {
                self.perform_itself(operation);
                continue;
            }
            if next.finished {
                return;
            }
            let entered = if next.wait == Wait::No { Ok(()) } else { queue.enter(next.wait) };
            if let Err(error) = entered {
                let wakes = {
                    let mut core = lock(&self.core);
                    self.fail(&mut core, "io_uring_enter", None, error);
                    core.take_wakes()
                };
                self.wake(wakes);
            }
        }
    }
}
