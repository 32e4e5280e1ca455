//! Recovery of one shard, up to the verdict: nothing is written.

use std::path::Path;
use std::sync::Arc;

use crate::device::Directory;
use crate::error::OpenError;
use crate::format::{LogManifest, SlotMap};
use crate::options::{Config, OnDamage};
use crate::position::{Lsn, ShardId};
use crate::recovery::{Facts, Verdict, beyond, judge, scan};
use crate::segment::{SegmentReader, ShardStore, segment_name};

/// A shard that has been judged fit to be opened.
pub(super) struct Judged {
    pub id: ShardId,
    pub store: ShardStore,
    pub cut: Lsn,
    /// Where the new epoch starts.
    pub start: Lsn,
    pub timestamp: u64,
    /// The name of the manifest's copy that is not what it should be.
    pub stale_copy: Option<String>,
    /// What it was opened past.
    pub damage: Option<String>,
}

pub(super) fn judge_shard(
    log_path: &Path,
    directory: &Arc<dyn Directory>,
    log: &LogManifest,
    shard: u16,
    config: &Config,
) -> Result<Judged, OpenError> {
    let path = directory.path();
    let io = |operation| OpenError::at(operation, path);
    let (mut store, missing, stale_copy) =
        ShardStore::open(directory.clone(), config.space.segment_bytes, config.open_files)
            .map_err(OpenError::manifest(path))?;
    let manifest = store.manifest();
    if manifest.log_id != log.log_id || manifest.shard != shard {
        let is_of_log = manifest.log_id == log.log_id;
        return Err(OpenError::other_shard(path, log_path, is_of_log, manifest.shard, store.manifest_name()));
    }
    let unsettled = || store.segments().iter().filter(|segment| segment.end() > manifest.checkpoint);
    for segment in unsettled() {
        // What a dead owner left in the cache is made durable before it is believed, and what its
        // failed sync left there must not be seen.
        let file = path.join(segment_name(segment.row.file));
        segment.file.sync().map_err(OpenError::at("syncing a segment", &file))?;
        segment.file.forget_cache().map_err(OpenError::at("reading past the cache", &file))?;
    }
    let largest = unsettled().map(|segment| segment.row.bytes).max().unwrap_or(0);
    let read_bytes = config.read_bytes.min(usize::try_from(largest).unwrap_or(usize::MAX));
    let mut reader = SegmentReader::for_scan(config.block_bytes, read_bytes).map_err(io("taking memory"))?;
    let scan = scan(&mut reader, store.segments(), manifest, config.block_bytes);
    let id = ShardId(shard);
    let facts = Facts::gather(&mut reader, store.segments(), manifest, &missing, store.newer(), &scan);
    match judge(&facts) {
        Verdict::Tail { cut } => {
            let timestamp = manifest.timestamp.max(scan.timestamp);
            Ok(Judged { id, cut, start: scan.end, timestamp, stale_copy, damage: None, store })
        }
        Verdict::Damaged { lsn, cause } if config.on_damage != OnDamage::Refuse => {
            let (start, epoch, timestamp) = beyond(&mut reader, &store.all_segments(), manifest, &scan);
            store.pass_damage(epoch);
            let damage = Some(format!("shard {shard} is damaged at LSN {lsn}: {cause}"));
            Ok(Judged { id, cut: start, start, timestamp, stale_copy, damage, store })
        }
        Verdict::Damaged { lsn, cause } => Err(OpenError::Damaged { shard: id, lsn, cause }),
    }
}

/// Holds the log's map of slots against its shards, any of which may have been put back from an older copy.
///
/// # Errors
/// If a shard knows of slots that were moved to it, of which the map does not tell.
pub(super) fn check_map(path: &Path, map: &SlotMap, shards: &mut [Judged]) -> Result<(), OpenError> {
    for judged in shards {
        let known = judged.store.manifest().map_version;
        if known > map.version {
            let (version, shard) = (map.version, judged.id);
            return Err(OpenError::MapOlder { path: path.to_owned(), version, shard, known });
        }
        // Of one that was put back, so that what is appended there now lies behind all that the map tells of it.
        let named = map.histories.values().flatten().filter(|stretch| stretch.shard == judged.id);
        let epochs = named.flat_map(|stretch| [stretch.from.epoch, stretch.until.unwrap_or_default().epoch]);
        judged.store.pass_epochs(epochs.max().unwrap_or(0), map.version);
    }
    Ok(())
}
