//! A bare loop over io_uring: what the device takes when nothing else has to be decided.
//!
//! Registered huge-page buffers, a registered file, a fixed depth, one thread; each completion is
//! replaced by the next write. With [`Method::Behind`] one sync at a time goes along with them.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use io_uring::{IoUring, opcode, squeue, types};

use crate::pool::AlignedBuffer;

/// Set in the user data of a sync.
const SYNC: u64 = 1 << 32;

/// How a write is made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Method {
    /// Not at all.
    Plain,
    /// By itself (`RWF_DSYNC`).
    WriteThrough,
    /// By an `fdatasync` after it.
    Flush,
    /// By an `fdatasync` of all that is written, every 10 ms beside the writes and once at the end: what a log
    /// does for records that nobody waits for.
    Behind,
}

/// How often [`Method::Behind`] syncs.
pub(crate) const BEHIND_EVERY: Duration = Duration::from_millis(10);

/// What to write.
#[derive(Clone, Copy, Debug)]
pub struct Writes {
    /// Bytes of each write, a multiple of 4096.
    pub block_bytes: u32,
    /// Writes in flight at once; 1 or more.
    pub depth: u32,
    /// How each is made durable.
    pub method: Method,
}

/// From what pages, and which way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access {
    pub huge: bool,
    /// Reads instead of writing.
    pub read: bool,
}

/// Writes to `file`, which has `file_bytes`, or reads from it, for `time`; tells the latency of each in
/// nanoseconds.
pub(crate) fn run(
    file: BorrowedFd<'_>,
    file_bytes: u64,
    writes: &Writes,
    access: Access,
    time: Duration,
    mut latency: impl FnMut(u64),
) -> io::Result<u64> {
    let Writes { block_bytes, depth, method } = *writes;
    let mut memory = AlignedBuffer::filled_from(block_bytes as usize * depth as usize, 0xa5, access.huge)?;
    let mut ring = IoUring::new((depth * 2 + 1).next_power_of_two())?;
    let vector = libc::iovec { iov_base: memory.as_ptr().cast_mut().cast(), iov_len: memory.len() };
    // SAFETY: the memory outlives the ring: nothing is in flight when this returns, and the ring is
    // dropped before it.
    let fixed = unsafe { ring.submitter().register_buffers(&[vector]) }.is_ok();
    ring.submitter().register_files(&[file.as_raw_fd()])?;
    let places = file_bytes / u64::from(block_bytes);
    let mut place = 0;
    let mut next_write = |slot: u64| -> squeue::Entry {
        let offset = place % places * u64::from(block_bytes);
        place += 1;
        let from = memory[slot as usize * block_bytes as usize..].as_mut_ptr();
        let flags = if method == Method::WriteThrough { libc::RWF_DSYNC } else { 0 };
        let target = types::Fixed(0);
        let entry = match (access.read, fixed) {
            (true, true) => opcode::ReadFixed::new(target, from, block_bytes, 0).offset(offset).build(),
            (true, false) => opcode::Read::new(target, from, block_bytes).offset(offset).build(),
            (false, true) => {
                opcode::WriteFixed::new(target, from, block_bytes, 0).offset(offset).rw_flags(flags).build()
            }
            (false, false) => {
                opcode::Write::new(target, from, block_bytes).offset(offset).rw_flags(flags).build()
            }
        };
        entry.user_data(slot)
    };
    let sync = |slot| {
        let entry = opcode::Fsync::new(types::Fixed(0)).flags(types::FsyncFlags::DATASYNC).build();
        entry.user_data(SYNC | slot)
    };
    let began = Instant::now();
    let mut begins = vec![began; depth as usize];
    let mut entries: Vec<squeue::Entry> = (0..u64::from(depth)).map(&mut next_write).collect();
    let (mut in_flight, mut done) = (0, 0);
    let mut failed = None;
    // The sync that goes along: its slot is the one behind those of the writes.
    let beside = u64::from(depth);
    let (mut syncing, mut synced_at, mut unsynced) = (false, began, method == Method::Behind);
    loop {
        let due = entries.is_empty() && in_flight == 0 || synced_at.elapsed() >= BEHIND_EVERY;
        if unsynced && !syncing && due && failed.is_none() {
            entries.push(sync(beside));
            (syncing, synced_at, unsynced) = (true, Instant::now(), false);
        }
        for entry in entries.drain(..) {
            // SAFETY: the buffer of a slot is used by one operation at a time, and outlives the ring;
            // the queue has room for all slots.
            unsafe { ring.submission().push(&entry) }.map_err(io::Error::other)?;
            in_flight += 1;
        }
        if in_flight == 0 {
            break;
        }
        match ring.submit_and_wait(1) {
            // Nor at a signal: what is in flight uses the memory.
            Err(error) if !super::goes_on(&error) => return Err(error),
            _ => {}
        }
        let now = Instant::now();
        for completion in ring.completion() {
            in_flight -= 1;
            let (slot, result) = (completion.user_data() & !SYNC, completion.result());
            let is_sync = completion.user_data() & SYNC != 0;
            if result < 0 {
                failed = Some(io::Error::from_raw_os_error(-result));
            } else if slot == beside {
                syncing = false;
                continue;
            } else if !is_sync && result as u32 != block_bytes {
                failed = Some(io::ErrorKind::WriteZero.into());
            } else if !is_sync && method == Method::Flush {
                entries.push(sync(slot));
                continue;
            } else {
                done += 1;
                unsynced = method == Method::Behind;
                latency(u64::try_from((now - begins[slot as usize]).as_nanos()).unwrap_or(u64::MAX));
            }
            if slot != beside && failed.is_none() && now - began < time {
                begins[slot as usize] = now;
                entries.push(next_write(slot));
            }
        }
    }
    failed.map_or(Ok(done), Err)
}
