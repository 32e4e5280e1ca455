//! A full disk: appends say so, what was acknowledged stays, space can be made, and it goes on.

use std::time::{Duration, Instant};

use sawmill::queue::QueueOptions;
use sawmill::{AppendError, Durability, Log, Options, Position, ShardId, Write};

use crate::mounted::{Mount, run};

fn fill(log: &Log) -> (Vec<Position>, AppendError) {
    let mut positions = Vec::new();
    for index in 0..100_000u32 {
        match log.append(Write::new(vec![index as u8; 8_000]).durability(Durability::Synced)).wait() {
            Ok(position) => positions.push(position),
            Err(error) => return (positions, error),
        }
    }
    panic!("the disk never filled");
}

fn check(log: &Log, positions: &[Position]) {
    for (index, position) in positions.iter().enumerate() {
        assert_eq!(log.get(*position).unwrap().payload(), vec![index as u8; 8_000]);
    }
}

fn a_full_disk(kind: &str, mib: u64) {
    let Some(mount) = Mount::make(kind, mib) else { return };
    let dir = mount.path().join("log");
    let options = Options::new().shards(1).segment_bytes(4 << 20).memory_bytes(1 << 20).block_bytes(64 << 10);
    let log = options.open(&dir).unwrap();
    let (positions, error) = fill(&log);
    assert!(matches!(error, AppendError::NoSpace { .. }), "{error}");
    assert!(sawmill::error_chain(&error).to_string().contains("space"), "{error}");
    check(&log, &positions);
    log.close().unwrap();
    // It opens while the disk is full, and everything is there.
    let log = options.open(&dir).unwrap();
    check(&log, &positions);
    let shard = log.shard(ShardId(0));
    shard.truncate_before(positions[positions.len() / 2].lsn()).unwrap();
    let (more, error) = fill(&log);
    assert!(more.len() > positions.len() / 4, "{} records found room", more.len());
    assert!(matches!(error, AppendError::NoSpace { .. }), "{error}");
    check(&log, &more);
}

#[test]
fn on_ext4() {
    a_full_disk("ext4", 40);
}

/// Which can set no space aside.
#[test]
fn on_ext2() {
    a_full_disk("ext2", 32);
}

#[test]
fn on_tmpfs() {
    a_full_disk("tmpfs", 24);
}

/// A log opens, is truncated and goes on where no file can be made, and no block is free.
fn nothing_to_be_had(kind: &str, mib: u64, inodes: Option<u32>) {
    let Some(mount) = Mount::with_inodes(kind, mib, inodes) else { return };
    let dir = mount.path().join("log");
    let options = Options::new().shards(1).segment_bytes(1 << 20).memory_bytes(1 << 20).block_bytes(64 << 10);
    let log = options.open(&dir).unwrap();
    let positions: Vec<Position> =
        (0..1_200u32).map(|index| log.append(vec![index as u8; 8_000]).wait().unwrap()).collect();
    log.close().unwrap();
    // As in a copy that left them out.
    for lock in ["sawmill.lock", "shard-0000/sawmill.lock"] {
        std::fs::remove_file(dir.join(lock)).unwrap();
    }
    match inodes {
        None => drop(mount.use_up_room(0)),
        Some(_) => mount.use_up_inodes(),
    }
    let probe = std::fs::write(mount.path().join("another"), [0; 8192]).unwrap_err();
    assert_eq!(probe.kind(), std::io::ErrorKind::StorageFull, "or this shows nothing");
    let log = options.open(&dir).unwrap_or_else(|error| panic!("{kind}: {}", sawmill::error_chain(&error)));
    check(&log, &positions);
    log.shard(ShardId(0)).truncate_before(positions[1_000].lsn()).unwrap();
    let more: Vec<Position> =
        (0..200u32).map(|index| log.append(vec![index as u8; 8_000]).wait().unwrap()).collect();
    check(&log, &more);
    log.close().unwrap();
    let log = options.open(&dir).unwrap();
    assert_eq!(log.get(positions[1_100]).unwrap().payload(), vec![(1_100u32 % 256) as u8; 8_000]);
    check(&log, &more);
}

#[test]
fn a_log_opens_on_a_full_xfs() {
    nothing_to_be_had("xfs", 320, None);
}

#[test]
fn a_log_opens_on_a_full_ext4() {
    nothing_to_be_had("ext4", 40, None);
}

#[test]
fn a_log_opens_on_ext4_without_an_inode() {
    nothing_to_be_had("ext4", 40, Some(64));
}

#[test]
fn a_log_opens_on_tmpfs_without_an_inode() {
    nothing_to_be_had("tmpfs", 24, Some(64));
}

/// Lines of the log that say so.
fn told(log: &Log, what: &str) -> usize {
    log.stats().notices.iter().filter(|line| line.contains(what)).count()
}

/// The engine is not told that somebody made room: it sees that when a refused append has it try again, in the
/// background.
fn append_once_there_is_room(log: &Log) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match log.append(vec![7; 60_000]).wait() {
            Ok(position) => return assert_eq!(log.get(position).unwrap().payload(), [7; 60_000]),
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        std::thread::yield_now();
    }
}

/// Smaller segments are made before anything is refused, and a full disk is told: once, and once when it is over.
fn room_for_less_than_a_segment(kind: &str, mib: u64) {
    let Some(mount) = Mount::make(kind, mib) else { return };
    let dir = mount.path().join("log");
    let options = Options::new().shards(1).segment_bytes(8 << 20).memory_bytes(1 << 20).block_bytes(64 << 10);
    let log = options.open(&dir).unwrap();
    log.append(b"first").wait().unwrap();
    // The first segment has 4 MiB, and the next would have no fewer.
    let filler = mount.use_up_room(3 << 20);
    let (positions, error) = fill(&log);
    assert!(matches!(error, AppendError::NoSpace { .. }), "{error}");
    assert!(positions.len() * 8_000 > 6_500_000, "{} records", positions.len());
    check(&log, &positions);
    for refused in 2..5 {
        assert!(matches!(log.try_append([0; 8_000]), Err(AppendError::NoSpace { .. })) || refused == 2);
        assert!(matches!(log.append([0; 8_000]).wait(), Err(AppendError::NoSpace { .. })));
    }
    let stats = &log.stats().shards[0];
    assert!((6..=7).contains(&stats.refused_no_space) && stats.refused_no_segment == 0, "{stats:?}");
    assert_eq!((told(&log, "cannot grow"), told(&log, "grows again")), (1, 0), "{:?}", log.stats().notices);
    std::fs::remove_file(filler).unwrap();
    append_once_there_is_room(&log);
    assert_eq!((told(&log, "cannot grow"), told(&log, "grows again")), (1, 1), "{:?}", log.stats().notices);
    log.close().unwrap();
    check(&options.open(&dir).unwrap(), &positions);
}

#[test]
fn less_than_a_segment_is_used_on_ext4() {
    room_for_less_than_a_segment("ext4", 64);
}

/// Where nothing is set aside, and that there is no room shows in the middle of a segment.
#[test]
fn less_than_a_segment_is_used_on_ext2() {
    room_for_less_than_a_segment("ext2", 64);
}

#[test]
fn less_than_a_segment_is_used_on_xfs() {
    room_for_less_than_a_segment("xfs", 320);
}

#[test]
fn less_than_a_segment_is_used_on_tmpfs() {
    room_for_less_than_a_segment("tmpfs", 64);
}

/// A log was copied or restored so that its segments lack the space that they had: on a full disk that is a refusal,
/// and not a shard that stops.
fn copied_without_its_space(kind: &str, mib: u64, how: &str) {
    let Some(mount) = Mount::make(kind, mib) else { return };
    let dir = mount.path().join("log");
    let options = Options::new().shards(1).memory_bytes(1 << 20).block_bytes(64 << 10);
    let log = options.open(&dir).unwrap();
    let positions: Vec<Position> =
        (0..100u32).map(|index| log.append(vec![index as u8; 8_000]).wait().unwrap()).collect();
    log.close().unwrap();
    let copy = mount.path().join("copy");
    run("cp", &["-a", how, dir.to_str().unwrap(), copy.to_str().unwrap()]).unwrap();
    // The manifests of a copy need some; the rest of its segment would have 3 MiB.
    let filler = mount.use_up_room(512 << 10);
    let log = options.open(&copy).unwrap_or_else(|error| panic!("{}", sawmill::error_chain(&error)));
    check(&log, &positions);
    for _ in 0..3 {
        let error = log.append(vec![1; 60_000]).wait().unwrap_err();
        assert!(matches!(error, AppendError::NoSpace { .. }), "{error}");
    }
    assert!(!log.stats().shards[0].failed && log.stats().shards[0].refused_no_space == 3);
    assert_eq!(told(&log, "cannot grow"), 1);
    std::fs::remove_file(filler).unwrap();
    append_once_there_is_room(&log);
    assert_eq!(told(&log, "grows again"), 1);
    log.close().unwrap();
    check(&options.open(&copy).unwrap(), &positions);
}

#[test]
fn a_sparse_copy_is_refused_room_and_does_not_stop() {
    copied_without_its_space("ext4", 64, "--sparse=always");
}

#[test]
fn a_reflink_is_refused_room_and_does_not_stop() {
    copied_without_its_space("xfs", 320, "--reflink=always");
}

/// A snapshot of a log that is open shares the extents of its manifest's copies, and the disk fills up: what cannot be
/// written is refused, and goes on once there is room.
#[test]
fn a_manifest_that_shares_its_extents_goes_on_once_there_is_room() {
    let Some(mount) = Mount::make("xfs", 320) else { return };
    let dir = mount.path().join("log");
    let options = Options::new().shards(1).segment_bytes(1 << 20).memory_bytes(1 << 20).block_bytes(64 << 10);
    let log = options.open(&dir).unwrap();
    let positions: Vec<Position> =
        (0..400u32).map(|index| log.append(vec![index as u8; 8_000]).wait().unwrap()).collect();
    for copy in ["shard.manifest.0", "shard.manifest.1"] {
        let [from, to] = [dir.join("shard-0000").join(copy), mount.path().join(copy)];
        run("cp", &["--reflink=always", from.to_str().unwrap(), to.to_str().unwrap()]).unwrap();
    }
    let filler = mount.use_up_room(0);
    let shard = log.shard(ShardId(0));
    for _ in 0..2 {
        let error = shard.truncate_before(positions[200].lsn()).unwrap_err();
        assert!(
            sawmill::error_chain(&error).to_string().contains("space"),
            "{}",
            sawmill::error_chain(&error)
        );
    }
    check(&log, &positions);
    std::fs::remove_file(filler).unwrap();
    // The file system gives the room back in the background.
    let deadline = Instant::now() + Duration::from_secs(60);
    while let Err(error) = shard.truncate_before(positions[200].lsn()) {
        let told = sawmill::error_chain(&error).to_string();
        assert!(told.contains("space") && Instant::now() < deadline, "{told}");
        std::thread::yield_now();
    }
    assert!(log.get(positions[199]).is_err());
    let more: Vec<Position> =
        (0..400u32).map(|index| log.append(vec![index as u8; 8_000]).wait().unwrap()).collect();
    check(&log, &more);
    log.close().unwrap();
    let log = options.open(&dir).unwrap();
    check(&log, &more);
    assert!(log.get(positions[199]).is_err());
    assert_eq!(log.get(positions[200]).unwrap().payload(), [200; 8_000]);
}

/// What consumers and queues write down shares its space with a snapshot, and the disk fills up: their threads go on by
/// themselves once there is room, and nothing is asked of them meanwhile.
#[test]
fn consumers_and_queues_write_by_themselves_once_there_is_room() {
    let Some(mount) = Mount::make("xfs", 320) else { return };
    let dir = mount.path().join("log");
    let options = Options::new().shards(1).segment_bytes(1 << 20).memory_bytes(1 << 20).block_bytes(64 << 10);
    let log = options.open(&dir).unwrap();
    let positions: Vec<Position> = (0..20u8).map(|index| log.append([index; 100]).wait().unwrap()).collect();
    let consumer = log.consumer("mailer").unwrap();
    let queue = log.queue("jobs", QueueOptions::new()).unwrap();
    let take = || queue.take().wait().unwrap().unwrap().done().unwrap();
    consumer.commit(positions[3]).unwrap();
    consumer.flush().unwrap();
    take();
    queue.flush().unwrap();
    let files = ["consumer-mailer.manifest.", "queue-jobs.manifest."]
        .map(|prefix| [0, 1].map(|copy| dir.join(format!("{prefix}{copy}"))));
    for (number, copy) in files.iter().flatten().enumerate() {
        let to = mount.path().join(number.to_string());
        run("cp", &["--reflink=always", copy.to_str().unwrap(), to.to_str().unwrap()]).unwrap();
    }
    let read = |kind: usize| files[kind].each_ref().map(|copy| std::fs::read(copy).unwrap());
    let before = [read(0), read(1)];
    let filler = mount.use_up_room(0);
    consumer.commit(positions[9]).unwrap();
    take();
    let wait_until = |what: &str, is_so: &dyn Fn(usize) -> bool| {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !(is_so(0) && is_so(1)) {
            assert!(Instant::now() < deadline, "{what}: {:?}", log.stats().notices);
            std::thread::yield_now();
        }
    };
    let names = ["consumer-mailer.manifest.", "queue-jobs.manifest."];
    wait_until("they try, and say so", &|kind| told(&log, names[kind]) > 0);
    assert!(before == [read(0), read(1)], "or the disk was not full");
    std::fs::remove_file(filler).unwrap();
    wait_until("they go on", &|kind| read(kind) != before[kind]);
    consumer.commit(positions[12]).unwrap();
    consumer.flush().unwrap();
    queue.flush().unwrap();
    log.close().unwrap();
    let log = options.open(&dir).unwrap();
    assert_eq!(log.consumer("mailer").unwrap().committed(ShardId(0)), Some(positions[12]));
    let queue = log.queue("jobs", QueueOptions::new()).unwrap();
    assert_eq!(queue.take().wait().unwrap().unwrap().record().payload(), [2; 100]);
}

/// What a tally counts waits for room, on its own thread, and is flushed once there is some.
#[test]
fn a_tally_goes_on_by_itself_once_there_is_room() {
    let Some(mount) = Mount::make("tmpfs", 40) else { return };
    let dir = mount.path().join("log");
    let options = Options::new().shards(1).segment_bytes(4 << 20).memory_bytes(1 << 20).block_bytes(64 << 10);
    let log = options.open(&dir).unwrap();
    let tally = log.tally("likes").unwrap();
    tally.add("key", 1).wait().unwrap();
    let filler = mount.use_up_room(3 << 20);
    let (_, error) = fill(&log);
    assert!(matches!(error, AppendError::NoSpace { .. }), "{error}");
    let is_told = || told(&log, "tally likes: what is counted waits to be flushed") > 0;
    let (mut counted, deadline) = (1, Instant::now() + Duration::from_secs(60));
    // What is left of the last segment has room for some flushes.
    let waiting = 'full: loop {
        let update = tally.add("key", 1);
        update.accepted().unwrap();
        counted += 1;
        loop {
            assert!(Instant::now() < deadline, "{:?}", log.stats().notices);
            match update.try_result() {
                Some(outcome) => break outcome.unwrap(),
                None if is_told() => break 'full update,
                None => std::thread::yield_now(),
            }
        }
    };
    // Nobody asks for this one.
    let later = tally.add("key", 1);
    later.accepted().unwrap();
    std::fs::remove_file(filler).unwrap();
    waiting.wait().unwrap();
    later.wait().unwrap();
    assert_eq!(tally.durable("key"), Some(counted + 1));
    log.close().unwrap();
    assert_eq!(options.open(&dir).unwrap().tally("likes").unwrap().get("key"), Some(counted + 1));
}
