//! Whether the calling thread is one that the log depends on, and so must not block for the log.

use std::cell::Cell;
use std::sync::Arc;

use crate::shard::Engine;

thread_local!(static WORKS_FOR: Cell<usize> = const { Cell::new(0) });

impl Engine {
    /// From now on this thread is one without which the shards of the log do not go on.
    pub(crate) fn claim_thread(&self) {
        WORKS_FOR.set(self.mark_of_log());
    }

    /// Whether this thread is one of these.
    pub(in crate::shard) fn works_here(&self) -> bool {
        WORKS_FOR.try_with(Cell::get).is_ok_and(|log| log == self.mark_of_log())
    }

    /// The same for all shards of a log, and for those of no other one that is open.
    fn mark_of_log(&self) -> usize {
        Arc::as_ptr(&self.clock).addr()
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::sync::Mutex;
    use std::sync::mpsc::channel;
    use std::task::{Context, Wake, Waker};
    use std::time::Duration;

    use super::*;
    use crate::sync::lock;
    use crate::{AppendError, Log, Options, ReadError, ShardId, TruncateError};

    /// Does something when it is woken, in whatever thread that is.
    struct Does(Mutex<Option<Box<dyn FnOnce() + Send>>>);

    impl Wake for Does {
        fn wake(self: Arc<Self>) {
            let act = lock(&self.0).take();
            act.into_iter().for_each(|act| act());
        }
    }

    /// Has `act` done by the waker of a record that the shard's own thread commits, and gives what came of it.
    fn in_a_waker<T: Send + 'static>(log: &Log, act: impl FnOnce(&Log) -> T + Send + 'static) -> T {
        let (sender, told) = channel();
        let own = log.clone();
        let act = move || {
            let name = std::thread::current().name().map(str::to_owned);
            assert_eq!(name.as_deref(), Some("sawmill-0"), "who else commits it?");
            let _ = sender.send(act(&own));
        };
        let waker = Waker::from(Arc::new(Does(Mutex::new(Some(Box::new(act))))));
        let mut append = pin!(log.append(b"of a task"));
        // Held back until the waker is registered.
        let core = lock(&log.engine_of(ShardId(0)).core);
        assert!(append.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        drop(core);
        told.recv_timeout(Duration::from_secs(60)).expect("it hangs")
    }

    #[test]
    fn a_waker_that_waits_for_the_log_in_the_shards_own_thread_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let log = Options::new().shards(1).open(dir.path()).unwrap();
        let first = log.append(b"first").wait().unwrap();
        let (accepted, read, cut, next) = in_a_waker(&log, move |log| {
            // Without a limit it writes the block itself, where nothing else is under way.
            let accepted = log.append(b"accepted").wait_timeout(Duration::from_secs(60));
            let read = log.get(first);
            let cut = log.shard(ShardId(0)).truncate_after(first.lsn());
            let Err(ReadError::AboveEnd { end, .. }) = log.shard(ShardId(0)).follow(crate::Lsn::MAX) else {
                panic!("nothing is there");
            };
            let mut follow = log.shard(ShardId(0)).follow(end).unwrap();
            (accepted, read, cut, follow.next())
        });
        assert!(matches!(accepted, Some(Err(AppendError::OwnThread))), "{accepted:?}");
        assert_eq!(read.unwrap().payload(), b"first", "what need not be waited for is had");
        assert!(matches!(cut, Err(TruncateError::OwnThread)), "{cut:?}");
        assert!(matches!(next, Some(Err(ReadError::OwnThread))), "{next:?}");
        log.sync().wait().unwrap();
        let payloads: Vec<_> = log
            .shard(ShardId(0))
            .read(..)
            .unwrap()
            .map(|record| record.unwrap().payload().to_vec())
            .collect();
        assert!(payloads.contains(&b"accepted".to_vec()), "it was on its way all the same");
        log.close().unwrap();
    }

    /// Of another log it may wait for whatever it likes.
    #[test]
    fn a_waker_may_wait_for_another_log() {
        let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let [one, other] = [0, 1].map(|index| Options::new().shards(1).open(dirs[index].path()).unwrap());
        let waited = other.clone();
        in_a_waker(&one, move |_| waited.append(b"there").wait()).unwrap();
        one.close().unwrap();
        other.close().unwrap();
    }
}
