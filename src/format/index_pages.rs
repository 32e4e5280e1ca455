//! The pages of an index file: places, blocks and keys. Each has a checksum that is seeded with the file and its
//! number.

use bytemuck::{Pod, Zeroable};

use super::bits::{BitReader, BitWriter, ONES_MAX, number_at};
use super::index::{INDEX_PAGE_BYTES, IndexHeader, KEY_HASH_BITS, KeyHash};
use super::{Defect, EpochSeed};

/// What a page of places or of blocks begins with.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct IndexPage {
    /// CRC32C of all behind it, seeded with the file and the page's number.
    pub crc: u32,
    pub reserved: u32,
}

/// What a page of keys begins with.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct IndexKeys {
    pub crc: u32,
    pub keys: u16,
    /// Of the distance from one hash to the next, so many bits stand as they are.
    pub gap_bits: u16,
    /// Number of the first place of the first key.
    pub place: u32,
    pub reserved: u32,
    /// Hash of the first key.
    pub first: u64,
    /// Hash of the first key of the next page, or above all hashes.
    pub next: u64,
}

const BODY: usize = size_of::<IndexPage>();
const KEYS_BODY: usize = size_of::<IndexKeys>();

/// Granules that a page of blocks has a bit for.
pub(super) const BLOCKS_A_PAGE: u64 = ((INDEX_PAGE_BYTES - BODY) * 8) as u64;

/// Bits of the exponent of a count: counts are below 2^32.
const EXPONENT_BITS: u32 = 5;

/// How many places of so many bits stand on a page.
pub(super) fn places_a_page(bits: u32) -> u32 {
    ((INDEX_PAGE_BYTES - BODY) * 8) as u32 / bits
}

/// Puts the checksum in front of a page.
fn seal(page: &mut [u8], seed: EpochSeed, number: u32) {
    let (crc, covered) = page.split_at_mut(size_of::<u32>());
    crc.copy_from_slice(&seed.crc_at(u64::from(number), covered).to_le_bytes());
}

/// Makes the checksum of any page right.
#[cfg(any(test, feature = "simulation"))]
pub(crate) fn reseal_index_page(page: &mut [u8], header: &IndexHeader, number: u32) {
    seal(page, header.seed(), number);
}

impl IndexHeader {
    /// Whether the page has checked: it is this file's, at this place, whole.
    ///
    /// # Errors
    /// The defect that it has.
    pub(crate) fn check_page(&self, number: u32, page: &[u8]) -> Result<(), Defect> {
        if page.len() != INDEX_PAGE_BYTES {
            return Err(Defect::Short);
        }
        let (crc, covered) = page.split_first_chunk().ok_or(Defect::Short)?;
        let is_right = u32::from_le_bytes(*crc) == self.seed().crc_at(u64::from(number), covered);
        if is_right { Ok(()) } else { Err(Defect::HeaderChecksum) }
    }

    /// The place with this index on a page of places, in units from the start of the stretch.
    #[inline]
    pub(crate) fn place_on(&self, page: &[u8], index: u32) -> Result<u32, Defect> {
        let at = BODY * 8 + index as usize * self.place_bits as usize;
        number_at(page, at, self.place_bits).map(|place| place as u32).ok_or(Defect::Length)
    }
}

/// The last granule at or below this one, on a page of blocks, where a block begins.
pub(crate) fn block_on(page: &[u8], granule: u32) -> Option<u32> {
    let body = page.get(BODY..)?;
    let (mut byte, mut bits) = (granule as usize / 8, 0xff_u8 >> (7 - granule % 8));
    loop {
        let found = body.get(byte)? & bits;
        if found != 0 {
            return Some(byte as u32 * 8 + found.ilog2());
        }
        byte = byte.checked_sub(1)?;
        bits = 0xff;
    }
}

/// Whether a block begins at this granule of a page of blocks.
pub(crate) fn begins_block(page: &[u8], granule: u32) -> bool {
    page.get(BODY + granule as usize / 8).is_some_and(|byte| byte >> (granule % 8) & 1 == 1)
}

/// Fills pages with places.
#[derive(Debug)]
pub(crate) struct PlacesPage {
    bits: BitWriter,
    place_bits: u32,
}

impl PlacesPage {
    pub(crate) fn new(place_bits: u32) -> PlacesPage {
        let mut page = PlacesPage { bits: BitWriter::new(INDEX_PAGE_BYTES), place_bits };
        page.clear();
        page
    }

    fn clear(&mut self) {
        self.bits.clear();
        self.bits.put(0, BODY as u32 * 8 / 2);
        self.bits.put(0, BODY as u32 * 8 / 2);
    }

    pub(crate) fn put(&mut self, place: u32) {
        self.bits.put(u64::from(place), self.place_bits);
    }

    pub(crate) fn is_full(&self) -> bool {
        self.bits.room() < self.place_bits as usize
    }

    /// The page, sealed; the next one begins.
    pub(crate) fn take(&mut self, header: &IndexHeader, number: u32) -> Vec<u8> {
        let mut page = self.bits.bytes().to_vec();
        seal(&mut page, header.seed(), number);
        self.clear();
        page
    }
}

/// A page of blocks, sealed: `bits` has one for each granule of it.
pub(crate) fn blocks_page(header: &IndexHeader, number: u32, bits: &[u8]) -> Vec<u8> {
    let mut page = vec![0; INDEX_PAGE_BYTES];
    page[BODY..][..bits.len()].copy_from_slice(bits);
    seal(&mut page, header.seed(), number);
    page
}

/// Bytes of [`blocks_page`]'s bits on one page.
pub(crate) const BLOCKS_BYTES: usize = INDEX_PAGE_BYTES - BODY;

/// Fills pages with keys.
#[derive(Debug)]
pub(crate) struct KeysPage {
    bits: BitWriter,
    head: IndexKeys,
    last: u64,
}

impl KeysPage {
    /// An empty page. `gap_bits` fits the distances that are expected, at best, and any that come.
    pub(crate) fn new(gap_bits: u32, place: u32) -> KeysPage {
        assert!(gap_bits < KEY_HASH_BITS);
        KeysPage {
            bits: BitWriter::new(INDEX_PAGE_BYTES - KEYS_BODY),
            head: IndexKeys { gap_bits: gap_bits as u16, place, ..IndexKeys::zeroed() },
            last: 0,
        }
    }

    /// Puts a key with so many places behind those that are there; false if it does not fit.
    pub(crate) fn put(&mut self, hash: KeyHash, places: u32) -> bool {
        assert!(places > 0);
        let is_first = self.head.keys == 0;
        let gap_bits = u32::from(self.head.gap_bits);
        let gap = if is_first { 0 } else { hash.raw() - self.last - 1 };
        let is_far = gap >> gap_bits >= u64::from(ONES_MAX);
        let ones = if is_far { ONES_MAX } else { (gap >> gap_bits) as u32 };
        let gap_bits = if is_far { KEY_HASH_BITS } else { gap_bits };
        let exponent = places.ilog2();
        let need = (ones + 1 + gap_bits) * u32::from(!is_first)
            + 1
            + (EXPONENT_BITS + exponent) * u32::from(places > 1);
        if need as usize > self.bits.room() || self.head.keys == u16::MAX {
            return false;
        }
        if is_first {
            self.head.first = hash.raw();
        } else {
            self.bits.put_ones(ones);
            self.bits.put(gap & ((1 << gap_bits) - 1), gap_bits);
        }
        self.bits.put(u64::from(places > 1), 1);
        if places > 1 {
            self.bits.put(u64::from(exponent), EXPONENT_BITS);
            self.bits.put(u64::from(places) & ((1 << exponent) - 1), exponent);
        }
        self.last = hash.raw();
        self.head.keys += 1;
        true
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.head.keys == 0
    }

    /// What the next page's distances will be like.
    pub(crate) fn gap_bits_seen(&self) -> u32 {
        gap_bits((self.last - self.head.first) / u64::from(self.head.keys.max(1)))
    }

    /// The page, sealed; `next` is the key behind it.
    pub(crate) fn finish(mut self, header: &IndexHeader, number: u32, next: Option<KeyHash>) -> Vec<u8> {
        self.head.next = next.map_or(KeyHash::END, KeyHash::raw);
        let mut page = [bytemuck::bytes_of(&self.head), self.bits.bytes()].concat();
        seal(&mut page, header.seed(), number);
        page
    }
}

/// How many bits of distances with this mean are best kept as they are.
pub(crate) fn gap_bits(mean: u64) -> u32 {
    // By Golomb: the power of two at or below 0.7 of the mean.
    (mean * 7 / 10).max(1).ilog2().min(KEY_HASH_BITS - 1)
}

/// [`gap_bits`] of so many keys.
pub(crate) fn gap_bits_of(keys: u32) -> u32 {
    gap_bits(KeyHash::END / u64::from(keys.max(1)))
}

/// A key on a page, and its places by their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IndexKey {
    pub hash: KeyHash,
    pub place: u32,
    pub places: u32,
}

/// A page of keys, or none, as its head has it.
pub(crate) fn keys_head(page: &[u8]) -> Result<IndexKeys, Defect> {
    let head: IndexKeys = bytemuck::pod_read_unaligned(page.get(..KEYS_BODY).ok_or(Defect::Short)?);
    let sane = head.keys > 0
        && u32::from(head.gap_bits) < KEY_HASH_BITS
        && head.first < head.next
        && head.next <= KeyHash::END;
    if sane { Ok(head) } else { Err(Defect::Length) }
}

/// How far a page of keys was walked: to be kept beside the page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeysWalk {
    reader: BitReader,
    head: IndexKeys,
    index: u16,
    hash: u64,
    place: u32,
}

impl KeysWalk {
    pub(crate) fn new(page: &[u8]) -> Result<KeysWalk, Defect> {
        let head = keys_head(page)?;
        Ok(KeysWalk { reader: BitReader::new(), head, index: 0, hash: head.first, place: head.place })
    }

    /// The next key of the page that the walk was begun with. Hashes rise.
    #[inline]
    pub(crate) fn next(&mut self, page: &[u8]) -> Result<Option<IndexKey>, Defect> {
        if self.index == self.head.keys {
            return Ok(None);
        }
        let body = page.get(KEYS_BODY..).ok_or(Defect::Short)?;
        let key = self.key(body).ok_or(Defect::Length)?;
        self.index += 1;
        self.hash = key.hash.raw();
        self.place = key.place + key.places;
        Ok(Some(key))
    }

    #[inline]
    fn key(&mut self, body: &[u8]) -> Option<IndexKey> {
        let mut hash = self.hash;
        if self.index > 0 {
            let gap_bits = u32::from(self.head.gap_bits);
            let ones = self.reader.take_ones(body)?;
            hash += 1 + match ones {
                ONES_MAX => self.reader.take(body, KEY_HASH_BITS)?,
                _ => u64::from(ones) << gap_bits | self.reader.take(body, gap_bits)?,
            };
        }
        let mut places = 1;
        if self.reader.take(body, 1)? == 1 {
            let exponent = self.reader.take(body, EXPONENT_BITS)? as u32;
            places = 1 << exponent | self.reader.take(body, exponent)? as u32;
        }
        self.place.checked_add(places)?;
        (hash < self.head.next).then_some(IndexKey {
            hash: KeyHash::from_raw(hash),
            place: self.place,
            places,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::index::IndexPlan;
    use super::*;
    use crate::position::Lsn;

    fn header() -> IndexHeader {
        let plan = IndexPlan {
            log_id: [7; 16],
            shard: 3,
            nonce: 9,
            start: Lsn(4096),
            end: Lsn(4096 + (1 << 20)),
            places: 4_000,
        };
        IndexHeader::planned(&plan)
    }

    fn walk(page: &[u8]) -> Vec<IndexKey> {
        let mut walk = KeysWalk::new(page).unwrap();
        std::iter::from_fn(|| walk.next(page).unwrap()).collect()
    }

    /// Far apart and side by side, with few places and with many.
    #[test]
    fn keys_come_back() {
        for bits in [0, 5, 19, 35] {
            let mut page = KeysPage::new(bits, 10);
            let (mut expected, mut hash, mut place) = (Vec::new(), 3, 10);
            for (step, places) in [(0, 1), (1, 1), (2, 2), (1 << 20, 3), (1 << 34, 1 << 20), (1, 1)] {
                hash += step;
                let key = IndexKey { hash: KeyHash::from_raw(hash), place, places };
                assert!(page.put(key.hash, places));
                expected.push(key);
                place += places;
            }
            let page = page.finish(&header(), 7, None);
            assert_eq!(walk(&page), expected, "{bits} bits");
            assert_eq!(keys_head(&page).unwrap().next, 1 << 36);
        }
    }

    #[test]
    fn a_page_of_keys_takes_what_fits() {
        let mut page = KeysPage::new(12, 0);
        let taken = (0..).take_while(|&key| page.put(KeyHash::from_raw(key * 4096), 1)).count();
        assert_eq!(taken, (4096 - 32) * 8 / 14 + 1);
        assert_eq!(walk(&page.finish(&header(), 7, None)).len(), taken);
    }

    #[test]
    fn places_come_back() {
        let header = header();
        let mut page = PlacesPage::new(header.place_bits);
        let mut count = 0;
        while !page.is_full() {
            page.put(count * 7 % 131_072);
            count += 1;
        }
        assert_eq!(count, places_a_page(header.place_bits));
        let page = page.take(&header, 5);
        for index in 0..count {
            assert_eq!(header.place_on(&page, index), Ok(index * 7 % 131_072));
        }
        assert_eq!(header.place_on(&page, count), Err(Defect::Length));
    }

    #[test]
    fn the_block_of_a_granule_is_the_last_that_begins_there_or_before() {
        let mut bits = vec![0; BLOCKS_BYTES];
        for granule in [3, 4, 64, 1000] {
            bits[granule / 8] |= 1 << (granule % 8);
        }
        let page = blocks_page(&header(), 5, &bits);
        for (granule, block) in [
            (0, None),
            (2, None),
            (3, Some(3)),
            (4, Some(4)),
            (63, Some(4)),
            (64, Some(64)),
            (32_703, Some(1000)),
        ] {
            assert_eq!(block_on(&page, granule), block, "of {granule}");
        }
        assert_eq!(block_on(&page, 40_000), None);
    }

    #[test]
    fn a_page_is_bound_to_its_file_and_its_number() {
        let header = header();
        let page = blocks_page(&header, 5, &[1; 100]);
        assert_eq!(header.check_page(5, &page), Ok(()));
        assert_eq!(header.check_page(6, &page), Err(Defect::HeaderChecksum));
        let other = IndexHeader { nonce: 1, ..header };
        assert_eq!(other.check_page(5, &page), Err(Defect::HeaderChecksum));
        assert_eq!(header.check_page(5, &page[..4095]), Err(Defect::Short));
        for bit in (0..page.len() * 8).step_by(13) {
            let mut page = page.clone();
            page[bit / 8] ^= 1 << (bit % 8);
            assert!(header.check_page(5, &page).is_err(), "bit {bit} can flip unseen");
        }
    }
}
