//! The io_uring driver: submit, reap, translate.
//!
//! One ring belongs to one shard's thread. The pool's memory is registered with it (nearly half the
//! CPU of a large write), and so are the lock files: the kernel closes a ring's table after the
//! last operation of the ring has ended, so the lock outlives every write of a killed process.
//!
//! Needs kernel 5.11 (`IORING_FEAT_EXT_ARG`, a wait with a time-out); on an older one, or where
//! io_uring is refused, [`queue`] fails and the caller falls back to plain system calls.

#![allow(unsafe_code)]

mod ahead;
#[cfg(feature = "ceiling")]
mod bare;
mod scatter;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use io_uring::{IoUring, opcode, squeue, types};

use super::{Completion, Operation, OperationKind, Queue, QueueSetup, Wait, Wake, transfer};
use crate::pool::Pool;
use crate::sys;

pub(super) use ahead::reader as read_ahead;
#[cfg(feature = "ceiling")]
pub(crate) use bare::{Access, BEHIND_EVERY, run as bare};
#[cfg(feature = "ceiling")]
pub use bare::{Method, Writes};
pub(super) use scatter::reader as scatter_reads;

/// The user data of the read that waits for a wake-up.
const WAKE: u64 = u64::MAX;

/// The kernel registers no buffer above this size.
const BUFFER_BYTES_MAX: usize = 1 << 30;

/// A sync is submitted again so many times when it was interrupted.
const INTERRUPTIONS_MAX: usize = 8;

/// A ring with so many entries, or the next power of two. A forked child does not have it mapped: the ring is its parent's.
fn ring(entries: u32) -> io::Result<IoUring> {
    IoUring::builder().dontfork().build(entries)
}

pub(super) fn queue(setup: &QueueSetup) -> io::Result<(Box<dyn Queue + Send>, Arc<dyn Wake>)> {
    // Room for each operation, the rest of one that came back short, and the wake-up's read.
    let entries = (setup.depth * 2 + 2).next_power_of_two();
    let ring = ring(entries)?;
    if !ring.params().is_feature_ext_arg() || !ring.params().is_feature_nodrop() {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "io_uring of a kernel before 5.11"));
    }
    let locks: Vec<_> = setup.lock.descriptors().iter().map(AsRawFd::as_raw_fd).collect();
    if !locks.is_empty() {
        ring.submitter().register_files(&locks)?;
    }
    let registered = register(&ring, &setup.pool);
    let event = Arc::new(EventWake(sys::event()?));
    let queue = UringQueue {
        registered,
        event: event.clone(),
        event_read: Box::new(0),
        wake_armed: false,
        waiting: VecDeque::new(),
        flight: Vec::new(),
        free: Vec::new(),
        in_flight: 0,
        done: VecDeque::new(),
        ring,
        _pool: setup.pool.clone(),
    };
    Ok((Box::new(queue), event))
}

/// Registers as much of the pool, from its start, as `RLIMIT_MEMLOCK` allows. Returns how much.
fn register(ring: &IoUring, pool: &Pool) -> usize {
    let (start, bytes) = pool.region().address();
    let mut bytes = bytes.min(BUFFER_BYTES_MAX);
    while bytes >= pool.block_bytes() as usize {
        let vector = libc::iovec { iov_base: start.cast(), iov_len: bytes };
        // SAFETY: the memory is the pool's mapping, which the queue keeps alive until the ring,
        // dropped first, has given up its registration.
        if unsafe { ring.submitter().register_buffers(&[vector]) }.is_ok() {
            return bytes;
        }
        bytes /= 2;
    }
    0
}

/// An operation in the kernel's hands.
struct InFlight {
    operation: Operation,
    /// Bytes written so far; see [`outcome`].
    done: usize,
}

struct UringQueue {
    /// Dropped first: the fields are dropped in order.
    ring: IoUring,
    registered: usize,
    event: Arc<EventWake>,
    event_read: Box<u64>,
    wake_armed: bool,
    /// Slots of `flight` whose entry is still to be put into the submission queue.
    waiting: VecDeque<usize>,
    flight: Vec<Option<InFlight>>,
    free: Vec<usize>,
    in_flight: usize,
    done: VecDeque<Completion>,
    _pool: Arc<Pool>,
}

impl UringQueue {
    fn entry(&self, slot: usize) -> squeue::Entry {
        let flight = self.flight[slot].as_ref().expect("a waiting slot holds an operation");
        let descriptor = flight.operation.file.descriptor().expect("a real queue gets real files");
        let file = types::Fd(descriptor.as_raw_fd());
        let entry = match &flight.operation.kind {
            OperationKind::Write { bytes, offset, sync } => {
                let rest = &bytes[flight.done..];
                let offset = offset + flight.done as u64;
                let flags = if *sync { libc::RWF_DSYNC } else { 0 };
                let length = u32::try_from(rest.len()).expect("a block is below 4 GiB");
                if bytes.offset() + bytes.len() <= self.registered {
                    let entry = opcode::WriteFixed::new(file, rest.as_ptr(), length, 0);
                    entry.offset(offset).rw_flags(flags).build()
                } else {
                    opcode::Write::new(file, rest.as_ptr(), length).offset(offset).rw_flags(flags).build()
                }
            }
            OperationKind::Sync => opcode::Fsync::new(file).flags(types::FsyncFlags::DATASYNC).build(),
        };
        entry.user_data(slot as u64)
    }

    /// Moves what waits into the submission queue, as far as it has room.
    fn fill_submission_queue(&mut self) {
        while let Some(&slot) = self.waiting.front() {
            let entry = self.entry(slot);
            // SAFETY: the entry points to a sealed block and an open file that `flight[slot]` owns
            // until the completion was reaped; `Drop` reaps all before anything is freed.
            if unsafe { self.ring.submission().push(&entry) }.is_err() {
                return;
            }
            self.waiting.pop_front();
        }
        if !self.wake_armed {
            let event = types::Fd(self.event.0.as_raw_fd());
            let into: *mut u64 = &raw mut *self.event_read;
            let entry = opcode::Read::new(event, into.cast(), 8).build().user_data(WAKE);
            // SAFETY: the eight bytes are boxed and live until the ring is gone.
            self.wake_armed = unsafe { self.ring.submission().push(&entry) }.is_ok();
        }
    }

    /// Takes the completions off the ring.
    fn reap(&mut self) {
        let mut again = Vec::new();
        for entry in self.ring.completion() {
            if entry.user_data() == WAKE {
                self.wake_armed = false;
                continue;
            }
            let slot = entry.user_data() as usize;
            let flight = self.flight[slot].as_mut().expect("a completion of an operation in flight");
            match outcome(&flight.operation.kind, &mut flight.done, entry.result()) {
                None => again.push(slot),
                Some(result) => {
                    let id = flight.operation.id;
                    self.flight[slot] = None;
                    self.free.push(slot);
                    self.in_flight -= 1;
                    self.done.push_back(Completion { id, result });
                }
            }
        }
        self.waiting.extend(again);
    }

    /// Ends the read of the event, which would land in `event_read`. `wait` submits, and waits for a completion.
    fn end_event_read(&mut self, mut wait: impl FnMut(&IoUring) -> io::Result<usize>) {
        if self.wake_armed {
            self.event.wake();
        }
        while self.wake_armed {
            match wait(&self.ring) {
                Err(error) if !goes_on(&error) => return self.leak_event_read(),
                _ => self.reap(),
            }
        }
    }

    /// The ring is broken, and the read may still land.
    fn leak_event_read(&mut self) {
        if self.wake_armed {
            std::mem::forget(std::mem::take(&mut self.event_read));
        }
    }
}

/// Whether a wait for the ring ended for no fault of it: a time-out, a signal, or completions that are to be reaped
/// first.
fn goes_on(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN))
}

/// What a result means, for an operation of which so many bytes are `done`; `None` if the rest is to be
/// submitted again.
pub(super) fn outcome(kind: &OperationKind, done: &mut usize, result: i32) -> Option<io::Result<()>> {
    let OperationKind::Write { bytes, .. } = kind else {
        // A sync that failed is never tried again. One that was interrupted has not failed (`sys::sync_data` says
        // why), but is not tried for ever: what is counted of a sync are its interruptions.
        if result == -libc::EINTR && *done < INTERRUPTIONS_MAX {
            *done += 1;
            return None;
        }
        return Some(if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) });
    };
    if result == -libc::EAGAIN {
        return None; // The ring had no memory for it just then.
    }
    let result = usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result));
    transfer::advance(done, bytes.len(), result)
}

impl Queue for UringQueue {
    fn push(&mut self, operation: Operation) {
        let flight = Some(InFlight { operation, done: 0 });
        let slot = match self.free.pop() {
            Some(slot) => {
                self.flight[slot] = flight;
                slot
            }
            None => {
                self.flight.push(flight);
                self.flight.len() - 1
            }
        };
        self.in_flight += 1;
        self.waiting.push_back(slot);
    }

    fn enter(&mut self, wait: Wait) -> io::Result<()> {
        self.fill_submission_queue();
        let waits = wait != Wait::No && self.done.is_empty();
        let submitter = self.ring.submitter();
        let result = match wait {
            Wait::AtMost(timeout) if waits => {
                let timespec = types::Timespec::from(timeout);
                submitter.submit_with_args(1, &types::SubmitArgs::new().timespec(&timespec))
            }
            Wait::Forever if waits => submitter.submit_and_wait(1),
            _ => submitter.submit(),
        };
        match result {
            Ok(_) => {}
            Err(error) if goes_on(&error) => {}
            Err(error) => return Err(error),
        }
        self.reap();
        Ok(())
    }

    fn pop(&mut self) -> Option<Completion> {
        self.done.pop_front()
    }
}

impl Drop for UringQueue {
    fn drop(&mut self) {
        // What the kernel still writes from must not be freed under it.
        while self.in_flight > 0 {
            self.done.clear();
            if self.enter(Wait::Forever).is_err() {
                // The ring is broken and cannot say when it is done: rather leak than corrupt.
                std::mem::forget(std::mem::take(&mut self.flight));
                self.leak_event_read();
                return;
            }
        }
        self.end_event_read(|ring| ring.submit_and_wait(1));
    }
}

impl fmt::Debug for UringQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UringQueue").field("in_flight", &self.in_flight).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct EventWake(OwnedFd);

impl Wake for EventWake {
    fn wake(&self) {
        sys::signal(self.0.as_fd());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `None` where there is no io_uring.
    fn queue() -> Option<UringQueue> {
        let ring = ring(4).ok()?;
        Some(UringQueue {
            ring,
            registered: 0,
            event: Arc::new(EventWake(sys::event().unwrap())),
            event_read: Box::new(0),
            wake_armed: false,
            waiting: VecDeque::new(),
            flight: Vec::new(),
            free: Vec::new(),
            in_flight: 0,
            done: VecDeque::new(),
            _pool: Arc::new(Pool::new(4096, 2, 0).unwrap()),
        })
    }

    /// What the read lands in is freed once the read is over, whatever interrupts the wait for that.
    #[test]
    fn a_signal_does_not_end_the_wait_for_the_last_read() {
        let Some(mut queue) = queue() else { return };
        queue.enter(Wait::No).unwrap();
        assert!(queue.wake_armed);
        let mut interruptions = vec![libc::EINTR, libc::EAGAIN, libc::EINTR];
        queue.end_event_read(|ring| match interruptions.pop() {
            Some(error) => Err(io::Error::from_raw_os_error(error)),
            None => ring.submit_and_wait(1),
        });
        assert!(!queue.wake_armed && interruptions.len() < 3);
        assert_eq!(*queue.event_read, 1, "the read has landed");
    }

    /// A ring that is broken may have the read land at any time: the memory is given up, and not freed.
    #[test]
    fn a_broken_ring_keeps_what_its_read_lands_in() {
        let Some(mut queue) = queue() else { return };
        queue.enter(Wait::No).unwrap();
        let address = std::ptr::from_ref(&*queue.event_read);
        queue.end_event_read(|_| Err(io::Error::from_raw_os_error(libc::EBADF)));
        assert!(!std::ptr::eq(address, &*queue.event_read));
        queue.wake_armed = false; // Given up.
    }

    #[test]
    fn an_interrupted_sync_is_submitted_again_and_no_other() {
        let mut done = 0;
        for _ in 0..INTERRUPTIONS_MAX {
            assert!(outcome(&OperationKind::Sync, &mut done, -libc::EINTR).is_none());
        }
        for error in [libc::EINTR, libc::EIO, libc::EAGAIN, libc::ENOSPC] {
            let told = outcome(&OperationKind::Sync, &mut done, -error).unwrap().unwrap_err();
            assert_eq!(told.raw_os_error(), Some(error));
        }
        assert!(outcome(&OperationKind::Sync, &mut done, 0).unwrap().is_ok());
    }
}
