//! What an open log is, behind all of its handles; how it is locked, looked after and closed.

mod background;
mod close;
mod lock;
mod maintenance_thread;
mod threads;
mod watch_gaps;
mod watch_thread;

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

pub(crate) use background::{Background, Lasting, Undone};
pub use close::Close;
pub(crate) use lock::{Locks, take_lock};
#[cfg(feature = "tokio-uring")]
pub(crate) use threads::hand_out;
pub(crate) use threads::start_threads;

use crate::consumer;
use crate::device::{Calls, Device, Directory, Lock};
use crate::moves::MapFile;
use crate::notice::Notices;
use crate::options::Config;
use crate::queue;
use crate::router::Router;
use crate::shard::{Engine, StripedRefs, WorkerHandle};
use crate::tally;

/// An open log. The last of its handles to go closes it.
pub(crate) struct Instance {
    pub path: PathBuf,
    pub engines: Vec<Arc<Engine>>,
    pub engine_refs: Vec<StripedRefs>,
    pub router: Arc<Router>,
    /// Where the map of slots is written.
    pub map_file: Arc<MapFile>,
    pub config: Config,
    pub backend: &'static str,
    pub device: Arc<dyn Device>,
    pub lock: Arc<dyn Lock>,
    pub notices: Arc<Notices>,
    /// What turns the shards, and keeps the log.
    pub workers: Mutex<Vec<WorkerHandle>>,
    pub closed: AtomicBool,
    pub directory: Arc<dyn Directory>,
    /// Blocking calls on the log's own files.
    pub calls: Arc<Calls>,
    pub consumers: consumer::Registry,
    pub queues: queue::Registry,
    pub tallies: tally::Registry,
}

impl Instance {
    /// Whether this is called in the process that opened the log, and in no fork of it.
    pub(crate) fn in_opening_process(&self) -> bool {
        self.engines.iter().all(|engine| engine.in_opening_process())
    }
}
