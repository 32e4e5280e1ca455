//! A full disk: appends say so, what was acknowledged stays, space can be made, and it goes on.

use sawmill::{AppendError, Durability, Log, Options, Position, ShardId, Write};

use crate::mounts::Mount;

fn fill(log: &Log) -> (Vec<Position>, AppendError) {
    let mut positions = Vec::new();
    for index in 0..100_000u32 {
        match log.append(Write::new(vec![index as u8; 8_000]).durability(Durability::Synced)).wait() {
            Ok(position) => positions.push(position),
            Err(error) => return (positions, error),
        }
    }
    panic!("the disk never filled");
}

fn check(log: &Log, positions: &[Position]) {
    for (index, position) in positions.iter().enumerate() {
        assert_eq!(log.get(*position).unwrap().payload(), vec![index as u8; 8_000]);
    }
}

fn a_full_disk(kind: &str, mib: u64) {
    let Some(mount) = Mount::make(kind, mib) else { return };
    let dir = mount.path().join("log");
    let options = Options::new().shards(1).segment_bytes(4 << 20).memory_bytes(1 << 20).block_bytes(64 << 10);
    let log = options.open(&dir).unwrap();
    let (positions, error) = fill(&log);
    assert!(matches!(error, AppendError::NoSpace { .. }), "{error}");
    assert!(sawmill::error_chain(&error).to_string().contains("space"), "{error}");
    check(&log, &positions);
    log.close().unwrap();
    // It opens while the disk is full, and everything is there.
    let log = options.open(&dir).unwrap();
    check(&log, &positions);
    let shard = log.shard(ShardId(0));
    shard.truncate_before(positions[positions.len() / 2].lsn()).unwrap();
    let (more, error) = fill(&log);
    assert!(more.len() > positions.len() / 4, "{} records found room", more.len());
    assert!(matches!(error, AppendError::NoSpace { .. }), "{error}");
    check(&log, &more);
}

#[test]
fn on_ext4() {
    a_full_disk("ext4", 40);
}

/// Which can set no space aside.
#[test]
fn on_ext2() {
    a_full_disk("ext2", 32);
}

#[test]
fn on_tmpfs() {
    a_full_disk("tmpfs", 24);
}
