//! Opening a log: making it, or recovering what is there.
//!
//! Nothing is written and nothing served before every shard has been judged; each step may crash
//! and be done again. The order is that of `docs/crash-safety.md`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

use crate::committer::{CommitterConfig, SyncMethod};
use crate::consumer::Registry;
use crate::device::{Capabilities, Device, Directory, Driver, Lock, Queue, QueueSetup, Wake, measure};
use crate::error::OpenError;
use crate::format::{LogManifest, SlotKind};
use crate::keeper::Keeper;
use crate::log::Inner;
use crate::notice::Notices;
use crate::options::{Backend, Config, Layout, OnDamage, Options, Tuning};
use crate::owner::take_lock;
use crate::pool::Pool;
use crate::position::{Lsn, ShardId};
use crate::recovery::{Verdict, beyond, judge, scan};
use crate::router::{Router, even_slots};
use crate::segment::{ManifestError, ManifestFiles, SegmentReader, ShardStore};
use crate::shard::{Engine, EngineSetup, Holds, Turner};
use crate::tally;

/// Stands there, durably, while a log is being made: what is there without a manifest was never a log.
const CREATING: &str = "sawmill.creating";
const PREFIX: &str = "log";

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
    // From here on a fork of this process knows that it is one.
    crate::sys::is_owner();
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

/// A directory that holds something else is refused before anything is made in it.
fn check_foreign(directory: &dyn Directory) -> Result<(), OpenError> {
    let path = directory.path();
    let names = directory.list().map_err(at("listing the directory", path))?;
    if names.iter().any(|name| name.starts_with("log.manifest.")) {
        return Ok(());
    }
    let own =
        |name: &String| name.starts_with("sawmill.") || name.starts_with("shard-") || name == "lost+found";
    match names.into_iter().find(|name| !own(name)) {
        Some(found) => Err(OpenError::Foreign { path: path.to_owned(), found }),
        None => Ok(()),
    }
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

fn report(inner: &Inner, capabilities: &Capabilities) {
    let durable = if capabilities.durable {
        ""
    } else {
        "; NOT DURABLE: what is synced is lost with the machine's power"
    };
    let cache = match (capabilities.write_cache, capabilities.fua) {
        (Some(true), Some(true)) => ", a volatile write cache with FUA",
        (Some(true), _) => ", a volatile write cache without FUA",
        (Some(false), _) => ", no volatile write cache",
        (None, _) => "",
    };
    let measured = capabilities.measured.map_or_else(String::new, |found| {
        format!(
            " (4 KiB: {:?}, with fdatasync {:?}; {} of 100 writes by worker threads)",
            found.write_through, found.write_and_sync, found.worker_writes_percent,
        )
    });
    if capabilities.copy_on_write {
        inner.notices.warn(format!(
            "{}: each write goes to a new place, which is slow; a fresh folder would be made without (chattr +C)",
            inner.path.display(),
        ));
    }
    inner.notices.info(format!(
        "opened {}: {} shards, {}, {:?}, {}, {}{measured}{cache}{durable}",
        inner.path.display(),
        inner.config.shards,
        inner.backend,
        capabilities.file_system,
        if capabilities.direct { "O_DIRECT" } else { "without O_DIRECT (not to be had here, or not safe)" },
        match inner.committer.method {
            SyncMethod::WriteThrough => "synchronous writes (RWF_DSYNC)",
            SyncMethod::Flush => "writes and fdatasync",
        },
    ));
}

/// How blocks are made durable: by synchronous writes where they are honoured, unless a sync of the file is
/// clearly faster on this device, as on some consumer drives.
fn sync_method(capabilities: &Capabilities) -> SyncMethod {
    // At the depth of one that is measured here they are often alike, and with several in flight synchronous
    // writes win by far: only a clear answer counts (`docs/performance.md`).
    let sync_wins = capabilities.measured.is_some_and(|found| found.write_through > found.write_and_sync * 2);
    if capabilities.write_through && !sync_wins { SyncMethod::WriteThrough } else { SyncMethod::Flush }
}

fn committer_config(method: SyncMethod, layout: &Layout, tuning: &Tuning) -> CommitterConfig {
    let devices = layout.directories.len().max(1) as u32;
    let shards_per_device = u32::from(layout.shards).div_ceil(devices);
    CommitterConfig {
        method,
        depth: (tuning.device_depth / shards_per_device).max(tuning.shard_depth_min),
        ripe: tuning.ripe,
        background_ns: tuning.background_ns,
        marker_delay_ns: tuning.marker_delay_ns,
        marker_interval_ns: tuning.marker_interval_ns,
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

// The manifest, and making a log.

fn open_manifest(
    path: &Path,
    wanted: &Layout,
    device: &dyn Device,
    directory: &dyn Directory,
    notices: &Notices,
) -> Result<LogManifest, OpenError> {
    let names = directory.list().map_err(at("listing the directory", path))?;
    let creating = names.iter().any(|name| name == CREATING);
    let has_shards = names.iter().any(|name| name.starts_with("shard-"));
    let body = match ManifestFiles::open(directory, PREFIX, SlotKind::Log) {
        Ok((_, body, mended)) => {
            if mended {
                notices.warn(format!("{}: one copy of the manifest was not current", path.display()));
            }
            body
        }
        Err(ManifestError::Missing) if creating || !has_shards => {
            return create(path, wanted, device, directory).map_err(at("making the log", path));
        }
        // The crash came between the two copies of the first manifest: there never was a log.
        Err(ManifestError::Damaged(_)) if creating => {
            return create(path, wanted, device, directory).map_err(at("making the log", path));
        }
        Err(error) => return Err(manifest_error(path)(error)),
    };
    if creating {
        directory
            .remove(CREATING)
            .and_then(|()| directory.sync())
            .map_err(at("finishing the making of", path))?;
    }
    LogManifest::decode(&body).map_err(|defect| manifest_error(path)(ManifestError::Damaged([defect; 2])))
}

/// Makes a log. A crash at any step leaves a directory in which it is made anew.
fn create(
    path: &Path,
    layout: &Layout,
    device: &dyn Device,
    directory: &dyn Directory,
) -> io::Result<LogManifest> {
    let names = directory.list()?;
    if !names.iter().any(|name| name == CREATING) {
        directory.create(CREATING)?;
    }
    // Before the shards are touched: a manifest of an earlier attempt would speak for them.
    for name in names.iter().filter(|name| name.starts_with("log.manifest.")) {
        directory.remove(name)?;
    }
    // Also where the marker is there: whoever made it may have been killed before its name was durable, and
    // without it a half made manifest would look like damage.
    directory.sync()?;
    let mut log_id = [0; 16];
    device.random(&mut log_id)?;
    for shard in 0..layout.shards {
        let folder = device.directory(&shard_path(path, &layout.directories, shard))?;
        // Left by an earlier attempt.
        for name in folder.list()? {
            folder.remove(&name)?;
        }
        let mut nonce = [0; 8];
        device.random(&mut nonce)?;
        ShardStore::create(folder, log_id, shard, u64::from_le_bytes(nonce))?;
    }
    let manifest = LogManifest {
        log_id,
        shards: layout.shards,
        block_bytes: layout.block_bytes,
        segment_bytes: layout.segment_bytes,
        slots: even_slots(layout.shards),
        directories: layout.directories.clone(),
    };
    ManifestFiles::create(directory, PREFIX, SlotKind::Log, &manifest.encode())?;
    directory.sync()?;
    directory.remove(CREATING)?;
    directory.sync()?;
    Ok(manifest)
}

// Recovery of one shard.

/// A shard that has been judged fit to be opened.
struct Judged {
    id: ShardId,
    store: ShardStore,
    cut: Lsn,
    /// Where the new epoch starts.
    start: Lsn,
    timestamp: u64,
    mended: bool,
    /// What it was opened past.
    damage: Option<String>,
}

fn judge_shard(
    device: &dyn Device,
    path: &Path,
    log: &LogManifest,
    shard: u16,
    config: &Config,
) -> Result<Judged, OpenError> {
    let io = |operation| at(operation, path);
    let directory = device.directory(path).map_err(io("opening the shard's folder"))?;
    let (mut store, missing, mended) =
        ShardStore::open(directory, config.space.segment_bytes).map_err(manifest_error(path))?;
    let manifest = store.manifest();
    if manifest.log_id != log.log_id || manifest.shard != shard {
        return Err(manifest_error(path)(ManifestError::Damaged([crate::format::Defect::Foreign; 2])));
    }
    let unsettled = || store.segments().iter().filter(|segment| segment.end() > manifest.checkpoint);
    for segment in unsettled() {
        // What a dead owner left in the cache is made durable before it is believed, and what its
        // failed sync left there must not be seen.
        segment.file.sync().map_err(io("syncing a segment"))?;
        segment.file.forget_cache().map_err(io("reading past the cache"))?;
    }
    let largest = unsettled().map(|segment| segment.row.bytes).max().unwrap_or(0);
    let read_bytes = config.read_bytes.min(usize::try_from(largest).unwrap_or(usize::MAX));
    let mut reader =
        SegmentReader::for_scan(config.block_bytes, read_bytes).map_err(io("taking memory for"))?;
    let scan = scan(&mut reader, store.segments(), manifest, config.block_bytes);
    let id = ShardId(shard);
    match judge(&mut reader, store.segments(), manifest, &missing, &scan) {
        Verdict::Tail { cut } => {
            let timestamp = manifest.timestamp.max(scan.timestamp);
            Ok(Judged { id, cut, start: scan.end, timestamp, mended, damage: None, store })
        }
        Verdict::Damaged { lsn, cause } if config.on_damage != OnDamage::Refuse => {
            let (start, epoch) = beyond(&mut reader, store.segments(), manifest, &scan);
            let timestamp = manifest.timestamp.max(scan.timestamp);
            store.pass_damage(epoch);
            let damage = Some(format!("shard {shard} is damaged at LSN {lsn}: {cause}"));
            Ok(Judged { id, cut: start, start, timestamp, mended, damage, store })
        }
        Verdict::Damaged { lsn, cause } => Err(OpenError::Damaged { shard: id, lsn, cause }),
    }
}

/// Makes engines of judged shards.
struct Builder<'a> {
    config: &'a Config,
    committer: CommitterConfig,
    device: &'a Arc<dyn Device>,
    lock: &'a Arc<dyn Lock>,
    clock: Arc<AtomicU64>,
    keeper: Option<SyncSender<ShardId>>,
    notices: &'a Arc<Notices>,
    /// The driver that the first shard got; the others get the same.
    driver: Option<Driver>,
    /// A shard is damaged, and nothing is to be written.
    read_only: bool,
    /// What wakes the tasks that turn the shards.
    #[cfg(feature = "tokio-uring")]
    driven: Vec<Arc<crate::device::TaskWake>>,
}

/// A queue, unless the shard's driver brings its own, and what wakes whoever waits for it.
type Turned = (Option<Box<dyn Queue + Send>>, Arc<dyn Wake>);

impl Builder<'_> {
    fn engine(&mut self, judged: Judged) -> Result<Engine, OpenError> {
        let Judged { id, mut store, cut, start, timestamp, mended, damage } = judged;
        let path = store.directory().path().to_owned();
        if mended {
            self.notices.warn(format!("{}: one copy of the manifest was not current", path.display()));
        }
        if let Some(damage) = damage {
            let then =
                if self.read_only { "nothing is changed".into() } else { format!("it goes on at {start}") };
            self.notices.error(format!("{damage}; {then}"));
        }
        let config = self.config;
        let pool = Pool::new(config.block_bytes, config.blocks).map_err(at("taking memory for", &path))?;
        if self.device.threaded() {
            pool.region().touch();
        }
        let pool = Arc::new(pool);
        let (queue, wake) = self.queue(&store, &pool)?;
        let identity = if self.read_only {
            let manifest = store.manifest();
            manifest.identity(manifest.epochs.last().expect("a manifest has an epoch"))
        } else {
            let mut nonce = [0; 8];
            self.device.random(&mut nonce).map_err(at("drawing a nonce for", &path))?;
            store
                .begin_epoch(cut, start, u64::from_le_bytes(nonce), timestamp)
                .map_err(at("writing the manifest in", &path))?
        };
        Ok(Engine::new(EngineSetup {
            id,
            device: self.device.clone(),
            store,
            identity,
            // What lies behind a cut that is not made must not be read either.
            start: if self.read_only { cut } else { start },
            read_only: self.read_only,
            pool,
            committer: self.committer,
            space: config.space,
            read_bytes: config.read_bytes,
            record_bytes: config.record_bytes,
            record_limit: config.record_limit,
            timestamp,
            clock: self.clock.clone(),
            queue,
            wake,
            lock: self.lock.clone(),
            notices: self.notices.clone(),
            keeper: self.keeper.clone(),
        }))
    }

    /// The queue of the wanted kind, or what there is instead.
    fn queue(&mut self, store: &ShardStore, pool: &Arc<Pool>) -> Result<Turned, OpenError> {
        #[cfg(feature = "tokio-uring")]
        if self.config.drive.is_some() && self.device.threaded() {
            let wake = Arc::<crate::device::TaskWake>::default();
            self.driven.push(wake.clone());
            return Ok((None, wake));
        }
        let directory = store.directory();
        let mut setup = QueueSetup {
            depth: self.committer.depth,
            pool: pool.clone(),
            lock: self.lock.clone(),
            driver: Driver::Uring,
        };
        if self.config.backend != Backend::Syscall && self.driver != Some(Driver::Syscall) {
            match directory.queue(&setup) {
                Ok((queue, wake)) => {
                    self.driver = Some(Driver::Uring);
                    return Ok((Some(queue), wake));
                }
                Err(error) if self.config.backend == Backend::Uring => {
                    return Err(OpenError::Unsupported { what: "io_uring", reason: error.to_string() });
                }
                Err(error) => self
                    .notices
                    .warn(format!("io_uring is not to be had ({error}): plain system calls instead")),
            }
        }
        self.driver = Some(Driver::Syscall);
        setup.driver = Driver::Syscall;
        let (queue, wake) = directory.queue(&setup).map_err(at("making a queue for", directory.path()))?;
        Ok((Some(queue), wake))
    }
}
