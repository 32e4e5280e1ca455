//! Reading places here and there: as many reads in flight as there are places.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::Segment;
use crate::device::{ScatterRead, ScatterReads};
use crate::format::{Defect, GRANULE};
use crate::pool::AlignedBuffer;

/// What is kept of a buffer from one call to the next.
const KEPT_BYTES: usize = 64 << 10;

/// Bytes of a segment that are asked for: whole granules.
#[derive(Clone, Debug)]
pub(crate) struct Stretch {
    pub segment: Arc<Segment>,
    pub offset: u64,
    pub bytes: usize,
}

/// Reads stretches of segments, each for itself.
#[derive(Debug)]
pub(crate) struct RandomReader {
    buffer: AlignedBuffer,
    /// `None` where reads are made one after the other.
    scatter: Option<Box<dyn ScatterReads>>,
    /// Whether it was asked for.
    asked: bool,
}

impl RandomReader {
    /// A reader with memory for some granules, which grows while more is read at once.
    pub(crate) fn new() -> io::Result<RandomReader> {
        Ok(RandomReader { buffer: AlignedBuffer::zeroed(KEPT_BYTES)?, scatter: None, asked: false })
    }

    /// Reads all the stretches; tells of each where in [`bytes`](RandomReader::bytes) it is.
    ///
    /// # Errors
    /// Where there is no memory for them. Of a stretch: [`Defect::Short`] where the file ends before,
    /// [`Defect::Unreadable`] where it cannot be read.
    pub(crate) fn read(&mut self, stretches: &[Stretch]) -> io::Result<Vec<Result<Range<usize>, Defect>>> {
        let mut free = 0;
        let places: Vec<Range<usize>> = stretches
            .iter()
            .map(|stretch| {
                assert!(stretch.offset % GRANULE == 0 && stretch.bytes % GRANULE as usize == 0);
                free += stretch.bytes;
                free - stretch.bytes..free
            })
            .collect();
        if free > self.buffer.len() {
            self.buffer = AlignedBuffer::zeroed(free)?;
        }
        let read = match stretches {
            [] => Vec::new(),
            // A system call of its own is quicker than a ring.
            [one] => vec![one.segment.file.read_at(&mut self.buffer[..one.bytes], one.offset)],
            _ => self.read_many(stretches, &places)?,
        };
        let told = stretches.iter().zip(places).zip(read).map(|((stretch, place), read)| match read {
            Ok(count) if count >= stretch.bytes => Ok(place),
            Ok(_) => Err(Defect::Short),
            Err(_) => Err(Defect::Unreadable),
        });
        Ok(told.collect())
    }

    fn read_many(
        &mut self,
        stretches: &[Stretch],
        places: &[Range<usize>],
    ) -> io::Result<Vec<io::Result<usize>>> {
        if !std::mem::replace(&mut self.asked, true) {
            self.scatter = stretches[0].segment.file.scatter_reads();
        }
        if let Some(scatter) = &mut self.scatter {
            let reads = stretches.iter().zip(places).map(|(Stretch { segment, offset, .. }, into)| {
                // One that cannot be opened now is an error of its own read.
                let opened = segment.file.opened().ok().flatten();
                let file = opened.unwrap_or_else(|| segment.file.clone());
                ScatterRead { file, offset: *offset, into: into.clone() }
            });
            let buffer = std::mem::replace(&mut self.buffer, AlignedBuffer::zeroed(GRANULE as usize)?);
            if let Some((buffer, read)) = scatter.read(reads.collect(), buffer) {
                self.buffer = buffer;
                return Ok(read);
            }
            // Its memory is gone with it.
            self.scatter = None;
            self.buffer = AlignedBuffer::zeroed(places.last().map_or(0, |last| last.end))?;
        }
        let each = stretches.iter().zip(places);
        Ok(each
            .map(|(stretch, into)| {
                stretch.segment.file.read_at(&mut self.buffer[into.clone()], stretch.offset)
            })
            .collect())
    }

    /// What the last call has read.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buffer
    }

    /// Keeps no more memory than one lookup needs.
    pub(crate) fn shrink(&mut self) {
        if self.buffer.len() > KEPT_BYTES {
            if let Ok(buffer) = AlignedBuffer::zeroed(KEPT_BYTES) {
                self.buffer = buffer;
            }
        }
    }
}
