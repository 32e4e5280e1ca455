//! What a flush looks like in the log: `docs/format.md`, section "Tallies", byte by byte.
//!
//! A flush is one batch of records, whole or absent. The first ones hold changes, then come slices of
//! totals: all keys whose hash lies in a range, with what they come to, this flush included. Whoever
//! reads from the start of a round of slices on needs nothing older.

use super::fold::{Fold, put_unsigned, take_unsigned};
use crate::format::TallyHeader;

const MAGIC: [u8; 4] = *b"STLY";
const VERSION: u16 = 1;

/// What a record of a flush holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Changes,
    Totals { first: u32, last: u32 },
}

/// By which keys are put into ranges. Part of the format.
pub(super) fn range_hash(key: &[u8]) -> u32 {
    crc32c::crc32c(key)
}

pub(super) fn begin(kind: Kind, id: u64, flush: u64) -> Vec<u8> {
    let (kind, first, last) = match kind {
        Kind::Changes => (1, 0, 0),
        Kind::Totals { first, last } => (2, first, last),
    };
    bytemuck::bytes_of(&TallyHeader { magic: MAGIC, version: VERSION, kind, id, flush, first, last }).to_vec()
}

pub(super) fn put_entry<F: Fold>(record: &mut Vec<u8>, key: &[u8], value: &F::Value) {
    put_unsigned(key.len() as u128, record);
    record.extend_from_slice(key);
    // The length goes before the value and is known behind it: almost always one byte.
    let length_at = record.len();
    record.push(0);
    F::encode(value, record);
    let length = record.len() - length_at - 1;
    if length < 0x80 {
        record[length_at] = length as u8;
    } else {
        let mut prefix = Vec::new();
        put_unsigned(length as u128, &mut prefix);
        record.splice(length_at..=length_at, prefix);
    }
}

/// A record of a flush.
#[derive(Debug)]
pub(super) struct Parsed<'a> {
    pub flush: u64,
    pub kind: Kind,
    entries: &'a [u8],
}

/// Why a record is not what a flush of this tally writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotOurs {
    /// Somebody else's: of another tally that had the name, or no flush at all.
    Foreign,
    /// By a newer version.
    TooNew,
}

/// Looks at a record with a tally's key.
pub(super) fn parse(id: u64, payload: &[u8]) -> Result<Parsed<'_>, NotOurs> {
    let (header, entries) = payload.split_at_checked(size_of::<TallyHeader>()).ok_or(NotOurs::Foreign)?;
    let header: TallyHeader = bytemuck::pod_read_unaligned(header);
    if header.magic != MAGIC || header.id != id {
        return Err(NotOurs::Foreign);
    }
    let kind = match (header.version, header.kind) {
        (VERSION, 1) => Kind::Changes,
        (VERSION, 2) if header.first <= header.last => {
            Kind::Totals { first: header.first, last: header.last }
        }
        _ => return Err(NotOurs::TooNew),
    };
    Ok(Parsed { flush: header.flush, kind, entries })
}

/// Any bytes as a flush and as its entries, and each value as each of ours: for the fuzzer.
#[cfg(any(test, feature = "simulation"))]
pub(crate) fn decode_any(bytes: &[u8]) {
    use super::fold::{Count, Last, Max, Min, Sum};
    let _ = parse(0, bytes);
    let payload = [&begin(Kind::Changes, 1, 1)[..], bytes].concat();
    let parsed = parse(1, &payload).expect("the header is right");
    for (_, value) in parsed.entries().flatten() {
        let _ = (Sum::decode(value), Count::decode(value), Min::decode(value), Max::decode(value));
        let _ = Last::decode(value);
    }
}

impl<'a> Parsed<'a> {
    /// Key and encoded value of each entry; `None` in place of what cannot be one.
    pub(super) fn entries(&self) -> impl Iterator<Item = Option<(&'a [u8], &'a [u8])>> + use<'a> {
        let mut rest = self.entries;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let mut part = || {
                let length = usize::try_from(take_unsigned(&mut rest)?).ok()?;
                let (part, behind) = rest.split_at_checked(length)?;
                rest = behind;
                Some(part)
            };
            let entry = part().and_then(|key| Some((key, part()?)));
            if entry.is_none() {
                rest = &[];
            }
            Some(entry)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::fold::{Last, Sum};
    use super::*;

    #[test]
    fn a_record_comes_back() {
        let mut record = begin(Kind::Totals { first: 7, last: 9 }, 42, 3);
        put_entry::<Sum>(&mut record, b"", &-5);
        put_entry::<Sum>(&mut record, &[1; 300], &(1 << 80));
        let parsed = parse(42, &record).unwrap();
        assert_eq!((parsed.flush, parsed.kind), (3, Kind::Totals { first: 7, last: 9 }));
        let entries: Vec<_> = parsed.entries().map(Option::unwrap).collect();
        assert_eq!(entries[0].0, b"");
        assert_eq!(Sum::decode(entries[0].1), Some(-5));
        assert_eq!((entries[1].0, Sum::decode(entries[1].1)), (&[1; 300][..], Some(1 << 80)));
        assert_eq!(entries.len(), 2);
    }

    #[test]
    fn a_long_value_comes_back() {
        let mut record = begin(Kind::Changes, 1, 1);
        put_entry::<Last>(&mut record, b"key", &(9, vec![7; 1_000]));
        let parsed = parse(1, &record).unwrap();
        let entry = parsed.entries().next().unwrap().unwrap();
        assert_eq!(Last::decode(entry.1), Some((9, vec![7; 1_000])));
    }

    #[test]
    fn what_is_cut_short_or_foreign_is_told() {
        let mut record = begin(Kind::Changes, 1, 1);
        put_entry::<Sum>(&mut record, b"key", &1);
        let parsed = parse(1, &record[..record.len() - 1]).unwrap();
        assert_eq!(parsed.entries().collect::<Vec<_>>(), [None]);
        assert_eq!(parse(2, &record).unwrap_err(), NotOurs::Foreign);
        assert_eq!(parse(1, &record[..20]).unwrap_err(), NotOurs::Foreign);
        record[4] = 9;
        assert_eq!(parse(1, &record).unwrap_err(), NotOurs::TooNew);
    }
}
