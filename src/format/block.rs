//! A block: one aligned device write, a header and the records behind it.

use bytemuck::{Pod, Zeroable};

use super::{Defect, EpochSeed, FORMAT_VERSION, crc};
use crate::position::Lsn;

/// First eight bytes of a block. Text, so that a dump shows where blocks stand; the last byte is
/// not printable, so that a file moved through a text filter does not pass.
const MAGIC: [u8; 8] = *b"sawmillB";

/// Bytes of the header in front of a block's records.
pub(crate) const BLOCK_HEADER_BYTES: u32 = 88;

/// The header of a block, as it lies on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct BlockHeader {
    pub magic: [u8; 8],
    /// Of the layout of this block and its records.
    pub version: u16,
    /// How the records are packed: 0, as they are. A place kept for compression.
    pub codec: u16,
    pub shard: u16,
    /// Zero.
    pub reserved: u16,
    /// Random, and compared whole: a checksum alone is no proof over many places.
    pub log_id: [u8; 16],
    pub epoch: u32,
    pub record_count: u32,
    /// Random per epoch: tells two epochs apart that a restored copy gave the same number.
    pub nonce: u64,
    /// Where this block stands in its shard's stream.
    pub lsn: u64,
    /// End of the block before it, without which the chain could skip one.
    pub previous_end: u64,
    /// The covered LSN when this block was sealed: it testifies that all below was durable.
    pub covered: u64,
    /// Time of the first record, nanoseconds since the Unix epoch; see [`record_time`].
    pub timestamp: u64,
    /// Header and records, without padding.
    pub length: u32,
    /// CRC32C of all the bytes before it.
    pub crc: u32,
}

const _: () = assert!(size_of::<BlockHeader>() == BLOCK_HEADER_BYTES as usize);
const _: () = assert!(BLOCK_HEADER_BYTES % 8 == 0, "records stand at multiples of eight");
const _: () = assert!(cfg!(target_endian = "little"), "headers are read in place, little-endian");

/// When a record was written that stands `offset` bytes behind the start of its block, whose time is `block_time`: one
/// nanosecond later for each eight bytes behind the first record.
///
/// So the time of a record needs nothing but its own bytes and its block's header, and rises from record to record. It
/// runs ahead of the clock only where a shard takes more than eight bytes a nanosecond.
#[inline]
pub(crate) fn record_time(block_time: u64, offset: u64) -> u64 {
    block_time.saturating_add(offset.saturating_sub(u64::from(BLOCK_HEADER_BYTES)) / 8)
}

/// Whose block it must be: the identity shared by all blocks of one epoch of one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub log_id: [u8; 16],
    pub shard: u16,
    pub epoch: u32,
    pub nonce: u64,
}

impl Identity {
    pub(crate) fn seed(&self) -> EpochSeed {
        EpochSeed::new(&self.log_id, self.shard, self.epoch, self.nonce)
    }
}

/// What is known of a block only when it is sealed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockSeal {
    pub lsn: Lsn,
    pub previous_end: Lsn,
    pub covered: Lsn,
    pub timestamp: u64,
    pub record_count: u32,
    /// Header and records, without padding.
    pub length: u32,
}

impl BlockHeader {
    /// The header of a block that is now complete.
    pub(crate) fn sealed(identity: &Identity, seal: &BlockSeal) -> BlockHeader {
        assert!(seal.covered <= seal.lsn, "a block testifies only for what lies below it");
        assert!(seal.previous_end <= seal.lsn);
        assert!(seal.length >= BLOCK_HEADER_BYTES);
        let mut header = BlockHeader {
            magic: MAGIC,
            version: FORMAT_VERSION,
            codec: 0,
            shard: identity.shard,
            reserved: 0,
            log_id: identity.log_id,
            epoch: identity.epoch,
            record_count: seal.record_count,
            nonce: identity.nonce,
            lsn: seal.lsn.0,
            previous_end: seal.previous_end.0,
            covered: seal.covered.0,
            timestamp: seal.timestamp,
            length: seal.length,
            crc: 0,
        };
        header.crc = header.checksum();
        header
    }

    fn checksum(&self) -> u32 {
        let bytes = bytemuck::bytes_of(self);
        crc(&bytes[..bytes.len() - size_of::<u32>()])
    }

    /// Reads a header from the first bytes of `bytes`, whosever it is.
    ///
    /// # Errors
    /// The first defect found. Nothing in the header is believed before its checksum.
    pub(crate) fn decode(bytes: &[u8]) -> Result<BlockHeader, Defect> {
        let bytes = bytes.get(..size_of::<BlockHeader>()).ok_or(Defect::Short)?;
        let header: BlockHeader = bytemuck::pod_read_unaligned(bytes);
        if header.magic != MAGIC {
            return Err(Defect::NoHeader);
        }
        if header.crc != header.checksum() {
            return Err(Defect::HeaderChecksum);
        }
        if header.version > FORMAT_VERSION {
            return Err(Defect::Version);
        }
        let sane = header.length >= BLOCK_HEADER_BYTES
            && header.covered <= header.lsn
            && header.previous_end <= header.lsn
            && header.codec == 0;
        if sane { Ok(header) } else { Err(Defect::Length) }
    }

    /// Whether the header belongs to this log and shard, whatever its epoch.
    pub(crate) fn is_of(&self, log_id: &[u8; 16], shard: u16) -> bool {
        self.log_id == *log_id && self.shard == shard
    }

    /// The identity that the header claims.
    pub(crate) fn identity(&self) -> Identity {
        Identity { log_id: self.log_id, shard: self.shard, epoch: self.epoch, nonce: self.nonce }
    }

    pub(crate) fn lsn(&self) -> Lsn {
        Lsn(self.lsn)
    }

    /// First byte behind the block, padding included.
    pub(crate) fn end(&self) -> Lsn {
        Lsn(self.lsn.saturating_add(super::round_to_granule(u64::from(self.length))))
    }

    /// No record of the block has a later time.
    pub(crate) fn last_time(&self) -> u64 {
        record_time(self.timestamp, u64::from(self.length))
    }

    /// Checks that the header is of `identity` and stands at `lsn`.
    pub(crate) fn check(&self, identity: &Identity, lsn: Lsn) -> Result<(), Defect> {
        if self.identity() != *identity {
            return Err(Defect::Foreign);
        }
        if self.lsn() != lsn {
            return Err(Defect::Misplaced);
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn identity() -> Identity {
        Identity { log_id: *b"0123456789abcdef", shard: 3, epoch: 7, nonce: 0xfeed_beef }
    }

    pub(crate) fn header() -> BlockHeader {
        BlockHeader::sealed(
            &identity(),
            &BlockSeal {
                lsn: Lsn(3 * 4096),
                previous_end: Lsn(2 * 4096),
                covered: Lsn(4096),
                timestamp: 1_700_000_000_000_000_000,
                record_count: 0,
                length: BLOCK_HEADER_BYTES,
            },
        )
    }

    #[test]
    fn every_bit_of_a_header_is_covered() {
        let header = header();
        let bytes = bytemuck::bytes_of(&header);
        assert_eq!(BlockHeader::decode(bytes), Ok(header));
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(BlockHeader::decode(&bytes).is_err(), "bit {bit} can flip unseen");
        }
    }

    #[test]
    fn a_header_is_bound_to_its_identity_and_place() {
        let header = header();
        let own = identity();
        assert_eq!(header.check(&own, Lsn(3 * 4096)), Ok(()));
        assert_eq!(header.check(&own, Lsn(4 * 4096)), Err(Defect::Misplaced));
        for other in [
            Identity { log_id: [0; 16], ..own },
            Identity { shard: 4, ..own },
            Identity { epoch: 8, ..own },
            Identity { nonce: 1, ..own },
        ] {
            assert_eq!(header.check(&other, Lsn(3 * 4096)), Err(Defect::Foreign));
        }
    }

    #[test]
    fn a_header_is_of_its_log_and_shard_in_any_epoch() {
        let header = header();
        let own = identity();
        assert!(header.is_of(&own.log_id, own.shard));
        assert!(!header.is_of(&[0; 16], own.shard));
        assert!(!header.is_of(&own.log_id, own.shard + 1));
    }

    /// Behind an intact checksum: what a newer version wrote, or a fault of our own.
    #[test]
    fn impossible_headers_are_defects() {
        let forged = |change: fn(&mut BlockHeader)| {
            let mut header = header();
            change(&mut header);
            header.crc = header.checksum();
            BlockHeader::decode(bytemuck::bytes_of(&header)).map(|_| ())
        };
        assert_eq!(forged(|_| ()), Ok(()));
        assert_eq!(forged(|header| header.covered = header.lsn), Ok(()));
        assert_eq!(forged(|header| header.previous_end = header.lsn), Ok(()));
        assert_eq!(forged(|header| header.version = FORMAT_VERSION + 1), Err(Defect::Version));
        assert_eq!(forged(|header| header.length = BLOCK_HEADER_BYTES - 1), Err(Defect::Length));
        assert_eq!(forged(|header| header.covered = header.lsn + 1), Err(Defect::Length));
        assert_eq!(forged(|header| header.previous_end = header.lsn + 1), Err(Defect::Length));
        assert_eq!(forged(|header| header.codec = 1), Err(Defect::Length));
    }

    #[test]
    fn decoding_short_or_empty_bytes_is_a_defect() {
        assert_eq!(BlockHeader::decode(&[]), Err(Defect::Short));
        assert_eq!(BlockHeader::decode(&[0; 4096]), Err(Defect::NoHeader));
    }
}
