//! A segment in the making: how large it is to be, its file, and the zeros that fill it.

use std::io;
use std::sync::{Arc, Mutex, Weak};

use crate::device::File;
use crate::format::GRANULE;
use crate::pool::AlignedBuffer;
use crate::sync::lock;
use crate::sys::lacks_space;

/// Whether a smaller file may be made all the same.
pub(super) fn is_want_of_room(error: &io::Error) -> bool {
    lacks_space(error) || error.kind() == io::ErrorKind::FileTooLarge
}

/// Zeros are written this much at a time, so that a fill can stop soon when it must.
const FILL_BYTES: u64 = 1 << 20;

/// How large a new segment is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    /// Where there is no room for a new file of the size that it should have, it gets as much as there is, and at least
    /// so many.
    pub floor: u64,
    /// A spare file of so many bytes will do.
    pub least: u64,
    /// A new file gets so many.
    pub bytes: u64,
}

impl Size {
    /// No smaller than `need`, in whole granules.
    pub(super) fn at_least(self, need: u64) -> Size {
        let whole = |bytes: u64| bytes.max(need).next_multiple_of(GRANULE);
        Size { floor: whole(self.floor.max(GRANULE)), least: whole(self.least), bytes: whole(self.bytes) }
    }
}

/// A segment in the making: its file, which no manifest lists yet.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(super) number: u32,
    pub bytes: u64,
    /// It may be as short as this, where there is no room for more.
    pub(super) floor: u64,
    pub(super) file: Arc<dyn File>,
    /// Of a new file whose blocks are to be written once before they are used: then a synced write finds extents that
    /// need not be converted.
    pub(super) zeros: Option<Arc<AlignedBuffer>>,
    /// The disk has set its space aside. Else it has what was written, and it must not be listed before that is all.
    pub(super) is_reserved: bool,
}

/// Zeros to fill with, the same for all who fill at the same time, which may be as many as there are shards.
pub(super) fn zeros() -> io::Result<Arc<AlignedBuffer>> {
    static SHARED: Mutex<Weak<AlignedBuffer>> = Mutex::new(Weak::new());
    let mut shared = lock(&SHARED);
    if let Some(zeros) = shared.upgrade() {
        return Ok(zeros);
    }
    let zeros = Arc::new(AlignedBuffer::zeroed(FILL_BYTES as usize)?);
    *shared = Arc::downgrade(&zeros);
    Ok(zeros)
}

impl Draft {
    /// Whether it is better for being filled.
    pub(crate) fn wants_filling(&self) -> bool {
        self.zeros.is_some()
    }

    /// Whether it may be listed with so many bytes filled: no block may find the disk full.
    pub(crate) fn may_be_listed(&self, filled: u64) -> bool {
        self.is_reserved || filled >= self.bytes
    }

    /// What was filled of it when `error` ended that, as a segment of its own: where no space can be set aside, that
    /// there is no room shows only now.
    pub(crate) fn shortened(self, filled: u64, error: io::Error) -> Result<Draft, (Draft, io::Error)> {
        match is_want_of_room(&error) && !self.is_reserved && filled >= self.floor {
            true => Ok(Draft { bytes: filled, ..self }),
            false => Err((self, error)),
        }
    }

    /// Writes at most `bytes` zeros at `offset`, and says how many. Under no lock.
    ///
    /// Where no space was set aside, as many as there is room for.
    pub(crate) fn fill(&self, offset: u64, bytes: u64) -> io::Result<u64> {
        let Some(zeros) = &self.zeros else { return Ok(0) };
        let mut length = bytes.min(zeros.len() as u64).min(self.bytes - offset);
        loop {
            match self.file.write_at(&zeros[..length as usize], offset, false) {
                Err(error) if !self.is_reserved && is_want_of_room(&error) && length > GRANULE => {
                    length = (length / 2).next_multiple_of(GRANULE);
                }
                written => return written.map(|()| length),
            }
        }
    }
}
