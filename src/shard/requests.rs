//! Where shards ask for their next segment.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use crate::position::ShardId;

/// The shards' end.
#[derive(Clone, Debug)]
pub(crate) struct Requests {
    sender: SyncSender<ShardId>,
    waiting: Arc<AtomicU32>,
}

/// The keeper's end.
#[derive(Debug)]
pub(crate) struct Requested {
    receiver: Receiver<ShardId>,
    waiting: Arc<AtomicU32>,
}

/// With a place for each shard, which asks for one segment at a time: to ask allocates nothing.
pub(crate) fn requests(shards: u16) -> (Requests, Requested) {
    let (sender, receiver) = sync_channel(usize::from(shards));
    let waiting = Arc::new(AtomicU32::new(0));
    (Requests { sender, waiting: waiting.clone() }, Requested { receiver, waiting })
}

impl Requests {
    /// Asks for a segment of this shard. A keeper that is gone belongs to a log that is closed.
    pub(super) fn ask(&self, shard: ShardId) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        if self.sender.try_send(shard).is_err() {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Whether a shard waits for the keeper to come to it.
    pub(super) fn are_waiting(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }
}

impl Requested {
    /// The next shard that asks, for at most so long.
    ///
    /// # Errors
    /// As of a channel: the time is over, or everybody who could ask is gone.
    pub(crate) fn next(&self, timeout: Duration) -> Result<ShardId, RecvTimeoutError> {
        let shard = self.receiver.recv_timeout(timeout)?;
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        Ok(shard)
    }
}
