//! Manners in a user's process: forks, core dumps, threads.

use sawmill::{AppendError, CloseError, ConsumerError, Options, ShardId};

/// The pool is kept out of forked children and core dumps: so says the kernel of its mapping.
#[test]
fn the_pool_is_not_copied_into_forks_and_dumps() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let _log = Options::new().shards(1).memory_bytes(48 << 20).open(dir.path()).unwrap();
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut size = 0;
    let mut kept_out = 0;
    for line in maps.lines() {
        if let Some(rest) = line.strip_prefix("Size:") {
            size = rest.trim().trim_end_matches(" kB").parse::<u64>().unwrap();
        }
        if let Some(flags) = line.strip_prefix("VmFlags:")
            && size >= 48 << 10
        {
            kept_out += u32::from(flags.contains(" dc") && flags.contains(" dd"));
        }
    }
    assert!(kept_out >= 1, "no mapping of the pool's size is out of forks (dc) and dumps (dd)");
}

#[test]
fn a_forked_child_gets_errors_and_its_drop_harms_nothing() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let log = Options::new().shards(1).open(dir.path()).unwrap();
    let before = log.append(b"before").wait().unwrap();
    let handle = log.append(b"in flight").admitted().wait().unwrap();
    let consumer = log.consumer("reader").unwrap();
    consumer.commit(before).unwrap();
    // SAFETY: the child does no more than the calls below, and ends by `_exit`.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let refused = matches!(log.append(b"x").wait(), Err(AppendError::Forked))
            && matches!(log.try_append(b"x"), Err(AppendError::Forked))
            && matches!(log.sync().wait(), Err(AppendError::Forked))
            && matches!(log.close(), Err(CloseError::Forked))
            && matches!(log.consumer("other"), Err(ConsumerError::Forked))
            && matches!(consumer.flush(), Err(ConsumerError::Forked))
            && log.shard(ShardId(0)).truncate_before(sawmill::Lsn::MAX).is_err()
            && log.shard(ShardId(0)).truncate_after(before.lsn()).is_err();
        drop(consumer);
        drop(handle);
        drop(log);
        // SAFETY: ends the child without running anything of the parent's.
        unsafe { libc::_exit(if refused { 0 } else { 1 }) };
    }
    let mut status = 0;
    // SAFETY: the status outlives the call.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0, "the child was refused everything, and dropped in peace");
    log.append(b"after").wait().unwrap();
    log.close().unwrap();
    let log = Options::new().open(dir.path()).unwrap();
    assert_eq!(log.merged(..).unwrap().count(), 3);
}

#[test]
fn threads_are_named_and_block_signals() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let _log = Options::new().shards(3).open(dir.path()).unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    // Three shards, a maintenance thread and the watch. A thread names itself and blocks its signals when it first
    // runs.
    while named_and_blocking() < 5 {
        assert!(std::time::Instant::now() < deadline, "{} threads", named_and_blocking());
        std::thread::yield_now();
    }
}

fn named_and_blocking() -> u32 {
    let mut named = 0;
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let task = task.unwrap().path();
        // A thread of another test may have ended meanwhile.
        let Ok(name) = std::fs::read_to_string(task.join("comm")) else { continue };
        if !name.starts_with("sawmill-") {
            continue;
        }
        let Ok(status) = std::fs::read_to_string(task.join("status")) else { continue };
        let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap().trim().to_owned();
        let blocked = u64::from_str_radix(&blocked, 16).unwrap();
        // SIGTERM, SIGINT, SIGUSR1: bit n-1.
        named += u32::from([15, 2, 10].iter().all(|signal| blocked & (1 << (signal - 1)) != 0));
    }
    named
}
