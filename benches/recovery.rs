//! How long an open takes: after a clean close and after a kill, by how many segments the log has, beside bare
//! reads of what recovery must read.
//!
//! `cargo bench --bench recovery --features ceiling`. Prints medians.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use sawmill::ceiling::BareFile;
use sawmill::{Durability, Log, Options, Write};

const TIMES: usize = 5;
/// A segment of the least size; 400 of the default's make 100 GiB.
const SEGMENT: u64 = 1 << 20;

fn options(segment: u64) -> Options {
    Options::new().shards(1).segment_bytes(segment)
}

fn fill(log: &Log, bytes: u64, payload: &[u8]) -> Result<(), sawmill::AppendError> {
    let mut window = log.window(64);
    for _ in 0..bytes / payload.len() as u64 {
        window.push(Write::new(payload).durability(Durability::Buffered))?;
    }
    log.sync().wait()
}

/// Of so many opens in a row, each closed again.
fn clean_open(dir: &Path) -> Result<Duration, Box<dyn std::error::Error>> {
    let mut times = Vec::new();
    for _ in 0..TIMES {
        let began = Instant::now();
        let log = options(SEGMENT).open(dir)?;
        times.push(began.elapsed());
        log.close()?;
    }
    times.sort_unstable();
    Ok(times[TIMES / 2])
}

/// An open after a kill, beside one that has nothing to recover.
struct Killed {
    open: Duration,
    /// The same log, once it was closed.
    clean: Duration,
    unsettled: u64,
}

impl Killed {
    fn recovery(&self) -> Duration {
        self.open.saturating_sub(self.clean)
    }
}

/// Writes in a process of its own that dies without a word, and opens what it left. The disk has had time to flush
/// what was written: that is its speed at writing, and the open would wait for it.
fn after_a_kill(
    dir: &Path,
    segment: u64,
    bytes: u64,
    payload: usize,
) -> Result<Killed, Box<dyn std::error::Error>> {
    let mut times = Vec::new();
    for _ in 0..TIMES {
        let arguments = [segment, bytes, payload as u64].map(|number| number.to_string());
        let status =
            Command::new(std::env::current_exe()?).arg("--child").arg(dir).args(arguments).status()?;
        assert!(!status.success(), "it was killed");
        for file in std::fs::read_dir(dir.join("shard-0000"))? {
            std::fs::File::open(file?.path())?.sync_all()?;
        }
        let shard = &Log::open_read_only(dir)?.summary()?[0];
        let unsettled = shard.end.0 - shard.checkpoint.0;
        let open = || {
            let began = Instant::now();
            let log = options(segment).open(dir)?;
            let took = began.elapsed();
            log.close().map(|()| took).map_err(Box::<dyn std::error::Error>::from)
        };
        times.push(Killed { open: open()?, clean: open()?, unsettled });
    }
    times.sort_unstable_by_key(Killed::recovery);
    Ok(times.swap_remove(TIMES / 2))
}

fn child(arguments: &[String]) -> Result<(), Box<dyn std::error::Error>> {
    let [dir, segment, bytes, payload] = arguments else { return Err("four arguments".into()) };
    let log = options(segment.parse()?).open(dir)?;
    fill(&log, bytes.parse()?, &vec![7; payload.parse()?])?;
    std::process::abort();
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == "--child") {
        return child(&arguments[at + 1..]);
    }
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let bare = BareFile::make(dir.path(), 256 << 20)?;
    for segments in [4u64, 40, 400, 4000] {
        let path = dir.path().join("segments");
        let log = options(SEGMENT).open(&path)?;
        fill(&log, segments * SEGMENT, &[7; 64 << 10])?;
        log.close()?;
        let clean = clean_open(&path)?;
        let killed = after_a_kill(&path, SEGMENT, SEGMENT / 2, 64 << 10)?;
        println!(
            "{segments:>5} segments: open after a clean close {clean:?}, after a kill {:?} ({} KiB unsettled)",
            killed.open,
            killed.unsettled >> 10
        );
        std::fs::remove_dir_all(&path)?;
    }
    for payload in [256usize, 4096] {
        let path = dir.path().join("unsettled");
        let killed = after_a_kill(&path, 256 << 20, 200 << 20, payload)?;
        let mib = killed.unsettled as f64 / f64::from(1 << 20);
        let rate = mib / killed.recovery().as_secs_f64();
        let beside = bare.read(1 << 20, Duration::from_millis(500))?.bytes_per_second() / f64::from(1 << 20);
        println!(
            "{payload:>5}-byte records: {mib:.0} MiB unsettled, opened in {:?}, without them in {:?}: {rate:.0} MiB/s, \
             {:.2} of bare reads ({beside:.0} MiB/s)",
            killed.open,
            killed.clean,
            rate / beside
        );
        std::fs::remove_dir_all(&path)?;
    }
    Ok(())
}
