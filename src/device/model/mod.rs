//! A modelled drive, for benches: what the engine costs where nothing hides it.
//!
//! Files and folders are real, and what is written is really written, through the page cache: best to a file system in
//! memory. When a write or a flush *completes* is said by the model ([`timeline`]), in real time, and no thread is
//! needed for that: whoever waits for the drive waits until the moment has come. The copy into the page cache takes the
//! place of the transfer; unlike one by DMA it needs a core.
//!
//! Nothing here survives a power cut, whatever the capabilities say: they are the modelled drive's.

mod files;
mod queue;
mod timeline;

use std::str::FromStr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use timeline::Timeline;

use super::{Capabilities, FileSystem};
use crate::sync::lock;
use crate::time::{Nanos, nanos};

pub(crate) use files::{ModelDevice, ModelFile};

/// So much of a wait is spent spinning: timers of the kernel are late by about as much (its slack alone is 50 us,
/// `PR_SET_TIMERSLACK`).
const SPIN: Duration = Duration::from_micros(60);

/// What a modelled drive is like. By name: `nvme-plp`, `cloud`, `consumer`, or `steady:LATENCY_US:MIB_PER_S`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DriveModel {
    /// From a write's arrival until it completes, where its transfer does not take longer.
    pub latency: Duration,
    /// What all writes together never exceed.
    pub bytes_per_second: u64,
    /// What a flush takes, after all that was written before it. Flushes do not overlap.
    pub flush: Duration,
    /// Writes whose latencies overlap.
    pub depth: u32,
    /// Writes go to a volatile cache: one that is synchronous (`RWF_DSYNC`) has a flush behind it.
    pub write_cache: bool,
}

impl DriveModel {
    /// NVMe with power-loss protection: 12 us, 6 GiB/s.
    pub const NVME_PLP: DriveModel = DriveModel::steady(Duration::from_micros(12), 6 << 30);
    /// A volume of a cloud's: 80 us, 1 GiB/s.
    pub const CLOUD: DriveModel = DriveModel::steady(Duration::from_micros(80), 1 << 30);
    /// An NVMe drive for desktops: 30 us into its cache at 500 MiB/s, and a flush of 1.5 ms.
    pub const CONSUMER: DriveModel = DriveModel {
        flush: Duration::from_micros(1_500),
        write_cache: true,
        ..DriveModel::steady(Duration::from_micros(30), 500 << 20)
    };

    /// A drive without a volatile cache, 64 deep.
    #[must_use]
    pub const fn steady(latency: Duration, bytes_per_second: u64) -> DriveModel {
        DriveModel { latency, bytes_per_second, flush: Duration::ZERO, depth: 64, write_cache: false }
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            file_system: FileSystem::Simulated,
            direct: true,
            write_through: true,
            durable: true,
            write_cache: Some(self.write_cache),
            fua: Some(false),
            copy_on_write: false,
            measured: None,
        }
    }
}

impl FromStr for DriveModel {
    type Err = String;

    fn from_str(name: &str) -> Result<DriveModel, String> {
        match name {
            "nvme-plp" => return Ok(DriveModel::NVME_PLP),
            "cloud" => return Ok(DriveModel::CLOUD),
            "consumer" => return Ok(DriveModel::CONSUMER),
            _ => {}
        }
        let parts: Vec<&str> = name.split(':').collect();
        let numbers = match parts[..] {
            ["steady", latency, rate] => latency.parse::<u32>().ok().zip(rate.parse::<u32>().ok()),
            _ => None,
        };
        match numbers {
            Some((latency, rate)) if rate > 0 => {
                Ok(DriveModel::steady(Duration::from_micros(latency.into()), u64::from(rate) << 20))
            }
            _ => Err(format!(
                "there is no drive {name:?}; there are nvme-plp, cloud, consumer and steady:LATENCY_US:MIB_PER_S"
            )),
        }
    }
}

/// One drive, shared by all whose files lie on it.
#[derive(Debug)]
pub(crate) struct Drive {
    model: DriveModel,
    began: Instant,
    timeline: Mutex<Timeline>,
}

impl Drive {
    pub(crate) fn new(model: DriveModel) -> Drive {
        Drive { model, began: Instant::now(), timeline: Mutex::new(Timeline::new(&model)) }
    }

    pub(crate) fn model(&self) -> DriveModel {
        self.model
    }

    /// From the next write on; `None` is what the model says.
    pub(crate) fn set_bytes_per_second(&self, bytes_per_second: Option<u64>) {
        lock(&self.timeline).set_bytes_per_second(bytes_per_second.unwrap_or(self.model.bytes_per_second));
    }

    fn now(&self) -> Nanos {
        Nanos(nanos(self.began.elapsed()))
    }

    fn write(&self, bytes: usize, sync: bool) -> Nanos {
        let mut timeline = lock(&self.timeline);
        timeline.write(self.now(), bytes, sync)
    }

    fn flush(&self) -> Nanos {
        let mut timeline = lock(&self.timeline);
        timeline.flush(self.now())
    }

    /// Waits until the moment has come.
    pub(crate) fn wait_until(&self, due: Nanos) {
        loop {
            let left = Duration::from_nanos(due - self.now());
            match left.checked_sub(SPIN) {
                _ if left.is_zero() => return,
                Some(sleep) if !sleep.is_zero() => std::thread::sleep(sleep),
                _ => std::hint::spin_loop(),
            }
        }
    }
}

#[cfg(test)]
mod tests;
