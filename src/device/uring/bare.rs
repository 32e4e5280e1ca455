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
    /// Here and there instead of one block after the other.
    pub random: bool,
}

impl Access {
    /// Where the access with this number goes, of so many places.
    pub(crate) fn place(self, number: u64, places: u64) -> u64 {
        const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
        if self.random { (number.wrapping_mul(GOLDEN) >> 16) % places } else { number % places }
    }
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
    let memory = AlignedBuffer::filled_from(block_bytes as usize * depth as usize, 0xa5, access.huge)?;
    let places = file_bytes / u64::from(block_bytes);
    let mut load = Load { memory, writes: *writes, access, fixed: false, places, place: 0 };
    let mut ring = IoUring::new((depth * 2 + 1).next_power_of_two())?;
    let memory = &load.memory;
    let vector = libc::iovec { iov_base: memory.as_ptr().cast_mut().cast(), iov_len: memory.len() };
    // SAFETY: the memory outlives the ring: nothing is in flight when this returns, and the ring is
    // dropped before it.
    load.fixed = unsafe { ring.submitter().register_buffers(&[vector]) }.is_ok();
    ring.submitter().register_files(&[file.as_raw_fd()])?;
    let began = Instant::now();
    let mut begins = vec![began; depth as usize];
    let mut entries: Vec<squeue::Entry> = (0..u64::from(depth)).map(|slot| load.next(slot)).collect();
    let (mut in_flight, mut done) = (0, 0);
    let mut failed = None;
    let mut behind = Behind { due: method == Method::Behind, syncing: false, at: began };
    loop {
        let idle = entries.is_empty() && in_flight == 0;
        if failed.is_none() && behind.begins(idle) {
            entries.push(sync(load.beside()));
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
            let slot = completion.user_data() & !SYNC;
            match load.judge(completion.user_data(), completion.result()) {
                Came::Failed(error) => failed = Some(error),
                Came::Beside => {
                    behind.syncing = false;
                    continue;
                }
                Came::Written => {
                    entries.push(sync(slot));
                    continue;
                }
                Came::Done => {
                    done += 1;
                    behind.due = method == Method::Behind;
                    latency(u64::try_from((now - begins[slot as usize]).as_nanos()).unwrap_or(u64::MAX));
                }
            }
            if slot != load.beside() && failed.is_none() && now - began < time {
                begins[slot as usize] = now;
                entries.push(load.next(slot));
            }
        }
    }
    failed.map_or(Ok(done), Err)
}

/// What is written or read, and where.
struct Load {
    memory: AlignedBuffer,
    writes: Writes,
    access: Access,
    /// The memory is registered.
    fixed: bool,
    /// Blocks in the file.
    places: u64,
    place: u64,
}

/// What a completion means.
enum Came {
    /// One more is done.
    Done,
    /// It is written, and its own sync is next.
    Written,
    /// The sync that goes along.
    Beside,
    Failed(io::Error),
}

impl Load {
    /// The slot of the sync that goes along: the one behind those of the writes.
    fn beside(&self) -> u64 {
        u64::from(self.writes.depth)
    }

    /// The next write or read, from or into the memory of a slot.
    fn next(&mut self, slot: u64) -> squeue::Entry {
        let bytes = self.writes.block_bytes;
        let offset = self.access.place(self.place, self.places) * u64::from(bytes);
        self.place += 1;
        let from = self.memory[slot as usize * bytes as usize..].as_mut_ptr();
        let flags = if self.writes.method == Method::WriteThrough { libc::RWF_DSYNC } else { 0 };
        let target = types::Fixed(0);
        let entry = match (self.access.read, self.fixed) {
            (true, true) => opcode::ReadFixed::new(target, from, bytes, 0).offset(offset).build(),
            (true, false) => opcode::Read::new(target, from, bytes).offset(offset).build(),
            (false, true) => {
                opcode::WriteFixed::new(target, from, bytes, 0).offset(offset).rw_flags(flags).build()
            }
            (false, false) => opcode::Write::new(target, from, bytes).offset(offset).rw_flags(flags).build(),
        };
        entry.user_data(slot)
    }

    fn judge(&self, data: u64, result: i32) -> Came {
        let is_sync = data & SYNC != 0;
        if result < 0 {
            Came::Failed(io::Error::from_raw_os_error(-result))
        } else if data & !SYNC == self.beside() {
            Came::Beside
        } else if !is_sync && result as u32 != self.writes.block_bytes {
            Came::Failed(io::ErrorKind::WriteZero.into())
        } else if !is_sync && self.writes.method == Method::Flush {
            Came::Written
        } else {
            Came::Done
        }
    }
}

/// A sync of what a slot has written.
fn sync(slot: u64) -> squeue::Entry {
    let entry = opcode::Fsync::new(types::Fixed(0)).flags(types::FsyncFlags::DATASYNC).build();
    entry.user_data(SYNC | slot)
}

/// The sync that goes along with [`Method::Behind`], one at a time.
struct Behind {
    /// Something was written since the last one.
    due: bool,
    syncing: bool,
    at: Instant,
}

impl Behind {
    /// Whether the next one is to be submitted now: its time has come, or nothing else is left to do.
    fn begins(&mut self, idle: bool) -> bool {
        let begins = self.due && !self.syncing && (idle || self.at.elapsed() >= BEHIND_EVERY);
        if begins {
            *self = Behind { due: false, syncing: true, at: Instant::now() };
        }
        begins
    }
}
