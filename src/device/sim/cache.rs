//! The volatile cache of a device, which all its files share: what becomes of it when a flush fails.

use std::io;

use super::random::Random;
use super::world::{InFlight, World};

impl World {
    /// A step that is a blocking flush of a device, for one of its files or for names, which may fail.
    pub(super) fn flush(&mut self, life: u64, device: u64, file: Option<u64>) -> io::Result<()> {
        self.step(life)?;
        let by_itself = self.random_of(self.steps).per_mille(self.faults.flush_error);
        if !self.random.per_mille(self.faults.call_error) && !by_itself {
            return Ok(());
        }
        self.counters.call_errors += 1;
        self.counters.call_sync_errors += 1;
        if let Some(file) = file {
            self.fail_sync(file);
        }
        self.lose_cache(device);
        Err(io::Error::from_raw_os_error(libc::EIO))
    }

    /// The file's dirty pages are lost, or some of them, and the cache hides it.
    pub(super) fn fail_sync(&mut self, number: u64) {
        let mut random = self.random.clone();
        self.file(number).fail_sync(&mut random);
        self.random = random;
    }

    /// An operation in flight failed to flush its device. What that has lost beside it shows once whoever submitted it
    /// is told: what is acknowledged between the two no engine can take back.
    pub(super) fn flush_failed(&mut self, flight: &InFlight) {
        let device = self.file(flight.operation.file.number()).device();
        self.untold.push((flight.queue, flight.operation.id, device));
    }

    /// Whoever submitted an operation is told how it ended.
    pub(super) fn told(&mut self, queue: u64, id: u64) {
        let is_it = |untold: &(u64, u64, u64)| (untold.0, untold.1) == (queue, id);
        if let Some(index) = self.untold.iter().position(is_it) {
            let (_, _, device) = self.untold.swap_remove(index);
            self.lose_cache(device);
        }
    }

    /// A device has failed to flush: what it had taken of any of its files may be lost, and no later flush tells.
    pub(super) fn lose_cache(&mut self, device: u64) {
        *self.failed_flushes.entry(device).or_default() += 1;
        let numbers: Vec<u64> = self.files.keys().copied().collect();
        for number in numbers {
            let mut random = self.random_of(number);
            let file = self.file(number);
            if file.device() == device && file.lose_cache(&mut random) {
                self.counters.lost_beside += 1;
            }
        }
    }

    /// How often the device of a file has failed to flush.
    pub(super) fn failed_flushes_of(&mut self, file: u64) -> u64 {
        let device = self.file(file).device();
        self.failed_flushes.get(&device).copied().unwrap_or(0)
    }

    pub(super) fn has_failed_since(&mut self, flight: &InFlight) -> bool {
        self.failed_flushes_of(flight.operation.file.number()) > flight.failed_before
    }

    /// For what happens beside the course of things, which goes on as if it had not.
    pub(super) fn random_of(&self, what: u64) -> Random {
        Random::new(self.random.clone().next() ^ what)
    }
}
