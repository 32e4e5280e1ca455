//! The keys of a shard's blocks, one block after the other.

use crate::format::{
    BlockHeader, Defect, Identity, KeyHash, RawRecord, RecordFlags, RecordHeader, Records, WholeKeyHash,
};
use crate::position::Lsn;
use crate::segment::{SegmentReader, StoreView, continuations};

/// Walks the blocks that a view has, below what is durable.
pub(in crate::shard) struct Walk<'a> {
    pub view: &'a StoreView,
    pub reader: &'a mut SegmentReader,
    pub block_bytes: u32,
    /// Blocks that end above it are not read.
    pub durable: Lsn,
}

/// A block, and the keys of the records that begin in it.
pub(in crate::shard) struct Walked {
    pub identity: Identity,
    pub lsn: Lsn,
    pub end: Lsn,
    /// Up to where its epoch owns the log.
    pub owned_end: Lsn,
    pub records: Vec<(Name, Lsn)>,
}

/// A block with its bytes, and the end of what its epoch owns.
struct Read<'b> {
    header: BlockHeader,
    bytes: &'b [u8],
    owned_end: Lsn,
}

/// A record of whose key and id a part was seen.
#[derive(Debug)]
pub(in crate::shard) struct Begun {
    pub lsn: Lsn,
    header: RecordHeader,
    body: Vec<u8>,
}

impl Begun {
    pub(in crate::shard) fn new(record: &RawRecord<'_>) -> Begun {
        let mut begun = Begun { lsn: record.lsn, header: record.header, body: Vec::new() };
        begun.add(record.body);
        begun
    }

    pub(in crate::shard) fn add(&mut self, body: &[u8]) {
        let more = body.len().min(self.header.edges().1 - self.body.len());
        self.body.extend_from_slice(&body[..more]);
    }

    /// What it is called, if all of that was seen.
    pub(in crate::shard) fn name(&self, log_id: &[u8; 16]) -> Option<Name> {
        Name::of(log_id, &self.header, &self.body)
    }
}

/// What a record is called: by its key, and by its id if it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::shard) struct Name {
    pub key: WholeKeyHash,
    pub id: Option<u128>,
}

impl Name {
    /// `None` if the key or the id is not in this part of the body.
    pub(in crate::shard) fn of(log_id: &[u8; 16], header: &RecordHeader, body: &[u8]) -> Option<Name> {
        let (key_end, id_end) = header.edges();
        let id = body.get(key_end..id_end)?.try_into().ok().map(u128::from_le_bytes);
        Some(Name { key: WholeKeyHash::of(log_id, &body[..key_end]), id })
    }
}

/// What all records with an id are found under, beside their keys.
pub(in crate::shard) fn with_id(log_id: &[u8; 16]) -> KeyHash {
    // Records without a key are under none, so the empty one is free.
    KeyHash::of(log_id, b"")
}

impl Walk<'_> {
    /// The block that stands at `at`, or the next one if none can; `None` where what is durable ends.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub(in crate::shard) fn block(&mut self, at: Lsn) -> Result<Option<Walked>, Defect> {
        let log_id = self.view.log_id;
        let Some(Read { header, bytes, owned_end }) = self.read(at)? else { return Ok(None) };
        let (mut records, mut begun) = (Vec::with_capacity(header.record_count as usize), None);
        for record in Records::checked_before(&header, bytes)? {
            let record = record?;
            let RawRecord { lsn, header, body } = record;
            if header.key_bytes == 0 || header.flags.has(RecordFlags::REST) || lsn >= owned_end {
                continue;
            }
            match Name::of(&log_id, &header, body) {
                Some(name) => records.push((name, lsn)),
                None => begun = Some(Begun::new(&record)),
            }
        }
        if let Some(mut begun) = begun {
            let Some(name) = self.finish(&mut begun, header.end())? else { return Ok(None) };
            records.push((name, begun.lsn));
        }
        let (identity, lsn, end) = (header.identity(), header.lsn(), header.end());
        Ok(Some(Walked { identity, lsn, end, owned_end, records }))
    }

    /// Reads on where a key lies across blocks, the next of which stands at `at`; `None` if it is not there.
    fn finish(&mut self, begun: &mut Begun, mut at: Lsn) -> Result<Option<Name>, Defect> {
        let log_id = self.view.log_id;
        loop {
            let Some(Read { header, bytes, .. }) = self.read(at)? else { return Ok(None) };
            at = header.end();
            for record in Records::checked_before(&header, bytes)? {
                let record = record?;
                if !record.header.flags.has(RecordFlags::REST) {
                    return Err(Defect::Length);
                }
                begun.add(record.body);
                if let Some(name) = begun.name(&log_id) {
                    return Ok(Some(name));
                }
            }
        }
    }

    fn read(&mut self, mut at: Lsn) -> Result<Option<Read<'_>>, Defect> {
        let Some((row, owned_end)) = self.view.epochs.owner(at).or_else(|| {
            at = self.view.epochs.next_owned(at)?;
            self.view.epochs.owner(at)
        }) else {
            return Ok(None);
        };
        if at >= self.durable {
            return Ok(None);
        }
        let identity = self.view.identity(row);
        let (mut defect, mut found) = (Defect::Short, None);
        for (segment, lsn) in continuations(&self.view.segments, at, self.block_bytes) {
            let chained = (lsn != at).then_some(at);
            match self.reader.block(segment, &identity, lsn, chained) {
                Ok((header, _)) => {
                    found = Some((segment, header));
                    break;
                }
                Err(seen) if lsn == at => defect = seen,
                Err(_) => {}
            }
        }
        let (segment, header) = found.ok_or(defect)?;
        if header.end() > self.durable {
            return Ok(None);
        }
        let bytes = (header.end().0 - header.lsn) as usize;
        let bytes = self.reader.bytes(segment, header.lsn - segment.row.base, bytes)?;
        Ok(Some(Read { header, bytes, owned_end }))
    }
}
