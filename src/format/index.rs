//! An index file: the places of the records of each key, in one stretch of a shard.
//!
//! A header with the epochs that the stretch lies in, and pages of a granule each: of places, of blocks and of keys
//! (`index_pages`). What it says was derived from the log: a file that does not check is not believed, and no loss.

use bytemuck::{Pod, Zeroable};

use super::index_pages::{BLOCKS_A_PAGE, places_a_page};
use super::siphash::{siphash_64, siphash_96};
use super::{Defect, EpochSeed, FORMAT_VERSION, GRANULE, Identity, crc};
use crate::position::Lsn;

const MAGIC: [u8; 8] = *b"sawmillI";

/// Bytes of a page, checksum included.
pub(crate) const INDEX_PAGE_BYTES: usize = GRANULE as usize;

/// Places are counted in units of so many bytes, at a multiple of which each record stands.
pub(crate) const PLACE_UNIT: u64 = 8;

/// Of a key's hash, so many bits are kept: among a million keys one in sixty thousand that is not there looks as if it
/// were. Each page spends fewer on it: it has the distances between hashes (`gap_bits` in `index_pages`).
pub(super) const KEY_HASH_BITS: u32 = 36;

/// No file covers more of the log.
pub(crate) const INDEX_BYTES_MAX: u64 = 1 << 30;

/// No file covers more stretches of one epoch.
pub(crate) const INDEX_EPOCHS_MAX: usize =
    (INDEX_PAGE_BYTES - size_of::<IndexHeader>()) / size_of::<IndexEpoch>();

/// The hash of a key: the upper 36 bits of SipHash-2-4, keyed by the log id, so that nobody who chooses keys can choose
/// ones that collide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct KeyHash(u64);

impl KeyHash {
    pub(crate) fn of(log_id: &[u8; 16], key: &[u8]) -> KeyHash {
        KeyHash(siphash_64(log_id, key) >> (u64::BITS - KEY_HASH_BITS))
    }

    /// That of a key with this whole hash.
    pub(crate) fn of_whole(hash: WholeKeyHash) -> KeyHash {
        KeyHash(hash.hash >> (u64::BITS - KEY_HASH_BITS))
    }

    /// The lowest bits of `raw`.
    pub(crate) fn from_raw(raw: u64) -> KeyHash {
        KeyHash(raw & (KeyHash::END - 1))
    }

    pub(crate) fn raw(self) -> u64 {
        self.0
    }

    /// Above every hash.
    pub(crate) const END: u64 = 1 << KEY_HASH_BITS;
}

/// All 64 bits of that hash, and 32 more of the same function. Of a million keys two agree in both with a chance of 2^-57, and nobody
/// who does not know the log id can look for such: what has the same is taken for the same key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct WholeKeyHash {
    pub hash: u64,
    pub check: u32,
}

impl WholeKeyHash {
    pub(crate) fn of(log_id: &[u8; 16], key: &[u8]) -> WholeKeyHash {
        let (hash, check) = siphash_96(log_id, key);
        WholeKeyHash { hash, check }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct IndexHeader {
    pub magic: [u8; 8],
    pub version: u16,
    pub shard: u16,
    /// CRC32C of the header without this field, then of the epochs.
    pub crc: u32,
    pub log_id: [u8; 16],
    /// Drawn for this file: no page of another one checks in it.
    pub nonce: u64,
    /// All blocks that stand in `start..end` are indexed.
    pub start: u64,
    pub end: u64,
    pub places: u32,
    pub place_bits: u32,
    pub keys: u32,
    pub key_pages: u32,
    pub epochs: u32,
    pub reserved: u32,
}

/// A part of the stretch and the epoch that owned it when it was indexed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct IndexEpoch {
    pub epoch: u32,
    pub reserved: u32,
    pub nonce: u64,
    pub start: u64,
    /// What it owned behind this, if it did, is not indexed.
    pub end: u64,
}

/// What is known of a file before its keys are written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IndexPlan {
    pub log_id: [u8; 16],
    pub shard: u16,
    pub nonce: u64,
    pub start: Lsn,
    pub end: Lsn,
    pub places: u32,
}

impl IndexHeader {
    /// The header of a file that is to be; it has no keys yet.
    pub(crate) fn planned(plan: &IndexPlan) -> IndexHeader {
        let bytes = plan.end.0 - plan.start.0;
        assert!(plan.start.0 % GRANULE == 0 && plan.end.0 % GRANULE == 0);
        assert!(bytes > 0 && bytes <= INDEX_BYTES_MAX, "a stretch of {bytes} bytes");
        IndexHeader {
            magic: MAGIC,
            version: FORMAT_VERSION,
            shard: plan.shard,
            crc: 0,
            log_id: plan.log_id,
            nonce: plan.nonce,
            start: plan.start.0,
            end: plan.end.0,
            places: plan.places,
            place_bits: (bytes / PLACE_UNIT - 1).ilog2() + 1,
            keys: 0,
            key_pages: 0,
            epochs: 0,
            reserved: 0,
        }
    }

    /// The first page of a file.
    pub(crate) fn encode(mut self, epochs: &[IndexEpoch]) -> Vec<u8> {
        assert!(epochs.len() <= INDEX_EPOCHS_MAX, "the rows fit into the page");
        self.epochs = epochs.len() as u32;
        let rows: &[u8] = bytemuck::cast_slice(epochs);
        self.crc = self.checksum(rows);
        let mut page = [bytemuck::bytes_of(&self), rows].concat();
        page.resize(INDEX_PAGE_BYTES, 0);
        page
    }

    fn checksum(&self, rows: &[u8]) -> u32 {
        let zeroed = IndexHeader { crc: 0, ..*self };
        crc32c::crc32c_append(crc(bytemuck::bytes_of(&zeroed)), rows)
    }

    /// Reads the first page of a file, whosever it is.
    ///
    /// # Errors
    /// The first defect found. Nothing in it is believed before its checksum, and none of its numbers after that
    /// unless they fit each other.
    pub(crate) fn decode(page: &[u8]) -> Result<(IndexHeader, Vec<IndexEpoch>), Defect> {
        let (head, rest) = page.split_at_checked(size_of::<IndexHeader>()).ok_or(Defect::Short)?;
        let header: IndexHeader = bytemuck::pod_read_unaligned(head);
        if header.magic != MAGIC {
            return Err(Defect::NoHeader);
        }
        if header.epochs as usize > INDEX_EPOCHS_MAX {
            return Err(Defect::Length);
        }
        let rows = rest.get(..header.epochs as usize * size_of::<IndexEpoch>()).ok_or(Defect::Short)?;
        if header.crc != header.checksum(rows) {
            return Err(Defect::HeaderChecksum);
        }
        if header.version > FORMAT_VERSION {
            return Err(Defect::Version);
        }
        let rows: Vec<IndexEpoch> =
            rows.chunks_exact(size_of::<IndexEpoch>()).map(bytemuck::pod_read_unaligned).collect();
        if header.is_sane(&rows) { Ok((header, rows)) } else { Err(Defect::Length) }
    }

    fn is_sane(&self, epochs: &[IndexEpoch]) -> bool {
        let whole = self.start % GRANULE == 0 && self.end % GRANULE == 0;
        let bytes = self.end.saturating_sub(self.start);
        let fits = (1..=INDEX_BYTES_MAX).contains(&bytes)
            && self.place_bits == (bytes / PLACE_UNIT - 1).ilog2() + 1
            && u64::from(self.places) <= bytes / PLACE_UNIT
            && self.keys <= self.places
            && self.key_pages <= self.keys
            && (self.key_pages > 0) == (self.places > 0);
        let in_order = epochs.windows(2).all(|pair| pair[0].end <= pair[1].start);
        let within =
            epochs.iter().all(|row| self.start <= row.start && row.start < row.end && row.end <= self.end);
        whole && fits && in_order && within
    }

    /// What the checksums of its pages are seeded with.
    pub(super) fn seed(&self) -> EpochSeed {
        let mut bytes = [0; 42];
        bytes[..16].copy_from_slice(&self.log_id);
        bytes[16..18].copy_from_slice(&self.shard.to_le_bytes());
        bytes[18..26].copy_from_slice(&self.nonce.to_le_bytes());
        bytes[26..34].copy_from_slice(&self.start.to_le_bytes());
        bytes[34..].copy_from_slice(&self.end.to_le_bytes());
        EpochSeed::from_raw(crc(&bytes))
    }

    /// The page on which the first places stand; those behind it hold the others.
    pub(crate) const FIRST_PLACES: u32 = 1;

    /// The first of the pages that say where blocks begin.
    pub(crate) fn first_blocks(&self) -> u32 {
        IndexHeader::FIRST_PLACES + self.places.div_ceil(places_a_page(self.place_bits))
    }

    /// The first of the pages with keys.
    pub(crate) fn first_keys(&self) -> u32 {
        self.first_blocks() + ((self.end - self.start) / GRANULE).div_ceil(BLOCKS_A_PAGE) as u32
    }

    /// How many pages the file has.
    pub(crate) fn pages(&self) -> u32 {
        self.first_keys() + self.key_pages
    }

    /// The page and the place in it of the place with this number.
    pub(crate) fn page_of_place(&self, number: u32) -> (u32, u32) {
        let per_page = places_a_page(self.place_bits);
        (IndexHeader::FIRST_PLACES + number / per_page, number % per_page)
    }

    /// The page and the bit in it of the granule at `lsn`, which lies in the stretch.
    pub(crate) fn page_of_block(&self, lsn: Lsn) -> (u32, u32) {
        let granule = (lsn.0 - self.start) / GRANULE;
        (self.first_blocks() + (granule / BLOCKS_A_PAGE) as u32, (granule % BLOCKS_A_PAGE) as u32)
    }

    pub(crate) fn start(&self) -> Lsn {
        Lsn(self.start)
    }

    pub(crate) fn end(&self) -> Lsn {
        Lsn(self.end)
    }
}

impl IndexEpoch {
    /// What a block at `lsn` lies in, of an epoch that owns the log up to `end`.
    pub(crate) fn of_block(identity: &Identity, lsn: Lsn, end: Lsn) -> IndexEpoch {
        IndexEpoch { epoch: identity.epoch, reserved: 0, nonce: identity.nonce, start: lsn.0, end: end.0 }
    }

    pub(crate) fn is_of(&self, identity: &Identity) -> bool {
        (self.epoch, self.nonce) == (identity.epoch, identity.nonce)
    }

    /// Adds a part behind others: to the last of them if that is of the same epoch. False if there is no room for it.
    pub(crate) fn add_to(self, rows: &mut Vec<IndexEpoch>) -> bool {
        let has_room = rows.len() < INDEX_EPOCHS_MAX;
        match rows.last_mut() {
            Some(last) if (last.epoch, last.nonce) == (self.epoch, self.nonce) => last.end = self.end,
            _ if !has_room => return false,
            _ => rows.push(self),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By a difference that no CRC sees: what is beside the hash is no function of that and the key's length.
    #[test]
    fn what_is_beside_the_hash_is_hashed_as_well() {
        let crc = |start, bytes: &[u8]| crc32c::crc32c_append(start, bytes);
        let polynomial = (1 | 0x82f6_3b78_u64 << 1).to_le_bytes();
        for number in 0..100_u64 {
            let key = number.to_be_bytes();
            let other: [u8; 8] = std::array::from_fn(|index| key[index] ^ polynomial[index]);
            assert_eq!(crc(0, &key), crc(0, &other));
            let [one, two] = [key, other].map(|key| WholeKeyHash::of(&[7; 16], &key));
            let told = crc(one.hash as u32 ^ two.hash as u32, &[0; 8]) ^ crc(0, &[0; 8]);
            assert_ne!(one.check ^ two.check, told);
            assert_eq!(KeyHash::of_whole(one), KeyHash::of(&[7; 16], &key));
        }
    }

    fn header() -> (IndexHeader, Vec<IndexEpoch>) {
        let plan = IndexPlan {
            log_id: [7; 16],
            shard: 3,
            nonce: 9,
            start: Lsn(GRANULE),
            end: Lsn(9 * GRANULE),
            places: 40,
        };
        let row = |epoch, start, end| IndexEpoch {
            epoch,
            reserved: 0,
            nonce: 5,
            start: start * GRANULE,
            end: end * GRANULE,
        };
        let rows = vec![row(1, 1, 3), row(2, 4, 9)];
        let header = IndexHeader { keys: 20, key_pages: 1, epochs: 2, ..IndexHeader::planned(&plan) };
        (header, rows)
    }

    #[test]
    fn every_bit_of_a_header_is_covered() {
        let (header, rows) = header();
        let page = header.encode(&rows);
        let (decoded, epochs) = IndexHeader::decode(&page).unwrap();
        assert_eq!((IndexHeader { crc: 0, ..decoded }, &epochs), (header, &rows));
        let used = size_of::<IndexHeader>() + rows.len() * size_of::<IndexEpoch>();
        for bit in 0..used * 8 {
            let mut page = page.clone();
            page[bit / 8] ^= 1 << (bit % 8);
            assert!(IndexHeader::decode(&page).is_err(), "bit {bit} can flip unseen");
        }
        for bytes in 0..used {
            assert!(IndexHeader::decode(&page[..bytes]).is_err(), "{bytes} bytes are no header");
        }
    }

    /// Behind an intact checksum: what a newer version wrote, or a fault of our own.
    #[test]
    fn impossible_headers_are_defects() {
        let forged = |change: fn(&mut IndexHeader, &mut Vec<IndexEpoch>)| {
            let (mut header, mut rows) = header();
            change(&mut header, &mut rows);
            IndexHeader::decode(&header.encode(&rows)).map(drop)
        };
        assert_eq!(forged(|_, _| ()), Ok(()));
        assert_eq!(forged(|header, _| header.version += 1), Err(Defect::Version));
        let impossible: [fn(&mut IndexHeader, &mut Vec<IndexEpoch>); 11] = [
            |header, _| header.end = header.start,
            |header, _| header.end = header.start - GRANULE,
            |header, _| header.start += 1,
            |header, _| header.end = header.start + INDEX_BYTES_MAX + GRANULE,
            |header, _| header.place_bits += 1,
            |header, _| header.places = u32::MAX,
            |header, _| header.keys = header.places + 1,
            |header, _| header.key_pages = header.keys + 1,
            |header, _| header.key_pages = 0,
            |_, rows| rows.reverse(),
            |_, rows| rows[1].end += GRANULE,
        ];
        for (number, change) in impossible.into_iter().enumerate() {
            assert_eq!(forged(change), Err(Defect::Length), "change {number}");
        }
    }

    #[test]
    fn the_seed_names_the_file() {
        let own = header().0;
        for other in [
            IndexHeader { log_id: [8; 16], ..own },
            IndexHeader { shard: 4, ..own },
            IndexHeader { nonce: 4, ..own },
            IndexHeader { start: 0, ..own },
            IndexHeader { end: own.end + GRANULE, ..own },
        ] {
            assert_ne!(other.seed(), own.seed());
        }
    }
}
