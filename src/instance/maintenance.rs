//! The keeper's thread: makes segments ready, forgets what need not be kept, writes down what consumers
//! have committed, and tells of a device that does not answer, all off the commit path.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::consumer::{self, Registry};
use crate::notice::Notices;
use crate::options::{OnStuck, Stuck, Watch};
use crate::position::ShardId;
use crate::shard::{Engine, Filled, Filling};
use crate::tally;

/// A healthy device answers within milliseconds, a busy network volume within a second.
const STUCK_AFTER: Duration = Duration::from_secs(10);

/// How often the keeper looks at what nobody asks for.
const KEEPER_EVERY: Duration = Duration::from_secs(1);

/// A segment that is being made, a piece at a time, beside everything else.
struct Making {
    engine: Arc<Engine>,
    filling: Filling,
    due: Instant,
}

/// The state of the maintenance thread: one per log.
pub(crate) struct Keeper {
    making: Vec<Making>,
    /// Shards whose device was told of as stuck, and has not answered since.
    stuck: Vec<bool>,
    watch: Option<Watch>,
    engines: Vec<Arc<Engine>>,
    consumers: Registry,
    tallies: tally::Registry,
    notices: Arc<Notices>,
}

impl Keeper {
    pub(crate) fn new(
        engines: &[Arc<Engine>],
        watch: Option<Watch>,
        consumers: &Registry,
        tallies: &tally::Registry,
        notices: &Arc<Notices>,
    ) -> Keeper {
        Keeper {
            making: Vec::with_capacity(engines.len()),
            stuck: vec![false; engines.len()],
            watch,
            engines: engines.to_vec(),
            consumers: consumers.clone(),
            tallies: tallies.clone(),
            notices: notices.clone(),
        }
    }

    /// Until everybody who could ask is gone.
    pub(crate) fn run(&mut self, asked: &Receiver<ShardId>) {
        crate::sys::block_signals();
        let mut due = Instant::now() + KEEPER_EVERY;
        let watch_every = self.watch.as_ref().map(Watch::every);
        let mut watch_due = watch_every.map(|every| Instant::now() + every);
        loop {
            let making = self.making.iter().map(|making| making.due);
            let next = making.chain(watch_due).fold(due, Instant::min);
            match asked.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(shard) => self.begin_making(shard),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    self.making.drain(..).for_each(|making| making.engine.end_segment(making.filling));
                    return;
                }
            }
            self.go_on_making();
            if watch_due.is_some_and(|due| Instant::now() >= due) {
                self.watch_device();
                watch_due = watch_every.map(|every| Instant::now() + every);
            }
            if Instant::now() >= due {
                self.look_around();
                due = Instant::now() + KEEPER_EVERY;
            }
        }
    }

    fn begin_making(&mut self, shard: ShardId) {
        let engine = &self.engines[usize::from(shard.0)];
        engine.retain(); // First: what is given up is what the next segment is made of.
        if let Some(filling) = engine.begin_segment() {
            self.making.push(Making { engine: engine.clone(), filling, due: Instant::now() });
        }
    }

    /// A piece of each segment that is due.
    fn go_on_making(&mut self) {
        let mut index = 0;
        while index < self.making.len() {
            let making = &mut self.making[index];
            if making.due > Instant::now() {
                index += 1;
                continue;
            }
            match making.engine.fill_segment(&mut making.filling) {
                Filled::After(nanos) => {
                    making.due = Instant::now() + Duration::from_nanos(nanos);
                    index += 1;
                }
                Filled::Enough => {
                    let Making { engine, filling, .. } = self.making.swap_remove(index);
                    engine.end_segment(filling);
                }
            }
        }
    }

    fn watch_device(&self) {
        let Some(watch) = &self.watch else { return };
        for engine in self.engines.iter().filter(|engine| engine.failure().is_none()) {
            let Some(age) = engine.oldest_operation().filter(|age| *age >= watch.after) else { continue };
            let stuck = Stuck { shard: engine.id, age };
            let act = catch_unwind(AssertUnwindSafe(|| (watch.act)(stuck)));
            if act.unwrap_or_default() == OnStuck::Fail {
                crate::sync::wake(engine.give_up(age));
            }
        }
    }

    fn look_around(&mut self) {
        for (engine, told) in self.engines.iter().zip(&mut self.stuck) {
            // A handle that was forgotten (`mem::forget`) took the duty to announce its record along.
            engine.announce();
            engine.retain();
            let stuck = engine.oldest_operation().filter(|age| *age >= STUCK_AFTER);
            if let Some(age) = stuck.filter(|_| !*told) {
                self.notices.warn(format!("shard {}: the device has not answered for {age:?}", engine.id));
            }
            *told = stuck.is_some();
        }
        tally::ask_checkpoints(&self.tallies);
        if let Err(error) = consumer::flush_all(&self.consumers) {
            self.notices.warn(error.to_string());
        }
    }
}
