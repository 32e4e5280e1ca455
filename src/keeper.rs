//! The keeper's thread: makes segments ready, forgets what need not be kept, writes down what consumers
//! have committed, and tells of a device that does not answer, all off the commit path.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::consumer::{self, Registry};
use crate::notice::Notices;
use crate::position::ShardId;
use crate::shard::Engine;
use crate::tally;

/// A healthy device answers within milliseconds, a busy network volume within a second.
const STUCK_AFTER: Duration = Duration::from_secs(10);

/// How often the keeper looks at what nobody asks for.
const KEEPER_EVERY: Duration = Duration::from_secs(1);

/// See the module.
pub(crate) struct Keeper {
    /// Shards whose device was told of as stuck, and has not answered since.
    stuck: Vec<bool>,
    engines: Vec<Arc<Engine>>,
    consumers: Registry,
    tallies: tally::Registry,
    notices: Arc<Notices>,
}

impl Keeper {
    pub(crate) fn new(
        engines: &[Arc<Engine>],
        consumers: &Registry,
        tallies: &tally::Registry,
        notices: &Arc<Notices>,
    ) -> Keeper {
        Keeper {
            stuck: vec![false; engines.len()],
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
        loop {
            match asked.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Ok(shard) => {
                    let engine = &self.engines[usize::from(shard.0)];
                    engine.retain(); // First: what is given up is what the next segment is made of.
                    engine.make_segment();
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if Instant::now() >= due {
                self.look_around();
                due = Instant::now() + KEEPER_EVERY;
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
