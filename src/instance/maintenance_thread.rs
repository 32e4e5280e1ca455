//! The maintenance threads, one for each device: a device that does not answer holds up no other's shards.
//!
//! Each does for the shards of its device, off the commit path, what takes I/O and is not a commit: makes segments ready
//! (when, how large and how fast: `shard/space/`), drops what retention gives up, builds the key index, and once a second
//! looks whether the folders are still in place, and asks tallies for the checkpoints that are due.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use super::Instance;
use crate::position::ShardId;
use crate::shard::{Engine, Filled, Filling, WorkerHandle};
use crate::tally;

/// How often the maintenance thread looks at what nobody asks for.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often a shard's index is gone on with while much is appended.
const INDEX_EVERY: Duration = Duration::from_millis(10);

/// A segment that is being made, a piece at a time, beside everything else.
struct Making {
    engine: Arc<Engine>,
    filling: Filling,
    due: Instant,
}

/// The state of a device's maintenance thread.
pub(crate) struct Maintenance {
    making: Vec<Making>,
    engines: Vec<Arc<Engine>>,
    /// Shards whose keys are to be indexed further, and when.
    indexing: VecDeque<(Instant, Arc<Engine>)>,
    tallies: tally::Registry,
}

/// Starts a maintenance thread for each device.
pub(super) fn start_maintenance(inner: &Instance, workers: &mut Vec<WorkerHandle>) -> io::Result<()> {
    let mut devices: BTreeMap<u64, Vec<Arc<Engine>>> = BTreeMap::new();
    for engine in &inner.engines {
        devices.entry(engine.device_number()).or_default().push(engine.clone());
    }
    for engines in devices.into_values() {
        // A place for each shard, which asks for one segment at a time: to ask allocates nothing.
        let (maintenance, asked) = sync_channel(engines.len());
        engines.iter().for_each(|engine| engine.asks(&maintenance));
        let mut maintenance = Maintenance::new(engines, &inner.tallies);
        let thread = std::thread::Builder::new()
            .name("sawmill-maint".into())
            .spawn(move || maintenance.run(&asked))?;
        workers.push(WorkerHandle::Thread(thread));
    }
    Ok(())
}

/// Does something for a shard. A mistake of ours that panics there stops the shard, as it does in the shard's own
/// thread: whoever waits for a segment is told.
fn contained(engine: &Engine, act: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(act)).is_err() {
        engine.stop_by("the maintenance thread");
    }
}

impl Maintenance {
    pub(crate) fn new(engines: Vec<Arc<Engine>>, tallies: &tally::Registry) -> Maintenance {
        let (making, indexing) = (Vec::with_capacity(engines.len()), VecDeque::with_capacity(engines.len()));
        Maintenance { making, engines, indexing, tallies: tallies.clone() }
    }

    /// Until everybody who could ask is gone.
    pub(crate) fn run(&mut self, asked: &Receiver<ShardId>) {
        crate::sys::block_signals();
        self.engines.iter().for_each(|engine| engine.claim_thread());
        // Nobody may wait for a maintenance thread that is gone.
        if catch_unwind(AssertUnwindSafe(|| self.run_loop(asked))).is_err() {
            self.engines.iter().for_each(|engine| engine.stop_by("the maintenance thread"));
        }
    }

    fn run_loop(&mut self, asked: &Receiver<ShardId>) {
        let mut due = Instant::now() + LOOK_EVERY;
        loop {
            let indexing = self.indexing.iter().map(|(due, _)| *due);
            let next = self.making.iter().map(|making| making.due).chain(indexing).fold(due, Instant::min);
            match asked.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(shard) => self.begin_making(shard),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    for Making { engine, filling, .. } in self.making.drain(..) {
                        contained(&engine, || engine.end_segment(filling));
                    }
                    return;
                }
            }
            self.go_on_making();
            self.go_on_indexing();
            if Instant::now() >= due {
                self.periodic_checks();
                self.indexing.clear();
                let now = Instant::now();
                let indexing = self.engines.iter().filter(|engine| engine.indexes());
                self.indexing.extend(indexing.map(|engine| (now, engine.clone())));
                due = Instant::now() + LOOK_EVERY;
            }
        }
    }

    fn begin_making(&mut self, shard: ShardId) {
        let own = self.engines.iter().find(|engine| engine.id == shard);
        let engine = own.expect("a shard asks its own maintenance").clone();
        let mut begun = None;
        contained(&engine, || {
            #[cfg(test)]
            tests::panic_if_wanted(&engine);
            engine.retain(); // First: what is given up is what the next segment is made of.
            begun = engine.begin_segment();
        });
        self.making.extend(begun.map(|filling| Making { engine, filling, due: Instant::now() }));
    }

    /// A piece of each segment that is due.
    fn go_on_making(&mut self) {
        let mut index = 0;
        while index < self.making.len() {
            if self.making[index].due > Instant::now() {
                index += 1;
                continue;
            }
            let mut making = self.making.swap_remove(index);
            let engine = making.engine.clone();
            let mut left = None;
            contained(&engine, || match engine.fill_segment(&mut making.filling) {
                Filled::After(nanos) => {
                    making.due = Instant::now() + Duration::from_nanos(nanos);
                    left = Some(making);
                }
                Filled::Enough => engine.end_segment(making.filling),
            });
            if let Some(left) = left {
                self.making.insert(index, left);
                index += 1;
            }
        }
    }

    /// A piece of one shard's index, so that whoever waits for a segment does not wait for more.
    fn go_on_indexing(&mut self) {
        let now = Instant::now();
        let Some(next) = self.indexing.iter().position(|(due, _)| *due <= now) else { return };
        let Some((_, engine)) = self.indexing.remove(next) else { return };
        let mut has_more = false;
        contained(&engine, || has_more = engine.go_on_indexing());
        if has_more {
            self.indexing.push_back((now, engine));
        } else if engine.is_index_busy() {
            self.indexing.push_back((now + INDEX_EVERY, engine));
        }
    }

    fn periodic_checks(&self) {
        for engine in &self.engines {
            contained(engine, || {
                engine.look_after_folder();
                engine.retain();
            });
        }
        tally::ask_checkpoints(&self.tallies);
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Mutex;

    use super::*;
    use crate::sync::lock;
    use crate::{AppendError, Log, Options};

    /// Shards' folders: at the next segment of one the maintenance thread panics.
    static WANTED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

    pub(super) fn panic_if_wanted(engine: &Engine) {
        let wanted = lock(&WANTED).contains(&engine.path());
        assert!(!wanted, "as a test wants it");
    }

    fn append(log: &Log, shard: u16, bytes: usize) -> Result<(), AppendError> {
        (0..bytes >> 15)
            .try_for_each(|_| log.shard(ShardId(shard)).append(vec![7; 32 << 10]).wait().map(drop))
    }

    #[test]
    fn a_panic_of_ours_stops_its_shard_and_nobody_waits_for_segments_in_vain() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options::new().shards(2).segment_bytes(1 << 20).memory_bytes(1 << 20);
        let log = options.block_bytes(64 << 10).open(dir.path()).unwrap();
        append(&log, 0, 2 << 20).unwrap();
        lock(&WANTED).push(log.engine_of(ShardId(0)).path());
        let error = append(&log, 0, 8 << 20).unwrap_err();
        assert!(
            matches!(&error, AppendError::ShardFailed(failure) if failure.operation == "the maintenance thread"),
            "{error}"
        );
        append(&log, 1, 8 << 20).expect("its maintenance thread goes on");
        assert!(log.close().is_err());
    }
}
