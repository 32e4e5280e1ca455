//! The whole real path without power: io_uring, `O_DIRECT` and `RWF_DSYNC` on ext4, XFS and Btrfs, on a loop device,
//! on a disk of the tests' own with a volatile cache (`fuse/`).
//!
//! A power cut: the disk answers no request any more and keeps of what no flush covered all, nothing or some of the
//! sectors. What it holds then is mounted (the file system replays its journal) and the log opened, and everything
//! that was promised must be there.
//!
//! This process serves the disk, so it never waits for it: the log is opened, read and written by children, and
//! mounts and loop devices are made by the usual programs. Where the disk does not answer all the same, the watchdog of
//! `fuse/` ends its connection, and they go on with an error.
//!
//! `SAWMILL_CUTS=n` makes n cuts per file system.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Lines, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use sawmill::{AppendError, Backend, Durability, Log, Options, Position, ShardId, Write};
use tempfile::TempDir;

use crate::fuse::{Disk, Faults, Left, Mounted};
use crate::mounted;

/// Of each file system.
const CUTS: u32 = 5;
/// So many on one disk, then a new one is made, whose sectors are of the other size.
const CUTS_PER_DISK: u32 = 3;
const THREADS: u32 = 4;

#[test]
fn ext4() {
    cuts("ext4");
}

#[test]
fn xfs() {
    cuts("xfs");
}

#[test]
fn btrfs() {
    cuts("btrfs");
}

/// The control: where flushes do nothing, what was acknowledged is gone, and that is seen.
#[test]
fn a_disk_whose_flushes_lie_is_seen() {
    let Some(mut machine) = Machine::make("ext4", 512, 0) else { return };
    let plan = Plan { cut: 0, flushes_lie: true };
    machine.live(&plan).expect("nothing is lost before the cut");
    let error = machine.look().expect_err("a disk that flushed nothing has lost nothing");
    assert!(error.contains("acknowledged"), "{error}");
}

fn cuts(kind: &str) {
    let cuts = std::env::var("SAWMILL_CUTS").map_or(CUTS, |cuts| cuts.parse().expect("a number"));
    let mut records = 0;
    for first in (0..cuts).step_by(CUTS_PER_DISK as usize) {
        let disk = first / CUTS_PER_DISK;
        let sector_bytes = [512, 4096][disk as usize % 2];
        let Some(mut machine) = Machine::make(kind, sector_bytes, disk.into()) else { return };
        for cut in first..cuts.min(first + CUTS_PER_DISK) {
            let plan = Plan { cut, flushes_lie: false };
            machine.live(&plan).unwrap_or_else(|error| panic!("{kind}, before cut {cut}: {error}"));
        }
        machine.look().unwrap_or_else(|error| panic!("{kind}, after cut {first} to {cuts}: {error}"));
        records += machine.before.values().map(Vec::len).sum::<usize>();
        println!("{kind}: {} power cuts, {records} records", cuts.min(first + CUTS_PER_DISK));
    }
}

/// What happens from one open to the cut.
struct Plan {
    cut: u32,
    flushes_lie: bool,
}

impl Plan {
    fn left(&self) -> Left {
        match self.flushes_lie {
            true => Left::Nothing,
            false => [Left::Nothing, Left::Some, Left::All, Left::Some][self.cut as usize % 4],
        }
    }

    /// How many acknowledgements it lasts.
    fn patience(&self) -> usize {
        10 + self.cut as usize * 37 % 300
    }
}

/// Who wrote a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Author {
    cut: u32,
    thread: u32,
    sequence: u32,
}

impl Author {
    fn payload(self) -> Vec<u8> {
        let mut payload = [self.cut, self.thread, self.sequence].map(u32::to_le_bytes).concat();
        payload.resize(12 + (self.sequence as usize * 131) % 3_000, self.thread as u8);
        payload
    }

    fn of(payload: &[u8]) -> Author {
        let word = |at: usize| u32::from_le_bytes(payload[at..at + 4].try_into().expect("four bytes"));
        Author { cut: word(0), thread: word(4), sequence: word(8) }
    }
}

/// A line of a child: `found` at its open, or told to have got as far as `synced`, `written` or `buffered`.
#[derive(Clone, Copy, Debug)]
struct Told {
    is_synced: bool,
    author: Author,
    position: Position,
}

impl Told {
    fn line(word: &str, author: Author, position: Position) -> String {
        let hex: String = position.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{word} {} {} {} {hex}\n", author.cut, author.thread, author.sequence)
    }

    /// `None` for other lines, and for one that was cut off.
    fn parse(line: &str) -> Option<Told> {
        let words: Vec<_> = line.split(' ').collect();
        let &[word @ ("found" | "synced" | "written" | "buffered"), cut, thread, sequence, hex] = &words[..]
        else {
            return None;
        };
        let mut bytes = [0; 16];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(hex.get(index * 2..index * 2 + 2)?, 16).ok()?;
        }
        let [cut, thread, sequence] = [cut, thread, sequence].map(str::parse);
        let author = Author { cut: cut.ok()?, thread: thread.ok()?, sequence: sequence.ok()? };
        Some(Told { is_synced: word == "synced", author, position: Position::from_bytes(bytes) })
    }
}

/// A disk and what is known of the log on it.
struct Machine {
    kind: &'static str,
    disk: Disk,
    sector_bytes: usize,
    /// What was found at the last open, by shard, in its order.
    before: BTreeMap<ShardId, Vec<(Position, Author)>>,
    /// What the last writer was told.
    told: Vec<Told>,
}

impl Machine {
    /// With a new file system. `None` where that is not possible, which is said.
    fn make(kind: &str, sector_bytes: usize, seed: u64) -> Option<Machine> {
        let (kind, mib) = match kind {
            "ext4" => ("ext4", 64),
            "xfs" => ("xfs", 300),
            "btrfs" => ("btrfs", 128),
            _ => panic!("no size for {kind}"),
        };
        let disk = Disk::image(mib << 20, sector_bytes, seed);
        let mounted = disk.mount()?;
        let formatted = Loop::attach(mounted, disk.clone(), sector_bytes)
            .and_then(|device| mounted::run(&format!("mkfs.{kind}"), &["-q", &device.path]));
        if let Err(reason) = formatted {
            assert!(std::env::var_os("SAWMILL_NO_SKIP").is_none(), "{kind}: {reason}");
            eprintln!("skipped, no power cuts on {kind}: {reason}");
            return None;
        }
        Some(Machine { kind, disk, sector_bytes, before: BTreeMap::new(), told: Vec::new() })
    }

    fn power_on(&self) -> Result<Running, String> {
        let mounted = self.disk.mount().ok_or("FUSE is gone")?;
        Running::mount(self.kind, Loop::attach(mounted, self.disk.clone(), self.sector_bytes)?)
    }

    /// Opens the log, looks at it, writes, and has its power cut.
    fn live(&mut self, plan: &Plan) -> Result<(), String> {
        let running = self.power_on()?;
        let mut child = Writer::start(&running.log(), Some(plan.cut));
        self.judge(child.found()?)?;
        self.disk.set_faults(Faults { lying_syncs: plan.flushes_lie, ..Faults::default() });
        self.told = child.told().take(plan.patience()).collect();
        let after = self.disk.cut_leaving(plan.left());
        // Told between the last one and the cut; the child ends when its log has failed, or here.
        child.kill();
        self.told.extend(child.told());
        drop(running);
        self.disk = after;
        match self.told.len() >= plan.patience() {
            true => Ok(()),
            false => Err("the writer failed by itself".to_owned()),
        }
    }

    /// Opens the log and looks at it.
    fn look(&mut self) -> Result<(), String> {
        let running = self.power_on()?;
        let found = Writer::start(&running.log(), None).found()?;
        self.judge(found)
    }

    fn judge(&mut self, found: Vec<Told>) -> Result<(), String> {
        let mut shards: BTreeMap<ShardId, Vec<_>> = BTreeMap::new();
        for found in &found {
            shards.entry(found.position.shard()).or_default().push((found.position, found.author));
        }
        for (shard, before) in &self.before {
            let is_kept = shards.get(shard).is_some_and(|now| now.starts_with(before));
            if !is_kept && !before.is_empty() {
                return Err(format!("{shard:?}: what an earlier open served is not there as it was"));
            }
        }
        check_authors(&found)?;
        shards.iter().try_for_each(|(shard, found)| self.check_told(*shard, found))?;
        for shard in (0..2).map(ShardId).filter(|shard| !shards.contains_key(shard)) {
            self.check_told(shard, &[])?;
        }
        self.before = shards;
        Ok(())
    }

    /// What is at or below something durable is there: a synced record, or one that was found.
    fn check_told(&self, shard: ShardId, found: &[(Position, Author)]) -> Result<(), String> {
        let told = || self.told.iter().filter(|told| told.position.shard() == shard);
        let synced = told().filter(|told| told.is_synced).map(|told| told.position).max();
        let kept = synced.max(found.last().map(|(position, _)| *position));
        let found: BTreeSet<_> = found.iter().copied().collect();
        let gone: Vec<_> = told()
            .filter(|told| Some(told.position) <= kept && !found.contains(&(told.position, told.author)))
            .collect();
        match &gone[..] {
            [] => Ok(()),
            [first, ..] => Err(format!(
                "{shard:?}: {} of {} records are gone that were acknowledged as synced, or lie below one that is \
                 there; the first: {first:?}",
                gone.len(),
                told().count(),
            )),
        }
    }
}

/// Each thread's records in order and without a gap, batches whole.
fn check_authors(found: &[Told]) -> Result<(), String> {
    let mut next: BTreeMap<(u32, u32), u32> = BTreeMap::new();
    for Told { author, position, .. } in found {
        let next = next.entry((author.cut, author.thread)).or_default();
        if *next != author.sequence {
            return Err(format!("{author:?} at {position}, where {next} is next"));
        }
        *next += 1;
    }
    match next.iter().find(|(_, count)| *count % 3 == 2) {
        None => Ok(()),
        Some(((cut, thread), count)) => Err(format!("half a batch of {cut}, {thread}: {count} records")),
    }
}

/// A loop device on the disk, detached when dropped; that waits until nobody has the disk any more.
struct Loop {
    path: String,
    disk: Disk,
    /// Dropped last, behind what stands on it.
    _mounted: Mounted,
}

impl Loop {
    fn attach(mounted: Mounted, disk: Disk, sector_bytes: usize) -> Result<Loop, String> {
        let image = mounted.dir.path().join("image");
        let mut losetup = Command::new("losetup");
        losetup.args(["--direct-io=on", "--show", "--find", "--sector-size", &sector_bytes.to_string()]);
        let output = losetup.arg(image).output().map_err(|error| format!("losetup: {error}"))?;
        if !output.status.success() {
            return Err(format!("losetup: {}", String::from_utf8_lossy(&output.stderr).trim()));
        }
        let path = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        Ok(Loop { path, disk, _mounted: mounted })
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        match mounted::run("losetup", &["--detach", &self.path]) {
            Err(error) => eprintln!("{error}"),
            // The next mount of the same file system would meet this one.
            Ok(()) if !std::thread::panicking() => self.disk.wait_until_closed(),
            Ok(()) => {}
        }
    }
}

/// The file system on it; unmounted when dropped.
struct Running {
    dir: TempDir,
    _device: Loop,
}

impl Running {
    fn mount(kind: &str, device: Loop) -> Result<Running, String> {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).map_err(|error| error.to_string())?;
        let target = dir.path().to_str().ok_or("a path in UTF-8")?;
        mounted::run("mount", &["-t", kind, &device.path, target])?;
        Ok(Running { dir, _device: device })
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let target = self.dir.path().to_str().unwrap_or_default();
        if let Err(error) = mounted::run("umount", &["-l", target]) {
            eprintln!("{error}");
        }
    }
}

/// A child that has the log open; killed when dropped.
struct Writer {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Writer {
    /// One that looks and writes, or only looks.
    fn start(log: &Path, cut: Option<u32>) -> Writer {
        let cut = cut.map_or("-".to_owned(), |cut| cut.to_string());
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "power_cut::child", "--nocapture"])
            .env("SAWMILL_CUT_CHILD", format!("{cut} {}", log.display()))
            .stdout(Stdio::piped())
            .spawn()
            .expect("a child");
        let lines = BufReader::new(child.stdout.take().expect("it is a pipe")).lines();
        Writer { child, lines }
    }

    /// What it found at its open.
    fn found(&mut self) -> Result<Vec<Told>, String> {
        let mut found = Vec::new();
        for line in self.lines.by_ref().map_while(Result::ok) {
            match line.split_once("failed: ") {
                Some((_, error)) => return Err(error.to_owned()),
                None if line == "open" => return Ok(found),
                None => found.extend(Told::parse(&line)),
            }
        }
        Err("the child ended before it had opened the log".to_owned())
    }

    fn told(&mut self) -> impl Iterator<Item = Told> {
        self.lines.by_ref().map_while(Result::ok).filter_map(|line| Told::parse(&line))
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.kill();
        let _ = self.child.wait();
    }
}

/// The child's part: opens, says what it finds, appends until the disk is gone, and says what it was told.
#[test]
fn child() {
    let Ok(text) = std::env::var("SAWMILL_CUT_CHILD") else { return };
    let (cut, path) = text.split_once(' ').expect("two words");
    let cut: Option<u32> = cut.parse().ok();
    // One write a line, so that lines of several threads do not mix; the first goes behind the harness's own words.
    say("\n".to_owned());
    let log = match open(path, cut) {
        Ok(log) => log,
        Err(error) => return say(format!("failed: {error}\n")),
    };
    say("open\n".to_owned());
    let Some(cut) = cut else { return };
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let log = &log;
            scope.spawn(move || write(log, cut, thread));
        }
    });
}

fn say(line: String) {
    let _ = std::io::stdout().lock().write_all(line.as_bytes());
}

/// Opens the log and says all that it holds.
fn open(path: &str, cut: Option<u32>) -> Result<Log, Box<dyn std::error::Error>> {
    let backend = if cut.is_some_and(|cut| cut % 4 == 3) { Backend::Syscall } else { Backend::Uring };
    let options = Options::new().shards(2).backend(backend).block_bytes(8192).memory_bytes(1 << 20);
    let log = options.segment_bytes(1 << 20).open(path)?;
    let capabilities = log.stats().shards[0].capabilities;
    if !capabilities.direct || !capabilities.write_through || !capabilities.durable {
        return Err(format!("this is not the path that is meant: {capabilities:?}").into());
    }
    for record in (0..2).map(|shard| log.shard(ShardId(shard)).read(..)).collect::<Result<Vec<_>, _>>()? {
        for record in record {
            let record = record?;
            let author = Author::of(record.payload());
            if record.payload() != author.payload()
                || log.get(record.position())?.payload() != author.payload()
            {
                return Err(format!("other bytes at {}", record.position()).into());
            }
            say(Told::line("found", author, record.position()));
        }
    }
    Ok(log)
}

/// A thread keeps to one shard, so that its records have an order. All are synced in every other life, and written
/// by the shard's own thread, on the ring: with other records between them, their syncs would cover a write that
/// does not cover itself. In the other lives durabilities are mixed, and some callers write for themselves.
fn write(log: &Log, cut: u32, thread: u32) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let is_mixed = cut % 2 == 1;
    let is_own = is_mixed && thread < 2;
    let shard = log.shard(ShardId((thread % 2) as u16));
    for sequence in (0u32..).step_by(3) {
        let authors = [0, 1, 2].map(|offset| Author { cut, thread, sequence: sequence + offset });
        let (durability, word) = match sequence / 3 % 4 {
            1 if is_mixed => (Durability::Written, "written"),
            2 if is_mixed => (Durability::Buffered, "buffered"),
            _ => (Durability::Synced, "synced"),
        };
        let append = shard.append(Write::new(authors[0].payload()).durability(durability));
        let told: Result<Position, AppendError> =
            if is_own { append.wait() } else { runtime.block_on(append) };
        let Ok(position) = told else { return };
        say(Told::line(word, authors[0], position));
        let payloads = [authors[1].payload(), authors[2].payload()];
        let batch = shard.append_batch(b"key", &payloads);
        let Ok(positions) = (if is_own { batch.wait() } else { runtime.block_on(batch) }) else { return };
        for (author, position) in authors[1..].iter().zip(positions) {
            say(Told::line("synced", *author, position));
        }
    }
}
