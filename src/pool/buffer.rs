//! Aligned memory.

#![allow(unsafe_code)]

use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

use super::Pool;
use crate::sys::{self, Advice, Process};

const HUGE_PAGE: usize = 2 << 20;

/// Below this a mapping of its own costs more than it brings: the allocator has it.
const MAPPED_FROM: usize = 1 << 20;

/// Memory of our own: zeroed, aligned to a huge page from 2 MiB up and to 4 KiB below.
///
/// Huge pages made bare writes 1.3 to 2.1 times and reads 2 to 2.9 times as fast (a direct write of
/// 256 KiB is one segment for the block layer instead of 64). They are asked for, not required.
pub(crate) struct Region {
    start: NonNull<u8>,
    bytes: usize,
    /// Where it is mapped: a fork of this process may have something else at the same place.
    process: Process,
}

// SAFETY: a region is an address range that it alone owns; who may touch which part of it is
// decided by `Pool` and `AlignedBuffer`, which hand out disjoint parts.
unsafe impl Send for Region {}
// SAFETY: as above; the region itself only ever reads its own fields.
unsafe impl Sync for Region {}

impl Region {
    /// Maps at least `bytes`, kept out of forked children and core dumps.
    pub(crate) fn map(bytes: usize) -> io::Result<Region> {
        assert!(bytes > 0);
        if bytes < MAPPED_FROM {
            return Region::allocate(bytes.next_multiple_of(4096));
        }
        let huge = bytes >= HUGE_PAGE;
        let unit = if huge { HUGE_PAGE } else { 4096 };
        let bytes = bytes.next_multiple_of(unit);
        let start = if huge { map_aligned(bytes, HUGE_PAGE)? } else { sys::map_anonymous(bytes)? };
        let region = Region { start, bytes, process: Process::current() };
        if huge {
            // A kernel without transparent huge pages refuses; ordinary pages do as well.
            let _ = sys::advise(start, bytes, Advice::HugePage);
        }
        // Both are manners, not needs: without the first a fork copies page tables, without the
        // second a core dump holds the users' data.
        let _ = sys::advise(start, bytes, Advice::DontFork);
        let _ = sys::advise(start, bytes, Advice::DontDump);
        Ok(region)
    }

    fn allocate(bytes: usize) -> io::Result<Region> {
        // SAFETY: the layout is not empty.
        let start = unsafe { std::alloc::alloc_zeroed(Region::layout(bytes)) };
        let start = NonNull::new(start).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Region { start, bytes, process: Process::current() })
    }

    fn layout(bytes: usize) -> std::alloc::Layout {
        std::alloc::Layout::from_size_align(bytes, 4096).expect("far below the address space's size")
    }

    /// Takes the pages now, so that the append path meets no page fault and no lack of memory.
    pub(crate) fn touch(&self) {
        let step = 4096;
        for offset in (0..self.bytes).step_by(step) {
            // SAFETY: the offset lies inside the mapping; a volatile store of the zero that is
            // there already, before any part is handed out.
            unsafe { self.start.as_ptr().add(offset).write_volatile(0) };
        }
    }

    /// Address and length, for registering with the kernel.
    pub(crate) fn address(&self) -> (*mut u8, usize) {
        (self.start.as_ptr(), self.bytes)
    }

    /// # Safety
    /// Until the slice is gone nobody else reads or writes these bytes.
    #[allow(clippy::mut_from_ref)] // The caller's promise, not the borrow, is what excludes others.
    pub(super) unsafe fn slice_mut(&self, offset: usize, bytes: usize) -> &mut [u8] {
        assert!(offset.checked_add(bytes).is_some_and(|end| end <= self.bytes));
        // SAFETY: inside the mapping by the assert, initialised by the kernel, exclusive by contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().add(offset), bytes) }
    }

    /// # Safety
    /// Until the slice is gone nobody writes these bytes.
    pub(super) unsafe fn slice(&self, offset: usize, bytes: usize) -> &[u8] {
        assert!(offset.checked_add(bytes).is_some_and(|end| end <= self.bytes));
        // SAFETY: inside the mapping by the assert, initialised by the kernel, unchanged by contract.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().add(offset), bytes) }
    }

    /// Has the CPU bring these bytes near, for a write.
    #[inline]
    pub(super) fn prefetch(&self, offset: usize, bytes: usize) {
        sys::prefetch(self.start.as_ptr().wrapping_add(offset), bytes);
    }
}

/// Maps `bytes` at a multiple of `alignment` by mapping more and giving the ends back.
fn map_aligned(bytes: usize, alignment: usize) -> io::Result<NonNull<u8>> {
    let whole = bytes + alignment;
    let start = sys::map_anonymous(whole)?;
    let before = start.as_ptr().align_offset(alignment);
    let after = whole - bytes - before;
    // SAFETY: `before + bytes + after == whole`, so both ends lie inside the mapping made above,
    // are page-aligned, and nothing points into them yet.
    unsafe {
        let aligned = start.add(before);
        if before > 0 {
            sys::unmap(start, before);
        }
        if after > 0 {
            sys::unmap(aligned.add(bytes), after);
        }
        Ok(aligned)
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        let mapped = self.bytes >= MAPPED_FROM;
        if mapped && !self.process.is_current() {
            return;
        }
        // SAFETY: the memory is ours; parts of it are only reachable through types that hold an
        // `Arc` of it, and operations in flight hold such a type until they are reaped. Its size
        // tells where it came from, as in `map`.
        unsafe {
            if mapped {
                sys::unmap(self.start, self.bytes);
            } else {
                std::alloc::dealloc(self.start.as_ptr(), Region::layout(self.bytes));
            }
        }
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Region").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

/// Aligned memory with one owner: readers, recovery and manifests use it.
#[derive(Debug)]
pub(crate) struct AlignedBuffer {
    /// Shared with another buffer if it is one of a pair; each has its own part.
    region: Arc<Region>,
    start: usize,
    length: usize,
}

impl AlignedBuffer {
    /// Zeroed bytes.
    pub(crate) fn zeroed(length: usize) -> io::Result<AlignedBuffer> {
        Ok(AlignedBuffer { region: Arc::new(Region::map(length.max(1))?), start: 0, length })
    }

    /// Two buffers of so many zeroed bytes beside each other, so that both may lie in one huge page.
    pub(crate) fn pair(length: usize) -> io::Result<(AlignedBuffer, AlignedBuffer)> {
        assert!(length > 0 && length % 4096 == 0, "the second is aligned as the first");
        let region = Arc::new(Region::map(2 * length)?);
        let part = |start| AlignedBuffer { region: region.clone(), start, length };
        Ok((part(0), part(length)))
    }

    /// Bytes of one value.
    #[cfg(feature = "ceiling")]
    pub(crate) fn filled(length: usize, byte: u8) -> io::Result<AlignedBuffer> {
        AlignedBuffer::filled_from(length, byte, true)
    }

    /// The same, from pages of 4 KiB if `huge` is not set.
    #[cfg(feature = "ceiling")]
    pub(crate) fn filled_from(length: usize, byte: u8, huge: bool) -> io::Result<AlignedBuffer> {
        let mut buffer = AlignedBuffer::zeroed(length)?;
        if !huge {
            let (start, bytes) = buffer.region.address();
            let start = std::ptr::NonNull::new(start).expect("a region has an address");
            sys::advise(start, bytes, sys::Advice::SmallPages)?;
        }
        buffer.fill(byte);
        Ok(buffer)
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the buffer owns its part of the region; `&self` excludes writers.
        unsafe { self.region.slice(self.start, self.length) }
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: the buffer owns its part of the region; `&mut self` excludes everybody else.
        unsafe { self.region.slice_mut(self.start, self.length) }
    }
}

/// A sealed block on its way to the device: it can be read and no longer written.
///
/// Whoever holds one keeps the memory mapped, and the pool does not open the block again while it
/// lives: an operation owns it from submission to completion.
pub(crate) struct SealedBytes {
    pool: Arc<Pool>,
    slot: usize,
    offset: usize,
    bytes: usize,
}

impl SealedBytes {
    /// # Safety
    /// Nobody writes these bytes of the pool's region before the value has told the pool by
    /// [`Pool::unseal`] that it is gone.
    pub(super) unsafe fn new(pool: Arc<Pool>, slot: usize, offset: usize, bytes: usize) -> SealedBytes {
        SealedBytes { pool, slot, offset, bytes }
    }

    /// Where the bytes lie in their region.
    pub(crate) fn offset(&self) -> usize {
        self.offset
    }
}

impl Drop for SealedBytes {
    fn drop(&mut self) {
        self.pool.unseal(self.slot);
    }
}

impl Deref for SealedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: nobody writes, by the contract of `new`.
        unsafe { self.pool.region().slice(self.offset, self.bytes) }
    }
}

impl fmt::Debug for SealedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedBytes").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_zeroed_and_aligned() {
        for bytes in [1, 4096, 5000, 3 << 20] {
            let buffer = AlignedBuffer::zeroed(bytes).unwrap();
            assert_eq!(buffer.len(), bytes);
            assert!(buffer.iter().all(|&byte| byte == 0));
            let alignment = if bytes >= HUGE_PAGE { HUGE_PAGE } else { 4096 };
            assert_eq!(buffer.as_ptr().align_offset(alignment), 0);
        }
    }
}
