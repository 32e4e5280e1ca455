//! Where on disk a file lies, as far as its file system tells.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::{check, retry};

/// Extents that are asked for at a time.
const EXTENTS: usize = 32;

/// `struct fiemap_extent` of `linux/fiemap.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Extent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved: [u64; 2],
    flags: u32,
    more_reserved: [u32; 3],
}

/// `struct fiemap`, with room for what it gives.
#[repr(C)]
#[derive(Debug, Default)]
struct Map {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    count: u32,
    reserved: u32,
    extents: [Extent; EXTENTS],
}

/// `FS_IOC_FIEMAP`: `_IOWR('f', 11, struct fiemap)`, of which the extents are no part.
const FS_IOC_FIEMAP: u32 = 0xc020_660b;
/// Its place is not known, or not chosen yet.
const UNKNOWN: u32 = 0x2 | 0x4;
/// Another file has the same extent: a write needs another one.
const SHARED: u32 = 0x2000;

/// Whether each byte of a stretch has a place on disk that is this file's own: a write there needs no more space.
///
/// # Errors
/// Where the file system does not tell.
fn has_own_extents(file: BorrowedFd<'_>, offset: u64, bytes: u64) -> io::Result<bool> {
    let (mut at, end) = (offset, offset + bytes);
    while at < end {
        let mut map = Map { start: at, length: end - at, count: EXTENTS as u32, ..Map::default() };
        // SAFETY: the map outlives the call, and has room for as many extents as it says.
        check(unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FIEMAP as _, &raw mut map) })?;
        let before = at;
        for extent in &map.extents[..EXTENTS.min(map.mapped as usize)] {
            if extent.logical > at || extent.flags & (UNKNOWN | SHARED) != 0 {
                return Ok(false);
            }
            at = at.max(extent.logical.saturating_add(extent.length));
        }
        if at == before {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Takes the space that a stretch within the file lacks, `fallocate(2)`; where it shares extents with another file (a
/// reflink), extents of its own as far as the file system knows how to.
///
/// Looked at first: XFS asks for free space even where none is lacking.
pub(crate) fn allocate_own(file: BorrowedFd<'_>, offset: u64, bytes: u64) -> io::Result<()> {
    if bytes == 0 || has_own_extents(file, offset, bytes).unwrap_or(false) {
        return Ok(());
    }
    let (offset, bytes) = (offset as libc::off_t, bytes as libc::off_t);
    let allocate = |mode| {
        retry(|| {
            // SAFETY: no memory is involved.
            unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, bytes) as isize }
        })
    };
    let own = match allocate(libc::FALLOC_FL_UNSHARE_RANGE) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL)) => allocate(0),
        result => result,
    };
    own.map(drop)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn holes_are_seen_and_filled() {
        let file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        file.write_all_at(&[7; 8192], 0).unwrap();
        file.write_all_at(&[7; 8192], 1 << 20).unwrap();
        file.sync_all().unwrap();
        let whole = file.metadata().unwrap().len();
        let has = |offset, bytes| has_own_extents(file.as_fd(), offset, bytes);
        if has(0, whole).is_err() {
            return eprintln!("skipped: this file system does not tell");
        }
        assert!(has(0, 8192).unwrap() && has(4096, 4096).unwrap() && has(1 << 20, 8192).unwrap());
        assert!(!has(0, whole).unwrap() && !has(4096, 8192).unwrap() && !has(64 << 10, 4096).unwrap());
        allocate_own(file.as_fd(), 8192, whole - 8192).unwrap();
        assert!(has(0, whole).unwrap());
        assert!(!has(0, whole + 4096).unwrap(), "behind its end");
    }
}
