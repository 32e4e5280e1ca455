//! The machine as a process sees it: the traits of `device/` for its folders, files, locks and time.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::SimMachine;
use super::ahead::SimAhead;
use super::disk::SimFile;
use super::queue::SimQueue;
use super::world::{World, stopped};
use crate::device::flushes::{AllFlushes, Flushes};
use crate::device::{
    Capabilities, Device, Directory, File, FileId, FileSystem, Lock, LockError, PathState, Queue, QueueSetup,
    ReadAhead, Wake,
};
use crate::time::{Nanos, nanos};

#[derive(Debug)]
pub(super) struct SimDevice {
    pub(super) machine: SimMachine,
    pub(super) life: u64,
    pub(super) flushes: AllFlushes,
}

impl SimDevice {
    fn opened(&self, path: &Path, number: u64) -> SimDirectory {
        let device_number = self.machine.world().folder(number).device;
        SimDirectory {
            machine: self.machine.clone(),
            life: self.life,
            path: path.to_owned(),
            number,
            device_number,
            flushes: self.flushes.of(device_number),
        }
    }
}

impl Device for SimDevice {
    fn directory(&self, path: &Path) -> io::Result<Arc<dyn Directory>> {
        let mut world = self.machine.world();
        world.call(self.life)?;
        // Folders are durable once made, as the trait promises.
        let number = world.make_folder(path).number;
        drop(world);
        Ok(Arc::new(self.opened(path, number)))
    }

    fn existing_directory(&self, path: &Path) -> io::Result<Arc<dyn Directory>> {
        self.machine.world().call(self.life)?;
        self.directory_to_read(path)
    }

    fn check_place(&self, _path: &Path) -> io::Result<()> {
        // Every folder can be made.
        Ok(())
    }

    fn directory_to_read(&self, path: &Path) -> io::Result<Arc<dyn Directory>> {
        let mut world = self.machine.world();
        world.step(self.life)?;
        let number = world.folders.get(path).map(|folder| folder.number).ok_or(io::ErrorKind::NotFound)?;
        drop(world);
        Ok(Arc::new(self.opened(path, number)))
    }

    fn now(&self) -> Nanos {
        Nanos(self.machine.world().now)
    }

    fn wall(&self) -> u64 {
        self.machine.world().wall
    }

    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        let mut world = self.machine.world();
        bytes.fill_with(|| world.random.next() as u8);
        Ok(())
    }

    fn pause(&self, duration: Duration) {
        let mut guard = self.machine.world();
        let world = &mut *guard;
        let landed = world.pass(nanos(duration));
        landed.iter().for_each(|flight| world.land(flight));
        drop(guard);
        // What they own is given up outside the lock.
        drop(landed);
    }

    fn threaded(&self) -> bool {
        false
    }
}

#[derive(Debug)]
struct SimDirectory {
    machine: SimMachine,
    life: u64,
    /// Where it was when it was opened.
    path: PathBuf,
    number: u64,
    device_number: u64,
    flushes: Arc<Flushes>,
}

/// What has become of the path of an open folder. No step: it changes nothing.
fn whereabouts(world: &World, path: &Path, number: u64) -> PathState {
    if world.removed.iter().any(|folder| folder.number == number) {
        return PathState::Removed;
    }
    let is_here = world.folders.get(path).is_some_and(|folder| folder.number == number);
    if is_here { PathState::Here } else { PathState::Moved }
}

impl SimDirectory {
    /// Runs on the folder after a step of this life.
    fn with<T>(&self, act: impl FnOnce(&mut World, u64) -> io::Result<T>) -> io::Result<T> {
        let mut world = self.machine.world();
        world.call(self.life)?;
        act(&mut world, self.number)
    }

    fn handle(&self, name: &str, number: u64) -> Arc<dyn File> {
        Arc::new(SimHandle {
            machine: self.machine.clone(),
            life: self.life,
            number,
            path: self.path.join(name),
            flushes: self.flushes.clone(),
        })
    }
}

impl Directory for SimDirectory {
    fn path(&self) -> &Path {
        &self.path
    }

    fn whereabouts(&self) -> io::Result<PathState> {
        Ok(whereabouts(&self.machine.world(), &self.path, self.number))
    }

    fn id_of(&self, name: &str) -> io::Result<FileId> {
        // No step, as all that changes nothing.
        let found = self.machine.world().folder(self.number).names.get(name).copied();
        found.map(|number| (0, number)).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn lasting_number(&self) -> u64 {
        self.number
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.with(|world, number| Ok(world.folder(number).names.keys().cloned().collect()))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let found = self.with(|world, number| Ok(world.folder(number).names.get(name).copied()))?;
        found.map(|number| self.handle(name, number)).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn open_again(&self, name: &str) -> io::Result<Arc<dyn File>> {
        // No step, as reading is none.
        let mut world = self.machine.world();
        if world.stopped || world.life != self.life {
            return Err(stopped());
        }
        let found = world.folder(self.number).names.get(name).copied();
        drop(world);
        found.map(|number| self.handle(name, number)).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let number = self.with(|world, own| {
            world.check_alone();
            let number = world.next_number;
            world.next_number += 1;
            if whereabouts(world, &self.path, own) == PathState::Removed {
                return Err(io::ErrorKind::NotFound.into());
            }
            let folder = world.folder(own);
            if folder.names.contains_key(name) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            folder.names.insert(name.to_owned(), number);
            let file = SimFile::new(folder.device, folder.deaf);
            world.files.insert(number, file);
            Ok(number)
        })?;
        Ok(self.handle(name, number))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.with(|world, number| {
            world.check_alone();
            let folder = world.folder(number);
            folder.names.remove(name).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
        })
    }

    fn sync(&self) -> io::Result<()> {
        let mut world = self.machine.world();
        let flushed = world.flush(self.life, self.device_number, None);
        self.flushes.noted(flushed, || self.path.clone())?;
        let folder = world.folder(self.number);
        folder.durable.clone_from(&folder.names);
        Ok(())
    }

    fn lock(&self, _name: &str) -> Result<Arc<dyn Lock>, LockError> {
        let locked = self.with(|world, number| {
            if !world.lingering.is_empty() {
                return Ok(None);
            }
            let folder = world.folder(number);
            Ok(Some(std::mem::replace(&mut folder.locked, true)))
        });
        match locked {
            Ok(None) => {
                Err(LockError::Lingering("a process that has ended and whose writes still land".to_owned()))
            }
            Ok(Some(false)) => Ok(Arc::new(SimLock {
                machine: self.machine.clone(),
                life: self.life,
                path: self.path.clone(),
                number: self.number,
            })),
            Ok(Some(true)) => Err(LockError::Held("this process".to_owned())),
            Err(source) => Err(LockError::Io { path: self.path.clone(), source }),
        }
    }

    fn device_number(&self) -> u64 {
        self.device_number
    }

    fn flushes(&self) -> &Arc<Flushes> {
        &self.flushes
    }

    fn capabilities(&self) -> Capabilities {
        let write_through = {
            let mut world = self.machine.world();
            world.faults.write_through && !world.folder(self.number).deaf
        };
        Capabilities {
            file_system: FileSystem::Simulated,
            direct: true,
            write_through,
            durable: true,
            write_cache: Some(true),
            fua: Some(false),
            copy_on_write: false,
            measured: None,
        }
    }

    fn file_system_id(&self) -> io::Result<u64> {
        Ok(0)
    }

    fn queue(&self, _setup: &QueueSetup) -> io::Result<(Box<dyn Queue + Send>, Arc<dyn Wake>)> {
        let mut world = self.machine.world();
        world.step(self.life)?;
        world.next_number += 1;
        let number = world.next_number;
        Ok((Box::new(SimQueue::new(self.machine.clone(), self.life, number)), Arc::new(NoWake)))
    }
}

#[derive(Debug)]
struct SimLock {
    machine: SimMachine,
    life: u64,
    path: PathBuf,
    number: u64,
}

impl Lock for SimLock {
    fn release(&self) {
        let mut world = self.machine.world();
        if world.life != self.life {
            return;
        }
        world.folder(self.number).locked = false;
    }

    fn check(&self) -> io::Result<PathState> {
        Ok(whereabouts(&self.machine.world(), &self.path, self.number))
    }

    fn descriptors(&self) -> Vec<std::os::fd::BorrowedFd<'_>> {
        Vec::new()
    }
}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.release();
    }
}

#[derive(Debug)]
struct SimHandle {
    machine: SimMachine,
    life: u64,
    number: u64,
    path: PathBuf,
    flushes: Arc<Flushes>,
}

impl SimHandle {
    fn with<T>(&self, act: impl FnOnce(&mut World, u64) -> io::Result<T>) -> io::Result<T> {
        let mut world = self.machine.world();
        world.call(self.life)?;
        act(&mut world, self.number)
    }
}

impl File for SimHandle {
    fn read_some(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        // Reading is no step: it changes nothing that a stop could leave half done.
        let mut guard = self.machine.world();
        let world = &mut *guard;
        if world.stopped || world.life != self.life {
            return Err(stopped());
        }
        world.counters.reads += 1;
        world.counters.read_bytes += bytes.len() as u64;
        if world.random.per_mille(world.faults.read_error) {
            world.counters.read_errors += 1;
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        let count = world.go(bytes.len());
        world.file(self.number).read(&mut bytes[..count], offset)
    }

    fn write_some(&self, bytes: &[u8], offset: u64, sync: bool) -> io::Result<usize> {
        let mut guard = self.machine.world();
        let world = &mut *guard;
        if let Err(error) = world.call(self.life) {
            // The machine stopped in the middle of this very write, or the device failed: some of it may have
            // landed.
            let stops = world.life == self.life && world.faults.stop_at == Some(world.steps);
            if stops || !world.stopped && world.life == self.life {
                let mut random = world.random.clone();
                world.file(self.number).write_torn(bytes, offset, &mut random);
                world.random = random;
                world.steps += u64::from(stops);
            }
            return Err(error);
        }
        world.check_alone();
        let count = world.go(bytes.len());
        if offset + count as u64 > world.file(self.number).bytes() {
            world.take_space()?;
        } else if world.faults.shared > 0 && world.random.per_mille(world.faults.shared) {
            world.counters.no_space += 1;
            let mut random = world.random.clone();
            world.file(self.number).write_torn(bytes, offset, &mut random);
            world.random = random;
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        let file = world.file(self.number);
        if sync {
            file.write_through(&bytes[..count], offset)
        } else {
            file.write(&bytes[..count], offset)
        }
        Ok(count)
    }

    fn sync(&self) -> io::Result<()> {
        let mut world = self.machine.world();
        let device = world.file(self.number).device();
        let flushed = world.flush(self.life, device, Some(self.number));
        self.flushes.noted(flushed, || self.path.clone())?;
        let snapshot = world.file(self.number).snapshot();
        world.file(self.number).sync(&snapshot);
        Ok(())
    }

    fn forget_cache(&self) -> io::Result<()> {
        self.with(|world, number| {
            world.file(number).forget_cache();
            Ok(())
        })
    }

    fn bytes(&self) -> io::Result<u64> {
        self.with(|world, number| Ok(world.file(number).bytes()))
    }

    fn id(&self) -> io::Result<FileId> {
        Ok((0, self.number))
    }

    fn allocate(&self, bytes: u64) -> io::Result<bool> {
        self.with(|world, number| {
            world.check_alone();
            if !world.faults.reserves {
                return Ok(false);
            }
            world.take_space()?;
            world.file(number).grow(bytes);
            Ok(true)
        })
    }

    fn secure(&self, _range: Range<u64>) -> io::Result<()> {
        Ok(())
    }

    fn descriptor(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        None
    }

    fn read_ahead(&self) -> Option<Box<dyn ReadAhead>> {
        Some(Box::new(SimAhead::new(&self.machine)))
    }

    fn number(&self) -> u64 {
        self.number
    }
}

#[derive(Debug)]
struct NoWake;

impl Wake for NoWake {
    fn wake(&self) {}
}
