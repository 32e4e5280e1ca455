//! Reads of many places at once: a ring that is kept full until all are there.

use std::fmt;
use std::io;
use std::os::fd::AsRawFd;

use io_uring::{IoUring, opcode, squeue, types};

use crate::device::{READS_AT_ONCE, ScatterRead, ScatterReads};
use crate::pool::AlignedBuffer;
use crate::sys::Process;

/// `None` where io_uring is not available.
pub(in crate::device) fn reader() -> Option<Box<dyn ScatterReads>> {
    let ring = super::ring(READS_AT_ONCE as u32).ok()?;
    Some(Box::new(UringScatter { ring: Some(ring), call: None, process: Process::current() }))
}

struct UringScatter {
    /// `None` once it failed: it cannot say any more which reads have ended.
    ring: Option<IoUring>,
    /// Owns files and memory of the reads in flight.
    call: Option<Call>,
    /// Where the ring is mapped.
    process: Process,
}

/// What is read in one call.
struct Call {
    reads: Vec<ScatterRead>,
    buffer: AlignedBuffer,
    results: Vec<io::Result<usize>>,
    /// The next one to submit, and how many are not back yet.
    next: usize,
    in_flight: usize,
}

impl Call {
    fn entry(&mut self) -> Option<squeue::Entry> {
        let index = self.next;
        let read = self.reads.get(index)?;
        self.next += 1;
        let into = &mut self.buffer[read.into.clone()];
        // Without one nothing could have been read: it comes back as an error of the kernel's.
        let file = read.file.descriptor().map_or(-1, |file| file.as_raw_fd());
        let length = u32::try_from(into.len()).expect("a few granules");
        let entry = opcode::Read::new(types::Fd(file), into.as_mut_ptr(), length).offset(read.offset).build();
        Some(entry.user_data(index as u64))
    }

    fn completed(&mut self, index: u64, result: i32) {
        self.in_flight -= 1;
        let read = usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result));
        self.results[index as usize] = read;
    }
}

impl UringScatter {
    /// The ring is broken, and the kernel may still write into the buffer: rather leak than corrupt.
    fn give_up(&mut self) {
        std::mem::forget(self.call.take());
        std::mem::forget(self.ring.take());
    }

    /// Submits and reaps until all are there.
    fn run(&mut self) -> Option<()> {
        let (ring, call) = (self.ring.as_mut()?, self.call.as_mut()?);
        loop {
            while call.in_flight < READS_AT_ONCE {
                let Some(entry) = call.entry() else { break };
                // SAFETY: buffer and files live in `self.call` until all completions were reaped, or for ever; the
                // parts of the buffer are disjoint, as `read` has asserted, and nobody looks at them meanwhile.
                unsafe { ring.submission().push(&entry) }
                    .expect("the ring has room for all that are in flight");
                call.in_flight += 1;
            }
            if call.in_flight == 0 {
                return Some(());
            }
            if let Err(error) = ring.submit_and_wait(1) {
                if !super::goes_on(&error) {
                    return None;
                }
            }
            for completion in ring.completion() {
                call.completed(completion.user_data(), completion.result());
            }
        }
    }
}

impl ScatterReads for UringScatter {
    fn read(
        &mut self,
        reads: Vec<ScatterRead>,
        buffer: AlignedBuffer,
    ) -> Option<(AlignedBuffer, Vec<io::Result<usize>>)> {
        if !self.process.is_current() {
            return None;
        }
        let mut free = 0;
        for read in &reads {
            assert!(
                free <= read.into.start && read.into.end <= buffer.len(),
                "parts of the buffer, one behind the other"
            );
            free = read.into.end;
        }
        let results = reads.iter().map(|_| Ok(0)).collect();
        self.call = Some(Call { reads, buffer, results, next: 0, in_flight: 0 });
        if self.run().is_none() {
            self.give_up();
            return None;
        }
        self.call.take().map(|call| (call.buffer, call.results))
    }
}

impl Drop for UringScatter {
    fn drop(&mut self) {
        if !self.process.is_current() {
            // A forked child: the ring is its parent's.
            self.give_up();
        }
    }
}

impl fmt::Debug for UringScatter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UringScatter").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{Device, RealDevice};

    /// More than the ring holds at once, from several files, in an order of their own, and one behind a file's end.
    #[test]
    fn each_read_has_its_own_outcome() {
        let folder = tempfile::tempdir().unwrap();
        let directory = RealDevice::new().directory(folder.path()).unwrap();
        let files: Vec<_> = (0..3u8)
            .map(|number| {
                let file = directory.create(&format!("{number}")).unwrap();
                let mut bytes = AlignedBuffer::zeroed(64 * 4096).unwrap();
                for (granule, bytes) in bytes.chunks_mut(4096).enumerate() {
                    bytes.fill(number * 64 + granule as u8);
                }
                file.write_at(&bytes, 0, false).unwrap();
                file
            })
            .collect();
        let Some(mut reader) = reader() else { return };
        for count in [1, 2, READS_AT_ONCE * 3 + 1] {
            let place = |index: usize| (index * 7 % 3, index * 11 % 66);
            let reads = (0..count).map(|index| {
                let (file, granule) = place(index);
                ScatterRead {
                    file: files[file].clone(),
                    offset: granule as u64 * 4096,
                    into: index * 4096..(index + 1) * 4096,
                }
            });
            let buffer = AlignedBuffer::zeroed(count * 4096).unwrap();
            let (buffer, results) = reader.read(reads.collect(), buffer).unwrap();
            for (index, (bytes, result)) in buffer.chunks(4096).zip(results).enumerate() {
                let (file, granule) = place(index);
                let there = if granule < 64 { 4096 } else { 0 };
                assert_eq!(result.unwrap(), there);
                assert!(bytes[..there].iter().all(|&byte| usize::from(byte) == file * 64 + granule));
            }
        }
    }
}
