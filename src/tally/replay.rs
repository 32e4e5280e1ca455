//! Totals out of the log: the same for a tally that is opened and for a look at somebody else's.

use super::error::TallyError;
use super::fold::Fold;
use super::totals::Totals;
use super::wire::{self, Kind, NotOurs};
use crate::error::ReadError;
use crate::format::AnchorRow;
use crate::position::Lsn;
use crate::read::Record;

/// The key of a tally's records begins so; its name follows.
pub const TALLY_KEY_PREFIX: &[u8] = b"\0tally\0";

pub(super) fn key_of(name: &str) -> Vec<u8> {
    [TALLY_KEY_PREFIX, name.as_bytes()].concat()
}

/// What was found.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Replayed {
    /// The last flush; 0 if there is none.
    pub flush: u64,
    /// The highest stamp of any value.
    pub stamp: u64,
    /// Behind the last record; where the shard begins if there is none.
    pub end: Lsn,
}

/// Adds up a tally's flushes, in the order of the log, from the anchor's place on.
///
/// Exact or an error: each flush is there once, in order and whole, or the totals are not told.
pub(super) fn replay<F: Fold>(
    name: &str,
    anchor: &AnchorRow,
    totals: &Totals<F>,
    records: impl Iterator<Item = Result<Record, ReadError>>,
) -> Result<Replayed, TallyError> {
    let key = key_of(name);
    let damaged = |what| TallyError::Damaged { name: name.to_owned(), what };
    let mut found = Replayed::default();
    for record in records {
        let record = record.map_err(TallyError::Read)?;
        if record.key() != key {
            continue;
        }
        let parsed = match wire::parse(anchor.id, record.payload()) {
            Ok(parsed) => parsed,
            Err(NotOurs::Foreign) => continue,
            Err(NotOurs::TooNew) => return Err(TallyError::TooNew { name: name.to_owned() }),
        };
        if found.flush != 0 && parsed.flush != found.flush && parsed.flush != found.flush + 1 {
            return Err(damaged("a flush is missing"));
        }
        found.flush = parsed.flush;
        found.end = Lsn(record.lsn().0 + 1);
        if let Kind::Totals { first, last } = parsed.kind {
            totals.forget(first, last);
        }
        for entry in parsed.entries() {
            let entry = entry.and_then(|(key, value)| Some((key, F::decode(value)?)));
            let (key, value) = entry.ok_or_else(|| damaged("an entry cannot be decoded"))?;
            found.stamp = found.stamp.max(F::stamp(&value));
            totals.replay(key, &value);
        }
    }
    if found.end < Lsn(anchor.complete) && anchor.complete > anchor.oldest {
        return Err(damaged("its totals are not all there"));
    }
    Ok(found)
}
