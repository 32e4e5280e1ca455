//! The device's own ceiling: the same writes without an engine.
//!
//! Figures of an engine mean little alone, on machines that are shared and differ. Here are bare
//! writes to put beside them in the same run: huge-page buffers, already written extents,
//! `O_DIRECT`, through io_uring at any depth or one at a time by `pwritev2(2)`.
//!
//! ```
//! use std::time::Duration;
//! use sawmill::ceiling::{BareFile, Method, Writes};
//! # let dir = tempfile::tempdir()?;
//! let file = BareFile::make(dir.path(), 8 << 20)?;
//! let writes = Writes { block_bytes: 4096, depth: 4, method: Method::WriteThrough };
//! match file.uring(&writes, Duration::from_millis(20)) {
//!     Ok(bare) => println!("{:.0} writes/s, median {:?}", bare.per_second(), bare.percentile(50.0)),
//!     Err(error) => println!("no io_uring here: {error}"),
//! }
//! # Ok::<(), std::io::Error>(())
//! ```

mod handover;
mod modelled;
pub mod parts;
mod tune;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::device::{Access, BEHIND_EVERY, Device, Directory, File, ModelFile, RealDevice, bare_uring};
pub use crate::device::{DriveModel, Method, Writes};
use crate::pool::AlignedBuffer;
use crate::position::GRANULE;
use crate::sys;

pub use modelled::ModelledDrive;
pub use tune::{Bandwidth, DeviceClass, SyncLatency, Tuned, tune};

/// What was measured.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Writes that completed, durable if their method makes them so.
    pub writes: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// From the first submission to the last completion.
    pub elapsed: Duration,
    /// CPU time of the whole process meanwhile, the kernel's included.
    pub cpu: Duration,
    /// Of each write, in nanoseconds, sorted.
    latencies: Vec<u64>,
}

impl Measured {
    /// Writes a second.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        self.writes as f64 / self.elapsed.as_secs_f64()
    }

    /// Bytes a second.
    #[must_use]
    pub fn bytes_per_second(&self) -> f64 {
        self.bytes as f64 / self.elapsed.as_secs_f64()
    }

    /// The latency that so many percent of the writes did not exceed.
    #[must_use]
    pub fn percentile(&self, percent: f64) -> Duration {
        let last = self.latencies.len().saturating_sub(1);
        let index = (last as f64 * percent / 100.0).round() as usize;
        Duration::from_nanos(self.latencies.get(index).copied().unwrap_or(0))
    }

    /// How long the write under way goes on at a random moment, which so many percent of the moments do not exceed:
    /// what a record that comes then must wait before its own write begins. A stall counts for all the time that it
    /// takes, where [`percentile`](Measured::percentile) counts one write.
    ///
    /// Of writes that were made one after the other.
    #[must_use]
    pub fn rest_percentile(&self, percent: f64) -> Duration {
        let all: f64 = self.latencies.iter().map(|&nanos| nanos as f64).sum();
        // Moments with more than x left, of all: the sum of what the writes have beyond x.
        let beyond = all * (1.0 - percent / 100.0);
        let mut longest = 0.0;
        for (index, &nanos) in self.latencies.iter().enumerate().rev() {
            longest += nanos as f64;
            let rest = (longest - beyond) / (self.latencies.len() - index) as f64;
            let next = index.checked_sub(1).map_or(0, |next| self.latencies[next]);
            if rest >= next as f64 {
                return Duration::from_nanos(rest as u64);
            }
        }
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::Measured;
    use std::time::Duration;

    #[test]
    fn a_stall_counts_for_the_time_it_takes() {
        let of = |latencies: &[u64]| {
            let latencies = latencies.to_vec();
            Measured { writes: 1, bytes: 1, elapsed: Duration::ZERO, cpu: Duration::ZERO, latencies }
        };
        let rest = |latencies: &[u64], percent| of(latencies).rest_percentile(percent).as_nanos();
        assert_eq!(rest(&[], 50.0), 0);
        assert_eq!(rest(&[100], 0.0), 0);
        assert_eq!(rest(&[100], 75.0), 75);
        // 100 of 200 moments lie in the stall, and half of these have more than 50 left.
        let mut one_stall = vec![1; 100];
        one_stall.push(100);
        assert_eq!(rest(&one_stall, 75.0), 50);
        assert_eq!(of(&one_stall).percentile(75.0).as_nanos(), 1);
        // Against counting: each moment of each write.
        let latencies = [3u64, 9, 27, 40, 41];
        let mut moments: Vec<u64> = latencies.iter().flat_map(|&nanos| 0..nanos).collect();
        moments.sort_unstable();
        for percent in 1..100 {
            let counted = moments[moments.len() * percent / 100];
            assert!((rest(&latencies, percent as f64) as i64 - counted as i64).abs() <= 1, "{percent}");
        }
    }
}

/// A file of already written extents. Removed when it is dropped.
#[derive(Debug)]
pub struct BareFile {
    directory: Arc<dyn Directory>,
    file: Arc<dyn File>,
    /// The same file, where the drive is a modelled one.
    modelled: Option<ModelFile>,
    bytes: u64,
}

const NAME: &str = "sawmill-bare.tmp";
const FILL_BYTES: u64 = 1 << 20;

impl BareFile {
    /// Makes a file of `bytes` in the folder `path` and writes all of it.
    ///
    /// # Errors
    /// Where the file cannot be made; a file of the same name, left by a run that was killed, is
    /// replaced.
    pub fn make(path: impl AsRef<Path>, bytes: u64) -> io::Result<BareFile> {
        BareFile::fill(RealDevice::new().directory(path.as_ref())?, bytes)
    }

    fn fill(directory: Arc<dyn Directory>, bytes: u64) -> io::Result<BareFile> {
        let bytes = bytes.next_multiple_of(FILL_BYTES);
        let _ = directory.remove(NAME);
        let file = directory.create(NAME)?;
        let made = BareFile { directory, file, modelled: None, bytes };
        let _ = made.file.allocate(bytes)?;
        let filler = AlignedBuffer::filled(FILL_BYTES as usize, 0x5a)?;
        for offset in (0..bytes).step_by(FILL_BYTES as usize) {
            made.file.write_at(&filler, offset, false)?;
        }
        made.file.sync()?;
        Ok(made)
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.directory.path().join(NAME)
    }

    /// Writes through io_uring for `time`, at a fixed depth from one thread.
    ///
    /// # Errors
    /// Where io_uring is not available, or a write fails.
    ///
    /// # Panics
    /// If a number in `writes` is not as it says there.
    pub fn uring(&self, writes: &Writes, time: Duration) -> io::Result<Measured> {
        self.uring_from(writes, Access { huge: true, read: false, random: false }, time)
    }

    fn uring_from(&self, writes: &Writes, access: Access, time: Duration) -> io::Result<Measured> {
        assert!(writes.depth > 0 && writes.block_bytes > 0 && writes.block_bytes % 4096 == 0);
        if let Some(file) = self.modelled.as_ref().filter(|_| !access.read) {
            return self.measure(writes.block_bytes, |latencies| {
                modelled::write_at_depth(file, self.bytes, writes, time, latencies)
            });
        }
        let file = self.file.descriptor().ok_or(io::ErrorKind::Unsupported)?;
        self.measure(writes.block_bytes, |latencies| {
            bare_uring(file, self.bytes, writes, access, time, |latency| latencies.push(latency))
        })
    }

    /// Writes one block after the other by `pwritev2(2)` for `time`.
    ///
    /// # Errors
    /// Where a write fails.
    pub fn blocking(&self, block_bytes: u32, method: Method, time: Duration) -> io::Result<Measured> {
        let block = AlignedBuffer::filled(block_bytes as usize, 0xa5)?;
        let mut synced_at = Instant::now();
        let mut write = |offset| {
            self.file.write_at(&block, offset, method == Method::WriteThrough)?;
            let behind = method == Method::Behind && synced_at.elapsed() >= BEHIND_EVERY;
            if method == Method::Flush || behind {
                synced_at = Instant::now();
                self.file.sync()?;
            }
            Ok(())
        };
        self.measure(block_bytes, |latencies| {
            let count = self.one_by_one(block_bytes, time, latencies, &mut write)?;
            if method == Method::Behind { self.file.sync().map(|()| count) } else { Ok(count) }
        })
    }

    /// Reads one block after the other, from the start again at the end, for `time`: two at a time through
    /// io_uring, or by `pread(2)` where that is not available.
    ///
    /// # Errors
    /// Where a read fails.
    ///
    /// # Panics
    /// If `block_bytes` is no multiple of 4096.
    pub fn read(&self, block_bytes: u32, time: Duration) -> io::Result<Measured> {
        let two = Writes { block_bytes, depth: 2, method: Method::Plain };
        if let Ok(measured) = self.uring_from(&two, Access { huge: true, read: true, random: false }, time) {
            return Ok(measured);
        }
        let mut block = AlignedBuffer::zeroed(block_bytes as usize)?;
        let mut read = |offset| self.file.read_at(&mut block, offset).map(drop);
        self.measure(block_bytes, |latencies| self.one_by_one(block_bytes, time, latencies, &mut read))
    }

    /// Reads granules (4 KiB) here and there for `time`, so many at a time through io_uring; one at a time, or where
    /// that is not available, by `pread(2)`.
    ///
    /// # Errors
    /// Where a read fails.
    ///
    /// # Panics
    /// If `depth` is 0.
    pub fn random_reads(&self, depth: u32, time: Duration) -> io::Result<Measured> {
        let access = Access { huge: false, read: true, random: true };
        let reads = Writes { block_bytes: GRANULE as u32, depth, method: Method::Plain };
        if depth > 1 {
            if let Ok(measured) = self.uring_from(&reads, access, time) {
                return Ok(measured);
            }
        }
        let mut granule = AlignedBuffer::zeroed(GRANULE as usize)?;
        let places = self.bytes / GRANULE;
        let mut read = |offset| {
            let place = access.place(offset / GRANULE, places);
            self.file.read_at(&mut granule, place * GRANULE).map(drop)
        };
        self.measure(GRANULE as u32, |latencies| self.one_by_one(GRANULE as u32, time, latencies, &mut read))
    }

    /// Calls `act` for one block after the other, from the start again at the end, for `time`.
    fn one_by_one(
        &self,
        block_bytes: u32,
        time: Duration,
        latencies: &mut Vec<u64>,
        act: &mut dyn FnMut(u64) -> io::Result<()>,
    ) -> io::Result<u64> {
        let places = self.bytes / u64::from(block_bytes);
        let began = Instant::now();
        let mut count = 0;
        while began.elapsed() < time {
            let before = Instant::now();
            act(count % places * u64::from(block_bytes))?;
            latencies.push(u64::try_from(before.elapsed().as_nanos()).unwrap_or(u64::MAX));
            count += 1;
        }
        Ok(count)
    }

    fn measure(
        &self,
        block_bytes: u32,
        run: impl FnOnce(&mut Vec<u64>) -> io::Result<u64>,
    ) -> io::Result<Measured> {
        let mut latencies = Vec::with_capacity(1 << 16);
        let (began, cpu) = (Instant::now(), sys::cpu_time());
        let writes = run(&mut latencies)?;
        let (elapsed, cpu) = (began.elapsed(), sys::cpu_time().saturating_sub(cpu));
        latencies.sort_unstable();
        Ok(Measured { writes, bytes: writes * u64::from(block_bytes), elapsed, cpu, latencies })
    }
}

impl Drop for BareFile {
    fn drop(&mut self) {
        let _ = self.directory.remove(NAME);
    }
}

/// CPU time of the whole process so far, the kernel's share included.
#[must_use]
pub fn cpu_time() -> Duration {
    sys::cpu_time()
}
