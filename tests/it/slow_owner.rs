//! A process killed while its device is slow, and its log opened at once by another: nothing of the dead one
//! lands afterwards. Beside it a control, which shows that under a plain lock file late writes do land.
//!
//! A control group throttles the writes of the child to a disk of the test's own (`blkio.throttle`, version
//! 1 of control groups); where there is none the test says so.

use std::hash::{Hash, Hasher};
use std::io::{BufRead, BufReader, Write as _};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sawmill::{Backend, Durability, Options, Write};

use crate::mounted::Mount;

/// Slow enough that what is in flight at the kill takes seconds.
const BYTES_PER_SECOND: u32 = 256 << 10;
/// All that was in flight has landed by then, several times over.
const LONG: Duration = Duration::from_secs(8);

/// A control group that slows writes to one disk down.
struct Throttle(PathBuf);

impl Throttle {
    fn make(name: &str, mount: &Path) -> Option<Throttle> {
        let group = Path::new("/sys/fs/cgroup/blkio").join(format!("sawmill-{name}-{}", std::process::id()));
        let device = std::fs::metadata(mount).unwrap().dev();
        let rule = format!("{}:{} {BYTES_PER_SECOND}", libc::major(device), libc::minor(device));
        let made = std::fs::create_dir(&group)
            .and_then(|()| std::fs::write(group.join("blkio.throttle.write_bps_device"), rule));
        if let Err(error) = made {
            let _ = std::fs::remove_dir(&group);
            assert!(std::env::var_os("SAWMILL_NO_SKIP").is_none(), "no control group: {error}");
            eprintln!("skipped, no control group to slow a disk down with: {error}");
            return None;
        }
        Some(Throttle(group))
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

fn spawn(role: &str, dir: &Path, throttle: &Throttle) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "slow_owner::child", "--nocapture"])
        .env("SAWMILL_SLOW_CHILD", format!("{role} {} {}", throttle.0.display(), dir.display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits until the child has writes in flight, and kills it; says whether it was gone at once. If not, one of its
/// threads waited for the device, behind all that was in flight, and there is nothing left to land late.
fn kill_in_flight(mut child: Child) -> bool {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut said = false;
    for line in lines.map_while(Result::ok) {
        if line.contains("in flight") {
            said = true;
            break;
        }
    }
    assert!(said, "the child never had anything in flight");
    let began = Instant::now();
    child.kill().unwrap();
    child.wait().unwrap();
    began.elapsed() < Duration::from_millis(300)
}

fn join(throttle: &str) {
    std::fs::write(Path::new(throttle).join("cgroup.procs"), std::process::id().to_string()).unwrap();
}

/// The child's part.
#[test]
fn child() {
    let Ok(text) = std::env::var("SAWMILL_SLOW_CHILD") else { return };
    let mut words = text.splitn(3, ' ');
    let (role, throttle, dir) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
    match role {
        "log" => slow_log(throttle, Path::new(dir)),
        _ => slow_ring(throttle, Path::new(dir)),
    }
}

fn options() -> Options {
    Options::new().shards(1).backend(Backend::Uring).segment_bytes(32 << 20)
}

fn slow_log(throttle: &str, dir: &Path) {
    let log = options().open(dir).unwrap();
    // The segment that is written to is there before the disk is slow.
    log.append(vec![1; 100_000]).wait().unwrap();
    join(throttle);
    // Less than half of the first segment, which was filled with zeros: into extents that were never written,
    // one write at a time would be under way, and a kill would cancel the others.
    for _ in 0..10 {
        drop(
            log.append(Write::new(vec![7; 100_000]).durability(Durability::Written))
                .admitted()
                .wait()
                .unwrap(),
        );
    }
    // They are with the device, and none has come back: the sync that follows the first would run in a worker
    // thread of this process, whose end would wait for it and thereby for all.
    while log.stats().shards[0].oldest_operation.is_none_or(|age| age < Duration::from_millis(40)) {
        std::thread::yield_now();
    }
    println!("in flight");
    std::io::stdout().flush().unwrap();
    loop {
        std::thread::park();
    }
}

/// Writes through a ring that does not know the lock file.
fn slow_ring(throttle: &str, dir: &Path) {
    const BLOCK: usize = 64 << 10;
    let lock = std::fs::File::create(dir.join("lock")).unwrap();
    // SAFETY: no memory is involved.
    assert_eq!(unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }, 0);
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(dir.join("data"))
        .unwrap();
    let mut memory = vec![7u8; BLOCK + 4096];
    let aligned = memory.as_mut_ptr().align_offset(4096);
    join(throttle);
    let mut ring = io_uring::IoUring::new(32).unwrap();
    for index in 0..16u64 {
        let from = memory[aligned..].as_ptr();
        let entry = io_uring::opcode::Write::new(io_uring::types::Fd(file.as_raw_fd()), from, BLOCK as u32)
            .offset(index * BLOCK as u64)
            .build();
        // SAFETY: the memory is only read, and lives for as long as the process.
        unsafe { ring.submission().push(&entry).unwrap() };
    }
    // One has come back: the others are in the kernel's hands, past what a kill could still cancel.
    ring.submit_and_wait(1).unwrap();
    println!("in flight");
    std::io::stdout().flush().unwrap();
    loop {
        std::thread::park();
    }
}

/// The bytes of every segment, past the page cache.
fn segments(dir: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir.join("shard-0000")).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.extension().is_some_and(|extension| extension == "seg") {
            let sum = checksum(&entry);
            found.push((entry, sum));
        }
    }
    found.sort();
    found
}

fn checksum(path: &Path) -> u64 {
    let file = std::fs::File::open(path).unwrap();
    // SAFETY: no memory is involved.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    let mut hasher = std::hash::DefaultHasher::new();
    std::fs::read(path).unwrap().hash(&mut hasher);
    hasher.finish()
}

#[test]
fn nothing_of_a_dead_owner_lands_in_a_log_that_was_opened_since() {
    let Some(mount) = Mount::make("ext4", 200) else { return };
    let Some(throttle) = Throttle::make("log", &mount.path()) else { return };
    let caught = (0..5).map(|index| mount.path().join(format!("log-{index}")));
    let caught = caught.into_iter().find(|dir| kill_in_flight(spawn("log", dir, &throttle)));
    let dir = caught.expect("a kill that leaves writes in flight behind");
    let began = Instant::now();
    let log = options().open(&dir).unwrap();
    let waited = began.elapsed();
    let before = segments(&dir);
    let deadline = Instant::now() + LONG;
    while Instant::now() < deadline {
        assert_eq!(before, segments(&dir), "something landed after the open, which took {waited:?}");
    }
    // It is a log that works.
    log.append(b"by the new owner").wait().unwrap();
    log.close().unwrap();
    drop(throttle);
}

#[test]
fn under_a_plain_lock_file_late_writes_do_land() {
    let Some(mount) = Mount::make("ext4", 200) else { return };
    let Some(throttle) = Throttle::make("ring", &mount.path()) else { return };
    let dir = mount.path().join("plain");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("data"), vec![0u8; 1 << 20]).unwrap();
    std::fs::File::open(dir.join("data")).unwrap().sync_all().unwrap();
    assert!(kill_in_flight(spawn("ring", &dir, &throttle)), "the control was not gone at once");
    let lock = std::fs::File::open(dir.join("lock")).unwrap();
    let deadline = Instant::now() + LONG;
    // SAFETY: no memory is involved.
    while unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
        assert!(Instant::now() < deadline, "the lock was never free");
        std::thread::yield_now();
    }
    let before = checksum(&dir.join("data"));
    while checksum(&dir.join("data")) == before {
        assert!(
            Instant::now() < deadline,
            "the control shows nothing: no write landed after the lock was free"
        );
    }
    drop(throttle);
}
