//! Slots: what is kept in two copies (files) with a sequence number, such as the manifests.
//!
//! A slot is a header, a body and zeros.

use bytemuck::{Pod, Zeroable};

use super::{Defect, FORMAT_VERSION, crc};

const MAGIC: [u8; 8] = *b"sawmillM";

/// Bytes in front of a slot's body.
pub(crate) const SLOT_HEADER_BYTES: usize = 32;

/// What a slot describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum SlotKind {
    Log = 1,
    Shard = 2,
    Progress = 3,
    Tally = 4,
    Home = 5,
    Ages = 6,
    Queue = 7,
}

impl SlotKind {
    /// Whether these cannot be two copies of one thing: each manifest of a log begins with the log's id.
    pub(crate) fn are_of_two(self, first: &[u8], second: &[u8]) -> bool {
        self == SlotKind::Log && first.get(..16) != second.get(..16)
    }

    /// Written one copy at a time, so that the other one is older; else both say the same.
    pub(crate) fn copies_differ(self) -> bool {
        matches!(self, SlotKind::Progress | SlotKind::Tally | SlotKind::Ages | SlotKind::Queue)
    }
}

#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct SlotHeader {
    pub magic: [u8; 8],
    pub version: u16,
    pub kind: u16,
    /// CRC32C of the header without this field, then of the body.
    pub crc: u32,
    /// The higher of two valid slots counts.
    pub sequence: u64,
    pub body_bytes: u32,
    pub reserved: u32,
}

const _: () = assert!(size_of::<SlotHeader>() == SLOT_HEADER_BYTES);

impl SlotHeader {
    fn checksum(&self, body: &[u8]) -> u32 {
        let zeroed = SlotHeader { crc: 0, ..*self };
        crc32c::crc32c_append(crc(bytemuck::bytes_of(&zeroed)), body)
    }
}

/// The bytes of a slot, to be padded with zeros.
pub(crate) fn encode_slot(kind: SlotKind, sequence: u64, body: &[u8]) -> Vec<u8> {
    let mut header = SlotHeader {
        magic: MAGIC,
        version: FORMAT_VERSION,
        kind: kind as u16,
        crc: 0,
        sequence,
        body_bytes: u32::try_from(body.len()).expect("a manifest is far below 4 GiB"),
        reserved: 0,
    };
    header.crc = header.checksum(body);
    [bytemuck::bytes_of(&header), body].concat()
}

/// How long a slot is by its header, which may be wrong; 0 if this is no header at all.
pub(crate) fn slot_bytes(bytes: &[u8]) -> u64 {
    let Some(head) = bytes.get(..SLOT_HEADER_BYTES) else { return 0 };
    let header: SlotHeader = bytemuck::pod_read_unaligned(head);
    if header.magic == MAGIC { SLOT_HEADER_BYTES as u64 + u64::from(header.body_bytes) } else { 0 }
}

/// Sequence number and body of a slot.
///
/// # Errors
/// The defect. [`Defect::Version`] means that a newer sawmill wrote it, and is only said of a slot
/// whose checksum is right.
pub(crate) fn decode_slot(kind: SlotKind, bytes: &[u8]) -> Result<(u64, &[u8]), Defect> {
    let (head, rest) = bytes.split_at_checked(SLOT_HEADER_BYTES).ok_or(Defect::Short)?;
    let header: SlotHeader = bytemuck::pod_read_unaligned(head);
    if header.magic != MAGIC {
        return Err(Defect::NoHeader);
    }
    let body = rest.get(..header.body_bytes as usize).ok_or(Defect::Length)?;
    if header.crc != header.checksum(body) {
        return Err(Defect::HeaderChecksum);
    }
    if header.version > FORMAT_VERSION {
        return Err(Defect::Version);
    }
    if header.kind != kind as u16 {
        return Err(Defect::Foreign);
    }
    Ok((header.sequence, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_of_a_newer_version_is_told_apart() {
        let body = [7; 200];
        let slot = encode_slot(SlotKind::Shard, 42, &body);
        let mut header: SlotHeader = bytemuck::pod_read_unaligned(&slot[..SLOT_HEADER_BYTES]);
        header.version = FORMAT_VERSION + 1;
        header.crc = 0;
        header.crc = header.checksum(&body);
        let slot = [bytemuck::bytes_of(&header), &body].concat();
        assert_eq!(decode_slot(SlotKind::Shard, &slot), Err(Defect::Version));
    }

    #[test]
    fn every_bit_of_a_slot_is_covered() {
        let slot = encode_slot(SlotKind::Shard, 42, &[7; 200]);
        for bit in 0..slot.len() * 8 {
            let mut slot = slot.clone();
            slot[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_slot(SlotKind::Shard, &slot).is_err(), "bit {bit} can flip unseen");
        }
    }
}
