//! A process killed at random moments, hundreds of times: what it was told is there, once, in order,
//! and nothing else is.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use sawmill::{Backend, Durability, Log, Options, Position, ShardId, Write};

use crate::harness::Ground;

mod what_a_killed_process_was_told_is_there {
    crate::on_own_threads!(what_a_killed_process_was_told_is_there);
}

const ROUNDS: u32 = 60;
const THREADS: u32 = 4;

fn options(backend: Backend) -> Options {
    Options::new().shards(2).backend(backend).block_bytes(8192).segment_bytes(1 << 20).memory_bytes(1 << 20)
}

/// The child's part: appends until it is killed, and says what it was told.
#[test]
fn child() {
    let Ok(text) = std::env::var("SAWMILL_KILL_CHILD") else { return };
    let mut words = text.splitn(3, ' ');
    let round: u32 = words.next().unwrap().parse().unwrap();
    let backend = if words.next() == Some("uring") { Backend::Uring } else { Backend::Syscall };
    let log = options(backend).open(words.next().unwrap()).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let log = &log;
            scope.spawn(move || write(log, round, thread));
        }
    });
}

fn payload(round: u32, thread: u32, sequence: u32) -> Vec<u8> {
    let mut payload = [round, thread, sequence].map(u32::to_le_bytes).concat();
    payload.resize(12 + (sequence as usize * 131) % 3_000, thread as u8);
    payload
}

fn say(thread: u32, sequence: u32, position: Position) {
    let hex: String = position.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    // One write a line, so that lines of several threads do not mix.
    let _ = std::io::stdout().lock().write_all(format!("ack {thread} {sequence} {hex}\n").as_bytes());
}

/// A thread keeps to one shard, so that its records have an order.
fn write(log: &Log, round: u32, thread: u32) {
    let shard = log.shard(ShardId((thread % 2) as u16));
    for sequence in (0u32..).step_by(3) {
        let [one, two, three] = [0, 1, 2].map(|offset| payload(round, thread, sequence + offset));
        let durability = if sequence % 2 == 0 { Durability::Synced } else { Durability::Written };
        let Ok(position) = shard.append(Write::new(&one).durability(durability)).wait() else { return };
        say(thread, sequence, position);
        let Ok(positions) = shard.append_batch(b"key", &[two, three]).wait() else { return };
        say(thread, sequence + 2, positions[1]);
    }
}

fn what_a_killed_process_was_told_is_there(ground: Ground) {
    let dir = ground.directory();
    let mut before = Vec::new();
    for round in 0..ROUNDS {
        let acknowledged = run_and_kill(dir.path(), ground, round);
        let log = options(ground.backend).open(dir.path()).unwrap();
        for (&thread, &(sequence, position)) in &acknowledged {
            let record = log.get(position).unwrap_or_else(|error| panic!("round {round}: {error}"));
            assert_eq!(record.payload(), payload(round, thread, sequence));
        }
        let found = read(&log, round, &acknowledged);
        // What an earlier recovery served is still there.
        assert!(found.starts_with(&before), "round {round}: earlier rounds have changed");
        before = found;
        if round % 10 == 9 {
            (0..2).for_each(|shard| log.shard(ShardId(shard)).truncate_before(sawmill::Lsn::MAX).unwrap());
            before.clear();
        }
        log.close().unwrap();
    }
}

type Acknowledged = BTreeMap<u32, (u32, Position)>;

/// Lets a child write and kills it; the last acknowledgement of each of its threads.
fn run_and_kill(dir: &Path, ground: Ground, round: u32) -> Acknowledged {
    let backend = if ground.backend == Backend::Uring { "uring" } else { "syscall" };
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kill_storm::child", "--nocapture"])
        .env("SAWMILL_KILL_CHILD", format!("{round} {backend} {}", dir.display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut acknowledged = Acknowledged::new();
    let mut note = |line: String| {
        let mut words = line.split(' ').skip_while(|word| !word.ends_with("ack")).skip(1);
        let (Some(thread), Some(sequence), Some(hex)) = (words.next(), words.next(), words.next()) else {
            return;
        };
        if hex.len() == 32 {
            let bytes = std::array::from_fn(|index| {
                u8::from_str_radix(&hex[index * 2..index * 2 + 2], 16).expect("hexadecimal")
            });
            let told = (sequence.parse().unwrap(), Position::from_bytes(bytes));
            acknowledged.insert(thread.parse().unwrap(), told);
        }
    };
    // The moment differs from round to round, and whatever the child does then is cut off.
    let lines_before = 1 + round * 7 % 97;
    lines.by_ref().take(lines_before as usize + 3).for_each(&mut note);
    child.kill().unwrap();
    lines.for_each(&mut note);
    child.wait().unwrap();
    acknowledged
}

/// All records, each thread's in order and without a gap, batches whole, as far as was acknowledged.
fn read(log: &Log, round: u32, acknowledged: &Acknowledged) -> Vec<(Position, u32)> {
    let mut next: BTreeMap<(u32, u32), u32> = BTreeMap::new();
    let mut found = Vec::new();
    for record in log.merged(..).unwrap() {
        let record = record.unwrap();
        let word = |at: usize| u32::from_le_bytes(record.payload()[at..at + 4].try_into().unwrap());
        let (of, thread, sequence) = (word(0), word(4), word(8));
        assert_eq!(record.payload(), payload(of, thread, sequence));
        let next = next.entry((of, thread)).or_default();
        assert_eq!(*next, sequence, "round {of}, thread {thread}");
        *next += 1;
        found.push((record.position(), of));
    }
    for (&thread, &(sequence, _)) in acknowledged {
        let count = next.get(&(round, thread)).copied().unwrap_or(0);
        assert!(count > sequence, "round {round}, thread {thread}: {count} records, {sequence} acknowledged");
        assert_ne!(count % 3, 2, "half a batch");
    }
    found.sort_by_key(|(position, round)| (*round, *position));
    found
}
