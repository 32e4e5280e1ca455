//! Flushes that failed in blocking calls, for all whose bytes the device may have lost with them.
//!
//! A device tells of a lost flush once, to whoever asked for it. Those who rely on later flushes look here.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::sync::lock;

/// The flushes of one device that failed, whichever file or folder they were for.
#[derive(Debug, Default)]
pub(crate) struct Flushes {
    failed: AtomicU64,
    last: Mutex<Option<Arc<FailedFlush>>>,
}

/// See [`Flushes`].
#[derive(Debug)]
pub(crate) struct FailedFlush {
    /// Of the file or folder.
    pub path: PathBuf,
    /// An error of the system's.
    pub error: io::Error,
}

impl Flushes {
    /// Passes on how a flush ended. If it was the device that failed, that is noted before anybody is told.
    pub(super) fn noted(&self, ended: io::Result<()>, path: impl FnOnce() -> PathBuf) -> io::Result<()> {
        let failed =
            ended.as_ref().err().and_then(io::Error::raw_os_error).filter(|&code| is_of_device(code));
        if let Some(code) = failed {
            let flush = FailedFlush { path: path(), error: io::Error::from_raw_os_error(code) };
            *lock(&self.last) = Some(Arc::new(flush));
            self.failed.fetch_add(1, Ordering::SeqCst);
        }
        ended
    }

    /// How many there were.
    pub(crate) fn failed(&self) -> u64 {
        self.failed.load(Ordering::SeqCst)
    }

    pub(crate) fn last(&self) -> Option<Arc<FailedFlush>> {
        lock(&self.last).clone()
    }
}

/// Whether a flush that fails so may have lost what the device had taken. Else it was for want of space, was
/// interrupted, or was never begun.
fn is_of_device(code: i32) -> bool {
    !matches!(
        code,
        libc::ENOSPC
            | libc::EDQUOT
            | libc::EFBIG
            | libc::EINTR
            | libc::EAGAIN
            | libc::EINVAL
            | libc::ENOSYS
            | libc::EOPNOTSUPP
    )
}

/// The flushes of each device, by its number.
#[derive(Debug, Default)]
pub(super) struct AllFlushes(Mutex<BTreeMap<u64, Arc<Flushes>>>);

impl AllFlushes {
    pub(super) fn of(&self, device: u64) -> Arc<Flushes> {
        lock(&self.0).entry(device).or_default().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_device_failed_is_noted_and_nothing_else() {
        let flushes = Flushes::default();
        let end = |code: i32| flushes.noted(Err(io::Error::from_raw_os_error(code)), || "/log/file".into());
        for code in [libc::ENOSPC, libc::EDQUOT, libc::EFBIG, libc::EINTR, libc::EAGAIN, libc::EINVAL] {
            assert_eq!(end(code).unwrap_err().raw_os_error(), Some(code));
        }
        flushes.noted(Ok(()), || unreachable!("it went well")).unwrap();
        flushes.noted(Err(io::Error::other("not of the system's")), PathBuf::new).unwrap_err();
        assert!(flushes.failed() == 0 && flushes.last().is_none());
        end(libc::EIO).unwrap_err();
        let last = flushes.last().unwrap();
        assert_eq!((last.path.to_str(), last.error.raw_os_error()), (Some("/log/file"), Some(libc::EIO)));
        assert_eq!(flushes.failed(), 1);
    }
}
