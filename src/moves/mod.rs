//! Moving slots from shard to shard: the steps, in the order that `docs/sharding-protocol.md` gives, and the log's
//! manifest, in which the map of slots stands.
//!
//! What is closed and opened under those who append is the router's (`router/moving.rs`); where a shard ends, the
//! shard's (`shard/append/hand_over.rs`); what becomes of the map is decided in `router/map.rs`.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex};

use crate::device::{Calls, Device, Directory};
use crate::error::MoveError;
use crate::format::{LogManifest, ShardPlace, SlotMap};
use crate::notice::Notices;
use crate::position::ShardId;
use crate::read::Source;
use crate::router::{Handover, Router};
use crate::segment::ManifestFiles;
use crate::shard::{Engine, same};
use crate::sync::lock;

/// The log's manifest, to be written again with each change of the map. Whoever holds it moves slots; others wait.
#[derive(Debug)]
pub(crate) struct MapFile(Mutex<Kept>);

#[derive(Debug)]
struct Kept {
    files: ManifestFiles,
    manifest: LogManifest,
    /// The log is closed, and the files may be another process's.
    closed: bool,
}

/// What came of writing the map.
enum Unwritten {
    /// Nothing was touched.
    Nothing(io::Error),
    /// The disk may have it all the same.
    Perhaps(io::Error),
}

/// What a move works on: an open log.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    pub engines: &'a [Arc<Engine>],
    pub router: &'a Router,
    pub file: &'a MapFile,
    pub device: &'a Arc<dyn Device>,
    pub directory: &'a dyn Directory,
    pub calls: &'a Calls,
    pub notices: &'a Notices,
}

impl MapFile {
    pub(crate) fn new(files: ManifestFiles, manifest: LogManifest) -> MapFile {
        MapFile(Mutex::new(Kept { files, manifest, closed: false }))
    }

    /// Waits for a move under way; from now on nothing is written.
    pub(crate) fn close(&self) {
        lock(&self.0).closed = true;
    }
}

impl Kept {
    /// Writes the map, durably.
    fn write(&mut self, map: SlotMap) -> Result<(), Unwritten> {
        if self.closed {
            return Err(Unwritten::Nothing(io::Error::other("the log is closed")));
        }
        let next = LogManifest { map, ..self.manifest.clone() };
        let invalid = |defect| Unwritten::Nothing(io::Error::new(io::ErrorKind::InvalidData, defect));
        let body = next.checked().map_err(invalid)?;
        self.files.prepare(&body).map_err(Unwritten::Nothing)?;
        self.files.write(&body).map_err(Unwritten::Perhaps)?;
        self.manifest = next;
        Ok(())
    }
}

/// Slots that are closed, and open again where they were unless they were opened elsewhere.
struct Closed<'a> {
    router: &'a Router,
    slots: &'a [u32],
    is_open: bool,
}

impl<'a> Closed<'a> {
    fn new(router: &'a Router, slots: &'a [u32]) -> Closed<'a> {
        router.close(slots);
        Closed { router, slots, is_open: false }
    }

    fn open(mut self, map: SlotMap) {
        self.router.open(map, self.slots);
        self.is_open = true;
    }
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        if !self.is_open {
            self.router.reopen(self.slots);
        }
    }
}

/// Moves slots to a shard. Those that are there already stay.
pub(crate) fn move_slots(place: &Place<'_>, slots: &[u32], to: ShardId) -> Result<(), MoveError> {
    let target = place.engine(to)?;
    target.check_process()?;
    if let Some(&slot) = slots.iter().find(|slot| **slot >= place.router.slots()) {
        return Err(MoveError::NoSuchSlot { slot, slots: place.router.slots() });
    }
    if target.would_wait_for_itself() {
        return Err(MoveError::OwnThread);
    }
    let mut kept = lock(&place.file.0);
    if kept.closed {
        return Err(MoveError::Closed);
    }
    let present = place.router.map();
    let map = place.pruned(&present)?;
    let mut moving: Vec<u32> = slots.iter().copied().filter(|slot| map.shard_of(*slot) != to).collect();
    moving.sort_unstable();
    moving.dedup();
    if moving.is_empty() {
        return Ok(());
    }
    if let Some(&slot) = moving.iter().find(|slot| !map.may_move(**slot)) {
        let oldest = map.history(slot)[0].shard;
        return Err(MoveError::HistoryFull { slot, oldest });
    }
    let closed = Closed::new(place.router, &moving);
    let ends = place.settled_ends(&map, &moving, target)?;
    let handovers: Vec<Handover> = moving
        .iter()
        .map(|&slot| {
            let until = ends[usize::from(map.shard_of(slot).0)].expect("the end of each shard was noted");
            let from = ends[usize::from(to.0)].expect("the target's, too");
            Handover { slot, until, to, from }
        })
        .collect();
    let next = map.moved(place.nonce()?, &handovers);
    place.write(&mut kept, &next, &map, &handovers)?;
    let version = next.version;
    closed.open(next);
    for &slot in &moving {
        // Followers of a key go on where its slot is now.
        place.engines[usize::from(map.shard_of(slot).0)].wake_followers();
    }
    if let Err(error) = target.note_map_version(version) {
        let told = crate::error::error_chain(&error);
        place.notices.warn(format!(
            "shard {to}: that slots were moved there could not be noted ({told}); it matters only if the log's own \
             manifest is restored from an older backup"
        ));
    }
    Ok(())
}

impl<'a> Place<'a> {
    fn engine(&self, shard: ShardId) -> Result<&'a Arc<Engine>, MoveError> {
        self.engines.get(usize::from(shard.0)).ok_or(MoveError::NoSuchShard(shard))
    }

    fn nonce(&self) -> Result<u64, MoveError> {
        let mut nonce = [0; 8];
        self.device.random(&mut nonce).map_err(|error| MoveError::io("drawing a nonce", error))?;
        Ok(u64::from_le_bytes(nonce))
    }

    /// The map without what is truncated away.
    fn pruned(&self, map: &SlotMap) -> Result<SlotMap, MoveError> {
        let horizons: Vec<ShardPlace> = self.engines.iter().map(|engine| horizon(engine)).collect();
        Ok(map.pruned(self.nonce()?, &horizons).unwrap_or_else(|| map.clone()))
    }

    /// The ends of the shards that take part, whose records below are durable: of those that the slots come from and, since
    /// records may be put by hand into any shard, of the one they go to.
    fn settled_ends(
        &self,
        map: &SlotMap,
        slots: &[u32],
        target: &Engine,
    ) -> Result<Vec<Option<ShardPlace>>, MoveError> {
        let mut ends = vec![None; self.engines.len()];
        for shard in slots.iter().map(|slot| map.shard_of(*slot)).chain([target.id]) {
            let end = &mut ends[usize::from(shard.0)];
            if end.is_none() {
                *end = Some(self.engine(shard)?.end_of_reserved()?);
            }
        }
        for (engine, end) in self.engines.iter().zip(&ends) {
            if let Some(end) = end.filter(|_| engine.id != target.id) {
                Source::make_durable(engine.as_ref(), end.lsn).map_err(MoveError::not_durable)?;
            }
        }
        Ok(ends)
    }

    /// Writes the map. Where it is not known whether that has happened, the shards that take part stop: what is appended to
    /// one of them now might be the slots' at the next open, or might not.
    fn write(
        &self,
        kept: &mut Kept,
        next: &SlotMap,
        map: &SlotMap,
        handovers: &[Handover],
    ) -> Result<(), MoveError> {
        let out = self.calls.begin();
        let written = kept.write(next.clone());
        drop(out);
        let error = match written {
            Ok(()) => return Ok(()),
            Err(Unwritten::Nothing(error)) => error,
            Err(Unwritten::Perhaps(error)) => {
                let shards = handovers.iter().flat_map(|moved| [map.shard_of(moved.slot), moved.to]);
                for shard in shards.collect::<BTreeSet<ShardId>>() {
                    let path = self.directory.path().to_owned();
                    let tasks = self.engine(shard)?.stop("writing the map of slots", path, same(&error));
                    crate::sync::wake(tasks);
                }
                error
            }
        };
        Err(MoveError::io("writing the log's manifest", error))
    }
}

/// Where a shard begins.
fn horizon(engine: &Engine) -> ShardPlace {
    let view = engine.view();
    let owned = view.epochs.next_owned(view.horizon).and_then(|lsn| view.epochs.owner(lsn));
    let row = owned.map(|(row, _)| row).or(view.epochs.last());
    ShardPlace { epoch: row.map_or(0, |row| row.epoch), lsn: view.horizon }
}

#[cfg(all(test, not(sawmill_loom)))]
mod tests;
