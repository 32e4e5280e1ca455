//! Handles to what runs for an open log (threads, or the application's task), joined when it is closed.

use std::sync::mpsc::SyncSender;
use std::thread::JoinHandle;

/// How somebody who turned a shard has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Nothing of the shard is in flight any more.
    Clean,
    /// Operations were given to the kernel that nobody will hear of.
    #[cfg_attr(not(feature = "tokio-uring"), expect(dead_code, reason = "threads wait for theirs"))]
    InFlight,
}

/// A handle to whatever turns a shard or maintains the log: a thread, or a task of the application.
#[derive(Debug)]
pub(crate) enum WorkerHandle {
    Thread(JoinHandle<()>),
    /// Turns nothing, and looks on until the last of what the others leave is done and this is given up.
    Watch(JoinHandle<()>, SyncSender<()>),
    #[cfg(feature = "tokio-uring")]
    Task(std::sync::mpsc::Receiver<Ended>),
}

impl WorkerHandle {
    /// Whether the caller is it, and cannot wait for its own end.
    pub(crate) fn is_current(&self) -> bool {
        match self {
            WorkerHandle::Thread(thread) | WorkerHandle::Watch(thread, _) => {
                thread.thread().id() == std::thread::current().id()
            }
            #[cfg(feature = "tokio-uring")]
            WorkerHandle::Task(_) => crate::shard::drives(),
        }
    }

    /// Waits for its end.
    pub(crate) fn join(self) -> Ended {
        match self {
            WorkerHandle::Thread(thread) => {
                // Its panic was caught and has stopped its shard.
                let _ = thread.join();
                Ended::Clean
            }
            WorkerHandle::Watch(thread, open) => {
                drop(open);
                let _ = thread.join();
                Ended::Clean
            }
            #[cfg(feature = "tokio-uring")]
            WorkerHandle::Task(ended) => ended.recv().unwrap_or(Ended::InFlight),
        }
    }
}
