//! A sync that fails for real, by a shim between the engine and the kernel: every waiter and every later
//! append is told, nobody hangs, nobody is told Ok.

use std::path::{Path, PathBuf};
use std::process::Command;

use sawmill::{AppendError, Backend, Durability, Options, Write};

const SHIM: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
static atomic_int count;
/* Fails from the call on whose number is in SAWMILL_FAIL_AT. */
static int fails(void) {
    const char *at = getenv("SAWMILL_FAIL_AT");
    return at && atomic_fetch_add(&count, 1) >= atoi(at);
}
int fdatasync(int fd) {
    static int (*real)(int);
    if (!real) real = dlsym(RTLD_NEXT, "fdatasync");
    if (fails()) { errno = EIO; return -1; }
    return real(fd);
}
ssize_t pwritev2(int fd, const struct iovec *iov, int n, off_t offset, int flags) {
    static ssize_t (*real)(int, const struct iovec *, int, off_t, int);
    if (!real) real = dlsym(RTLD_NEXT, "pwritev2");
    if (flags && fails()) { errno = EIO; return -1; }
    return real(fd, iov, n, offset, flags);
}
"#;

fn shim(dir: &Path) -> PathBuf {
    let (source, library) = (dir.join("shim.c"), dir.join("shim.so"));
    std::fs::write(&source, SHIM).unwrap();
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .arg("-ldl")
        .status()
        .unwrap();
    assert!(built.success(), "the tests need a C compiler");
    library
}

/// The child's part, under the shim.
#[test]
fn child() {
    let Ok(dir) = std::env::var("SAWMILL_SYNC_CHILD") else { return };
    let threads: u32 = std::env::var("SAWMILL_SYNC_THREADS").unwrap().parse().unwrap();
    let log = Options::new().shards(1).backend(Backend::Syscall).open(&dir).unwrap();
    let acknowledged = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (log, acknowledged) = (&log, &acknowledged);
            scope.spawn(move || {
                let mut failed = 0;
                for index in 0..100_000u32 {
                    let payload = [thread.to_le_bytes(), index.to_le_bytes()].concat();
                    match log.append(payload).wait() {
                        Ok(position) => {
                            assert_eq!(failed, 0, "acknowledged after a failure");
                            acknowledged.lock().unwrap().push(position);
                        }
                        Err(AppendError::ShardFailed(failure)) => {
                            assert_eq!(failure.source.raw_os_error(), Some(libc::EIO));
                            failed += 1;
                        }
                        Err(error) => panic!("{error}"),
                    }
                    if failed == 20 {
                        return;
                    }
                }
                panic!("nothing failed");
            });
        }
    });
    // Later appends of every kind are told at once, and reads go on below the durable LSN.
    for durability in [Durability::Buffered, Durability::Written, Durability::Synced] {
        let error = log.append(Write::new(b"late").durability(durability)).wait().unwrap_err();
        assert!(matches!(error, AppendError::ShardFailed(_)), "{error}");
    }
    assert!(log.sync().wait().is_err());
    assert!(log.try_append(b"late").is_err());
    let acknowledged = acknowledged.into_inner().unwrap();
    for position in &acknowledged {
        log.get(*position).unwrap();
    }
    assert!(log.close().is_err());
    println!("acknowledged {}", acknowledged.len());
    let stats = &log.stats().shards[0];
    println!(
        "{} blocks, {} by callers, {} by the thread",
        stats.blocks, stats.blocks_by_caller, stats.blocks_by_thread
    );
}

#[test]
fn everybody_is_told_and_nobody_hangs() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let shim = shim(dir.path());
    // Opening takes some syncs of its own, which must not fail: those numbers are found by trying.
    let mut ran = 0;
    // So few that callers write for themselves, and so many that the shard's thread does.
    for (fail_at, threads) in [90, 91, 110, 150, 250].iter().flat_map(|at| [(at, 16), (at, 64)]) {
        let log = dir.path().join(format!("log-{fail_at}-{threads}"));
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "failed_sync::child", "--nocapture"])
            .env("SAWMILL_SYNC_CHILD", &log)
            .env("SAWMILL_SYNC_THREADS", threads.to_string())
            .env("SAWMILL_FAIL_AT", fail_at.to_string())
            .env("LD_PRELOAD", &shim)
            .output()
            .unwrap();
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "failing at {fail_at} with {threads} threads: {text}");
        let acknowledged = text.split("acknowledged ").nth(1).and_then(|rest| rest.split_whitespace().next());
        let acknowledged: usize = acknowledged.expect("the child says").parse().unwrap();
        // Without the shim the log recovers, with all that was acknowledged.
        let log = Options::new().open(&log).unwrap();
        let found = log.merged(..).unwrap().map(Result::unwrap).count();
        assert!(found >= acknowledged, "{found} of {acknowledged}");
        ran += 1;
    }
    assert_eq!(ran, 10);
}
