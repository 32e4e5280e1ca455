//! System calls and instructions that std does not offer safely, one thin safe function each.

#![allow(unsafe_code)]

mod crc;
mod extents;
mod folder;
mod limits;

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

pub(crate) use crc::{crc32c_append, crc32c_copy};
pub(crate) use extents::allocate_own;
pub(crate) use folder::{inode_at, list, open_at, unlink_at};
pub(crate) use limits::{cpus, descriptors_max, file_bytes_max};

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn retry(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        let result = call();
        if let Ok(count) = usize::try_from(result) {
            return Ok(count);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Maps `bytes` of zeroed private memory, which the caller owns and gives back by [`unmap`].
pub(crate) fn map_anonymous(bytes: usize) -> io::Result<NonNull<u8>> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new anonymous mapping at a place of the kernel's choice touches no memory of ours.
    let pointer = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
    if pointer == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(pointer.cast()).ok_or_else(|| io::Error::other("mmap returned a null pointer"))
}

/// Gives a mapping back.
///
/// # Safety
/// The range is a mapping of [`map_anonymous`], or a page-aligned part of one, that the caller owns
/// and that nothing points into any more, the kernel included.
pub(crate) unsafe fn unmap(start: NonNull<u8>, bytes: usize) {
    // SAFETY: see the function's contract.
    let result = unsafe { libc::munmap(start.as_ptr().cast::<c_void>(), bytes) };
    debug_assert_eq!(result, 0, "munmap of our own mapping");
}

/// What the kernel is told about a stretch of memory.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Advice {
    HugePage,
    #[cfg(feature = "ceiling")]
    SmallPages,
    DontFork,
    DontDump,
}

/// `madvise(2)`; these change no contents.
pub(crate) fn advise(start: NonNull<u8>, bytes: usize, advice: Advice) -> io::Result<()> {
    let advice = match advice {
        Advice::HugePage => libc::MADV_HUGEPAGE,
        #[cfg(feature = "ceiling")]
        Advice::SmallPages => libc::MADV_NOHUGEPAGE,
        Advice::DontFork => libc::MADV_DONTFORK,
        Advice::DontDump => libc::MADV_DONTDUMP,
    };
    // SAFETY: none of these advices changes what the memory holds; a range that is not mapped
    // is an error of the call.
    check(unsafe { libc::madvise(start.as_ptr().cast::<c_void>(), bytes, advice) }).map(drop)
}

/// `pwritev2(2)` of one buffer, once; `sync` is `RWF_DSYNC` (kernel 4.7).
pub(crate) fn write_at(file: BorrowedFd<'_>, bytes: &[u8], offset: u64, sync: bool) -> io::Result<usize> {
    let vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let flags = if sync { libc::RWF_DSYNC } else { 0 };
    retry(|| {
        // SAFETY: the vector names `bytes`, which outlives the call and is only read.
        unsafe { libc::pwritev2(file.as_raw_fd(), &vector, 1, offset as libc::off_t, flags) }
    })
}

/// One write that must not wait for anything but the device (`RWF_NOWAIT`, kernel 4.14); false if it would
/// have to: io_uring tries the same, and hands such a write to a worker thread.
pub(crate) fn write_at_once(file: BorrowedFd<'_>, bytes: &[u8], offset: u64) -> io::Result<bool> {
    let vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let written = retry(|| {
        // SAFETY: the vector names `bytes`, which outlives the call and is only read.
        unsafe { libc::pwritev2(file.as_raw_fd(), &vector, 1, offset as libc::off_t, libc::RWF_NOWAIT) }
    });
    match written {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        result => result.map(|_| true),
    }
}

/// The flags of a file or folder, as `chattr(1)` has them; `ioctl_iflags(2)`.
pub(crate) fn inode_flags(file: BorrowedFd<'_>) -> io::Result<libc::c_int> {
    let mut flags: libc::c_int = 0;
    // SAFETY: the kernel writes one `int`, whatever the request's name says.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_GETFLAGS as _, &raw mut flags) })?;
    Ok(flags)
}

/// As above.
pub(crate) fn set_inode_flags(file: BorrowedFd<'_>, flags: libc::c_int) -> io::Result<()> {
    // SAFETY: the kernel reads one `int`.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_SETFLAGS as _, &raw const flags) }).map(drop)
}

/// `FS_NOCOW_FL`: files made in such a folder are overwritten in place.
pub(crate) const NO_COPY_ON_WRITE: libc::c_int = 0x0080_0000;

/// `fdatasync(2)`. A failed sync is final, and not tried again.
///
/// An interrupted one has not failed: it is done again, from its beginning, once. `EINTR` comes from file systems
/// that wait for somebody else, of those here FUSE: the kernel passes a signal on to its daemon, which may answer
/// `EINTR` in place of an answer (the kernel's `fuse.rst`, "Interrupting filesystem operations"). An error in writing
/// back is told by its own number, before the daemon is asked to sync, so that none was told and forgotten with the
/// interrupted call. The second time all signals are blocked, so that no timer of the application's keeps it from
/// ending; interrupted all the same, it is the daemon that will not, which is an error like any other.
pub(crate) fn sync_data(file: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no memory is involved.
    uninterrupted(|| check(unsafe { libc::fdatasync(file.as_raw_fd()) }).map(drop))
}

/// Calls once more, with all signals blocked, what was interrupted.
fn uninterrupted(mut call: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    match call() {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
        result => return result,
    }
    let before = set_signals_blocked(None);
    let result = call();
    set_signals_blocked(Some(before));
    result
}

/// Whether the disk, or what a user may have of it, is used up.
pub(crate) fn lacks_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// `fallocate(2)`, mode 0: room for `bytes` from the start of the file, which grows to it.
pub(crate) fn allocate(file: BorrowedFd<'_>, bytes: u64) -> io::Result<()> {
    retry(|| {
        // SAFETY: no memory is involved.
        unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, bytes as libc::off_t) as isize }
    })
    .map(drop)
}

/// `posix_fadvise(POSIX_FADV_DONTNEED)` on the whole file: clean pages leave the cache.
pub(crate) fn drop_cache(file: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no memory is involved.
    let error = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

/// `flock(2)`, exclusive, without waiting; `false` if another open file has it.
pub(crate) fn try_lock(file: BorrowedFd<'_>) -> io::Result<bool> {
    // SAFETY: no memory is involved.
    match check(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

/// `flock(LOCK_UN)`: gives the lock up now, whoever else still holds the open file.
pub(crate) fn unlock(file: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_UN) }).map(drop)
}

/// The file system's magic number, `statfs(2)`.
pub(crate) fn file_system(file: BorrowedFd<'_>) -> io::Result<u64> {
    let mut stat = std::mem::MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: the pointer is to a `statfs` that outlives the call.
    check(unsafe { libc::fstatfs(file.as_raw_fd(), stat.as_mut_ptr()) })?;
    // SAFETY: a zeroed `statfs` is valid, and the call succeeded.
    Ok(unsafe { stat.assume_init() }.f_type as u64)
}

/// Nanoseconds since the machine was started, those in which it slept included: `CLOCK_BOOTTIME`.
pub(crate) fn boot_time() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a `timespec` that outlives the call.
    check(unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) }).expect("Linux has this clock");
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Major and minor number of the device that a file lies on, `fstat(2)`.
pub(crate) fn block_device(file: BorrowedFd<'_>) -> io::Result<(u32, u32)> {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: the pointer is to a `stat` that outlives the call.
    check(unsafe { libc::fstat(file.as_raw_fd(), stat.as_mut_ptr()) })?;
    // SAFETY: a zeroed `stat` is valid, and the call succeeded.
    let device = unsafe { stat.assume_init() }.st_dev;
    Ok((libc::major(device) as u32, libc::minor(device) as u32))
}

/// Memory and offset alignment that `O_DIRECT` needs on this file, `STATX_DIOALIGN` (kernel 6.1).
///
/// `None` where the kernel or the file system does not say; `Some((0, 0))` where it has no direct I/O.
pub(crate) fn direct_alignment(file: BorrowedFd<'_>) -> Option<(u32, u32)> {
    let mut stat = std::mem::MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the path is an empty C string and the buffer a `statx` that outlives the call.
    let result = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            stat.as_mut_ptr(),
        )
    };
    check(result).ok()?;
    // SAFETY: a zeroed `statx` is valid, and the call succeeded.
    let stat = unsafe { stat.assume_init() };
    (stat.stx_mask & libc::STATX_DIOALIGN != 0).then_some((stat.stx_dio_mem_align, stat.stx_dio_offset_align))
}

/// `eventfd(2)`, close-on-exec, blocking reads.
pub(crate) fn event() -> io::Result<OwnedFd> {
    // SAFETY: no memory is involved.
    let descriptor = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) })?;
    // SAFETY: the call returned a new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Adds one to an eventfd, which wakes who reads it.
pub(crate) fn signal(event: BorrowedFd<'_>) {
    let one = 1u64.to_ne_bytes();
    // SAFETY: the buffer is eight bytes and outlives the call.
    let written = unsafe { libc::write(event.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    debug_assert!(written == 8, "an eventfd far from overflow takes a one");
}

/// Waits while `word` is `expected`, until woken or for at most `timeout`. May return early.
pub(crate) fn futex_wait(word: &AtomicU32, expected: u32, timeout: Option<Duration>) {
    let timeout = timeout.map(|timeout| libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    });
    let timeout: *const libc::timespec = timeout.as_ref().map_or(std::ptr::null(), |timeout| timeout);
    let operation = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: the word and the timeout outlive the call; the kernel only reads them.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, expected, timeout) };
}

/// Wakes up to `count` threads that wait on `word`.
pub(crate) fn futex_wake(word: &AtomicU32, count: u32) {
    let operation = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
    let count = count.min(i32::MAX as u32);
    // SAFETY: the kernel uses the word's address alone.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, count) };
}

/// Blocks all signals in this thread: signals belong to the application's threads.
pub(crate) fn block_signals() {
    set_signals_blocked(None);
}

/// Has this thread block these signals, or all of them; gives those that it blocked before.
fn set_signals_blocked(set: Option<libc::sigset_t>) -> libc::sigset_t {
    let mut before = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: the sets outlive the calls, and a zeroed one is valid, as are both that the calls fill.
    unsafe {
        let set = set.unwrap_or_else(|| {
            let mut all = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
            libc::sigfillset(all.as_mut_ptr());
            all.assume_init()
        });
        libc::pthread_sigmask(libc::SIG_SETMASK, &set, before.as_mut_ptr());
        before.assume_init()
    }
}

/// Keeps this thread on one CPU.
pub(crate) fn pin_to(cpu: usize) -> io::Result<()> {
    if cpu >= libc::CPU_SETSIZE as usize {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut set = std::mem::MaybeUninit::<libc::cpu_set_t>::zeroed();
    // SAFETY: a zeroed set is an empty one, the CPU is below its size, and it outlives the calls.
    check(unsafe {
        libc::CPU_SET(cpu, &mut *set.as_mut_ptr());
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), set.as_ptr())
    })
    .map(drop)
}

/// Cores that this process may use. Asked once: the answer costs a walk through the control groups' files.
pub(crate) fn cores() -> usize {
    static CORES: std::sync::OnceLock<usize> = std::sync::OnceLock::new();
    *CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from))
}

/// Lets the allocator keep what is freed: histories take and give back the same megabyte all the time, and spent
/// a third of their time on fresh pages (`mallopt(3)`).
#[cfg(all(test, target_env = "gnu"))]
pub(crate) fn keep_freed_memory() {
    // SAFETY: no memory is involved, and both settings may be changed at any time.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, 1 << 30);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 30);
    }
}

/// Physical memory of the machine in bytes; 0 if the kernel does not say.
pub(crate) fn physical_memory() -> u64 {
    // SAFETY: no memory is involved.
    let (pages, page) = unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
    u64::try_from(pages).unwrap_or(0) * u64::try_from(page).unwrap_or(0)
}

/// CPU time of the process so far, user and system, all threads.
#[cfg(feature = "ceiling")]
pub(crate) fn cpu_time() -> Duration {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the pointer is to an `rusage` that outlives the call, and a zeroed one is valid.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init()
    };
    let time = |value: libc::timeval| {
        let seconds = Duration::from_secs(u64::try_from(value.tv_sec).unwrap_or(0));
        seconds + Duration::from_micros(u64::try_from(value.tv_usec).unwrap_or(0))
    };
    time(usage.ru_utime) + time(usage.ru_stime)
}

/// A process, told from those it was forked from and those forked from it. What a process opened is its alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process {
    number: u32,
    marker: &'static AtomicU32,
}

impl Process {
    /// The one that this is called in.
    pub(crate) fn current() -> Process {
        // Copied into children, so that no number is given twice along a line of forks.
        static LAST: AtomicU32 = AtomicU32::new(0);
        let marker = fork_marker();
        let number = match marker.load(Ordering::Relaxed) {
            0 => {
                let next = LAST.fetch_add(1, Ordering::Relaxed) + 1;
                let set = marker.compare_exchange(0, next, Ordering::Relaxed, Ordering::Relaxed);
                set.map_or_else(|other| other, |_| next)
            }
            number => number,
        };
        Process { number, marker }
    }

    /// Whether this is called in it, and in no fork of it.
    #[inline]
    pub(crate) fn is_current(self) -> bool {
        self.marker.load(Ordering::Relaxed) == self.number
    }
}

/// Asks the CPU for memory that is about to be written. A hint: nothing is read that anybody sees.
#[inline]
pub(crate) fn prefetch(start: *const u8, bytes: usize) {
    #[cfg(target_arch = "x86_64")]
    for offset in (0..bytes).step_by(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: every x86-64 has it, and it faults at no address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(offset).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (start, bytes);
}

/// Maps a word that keeps what is put there, and is 0 again in a forked child (`MADV_WIPEONFORK`, kernel 4.14).
/// Before that kernel all processes look like one.
fn fork_marker() -> &'static AtomicU32 {
    use std::sync::OnceLock;
    static MARKER: OnceLock<&'static AtomicU32> = OnceLock::new();
    static ALWAYS: AtomicU32 = AtomicU32::new(u32::MAX);
    MARKER.get_or_init(|| {
        let Ok(page) = map_anonymous(4096) else { return &ALWAYS };
        // SAFETY: the page is ours alone, and wiping it in a child is what it is for.
        let result = unsafe { libc::madvise(page.as_ptr().cast(), 4096, libc::MADV_WIPEONFORK) };
        if result != 0 {
            return &ALWAYS;
        }
        // SAFETY: the page is mapped for as long as the process lives, aligned, and zeroed.
        unsafe { page.cast::<AtomicU32>().as_ref() }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(signal: libc::c_int) -> bool {
        let mut set = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
        // SAFETY: the set outlives the calls, the first of which changes nothing and fills it.
        unsafe {
            libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), set.as_mut_ptr());
            libc::sigismember(set.as_ptr(), signal) == 1
        }
    }

    /// What each call of something interrupted so many times finds blocked, and how it ended.
    fn interrupted(times: usize, then: libc::c_int) -> (Vec<bool>, io::Result<()>) {
        let mut calls = Vec::new();
        let result = uninterrupted(|| {
            calls.push(blocks(libc::SIGALRM) && blocks(libc::SIGTERM));
            match (calls.len() <= times, then) {
                (true, _) => Err(io::Error::from_raw_os_error(libc::EINTR)),
                (false, 0) => Ok(()),
                (false, error) => Err(io::Error::from_raw_os_error(error)),
            }
        });
        (calls, result)
    }

    #[test]
    fn what_was_interrupted_is_called_once_more_without_signals() {
        assert!(!blocks(libc::SIGALRM), "or this shows nothing");
        let (calls, result) = interrupted(0, 0);
        assert!(calls == [false] && result.is_ok());
        let (calls, result) = interrupted(1, 0);
        assert!(calls == [false, true] && result.is_ok());
        assert!(!blocks(libc::SIGALRM) && !blocks(libc::SIGTERM), "the mask is as it was");
        let (calls, result) = interrupted(2, 0);
        assert_eq!(calls, [false, true]);
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EINTR));
        // Failed is failed.
        let (calls, result) = interrupted(0, libc::EIO);
        assert_eq!((calls.len(), result.unwrap_err().raw_os_error()), (1, Some(libc::EIO)));
        let (calls, result) = interrupted(1, libc::EIO);
        assert_eq!((calls.len(), result.unwrap_err().raw_os_error()), (2, Some(libc::EIO)));
    }
}
