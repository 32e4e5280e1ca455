//! One run of several.

use std::sync::Arc;
use std::{io, mem};

use super::{Pages, Run, RunWriter, Sink, Written};
use crate::format::{
    Defect, GRANULE, INDEX_BYTES_MAX, INDEX_EPOCHS_MAX, IndexKey, IndexPlan, KeysWalk, PLACE_UNIT,
    begins_block,
};
use crate::position::Lsn;

/// A run whose keys are taken in order, with one page of each kind in memory.
struct Input<'a, P> {
    run: &'a Run,
    pages: &'a P,
    /// What is added to its places.
    shift: u32,
    walk: Option<(Arc<[u8]>, KeysWalk)>,
    next_page: u32,
    key: Option<IndexKey>,
    /// The place that comes next, and the page of places that was read last.
    place: u32,
    places: Option<(u32, Arc<[u8]>)>,
}

fn damaged(defect: Defect) -> io::Error {
    // What could not be read may be as it should.
    let kind = if defect == Defect::Unreadable { io::ErrorKind::Other } else { io::ErrorKind::InvalidData };
    io::Error::new(kind, defect)
}

impl<'a, P: Pages> Input<'a, P> {
    fn new(run: &'a Run, pages: &'a P, first: &Run) -> Result<Input<'a, P>, Defect> {
        let shift = ((run.header.start - first.header.start) / PLACE_UNIT) as u32;
        let next_page = run.header.first_keys();
        let mut input = Input { run, pages, shift, walk: None, next_page, key: None, place: 0, places: None };
        input.advance()?;
        Ok(input)
    }

    /// Goes to the next key.
    fn advance(&mut self) -> Result<(), Defect> {
        let before = mem::take(&mut self.key).map(|key| key.hash);
        loop {
            if let Some((page, walk)) = &mut self.walk {
                self.key = walk.next(page)?;
            }
            if self.key.is_some() || self.next_page == self.run.header.pages() {
                break;
            }
            let page = self.pages.page(self.next_page)?;
            self.next_page += 1;
            let walk = KeysWalk::new(&page)?;
            self.walk = Some((page, walk));
        }
        let left = self.run.header.places - self.place;
        let is_next = |key: &IndexKey| {
            before.is_none_or(|before| before < key.hash) && key.place == self.place && key.places <= left
        };
        let is_over = left == 0;
        // All places belong to a key, one behind the other: else what is written would not be what was read.
        if self.key.as_ref().map_or(is_over, is_next) { Ok(()) } else { Err(Defect::Length) }
    }

    /// The next place, as the merged run has it.
    fn take_place(&mut self) -> Result<u32, Defect> {
        let header = &self.run.header;
        if self.place == header.places {
            return Err(Defect::Length);
        }
        let (page, index) = header.page_of_place(self.place);
        let held = match &mut self.places {
            Some((held, bytes)) if *held == page => bytes,
            held => &mut held.insert((page, self.pages.page(page)?)).1,
        };
        let place = header.place_on(held, index)?;
        self.place += 1;
        if u64::from(place) * PLACE_UNIT < header.end - header.start {
            Ok(place + self.shift)
        } else {
            Err(Defect::Length)
        }
    }
}

/// Whether these runs, in order and without a gap between them, can be one.
pub(crate) fn can_merge<'r>(runs: impl Iterator<Item = &'r Run> + Clone) -> bool {
    let mut pairs = runs.clone().zip(runs.clone().skip(1));
    let epochs = runs.clone().map(|run| run.epochs.len()).sum::<usize>();
    let bytes = |(first, last): (&Run, &Run)| last.header.end - first.header.start;
    let bytes = runs.clone().next().zip(runs.last()).map_or(0, bytes);
    pairs.all(|(one, other)| one.header.end == other.header.start)
        && (1..=INDEX_BYTES_MAX).contains(&bytes)
        && epochs <= INDEX_EPOCHS_MAX
}

/// Writes one run of several that follow each other without a gap, with a few pages of each in memory.
///
/// # Errors
/// Where it cannot be written, or where one of them turns out not to be what it should
/// ([`InvalidData`](io::ErrorKind::InvalidData)).
pub(crate) fn merge<P: Pages>(
    runs: &[(&Run, &P)],
    sink: &mut (impl Sink + ?Sized),
    nonce: u64,
) -> io::Result<Written> {
    assert!(can_merge(runs.iter().map(|(run, _)| *run)), "the runs follow each other");
    let (first, last) = (runs[0].0, runs[runs.len() - 1].0);
    let sum = |count: fn(&Run) -> u32| runs.iter().map(|(run, _)| count(run)).sum::<u32>();
    let plan = IndexPlan {
        log_id: first.header.log_id,
        shard: first.header.shard,
        nonce,
        start: first.header.start(),
        end: last.header.end(),
        places: sum(|run| run.header.places),
    };
    let inputs = runs.iter().map(|(run, pages)| Input::new(run, *pages, first));
    let mut inputs = inputs.collect::<Result<Vec<_>, _>>().map_err(damaged)?;
    let mut writer = RunWriter::new(sink, &plan, sum(|run| run.header.keys));
    while let Some(hash) = inputs.iter().filter_map(|input| input.key).map(|key| key.hash).min() {
        let has = |key: &IndexKey| key.hash == hash;
        let places = inputs.iter().filter_map(|input| input.key.filter(has)).map(|key| key.places).sum();
        writer.put_key(hash, places)?;
        for input in inputs.iter_mut().filter(|input| input.key.as_ref().is_some_and(has)) {
            for _ in 0..input.key.map_or(0, |key| key.places) {
                writer.put_place(input.take_place().map_err(damaged)?)?;
            }
            input.advance().map_err(damaged)?;
        }
    }
    let mut epochs = Vec::new();
    for row in runs.iter().flat_map(|(run, _)| &run.epochs) {
        assert!(row.add_to(&mut epochs), "there is room for the rows of all");
    }
    let blocks = runs.iter().flat_map(|(run, pages)| {
        let shift = (run.header.start - plan.start.0) / GRANULE;
        let blocks = Blocks { run, pages: *pages, granule: 0, page: None };
        blocks.map(move |granule| granule.map(|granule| granule + shift).map_err(damaged))
    });
    writer.finish(blocks, epochs)
}

/// The granules of a run where a block begins.
struct Blocks<'a, P> {
    run: &'a Run,
    pages: &'a P,
    granule: u64,
    page: Option<(u32, Arc<[u8]>)>,
}

impl<P: Pages> Iterator for Blocks<'_, P> {
    type Item = Result<u64, Defect>;

    fn next(&mut self) -> Option<Self::Item> {
        let header = &self.run.header;
        while self.granule < (header.end - header.start) / GRANULE {
            let granule = self.granule;
            self.granule += 1;
            let (page, bit) = header.page_of_block(Lsn(header.start + granule * GRANULE));
            let held = match &mut self.page {
                Some((held, bytes)) if *held == page => bytes,
                held => match self.pages.page(page) {
                    Ok(bytes) => &mut held.insert((page, bytes)).1,
                    Err(defect) => return Some(Err(defect)),
                },
            };
            if begins_block(held, bit) {
                return Some(Ok(granule));
            }
        }
        None
    }
}
