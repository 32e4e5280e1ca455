//! What the process may have: threads, file sizes, CPUs, descriptors. Each test has a process of its own.

use std::time::{Duration, Instant};

use sawmill::{AppendError, OpenError, Options, ShardId};

use crate::harness::{is_alone, payloads};

/// A user who runs nothing else: limits by user count all of its processes, and do not hold for root.
const NOBODY: libc::uid_t = 60_123;

/// Sets the soft limit of this process.
fn limit(what: libc::__rlimit_resource_t, most: u64) {
    let mut limits = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the limits outlive the calls.
    unsafe {
        assert_eq!(libc::getrlimit(what, &raw mut limits), 0);
        limits.rlim_cur = most.min(limits.rlim_max);
        assert_eq!(libc::setrlimit(what, &raw const limits), 0);
    }
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

/// Whatever number of threads there may be, `open` says so or opens; and what failed leaves nothing behind.
#[test]
fn a_thread_that_cannot_be_made_is_an_error() {
    if !is_alone("process_limits::a_thread_that_cannot_be_made_is_an_error") {
        return;
    }
    // SAFETY: no memory is involved.
    if unsafe { libc::getuid() } != 0 {
        return eprintln!("skipped: only root can become a user who runs nothing else");
    }
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    std::os::unix::fs::chown(dir.path(), Some(NOBODY), None).unwrap();
    // SAFETY: no memory is involved.
    assert_eq!(unsafe { libc::setuid(NOBODY) }, 0);
    let path = dir.path().join("log");
    let (mut refused, before) = (0, threads());
    // Five shards, made and then found: open them in several threads, a maintenance thread, the watch, one for each.
    for allowed in 0..16 {
        limit(libc::RLIMIT_NPROC, (before + allowed) as u64);
        let opened = Options::new().shards(5).memory_bytes(1 << 20).open(&path);
        limit(libc::RLIMIT_NPROC, u64::MAX);
        match opened {
            Ok(log) => log.close().unwrap(),
            Err(error) => {
                refused += 1;
                let told = sawmill::error_chain(&error).to_string();
                assert!(matches!(error, OpenError::Io { .. }) && told.contains("RLIMIT_NPROC"), "{told}");
            }
        }
        // One that was waited for is in the list for a moment more.
        let deadline = Instant::now() + Duration::from_secs(60);
        while threads() > before {
            assert!(Instant::now() < deadline, "{} are left behind", threads() - before);
            std::thread::yield_now();
        }
        let log = Options::new().memory_bytes(1 << 20).open(&path).expect("nothing is locked or half made");
        log.append([allowed as u8]).wait().unwrap();
        log.close().unwrap();
    }
    assert!((7..16).contains(&refused), "{refused} refused");
    let log = Options::new().open(&path).unwrap();
    assert_eq!(log.merged(..).unwrap().count(), 16);
}

/// A file that would be too long is refused, and no signal ends the process; smaller segments do where they can.
#[test]
fn a_limit_of_file_sizes_is_an_error_and_no_signal() {
    if !is_alone("process_limits::a_limit_of_file_sizes_is_an_error_and_no_signal") {
        return;
    }
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let options = Options::new().shards(1).memory_bytes(1 << 20).block_bytes(64 << 10);
    let [small, large] = ["small", "large"].map(|name| dir.path().join(name));
    let log = options.open(&large).unwrap();
    let position = log.append(b"in a segment of four megabytes").wait().unwrap();
    log.close().unwrap();
    limit(libc::RLIMIT_FSIZE, 1 << 20);
    // A new log has segments of that size.
    let log = options.open(&small).unwrap();
    for index in 0..400u32 {
        log.append(vec![index as u8; 8_000]).wait().unwrap();
    }
    assert!(log.stats().shards[0].segments > 3);
    log.close().unwrap();
    assert_eq!(payloads(&options.open(&small).unwrap().shard(ShardId(0))).len(), 400);
    // One whose segment is longer is read, truncated, and not appended to.
    let log = options.open(&large).unwrap();
    assert_eq!(log.get(position).unwrap().payload(), b"in a segment of four megabytes");
    let error = log.append(b"more").wait().unwrap_err();
    let told = sawmill::error_chain(&error).to_string();
    assert!(matches!(error, AppendError::NoSegment { .. }) && told.contains("RLIMIT_FSIZE"), "{told}");
    assert_eq!(log.stats().shards[0].refused_no_segment, 1);
    log.close().unwrap();
    // Where not even a manifest may be so long nothing is made.
    for most in [0, 64, 4096, 32 << 10] {
        limit(libc::RLIMIT_FSIZE, most);
        let error = options.open(dir.path().join("none")).unwrap_err();
        let told = sawmill::error_chain(&error).to_string();
        assert!(told.contains("RLIMIT_FSIZE"), "{told}");
    }
    limit(libc::RLIMIT_FSIZE, u64::MAX);
    options.open(&large).unwrap().append(b"more").wait().unwrap();
    options.open(dir.path().join("none")).unwrap().append(b"made").wait().unwrap();
}

/// The CPUs that a thread of this name may run on, once it is pinned to one.
fn cpus_of(name: &str) -> String {
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let task = task.unwrap().path();
        let Ok(status) = std::fs::read_to_string(task.join("status")) else { continue };
        let field = |name: &str| {
            status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned()
        };
        if field("Name:") == name {
            return field("Cpus_allowed_list:");
        }
    }
    String::new()
}

#[test]
fn threads_are_pinned_to_cpus_that_the_process_may_use() {
    if !is_alone("process_limits::threads_are_pinned_to_cpus_that_the_process_may_use") {
        return;
    }
    // SAFETY: a zeroed set is an empty one; the sets outlive the calls.
    let last = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        assert_eq!(libc::sched_getaffinity(0, size_of_val(&set), &raw mut set), 0);
        let last = (0..libc::CPU_SETSIZE as usize).rfind(|&cpu| libc::CPU_ISSET(cpu, &set)).unwrap();
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(last, &mut set);
        assert_eq!(libc::sched_setaffinity(0, size_of_val(&set), &raw const set), 0);
        last
    };
    if last == 0 {
        return eprintln!("skipped: there is one CPU");
    }
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let log = Options::new().shards(3).memory_bytes(1 << 20).pin_threads(true).open(dir.path()).unwrap();
    for shard in 0..3 {
        // By a task, which the shard's thread writes: then it is pinned.
        let shard = log.shard(ShardId(shard));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async { shard.append(b"x").await.unwrap() });
    }
    for shard in 0..3 {
        assert_eq!(cpus_of(&format!("sawmill-{shard}")), last.to_string());
    }
    assert!(!log.stats().notices.iter().any(|line| line.contains("not pinned")));
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// However long the log is, its files are opened as they are needed.
#[test]
fn a_log_may_have_more_segments_than_the_process_descriptors() {
    if !is_alone("process_limits::a_log_may_have_more_segments_than_the_process_descriptors") {
        return;
    }
    const RECORDS: u32 = 480;
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    limit(libc::RLIMIT_NOFILE, 64);
    let options = Options::new().shards(1).segment_bytes(1 << 20).memory_bytes(4 << 20).block_bytes(64 << 10);
    let payload = |index: u32| vec![index as u8; 200_000];
    let log = options.open(dir.path()).unwrap();
    let mut positions = Vec::new();
    for index in 0..RECORDS {
        positions.push(log.append(payload(index)).wait().unwrap());
    }
    let segments = log.stats().shards[0].segments;
    assert!(segments > 64, "{segments}");
    let read_all = |log: &sawmill::Log| {
        for (index, record) in log.shard(ShardId(0)).read(..).unwrap().enumerate() {
            assert_eq!(record.unwrap().payload(), payload(index as u32));
        }
        // Here and there, each in another file.
        for index in (0..positions.len()).map(|index| index * 61 % positions.len()) {
            assert_eq!(log.get(positions[index]).unwrap().payload(), payload(index as u32));
        }
    };
    read_all(&log);
    log.close().unwrap();
    drop(log);
    // Nor does a reader beside the owner have each of them open.
    let before = descriptors();
    let reader = sawmill::Log::open_read_only(dir.path()).unwrap();
    assert_eq!(reader.shard(ShardId(0)).read(..).unwrap().map(Result::unwrap).count(), positions.len());
    for index in (0..positions.len()).map(|index| index * 61 % positions.len()) {
        assert_eq!(reader.get(positions[index]).unwrap().payload(), payload(index as u32));
    }
    let taken = descriptors() - before;
    assert!(taken <= 16 + 8, "{taken} of a reader");
    drop(reader);
    let before = descriptors();
    let log = options.open(dir.path()).unwrap();
    read_all(&log);
    let taken = descriptors() - before;
    println!("{taken} descriptors for {segments} segments");
    // A quarter of what the process may have to read from, and a dozen for the shard and the log.
    assert!(taken <= 16 + 16, "{taken}");
    // Others take all that are left: what is read is read all the same.
    let others: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
    read_all(&log);
    let error = (0..100).find_map(|_| log.append(payload(0)).wait().err()).expect("it needs another segment");
    let told = sawmill::error_chain(&error).to_string();
    assert!(matches!(error, AppendError::NoSegment { .. }), "{told}");
    assert!(
        told.contains("ulimit -n") && told.contains("64") && told.contains("Too many open files"),
        "{told}"
    );
    drop(others);
    // Removed and used again, one after the other.
    log.shard(ShardId(0)).truncate_before(positions[positions.len() - 10].lsn()).unwrap();
    for index in 0..40 {
        let position = loop {
            match log.append(payload(index)).wait() {
                Ok(position) => break position,
                Err(error) => assert!(matches!(error, AppendError::NoSegment { .. }), "{error}"),
            }
        };
        assert_eq!(log.get(position).unwrap().payload(), payload(index));
    }
    assert_eq!(
        log.get(positions[positions.len() - 5]).unwrap().payload(),
        payload(positions.len() as u32 - 5)
    );
}
