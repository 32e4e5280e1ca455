//! A read under way while its reader looks at what it read before: a ring of its own, with one entry.

use std::fmt;
use std::io;
use std::os::fd::AsRawFd;

use io_uring::{IoUring, opcode, types};

use crate::device::{AheadRead, ReadAhead};
use crate::pool::AlignedBuffer;
use crate::sys::Process;

/// `None` where io_uring is not available: then nothing is read ahead.
pub(in crate::device) fn reader() -> Option<Box<dyn ReadAhead>> {
    let ring = super::ring(1).ok()?;
    Some(Box::new(UringAhead { ring: Some(ring), read: None, process: Process::current() }))
}

struct UringAhead {
    /// `None` once it failed: it cannot say any more whether a read has ended.
    ring: Option<IoUring>,
    /// Owns file and memory of the read in flight.
    read: Option<AheadRead>,
    /// Where the ring is mapped.
    process: Process,
}

impl UringAhead {
    /// The ring is broken, and the kernel may still write into the buffer: rather leak than corrupt.
    fn give_up(&mut self) {
        std::mem::forget(self.read.take());
        std::mem::forget(self.ring.take());
    }

    fn await_result(&mut self) -> Option<i32> {
        let ring = self.ring.as_mut()?;
        loop {
            if let Some(completion) = ring.completion().next() {
                return Some(completion.result());
            }
            match ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR | libc::EBUSY | libc::EAGAIN) => {}
                    _ => {
                        self.give_up();
                        return None;
                    }
                },
            }
        }
    }
}

impl ReadAhead for UringAhead {
    fn begin(&mut self, mut read: AheadRead) -> io::Result<()> {
        assert!(self.read.is_none(), "one read at a time");
        let (ring, file) = match (self.ring.as_mut(), read.file.descriptor()) {
            (Some(ring), Some(file)) => (ring, types::Fd(file.as_raw_fd())),
            _ => return Err(io::ErrorKind::Unsupported.into()),
        };
        let into = &mut read.buffer[read.into.clone()];
        let length = u32::try_from(into.len()).map_err(io::Error::other)?;
        let entry = opcode::Read::new(file, into.as_mut_ptr(), length).offset(read.offset).build();
        // SAFETY: buffer and file live in `self.read` until the completion was reaped, or for ever; nobody
        // looks at the buffer meanwhile.
        unsafe { ring.submission().push(&entry) }.map_err(io::Error::other)?;
        self.read = Some(read);
        // Should this fail, the entry is submitted by the wait.
        let _ = ring.submit();
        Ok(())
    }

    fn finish(&mut self) -> Option<(AlignedBuffer, io::Result<usize>)> {
        self.read.as_ref()?;
        let result = self.await_result()?;
        let read = self.read.take()?;
        Some((read.buffer, usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))))
    }
}

impl Drop for UringAhead {
    fn drop(&mut self) {
        if !self.process.is_current() {
            // A forked child: the ring is its parent's.
            self.give_up();
        } else if self.read.is_some() {
            let _ = self.finish();
        }
    }
}

impl fmt::Debug for UringAhead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UringAhead").field("reads", &self.read.is_some()).finish_non_exhaustive()
    }
}
