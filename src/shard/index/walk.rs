//! The keys of a shard's blocks, one block after the other.

use crate::format::{BlockHeader, Defect, Identity, KeyHash, RawRecord, RecordFlags, Records};
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
    pub records: Vec<(KeyHash, Lsn)>,
}

/// A block with its bytes, and the end of what its epoch owns.
struct Read<'b> {
    header: BlockHeader,
    bytes: &'b [u8],
    owned_end: Lsn,
}

/// A key of which a part was seen.
struct Begun {
    lsn: Lsn,
    key_bytes: usize,
    key: Vec<u8>,
}

impl Begun {
    fn add(&mut self, body: &[u8]) {
        let more = body.len().min(self.key_bytes - self.key.len());
        self.key.extend_from_slice(&body[..more]);
    }

    fn is_whole(&self) -> bool {
        self.key.len() == self.key_bytes
    }
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
            let RawRecord { lsn, header, body } = record?;
            if header.key_bytes == 0 || header.flags.has(RecordFlags::REST) || lsn >= owned_end {
                continue;
            }
            match body.get(..usize::from(header.key_bytes)) {
                Some(key) => records.push((KeyHash::of(&log_id, key), lsn)),
                None => {
                    let key_bytes = usize::from(header.key_bytes);
                    begun = Some(Begun { lsn, key_bytes, key: body.to_vec() });
                }
            }
        }
        if let Some(mut begun) = begun {
            if !self.finish_key(&mut begun, header.end())? {
                return Ok(None);
            }
            records.push((KeyHash::of(&log_id, &begun.key), begun.lsn));
        }
        Ok(Some(Walked { identity: header.identity(), lsn: header.lsn(), end: header.end(), records }))
    }

    /// Reads the rest of a key that lies across blocks, the next of which stands at `at`; false if it is not there.
    fn finish_key(&mut self, begun: &mut Begun, mut at: Lsn) -> Result<bool, Defect> {
        while !begun.is_whole() {
            let Some(Read { header, bytes, .. }) = self.read(at)? else { return Ok(false) };
            at = header.end();
            for record in Records::checked_before(&header, bytes)? {
                let record = record?;
                if !record.header.flags.has(RecordFlags::REST) {
                    return Err(Defect::Length);
                }
                begun.add(record.body);
                if begun.is_whole() {
                    break;
                }
            }
        }
        Ok(true)
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
