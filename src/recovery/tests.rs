//! Each row of the verdict table, by a log that is damaged on purpose.

use super::{Damage, Scan};
use crate::device::sim::{Random, SimMachine};
use crate::error::OpenError;
use crate::format::{
    BlockHeader, BlockSeal, Defect, GRANULE, Identity, ShardManifest, SlotKind, decode_slot, encode_slot,
};
use crate::position::{Lsn, Position};
use crate::segment::{SegmentReader, StoreSnapshot};
use crate::simulation::{End, Simulated};
use crate::{Log, Options, ShardId};

const PATH: &str = "/log";

struct Case {
    inner: SimMachine,
    machine: Simulated,
}

impl Case {
    fn new() -> Case {
        let inner = SimMachine::new(11);
        let machine = Simulated::of(&inner);
        Case { inner, machine }
    }

    fn open(&self) -> Result<Log, OpenError> {
        let options = Options::new().shards(1).block_bytes(4096).segment_bytes(32768).memory_bytes(32768);
        options.device(&self.machine).open(PATH)
    }

    /// A log of three acknowledged records, each in a block of its own, whose process was killed.
    fn with_three_records(&self) -> Vec<Position> {
        let log = self.open().unwrap();
        let positions = (0..3u8).map(|number| log.append([number; 100]).wait().unwrap()).collect();
        self.kill(log);
        positions
    }

    fn kill(&self, log: Log) {
        self.machine.stop();
        drop(log);
        self.machine.restart(End::Kill);
    }

    /// Changes each file whose name contains this.
    fn edit(&self, name: &str, mut act: impl FnMut(&mut Vec<u8>)) {
        let mut edited = 0;
        for which in 0..self.inner.files() {
            self.inner.edit(which, |own, bytes| {
                if own.contains(name) {
                    act(bytes);
                    edited += 1;
                }
            });
        }
        assert!(edited > 0, "there is no {name}");
    }

    fn edit_segment(&self, act: impl FnMut(&mut Vec<u8>)) {
        self.edit("0000000001.seg", act);
    }

    /// Changes the manifest, in both copies.
    fn edit_manifest(&self, act: impl Fn(&mut ShardManifest)) {
        self.edit("shard.manifest", |bytes| {
            let Ok((sequence, body)) = decode_slot(SlotKind::Shard, bytes) else { return };
            let mut manifest = ShardManifest::decode(body).unwrap();
            act(&mut manifest);
            let slot = encode_slot(SlotKind::Shard, sequence, &manifest.encode());
            bytes[..slot.len()].copy_from_slice(&slot);
        });
    }

    fn damage(&self) -> (Lsn, Damage) {
        match self.open() {
            Err(OpenError::Damaged { lsn, cause, .. }) => (lsn, cause),
            other => panic!("{other:?}"),
        }
    }

    /// The records that are left.
    fn left(&self) -> usize {
        self.open().unwrap().merged(..).unwrap().map(Result::unwrap).count()
    }
}

fn block(number: u64) -> usize {
    (number * GRANULE) as usize
}

#[test]
fn row_1_below_what_the_manifest_testifies() {
    let case = Case::new();
    case.with_three_records();
    case.edit_manifest(|manifest| manifest.covered = Lsn(4 * GRANULE));
    assert_eq!(case.damage(), (Lsn(3 * GRANULE), Damage::Manifest(Lsn(4 * GRANULE))));
}

#[test]
fn row_1_not_at_the_clean_end() {
    for end in [2, 4] {
        let case = Case::new();
        case.with_three_records();
        case.edit_manifest(|manifest| manifest.clean_end = Some(Lsn(end * GRANULE)));
        let (lsn, cause) = case.damage();
        assert_eq!(cause, Damage::CleanEnd(Lsn(end * GRANULE)));
        assert_eq!(lsn, Lsn(end.min(3) * GRANULE));
    }
}

#[test]
fn row_2_a_listed_segment_is_missing_or_short() {
    let case = Case::new();
    case.with_three_records();
    case.edit_segment(|bytes| bytes.truncate(bytes.len() - 1));
    assert_eq!(case.damage().1, Damage::Segment { file: 1 });
}

#[test]
fn row_3_a_later_block_testifies() {
    let case = Case::new();
    case.with_three_records();
    case.edit_segment(|bytes| bytes[block(0) + 100] ^= 1);
    let (lsn, cause) = case.damage();
    assert_eq!(lsn, Lsn(0));
    assert!(matches!(cause, Damage::Testimony(covered) if covered > Lsn(0)), "{cause}");
}

/// Its records need not check, and its place need not be its own.
#[test]
fn row_3_a_misplaced_and_torn_block_testifies_too() {
    let case = Case::new();
    case.with_three_records();
    case.edit_segment(|bytes| {
        let third = bytes[block(2)..block(3)].to_vec();
        bytes[block(0)..block(3)].fill(0);
        bytes[block(1)..block(2)].copy_from_slice(&third);
        bytes[block(1) + 88..block(2)].fill(0);
    });
    assert!(matches!(case.damage(), (Lsn(0), Damage::Testimony(_))));
}

/// Where it lies may have been settled long before.
#[test]
fn row_3_so_does_one_below_the_checkpoint() {
    let case = Case::new();
    case.with_three_records();
    case.open().unwrap().close().unwrap();
    let log = case.open().unwrap();
    let new: Vec<_> = (0..2u8).map(|number| log.append([number; 100]).wait().unwrap().lsn()).collect();
    assert!(new[0] >= Lsn(3 * GRANULE));
    case.kill(log);
    let [first, second] = [0, 1].map(|which: usize| (new[which].0 / GRANULE * GRANULE) as usize);
    case.edit_segment(|bytes| {
        let testimony = bytes[second..second + block(1)].to_vec();
        bytes[first..second + block(1)].fill(0);
        bytes[..block(1)].copy_from_slice(&testimony);
    });
    let (lsn, cause) = case.damage();
    assert_eq!((lsn.0 as usize, cause), (first, Damage::Testimony(Lsn(second as u64))));
}

#[test]
fn row_4_a_block_of_an_epoch_that_the_manifest_does_not_know() {
    let case = Case::new();
    case.with_three_records();
    case.edit_segment(|bytes| {
        let mut header = BlockHeader::decode(&bytes[block(2)..]).unwrap();
        let identity = Identity { epoch: header.epoch + 1, ..header.identity() };
        let seal = BlockSeal {
            lsn: header.lsn(),
            previous_end: Lsn(header.previous_end),
            covered: Lsn(0),
            timestamp: header.timestamp,
            record_count: 0,
            length: 88,
        };
        header = BlockHeader::sealed(&identity, &seal);
        bytes[block(2)..block(2) + 88].copy_from_slice(bytemuck::bytes_of(&header));
    });
    assert!(matches!(case.damage(), (Lsn(lsn), Damage::StaleManifest(_)) if lsn == 2 * GRANULE));
}

/// Whether its later segment has a file of its own, which it does not list, or one that it lists, which was given up
/// since and used again. All that it vouches for is there.
#[test]
fn row_4_a_manifest_that_is_older_in_the_same_epoch() {
    for used_again in [false, true] {
        let case = Case::new();
        let log = case.open().unwrap();
        let append = |count| (0..count).for_each(|_| _ = log.append([7; 3000]).wait().unwrap());
        append(20);
        case.inner.keep_manifests();
        let files = case.inner.files();
        if used_again {
            log.shard(ShardId(0)).truncate_before(Lsn(10 * GRANULE)).unwrap();
        }
        append(8);
        assert_eq!(case.inner.files() > files, !used_again, "or this shows nothing");
        case.kill(log);
        case.inner.restore_manifests();
        for _ in 0..2 {
            let file = if used_again { 1 } else { 4 };
            assert_eq!(case.damage(), (Lsn(24 * GRANULE), Damage::OlderManifest { file }));
        }
    }
}

#[test]
fn row_5_a_place_that_cannot_be_read_is_no_tail() {
    let case = Case::new();
    case.with_three_records();
    case.inner.make_unreadable_at("0000000001.seg", block(3) / 512, u64::MAX);
    let (lsn, cause) = case.damage();
    assert_eq!((lsn, cause), (Lsn(3 * GRANULE), Damage::Unreadable));
    assert!(cause.to_string().contains("nothing acknowledged is known to be lost"));
}

#[test]
fn row_5_nor_one_that_could_be_read_at_the_second_look() {
    let mut told = 0;
    for tries in 1..20 {
        let case = Case::new();
        let positions = case.with_three_records();
        case.inner.make_unreadable_at("0000000001.seg", block(2) / 512, tries);
        match case.open() {
            Ok(log) => assert!(log.get(positions[2]).is_ok(), "cut off after {tries} errors"),
            Err(OpenError::Damaged { cause, .. }) => {
                assert_eq!(cause, Damage::Unreadable);
                told += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(told > 0);
}

#[test]
fn row_5_nor_is_one_behind_it_that_might_testify() {
    let case = Case::new();
    case.with_three_records();
    case.inner.make_unreadable_at("0000000001.seg", block(5) / 512, u64::MAX);
    let (lsn, cause) = case.damage();
    assert_eq!((lsn, cause), (Lsn(3 * GRANULE), Damage::Unreadable));
}

/// Blocks and manifest testify how far a log is durable; what lies above is there, and is not vouched for.
#[test]
fn what_is_testified_is_durable() {
    let case = Case::new();
    let log = case.open().unwrap();
    for number in 0..3u8 {
        let write = crate::Write::new([number; 100]).durability(crate::Durability::Written);
        log.append(write).wait().unwrap();
    }
    let durable = log.append([3; 100]).wait().unwrap();
    log.append_batch(b"", &[vec![1; 3_000], vec![2; 3_000]]).wait().unwrap();
    case.kill(log);
    let shard = case
        .machine
        .device()
        .directory_to_read(&crate::segment::shard_path(std::path::Path::new(PATH), &[], 0))
        .unwrap();
    let snapshot = StoreSnapshot::of(&shard, 2).unwrap();
    let identity = snapshot.manifest.identity(snapshot.manifest.epochs.last().unwrap());
    let mut reader = SegmentReader::for_scan(4096, 32768).unwrap();
    let mut scan = Scan::from(&snapshot.manifest);
    scan.advance(&mut reader, &snapshot.segments, &identity, 4096);
    assert_eq!(scan.end, Lsn(6 * GRANULE));
    // The second half of the batch testifies for what lay below the first when it was sealed.
    assert_eq!(scan.durable, Lsn(4 * GRANULE), "above {durable:?}");
    scan.note_covered(Lsn(5 * GRANULE));
    assert_eq!(scan.durable, Lsn(4 * GRANULE), "a batch is durable as a whole");
    scan.note_covered(Lsn(6 * GRANULE));
    assert_eq!(scan.durable, Lsn(6 * GRANULE));
    scan.note_covered(Lsn(GRANULE));
    assert_eq!(scan.durable, Lsn(6 * GRANULE), "it never falls");
}

/// What a block of the chain fills is not looked at again, and everything else is.
#[test]
fn only_what_blocks_fill_is_taken_for_checked() {
    let case = Case::new();
    case.with_three_records();
    let device = case.machine.device();
    let path = crate::segment::shard_path(std::path::Path::new(PATH), &[], 0);
    let snapshot = StoreSnapshot::of(&device.directory_to_read(&path).unwrap(), 2).unwrap();
    let mut random = Random::new(5);
    let lsn = |granule: usize| Lsn(granule as u64 * GRANULE);
    for _ in 0..200 {
        let mut scan = Scan::from(&snapshot.manifest);
        let mut filled = [false; 80];
        let mut at = 0;
        while at < 64 {
            let granules = 1 + random.below(4) as usize;
            if random.per_mille(500) {
                scan.note_checked(lsn(at)..lsn(at + granules));
                filled[at..at + granules].fill(true);
            }
            at += granules;
        }
        for (granule, &is_filled) in filled.iter().enumerate() {
            let end =
                is_filled.then(|| granule + filled[granule..].iter().take_while(|filled| **filled).count());
            assert_eq!(scan.checked_to(lsn(granule)), end.map(lsn));
        }
    }
}

/// Both copies of what a log is say the same: one is enough, however the other is lost.
#[test]
fn one_copy_of_a_manifest_is_enough() {
    for name in ["log.manifest.0", "log.manifest.1", "shard.manifest.0", "shard.manifest.1"] {
        let case = Case::new();
        case.with_three_records();
        case.inner.make_unreadable_at(name, 0, u64::MAX);
        assert_eq!(case.open().map(|_| ()).map_err(|error| error.to_string()), Ok(()), "{name}");
    }
}

#[test]
fn row_6_a_torn_tail_is_cut_off_quietly() {
    let case = Case::new();
    let log = case.open().unwrap();
    log.append([1; 100]).wait().unwrap();
    let half = log.append_batch(b"", &[vec![1; 3_000], vec![2; 3_000]]).wait().unwrap();
    case.kill(log);
    // The batch's second block is torn: the whole batch goes, as nothing testifies to it.
    case.edit_segment(|bytes| bytes[half[1].lsn().0 as usize / 4096 * 4096 + 600] ^= 1);
    assert_eq!(case.left(), 1);
}

#[test]
fn several_torn_blocks_with_intact_ones_between_are_no_damage() {
    let case = Case::new();
    let log = case.open().unwrap();
    log.append([1; 100]).wait().unwrap();
    for byte in 0..4u8 {
        let write = crate::Write::new([byte; 3_000]).durability(crate::Durability::Written);
        log.append(write).wait().unwrap();
    }
    case.kill(log);
    // A power cut may take any of what was only written: the second and the fourth of the four.
    case.edit_segment(|bytes| {
        bytes[block(2)..block(3)].fill(0);
        bytes[block(4) + 512..block(5)].fill(0);
    });
    assert_eq!(case.left(), 2);
}

/// Opened past damage: the rest stays readable, the damaged stretch is told, nothing is cried again.
#[test]
fn a_log_can_go_on_behind_damage() {
    for missing in [false, true] {
        let case = Case::new();
        case.with_three_records();
        case.edit_segment(|bytes| {
            bytes[block(1) + 100] ^= 1;
            if missing {
                bytes.truncate(4096);
            }
        });
        case.damage();
        let options = Options::new().on_damage(crate::OnDamage::Continue).device(&case.machine);
        let log = options.open(PATH).unwrap();
        assert!(log.stats().notices.iter().any(|line| line.contains("is damaged at LSN")));
        let new = log.append(b"behind the damage").wait().unwrap();
        // A file that is missing as a whole held who knows what.
        assert!(new.lsn() >= Lsn(if missing { 32768 } else { 3 * GRANULE }), "{new:?}");
        case.kill(log);
        let log = case.open().expect("damage that was passed is not cried again");
        let found: Vec<_> = log.merged(..).unwrap().collect();
        let told =
            found.iter().filter(|found| matches!(found, Err(crate::ReadError::Damaged { .. }))).count();
        assert!(told >= 1, "{found:?}");
        let read = found.iter().flatten().count();
        assert_eq!(read, if missing { 1 } else { 3 });
        assert_eq!(log.get(new).unwrap().payload(), b"behind the damage");
    }
}

/// What is missing held something, up to its end.
#[test]
fn a_log_goes_on_above_a_segment_that_is_missing() {
    let case = Case::new();
    let log = case.open().unwrap();
    for number in 0..10u8 {
        log.append([number; 100]).wait().unwrap();
    }
    case.kill(log);
    case.edit("0000000002.seg", |bytes| bytes.truncate(4096));
    assert_eq!(case.damage().1, Damage::Segment { file: 2 });
    let options = Options::new().on_damage(crate::OnDamage::Continue).device(&case.machine);
    let log = options.open(PATH).unwrap();
    let new = log.append(b"above it").wait().unwrap();
    assert!(new.lsn() >= Lsn(65536), "{new:?}");
}

/// Opened to be read: everything else is served, nothing is changed, and nothing can be.
#[test]
fn a_damaged_log_can_be_opened_to_be_read() {
    let case = Case::new();
    let positions = case.with_three_records();
    case.edit_segment(|bytes| bytes[block(1) + 100] ^= 1);
    let before = case.damage();
    let options = Options::new().on_damage(crate::OnDamage::ReadOnly).device(&case.machine);
    for _ in 0..2 {
        let log = options.open(PATH).unwrap();
        assert_eq!(log.get(positions[0]).unwrap().payload(), log.get(positions[0]).unwrap().payload());
        let found: Vec<_> = log.merged(..).unwrap().collect();
        assert!(found[0].is_ok() && found[1].is_err() && found[2].is_ok(), "{found:?}");
        assert!(matches!(log.append(b"no").wait(), Err(crate::AppendError::ShardFailed(_))));
        assert!(matches!(log.try_append(b"no"), Err(crate::AppendError::ShardFailed(_))));
        let shard = log.shard(crate::ShardId(0));
        assert!(shard.truncate_before(positions[2].lsn()).is_err());
        assert!(shard.truncate_after(positions[0].lsn()).is_err());
        assert!(log.consumer("reader").is_err());
        assert_eq!(shard.follow(Lsn(0)).unwrap().filter(Result::is_ok).count(), 2);
        log.close().unwrap();
        assert_eq!(format!("{:?}", case.damage()), format!("{before:?}"));
    }
    // A log that is not damaged is open as ever.
    let sound = Case::new();
    sound.with_three_records();
    let options = Options::new().on_damage(crate::OnDamage::ReadOnly).device(&sound.machine);
    options.open(PATH).unwrap().append(b"yes").wait().unwrap();
}

/// The one window that no single host can close: before a marker says so, rot on the last
/// acknowledged block cannot be told from a torn tail; after it, it is damage.
#[test]
fn rot_on_the_last_block_is_a_tail_before_the_marker_and_damage_after_it() {
    for marker in [false, true] {
        let case = Case::new();
        let log = case.open().unwrap();
        for number in 0..2u8 {
            log.append([number; 100]).wait().unwrap();
        }
        let last = log.append([2; 100]).wait().unwrap();
        if marker {
            log.turn_shard(crate::ShardId(0), false);
            assert_eq!(log.stats().shards[0].markers, 1);
        }
        case.kill(log);
        case.edit_segment(|bytes| bytes[last.lsn().0 as usize + 50] ^= 1);
        if marker {
            assert!(matches!(case.damage(), (Lsn(8192), Damage::Testimony(Lsn(12288)))));
        } else {
            assert_eq!(case.left(), 2);
        }
    }
}

#[test]
fn damage_below_the_checkpoint_is_found_by_readers() {
    let case = Case::new();
    let positions = case.with_three_records();
    case.open().unwrap().close().unwrap();
    case.edit_segment(|bytes| bytes[positions[1].lsn().0 as usize + 20] ^= 1);
    let log = case.open().unwrap();
    let found: Vec<_> = log.merged(..).unwrap().collect();
    assert!(found[0].is_ok() && found[2].is_ok());
    let Err(crate::ReadError::Damaged { lsn, cause, .. }) = &found[1] else { panic!("{found:?}") };
    assert_eq!((*lsn, *cause), (Lsn(GRANULE), Defect::RecordChecksum));
}
