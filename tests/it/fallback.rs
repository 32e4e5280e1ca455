//! Where io_uring is refused, as container runtimes do.

use sawmill::{Backend, Durability, OpenError, Options, ShardId, Write};

/// Makes `io_uring_setup` fail with `errno` for this thread and those that it starts.
fn refuse_io_uring(errno: u32) {
    let (load, jump, give) = (
        libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
        libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
        libc::BPF_RET,
    );
    let line = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut program = [
        line(load, 0, 0, 0), // The number of the call.
        line(jump, 0, 1, libc::SYS_io_uring_setup as u32),
        line(give | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | errno),
        line(give | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the program outlives the calls, and is copied by the kernel.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let mode = libc::SECCOMP_SET_MODE_FILTER;
        assert_eq!(libc::syscall(libc::SYS_seccomp, mode, 0, &raw const program), 0);
    }
}

fn without_io_uring(errno: i32) {
    // In a thread of its own: the filter stays for as long as it lives.
    let run = move || {
        refuse_io_uring(errno as u32);
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let error = Options::new().backend(Backend::Uring).open(dir.path()).unwrap_err();
        assert!(matches!(error, OpenError::Unsupported { what: "io_uring", .. }), "{error}");
        let log = Options::new().shards(2).open(dir.path()).unwrap();
        let stats = log.stats();
        assert_eq!(stats.shards[0].backend, "syscall");
        assert!(stats.notices.iter().any(|line| line.contains("io_uring is not available")), "{stats:?}");
        std::thread::scope(|scope| {
            for thread in 0..8u8 {
                let log = &log;
                scope.spawn(move || {
                    for index in 0..50u8 {
                        let durability =
                            if index % 3 == 0 { Durability::Buffered } else { Durability::Synced };
                        log.append(Write::new([thread, index]).key([thread]).durability(durability))
                            .wait()
                            .unwrap();
                    }
                });
            }
        });
        log.close().unwrap();
        let log = Options::new().open(dir.path()).unwrap();
        assert_eq!(log.merged(..).unwrap().map(Result::unwrap).count(), 400);
        log.shard(ShardId(0)).append(b"more").wait().unwrap();
    };
    std::thread::spawn(run).join().unwrap();
}

#[test]
fn refused_with_eperm() {
    without_io_uring(libc::EPERM);
}

#[test]
fn refused_with_enosys() {
    without_io_uring(libc::ENOSYS);
}
