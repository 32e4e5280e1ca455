//! The files of segments: each is open for as long as it is written to, and after that while it is needed.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};

use super::names::segment_name;
use crate::device::{Directory, File, FileId, ReadAhead, ScatterReads};
use crate::sync::lock;

/// Files of a shard that are open to be read, those used last at the back.
#[derive(Debug)]
pub(crate) struct OpenFiles {
    directory: Arc<dyn Directory>,
    most: usize,
    open: Mutex<VecDeque<(u32, Arc<dyn File>)>>,
}

impl OpenFiles {
    /// Of a folder, so many at a time.
    pub(super) fn new(directory: Arc<dyn Directory>, most: usize) -> Arc<OpenFiles> {
        Arc::new(OpenFiles { directory, most: most.max(1), open: Mutex::default() })
    }

    /// The same of the same folder, of which nothing is open yet: its files may be others by the same names.
    pub(super) fn anew(&self) -> Arc<OpenFiles> {
        OpenFiles::new(self.directory.clone(), self.most)
    }

    /// The file of a segment that is not written to any more. It is open now, and will be closed.
    pub(super) fn keep(self: &Arc<Self>, number: u32, file: Arc<dyn File>) -> io::Result<Arc<dyn File>> {
        let id = file.id()?;
        self.used(number, file);
        Ok(Arc::new(ReadFile { number, id, files: self.clone() }))
    }

    fn used(&self, number: u32, file: Arc<dyn File>) {
        let mut open = lock(&self.open);
        open.retain(|(other, _)| *other != number);
        open.push_back((number, file));
        let above = open.len().saturating_sub(self.most);
        let closed: Vec<_> = open.drain(..above).collect();
        // Closing may wait for the device.
        drop(open);
        drop(closed);
    }

    /// Closes the one that was not used for the longest time; false if none is open.
    fn close_one(&self) -> bool {
        let closed = lock(&self.open).pop_front();
        closed.is_some()
    }

    /// Closes this one. Waits for nobody: in a forked child the lock may be held by a thread that is not there. Then it
    /// is closed by age.
    fn forget(&self, number: u32) {
        let closed = self.open.try_lock().ok().and_then(|mut open| {
            let index = open.iter().position(|(other, _)| *other == number)?;
            open.remove(index)
        });
        drop(closed);
    }

    fn get(&self, number: u32, id: FileId) -> io::Result<Arc<dyn File>> {
        let found = lock(&self.open).iter().find(|(other, _)| *other == number).map(|(_, file)| file.clone());
        if let Some(file) = found {
            self.used(number, file.clone());
            return Ok(file);
        }
        let file = loop {
            match self.directory.open_again(&segment_name(number)) {
                // One of ours may be what is too many.
                Err(error) if error.kind() != io::ErrorKind::NotFound && self.close_one() => drop(error),
                opened => break opened?,
            }
        };
        if file.id()? != id {
            return Err(io::Error::other("the segment was replaced by another file"));
        }
        self.used(number, file.clone());
        Ok(file)
    }
}

/// A segment's file that is opened whenever it is needed and was closed. Whoever holds the segment keeps its file from
/// being used for anything else, so that its name leads to it.
#[derive(Debug)]
struct ReadFile {
    number: u32,
    id: FileId,
    files: Arc<OpenFiles>,
}

impl ReadFile {
    fn opened(&self) -> io::Result<Arc<dyn File>> {
        self.files.get(self.number, self.id)
    }
}

impl Drop for ReadFile {
    fn drop(&mut self) {
        // What becomes of the file now is not this segment's.
        self.files.forget(self.number);
    }
}

impl File for ReadFile {
    fn read_some(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.opened()?.read_some(bytes, offset)
    }

    fn write_some(&self, bytes: &[u8], offset: u64, sync: bool) -> io::Result<usize> {
        self.opened()?.write_some(bytes, offset, sync)
    }

    fn sync(&self) -> io::Result<()> {
        self.opened()?.sync()
    }

    fn forget_cache(&self) -> io::Result<()> {
        self.opened()?.forget_cache()
    }

    fn bytes(&self) -> io::Result<u64> {
        self.opened()?.bytes()
    }

    fn id(&self) -> io::Result<FileId> {
        Ok(self.id)
    }

    fn allocate(&self, bytes: u64) -> io::Result<bool> {
        self.opened()?.allocate(bytes)
    }

    fn secure(&self, range: Range<u64>) -> io::Result<()> {
        self.opened()?.secure(range)
    }

    fn opened(&self) -> io::Result<Option<Arc<dyn File>>> {
        ReadFile::opened(self).map(Some)
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn read_ahead(&self) -> Option<Box<dyn ReadAhead>> {
        ReadFile::opened(self).ok()?.read_ahead()
    }

    fn scatter_reads(&self) -> Option<Box<dyn ScatterReads>> {
        ReadFile::opened(self).ok()?.scatter_reads()
    }
}
