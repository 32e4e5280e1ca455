//! A log is put back from an older copy, moved or replaced while somebody reads its files beside the owner. Whoever reads on
//! gives each record of the log as it goes on, or says why it does not.

use std::path::Path;
use std::time::Duration;

use sawmill::log::LogReader;
use sawmill::{Log, Lsn, Options, Position, ReadError, Record, ShardId, Write};
use tempfile::TempDir;

const SHARD: ShardId = ShardId(0);
const KEY: &[u8] = b"order:9";

fn open(dir: &Path) -> Log {
    let options = Options::new().shards(1).block_bytes(4096).segment_bytes(1 << 20).memory_bytes(1 << 20);
    options.index_keys(true).open(dir).unwrap()
}

/// Each in a block of its own.
fn append(log: &Log, count: usize) -> Vec<Position> {
    (0..count).map(|_| log.append(Write::new([7; 3_000]).key(KEY)).wait().unwrap()).collect()
}

/// In an open of its own.
fn append_between(dir: &Path, count: usize) -> Vec<Position> {
    let log = open(dir);
    let positions = append(&log, count);
    log.close().unwrap();
    positions
}

/// Has one folder hold what another holds and nothing else, as `rsync --delete` does, which makes new files, or
/// `rsync --delete --inplace`, which does not.
fn sync(from: &Path, to: &Path, in_place: bool) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(to).unwrap().map(Result::unwrap) {
        let is_gone = !from.join(entry.file_name()).exists();
        if entry.file_type().unwrap().is_file() && (is_gone || !in_place) {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            sync(&entry.path(), &to, in_place);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

type Item = Result<Record, ReadError>;
type Next = Box<dyn FnMut() -> Option<Item>>;

/// Followers of the shard and of a key, as far as there is something to give.
fn follow(reader: &LogReader) -> [(&'static str, Next); 2] {
    let mut shard = reader.shard(SHARD).follow(Lsn::MIN).unwrap();
    let mut key = reader.follow_key(KEY, None).unwrap();
    [
        ("shard", Box::new(move || shard.next_timeout(Duration::ZERO))),
        ("key", Box::new(move || key.next_timeout(Duration::ZERO))),
    ]
}

fn positions(next: &mut Next) -> Vec<Position> {
    std::iter::from_fn(next).map(|item| item.unwrap().position()).collect()
}

/// A log of 100 records, and a copy of it with the first 50, made while it was closed or in the midst of an epoch.
fn log_and_copy(is_open: bool) -> (TempDir, TempDir, Vec<Position>) {
    let (dir, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut all = append_between(dir.path(), if is_open { 20 } else { 50 });
    if is_open {
        let log = open(dir.path());
        all.extend(append(&log, 30));
        sync(dir.path(), copy.path(), false);
        all.extend(append(&log, 50));
        log.close().unwrap();
    } else {
        sync(dir.path(), copy.path(), false);
        all.extend(append_between(dir.path(), 50));
    }
    (dir, copy, all)
}

fn for_each_way(test: impl Fn(bool, bool, bool)) {
    for way in 0..8 {
        test(way & 1 != 0, way & 2 != 0, way & 4 != 0);
    }
}

/// One had read behind where the copy ends, and one had not.
#[test]
fn a_follower_passes_over_nothing_when_its_log_is_put_back() {
    for_each_way(|is_open, in_place, looks_between| {
        let (dir, copy, all) = log_and_copy(is_open);
        let reader = Log::open_read_only(dir.path()).unwrap();
        let mut ahead = follow(&reader);
        let mut behind = follow(&reader);
        for (who, next) in &mut ahead {
            assert_eq!(positions(next), all, "{who}");
        }
        for (who, next) in &mut behind {
            assert_eq!(
                (0..20).map(|_| next().unwrap().unwrap().position()).collect::<Vec<_>>(),
                all[..20],
                "{who}"
            );
        }
        sync(copy.path(), dir.path(), in_place);
        // Whoever looks before anything is appended may be told then.
        let between: Vec<_> =
            ahead.iter_mut().map(|(_, next)| if looks_between { next() } else { None }).collect();
        let new = append_between(dir.path(), 200);
        let way = format!("open {is_open}, in place {in_place}, looks between {looks_between}");
        for ((who, next), between) in ahead.iter_mut().zip(between) {
            let told = if between.is_none() { next() } else { between };
            let Some(Err(ReadError::OtherHistory { shard: SHARD, lsn, kept })) = told else {
                panic!("{who}, {way}: {told:?}");
            };
            assert!(lsn > all[99].lsn() && (all[49].lsn()..new[0].lsn()).contains(&kept), "{who}, {way}");
            assert!(next().is_none() && next().is_none(), "{who}, {way}: told once");
        }
        for (who, next) in &mut behind {
            let given = positions(next);
            assert_eq!(given[..30], all[20..50], "{who}, {way}");
            assert_eq!(given[30..], new, "{who}, {way}");
        }
    });
}

/// The copy has all that was known of the log, and more; only its files are others.
#[test]
fn a_follower_goes_on_when_its_log_is_put_back_to_what_it_had_not_seen() {
    for in_place in [false, true] {
        let (dir, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut all = append_between(dir.path(), 20);
        let reader = Log::open_read_only(dir.path()).unwrap();
        let mut tails = follow(&reader);
        tails.iter_mut().for_each(|(who, next)| assert_eq!(positions(next), all, "{who}"));
        all.extend(append_between(dir.path(), 20));
        sync(dir.path(), copy.path(), false);
        append_between(dir.path(), 20);
        sync(copy.path(), dir.path(), in_place);
        all.extend(append_between(dir.path(), 20));
        tails.iter_mut().for_each(|(who, next)| assert_eq!(positions(next), all[20..], "{who}"));
    }
}

/// What is read from one moment on is not of two histories.
#[test]
fn what_is_being_read_when_its_log_is_put_back_says_so() {
    for_each_way(|is_open, in_place, is_begun| {
        let (dir, copy, _) = log_and_copy(is_open);
        let reader = Log::open_read_only(dir.path()).unwrap();
        let shard = reader.shard(SHARD);
        let mut readers: [(&str, Box<dyn Iterator<Item = Item>>); 5] = [
            ("range", Box::new(shard.read(..).unwrap())),
            ("range back", Box::new(shard.read_back(..).unwrap())),
            ("merged", Box::new(reader.merged(..).unwrap())),
            ("key", Box::new(reader.read_key(KEY, ..).unwrap())),
            ("key back", Box::new(reader.read_key_back(KEY, ..).unwrap())),
        ];
        if is_begun {
            readers.iter_mut().for_each(|(_, items)| _ = items.by_ref().take(10).map(Result::unwrap).count());
        }
        let whole = shard.read(..).unwrap().count();
        assert_eq!(whole, 100);
        let mut done = shard.read(..).unwrap();
        assert_eq!(done.by_ref().count(), 100);
        sync(copy.path(), dir.path(), in_place);
        append_between(dir.path(), 20);
        assert_eq!(shard.read(..).unwrap().map(Result::unwrap).count(), 70);
        for (who, items) in &mut readers {
            let told: Vec<_> = items.collect();
            let [Err(ReadError::OtherHistory { shard: SHARD, .. })] = &told[..] else {
                panic!("{who}: {told:?}");
            };
        }
        assert!(done.next().is_none(), "it was at its end");
    });
}

/// A reader reads the log that was opened, and says when that is not there any more.
#[test]
fn a_log_that_was_moved_or_replaced_is_told() {
    for way in ["moved", "another in its place", "removed", "another in its folder", "a shard put back"] {
        let base = tempfile::tempdir().unwrap();
        let (dir, other) = (base.path().join("log"), base.path().join("other"));
        let all = append_between(&dir, 20);
        let other_id = open(&other).id();
        let reader = Log::open_read_only(&dir).unwrap();
        let id = reader.id();
        let mut tails = follow(&reader);
        tails.iter_mut().for_each(|(_, next)| _ = next().unwrap().unwrap());
        let shard = dir.join("shard-0000");
        match way {
            "moved" => std::fs::rename(&dir, base.path().join("moved")).unwrap(),
            "another in its place" => {
                std::fs::rename(&dir, base.path().join("moved")).unwrap();
                std::fs::rename(&other, &dir).unwrap();
            }
            "removed" => std::fs::remove_dir_all(&dir).unwrap(),
            "another in its folder" => sync(&other, &dir, false),
            _ => {
                sync(&shard, &base.path().join("copy"), false);
                std::fs::remove_dir_all(&shard).unwrap();
                std::fs::rename(base.path().join("copy"), &shard).unwrap();
            }
        }
        let is_told = |error: &ReadError| matches!(error, ReadError::Replaced { path } if *path == shard);
        for (who, next) in &mut tails {
            let told: Vec<_> = std::iter::from_fn(&mut *next).collect();
            // What had been read by then is given first.
            let (last, before) = told.split_last().unwrap();
            let given: Vec<_> = before.iter().map(|item| item.as_ref().unwrap().position()).collect();
            assert!(last.as_ref().is_err_and(is_told), "{way}, {who}: {last:?}");
            assert!(all[1..].starts_with(&given) && next().is_none(), "{way}, {who}");
        }
        assert!(reader.get(all[0]).is_err_and(|error| is_told(&error)), "{way}");
        assert!(reader.shard(SHARD).durable_lsn().is_err_and(|error| is_told(&error)), "{way}");
        assert!(reader.queue("mailer").is_err(), "{way}");
        assert_eq!(reader.id(), id, "it is that of the log that was opened");
        if way.starts_with("another") {
            assert_eq!(Log::open_read_only(&dir).unwrap().id(), other_id);
        }
    }
}
