//! `open_read_only`: beside a living owner and beside none.

use sawmill::log::Finding;
use sawmill::{Durability, Log, Lsn, OpenError, Position, ReadError, ShardId, Write};

use crate::harness::Ground;
use crate::on_every_ground;

on_every_ground!(
    what_is_testified_can_be_read_beside_the_owner,
    a_reader_tolerates_recycling,
    verify_finds_what_was_damaged,
    reading_changes_nothing,
    one_copy_of_a_manifest_is_enough,
    a_shard_of_another_log_is_refused,
    what_is_not_known_to_be_durable_is_told_apart,
    a_reader_reads_back_and_routes_as_its_owner,
);

fn what_is_not_known_to_be_durable_is_told_apart(ground: Ground) {
    let dir = ground.directory();
    let log = ground.options().open(dir.path()).unwrap();
    let reader = Log::open_read_only(dir.path()).unwrap();
    let mut behind = 0;
    for _ in 0..20 {
        let own = log.append(b"acknowledged").wait().unwrap();
        match reader.get(own) {
            // Its block is testified to by the one after it.
            Err(ReadError::NotDurableYet { shard: ShardId(0), lsn, durable }) => {
                assert!(lsn == own.lsn() && durable <= lsn, "{durable}");
                behind += 1;
            }
            found => assert_eq!(found.unwrap().position(), own),
        }
    }
    assert!(behind > 0, "the reader knew all at once: this shows nothing");
    let last = log.append(b"acknowledged").wait().unwrap();
    let mut bytes = last.to_bytes();
    bytes[12] = 1; // Far above it.
    let nowhere = Position::from_bytes(bytes);
    log.close().unwrap();
    assert_eq!(reader.get(last).unwrap().position(), last);
    let error = reader.get(nowhere).unwrap_err();
    assert!(matches!(error, ReadError::NotAPosition(_)), "of a log that is closed all is known: {error}");
}

fn a_reader_reads_back_and_routes_as_its_owner(ground: Ground) {
    let dir = ground.directory();
    let log = ground.options().shards(3).open(dir.path()).unwrap();
    let positions: Vec<_> =
        (0..20u8).map(|key| log.append(Write::new([key]).key([key])).wait().unwrap()).collect();
    let reader = Log::open_read_only(dir.path()).unwrap();
    for key in 0..=u8::MAX {
        assert_eq!(reader.route(&[key]), log.route(&[key]));
    }
    log.close().unwrap();
    for shard in (0..3).map(ShardId) {
        let back = reader.shard(shard).read_back(..).unwrap().map(|record| record.unwrap().position());
        let own = positions.iter().rev().copied().filter(|position| position.shard() == shard);
        assert!(back.eq(own), "shard {shard}");
    }
    assert!(matches!(reader.shard(ShardId(7)).read_back(..), Err(ReadError::NoSuchShard(_))));
}

/// Both copies of a shard's manifest say the same: one that cannot be read, or is gone, takes nothing away.
fn one_copy_of_a_manifest_is_enough(ground: Ground) {
    for (copy, folder) in [(0, false), (0, true), (1, false), (1, true)] {
        let dir = ground.directory();
        let log = ground.options().shards(1).open(dir.path()).unwrap();
        log.append(b"record").wait().unwrap();
        log.close().unwrap();
        for prefix in ["log", "shard-0000/shard"] {
            let path = dir.path().join(format!("{prefix}.manifest.{copy}"));
            std::fs::remove_file(&path).unwrap();
            if folder {
                std::fs::create_dir(&path).unwrap(); // A file that cannot be read, for root as well.
            }
        }
        let reader = Log::open_read_only(dir.path()).unwrap();
        assert_eq!(reader.merged(..).unwrap().map(Result::unwrap).count(), 1, "copy {copy}, {folder}");
    }
}

/// Somebody restored the wrong folder: its records are none of this log's.
fn a_shard_of_another_log_is_refused(ground: Ground) {
    let (dir, other) = (ground.directory(), ground.directory());
    for (place, payload) in [(&dir, b"this one's".as_slice()), (&other, b"the other's")] {
        let log = ground.options().shards(2).open(place.path()).unwrap();
        for shard in 0..2 {
            log.shard(ShardId(shard)).append(payload).wait().unwrap();
        }
        log.close().unwrap();
    }
    let reader = Log::open_read_only(dir.path()).unwrap();
    assert!(reader.verify().unwrap().findings.is_empty());
    let [first, second] = [0, 1].map(|shard| dir.path().join(format!("shard-000{shard}")));
    let aside = dir.path().join("sawmill.aside");
    std::fs::rename(&first, &aside).unwrap();
    // Another shard of the same log, then the same shard of another log.
    for wrong in [second, other.path().join("shard-0000")] {
        std::fs::create_dir(&first).unwrap();
        for file in std::fs::read_dir(&wrong).unwrap().map(Result::unwrap) {
            std::fs::copy(file.path(), first.join(file.file_name())).unwrap();
        }
        // A reader that has the log open already serves nothing of it, and nothing of what it had: that is not there any
        // more, as far as it can tell.
        let told = reader.shard(ShardId(0)).read(..).map(drop);
        assert!(matches!(&told, Err(ReadError::Replaced { path }) if *path == first), "{told:?}");
        let by_reader = Log::open_read_only(dir.path()).map(drop);
        let by_owner = ground.options().shards(2).open(dir.path()).map(drop);
        for error in [by_reader, by_owner].map(Result::unwrap_err) {
            assert!(
                matches!(&error, OpenError::NotOfThisLog { path, .. } if path.ends_with("shard-0000")),
                "{error}"
            );
            assert!(error.to_string().contains(first.to_str().unwrap()), "{error}");
        }
        std::fs::remove_dir_all(&first).unwrap();
    }
    std::fs::rename(&aside, &first).unwrap();
    assert_eq!(reader.merged(..).unwrap().map(Result::unwrap).count(), 2);
}

fn what_is_testified_can_be_read_beside_the_owner(ground: Ground) {
    let dir = ground.directory();
    let log = ground.options().shards(2).open(dir.path()).unwrap();
    let reader = Log::open_read_only(dir.path()).unwrap();
    assert_eq!(reader.merged(..).unwrap().count(), 0);
    let mut positions = Vec::new();
    for index in 0..100u32 {
        let size = if index % 20 == 0 { 600_000 } else { 100 };
        let write = Write::new(vec![index as u8; size]).key(index.to_le_bytes());
        positions.push(log.append(write).wait().unwrap());
    }
    // The block that was written last testifies for those before it; after a close nothing is missing.
    for shard in 0..2 {
        let own = log.shard(ShardId(shard)).durable_lsn();
        let known = reader.shard(ShardId(shard)).durable_lsn().unwrap();
        assert!(known <= own && known > Lsn(0), "{known} of {own}");
    }
    let first = reader.get(positions[0]).unwrap();
    assert_eq!(first.payload().len(), 600_000);
    log.close().unwrap();
    let read: Vec<_> = reader.merged(..).unwrap().map(|record| record.unwrap().position()).collect();
    assert_eq!(read, positions);
    assert!(matches!(reader.shard(ShardId(7)).read(..), Err(ReadError::NoSuchShard(_))));
}

fn a_reader_tolerates_recycling(ground: Ground) {
    let dir = ground.directory();
    let log = ground.small().open(dir.path()).unwrap();
    let shard = log.shard(ShardId(0));
    let reader = Log::open_read_only(dir.path()).unwrap();
    let mut at = Lsn(0);
    let mut truncated = false;
    for round in 0..30u8 {
        for _ in 0..200 {
            drop(shard.append(Write::new(vec![round; 3_000]).durability(Durability::Buffered)));
        }
        log.sync().wait().unwrap();
        let mut records = reader.shard(ShardId(0)).read(at..).unwrap();
        for record in records.by_ref().take(100) {
            match record {
                Ok(record) => at = Lsn(record.lsn().0 + 1),
                Err(ReadError::Truncated { horizon, .. }) => {
                    truncated = true;
                    at = at.max(horizon);
                }
                Err(error) => panic!("{error}"),
            }
        }
        shard.truncate_before(shard.durable_lsn()).unwrap();
        for record in records {
            assert!(matches!(record, Ok(_) | Err(ReadError::Truncated { .. })), "{record:?}");
        }
    }
    assert!(truncated);
    assert_eq!(reader.verify().unwrap().findings.len(), 0);
}

fn verify_finds_what_was_damaged(ground: Ground) {
    let dir = ground.directory();
    let log = ground.small().open(dir.path()).unwrap();
    let positions: Vec<_> = (0..20u8).map(|index| log.append(vec![index; 3_000]).wait().unwrap()).collect();
    log.close().unwrap();
    let verified = Log::open_read_only(dir.path()).unwrap().verify().unwrap();
    assert_eq!((verified.records, verified.findings.len()), (20, 0));
    let path = dir.path().join("shard-0000/0000000001.seg");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[positions[7].lsn().0 as usize + 100] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let verified = Log::open_read_only(dir.path()).unwrap().verify().unwrap();
    assert_eq!(verified.records, 19);
    let [Finding::Read(ReadError::Damaged { lsn, .. })] = &verified.findings[..] else {
        panic!("{:?}", verified.findings)
    };
    assert!(*lsn <= positions[7].lsn() && positions[6].lsn() < *lsn);
}

fn reading_changes_nothing(ground: Ground) {
    let dir = ground.directory();
    let error = Log::open_read_only(dir.path().join("none")).unwrap_err();
    assert!(matches!(error, OpenError::Io { .. }), "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    assert!(Log::open_read_only(dir.path()).is_err(), "an empty folder is no log, and stays empty");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    let log = ground.options().open(dir.path()).unwrap();
    log.append(b"x").wait().unwrap();
    log.close().unwrap();
    let tree = || {
        let mut files = Vec::new();
        for folder in [dir.path().to_owned(), dir.path().join("shard-0000")] {
            for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
                let data = entry.metadata().unwrap();
                let bytes = if data.is_file() { std::fs::read(entry.path()).unwrap() } else { Vec::new() };
                files.push((entry.path(), data.modified().unwrap(), bytes));
            }
        }
        files.sort();
        files
    };
    let before = tree();
    let reader = Log::open_read_only(dir.path()).unwrap();
    reader.verify().unwrap();
    assert_eq!(reader.merged(..).unwrap().count(), 1);
    assert!(before == tree());
}
