//! A process that is stopped for a while (SIGSTOP; a container that is frozen, a machine that is suspended): its device
//! is not to blame for that.

use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sawmill::Options;
use sawmill::options::OnStuck;

use crate::fuse::{Disk, Faults};
use crate::stuck_device::Answers;

/// Longer than a healthy device and the test beside it take on the busiest machine.
const AFTER: Duration = Duration::from_secs(4);
const PATIENCE: Duration = Duration::from_secs(60);

/// The child's part: appends and answers as it is told to.
#[test]
fn child() {
    let Ok(dir) = std::env::var("SAWMILL_PAUSED_CHILD") else { return };
    let options = Options::new().shards(1).block_bytes(64 << 10).segment_bytes(1 << 20).memory_bytes(1 << 20);
    let options = options.on_stuck(AFTER, |stuck| {
        println!("said {stuck}");
        OnStuck::Fail
    });
    let log = options.open(dir).unwrap();
    log.append(b"before").wait().unwrap();
    println!("said ready");
    let commands = std::io::stdin().lines().map_while(Result::ok);
    std::thread::scope(|scope| {
        for command in commands.take_while(|command| command != "end") {
            match command.as_str() {
                "append" => drop(scope.spawn(|| println!("said {:?}", log.append(b"one").wait().map(drop)))),
                answer => println!("said {answer}"),
            }
        }
    });
    log.close().unwrap();
}

fn signal(child: &Child, signal: &str) {
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
}

/// Whether the thread of this name is stopped.
fn is_stopped(child: &Child, name: &str) -> bool {
    let tasks = fs::read_dir(format!("/proc/{}/task", child.id())).unwrap();
    let of = |task: &Path, file: &str| fs::read_to_string(task.join(file)).unwrap_or_default();
    let mut tasks = tasks.map(|task| task.unwrap().path());
    let task = tasks.find(|task| of(task, "comm").trim() == name).expect("it has this thread");
    of(&task, "stat").contains(") T ")
}

/// A write is out when the process is stopped for longer than a device may take; it is answered soon after the process
/// goes on.
#[test]
fn a_process_that_was_stopped_does_not_give_up_a_healthy_device() {
    let disk = Disk::new(31);
    let Some(mounted) = disk.mount() else { return };
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "paused::child", "--nocapture"])
        .env("SAWMILL_PAUSED_CHILD", mounted.log())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let answers = Answers(disk.clone());
    let mut commands = child.stdin.take().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut said = lines.filter_map(|line| line.split_once("said ").map(|(_, said)| said.to_owned()));
    let mut next = || said.next().expect("the child has something to say");
    assert_eq!(next(), "ready");
    disk.set_faults(Faults { hold: true, only: Some(".seg"), ..Faults::default() });
    commands.write_all(b"append\n").unwrap();
    disk.wait_for_held(1);
    signal(&child, "-STOP");
    let deadline = Instant::now() + PATIENCE;
    while !is_stopped(&child, "sawmill-watch") {
        assert!(Instant::now() < deadline, "it is not stopped");
        std::thread::yield_now();
    }
    // Nothing is waited for: this is the pause that the test is about.
    std::thread::sleep(AFTER + Duration::from_secs(1));
    signal(&child, "-CONT");
    // It runs again.
    for _ in 0..100 {
        commands.write_all(b"there\n").unwrap();
        assert_eq!(next(), "there");
    }
    drop(answers);
    assert_eq!(next(), "Ok(())");
    commands.write_all(b"end\n").unwrap();
    assert!(child.wait().unwrap().success());
}
