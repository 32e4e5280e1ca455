//! The space that a shard takes: segments made ready, retention, truncation at both ends, and whether the folder is
//! still its own.

mod folder_check;
mod make_ahead;
mod pace;
mod retention;
mod retention_clock;
mod retention_pin;
mod segment_size;
mod shortage;
mod truncate;

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64};

pub(crate) use pace::{Filled, Filling};
use retention::Retention;
pub(crate) use retention_pin::Holder;
pub(super) use retention_pin::RetentionPin;
use segment_size::SegmentHistory;
use shortage::Shortage;

/// How much space a shard takes and keeps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SpaceConfig {
    pub segment_bytes: u64,
    pub first_segment_bytes: u64,
    /// Segments are given up once so many bytes lie behind them...
    pub retain_bytes: Option<u64>,
    /// ... or once all in them is older than this many nanoseconds.
    pub retain_ns: Option<u64>,
}

/// How the making of segments stands.
#[derive(Debug)]
pub(in crate::shard) struct Space {
    pub config: SpaceConfig,
    /// A segment is asked for.
    asked: AtomicBool,
    /// It must have this many bytes.
    need: AtomicU64,
    /// One was made since the last turn.
    pub segment_added: AtomicBool,
    pub(in crate::shard) shortage: Shortage,
    /// How the last one came, to see how fast they fill.
    made: Mutex<SegmentHistory>,
    /// The end is cut by one at a time.
    cutting: Mutex<()>,
    /// How often space was given up, under the lock of the store.
    given_up: AtomicU64,
    /// The folder, or the log's own, is not where it was opened any more.
    moved: AtomicBool,
    pub(in crate::shard) retention: Mutex<Retention>,
}

impl Space {
    pub(in crate::shard) fn new(config: SpaceConfig, unsecured: Option<io::Error>) -> Space {
        Space {
            config,
            asked: AtomicBool::new(false),
            need: AtomicU64::new(0),
            segment_added: AtomicBool::new(false),
            shortage: Shortage::new(unsecured),
            made: Mutex::new(SegmentHistory::default()),
            cutting: Mutex::new(()),
            given_up: AtomicU64::new(0),
            moved: AtomicBool::new(false),
            retention: Mutex::default(),
        }
    }
}
