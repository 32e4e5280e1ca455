//! A deterministic machine: disk, folders, locks, clock and randomness from one seed.
//!
//! It has no threads: an operation in flight completes when somebody waits, and time moves only
//! then. A *life* is one process on the machine; [`SimMachine::restart`] ends it by a kill (the page
//! cache survives) or by a power cut (of what nothing made durable each sector survives or not).
//!
//! What is modelled, and what is not, stands in `docs/crash-safety.md`.

mod disk;
mod random;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use super::{
    Capabilities, Completion, Device, Directory, File, FileSystem, Lock, LockError, Operation, OperationKind,
    Queue, QueueSetup, Wait, Wake,
};
use crate::sync::lock;
use disk::{SimFile, Snapshot};
pub(crate) use random::Random;

/// What may go wrong, and how often; times in nanoseconds.
#[derive(Clone, Debug)]
pub(crate) struct Faults {
    /// Writes through the queue that fail, per mille.
    pub write_error: u32,
    /// Syncs through the queue that fail, per mille; what was dirty is lost, and the cache hides it.
    pub sync_error: u32,
    /// Allocations that find the disk full, per mille.
    pub no_space: u32,
    /// The machine stops at this step, a step being a submission, a completion or a blocking call.
    pub stop_at: Option<u64>,
    pub latency_ns_max: u64,
    /// Whether synchronous writes are offered; else blocks are made durable by syncs.
    pub write_through: bool,
}

impl Default for Faults {
    fn default() -> Faults {
        Faults {
            write_error: 0,
            sync_error: 0,
            no_space: 0,
            stop_at: None,
            latency_ns_max: 100_000,
            write_through: true,
        }
    }
}

/// How a life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Kill,
    PowerCut,
}

/// How often something happened: a fault that is never hit is a test that does not exist.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    pub writes: u64,
    pub syncs: u64,
    pub write_errors: u64,
    pub sync_errors: u64,
    pub no_space: u64,
    pub stops: u64,
    pub kills: u64,
    pub power_cuts: u64,
    pub torn_in_flight: u64,
}

#[derive(Debug, Default)]
struct SimFolder {
    names: BTreeMap<String, u64>,
    durable: BTreeMap<String, u64>,
    locked: bool,
}

#[derive(Debug)]
struct InFlight {
    queue: u64,
    due: u64,
    operation: Operation,
    /// Of the bytes at submission: a buffer must not change under the device.
    hash: u64,
    snapshot: Option<Snapshot>,
}

#[derive(Debug)]
struct World {
    random: Random,
    now: u64,
    wall: u64,
    life: u64,
    stopped: bool,
    steps: u64,
    next_number: u64,
    files: BTreeMap<u64, SimFile>,
    folders: BTreeMap<PathBuf, SimFolder>,
    in_flight: Vec<InFlight>,
    faults: Faults,
    counters: Counters,
}

fn stopped() -> io::Error {
    io::Error::other("the machine has stopped")
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

impl World {
    /// Counts a step of this life; an error once the machine has stopped.
    fn step(&mut self, life: u64) -> io::Result<()> {
        if self.stopped || life != self.life {
            return Err(stopped());
        }
        self.steps += 1;
        if self.faults.stop_at == Some(self.steps) {
            self.stopped = true;
            self.counters.stops += 1;
            return Err(stopped());
        }
        Ok(())
    }

    fn file(&mut self, number: u64) -> &mut SimFile {
        self.files.get_mut(&number).expect("an open file exists")
    }

    fn complete(&mut self, flight: InFlight) -> Completion {
        let id = flight.operation.id;
        let number = flight.operation.file.number();
        let Err(error) = self.step(self.life) else {
            let result = match &flight.operation.kind {
                OperationKind::Write { bytes, offset, sync } => {
                    assert_eq!(
                        hash(bytes),
                        flight.hash,
                        "a buffer changed between submission and completion"
                    );
                    self.complete_write(number, bytes, *offset, *sync)
                }
                OperationKind::Sync => self.complete_sync(number, &flight),
            };
            return Completion { id, result };
        };
        // What was under way when the machine stopped is settled by `restart`.
        self.in_flight.push(InFlight { due: u64::MAX, ..flight });
        Completion { id, result: Err(error) }
    }

    fn complete_write(&mut self, number: u64, bytes: &[u8], offset: u64, sync: bool) -> io::Result<()> {
        self.counters.writes += 1;
        if self.random.per_mille(self.faults.write_error) {
            self.counters.write_errors += 1;
            let mut random = self.random.clone();
            self.file(number).write_torn(bytes, offset, &mut random);
            self.random = random;
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        if sync {
            self.file(number).write_through(bytes, offset)
        } else {
            self.file(number).write(bytes, offset)
        }
        Ok(())
    }

    fn complete_sync(&mut self, number: u64, flight: &InFlight) -> io::Result<()> {
        self.counters.syncs += 1;
        if self.random.per_mille(self.faults.sync_error) {
            self.counters.sync_errors += 1;
            let mut random = self.random.clone();
            self.file(number).fail_sync(&mut random);
            self.random = random;
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        let snapshot = flight.snapshot.as_ref().expect("a sync has a snapshot");
        self.file(number).sync(snapshot);
        Ok(())
    }

    /// What becomes of a write that was in flight when its process ended.
    fn land(&mut self, flight: &InFlight) {
        if let OperationKind::Write { bytes, offset, .. } = &flight.operation.kind {
            let number = flight.operation.file.number();
            let mut random = self.random.clone();
            if let Some(file) = self.files.get_mut(&number) {
                file.write_torn(bytes, *offset, &mut random);
                self.counters.torn_in_flight += 1;
            }
            self.random = random;
        }
    }
}

/// The simulated machine; clones are the same machine.
#[derive(Clone, Debug)]
pub(crate) struct SimMachine {
    world: Arc<Mutex<World>>,
}

impl SimMachine {
    pub(crate) fn new(seed: u64) -> SimMachine {
        let mut random = Random::new(seed);
        let wall = 1_700_000_000_000_000_000 + random.below(1 << 40);
        let world = World {
            random,
            now: 1,
            wall,
            life: 1,
            stopped: false,
            steps: 0,
            next_number: 1,
            files: BTreeMap::new(),
            folders: BTreeMap::new(),
            in_flight: Vec::new(),
            faults: Faults::default(),
            counters: Counters::default(),
        };
        SimMachine { world: Arc::new(Mutex::new(world)) }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        lock(&self.world)
    }

    /// The machine as the process that lives on it now sees it.
    pub(crate) fn device(&self) -> Arc<dyn Device> {
        let life = self.world().life;
        Arc::new(SimDevice { machine: self.clone(), life })
    }

    pub(crate) fn set_faults(&self, faults: Faults) {
        self.world().faults = faults;
    }

    pub(crate) fn counters(&self) -> Counters {
        self.world().counters
    }

    pub(crate) fn steps(&self) -> u64 {
        self.world().steps
    }

    pub(crate) fn has_stopped(&self) -> bool {
        self.world().stopped
    }

    /// Steps the wall clock, forward or back.
    pub(crate) fn step_wall(&self, by: i64) {
        let mut world = self.world();
        world.wall = world.wall.saturating_add_signed(by);
    }

    /// Stops the machine now: every call from here on fails.
    pub(crate) fn stop(&self) {
        self.world().stopped = true;
    }

    /// Ends this life and begins the next one.
    pub(crate) fn restart(&self, end: End) {
        let mut guard = self.world();
        let world = &mut *guard;
        world.life += 1;
        world.stopped = false;
        world.faults.stop_at = None;
        let flights = std::mem::take(&mut world.in_flight);
        for flight in &flights {
            world.land(flight);
        }
        for folder in world.folders.values_mut() {
            folder.locked = false;
        }
        match end {
            End::Kill => world.counters.kills += 1,
            End::PowerCut => {
                world.counters.power_cuts += 1;
                let mut random = world.random.clone();
                for folder in world.folders.values_mut() {
                    folder.power_cut(&mut random);
                }
                for file in world.files.values_mut() {
                    file.power_cut(&mut random);
                }
                world.random = random;
            }
        }
        let named: Vec<u64> =
            world.folders.values().flat_map(|folder| folder.names.values().copied()).collect();
        world.files.retain(|number, _| named.contains(number));
        drop(guard);
        // Operations of the dead process own sealed blocks: give them up outside the lock.
        drop(flights);
    }
}

impl SimFolder {
    /// Each name that differs from what a sync saved is kept or lost by itself.
    fn power_cut(&mut self, random: &mut Random) {
        let mut after = self.durable.clone();
        let changed: Vec<String> = self
            .names
            .keys()
            .chain(self.durable.keys())
            .filter(|name| self.names.get(*name) != self.durable.get(*name))
            .cloned()
            .collect();
        for name in changed {
            if random.below(2) == 0 {
                match self.names.get(&name) {
                    Some(number) => after.insert(name, *number),
                    None => after.remove(&name),
                };
            }
        }
        self.names.clone_from(&after);
        self.durable = after;
    }
}

#[derive(Debug)]
struct SimDevice {
    machine: SimMachine,
    life: u64,
}

impl Device for SimDevice {
    fn directory(&self, path: &Path) -> io::Result<Arc<dyn Directory>> {
        let mut world = self.machine.world();
        world.step(self.life)?;
        // Folders are durable once made, as the trait promises.
        world.folders.entry(path.to_owned()).or_default();
        Ok(Arc::new(SimDirectory { machine: self.machine.clone(), life: self.life, path: path.to_owned() }))
    }

    fn now(&self) -> u64 {
        self.machine.world().now
    }

    fn wall(&self) -> u64 {
        self.machine.world().wall
    }

    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        let mut world = self.machine.world();
        bytes.fill_with(|| world.random.next() as u8);
        Ok(())
    }

    fn threaded(&self) -> bool {
        false
    }
}

#[derive(Debug)]
struct SimDirectory {
    machine: SimMachine,
    life: u64,
    path: PathBuf,
}

impl SimDirectory {
    /// Runs on the folder after a step of this life.
    fn with<T>(&self, act: impl FnOnce(&mut World, &Path) -> io::Result<T>) -> io::Result<T> {
        let mut world = self.machine.world();
        world.step(self.life)?;
        act(&mut world, &self.path)
    }

    fn handle(&self, number: u64) -> Arc<dyn File> {
        Arc::new(SimHandle { machine: self.machine.clone(), life: self.life, number })
    }
}

impl Directory for SimDirectory {
    fn path(&self) -> &Path {
        &self.path
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.with(|world, path| Ok(world.folders[path].names.keys().cloned().collect()))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let found = self.with(|world, path| Ok(world.folders[path].names.get(name).copied()))?;
        found.map(|number| self.handle(number)).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let number = self.with(|world, path| {
            let number = world.next_number;
            world.next_number += 1;
            let folder = world.folders.get_mut(path).expect("an open folder exists");
            if folder.names.contains_key(name) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            folder.names.insert(name.to_owned(), number);
            world.files.insert(number, SimFile::default());
            Ok(number)
        })?;
        Ok(self.handle(number))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.with(|world, path| {
            let folder = world.folders.get_mut(path).expect("an open folder exists");
            folder.names.remove(name).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.with(|world, path| {
            let folder = world.folders.get_mut(path).expect("an open folder exists");
            folder.durable.clone_from(&folder.names);
            Ok(())
        })
    }

    fn lock(&self, _name: &str) -> Result<Arc<dyn Lock>, LockError> {
        let locked = self.with(|world, path| {
            let folder = world.folders.get_mut(path).expect("an open folder exists");
            Ok(std::mem::replace(&mut folder.locked, true))
        });
        match locked {
            Ok(false) => Ok(Arc::new(SimLock {
                machine: self.machine.clone(),
                life: self.life,
                path: self.path.clone(),
            })),
            Ok(true) => Err(LockError::Held("this process".to_owned())),
            Err(error) => Err(LockError::Io(error)),
        }
    }

    fn capabilities(&self) -> Capabilities {
        let write_through = self.machine.world().faults.write_through;
        Capabilities { file_system: FileSystem::Simulated, direct: true, write_through, durable: true }
    }

    fn queue(&self, _setup: &QueueSetup) -> io::Result<(Box<dyn Queue>, Arc<dyn Wake>)> {
        let mut world = self.machine.world();
        world.step(self.life)?;
        world.next_number += 1;
        let number = world.next_number;
        let queue = SimQueue { machine: self.machine.clone(), life: self.life, number, done: Vec::new() };
        Ok((Box::new(queue), Arc::new(NoWake)))
    }
}

#[derive(Debug)]
struct SimLock {
    machine: SimMachine,
    life: u64,
    path: PathBuf,
}

impl Lock for SimLock {
    fn release(&self) {
        let mut world = self.machine.world();
        if world.life == self.life
            && let Some(folder) = world.folders.get_mut(&self.path)
        {
            folder.locked = false;
        }
    }

    fn descriptor(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        None
    }
}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.release();
    }
}

#[derive(Debug)]
struct SimHandle {
    machine: SimMachine,
    life: u64,
    number: u64,
}

impl SimHandle {
    fn with<T>(&self, act: impl FnOnce(&mut World, u64) -> io::Result<T>) -> io::Result<T> {
        let mut world = self.machine.world();
        world.step(self.life)?;
        act(&mut world, self.number)
    }
}

impl File for SimHandle {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        // Reading is no step: it changes nothing that a stop could leave half done.
        let mut world = self.machine.world();
        if world.stopped || world.life != self.life {
            return Err(stopped());
        }
        Ok(world.file(self.number).read(bytes, offset))
    }

    fn write_at(&self, bytes: &[u8], offset: u64, sync: bool) -> io::Result<()> {
        let mut guard = self.machine.world();
        let world = &mut *guard;
        if let Err(error) = world.step(self.life) {
            // The machine stopped in the middle of this very write: some of it may have landed.
            if world.life == self.life && world.faults.stop_at == Some(world.steps) {
                let mut random = world.random.clone();
                world.file(self.number).write_torn(bytes, offset, &mut random);
                world.random = random;
                world.steps += 1;
            }
            return Err(error);
        }
        let file = world.file(self.number);
        if sync {
            file.write_through(bytes, offset)
        } else {
            file.write(bytes, offset)
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.with(|world, number| {
            let snapshot = world.file(number).snapshot();
            world.file(number).sync(&snapshot);
            Ok(())
        })
    }

    fn forget_cache(&self) -> io::Result<()> {
        self.with(|world, number| {
            world.file(number).forget_cache();
            Ok(())
        })
    }

    fn bytes(&self) -> io::Result<u64> {
        self.with(|world, number| Ok(world.file(number).bytes()))
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.with(|world, number| {
            if world.random.per_mille(world.faults.no_space) {
                world.counters.no_space += 1;
                return Err(io::Error::from_raw_os_error(libc::ENOSPC));
            }
            world.file(number).grow(bytes);
            Ok(())
        })
    }

    fn descriptor(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        None
    }

    fn number(&self) -> u64 {
        self.number
    }
}

#[derive(Debug)]
struct NoWake;

impl Wake for NoWake {
    fn wake(&self) {}
}

#[derive(Debug)]
struct SimQueue {
    machine: SimMachine,
    life: u64,
    number: u64,
    done: Vec<Completion>,
}

impl Queue for SimQueue {
    fn push(&mut self, operation: Operation) {
        let mut guard = self.machine.world();
        let world = &mut *guard;
        if let Err(error) = world.step(self.life) {
            let id = operation.id;
            self.done.push(Completion { id, result: Err(error) });
            if world.life == self.life {
                // The machine stopped around the submission: the write may have gone out.
                let flight =
                    InFlight { queue: self.number, due: u64::MAX, operation, hash: 0, snapshot: None };
                world.in_flight.push(flight);
            }
            return;
        }
        let due = world.now + 1 + world.random.below(world.faults.latency_ns_max);
        let (hash, snapshot) = match &operation.kind {
            OperationKind::Write { bytes, .. } => (hash(bytes), None),
            OperationKind::Sync => (0, Some(world.file(operation.file.number()).snapshot())),
        };
        world.in_flight.push(InFlight { queue: self.number, due, operation, hash, snapshot });
    }

    fn enter(&mut self, wait: Wait) -> io::Result<()> {
        let mut guard = self.machine.world();
        let world = &mut *guard;
        if world.stopped || world.life != self.life {
            let own =
                world.in_flight.iter().filter(|flight| flight.queue == self.number && flight.due != u64::MAX);
            let failed: Vec<_> = own.map(|flight| flight.operation.id).collect();
            for flight in world.in_flight.iter_mut().filter(|flight| flight.queue == self.number) {
                flight.due = u64::MAX;
            }
            self.done.extend(failed.into_iter().map(|id| Completion { id, result: Err(stopped()) }));
            return Ok(());
        }
        let own = |flight: &&InFlight| flight.queue == self.number;
        let next = world.in_flight.iter().filter(own).map(|flight| flight.due).min();
        let target = match wait {
            Wait::No => world.now,
            Wait::AtMost(limit) => {
                let limit = world.now + u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX / 2);
                next.map_or(limit, |next| next.min(limit))
            }
            Wait::Forever => next.unwrap_or(world.now),
        };
        let passed = target.saturating_sub(world.now);
        assert!(passed < 1 << 50, "a wait of {passed} ns: {wait:?}, next {next:?}");
        world.now += passed;
        world.wall = world.wall.saturating_add(passed);
        let mut due: Vec<InFlight> = Vec::new();
        let mut index = 0;
        while index < world.in_flight.len() {
            let flight = &world.in_flight[index];
            if flight.queue == self.number && flight.due <= world.now {
                due.push(world.in_flight.swap_remove(index));
            } else {
                index += 1;
            }
        }
        due.sort_by_key(|flight| flight.due);
        for mut flight in due {
            if world.stopped {
                self.done.push(Completion { id: flight.operation.id, result: Err(stopped()) });
                flight.due = u64::MAX;
                world.in_flight.push(flight);
                continue;
            }
            let completion = world.complete(flight);
            self.done.push(completion);
        }
        Ok(())
    }

    fn pop(&mut self) -> Option<Completion> {
        if self.done.is_empty() { None } else { Some(self.done.remove(0)) }
    }
}
