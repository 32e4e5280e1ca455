//! Logs over several folders: whose they are, what file systems they lie on, and what is made of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sawmill::{AppendError, Log, OpenError, Options, ShardId};
use tempfile::TempDir;

use crate::mounted::Mount;

fn folder() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn small(shards: u16) -> Options {
    Options::new().shards(shards).block_bytes(4096).segment_bytes(1 << 20).memory_bytes(1 << 20)
}

fn append_to_all(log: &Log, times: u32) {
    for shard in 0..log.shards() {
        for index in 0..times {
            log.shard(ShardId(shard)).append(index.to_le_bytes()).wait().unwrap();
        }
    }
}

fn count(log: &Log) -> usize {
    let shards = (0..log.shards()).map(|shard| log.shard(ShardId(shard)).read(..).unwrap());
    shards.map(|records| records.collect::<Result<Vec<_>, _>>().unwrap().len()).sum()
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}

/// Everything under a folder, with sizes.
fn tree(path: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        let about = entry.metadata().unwrap();
        found.push((entry.path(), if about.is_dir() { 0 } else { about.len() }));
        if about.is_dir() {
            found.extend(tree(&entry.path()));
        }
    }
    found.sort();
    found
}

fn is_not_of_this_log(result: Result<Log, OpenError>) -> PathBuf {
    match result.err() {
        Some(OpenError::NotOfThisLog { path, .. }) => path,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_log_never_takes_the_folders_of_another() {
    let dir = folder();
    let disk = dir.path().join("disk");
    let options = small(2).directories([&disk]);
    let log = options.open(dir.path().join("a")).unwrap();
    append_to_all(&log, 10);
    // Beside its owner, and after it.
    for owned in [true, false] {
        let before = tree(dir.path());
        assert!(is_not_of_this_log(options.open(dir.path().join("b"))).starts_with(&disk));
        assert_eq!(tree(dir.path()), before, "owned: {owned}");
        if owned {
            append_to_all(&log, 10);
            log.close().unwrap();
        }
    }
    assert_eq!(count(&Log::open(dir.path().join("a")).unwrap()), 40);
}

#[test]
fn a_log_is_not_made_anew_over_its_shards() {
    let dir = folder();
    let (path, disk) = (dir.path().join("log"), dir.path().join("disk"));
    for options in [small(2), small(2).directories([&disk])] {
        let log = options.open(&path).unwrap();
        append_to_all(&log, 10);
        log.close().unwrap();
        drop(log);
        // The manifests are lost, or the whole folder; half a making is claimed, or not.
        copy(&path, &dir.path().join("kept"));
        for name in ["log.manifest.0", "log.manifest.1"] {
            fs::remove_file(path.join(name)).unwrap();
        }
        for marker in [None, Some(&b""[..]), Some(&[7; 9000])] {
            if let Some(bytes) = marker {
                fs::write(path.join("sawmill.creating"), bytes).unwrap();
            }
            let before = tree(dir.path());
            match options.open(&path) {
                Err(OpenError::ManifestMissing { path: told }) if !disk.exists() && marker.is_none() => {
                    assert_eq!(told, path);
                }
                other => drop(is_not_of_this_log(other)),
            }
            assert_eq!(tree(dir.path()), before);
        }
        fs::remove_dir_all(&path).unwrap();
        if disk.exists() {
            is_not_of_this_log(options.open(&path));
            assert!(!path.exists(), "nothing is made");
        }
        fs::rename(dir.path().join("kept"), &path).unwrap();
        // A copy in the place of the log's own folder: that it counts must be said.
        assert_eq!(count(&Options::new().relocated(true).open(&path).unwrap()), 20);
        fs::remove_dir_all(&path).unwrap();
    }
}

/// Whatever is left of it, and whether one may be made there or not.
#[test]
fn a_log_whose_own_manifest_is_missing_is_told_as_that() {
    let dir = folder();
    let path = dir.path().join("log");
    let options = small(1).directories([dir.path().join("disk")]);
    let log = options.open(&path).unwrap();
    append_to_all(&log, 10);
    drop(log.consumer("mailer").unwrap());
    log.close().unwrap();
    drop(log);
    let copies = ["log.manifest.0", "log.manifest.1"].map(|name| path.join(name));
    let kept = fs::read(&copies[1]).unwrap();
    copies.iter().for_each(|copy| fs::remove_file(copy).unwrap());
    let before = tree(dir.path());
    let opened = [options.open(&path), options.clone().create(false).open(&path)];
    let errors = opened.into_iter().map(Result::unwrap_err).chain(Log::open_read_only(&path).err());
    for error in errors {
        assert!(matches!(&error, OpenError::ManifestMissing { path: told } if *told == path), "{error}");
        let text = error.to_string();
        assert!(text.contains("sawmill repair") && text.contains("from any backup of the log"), "{text}");
    }
    assert_eq!(tree(dir.path()), before);
    // As it says: one of them, however old.
    fs::write(&copies[1], kept).unwrap();
    assert_eq!(count(&options.open(&path).unwrap()), 10);
}

/// One of the two was taken from another log, whichever counts.
#[test]
fn the_manifest_of_another_log_beside_the_own_is_told() {
    let dir = folder();
    let [a, b] = ["a", "b"].map(|name| dir.path().join(name));
    for path in [&a, &b] {
        append_to_all(&small(1).open(path).unwrap(), 10);
    }
    for name in ["log.manifest.0", "log.manifest.1"] {
        let own = fs::read(a.join(name)).unwrap();
        fs::copy(b.join(name), a.join(name)).unwrap();
        let before = tree(dir.path());
        for error in [Log::open(&a).err(), Log::open_read_only(&a).err()] {
            assert!(matches!(&error, Some(OpenError::OfTwoLogs { path }) if *path == a), "{error:?}");
        }
        assert_eq!(tree(dir.path()), before);
        fs::write(a.join(name), own).unwrap();
        assert_eq!(count(&Log::open(&a).unwrap()), 10);
    }
}

#[test]
fn a_shard_of_another_log_is_refused() {
    let dir = folder();
    let [a, b] = ["a", "b"].map(|name| dir.path().join(name));
    for path in [&a, &b] {
        append_to_all(&small(2).open(path).unwrap(), 10);
    }
    let [own, kept] = ["shard-0001", "kept"].map(|name| a.join(name));
    fs::rename(&own, dir.path().join("kept")).unwrap();
    copy(&b.join("shard-0001"), &own);
    let error = Log::open(&a).unwrap_err().to_string();
    assert!(error.contains("shard-0001 holds shard 1 of another log"), "{error}");
    fs::remove_dir_all(&own).unwrap();
    copy(&a.join("shard-0000"), &own);
    let error = Log::open(&a).unwrap_err().to_string();
    assert!(error.contains("shard-0001 holds shard 0 of this log"), "{error}");
    fs::remove_dir_all(&own).unwrap();
    fs::rename(dir.path().join("kept"), &own).unwrap();
    assert!(!kept.exists());
    assert_eq!(count(&Log::open(&a).unwrap()), 20);
}

#[test]
fn a_copy_of_the_logs_own_folder_does_not_share_its_shards() {
    let dir = folder();
    let [path, again, disk] = ["log", "copy", "disk"].map(|name| dir.path().join(name));
    let log = small(2).directories([&disk]).open(&path).unwrap();
    append_to_all(&log, 10);
    copy(&path, &again);
    match Log::open(&again) {
        Err(OpenError::Locked { path, .. }) => assert!(path.starts_with(&disk)),
        other => panic!("{other:?}"),
    }
    append_to_all(&log, 10);
    log.close().unwrap();
    assert_eq!(count(&Log::open(&path).unwrap()), 40);
}

#[test]
fn nothing_is_made_below_what_is_not_there() {
    let dir = folder();
    let (path, missing) = (dir.path().join("log"), dir.path().join("mount"));
    let refused = |result: Result<Log, OpenError>| {
        let Err(OpenError::Io { source, .. }) = &result else { panic!("{result:?}") };
        assert_eq!(source.kind(), std::io::ErrorKind::NotFound);
        sawmill::error_chain(&result.unwrap_err()).to_string()
    };
    let error = refused(small(1).open(missing.join("log")));
    assert!(error.contains("mount is not there"), "{error}");
    refused(small(2).directories([dir.path().join("disk"), missing.join("disk")]).open(&path));
    assert_eq!(tree(dir.path()), []);
    // Nor in place of what is there no more.
    let log = small(2).directories([&missing]).open(&path).unwrap();
    append_to_all(&log, 10);
    log.close().unwrap();
    drop(log);
    let away = dir.path().join("away");
    fs::rename(&missing, &away).unwrap();
    let before = tree(dir.path());
    let error = refused(Log::open(&path));
    assert!(error.contains("shard-0000") && error.contains("mounted"), "{error}");
    fs::create_dir(&missing).unwrap();
    refused(Log::open(&path));
    fs::remove_dir(&missing).unwrap();
    assert_eq!(tree(dir.path()), before);
    fs::rename(&away, &missing).unwrap();
    assert_eq!(count(&Log::open(&path).unwrap()), 20);
}

#[test]
fn each_shard_is_where_it_is() {
    let dir = folder();
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let homes = [dir.path().join("disk"), memory.path().join("disk")];
    let options = small(2).directories(homes);
    let error = options.clone().require_durable(true).open(dir.path().join("log")).unwrap_err();
    assert!(matches!(error, OpenError::Unsupported { what: "durability", .. }), "{error}");
    assert!(sawmill::error_chain(&error).to_string().contains("/dev/shm"), "{error}");
    // What was made by then is taken up.
    let log = options.open(dir.path().join("log")).unwrap();
    append_to_all(&log, 10);
    let stats = log.stats();
    let [own, other] = [0, 1].map(|shard| stats.shards[shard].capabilities);
    assert!(own.durable && own.direct && own.measured.is_some(), "{own:?}");
    assert!(!other.durable && !other.write_through && other.measured.is_some(), "{other:?}");
    assert_ne!(own.measured, other.measured);
    let line = stats.notices.iter().find(|line| line.contains("NOT DURABLE")).unwrap();
    assert!(line.contains("shard 0: Ext") && line.contains("; shard 1: Tmpfs"), "{line}");
    log.close().unwrap();
    drop(log);
    let error = Options::new().require_durable(true).open(dir.path().join("log")).unwrap_err();
    assert!(sawmill::error_chain(&error).to_string().contains("/dev/shm"), "{error}");
}

/// A file that some tool or hand left among the segments.
#[test]
fn a_stray_file_is_never_a_segment() {
    let dir = folder();
    let options = small(1);
    drop(options.open(dir.path()).unwrap());
    let shard = dir.path().join("shard-0000");
    for name in ["0000000777.seg", "4294967295.seg"] {
        fs::File::create(shard.join(name)).unwrap().set_len((8 << 20) + 100).unwrap();
    }
    let log = options.open(dir.path()).unwrap();
    let told = log.stats().notices.iter().filter(|line| line.contains("is no segment of this log")).count();
    assert_eq!(told, 2);
    for index in 0..600u32 {
        log.append([index as u8; 9000]).wait().unwrap();
    }
    log.close().unwrap();
    drop(log);
    let log = options.open(dir.path()).unwrap();
    assert_eq!(count(&log), 600);
    assert!(shard.join("0000000777.seg").exists());
}

/// A disk that can set no space aside is full before a segment is listed, not in the middle of one.
#[test]
fn a_full_ext2_refuses() {
    let Some(mount) = Mount::make("ext2", 40) else { return };
    let dir = mount.path().join("log");
    let options = small(1).segment_bytes(4 << 20);
    let log = options.open(&dir).unwrap();
    // The rest of the disk but for a little is somebody else's, so that it is full in the middle of a fill.
    fs::write(mount.path().join("other"), vec![7; 21 << 20]).unwrap();
    let mut positions = Vec::new();
    let error = loop {
        match log.append([positions.len() as u8; 8_000]).wait() {
            Ok(position) => positions.push(position),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, AppendError::NoSpace { .. }), "{error}");
    assert!(positions.len() > 500, "{}", positions.len());
    assert!(!log.stats().shards[0].failed);
    log.close().unwrap();
    drop(log);
    let log = options.open(&dir).unwrap();
    for (index, position) in positions.iter().enumerate() {
        assert_eq!(log.get(*position).unwrap().payload(), [index as u8; 8_000]);
    }
    fs::remove_file(mount.path().join("other")).unwrap();
    log.shard(ShardId(0)).truncate_before(positions[1].lsn()).unwrap();
    log.append([1; 8_000]).wait().unwrap();
}
