//! One owner, whatever happens to the names of a log's folders and of its lock (promise 9).

use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::Mutex;

use sawmill::{AppendError, Log, OpenError, Options, ShardId};

use crate::harness::is_alone;
use tempfile::TempDir;

fn folder() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn small() -> Options {
    Options::new().shards(1).block_bytes(64 << 10).segment_bytes(1 << 20).memory_bytes(1 << 20)
}

/// Appends `n` records of 1,000 bytes, all of them acknowledged.
fn fill(log: &Log, n: usize) -> Result<(), AppendError> {
    for position in log.window(64).over((0..n).map(|index| vec![index as u8; 1000])) {
        position?;
    }
    Ok(())
}

/// How many records an open finds.
fn count(options: &Options, dir: &Path) -> usize {
    let log = options.clone().open(dir).unwrap();
    let records = log.shard(ShardId(0)).read(..).unwrap().collect::<Result<Vec<_>, _>>().unwrap();
    log.close().unwrap();
    records.len()
}

fn names(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

#[test]
fn a_lock_file_that_is_deleted_makes_no_room_for_a_second_owner() {
    let dir = folder();
    let dir = dir.path().join("log");
    let owner = small().open(&dir).unwrap();
    fill(&owner, 100).unwrap();
    fs::remove_file(dir.join("sawmill.lock")).unwrap();
    let error = small().open(&dir).unwrap_err();
    let own = format!("process {}", std::process::id());
    assert!(matches!(&error, OpenError::Locked { owner, .. } if owner.starts_with(&own)), "{error}");
    fill(&owner, 3000).unwrap();
    owner.close().unwrap();
    assert_eq!(count(&small(), &dir), 3100);
}

/// As an older version does, or a restore that puts the file back: the owner cannot know whose it is.
#[test]
fn an_owner_whose_lock_file_was_replaced_stops() {
    let dir = folder();
    let dir = dir.path().join("log");
    let owner = small().open(&dir).unwrap();
    fill(&owner, 100).unwrap();
    fs::remove_file(dir.join("sawmill.lock")).unwrap();
    fs::write(dir.join("sawmill.lock"), "").unwrap();
    let shard = dir.join("shard-0000");
    let manifests = || [0, 1].map(|copy| fs::read(shard.join(format!("shard.manifest.{copy}"))).unwrap());
    let before = (names(&shard), manifests());
    let error = fill(&owner, 10_000).unwrap_err();
    assert!(sawmill::error_chain(&error).to_string().contains("sawmill.lock"), "{error}");
    assert!(owner.close().is_err());
    drop(owner);
    assert!((names(&shard), manifests()) == before, "nothing was made, and no manifest written");
    assert!(count(&small(), &dir) >= 100);
}

#[test]
fn an_owner_whose_manifest_was_replaced_stops() {
    let dir = folder();
    let dir = dir.path().join("log");
    let owner = small().open(&dir).unwrap();
    fill(&owner, 100).unwrap();
    let manifest = dir.join("shard-0000/shard.manifest.0");
    fs::copy(&manifest, dir.join("kept")).unwrap();
    fs::rename(dir.join("kept"), &manifest).unwrap();
    let error = fill(&owner, 10_000).unwrap_err();
    assert!(sawmill::error_chain(&error).to_string().contains("shard.manifest.0"), "{error}");
    assert!(owner.close().is_err());
    drop(owner);
    assert!(count(&small(), &dir) >= 100);
}

#[test]
fn a_renamed_log_keeps_to_its_folder_and_a_new_one_in_its_place_to_its_own() {
    let base = folder();
    let (dir, moved) = (base.path().join("log"), base.path().join("moved"));
    // What it recycles and removes goes by name, too.
    let options = small().retain_bytes(2 << 20);
    let first = options.clone().open(&dir).unwrap();
    fill(&first, 1000).unwrap();
    fs::rename(&dir, &moved).unwrap();
    let second = small().open(&dir).unwrap();
    fill(&second, 100).unwrap();
    let kept = names(&dir.join("shard-0000"));
    fill(&first, 10_000).unwrap();
    assert_eq!(names(&dir.join("shard-0000")), kept, "nothing came to the other log's folder, or went");
    fill(&second, 5000).unwrap();
    first.close().unwrap();
    second.close().unwrap();
    assert_eq!(count(&small(), &dir), 5100);
    assert!(count(&small(), &moved) >= 2000);
}

#[test]
fn a_deleted_folder_stops_its_shard_and_is_named() {
    let base = folder();
    let dir = base.path().join("log");
    let log = small().open(&dir).unwrap();
    fill(&log, 100).unwrap();
    fs::remove_dir_all(&dir).unwrap();
    let error = fill(&log, 10_000).unwrap_err();
    assert!(matches!(&error, AppendError::ShardFailed(_)), "{error}");
    assert!(sawmill::error_chain(&error).to_string().contains("removed"), "{error}");
    assert!(log.close().is_err());
    assert!(!dir.exists(), "it is not made again");
}

#[test]
fn a_folder_that_was_renamed_is_told() {
    let base = folder();
    let (dir, moved) = (base.path().join("log"), base.path().join("moved"));
    let log = small().open(&dir).unwrap();
    fill(&log, 100).unwrap();
    assert!(!log.stats().shards[0].folder_moved);
    fs::rename(&dir, &moved).unwrap();
    fill(&log, 5000).unwrap();
    let stats = log.stats();
    assert!(stats.shards[0].folder_moved);
    let told = |line: &&String| line.contains("leads to the shard no longer");
    assert_eq!(stats.notices.iter().filter(told).count(), 1, "{:?}", stats.notices);
    fs::rename(&moved, &dir).unwrap();
    fill(&log, 5000).unwrap();
    assert!(!log.stats().shards[0].folder_moved);
    log.close().unwrap();
    assert_eq!(count(&small(), &dir), 10_100);
}

#[test]
fn a_copy_of_a_logs_own_directory_is_refused_until_it_is_told_to_be_the_log() {
    let base = folder();
    let (dir, moved) = (base.path().join("log"), base.path().join("copy"));
    let options = small().directories([base.path().join("disk")]);
    let log = options.clone().open(&dir).unwrap();
    fill(&log, 100).unwrap();
    assert!(Command::new("cp").arg("-a").args([&dir, &moved]).status().unwrap().success());
    assert!(matches!(Log::open(&moved), Err(OpenError::Locked { .. })), "beside its owner");
    log.close().unwrap();
    drop(log);
    let refused = |dir: &Path| match Log::open(dir) {
        Err(OpenError::Relocated { path, folder, owner }) => {
            assert!(path == dir && folder.ends_with("disk/shard-0000"), "{path:?} {folder:?}");
            owner
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(&moved), dir);
    // The log itself goes on, whatever was refused.
    assert_eq!(count(&Options::new(), &dir), 100);
    assert_eq!(count(&Options::new().relocated(true), &moved), 100);
    assert_eq!(refused(&dir), moved, "one of two alone goes on");
    assert_eq!(count(&Options::new(), &moved), 100);
}

/// Its shard lies behind a link, and it was moved: what it says to do is done, once, and it goes on.
#[test]
fn a_log_that_was_moved_away_from_its_linked_shard_says_what_to_do() {
    let base = folder();
    let [dir, moved, disk] = ["log", "moved", "disk"].map(|name| base.path().join(name));
    let log = small().open(&dir).unwrap();
    fill(&log, 100).unwrap();
    log.close().unwrap();
    drop(log);
    fs::rename(dir.join("shard-0000"), &disk).unwrap();
    symlink(&disk, dir.join("shard-0000")).unwrap();
    assert_eq!(count(&small(), &dir), 100);
    fs::rename(&dir, &moved).unwrap();
    let error = small().open(&moved).unwrap_err();
    assert!(matches!(error, OpenError::Relocated { .. }), "{error}");
    let text = error.to_string();
    let places = [&disk, &dir, &moved].map(|place| place.display().to_string());
    assert!(places.iter().all(|place| text.contains(place)), "{text}");
    assert!(text.contains("open it once with `Options::relocated(true)`"), "{text}");
    assert_eq!(count(&small().relocated(true), &moved), 100);
    assert_eq!(count(&small(), &moved), 100, "once is enough");
}

/// A shard that was moved to another disk, with a link in its place, which a copy of the log's own directory has, too.
#[test]
fn a_shard_behind_a_link_has_one_owner() {
    let base = folder();
    let [dir, copy, disk] = ["log", "copy", "disk"].map(|name| base.path().join(name));
    small().open(&dir).unwrap().close().unwrap();
    fs::rename(dir.join("shard-0000"), &disk).unwrap();
    symlink(&disk, dir.join("shard-0000")).unwrap();
    assert!(Command::new("cp").arg("-a").args([&dir, &copy]).status().unwrap().success());
    let owner = small().open(&dir).unwrap();
    fill(&owner, 100).unwrap();
    let error = small().open(&copy).unwrap_err();
    assert!(matches!(&error, OpenError::Locked { path, .. } if *path == disk), "{error}");
    fill(&owner, 3000).unwrap();
    owner.close().unwrap();
    drop(owner);
    // Nor one after the other, until the copy is told to be the log.
    let error = small().open(&copy).unwrap_err();
    let is_told =
        matches!(&error, OpenError::Relocated { folder, owner, .. } if *folder == disk && *owner == dir);
    assert!(is_told, "{error}");
    assert_eq!(count(&small(), &dir), 3100);
    assert_eq!(count(&small().relocated(true), &copy), 3100);
}

/// Into a copy of the log's own directory, beside its owner.
#[test]
fn a_shard_that_is_moved_keeps_its_owner() {
    let base = folder();
    let [dir, other] = ["log", "other"].map(|name| base.path().join(name));
    let owner = small().open(&dir).unwrap();
    fill(&owner, 100).unwrap();
    fs::create_dir(&other).unwrap();
    for name in ["log.manifest.0", "log.manifest.1"] {
        fs::copy(dir.join(name), other.join(name)).unwrap();
    }
    let moved = other.join("shard-0000");
    fs::rename(dir.join("shard-0000"), &moved).unwrap();
    let error = small().open(&other).unwrap_err();
    assert!(matches!(&error, OpenError::Locked { path, .. } if *path == moved), "{error}");
    fill(&owner, 3000).unwrap();
    owner.close().unwrap();
    assert_eq!(count(&small(), &other), 3100);
}

/// In the place of the one that was lost or put aside.
#[test]
fn a_copy_in_the_logs_own_place_is_one_unless_its_shards_were_put_back_as_well() {
    let base = folder();
    let [dir, aside, disk, disk_aside] =
        ["log", "aside", "disk", "disk-aside"].map(|name| base.path().join(name));
    let copy = |from: &Path, to: &Path| {
        assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
    };
    let log = small().directories([&disk]).open(&dir).unwrap();
    fill(&log, 100).unwrap();
    log.close().unwrap();
    drop(log);
    fs::rename(&dir, &aside).unwrap();
    copy(&aside, &dir);
    // tmpfs, for one, does not keep its numbers.
    let numbers_last = matches!(Log::open(&dir), Err(OpenError::Relocated { .. }));
    let kind = Command::new("stat").args(["-f", "-c", "%T"]).arg(&dir).output().unwrap().stdout;
    assert!(numbers_last || !kind.starts_with(b"ext"), "a copy was taken for the log");
    fs::rename(&disk, &disk_aside).unwrap();
    copy(&disk_aside, &disk);
    assert_eq!(count(&Options::new(), &dir), 100, "both were put back");
}

#[test]
fn an_open_that_is_to_make_nothing_makes_nothing() {
    let base = folder();
    let (dir, empty) = (base.path().join("log"), base.path().join("empty"));
    fs::create_dir(&empty).unwrap();
    for place in [&dir, &empty] {
        let error = small().create(false).open(place).unwrap_err();
        assert!(matches!(&error, OpenError::NoLog { path } if path == place), "{error}");
        assert!(sawmill::error_chain(&error).to_string().contains("mounted"), "{error}");
    }
    assert!(!dir.exists() && names(&empty).is_empty());
    let opened =
        |log: &Log| log.stats().notices.iter().find(|line| line.starts_with("opened ")).unwrap().clone();
    let log = small().open(&dir).unwrap();
    assert!(opened(&log).contains("which was made"), "{}", opened(&log));
    log.close().unwrap();
    drop(log);
    let log = small().create(false).open(&dir).unwrap();
    assert!(opened(&log).contains("which was there"), "{}", opened(&log));
}

/// Takes the locks of a log in a pid namespace of its own, and keeps them until it is told to end.
#[test]
fn child() {
    let Ok(dir) = std::env::var("SAWMILL_OWNER_CHILD") else { return };
    let log = small().open(&dir).unwrap();
    println!("owns");
    std::io::stdin().read_line(&mut String::new()).unwrap();
    log.close().unwrap();
}

/// A subscriber that has the child end with the first line.
struct EndsOwner(Mutex<Option<ChildStdin>>);

impl tracing::Subscriber for EndsOwner {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "sawmill"
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::Id {
        tracing::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::Id, _: &tracing::Id) {}

    fn event(&self, _: &tracing::Event<'_>) {
        // A line, and not only the end of its input: a forked child of another test may hold that open.
        let stdin = self.0.lock().unwrap().take();
        drop(stdin.map(|mut stdin| writeln!(stdin, "end")));
    }

    fn enter(&self, _: &tracing::Id) {}

    fn exit(&self, _: &tracing::Id) {}
}

/// It lives, and nobody says that it has ended; who waits for it is told so and gets the log once it is free.
#[test]
fn an_owner_in_another_pid_namespace_is_waited_for_and_not_said_to_have_ended() {
    if !is_alone("ownership::an_owner_in_another_pid_namespace_is_waited_for_and_not_said_to_have_ended") {
        return;
    }
    let base = folder();
    let dir = base.path().join("log");
    let spawned = Command::new("unshare")
        .args(["--pid", "--fork"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "ownership::child", "--nocapture"])
        .env("SAWMILL_OWNER_CHILD", &dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut child) = spawned else {
        assert!(std::env::var_os("SAWMILL_NO_SKIP").is_none(), "no unshare(1)");
        return eprintln!("skipped, no unshare(1)");
    };
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    if !lines.any(|line| line.contains("owns")) {
        assert!(std::env::var_os("SAWMILL_NO_SKIP").is_none(), "no pid namespace");
        return eprintln!("skipped, no pid namespace is to be had");
    }
    // The child ends once the wait is told of.
    let subscriber = EndsOwner(Mutex::new(child.stdin.take()));
    let log = tracing::subscriber::with_default(subscriber, || small().open(&dir)).unwrap();
    lines.for_each(drop);
    child.wait().unwrap();
    let notices = log.stats().notices;
    let line = notices.iter().find(|line| line.contains("waiting up to")).expect("the wait is told");
    assert!(line.contains("cannot be seen from here") && !line.contains("ended"), "{line}");
}
