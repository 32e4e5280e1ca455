//! Opening a log: making it, or recovering what is there.
//!
//! Nothing is written and nothing served before every shard has been judged; each step may crash
//! and be done again. The order is that of `docs/crash-safety.md`.

mod build;
mod create;
mod judge;
mod parallel;
mod report;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};

use build::{Builder, committer_config, sync_method};
use create::{check_foreign, open_manifest};
use judge::judge_shard;
use parallel::in_parallel;
use report::report;

use crate::consumer::Registry;
use crate::device::{Calls, Device, Directory, Driver, Lock, measure};
use crate::error::OpenError;
#[cfg(feature = "tokio-uring")]
use crate::instance::hand_out;
use crate::instance::{Instance, start_threads, take_lock};
use crate::notice::Notices;
use crate::options::{Layout, OnDamage, Options};
use crate::router::Router;
use crate::segment::shard_path;
use crate::shard::{Holds, introduce};
use crate::tally;

pub(crate) fn open(path: &Path, options: &Options) -> Result<Instance, OpenError> {
    // Wrong options are told before anything is touched.
    let wanted = options.layout()?;
    options.config(&wanted)?;
    let device = options.chosen_device();
    let directory = device.directory(path).map_err(OpenError::at("opening the directory", path))?;
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
) -> Result<Instance, OpenError> {
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
    introduce(&engines);
    #[cfg(feature = "tokio-uring")]
    let driven = std::mem::take(&mut builder.driven);
    drop(builder);
    in_parallel(config.shards, device.threaded(), |shard| {
        if !engines[usize::from(shard)].is_ended() {
            engines[usize::from(shard)].make_first_segment();
        }
        Ok(())
    })?;
    let inner = Instance {
        holds: engines.iter().map(Holds::new).collect(),
        calls: Arc::new(Calls::new(&device)),
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
    tally::hold_all(inner.directory.as_ref(), &inner.engines).map_err(OpenError::at("listing", path))?;
    start_threads(&inner).map_err(OpenError::at("starting threads for", path))?;
    report(&inner, &capabilities);
    #[cfg(feature = "tokio-uring")]
    hand_out(&inner, driven);
    Ok(inner)
}
