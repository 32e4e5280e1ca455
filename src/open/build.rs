//! Engines of shards that were judged: memory, queue, a new epoch.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::folders::Folder;
use super::judge::Judged;
use crate::committer::{CommitterConfig, SyncMethod};
use crate::device::{Capabilities, Device, Lock, Queue, QueueKind, QueueSetup, Wake};
use crate::error::{OpenError, error_chain};
use crate::notice::Notices;
use crate::options::{Backend, Config, Layout, Tuning};
use crate::pool::Pool;
use crate::segment::{NewEpoch, ShardStore};
use crate::shard::{Engine, EngineSetup};

/// Below the least a thread that is woken late would look like a queue; above the most nobody would call it quick.
const DELAY_TARGET_MIN: Duration = Duration::from_millis(2);
const DELAY_TARGET_MAX: Duration = Duration::from_millis(20);
/// Where nothing was measured.
const DELAY_TARGET: Duration = Duration::from_millis(10);

/// Makes engines of judged shards.
pub(super) struct Builder<'a> {
    pub config: &'a Config,
    pub layout: &'a Layout,
    pub tuning: Tuning,
    pub device: &'a Arc<dyn Device>,
    pub lock: &'a Arc<dyn Lock>,
    pub clock: Arc<AtomicU64>,
    pub notices: &'a Arc<Notices>,
    /// The driver that the first shard got; the others get the same.
    pub kind: Option<QueueKind>,
    /// A shard is damaged, and nothing is to be written.
    pub read_only: bool,
    /// What wakes the tasks that turn the shards.
    #[cfg(feature = "tokio-uring")]
    pub driven: Vec<Arc<crate::device::TaskWake>>,
}

/// That a copy of a manifest was mended.
pub(super) fn not_current(copy: &Path) -> String {
    format!("{}: this copy of the manifest was not current", copy.display())
}

/// A queue, unless the shard's driver brings its own, and what wakes whoever waits for it.
type Turned = (Option<Box<dyn Queue + Send>>, Arc<dyn Wake>);

impl Builder<'_> {
    pub(super) fn engine(&mut self, judged: Judged, folder: &Folder) -> Result<Engine, OpenError> {
        let Judged { id, mut store, cut, start, timestamp, stale_copy, damage } = judged;
        let path = store.directory().path().to_owned();
        let is_whole = damage.is_none();
        if let Some(copy) = stale_copy {
            self.notices.warn(not_current(&path.join(copy)));
        }
        for stray in store.strays() {
            // Each is a line of its own: the name is in front of the colon.
            let file = path.join(stray.name());
            self.notices.warn(format!("{}: {}; it is left alone", file.display(), stray.why()));
        }
        if let Some(damage) = damage {
            let then =
                if self.read_only { "nothing is changed".into() } else { format!("it goes on at {start}") };
            self.notices.error(format!("{damage}; {then}"));
        }
        let config = self.config;
        let pool = Pool::new(config.block_bytes, config.blocks, config.blocks_before)
            .map_err(OpenError::at("taking memory", &path))?;
        if self.device.threaded() {
            pool.region().touch();
        }
        let pool = Arc::new(pool);
        let capabilities = folder.capabilities();
        let committer = committer_config(sync_method(&capabilities), self.layout, &self.tuning);
        let lock = folder.lock(self.lock);
        store.is_owned_by(lock.clone());
        let setup = QueueSetup {
            depth: committer.depth,
            pool: pool.clone(),
            lock: lock.clone(),
            kind: QueueKind::Uring,
        };
        let (queue, wake) = self.queue(&store, setup)?;
        let identity = if self.read_only {
            let manifest = store.manifest();
            manifest.identity(manifest.epochs.last().expect("a manifest has an epoch"))
        } else {
            let mut nonce = [0; 8];
            self.device.random(&mut nonce).map_err(OpenError::at("drawing a nonce", &path))?;
            let nonce = u64::from_le_bytes(nonce);
            let after_nothing = is_whole && cut <= store.last_epoch_start();
            store
                .begin_epoch(&NewEpoch { cut, start, nonce, timestamp, after_nothing })
                .map_err(OpenError::at("writing the manifest", &path))?
        };
        let unsecured = if self.read_only { None } else { store.secure(start).err() };
        Ok(Engine::new(EngineSetup {
            id,
            device: self.device.clone(),
            unsecured,
            store,
            identity,
            // What lies behind a cut that is not made must not be read either.
            start: if self.read_only { cut } else { start },
            read_only: self.read_only,
            pool,
            committer,
            capabilities,
            delay_target: delay_target(config.delay_target, &capabilities, committer.method),
            space: config.space,
            index: config.index,
            read_bytes: config.read_bytes,
            record_bytes: config.record_bytes,
            record_limit: config.record_limit,
            timestamp,
            clock: self.clock.clone(),
            queue,
            wake,
            lock,
            notices: self.notices.clone(),
        }))
    }

    /// What the engines go on, once they are made: its name.
    pub(super) fn backend(&self) -> &'static str {
        match self.kind {
            _ if !self.device.threaded() => "simulated",
            #[cfg(feature = "tokio-uring")]
            _ if self.config.drive.is_some() => "tokio-uring",
            Some(QueueKind::Uring) => "uring",
            _ => "syscall",
        }
    }

    /// The queue of the wanted kind, or what there is instead.
    fn queue(&mut self, store: &ShardStore, mut setup: QueueSetup) -> Result<Turned, OpenError> {
        #[cfg(feature = "tokio-uring")]
        if self.config.drive.is_some() && self.device.threaded() {
            let wake = Arc::<crate::device::TaskWake>::default();
            self.driven.push(wake.clone());
            return Ok((None, wake));
        }
        let directory = store.directory();
        if self.config.backend != Backend::Syscall && self.kind != Some(QueueKind::Syscall) {
            match directory.queue(&setup) {
                Ok((queue, wake)) => {
                    self.kind = Some(QueueKind::Uring);
                    return Ok((Some(queue), wake));
                }
                Err(error) if self.config.backend == Backend::Uring => {
                    return Err(OpenError::Unsupported {
                        what: "io_uring",
                        reason: format!("no ring can be made for {}", directory.path().display()),
                        source: Some(Arc::new(error)),
                    });
                }
                Err(error) => self.notices.warn(format!(
                    "io_uring is not available ({}): plain system calls instead",
                    error_chain(&error)
                )),
            }
        }
        self.kind = Some(QueueKind::Syscall);
        setup.kind = QueueKind::Syscall;
        let (queue, wake) =
            directory.queue(&setup).map_err(OpenError::at("making a queue", directory.path()))?;
        Ok((Some(queue), wake))
    }
}

/// How blocks are made durable: by synchronous writes where they are honoured, unless a sync of the file is
/// clearly faster on this device, as on some consumer drives.
pub(super) fn sync_method(capabilities: &Capabilities) -> SyncMethod {
    // At the depth of one that is measured here they are often alike, and with several in flight synchronous
    // writes win by far: only a clear answer counts (`docs/performance.md`).
    let sync_wins = capabilities.measured.is_some_and(|found| found.write_through > found.write_and_sync * 2);
    if capabilities.write_through && !sync_wins { SyncMethod::WriteThrough } else { SyncMethod::Flush }
}

/// How long records may wait before they go to the device: unless it was set, twice what a commit took.
fn delay_target(set: Option<Duration>, capabilities: &Capabilities, method: SyncMethod) -> Duration {
    let commit = capabilities.measured.map(|found| match method {
        SyncMethod::WriteThrough => found.write_through,
        SyncMethod::Flush => found.write_and_sync,
    });
    let default = commit.map_or(DELAY_TARGET, |commit| commit * 2);
    set.unwrap_or(default.clamp(DELAY_TARGET_MIN, DELAY_TARGET_MAX))
}

pub(super) fn committer_config(method: SyncMethod, layout: &Layout, tuning: &Tuning) -> CommitterConfig {
    let devices = layout.directories.len().max(1) as u32;
    let shards_per_device = u32::from(layout.shards).div_ceil(devices);
    CommitterConfig {
        method,
        depth: (tuning.device_depth / shards_per_device).max(tuning.shard_depth_min),
        seal_threshold: tuning.seal_threshold,
        background_ns: tuning.background_ns,
        marker_delay_ns: tuning.marker_delay_ns,
        marker_interval_ns: tuning.marker_interval_ns,
    }
}
