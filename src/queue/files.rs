//! What a queue remembers, durably: written a second after something has changed, with all that changed meanwhile.
//!
//! What a queue is told is memory, and takes a lock under which nobody does I/O. A thread of the queue's own writes it down,
//! so that a flush that hangs holds up no worker. The same thread wakes tasks that wait for a moment, as when a lease ends;
//! while a flush hangs they learn of it late, and threads that wait do not.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::open::{Place, of_queue};
use crate::consumer::{self, Asks, Hold};
use crate::device::{Calls, Device, Directory};
use crate::error::{QueueError, SharedIo};
use crate::format::{Committed, QueueState, SlotKind, decode_queue, encode_queue};
use crate::position::{LogId, Lsn};
use crate::segment::{ManifestError, ManifestFiles, is_name};
use crate::shard::{Engine, Holder};
use crate::sync::lock;
use crate::time::Nanos;

/// What has changed is written down so long after it.
const FLUSH_AFTER_NS: u64 = 1_000_000_000;

/// What a queue's files are called.
fn prefix(name: &str) -> String {
    format!("queue-{name}")
}

pub(super) fn check_name(name: &str) -> Result<(), QueueError> {
    if is_name(name) { Ok(()) } else { Err(QueueError::Name(name.to_owned())) }
}

/// Takes a queue's files away, durably.
pub(super) fn remove(name: &str, directory: &dyn Directory, calls: &Calls) -> Result<(), QueueError> {
    let _out = calls.begin();
    let removed = ManifestFiles::remove(directory, &prefix(name));
    removed.and_then(|()| directory.sync()).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => QueueError::Unknown(name.to_owned()),
        _ => QueueError::Io { name: name.to_owned(), source: error.into() },
    })
}

fn of_manifest(name: &str, directory: &dyn Directory, error: ManifestError) -> QueueError {
    let name = name.to_owned();
    match error {
        ManifestError::Io { file, source, .. } => {
            QueueError::Io { name, source: ManifestError::of_file(directory.path(), file, source).into() }
        }
        ManifestError::TooNew => QueueError::TooNew { name },
        ManifestError::Missing | ManifestError::Damaged(_) | ManifestError::OfTwo => {
            QueueError::Damaged { name }
        }
    }
}

/// What the files say, if they are of this log.
fn decode(name: &str, log: LogId, body: &[u8]) -> Result<QueueState, QueueError> {
    let name = || name.to_owned();
    let (recorded, saved) = decode_queue(body).map_err(|_| QueueError::Damaged { name: name() })?;
    if recorded != log {
        return Err(QueueError::OtherLog { name: name(), log: recorded, own: log });
    }
    // A row is about the shard whose place it has: of another one it would be taken for a place in this.
    let is_own = |(shard, read): (usize, &Option<Committed>)| {
        read.is_none_or(|read| usize::from(read.position.shard().0) == shard)
    };
    if !saved.read.iter().enumerate().all(is_own) {
        return Err(QueueError::Damaged { name: name() });
    }
    Ok(saved)
}

/// What a queue asks the log to keep of each shard: what was not read, what is not done, and dead letters.
fn floors(name: &str, engines: &[Arc<Engine>], saved: &QueueState) -> Vec<Lsn> {
    let mut floors = consumer::floors(name, engines, &saved.read);
    let open = saved.open.iter().map(|open| open.position);
    for position in open.chain(saved.dead.iter().map(|dead| dead.position)) {
        if let Some(own) = floors.get_mut(usize::from(position.shard().0)) {
            *own = position.lsn().min(*own);
        }
    }
    floors
}

/// What a queue's files ask the log to keep.
pub(super) fn asked(name: &str, own: LogId, directory: &dyn Directory, engines: &[Arc<Engine>]) -> Asks {
    let damaged = || QueueError::Damaged { name: name.to_owned() }.to_string();
    Asks::of(directory, &prefix(name), SlotKind::Queue, damaged, |body| match decode(name, own, body) {
        Ok(saved) => {
            let refused = consumer::refusal(name, engines, &saved.read).map(of_queue);
            (floors(name, engines, &saved), refused.map(|error| error.to_string()))
        }
        Err(error) => (Vec::new(), Some(error.to_string())),
    })
}

/// What they say, read beside whoever owns them.
pub(super) fn peek(name: &str, log: LogId, directory: &dyn Directory) -> Result<QueueState, QueueError> {
    check_name(name)?;
    let body =
        ManifestFiles::peek(directory, &prefix(name), SlotKind::Queue).map_err(|error| match error {
            ManifestError::Missing => QueueError::Unknown(name.to_owned()),
            error => of_manifest(name, directory, error),
        })?;
    decode(name, log, &body)
}

#[derive(Debug)]
enum State {
    Open(ManifestFiles, Hold),
    /// A write failed: what the files hold shows at the next open.
    Failed(SharedIo),
    /// They may be somebody else's by now.
    Closed,
}

/// The files of one queue.
#[derive(Debug)]
pub(super) struct Files {
    name: String,
    log: LogId,
    /// Held while they are written.
    state: Mutex<State>,
    calls: Arc<Calls>,
}

impl Files {
    /// The files of this name, which are made where there are none, and what they say.
    pub(super) fn open(name: &str, log: LogId, place: &Place<'_>) -> Result<(Files, QueueState), QueueError> {
        let _out = place.calls.begin();
        let fresh = || Ok(encode_queue(log, &QueueState::default()));
        let made = ManifestFiles::open_or_create(place.directory, &prefix(name), SlotKind::Queue, fresh);
        let (files, body) = made.map_err(|error| of_manifest(name, place.directory, error))?;
        let saved = decode(name, log, &body)?;
        let hold = Hold::begin(Holder::Queue, name, place.engines, place.retain_for);
        let state = Mutex::new(State::Open(files, hold));
        Ok((Files { name: name.to_owned(), log, state, calls: place.calls.clone() }, saved))
    }

    fn told(&self, source: &SharedIo) -> QueueError {
        QueueError::Io { name: self.name.clone(), source: source.clone() }
    }

    /// Writes down what `save` gives, if it gives anything.
    pub(super) fn write(&self, save: impl FnOnce() -> Option<QueueState>) -> Result<(), QueueError> {
        let mut state = lock(&self.state);
        let (files, hold) = match &mut *state {
            State::Open(files, hold) => (files, hold),
            State::Failed(source) => return Err(self.told(source)),
            State::Closed => return Err(QueueError::Closed),
        };
        let Some(saved) = save() else { return Ok(()) };
        let body = encode_queue(self.log, &saved);
        let _out = self.calls.begin();
        // One copy at a time: if it tears, the other one says what was durable before.
        let written = hold.write(files, &body, |engines| floors(&self.name, engines, &saved));
        let is_broken = files.is_broken();
        written.map_err(|error| {
            let source = SharedIo::new(error);
            // Where there was no room it is written the next time.
            if is_broken {
                *state = State::Failed(source.clone());
            }
            self.told(&source)
        })
    }

    /// Whether they are still written.
    pub(super) fn is_open(&self) -> bool {
        matches!(*lock(&self.state), State::Open(..))
    }

    /// After a mistake of ours as after a failed write: nobody takes what is not recorded for recorded.
    pub(super) fn fail(&self) -> QueueError {
        let source = SharedIo::new(io::Error::other("panicked"));
        *lock(&self.state) = State::Failed(source.clone());
        self.told(&source)
    }

    /// Nothing is written any more.
    pub(super) fn close(&self) {
        *lock(&self.state) = State::Closed;
    }
}

/// What the thread of a queue waits for.
#[derive(Debug)]
pub(super) struct Clock {
    device: Arc<dyn Device>,
    asked: Mutex<Asked>,
    changed: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Asked {
    flush: Option<Nanos>,
    ring: Option<Nanos>,
    ended: bool,
}

/// What is due.
enum Due {
    Flush,
    Ring,
    End,
}

impl Clock {
    pub(super) fn new(device: &Arc<dyn Device>) -> Clock {
        let (asked, changed, thread) = (Mutex::default(), Condvar::new(), Mutex::new(None));
        Clock { device: device.clone(), asked, changed, thread }
    }

    /// Something has changed, and is to be written down soon.
    pub(super) fn note(&self) {
        let mut asked = lock(&self.asked);
        if asked.flush.is_none() {
            asked.flush = Some(self.device.now() + FLUSH_AFTER_NS);
            self.changed.notify_one();
        }
    }

    #[cfg(test)]
    pub(super) fn will_flush(&self) -> bool {
        lock(&self.asked).flush.is_some()
    }

    /// Somebody waits for this moment.
    pub(super) fn ring_at(&self, at: Nanos) {
        let mut asked = lock(&self.asked);
        if asked.ring.is_none_or(|earlier| at < earlier) {
            asked.ring = Some(at);
            self.changed.notify_one();
        }
    }

    fn wait(&self) -> Due {
        let mut asked = lock(&self.asked);
        loop {
            let now = self.device.now();
            if asked.ended {
                return Due::End;
            }
            if asked.ring.is_some_and(|at| at <= now) {
                asked.ring = None;
                return Due::Ring;
            }
            if asked.flush.is_some_and(|at| at <= now) {
                asked.flush = None;
                return Due::Flush;
            }
            let next = asked.ring.into_iter().chain(asked.flush).min();
            asked = match next {
                Some(at) => {
                    let waited = self.changed.wait_timeout(asked, Duration::from_nanos(at - now));
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(asked).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Starts the thread. `flush` is false once nothing can be written any more.
    pub(super) fn start(
        self: &Arc<Clock>,
        flush: impl Fn() -> bool + Send + 'static,
        ring: impl Fn() + Send + 'static,
    ) -> io::Result<()> {
        let clock = self.clone();
        let run = move || {
            crate::sys::block_signals();
            let mut writes = true;
            loop {
                match clock.wait() {
                    Due::End => return,
                    Due::Ring => drop(catch_unwind(AssertUnwindSafe(&ring))),
                    Due::Flush => writes = writes && flush(),
                }
            }
        };
        let thread = std::thread::Builder::new().name("sawmill-queue".into()).spawn(run)?;
        *lock(&self.thread) = Some(thread);
        Ok(())
    }

    /// Ends the thread, and waits for it.
    pub(super) fn end(&self) {
        lock(&self.asked).ended = true;
        self.changed.notify_all();
        let thread = lock(&self.thread).take();
        // It may be the thread itself that ends the queue, by the application's subscriber or a waker.
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != std::thread::current().id()) {
            let _ = thread.join();
        }
    }
}
