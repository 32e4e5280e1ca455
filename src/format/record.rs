//! A record inside a block: a header of 16 bytes, the key, the id if it has one, and the payload.
//!
//! A record that does not fit into a block is cut into fragments, each a record of its own on disk;
//! the records of a batch are chained by a flag. Both make a *group*, which is whole or absent.

use bytemuck::{Pod, Zeroable};

use super::{BLOCK_HEADER_BYTES, BlockHeader, Defect, EpochSeed};
use crate::position::Lsn;

/// Bytes of the header in front of a record's key.
pub(crate) const RECORD_HEADER_BYTES: u32 = 16;

/// Bytes of an id, between the key and the payload: a `u128`, little-endian.
pub(crate) const RECORD_ID_BYTES: usize = size_of::<u128>();

/// The header of a record or of a fragment of one, as it lies on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct RecordHeader {
    /// CRC32C, seeded with identity and LSN, of the rest of the header and of the body.
    pub crc: u32,
    /// Bytes of key, id and payload that follow this header.
    pub body_bytes: u32,
    /// Bytes of key, id and payload of the whole record; more than `body_bytes` if it is in fragments.
    pub whole_bytes: u32,
    /// Of the whole record; the key stands in front of the payload.
    pub key_bytes: u16,
    pub flags: RecordFlags,
}

impl RecordHeader {
    /// Of a record that is whole; its checksum is made when it is written.
    pub(crate) fn whole(key_bytes: u16, body_bytes: u32) -> RecordHeader {
        RecordHeader { crc: 0, body_bytes, whole_bytes: body_bytes, key_bytes, flags: RecordFlags::WHOLE }
    }

    /// Where the key ends in the body, and where the payload begins behind the id.
    #[inline]
    pub(crate) fn edges(&self) -> (usize, usize) {
        let key = usize::from(self.key_bytes);
        (key, key + if self.flags.has(RecordFlags::ID) { RECORD_ID_BYTES } else { 0 })
    }

    /// The part of the header that its checksum covers, as it lies on disk.
    #[inline]
    fn covered(&self) -> [u8; 12] {
        let mut bytes = [0; 12];
        let lengths = u64::from(self.body_bytes) | u64::from(self.whole_bytes) << 32;
        let rest = u32::from(self.key_bytes) | u32::from(self.flags.0) << 16;
        bytes[..8].copy_from_slice(&lengths.to_le_bytes());
        bytes[8..].copy_from_slice(&rest.to_le_bytes());
        bytes
    }
}

const _: () = assert!(size_of::<RecordHeader>() == RECORD_HEADER_BYTES as usize);

/// How a record continues the one before it and is continued by the one after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub(crate) struct RecordFlags(u16);

impl RecordFlags {
    /// Nothing special: a record of its own, whole.
    pub(crate) const WHOLE: RecordFlags = RecordFlags(0);
    /// The record goes on in the next fragment.
    pub(crate) const SPLIT: RecordFlags = RecordFlags(1);
    /// This is not the first fragment of its record.
    pub(crate) const REST: RecordFlags = RecordFlags(2);
    /// The batch goes on with the next record.
    pub(crate) const MORE: RecordFlags = RecordFlags(4);
    /// The record is not the first of its batch.
    pub(crate) const JOINED: RecordFlags = RecordFlags(8);
    /// The record has an id, which is that of the whole batch where it is the first of one.
    pub(crate) const ID: RecordFlags = RecordFlags(16);

    const KNOWN: u16 = 31;

    pub(crate) fn with(self, other: RecordFlags) -> RecordFlags {
        RecordFlags(self.0 | other.0)
    }

    pub(crate) fn has(self, other: RecordFlags) -> bool {
        self.0 & other.0 == other.0
    }

    /// The group that this belongs to is not complete without what follows.
    pub(crate) fn leaves_group_open(self) -> bool {
        self.has(RecordFlags::SPLIT) || self.has(RecordFlags::MORE)
    }

    /// It is a part of a record.
    pub(crate) fn is_fragment(self) -> bool {
        self.has(RecordFlags::SPLIT) || self.has(RecordFlags::REST)
    }

    /// The group began before this.
    pub(crate) fn continues_group(self) -> bool {
        self.has(RecordFlags::REST) || self.has(RecordFlags::JOINED)
    }
}

/// Bytes that a record with such a body takes in a block: records stand at multiples of eight.
pub(crate) fn encoded_bytes(body_bytes: u32) -> u32 {
    (RECORD_HEADER_BYTES + body_bytes).next_multiple_of(8)
}

/// Bytes that the record at the start of `bytes` takes in its block, as its header has it, which is not checked;
/// `None` if there is no whole header.
pub(crate) fn told_bytes(bytes: &[u8]) -> Option<u64> {
    let header: RecordHeader = bytemuck::pod_read_unaligned(bytes.get(..RECORD_HEADER_BYTES as usize)?);
    Some((u64::from(RECORD_HEADER_BYTES) + u64::from(header.body_bytes)).next_multiple_of(8))
}

/// Writes a record into `place`, which is exactly [`encoded_bytes`] long and stands at `lsn`.
///
/// The body is the key followed by the payload, in as many parts as it comes in; for a fragment, the parts of
/// both that it carries. The checksum is made on the way: [`EpochSeed::copy_at`].
#[inline]
pub(crate) fn encode_record<'b>(
    place: &mut [u8],
    seed: EpochSeed,
    lsn: Lsn,
    header: RecordHeader,
    body: impl IntoIterator<Item = &'b [u8]>,
) {
    // The padding, and what is overwritten of it, in one store.
    let end = place.len() - 8;
    place[end..].fill(0);
    let (head, rest) = place.split_at_mut(RECORD_HEADER_BYTES as usize);
    // Put together from what is in registers: what was just stored piece by piece cannot be read back as a
    // whole without a wait for the stores.
    let covered = header.covered();
    let (crc, body_bytes) = seed.copy_at(lsn.0, &covered, body, rest);
    assert!(
        body_bytes == header.body_bytes as usize && rest.len() - body_bytes < 8,
        "the reservation has the record's size"
    );
    let (checksum, told) = head.split_at_mut(size_of::<u32>());
    checksum.copy_from_slice(&crc.to_le_bytes());
    told.copy_from_slice(&covered);
}

/// A record or fragment found in a block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RawRecord<'a> {
    pub lsn: Lsn,
    pub header: RecordHeader,
    /// Key and payload, or the part of both that this fragment carries.
    pub body: &'a [u8],
}

impl<'a> RawRecord<'a> {
    /// The record at the start of `rest`, which stands at `lsn`, without a look at its checksum; its lengths are
    /// checked.
    #[inline]
    fn parse(rest: &'a [u8], lsn: Lsn) -> Result<RawRecord<'a>, Defect> {
        let header = rest.get(..RECORD_HEADER_BYTES as usize).ok_or(Defect::Length)?;
        let header: RecordHeader = bytemuck::pod_read_unaligned(header);
        let end = (RECORD_HEADER_BYTES as usize)
            .checked_add(header.body_bytes as usize)
            .filter(|&end| end.next_multiple_of(8) <= rest.len())
            .ok_or(Defect::Length)?;
        Ok(RawRecord { lsn, header, body: &rest[RECORD_HEADER_BYTES as usize..end] })
    }

    /// The record at the start of `rest`, which stands at `lsn` in an epoch with this seed.
    ///
    /// # Errors
    /// The defect that it has. What is no record, or one of another place, does not check.
    #[inline]
    pub(crate) fn checked(rest: &'a [u8], lsn: Lsn, seed: EpochSeed) -> Result<RawRecord<'a>, Defect> {
        let record = RawRecord::parse(rest, lsn)?;
        let covered =
            &rest[size_of::<u32>()..][..RECORD_HEADER_BYTES as usize - size_of::<u32>() + record.body.len()];
        if seed.crc_at(lsn.0, covered) != record.header.crc {
            return Err(Defect::RecordChecksum);
        }
        let header = &record.header;
        let sane = header.flags.0 & !RecordFlags::KNOWN == 0
            && header.body_bytes <= header.whole_bytes
            && header.edges().1 <= header.whole_bytes as usize
            && (header.flags.is_fragment() || header.body_bytes == header.whole_bytes);
        if sane { Ok(record) } else { Err(Defect::Length) }
    }
}

/// The records in `bytes`, which this process has encoded, the first of which stands at `lsn`.
pub(crate) fn own_records(mut bytes: &[u8], mut lsn: Lsn) -> impl Iterator<Item = RawRecord<'_>> {
    std::iter::from_fn(move || {
        let record = RawRecord::parse(bytes, lsn).ok()?;
        let taken = encoded_bytes(record.header.body_bytes);
        (bytes, lsn) = (&bytes[taken as usize..], Lsn(lsn.0 + u64::from(taken)));
        Some(record)
    })
}

/// How far a block was walked whose records somebody has checked: to be kept beside the block's own bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Walk {
    lsn: Lsn,
    offset: usize,
    index: u32,
    count: u32,
    length: usize,
}

impl Walk {
    /// From the first record on.
    pub(crate) fn new(header: &BlockHeader) -> Walk {
        let (lsn, count, length) = (header.lsn(), header.record_count, header.length as usize);
        Walk { lsn, offset: BLOCK_HEADER_BYTES as usize, index: 0, count, length }
    }

    /// The next record of the block, which is the one that the walk was begun with.
    #[inline]
    pub(crate) fn next<'a>(&mut self, block: &'a [u8]) -> Option<RawRecord<'a>> {
        if self.index == self.count {
            return None;
        }
        let record = RawRecord::parse(block.get(self.offset..self.length)?, self.at()).ok()?;
        self.offset += encoded_bytes(record.header.body_bytes) as usize;
        self.index += 1;
        Some(record)
    }

    /// Where the next record stands, if there is one.
    #[inline]
    pub(crate) fn at(&self) -> Lsn {
        Lsn(self.lsn.0 + self.offset as u64)
    }

    /// Whether there are more.
    pub(crate) fn goes_on(&self) -> bool {
        self.index < self.count
    }
}

/// The records of one block, each checked when it is reached.
#[derive(Clone, Debug)]
pub(crate) struct Records<'a> {
    lsn: Lsn,
    seed: EpochSeed,
    bytes: &'a [u8],
    offset: usize,
    index: u32,
    count: u32,
    /// Somebody has checked all of them.
    trusted: bool,
}

impl<'a> Records<'a> {
    /// Walks the block with this header; `block` are its bytes from the header on.
    ///
    /// # Errors
    /// [`Defect::Short`] if `block` does not hold all of it.
    pub(crate) fn new(header: &BlockHeader, block: &'a [u8]) -> Result<Records<'a>, Defect> {
        let bytes = block.get(..header.length as usize).ok_or(Defect::Short)?;
        Ok(Records {
            lsn: header.lsn(),
            seed: header.identity().seed(),
            bytes,
            offset: BLOCK_HEADER_BYTES as usize,
            index: 0,
            count: header.record_count,
            trusted: false,
        })
    }

    /// Walks a block all of whose records were checked before, and has not changed since.
    ///
    /// # Errors
    /// As [`new`](Records::new).
    pub(crate) fn checked_before(header: &BlockHeader, block: &'a [u8]) -> Result<Records<'a>, Defect> {
        Ok(Records { trusted: true, ..Records::new(header, block)? })
    }

    /// The next record without a look at its checksum; its lengths are checked.
    fn parse(&self) -> Result<RawRecord<'a>, Defect> {
        RawRecord::parse(self.rest()?, self.at())
    }

    fn checked(&self) -> Result<RawRecord<'a>, Defect> {
        RawRecord::checked(self.rest()?, self.at(), self.seed)
    }

    fn rest(&self) -> Result<&'a [u8], Defect> {
        self.bytes.get(self.offset..).ok_or(Defect::Length)
    }

    fn at(&self) -> Lsn {
        Lsn(self.lsn.0 + self.offset as u64)
    }

    /// Moves to `lsn` without checking the records before it; false if no record starts there.
    pub(crate) fn skip_to(&mut self, lsn: Lsn) -> bool {
        while self.index < self.count && self.at() < lsn {
            let Ok(record) = self.parse() else { return false };
            self.advance(&record);
        }
        self.index < self.count && self.at() == lsn
    }

    fn advance(&mut self, record: &RawRecord<'_>) {
        self.offset += encoded_bytes(record.header.body_bytes) as usize;
        self.index += 1;
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<RawRecord<'a>, Defect>;

    /// The next record, or the defect that ends the walk.
    fn next(&mut self) -> Option<Self::Item> {
        if self.index == self.count {
            if self.offset == self.bytes.len() {
                return None;
            }
            // The count and the length disagree: say so once, then end.
            self.offset = self.bytes.len();
            return Some(Err(Defect::Length));
        }
        let record = if self.trusted { self.parse() } else { self.checked() };
        match &record {
            Ok(record) => self.advance(record),
            Err(_) => {
                self.index = self.count;
                self.offset = self.bytes.len();
            }
        }
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use super::super::block::tests::identity;
    use super::super::{BlockSeal, round_to_granule};
    use super::*;

    fn block(records: &[(&[u8], &[u8])]) -> Vec<u8> {
        let identity = identity();
        let lsn = Lsn(8192);
        let mut bytes = vec![0; BLOCK_HEADER_BYTES as usize];
        for (key, payload) in records {
            let body = (key.len() + payload.len()) as u32;
            let at = bytes.len();
            bytes.resize(at + encoded_bytes(body) as usize, 0xff);
            let place = Lsn(lsn.0 + at as u64);
            let header = RecordHeader::whole(key.len() as u16, body);
            encode_record(&mut bytes[at..], identity.seed(), place, header, [*key, *payload]);
        }
        let header = BlockHeader::sealed(
            &identity,
            &BlockSeal {
                lsn,
                previous_end: Lsn(4096),
                covered: Lsn(4096),
                timestamp: 1,
                record_count: records.len() as u32,
                length: bytes.len() as u32,
            },
        );
        bytes[..BLOCK_HEADER_BYTES as usize].copy_from_slice(bytemuck::bytes_of(&header));
        bytes.resize(round_to_granule(bytes.len() as u64) as usize, 0);
        bytes
    }

    fn walk(bytes: &[u8]) -> Result<Vec<Vec<u8>>, Defect> {
        let header = BlockHeader::decode(bytes)?;
        Records::new(&header, bytes)?.map(|record| record.map(|record| record.body.to_vec())).collect()
    }

    const SOME: [(&[u8], &[u8]); 4] = [(b"", b""), (b"key", b"payload"), (b"k", b""), (b"", b"12345678")];

    #[test]
    fn records_of_any_size_come_back() {
        let bytes = block(&SOME);
        assert_eq!(walk(&bytes).unwrap(), [&b""[..], b"keypayload", b"k", b"12345678"]);
        assert_eq!(walk(&block(&[])).unwrap().len(), 0);
    }

    #[test]
    fn every_bit_of_a_record_is_covered() {
        let bytes = block(&SOME);
        let mut at = BLOCK_HEADER_BYTES as usize;
        for (key, payload) in SOME {
            let used = RECORD_HEADER_BYTES as usize + key.len() + payload.len();
            for bit in at * 8..(at + used) * 8 {
                let mut bytes = bytes.clone();
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert!(walk(&bytes).is_err(), "bit {bit} can flip unseen");
            }
            at += used.next_multiple_of(8);
        }
    }

    #[test]
    fn a_count_that_disagrees_with_the_length_is_a_defect() {
        let bytes = block(&SOME);
        let identity = identity();
        for record_count in [0, 3, 5] {
            let mut seal = BlockSeal {
                lsn: Lsn(8192),
                previous_end: Lsn(4096),
                covered: Lsn(4096),
                timestamp: 1,
                record_count,
                length: 0,
            };
            seal.length = BlockHeader::decode(&bytes).unwrap().length;
            let header = BlockHeader::sealed(&identity, &seal);
            let mut bytes = bytes.clone();
            bytes[..BLOCK_HEADER_BYTES as usize].copy_from_slice(bytemuck::bytes_of(&header));
            assert_eq!(walk(&bytes), Err(Defect::Length));
        }
    }

    /// Behind an intact checksum: a fault of our own, or of a newer version.
    #[test]
    fn impossible_records_are_defects() {
        let forged = |header: RecordHeader| {
            let mut bytes = block(&[(b"key", b"payload")]);
            let at = BLOCK_HEADER_BYTES as usize;
            let used = (RECORD_HEADER_BYTES + 10) as usize;
            bytes[at..at + 16].copy_from_slice(bytemuck::bytes_of(&header));
            let crc = identity().seed().crc_at(8192 + at as u64, &bytes[at + 4..at + used]);
            bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
            walk(&bytes).map(|_| ())
        };
        let sound =
            RecordHeader { crc: 0, body_bytes: 10, whole_bytes: 10, key_bytes: 3, flags: RecordFlags::WHOLE };
        assert_eq!(forged(sound), Ok(()));
        assert_eq!(forged(RecordHeader { key_bytes: 10, ..sound }), Ok(()));
        let split = RecordHeader { whole_bytes: 30, flags: RecordFlags::SPLIT, ..sound };
        assert_eq!(forged(split), Ok(()));
        assert_eq!(forged(RecordHeader { flags: RecordFlags::REST, ..split }), Ok(()));
        for impossible in [
            RecordHeader { flags: RecordFlags(16), ..sound },
            RecordHeader { whole_bytes: 9, ..split },
            RecordHeader { key_bytes: 11, ..sound },
            RecordHeader { whole_bytes: 11, ..sound },
        ] {
            assert_eq!(forged(impossible), Err(Defect::Length), "{impossible:?}");
        }
        // As parts of one: whatever their fragment holds, key and whole fit each other.
        assert_eq!(forged(RecordHeader { key_bytes: 31, ..split }), Err(Defect::Length));
    }

    #[test]
    fn flags_add_up() {
        let flags = RecordFlags::SPLIT.with(RecordFlags::MORE);
        assert_eq!(flags.with(RecordFlags::SPLIT), flags);
        assert!(
            flags.has(RecordFlags::SPLIT) && flags.has(RecordFlags::MORE) && !flags.has(RecordFlags::REST)
        );
    }

    /// What was checked once is not paid for twice.
    #[test]
    fn a_block_that_was_checked_before_is_not_checked_again() {
        let mut bytes = block(&SOME);
        let header = BlockHeader::decode(&bytes).unwrap();
        bytes[BLOCK_HEADER_BYTES as usize] ^= 1;
        assert_eq!(walk(&bytes), Err(Defect::RecordChecksum));
        let found = Records::checked_before(&header, &bytes).unwrap().filter(Result::is_ok).count();
        assert_eq!(found, SOME.len());
    }

    #[test]
    fn skip_finds_record_starts_only() {
        let bytes = block(&SOME);
        let header = BlockHeader::decode(&bytes).unwrap();
        let records = Records::new(&header, &bytes).unwrap();
        let starts: Vec<Lsn> = records.clone().map(|record| record.unwrap().lsn).collect();
        for lsn in 8192..8192 + 4096 {
            let found = records.clone().skip_to(Lsn(lsn));
            assert_eq!(found, starts.contains(&Lsn(lsn)), "at {lsn}");
        }
    }
}
