//! Real files and folders, whose writes and flushes take as long as the model says.

use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::Drive;
use crate::device::{
    Capabilities, Device, Directory, File, FileId, Flushes, Lock, LockError, PathState, Queue, QueueSetup,
    ReadAhead, RealDevice, ScatterReads, Wake,
};
use crate::time::Nanos;

/// The machine's file systems, all of them on one modelled drive.
#[derive(Debug)]
pub(crate) struct ModelDevice {
    real: RealDevice,
    drive: Arc<Drive>,
}

impl ModelDevice {
    pub(crate) fn new(drive: Arc<Drive>) -> ModelDevice {
        ModelDevice { real: RealDevice::through_the_cache(), drive }
    }

    fn modelled(&self, real: Arc<dyn Directory>) -> Arc<dyn Directory> {
        Arc::new(ModelDirectory { real, drive: self.drive.clone() })
    }
}

impl Device for ModelDevice {
    fn directory(&self, path: &Path) -> io::Result<Arc<dyn Directory>> {
        self.real.directory(path).map(|real| self.modelled(real))
    }

    fn existing_directory(&self, path: &Path) -> io::Result<Arc<dyn Directory>> {
        self.real.existing_directory(path).map(|real| self.modelled(real))
    }

    fn check_place(&self, path: &Path) -> io::Result<()> {
        self.real.check_place(path)
    }

    fn directory_to_read(&self, path: &Path) -> io::Result<Arc<dyn Directory>> {
        self.real.directory_to_read(path).map(|real| self.modelled(real))
    }

    fn now(&self) -> Nanos {
        self.real.now()
    }

    fn steady(&self) -> u64 {
        self.real.steady()
    }

    fn wall(&self) -> u64 {
        self.real.wall()
    }

    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        self.real.random(bytes)
    }

    fn pause(&self, duration: Duration) {
        self.real.pause(duration);
    }

    fn threaded(&self) -> bool {
        true
    }
}

#[derive(Debug)]
struct ModelDirectory {
    real: Arc<dyn Directory>,
    drive: Arc<Drive>,
}

impl ModelDirectory {
    fn modelled(&self, real: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(ModelFile { real, drive: self.drive.clone() })
    }
}

impl Directory for ModelDirectory {
    fn path(&self) -> &Path {
        self.real.path()
    }

    fn whereabouts(&self) -> io::Result<PathState> {
        self.real.whereabouts()
    }

    fn id_of(&self, name: &str) -> io::Result<FileId> {
        self.real.id_of(name)
    }

    fn lasting_number(&self) -> u64 {
        self.real.lasting_number()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.real.list()
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.real.open(name).map(|real| self.modelled(real))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.real.create(name).map(|real| self.modelled(real))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.real.remove(name)
    }

    fn sync(&self) -> io::Result<()> {
        self.drive.wait_until(self.drive.flush());
        Ok(())
    }

    fn lock(&self, name: &str) -> Result<Arc<dyn Lock>, LockError> {
        self.real.lock(name)
    }

    fn device_number(&self) -> u64 {
        self.real.device_number()
    }

    fn flushes(&self) -> &Arc<Flushes> {
        self.real.flushes()
    }

    fn capabilities(&self) -> Capabilities {
        self.drive.model().capabilities()
    }

    fn file_system_id(&self) -> io::Result<u64> {
        self.real.file_system_id()
    }

    /// Of whichever kind: there is one.
    fn queue(&self, _: &QueueSetup) -> io::Result<(Box<dyn Queue + Send>, Arc<dyn Wake>)> {
        Ok(super::queue::queue(&self.drive))
    }
}

/// A file on the drive. Reads take as long as they do.
#[derive(Clone, Debug)]
pub(crate) struct ModelFile {
    real: Arc<dyn File>,
    drive: Arc<Drive>,
}

impl ModelFile {
    pub(crate) fn new(real: Arc<dyn File>, drive: Arc<Drive>) -> ModelFile {
        ModelFile { real, drive }
    }

    /// Begins a write, and gives the moment at which it completes. The bytes are there on return.
    pub(crate) fn begin_write(&self, bytes: &[u8], offset: u64, sync: bool) -> io::Result<Nanos> {
        let due = self.drive.write(bytes.len(), sync);
        self.real.write_at(bytes, offset, false).map(|()| due)
    }

    /// The same of a flush.
    pub(crate) fn begin_sync(&self) -> Nanos {
        self.drive.flush()
    }

    pub(crate) fn wait_until(&self, due: Nanos) {
        self.drive.wait_until(due);
    }
}

impl File for ModelFile {
    fn read_some(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.real.read_some(bytes, offset)
    }

    fn write_some(&self, bytes: &[u8], offset: u64, sync: bool) -> io::Result<usize> {
        self.write_at(bytes, offset, sync).map(|()| bytes.len())
    }

    fn write_at(&self, bytes: &[u8], offset: u64, sync: bool) -> io::Result<()> {
        let due = self.begin_write(bytes, offset, sync)?;
        self.drive.wait_until(due);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.drive.wait_until(self.drive.flush());
        Ok(())
    }

    /// The cache is where the bytes are.
    fn forget_cache(&self) -> io::Result<()> {
        Ok(())
    }

    fn bytes(&self) -> io::Result<u64> {
        self.real.bytes()
    }

    fn id(&self) -> io::Result<FileId> {
        self.real.id()
    }

    fn allocate(&self, bytes: u64) -> io::Result<bool> {
        self.real.allocate(bytes)
    }

    fn secure(&self, range: Range<u64>) -> io::Result<()> {
        self.real.secure(range)
    }

    /// The real file's, to read from.
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.real.descriptor()
    }

    fn read_ahead(&self) -> Option<Box<dyn ReadAhead>> {
        self.real.read_ahead()
    }

    fn scatter_reads(&self) -> Option<Box<dyn ScatterReads>> {
        self.real.scatter_reads()
    }
}
