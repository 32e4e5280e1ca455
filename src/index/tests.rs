use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::ops::{Bound, Range};
use std::sync::Arc;

use super::*;
use crate::device::sim::Random;
use crate::format::{GRANULE, INDEX_PAGE_BYTES, Identity, KeyHash};
use crate::position::Lsn;

const LOG: [u8; 16] = [7; 16];
const SHARD: u16 = 3;

/// A file in memory.
#[derive(Default)]
struct Memory(Vec<u8>);

impl Sink for Memory {
    fn put(&mut self, number: u32, page: &[u8]) -> io::Result<()> {
        let (from, end) = (number as usize * INDEX_PAGE_BYTES, (number as usize + 1) * INDEX_PAGE_BYTES);
        self.0.resize(self.0.len().max(end), 0);
        assert!(
            number > 0 && self.0[from..end].iter().all(|byte| *byte == 0),
            "page {number} is written once"
        );
        self.0[from..end].copy_from_slice(page);
        Ok(())
    }
}

impl Memory {
    fn finish(mut self, written: &Written) -> Vec<u8> {
        self.0[..INDEX_PAGE_BYTES].copy_from_slice(&written.first_page);
        self.0
    }
}

/// What is in a stretch, by hash and place.
type Model = BTreeMap<(KeyHash, Lsn), Place>;

/// How the keys of a stretch are: so many, of which one has so many of a thousand records; so many granules to a block.
#[derive(Clone, Copy, Debug)]
struct Shape {
    keys: u64,
    skew: u64,
    granules: u64,
    records: u64,
}

fn key(number: u64) -> KeyHash {
    KeyHash::of(&LOG, &number.to_le_bytes())
}

/// Adds random blocks from `from` on until `bytes` are full; gives the model and the end.
fn fill(builder: &mut Builder, random: &mut Random, shape: Shape, from: Lsn, bytes: u64) -> (Model, Lsn) {
    let (mut model, mut at, mut epoch) = (Model::new(), from, 1);
    builder.begin(from);
    loop {
        if random.below(60) == 0 {
            epoch += 1;
            at = Lsn(at.0 + random.below(3) * GRANULE);
        }
        let end = Lsn(at.0 + (1 + random.below(shape.granules)) * GRANULE);
        if end.0 - from.0 > bytes {
            return (model, Lsn(from.0 + bytes));
        }
        let identity = Identity { log_id: LOG, shard: SHARD, epoch, nonce: u64::from(epoch) + 100 };
        let (mut records, mut lsn) = (Vec::new(), at.0 + 88);
        while lsn + 40 < end.0 {
            let number = if random.below(1000) < shape.skew { 0 } else { random.below(shape.keys) };
            records.push((key(number), Lsn(lsn)));
            lsn += 24 + random.below((end.0 - at.0) / shape.records) / 8 * 8;
        }
        match builder.add_block(&identity, at, end, end, records.iter().copied()) {
            Built::Added => {}
            Built::Full => return (model, builder.range().end),
        }
        model.extend(
            records
                .iter()
                .map(|&(hash, lsn)| ((hash, lsn), Place { lsn, block: at, epoch, nonce: identity.nonce })),
        );
        at = end;
    }
}

fn builder(bytes: u64) -> Builder {
    Builder::new(LOG, SHARD, bytes, 64 << 20, 64 << 10).unwrap()
}

const SHAPES: [Shape; 6] = [
    Shape { keys: 1, skew: 0, granules: 16, records: 64 },
    Shape { keys: u64::MAX, skew: 0, granules: 16, records: 64 },
    Shape { keys: 50, skew: 0, granules: 1, records: 3 },
    Shape { keys: 5_000, skew: 500, granules: 16, records: 200 },
    Shape { keys: 100_000, skew: 10, granules: 4, records: 100 },
    Shape { keys: 7, skew: 990, granules: 2, records: 2 },
];

fn decode(bytes: &[u8]) -> Arc<Run> {
    Arc::new(Run::decode(&bytes[..INDEX_PAGE_BYTES], bytes.len() as u64, &LOG, SHARD).unwrap())
}

fn expected(model: &Model, hash: KeyHash, range: &Range<Lsn>) -> Vec<Place> {
    if range.start >= range.end {
        return Vec::new();
    }
    let bounds = (Bound::Included((hash, range.start)), Bound::Excluded((hash, range.end)));
    model.range(bounds).map(|(_, place)| *place).collect()
}

/// Asks for every key, and for some that are not there, forwards and backwards and from bounds.
fn check(bytes: &[u8], model: &Model, random: &mut Random) {
    let run = decode(bytes);
    let pages = PagesInMemory { header: &run.header, bytes };
    let all = Lsn::MIN..Lsn::MAX;
    let mut hashes: Vec<KeyHash> = model.keys().map(|(hash, _)| *hash).collect();
    hashes.dedup();
    assert_eq!((run.header.keys as usize, run.header.places as usize), (hashes.len(), model.len()));
    let few = hashes.len().div_ceil(300).max(1);
    let absent: Vec<KeyHash> = (0..50).map(|_| KeyHash::from_raw(random.next())).collect();
    let absent = absent.into_iter();
    for hash in
        hashes.iter().copied().step_by(few).chain(absent).chain([KeyHash::from_raw(0), KeyHash::from_raw(!0)])
    {
        let places = |range| run.places(&pages, hash, range).unwrap();
        let whole = expected(model, hash, &all);
        assert!(places(all.clone()).map(Result::unwrap).eq(whole.iter().copied()), "{hash:?}");
        assert!(places(all.clone()).rev().map(Result::unwrap).eq(whole.iter().rev().copied()), "{hash:?}");
        for _ in 0..2 {
            let mut bound = || Lsn(run.header.start + random.below(run.header.end - run.header.start + 9000));
            let range = bound()..bound();
            let part = expected(model, hash, &range);
            assert_eq!(places(range.clone()).left(), part.len(), "{hash:?} in {range:?}");
            assert!(
                places(range.clone()).map(Result::unwrap).eq(part.iter().copied()),
                "{hash:?} in {range:?}"
            );
        }
    }
}

fn build(builder: &mut Builder, end: Lsn) -> Vec<u8> {
    let mut memory = Memory::default();
    let written = builder.write(&mut memory, end, 99).unwrap();
    let bytes = memory.finish(&written);
    assert_eq!(*decode(&bytes), written.run);
    assert_eq!(bytes.len(), written.run.header.pages() as usize * INDEX_PAGE_BYTES);
    bytes
}

#[test]
fn a_run_answers_as_a_map_does() {
    for (seed, shape) in SHAPES.into_iter().cycle().take(18).enumerate() {
        let mut random = Random::new(seed as u64);
        let stretch = [12 * GRANULE, 300 * GRANULE, 1500 * GRANULE][seed / 6];
        let mut builder = builder(stretch);
        let from = Lsn(random.below(1 << 40) * GRANULE);
        let (model, end) = fill(&mut builder, &mut random, shape, from, stretch);
        check(&build(&mut builder, end), &model, &mut random);
    }
}

#[test]
fn a_stretch_without_keys_is_a_run_that_has_none() {
    let mut builder = builder(64 * GRANULE);
    builder.begin(Lsn(GRANULE));
    let bytes = build(&mut builder, Lsn(20 * GRANULE));
    check(&bytes, &Model::new(), &mut Random::new(1));
}

#[test]
fn merged_runs_answer_as_one_does() {
    for (seed, shape) in SHAPES.into_iter().enumerate() {
        let mut random = Random::new(seed as u64);
        let mut builder = builder(200 * GRANULE);
        let (mut all, mut at, mut files) = (Model::new(), Lsn(5 * GRANULE), Vec::new());
        for part in 0..4 {
            let (model, end) = if part == 2 {
                builder.begin(at); // One in which there is nothing.
                (Model::new(), Lsn(at.0 + 40_000 * GRANULE))
            } else {
                fill(&mut builder, &mut random, shape, at, 200 * GRANULE)
            };
            files.push(build(&mut builder, end));
            at = end;
            all.extend(model);
        }
        let runs: Vec<Arc<Run>> = files.iter().map(|bytes| decode(bytes)).collect();
        let pages: Vec<_> = (runs.iter().zip(&files))
            .map(|(run, bytes)| PagesInMemory { header: &run.header, bytes })
            .collect();
        let inputs: Vec<_> = runs.iter().map(Arc::as_ref).zip(&pages).collect();
        let mut memory = Memory::default();
        let written = merge(&inputs, &mut memory, 100).unwrap();
        assert_eq!(written.run.range(), Lsn(5 * GRANULE)..at);
        check(&memory.finish(&written), &all, &mut random);
    }
}

#[test]
fn runs_with_a_gap_between_them_or_too_far_apart_are_not_merged() {
    let mut builder = builder(200 * GRANULE);
    let mut run = |from: u64, end: u64| {
        builder.begin(Lsn(from * GRANULE));
        decode(&build(&mut builder, Lsn(end * GRANULE)))
    };
    let whole = 1 << 18;
    let runs = [run(0, 5), run(5, 6), run(7, 9), run(6, whole), run(whole, whole + 1)];
    let can = |numbers: &[usize]| can_merge(numbers.iter().map(|number| runs[*number].as_ref()));
    assert!(can(&[0, 1]) && can(&[0, 1, 3]));
    assert!(!can(&[1, 2]) && !can(&[1, 0]) && !can(&[0, 1, 3, 4]) && !can(&[]));
}

/// Every byte of a file, one after the other: what was answered before is answered, or nothing is believed.
#[test]
fn no_changed_byte_changes_an_answer() {
    let mut random = Random::new(4);
    let shape = Shape { keys: 12, skew: 300, granules: 4, records: 8 };
    let mut builder = builder(40 * GRANULE);
    let (model, end) = fill(&mut builder, &mut random, shape, Lsn(8 * GRANULE), 40 * GRANULE);
    let good = build(&mut builder, end);
    let mut hashes: Vec<KeyHash> = model.keys().map(|(hash, _)| *hash).collect();
    hashes.dedup();
    let answers = |bytes: &[u8]| -> Result<Vec<Vec<Place>>, Defect> {
        let run = Run::decode(
            bytes.get(..INDEX_PAGE_BYTES).ok_or(Defect::Short)?,
            bytes.len() as u64,
            &LOG,
            SHARD,
        )?;
        let run = Arc::new(run);
        let pages = PagesInMemory { header: &run.header, bytes };
        hashes.iter().map(|hash| run.places(&pages, *hash, Lsn::MIN..Lsn::MAX)?.collect()).collect()
    };
    let right = answers(&good).unwrap();
    let mut refused = 0;
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 1 << random.below(8);
        match answers(&bytes) {
            Ok(same) => assert_eq!(same, right, "byte {at}"),
            Err(_) => refused += 1,
        }
    }
    // All but what lies behind the header on its page.
    assert!(refused > good.len() - INDEX_PAGE_BYTES, "{refused} of {}", good.len());
    for bytes in (0..good.len()).step_by(997) {
        assert!(answers(&good[..bytes]).is_err(), "{bytes} bytes are no run");
    }
    let foreign =
        |log: u8, shard| Run::decode(&good[..INDEX_PAGE_BYTES], good.len() as u64, &[log; 16], shard);
    assert_eq!((foreign(8, SHARD), foreign(7, 4)), (Err(Defect::Foreign), Err(Defect::Foreign)));
    assert!(foreign(7, SHARD).is_ok());
}

/// Counts the pages that are read, of keys and of others.
struct Counted<'a> {
    pages: PagesInMemory<'a>,
    keys: Cell<u32>,
    others: Cell<u32>,
}

impl Pages for Counted<'_> {
    fn page(&self, number: u32) -> Result<Arc<[u8]>, Defect> {
        let count = if number >= self.pages.header.first_keys() { &self.keys } else { &self.others };
        count.set(count.get() + 1);
        self.pages.page(number)
    }
}

/// A stretch of `granules` in bulk: records of a key of 8 bytes and a payload of 256, in blocks of 256 KiB.
fn bulk(granules: u64, keys: u64) -> Vec<u8> {
    let mut random = Random::new(9);
    let stretch = granules * GRANULE;
    let mut builder = builder(stretch);
    builder.begin(Lsn(0));
    let identity = Identity { log_id: LOG, shard: SHARD, epoch: 1, nonce: 1 };
    let mut number = 0;
    for block in (0..stretch).step_by(256 << 10) {
        let records = (0..(256 << 10) / 280).map(|index| {
            number += 1;
            let name = if keys == u64::MAX { number } else { random.below(keys) };
            (key(name), Lsn(block + 88 + index * 280))
        });
        let built = builder.add_block(&identity, Lsn(block), Lsn(block + (256 << 10)), Lsn::MAX, records);
        assert_eq!(built, Built::Added);
    }
    build(&mut builder, Lsn(stretch))
}

/// What `docs/decisions.md` says of it.
#[test]
fn a_run_takes_two_percent_of_the_log_and_less() {
    for (granules, keys, bytes_most) in [
        (16 << 8, u64::MAX, 5.8),
        (64 << 8, u64::MAX, 5.8),
        (16 << 8, 10_000, 3.6),
        (16 << 8, 100, 3.0),
        (16 << 8, 1, 3.0),
    ] {
        let bytes = bulk(granules, keys);
        let a_record = bytes.len() as f64 / f64::from(decode(&bytes).header.places);
        let of_log = bytes.len() as f64 / (granules * GRANULE) as f64;
        assert!(a_record < bytes_most && of_log < 0.021, "{keys} keys: {a_record:.2} a record, {of_log:.4}");
    }
}

#[test]
fn a_key_is_found_on_the_page_where_its_hash_suggests() {
    let bytes = bulk(64 << 8, u64::MAX);
    let run = decode(&bytes);
    let counted = |hash| {
        let pages = PagesInMemory { header: &run.header, bytes: &bytes };
        let pages = Counted { pages, keys: Cell::new(0), others: Cell::new(0) };
        let found = run.places(&pages, hash, Lsn::MIN..Lsn::MAX).unwrap().map(Result::unwrap).count();
        (found, pages.keys.get(), pages.others.get())
    };
    let (mut keys, mut most) = (0, 0);
    for number in 1..=2_000 {
        let (found, key_pages, others) = counted(key(number));
        // Its place, and where its block begins.
        assert_eq!((found, others), (1, 2), "key {number}");
        keys += key_pages;
        most = most.max(key_pages);
    }
    assert!(keys < 2_600 && most <= 3, "{keys} pages of keys for 2,000 keys, {most} for one");
    let absent: Vec<_> = (1 << 40..(1 << 40) + 2_000).map(|number| counted(key(number))).collect();
    let others = absent.iter().filter(|(_, _, others)| *others > 0).count();
    assert!(others <= 2, "{others} of 2,000 keys that are not there look as if they were");
}

#[test]
fn a_builder_without_room_leaves_the_block_out() {
    let identity = |epoch| Identity { log_id: LOG, shard: SHARD, epoch, nonce: 1 };
    let mut builder = Builder::new(LOG, SHARD, 64 * GRANULE, 1, 8192).unwrap();
    builder.begin(Lsn(0));
    let mut add = |epoch, granule: u64, records: u64| {
        let lsn = granule * GRANULE;
        let records = (0..records).map(|index| (key(index), Lsn(lsn + 88 + index * 8)));
        builder.add_block(&identity(epoch), Lsn(lsn), Lsn(lsn + GRANULE), Lsn::MAX, records)
    };
    // The largest block has 410 entries.
    assert_eq!(
        [add(1, 0, 300), add(2, 1, 200), add(1, 2, 110), add(1, 3, 1)],
        [Built::Added, Built::Full, Built::Added, Built::Full]
    );
    assert_eq!(builder.range(), Lsn(0)..Lsn(3 * GRANULE));
    let run = decode(&build(&mut builder, Lsn(4 * GRANULE)));
    assert_eq!((run.header.places, run.epochs.len(), run.epochs[0].end), (410, 1, 4 * GRANULE));
    // Further than the stretch, and more epochs than a header has rows.
    builder.begin(Lsn(0));
    let none = || std::iter::empty();
    assert_eq!(builder.add_block(&identity(1), Lsn(0), Lsn(65 * GRANULE), Lsn::MAX, none()), Built::Full);
    let added = (1..).zip(0..64).map(|(epoch, granule)| {
        let lsn = Lsn(granule * GRANULE);
        builder.add_block(&identity(epoch), lsn, Lsn(lsn.0 + GRANULE), Lsn::MAX, none())
    });
    assert_eq!(added.filter(|built| *built == Built::Added).count(), 64);
}

/// What a file says is not what was written, behind checksums that are right: nothing panics, and nothing goes on for
/// ever. `simulation::fuzz::index` has any bytes for it.
#[test]
fn forged_files_are_harmless() {
    let mut given = 0;
    for seed in 0..600 {
        let mut random = Random::new(seed);
        let bytes: Vec<u8> = (0..random.below(600)).map(|_| random.next() as u8).collect();
        given += forged::look_at(&bytes);
    }
    assert!(given > 1_000, "{given} places were given: the files are refused unread");
}
