//! Logs that earlier versions wrote: each format version has one in `tests/golden`, and every later
//! version opens it.
//!
//! A log is kept as a text file: for each file of it its length, and every granule that is not all
//! zeros, in hexadecimal without the zeros at its end. `SAWMILL_MAKE_GOLDEN=PATH cargo test --test it
//! golden` writes such a file with the present version.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use sawmill::{Log, Options, Position, ShardId, Write};

const GRANULE: usize = 4096;

fn large() -> Vec<u8> {
    (0..20_000u32).map(|index| (index % 251) as u8).collect()
}

/// What the log holds, in the order of its shard.
fn contents() -> Vec<(&'static [u8], Vec<u8>)> {
    vec![
        (b"", b"the first record".to_vec()),
        (b"user:7", b"with a key".to_vec()),
        (b"", Vec::new()),
        (b"order:9", b"debit".to_vec()),
        (b"order:9", b"credit".to_vec()),
        (b"big", large()),
        (b"", b"after a reopen".to_vec()),
    ]
}

fn make(dir: &Path) {
    let options = Options::new().shards(1).block_bytes(8192).segment_bytes(1 << 20).memory_bytes(1 << 20);
    let log = options.open(dir).unwrap();
    let all = contents();
    for (key, payload) in &all[..3] {
        log.append(Write::new(payload).key(*key)).wait().unwrap();
    }
    log.append_batch(b"order:9", &[&all[3].1, &all[4].1]).wait().unwrap();
    log.append(Write::new(&all[5].1).key(all[5].0)).wait().unwrap();
    let gone = log.append(b"cut off").wait().unwrap();
    let kept = log.merged(..).unwrap().map(Result::unwrap).nth(5).unwrap();
    log.shard(ShardId(0)).truncate_after(kept.lsn()).unwrap();
    assert!(log.get(gone).is_err());
    log.close().unwrap();
    let log = options.open(dir).unwrap();
    log.append(&all[6].1).wait().unwrap();
    let mut consumer = log.consumer("reader").unwrap();
    let first = consumer.next().unwrap().unwrap();
    consumer.commit(first.position()).unwrap();
    consumer.flush().unwrap();
    drop(consumer);
    log.close().unwrap();
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() { found.extend(files(&entry)) } else { found.push(entry) }
    }
    found.sort();
    found
}

fn pack(dir: &Path) -> String {
    let mut text = String::new();
    for path in files(dir).iter().filter(|path| !path.ends_with("sawmill.lock")) {
        let bytes = std::fs::read(path).unwrap();
        writeln!(text, "file {} {}", path.strip_prefix(dir).unwrap().display(), bytes.len()).unwrap();
        for (index, granule) in bytes.chunks(GRANULE).enumerate() {
            let used = granule.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
            if used > 0 {
                let hex: String = granule[..used].iter().map(|byte| format!("{byte:02x}")).collect();
                writeln!(text, "{index} {hex}").unwrap();
            }
        }
    }
    text
}

fn unpack(text: &str, dir: &Path) {
    let mut current: Option<(PathBuf, Vec<u8>)> = None;
    let finish = |file: Option<(PathBuf, Vec<u8>)>| {
        if let Some((path, bytes)) = file {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
    };
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("file ") {
            let (name, length) = rest.rsplit_once(' ').unwrap();
            finish(current.replace((dir.join(name), vec![0; length.parse().unwrap()])));
        } else {
            let (index, hex) = line.split_once(' ').unwrap();
            let at = index.parse::<usize>().unwrap() * GRANULE;
            let bytes = &mut current.as_mut().unwrap().1;
            for (offset, pair) in hex.as_bytes().chunks(2).enumerate() {
                let pair = std::str::from_utf8(pair).unwrap();
                bytes[at + offset] = u8::from_str_radix(pair, 16).unwrap();
            }
        }
    }
    finish(current);
}

#[test]
fn every_format_version_still_opens() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    if let Some(path) = std::env::var_os("SAWMILL_MAKE_GOLDEN") {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        make(dir.path());
        std::fs::write(path, pack(dir.path())).unwrap();
    }
    let mut versions = 0;
    for golden in files(&folder) {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        unpack(&std::fs::read_to_string(&golden).unwrap(), dir.path());
        assert_eq!(Log::open_read_only(dir.path()).unwrap().verify().unwrap().findings.len(), 0);
        check(dir.path(), &[]);
        let log = Log::open(dir.path()).unwrap();
        let mut consumer = log.consumer("reader").unwrap();
        let next = consumer.next().unwrap().unwrap();
        assert_eq!(next.payload(), contents()[1].1, "the consumer had committed the first record");
        drop(consumer);
        let position = log.append(b"by a later version").wait().unwrap();
        log.close().unwrap();
        check(dir.path(), &[position]);
        versions += 1;
    }
    assert!(versions >= 1, "no golden file");
}

fn check(dir: &Path, more: &[Position]) {
    let log = Log::open(dir).unwrap();
    let records: Vec<_> = log.shard(ShardId(0)).read(..).unwrap().map(Result::unwrap).collect();
    let expected = contents();
    for (record, (key, payload)) in records.iter().zip(&expected) {
        assert_eq!((record.key(), record.payload()), (*key, &payload[..]));
        assert_eq!(log.get(record.position()).unwrap().payload(), payload);
    }
    assert_eq!(records.len(), expected.len() + more.len());
    log.close().unwrap();
}
