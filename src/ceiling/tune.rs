//! Gets to know a device: what it takes by block size, depth and pages, what a durable write costs by method
//! and depth, what kind of device that makes it, and which options to use for it.
//!
//! Measuring is here; what follows from the figures is decided by pure functions below.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::{BareFile, Measured, Method, Writes};
use crate::device::{Access, Capabilities, Device, FileSystem, RealDevice, is_virtual, measure};
use crate::options::Options;

const FILE_BYTES: u64 = 256 << 20;
const BLOCKS: [u32; 5] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20];
const DEPTHS: [u32; 3] = [1, 4, 16];
/// A block size is good enough at this part of the best bandwidth: smaller blocks have the better latency.
const NEARLY: f64 = 0.93;

/// Bandwidth of plain writes.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Bandwidth {
    /// Of each write.
    pub block_bytes: u32,
    /// In flight at once.
    pub depth: u32,
    /// From huge pages; else from pages of 4 KiB.
    pub huge_pages: bool,
    /// What was reached.
    pub bytes_per_second: f64,
    /// CPU time of each mebibyte.
    pub cpu_per_mib: Duration,
}

/// Latency of durable writes of 4 KiB.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct SyncLatency {
    /// How they are made durable.
    pub method: Method,
    /// In flight at once; 0 for a blocking call.
    pub depth: u32,
    /// Half of them were faster.
    pub median: Duration,
    /// One of a hundred was slower.
    pub p99: Duration,
    /// How many a second.
    pub per_second: f64,
}

/// What kind of device it seems to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceClass {
    /// No device: memory, lost with the machine.
    Memory,
    /// A disk of a virtual machine, or a loop device: what is below it cannot be seen.
    Virtual,
    /// Its cache survives a power cut (or it has none), so that a sync costs next to nothing.
    PowerLossProtected,
    /// A volatile cache, which each sync has to empty.
    Consumer,
    /// The file system writes everything to a new place.
    CopyOnWrite,
    /// The kernel does not tell enough.
    Unknown,
}

/// What [`tune`] found, and what it makes of it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Tuned {
    /// What the kernel says, and the probe that each open makes.
    pub capabilities: Capabilities,
    /// What kind of device it seems to be.
    pub class: DeviceClass,
    /// Bandwidth by block size, depth and pages.
    pub bandwidth: Vec<Bandwidth>,
    /// Latency by method and depth.
    pub latency: Vec<SyncLatency>,
    /// The options that differ from the defaults, as code, each with the reason.
    pub advice: Vec<(String, String)>,
    /// The same options.
    pub options: Options,
}

/// Measures the device under the folder `path` for about `time`, and says which options suit it.
///
/// 30 seconds give steady figures; a quarter of a gigabyte is written there, again and again, and removed.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// let found = sawmill::ceiling::tune(dir.path(), std::time::Duration::from_millis(200))?;
/// println!("{:?}: {:?}", found.class, found.advice);
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
/// Where the file cannot be made or written. Where io_uring is refused only blocking writes are measured.
pub fn tune(path: impl AsRef<Path>, time: Duration) -> io::Result<Tuned> {
    let path = path.as_ref();
    let device = RealDevice::new();
    // None is made: the name may be mistyped.
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let directory = device.existing_directory(path).map_err(named)?;
    let mut capabilities = directory.capabilities();
    capabilities.measured = measure(&device, directory.as_ref()).ok();
    let file = BareFile::make(path, FILE_BYTES)?;
    let runs = BLOCKS.len() * DEPTHS.len() + 1 + 2 * (DEPTHS.len() + 1);
    let each = time / runs as u32;
    let bandwidth = measure_bandwidth(&file, each)?;
    let latency = measure_latency(&file, each)?;
    let class = classify(&capabilities, is_virtual(path), &latency);
    let (options, advice) = advise(&capabilities, class, &bandwidth);
    Ok(Tuned { capabilities, class, bandwidth, latency, advice, options })
}

/// `None` where io_uring is refused.
fn by_uring(file: &BareFile, writes: &Writes, huge: bool, time: Duration) -> io::Result<Option<Measured>> {
    match file.uring_from(writes, Access { huge, read: false, random: false }, time) {
        Ok(measured) => Ok(Some(measured)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOSYS | libc::ENOMEM)) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn measure_bandwidth(file: &BareFile, time: Duration) -> io::Result<Vec<Bandwidth>> {
    let mut found = Vec::new();
    let runs = BLOCKS.iter().flat_map(|&block_bytes| DEPTHS.map(|depth| (block_bytes, depth, true)));
    for (block_bytes, depth, huge_pages) in runs.chain([(256 << 10, 16, false)]) {
        let writes = Writes { block_bytes, depth, method: Method::Plain };
        let measured = match by_uring(file, &writes, huge_pages, time)? {
            Some(measured) => measured,
            None if depth == 1 => file.blocking(block_bytes, Method::Plain, time)?,
            None => continue,
        };
        let mib = (measured.bytes >> 20).max(1) as u32;
        found.push(Bandwidth {
            block_bytes,
            depth,
            huge_pages,
            bytes_per_second: measured.bytes_per_second(),
            cpu_per_mib: measured.cpu / mib,
        });
    }
    Ok(found)
}

fn measure_latency(file: &BareFile, time: Duration) -> io::Result<Vec<SyncLatency>> {
    let mut found = Vec::new();
    for method in [Method::WriteThrough, Method::Flush] {
        for depth in [0, 1, 4, 16] {
            let measured = match depth {
                0 => Some(file.blocking(4096, method, time)?),
                _ => by_uring(file, &Writes { block_bytes: 4096, depth, method }, true, time)?,
            };
            let Some(measured) = measured else { continue };
            found.push(SyncLatency {
                method,
                depth,
                median: measured.percentile(50.0),
                p99: measured.percentile(99.0),
                per_second: measured.per_second(),
            });
        }
    }
    Ok(found)
}

fn classify(capabilities: &Capabilities, is_virtual: bool, latency: &[SyncLatency]) -> DeviceClass {
    let blocking = latency.iter().filter(|found| found.depth == 0).map(|found| found.median).min();
    match capabilities {
        Capabilities { durable: false, .. } => DeviceClass::Memory,
        Capabilities { copy_on_write: true, .. } => DeviceClass::CopyOnWrite,
        _ if is_virtual => DeviceClass::Virtual,
        Capabilities { write_cache: Some(false), .. } => DeviceClass::PowerLossProtected,
        // A drive whose cache is safe answers a flush at once, whatever it says of its cache.
        Capabilities { write_cache: Some(true), .. } if blocking < Some(Duration::from_micros(80)) => {
            DeviceClass::PowerLossProtected
        }
        Capabilities { write_cache: Some(true), .. } => DeviceClass::Consumer,
        _ => DeviceClass::Unknown,
    }
}

/// The smallest block that reaches nearly the best bandwidth, at the engine's own depth.
fn best_block(bandwidth: &[Bandwidth]) -> Option<u32> {
    let deepest = bandwidth.iter().map(|found| found.depth).max()?;
    let deep = || bandwidth.iter().filter(|found| found.depth == deepest && found.huge_pages);
    let best = deep().map(|found| found.bytes_per_second).fold(0.0, f64::max);
    let near = deep().filter(|found| found.bytes_per_second >= best * NEARLY);
    near.map(|found| found.block_bytes).min()
}

fn advise(
    capabilities: &Capabilities,
    class: DeviceClass,
    bandwidth: &[Bandwidth],
) -> (Options, Vec<(String, String)>) {
    let mut options = Options::new();
    let mut advice = Vec::new();
    // Below 64 KiB headers and padding take their share; the default is 256 KiB.
    if let Some(block) =
        best_block(bandwidth).map(|block| block.clamp(64 << 10, 1 << 20)).filter(|&block| block != 256 << 10)
    {
        options = options.block_bytes(block);
        let why = format!(
            "blocks of {} KiB reach the bandwidth that larger ones have; smaller ones do not",
            block >> 10
        );
        advice.push((format!("block_bytes({block})"), why));
        if block > 256 << 10 {
            options = options.memory_bytes(u64::from(block) * 256);
            let why = "as many blocks as with the default size".to_owned();
            advice.push((format!("memory_bytes({})", u64::from(block) * 256), why));
        }
    }
    if class == DeviceClass::Memory {
        let why = "this is memory: an open elsewhere than where you think is then an error".to_owned();
        advice.push(("require_durable(true), in production".to_owned(), why));
    }
    if class == DeviceClass::CopyOnWrite {
        let why = "each write goes to a new place; a fresh folder gets the attribute by itself".to_owned();
        advice.push(("a fresh folder, or chattr +C before the first file".to_owned(), why));
    }
    if !capabilities.direct && capabilities.file_system != FileSystem::Tmpfs {
        let why = "without O_DIRECT each byte is copied through the page cache".to_owned();
        advice.push(("another file system".to_owned(), why));
    }
    let is_slow = capabilities.measured.is_some_and(|found| found.worker_writes_percent > 10);
    if is_slow && class != DeviceClass::Memory {
        let why =
            "the file system hands writes to worker threads, which cost several times the CPU".to_owned();
        advice.push(("ext4 or xfs on a plain block device".to_owned(), why));
    }
    (options, advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capabilities() -> Capabilities {
        Capabilities {
            file_system: FileSystem::Ext,
            direct: true,
            write_through: true,
            durable: true,
            write_cache: Some(true),
            fua: Some(true),
            copy_on_write: false,
            measured: None,
        }
    }

    fn blocking(micros: u64) -> Vec<SyncLatency> {
        let median = Duration::from_micros(micros);
        vec![SyncLatency { method: Method::WriteThrough, depth: 0, median, p99: median, per_second: 1.0 }]
    }

    #[test]
    fn devices_are_told_apart() {
        let class = |capabilities, micros| classify(&capabilities, false, &blocking(micros));
        assert_eq!(class(capabilities(), 900), DeviceClass::Consumer);
        assert_eq!(class(capabilities(), 20), DeviceClass::PowerLossProtected);
        let without = Capabilities { write_cache: Some(false), ..capabilities() };
        assert_eq!(class(without, 900), DeviceClass::PowerLossProtected);
        assert_eq!(class(Capabilities { durable: false, ..capabilities() }, 5), DeviceClass::Memory);
        assert_eq!(
            class(Capabilities { copy_on_write: true, ..capabilities() }, 5),
            DeviceClass::CopyOnWrite
        );
        assert_eq!(class(Capabilities { write_cache: None, ..capabilities() }, 5), DeviceClass::Unknown);
        assert_eq!(classify(&capabilities(), true, &blocking(20)), DeviceClass::Virtual);
    }

    #[test]
    fn the_smallest_block_that_is_fast_enough_is_advised() {
        let at = |block_bytes, bytes_per_second| Bandwidth {
            block_bytes,
            depth: 16,
            huge_pages: true,
            bytes_per_second,
            cpu_per_mib: Duration::ZERO,
        };
        let found = [at(65_536, 95.0), at(262_144, 100.0), at(1 << 20, 99.0)];
        let (options, advice) = advise(&capabilities(), DeviceClass::Consumer, &found);
        assert!(advice.iter().any(|(option, _)| option == "block_bytes(65536)"), "{advice:?}");
        assert!(options.layout().is_ok_and(|layout| layout.block_bytes == 65_536));
        // What is there by default is not advised.
        let found = [at(65_536, 60.0), at(262_144, 100.0), at(1 << 20, 99.0)];
        assert!(advise(&capabilities(), DeviceClass::Consumer, &found).1.is_empty());
        let found = [at(262_144, 50.0), at(1 << 20, 99.0)];
        let (options, advice) = advise(&capabilities(), DeviceClass::Consumer, &found);
        assert_eq!(advice.len(), 2);
        assert!(options.layout().is_ok_and(|layout| layout.block_bytes == 1 << 20));
    }
}
