//! The reason that is told is the reason: a missing manifest is no damage, too many open files are no lack of space.

use std::fs;
use std::process::Command;

use sawmill::{AppendError, Log, Lsn, OpenError, Options, ReadError, ShardId, error_chain};

fn options() -> Options {
    Options::new().shards(1).block_bytes(4096).segment_bytes(1 << 20).memory_bytes(1 << 20)
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

#[test]
fn a_manifest_is_missing_or_damaged_or_cannot_be_read() {
    let dir = folder();
    options().open(dir.path()).unwrap().close().unwrap();
    let shard = dir.path().join("shard-0000");
    let copies = ["shard.manifest.0", "shard.manifest.1"].map(|name| shard.join(name));
    copies.iter().for_each(|copy| fs::remove_file(copy).unwrap());
    let errors = || [Log::open(dir.path()).unwrap_err(), Log::open_read_only(dir.path()).unwrap_err()];
    for error in errors() {
        assert!(matches!(&error, OpenError::ManifestMissing { path } if *path == shard), "{error}");
        assert!(error.to_string().contains("is missing"), "{error}");
    }
    fs::write(&copies[0], [7; 4096]).unwrap();
    let error = Log::open_read_only(dir.path()).unwrap_err();
    assert!(matches!(error, OpenError::ManifestDamaged { .. }), "{error}");
    assert!(error.to_string().contains("(no header; the file is missing)"), "{error}");
    // What the system says is told of the file of which it says so.
    fs::remove_file(&copies[0]).unwrap();
    fs::create_dir(&copies[0]).unwrap();
    for error in errors() {
        let OpenError::Io { path, .. } = &error else { panic!("{error:?}") };
        assert_eq!(*path, copies[0]);
        let line = error_chain(&error).to_string();
        let reasons = ["Is a directory", "not a regular file"];
        assert!(line.contains("reading the manifest failed: "), "{line}");
        assert!(reasons.iter().any(|reason| line.matches(reason).count() == 1), "{line}");
    }
}

#[test]
fn damage_is_told_with_its_place_on_disk() {
    let dir = folder();
    let log = options().open(dir.path()).unwrap();
    for number in 0..3u8 {
        log.append([number; 100]).wait().unwrap();
    }
    log.close().unwrap();
    let segment = dir.path().join("shard-0000/0000000001.seg");
    let mut bytes = fs::read(&segment).unwrap();
    bytes[4096 + 10] ^= 1;
    fs::write(&segment, bytes).unwrap();
    let reader = Log::open_read_only(dir.path()).unwrap();
    let found: Vec<_> = reader.shard(ShardId(0)).read(..).unwrap().collect();
    let [Ok(_), Err(error), Ok(_)] = &found[..] else { panic!("{found:?}") };
    let ReadError::Damaged { lsn, end, file, offset, .. } = error else { panic!("{error:?}") };
    assert_eq!((*lsn, *end), (Lsn(4096), Some(Lsn(8192))));
    assert_eq!((file.as_deref(), *offset), (Some("0000000001.seg"), 4096));
    assert!(error.to_string().contains("LSN 4096, up to 8192 (0000000001.seg, offset 4096): "), "{error}");
}

#[test]
fn what_was_cut_off_the_end_is_not_told_as_what_was_before_the_beginning() {
    let dir = folder();
    let log = options().open(dir.path()).unwrap();
    let [first, second] = ["first", "second"].map(|payload| log.append(payload).wait().unwrap());
    let shard = log.shard(ShardId(0));
    shard.truncate_after(first.lsn()).unwrap();
    let error = log.get(second).unwrap_err();
    assert!(matches!(error, ReadError::Truncated { .. }), "{error}");
    assert!(error.to_string().contains("cut off the end of the log"), "{error}");
    let third = log.append(b"third").wait().unwrap();
    shard.truncate_before(third.lsn()).unwrap();
    let error = log.get(first).unwrap_err();
    assert!(matches!(error, ReadError::Truncated { .. }), "{error}");
    assert!(error.to_string().contains("the log begins at"), "{error}");
}

/// Sets how many files this process may have open, and gives what it was.
fn limit_files(most: Option<u64>) -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure is ours, and outlives the calls.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit), 0);
        let before = limit.rlim_cur;
        if let Some(most) = most {
            limit.rlim_cur = most;
            assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit), 0);
        }
        before
    }
}

/// In a process of its own: the limit is the process's.
#[test]
fn child() {
    if std::env::var_os("SAWMILL_ERRORS_CHILD").is_none() {
        return;
    }
    let dir = folder();
    let log = options().open(dir.path()).unwrap();
    log.append(b"before").wait().unwrap();
    let before = limit_files(Some(0));
    let error =
        (0..10_000).find_map(|_| log.append([7; 4000]).wait().err()).expect("it needs another segment");
    let AppendError::NoSegment { source, .. } = &error else { panic!("{error:?}") };
    assert_eq!(source.raw_os_error(), Some(libc::EMFILE));
    let line = error_chain(&error).to_string();
    assert!(line.contains("shard 0 cannot make its next segment"), "{line}");
    assert!(line.ends_with("Too many open files (os error 24)"), "{line}");
    // It goes on by itself once there may be more.
    limit_files(Some(before));
    while let Err(error) = log.append([7; 4000]).wait() {
        assert!(matches!(error, AppendError::NoSegment { .. }), "{error}");
    }
    log.close().unwrap();
    println!("all was told");
}

#[test]
fn too_many_open_files_are_no_lack_of_space() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "errors::child", "--nocapture"])
        .env("SAWMILL_ERRORS_CHILD", "1")
        .output()
        .unwrap();
    let text = [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat();
    assert!(output.status.success() && text.contains("all was told"), "{text}");
}
