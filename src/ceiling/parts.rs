//! The engine's parts, each alone: what one step of it costs (`cargo bench --bench parts --features ceiling`).

use crate::committer::{Action, Committer, CommitterConfig, SealThreshold, Sealed, SyncMethod};
use crate::format::{
    BLOCK_HEADER_BYTES, BlockHeader, BlockSeal, Identity, RecordHeader, Records, encode_record, encoded_bytes,
};
use crate::pool::{BlockPlace, Claim, Pool, Sequence, Urgency};
use crate::position::Lsn;
use crate::stats::{Accepted, Recorder};
use crate::time::Nanos;

const IDENTITY: Identity = Identity { log_id: [7; 16], shard: 0, epoch: 1, nonce: 9 };

/// A block that is filled with records and checked.
#[derive(Debug)]
pub struct Block {
    bytes: Vec<u8>,
    used: usize,
    records: u32,
}

impl Block {
    /// An empty block of so many bytes.
    ///
    /// # Panics
    /// If it has no room for a header, 88 bytes.
    #[must_use]
    pub fn new(bytes: usize) -> Block {
        assert!(bytes >= BLOCK_HEADER_BYTES as usize);
        Block { bytes: vec![0; bytes], used: BLOCK_HEADER_BYTES as usize, records: 0 }
    }

    /// Copies a record behind the last one and checksums it; false, and the block is empty again, if it has no
    /// room.
    pub fn encode(&mut self, payload: &[u8]) -> bool {
        let place = encoded_bytes(payload.len() as u32) as usize;
        if self.used + place > self.bytes.len() {
            (self.used, self.records) = (BLOCK_HEADER_BYTES as usize, 0);
            return false;
        }
        let (lsn, length) = (Lsn(self.used as u64), payload.len() as u32);
        let place = &mut self.bytes[self.used..self.used + place];
        self.used += place.len();
        self.records += 1;
        encode_record(place, IDENTITY.seed(), lsn, RecordHeader::whole(0, length), [payload]);
        true
    }

    /// Gives the block its header.
    pub fn seal(&mut self) {
        let (lsn, length) = (Lsn(0), self.used as u32);
        let record_count = self.records;
        let seal = BlockSeal { lsn, previous_end: lsn, covered: lsn, timestamp: 1, record_count, length };
        let header = BlockHeader::sealed(&IDENTITY, &seal);
        self.bytes[..BLOCK_HEADER_BYTES as usize].copy_from_slice(bytemuck::bytes_of(&header));
    }

    /// Checks the header and every record of a sealed block; how many there are, `None` if one is damaged.
    #[must_use]
    pub fn decode(&self) -> Option<usize> {
        let header = BlockHeader::decode(&self.bytes).ok()?;
        let mut records = 0;
        for record in Records::new(&header, &self.bytes).ok()? {
            record.ok()?;
            records += 1;
        }
        Some(records)
    }
}

/// A pool whose blocks are filled and given back, without a shard.
#[derive(Debug)]
pub struct Blocks {
    pool: Pool,
    lsn: u64,
}

impl Blocks {
    /// A few blocks of 256 KiB.
    ///
    /// # Errors
    /// Where the memory is not available.
    pub fn new() -> std::io::Result<Blocks> {
        Ok(Blocks { pool: Pool::new(256 << 10, 4, 0)?, lsn: 0 })
    }

    /// Reserves room for a record, copies it there and checksums it; opens the next block where there is none.
    ///
    /// # Panics
    /// If the record does not fit into an empty block.
    pub fn append(&mut self, payload: &[u8]) {
        let need = encoded_bytes(payload.len() as u32);
        assert!(need <= self.pool.block_bytes() - BLOCK_HEADER_BYTES);
        loop {
            match self.pool.claim(need) {
                Claim::Taken(mut reserved) => {
                    let (lsn, seed) = (reserved.lsn(), reserved.seed());
                    let header = RecordHeader::whole(0, payload.len() as u32);
                    encode_record(reserved.bytes_mut(), seed, lsn, header, [payload]);
                    reserved.finish(1, Urgency::Background);
                    return;
                }
                Claim::Full(_) => {}
                Claim::Stale => unreachable!("it was not asked under a condition"),
                Claim::Closed => {
                    self.pool.release(self.pool.last().sequence);
                    let capacity = self.pool.block_bytes();
                    let (lsn, seed) = (Lsn(self.lsn), IDENTITY.seed());
                    self.lsn += u64::from(capacity);
                    let (previous_end, epoch, opened_at) = (lsn, 1, Nanos::default());
                    assert!(self.pool.open(&BlockPlace {
                        lsn,
                        previous_end,
                        capacity,
                        epoch,
                        seed,
                        opened_at
                    }));
                }
            }
        }
    }
}

/// A committer whose writes all complete, in turn.
#[derive(Debug)]
pub struct Commits {
    committer: Committer,
    sequence: Sequence,
}

impl Default for Commits {
    fn default() -> Commits {
        let config = CommitterConfig {
            method: SyncMethod::WriteThrough,
            depth: 4,
            seal_threshold: SealThreshold { numerator: 1, denominator: 2 },
            background_ns: 10_000_000,
            marker_delay_ns: 20_000_000,
            marker_interval_ns: 1_000_000_000,
        };
        Commits { committer: Committer::new(config, Lsn(0), Sequence(0)), sequence: Sequence(0) }
    }
}

impl Commits {
    /// Seals a block, submits its write, completes it and looks how far all is durable.
    pub fn step(&mut self) -> u64 {
        self.sequence = self.sequence.next();
        let (sequence, now) = (self.sequence, Nanos(self.sequence.0 * 1_000));
        let (end, urgency) = (Lsn(sequence.0 * 4096), Urgency::Synced);
        let block = Sealed { sequence, end, bytes: 4096, file: 1, urgency, records: 1, group: None };
        self.committer.handle_sealed(block, now);
        while let Some(action) = self.committer.poll_action() {
            let (Action::Write { operation, .. } | Action::Sync { operation, .. }) = action;
            self.committer.handle_completion(operation, true, now);
        }
        self.committer.watermarks().durable.0
    }
}

/// A histogram of latencies, as a shard has two.
#[derive(Debug, Default)]
pub struct Latencies {
    recorder: Recorder,
    now: Nanos,
}

impl Latencies {
    /// Records a block of so many records, which took about 100 us; gives how long this one did.
    pub fn record(&mut self, records: u64) -> u64 {
        let since = self.now;
        self.now = since + (100_000 + since.0 % 8191);
        self.recorder.record(&Accepted { since, records }, self.now);
        self.now - since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_does_its_work() {
        let mut block = Block::new(4096);
        let mut records = 0;
        while block.encode(&[1; 100]) {
            records += 1;
            block.seal();
            assert_eq!(block.decode(), Some(records));
        }
        let mut blocks = Blocks::new().unwrap();
        (0..5_000).for_each(|_| blocks.append(&[1; 256]));
        assert!(blocks.pool.last().sequence > Sequence(4));
        let mut commits = Commits::default();
        assert_eq!((commits.step(), commits.step()), (4096, 8192));
        let mut latencies = Latencies::default();
        assert_eq!((latencies.record(3), latencies.record(4)), (100_000, 101_708));
        assert_eq!(latencies.recorder.load().count(), 7);
    }
}
