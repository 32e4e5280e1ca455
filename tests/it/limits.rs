//! Bad input gets a clear error and loses nothing.

use std::fs;
use std::time::Duration;

use sawmill::{AppendError, Backend, OpenError, Options, Position, ReadError, ShardId, Write};

use crate::harness::{Ground, payloads};
use crate::on_every_ground;

on_every_ground!(
    the_largest_record_fits_and_a_larger_one_is_refused,
    the_least_sizes_open,
    a_directory_has_one_owner,
    contradicting_options_are_errors,
    made_up_positions_are_told,
    a_missing_shard_is_an_error_of_the_operation,
);

fn the_largest_record_fits_and_a_larger_one_is_refused(ground: Ground) {
    let dir = ground.directory();
    let log = ground.options().open(dir.path()).unwrap();
    let largest = vec![3; 16 << 20];
    let position = log.append(&largest).wait().unwrap();
    assert_eq!(log.get(position).unwrap().payload(), largest);
    let error = log.append(vec![0; (16 << 20) + 1]).wait().unwrap_err();
    assert!(
        matches!(error, AppendError::TooLarge { limit: "record_bytes", limit_bytes, .. } if limit_bytes == 16 << 20),
        "{error}"
    );
    let error = log.append(Write::new(b"").key(vec![0; 65_536])).wait().unwrap_err();
    assert!(matches!(error, AppendError::TooLarge { .. }), "{error}");
    log.append(Write::new(b"").key(vec![7; 65_535])).wait().unwrap();
    log.close().unwrap();
    let log = ground.options().open(dir.path()).unwrap();
    assert_eq!(payloads(&log.shard(ShardId(0))).len(), 2);
}

fn the_least_sizes_open(ground: Ground) {
    let dir = ground.directory();
    let log = ground.small().open(dir.path()).unwrap();
    let error = log.append(vec![0; 1 << 20]).wait().unwrap_err();
    let AppendError::TooLarge { limit, limit_bytes, .. } = error else { panic!("{error}") };
    assert_eq!(limit, "segment_bytes");
    log.append(vec![1; limit_bytes as usize]).wait().unwrap();
    log.append(vec![2; limit_bytes as usize]).wait().unwrap();
}

fn a_directory_has_one_owner(ground: Ground) {
    let dir = ground.directory();
    let log = ground.options().open(dir.path()).unwrap();
    let error = ground.options().open(dir.path()).unwrap_err();
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    log.append(b"still mine").wait().unwrap();
    log.close().unwrap();
    ground.options().open(dir.path()).unwrap();
}

fn contradicting_options_are_errors(ground: Ground) {
    let dir = ground.directory();
    ground.options().shards(3).open(dir.path()).unwrap().close().unwrap();
    let error = ground.options().shards(2).open(dir.path()).unwrap_err();
    assert!(matches!(error, OpenError::Incompatible { option: "shards", .. }), "{error}");
    let error = ground.options().shards(3).segment_bytes(2 << 20).open(dir.path()).unwrap_err();
    assert!(matches!(error, OpenError::Incompatible { option: "segment_bytes", .. }), "{error}");
    let log = Options::new().backend(ground.backend).open(dir.path()).unwrap();
    assert_eq!(log.shards(), 3, "an option that is not set contradicts nothing");
}

fn made_up_positions_are_told(ground: Ground) {
    let dir = ground.directory();
    let log = ground.options().open(dir.path()).unwrap();
    let position = log.append(vec![5; 10_000]).wait().unwrap();
    let mut seed = 1u64;
    for _ in 0..500 {
        let mut bytes = position.to_bytes();
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        bytes[(seed >> 33) as usize % 16] ^= (seed >> 40) as u8 | 1;
        let made_up = Position::from_bytes(bytes);
        if made_up == position {
            continue;
        }
        match log.get(made_up) {
            Err(ReadError::NotAPosition(_) | ReadError::NoSuchShard(_) | ReadError::Truncated { .. }) => {}
            other => panic!("{made_up:?}: {other:?}"),
        }
    }
}

fn a_missing_shard_is_an_error_of_the_operation(ground: Ground) {
    let dir = ground.directory();
    let log = ground.options().open(dir.path()).unwrap();
    let shard = log.shard(ShardId(9));
    assert!(matches!(shard.append(b"x").wait(), Err(AppendError::NoSuchShard(ShardId(9)))));
    assert!(matches!(shard.read(..), Err(ReadError::NoSuchShard(ShardId(9)))));
    assert!(shard.truncate_before(sawmill::Lsn(1)).is_err());
}

#[test]
fn wrong_options_are_told_before_anything_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let wrong = [
        Options::new().shards(0),
        Options::new().shards(1025),
        Options::new().block_bytes(0),
        Options::new().block_bytes(5000),
        Options::new().segment_bytes(1),
        Options::new().segment_bytes((1 << 20) + 1),
        Options::new().memory_bytes(0),
        Options::new().memory_bytes(u64::MAX),
        Options::new().record_bytes(0),
        Options::new().record_bytes(u64::MAX),
        Options::new().directories(Vec::<String>::new()),
        Options::new().directories(["relative"]),
        Options::new().delay_target(Duration::ZERO),
        Options::new().delay_target(Duration::MAX),
    ];
    for options in wrong {
        let error = options.open(&path).unwrap_err();
        assert!(matches!(error, OpenError::InvalidOption { .. }), "{error}");
        assert!(!path.exists());
    }
}

#[test]
fn a_foreign_directory_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("photo.jpg"), "not a log").unwrap();
    let error = Options::new().open(dir.path()).unwrap_err();
    assert!(matches!(&error, OpenError::Foreign { found, .. } if found == "photo.jpg"), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    let file = dir.path().join("photo.jpg");
    assert!(matches!(Options::new().open(&file), Err(OpenError::Io { .. })));
}

#[test]
fn tmpfs_is_no_durable_place() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let error = Options::new().require_durable(true).open(dir.path()).unwrap_err();
    assert!(matches!(error, OpenError::Unsupported { what: "durability", .. }), "{error}");
    let log = Options::new().backend(Backend::Auto).open(dir.path()).unwrap();
    assert!(log.stats().notices.iter().any(|line| line.contains("NOT DURABLE")), "{:?}", log.stats().notices);
    assert!(!log.stats().shards[0].capabilities.durable);
}

#[test]
fn shards_spread_over_directories() {
    let dir = tempfile::tempdir().unwrap();
    let homes = [dir.path().join("a"), dir.path().join("b")];
    let path = dir.path().join("log");
    let log = Options::new().shards(4).directories(homes.clone()).open(&path).unwrap();
    for shard in 0..4 {
        log.shard(ShardId(shard)).append(b"x").wait().unwrap();
    }
    log.close().unwrap();
    assert!(homes[0].join("shard-0002").exists() && homes[1].join("shard-0003").exists());
    let log = Options::new().open(&path).unwrap();
    assert_eq!(log.merged(..).unwrap().count(), 4);
}
