//! The records that a queue has not handed out yet, of all shards in turn.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;

use super::backlog::{Reached, Sum};
use super::state::Facts;
use crate::error::ReadError;
use crate::format::Committed;
use crate::position::Lsn;
use crate::read::{Cursor, Record, Step};
use crate::shard::{Engine, Registration};

/// Errors that are kept until somebody asks: more would be the same ones again.
const ERRORS_MAX: usize = 64;

/// See the module.
#[derive(Debug)]
pub(super) struct Feed {
    lanes: Vec<Lane>,
    /// The shard that is asked first.
    turn: usize,
    /// What nobody was told yet.
    errors: VecDeque<ReadError>,
}

/// One shard, as far as it was read.
#[derive(Debug)]
struct Lane {
    engine: Arc<Engine>,
    cursor: Cursor,
    reached: Reached,
    /// Epoch of the last record, and the [seed](crate::format::EpochSeed) of its records.
    seed: Option<(u32, u32)>,
    registration: Option<Registration>,
}

pub(super) fn facts(record: &Record) -> Facts {
    let bytes = (record.key().len() + record.payload().len()) as u64;
    Facts { timestamp: record.timestamp(), bytes }
}

impl Lane {
    fn committed(&mut self, record: &Record) -> Committed {
        let position = record.position();
        let epoch = position.epoch();
        let seed = match self.seed {
            Some((own, seed)) if own == epoch => seed,
            _ => self.engine.view().seed_of(epoch),
        };
        self.seed = Some((epoch, seed));
        Committed { position, seed }
    }

    fn step(&mut self) -> Step {
        let step = self.cursor.next(self.engine.durable(), Lsn::MAX);
        if let Step::Record(record) = &step {
            self.reached.next = Lsn(record.lsn().0 + 1);
            self.reached.passed.add(facts(record).bytes);
        }
        step
    }
}

impl Feed {
    /// From where each shard is read on.
    pub(super) fn new(engines: &[Arc<Engine>], from: &[Lsn]) -> Result<Feed, ReadError> {
        let lane = |(engine, from): (&Arc<Engine>, &Lsn)| {
            let cursor = Cursor::at_rest(engine.clone(), *from)?;
            let reached = Reached { next: *from, passed: Sum::default() };
            Ok(Lane { engine: engine.clone(), cursor, reached, seed: None, registration: None })
        };
        let lanes = engines.iter().zip(from).map(lane).collect::<Result<_, ReadError>>()?;
        Ok(Feed { lanes, turn: 0, errors: VecDeque::new() })
    }

    /// The next record; `None` if there is none now.
    pub(super) fn step(&mut self) -> Option<Result<(Record, Committed), ReadError>> {
        let count = self.lanes.len();
        for offset in 0..count {
            let index = (self.turn + offset) % count;
            let lane = &mut self.lanes[index];
            match lane.step() {
                Step::End => {}
                Step::Record(record) => {
                    // Blocks, not records, alternate, as a consumer's.
                    self.turn = if lane.cursor.has_ready() { index } else { (index + 1) % count };
                    let committed = lane.committed(&record);
                    return Some(Ok((record, committed)));
                }
                Step::Error(error) => {
                    self.turn = (index + 1) % count;
                    return Some(Err(error));
                }
            }
        }
        None
    }

    /// Keeps an error for whoever asks next.
    pub(super) fn tell_later(&mut self, error: ReadError) {
        if self.errors.len() < ERRORS_MAX {
            self.errors.push_back(error);
        }
    }

    pub(super) fn told(&mut self) -> Option<ReadError> {
        self.errors.pop_front()
    }

    /// There is nothing to read now: gives back the memory for it.
    pub(super) fn rest(&mut self) {
        self.lanes.iter_mut().for_each(|lane| lane.cursor.rest());
    }

    /// Leaves a waker for when there may be more.
    pub(super) fn register(&mut self, waker: &Waker) {
        for lane in &mut self.lanes {
            lane.registration = Some(lane.engine.register_follower(waker, lane.registration));
        }
    }

    pub(super) fn forget(&mut self) {
        for lane in &mut self.lanes {
            if let Some(registration) = lane.registration.take() {
                lane.engine.forget_follower(registration);
            }
        }
    }

    /// How far each shard was handed out.
    pub(super) fn reached(&self) -> Vec<Reached> {
        self.lanes.iter().map(|lane| lane.reached).collect()
    }
}
