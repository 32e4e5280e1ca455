//! An open queue: what it decides, what it reads, what it writes, and who waits for it.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Waker;
use std::time::Duration;

use super::backlog::Ahead;
use super::delivery::Delivery;
use super::feed::{Feed, facts};
use super::files::{Clock, Files};
use super::state::{Grant, Moment, Next, State};
use super::wait::{Place, Unpark, Waiting};
use crate::device::Device;
use crate::error::{QueueError, ReadError, Unavailable, error_chain};
use crate::format::Defect;
use crate::notice::Notices;
use crate::position::{Lsn, Position};
use crate::read::{Record, Source, get, get_many};
use crate::shard::Engine;
use crate::sync::lock;
use crate::time::{Nanos, nanos};

/// A record that could not be read is tried again so long after it.
const UNREADABLE_FOR_NS: u64 = 1_000_000_000;

/// What takers are told: records, or an error, or that nothing comes any more.
pub(super) type Told = Option<Result<Vec<Delivery>, ReadError>>;

/// What a look at a queue has found.
pub(super) enum Look {
    Told(Told),
    /// Nothing now; something may be there at this moment, without anything else happening.
    Wait(Option<Nanos>),
}

/// What was handed out: a record that was just read, or one that is to be read again.
enum Taken {
    New(Delivery),
    Again(Grant),
}

/// The state, as long as it is to be changed.
#[derive(Debug)]
struct Held {
    state: State,
    /// It was written for the last time.
    ended: bool,
}

/// A queue that is open. All its handles share one. Of its locks `ahead` is taken first, then `feed`, then `held`, then the
/// others.
pub(crate) struct Core {
    pub(super) name: String,
    engines: Box<[Arc<Engine>]>,
    device: Arc<dyn Device>,
    notices: Arc<Notices>,
    held: Mutex<Held>,
    /// Held while records are read that were not before.
    feed: Mutex<Feed>,
    /// Held while what was not handed out is counted, before all others.
    ahead: Mutex<Vec<Ahead>>,
    waiting: Arc<Waiting>,
    files: Files,
    clock: Arc<Clock>,
    stopped: AtomicBool,
    /// So many dead letters have gone, and that was not told yet; 0 if it was.
    untold: AtomicU64,
}

impl fmt::Debug for Core {
    /// Its name, and not what it has read, which is the user's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What a queue is made of, when it is opened.
pub(super) struct Parts<'a> {
    pub name: &'a str,
    pub engines: &'a [Arc<Engine>],
    pub device: &'a Arc<dyn Device>,
    pub notices: &'a Arc<Notices>,
    pub state: State,
    pub feed: Feed,
    pub files: Files,
}

impl Core {
    pub(super) fn new(parts: Parts<'_>) -> Core {
        Core {
            name: parts.name.to_owned(),
            engines: parts.engines.into(),
            device: parts.device.clone(),
            notices: parts.notices.clone(),
            held: Mutex::new(Held { state: parts.state, ended: false }),
            feed: Mutex::new(parts.feed),
            ahead: Mutex::new(parts.engines.iter().map(Ahead::new).collect()),
            waiting: Arc::default(),
            files: parts.files,
            clock: Arc::new(Clock::new(parts.device)),
            stopped: AtomicBool::new(false),
            untold: AtomicU64::new(0),
        }
    }

    /// Starts its thread, where there are any.
    pub(super) fn start(self: &Arc<Core>) -> Result<(), QueueError> {
        // With what it was opened: a record that became a dead letter then is written down as if that came later.
        if lock(&self.held).state.has_changed() {
            self.clock.note();
        }
        if !self.device.threaded() {
            return Ok(());
        }
        let (core, waiting) = (self.clone(), self.waiting.clone());
        let flush = move || {
            let flushed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| core.flush()));
            let flushed = flushed.unwrap_or_else(|_| Err(core.files.fail()));
            if let Err(error) = &flushed {
                core.notices.warn(error_chain(error).to_string());
                core.clock.note();
            }
            core.files.is_open()
        };
        let started = self.clock.start(flush, move || waiting.ring());
        started.map_err(|error| QueueError::Io { name: self.name.clone(), source: Arc::new(error) })
    }

    pub(super) fn in_opening_process(&self) -> bool {
        self.engines.iter().all(|engine| engine.in_opening_process())
    }

    pub(super) fn moment(&self) -> Moment {
        Moment { now: self.device.now(), wall: self.device.wall() }
    }

    /// Looks at the state, or changes it; `None` once it was written for the last time.
    fn with<R>(&self, act: impl FnOnce(&mut State, Moment) -> R) -> Option<R> {
        let moment = self.moment();
        let mut held = lock(&self.held);
        if held.ended {
            return None;
        }
        let (was_noted, forgotten) = (held.state.has_changed(), held.state.dead().forgotten);
        let result = act(&mut held.state, moment);
        let notes = !was_noted && held.state.has_changed();
        let gone = held.state.dead().forgotten;
        drop(held);
        if notes {
            self.clock.note();
        }
        if gone > forgotten {
            self.untold.store(gone, Ordering::SeqCst);
        }
        Some(result)
    }

    /// Tells of dead letters that went, under no lock.
    fn tell_forgotten(&self) {
        match self.untold.swap(0, Ordering::SeqCst) {
            0 => {}
            gone => self.notices.warn(format!(
                "queue `{}`: there are too many dead letters; the oldest {gone} are forgotten",
                self.name
            )),
        }
    }

    /// The same for who may be told why not.
    pub(super) fn act<R>(&self, act: impl FnOnce(&mut State, Moment) -> R) -> Result<R, QueueError> {
        if !self.in_opening_process() {
            return Err(QueueError::Forked);
        }
        let result = self.with(act).ok_or(QueueError::Closed);
        self.tell_forgotten();
        result
    }

    /// Says what becomes of a record, and wakes who may have waited for that.
    pub(super) fn settle(
        &self,
        position: Position,
        act: impl FnOnce(&mut State, Moment) -> Result<(), super::state::Lost>,
    ) -> Result<(), QueueError> {
        let (settled, rings) = self.act(|state, moment| {
            let before = state.outlook();
            let settled = act(state, moment);
            (settled, state.outlook().concerns(before))
        })?;
        if rings {
            self.waiting.ring();
        }
        settled.map_err(|_| QueueError::LeaseLost(position))
    }

    fn source(&self, position: Position) -> Option<Arc<dyn Source>> {
        let engine = self.engines.get(usize::from(position.shard().0))?;
        Some(engine.clone())
    }

    pub(super) fn get(&self, position: Position) -> Result<Record, ReadError> {
        let source = self.source(position).ok_or(ReadError::NoSuchShard(position.shard()))?;
        get(&source, position)
    }

    // Taking.

    /// Hands out up to `most` records, if there are any.
    pub(super) fn look(self: &Arc<Core>, most: usize) -> Look {
        if !self.in_opening_process() {
            return Look::Told(Some(Err(ReadError::Forked)));
        }
        if self.stopped.load(Ordering::SeqCst) {
            return Look::Told(None);
        }
        // Asked before the step: what became durable before the end is handed out.
        let ended = self.engines.iter().all(|engine| engine.is_ended());
        let (taken, error, wakes) = self.hand_out(most);
        self.tell_forgotten();
        let (mut deliveries, mut error) = (Vec::with_capacity(taken.len()), error);
        for (delivery, failed) in self.read_again(taken) {
            deliveries.extend(delivery);
            if let Some(failed) = failed {
                match &error {
                    None => error = Some(failed),
                    Some(_) => lock(&self.feed).tell_later(failed),
                }
            }
        }
        match error {
            Some(error) if deliveries.is_empty() => Look::Told(Some(Err(error))),
            None if deliveries.is_empty() => match wakes {
                _ if ended => Look::Told(None),
                None => Look::Told(None),
                Some(wakes) => Look::Wait(wakes),
            },
            error => {
                if let Some(error) = error {
                    lock(&self.feed).tell_later(error);
                }
                Look::Told(Some(Ok(deliveries)))
            }
        }
    }

    /// What is handed out, the error that ended it, and when there may be more: the outer `None` where nothing comes any
    /// more.
    #[allow(clippy::type_complexity)] // Taken apart where it is given.
    fn hand_out(self: &Arc<Core>, most: usize) -> (Vec<Taken>, Option<ReadError>, Option<Option<Nanos>>) {
        let mut feed = lock(&self.feed);
        let mut taken = Vec::new();
        if let Some(error) = feed.told() {
            return (taken, Some(error), Some(None));
        }
        while taken.len() < most {
            match self.with(State::next) {
                None => return (taken, None, None),
                Some(Next::Again(grant)) => taken.push(Taken::Again(grant)),
                Some(Next::Wait(wakes)) => return (taken, None, Some(wakes)),
                Some(Next::Read(wakes)) => match feed.step() {
                    None => {
                        feed.rest();
                        return (taken, None, Some(wakes));
                    }
                    Some(Err(error)) => return (taken, Some(error), Some(None)),
                    Some(Ok((record, read))) => {
                        let facts = facts(&record);
                        let Some(grant) = self.with(|state, moment| state.deliver(read, facts, moment))
                        else {
                            return (taken, None, None);
                        };
                        taken.push(Taken::New(Delivery::new(self, grant, record)));
                    }
                },
            }
        }
        (taken, None, Some(None))
    }

    /// Reads what was handed out before: each with its record, or with the reason why there is none.
    fn read_again(self: &Arc<Core>, taken: Vec<Taken>) -> Vec<(Option<Delivery>, Option<ReadError>)> {
        let again = taken.iter().filter_map(|taken| match taken {
            Taken::Again(grant) => Some(grant.position),
            Taken::New(_) => None,
        });
        let again: Vec<Position> = again.collect();
        let sources = |shard: crate::position::ShardId| {
            self.engines.get(usize::from(shard.0)).map(|engine| engine.clone() as Arc<dyn Source>)
        };
        let mut records = get_many(sources, &again).into_iter();
        let mut all = Vec::with_capacity(taken.len());
        for taken in taken {
            all.push(match taken {
                Taken::New(delivery) => (Some(delivery), None),
                Taken::Again(grant) => match records.next().expect("one for each position") {
                    Ok(record) => (Some(Delivery::new(self, grant, record)), None),
                    Err(error) => {
                        self.could_not_read(grant, &error);
                        (None, Some(error))
                    }
                },
            });
        }
        all
    }

    /// A record that is gone is done with: truncated, or cut off while the queue was open. At another error there may be
    /// better luck after a pause. Nobody had it, so that this costs no attempt, unless what was read is damaged: that
    /// does not pass, and ends as a dead letter.
    pub(super) fn could_not_read(&self, grant: Grant, error: &ReadError) {
        let Grant { position, lease, .. } = grant;
        let _ = self.settle(position, |state, moment| match error {
            ReadError::Truncated { .. } | ReadError::NotAPosition(_) => state.done(position, lease),
            ReadError::Damaged { cause, .. } if *cause != Defect::Unreadable => {
                let why = format!("it could not be read: {}", error_chain(error));
                state.put_back(position, lease, Some(&why), UNREADABLE_FOR_NS, moment)
            }
            _ => state.put_back(position, lease, None, UNREADABLE_FOR_NS, moment),
        });
    }

    // Waiting.

    /// As [`look`](Core::look); where it must wait, the waker is left, and has missed nothing.
    pub(super) fn look_or_join(
        self: &Arc<Core>,
        most: usize,
        place: &mut Option<Place>,
        waker: &Waker,
    ) -> Look {
        let mut look = self.look(most);
        if matches!(look, Look::Wait(_)) {
            self.waiting.join(place, waker);
            let bell = Waker::from(self.waiting.clone());
            lock(&self.feed).register(&bell);
            look = self.look(most);
        }
        if matches!(look, Look::Told(_)) {
            self.waiting.leave(place.take());
        }
        look
    }

    /// Somebody waits for this moment, and has no thread to wait with.
    pub(super) fn wake_at(&self, at: Option<Nanos>) {
        if let Some(at) = at {
            self.clock.ring_at(at);
        }
    }

    pub(super) fn leave(&self, place: Option<Place>) {
        if place.is_some() && self.in_opening_process() {
            self.waiting.leave(place);
        }
    }

    /// Blocks until there is something to tell, or the time is over.
    pub(super) fn wait(self: &Arc<Core>, most: usize, timeout: Option<Duration>) -> Told {
        let deadline = timeout.map(|timeout| self.device.now() + nanos(timeout));
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut place = None;
        loop {
            let wakes = match self.look_or_join(most, &mut place, &waker) {
                Look::Told(told) => return told,
                Look::Wait(wakes) => wakes,
            };
            if self.device.threaded() && self.engines[0].would_wait_for_itself() {
                self.leave(place);
                return Some(Err(Unavailable::OwnThread.into()));
            }
            let now = self.device.now();
            if deadline.is_some_and(|deadline| deadline <= now) || !self.pass(now, wakes, deadline) {
                self.leave(place);
                return None;
            }
        }
    }

    /// Lets time pass until something may be there; false where nothing can come any more.
    fn pass(&self, now: Nanos, wakes: Option<Nanos>, deadline: Option<Nanos>) -> bool {
        let next = wakes.into_iter().chain(deadline).min();
        if self.device.threaded() {
            match next {
                Some(next) => std::thread::park_timeout(Duration::from_nanos(next - now)),
                None => std::thread::park(),
            }
            return true;
        }
        let durable = || self.engines.iter().map(|engine| engine.durable()).collect::<Vec<Lsn>>();
        let before = durable();
        self.engines.iter().for_each(|engine| engine.turn_until(|| false));
        if durable() == before {
            let Some(next) = next else { return false };
            self.device.pause(Duration::from_nanos(next - self.device.now()));
        }
        true
    }

    // What there is.

    pub(super) fn lag(&self) -> super::Lag {
        if !self.in_opening_process() {
            return super::Lag::default();
        }
        let mut ahead = lock(&self.ahead);
        let reached = lock(&self.feed).reached();
        ahead.iter_mut().zip(reached).for_each(|(own, reached)| own.count(reached));
        // What was handed out meanwhile is open, and counted there alone.
        let feed = lock(&self.feed);
        let (reached, moment) = (feed.reached(), self.moment());
        let (mut records, mut bytes, mut oldest) = lock(&self.held).state.open();
        drop(feed);
        for (own, reached) in ahead.iter().zip(reached) {
            let left = own.left(reached);
            if left.records > 0 {
                records += left.records;
                bytes = bytes.saturating_add(left.bytes);
                oldest = oldest.into_iter().chain(own.oldest(reached)).min();
            }
        }
        super::Lag {
            records,
            bytes,
            oldest: oldest.map(|time| Duration::from_nanos(moment.wall.saturating_sub(time))),
        }
    }

    pub(super) fn requeue(&self, position: Position) -> Result<(), QueueError> {
        let not_rejected = || QueueError::NotRejected(position);
        if !self.act(|state, _| state.dead().has(position))? {
            return Err(not_rejected());
        }
        self.get(position).map_err(QueueError::Read)?;
        let is_there = self.act(|state, moment| state.requeue(position, moment))?;
        self.waiting.ring();
        if is_there { Ok(()) } else { Err(not_rejected()) }
    }

    // Keeping.

    pub(super) fn flush(&self) -> Result<(), QueueError> {
        let flushed = self.write();
        self.engines[0].tell_of_flushes();
        flushed
    }

    fn write(&self) -> Result<(), QueueError> {
        let written = self.files.write(|| {
            let (moment, mut held) = (self.moment(), lock(&self.held));
            held.state.has_changed().then(|| held.state.save(moment))
        });
        written.inspect_err(|_| {
            lock(&self.held).state.is_not_saved();
            self.clock.note(); // It may just have found nothing to write.
        })
    }

    /// As if a backlog were being counted all the while.
    #[cfg(test)]
    pub(super) fn while_counting<R>(&self, act: impl FnOnce() -> R) -> R {
        let _counting = lock(&self.ahead);
        act()
    }

    /// Whether what has changed is going to be written by the queue's thread.
    #[cfg(test)]
    pub(super) fn will_write(&self) -> bool {
        self.clock.will_flush()
    }

    pub(super) fn stop(&self, stopped: bool) {
        self.stopped.store(stopped, Ordering::SeqCst);
        if stopped && self.in_opening_process() {
            self.waiting.ring_all();
        }
    }

    /// Writes for the last time: the log is being closed, or the queue removed. Nobody is handed anything any more.
    pub(super) fn end(&self) -> Result<(), QueueError> {
        let before = std::mem::replace(&mut lock(&self.held).ended, true);
        if before {
            return Ok(());
        }
        self.clock.end();
        let written = self.write();
        self.files.close();
        lock(&self.feed).forget();
        self.waiting.ring_all();
        written
    }
}
