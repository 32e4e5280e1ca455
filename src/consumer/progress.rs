//! How far a consumer has got: what a commit notes ([`committed_at`]), and when it is written. Its bytes:
//! `format/progress.rs`.
//!
//! What was committed is memory, and takes a lock under which nobody does I/O. A thread of the consumer's own makes it
//! durable a second later, so that a flush that hangs holds up neither commits nor anybody else.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::Place;
use super::hold::{Asks, Hold, floors, refusal};
use super::resume::{From, check_log, replaced};
use crate::device::{Calls, Directory};
use crate::error::{ConsumerError, SharedIo, error_chain};
use crate::format::{Committed, SlotKind, decode_progress, encode_progress};
use crate::notice::Notices;
use crate::position::{LogId, Position, ShardId};
use crate::segment::{ManifestError, ManifestFiles, is_name};
use crate::shard::{Engine, Holder};
use crate::sync::lock;

/// What was committed is written down so long after it, with all that came meanwhile.
const FLUSH_AFTER: Duration = Duration::from_secs(1);

/// The progress of one consumer.
#[derive(Debug)]
pub(crate) struct Progress {
    name: String,
    /// Whose positions they are.
    log: LogId,
    noted: Mutex<Noted>,
    changed: Condvar,
    /// Held while they are read and written.
    files: Mutex<Files>,
    calls: Arc<Calls>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Noted {
    /// For each shard what was committed last.
    shards: Vec<Option<Committed>>,
    /// Some of it is not written down.
    dirty: bool,
    /// The thread waits for something to write.
    waits: bool,
    /// Nothing is committed any more: it is dropped, or its log closed.
    ended: bool,
}

#[derive(Debug)]
enum Files {
    Open(ManifestFiles, Hold),
    /// A write failed: what the files hold shows at the next open.
    Failed(SharedIo),
    /// They are not opened yet, or may be somebody else's by now.
    Closed,
}

/// What a position is committed as; `None` if it is none of a durable record of this shard.
pub(super) fn committed_at(engine: &Engine, position: Position) -> Option<Committed> {
    let view = engine.view();
    let is_known = view.epochs.last().is_some_and(|row| position.epoch() <= row.epoch);
    let is_here = is_known && position.lsn() < engine.durable();
    is_here.then(|| Committed { position, seed: view.seed_of(position.epoch()) })
}

/// What a consumer's files are called.
fn prefix(name: &str) -> String {
    format!("consumer-{name}")
}

/// What a consumer's files ask the log to keep.
pub(crate) fn asked(name: &str, own: LogId, directory: &dyn Directory, engines: &[Arc<Engine>]) -> Asks {
    let damaged = || ConsumerError::Damaged { name: name.to_owned() }.to_string();
    Asks::of(directory, &prefix(name), SlotKind::Progress, damaged, |body| {
        let Ok((log, shards)) = decode_progress(body) else { return (Vec::new(), Some(damaged())) };
        match check_log(name, log, own).err().or_else(|| refusal(name, engines, &shards)) {
            Some(error @ ConsumerError::OtherLog { .. }) => (Vec::new(), Some(error.to_string())),
            refused => (floors(name, engines, &shards), refused.map(|error| error.to_string())),
        }
    })
}

/// The names of all that have files in the folder.
pub(super) fn names(directory: &dyn Directory) -> io::Result<Vec<String>> {
    let name_of = |file: String| {
        let name = ManifestFiles::prefix_of(&file)?.strip_prefix("consumer-")?;
        is_name(name).then(|| name.to_owned())
    };
    let mut names: Vec<_> = directory.list()?.into_iter().filter_map(name_of).collect();
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

pub(super) fn check_name(name: &str) -> Result<(), ConsumerError> {
    if is_name(name) { Ok(()) } else { Err(ConsumerError::Name(name.to_owned())) }
}

/// Progress whose files are about to be opened, for which everybody else waits who wants them.
pub(super) struct Begun<'a> {
    progress: &'a Progress,
    files: MutexGuard<'a, Files>,
}

impl Begun<'_> {
    /// Takes over what the consumer of this name had committed; nothing if it is new. If it is told where to go on, that
    /// is what it has committed from now on, durably.
    pub(super) fn open(mut self, from: Option<From>, place: &Place<'_>) -> Result<(), ConsumerError> {
        let (directory, engines) = (place.directory, place.engines);
        let _out = self.progress.calls.begin();
        let name = || self.progress.name.clone();
        let made = ManifestFiles::open_or_create(directory, &prefix(&name()), SlotKind::Progress, || {
            Ok(encode_progress(self.progress.log, &[]))
        });
        let (mut files, body) = made.map_err(|error| match error {
            ManifestError::Io { file, source, .. } => {
                let source = ManifestError::of_file(directory.path(), file, source).into();
                ConsumerError::Io { name: name(), source }
            }
            ManifestError::TooNew => ConsumerError::TooNew { name: name() },
            ManifestError::Missing | ManifestError::Damaged(_) | ManifestError::OfTwo => {
                ConsumerError::Damaged { name: name() }
            }
        })?;
        let (log, mut found) = decode_progress(&body).map_err(|_| ConsumerError::Damaged { name: name() })?;
        found.resize(engines.len(), None);
        if !matches!(from, Some(From::Start | From::End)) {
            check_log(&self.progress.name, log, self.progress.log)?;
        }
        let hold = Hold::begin(Holder::Consumer, &self.progress.name, engines, place.retain_for);
        if let Some(from) = from {
            found = replaced(from, engines, &found)?;
            // Both copies: of what was there before nothing is to be believed any more.
            let written = files.write(&encode_progress(self.progress.log, &found));
            written.map_err(|error| ConsumerError::Io { name: name(), source: error.into() })?;
            hold.written(|engines| floors(&name(), engines, &found));
        }
        lock(&self.progress.noted).shards = found;
        *self.files = Files::Open(files, hold);
        Ok(())
    }
}

impl Begun<'_> {
    /// Takes the files away, durably.
    pub(super) fn remove(self, place: &Place<'_>) -> Result<(), ConsumerError> {
        let _out = self.progress.calls.begin();
        let name = || self.progress.name.clone();
        let removed = ManifestFiles::remove(place.directory, &prefix(&name()));
        removed.and_then(|()| place.directory.sync()).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => ConsumerError::Unknown(name()),
            _ => ConsumerError::Io { name: name(), source: error.into() },
        })?;
        place.engines.iter().for_each(|engine| engine.release(Holder::Consumer, &name()));
        Ok(())
    }
}

impl Progress {
    pub(super) fn new(name: &str, log: LogId, shards: usize, calls: &Arc<Calls>) -> Progress {
        let shards = vec![None; shards];
        Progress {
            name: name.to_owned(),
            log,
            noted: Mutex::new(Noted { shards, dirty: false, waits: false, ended: false }),
            changed: Condvar::new(),
            files: Mutex::new(Files::Closed),
            calls: calls.clone(),
            thread: Mutex::new(None),
        }
    }

    /// Before anybody else knows of it.
    pub(super) fn begin(&self) -> Begun<'_> {
        Begun { progress: self, files: lock(&self.files) }
    }

    /// Starts the thread that makes durable what is committed. `failed` is called under no lock when it cannot be.
    pub(super) fn start(
        self: &Arc<Progress>,
        notices: &Arc<Notices>,
        failed: impl Fn() + Send + 'static,
    ) -> Result<(), ConsumerError> {
        let (progress, notices) = (self.clone(), notices.clone());
        let run = move || {
            crate::sys::block_signals();
            while progress.wait_for_commits() {
                // After a mistake of ours as after a failed write: nobody takes what is not recorded for recorded.
                let flushed = catch_unwind(AssertUnwindSafe(|| progress.flush()));
                let flushed = flushed.unwrap_or_else(|_| progress.fail(io::Error::other("panicked")));
                if let Err(error) = flushed {
                    failed();
                    notices.warn(error_chain(&error).to_string());
                    if !progress.is_open() {
                        return; // Nothing is recorded after that.
                    }
                }
            }
        };
        let started = std::thread::Builder::new().name("sawmill-flush".into()).spawn(run);
        let thread =
            started.map_err(|error| ConsumerError::Io { name: self.name.clone(), source: error.into() })?;
        *lock(&self.thread) = Some(thread);
        Ok(())
    }

    /// Until something was committed a while ago; false once nothing will be.
    fn wait_for_commits(&self) -> bool {
        let mut noted = lock(&self.noted);
        while !noted.dirty && !noted.ended {
            noted.waits = true;
            noted = self.changed.wait(noted).unwrap_or_else(PoisonError::into_inner);
        }
        noted.waits = false;
        let more = self.changed.wait_timeout_while(noted, FLUSH_AFTER, |noted| !noted.ended);
        !more.unwrap_or_else(PoisonError::into_inner).0.ended
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn of(&self, shard: ShardId) -> Option<Committed> {
        lock(&self.noted).shards[usize::from(shard.0)]
    }

    /// Notes a position, unless a later one was noted before.
    pub(super) fn commit(&self, committed: Committed) -> Result<(), ConsumerError> {
        let mut noted = lock(&self.noted);
        if noted.ended {
            return Err(ConsumerError::Closed);
        }
        let own = &mut noted.shards[usize::from(committed.position.shard().0)];
        if own.is_none_or(|own| own.position < committed.position) {
            *own = Some(committed);
            noted.dirty = true;
            if std::mem::take(&mut noted.waits) {
                self.changed.notify_one();
            }
        }
        Ok(())
    }

    /// Makes what was committed durable for the last time: it is dropped, or the log is being closed.
    pub(super) fn end(&self) -> Result<(), ConsumerError> {
        lock(&self.noted).ended = true;
        self.changed.notify_all();
        let thread = lock(&self.thread).take();
        // It may be the thread itself that ends the consumer, by the application's subscriber.
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != std::thread::current().id()) {
            let _ = thread.join();
        }
        let mut files = lock(&self.files);
        if matches!(*files, Files::Closed) {
            return Ok(()); // By somebody else, a moment ago.
        }
        let flushed = self.write(&mut files);
        *files = Files::Closed;
        flushed
    }

    /// Whether nothing is committed any more.
    pub(super) fn is_ended(&self) -> bool {
        lock(&self.noted).ended
    }

    /// Makes what was committed durable.
    pub(super) fn flush(&self) -> Result<(), ConsumerError> {
        self.write(&mut lock(&self.files))
    }

    /// Whether anything is still recorded.
    fn is_open(&self) -> bool {
        matches!(*lock(&self.files), Files::Open(..))
    }

    fn fail(&self, error: io::Error) -> Result<(), ConsumerError> {
        let source = SharedIo::new(error);
        *lock(&self.files) = Files::Failed(source.clone());
        Err(ConsumerError::Io { name: self.name.clone(), source })
    }

    fn write(&self, files: &mut Files) -> Result<(), ConsumerError> {
        let told = |source: &SharedIo| ConsumerError::Io { name: self.name.clone(), source: source.clone() };
        let (manifest, hold) = match files {
            Files::Open(manifest, hold) => (manifest, hold),
            Files::Failed(source) => return Err(told(source)),
            Files::Closed => return Err(ConsumerError::Closed),
        };
        let shards = {
            let mut noted = lock(&self.noted);
            if !std::mem::take(&mut noted.dirty) {
                return Ok(());
            }
            noted.shards.clone()
        };
        let body = encode_progress(self.log, &shards);
        let _out = self.calls.begin();
        // One copy at a time: if it tears, the other one is a little older, and some records come twice.
        let written = hold.write(manifest, &body, |engines| floors(&self.name, engines, &shards));
        let is_broken = manifest.is_broken();
        written.map_err(|error| {
            let source = SharedIo::new(error);
            if is_broken {
                *files = Files::Failed(source.clone());
            } else {
                // As where there was no room: it is written the next time.
                lock(&self.noted).dirty = true;
            }
            told(&source)
        })
    }
}
