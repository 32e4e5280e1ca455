//! How the simulated machine loses power: of what nothing made durable each sector is kept or lost, and so is each name
//! that a folder's sync did not save.
//!
//! What a write in flight leaves comes first ([`World::land`], `SimFile::write_torn`), since it is in the cache then; that
//! happens at a kill, too.

use super::disk::{SECTOR, SimFile};
use super::random::Random;
use super::world::{InFlight, SimFolder, World};
use crate::device::OperationKind;

/// Which of the sectors that nothing made durable survive a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Survival {
    All,
    None,
    /// Each by a throw of its own.
    Any,
}

impl Survival {
    pub(crate) fn draw(random: &mut Random) -> Survival {
        *random.pick(&[Survival::All, Survival::None, Survival::Any, Survival::Any])
    }

    pub(super) fn keeps(self, random: &mut Random) -> bool {
        match self {
            Survival::All => true,
            Survival::None => false,
            Survival::Any => random.below(2) == 0,
        }
    }
}

impl World {
    /// The power fails, for all folders and files of the machine.
    pub(super) fn power_cut(&mut self) {
        self.counters.power_cuts += 1;
        let mut random = self.random.clone();
        for folder in self.folders.values_mut() {
            folder.power_cut(&mut random);
        }
        for file in self.files.values_mut() {
            file.power_cut(&mut random);
        }
        self.random = random;
    }

    /// What becomes of a write that was in flight when its process ended.
    pub(super) fn land(&mut self, flight: &InFlight) {
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

impl SimFile {
    /// The power fails: of what is not durable each sector is kept or lost.
    pub(super) fn power_cut(&mut self, random: &mut Random) {
        let survival = Survival::draw(random);
        if self.current.len() > self.durable.len() && survival.keeps(random) {
            self.durable.resize(self.current.len(), 0);
        }
        self.current.resize(self.durable.len(), 0);
        for (sector, _) in std::mem::take(&mut self.dirty) {
            let start = sector * SECTOR;
            let end = (start + SECTOR).min(self.durable.len());
            if survival.keeps(random) && start < end {
                self.save(sector);
            } else if start < end {
                self.current[start..end].copy_from_slice(&self.durable[start..end]);
            }
        }
        if std::mem::take(&mut self.lies) {
            self.current.clone_from(&self.durable);
        }
        debug_assert_eq!(self.current, self.durable, "only what was dirty differed");
    }
}
