//! What a cursor reads into: there while it reads, and given back while there is nothing to read, since a log may have
//! many readers that wait, and two megabytes for each are much.

use std::sync::Arc;

use super::Source;
use crate::error::ReadError;
use crate::segment::SegmentReader;

/// The reader of a cursor.
#[derive(Debug)]
pub(super) struct Window {
    reader: Option<SegmentReader>,
}

impl Window {
    pub(super) fn closed() -> Window {
        Window { reader: None }
    }

    /// The reader, which is taken if it is not there.
    pub(super) fn open(&mut self, source: &dyn Source) -> Result<&mut SegmentReader, ReadError> {
        if self.reader.is_none() {
            let io = |error| ReadError::Io { shard: source.id(), source: Arc::new(error) };
            self.reader = Some(source.lend_scanner().map_err(io)?);
        }
        Ok(self.reader.as_mut().expect("it is there now"))
    }

    /// Gives it back. What it had read is forgotten: more may be written when it is asked for again.
    pub(super) fn close(&mut self, source: &dyn Source) {
        let reader = self.reader.take();
        // In a fork the locks of the place where it is kept may be held by nobody.
        if let Some(reader) = reader.filter(|_| source.process().is_current()) {
            source.take_scanner_back(reader);
        }
    }

    #[cfg(test)]
    pub(super) fn is_open(&self) -> bool {
        self.reader.is_some()
    }
}
