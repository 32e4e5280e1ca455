//! One simulated file: what reads see, what the platters hold, and what lies between. What a power cut leaves of it:
//! `power_cut.rs`.

use std::collections::BTreeMap;
use std::io;

use super::power_cut::Survival;
use super::random::Random;

/// What a power cut keeps or loses as a whole.
pub(crate) const SECTOR: usize = 512;

/// A file of the simulated disk: cached bytes, durable bytes, and what differs.
#[derive(Clone, Debug, Default)]
pub(crate) struct SimFile {
    /// What reads see.
    pub(super) current: Vec<u8>,
    /// What a power cut certainly leaves.
    pub(super) durable: Vec<u8>,
    /// Sectors that differ and that a sync would save, each with the number of its last write.
    pub(super) dirty: BTreeMap<usize, u64>,
    writes: u64,
    /// Sectors that cannot be read until they are written again, or for so many tries.
    unreadable: BTreeMap<usize, u64>,
    /// A sync failed: the cache may show sectors that the disk lacks and that no sync saves.
    pub(super) lies: bool,
    /// A synchronous write is a plain one here.
    deaf: bool,
    /// Which device it lies on, whose volatile cache all its files share.
    device: u64,
}

/// What a sync saves, fixed when it is submitted.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    sectors: Vec<(usize, u64)>,
    bytes: usize,
}

impl SimFile {
    pub(crate) fn new(device: u64, deaf: bool) -> SimFile {
        SimFile { device, deaf, ..SimFile::default() }
    }

    pub(crate) fn device(&self) -> u64 {
        self.device
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.current.len() as u64
    }

    pub(crate) fn read(&mut self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        let Some(rest) = self.current.get(offset as usize..) else { return Ok(0) };
        let count = rest.len().min(into.len());
        let sectors = offset as usize / SECTOR..(offset as usize + count).div_ceil(SECTOR);
        if let Some((&sector, left)) = self.unreadable.range_mut(sectors).next() {
            *left -= 1;
            if *left == 0 {
                self.unreadable.remove(&sector);
            }
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        into[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    pub(crate) fn make_unreadable(&mut self, sector: usize, tries: u64) {
        self.unreadable.insert(sector, tries);
    }

    /// Somebody changes the file while the machine is off.
    pub(crate) fn edit(&mut self, act: impl FnOnce(&mut Vec<u8>)) {
        act(&mut self.current);
        self.durable.clone_from(&self.current);
        self.dirty.clear();
    }

    /// Rot: a bit changes, on the disk and for whoever reads it.
    pub(crate) fn flip(&mut self, sector: usize, bit: usize) {
        let at = sector * SECTOR + bit / 8;
        if at >= self.durable.len() {
            // It was made longer and that is not durable yet: with the bit it is, or a power cut would find a byte that
            // nobody has written.
            self.durable.resize(self.current.len(), 0);
        }
        for bytes in [&mut self.current, &mut self.durable] {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << (bit % 8);
            }
        }
    }

    pub(crate) fn grow(&mut self, bytes: u64) {
        if self.current.len() < bytes as usize {
            self.current.resize(bytes as usize, 0);
        }
    }

    /// A write reached the cache.
    pub(crate) fn write(&mut self, bytes: &[u8], offset: u64) {
        let start = offset as usize;
        self.grow((start + bytes.len()) as u64);
        self.current[start..start + bytes.len()].copy_from_slice(bytes);
        self.writes += 1;
        for sector in start / SECTOR..(start + bytes.len()).div_ceil(SECTOR) {
            self.dirty.insert(sector, self.writes);
            self.unreadable.remove(&sector);
        }
    }

    /// A write reached the cache in part: each sector by itself, or not.
    pub(crate) fn write_torn(&mut self, bytes: &[u8], offset: u64, random: &mut Random) {
        let survival = Survival::draw(random);
        for (index, sector) in bytes.chunks(SECTOR).enumerate() {
            let at = offset + (index * SECTOR) as u64;
            if survival.keeps(random) && at < self.bytes() {
                self.write(sector, at);
            }
        }
    }

    /// A synchronous write: its own range, and nothing else, is durable.
    pub(crate) fn write_through(&mut self, bytes: &[u8], offset: u64) {
        self.write(bytes, offset);
        if self.deaf {
            return;
        }
        let first = offset as usize / SECTOR;
        for sector in first..first + bytes.len().div_ceil(SECTOR) {
            self.save(sector);
        }
    }

    /// A synchronous write whose bytes the device lost, or some of them, before it flushed what was left and said that
    /// all is well.
    pub(crate) fn write_cheated(&mut self, bytes: &[u8], offset: u64, random: &mut Random) {
        self.write(bytes, offset);
        let first = offset as usize / SECTOR;
        self.lose(first..first + bytes.len().div_ceil(SECTOR), random);
    }

    /// Of these sectors those that no sync has saved reach the disk or are lost for good, each by itself, and the cache
    /// hides it.
    fn lose(&mut self, sectors: std::ops::Range<usize>, random: &mut Random) -> bool {
        let dirty: Vec<usize> = self.dirty.range(sectors).map(|(&sector, _)| sector).collect();
        let survival = Survival::draw(random);
        for &sector in &dirty {
            if survival.keeps(random) && sector * SECTOR < self.durable.len() {
                self.save(sector);
            } else {
                self.dirty.remove(&sector);
                self.lies = true;
            }
        }
        !dirty.is_empty()
    }

    /// A flush of the device failed, for whichever file: what the device had taken of this one may be lost. True if
    /// there was anything.
    pub(crate) fn lose_cache(&mut self, random: &mut Random) -> bool {
        self.lose(0..usize::MAX, random)
    }

    pub(super) fn save(&mut self, sector: usize) {
        self.dirty.remove(&sector);
        let start = sector * SECTOR;
        let end = (start + SECTOR).min(self.current.len());
        if self.durable.len() < end {
            self.durable.resize(end, 0);
        }
        self.durable[start..end].copy_from_slice(&self.current[start..end]);
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let sectors = self.dirty.iter().map(|(&sector, &write)| (sector, write)).collect();
        Snapshot { sectors, bytes: self.current.len() }
    }

    /// A sync completed: what it found dirty, and was not written again since, is durable.
    pub(crate) fn sync(&mut self, snapshot: &Snapshot) {
        if self.durable.len() < snapshot.bytes {
            self.durable.resize(snapshot.bytes, 0);
        }
        for &(sector, write) in &snapshot.sectors {
            if self.dirty.get(&sector) == Some(&write) {
                self.save(sector);
            }
        }
    }

    /// A sync failed: the pages count as clean from now on, and the cache shows what the disk lacks
    /// (Rebello et al., ATC 2020). Some had reached the disk before it failed.
    pub(crate) fn fail_sync(&mut self, random: &mut Random) {
        self.lose(0..usize::MAX, random);
        self.lies = true;
    }

    pub(crate) fn forget_cache(&mut self) {
        if !self.lies {
            return;
        }
        self.durable.resize(self.durable.len().max(self.current.len()), 0);
        let mut shown = self.durable.clone();
        for &sector in self.dirty.keys() {
            let range = sector * SECTOR..((sector + 1) * SECTOR).min(shown.len());
            shown[range.clone()].copy_from_slice(&self.current[range]);
        }
        self.current = shown;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after_cut(file: &SimFile, seed: u64) -> Vec<u8> {
        let mut file = file.clone();
        file.power_cut(&mut Random::new(seed));
        file.current
    }

    #[test]
    fn write_through_saves_its_own_range_only() {
        let mut file = SimFile::default();
        file.write(&[1; 4096], 0);
        file.write_through(&[2; 4096], 4096);
        let outcomes: Vec<_> = (0..50).map(|seed| after_cut(&file, seed)).collect();
        assert!(outcomes.iter().all(|bytes| bytes[4096..] == [2; 4096]));
        assert!(outcomes.iter().any(|bytes| bytes[..4096] == [0; 4096]));
        assert!(outcomes.iter().any(|bytes| bytes[..4096] == [1; 4096]));
        assert!(outcomes.iter().any(|bytes| bytes[..512] != bytes[512..1024]), "torn between sectors");
    }

    #[test]
    fn a_sync_saves_what_was_there_when_it_was_submitted() {
        let mut file = SimFile::default();
        file.write(&[1; 512], 0);
        let snapshot = file.snapshot();
        file.write(&[2; 512], 512);
        file.sync(&snapshot);
        let outcomes: Vec<_> = (0..50).map(|seed| after_cut(&file, seed)).collect();
        assert!(outcomes.iter().all(|bytes| bytes[..512] == [1; 512]));
        assert!(outcomes.iter().any(|bytes| bytes.get(512..1024) != Some(&[2; 512])));
    }

    #[test]
    fn a_failed_sync_leaves_a_cache_that_lies() {
        let mut file = SimFile::default();
        file.grow(512);
        let snapshot = file.snapshot();
        file.sync(&snapshot);
        let lost = (0..50).any(|seed| {
            let mut file = file.clone();
            file.write(&[1; 512], 0);
            file.fail_sync(&mut Random::new(seed));
            assert_eq!(file.current, [1; 512]);
            let snapshot = file.snapshot();
            file.sync(&snapshot); // Says that all is well, and saves nothing.
            file.forget_cache();
            file.current == [0; 512]
        });
        assert!(lost);
    }
}
