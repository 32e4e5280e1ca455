//! Real files and folders.

use std::fs;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::flushes::{AllFlushes, Flushes};
use super::lock;
use super::probe::has_direct;
use super::{
    Capabilities, Device, Directory, File, FileId, FileSystem, Lock, LockError, PathState, Queue, QueueKind,
    QueueSetup, ReadAhead, ScatterReads, Wake,
};
use crate::sys;
use crate::time::{Nanos, nanos};

/// The machine's own file systems.
#[derive(Debug)]
pub(crate) struct RealDevice {
    start: Instant,
    /// Files are read ahead in through io_uring.
    uring: bool,
    /// Files that are written go past the page cache where that can be done.
    direct: bool,
    flushes: AllFlushes,
}

impl RealDevice {
    pub(crate) fn new() -> RealDevice {
        RealDevice { start: Instant::now(), uring: true, direct: true, flushes: AllFlushes::default() }
    }

    /// One that makes system calls alone.
    pub(crate) fn without_uring() -> RealDevice {
        RealDevice { uring: false, ..RealDevice::new() }
    }

    /// One that reads and writes through the page cache.
    #[cfg(feature = "ceiling")]
    pub(crate) fn through_the_cache() -> RealDevice {
        RealDevice { direct: false, ..RealDevice::new() }
    }

    fn open_to_write(&self, path: &Path) -> io::Result<Arc<dyn Directory>> {
        let (file, device_number) = open_folder(path)?;
        let path = path.canonicalize()?;
        let file_system = sys::file_system(file.as_fd()).map(FileSystem::from_magic);
        let safe = self.direct && file_system.map_or(true, FileSystem::keeps_place_of_direct_writes);
        let capabilities = Capabilities::of(file.as_fd(), safe && has_direct(&file, &path)?);
        Ok(Arc::new(RealDirectory {
            path,
            file,
            device_number,
            flushes: self.flushes.of(device_number),
            capabilities,
            writes: true,
            uring: self.uring,
        }))
    }
}

impl Device for RealDevice {
    fn directory(&self, path: &Path) -> io::Result<Arc<dyn Directory>> {
        let made = make_durably(path)?;
        let opened = self.open_to_write(path);
        if made && opened.is_err() {
            let _ = fs::remove_dir(path);
        }
        opened
    }

    fn existing_directory(&self, path: &Path) -> io::Result<Arc<dyn Directory>> {
        sync_name(path);
        self.open_to_write(path)
    }

    fn check_place(&self, path: &Path) -> io::Result<()> {
        match path.try_exists()? || parent_of(path).try_exists()? {
            true => Ok(()),
            false => Err(no_parent(path)),
        }
    }

    fn directory_to_read(&self, path: &Path) -> io::Result<Arc<dyn Directory>> {
        let (file, device_number) = open_folder(path)?;
        // Whether direct I/O is available is seen at each file.
        let capabilities = Capabilities::of(file.as_fd(), true);
        Ok(Arc::new(RealDirectory {
            path: path.canonicalize()?,
            file,
            device_number,
            flushes: self.flushes.of(device_number),
            capabilities,
            writes: false,
            uring: self.uring,
        }))
    }

    fn now(&self) -> Nanos {
        Nanos(nanos(self.start.elapsed()))
    }

    fn steady(&self) -> u64 {
        crate::sys::boot_time()
    }

    fn wall(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        nanos(since)
    }

    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        getrandom::fill(bytes).map_err(io::Error::from)
    }

    fn pause(&self, duration: Duration) {
        std::thread::sleep(duration);
    }

    fn threaded(&self) -> bool {
        true
    }
}

/// A folder that is there, and the device that it lies on.
fn open_folder(path: &Path) -> io::Result<(fs::File, u64)> {
    let file = fs::File::open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() { Ok((file, metadata.dev())) } else { Err(io::ErrorKind::NotADirectory.into()) }
}

/// Makes a folder, its name durable, unless it is there; true if it was made.
fn make_durably(path: &Path) -> io::Result<bool> {
    match fs::create_dir(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            sync_name(path);
            return Ok(false);
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(no_parent(path)),
        Err(error) => return Err(error),
    }
    without_copy_on_write(path);
    let durable = fs::File::open(parent_of(path)).and_then(|parent| parent.sync_all());
    if durable.is_err() {
        let _ = fs::remove_dir(path);
    }
    durable.map(|()| true)
}

/// Makes the name of a folder durable: perhaps it was made a moment ago by somebody who was killed before it was.
/// Where the folder above may not be opened, it was not made by us.
fn sync_name(path: &Path) {
    if let Ok(parent) = fs::File::open(parent_of(path)) {
        let _ = parent.sync_all();
    }
}

fn no_parent(path: &Path) -> io::Error {
    let text = format!(
        "{} is not there (is its file system mounted?); a log makes its own folder and none above it",
        parent_of(path).display()
    );
    io::Error::new(io::ErrorKind::NotFound, text)
}

/// Asks Btrfs to overwrite the files of a fresh folder in place: a copy on each write costs a worker thread
/// and new extents, and our own checksums make up for its.
fn without_copy_on_write(path: &Path) {
    let Ok(folder) = fs::File::open(path) else { return };
    let is_btrfs = sys::file_system(folder.as_fd())
        .is_ok_and(|magic| FileSystem::from_magic(magic) == FileSystem::Btrfs);
    if is_btrfs {
        let flags = sys::inode_flags(folder.as_fd());
        let set = flags.and_then(|flags| sys::set_inode_flags(folder.as_fd(), flags | sys::NO_COPY_ON_WRITE));
        // Refused in some subvolumes: it is a gain, not a need, and the capabilities say what is so.
        let _ = set;
    }
}

fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[derive(Debug)]
struct RealDirectory {
    path: PathBuf,
    file: fs::File,
    /// By `st_dev`, of which Btrfs gives each subvolume one of its own.
    device_number: u64,
    flushes: Arc<Flushes>,
    capabilities: Capabilities,
    /// Else it is only read in, and not ours.
    writes: bool,
    uring: bool,
}

impl RealDirectory {
    /// By the folder's descriptor, as everything here: its path may lead elsewhere by now.
    fn open_at(&self, name: &str, flags: libc::c_int) -> io::Result<fs::File> {
        let access = if self.writes { libc::O_RDWR } else { libc::O_RDONLY };
        let direct = if self.capabilities.direct { libc::O_DIRECT } else { 0 };
        sys::open_at(self.file.as_fd(), name, access | direct | flags, 0o640).map(fs::File::from)
    }

    fn opened(&self, name: &str, file: fs::File) -> Arc<dyn File> {
        let (path, flushes) = (self.path.join(name), self.flushes.clone());
        Arc::new(RealFile { file, uring: self.uring, path, flushes, checked: AtomicU64::new(0) })
    }
}

/// What has become of the path of an open folder.
pub(super) fn whereabouts(folder: &fs::File, path: &Path) -> io::Result<PathState> {
    use io::ErrorKind::{NotADirectory, NotFound};
    let own = folder.metadata()?;
    let leads_here = match fs::metadata(path) {
        Ok(there) => (there.dev(), there.ino()) == (own.dev(), own.ino()),
        // Else nothing is known, as where this process may not follow the path any more.
        Err(error) => !matches!(error.kind(), NotFound | NotADirectory),
    };
    Ok(match own.nlink() {
        _ if leads_here => PathState::Here,
        0 => PathState::Removed,
        _ => PathState::Moved,
    })
}

impl Directory for RealDirectory {
    fn path(&self) -> &Path {
        &self.path
    }

    fn whereabouts(&self) -> io::Result<PathState> {
        whereabouts(&self.file, &self.path)
    }

    fn id_of(&self, name: &str) -> io::Result<FileId> {
        sys::inode_at(self.file.as_fd(), name)
    }

    fn lasting_number(&self) -> u64 {
        let lasts = matches!(
            self.capabilities.file_system,
            FileSystem::Ext | FileSystem::Xfs | FileSystem::Btrfs | FileSystem::F2fs
        );
        self.file.metadata().ok().filter(|_| lasts).map_or(0, |metadata| metadata.ino())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        sys::list(self.file.as_fd())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let file = match self.open_at(name, 0) {
            Err(error) if !self.writes && error.raw_os_error() == Some(libc::EINVAL) => {
                sys::open_at(self.file.as_fd(), name, libc::O_RDONLY, 0)?.into()
            }
            opened => opened?,
        };
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        Ok(self.opened(name, file))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let file = self.open_at(name, libc::O_CREAT | libc::O_EXCL)?;
        Ok(self.opened(name, file))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        sys::unlink_at(self.file.as_fd(), name)
    }

    fn sync(&self) -> io::Result<()> {
        self.flushes.noted(self.file.sync_all(), || self.path.clone())
    }

    fn lock(&self, name: &str) -> Result<Arc<dyn Lock>, LockError> {
        lock::take(&self.file, &self.path, name)
    }

    fn device_number(&self) -> u64 {
        self.device_number
    }

    fn flushes(&self) -> &Arc<Flushes> {
        &self.flushes
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn file_system_id(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.dev())
    }

    fn queue(&self, setup: &QueueSetup) -> io::Result<(Box<dyn Queue + Send>, Arc<dyn Wake>)> {
        match setup.kind {
            QueueKind::Uring => super::uring::queue(setup),
            QueueKind::Syscall => Ok(super::syscall::queue()),
        }
    }
}

/// An error if this process may not make a file so long.
fn check_length(bytes: u64) -> io::Result<()> {
    let Some(most) = sys::file_bytes_max().filter(|&most| bytes > most) else { return Ok(()) };
    let text = format!(
        "a file of {bytes} bytes is more than this process may write (RLIMIT_FSIZE, `ulimit -f`), which is {most} bytes"
    );
    Err(io::Error::new(io::ErrorKind::FileTooLarge, text))
}

#[derive(Debug)]
struct RealFile {
    file: fs::File,
    uring: bool,
    /// Where it was opened, for messages.
    path: PathBuf,
    flushes: Arc<Flushes>,
    /// It may be so long, as was seen when the space was taken: writes of blocks ask nothing of the system.
    checked: AtomicU64,
}

impl RealFile {
    /// An error if this process may not make the file so long: the kernel would not say so, but end the process by a
    /// signal.
    fn check_length(&self, bytes: u64) -> io::Result<()> {
        if bytes > self.checked.load(Ordering::Relaxed) {
            check_length(bytes)?;
        }
        Ok(())
    }

    /// The same where space is taken, which is asked anew each time.
    fn note_length(&self, bytes: u64) -> io::Result<()> {
        check_length(bytes)?;
        self.checked.fetch_max(bytes, Ordering::Relaxed);
        Ok(())
    }
}

impl File for RealFile {
    fn read_some(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(bytes, offset)
    }

    fn write_some(&self, bytes: &[u8], offset: u64, sync: bool) -> io::Result<usize> {
        self.check_length(offset + bytes.len() as u64)?;
        sys::write_at(self.file.as_fd(), bytes, offset, sync)
    }

    fn sync(&self) -> io::Result<()> {
        self.flushes.noted(sys::sync_data(self.file.as_fd()), || self.path.clone())
    }

    fn forget_cache(&self) -> io::Result<()> {
        sys::drop_cache(self.file.as_fd())
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn id(&self) -> io::Result<FileId> {
        let metadata = self.file.metadata()?;
        Ok((metadata.dev(), metadata.ino()))
    }

    fn allocate(&self, bytes: u64) -> io::Result<bool> {
        self.note_length(bytes)?;
        match sys::allocate(self.file.as_fd(), bytes) {
            // ext2, and some network and overlay file systems. Not made longer either: a length without space behind
            // it looks the same as one with.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS)) => Ok(false),
            result => result.map(|()| true),
        }
    }

    fn secure(&self, range: Range<u64>) -> io::Result<()> {
        self.note_length(range.end)?;
        match sys::allocate_own(self.file.as_fd(), range.start, range.end - range.start) {
            Err(error) if sys::lacks_space(&error) => Err(error),
            // There, whatever is lacking shows when it is written.
            _ => Ok(()),
        }
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }

    fn read_ahead(&self) -> Option<Box<dyn ReadAhead>> {
        if self.uring { super::uring::read_ahead() } else { None }
    }

    fn scatter_reads(&self) -> Option<Box<dyn ScatterReads>> {
        if self.uring { super::uring::scatter_reads() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_in_a_folder_is_done_there_wherever_it_is() {
        let base = tempfile::tempdir().unwrap();
        let [path, moved] = ["folder", "moved"].map(|name| base.path().join(name));
        let folder = RealDevice::new().directory(&path).unwrap();
        folder.create("one").unwrap();
        assert_eq!(folder.whereabouts().unwrap(), PathState::Here);
        fs::rename(&path, &moved).unwrap();
        assert_eq!(folder.whereabouts().unwrap(), PathState::Moved);
        fs::create_dir(&path).unwrap();
        fs::write(path.join("one"), "another's").unwrap();
        assert_eq!(folder.whereabouts().unwrap(), PathState::Moved);
        folder.create("two").unwrap();
        folder.open("two").unwrap();
        let mut names = folder.list().unwrap();
        names.sort();
        assert_eq!(names, ["one", "two"]);
        folder.remove("one").unwrap();
        assert!(path.join("one").exists() && !path.join("two").exists());
        assert!(!moved.join("one").exists() && moved.join("two").exists());
        fs::remove_dir_all(&moved).unwrap();
        assert_eq!(folder.whereabouts().unwrap(), PathState::Removed);
        assert_eq!(folder.create("three").unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_name_that_is_another_files_by_now_is_not_removed() {
        let base = tempfile::tempdir().unwrap();
        let folder = RealDevice::new().directory(base.path()).unwrap();
        let meant = folder.create("name").unwrap();
        folder.remove("name").unwrap();
        let other = folder.create("name").unwrap();
        assert!(folder.remove_file("name", meant.id().unwrap()).is_err());
        assert!(base.path().join("name").exists());
        folder.remove_file("name", other.id().unwrap()).unwrap();
        assert!(!base.path().join("name").exists());
    }
}
