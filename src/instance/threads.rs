//! The threads of an open log, and the application's tasks in their place.

use std::io;
#[cfg(feature = "tokio-uring")]
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use super::Instance;
use super::maintenance_thread::start_maintenance;
use super::watch_thread::Watcher;
use crate::shard::WorkerHandle;

/// Starts them all; nothing is asked of the log before.
pub(crate) fn start_threads(inner: &Instance) -> io::Result<()> {
    if !inner.device.threaded() {
        return Ok(());
    }
    let cpus = crate::sys::cpus();
    let mut workers = crate::sync::lock(&inner.workers);
    // First: whoever turns a shard may ask at once.
    start_maintenance(inner, &mut workers)?;
    for engine in inner.engines.iter().filter(|engine| !engine.is_driven()) {
        let cpu = cpus.iter().cycle().nth(usize::from(engine.id.0)).filter(|_| inner.config.pin_threads);
        workers.push(engine.start(cpu.copied())?);
    }
    let (home, watch) = (inner.directory.device_number(), inner.config.watch.clone());
    let mut watcher = Watcher::new(&inner.engines, watch, &inner.device, &inner.calls, home, &inner.notices);
    let (open, opened) = sync_channel(1);
    let watch =
        std::thread::Builder::new().name("sawmill-watch".into()).spawn(move || watcher.run(&opened))?;
    workers.push(WorkerHandle::Watch(watch, open));
    Ok(())
}

/// Gives the application what turns the shards.
#[cfg(feature = "tokio-uring")]
pub(crate) fn hand_out(inner: &Instance, driven: Vec<Arc<crate::device::TaskWake>>) {
    let Some(drive) = &inner.config.drive else { return };
    for (engine, wake) in inner.engines.iter().zip(driven) {
        let (driver, ended) = crate::shard::ShardDriver::new(engine.clone(), wake);
        crate::sync::lock(&inner.workers).push(WorkerHandle::Task(ended));
        drive.0(driver);
    }
}
