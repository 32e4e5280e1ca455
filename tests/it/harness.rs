//! Where the tests run: each case on every backend, with and without `O_DIRECT`; with the feature `tokio-uring`
//! also on shards that are turned by a runtime's thread.

use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use sawmill::{Backend, Lsn, Options, Record, Shard};
use tempfile::TempDir;

/// A backend and a kind of place.
#[derive(Clone, Copy, Debug)]
pub struct Ground {
    pub backend: Backend,
    /// On tmpfs, where there is no `O_DIRECT`.
    pub memory: bool,
    /// Turned by tasks of tokio-uring runtimes, one each.
    pub driven: bool,
}

impl Ground {
    pub fn directory(&self) -> TempDir {
        let mut builder = tempfile::Builder::new();
        builder.prefix("sawmill-test-");
        let made = if self.memory { builder.tempdir_in("/dev/shm") } else { builder.tempdir_in(disk()) };
        made.expect("a temporary directory")
    }

    pub fn options(&self) -> Options {
        let options = Options::new().backend(self.backend).shards(1);
        #[cfg(feature = "tokio-uring")]
        if self.driven {
            return options.drive(|driver| drop(std::thread::spawn(|| tokio_uring::start(driver.run()))));
        }
        assert!(!self.driven, "the feature is on");
        options
    }

    /// Small enough that every bound is met soon.
    pub fn small(&self) -> Options {
        self.options().block_bytes(4096).segment_bytes(1 << 20).memory_bytes(1 << 20)
    }
}

/// A folder on a real disk: cargo's own for this test.
fn disk() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

/// Makes one test per ground out of a function that takes a [`Ground`], where the log has threads of its own.
#[macro_export]
macro_rules! on_own_threads {
    ($name:ident) => {
        use sawmill::Backend;
        use $crate::harness::Ground;

        #[test]
        fn uring() {
            super::$name(Ground { backend: Backend::Uring, memory: false, driven: false });
        }

        #[test]
        fn syscall() {
            super::$name(Ground { backend: Backend::Syscall, memory: false, driven: false });
        }

        #[test]
        fn uring_in_memory() {
            super::$name(Ground { backend: Backend::Uring, memory: true, driven: false });
        }

        #[test]
        fn syscall_in_memory() {
            super::$name(Ground { backend: Backend::Syscall, memory: true, driven: false });
        }
    };
}

/// Makes one test per ground out of each function that takes a [`Ground`].
#[macro_export]
macro_rules! on_every_ground {
    ($($name:ident),* $(,)?) => {
        $(mod $name {
            $crate::on_own_threads!($name);

            #[cfg(feature = "tokio-uring")]
            #[test]
            fn driven() {
                super::$name(Ground { backend: Backend::Auto, memory: false, driven: true });
            }

            #[cfg(feature = "tokio-uring")]
            #[test]
            fn driven_in_memory() {
                super::$name(Ground { backend: Backend::Auto, memory: true, driven: true });
            }
        })*
    };
}

/// All records of a shard from `lsn` on; any error fails the test.
pub fn records_from(shard: &Shard, lsn: Lsn) -> Vec<Record> {
    shard.read(lsn..).expect("a reader").map(|record| record.expect("an intact record")).collect()
}

/// All payloads of a shard.
pub fn payloads(shard: &Shard) -> Vec<Vec<u8>> {
    shard
        .read(..)
        .expect("a reader")
        .map(|record| record.expect("an intact record").payload().to_vec())
        .collect()
}

/// Whether this process runs this test and no other. Else the test is run in such a process, and must pass there.
///
/// For what other tests' threads would disturb: a fork has whatever locks they held, and of log lines `tracing`
/// remembers for all threads whether the first to come to one had a subscriber.
pub fn is_alone(test: &str) -> bool {
    if std::env::var_os("SAWMILL_ALONE").is_some_and(|alone| alone == *test) {
        return true;
    }
    let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
    alone.args(["--exact", test, "--nocapture", "--test-threads=1"]).env("SAWMILL_ALONE", test);
    let output = alone.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    false
}

/// Polls on this thread once it is woken, and at no other time.
pub fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}
