//! The queues of a log: opened, found again, removed, and ended with it.

use std::sync::{Arc, Mutex};

use super::core::{Core, Parts};
use super::feed::Feed;
use super::files::{self, Files};
use super::options::QueueOptions;
use super::state::{Moment, State};
use crate::consumer::{self, resume_in};
use crate::device::{Calls, Device, Directory};
use crate::error::{ConsumerError, QueueError};
use crate::format::{Committed, QueueState};
use crate::notice::Notices;
use crate::position::{Lsn, Position, ShardId};
use crate::segment::StoreView;
use crate::shard::{Engine, Holder};
use crate::sync::lock;

/// The queues of a log that are open now: one per name.
pub(crate) type Registry = Arc<Mutex<Open>>;

/// See [`Registry`].
#[derive(Debug, Default)]
pub(crate) struct Open {
    slots: Vec<Arc<Slot>>,
    /// The log is closed, and no queue is opened any more.
    ended: bool,
}

/// A name, and the queue that has it. Held while its files are read or removed: a device that does not answer holds up
/// this name alone, and a close waits for it.
#[derive(Debug)]
struct Slot {
    name: String,
    core: Mutex<Option<Arc<Core>>>,
}

/// Where a queue is opened.
pub(crate) struct Place<'a> {
    pub engines: &'a [Arc<Engine>],
    pub directory: &'a dyn Directory,
    pub device: &'a Arc<dyn Device>,
    pub calls: &'a Arc<Calls>,
    pub notices: &'a Arc<Notices>,
    /// Names that truncation and retention wait for.
    pub retain_for: &'a [String],
}

/// The place of a name.
fn slot(name: &str, registry: &Registry) -> Result<Arc<Slot>, QueueError> {
    files::check_name(name)?;
    let mut open = lock(registry);
    if open.ended {
        return Err(QueueError::Closed);
    }
    if let Some(slot) = open.slots.iter().find(|slot| slot.name == name) {
        return Ok(slot.clone());
    }
    let slot = Arc::new(Slot { name: name.to_owned(), core: Mutex::new(None) });
    open.slots.push(slot.clone());
    Ok(slot)
}

/// Whether the log was closed meanwhile: then nobody would end what is opened now.
fn check_open(registry: &Registry) -> Result<(), QueueError> {
    if lock(registry).ended { Err(QueueError::Closed) } else { Ok(()) }
}

/// The queue of this name: the one that is open, the one in the log, or a new one.
pub(crate) fn open(
    name: &str,
    options: &QueueOptions,
    registry: &Registry,
    place: &Place<'_>,
) -> Result<Arc<Core>, QueueError> {
    let limits = options.limits()?;
    let slot = slot(name, registry)?;
    let mut own = lock(&slot.core);
    check_open(registry)?;
    if let Some(core) = &*own {
        core.stop(false);
        return Ok(core.clone());
    }
    let log = place.engines[0].view().public_id();
    let (files, mut saved) = Files::open(name, log, place)?;
    let from = from(name, place.engines, &mut saved)?;
    let moment = Moment { now: place.device.now(), wall: place.device.wall() };
    let state = State::restore(limits, place.engines.len(), saved, moment);
    let feed = Feed::new(place.engines, &from).map_err(QueueError::Read)?;
    let (engines, device, notices) = (place.engines, place.device, place.notices);
    let core = Arc::new(Core::new(Parts { name, engines, device, notices, state, feed, files }));
    core.start()?;
    *own = Some(core.clone());
    Ok(core)
}

/// From where each shard is read on. Of what was remembered, what was cut off the log is forgotten.
fn from(name: &str, engines: &[Arc<Engine>], saved: &mut QueueState) -> Result<Vec<Lsn>, QueueError> {
    let shards: Vec<_> = engines.iter().map(|engine| (engine.view(), engine.durable())).collect();
    from_in(name, &shards, saved)
}

/// The same, of shards that look so and end there.
pub(super) fn from_in(
    name: &str,
    shards: &[(Arc<StoreView>, Lsn)],
    saved: &mut QueueState,
) -> Result<Vec<Lsn>, QueueError> {
    let read = |shard: usize| -> Option<Committed> { saved.read.get(shard).copied().flatten() };
    let from = shards.iter().enumerate().map(|(shard, (view, end))| {
        resume_in(name, ShardId(shard as u16), view, *end, read(shard)).map_err(of_queue)
    });
    let from = from.collect::<Result<Vec<Lsn>, QueueError>>()?;
    let is_there = |position: Position| {
        let Some((view, _)) = shards.get(usize::from(position.shard().0)) else { return false };
        let lsn = position.lsn();
        // What was truncated at the beginning is told when it is asked for.
        let owner = view.epochs.owner(lsn).map(|(row, _)| row.epoch);
        lsn < view.horizon || owner == Some(position.epoch())
    };
    saved.open.retain(|open| is_there(open.position));
    saved.dead.retain(|dead| is_there(dead.position));
    Ok(from)
}

/// What a consumer would be told.
pub(super) fn of_queue(error: ConsumerError) -> QueueError {
    match error {
        ConsumerError::AboveEnd { name, shard, position, end } => {
            QueueError::AboveEnd { name, shard, position, end }
        }
        ConsumerError::OtherHistory { name, shard, position, end } => {
            QueueError::OtherHistory { name, shard, position, end }
        }
        error => unreachable!("where to go on is told by no other error: {error}"),
    }
}

/// Forgets a queue, durably. If it is open, it ends.
pub(crate) fn remove(name: &str, registry: &Registry, place: &Place<'_>) -> Result<(), QueueError> {
    let slot = slot(name, registry)?;
    let mut own = lock(&slot.core);
    check_open(registry)?;
    if let Some(core) = own.take() {
        // Whether its state could be written does not matter any more.
        let _ = core.end();
    }
    files::remove(name, place.directory, place.calls)?;
    place.engines.iter().for_each(|engine| engine.release(Holder::Queue, name));
    Ok(())
}

/// Lets no truncation go past what the consumers and queues of these names have still to read, whether they are opened or
/// not, or were ever.
pub(crate) fn hold_all(names: &[String], directory: &dyn Directory, engines: &[Arc<Engine>]) {
    let log = engines[0].view().public_id();
    for name in names {
        let asked = [
            (Holder::Consumer, consumer::asked(name, log, directory, engines)),
            (Holder::Queue, files::asked(name, log, directory, engines)),
        ];
        let held = asked.map(|(holder, asked)| consumer::hold_asked(holder, name, engines, &asked));
        if held == [false; 2] {
            consumer::hold_copies(Holder::Nobody, name, engines, &[]);
        }
    }
}

/// Makes durable what queues were told for the last time, when the log is closed and still owned.
pub(crate) fn end_all(registry: &Registry) -> Result<(), QueueError> {
    let slots = {
        let mut open = lock(registry);
        open.ended = true;
        std::mem::take(&mut open.slots)
    };
    let end = |slot: &Arc<Slot>| lock(&slot.core).take().map_or(Ok(()), |core| core.end());
    slots.iter().map(end).fold(Ok(()), Result::and)
}
