//! Opening a log: making it, or recovering what is there.
//!
//! Nothing is written and nothing served before every shard has been judged; each step may crash
//! and be done again. The order is that of `docs/crash-safety.md`.

mod build;
mod create;
mod judge;
mod report;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};

use build::{Builder, committer_config, sync_method};
use create::{check_foreign, open_manifest};
use judge::judge_shard;
use report::report;

use crate::consumer::Registry;
use crate::device::{Device, Directory, Driver, Lock, measure};
use crate::error::OpenError;
use crate::keeper::Keeper;
use crate::log::Inner;
use crate::notice::Notices;
use crate::options::{Layout, OnDamage, Options};
use crate::owner::take_lock;
use crate::position::ShardId;
use crate::router::Router;
use crate::segment::ManifestError;
use crate::shard::{Holds, Turner};
use crate::tally;

fn shard_folder(shard: u16) -> String {
    format!("shard-{shard:04}")
}

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
    // Wrong options are told before anything is touched.
    let wanted = options.layout()?;
    options.config(&wanted)?;
    let device = options.chosen_device();
    let directory = device.directory(path).map_err(at("opening the directory", path))?;
    check_foreign(directory.as_ref())?;
    let lock = take_lock(directory.as_ref(), device.as_ref())?;
    let result = open_locked(path, options, &wanted, device, directory, lock.clone());
    if result.is_err() {
        lock.release();
    }
    result
}

fn open_locked(
    path: &Path,
    options: &Options,
    wanted: &Layout,
    device: Arc<dyn Device>,
    directory: Arc<dyn Directory>,
    lock: Arc<dyn Lock>,
) -> Result<Inner, OpenError> {
    let notices = Arc::new(Notices::default());
    let manifest = open_manifest(path, wanted, device.as_ref(), directory.as_ref(), &notices)?;
    let layout = Layout {
        shards: manifest.shards,
        block_bytes: manifest.block_bytes,
        segment_bytes: manifest.segment_bytes,
        directories: manifest.directories.clone(),
    };
    options.check_against(&layout)?;
    let config = options.config(&layout)?;
    let mut capabilities = directory.capabilities();
    if config.require_durable && !capabilities.durable {
        let reason = format!("{:?} loses everything with the machine's power", capabilities.file_system);
        return Err(OpenError::Unsupported { what: "durability", reason });
    }
    // All shards are judged before anything is written.
    let judged = in_parallel(config.shards, device.threaded(), |shard| {
        judge_shard(device.as_ref(), &shard_path(path, &layout.directories, shard), &manifest, shard, &config)
    })?;
    // A place for each shard, which asks for one segment at a time: to ask allocates nothing.
    let (keeper, asked) = sync_channel(usize::from(config.shards));
    let keeper = device.threaded().then_some(keeper);
    // Under the simulator every call takes no time; and a disk that is full is opened all the same.
    // Nor is anything written where a damaged log is to be read only.
    let read_only =
        config.on_damage == OnDamage::ReadOnly && judged.iter().any(|shard| shard.damage.is_some());
    capabilities.measured = (device.threaded() && !read_only)
        .then(|| measure(device.as_ref(), directory.as_ref()).ok())
        .flatten();
    let committer = committer_config(sync_method(&capabilities), &layout, &options.tuning());
    let clock = Arc::new(AtomicU64::new(judged.iter().map(|shard| shard.timestamp).max().unwrap_or(0)));
    let mut builder = Builder {
        config: &config,
        committer,
        device: &device,
        lock: &lock,
        clock,
        keeper,
        notices: &notices,
        driver: None,
        read_only,
        #[cfg(feature = "tokio-uring")]
        driven: Vec::new(),
    };
    let mut engines = Vec::new();
    for shard in judged {
        engines.push(Arc::new(builder.engine(shard)?));
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
        committer,
        backend,
        device,
        lock,
        notices,
        turners: Mutex::new(Vec::new()),
        closed: AtomicBool::new(false),
        directory,
        consumers: Registry::default(),
        tallies: tally::Registry::default(),
        // Measured where the log is; its shards may lie elsewhere.
        measured: capabilities.measured.filter(|_| layout.directories.is_empty()),
    };
    tally::hold_all(inner.directory.as_ref(), &inner.engines).map_err(at("listing", path))?;
    start_threads(&inner, asked).map_err(at("starting threads for", path))?;
    report(&inner, &capabilities);
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

pub(crate) fn shard_path(path: &Path, directories: &[String], shard: u16) -> PathBuf {
    let home = match directories.len() {
        0 => path.to_owned(),
        count => PathBuf::from(&directories[usize::from(shard) % count]),
    };
    home.join(shard_folder(shard))
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
