//! A deterministic machine: disk, folders, locks, clock and randomness from one seed.
//!
//! It has no threads: an operation in flight completes when somebody waits, and time moves only
//! then. A *life* is one process on the machine; [`SimMachine::restart`] ends it by a kill (the page
//! cache survives) or by a power cut (of what nothing made durable each sector survives or not).
//!
//! What is modelled, and what is not, stands in `docs/crash-safety.md`.

mod ahead;
mod blocks;
mod cache;
mod copies;
mod device;
mod disk;
mod power_cut;
mod queue;
mod random;
mod world;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use super::Device;
use super::flushes::AllFlushes;
use crate::position::Lsn;
use crate::sync::lock;
use blocks::Blocks;
pub(crate) use copies::Copied;
use device::SimDevice;
pub(crate) use random::Random;
pub(crate) use world::Counters;
use world::World;
pub use world::{End, Faults};

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
            removed: Vec::new(),
            kept: BTreeMap::new(),
            waits: 0,
            in_flight: Vec::new(),
            lingering: Vec::new(),
            failed_flushes: BTreeMap::new(),
            untold: Vec::new(),
            blocks: Blocks::default(),
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
        Arc::new(SimDevice { machine: self.clone(), life, flushes: AllFlushes::default() })
    }

    pub(crate) fn set_faults(&self, mut faults: Faults) {
        let mut world = self.world();
        if let Some(steps) = faults.stop_after.take() {
            faults.stop_at = Some(world.steps + 1 + steps);
        }
        world.faults = faults;
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

    /// How often the device with this number has failed to flush.
    pub(crate) fn failed_flushes(&self, device: u64) -> u64 {
        self.world().failed_flushes.get(&device).copied().unwrap_or(0)
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

    /// The file system of this folder does not honour synchronous writes, whatever others do.
    pub(crate) fn make_deaf(&self, folder: impl Into<PathBuf>) {
        self.world().make_folder(&folder.into()).deaf = true;
    }

    /// Renames a folder, and with it those in it: whoever has it open keeps it.
    #[cfg(test)]
    pub(crate) fn rename(&self, from: &str, to: &str) {
        let mut world = self.world();
        let old = std::mem::take(&mut world.folders);
        world.folders = old
            .into_iter()
            .map(|(path, folder)| match path.strip_prefix(from) {
                Ok(rest) if rest.as_os_str().is_empty() => (PathBuf::from(to), folder),
                Ok(rest) => (PathBuf::from(to).join(rest), folder),
                Err(_) => (path, folder),
            })
            .collect();
    }

    /// Removes a folder with all that is in it: whoever has it open has what nobody can find any more.
    #[cfg(test)]
    pub(crate) fn remove(&self, folder: &str) {
        let mut world = self.world();
        let old = std::mem::take(&mut world.folders);
        let (gone, kept): (BTreeMap<_, _>, _) =
            old.into_iter().partition(|(path, _)| path.starts_with(folder));
        world.folders = kept;
        world.removed.extend(gone.into_values().map(|mut folder| {
            folder.names.clear();
            folder
        }));
    }

    /// Flips a bit while the machine is off.
    pub(crate) fn rot(&self) {
        self.world().rot(false);
    }

    /// Makes a sector unreadable while the machine is off.
    pub(crate) fn make_unreadable(&self) {
        self.world().rot(true);
    }

    /// Changes bytes of a file, whichever these numbers hit: folders in order, names in order.
    pub(crate) fn edit(&self, which: usize, act: impl FnOnce(&str, &mut Vec<u8>)) {
        let mut guard = self.world();
        let world = &mut *guard;
        let names = world.folders.values().flat_map(|folder| folder.names.iter());
        let all: Vec<(String, u64)> = names.map(|(name, number)| (name.clone(), *number)).collect();
        if all.is_empty() {
            return;
        }
        let (name, number) = &all[which % all.len()];
        world.file(*number).edit(|bytes| act(name, bytes));
    }

    /// Takes a file of the key index away, or changes it, whether somebody has it open or not; false if there is none.
    pub(crate) fn spoil_index(&self, random: &mut Random) -> bool {
        self.world().spoil_index(random)
    }

    /// How many files there are.
    #[cfg(test)]
    pub(crate) fn files(&self) -> usize {
        self.world().folders.values().map(|folder| folder.names.len()).sum()
    }

    /// Makes a sector of a file unreadable for so many tries.
    #[cfg(test)]
    pub(crate) fn make_unreadable_at(&self, name: &str, sector: usize, tries: u64) {
        let mut guard = self.world();
        let world = &mut *guard;
        let number = world.folders.values().rev().find_map(|folder| folder.names.get(name).copied());
        let number = number.expect("the file is there");
        world.file(number).make_unreadable(sector, tries);
    }

    /// Takes a segment's file away while the machine is off.
    pub(crate) fn vanish_segment(&self) {
        self.world().vanish();
    }

    /// A shard loses both copies of its manifest while the machine is off, in one of four ways.
    pub(crate) fn lose_manifest(&self, shard: u16, way: u64) {
        let mut guard = self.world();
        let world = &mut *guard;
        let is_its = |path: &PathBuf| path.ends_with(format!("shard-{shard:04}"));
        let folder = world.folders.iter_mut().find(|(path, _)| is_its(path)).expect("the shard is there").1;
        // Where something else was done to it before, they may be gone or cut short already.
        let named = |name: &str| folder.names.get(name).copied();
        let copies: Vec<u64> =
            ["shard.manifest.0", "shard.manifest.1"].into_iter().filter_map(named).collect();
        let gone = if way == 0 { &copies[..] } else { &copies[..copies.len().min(usize::from(way == 1))] };
        folder.names.retain(|_, number| !gone.contains(number));
        folder.durable.retain(|_, number| !gone.contains(number));
        for &number in copies.iter().filter(|number| !gone.contains(number)) {
            world.file(number).edit(|bytes| match way {
                1 => bytes.iter_mut().skip(40).take(1).for_each(|byte| *byte ^= 1),
                2 => bytes.fill(0),
                _ => bytes.clear(),
            });
        }
    }

    /// Remembers the shards' manifests as they are.
    pub(crate) fn keep_manifests(&self) {
        let mut world = self.world();
        let manifests = world.shard_files(|name| name.contains(".manifest."));
        let mut kept = |number| {
            let mut file = world.files[&number].clone();
            // As somebody reads it, who writes all of it back.
            file.edit(|_| ());
            (number, file)
        };
        let kept = manifests.into_iter().map(&mut kept).collect();
        world.kept = kept;
    }

    /// Puts the manifests back that were remembered, as a careless restore of a backup does.
    pub(crate) fn restore_manifests(&self) {
        let mut guard = self.world();
        let world = &mut *guard;
        for (number, file) in &world.kept {
            if world.files.contains_key(number) {
                world.files.insert(*number, file.clone());
                world.counters.damages += 1;
            }
        }
    }

    /// From now on no block may be overwritten but those that are given up.
    pub(crate) fn watch_blocks(&self) {
        self.world().blocks.are_watched = true;
    }

    /// Blocks of the shard below `horizon` may be overwritten from now on.
    pub(crate) fn give_up_below(&self, shard: u16, horizon: Lsn) {
        self.world().blocks.give_up_below(shard, horizon);
    }

    /// Blocks of the shard from `end` on, which a crash cut off, may be overwritten.
    pub(crate) fn give_up_from(&self, shard: u16, end: Lsn) {
        self.world().blocks.give_up_from(shard, end);
    }

    /// Ends this life and begins the next one.
    pub(crate) fn restart(&self, end: End) {
        let mut guard = self.world();
        let world = &mut *guard;
        world.life += 1;
        world.waits = 0;
        world.stopped = false;
        world.faults.stop_at = None;
        world.untold.clear();
        let mut flights = std::mem::take(&mut world.in_flight);
        let lingers = end == End::Kill && !flights.is_empty() && world.random.per_mille(world.faults.linger);
        if lingers {
            world.counters.lingering += 1;
            for flight in &mut flights {
                flight.due = world.now + world.random.below(20_000_000_000);
            }
            world.lingering.append(&mut flights);
        } else {
            flights.append(&mut world.lingering);
        }
        for flight in &flights {
            world.land(flight);
        }
        for folder in world.folders.values_mut() {
            folder.locked = false;
        }
        match end {
            End::Kill => world.counters.kills += 1,
            End::PowerCut => world.power_cut(),
        }
        // A name that was removed comes back with a power cut unless the folder was synced.
        let named: Vec<u64> = world
            .folders
            .values()
            .flat_map(|folder| folder.names.values().chain(folder.durable.values()).copied())
            .collect();
        world.files.retain(|number, _| named.contains(number));
        drop(guard);
        // Operations of the dead process own sealed blocks: give them up outside the lock.
        drop(flights);
    }
}
