//! Streams: what the key index costs and what it gives, and what it takes to find a time.
//!
//! `cargo bench --bench streams`, on one shard with records of 256 bytes; `STREAMS_DIR` names a folder on the device to
//! measure, `STREAMS_RECORDS` other than a million records. Medians, in turn in one run. Lookups are cold: the log is
//! opened anew, and its files are read past the page cache.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sawmill::{Durability, Log, Options, Position, ShardId, Write};

const TIMES: usize = 5;
/// Records of one key among all, in the log that is read.
const OF_A_KEY: u64 = 100;
const LOOKUPS: u64 = 60;
const PAYLOAD: [u8; 256] = [7; 256];

fn records() -> u64 {
    std::env::var("STREAMS_RECORDS").map_or(1_000_000, |records| records.parse().expect("a number"))
}

fn open(dir: &Path, indexed: bool) -> Log {
    Options::new().shards(1).index_keys(indexed).open(dir).unwrap()
}

fn folder() -> tempfile::TempDir {
    match std::env::var_os("STREAMS_DIR") {
        Some(dir) => tempfile::tempdir_in(dir).unwrap(),
        None => tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap(),
    }
}

fn median<T: Copy + PartialOrd>(mut values: Vec<T>) -> T {
    values.sort_by(|a, b| a.partial_cmp(b).unwrap());
    values[values.len() / 2]
}

/// How long it takes to load so many records in bulk, with the key of each, until all are durable.
fn load(dir: &Path, indexed: bool, key_of: impl Fn(u64) -> Option<u64>) -> Duration {
    let log = open(dir, indexed);
    let began = Instant::now();
    for number in 0..records() {
        match key_of(number) {
            Some(key) => log.post(Write::new(PAYLOAD).key(key.to_be_bytes())).unwrap(),
            None => log.post(PAYLOAD).unwrap(),
        };
    }
    log.sync().wait().unwrap();
    began.elapsed()
}

type Load = (&'static str, bool, fn(u64) -> Option<u64>);

fn loads() {
    const LOADS: [Load; 5] = [
        ("no keys", false, |_| None),
        ("no keys, index on", true, |_| None),
        ("one key, index on", true, |_| Some(7)),
        ("a key each", false, Some),
        ("a key each, index on", true, Some),
    ];
    let mut times = LOADS.map(|_| Vec::new());
    for _ in 0..TIMES {
        for (load_times, (_, indexed, key_of)) in times.iter_mut().zip(LOADS) {
            load_times.push(load(folder().path(), indexed, key_of));
        }
    }
    let first = median(times[0].clone());
    println!("bulk load of {} records      records/s   of the first line", records());
    for (times, (name, ..)) in times.into_iter().zip(LOADS) {
        let time = median(times).as_secs_f64();
        println!("  {name:<28} {:>12.0}   {:.2}", records() as f64 / time, first.as_secs_f64() / time);
    }
}

/// Records that 64 blocking callers, or a window of 1,024, make durable in a second, a key each, with the index and
/// without it, in turn.
fn durable() {
    const TIME: Duration = Duration::from_secs(2);
    let dirs = [folder(), folder()];
    let logs = [open(dirs[0].path(), true), open(dirs[1].path(), false)];
    let write = |number: u64| Write::new(PAYLOAD).key(number.to_be_bytes());
    let callers = |log: &Log| {
        let number = AtomicU64::new(0);
        let began = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..64 {
                scope.spawn(|| {
                    while began.elapsed() < TIME {
                        log.append(write(number.fetch_add(1, Ordering::Relaxed))).wait().unwrap();
                    }
                });
            }
        });
        number.into_inner() as f64 / began.elapsed().as_secs_f64()
    };
    let window = |log: &Log| {
        let (mut window, mut number, began) = (log.window(1024), 0, Instant::now());
        while number % 64 > 0 || began.elapsed() < TIME {
            window.push(write(number)).unwrap();
            number += 1;
        }
        window.for_each(|position| _ = position.unwrap());
        number as f64 / began.elapsed().as_secs_f64()
    };
    println!("durable, a key each              index on     off   of it");
    let ways: [(&str, &dyn Fn(&Log) -> f64); 2] =
        [("64 blocking callers", &callers), ("a window of 1,024", &window)];
    for (name, rate) in ways {
        logs.iter().for_each(|log| _ = rate(log));
        let rates: Vec<(f64, f64)> = (0..TIMES).map(|_| (rate(&logs[0]), rate(&logs[1]))).collect();
        let ratio = median(rates.iter().map(|(on, off)| on / off).collect());
        let [on, off] = [
            median(rates.iter().map(|own| own.0).collect()),
            median(rates.iter().map(|own| own.1).collect()),
        ];
        println!("  {name:<24} {on:>12.0} {off:>9.0}   {ratio:.2}");
    }
    logs.iter().for_each(|log| log.close().unwrap());
}

/// Until as much is indexed as there will be.
fn wait_for_index(log: &Log) {
    let (mut before, mut since) = (sawmill::Lsn(0), Instant::now());
    while since.elapsed() < Duration::from_secs(3) {
        let indexed = log.stats().shards[0].indexed;
        if indexed != before {
            (before, since) = (indexed, Instant::now());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The median time of lookups of keys that are far from each other.
fn time_of_each(keys: u64, mut look_up: impl FnMut(u64)) -> Duration {
    let time = |number: u64| {
        let began = Instant::now();
        look_up(number * (keys / LOOKUPS));
        began.elapsed()
    };
    median((0..LOOKUPS).map(time).collect())
}

fn show(name: &str, time: Duration, beside: Duration) {
    let times = beside.as_secs_f64() / time.as_secs_f64();
    println!("  {name:<46} {:>12.1} us   {times:.1}", time.as_secs_f64() * 1e6);
}

fn lookups() {
    let dir = folder();
    let keys = records() / OF_A_KEY;
    load(dir.path(), true, |number| Some(number % keys));
    let log = open(dir.path(), true);
    wait_for_index(&log);
    let own_map: HashMap<u64, Vec<Position>> = log.shard(ShardId(0)).read(..).unwrap().fold(
        HashMap::new(),
        |mut map: HashMap<u64, Vec<Position>>, record| {
            let record = record.unwrap();
            let key = u64::from_be_bytes(record.key().try_into().unwrap());
            map.entry(key).or_default().push(record.position());
            map
        },
    );
    let log_bytes = log.stats().shards[0].durable_lsn.0;
    log.close().unwrap();
    let ends_in_idx = |path: &Path| path.extension().is_some_and(|ending| ending == "idx");
    let files = std::fs::read_dir(dir.path().join("shard-0000")).unwrap().map(|file| file.unwrap());
    let runs: Vec<u64> =
        files.filter(|file| ends_in_idx(&file.path())).map(|file| file.metadata().unwrap().len()).collect();
    let bytes: u64 = runs.iter().sum();
    let of_the_log = bytes as f64 * 100.0 / log_bytes as f64;
    println!("index: {bytes} bytes in {} runs, {of_the_log:.2} % of the log", runs.len());

    let plain = open(dir.path(), false);
    let scan = {
        let began = Instant::now();
        assert_eq!(plain.read_key(&7u64.to_be_bytes(), ..).unwrap().count() as u64, OF_A_KEY);
        began.elapsed()
    };
    println!(
        "{OF_A_KEY} records of one key of {keys}                                      times as fast as the scan"
    );
    show("a scan, without the index", scan, scan);
    let by_map = time_of_each(keys, |key| {
        own_map[&key].iter().for_each(|&position| drop(plain.get(position).unwrap()));
    });
    show("a map of the user's own, get by get", by_map, scan);
    plain.close().unwrap();
    let log = open(dir.path(), true);
    wait_for_index(&log);
    let by_index = time_of_each(keys, |key| {
        assert_eq!(log.read_key(&key.to_be_bytes(), ..).unwrap().count() as u64, OF_A_KEY);
    });
    show("read_key, by the index", by_index, scan);
    let last = time_of_each(keys, |key| assert!(log.last(&key.to_be_bytes()).unwrap().is_some()));
    show("last", last, scan);
    let absent = time_of_each(keys, |key| assert_eq!(log.last(&(key + keys).to_be_bytes()).unwrap(), None));
    show("last of a key that is not there", absent, scan);
    let stats = &log.stats().shards[0];
    println!(
        "  of the log, {} bytes are not indexed yet, and looked through",
        stats.durable_lsn.0 - stats.indexed.0
    );

    let shard = log.shard(ShardId(0));
    let first = shard.read(..).unwrap().next().unwrap().unwrap().timestamp();
    let end = shard.read_back(..).unwrap().next().unwrap().unwrap().timestamp();
    let seek = time_of_each(LOOKUPS * (end - first) / LOOKUPS, |time| drop(log.seek(first + time).unwrap()));
    show("seek of a time", seek, scan);
}

/// Appends on a condition and with an id, beside plain ones: one thread, buffered, each key's stream gone through.
fn terms() {
    const KEYS: u64 = 10_000;
    let count = records() / 5;
    let dir = folder();
    let log = open(dir.path(), true);
    let mut last: Vec<Option<Position>> = vec![None; KEYS as usize];
    let write = |number: u64| {
        let key = (number % KEYS).to_be_bytes();
        Write::new(PAYLOAD).key(key).durability(Durability::Buffered)
    };
    let time = |what: &str, append: &mut dyn FnMut(u64)| {
        let began = Instant::now();
        (0..count).for_each(append);
        println!("  {what:<46} {:>12.0} ns", began.elapsed().as_secs_f64() * 1e9 / count as f64);
    };
    println!("appended to {KEYS} keys, by one thread");
    time("no terms", &mut |number| {
        let position = log.post(write(number)).unwrap();
        last[(number % KEYS) as usize] = Some(position);
    });
    log.last(&0_u64.to_be_bytes()).unwrap();
    time("if_last", &mut |number| {
        let last = &mut last[(number % KEYS) as usize];
        *last = Some(log.append(write(number).if_last(*last)).admitted().wait().unwrap().position());
    });
    time("id", &mut |number| {
        log.post(write(number).id(number.into())).unwrap();
    });
    time("id, each a duplicate", &mut |number| {
        log.post(write(number).id((count - 1 - number % 1_000).into())).unwrap();
    });
    time("last, of a key written lately", &mut |number| {
        assert!(log.last(&(number % KEYS).to_be_bytes()).unwrap().is_some());
    });
    log.close().unwrap();
}

fn main() {
    // `cargo test --benches` asks whether it runs.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    loads();
    durable();
    terms();
    lookups();
}
