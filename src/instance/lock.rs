//! Who owns a log's folders: their locks, and what an open waits for to have them.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::device::{Device, Directory, Lock, LockError, PathState};
use crate::error::OpenError;
use crate::notice::Notices;

/// The locks of several folders as one.
#[derive(Debug)]
pub(crate) struct Locks(pub Vec<Arc<dyn Lock>>);

impl Lock for Locks {
    fn release(&self) {
        self.0.iter().for_each(|lock| lock.release());
    }

    fn check(&self) -> io::Result<PathState> {
        self.0.iter().try_fold(PathState::Here, |worst, lock| Ok(lock.check()?.max(worst)))
    }

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.0.iter().flat_map(|lock| lock.descriptors()).collect()
    }
}

const LOCK: &str = "sawmill.lock";
/// A lock whose owner is dead is waited for this long: its last writes may still land.
const LINGER: Duration = Duration::from_secs(30);
const LINGER_STEP: Duration = Duration::from_millis(5);
/// The wait is told after so many steps: a process that was just killed is mostly gone by then.
const TOLD_AT: u128 = 50;

/// A log that is being closed in the background by this process, which an open waits for.
#[derive(Debug)]
pub(crate) struct Leaving;

static LEAVING: AtomicU32 = AtomicU32::new(0);

impl Leaving {
    pub(crate) fn begin() -> Leaving {
        LEAVING.fetch_add(1, Ordering::SeqCst);
        Leaving
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        LEAVING.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Takes the lock of a folder. Who may be dead is waited for, and that is told.
pub(crate) fn take_lock(
    directory: &dyn Directory,
    device: &dyn Device,
    notices: &Notices,
) -> Result<Arc<dyn Lock>, OpenError> {
    let path = directory.path();
    let locked = |owner| OpenError::Locked { path: path.to_owned(), owner };
    let steps = LINGER.as_micros() / LINGER_STEP.as_micros();
    let mut last = None;
    for step in 0..steps {
        // Asked before the lock: a close that ends between the two has given it up by the next try.
        let leaving = device.threaded() && LEAVING.load(Ordering::SeqCst) > 0;
        match directory.lock(LOCK) {
            Ok(lock) => return Ok(lock),
            Err(LockError::Io { path, source }) => return Err(OpenError::at("locking", &path)(source)),
            Err(LockError::Lingering(owner)) => last = Some(owner),
            Err(LockError::Held(owner)) if !leaving => return Err(locked(owner)),
            Err(LockError::Held(_)) => {}
        }
        if let (TOLD_AT, Some(owner)) = (step, &last) {
            notices.info(format!("{} is locked by {owner}; waiting up to {LINGER:?} for it", path.display()));
        }
        device.pause(LINGER_STEP);
    }
    let owner = last.unwrap_or_else(|| "this process, which is closing it".to_owned());
    Err(locked(format!("{owner} (waited for {LINGER:?})")))
}
