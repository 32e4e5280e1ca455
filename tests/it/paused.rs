//! A process that is stopped for a while (SIGSTOP; a container that is frozen, a machine that is suspended): its device
//! is not to blame for that.

use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use sawmill::Options;
use sawmill::options::OnStuck;

use crate::fuse::{Disk, Faults, Mounted};
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
    // A log whose shard has failed does not close.
    std::process::exit(i32::from(log.close().is_err()));
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

/// A process with a log on a disk of its own.
struct Owner {
    child: Child,
    commands: ChildStdin,
    said: Box<dyn Iterator<Item = String>>,
}

impl Owner {
    fn start(mounted: &Mounted) -> Owner {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "paused::child", "--nocapture"])
            .env("SAWMILL_PAUSED_CHILD", mounted.log())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let commands = child.stdin.take().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let said = lines.filter_map(|line| line.split_once("said ").map(|(_, said)| said.to_owned()));
        let mut owner = Owner { child, commands, said: Box::new(said) };
        assert_eq!(owner.next(), "ready");
        owner
    }

    fn tell(&mut self, command: &str) {
        writeln!(self.commands, "{command}").unwrap();
    }

    fn next(&mut self) -> String {
        self.said.next().expect("the child has something to say")
    }

    /// Appends, which the disk does not answer.
    fn append_to(&mut self, disk: &Disk) {
        disk.set_faults(Faults { hold: true, only: Some(".seg"), ..Faults::default() });
        self.tell("append");
        disk.wait_for_held(1);
    }
}

/// A write is out when the process is stopped for longer than a device may take; it is answered soon after the process
/// goes on. How long that is another process tells, which is not stopped and gives up its device.
#[test]
fn a_process_that_was_stopped_does_not_give_up_a_healthy_device() {
    let [disk, other_disk] = [31, 32].map(Disk::new);
    let (Some(mounted), Some(other_mounted)) = (disk.mount(), other_disk.mount()) else { return };
    let answers = [&disk, &other_disk].map(|disk| Answers(disk.clone()));
    let mut owner = Owner::start(&mounted);
    let mut other = Owner::start(&other_mounted);
    owner.append_to(&disk);
    signal(&owner.child, "-STOP");
    let deadline = Instant::now() + PATIENCE;
    while !is_stopped(&owner.child, "sawmill-watch") {
        assert!(Instant::now() < deadline, "it is not stopped");
        std::thread::yield_now();
    }
    other.append_to(&other_disk);
    let told = other.next();
    assert!(told.contains("shard 0"), "it was not stopped, and blames its device: {told}");
    signal(&owner.child, "-CONT");
    // It runs again.
    for _ in 0..100 {
        owner.tell("there");
        assert_eq!(owner.next(), "there");
    }
    drop(answers);
    assert_eq!(owner.next(), "Ok(())");
    owner.tell("end");
    assert!(owner.child.wait().unwrap().success());
    let failed = other.next();
    assert!(failed.starts_with("Err"), "its device was given up: {failed}");
    // It cannot close a log that has failed, and says so by its exit.
    other.tell("end");
    assert!(!other.child.wait().unwrap().success());
}
