//! Reading segments, on the simulated machine and on a real one.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::unlisted::Stray;
use super::{Marks, Segment, SegmentReader, ShardStore, Size, continuations, segment_name};
use crate::device::sim::{Faults, Random, SimMachine};
use crate::device::{Device, Directory, RealDevice};
use crate::format::{BlockHeader, BlockSeal, Defect, GRANULE, Identity, SegmentRow};
use crate::position::Lsn;
use crate::simulation::Simulated;

/// Empty files of these sizes, one behind the other in the stream.
fn segments(directory: &dyn Directory, sizes: &[u64]) -> Vec<Arc<Segment>> {
    let mut base = 0;
    let make = |(&bytes, file): (&u64, u32)| {
        let row = SegmentRow { base, bytes, file, reserved: 0 };
        base += bytes;
        Arc::new(Segment::new(row, directory.create(&segment_name(file)).unwrap()))
    };
    sizes.iter().zip(1..).map(make).collect()
}

/// Of so many granules, and of no fewer however little room there is.
fn size(least: u64, bytes: u64) -> Size {
    Size { floor: bytes * GRANULE, least: least * GRANULE, bytes: bytes * GRANULE }
}

fn folder() -> Arc<dyn Directory> {
    Simulated::of(&SimMachine::new(12)).device().directory(Path::new("/segments")).unwrap()
}

/// Whatever the window holds, what is served is what the file holds there, read once.
#[test]
fn the_window_serves_each_segment_its_own_bytes() {
    let segments = segments(folder().as_ref(), &[16384, 16384]);
    let granule = |segment: &Segment, index: u64| [(segment.row.file * 16 + index as u32) as u8; 4096];
    for segment in &segments {
        for index in 0..4 {
            segment.file.write_at(&granule(segment, index), index * GRANULE, true).unwrap();
        }
    }
    let mut reader = SegmentReader::new(8192).unwrap();
    for (which, index) in
        [(0, 0), (0, 1), (0, 2), (1, 2), (1, 3), (0, 3), (1, 0), (0, 0), (0, 3), (0, 0), (0, 2)]
    {
        let segment = &segments[which];
        let own = granule(segment, index);
        assert_eq!(reader.bytes(segment, index * GRANULE, 4096).unwrap(), own, "{which} {index}");
    }
    // The window holds the third and fourth granule: they are not read again until they are forgotten.
    let segment = &segments[0];
    segment.file.write_at(&[99; 8192], 2 * GRANULE, true).unwrap();
    for index in [3, 2] {
        assert_eq!(reader.bytes(segment, index * GRANULE, 4096).unwrap(), granule(segment, index));
    }
    assert_eq!(reader.bytes(segment, 3 * GRANULE, 8192), Err(Defect::Short), "beyond the segment");
    reader.forget();
    assert_eq!(reader.bytes(segment, 3 * GRANULE, 4096).unwrap(), [99; 4096]);
}

/// A file that was cut short beneath us has no bytes there, whatever the window held before.
#[test]
fn a_short_read_serves_nothing() {
    let segments = segments(folder().as_ref(), &[16384]);
    segments[0].file.write_at(&[1; 4096], 0, true).unwrap();
    let mut reader = SegmentReader::new(16384).unwrap();
    assert_eq!(reader.bytes(&segments[0], 0, 8192), Err(Defect::Short));
    assert_eq!(reader.bytes(&segments[0], 0, 4096).unwrap(), [1; 4096]);
}

const IDENTITY: Identity = Identity { log_id: [5; 16], shard: 0, epoch: 1, nonce: 77 };

/// A block without records, of some length, that continues the chain at `lsn`.
fn empty_block(lsn: u64) -> Vec<u8> {
    let (lsn, covered) = (Lsn(lsn), Lsn(lsn.saturating_sub(GRANULE)));
    let seal = BlockSeal { lsn, previous_end: lsn, covered, timestamp: 1, record_count: 0, length: 88 };
    let mut bytes = bytemuck::bytes_of(&BlockHeader::sealed(&IDENTITY, &seal)).to_vec();
    bytes.resize(GRANULE as usize, 0);
    bytes
}

/// A follower's window may have been read before the block was written.
#[test]
fn what_does_not_check_is_read_once_more() {
    let segments = segments(folder().as_ref(), &[16384]);
    let segment = &segments[0];
    segment.file.write_at(&empty_block(0), 0, true).unwrap();
    segment.file.write_at(&[0; 4096], GRANULE, true).unwrap();
    let mut reader = SegmentReader::new(8192).unwrap();
    assert!(reader.block(segment, &IDENTITY, Lsn(0), None).is_ok());
    segment.file.write_at(&empty_block(GRANULE), GRANULE, true).unwrap();
    let (header, _) = reader.block(segment, &IDENTITY, Lsn(GRANULE), Some(Lsn(GRANULE))).unwrap();
    assert_eq!(header.lsn(), Lsn(GRANULE));
    // What was believed once is not read again.
    segment.file.write_at(&[0; 4096], GRANULE, true).unwrap();
    assert!(reader.block(segment, &IDENTITY, Lsn(GRANULE), Some(Lsn(GRANULE))).is_ok());
}

/// A block that claims to go on beyond its segment, or to be larger than blocks are, is none.
#[test]
fn a_block_does_not_leave_its_segment() {
    let segments = segments(folder().as_ref(), &[8192, 65536]);
    let block = |lsn: u64, length: u32| {
        let lsn = Lsn(lsn);
        let seal =
            BlockSeal { lsn, previous_end: lsn, covered: Lsn(0), timestamp: 1, record_count: 0, length };
        bytemuck::bytes_of(&BlockHeader::sealed(&IDENTITY, &seal)).to_vec()
    };
    for (segment, lsn, length) in [(&segments[0], 4096, 8192), (&segments[1], 8192, 20480)] {
        let mut bytes = block(lsn, length);
        bytes.resize((segment.row.bytes - (lsn - segment.row.base)) as usize, 0);
        segment.file.write_at(&bytes, lsn - segment.row.base, true).unwrap();
        let mut reader = SegmentReader::new(16384).unwrap();
        let found = reader.block(segment, &IDENTITY, Lsn(lsn), None);
        assert_eq!(found.map(|_| ()), Err(Defect::Length));
    }
}

/// A segment in which the next block has no room is passed over, also if nothing is in it at all.
#[test]
fn the_chain_goes_on_behind_segments_that_are_too_small() {
    let sizes = [4096, 4096, 8192, 65536, 4096];
    let segments = segments(folder().as_ref(), &sizes);
    let base = sizes.iter().sum();
    let places = |end| continuations(&segments, Lsn(end), 65536).map(|(_, lsn)| lsn.0).collect::<Vec<_>>();
    assert_eq!(places(0), [0, 4096, 8192, 16384]);
    assert_eq!(places(512), [512, 4096, 8192, 16384]);
    assert_eq!(places(8192), [8192, 16384]);
    assert_eq!(places(20480), [20480, 16384 + 65536]);
    assert_eq!(places(base), [0u64; 0]);
}

/// Whatever is read, forgotten and written in whatever order: in a scan that reads ahead, too, everything that
/// stood there before the reader was last made to forget is what it serves.
fn scans_serve_what_is_there(directory: &dyn Directory, random: &mut Random) {
    const GRANULES: u64 = 48;
    let segments = segments(directory, &[GRANULES * GRANULE, GRANULES * GRANULE]);
    let mut truth = vec![vec![0u8; GRANULES as usize]; 2];
    for (segment, truth) in segments.iter().zip(&mut truth) {
        for (index, byte) in truth.iter_mut().enumerate() {
            *byte = random.next() as u8;
            segment.file.write_at(&aligned(*byte), index as u64 * GRANULE, true).unwrap();
        }
    }
    let most = 1 + random.below(4);
    let mut reader =
        SegmentReader::for_scan((most * GRANULE) as u32, ((1 + random.below(6)) * GRANULE) as usize).unwrap();
    let (mut which, mut at) = (0, 0);
    for _ in 0..200 {
        match random.below(20) {
            // As a follower: what is new is believed once the reader has forgotten what it held.
            0 => {
                let index = random.below(GRANULES);
                truth[which][index as usize] = random.next() as u8;
                let bytes = aligned(truth[which][index as usize]);
                segments[which].file.write_at(&bytes, index * GRANULE, true).unwrap();
                reader.forget();
            }
            1 => at = random.below(GRANULES),
            2 => (which, at) = (1 - which, 0),
            _ => {}
        }
        let granules = 1 + random.below(most);
        let found = reader.bytes(&segments[which], at * GRANULE, (granules * GRANULE) as usize);
        if at + granules > GRANULES {
            assert_eq!(found, Err(Defect::Short));
            at = 0;
            continue;
        }
        let found = found.unwrap().chunks(GRANULE as usize);
        for (bytes, truth) in found.zip(&truth[which][at as usize..]) {
            assert!(bytes.iter().all(|byte| byte == truth), "at {at} of {which}");
        }
        // On, sometimes over the same again, as a block is looked at after its header.
        at += random.below(granules + 1);
    }
}

fn aligned(byte: u8) -> crate::pool::AlignedBuffer {
    let mut granule = crate::pool::AlignedBuffer::zeroed(GRANULE as usize).unwrap();
    granule.fill(byte);
    granule
}

#[test]
fn scans_ahead_serve_what_is_there() {
    for seed in 0..300 {
        let machine = SimMachine::new(seed);
        // Every third read comes back short, in every other world.
        machine.set_faults(Faults { short: 300 * (seed as u32 % 2), ..Faults::default() });
        let device = Simulated::of(&machine).device();
        let directory = device.directory(Path::new("/segments")).unwrap();
        scans_serve_what_is_there(directory.as_ref(), &mut Random::new(seed));
    }
}

#[test]
fn scans_ahead_serve_what_is_there_on_a_real_file_system() {
    for seed in 0..20 {
        for device in [RealDevice::new(), RealDevice::without_uring()] {
            let dir = tempfile::tempdir().unwrap();
            let directory = device.directory(dir.path()).unwrap();
            scans_serve_what_is_there(directory.as_ref(), &mut Random::new(seed));
        }
    }
}

/// A reader that is dropped while something is read for it waits for that.
#[test]
fn a_reader_is_dropped_in_the_middle_of_a_read() {
    let dir = tempfile::tempdir().unwrap();
    let directory = RealDevice::new().directory(dir.path()).unwrap();
    let segments = segments(directory.as_ref(), &[64 * GRANULE]);
    for index in 0..64 {
        segments[0].file.write_at(&aligned(index as u8), index * GRANULE, true).unwrap();
    }
    for reads in 1..6 {
        let mut reader = SegmentReader::for_scan(GRANULE as u32, 4 * GRANULE as usize).unwrap();
        for read in 0..reads {
            let found = reader.bytes(&segments[0], read * 4 * GRANULE, GRANULE as usize).unwrap();
            assert_eq!(found[0], read as u8 * 4);
        }
    }
}

/// A shard that has had segments of these sizes and has given them all up, with room for so many bytes of spares; and
/// its folder.
fn store_with_spares(
    machine: &SimMachine,
    sizes: &[u64],
    spare_bytes_max: u64,
) -> (ShardStore, Arc<dyn Directory>) {
    let folder = Simulated::of(machine).device().directory(Path::new("/segments")).unwrap();
    ShardStore::create(folder.clone(), [7; 16], 0, 1).unwrap();
    let (mut store, _, _) = ShardStore::open(folder.clone(), spare_bytes_max / 2, 2).unwrap();
    let mut marks = Marks { checkpoint: Lsn(0), covered: Lsn(0), timestamp: 0 };
    for &bytes in sizes {
        let draft = store.draft(Size { floor: bytes, least: bytes, bytes }, 0).unwrap();
        store.list(draft, Lsn(0), &marks).unwrap();
    }
    let end = store.segments().last().unwrap().end();
    (marks.checkpoint, marks.covered) = (end, end);
    store.truncate_before(end, end, &marks).unwrap();
    (store, folder)
}

fn file_sizes(folder: &dyn Directory) -> Vec<u64> {
    let names = folder.list().unwrap();
    let segments = names.iter().filter(|name| name.ends_with(".seg"));
    let mut sizes: Vec<_> = segments.map(|name| folder.open(name).unwrap().bytes().unwrap()).collect();
    sizes.sort_unstable();
    sizes
}

#[test]
fn of_too_many_spares_the_small_ones_go() {
    let sizes = [1, 2, 3, 4, 3].map(|granules| granules * GRANULE);
    let (_, folder) = store_with_spares(&SimMachine::new(12), &sizes, 10 * GRANULE);
    assert_eq!(file_sizes(folder.as_ref()), [3, 3, 4].map(|granules| granules * GRANULE));
}

#[test]
fn spares_are_used_again_if_large_enough_and_freed_if_they_never_will_be() {
    let sizes = [1, 2, 2, 4].map(|granules| granules * GRANULE);
    let (mut store, folder) = store_with_spares(&SimMachine::new(12), &sizes, 100 * GRANULE);
    let size = size(2, 4);
    let drafted =
        |store: &mut ShardStore, need: u64| store.draft(size, need * GRANULE).unwrap().bytes / GRANULE;
    // One record that needs more does not cost the others, but for those that are too small for any.
    assert_eq!(drafted(&mut store, 9), 9);
    assert_eq!(file_sizes(folder.as_ref()), [2, 2, 4, 9].map(|granules| granules * GRANULE));
    assert_eq!([0; 4].map(|need| drafted(&mut store, need)), [4, 2, 2, 4], "then a new one");
    assert_eq!(file_sizes(folder.as_ref()), [2, 2, 4, 4, 9].map(|granules| granules * GRANULE));
}

/// Whoever sized the disk for what retention keeps is not told that it is full where a spare is at hand.
#[test]
fn on_a_full_disk_a_spare_that_is_too_small_will_do() {
    let machine = SimMachine::new(12);
    let sizes = [1, 2].map(|granules| granules * GRANULE);
    let (mut store, folder) = store_with_spares(&machine, &sizes, 100 * GRANULE);
    machine.set_faults(Faults { no_space: 1_000, ..Faults::default() });
    let size = size(4, 4);
    assert!(store.draft(size, 3 * GRANULE).is_err(), "none is large enough");
    let drafted = [0; 3].map(|need| store.draft(size, need).ok().map(|draft| draft.bytes / GRANULE));
    assert_eq!(drafted, [Some(2), Some(1), None]);
    assert_eq!(file_sizes(folder.as_ref()), sizes);
}

/// What holds a segment from before its file was closed reads from the same file as what holds it since.
#[test]
fn a_file_is_not_used_again_while_anybody_holds_its_segment() {
    let folder = folder();
    ShardStore::create(folder.clone(), [7; 16], 0, 1).unwrap();
    // One stays open, so that each read of another opens it again.
    let (mut store, _, _) = ShardStore::open(folder.clone(), 100 * GRANULE, 1).unwrap();
    let mut marks = Marks { checkpoint: Lsn(0), covered: Lsn(0), timestamp: 0 };
    let mut held = Vec::new();
    for _ in 0..4 {
        let draft = store.draft(size(4, 4), 0).unwrap();
        let segment = store.list(draft, Lsn(0), &marks).unwrap();
        segment.file.write_at(&aligned(segment.row.file as u8), 0, true).unwrap();
        (marks.checkpoint, marks.covered) = (segment.end(), segment.end());
        held.push(segment);
    }
    let mut reader = SegmentReader::new(GRANULE as usize).unwrap();
    let mut reads = |segment: &Segment| {
        reader.forget();
        assert_eq!(reader.bytes(segment, 0, GRANULE as usize).unwrap(), &*aligned(segment.row.file as u8));
    };
    for _ in 0..2 {
        store.segments().iter().chain(&held).for_each(|segment| reads(segment));
    }
    let replaced = held.iter().zip(store.segments()).filter(|(old, new)| !Arc::ptr_eq(old, new)).count();
    assert_eq!(replaced, 3, "all but the last are closed");
    let end = store.segments().last().unwrap().end();
    store.truncate_before(end, end, &marks).unwrap();
    let _other = store.draft(size(4, 4), 0).unwrap();
    assert_eq!(file_sizes(folder.as_ref()).len(), 5, "none of theirs is taken");
    held.iter().for_each(|segment| reads(segment));
    drop(held);
    let _taken = store.draft(size(4, 4), 0).unwrap();
    assert_eq!(file_sizes(folder.as_ref()).len(), 5, "one of theirs is");
}

/// Segments by number.
fn numbers(folder: &dyn Directory) -> Vec<String> {
    folder.list().unwrap().into_iter().filter(|name| name.ends_with(".seg")).collect()
}

/// Files that somebody else left there, and could not be listed.
#[test]
fn what_could_not_be_listed_is_no_spare() {
    let machine = SimMachine::new(12);
    let (store, folder) = store_with_spares(&machine, &[4 * GRANULE], 100 * GRANULE);
    drop(store);
    let stray = |name: &str, bytes: u64| {
        let file = folder.create(name).unwrap();
        file.allocate(bytes).unwrap();
    };
    let foreign_files = [
        ("0000000003.seg", 8 * GRANULE + 100),
        ("0000000777.seg", 8 * GRANULE + 100),
        ("4294967294.seg", 8 * GRANULE),
        ("4294967295.seg", 8 * GRANULE),
        ("0009000000.seg", 8 * GRANULE),
    ];
    foreign_files.iter().for_each(|(name, bytes)| stray(name, *bytes));
    let ignored = ["+000000005.seg", "777.seg", "00000000777.seg"];
    ignored.iter().for_each(|name| stray(name, 8 * GRANULE));
    // With no room for spares, so that each file is new.
    let (mut store, _, _) = ShardStore::open(folder.clone(), 0, 2).unwrap();
    let mut told: Vec<_> = store.strays().iter().map(Stray::name).collect();
    told.sort_unstable();
    let mut known = foreign_files.map(|(name, _)| name);
    known.sort_unstable();
    assert_eq!(told, known);
    let mut marks = Marks { checkpoint: Lsn(0), covered: Lsn(0), timestamp: 0 };
    for _ in 0..800 {
        let size = size(4, 4);
        let draft = store.draft(size, 0).unwrap();
        let end = store.list(draft, Lsn(0), &marks).unwrap().end();
        (marks.checkpoint, marks.covered) = (end, end);
        // Each is forgotten but for the last, and goes where spares go.
        store.truncate_before(Lsn(end.0 - 4 * GRANULE), end, &marks).unwrap();
    }
    let left = numbers(folder.as_ref());
    assert!(foreign_files.iter().all(|(name, _)| left.contains(&(*name).to_owned())), "{left:?}");
    assert!(ignored.iter().all(|name| left.contains(&(*name).to_owned())), "{left:?}");
    drop(store);
    assert!(ShardStore::open(folder.clone(), 100 * GRANULE, 2).is_ok(), "both copies are still there");
}

/// Of what is given up at once the last one is used again first, wherever an older manifest lists it.
#[test]
fn a_file_that_was_used_again_shows_an_older_manifest_however_many_are_listed_before_it() {
    let copies = ["shard.manifest.0", "shard.manifest.1"];
    let machine = SimMachine::new(12);
    let folder = Simulated::of(&machine).device().directory(Path::new("/segments")).unwrap();
    ShardStore::create(folder.clone(), [7; 16], 0, 1).unwrap();
    let (mut store, _, _) = ShardStore::open(folder.clone(), 100 * GRANULE, 2).unwrap();
    let mut marks = Marks { checkpoint: Lsn(0), covered: Lsn(0), timestamp: 0 };
    for _ in 0..30 {
        let draft = store.draft(size(4, 4), 0).unwrap();
        let end = store.list(draft, Lsn(0), &marks).unwrap().end();
        (marks.checkpoint, marks.covered) = (end, end);
    }
    // Once more, so that the older manifest has them all behind it.
    let draft = store.draft(size(4, 4), 0).unwrap();
    let last = store.list(draft, Lsn(0), &marks).unwrap().base();
    let read = |name: &&str| {
        let mut bytes = vec![0; 4096];
        folder.open(name).unwrap().read_at(&mut bytes, 0).unwrap();
        bytes
    };
    let older = copies.each_ref().map(read);
    store.truncate_before(last, last, &marks).unwrap();
    let draft = store.draft(size(4, 4), 0).unwrap();
    let number = draft.number;
    assert!((17..31).contains(&number), "{number}: else this shows nothing");
    let segment = store.list(draft, Lsn(0), &marks).unwrap();
    let manifest = store.manifest();
    let identity = manifest.identity(manifest.epochs.last().unwrap());
    let (lsn, timestamp) = (segment.base(), 1);
    let seal = BlockSeal { lsn, previous_end: lsn, covered: lsn, timestamp, record_count: 0, length: 88 };
    let mut block = bytemuck::bytes_of(&BlockHeader::sealed(&identity, &seal)).to_vec();
    block.resize(GRANULE as usize, 0);
    segment.file.write_at(&block, 0, true).unwrap();
    drop(store);
    for (name, bytes) in copies.iter().zip(&older) {
        folder.open(name).unwrap().write_at(bytes, 0, true).unwrap();
    }
    let (store, missing, _) = ShardStore::open(folder, 100 * GRANULE, 2).unwrap();
    assert!(missing.is_empty() && store.newer() == Some(number), "{:?}", store.newer());
}

/// Whatever is about to be written as a manifest is read first.
#[test]
fn a_manifest_that_could_not_be_read_again_is_not_written() {
    let machine = SimMachine::new(12);
    let (mut store, folder) = store_with_spares(&machine, &[4 * GRANULE], 100 * GRANULE);
    let size = size(4, 4);
    let end = store.manifest().covered;
    // No granule begins there.
    let marks = Marks { checkpoint: Lsn(end.0 + 100), covered: Lsn(end.0 + 100), timestamp: 0 };
    let draft = store.draft(size, 0).unwrap();
    assert_eq!(store.list(draft, end, &marks).unwrap_err().kind(), io::ErrorKind::InvalidData);
    drop(store);
    let (mut store, _, stale_copy) = ShardStore::open(folder, 100 * GRANULE, 2).unwrap();
    assert!(stale_copy.is_none() && store.manifest().covered == end);
    let draft = store.draft(size, 0).unwrap();
    store.list(draft, end, &Marks { checkpoint: end, covered: end, timestamp: 0 }).unwrap();
}

/// The copies share their space with a snapshot, and the disk is full: what was asked for may be on disk or not, and the
/// next try says it anew.
#[test]
fn a_manifest_that_found_no_room_is_written_once_there_is_some() {
    let (mut failed, mut listed) = (0, 0);
    for seed in 0..200 {
        let machine = SimMachine::new(seed);
        let (mut store, folder) = store_with_spares(&machine, &[4 * GRANULE], 0);
        let end = store.manifest().covered;
        let marks = Marks { checkpoint: end, covered: end, timestamp: 0 };
        let mut list = |shared| {
            let draft = store.draft(size(4, 4), 0).unwrap();
            machine.set_faults(Faults { shared, ..Faults::default() });
            let result = store.list(draft, end, &marks);
            machine.set_faults(Faults::default());
            result.map(drop)
        };
        // As whoever opens it after a crash: what it finds is whole.
        let open = || {
            let (store, missing, _) = ShardStore::open(folder.clone(), 0, 2).unwrap();
            assert!(missing.is_empty(), "{missing:?}");
            store.segments().len()
        };
        let Err(error) = list(500) else { continue };
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        failed += 1;
        listed += open();
        // What would otherwise be removed, as there is no room for spares, may be listed.
        drop(list(1_000).unwrap_err());
        listed += open();
        list(0).unwrap();
        assert_eq!(open(), 1);
    }
    assert!(failed > 100 && listed > 20, "{failed} failed, {listed} were listed on disk");
}

/// Space that the disk could not set aside is there once it was written, and the file is as long as that.
#[test]
fn where_no_space_is_set_aside_a_segment_is_written_before_it_is_listed() {
    let machine = SimMachine::new(12);
    machine.set_faults(Faults { reserves: false, ..Faults::default() });
    let folder = Simulated::of(&machine).device().directory(Path::new("/segments")).unwrap();
    ShardStore::create(folder.clone(), [7; 16], 0, 1).unwrap();
    assert_eq!(folder.open("shard.manifest.0").unwrap().bytes().unwrap(), 64 << 10, "manifests, too");
    let (mut store, _, _) = ShardStore::open(folder.clone(), 100 * GRANULE, 2).unwrap();
    let draft = store.draft(size(8, 8), 0).unwrap();
    assert!(draft.wants_filling() && !draft.may_be_listed(4 * GRANULE) && draft.may_be_listed(8 * GRANULE));
    assert_eq!(draft.fill(0, 4 * GRANULE).unwrap(), 4 * GRANULE);
    assert_eq!(file_sizes(folder.as_ref()), [4 * GRANULE]);
    drop((draft, store));
    // After a crash here it is a spare of the size that it has.
    let (mut store, _, _) = ShardStore::open(folder.clone(), 100 * GRANULE, 2).unwrap();
    let draft = store.draft(size(4, 8), 0).unwrap();
    assert!(draft.bytes == 4 * GRANULE && draft.may_be_listed(0));
    machine.set_faults(Faults { reserves: false, no_space: 1_000, ..Faults::default() });
    let draft = store.draft(size(8, 8), 0).unwrap();
    assert_eq!(draft.fill(0, GRANULE).unwrap_err().raw_os_error(), Some(libc::ENOSPC));
}
