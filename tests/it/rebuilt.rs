//! Shards whose manifest is lost in both copies, rebuilt from their segment files. The histories do the same to
//! whatever they have made (`simulation/history/rebuilt.rs`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sawmill::{Log, LogId, Lsn, OpenError, Options, ReadError, ShardId, error_chain};

const SEGMENT: u64 = 1 << 20;

fn options() -> Options {
    Options::new().shards(1).block_bytes(64 << 10).segment_bytes(SEGMENT).memory_bytes(1 << 20)
}

fn copies(dir: &Path) -> [PathBuf; 2] {
    ["0", "1"].map(|copy| dir.join(format!("shard-0000/shard.manifest.{copy}")))
}

fn lose_manifest(dir: &Path) {
    copies(dir).iter().for_each(|copy| std::fs::remove_file(copy).unwrap());
}

/// So many records of 10 kB each.
fn fill(log: &Log, records: u32) -> Vec<Lsn> {
    (0..records).map(|number| log.append(vec![number as u8; 10_000]).wait().unwrap().lsn()).collect()
}

fn all(log: &Log) -> Vec<Lsn> {
    let records = log.shard(ShardId(0)).read(..).unwrap();
    records.filter_map(|record| record.ok().map(|record| record.lsn())).collect()
}

/// What the shard's folder holds.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let paths = std::fs::read_dir(dir.join("shard-0000")).unwrap().map(|entry| entry.unwrap().path());
    paths.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

fn refused(dir: &Path) -> String {
    let before = contents(dir);
    let error = Log::salvage(dir).unwrap_err();
    assert!(contents(dir) == before, "something was changed");
    error_chain(&error).to_string()
}

#[test]
fn a_log_of_several_lives_comes_back_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut expected = Vec::new();
    for _ in 0..3 {
        let log = options().open(dir.path()).unwrap();
        expected.extend(fill(&log, 60));
        log.close().unwrap();
    }
    lose_manifest(dir.path());
    assert!(matches!(options().open(dir.path()), Err(OpenError::ManifestMissing { .. })));
    let salvage = Log::salvage(dir.path()).unwrap();
    let found = &salvage.shards()[0];
    assert_eq!((found.horizon, found.epochs, found.doubts.len()), (Lsn(0), 3, 0), "{found:?}");
    assert!(matches!(options().open(dir.path()), Err(OpenError::Locked { .. })), "it is somebody's now");
    drop(salvage);
    assert!(!copies(dir.path())[0].exists(), "it was only looked at");
    Log::salvage(dir.path()).unwrap().write().unwrap();
    let log = options().open(dir.path()).unwrap();
    assert_eq!(all(&log), expected);
    expected.extend(fill(&log, 60));
    log.close().unwrap();
    let log = options().open(dir.path()).unwrap();
    assert_eq!(all(&log), expected);
    assert!(matches!(Log::salvage(dir.path()), Err(OpenError::Locked { .. })), "it is open");
}

/// A file that was used again tells that what it had held was truncated; a spare that was not comes back.
#[test]
fn files_that_were_used_again_are_in_their_last_place() {
    let dir = tempfile::tempdir().unwrap();
    let log = options().open(dir.path()).unwrap();
    let mut expected = Vec::new();
    for _ in 0..8 {
        expected.extend(fill(&log, 150));
        let horizon = expected[expected.len() - 100];
        log.shard(ShardId(0)).truncate_before(horizon).unwrap();
    }
    let id: LogId = log.id();
    log.close().unwrap();
    lose_manifest(dir.path());
    let salvage = Log::salvage(dir.path()).unwrap();
    let found = salvage.shards()[0].clone();
    salvage.write().unwrap();
    let log = options().open(dir.path()).unwrap();
    assert_eq!(log.id(), id);
    let there = all(&log);
    assert!(there.ends_with(&expected[expected.len() - 100..]), "{found:?}");
    assert!(there.iter().all(|lsn| expected.contains(lsn)), "{found:?}");
    assert!(there.len() < 500, "spares of long ago came back: {found:?}");
    let damage = log.shard(ShardId(0)).read(..).unwrap().filter_map(Result::err);
    let horizon = expected[expected.len() - 100];
    for error in damage {
        assert!(matches!(error, ReadError::Damaged { end: Some(end), .. } if end <= horizon), "{error}");
    }
}

#[test]
fn files_that_cannot_belong_are_refused_and_left_alone() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for place in [&dir, &other] {
        let log = options().open(place.path()).unwrap();
        fill(&log, 10);
        log.close().unwrap();
    }
    lose_manifest(dir.path());
    let segments = dir.path().join("shard-0000");
    let [own, copy] = ["0000000001.seg", "0000000099.seg"].map(|name| segments.join(name));
    std::fs::copy(other.path().join("shard-0000/0000000001.seg"), &copy).unwrap();
    let told = refused(dir.path());
    assert!(told.contains("`0000000099.seg` of another log, or of another shard"), "{told}");
    std::fs::copy(&own, &copy).unwrap();
    let told = refused(dir.path());
    assert!(told.contains("`0000000001.seg` and `0000000099.seg` both hold LSN 0"), "{told}");
    std::fs::remove_file(&copy).unwrap();
    Log::salvage(dir.path()).unwrap().write().unwrap();
    assert_eq!(all(&options().open(dir.path()).unwrap()).len(), 10);
}

/// A segment is missing as well: what lies before it comes back all the same, and readers are told.
#[test]
fn a_gap_is_told_and_nothing_on_either_side_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let log = options().open(dir.path()).unwrap();
    let expected = fill(&log, 500);
    log.close().unwrap();
    let files = || {
        let names =
            std::fs::read_dir(dir.path().join("shard-0000")).unwrap().map(|name| name.unwrap().path());
        let mut segments: Vec<_> =
            names.filter(|path| path.extension().is_some_and(|extension| extension == "seg")).collect();
        segments.sort();
        segments
    };
    std::fs::remove_file(&files()[1]).unwrap();
    lose_manifest(dir.path());
    let salvage = Log::salvage(dir.path()).unwrap();
    let told = salvage.shards()[0].doubts.join("; ");
    assert!(told.contains("no segment holds LSN"), "{told}");
    salvage.write().unwrap();
    let log = options().open(dir.path()).unwrap();
    let there = all(&log);
    assert!(there.first() == expected.first() && there.last() == expected.last());
    let gone = expected.len() - there.len();
    assert!((1..200).contains(&gone), "{gone} records are gone");
    let damage = log.shard(ShardId(0)).read(..).unwrap().filter(Result::is_err).count();
    assert_eq!(damage, 1);
}

#[test]
fn a_shard_that_was_never_written_to_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    options().open(dir.path()).unwrap().close().unwrap();
    lose_manifest(dir.path());
    let salvage = Log::salvage(dir.path()).unwrap();
    assert_eq!((salvage.shards()[0].segments, salvage.shards()[0].epochs), (0, 1));
    salvage.write().unwrap();
    let log = options().open(dir.path()).unwrap();
    assert_eq!(fill(&log, 3), all(&log));
}
