//! Named consumers: readers that remember how far they have got.
//!
//! A consumer reads all shards and gets every record at least once: what it has committed is durable
//! within a second, or after [`flush`](Consumer::flush), and a consumer of the same name goes on
//! there after a reopen or a crash. `progress` is what is remembered and when it is written, `resume` where it goes on
//! from there, `hold` what truncation and retention keep for it.

mod hold;
mod progress;
mod resume;

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use futures_core::Stream;

pub(crate) use hold::{Asks, Hold, floors, hold_asked, hold_copies, refusal};
pub(crate) use progress::{Progress, asked};
pub use resume::From;
pub(crate) use resume::resume_in;

use crate::device::{Calls, Directory};
use crate::error::{ConsumerError, ReadError};
use crate::format::Committed;
use crate::notice::Notices;
use crate::position::{LogId, Lsn, Position, ShardId};
use crate::read::{Cursor, Follower, NextRecord, Record, Step};
use crate::shard::{Engine, Registration};
use crate::sync::lock;

/// The consumers of a log that are open now: one per name.
pub(crate) type Registry = Arc<Mutex<Open>>;

/// See [`Registry`].
#[derive(Debug, Default)]
pub(crate) struct Open {
    progress: Vec<Arc<Progress>>,
    /// The log is closed, and no consumer is opened any more.
    ended: bool,
}

/// Makes durable what was committed for the last time, when the log is closed and still owned.
pub(crate) fn end_all(registry: &Registry) -> Result<(), ConsumerError> {
    let open = {
        let mut open = lock(registry);
        open.ended = true;
        open.progress.clone()
    };
    open.iter().map(|progress| progress.end()).fold(Ok(()), Result::and)
}

/// Where a consumer is opened.
pub(crate) struct Place<'a> {
    pub engines: &'a [Arc<Engine>],
    pub directory: &'a dyn Directory,
    pub calls: &'a Arc<Calls>,
    pub notices: &'a Arc<Notices>,
    /// Names that truncation and retention wait for.
    pub retain_for: &'a [String],
}

impl Place<'_> {
    fn log(&self) -> LogId {
        self.engines[0].view().public_id()
    }
}

/// One shard, as far as it was read.
#[derive(Debug)]
struct Lane {
    engine: Arc<Engine>,
    cursor: Cursor,
    registration: Option<Registration>,
}

/// A reader of all shards with durable progress. By [`Log::consumer`](crate::Log::consumer).
///
/// It is a view of the *whole* log: it gets every record, whatever its key, those of tallies included. Records of one shard
/// come in their order; shards take turns. Each record is delivered at least once: after a crash, those that were not
/// committed are delivered again.
///
/// [`next`](Iterator::next) blocks until a record is durable, as a [`Stream`] it waits for it. Both end (`None`) when the
/// log is closed, by [`stop`](Consumer::stop), or once *all* shards have stopped. While others go on, it gives what a shard
/// that has stopped had durable, and then nothing more of it: watch
/// [`ShardStats::failed`](crate::stats::ShardStats::failed). An error does not end it: what cannot be read is passed over by
/// the next call.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let log = sawmill::Options::new().shards(1).open(dir.path())?;
/// log.append(b"to: you").wait()?;
/// let mut worker = log.consumer("mailer")?;
/// if let Some(record) = worker.next() {
///     let record = record?;
///     // ... send it ...
///     worker.commit(record.position())?;
/// }
/// worker.flush()?; // now the commit survives a crash
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "a consumer does nothing until it is asked for records"]
pub struct Consumer {
    lanes: Vec<Lane>,
    /// The shard that is asked first.
    turn: usize,
    progress: Arc<Progress>,
    registry: Registry,
    stop: ConsumerStop,
}

/// Ends a [`Consumer`], from any thread.
#[derive(Clone, Debug)]
pub struct ConsumerStop {
    engines: Arc<[Arc<Engine>]>,
    stopped: Arc<AtomicBool>,
}

impl ConsumerStop {
    /// Ends it, also while it waits.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        for engine in self.engines.iter() {
            engine.wake_followers();
        }
    }
}

/// Where a consumer goes on in each shard.
fn lanes(engines: &[Arc<Engine>], progress: &Progress) -> Result<Vec<Lane>, ConsumerError> {
    let lane = |engine: &Arc<Engine>| {
        let from = resume::resume(progress.name(), engine, progress.of(engine.id))?;
        let cursor = Cursor::at_rest(engine.clone(), from).map_err(ConsumerError::Read)?;
        Ok(Lane { engine: engine.clone(), cursor, registration: None })
    };
    engines.iter().map(lane).collect()
}

fn position_of(committed: Committed) -> Position {
    committed.position
}

/// Takes the name, if it is free.
fn enter(registry: &Registry, progress: &Arc<Progress>) -> Result<(), ConsumerError> {
    let mut open = lock(registry);
    if open.ended {
        return Err(ConsumerError::Closed);
    }
    if open.progress.iter().any(|other| other.name() == progress.name()) {
        return Err(ConsumerError::InUse(progress.name().to_owned()));
    }
    open.progress.push(progress.clone());
    Ok(())
}

/// The names that have progress in the folder.
pub(crate) fn names(place: &Place<'_>) -> Result<Vec<String>, ConsumerError> {
    let _out = place.calls.begin();
    progress::names(place.directory).map_err(|error| ConsumerError::List(error.into()))
}

/// Forgets what the consumer of this name has committed, if nobody has it open.
pub(crate) fn remove(name: &str, registry: &Registry, place: &Place<'_>) -> Result<(), ConsumerError> {
    progress::check_name(name)?;
    let progress = Arc::new(Progress::new(name, place.log(), 0, place.calls));
    let begun = progress.begin();
    enter(registry, &progress)?;
    let removed = begun.remove(place);
    leave(registry, &progress);
    place.engines[0].tell_of_flushes();
    removed
}

/// Its name is free again.
fn leave(registry: &Registry, progress: &Arc<Progress>) {
    lock(registry).progress.retain(|open| !Arc::ptr_eq(open, progress));
}

impl Consumer {
    /// Goes on where it had got, or where it is told.
    pub(crate) fn open(
        name: &str,
        from: Option<From>,
        registry: &Registry,
        place: &Place<'_>,
    ) -> Result<Consumer, ConsumerError> {
        progress::check_name(name)?;
        let progress = Arc::new(Progress::new(name, place.log(), place.engines.len(), place.calls));
        // The name first, and the files under no lock of the others: a device that does not answer holds up this one
        // alone, and a close waits for it.
        let begun = progress.begin();
        enter(registry, &progress)?;
        let opened = begun.open(from, place).and_then(|()| {
            let engines: Arc<[Arc<Engine>]> = place.engines.into();
            let lanes = lanes(&engines, &progress)?;
            if engines[0].is_threaded() {
                let engine = engines[0].clone();
                progress.start(place.notices, move || engine.tell_of_flushes())?;
            }
            Ok((lanes, ConsumerStop { engines, stopped: Arc::default() }))
        });
        match opened {
            Ok((lanes, stop)) => Ok(Consumer { lanes, turn: 0, progress, registry: registry.clone(), stop }),
            Err(error) => {
                leave(registry, &progress);
                place.engines[0].tell_of_flushes();
                Err(error)
            }
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.progress.name()
    }

    /// A handle that ends this consumer.
    #[must_use]
    pub fn stop(&self) -> ConsumerStop {
        self.stop.clone()
    }

    /// Says that this record, and all before it in its shard, need not come again.
    ///
    /// Costs no I/O: it is durable within about a second, or after [`flush`](Consumer::flush). An
    /// earlier position than one committed before changes nothing.
    ///
    /// # Errors
    /// [`ConsumerError::NotAPosition`] for what is not durable, or not in this log;
    /// [`ConsumerError::Closed`] once the log is closed, which records what was committed until then.
    pub fn commit(&self, position: Position) -> Result<(), ConsumerError> {
        if !self.in_opening_process() {
            return Err(ConsumerError::Forked);
        }
        if self.progress.is_ended() {
            return Err(ConsumerError::Closed);
        }
        let lane = self.lanes.get(usize::from(position.shard().0));
        match lane.and_then(|lane| progress::committed_at(&lane.engine, position)) {
            Some(committed) => self.progress.commit(committed),
            None => Err(ConsumerError::NotAPosition(position)),
        }
    }

    /// Makes what was committed durable.
    ///
    /// # Errors
    /// If it cannot be written. From then on the progress of this consumer is not recorded any more, since a failed
    /// sync is final; a reopen resumes from what was durable.
    pub fn flush(&self) -> Result<(), ConsumerError> {
        if !self.in_opening_process() {
            return Err(ConsumerError::Forked);
        }
        let flushed = self.progress.flush();
        self.lanes[0].engine.tell_of_flushes();
        flushed
    }

    fn in_opening_process(&self) -> bool {
        self.lanes.iter().all(|lane| lane.engine.in_opening_process())
    }

    /// What it has committed of a shard: the last position, or `None` if there is none.
    #[must_use]
    pub fn committed(&self, shard: ShardId) -> Option<Position> {
        self.lanes
            .get(usize::from(shard.0))
            .and_then(|lane| self.progress.of(lane.engine.id))
            .map(position_of)
    }

    /// Bytes of the log, headers included, between what was committed and what is durable, over all
    /// shards. 0 if every record was committed.
    ///
    /// To find out, it reads at the place where it would resume, in each shard that has something there.
    #[must_use]
    pub fn lag(&self) -> u64 {
        self.lanes.iter().map(|lane| self.lag_of(lane)).sum()
    }

    fn lag_of(&self, lane: &Lane) -> u64 {
        let view = lane.engine.view();
        // It was looked at when this was opened, and what is committed since is of this log.
        let from = resume::resume(self.name(), &lane.engine, self.progress.of(lane.engine.id));
        let from = from.map_or(view.horizon, |from| from.max(view.horizon));
        let durable = lane.engine.durable();
        if from >= durable {
            return 0;
        }
        // Padding, idle markers, the room left at the end of a segment, what an open has cut off: all of it may lie
        // behind the last record, and only a look tells that nothing else does.
        let left = Cursor::new(lane.engine.clone(), from).map(|mut cursor| {
            let step = cursor.next(durable, Lsn::MAX);
            cursor.rest();
            step
        });
        if matches!(left, Ok(Step::End)) { 0 } else { durable.0 - from.0 }
    }

    /// The next record, waiting for at most `timeout`.
    ///
    /// `None` if it has ended or the time is over; [`Iterator::next`] tells which.
    pub fn next_timeout(&mut self, timeout: Duration) -> Option<Result<Record, ReadError>> {
        self.wait(Instant::now().checked_add(timeout))
    }

    fn wait(&mut self, deadline: Option<Instant>) -> Option<Result<Record, ReadError>> {
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        loop {
            if let Some(next) = self.look_or_register(&waker) {
                return next;
            }
            if !self.lanes[0].engine.is_threaded() {
                let before: Vec<Lsn> = self.lanes.iter().map(|lane| lane.engine.durable()).collect();
                self.lanes.iter().for_each(|lane| lane.engine.turn_until(|| false));
                if self.lanes.iter().map(|lane| lane.engine.durable()).eq(before) {
                    return None; // Nothing can come any more.
                }
                continue;
            }
            if self.lanes[0].engine.would_wait_for_itself() {
                return Some(Err(ReadError::OwnThread));
            }
            match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
                Some(left) if left.is_zero() => return None,
                Some(left) => std::thread::park_timeout(left),
                None => std::thread::park(),
            }
        }
    }
}

impl Follower for Consumer {
    fn step(&mut self) -> NextRecord {
        let count = self.lanes.len();
        for offset in 0..count {
            let index = (self.turn + offset) % count;
            let lane = &mut self.lanes[index];
            match lane.cursor.next(lane.engine.durable(), Lsn::MAX) {
                Step::End => {}
                Step::Record(record) => {
                    // A shard keeps its turn while what was read of it lasts: blocks, not records, alternate.
                    self.turn = if lane.cursor.has_ready() { index } else { (index + 1) % count };
                    return Some(Ok(record));
                }
                Step::Error(error) => {
                    self.turn = (index + 1) % count;
                    return Some(Err(error));
                }
            }
        }
        None
    }

    fn is_ended(&self) -> bool {
        self.stop.stopped.load(Ordering::SeqCst) || self.lanes.iter().all(|lane| lane.engine.is_ended())
    }

    fn rest(&mut self) {
        self.lanes.iter_mut().for_each(|lane| lane.cursor.rest());
    }

    fn register(&mut self, waker: &Waker) {
        for lane in &mut self.lanes {
            lane.registration = Some(lane.engine.register_follower(waker, lane.registration));
        }
    }
}

/// Wakes a thread that waits for several shards at once.
struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Unpark>) {
        self.0.unpark();
    }
}

impl Iterator for Consumer {
    type Item = Result<Record, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.wait(None)
    }
}

impl Stream for Consumer {
    type Item = Result<Record, ReadError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll(context)
    }
}

impl Drop for Consumer {
    /// Makes what was committed durable, as far as that goes; [`flush`](Consumer::flush) tells of errors.
    fn drop(&mut self) {
        if !self.in_opening_process() {
            return;
        }
        let _ = self.progress.end();
        self.lanes[0].engine.tell_of_flushes();
        for lane in &mut self.lanes {
            if let Some(registration) = lane.registration.take() {
                lane.engine.forget_follower(registration);
            }
        }
        leave(&self.registry, &self.progress);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::simulation::Simulated;
    use crate::{Options, ShardId};

    /// Padding, idle markers, the room left at the end of a segment and what an open leaves out are nothing to read.
    #[test]
    fn nothing_lies_between_the_last_record_and_the_end() {
        for bytes in [100, 3_900] {
            let machine = Simulated::seed(1);
            let open = || {
                let options = Options::new().shards(1).block_bytes(4096).segment_bytes(64 << 10);
                options.device(&machine).open("/log").unwrap()
            };
            for _ in 0..3 {
                let log = open();
                let mut worker = log.consumer("worker").unwrap();
                assert_eq!(worker.lag(), 0, "opened again");
                for _ in 0..20 {
                    let own = log.append(vec![1; bytes]).wait().unwrap();
                    log.engine_of(ShardId(0)).turn_until(|| false);
                    assert!(worker.lag() > 0);
                    assert_eq!(worker.next().unwrap().unwrap().position(), own);
                    worker.commit(own).unwrap();
                    assert_eq!(worker.lag(), 0, "{} markers", log.stats().shards[0].markers);
                }
                drop(worker);
                log.close().unwrap();
            }
        }
    }

    /// One that has caught up waits without the memory that it reads into, and one that was never asked has none yet.
    #[test]
    fn consumers_that_wait_hold_no_buffers() {
        let options = Options::new().shards(2).block_bytes(4096).segment_bytes(1 << 20).memory_bytes(1 << 20);
        let log = options.device(&Simulated::seed(1)).open("/log").unwrap();
        // More than memory holds: it is read from the files.
        for index in 0..800 {
            log.shard(ShardId(index % 2)).append(vec![1; 3_900]).wait().unwrap();
        }
        let mut workers: Vec<_> =
            (0..20).map(|index| log.consumer(&format!("worker-{index}")).unwrap()).collect();
        let rests = |worker: &super::Consumer| worker.lanes.iter().all(|lane| lane.cursor.is_resting());
        assert!(workers.iter().all(rests));
        for worker in &mut workers {
            assert!(worker.next().is_some_and(|record| record.is_ok()));
            assert!(!rests(worker), "there is more to read, and it is read from the files");
            assert_eq!(worker.map(Result::unwrap).count(), 799);
            assert!(rests(worker));
            assert!(worker.next_timeout(Duration::ZERO).is_none());
            assert!(rests(worker));
        }
        let new = log.append(b"new").wait().unwrap();
        for worker in &mut workers {
            assert_eq!(worker.next().unwrap().unwrap().position(), new);
        }
    }
}
