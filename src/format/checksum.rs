//! CRC32C (Castagnoli), and the seed that ties a record to its place.
//!
//! A record's checksum is made here, while the record is copied ([`EpochSeed::copy_at`]), and made again when it is read
//! ([`EpochSeed::crc_at`]). What of the header it covers stands in `record.rs`, the instruction in `sys/crc.rs`.

use crate::sys::{crc32c_append, crc32c_copy};

/// CRC32C of `bytes`.
pub(crate) fn crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}

/// What the records of one epoch of one shard are seeded with: log id, shard, epoch and nonce.
///
/// The seed at an LSN is one exclusive-or away, so a record costs one checksum call over bytes that
/// lie together. CRC is linear: the exclusive-or is injective in the low word, and a record that
/// stands where another belongs fails its check unless both words of its LSN collide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EpochSeed(u32);

impl EpochSeed {
    pub(crate) fn new(log_id: &[u8; 16], shard: u16, epoch: u32, nonce: u64) -> EpochSeed {
        let mut bytes = [0; 30];
        bytes[..16].copy_from_slice(log_id);
        bytes[16..18].copy_from_slice(&shard.to_le_bytes());
        bytes[18..22].copy_from_slice(&epoch.to_le_bytes());
        bytes[22..].copy_from_slice(&nonce.to_le_bytes());
        EpochSeed(crc32c::crc32c(&bytes))
    }

    pub(crate) fn from_raw(raw: u32) -> EpochSeed {
        EpochSeed(raw)
    }

    pub(crate) fn raw(self) -> u32 {
        self.0
    }

    /// CRC32C of `bytes`, which stand at `lsn`.
    #[inline]
    pub(crate) fn crc_at(self, lsn: u64, bytes: &[u8]) -> u32 {
        crc32c_append(self.start_at(lsn), bytes)
    }

    /// Copies `parts` to the start of `to`, one behind the other. Returns the CRC32C of `head` and them, which stand at
    /// `lsn`, and how many bytes were copied.
    // Always: what `head` was put together from is in registers still, and would have to go through memory for a call.
    #[inline(always)]
    pub(crate) fn copy_at<'p>(
        self,
        lsn: u64,
        head: &[u8],
        parts: impl IntoIterator<Item = &'p [u8]>,
        to: &mut [u8],
    ) -> (u32, usize) {
        let (mut crc, mut before, mut rest) = (self.start_at(lsn), head, to);
        let mut copied = 0;
        for part in parts {
            if part.is_empty() {
                continue;
            }
            let (to, behind) = rest.split_at_mut(part.len());
            crc = crc32c_copy(crc, std::mem::take(&mut before), part, to);
            rest = behind;
            copied += part.len();
        }
        (if before.is_empty() { crc } else { crc32c_append(crc, before) }, copied)
    }

    /// What the CRC32C of something that stands at `lsn` begins with.
    #[inline]
    fn start_at(self, lsn: u64) -> u32 {
        let high = ((lsn >> 32) as u32).wrapping_mul(0x9e37_79b1);
        self.0 ^ lsn as u32 ^ high
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answer() {
        // RFC 3720, B.4: 32 bytes of zeros.
        assert_eq!(crc(&[0; 32]), 0x8a91_36aa);
    }

    #[test]
    fn each_part_of_the_identity_and_the_place_changes_the_checksum() {
        let base = EpochSeed::new(&[1; 16], 2, 3, 4);
        let others = [
            EpochSeed::new(&[2; 16], 2, 3, 4),
            EpochSeed::new(&[1; 16], 1, 3, 4),
            EpochSeed::new(&[1; 16], 2, 4, 4),
            EpochSeed::new(&[1; 16], 2, 3, 5),
        ];
        for other in others {
            assert_ne!(base.crc_at(8, b"record"), other.crc_at(8, b"record"));
        }
        for place in [8, 0x1234_5678_9abc_def0, u64::MAX] {
            for bit in 0..u64::BITS {
                let (own, other) = (base.crc_at(place, b"record"), base.crc_at(place ^ 1 << bit, b"record"));
                assert_ne!(own, other, "bit {bit} of {place:#x}");
            }
        }
    }
}
