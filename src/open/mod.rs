//! Opening a log: making it, or recovering what is there.
//!
//! Nothing is written and nothing served before every shard has been judged; each step may crash
//! and be done again. The order is that of `docs/crash-safety.md`.

mod backend;
mod build;
mod create;
mod delay_target;
mod folders;
mod home;
mod judge;
mod parallel;
mod report;
mod salvage;
mod sync_method;

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};

use build::Builder;
pub(crate) use create::has_parts;
use create::{Found, check_foreign, check_places, check_there, create, find_log};
use folders::{Folder, check_durable, lock_folders, measure_all, open_folders};
use home::{check_homes, claim_homes};
use judge::{Judged, check_map, judge_shard};
use parallel::in_parallel;
use report::report;
pub(crate) use salvage::salvage;
pub use salvage::{Salvage, SalvagedShard};

use crate::consumer::Registry;
use crate::device::{Calls, Device, Directory, Lock};
use crate::error::OpenError;
use crate::format::LogManifest;
#[cfg(feature = "tokio-uring")]
use crate::instance::hand_out;
use crate::instance::{Instance, Locks, start_threads, take_lock};
use crate::moves::MapFile;
use crate::notice::Notices;
use crate::options::{Config, Layout, OnDamage, Options};
use crate::queue;
use crate::router::Router;
use crate::segment::ManifestFiles;
use crate::shard::{Engine, StripedRefs, link_shards, same};
use crate::tally;

/// What failed where a thread cannot be made, and by whose limit that mostly is.
pub(crate) const NO_THREAD: &str =
    "making a thread (their number is limited by RLIMIT_NPROC, or `pids.max` of the control group)";

pub(crate) fn open(path: &Path, options: &Options) -> Result<Instance, OpenError> {
    // Wrong options are told before anything is touched.
    let wanted = options.layout()?;
    options.config(&wanted)?;
    let device = options.chosen_device();
    let directory = open_directory(path, options, &wanted, device.as_ref())?;
    check_foreign(directory.as_ref())?;
    let notices = Arc::new(Notices::default());
    let mut locks = vec![take_lock(directory.as_ref(), device.as_ref(), &notices)?];
    let result = open_locked(path, options, &wanted, device, directory, &notices, &mut locks);
    if result.is_err() {
        Locks(locks).release();
    }
    result
}

/// The log's own directory, made if it is not there and nothing stands in a new log's way.
fn open_directory(
    path: &Path,
    options: &Options,
    wanted: &Layout,
    device: &dyn Device,
) -> Result<Arc<dyn Directory>, OpenError> {
    let opened = match device.existing_directory(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !options.makes() => {
            return Err(OpenError::NoLog { path: path.to_owned() });
        }
        // Before the lock, which makes a file.
        Ok(directory) if !options.makes() => return check_there(directory.as_ref()).map(|()| directory),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            check_places(device, path, wanted, None)?;
            device.directory(path)
        }
        opened => opened,
    };
    opened.map_err(OpenError::at("opening the directory", path))
}

/// A log whose folders are open and locked.
struct Opened {
    manifest: LogManifest,
    files: ManifestFiles,
    layout: Layout,
    folders: Vec<Folder>,
    /// It was not there before.
    made: bool,
}

/// What is there, or what is made, with the folders of all shards, which are locked from here on.
fn find_or_create(
    path: &Path,
    options: &Options,
    wanted: &Layout,
    device: &dyn Device,
    directory: &dyn Directory,
    notices: &Notices,
    locks: &mut Vec<Arc<dyn Lock>>,
) -> Result<Opened, OpenError> {
    let durable = options.wants_durable();
    check_durable(durable, directory, &[])?;
    let (manifest, files) = match find_log(path, directory, notices)? {
        Found::Log(found) => *found,
        Found::Nothing(_) if !options.makes() => return Err(OpenError::NoLog { path: path.to_owned() }),
        Found::Nothing(begun) => {
            let (manifest, files, folders) =
                create(wanted, device, directory, begun, durable, notices, locks)?;
            return Ok(Opened { manifest, files, layout: wanted.clone(), folders, made: true });
        }
    };
    let layout = Layout {
        shards: manifest.shards,
        block_bytes: manifest.block_bytes,
        segment_bytes: manifest.segment_bytes,
        directories: manifest.directories.clone(),
    };
    options.check_against(&layout)?;
    let mut folders = open_folders(path, directory, &layout, |place| find_folder(device, place))?;
    check_durable(durable, directory, &folders)?;
    lock_folders(&mut folders, device, notices, locks)?;
    if !options.is_relocated() {
        check_homes(directory, &folders)?;
    }
    Ok(Opened { manifest, files, layout, folders, made: false })
}

/// A folder that must be there: one made in its place would hide what is missing.
fn find_folder(device: &dyn Device, place: &Path) -> io::Result<Arc<dyn Directory>> {
    device.existing_directory(place).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            io::Error::new(error.kind(), "it is not there (is its file system mounted?); nothing was changed")
        }
        _ => error,
    })
}

/// All shards are judged before anything is written.
fn judge_all(
    path: &Path,
    manifest: &LogManifest,
    folders: &[Folder],
    config: &Config,
    device: &dyn Device,
) -> Result<Vec<Judged>, OpenError> {
    let mut judged = in_parallel(config.shards, device.threaded(), |shard| {
        judge_shard(path, &folders[usize::from(shard)].directory, manifest, shard, config)
    })?;
    check_map(path, &manifest.map, &mut judged)?;
    Ok(judged)
}

fn open_locked(
    path: &Path,
    options: &Options,
    wanted: &Layout,
    device: Arc<dyn Device>,
    directory: Arc<dyn Directory>,
    notices: &Arc<Notices>,
    locks: &mut Vec<Arc<dyn Lock>>,
) -> Result<Instance, OpenError> {
    let Opened { manifest, files, layout, mut folders, made } =
        find_or_create(path, options, wanted, device.as_ref(), directory.as_ref(), notices, locks)?;
    let config = options.config(&layout)?;
    let judged = judge_all(path, &manifest, &folders, &config, device.as_ref())?;
    // Under the simulator every call takes no time; and a disk that is full is opened all the same.
    // Nor is anything written where a damaged log is to be read only.
    let read_only =
        config.on_damage == OnDamage::ReadOnly && judged.iter().any(|shard| shard.damage.is_some());
    if !read_only {
        claim_homes(directory.as_ref(), &folders, notices);
    }
    if device.threaded() && !read_only {
        measure_all(device.as_ref(), &mut folders);
    }
    let clock = Arc::new(AtomicU64::new(judged.iter().map(|shard| shard.timestamp).max().unwrap_or(0)));
    let router = Arc::new(Router::new(manifest.map.clone(), manifest.shards));
    let mut builder = Builder {
        config: &config,
        layout: &layout,
        tuning: options.tuning(),
        device: &device,
        lock: &locks[0],
        clock,
        notices,
        router: &router,
        kind: None,
        read_only,
        #[cfg(feature = "tokio-uring")]
        driven: Vec::new(),
    };
    let mut engines = Vec::new();
    for (shard, folder) in judged.into_iter().zip(&folders) {
        engines.push(Arc::new(builder.engine(shard, folder)?));
    }
    let backend = builder.backend();
    link_shards(&engines);
    #[cfg(feature = "tokio-uring")]
    let driven = std::mem::take(&mut builder.driven);
    drop(builder);
    in_parallel(config.shards, device.threaded(), |shard| {
        engines[usize::from(shard)].make_first_segment();
        Ok(())
    })?;
    check_flushes(&engines)?;
    let inner = Instance {
        engine_refs: engines.iter().map(StripedRefs::new).collect(),
        calls: Arc::new(Calls::new(&device)),
        path: path.to_owned(),
        router,
        map_file: Arc::new(MapFile::new(files, manifest)),
        engines,
        config,
        backend,
        device,
        lock: Arc::new(Locks(locks.clone())),
        notices: notices.clone(),
        workers: Mutex::new(Vec::new()),
        closed: AtomicBool::new(false),
        directory,
        consumers: Registry::default(),
        queues: queue::Registry::default(),
        tallies: tally::Registry::default(),
    };
    tally::hold_all(inner.directory.as_ref(), &inner.engines)
        .map_err(OpenError::at("listing the directory", path))?;
    queue::hold_all(&inner.config.retain_for, inner.directory.as_ref(), &inner.engines);
    start_threads(&inner).map_err(OpenError::at(NO_THREAD, path))?;
    report(&inner, made);
    #[cfg(feature = "tokio-uring")]
    hand_out(&inner, driven);
    Ok(inner)
}

/// An error if a device has failed to flush meanwhile: nothing could be appended to what lies there.
fn check_flushes(engines: &[Arc<Engine>]) -> Result<(), OpenError> {
    match engines.iter().find_map(|engine| engine.failed_flush()) {
        Some(flush) => Err(OpenError::at("flushing", &flush.path)(same(&flush.error))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
