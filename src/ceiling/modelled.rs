//! Logs and bare writes on a drive that is modelled in real time.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::BareFile;
use crate::device::{
    BEHIND_EVERY, Device, Drive, DriveModel, Method, ModelDevice, ModelFile, RealDevice, Writes,
};
use crate::options::Options;
use crate::pool::AlignedBuffer;

/// A drive that is modelled in real time: what the engine costs on drives that this machine does not have.
///
/// Files are real, and written through the page cache, best in memory (`/dev/shm`): only *when* a write or a flush
/// completes is the model's. Waits end by spinning for the last 60 us, so whoever waits uses a core for so long, and
/// each write costs the CPU time of a copy. Reads take as long as they do. Nothing survives a power cut, whatever
/// [`stats`](crate::Log::stats) say. Clones are the same drive.
///
/// ```
/// use std::time::{Duration, Instant};
/// use sawmill::Options;
/// use sawmill::ceiling::{DriveModel, ModelledDrive};
/// # let dir = tempfile::tempdir()?;
/// let drive = ModelledDrive::new(DriveModel::steady(Duration::from_millis(1), 48 << 20));
/// let log = drive.put_under(Options::new().shards(1)).open(dir.path())?;
/// let began = Instant::now();
/// log.append(b"payload").wait()?;
/// assert!(began.elapsed() >= Duration::from_millis(1));
/// log.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct ModelledDrive(Arc<Drive>);

impl ModelledDrive {
    /// A drive like this, idle.
    #[must_use]
    pub fn new(model: DriveModel) -> ModelledDrive {
        ModelledDrive(Arc::new(Drive::new(model)))
    }

    /// What it is like.
    #[must_use]
    pub fn model(&self) -> DriveModel {
        self.0.model()
    }

    /// All folders of the log lie on this drive. The backend is no more than a name then, and with
    /// `Options::drive` (feature `tokio-uring`) writes go past the model.
    #[must_use]
    pub fn put_under(&self, options: Options) -> Options {
        options.on_device(Arc::new(ModelDevice::new(self.0.clone())))
    }

    /// From the next write on the drive takes as many bytes a second as come, or again what its model says: to
    /// prepare what is to be measured.
    pub fn set_unlimited(&self, is_unlimited: bool) {
        self.0.set_bytes_per_second(is_unlimited.then_some(u64::MAX));
    }
}

impl BareFile {
    /// As [`make`](BareFile::make), on a modelled drive, whose rate does not count for that.
    ///
    /// # Errors
    /// As there.
    pub fn make_on(drive: &ModelledDrive, path: impl AsRef<Path>, bytes: u64) -> io::Result<BareFile> {
        let directory = RealDevice::through_the_cache().directory(path.as_ref())?;
        let mut made = BareFile::fill(directory, bytes)?;
        let modelled = ModelFile::new(made.file.clone(), drive.0.clone());
        made.file = Arc::new(modelled.clone());
        made.modelled = Some(modelled);
        Ok(made)
    }
}

/// As bare writes through io_uring: so many at a time for `time`, each of which tells its latency; gives how many there
/// were.
pub(super) fn write_at_depth(
    file: &ModelFile,
    file_bytes: u64,
    writes: &Writes,
    time: Duration,
    latencies: &mut Vec<u64>,
) -> io::Result<u64> {
    let block = AlignedBuffer::filled(writes.block_bytes as usize, 0xa5)?;
    let places = file_bytes / u64::from(writes.block_bytes);
    let mut flight = VecDeque::new();
    let (began, mut count) = (Instant::now(), 0);
    let mut synced_at = began;
    loop {
        while flight.len() < writes.depth as usize && began.elapsed() < time {
            let since = Instant::now();
            let offset = count % places * u64::from(writes.block_bytes);
            let mut due = file.begin_write(&block, offset, writes.method == Method::WriteThrough)?;
            if writes.method == Method::Flush {
                due = file.begin_sync();
            }
            flight.push_back((due, since));
            count += 1;
        }
        if writes.method == Method::Behind && synced_at.elapsed() >= BEHIND_EVERY {
            synced_at = Instant::now();
            file.wait_until(file.begin_sync());
        }
        let Some((due, since)) = flight.pop_front() else { break };
        file.wait_until(due);
        latencies.push(u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
    if writes.method == Method::Behind {
        file.wait_until(file.begin_sync());
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Backend, Durability, Lsn, ShardId, Write};

    #[test]
    fn a_log_on_a_modelled_drive_is_there_when_it_is_opened_again() {
        let models =
            ["nvme-plp", "cloud", "consumer", "steady:500:200"].map(|name| name.parse::<DriveModel>());
        for (model, backend) in models.into_iter().zip([Backend::Auto, Backend::Syscall].into_iter().cycle())
        {
            let dir = tempfile::tempdir().unwrap();
            let drive = ModelledDrive::new(model.unwrap());
            let options = drive.put_under(Options::new().shards(2).backend(backend));
            let payload = |number: u32| number.to_le_bytes().repeat(1 + number as usize % 2_000);
            for life in 0..2u32 {
                let log = options.clone().open(dir.path()).unwrap();
                for number in life * 300..(life + 1) * 300 {
                    let durability = [Durability::Buffered, Durability::Written, Durability::Synced];
                    let key = number.to_le_bytes();
                    let write = Write::new(payload(number)).key(key);
                    let _ = log.append(write.durability(durability[number as usize % 3])).wait().unwrap();
                }
                log.close().unwrap();
            }
            // By somebody who knows of no model.
            let log = Options::new().open(dir.path()).unwrap();
            let mut found = 0;
            for shard in [0, 1] {
                for record in log.shard(ShardId(shard)).read(Lsn(0)..).unwrap() {
                    let record = record.unwrap();
                    let number = u32::from_le_bytes(record.key().try_into().unwrap());
                    assert_eq!(record.payload(), payload(number));
                    found += 1;
                }
            }
            assert_eq!(found, 600);
        }
    }

    #[test]
    fn bare_writes_are_no_faster_than_the_drive() {
        let dir = tempfile::tempdir().unwrap();
        let drive = ModelledDrive::new(DriveModel::steady(Duration::from_micros(200), 20 << 20));
        let file = BareFile::make_on(&drive, dir.path(), 4 << 20).unwrap();
        for method in [Method::WriteThrough, Method::Flush, Method::Behind] {
            let writes = Writes { block_bytes: 16 << 10, depth: 8, method };
            let measured = file.uring(&writes, Duration::from_millis(50)).unwrap();
            assert!(measured.writes > 0 && measured.bytes_per_second() <= f64::from(20 << 20));
        }
        let measured = file.blocking(4096, Method::WriteThrough, Duration::from_millis(20)).unwrap();
        assert!(measured.percentile(0.0) >= Duration::from_micros(200));
    }
}
