//! The tallies of a log: opened, found again, held against truncation, and ended with it.

use std::any::Any;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use super::anchor::{self, Anchor};
use super::error::{TallyError, UpdateError};
use super::flush::Core;
use super::fold::Fold;
use super::ledger::{Bounds, Ledger};
use super::replay::replay;
use super::totals::Totals;
use super::{Limits, Tally, TallyOptions, wire};
use crate::device::{Device, Directory};
use crate::error::ReadError;
use crate::format::AnchorRow;
use crate::notice::Notices;
use crate::position::{Lsn, ShardId};
use crate::read::{Range, Record, Source};
use crate::shard::Engine;
use crate::sync::lock;

/// The tallies of a log that are open now: one per name.
pub(crate) type Registry = Arc<Mutex<Open>>;

/// See [`Registry`].
#[derive(Debug, Default)]
pub(crate) struct Open {
    tallies: Vec<Arc<dyn Flushes>>,
    /// The log is closed, and no tally is opened any more.
    ended: bool,
}

/// A tally, whatever its fold.
trait Flushes: Any + Send + Sync + std::fmt::Debug {
    fn name(&self) -> &str;
    fn lags(&self) -> bool;
    fn ask_checkpoint(&self);
    fn end(&self) -> Result<(), UpdateError>;
    fn any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}

impl<F: Fold> Flushes for Core<F> {
    fn name(&self) -> &str {
        &self.name
    }

    fn lags(&self) -> bool {
        self.lags()
    }

    fn ask_checkpoint(&self) {
        self.ask_checkpoint();
    }

    fn end(&self) -> Result<(), UpdateError> {
        self.end()
    }

    fn any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

/// Writes totals anew where recovery would have to read far. Called by the maintenance thread.
pub(crate) fn ask_checkpoints(registry: &Registry) {
    // Not waited for: whoever has it may be ending a tally, whose last flush may need a segment of the maintenance
    // thread's.
    let Ok(open) = registry.try_lock().map(|open| open.tallies.clone()) else { return };
    open.iter().filter(|tally| tally.lags()).for_each(|tally| tally.ask_checkpoint());
}

/// Flushes and ends all tallies, when the log is closed and still takes records.
pub(crate) fn end_all(registry: &Registry) -> Result<(), UpdateError> {
    let open = {
        let mut open = lock(registry);
        open.ended = true;
        open.tallies.clone()
    };
    open.iter().map(|tally| tally.end()).fold(Ok(()), Result::and)
}

/// Lets no truncation go past what the tallies of a log need, whether they are opened or not.
///
/// One whose files are damaged cannot say; it says so when it is opened.
pub(crate) fn hold_all(directory: &dyn Directory, engines: &[Arc<Engine>]) -> std::io::Result<()> {
    let files = directory.list()?;
    let names: BTreeSet<&str> = files.iter().filter_map(|file| anchor::name_of(file)).collect();
    for name in names {
        let told = |why: String| engines[0].tell_kept_for_tally(name, &why);
        let rows = match anchor::rows(directory, name) {
            Ok(rows) => rows,
            Err(error) => {
                // It may need anything: nothing is given up until it can be asked.
                engines.iter().for_each(|engine| engine.pin(name, Lsn::MIN, Lsn::MAX));
                told(format!("it cannot be read: {error}"));
                continue;
            }
        };
        // What another log's tally needs is nothing of this one's; it says so when it is opened.
        let is_own = |row: &AnchorRow| anchor::check_log(name, row, &engines[0].view()).is_ok();
        let rows: Vec<AnchorRow> = rows.into_iter().filter(is_own).collect();
        let engine = rows.first().and_then(|row| engines.get(usize::from(row.shard)));
        if let Some((engine, (oldest, complete))) =
            engine.and_then(|engine| Some((engine, needs(name, engine, &rows)?)))
        {
            engine.pin(name, oldest, complete);
            if let Some(error) = refusal(name, engine, &rows) {
                told(error.to_string());
            }
        }
    }
    Ok(())
}

/// Why one of its anchors is of another moment than the shard, if one is.
fn refusal(name: &str, engine: &Engine, rows: &[AnchorRow]) -> Option<TallyError> {
    let (view, durable) = (engine.view(), engine.durable());
    rows.iter().find_map(|row| anchor::check(name, row, &view, durable).err())
}

/// What the log must keep for a tally: as much as either copy of its anchor asks for, since the other one may be
/// lost when it is needed. Where one is of another moment than the shard, all: the anchor of the shard's moment, if it is put
/// back too, asks for what nobody knows now.
fn needs(name: &str, engine: &Engine, rows: &[AnchorRow]) -> Option<(Lsn, Lsn)> {
    let complete = rows.iter().map(|row| Lsn(row.complete)).max()?;
    let newest = rows.iter().map(|row| Lsn(row.oldest)).max()?;
    // A copy that asks for what is gone already could not be used, and holds up nothing.
    let horizon = engine.view().horizon;
    if refusal(name, engine, rows).is_some() {
        return Some((Lsn::MIN, complete));
    }
    let oldest = rows.iter().map(|row| Lsn(row.oldest)).filter(|oldest| *oldest >= horizon).min();
    Some((oldest.unwrap_or(newest), complete))
}

/// Where and with what a tally is opened.
pub(crate) struct Place<'a> {
    pub engines: &'a [Arc<Engine>],
    pub directory: &'a dyn Directory,
    pub device: &'a Arc<dyn Device>,
    pub notices: &'a Arc<Notices>,
}

/// The tally of this name: the one that is open, the one in the log, or a new one.
pub(crate) fn open<F: Fold>(
    name: &str,
    options: &TallyOptions,
    registry: &Registry,
    place: &Place<'_>,
) -> Result<Tally<F>, TallyError> {
    anchor::check_name(name)?;
    let other_fold = || TallyError::OtherFold { name: name.to_owned(), fold: F::NAME };
    let mut open = lock(registry);
    if open.ended {
        return Err(TallyError::Closed);
    }
    if let Some(tally) = open.tallies.iter().find(|tally| tally.name() == name) {
        return tally.clone().any().downcast().map(Tally).map_err(|_| other_fold());
    }
    // Tallies of different names spread over the shards; one stays where it is.
    let shard = usize::from(wire::range_hash(name.as_bytes()) as u16) % place.engines.len();
    let limits =
        Limits::of(options, place.engines[shard].record_bytes(), place.engines[shard].segment_bytes())?;
    // A new one's beginning must not be truncated before it is known: nothing is, for this moment.
    let rows = anchor::rows(place.directory, name)
        .map_err(|error| TallyError::Io { name: name.to_owned(), source: Arc::new(error) })?;
    let is_new = rows.is_empty();
    if is_new {
        place.engines[shard].pin(name, Lsn::MIN, Lsn::MAX);
    }
    let anchor = Anchor::open::<F>(place.device.as_ref(), place.directory, name, &place.engines[shard]);
    let anchor = anchor.inspect_err(|_| {
        if is_new {
            place.engines[shard].unpin(name);
        }
    })?;
    let row = anchor.row();
    let unpin = |_: &TallyError| place.engines.iter().for_each(|engine| engine.unpin(name));
    anchor::check_log(name, &row, &place.engines[0].view()).inspect_err(unpin)?;
    let engine = engine_of(name, &row, place.engines)?;
    let rows = if is_new { vec![row] } else { rows };
    let (oldest, complete) = needs(name, &engine, &rows).expect("there is a copy");
    // Of all shards, where it could not be asked before.
    place.engines.iter().filter(|other| other.id != engine.id).for_each(|other| other.unpin(name));
    engine.pin(name, oldest, complete);
    if row.fold != anchor::fold_mark::<F>() {
        return Err(other_fold());
    }
    let ledger = Ledger::new(Bounds { bytes: limits.bytes, keys: limits.keys });
    let records = needed(name, &row, engine.clone())?;
    let found = replay::<F>(name, &row, ledger.totals(), records)?;
    ledger.begin(found.flush);
    engine.pin(name, oldest, found.end.max(complete));
    let (device, notices) = (place.device.clone(), place.notices.clone());
    let core = Arc::new(Core::new(name, ledger, limits, engine, device, notices, (anchor, oldest), found));
    if core.is_threaded() {
        core.start().map_err(|error| TallyError::Io { name: name.to_owned(), source: Arc::new(error) })?;
    }
    open.tallies.push(core.clone());
    Ok(Tally(core))
}

fn engine_of(name: &str, row: &AnchorRow, engines: &[Arc<Engine>]) -> Result<Arc<Engine>, TallyError> {
    let engine = engines.get(usize::from(row.shard)).cloned();
    engine.ok_or_else(|| TallyError::Damaged { name: name.to_owned(), what: "its shard does not exist" })
}

/// The records from a tally's oldest flush that is needed on.
fn needed(
    name: &str,
    row: &AnchorRow,
    source: Arc<dyn Source>,
) -> Result<impl Iterator<Item = Result<Record, ReadError>>, TallyError> {
    let (oldest, horizon, shard) = (Lsn(row.oldest), source.view().horizon, source.id());
    anchor::check(name, row, &source.view(), source.durable())?;
    if oldest < horizon {
        return Err(TallyError::Truncated { name: name.to_owned(), shard, needed: oldest, horizon });
    }
    Range::new(source, &(oldest..)).map_err(TallyError::Read)
}

/// How often the totals of somebody else's tally are read anew when they are moved on meanwhile.
const PEEKS_MAX: usize = 5;

/// The durable totals of a tally of a log that somebody else owns, or nobody.
///
/// `source_of` is told up to where the anchor testifies that the shard is durable.
pub(crate) fn peek<F: Fold>(
    name: &str,
    directory: &dyn Directory,
    source_of: impl Fn(ShardId, Lsn) -> Result<Option<Arc<dyn Source>>, ReadError>,
) -> Result<Vec<(Vec<u8>, F::Total)>, TallyError> {
    anchor::check_name(name)?;
    let anchor = || anchor::peek(directory, name)?.ok_or_else(|| TallyError::NoSuchTally(name.to_owned()));
    let mut row = anchor()?;
    for _ in 0..PEEKS_MAX {
        match peek_from::<F>(name, &row, &source_of) {
            // What it began with may have been truncated meanwhile, since something later does.
            Err(error) if anchor()? == row => return Err(error),
            Err(_) => row = anchor()?,
            totals => return totals,
        }
    }
    peek_from::<F>(name, &row, &source_of)
}

fn peek_from<F: Fold>(
    name: &str,
    row: &AnchorRow,
    source_of: impl Fn(ShardId, Lsn) -> Result<Option<Arc<dyn Source>>, ReadError>,
) -> Result<Vec<(Vec<u8>, F::Total)>, TallyError> {
    if row.fold != anchor::fold_mark::<F>() {
        return Err(TallyError::OtherFold { name: name.to_owned(), fold: F::NAME });
    }
    let no_shard = || TallyError::Damaged { name: name.to_owned(), what: "its shard does not exist" };
    let source = source_of(ShardId(row.shard), Lsn(row.complete)).map_err(TallyError::Read)?;
    let source = source.ok_or_else(no_shard)?;
    let totals = Totals::<F>::new(1 << 20, &hashbrown::DefaultHashBuilder::default());
    replay::<F>(name, row, &totals, needed(name, row, source)?)?;
    let mut all = Vec::new();
    totals.for_each(None, |key, value| all.extend(F::total(value).map(|total| (key.to_vec(), total))));
    all.sort_unstable_by(|one, other| one.0.cmp(&other.0));
    Ok(all)
}

/// Forgets a tally: its name is free, and its flushes hold up no truncation any more.
pub(crate) fn remove(
    name: &str,
    registry: &Registry,
    directory: &dyn Directory,
    engines: &[Arc<Engine>],
) -> Result<(), TallyError> {
    anchor::check_name(name)?;
    let mut open = lock(registry);
    if open.ended {
        return Err(TallyError::Closed);
    }
    if let Some(index) = open.tallies.iter().position(|tally| tally.name() == name) {
        // A tally that has failed can be removed, too.
        let _ = open.tallies.swap_remove(index).end();
    }
    anchor::remove(directory, name)?;
    engines.iter().for_each(|engine| engine.unpin(name));
    Ok(())
}
