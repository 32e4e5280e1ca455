//! One file of a log is gone, cannot be read, is cut, or is another log's, as after a restore: who opens the log is told of
//! that file, nothing else is touched, and once it is put back everything is there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sawmill::queue::QueueOptions;
use sawmill::tally::Sum;
use sawmill::{Consumer, Log, Options, Position, Queue, ShardId, Write, error_chain};
use tempfile::TempDir;

/// Records of each shard, and how many of them were truncated.
const RECORDS: u32 = 500;
const TRUNCATED: u32 = 200;
/// The consumer and the queue have got so far in each shard.
const DONE: u32 = 300;
const UPDATES: i64 = 50;

/// What becomes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Removed,
    /// A folder has its name.
    Folder,
    /// A symbolic link to nowhere has its name.
    Dangling,
    /// Its mode lets nobody read it, as after a restore by another user. Root reads it all the same.
    NotOurs,
    Empty,
    Half,
    /// The file of the same name of another log.
    Other,
}

const FAULTS: [Fault; 7] =
    [Fault::Removed, Fault::Folder, Fault::Dangling, Fault::NotOurs, Fault::Empty, Fault::Half, Fault::Other];

impl Fault {
    fn put(self, file: &Path, whole: &[u8], other: Option<&Vec<u8>>) {
        match self {
            Fault::NotOurs => return fs::set_permissions(file, fs::Permissions::from_mode(0o000)).unwrap(),
            Fault::Empty => return fs::write(file, []).unwrap(),
            Fault::Half => return fs::write(file, &whole[..whole.len() / 2]).unwrap(),
            Fault::Other => return fs::write(file, other.unwrap()).unwrap(),
            Fault::Removed | Fault::Folder | Fault::Dangling => fs::remove_file(file).unwrap(),
        }
        match self {
            Fault::Folder => fs::create_dir(file).unwrap(),
            Fault::Dangling => symlink("nowhere/at/all", file).unwrap(),
            _ => {}
        }
    }
}

/// All files under a folder, by their paths in it, with what is in them.
type Tree = BTreeMap<PathBuf, Vec<u8>>;

fn tree(base: &Path) -> Tree {
    fn add(base: &Path, folder: &Path, found: &mut Tree) {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let (path, about) = (entry.path(), entry.file_type().unwrap());
            if about.is_dir() {
                add(base, &path, found);
            } else if about.is_file() {
                // What this process may not read is as it was put.
                let bytes = fs::read(&path).unwrap_or_default();
                found.insert(path.strip_prefix(base).unwrap().to_owned(), bytes);
            }
        }
    }
    let mut found = Tree::new();
    add(base, base, &mut found);
    found
}

fn remove(file: &Path) {
    match fs::symlink_metadata(file) {
        Ok(about) if about.is_dir() => fs::remove_dir_all(file).unwrap(),
        Ok(_) => fs::remove_file(file).unwrap(),
        Err(_) => {}
    }
}

/// A log of two shards in two directories that has everything.
struct World {
    base: TempDir,
    options: Options,
    /// All that was acknowledged and not truncated.
    kept: Vec<(Position, Vec<u8>)>,
    whole: Tree,
    /// Of each payload.
    bytes: usize,
}

fn options(base: &Path) -> Options {
    Options::new()
        .shards(2)
        .directories([base.join("one"), base.join("two")])
        .block_bytes(64 << 10)
        .segment_bytes(1 << 20)
        .memory_bytes(1 << 20)
        .retain_age(Duration::from_secs(1 << 30))
        .retain_for(["mailer", "jobs"])
}

fn payload(shard: u16, number: u32, bytes: usize) -> Vec<u8> {
    [vec![shard as u8; bytes - 4], number.to_le_bytes().to_vec()].concat()
}

/// Waits for what a thread of the log makes in time.
fn wait_for(what: &str, is_there: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !is_there() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

/// Reads on, and commits the first of each shard.
fn read_some(consumer: &mut Consumer) {
    for _ in 0..2 * DONE {
        let record = consumer.next().unwrap().unwrap();
        let number = u32::from_le_bytes(*record.payload().last_chunk().unwrap());
        if number < DONE {
            consumer.commit(record.position()).unwrap();
        }
    }
    consumer.flush().unwrap();
}

fn work(queue: &Queue) {
    for _ in 0..2 * DONE {
        queue.take().wait().unwrap().unwrap().done().unwrap();
    }
    queue.flush().unwrap();
}

impl World {
    /// The key index writes a run for each 16 MiB: with large payloads there is one.
    fn new(bytes: usize) -> World {
        let base = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let options = options(base.path());
        let log = options.open(base.path().join("log")).unwrap();
        let tally = log.tally("likes").unwrap();
        let mut all = Vec::new();
        for shard in 0..2 {
            let writer = log.shard(ShardId(shard));
            for number in 0..RECORDS {
                let bytes = payload(shard, number, bytes);
                let key = number.to_le_bytes();
                let position = writer.append(Write::new(&bytes).key(key)).admitted().wait().unwrap().wait();
                all.push((position.unwrap(), bytes));
            }
        }
        for _ in 0..UPDATES {
            tally.add("one", 1).wait().unwrap();
        }
        read_some(&mut log.consumer("mailer").unwrap());
        work(&log.queue("jobs", QueueOptions::new()).unwrap());
        let shards = ["one/shard-0000", "two/shard-0001"].map(|shard| base.path().join(shard));
        if bytes * RECORDS as usize > 16 << 20 {
            let is_run = |name: &fs::DirEntry| name.path().extension().is_some_and(|end| end == "idx");
            wait_for("a run of the key index is written", || {
                shards
                    .iter()
                    .all(|shard| fs::read_dir(shard).unwrap().map(Result::unwrap).any(|name| is_run(&name)))
            });
        }
        let first = [TRUNCATED, RECORDS + TRUNCATED].map(|index| all[index as usize].0);
        for first in first {
            log.shard(first.shard()).truncate_before(first.lsn()).unwrap();
        }
        wait_for("the ages are written down", || {
            shards.iter().all(|shard| shard.join("shard.ages.manifest.1").exists())
        });
        log.close().unwrap();
        let is_kept =
            |(position, _): &(Position, Vec<u8>)| first[usize::from(position.shard().0)] <= *position;
        all.retain(is_kept);
        let whole = tree(base.path());
        World { base, options, kept: all, whole, bytes }
    }

    fn place(&self, name: &Path) -> PathBuf {
        self.base.path().join(name)
    }

    fn dir(&self) -> PathBuf {
        self.base.path().join("log")
    }

    /// As it was made.
    fn put_back(&self) {
        let names = |tree: &Tree| tree.keys().cloned().collect::<BTreeSet<_>>();
        let now = tree(self.base.path());
        names(&now).difference(&names(&self.whole)).for_each(|name| remove(&self.place(name)));
        for (name, bytes) in &self.whole {
            if now.get(name) != Some(bytes) {
                self.put_back_one(name);
            }
        }
    }

    fn put_back_one(&self, name: &Path) {
        remove(&self.place(name));
        fs::write(self.place(name), &self.whole[name]).unwrap();
    }

    /// What is not as it was, but for the lock's own files, which say who had it last, and the file itself.
    fn changed(&self, before: &Tree, but: &Path) -> Vec<String> {
        let now = tree(self.base.path());
        let names: BTreeSet<_> = now.keys().chain(before.keys()).collect();
        let is_lock = |name: &Path| name.ends_with("sawmill.lock");
        let differs =
            |name: &&&PathBuf| now.get(**name) != before.get(**name) && !is_lock(name) && **name != but;
        names.iter().filter(differs).map(|name| format!("{} was changed", name.display())).collect()
    }

    /// What was acknowledged is there, and who reads goes on no later than it got.
    fn missing(&self, log: &Log) -> Vec<String> {
        let mut told = Vec::new();
        let mut lost = 0;
        for (position, payload) in &self.kept {
            match log.get(*position) {
                Ok(record) if record.payload() == payload => {}
                Ok(_) => told.push(format!("{position} is another record")),
                Err(error) => {
                    lost += 1;
                    if lost == 1 {
                        told.push(format!("{position}: {}", error_chain(&error)));
                    }
                }
            }
        }
        match log.consumer("mailer").map(|mut own| own.next_timeout(Duration::ZERO)) {
            Ok(Some(Ok(record))) => {
                let number = u32::from_le_bytes(*record.payload().last_chunk().unwrap());
                assert!(number <= DONE, "the consumer has passed over records");
            }
            Ok(Some(Err(error))) => told.push(format!("consumer: {}", error_chain(&error))),
            Ok(None) => panic!("the consumer has passed over all"),
            Err(error) => told.push(format!("consumer: {}", error_chain(&error))),
        }
        match log.queue("jobs", QueueOptions::new()).map(|own| own.take_timeout(Duration::ZERO)) {
            Ok(Some(Ok(own))) => {
                let number = u32::from_le_bytes(*own.record().payload().last_chunk().unwrap());
                assert!(number <= DONE, "the queue has passed over records");
            }
            Ok(Some(Err(error))) => told.push(format!("queue: {}", error_chain(&error))),
            Ok(None) => panic!("the queue has passed over all"),
            Err(error) => told.push(format!("queue: {}", error_chain(&error))),
        }
        match log.tally("likes") {
            Ok(own) => assert_eq!(own.get("one"), Some(UPDATES)),
            Err(error) => told.push(format!("tally: {}", error_chain(&error))),
        }
        for number in [TRUNCATED, DONE, RECORDS - 1] {
            let key = number.to_le_bytes();
            match log.read_key(&key, ..).and_then(Iterator::collect::<Result<Vec<_>, _>>) {
                Ok(found) => {
                    let payloads: Vec<_> = found.iter().map(|record| record.payload().to_vec()).collect();
                    assert!(payloads == [payload(log.route(&key).0, number, self.bytes)], "key {number}");
                }
                Err(error) => told.push(format!("key: {}", error_chain(&error))),
            }
        }
        told
    }

    fn read_beside(&self) -> Vec<String> {
        let reader = match Log::open_read_only(self.dir()) {
            Ok(reader) => reader,
            Err(error) => return vec![format!("read only: {}", error_chain(&error))],
        };
        let mut told = Vec::new();
        match reader.verify() {
            Ok(verified) => told.extend(verified.findings.iter().map(|found| format!("found: {found}"))),
            Err(error) => told.push(format!("verify: {}", error_chain(&error))),
        }
        if let Err(error) = reader.queue("jobs") {
            told.push(format!("queue beside: {}", error_chain(&error)));
        }
        if let Err(error) = reader.tally::<Sum>("likes") {
            told.push(format!("tally beside: {}", error_chain(&error)));
        }
        told
    }
}

/// Whether a line names the file.
fn names(line: &str, name: &Path, fault: Fault) -> bool {
    let file = name.file_name().unwrap().to_str().unwrap();
    // Those of one name belong together, and it is what the way on goes by; of the log's own either may be the wrong one.
    let stem = file.trim_end_matches(".0").trim_end_matches(".1");
    let by_name = match stem.trim_end_matches(".manifest").split_once('-') {
        Some((_, own)) => format!("`{own}`"),
        None => stem.to_owned(),
    };
    line.contains(file) || fault == Fault::Other && line.contains(&by_name)
}

fn a_case(world: &World, other: &World, name: &Path, fault: Fault) -> Vec<String> {
    fault.put(&world.place(name), &world.whole[name], other.whole.get(name));
    let before = tree(world.base.path());
    let mut told = world.read_beside();
    let mut wrong = world.changed(&before, Path::new(""));
    match world.options.open(world.dir()) {
        Ok(log) => {
            told.extend(world.missing(&log));
            told.extend(log.stats().notices.into_iter().filter(|line| !line.contains("opened ")));
            if let Err(error) = log.close() {
                told.push(format!("close: {}", error_chain(&error)));
            }
        }
        Err(error) => {
            told.push(format!("open: {}", error_chain(&error)));
            wrong.extend(world.changed(&before, name));
        }
    }
    let is_silent = |line: &&String| !names(line, name, fault);
    wrong.extend(told.iter().filter(is_silent).map(|line| format!("without the file: {line}")));
    world.put_back_one(name);
    match world.options.open(world.dir()) {
        Ok(log) => wrong.extend(world.missing(&log).into_iter().map(|line| format!("put back: {line}"))),
        Err(error) => wrong.push(format!("put back: open: {}", error_chain(&error))),
    }
    world.put_back();
    wrong.into_iter().map(|line| format!("{fault:?} {}: {line}", name.display())).collect()
}

#[test]
fn whatever_becomes_of_one_file_it_is_named_and_the_rest_is_kept() {
    let [world, other] = [World::new(6_000), World::new(6_000)];
    let kinds = ["log.", "shard.", "shard.ages.", "sawmill.owner.", "consumer-", "queue-", "tally-"];
    let has = |kind: &str| {
        world.whole.keys().any(|name| name.file_name().unwrap().to_str().unwrap().starts_with(kind))
    };
    assert!(kinds.iter().all(|kind| has(kind)), "{:?}", world.whole.keys());
    assert_all(&world, &other, |_| true);
}

#[test]
fn whatever_becomes_of_a_run_of_the_key_index_nothing_is_missing() {
    let [world, other] = [World::new(40_000), World::new(40_000)];
    assert_all(&world, &other, |name| name.extension().is_some_and(|end| end == "idx"));
}

fn assert_all(world: &World, other: &World, is_meant: impl Fn(&Path) -> bool) {
    let is_root = fs::read_dir("/proc/1/fd").is_ok();
    let (mut wrong, mut seen) = (Vec::new(), 0);
    // Of the shards, which are alike, one: the other one is there to be left alone.
    for name in world.whole.keys().filter(|name| !name.starts_with("two") && is_meant(name)) {
        for fault in FAULTS {
            if fault == Fault::NotOurs && is_root || fault == Fault::Other && !other.whole.contains_key(name)
            {
                continue;
            }
            wrong.extend(a_case(world, other, name, fault));
            seen += 1;
        }
    }
    assert!(seen >= 6, "{seen} cases");
    assert!(wrong.is_empty(), "{} of what is wrong:\n{}", wrong.len(), wrong.join("\n"));
}
