//! Manifests that are older than their log, and segment files that no manifest lists: nothing in them is overwritten.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use sawmill::{Log, Lsn, OnDamage, OpenError, Options, ShardId};
use tempfile::TempDir;

const COPIES: [&str; 2] = ["shard.manifest.0", "shard.manifest.1"];

fn small() -> Options {
    Options::new().shards(1).segment_bytes(1 << 20).block_bytes(64 << 10).memory_bytes(1 << 20)
}

fn folder() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let log = dir.path().join("log");
    (dir, log)
}

/// Appends so many records of 3,000 bytes, all of them acknowledged; gives where the last one is.
fn append(log: &Log, count: usize) -> Lsn {
    let window = log.window(64).over((0..count).map(|_| [7; 3000]));
    window.map(|position| position.unwrap().lsn()).last().unwrap()
}

fn count(log: &Log) -> usize {
    log.shard(ShardId(0)).read(..).unwrap().filter(Result::is_ok).count()
}

/// The segment files of the shard, and what is in them.
fn segments(shard: &Path) -> BTreeMap<String, Vec<u8>> {
    let names = fs::read_dir(shard).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let segments = names.filter(|name| name.ends_with(".seg"));
    segments.map(|name| (name.clone(), fs::read(shard.join(&name)).unwrap())).collect()
}

fn is_left_alone(log: &Log, name: &str) -> bool {
    log.stats().notices.iter().any(|line| line.contains(name) && line.contains("left alone"))
}

/// Appends for several segments, and gives up all but the last of them, so that every spare is used again.
fn use_all_spares(log: &Log) {
    for _ in 0..4 {
        let last = append(log, 1500);
        log.shard(ShardId(0)).truncate_before(last).unwrap();
    }
}

/// A log whose manifests were put back from a copy of the same epoch, made before the segments that are given.
fn with_older_manifests(dir: &Path) -> (PathBuf, BTreeMap<String, Vec<u8>>) {
    let shard = dir.join("shard-0000");
    let log = small().open(dir).unwrap();
    while log.stats().shards[0].segments < 2 {
        append(&log, 10);
    }
    let kept = COPIES.map(|name| fs::read(shard.join(name)).unwrap());
    let listed = segments(&shard);
    append(&log, 3000);
    log.close().unwrap();
    for (name, bytes) in COPIES.iter().zip(kept) {
        fs::write(shard.join(name), bytes).unwrap();
    }
    let mut since = segments(&shard);
    // The last one was made in advance, and has nothing yet.
    since.retain(|name, bytes| !listed.contains_key(name) && bytes.iter().any(|byte| *byte != 0));
    assert!(since.len() > 5, "{} segments", since.len());
    (shard, since)
}

#[test]
fn manifests_that_are_older_than_the_log_are_refused() {
    let (_base, dir) = folder();
    let (shard, _) = with_older_manifests(&dir);
    let before = segments(&shard);
    let told = "the manifest is older than the log";
    for _ in 0..2 {
        let verified = Log::open_read_only(&dir).unwrap().verify().unwrap();
        let findings: Vec<_> = verified.findings.iter().map(ToString::to_string).collect();
        assert!(findings.len() == 1 && findings[0].contains(told), "{findings:?}");
        let error = small().open(&dir).unwrap_err();
        assert!(matches!(error, OpenError::Damaged { .. }) && error.to_string().contains(told), "{error}");
        assert!(segments(&shard) == before, "nothing was changed");
    }
    // The way on: without them all is there.
    COPIES.iter().for_each(|name| fs::remove_file(shard.join(name)).unwrap());
    Log::salvage(&dir).unwrap().write().unwrap();
    assert!(count(&small().open(&dir).unwrap()) > 3000);
    assert!(Log::open_read_only(&dir).unwrap().verify().unwrap().findings.is_empty());
}

/// For as long as anything in it is not truncated.
#[test]
fn what_older_manifests_do_not_list_is_left_alone_where_the_log_is_opened_all_the_same() {
    let (_base, dir) = folder();
    let (shard, since) = with_older_manifests(&dir);
    let log = small().on_damage(OnDamage::Continue).open(&dir).unwrap();
    let all_are_left_alone = |log: &Log| since.keys().all(|name| is_left_alone(log, name));
    assert!(all_are_left_alone(&log), "{:?}", log.stats().notices);
    append(&log, 3000);
    log.close().unwrap();
    drop(log);
    let log = small().open(&dir).unwrap();
    assert!(all_are_left_alone(&log), "{:?}", log.stats().notices);
    use_all_spares(&log);
    let verified = Log::open_read_only(&dir).unwrap().verify().unwrap();
    assert!(verified.findings.is_empty(), "{:?}", verified.findings);
    log.close().unwrap();
    let now = segments(&shard);
    assert!(since.iter().all(|(name, bytes)| now.get(name) == Some(bytes)), "what was acknowledged is gone");
}

/// It was moved away by mistake, and the log was told to go on without it.
#[test]
fn a_segment_that_is_put_back_after_a_repair_is_left_alone() {
    let (base, dir) = folder();
    let shard = dir.join("shard-0000");
    let log = small().open(&dir).unwrap();
    append(&log, 1500);
    log.close().unwrap();
    drop(log);
    let name = "0000000003.seg";
    let (place, aside) = (shard.join(name), base.path().join(name));
    let bytes = fs::read(&place).unwrap();
    fs::rename(&place, &aside).unwrap();
    assert!(matches!(small().open(&dir), Err(OpenError::Damaged { .. })));
    small().on_damage(OnDamage::Continue).open(&dir).unwrap().close().unwrap();
    fs::rename(&aside, &place).unwrap();
    let log = small().open(&dir).unwrap();
    assert!(is_left_alone(&log, name), "{:?}", log.stats().notices);
    use_all_spares(&log);
    log.close().unwrap();
    drop(log);
    assert!(fs::read(&place).unwrap() == bytes);
    // All in it is truncated by now.
    assert!(!is_left_alone(&small().open(&dir).unwrap(), name));
}

#[test]
fn a_segment_of_another_shard_is_left_alone() {
    let (_base, dir) = folder();
    let options = small().shards(2);
    let log = options.open(&dir).unwrap();
    (0..2).for_each(|shard| _ = log.shard(ShardId(shard)).append(b"one").wait().unwrap());
    log.close().unwrap();
    drop(log);
    let stray = dir.join("shard-0000/0000000009.seg");
    fs::copy(dir.join("shard-0001/0000000001.seg"), &stray).unwrap();
    let bytes = fs::read(&stray).unwrap();
    let log = options.open(&dir).unwrap();
    assert!(is_left_alone(&log, "0000000009.seg"), "{:?}", log.stats().notices);
    let shard = log.shard(ShardId(0));
    for _ in 0..3 {
        let last = (0..40).fold(Lsn::MIN, |_, _| shard.append([7; 60_000]).wait().unwrap().lsn());
        shard.truncate_before(last).unwrap();
    }
    log.close().unwrap();
    assert!(fs::read(&stray).unwrap() == bytes);
    assert!(is_left_alone(&options.open(&dir).unwrap(), "0000000009.seg"));
}
