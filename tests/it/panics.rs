//! What the application gives us to call may panic: that harms nobody who relies on a thread of ours.

use std::process::Command;
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use sawmill::{AppendError, Options};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::fuse::{Disk, Faults};

/// Far longer than an answer takes on the busiest machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A subscriber that tells of each line, and panics.
struct Panics(Mutex<Sender<String>>);

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, _: &Field, value: &dyn std::fmt::Debug) {
        self.0 += &format!("{value:?}");
    }
}

impl Subscriber for Panics {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "sawmill"
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        let _ = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).send(text.0);
        panic!("a subscriber that panics");
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// The child's part: a subscriber is the whole process's.
#[test]
fn child() {
    if std::env::var_os("SAWMILL_PANICS_CHILD").is_none() {
        return;
    }
    let (sender, told) = channel();
    tracing::subscriber::set_global_default(Panics(Mutex::new(sender))).unwrap();
    let disk = Disk::new(21);
    let Some(mounted) = disk.mount() else { return println!("all was told") };
    let options = Options::new().shards(1).block_bytes(64 << 10).segment_bytes(1 << 20).memory_bytes(1 << 20);
    let log = options.clone().retain_bytes(256 << 10).open(mounted.log()).unwrap();
    // Nothing of the log is given up while a tally needs it, and then some of it can not be.
    let tally = log.tally("all").unwrap();
    tally.add(b"key", 1).wait().unwrap();
    for _ in 0..96 {
        log.append(vec![7; 32 << 10]).wait().unwrap();
    }
    disk.set_faults(Faults { writes_left: Some(0), only: Some("shard.manifest"), ..Faults::default() });
    drop(tally);
    log.remove_tally("all").unwrap();
    for _ in 0..2 {
        // The second time it is a maintenance thread that has seen a panic before.
        let line =
            std::iter::from_fn(|| told.recv_timeout(PATIENCE).ok()).find(|line| line.contains("retention"));
        assert!(line.is_some(), "the maintenance thread is gone");
    }
    assert!(log.close().is_err());
    drop(log);
    // Who waits for a shard that stops is told, though the line about it panics.
    disk.set_faults(Faults::default());
    let log = options.open(mounted.dir.path().join("other")).unwrap();
    disk.set_faults(Faults { writes_left: Some(0), ..Faults::default() });
    let (sender, outcome) = channel();
    let append = log.append(b"a task's").admitted().wait().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        sender.send(runtime.block_on(append)).unwrap();
    });
    let outcome = outcome.recv_timeout(PATIENCE).expect("it waits in vain");
    assert!(matches!(outcome, Err(AppendError::ShardFailed(_))), "{outcome:?}");
    println!("all was told");
}

#[test]
fn a_subscriber_that_panics_stops_no_thread_of_ours() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "panics::child", "--nocapture"])
        .env("SAWMILL_PANICS_CHILD", "1")
        .output()
        .unwrap();
    let text = [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat();
    assert!(output.status.success() && text.contains("all was told"), "{text}");
}
