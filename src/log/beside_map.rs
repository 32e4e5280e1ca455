//! The map of slots of a log that somebody else owns, as its manifest has it.

use std::io;
use std::sync::{Arc, Mutex};

use crate::device::Directory;
use crate::error::{OpenError, ReadError};
use crate::format::{LogManifest, SlotKind, SlotMap};
use crate::position::ShardId;
use crate::segment::{ManifestError, ManifestFiles};
use crate::sync::lock;

/// The map as it was read last.
#[derive(Debug)]
pub(super) struct ForeignMap {
    directory: Arc<dyn Directory>,
    log_id: [u8; 16],
    map: Mutex<Arc<SlotMap>>,
}

impl ForeignMap {
    pub(super) fn new(directory: Arc<dyn Directory>, log: LogManifest) -> ForeignMap {
        ForeignMap { directory, log_id: log.log_id, map: Mutex::new(Arc::new(log.map)) }
    }

    /// As it is known.
    pub(super) fn known(&self) -> Arc<SlotMap> {
        lock(&self.map).clone()
    }

    /// As it is now.
    pub(super) fn refreshed(&self) -> Result<Arc<SlotMap>, ReadError> {
        let unreadable = |error| {
            let error = OpenError::manifest(self.directory.path())(error);
            ReadError::Io { shard: ShardId(0), source: Arc::new(io::Error::other(error)) }
        };
        let body = ManifestFiles::peek(self.directory.as_ref(), "log", SlotKind::Log).map_err(unreadable)?;
        let log =
            LogManifest::decode(&body).map_err(|defect| unreadable(ManifestError::Damaged([defect; 2])))?;
        if log.log_id != self.log_id {
            return Err(ReadError::Replaced { path: self.directory.path().to_owned() });
        }
        let mut known = lock(&self.map);
        // Two are the same if both are: a version may be given once more, to another map, after a crash.
        if (log.map.version, log.map.nonce) != (known.version, known.nonce) {
            *known = Arc::new(log.map);
        }
        Ok(known.clone())
    }
}
