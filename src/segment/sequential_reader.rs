//! Reading segments: one window after the other, the next one while this one is looked at.

use std::io;

use super::Segment;
use crate::device::{AheadRead, ReadAhead};
use crate::format::{BlockHeader, Defect, GRANULE, Identity, Records};
use crate::pool::AlignedBuffer;
use crate::position::Lsn;

/// A scan reads this much at a time: from 256 KiB on larger reads gain little. Two of these, and the block
/// that lies across their seam, fill a huge page.
pub(crate) const READ_BYTES: usize = 768 << 10;

/// With blocks above this no scan reads ahead: its reads are large as they are, and so would its memory be.
const AHEAD_BLOCK_BYTES_MAX: usize = 1 << 20;

/// No offset in any file.
const NOWHERE: u64 = u64::MAX;

/// What the window holds of a file.
#[derive(Clone, Copy, Debug)]
struct Held {
    file: u32,
    offset: u64,
    /// Where in the window.
    at: usize,
    bytes: usize,
}

impl Held {
    fn end(&self) -> u64 {
        self.offset + self.bytes as u64
    }

    fn holds(&self, segment: &Segment, offset: u64, bytes: usize) -> bool {
        self.file == segment.row.file && self.offset <= offset && offset + bytes as u64 <= self.end()
    }

    /// A read at `offset` goes on where this was read.
    fn continues(&self, segment: &Segment, offset: u64) -> bool {
        self.file == segment.row.file && (self.offset..=self.end()).contains(&offset)
    }
}

/// What is being read while the window is looked at.
#[derive(Debug)]
enum Ahead {
    /// Nothing, for good.
    Off,
    /// Nothing yet: it begins with the second window in a row.
    Idle,
    On {
        driver: Box<dyn ReadAhead>,
        /// The other window, while nothing is read into it.
        spare: Option<AlignedBuffer>,
        /// File, offset and length of what is.
        begun: Option<(u32, u64, usize)>,
    },
}

/// Reads segments through an aligned window.
#[derive(Debug)]
pub(crate) struct SegmentReader {
    /// Bytes that can be served at once.
    most: usize,
    /// Bytes that are read at once.
    read_bytes: usize,
    /// `head` bytes for what lies across a seam, and what is read behind them.
    window: AlignedBuffer,
    head: usize,
    held: Option<Held>,
    ahead: Ahead,
}

impl SegmentReader {
    /// A reader that serves up to `most` bytes at once, and reads no more.
    pub(crate) fn new(most: usize) -> io::Result<SegmentReader> {
        SegmentReader::with(most, 0, Ahead::Off)
    }

    /// A reader of whole segments, with blocks of up to `block_bytes`, that reads so much at a time.
    pub(crate) fn for_scan(block_bytes: u32, read_bytes: usize) -> io::Result<SegmentReader> {
        let most = block_bytes as usize;
        let ahead = if most <= AHEAD_BLOCK_BYTES_MAX { Ahead::Idle } else { Ahead::Off };
        SegmentReader::with(most, read_bytes, ahead)
    }

    fn with(most: usize, read_bytes: usize, ahead: Ahead) -> io::Result<SegmentReader> {
        let most = most.next_multiple_of(GRANULE as usize).max(GRANULE as usize);
        let read_bytes = read_bytes.next_multiple_of(GRANULE as usize).max(most);
        let window = AlignedBuffer::zeroed(read_bytes)?;
        Ok(SegmentReader { most, read_bytes, window, head: 0, held: None, ahead })
    }

    /// Forgets what was read, so that it is read anew.
    pub(crate) fn forget(&mut self) {
        self.held = None;
        if let Ahead::On { begun: Some(begun), .. } = &mut self.ahead {
            // It may have been read before what is looked for was written: no window ends there.
            begun.1 = NOWHERE;
        }
    }

    /// `bytes` bytes at `offset`, a multiple of a granule.
    ///
    /// # Errors
    /// [`Defect::Short`] where the file ends before, [`Defect::Unreadable`] where it cannot be read.
    pub(crate) fn bytes(&mut self, segment: &Segment, offset: u64, bytes: usize) -> Result<&[u8], Defect> {
        assert!(bytes <= self.most && offset % GRANULE == 0);
        let held = match self.held.filter(|held| held.holds(segment, offset, bytes)) {
            Some(held) => held,
            None => self.load(segment, offset, bytes)?,
        };
        let from = held.at + (offset - held.offset) as usize;
        Ok(&self.window[from..from + bytes])
    }

    fn load(&mut self, segment: &Segment, offset: u64, bytes: usize) -> Result<Held, Defect> {
        let before = self.held.take().filter(|held| held.continues(segment, offset));
        let rest = segment.row.bytes.saturating_sub(offset);
        if rest < bytes as u64 {
            return Err(Defect::Short);
        }
        let held = match before.and_then(|before| self.take_ahead(segment, &before, offset, bytes)) {
            Some(held) => held,
            None => {
                if before.is_some() {
                    self.start_ahead(segment);
                }
                self.read(segment, offset, bytes, rest)?
            }
        };
        self.held = Some(held);
        if before.is_some() {
            self.begin_ahead(segment, held.end());
        }
        Ok(held)
    }

    /// Reads now.
    fn read(&mut self, segment: &Segment, offset: u64, bytes: usize, rest: u64) -> Result<Held, Defect> {
        let whole = self.read_bytes.min(usize::try_from(rest).unwrap_or(usize::MAX));
        // A window that cannot be read may hold one bad place: then read no more than was asked for.
        for length in [whole, bytes.next_multiple_of(GRANULE as usize)] {
            match segment.file.read_at(&mut self.window[self.head..][..length], offset) {
                Ok(count) if count >= bytes => {
                    return Ok(Held { file: segment.row.file, offset, at: self.head, bytes: count });
                }
                Ok(_) => return Err(Defect::Short),
                Err(_) => {}
            }
        }
        Err(Defect::Unreadable)
    }

    /// Waits for what is being read, and makes it the window if it goes on from `before` and holds what is
    /// asked for. Else it is forgotten, whatever it is.
    fn take_ahead(&mut self, segment: &Segment, before: &Held, offset: u64, bytes: usize) -> Option<Held> {
        let (begun, mut window, read) = self.settle()?;
        let across = (before.end() - offset) as usize;
        let goes_on =
            begun == (segment.row.file, before.end(), begun.2) && read.is_ok_and(|read| read == begun.2);
        if !goes_on || across > self.head || across + begun.2 < bytes {
            self.give_spare(window);
            return None;
        }
        let at = self.head - across;
        let from = before.at + (offset - before.offset) as usize;
        window[at..self.head].copy_from_slice(&self.window[from..from + across]);
        let spare = std::mem::replace(&mut self.window, window);
        self.give_spare(spare);
        Some(Held { file: segment.row.file, offset, at, bytes: across + begun.2 })
    }

    /// Waits for what is being read ahead, if anything is.
    fn settle(&mut self) -> Option<((u32, u64, usize), AlignedBuffer, io::Result<usize>)> {
        let Ahead::On { driver, begun, .. } = &mut self.ahead else { return None };
        let begun = begun.take()?;
        match driver.finish() {
            Some((window, read)) => Some((begun, window, read)),
            None => {
                self.ahead = Ahead::Off;
                None
            }
        }
    }

    fn give_spare(&mut self, window: AlignedBuffer) {
        if let Ahead::On { spare, .. } = &mut self.ahead {
            *spare = Some(window);
        }
    }

    /// Takes the memory for reading ahead, if it is available. What the window holds is lost.
    fn start_ahead(&mut self, segment: &Segment) {
        if !matches!(self.ahead, Ahead::Idle) {
            return;
        }
        self.ahead = Ahead::Off;
        let Some(driver) = segment.file.read_ahead() else { return };
        let Ok((window, spare)) = AlignedBuffer::pair(self.most + self.read_bytes) else { return };
        (self.window, self.head) = (window, self.most);
        self.ahead = Ahead::On { driver, spare: Some(spare), begun: None };
    }

    /// Begins to read what follows.
    fn begin_ahead(&mut self, segment: &Segment, offset: u64) {
        if let Some((_, window, _)) = self.settle() {
            self.give_spare(window);
        }
        let rest = usize::try_from(segment.row.bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
        let bytes = self.read_bytes.min(rest);
        let from = self.head;
        let Ahead::On { driver, spare, begun } = &mut self.ahead else { return };
        if bytes == 0 || offset % GRANULE != 0 {
            return;
        }
        let Ok(opened) = segment.file.opened() else { return };
        let file = opened.unwrap_or_else(|| segment.file.clone());
        let Some(buffer) = spare.take() else { return };
        let read = AheadRead { file, buffer, into: from..from + bytes, offset };
        if driver.begin(read).is_ok() {
            *begun = Some((segment.row.file, offset, bytes));
        } else {
            self.ahead = Ahead::Off;
        }
    }

    /// The block of `identity` at `lsn`, its records checked, if it continues the chain at `previous_end`.
    pub(crate) fn block(
        &mut self,
        segment: &Segment,
        identity: &Identity,
        lsn: Lsn,
        previous_end: Option<Lsn>,
    ) -> Result<(BlockHeader, &[u8]), Defect> {
        // The window may have been read before the block was written: what does not check is read
        // once more before it is believed.
        let fresh = self.held.is_none();
        let mut found = self.checked(segment, identity, lsn, previous_end);
        if found.is_err() && !fresh {
            self.forget();
            found = self.checked(segment, identity, lsn, previous_end);
        }
        let (header, bytes) = found?;
        let block = self.bytes(segment, lsn.0 - segment.row.base, bytes)?;
        Ok((header, block))
    }

    fn checked(
        &mut self,
        segment: &Segment,
        identity: &Identity,
        lsn: Lsn,
        previous_end: Option<Lsn>,
    ) -> Result<(BlockHeader, usize), Defect> {
        let offset = lsn.0 - segment.row.base;
        let header = BlockHeader::decode(self.bytes(segment, offset, GRANULE as usize)?)?;
        header.check(identity, lsn)?;
        if previous_end.is_some_and(|end| header.previous_end != end.0) {
            return Err(Defect::Unchained);
        }
        let bytes = (header.end().0 - lsn.0) as usize;
        if bytes > self.most || header.end() > segment.end() {
            return Err(Defect::Length);
        }
        let block = self.bytes(segment, offset, bytes)?;
        for record in Records::new(&header, block)? {
            record?;
        }
        Ok((header, bytes))
    }
}
