//! Opening a log: making it, or recovering what is there.
//!
//! Nothing is written and nothing served before every shard has been judged; each step may crash
//! and be done again. The order is that of `docs/crash-safety.md`.

mod build;
mod create;
mod folders;
mod judge;
mod report;

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};

use build::Builder;
use create::{Found, check_foreign, check_places, create, find_log};
pub(crate) use folders::shard_path;
use folders::{Folder, check_durable, lock_folders, measure_all, open_folders};
use judge::judge_shard;
use report::report;

use crate::consumer::Registry;
use crate::device::{Device, Directory, Driver, Lock};
use crate::error::OpenError;
use crate::format::LogManifest;
use crate::keeper::Keeper;
use crate::log::Inner;
use crate::notice::Notices;
use crate::options::{Layout, OnDamage, Options};
use crate::owner::{Locks, take_lock};
use crate::position::ShardId;
use crate::router::Router;
use crate::segment::ManifestError;
use crate::shard::{Holds, Turner};
use crate::tally;

pub(crate) fn at(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.to_owned();
    move |error| OpenError::Io { operation, path, source: Arc::new(error) }
}

pub(crate) fn manifest_error(path: &Path) -> impl FnOnce(ManifestError) -> OpenError {
    let path = path.to_owned();
    move |error| match error {
        ManifestError::Missing => OpenError::ManifestDamaged {
            path,
            first: crate::format::Defect::Short,
            second: crate::format::Defect::Short,
        },
        ManifestError::Damaged([first, second]) => OpenError::ManifestDamaged { path, first, second },
        ManifestError::TooNew => OpenError::TooNew { path },
        ManifestError::Io(source) => {
            OpenError::Io { operation: "reading the manifest", path, source: Arc::new(source) }
        }
    }
}

pub(crate) fn open(path: &Path, options: &Options) -> Result<Inner, OpenError> {
    // From here on a fork of this process knows that it is one.
    crate::sys::is_owner();
    // Wrong options are told before anything is touched.
    let wanted = options.layout()?;
    options.config(&wanted)?;
    let device = options.chosen_device();
    let directory = open_directory(path, &wanted, device.as_ref())?;
    check_foreign(directory.as_ref())?;
    let mut locks = vec![take_lock(directory.as_ref(), device.as_ref())?];
    let result = open_locked(path, options, &wanted, device, directory, &mut locks);
    if result.is_err() {
        Locks(locks).release();
    }
    result
}

/// The log's own directory, made if it is not there and nothing stands in a new log's way.
fn open_directory(
    path: &Path,
    wanted: &Layout,
    device: &dyn Device,
) -> Result<Arc<dyn Directory>, OpenError> {
    let opened = match device.existing_directory(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            check_places(device, path, wanted, None)?;
            device.directory(path)
        }
        opened => opened,
    };
    opened.map_err(at("opening the directory", path))
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
) -> Result<(LogManifest, Layout, Vec<Folder>), OpenError> {
    let durable = options.wants_durable();
    check_durable(durable, directory, &[])?;
    let manifest = match find_log(path, directory, notices)? {
        Found::Log(manifest) => manifest,
        Found::Nothing(begun) => {
            let (manifest, folders) = create(path, wanted, device, directory, begun, durable, locks)?;
            return Ok((manifest, wanted.clone(), folders));
        }
    };
    let layout = Layout {
        shards: manifest.shards,
        block_bytes: manifest.block_bytes,
        segment_bytes: manifest.segment_bytes,
        directories: manifest.directories.clone(),
    };
    options.check_against(&layout)?;
    let mut folders = open_folders(path, &layout, |place| find_folder(device, place))?;
    check_durable(durable, directory, &folders)?;
    lock_folders(&mut folders, &layout, device, locks)?;
    Ok((manifest, layout, folders))
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

fn open_locked(
    path: &Path,
    options: &Options,
    wanted: &Layout,
    device: Arc<dyn Device>,
    directory: Arc<dyn Directory>,
    locks: &mut Vec<Arc<dyn Lock>>,
) -> Result<Inner, OpenError> {
    let notices = Arc::new(Notices::default());
    let (manifest, layout, mut folders) =
        find_or_create(path, options, wanted, device.as_ref(), directory.as_ref(), &notices, locks)?;
    let config = options.config(&layout)?;
    // All shards are judged before anything is written.
    let judged = in_parallel(config.shards, device.threaded(), |shard| {
        judge_shard(path, &folders[usize::from(shard)].directory, &manifest, shard, &config)
    })?;
    // A place for each shard, which asks for one segment at a time: to ask allocates nothing.
    let (keeper, asked) = sync_channel(usize::from(config.shards));
    let keeper = device.threaded().then_some(keeper);
    // Under the simulator every call takes no time; and a disk that is full is opened all the same.
    // Nor is anything written where a damaged log is to be read only.
    let read_only =
        config.on_damage == OnDamage::ReadOnly && judged.iter().any(|shard| shard.damage.is_some());
    if device.threaded() && !read_only {
        measure_all(device.as_ref(), &mut folders);
    }
    let clock = Arc::new(AtomicU64::new(judged.iter().map(|shard| shard.timestamp).max().unwrap_or(0)));
    let mut builder = Builder {
        config: &config,
        layout: &layout,
        tuning: options.tuning(),
        device: &device,
        lock: &locks[0],
        clock,
        keeper,
        notices: &notices,
        driver: None,
        read_only,
        #[cfg(feature = "tokio-uring")]
        driven: Vec::new(),
    };
    let mut engines = Vec::new();
    for (shard, folder) in judged.into_iter().zip(&folders) {
        engines.push(Arc::new(builder.engine(shard, folder)?));
    }
    let backend = match builder.driver {
        _ if !device.threaded() => "simulated",
        #[cfg(feature = "tokio-uring")]
        _ if config.drive.is_some() => "tokio-uring",
        Some(Driver::Uring) => "uring",
        _ => "syscall",
    };
    #[cfg(feature = "tokio-uring")]
    let driven = std::mem::take(&mut builder.driven);
    drop(builder);
    in_parallel(config.shards, device.threaded(), |shard| {
        if !engines[usize::from(shard)].is_ended() {
            engines[usize::from(shard)].make_first_segment();
        }
        Ok(())
    })?;
    let inner = Inner {
        holds: engines.iter().map(Holds::new).collect(),
        path: path.to_owned(),
        router: Router::new(manifest.slots.clone(), manifest.shards),
        engines,
        config,
        backend,
        device,
        lock: Arc::new(Locks(locks.clone())),
        notices,
        turners: Mutex::new(Vec::new()),
        closed: AtomicBool::new(false),
        directory,
        consumers: Registry::default(),
        tallies: tally::Registry::default(),
    };
    tally::hold_all(inner.directory.as_ref(), &inner.engines).map_err(at("listing", path))?;
    start_threads(&inner, asked).map_err(at("starting threads for", path))?;
    report(&inner);
    #[cfg(feature = "tokio-uring")]
    hand_out(&inner, driven);
    Ok(inner)
}

fn start_threads(inner: &Inner, asked: Receiver<ShardId>) -> io::Result<()> {
    if !inner.device.threaded() {
        return Ok(());
    }
    let cpus = crate::sys::cores();
    let mut turners = crate::sync::lock(&inner.turners);
    for engine in inner.engines.iter().filter(|engine| !engine.is_driven()) {
        let cpu = inner.config.pin_threads.then(|| usize::from(engine.id.0) % cpus);
        turners.push(engine.start(cpu)?);
    }
    let mut keeper = Keeper::new(
        &inner.engines,
        inner.config.watch.clone(),
        &inner.consumers,
        &inner.tallies,
        &inner.notices,
    );
    let keeper =
        std::thread::Builder::new().name("sawmill-keeper".into()).spawn(move || keeper.run(&asked))?;
    turners.push(Turner::Thread(keeper));
    Ok(())
}

/// Gives the application what turns the shards.
#[cfg(feature = "tokio-uring")]
fn hand_out(inner: &Inner, driven: Vec<Arc<crate::device::TaskWake>>) {
    let Some(drive) = &inner.config.drive else { return };
    for (engine, wake) in inner.engines.iter().zip(driven) {
        let (driver, ended) = crate::shard::ShardDriver::new(engine.clone(), wake);
        crate::sync::lock(&inner.turners).push(Turner::Driver(ended));
        drive.0(driver);
    }
}

/// Runs for every shard, in threads of their own where there are threads.
fn in_parallel<T: Send>(
    shards: u16,
    threaded: bool,
    run: impl Fn(u16) -> Result<T, OpenError> + Sync,
) -> Result<Vec<T>, OpenError> {
    if !threaded || shards == 1 {
        return (0..shards).map(run).collect();
    }
    let next = AtomicU32::new(0);
    let results: Mutex<Vec<(u16, Result<T, OpenError>)>> = Mutex::new(Vec::new());
    let workers = crate::sys::cores().clamp(2, 16).min(usize::from(shards));
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let shard = next.fetch_add(1, Ordering::Relaxed);
                    let Ok(shard) = u16::try_from(shard) else { return };
                    if shard >= shards {
                        return;
                    }
                    let result = run(shard);
                    crate::sync::lock(&results).push((shard, result));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    results.sort_by_key(|(shard, _)| *shard);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests;
