//! How a follower of a key that reads beside the log's owner goes on from shard to shard.

use std::sync::Arc;

use super::LogReader;
use super::beside::ForeignShard;
use super::beside_map::ForeignMap;
use crate::error::ReadError;
use crate::format::Stretch;
use crate::position::{Lsn, ShardId};
use crate::read::Source as _;

/// What a follower of a key goes by: it reads one stretch of the key's slot, and then the next one.
#[derive(Debug)]
pub(super) struct KeyOnward {
    pub key: Box<[u8]>,
    /// The version of the map that began the stretch which it reads now.
    version: u32,
    map: Arc<ForeignMap>,
    shards: Vec<Arc<ForeignShard>>,
}

impl KeyOnward {
    pub(super) fn new(log: &LogReader, key: &[u8], version: u32) -> KeyOnward {
        KeyOnward { key: key.into(), version, map: log.map.clone(), shards: log.shards.clone() }
    }

    pub(super) fn shard(&self, id: ShardId) -> Result<&Arc<ForeignShard>, ReadError> {
        self.shards.get(usize::from(id.0)).ok_or(ReadError::NoSuchShard(id))
    }

    /// Looks at the map again.
    pub(super) fn refresh(&self) -> Result<(), ReadError> {
        self.map.refreshed().map(drop)
    }

    /// How far its stretch is known to be durable, and whether nothing more comes there.
    pub(super) fn limit(&self, durable: Lsn, shard: &ForeignShard) -> (Lsn, bool) {
        let map = self.map.known();
        match map.stretch(map.slot(&self.key), self.version) {
            Some(Stretch { until: None, .. }) => (durable, false),
            Some(Stretch { until: Some(until), .. }) => {
                shard.note_durable(until);
                let durable = shard.durable();
                let end = until.within(&shard.view().epochs);
                (end.min(durable), end <= durable)
            }
            // It was truncated away: of what it has not seen of it, it is told.
            None => (shard.view().horizon.min(durable), true),
        }
    }

    /// The next stretch, and where it begins.
    pub(super) fn next(&mut self) -> Result<(Arc<ForeignShard>, Lsn), ReadError> {
        let map = self.map.known();
        let history = map.history(map.slot(&self.key));
        let next = history.iter().find(|stretch| stretch.version > self.version).copied();
        let Some(next) = next else {
            // The map by which it has gone on was taken back: it never came into force.
            let shard = history[history.len() - 1].shard;
            let kept = self.shard(shard)?.durable();
            return Err(ReadError::OtherHistory { shard, lsn: kept, kept });
        };
        let shard = self.shard(next.shard)?.clone();
        shard.refresh()?;
        let view = shard.view();
        self.version = next.version;
        Ok((shard, next.from.within(&view.epochs).max(view.horizon)))
    }
}
