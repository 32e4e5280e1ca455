//! Shards whose manifest is lost in both copies: what can be rebuilt of it, and then a manifest in its place.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::create::find_log;
use super::folders::{Folder, lock_folders, open_folders};
use super::home::check_homes;
use super::{Found, find_folder, open_directory};
use crate::device::{Device, Directory, Lock};
use crate::error::OpenError;
use crate::format::{LogManifest, ShardManifest};
use crate::instance::{Locks, take_lock};
use crate::notice::Notices;
use crate::options::{Config, Layout, Options};
use crate::position::{Lsn, ShardId};
use crate::recovery::{Salvaged, Unsalvageable, salvage as salvage_shard};
use crate::segment::{SegmentReader, all_segments, is_manifest_lost, write_manifest};

/// What can be rebuilt of a log's shards whose manifest is lost in both copies. By
/// [`Log::salvage`](crate::Log::salvage).
///
/// The log is locked until this is dropped, and nothing is changed before [`write`](Salvage::write).
#[derive(Debug)]
#[must_use = "nothing is written yet"]
pub struct Salvage {
    shards: Vec<SalvagedShard>,
    rebuilt: Vec<(Arc<dyn Directory>, ShardManifest)>,
    folders: Vec<PathBuf>,
    locks: Locks,
}

/// What can be rebuilt of a shard. By [`Salvage::shards`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SalvagedShard {
    /// Which.
    pub shard: ShardId,
    /// Its folder.
    pub path: PathBuf,
    /// Where it would begin: what was truncated above that comes back.
    pub horizon: Lsn,
    /// Where the last block ends that continues the others. Nothing testifies that there was no more.
    pub end: Lsn,
    /// Segment files that it would list.
    pub segments: usize,
    /// Files that hold nothing but what was truncated for certain.
    pub truncated_segments: usize,
    /// Epochs of which there are blocks. What was cut off the end of one comes back; what a
    /// crash cut off before it was acknowledged may.
    pub epochs: usize,
    /// What cannot be told for certain, in words.
    pub doubts: Vec<String>,
}

impl Salvage {
    /// The shards whose manifest is lost; none if no shard's is.
    #[must_use]
    pub fn shards(&self) -> &[SalvagedShard] {
        &self.shards
    }

    /// The folders of all shards.
    #[must_use]
    pub fn folders(&self) -> &[PathBuf] {
        &self.folders
    }

    /// Writes the manifests, durably. What is left of the old copies is gone then.
    ///
    /// # Errors
    /// Where one cannot be written: it is still lost then, or whole.
    pub fn write(self) -> Result<(), OpenError> {
        for (directory, manifest) in &self.rebuilt {
            let at = || OpenError::at("writing the manifest", directory.path());
            self.locks.check().map_err(at())?;
            write_manifest(directory.as_ref(), manifest).map_err(at())?;
        }
        Ok(())
    }
}

impl Drop for Salvage {
    fn drop(&mut self) {
        self.locks.release();
    }
}

pub(crate) fn salvage(path: &Path, options: &Options) -> Result<Salvage, OpenError> {
    let options = options.clone().create(false);
    let device = options.chosen_device();
    let directory = open_directory(path, &options, &options.layout()?, device.as_ref())?;
    let notices = Notices::default();
    let mut locks = vec![take_lock(directory.as_ref(), device.as_ref(), &notices)?];
    let found = find_lost(path, &options, device.as_ref(), directory.as_ref(), &notices, &mut locks);
    // Given up by its drop, whatever was found.
    let mut salvage =
        Salvage { shards: Vec::new(), rebuilt: Vec::new(), folders: Vec::new(), locks: Locks(locks) };
    let (folders, found) = found?;
    salvage.folders = folders.iter().map(|folder| folder.directory.path().to_owned()).collect();
    for (shard, directory, Salvaged { manifest, end, truncated, doubts }) in found {
        salvage.shards.push(SalvagedShard {
            shard: ShardId(shard),
            path: directory.path().to_owned(),
            horizon: manifest.horizon,
            end,
            segments: manifest.segments.len(),
            truncated_segments: truncated,
            epochs: manifest.epochs.rows().len(),
            doubts: doubts.iter().map(ToString::to_string).collect(),
        });
        salvage.rebuilt.push((directory, manifest));
    }
    Ok(salvage)
}

/// A shard's number, its folder, and what is rebuilt.
type Rebuilt = (u16, Arc<dyn Directory>, Salvaged);

fn find_lost(
    path: &Path,
    options: &Options,
    device: &dyn Device,
    directory: &dyn Directory,
    notices: &Notices,
    locks: &mut Vec<Arc<dyn Lock>>,
) -> Result<(Vec<Folder>, Vec<Rebuilt>), OpenError> {
    let Found::Log(found) = find_log(path, directory, notices)? else {
        return Err(OpenError::NoLog { path: path.to_owned() });
    };
    let log = found.0;
    let layout = Layout {
        shards: log.shards,
        block_bytes: log.block_bytes,
        segment_bytes: log.segment_bytes,
        directories: log.directories.clone(),
    };
    let config = options.config(&layout)?;
    let mut folders = open_folders(path, directory, &layout, |place| find_folder(device, place))?;
    lock_folders(&mut folders, device, notices, locks)?;
    if !options.is_relocated() {
        check_homes(directory, &folders)?;
    }
    let mut rebuilt = Vec::new();
    for (shard, folder) in (0..).zip(&folders) {
        let directory = &folder.directory;
        let is_lost = is_manifest_lost(directory.as_ref());
        if is_lost.map_err(OpenError::manifest(directory.path()))? {
            let found = rebuild(path, directory, &log, shard, &config, device)?;
            rebuilt.push((shard, directory.clone(), found));
        }
    }
    Ok((folders, rebuilt))
}

fn rebuild(
    log_path: &Path,
    directory: &Arc<dyn Directory>,
    log: &LogManifest,
    shard: u16,
    config: &Config,
    device: &dyn Device,
) -> Result<Salvaged, OpenError> {
    let path = directory.path();
    let mut nonce = [0; 8];
    device.random(&mut nonce).map_err(OpenError::at("drawing a nonce", path))?;
    let files =
        all_segments(directory, config.open_files).map_err(OpenError::at("opening segments", path))?;
    let mut reader = SegmentReader::for_scan(config.block_bytes, config.read_bytes)
        .map_err(OpenError::at("taking memory", path))?;
    let nonce = u64::from_le_bytes(nonce);
    let found = salvage_shard(&mut reader, &files, log.log_id, shard, config.block_bytes, nonce);
    found.map_err(|why| match why {
        Unsalvageable::TooNew => OpenError::TooNew { path: path.to_owned() },
        Unsalvageable::Foreign(_) => OpenError::NotOfThisLog {
            path: path.to_owned(),
            found: why.to_string(),
            log: log_path.to_owned(),
        },
        why => OpenError::CannotRebuild { path: path.to_owned(), reason: why.to_string() },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::sim::{End, SimMachine};
    use crate::options::Tuning;
    use crate::simulation::Simulated;
    use crate::{Durability, Log, Write};

    /// With segments that are smaller than a block may be.
    fn options(machine: &SimMachine) -> Options {
        let sizes = Tuning { first_segments_bytes: 4096, first_segment_bytes_min: 4096, ..Tuning::default() };
        let options = Options::new().shards(1).block_bytes(16 << 10).segment_bytes(64 << 10);
        options.memory_bytes(256 << 10).tuned(sizes).device(&Simulated::of(machine))
    }

    fn open(machine: &SimMachine) -> Log {
        options(machine).open("/log").unwrap()
    }

    fn written(log: &Log, bytes: usize) -> Lsn {
        log.append(Write::new(vec![1; bytes]).durability(Durability::Written)).wait().unwrap().lsn()
    }

    /// The power is cut, and some of what was not durable never landed.
    fn lose(machine: &SimMachine, log: Log, segment: &str, bytes: std::ops::RangeFrom<usize>) {
        machine.stop();
        drop(log);
        machine.restart(End::Kill);
        for file in 0..machine.files() {
            machine.edit(file, |name, all| {
                if name == segment {
                    all[bytes.clone()].fill(0);
                }
            });
        }
    }

    /// Two blocks of an epoch, of which nothing was acknowledged as durable and the first never landed, and the next epoch
    /// with a block in their place that their segments have no room for.
    fn passed_over(machine: &SimMachine, durability: Durability) -> Log {
        let log = open(machine);
        assert_eq!([written(&log, 10), written(&log, 10)], [Lsn(88), Lsn(4184)]);
        lose(machine, log, "0000000001.seg", 0..);
        let log = open(machine);
        let large = Write::new([2; 10_000]).durability(durability);
        assert_eq!(log.append(large).wait().unwrap().lsn(), Lsn(8280));
        log
    }

    fn rebuilt(machine: &SimMachine, log: Log) -> (Lsn, Vec<Lsn>) {
        log.close().unwrap();
        machine.restart(End::Kill);
        machine.lose_manifest(0, 0);
        let salvage = salvage(Path::new("/log"), &options(machine)).unwrap();
        let horizon = salvage.shards()[0].horizon;
        salvage.write().unwrap();
        let log = open(machine);
        let records = log.shard(ShardId(0)).read(..).unwrap().map(|record| record.unwrap().lsn());
        (horizon, records.collect())
    }

    #[test]
    fn a_segment_that_was_passed_over_is_not_where_the_log_begins() {
        let machine = SimMachine::new(1);
        let log = passed_over(&machine, Durability::Synced);
        let last = log.append(b"last").wait().unwrap().lsn();
        assert_eq!(rebuilt(&machine, log), (Lsn(0), vec![Lsn(8280), last]));
    }

    /// The epoch that had passed over it was cut off, and the one after it has used it; then the log was truncated.
    #[test]
    fn a_segment_that_was_passed_over_and_used_after_all_is_where_it_begins() {
        let machine = SimMachine::new(1);
        let log = passed_over(&machine, Durability::Written);
        lose(&machine, log, "0000000003.seg", 4096..);
        let log = open(&machine);
        // No block of these testifies to anything.
        let places = [written(&log, 10), written(&log, 10)];
        assert_eq!(places, [Lsn(88), Lsn(4184)]);
        log.sync().wait().unwrap();
        log.shard(ShardId(0)).truncate_before(places[1]).unwrap();
        let folder = machine.device().directory_to_read(Path::new("/log/shard-0000")).unwrap();
        // If nothing has removed it.
        let _ = folder.remove("0000000001.seg");
        assert_eq!(rebuilt(&machine, log), (Lsn(4096), vec![places[1]]));
    }
}
