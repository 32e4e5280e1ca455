//! What a log takes: a bound that holds under any load, measured in a process of its own.

use std::process::Command;

use sawmill::{Durability, Lsn, Options, ShardId, Write};

const CHILD: &str = "SAWMILL_MEMORY_CHILD";
const INDEX: &str = "SAWMILL_MEMORY_INDEX";
const MIB: u64 = 1 << 20;

const INDEX_BYTES: u64 = 2 * MIB;

const SHARDS: u16 = 2;
const MEMORY: u64 = 16 * MIB;
const READERS: u64 = 4;
/// Appends that wait at once, for room or for durability.
const WAITING: usize = 4096;
/// What a waiting append takes: its handle, and its waker's place. Records and tasks are the application's own.
const WAITING_BYTES: u64 = 512;

/// The most that was ever resident (proc(5), `VmHWM`).
fn most_resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() << 10
}

/// What a test of this file takes in a process of its own.
fn taken_by(test: &str, variable: &str, value: &str) -> u64 {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, env!("CARGO_TARGET_TMPDIR"))
        .env(variable, value)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success(), "{text}{}", String::from_utf8_lossy(&child.stderr));
    let taken = text.lines().find_map(|line| line.split_once("resident: ")).expect("the child says").1;
    taken.trim().parse().unwrap()
}

/// The keys of a log are many, and what is known of them in memory is bounded.
#[test]
fn the_index_keeps_to_its_memory() {
    let [without, with] = ["off", "on"].map(|index| taken_by("memory::child_with_keys", INDEX, index));
    let more = with.saturating_sub(without);
    println!("{} KiB more with an index of {} KiB", more >> 10, INDEX_BYTES >> 10);
    // Beside it, what is read through: by whoever builds it, and by those who ask.
    assert!(more <= INDEX_BYTES + 14 * MIB, "{} KiB for an index of {}", more >> 10, INDEX_BYTES >> 10);
    assert!(more >= INDEX_BYTES / 4, "the load was no load: {} KiB", more >> 10);
}

#[test]
fn child_with_keys() {
    let Ok(parent) = std::env::var(CHILD) else { return };
    let Ok(index) = std::env::var(INDEX) else { return };
    let before = most_resident();
    let dir = tempfile::tempdir_in(parent).unwrap();
    let options = Options::new().shards(1).memory_bytes(MEMORY).segment_bytes(32 * MIB).dedup_ids(1024);
    let log = options.index_keys(index == "on").index_bytes(INDEX_BYTES).open(dir.path()).unwrap();
    // A plain table of them would take 50 MiB.
    let mut first = None;
    for number in 0..1_000_000_u64 {
        let write = Write::new([7; 24]).key(number.to_be_bytes());
        let position = log.post(write).unwrap();
        first.get_or_insert(position);
    }
    log.sync().wait().unwrap();
    if index == "on" {
        let shard = || log.stats().shards[0].clone();
        while shard().indexed.0 + (4 << 20) < shard().durable_lsn.0 {
            std::thread::yield_now();
        }
        for number in 0..2_000_u64 {
            let write = Write::new([7; 24]).key((2_000_000 + number).to_be_bytes()).id(number.into());
            log.append(write.durability(Durability::Buffered).if_last(None)).wait().unwrap();
        }
        assert_eq!(log.read_key(&0_u64.to_be_bytes(), ..).unwrap().count(), 1);
        assert_eq!(log.last(&0_u64.to_be_bytes()).unwrap(), first);
    }
    println!("resident: {}", most_resident() - before);
}

#[test]
fn resident_memory_is_bounded() {
    let taken = taken_by("memory::child", INDEX, "on");
    let bound = (MEMORY + INDEX_BYTES) * u64::from(SHARDS)
        + 32 * MIB
        + 2 * MIB * READERS
        + WAITING as u64 * WAITING_BYTES;
    println!("{} of {} MiB", taken / MIB, bound / MIB);
    assert!(taken <= bound, "{} of {} MiB", taken / MIB, bound / MIB);
    assert!(taken >= MEMORY, "the load was no load: {} MiB", taken / MIB);
}

#[test]
fn child() {
    let Ok(parent) = std::env::var(CHILD) else { return };
    let before = most_resident();
    let dir = tempfile::tempdir_in(parent).unwrap();
    let options = Options::new().shards(SHARDS).memory_bytes(MEMORY).segment_bytes(32 * MIB);
    let options = options.index_bytes(INDEX_BYTES);
    let log = options.retain_bytes(64 * MIB).open(dir.path()).unwrap();
    // More than fits, from more threads than cores: everything is full all the time.
    std::thread::scope(|scope| {
        for thread in 0..8u16 {
            let shard = log.shard(ShardId(thread % SHARDS));
            scope.spawn(move || {
                let payload = vec![thread as u8; 16 << 10];
                for _ in 0..2_000 {
                    let write = Write::new(&payload).durability(Durability::Buffered);
                    drop(shard.append(write).admitted().wait().unwrap());
                }
            });
        }
    });
    let mut window = log.window(WAITING);
    for number in 0..WAITING as u32 * 4 {
        window.push(number.to_le_bytes()).unwrap();
    }
    assert_eq!(window.filter(Result::is_ok).count(), WAITING);
    let tasks: Vec<_> = (0..WAITING).map(|_| Box::pin(log.append([7; 100]))).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        for task in tasks {
            task.await.unwrap();
        }
    });
    // All at once, each far enough to read ahead.
    let mut readers: Vec<_> =
        (0..READERS).map(|reader| log.shard(ShardId(reader as u16 % SHARDS)).read(..).unwrap()).collect();
    for _ in 0..1_500 {
        readers.iter_mut().for_each(|reader| assert!(reader.next().is_some()));
    }
    drop(readers);
    let read = log.shard(ShardId(0)).follow(Lsn::MIN).unwrap().take(10).count();
    assert_eq!(read, 10);
    println!("resident: {}", most_resident() - before);
}
