//! Writing a run, one key after the other. When: `shard/index/build_runs.rs`.

use std::io;

use super::{Run, Sink};
use crate::format::{
    BLOCKS_BYTES, IndexEpoch, IndexHeader, IndexPlan, KeyHash, KeysPage, PlacesPage, blocks_page, gap_bits_of,
};

/// A run that was written, but for its first page.
#[derive(Debug)]
pub(crate) struct Written {
    pub run: Run,
    /// It makes a run of what was written, and is written last.
    pub first_page: Vec<u8>,
}

/// Writes a run from keys in the order of their hashes, with a page of each kind in memory.
#[derive(Debug)]
pub(crate) struct RunWriter<'s, S: ?Sized> {
    sink: &'s mut S,
    header: IndexHeader,
    keys: KeysPage,
    places: PlacesPage,
    places_page: u32,
    /// Places that were put, and that the keys which were put have.
    put: u32,
    due: u32,
}

impl<'s, S: Sink + ?Sized> RunWriter<'s, S> {
    /// A run as planned, with so many keys or fewer.
    pub(crate) fn new(sink: &'s mut S, plan: &IndexPlan, keys: u32) -> RunWriter<'s, S> {
        let header = IndexHeader::planned(plan);
        RunWriter {
            sink,
            header,
            keys: KeysPage::new(gap_bits_of(keys), 0),
            places: PlacesPage::new(header.place_bits),
            places_page: IndexHeader::FIRST_PLACES,
            put: 0,
            due: 0,
        }
    }

    /// Puts a key; as many places as it has follow.
    pub(crate) fn put_key(&mut self, hash: KeyHash, places: u32) -> io::Result<()> {
        assert_eq!(self.put, self.due, "the places of the key before are there");
        if !self.keys.put(hash, places) {
            let next = KeysPage::new(self.keys.gap_bits_seen(), self.due);
            let full = std::mem::replace(&mut self.keys, next);
            self.put_keys_page(full, Some(hash))?;
            assert!(self.keys.put(hash, places), "a page has room for a key");
        }
        self.due += places;
        self.header.keys += 1;
        Ok(())
    }

    /// Puts a place, in units from the start of the stretch; those of one key rise.
    pub(crate) fn put_place(&mut self, place: u32) -> io::Result<()> {
        self.places.put(place);
        self.put += 1;
        if self.places.is_full() { self.put_places_page() } else { Ok(()) }
    }

    fn put_keys_page(&mut self, page: KeysPage, next: Option<KeyHash>) -> io::Result<()> {
        let number = self.header.first_keys() + self.header.key_pages;
        self.header.key_pages += 1;
        self.sink.put(number, &page.finish(&self.header, number, next))
    }

    fn put_places_page(&mut self) -> io::Result<()> {
        let number = self.places_page;
        self.places_page += 1;
        self.sink.put(number, &self.places.take(&self.header, number))
    }

    /// Writes the rest; `blocks` are the granules of the stretch, in order, where a block begins.
    pub(crate) fn finish(
        mut self,
        blocks: impl Iterator<Item = io::Result<u64>>,
        epochs: Vec<IndexEpoch>,
    ) -> io::Result<Written> {
        assert!(self.put == self.due && self.put == self.header.places, "the places are those planned");
        if self.places_page < self.header.first_blocks() {
            self.put_places_page()?;
        }
        self.put_blocks(blocks)?;
        if !self.keys.is_empty() {
            let last = std::mem::replace(&mut self.keys, KeysPage::new(0, 0));
            self.put_keys_page(last, None)?;
        }
        let first_page = self.header.encode(&epochs);
        let (header, epochs) = IndexHeader::decode(&first_page)
            .map_err(|defect| io::Error::new(io::ErrorKind::InvalidData, defect))?;
        Ok(Written { run: Run { header, epochs }, first_page })
    }

    fn put_blocks(&mut self, blocks: impl Iterator<Item = io::Result<u64>>) -> io::Result<()> {
        let mut blocks = blocks.peekable();
        let per_page = BLOCKS_BYTES as u64 * 8;
        let mut bits = vec![0; BLOCKS_BYTES];
        for (number, first) in
            (self.header.first_blocks()..self.header.first_keys()).zip((0..).step_by(BLOCKS_BYTES * 8))
        {
            bits.fill(0);
            let is_here =
                |granule: &io::Result<u64>| granule.as_ref().map_or(true, |at| *at < first + per_page);
            while let Some(granule) = blocks.next_if(is_here) {
                let bit = (granule? - first) as usize;
                bits[bit / 8] |= 1 << (bit % 8);
            }
            self.sink.put(number, &blocks_page(&self.header, number, &bits))?;
        }
        Ok(())
    }
}
