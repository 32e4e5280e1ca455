//! Engines of shards that were judged: memory, queue, a new epoch.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::delay_target::delay_target;
use super::folders::Folder;
use super::judge::Judged;
use super::sync_method::sync_method;
use crate::committer::{CommitterConfig, SyncMethod};
use crate::device::{Device, Lock, QueueKind, QueueSetup};
use crate::error::OpenError;
use crate::notice::Notices;
use crate::options::{Config, Layout, Tuning};
use crate::pool::Pool;
use crate::position::Lsn;
use crate::router::Router;
use crate::segment::{NewEpoch, ShardStore};
use crate::shard::{Engine, EngineSetup};

/// Makes engines of judged shards.
pub(super) struct Builder<'a> {
    pub config: &'a Config,
    pub layout: &'a Layout,
    pub tuning: Tuning,
    pub device: &'a Arc<dyn Device>,
    pub lock: &'a Arc<dyn Lock>,
    pub clock: Arc<AtomicU64>,
    pub notices: &'a Arc<Notices>,
    pub router: &'a Arc<Router>,
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

impl Builder<'_> {
    /// What was found of a shard, for its operator.
    fn tell(
        &self,
        path: &Path,
        store: &ShardStore,
        stale_copy: Option<String>,
        damage: Option<String>,
        start: Lsn,
    ) {
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
    }

    pub(super) fn engine(&mut self, judged: Judged, folder: &Folder) -> Result<Engine, OpenError> {
        let Judged { id, mut store, cut, start, timestamp, stale_copy, damage } = judged;
        let path = store.directory().path().to_owned();
        let is_whole = damage.is_none();
        self.tell(&path, &store, stale_copy, damage, start);
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
            router: self.router.clone(),
        }))
    }
}

fn committer_config(method: SyncMethod, layout: &Layout, tuning: &Tuning) -> CommitterConfig {
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
