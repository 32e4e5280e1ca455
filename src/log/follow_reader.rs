//! Following a shard that somebody else owns, who wakes nobody here: its files are looked at again and again.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures_core::Stream;

use super::beside::ForeignShard;
use super::key_onward::KeyOnward;
use crate::error::ReadError;
use crate::position::{Lsn, ShardId};
use crate::read::{Follower, NextRecord, Record, Source, Step, Tail};
use crate::sync::{lock, wake};
use crate::sys::Process;

/// While somebody waits, the shard's files are looked at so often.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The records of a shard from an LSN on, and what comes after them, read without owning the log. By
/// [`ShardReader::follow`](super::ShardReader::follow).
///
/// As an iterator it blocks until the next record is known to be durable, as a [`Stream`] it waits for it. The process that has the log open
/// does not know of it, so it looks at the shard's files 20 times a second while it waits; what that may tell late is
/// said at [`LogReader`](super::LogReader). It ends by its [`FollowReaderStop`], and once it has told that the shard was
/// restored ([`ReadError::OtherHistory`]) or is not there any more ([`ReadError::Replaced`]); a log that was closed may be
/// opened again. The stream needs a thread of its shard's while tasks wait; where none can be made it gives
/// [`ReadError::Io`].
#[derive(Debug)]
#[must_use = "iterators are lazy"]
pub struct FollowReader {
    records: Tail,
    shard: Arc<ForeignShard>,
    stop: FollowReaderStop,
    /// Nobody would wake whoever waits for it.
    unwatched: Option<io::Error>,
    /// Where it was made: elsewhere nobody waits.
    process: Process,
    /// What it followed is there no more, as it has told.
    is_over: bool,
    /// Of one key: which stretch of its slot it reads.
    onward: Option<KeyOnward>,
}

/// Ends a [`FollowReader`], from any thread.
#[derive(Clone, Debug)]
pub struct FollowReaderStop {
    stopped: Arc<(Mutex<bool>, Condvar)>,
    ticker: Arc<Ticker>,
}

impl FollowReaderStop {
    /// Ends it, also while it waits.
    pub fn stop(&self) {
        *lock(&self.stopped.0) = true;
        self.stopped.1.notify_all();
        self.ticker.wake_all();
    }

    fn is_stopped(&self) -> bool {
        *lock(&self.stopped.0)
    }

    /// For so long, or until it is stopped.
    fn sleep(&self, most: Duration) {
        let (stopped, changed) = &*self.stopped;
        let slept = changed.wait_timeout_while(lock(stopped), most, |stopped| !*stopped);
        drop(slept.unwrap_or_else(PoisonError::into_inner));
    }
}

impl FollowReader {
    pub(super) fn new(shard: &Arc<ForeignShard>, from: Lsn) -> Result<FollowReader, ReadError> {
        FollowReader::begin(shard, from, None)
    }

    /// The same, of one key, from within the stretch of its slot that lies in this shard.
    pub(super) fn of_key(onward: KeyOnward, shard: ShardId, from: Lsn) -> Result<FollowReader, ReadError> {
        let shard = onward.shard(shard)?.clone();
        FollowReader::begin(&shard, from, Some(onward))
    }

    fn begin(
        shard: &Arc<ForeignShard>,
        from: Lsn,
        onward: Option<KeyOnward>,
    ) -> Result<FollowReader, ReadError> {
        let (id, end) = (shard.id(), shard.known_end());
        if from > end {
            return Err(ReadError::AboveEnd { shard: id, lsn: from, end });
        }
        let stop = FollowReaderStop { stopped: Arc::default(), ticker: shard.ticker() };
        let records = Tail::new(shard.source(), from, onward.as_ref().map(|onward| &*onward.key))?;
        let (shard, process) = (shard.clone(), Process::current());
        Ok(FollowReader { records, shard, stop, unwatched: None, process, is_over: false, onward })
    }

    /// A handle that ends this reader.
    #[must_use]
    pub fn stop(&self) -> FollowReaderStop {
        self.stop.clone()
    }

    /// The next record, waiting for at most `timeout`.
    ///
    /// `None` if it has ended or the time is over; [`Iterator::next`] tells which.
    pub fn next_timeout(&mut self, timeout: Duration) -> Option<Result<Record, ReadError>> {
        self.wait(Instant::now().checked_add(timeout))
    }

    fn wait(&mut self, deadline: Option<Instant>) -> NextRecord {
        loop {
            if let Some(next) = self.look() {
                return next;
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            match left {
                Some(left) if left.is_zero() => return None,
                left => self.stop.sleep(left.map_or(LOOK_EVERY, |left| left.min(LOOK_EVERY))),
            }
        }
    }

    /// The next record that is known to be durable already.
    fn known(&mut self) -> NextRecord {
        loop {
            // First this: what was put there by hand after the slot had moved on is not known to be durable yet.
            let durable = self.shard.durable();
            let limit = self.onward.as_ref().map(|onward| onward.limit(durable, &self.shard));
            let (limit, is_over) = limit.unwrap_or((durable, false));
            match self.records.next(limit) {
                Step::Record(record) => return Some(Ok(record)),
                Step::Error(error) => return Some(Err(error)),
                Step::End if is_over => {
                    if let Err(error) = self.go_on() {
                        return Some(Err(error));
                    }
                }
                Step::End => return None,
            }
        }
    }

    /// Goes on in the next stretch of its key's slot.
    fn go_on(&mut self) -> Result<(), ReadError> {
        let Some(onward) = &mut self.onward else { return Ok(()) };
        let (shard, from) = onward.next()?;
        self.records = Tail::new(shard.source(), from, Some(&onward.key))?;
        self.shard = shard;
        Ok(())
    }

    fn look_again(&mut self) -> NextRecord {
        let known = self.known();
        if known.is_some() || !self.process.is_current() {
            return known;
        }
        // The shard first: of a slot that was seen to have moved on, all that it had in the shard is in the files.
        let refreshed = self.shard.refresh();
        let map = self.onward.as_ref().map_or(Ok(()), |onward| onward.refresh());
        match refreshed.and(map) {
            Ok(()) => self.known(),
            Err(error) => Some(Err(error)),
        }
    }
}

impl Follower for FollowReader {
    fn is_ended(&self) -> bool {
        self.is_over || !self.process.is_current() || self.stop.is_stopped()
    }

    fn step(&mut self) -> NextRecord {
        if let Some(error) = self.unwatched.take() {
            return Some(Err(ReadError::Io { shard: self.shard.id(), source: Arc::new(error) }));
        }
        if self.is_over {
            return None;
        }
        let next = self.look_again();
        self.is_over = matches!(next, Some(Err(ReadError::OtherHistory { .. } | ReadError::Replaced { .. })));
        next
    }

    fn rest(&mut self) {
        self.records.rest();
    }

    fn register(&mut self, waker: &Waker) {
        self.unwatched = self.stop.ticker.leave(waker).err();
    }
}

impl Iterator for FollowReader {
    type Item = Result<Record, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.wait(None)
    }
}

impl Stream for FollowReader {
    type Item = Result<Record, ReadError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll(context)
    }
}

/// Has the tasks that follow a shard look again, from a thread that is there while any of them waits.
#[derive(Debug)]
pub(super) struct Ticker {
    waiting: Mutex<Waiting>,
    start: fn(Arc<Ticker>) -> io::Result<()>,
}

impl Default for Ticker {
    fn default() -> Ticker {
        Ticker { waiting: Mutex::default(), start: Ticker::start }
    }
}

#[derive(Debug, Default)]
struct Waiting {
    wakers: Vec<Waker>,
    /// There is a thread.
    ticks: bool,
}

impl Ticker {
    /// Leaves a waker for the next tick.
    ///
    /// # Errors
    /// Where there can be no thread: nobody would be woken.
    fn leave(self: &Arc<Ticker>, waker: &Waker) -> io::Result<()> {
        // Cloned and dropped under no lock: that is the user's code.
        let mut waker = Some(waker.clone());
        let starts = {
            let mut waiting = lock(&self.waiting);
            if !waiting.wakers.iter().any(|left| waker.as_ref().is_some_and(|waker| waker.will_wake(left))) {
                waiting.wakers.extend(waker.take());
            }
            !std::mem::replace(&mut waiting.ticks, true)
        };
        drop(waker);
        let started = if starts { (self.start)(self.clone()) } else { Ok(()) };
        if started.is_err() {
            lock(&self.waiting).ticks = false;
            // Others may have relied on it meanwhile.
            self.wake_all();
        }
        started
    }

    fn start(self: Arc<Ticker>) -> io::Result<()> {
        let run = move || {
            crate::sys::block_signals();
            loop {
                std::thread::sleep(LOOK_EVERY);
                if !self.tick() {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("sawmill-look".into()).spawn(run).map(drop)
    }

    /// False if nobody waits any more: then the thread ends.
    fn tick(&self) -> bool {
        {
            let mut waiting = lock(&self.waiting);
            if waiting.wakers.is_empty() {
                waiting.ticks = false;
                return false;
            }
        }
        self.wake_all();
        true
    }

    fn wake_all(&self) {
        let wakers = std::mem::take(&mut lock(&self.waiting).wakers);
        wake(wakers);
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;
    use std::pin::Pin;
    use std::sync::Arc;
    use std::sync::mpsc::{Sender, channel};
    use std::task::{Context, Poll, Wake};
    use std::time::Duration;

    use futures_core::Stream;

    use super::Ticker;
    use crate::log::LogReader;
    use crate::simulation::Simulated;
    use crate::{Log, Lsn, Options, ReadError, ShardId};

    fn open() -> (Log, LogReader) {
        let machine = Simulated::seed(1);
        let options =
            Options::new().shards(1).block_bytes(4096).segment_bytes(64 << 10).memory_bytes(1 << 20);
        let log = options.device(&machine).open("/log").unwrap();
        let reader = LogReader::open_on(machine.device().as_ref(), Path::new("/log")).unwrap();
        (log, reader)
    }

    /// Over new segments and a new epoch, and with no memory to read into while it waits.
    #[test]
    fn a_follower_beside_the_owner_gives_each_record_once() {
        let (log, reader) = open();
        let shard = log.shard(ShardId(0));
        let mut tail = reader.shard(ShardId(0)).follow(Lsn::MIN).unwrap();
        let (mut given, mut appended) = (Vec::new(), Vec::new());
        let mut drain = |given: &mut Vec<_>| {
            while let Some(record) = tail.next_timeout(Duration::ZERO) {
                given.push(record.unwrap().position());
            }
            assert!(tail.records.is_resting());
        };
        for round in 0..40 {
            appended.extend((0..20).map(|_| log.append([1; 3_000]).wait().unwrap()));
            drain(&mut given);
            assert!(given.len() + 3 > appended.len() && given == appended[..given.len()]);
            if round == 20 {
                shard.truncate_after(given[given.len() - 1].lsn()).unwrap();
                appended.truncate(given.len());
            }
        }
        log.close().unwrap();
        drain(&mut given);
        assert_eq!(given, appended);
    }

    /// Also where the owner has given up the segments in which it stood.
    #[test]
    fn a_follower_beside_the_owner_that_has_read_all_has_missed_nothing() {
        let (log, reader) = open();
        let shard = log.shard(ShardId(0));
        let mut tail = reader.shard(ShardId(0)).follow(Lsn::MIN).unwrap();
        for round in 0..60 {
            let own = log.append([1; 3_900]).wait().unwrap();
            log.turn_shard(ShardId(0), false); // Writes the marker that testifies.
            assert_eq!(tail.next_timeout(Duration::ZERO).unwrap().unwrap().position(), own, "round {round}");
            if round % 3 == 0 {
                log.append([2; 3_900]).wait().unwrap();
                shard.truncate_after(own.lsn()).unwrap();
            }
            let next = log.append([3; 100]).wait().unwrap();
            log.turn_shard(ShardId(0), false);
            shard.truncate_before(next.lsn()).unwrap();
            assert_eq!(tail.next_timeout(Duration::ZERO).unwrap().unwrap().position(), next, "round {round}");
        }
    }

    #[test]
    fn it_is_refused_from_above_the_end() {
        let (log, reader) = open();
        let last = log.append(b"record").wait().unwrap();
        let shard = reader.shard(ShardId(0));
        assert!(shard.follow(Lsn(last.lsn().0 + 1)).is_ok());
        let error = shard.follow(Lsn(1 << 30)).unwrap_err();
        assert!(matches!(error, ReadError::AboveEnd { shard: ShardId(0), .. }), "{error}");
        assert!(matches!(reader.shard(ShardId(7)).follow(Lsn::MIN), Err(ReadError::NoSuchShard(_))));
    }

    struct SendOnWake(Sender<()>);

    impl Wake for SendOnWake {
        fn wake(self: Arc<SendOnWake>) {
            let _ = self.0.send(());
        }
    }

    /// Nobody polls it but when it was woken.
    #[test]
    fn a_task_is_woken_to_look_again_and_to_end() {
        let (log, reader) = open();
        let mut tail = reader.shard(ShardId(0)).follow(Lsn::MIN).unwrap();
        let (told, woken) = channel();
        let waker = Arc::new(SendOnWake(told)).into();
        let mut context = Context::from_waker(&waker);
        assert!(Pin::new(&mut tail).poll_next(&mut context).is_pending());
        let position = log.append(b"record").wait().unwrap();
        log.append(b"whose block testifies").wait().unwrap();
        let record = loop {
            woken.recv().unwrap();
            if let Poll::Ready(record) = Pin::new(&mut tail).poll_next(&mut context) {
                break record.expect("it has not ended").unwrap();
            }
        };
        assert_eq!(record.position(), position);
        log.close().unwrap();
        assert!(tail.next().is_some());
        let stop = tail.stop();
        assert!(Pin::new(&mut tail).poll_next(&mut context).is_pending());
        stop.stop();
        woken.recv().unwrap();
        assert!(matches!(Pin::new(&mut tail).poll_next(&mut context), Poll::Ready(None)));
        assert!(tail.next().is_none());
    }

    /// Nobody would wake it, and one that wakes itself is never at rest.
    #[test]
    fn a_task_that_nobody_can_wake_is_told() {
        let (log, reader) = open();
        let mut tail = reader.shard(ShardId(0)).follow(Lsn::MIN).unwrap();
        let start = |_| Err(io::Error::from(io::ErrorKind::WouldBlock));
        tail.stop.ticker = Arc::new(Ticker { start, ..Ticker::default() });
        let (told, _woken) = channel();
        let waker = Arc::new(SendOnWake(told)).into();
        let mut context = Context::from_waker(&waker);
        for _ in 0..2 {
            let polled = Pin::new(&mut tail).poll_next(&mut context);
            assert!(matches!(polled, Poll::Ready(Some(Err(ReadError::Io { .. })))), "{polled:?}");
        }
        // It goes on once there are threads.
        tail.stop.ticker = Arc::default();
        assert!(Pin::new(&mut tail).poll_next(&mut context).is_pending());
        let position = log.append(b"record").wait().unwrap();
        log.close().unwrap();
        assert_eq!(tail.next().unwrap().unwrap().position(), position);
    }

    #[test]
    fn a_thread_that_waits_is_stopped() {
        let (log, reader) = open();
        log.append(b"record").wait().unwrap();
        log.close().unwrap();
        let mut tail = reader.shard(ShardId(0)).follow(Lsn::MIN).unwrap();
        let (stop, (told, read)) = (tail.stop(), channel());
        let waits = std::thread::spawn(move || {
            tail.next().unwrap().unwrap();
            told.send(()).unwrap();
            tail.next().is_none()
        });
        read.recv().unwrap();
        stop.stop();
        assert!(waits.join().unwrap());
    }
}
