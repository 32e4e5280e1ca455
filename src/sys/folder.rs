//! What is done in a folder by its open descriptor: its path may lead elsewhere by now.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::ptr::NonNull;

use super::check;

fn c_name(name: &str) -> io::Result<CString> {
    CString::new(name).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// `openat(2)` of a name in the folder; `mode` is that of a file which is made.
pub(crate) fn open_at(
    folder: BorrowedFd<'_>,
    name: &str,
    flags: libc::c_int,
    mode: u32,
) -> io::Result<OwnedFd> {
    let name = c_name(name)?;
    loop {
        // SAFETY: the name is a C string that outlives the call.
        let opened =
            unsafe { libc::openat(folder.as_raw_fd(), name.as_ptr(), flags | libc::O_CLOEXEC, mode) };
        match check(opened) {
            // SAFETY: a new descriptor that nobody else has.
            Ok(descriptor) => return Ok(unsafe { OwnedFd::from_raw_fd(descriptor) }),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// `unlinkat(2)` of a file in the folder.
pub(crate) fn unlink_at(folder: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    let name = c_name(name)?;
    // SAFETY: the name is a C string that outlives the call.
    check(unsafe { libc::unlinkat(folder.as_raw_fd(), name.as_ptr(), 0) }).map(drop)
}

/// Device and inode of what has this name in the folder, `fstatat(2)`.
pub(crate) fn inode_at(folder: BorrowedFd<'_>, name: &str) -> io::Result<(u64, u64)> {
    let name = c_name(name)?;
    let mut stat = std::mem::MaybeUninit::<libc::stat>::zeroed();
    let flags = libc::AT_SYMLINK_NOFOLLOW;
    // SAFETY: the name is a C string and the buffer a `stat`; both outlive the call.
    check(unsafe { libc::fstatat(folder.as_raw_fd(), name.as_ptr(), stat.as_mut_ptr(), flags) })?;
    // SAFETY: a zeroed `stat` is valid, and the call succeeded.
    let stat = unsafe { stat.assume_init() };
    Ok((stat.st_dev, stat.st_ino))
}

/// A folder that is being listed; closed when dropped.
struct Listing(NonNull<libc::DIR>);

impl Drop for Listing {
    fn drop(&mut self) {
        // SAFETY: `fdopendir` gave it, and nothing uses it after this.
        unsafe { libc::closedir(self.0.as_ptr()) };
    }
}

impl Listing {
    /// `readdir(3)`: the next name, `None` at the end.
    fn next(&mut self) -> io::Result<Option<String>> {
        // An end and an error look alike but for the error number, which only an error sets.
        // SAFETY: the place of the error number is this thread's own.
        unsafe { *libc::__errno_location() = 0 };
        // SAFETY: the stream is open, and this is its only user.
        let entry = unsafe { libc::readdir(self.0.as_ptr()) };
        let Some(entry) = NonNull::new(entry) else {
            let error = io::Error::last_os_error();
            return if error.raw_os_error() == Some(0) { Ok(None) } else { Err(error) };
        };
        // SAFETY: an entry lives until the next call on its stream, and its name ends with a zero.
        let name = unsafe { CStr::from_ptr((&raw const (*entry.as_ptr()).d_name).cast()) };
        Ok(Some(name.to_string_lossy().into_owned()))
    }
}

/// The names in the folder, but `.` and `..`; by a description of its own, so that many can list at once.
pub(crate) fn list(folder: BorrowedFd<'_>) -> io::Result<Vec<String>> {
    let own = open_at(folder, ".", libc::O_RDONLY | libc::O_DIRECTORY, 0)?;
    let descriptor = own.into_raw_fd();
    // SAFETY: a descriptor of ours, which the stream owns from here on.
    let stream = unsafe { libc::fdopendir(descriptor) };
    let Some(stream) = NonNull::new(stream) else {
        let error = io::Error::last_os_error();
        // SAFETY: the call failed, so the descriptor is still ours and nobody else's.
        drop(unsafe { OwnedFd::from_raw_fd(descriptor) });
        return Err(error);
    };
    let mut listing = Listing(stream);
    let mut names = Vec::new();
    while let Some(name) = listing.next()? {
        if name != "." && name != ".." {
            names.push(name);
        }
    }
    Ok(names)
}
