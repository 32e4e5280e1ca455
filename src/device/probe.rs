//! What a folder's file system and device can do, as a plain value that tests can make up.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use super::{Device, Directory};
use crate::format::GRANULE;
use crate::pool::AlignedBuffer;
use crate::sys;

/// A file that is there for a moment.
const PROBE: &str = "sawmill.probe";

/// The file systems that differ in something that matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileSystem {
    /// ext2, ext3 or ext4.
    Ext,
    /// XFS.
    Xfs,
    /// Btrfs.
    Btrfs,
    /// F2FS.
    F2fs,
    /// tmpfs or ramfs: memory, lost with the machine.
    Tmpfs,
    /// An overlay (container images).
    Overlay,
    /// A file system in user space.
    Fuse,
    /// Something else, by its magic number (`statfs(2)`).
    Other(u64),
    /// The simulated disk.
    Simulated,
}

impl FileSystem {
    pub(crate) fn from_magic(magic: u64) -> FileSystem {
        match magic {
            0xef53 => FileSystem::Ext,
            0x5846_5342 => FileSystem::Xfs,
            0x9123_683e => FileSystem::Btrfs,
            0xf2f5_2010 => FileSystem::F2fs,
            0x0102_1994 | 0x8584_58f6 => FileSystem::Tmpfs,
            0x794c_7630 => FileSystem::Overlay,
            0x6573_5546 => FileSystem::Fuse,
            other => FileSystem::Other(other),
        }
    }

    /// Whether `RWF_DSYNC` is known to be honoured; elsewhere blocks are made durable by a sync.
    pub(crate) fn honours_write_through(self) -> bool {
        matches!(
            self,
            FileSystem::Ext | FileSystem::Xfs | FileSystem::Btrfs | FileSystem::F2fs | FileSystem::Simulated
        )
    }

    /// Whether direct writes there are safe. io_uring itself finishes a write that came short, and goes on at the
    /// file position that the file system has left behind; FUSE leaves it untouched for direct writes, so the rest
    /// lands over the beginning, and the operation says that all went well (Linux 6.18: `io_write` in
    /// `io_uring/rw.c`, `fuse_direct_IO` in `fs/fuse/file.c`; `tests/it/faulty_disk.rs` shows it).
    pub(crate) fn keeps_place_of_direct_writes(self) -> bool {
        self != FileSystem::Fuse
    }

    /// Whether a sync there survives a power cut, as far as the device keeps its word.
    pub(crate) fn is_durable(self) -> bool {
        !matches!(self, FileSystem::Tmpfs)
    }
}

/// What a folder's file system and device can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// Where the log's files lie.
    pub file_system: FileSystem,
    /// Writes go past the page cache (`O_DIRECT`). False where that is not available, and on FUSE, where it is
    /// not safe.
    pub direct: bool,
    /// A synchronous write (`RWF_DSYNC`) covers its bytes; else a sync of the file does.
    pub write_through: bool,
    /// What was synced survives a power cut. False on tmpfs.
    pub durable: bool,
    /// The block device has a volatile write cache, which each sync has to flush; `None` where the
    /// kernel does not say (no single block device, or no sysfs).
    pub write_cache: Option<bool>,
    /// The block device can write past its cache (FUA), which makes a synchronous write one command;
    /// `None` as above.
    pub fua: Option<bool>,
    /// Each write goes to a new place (Btrfs, unless the folder has the attribute `C`, which a fresh one gets).
    pub copy_on_write: bool,
    /// What was measured on the shard's own file system when the log was opened; `None` where nothing could be (a full
    /// disk, a simulated one).
    pub measured: Option<WriteProbe>,
}

/// A few writes of 4 KiB to a file of their own, when a log is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WriteProbe {
    /// Median time of a synchronous write (`RWF_DSYNC`).
    pub write_through: Duration,
    /// Median time of a write that is followed by an fdatasync.
    pub write_and_sync: Duration,
    /// How many of 100 writes over written extents the kernel could not start at once: io_uring hands such
    /// writes to worker threads, which costs several times the CPU.
    pub worker_writes_percent: u8,
}

impl Capabilities {
    pub(crate) fn of(directory: BorrowedFd<'_>, direct: bool) -> Capabilities {
        let file_system = sys::file_system(directory).map_or(FileSystem::Other(0), FileSystem::from_magic);
        Capabilities {
            file_system,
            direct,
            write_through: file_system.honours_write_through(),
            durable: file_system.is_durable(),
            write_cache: queue_attribute(directory, "write_cache").map(|text| text.contains("back")),
            fua: queue_attribute(directory, "fua").map(|text| text == "1"),
            copy_on_write: file_system == FileSystem::Btrfs
                && sys::inode_flags(directory).is_ok_and(|flags| flags & sys::NO_COPY_ON_WRITE == 0),
            measured: None,
        }
    }
}

/// An attribute of the queue of the block device under a folder, from sysfs (`Documentation/ABI/stable/
/// sysfs-block`). A partition has none of its own: its disk's counts.
fn queue_attribute(directory: BorrowedFd<'_>, name: &str) -> Option<String> {
    let (major, minor) = sys::block_device(directory).ok()?;
    let device = format!("/sys/dev/block/{major}:{minor}");
    let places = [format!("{device}/queue/{name}"), format!("{device}/../queue/{name}")];
    places.iter().find_map(|place| fs::read_to_string(place).ok()).map(|text| text.trim().to_owned())
}

/// Whether the block device under the folder is made by software (of a virtual machine, or a loop device), by its
/// place in sysfs.
#[cfg(feature = "ceiling")]
pub(crate) fn is_virtual(path: &Path) -> bool {
    let Ok(folder) = fs::File::open(path) else { return false };
    let Ok((major, minor)) = sys::block_device(folder.as_fd()) else { return false };
    fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).is_ok_and(|place| {
        let place = place.to_string_lossy();
        ["/virtio", "/virtual/block/", "/vbd-", "/xen"].iter().any(|mark| place.contains(mark))
    })
}

/// Whether files in the folder can be opened for direct I/O at our granule.
///
/// Seen at a file of the log's, so that a log opens where none can be made: on a full disk, without an inode left. In a
/// folder that has none yet it is tried with a file that has no name (`O_TMPFILE`), or with one that has where the file
/// system knows no such thing.
pub(super) fn has_direct(folder: &fs::File, path: &Path) -> io::Result<bool> {
    if let Some(found) = existing_has_direct(folder) {
        return Ok(found);
    }
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true);
    let unnamed = options.clone().custom_flags(libc::O_DIRECT | libc::O_TMPFILE).open(path);
    let file = match unnamed {
        Ok(file) => file,
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(false),
        Err(_) => {
            let name = path.join(PROBE);
            let named = options.custom_flags(libc::O_DIRECT).create(true).truncate(false).open(&name);
            let _ = fs::remove_file(&name);
            match named {
                Ok(file) => file,
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    };
    Ok(match sys::direct_alignment(file.as_fd()) {
        Some(needed) => fits_granules(needed),
        // Older kernels do not say; a write of one granule does.
        None => {
            let granule = AlignedBuffer::zeroed(GRANULE as usize)?;
            sys::write_at(file.as_fd(), &granule, 0, false).is_ok()
        }
    })
}

/// The same by a file of the log's; `None` if there is none to tell by.
fn existing_has_direct(folder: &fs::File) -> Option<bool> {
    let names = sys::list(folder.as_fd()).ok()?;
    let mut ours = names.iter().filter(|name| name.contains(".manifest.") || name.ends_with(".seg"));
    ours.find_map(|name| {
        match sys::open_at(folder.as_fd(), name, libc::O_RDWR | libc::O_DIRECT | libc::O_NOFOLLOW, 0) {
            Ok(file) => takes_granules(&file.into()),
            Err(error) => (error.raw_os_error() == Some(libc::EINVAL)).then_some(false),
        }
    })
}

/// Whether a file that is open for direct I/O takes our granule. Nothing is written; `None` if it is too short to tell.
fn takes_granules(file: &fs::File) -> Option<bool> {
    if let Some(needed) = sys::direct_alignment(file.as_fd()) {
        return Some(fits_granules(needed));
    }
    let metadata = file.metadata().ok()?;
    let mut granule = AlignedBuffer::zeroed(GRANULE as usize).ok()?;
    (metadata.is_file() && metadata.len() >= GRANULE).then(|| file.read_at(&mut granule, 0).is_ok())
}

/// By the alignments that memory and offsets need, 0 where there is no direct I/O.
fn fits_granules((memory, offset): (u32, u32)) -> bool {
    memory > 0 && u64::from(memory.max(offset)) <= GRANULE
}

/// Measures a few writes, to see how this device is written to best.
pub(crate) fn measure(device: &dyn Device, directory: &dyn Directory) -> io::Result<WriteProbe> {
    const TIMES: usize = 15;
    let _ = directory.remove(PROBE);
    let file = directory.create(PROBE)?;
    let result = (|| {
        let granule = AlignedBuffer::zeroed(GRANULE as usize)?;
        for index in 0..TIMES as u64 {
            file.write_at(&granule, index * GRANULE, false)?;
        }
        file.sync()?;
        // In turn, so that whatever else the machine does meets both alike.
        let mut times = [[0; TIMES]; 2];
        for index in 0..TIMES {
            for (times, through) in times.iter_mut().zip([true, false]) {
                let began = device.now();
                file.write_at(&granule, index as u64 * GRANULE, through)?;
                if !through {
                    file.sync()?;
                }
                times[index] = device.now() - began;
            }
        }
        let [write_through, write_and_sync] = times.map(|mut times| {
            times.sort_unstable();
            Duration::from_nanos(times[TIMES / 2])
        });
        let refused = (0..TIMES as u64)
            .filter(|index| {
                let file = file.descriptor();
                file.is_some_and(|file| {
                    !matches!(sys::write_at_once(file, &granule, index * GRANULE), Ok(true))
                })
            })
            .count();
        Ok(WriteProbe { write_through, write_and_sync, worker_writes_percent: (refused * 100 / TIMES) as u8 })
    })();
    let _ = directory.remove(PROBE);
    result
}
