//! Workers of a queue that die: one by one, with the process, and as tasks that are given up. Every record is handled, no
//! two have one at a time, and what was durably done never comes again.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use sawmill::queue::{Delivery, Queue, QueueOptions};
use sawmill::{Backend, Log, Options, Write};

use crate::harness::Ground;
use crate::on_every_ground;

on_every_ground!(
    workers_are_killed_with_their_process_and_every_record_is_handled,
    tasks_that_are_given_up_take_no_wake_up_with_them,
);

const RECORDS: u32 = 3_000;
const WORKERS: u32 = 3;
/// Fewer where all is done before.
const ROUNDS_MAX: u32 = 200;

fn open(backend: Backend, dir: impl AsRef<Path>) -> (Log, Queue) {
    let options = Options::new().shards(2).block_bytes(8192).segment_bytes(1 << 20).memory_bytes(1 << 20);
    let log = options.backend(backend).open(dir).unwrap();
    let options = QueueOptions::new().lease(Duration::from_secs(600)).attempts(1_000_000);
    let queue = log.queue("mailer", options).unwrap();
    (log, queue)
}

fn append(log: &Log, numbers: std::ops::Range<u32>) {
    let write = |number: u32| Write::new(number.to_le_bytes()).key(number.to_le_bytes());
    numbers.for_each(|number| drop(log.append(write(number)).admitted().wait().unwrap()));
    log.sync().wait().unwrap();
}

fn number(delivery: &Delivery) -> u32 {
    u32::from_le_bytes(delivery.record().payload().try_into().unwrap())
}

/// One write a line, so that lines of several threads do not mix.
fn say(line: &str) {
    let _ = std::io::stdout().lock().write_all(format!("says {line}\n").as_bytes());
}

/// The child's part: its workers take records until it is killed, and say what they do.
#[test]
fn child() {
    let Ok(text) = std::env::var("SAWMILL_QUEUE_CHILD") else { return };
    let (backend, dir) = text.split_once(' ').unwrap();
    let backend = if backend == "uring" { Backend::Uring } else { Backend::Syscall };
    let (_log, queue) = open(backend, dir);
    std::thread::scope(|scope| {
        for worker in 0..WORKERS {
            let queue = &queue;
            scope.spawn(move || work(queue, worker));
        }
    });
}

/// Of what it says a record is "had" from before it is settled on, and "done" once that is durable.
fn work(queue: &Queue, worker: u32) {
    let mut done = Vec::new();
    for turn in 0.. {
        let Some(delivery) = queue.take_timeout(Duration::from_millis(200)) else { break };
        let delivery = delivery.unwrap();
        let number = number(&delivery);
        say(&format!("take {number}"));
        if (number + turn) % 7 == worker {
            say(&format!("drop {number}"));
            drop(delivery);
            continue;
        }
        say(&format!("had {number}"));
        delivery.done().unwrap();
        done.push(number);
        if turn % 10 == 9 {
            queue.flush().unwrap();
            done.drain(..).for_each(|number| say(&format!("done {number}")));
        }
    }
    queue.flush().unwrap();
    done.drain(..).for_each(|number| say(&format!("done {number}")));
    say("over 0");
}

/// What is known of the records, from what workers said in all lives.
#[derive(Default)]
struct Heard {
    in_hand: BTreeSet<u32>,
    had: BTreeSet<u32>,
    done: BTreeSet<u32>,
    counts: BTreeMap<String, u32>,
}

impl Heard {
    fn hear(&mut self, line: &str) {
        let mut words = line.split(' ').skip_while(|word| !word.ends_with("says")).skip(1);
        let (Some(what), Some(Ok(number))) = (words.next(), words.next().map(str::parse::<u32>)) else {
            return;
        };
        *self.counts.entry(what.to_owned()).or_default() += 1;
        match what {
            "take" => {
                assert!(!self.done.contains(&number), "{number} comes again, and was durably done");
                assert!(self.in_hand.insert(number), "{number} is in two hands");
                if self.had.contains(&number) {
                    *self.counts.entry("again".to_owned()).or_default() += 1;
                }
            }
            "drop" => assert!(self.in_hand.remove(&number)),
            "had" => {
                assert!(self.in_hand.remove(&number));
                self.had.insert(number);
            }
            "done" => drop(self.done.insert(number)),
            _ => {}
        }
    }
}

/// Runs it until it has said so much, and a little more.
fn run_and_kill(dir: &Path, ground: Ground, lines: usize, heard: &mut Heard) {
    let backend = if ground.backend == Backend::Uring { "uring" } else { "syscall" };
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "queue_kills::child", "--nocapture"])
        .env("SAWMILL_QUEUE_CHILD", format!("{backend} {}", dir.display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap()).split(b'\n').map_while(Result::ok);
    // What was in hand is not, in another life.
    heard.in_hand.clear();
    let mut hear = |line: Vec<u8>| heard.hear(&String::from_utf8_lossy(&line));
    said.by_ref().take(lines).for_each(&mut hear);
    child.kill().unwrap();
    said.for_each(&mut hear);
    child.wait().unwrap();
}

fn workers_are_killed_with_their_process_and_every_record_is_handled(ground: Ground) {
    if ground.driven {
        return; // Its child would need a runtime.
    }
    let dir = ground.directory();
    let (log, _) = open(ground.backend, dir.path());
    append(&log, 0..RECORDS);
    log.close().unwrap();
    let (mut heard, mut rounds) = (Heard::default(), 0);
    while heard.counts.get("over").is_none_or(|over| *over < WORKERS) && rounds < ROUNDS_MAX {
        heard.counts.remove("over");
        // The moment differs from round to round.
        run_and_kill(dir.path(), ground, 300 + (rounds as usize * 379) % 1_500, &mut heard);
        rounds += 1;
    }
    let (log, queue) = open(ground.backend, dir.path());
    while let Some(delivery) = queue.take_timeout(Duration::ZERO) {
        let delivery = delivery.unwrap();
        let number = number(&delivery);
        assert!(!heard.done.contains(&number), "{number} comes again, and was durably done");
        heard.had.insert(number);
        delivery.done().unwrap();
    }
    assert_eq!(heard.had.len(), RECORDS as usize, "some were skipped");
    assert_eq!((queue.lag().records, queue.rejected().len()), (0, 0));
    let count = |what: &str| heard.counts.get(what).copied().unwrap_or(0);
    assert!(rounds >= 3 && count("drop") > 100 && count("done") > 100, "{rounds} lives: {:?}", heard.counts);
    log.close().unwrap();
}

/// Tasks that wait and are given up again and again, beside some that take, and threads: one record at a time, each of which
/// somebody must be woken for.
fn tasks_that_are_given_up_take_no_wake_up_with_them(ground: Ground) {
    const RECORDS: u32 = 200;
    let dir = ground.directory();
    let log = ground.options().open(dir.path()).unwrap();
    let queue =
        log.queue("mailer", QueueOptions::new().lease(Duration::from_secs(600)).attempts(1_000)).unwrap();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
    let handled = Arc::new(Mutex::new(BTreeSet::new()));
    let handle = |delivery: Delivery, handled: &Mutex<BTreeSet<u32>>| {
        assert!(handled.lock().unwrap().insert(number(&delivery)), "it came twice");
        delivery.done().unwrap();
    };
    let workers: Vec<_> = (0..8_u64)
        .map(|worker| {
            let (queue, handled) = (queue.clone(), handled.clone());
            runtime.spawn(async move {
                loop {
                    // Some wait for less than it takes.
                    let patience = Duration::from_micros(if worker < 6 { 50 * worker } else { 60_000_000 });
                    match tokio::time::timeout(patience, queue.take()).await {
                        Err(_) => {}
                        Ok(None) => return,
                        Ok(Some(delivery)) => handle(delivery.unwrap(), &handled),
                    }
                }
            })
        })
        .collect();
    let thread = std::thread::spawn({
        let (queue, handled) = (queue.clone(), handled.clone());
        move || {
            while let Some(delivery) = queue.take().wait() {
                handle(delivery.unwrap(), &handled);
            }
        }
    });
    for number in 0..RECORDS {
        append(&log, number..number + 1);
        // With nobody woken this would be the end.
        while !handled.lock().unwrap().contains(&number) {
            std::thread::yield_now();
        }
    }
    queue.stop();
    thread.join().unwrap();
    runtime.block_on(async {
        for worker in workers {
            worker.await.unwrap();
        }
    });
    assert_eq!(queue.lag().records, 0);
}
