//! Everything that touches the world: files, folders, locks, the clock, randomness.
//!
//! The rest of the crate sees these traits alone, so that the simulator sees every byte that the
//! engine writes. Blocking calls ([`Directory`], [`File`]) serve open, recovery, readers and the
//! making of segments. Blocks go through a [`Queue`], where operations are in flight; or by a blocking call
//! ([`perform`]) where whoever writes one has nothing to do meanwhile: a caller that leads, a thread with a single block.

mod calls;
mod file;
mod flushes;
mod limits;
mod lock;
#[cfg(feature = "ceiling")]
mod model;
pub(crate) mod probe;
mod queue;
#[cfg(any(test, feature = "simulation"))]
pub(crate) mod sim;
mod syscall;
#[cfg(feature = "tokio-uring")]
mod tokio_uring;
pub(crate) mod transfer;
mod uring;

use std::fmt::Debug;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::pool::AlignedBuffer;
use crate::time::Nanos;

pub(crate) use calls::Calls;
pub(crate) use file::RealDevice;
pub(crate) use flushes::{FailedFlush, Flushes};
pub(crate) use limits::{descriptors_max, memory_limit};
#[cfg(feature = "ceiling")]
pub use model::DriveModel;
#[cfg(feature = "ceiling")]
pub(crate) use model::{Drive, ModelDevice, ModelFile};
#[cfg(feature = "ceiling")]
pub(crate) use probe::is_virtual;
pub(crate) use probe::measure;
pub use probe::{Capabilities, FileSystem, WriteProbe};
pub(crate) use queue::{Completion, Operation, OperationKind, Queue, QueueKind, QueueSetup, Wait, Wake};
pub(crate) use syscall::perform;
#[cfg(feature = "tokio-uring")]
pub(crate) use tokio_uring::{TaskWake, TokioUringQueue};
#[cfg(feature = "ceiling")]
pub(crate) use uring::{Access, BEHIND_EVERY, bare as bare_uring};
#[cfg(feature = "ceiling")]
pub use uring::{Method, Writes};

/// A place where logs live: the real file system, or the simulated one.
pub(crate) trait Device: Send + Sync + Debug {
    /// Opens a folder, and makes it first if it is not there, but none above it: what is mounted there may be missing.
    ///
    /// A folder that was made is durable on return; where it cannot be opened it is gone again.
    fn directory(&self, path: &Path) -> io::Result<Arc<dyn Directory>>;

    /// Opens a folder that is there; its name is durable on return.
    fn existing_directory(&self, path: &Path) -> io::Result<Arc<dyn Directory>>;

    /// An error unless the folder, or the one above it, is there. Nothing is made.
    fn check_place(&self, path: &Path) -> io::Result<()>;

    /// Opens a folder that is there, to read in it and nothing else.
    fn directory_to_read(&self, path: &Path) -> io::Result<Arc<dyn Directory>>;

    /// The moment on a clock that never goes back.
    fn now(&self) -> Nanos;

    /// Nanoseconds on such a clock, from another beginning, and also while the machine sleeps.
    fn steady(&self) -> u64 {
        self.now().0
    }

    /// Nanoseconds since the Unix epoch, as the machine believes.
    fn wall(&self) -> u64;

    /// Fills `bytes` with what nobody can guess.
    fn random(&self, bytes: &mut [u8]) -> io::Result<()>;

    /// Lets time pass.
    fn pause(&self, duration: Duration);

    /// Whether shards have threads. If not, whoever waits turns them.
    fn threaded(&self) -> bool;
}

/// Which file it is, whatever it is called: its file system and its number there.
pub(crate) type FileId = (u64, u64);

/// What has become of the path by which a folder was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PathState {
    /// It leads to the folder.
    Here,
    /// It leads elsewhere, or nowhere: the folder was renamed, or something was mounted over it.
    Moved,
    /// The folder itself is gone, with all that was in it.
    Removed,
}

/// An open folder: whatever becomes of its path, all is done in the folder that was opened.
pub(crate) trait Directory: Send + Sync + Debug {
    /// Where it was when it was opened.
    fn path(&self) -> &Path;

    /// Whether it still is where it was.
    fn whereabouts(&self) -> io::Result<PathState>;

    /// Which file has this name.
    fn id_of(&self, name: &str) -> io::Result<FileId>;

    /// A number that the folder keeps when it is renamed, and that no copy of it has; 0 where its file system is not
    /// known to keep numbers from one mount to the next.
    fn lasting_number(&self) -> u64;

    /// Names of the files and folders in it.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Opens a file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>>;

    /// The same of a file that was closed meanwhile.
    fn open_again(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.open(name)
    }

    /// Makes a new file; its name is durable after [`sync`](Directory::sync).
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>>;

    fn remove(&self, name: &str) -> io::Result<()>;

    /// Removes a name if it is that of the file which is meant, and an error otherwise.
    fn remove_file(&self, name: &str, meant: FileId) -> io::Result<()> {
        if self.id_of(name)? != meant {
            return Err(io::Error::other("another file has this name by now"));
        }
        self.remove(name)
    }

    /// Makes the names in the folder durable.
    fn sync(&self) -> io::Result<()>;

    /// Takes the lock of the folder if nobody has it: of the folder itself, which cannot be made anew beside it, and of
    /// a file of this name in it, which says who has it.
    fn lock(&self, name: &str) -> Result<Arc<dyn Lock>, LockError>;

    /// Which device its files lie on: folders that give the same number share it, and what it fails to flush.
    fn device_number(&self) -> u64;

    /// What of the flushes on that device has failed in the calls of this room, [`File::sync`] and [`Directory::sync`],
    /// through whatever file or folder.
    fn flushes(&self) -> &Arc<Flushes>;

    /// What the folder's file system and device can do.
    fn capabilities(&self) -> Capabilities;

    /// The same for all folders of one file system.
    fn file_system_id(&self) -> io::Result<u64>;

    /// A queue for operations on the folder's files.
    fn queue(&self, setup: &QueueSetup) -> io::Result<(Box<dyn Queue + Send>, Arc<dyn Wake>)>;
}

/// A read to be made ahead, and what it needs meanwhile.
#[derive(Debug)]
pub(crate) struct AheadRead {
    pub file: Arc<dyn File>,
    pub buffer: AlignedBuffer,
    /// Which part of the buffer to read into.
    pub into: Range<usize>,
    pub offset: u64,
}

/// Reads while its owner does something else, one read at a time.
pub(crate) trait ReadAhead: Send + Sync + Debug {
    /// Begins a read.
    ///
    /// # Errors
    /// Where that cannot be done; the buffer is gone.
    fn begin(&mut self, read: AheadRead) -> io::Result<()>;

    /// Waits for the read that was begun, and gives the buffer back and how much was read; `None` if there is
    /// none, or if the buffer is gone.
    fn finish(&mut self) -> Option<(AlignedBuffer, io::Result<usize>)>;
}

/// Reads that are in flight at once where many are asked for: drives reach their rate with fewer.
pub(crate) const READS_AT_ONCE: usize = 64;

/// One of many reads.
#[derive(Debug)]
pub(crate) struct ScatterRead {
    pub file: Arc<dyn File>,
    pub offset: u64,
    /// Which part of the buffer to read into, behind those of the reads before it.
    pub into: Range<usize>,
}

/// Reads many places at once.
pub(crate) trait ScatterReads: Send + Sync + Debug {
    /// Makes all the reads, and gives the buffer back with what each has read; `None` if the buffer is gone, and with
    /// it this reader.
    fn read(
        &mut self,
        reads: Vec<ScatterRead>,
        buffer: AlignedBuffer,
    ) -> Option<(AlignedBuffer, Vec<io::Result<usize>>)>;
}

/// An open file. Offsets, lengths and addresses are multiples of a granule where bytes are moved.
pub(crate) trait File: Send + Sync + Debug {
    /// One read of the kernel's, which may come back short.
    fn read_some(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize>;

    /// One write of the kernel's, which may come back short.
    fn write_some(&self, bytes: &[u8], offset: u64, sync: bool) -> io::Result<usize>;

    /// Reads at `offset`; fewer bytes than asked for only at the end of the file.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        transfer::read_all(bytes, |rest, done| self.read_some(rest, offset + done))
    }

    /// Writes all of `bytes`; `sync` makes them, and nothing else, durable on return.
    fn write_at(&self, bytes: &[u8], offset: u64, sync: bool) -> io::Result<()> {
        transfer::write_all(bytes, |rest, done| self.write_some(rest, offset + done, sync))
    }

    /// Makes what was written durable, and the length. Never retried by anybody.
    fn sync(&self) -> io::Result<()>;

    /// Makes reads see what the disk has, not what memory remembers. Called after a sync.
    fn forget_cache(&self) -> io::Result<()>;

    fn bytes(&self) -> io::Result<u64>;

    fn id(&self) -> io::Result<FileId>;

    /// Takes the space for `bytes` and makes the file that long. False, and nothing is changed, where the file system
    /// can only be made to by writing there.
    fn allocate(&self, bytes: u64) -> io::Result<bool>;

    /// Makes sure that what is written to this stretch of the file, which is no longer than the file, finds its space
    /// there: a copy of the file may have left out what was zero, or share its extents. Nothing is made sure where the
    /// file system has no such call.
    fn secure(&self, range: Range<u64>) -> io::Result<()>;

    /// The open file behind one that is opened as it is needed; `None` for one that is open itself.
    fn opened(&self) -> io::Result<Option<Arc<dyn File>>> {
        Ok(None)
    }

    /// For drivers of this kind of device; `None` for a simulated file.
    fn descriptor(&self) -> Option<std::os::fd::BorrowedFd<'_>>;

    /// What reads ahead in such files, if anything does.
    fn read_ahead(&self) -> Option<Box<dyn ReadAhead>>;

    /// What reads many places of such files at once, if anything does.
    fn scatter_reads(&self) -> Option<Box<dyn ScatterReads>> {
        None
    }

    #[cfg(any(test, feature = "simulation"))]
    /// For the simulator's queue; 0 for a real file.
    fn number(&self) -> u64 {
        0
    }
}

/// A folder's lock: held until released or dropped, and as long as anything that a ring which knows
/// it may still write.
pub(crate) trait Lock: Send + Sync + Debug {
    /// Gives the lock up. Every operation on the folder's files has been reaped.
    fn release(&self);

    /// Makes sure that the folder is still its own, and says what has become of its path.
    ///
    /// # Errors
    /// Where somebody else may own the folder by now: nothing may be written there any more.
    fn check(&self) -> io::Result<PathState>;

    /// What holds it, and must stay open as long as anything may land.
    fn descriptors(&self) -> Vec<std::os::fd::BorrowedFd<'_>>;
}

/// Why a lock could not be taken.
#[derive(Debug)]
pub(crate) enum LockError {
    /// Its owner lives; the text says who.
    Held(String),
    /// It may be that its owner is dead, and something of it is still in flight; the text says what is known.
    Lingering(String),
    /// Of the folder, or of the lock file in it.
    Io { path: PathBuf, source: io::Error },
}
