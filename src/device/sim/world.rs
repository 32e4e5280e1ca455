//! The state of the machine, and what happens to it at each step.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::blocks::Blocks;
use super::disk::{SECTOR, SimFile, Snapshot};
use super::random::Random;
use crate::device::{Completion, Operation, OperationKind, transfer};

/// What may go wrong while a process lives. By default nothing does.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Faults {
    /// Of a thousand writes so many fail, and are torn.
    pub write_error: u32,
    /// Of a thousand syncs so many fail: what was dirty is lost, and the page cache hides it.
    pub sync_error: u32,
    /// Of a thousand new segments so many find the disk full.
    pub no_space: u32,
    /// Of a thousand blocking calls (manifests, new segments, names, open) so many fail; a write is torn then, and
    /// a sync loses what was dirty.
    pub call_error: u32,
    /// Of a thousand reads so many fail. Another try may not.
    pub read_error: u32,
    /// Of a thousand reads and writes so many come back short, as the kernel may let them.
    pub short: u32,
    /// Of a thousand writes and syncs so many take up to a minute.
    pub stuck: u32,
    /// The machine stops so many steps from now: a step is a submission, a completion, or a call of
    /// the file system.
    pub stop_after: Option<u64>,
    /// As `stop_after`, counted from the machine's beginning.
    pub(crate) stop_at: Option<u64>,
    /// Of a thousand blocking flushes so many fail, beside those by `call_error`.
    pub(crate) flush_error: u32,
    /// Of a thousand blocking writes to space that a file has so many find that it shares it with a snapshot, and that there
    /// is no other.
    pub(crate) shared: u32,
    /// Of a thousand kills so many after which what was in flight lands seconds later, while the next process starts.
    pub(crate) linger: u32,
    /// In nanoseconds.
    pub(crate) latency_ns_max: u64,
    /// Whether synchronous writes are offered; else blocks are made durable by syncs.
    pub(crate) write_through: bool,
    /// Whether space can be set aside; else a file has what was written to it.
    pub(crate) reserves: bool,
    /// The write through the queue with this number completes and does not reach the disk.
    pub(crate) lose_write: Option<u64>,
    /// The write through the queue with this number lands elsewhere in its file.
    pub(crate) misdirect_write: Option<u64>,
}

impl Default for Faults {
    fn default() -> Faults {
        Faults {
            write_error: 0,
            sync_error: 0,
            no_space: 0,
            call_error: 0,
            read_error: 0,
            short: 0,
            stuck: 0,
            stop_after: None,
            stop_at: None,
            flush_error: 0,
            shared: 0,
            linger: 0,
            latency_ns_max: 100_000,
            write_through: true,
            reserves: true,
            lose_write: None,
            misdirect_write: None,
        }
    }
}

/// How a life on the machine ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The process is killed: what it has written is there, also what no sync covered.
    Kill,
    /// The power is cut: of what no completed sync covered, each sector is there or not.
    PowerCut,
}

/// How often something happened: a fault that is never hit is a test that does not exist.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    pub writes: u64,
    pub write_errors: u64,
    pub sync_errors: u64,
    pub no_space: u64,
    pub call_errors: u64,
    /// Of them, syncs, which lose what was dirty.
    pub call_sync_errors: u64,
    /// Files of which a device lost something when another's flush failed.
    pub lost_beside: u64,
    pub reads: u64,
    pub read_bytes: u64,
    pub read_errors: u64,
    pub short: u64,
    pub stuck: u64,
    pub lingering: u64,
    pub kills: u64,
    pub power_cuts: u64,
    pub torn_in_flight: u64,
    /// Damage that no honest disk does, done so far.
    pub damages: u64,
}

#[derive(Debug, Default)]
pub(super) struct SimFolder {
    /// By which a handle finds it, whatever its path is by then.
    pub(super) number: u64,
    pub(super) names: BTreeMap<String, u64>,
    pub(super) durable: BTreeMap<String, u64>,
    pub(super) locked: bool,
    /// Which device its files lie on.
    pub(super) device: u64,
    /// Its file system takes synchronous writes for plain ones, and says that it does not honour them.
    pub(super) deaf: bool,
}

#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) queue: u64,
    pub(super) due: u64,
    pub(super) operation: Operation,
    /// Of the bytes at submission: a buffer must not change under the device.
    pub(super) hash: u64,
    /// Bytes that were written before it came back short.
    pub(super) done: usize,
    pub(super) snapshot: Option<Snapshot>,
    /// How often its device had failed to flush when it was submitted.
    pub(super) failed_before: u64,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) random: Random,
    pub(super) now: u64,
    pub(super) wall: u64,
    pub(super) life: u64,
    pub(super) stopped: bool,
    pub(super) steps: u64,
    pub(super) next_number: u64,
    pub(super) files: BTreeMap<u64, SimFile>,
    pub(super) folders: BTreeMap<PathBuf, SimFolder>,
    /// Those that were removed while they were open.
    pub(super) removed: Vec<SimFolder>,
    /// Times that somebody waited in this life.
    pub(super) waits: u64,
    /// Files as they were when somebody asked to remember them.
    pub(super) kept: BTreeMap<u64, SimFile>,
    pub(super) in_flight: Vec<InFlight>,
    /// Of a process that was killed: they land when they are due, and its lock is held until then.
    pub(super) lingering: Vec<InFlight>,
    /// How often each device has failed to flush.
    pub(super) failed_flushes: BTreeMap<u64, u64>,
    /// Flushes that failed and that nobody has been told of yet: the queue, the number of the operation, the device.
    pub(super) untold: Vec<(u64, u64, u64)>,
    /// Blocks that were written and that nobody gave up.
    pub(super) blocks: Blocks,
    pub(super) faults: Faults,
    pub(super) counters: Counters,
}

pub(super) fn stopped() -> io::Error {
    io::Error::other("the machine has stopped")
}

pub(super) fn hash(bytes: &[u8]) -> u64 {
    u64::from(crc32c::crc32c(bytes))
}

/// A device for each name below the root: a log's shards share one unless its directories say otherwise.
fn device_of(path: &Path) -> u64 {
    let device = path.components().find_map(|part| match part {
        std::path::Component::Normal(name) => Some(name),
        _ => None,
    });
    let bytes = device.map_or(&[][..], |name| name.as_encoded_bytes());
    bytes.iter().fold(0, |number: u64, &byte| number.wrapping_mul(31).wrapping_add(u64::from(byte)))
}

impl World {
    /// Counts a step of this life; an error once the machine has stopped.
    pub(super) fn step(&mut self, life: u64) -> io::Result<()> {
        if self.stopped || life != self.life {
            return Err(stopped());
        }
        self.steps += 1;
        if self.faults.stop_at == Some(self.steps) {
            self.stopped = true;
            return Err(stopped());
        }
        Ok(())
    }

    pub(super) fn file(&mut self, number: u64) -> &mut SimFile {
        self.files.get_mut(&number).expect("an open file exists")
    }

    /// The folder of a path, made if there is none.
    pub(super) fn make_folder(&mut self, path: &Path) -> &mut SimFolder {
        let next = &mut self.next_number;
        self.folders.entry(path.to_owned()).or_insert_with(|| {
            *next += 1;
            SimFolder { number: *next, device: device_of(path), ..SimFolder::default() }
        })
    }

    /// A folder that is or was open, wherever it is by now.
    pub(super) fn folder(&mut self, number: u64) -> &mut SimFolder {
        let all = self.folders.values_mut().chain(&mut self.removed);
        all.into_iter().find(|folder| folder.number == number).expect("an open folder exists")
    }

    /// A step that is a blocking call, which may fail.
    pub(super) fn call(&mut self, life: u64) -> io::Result<()> {
        self.step(life)?;
        if self.random.per_mille(self.faults.call_error) {
            self.counters.call_errors += 1;
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        Ok(())
    }

    /// A file takes space that it did not have.
    pub(super) fn take_space(&mut self) -> io::Result<()> {
        if self.random.per_mille(self.faults.no_space) {
            self.counters.no_space += 1;
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        Ok(())
    }

    /// How much of a transfer is made in one go: sectors, and at least one.
    pub(super) fn go(&mut self, bytes: usize) -> usize {
        // One that will land elsewhere goes whole: its header testifies there. A part without one may hide
        // whatever it hits, which is more than a single fault.
        let strays = self.faults.misdirect_write == Some(self.counters.writes + 1);
        if bytes <= SECTOR || strays || !self.random.per_mille(self.faults.short) {
            return bytes;
        }
        self.counters.short += 1;
        (1 + self.random.below((bytes.div_ceil(SECTOR) - 1) as u64) as usize) * SECTOR
    }

    /// When an operation that is submitted now completes.
    pub(super) fn due(&mut self) -> u64 {
        let soon = self.now + 1 + self.random.below(self.faults.latency_ns_max);
        if !self.random.per_mille(self.faults.stuck) {
            return soon;
        }
        self.counters.stuck += 1;
        soon + self.random.below(60_000_000_000)
    }

    /// Nobody writes while an operation of a dead process may still land.
    pub(super) fn check_alone(&self) {
        assert!(self.lingering.is_empty(), "written to while a dead owner's writes still land");
    }

    /// Time passes, and what lingers lands.
    pub(super) fn pass(&mut self, nanoseconds: u64) -> Vec<InFlight> {
        self.now += nanoseconds;
        self.wall = self.wall.saturating_add(nanoseconds);
        let now = self.now;
        let (landed, rest) = std::mem::take(&mut self.lingering).into_iter().partition(|own| own.due <= now);
        self.lingering = rest;
        landed
    }

    /// The operation ends; `None` if it came back short and its rest is on its way.
    pub(super) fn complete(&mut self, mut flight: InFlight) -> Option<Completion> {
        let id = flight.operation.id;
        let number = flight.operation.file.number();
        let Err(error) = self.step(self.life) else {
            let result = match &flight.operation.kind {
                OperationKind::Write { bytes, offset, sync } => {
                    assert_eq!(
                        hash(bytes),
                        flight.hash,
                        "a buffer changed between submission and completion"
                    );
                    let count = self.go(bytes.len() - flight.done);
                    let part = &bytes[flight.done..flight.done + count];
                    let result =
                        self.complete_write(number, part, offset + flight.done as u64, *sync, &flight);
                    let result = transfer::advance(&mut flight.done, bytes.len(), result.map(|()| count));
                    if let (Some(Ok(())), None) = (&result, self.faults.misdirect_write) {
                        self.blocks.written(number, *offset, bytes);
                    }
                    result
                }
                OperationKind::Sync => Some(self.complete_sync(number, &flight)),
            };
            if result.is_none() {
                flight.due = self.due();
                self.in_flight.push(flight);
            }
            return result.map(|result| Completion { id, result });
        };
        // What was under way when the machine stopped is settled by `restart`.
        self.in_flight.push(InFlight { due: u64::MAX, ..flight });
        Some(Completion { id, result: Err(error) })
    }

    fn complete_write(
        &mut self,
        number: u64,
        bytes: &[u8],
        offset: u64,
        sync: bool,
        flight: &InFlight,
    ) -> io::Result<()> {
        self.counters.writes += 1;
        if self.random.per_mille(self.faults.write_error) {
            self.counters.write_errors += 1;
            let mut random = self.random.clone();
            self.file(number).write_torn(bytes, offset, &mut random);
            self.random = random;
            if sync {
                // It was flushed in the same call, which does not say what of it failed.
                self.flush_failed(flight);
            }
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        if self.faults.lose_write == Some(self.counters.writes) {
            self.counters.damages += 1;
            return Ok(());
        }
        let mut offset = offset;
        if self.faults.misdirect_write == Some(self.counters.writes) {
            let places = (self.file(number).bytes().saturating_sub(bytes.len() as u64)) / 4096 + 1;
            let elsewhere = self.random.below(places) * 4096;
            if elsewhere != offset {
                self.counters.damages += 1;
                offset = elsewhere;
            }
        }
        if sync && self.has_failed_since(flight) {
            let mut random = self.random_of(number);
            self.file(number).write_cheated(bytes, offset, &mut random)
        } else if sync {
            self.file(number).write_through(bytes, offset)
        } else {
            self.file(number).write(bytes, offset)
        }
        Ok(())
    }

    fn complete_sync(&mut self, number: u64, flight: &InFlight) -> io::Result<()> {
        if self.random.per_mille(self.faults.sync_error) {
            self.counters.sync_errors += 1;
            self.flush_failed(flight);
            self.fail_sync(number);
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        let snapshot = flight.snapshot.as_ref().expect("a sync has a snapshot");
        self.file(number).sync(snapshot);
        Ok(())
    }

    /// Flips a bit somewhere in the files of a shard, or makes a sector of them unreadable.
    pub(super) fn rot(&mut self, unreadable: bool) {
        let files: Vec<u64> = self.shard_files(|name| !name.ends_with(".idx"));
        if files.is_empty() {
            return;
        }
        let number = *self.random.pick(&files);
        let sectors = self.file(number).bytes() / SECTOR as u64;
        if sectors == 0 {
            return;
        }
        let sector = self.random.below(sectors) as usize;
        let bit = self.random.below(SECTOR as u64 * 8) as usize;
        let file = self.file(number);
        if unreadable {
            file.make_unreadable(sector, u64::MAX)
        } else {
            file.flip(sector, bit)
        }
        self.counters.damages += 1;
    }

    /// Takes a segment's file away.
    pub(super) fn vanish(&mut self) {
        let segments = self.shard_files(|name| name.ends_with(".seg"));
        if segments.is_empty() {
            return;
        }
        let gone = *self.random.pick(&segments);
        for folder in self.folders.values_mut() {
            folder.names.retain(|_, number| *number != gone);
            folder.durable.retain(|_, number| *number != gone);
        }
        self.counters.damages += 1;
    }

    /// Takes a file of the key index away, changes it, or gives it one more name.
    pub(super) fn spoil_index(&mut self, random: &mut super::Random) -> bool {
        let files = self.shard_files(|name| name.ends_with(".idx"));
        if files.is_empty() {
            return false;
        }
        let (number, other) = (*random.pick(&files), *random.pick(&files));
        let mut bytes = Vec::new();
        self.file(other).edit(|other| bytes.clone_from(other));
        match random.below(6) {
            5 => {
                // The highest ones, behind which there is no other, and the lowest ones, which others had.
                let run = if random.below(2) == 0 {
                    u32::MAX - random.below(2) as u32
                } else {
                    random.below(4) as u32
                };
                let has_it = |folder: &&mut SimFolder| folder.names.values().any(|named| *named == number);
                if let Some(folder) = self.folders.values_mut().find(has_it) {
                    folder.names.entry(format!("{run:010}.idx")).or_insert(number);
                }
            }
            0 | 1 => {
                for folder in self.folders.values_mut() {
                    folder.names.retain(|_, named| *named != number);
                    folder.durable.retain(|_, named| *named != number);
                }
            }
            2 => self.file(number).edit(|own| *own = bytes),
            3 => {
                let end = random.below(bytes.len() as u64 + 1) as usize;
                self.file(number).edit(|own| own.truncate(end));
            }
            _ => {
                let at = random.below(bytes.len().max(1) as u64) as usize;
                self.file(number).edit(|own| own.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1));
            }
        }
        true
    }

    pub(super) fn shard_files(&self, wanted: impl Fn(&str) -> bool) -> Vec<u64> {
        let shards = self.folders.iter().filter(|(path, _)| path.to_string_lossy().contains("shard-"));
        let names = shards.flat_map(|(_, folder)| folder.names.iter());
        names.filter(|(name, _)| wanted(name)).map(|(_, number)| *number).collect()
    }
}
