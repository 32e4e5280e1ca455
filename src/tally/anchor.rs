//! What a tally must remember beside the log: who it is, and where whoever recovers it begins to read.

use std::io;
use std::sync::Arc;

use super::TallyError;
use super::fold::Fold;
use super::wire;
use crate::device::{Device, Directory};
use crate::format::{AnchorRow, SlotKind};
use crate::position::{LogId, Lsn, ShardId};
use crate::segment::{ManifestError, ManifestFiles, StoreView, is_name};
use crate::shard::Engine;

/// A tally's identity and the oldest flush that is still needed, kept in two slots on disk.
#[derive(Debug)]
pub(super) struct Anchor {
    files: ManifestFiles,
    row: AnchorRow,
}

fn prefix(name: &str) -> String {
    format!("tally-{name}")
}

/// The name of a tally one of whose two files is called so: either may be missing.
pub(super) fn name_of(file: &str) -> Option<&str> {
    let name = file.strip_prefix("tally-")?;
    name.strip_suffix(".manifest.0").or_else(|| name.strip_suffix(".manifest.1"))
}

/// What each of a tally's files says that can be read: one, if the other is missing or damaged.
///
/// # Errors
/// Where none can be, and the device is why: then nobody knows what the tally needs.
pub(super) fn rows(directory: &dyn Directory, name: &str) -> io::Result<Vec<AnchorRow>> {
    let bodies = ManifestFiles::valid(directory, &prefix(name), SlotKind::Tally)?;
    Ok(bodies.iter().filter_map(|body| decode(name, body).ok()).collect())
}

pub(super) fn fold_mark<F: Fold>() -> u32 {
    wire::range_hash(F::NAME.as_bytes())
}

pub(super) fn check_name(name: &str) -> Result<(), TallyError> {
    if is_name(name) { Ok(()) } else { Err(TallyError::Name(name.to_owned())) }
}

fn decode(name: &str, body: &[u8]) -> Result<AnchorRow, TallyError> {
    AnchorRow::decode(body).map_err(|_| TallyError::Damaged {
        name: name.to_owned(),
        what: "the file that says where it begins",
    })
}

fn told(name: &str, directory: &dyn Directory, error: ManifestError) -> TallyError {
    match error {
        ManifestError::Io { file, source, .. } => {
            let source = Arc::new(ManifestError::of_file(directory.path(), file, source));
            TallyError::Io { name: name.to_owned(), source }
        }
        ManifestError::TooNew => TallyError::TooNew { name: name.to_owned() },
        ManifestError::Damaged(_) | ManifestError::Missing | ManifestError::OfTwo => {
            TallyError::Damaged { name: name.to_owned(), what: "both files that say where it begins" }
        }
    }
}

/// What the files say, read beside whoever owns them; `None` if there are none.
pub(super) fn peek(directory: &dyn Directory, name: &str) -> Result<Option<AnchorRow>, TallyError> {
    match ManifestFiles::peek(directory, &prefix(name), SlotKind::Tally) {
        Ok(body) => decode(name, &body).map(Some),
        Err(ManifestError::Missing) => Ok(None),
        Err(error) => Err(told(name, directory, error)),
    }
}

/// Which epoch owns the last byte below `end`, and its seed; zeros if none does, or it is truncated.
fn epoch_below(view: &StoreView, end: Lsn) -> (u32, u32) {
    let last = end.0.checked_sub(1).map(Lsn).filter(|last| *last >= view.horizon);
    let row = last.and_then(|last| view.epochs.owner(last)).map(|(row, _)| *row);
    row.map_or((0, 0), |row| (row.epoch, view.seed_of(row.epoch)))
}

/// Whether what a tally remembers is of this log.
pub(super) fn check_log(name: &str, row: &AnchorRow, view: &StoreView) -> Result<(), TallyError> {
    let (log, own) = (LogId::from_bytes(row.log), view.public_id());
    match row.log == [0; 16] || log == own {
        true => Ok(()),
        false => Err(TallyError::OtherLog { name: name.to_owned(), log, own }),
    }
}

/// Whether the shard is the one that the tally was flushed to, and still has all that was durable then: either may have
/// been put back from a copy.
pub(super) fn check(name: &str, row: &AnchorRow, view: &StoreView, durable: Lsn) -> Result<(), TallyError> {
    let (name, shard, needed) = (|| name.to_owned(), ShardId(row.shard), Lsn(row.complete));
    check_log(&name(), row, view)?;
    if needed > durable {
        return Err(TallyError::AboveEnd { name: name(), shard, needed, end: durable });
    }
    // Nothing cuts what is durable and needed: an epoch that was there is there, unless all of it is truncated.
    let (epoch, seed) = epoch_below(view, needed);
    if row.epoch != 0 && epoch != 0 && (epoch, seed) != (row.epoch, row.seed) {
        return Err(TallyError::OtherHistory { name: name(), shard, needed });
    }
    Ok(())
}

impl Anchor {
    /// The tally of this name, or a new one that begins at what is durable of the shard.
    pub(super) fn open<F: Fold>(
        device: &dyn Device,
        directory: &dyn Directory,
        name: &str,
        engine: &Engine,
    ) -> Result<Anchor, TallyError> {
        let made = ManifestFiles::open_or_create(directory, &prefix(name), SlotKind::Tally, || {
            let (shard, end, view) = (engine.id, engine.durable(), engine.view());
            let (epoch, seed) = epoch_below(&view, end);
            let log = view.public_id().to_bytes();
            let mut id = [0; 8];
            device.random(&mut id)?;
            let (id, fold) = (u64::from_le_bytes(id), fold_mark::<F>());
            let (oldest, complete, shard) = (end.0, end.0, shard.0);
            let row = AnchorRow { id, oldest, complete, fold, shard, reserved: 0, log, epoch, seed };
            Ok(bytemuck::bytes_of(&row).to_vec())
        });
        let (files, body) = made.map_err(|error| told(name, directory, error))?;
        Ok(Anchor { files, row: decode(name, &body)? })
    }

    /// Whether a write has failed in such a way that no other may follow.
    pub(super) fn is_broken(&self) -> bool {
        self.files.is_broken()
    }

    pub(super) fn row(&self) -> AnchorRow {
        self.row
    }

    /// Durably: no flush before `oldest` is needed any more, since all totals stand from there to `complete`.
    pub(super) fn advance(&mut self, oldest: Lsn, complete: Lsn, view: &StoreView) -> io::Result<()> {
        let (epoch, seed) = epoch_below(view, complete);
        let log = view.public_id().to_bytes();
        let row = AnchorRow { oldest: oldest.0, complete: complete.0, log, epoch, seed, ..self.row };
        // One copy at a time: if it tears, the other one asks for a little more, which is still there.
        self.files.write_one(bytemuck::bytes_of(&row))?;
        self.row = row;
        Ok(())
    }
}

/// Takes a tally's files away, durably.
pub(super) fn remove(directory: &dyn Directory, name: &str) -> Result<(), TallyError> {
    match ManifestFiles::remove(directory, &prefix(name)).and_then(|()| directory.sync()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(TallyError::NoSuchTally(name.to_owned()))
        }
        Err(error) => Err(TallyError::Io { name: name.to_owned(), source: Arc::new(error) }),
    }
}
