//! The ceiling of callers that block: what handing records over and being woken costs, without a log.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{BareFile, Measured};
use crate::pool::AlignedBuffer;
use crate::sys::{futex_wait, futex_wake};

/// No batch is larger; whoever finds no room waits for the next.
const BATCH_BYTES: usize = 1 << 20;

/// The batch that callers fill.
struct Open {
    memory: AlignedBuffer,
    bytes: usize,
    batch: u32,
}

/// What callers and the writer share.
struct Exchange {
    open: Mutex<Open>,
    /// Batches that are durable. Callers sleep on it, all on the one word.
    durable: AtomicU32,
    /// Batches that somebody was the first in. The writer sleeps on it.
    asked: AtomicU32,
    over: AtomicBool,
}

impl Exchange {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self) {
        self.asked.fetch_add(1, Ordering::SeqCst);
        futex_wake(&self.asked, 1);
    }

    fn tell(&self, durable: u32) {
        self.durable.store(durable, Ordering::SeqCst);
        futex_wake(&self.durable, u32::MAX);
    }

    /// One caller; gives its latencies.
    fn hand_over(&self, record: &[u8], deadline: Instant) -> Vec<u64> {
        let mut latencies = Vec::new();
        loop {
            let began = Instant::now();
            if began >= deadline || self.over.load(Ordering::SeqCst) {
                return latencies;
            }
            let (batch, is_first) = {
                let mut open = self.open();
                let (from, to) = (open.bytes, open.bytes + record.len());
                if to > BATCH_BYTES {
                    drop(open);
                    std::thread::yield_now();
                    continue;
                }
                open.memory[from..to].copy_from_slice(record);
                open.bytes = to;
                (open.batch, from == 0)
            };
            if is_first {
                self.ask();
            }
            loop {
                let durable = self.durable.load(Ordering::SeqCst);
                if durable >= batch {
                    break;
                }
                futex_wait(&self.durable, durable, None);
            }
            latencies.push(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX));
        }
    }

    /// Writes one batch after the other until it is over.
    fn write_to(&self, file: &BareFile, mut spare: AlignedBuffer) -> io::Result<()> {
        let mut offset = 0;
        loop {
            let asked = self.asked.load(Ordering::SeqCst);
            let (bytes, batch) = {
                let mut open = self.open();
                let (bytes, batch) = (std::mem::take(&mut open.bytes), open.batch);
                if bytes > 0 {
                    std::mem::swap(&mut open.memory, &mut spare);
                    open.batch += 1;
                }
                (bytes.next_multiple_of(4096), batch)
            };
            if bytes == 0 {
                if self.over.load(Ordering::SeqCst) {
                    return Ok(());
                }
                futex_wait(&self.asked, asked, None);
                continue;
            }
            offset = if offset + bytes as u64 > file.bytes { 0 } else { offset };
            file.file.write_at(&spare[..bytes], offset, true)?;
            offset += bytes as u64;
            self.tell(batch);
        }
    }
}

impl BareFile {
    /// So many threads hand over records of `record_bytes`, each waiting until its own is durable: a shared
    /// buffer under a mutex, one thread that writes what has gathered (`pwritev2(2)` with `RWF_DSYNC`), and one
    /// futex wake-up a batch. [`Measured::writes`] counts records.
    ///
    /// # Errors
    /// Where a write fails.
    ///
    /// # Panics
    /// If a record is empty or larger than 1 MiB, or a thread cannot be made.
    pub fn handed_over(&self, threads: u32, record_bytes: usize, time: Duration) -> io::Result<Measured> {
        assert!(record_bytes > 0 && record_bytes <= BATCH_BYTES);
        let open = Open { memory: AlignedBuffer::zeroed(BATCH_BYTES)?, bytes: 0, batch: 1 };
        let spare = AlignedBuffer::zeroed(BATCH_BYTES)?;
        let exchange = Exchange {
            open: Mutex::new(open),
            durable: AtomicU32::new(0),
            asked: AtomicU32::new(0),
            over: AtomicBool::new(false),
        };
        let (exchange, record) = (&exchange, &vec![7; record_bytes]);
        let deadline = Instant::now().checked_add(time).ok_or(io::ErrorKind::InvalidInput)?;
        let mut measured = self.measure(1, |latencies| {
            std::thread::scope(|scope| {
                let writer = scope.spawn(move || {
                    let written = exchange.write_to(self, spare);
                    // After an error nobody must wait for ever.
                    exchange.over.store(true, Ordering::SeqCst);
                    exchange.tell(u32::MAX);
                    written
                });
                let callers: Vec<_> =
                    (0..threads).map(|_| scope.spawn(move || exchange.hand_over(record, deadline))).collect();
                for caller in callers {
                    latencies.extend(caller.join().expect("a caller does not panic"));
                }
                exchange.over.store(true, Ordering::SeqCst);
                exchange.ask();
                writer.join().expect("the writer does not panic")
            })?;
            Ok(latencies.len() as u64)
        })?;
        measured.bytes = measured.writes * record_bytes as u64;
        Ok(measured)
    }
}
