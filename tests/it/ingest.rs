//! The ingest server of the examples, under several times what its drive can take: it refuses at the door and says
//! when to come back, what is urgent gets through, its memory is bounded, and what it acknowledged survives a kill and a
//! power cut in the middle of it.

#[path = "../../examples/ingest_server/client.rs"]
mod client;
#[path = "../../examples/ingest_server/server.rs"]
mod server;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sawmill::Options;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::fuse::{Disk, Faults, Left, Mounted};

/// Far longer than anything here takes on the busiest machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// One record a block.
const RECORD_BYTES: usize = 3_000;
/// What a client sends at once when it comes, without waiting for answers.
const BURST: u32 = 32;
/// So often somebody comes, whatever became of those before.
const EVERY: Duration = Duration::from_millis(2);
/// Clients at once, since this process has other tests' files to open, too. What they have sent and not been told of is
/// still a dozen times the log's memory.
const CLIENTS: usize = 128;

fn options() -> Options {
    Options::new().shards(1).block_bytes(4096).segment_bytes(16 << 20).memory_bytes(1 << 20)
}

/// The child's part: the server.
#[test]
fn child() {
    let Ok(dir) = std::env::var("SAWMILL_INGEST_CHILD") else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let log = options().open_async(dir).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        println!("said {}", listener.local_addr().unwrap());
        server::accept(log, listener).await;
    });
}

struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    fn start(mounted: &Mounted) -> Server {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "ingest::child", "--nocapture"])
            .env("SAWMILL_INGEST_CHILD", mounted.log())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let address = lines.find_map(|line| line.split_once("said ")?.1.parse().ok()).expect("it serves");
        Server { child, address }
    }

    /// The most that was ever resident (proc(5), `VmHWM`).
    fn most_resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() << 10
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A drive whose writes take 10 ms: a few hundred KB a second for each that it has at a time.
struct Slow {
    ends: Arc<AtomicBool>,
    drive: Option<JoinHandle<()>>,
}

impl Slow {
    fn begin(disk: &Disk) -> Slow {
        let ends = Arc::new(AtomicBool::new(false));
        let (disk, end) = (disk.clone(), ends.clone());
        let drive = std::thread::spawn(move || {
            while !end.load(SeqCst) {
                disk.set_faults(Faults { hold: true, only: Some(".seg"), ..Faults::default() });
                std::thread::sleep(Duration::from_millis(10));
                disk.unpin();
            }
        });
        Slow { ends, drive: Some(drive) }
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        self.ends.store(true, SeqCst);
        self.drive.take().map(JoinHandle::join);
    }
}

/// What clients sent, and what they were told.
#[derive(Debug, Default)]
struct Heard {
    clients: u32,
    sent: BTreeSet<String>,
    acknowledged: BTreeSet<String>,
    /// Of `acknowledged`, those that were urgent.
    urgent: usize,
    /// Records that were refused, each for itself.
    refused: usize,
    /// Clients that were sent away as they came.
    sent_away: usize,
    /// How often the health was said to be bad.
    unwell: usize,
    /// Answers that should not be.
    wrong: Vec<String>,
}

#[derive(Clone, Default)]
struct Crowd(Arc<Mutex<Heard>>);

impl Crowd {
    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().unwrap()
    }

    /// A client comes and sends records, all at once, and hears what became of them: of each, or that it is sent away.
    async fn burst(self, address: SocketAddr) -> std::io::Result<()> {
        let number = {
            let mut heard = self.heard();
            heard.clients += 1;
            heard.clients
        };
        let name = move |sequence: u32| format!("{number}/{sequence}");
        let (mut output, mut answers) = client::connect(address).await?;
        self.heard().sent.extend((0..BURST).map(name));
        let sender = tokio::spawn(async move {
            for sequence in 0..BURST {
                let priority = ["low", "low", "normal"][sequence as usize % 3];
                let request = client::post(&(number % 20).to_string(), priority, &record(&name(sequence)));
                output.write_all(request.as_bytes()).await?;
            }
            output.shutdown().await
        });
        for sequence in 0..BURST {
            let answer = answers.next().await?.ok_or(std::io::ErrorKind::UnexpectedEof)?;
            let mut heard = self.heard();
            match (answer.status, answer.retry_after) {
                (201, None) => drop(heard.acknowledged.insert(name(sequence))),
                (503, Some(1..)) if answer.body.starts_with("there is too much") => {
                    heard.sent_away += 1;
                    break;
                }
                (503, Some(1..)) => heard.refused += 1,
                _ => heard.wrong.push(format!("{answer:?}")),
            }
        }
        let _ = sender.await;
        Ok(())
    }

    /// Records one by one, each of which must be accepted.
    async fn one_by_one(
        &self,
        address: SocketAddr,
        priorities: &[&str],
        goes_on: impl Fn(usize) -> bool,
    ) -> std::io::Result<()> {
        let (mut output, mut answers) = client::connect(address).await?;
        for count in 0.. {
            if !goes_on(count) {
                break;
            }
            let priority = priorities[count % priorities.len()];
            let name = {
                let mut heard = self.heard();
                let name = format!("{priority} {}", heard.sent.len());
                heard.sent.insert(name.clone());
                name
            };
            output.write_all(client::post("one", priority, &record(&name)).as_bytes()).await?;
            let answer = answers.next().await?.ok_or(std::io::ErrorKind::UnexpectedEof)?;
            let mut heard = self.heard();
            match answer.status {
                201 => {
                    heard.acknowledged.insert(name);
                    heard.urgent += usize::from(priority == "high");
                }
                _ => heard.wrong.push(format!("{priority}: {answer:?}")),
            }
        }
        Ok(())
    }

    /// Clients come by a schedule, whatever became of those before, until something was heard.
    async fn load(&self, server: &mut Server, kills: bool, is_enough: impl Fn(&Heard) -> bool) {
        let (address, room, mut clients) =
            (server.address, Arc::new(Semaphore::new(CLIENTS)), JoinSet::new());
        let ends = Arc::new(AtomicBool::new(false));
        let (crowd, end) = (self.clone(), ends.clone());
        let urgent = tokio::spawn(async move {
            let goes_on = |_| !end.load(SeqCst);
            crowd.one_by_one(address, &["high"], goes_on).await
        });
        let mut schedule = tokio::time::interval(EVERY);
        let until = Instant::now() + PATIENCE;
        while !is_enough(&self.heard()) {
            assert!(Instant::now() < until, "it never came to that: {}", self.summary());
            schedule.tick().await;
            if let Ok(place) = room.clone().try_acquire_owned() {
                let burst = self.clone().burst(address);
                clients.spawn(async move {
                    let heard = burst.await;
                    drop(place);
                    heard
                });
            }
            if self.heard().clients % 50 == 0 {
                let unwell = health(address).await.is_some_and(|answer| answer.status == 503);
                self.heard().unwell += usize::from(unwell);
            }
        }
        if kills {
            server.kill();
        }
        ends.store(true, SeqCst);
        let mut told = vec![urgent.await.unwrap()];
        while let Some(client) = clients.join_next().await {
            told.push(client.unwrap());
        }
        if !kills {
            let untold = told.into_iter().filter_map(Result::err).map(|error| format!("no answer: {error}"));
            self.heard().wrong.extend(untold);
        }
    }

    fn summary(&self) -> String {
        let Heard { sent, acknowledged, urgent, refused, sent_away, unwell, wrong, .. } = &*self.heard();
        let (sent, acknowledged) = (sent.len(), acknowledged.len());
        format!(
            "{sent} sent, {acknowledged} acknowledged, {urgent} of them urgent, {refused} refused, {sent_away} \
             clients sent away, {unwell} times unwell, wrong: {wrong:?}"
        )
    }

    /// Of what is kept there is nothing twice, nothing that nobody sent, and all that was acknowledged.
    fn check(&self, mounted: &Mounted) {
        let log = options().open(mounted.log()).unwrap();
        let mut kept = BTreeSet::new();
        for found in log.merged(..).unwrap() {
            let payload = found.unwrap().payload().to_vec();
            let text = String::from_utf8(payload).unwrap();
            let name = text.trim_end_matches('.').to_owned();
            assert_eq!(text, record(&name));
            assert!(self.heard().sent.contains(&name), "nobody sent {name}");
            assert!(kept.insert(name), "twice: {text}");
        }
        let heard = self.heard();
        let lost: Vec<_> = heard.acknowledged.difference(&kept).collect();
        assert!(lost.is_empty(), "{} were acknowledged and lost: {lost:?}", lost.len());
        drop(heard);
        log.close().unwrap();
    }
}

fn record(name: &str) -> String {
    format!("{name:.<RECORD_BYTES$}")
}

async fn health(address: SocketAddr) -> Option<client::Answer> {
    let (mut output, mut answers) = client::connect(address).await.ok()?;
    output.write_all(client::get("/health").as_bytes()).await.ok()?;
    let answer = answers.next().await.ok()??;
    assert_eq!(answer.retry_after.is_some(), answer.status == 503, "{answer:?}");
    Some(answer)
}

#[test]
fn the_ingest_server_sheds_what_its_drive_cannot_take_and_loses_nothing_that_it_acknowledged() {
    let disk = Disk::new(91);
    let Some(mounted) = disk.mount() else { return };
    let mut server = Server::start(&mounted);
    let address = server.address;
    let crowd = Crowd::default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mixed = ["low", "normal", "high"];
    runtime.block_on(crowd.one_by_one(address, &mixed, |count| count < 200)).unwrap();
    assert_eq!(crowd.heard().acknowledged.len(), 200, "nothing is refused: {}", crowd.summary());

    let before = server.most_resident();
    let slow = Slow::begin(&disk);
    runtime.block_on(crowd.load(&mut server, false, |heard| {
        let sent_bytes = heard.sent.len() * RECORD_BYTES;
        sent_bytes > 100 << 20
            && heard.refused > 100
            && heard.sent_away > 10
            && heard.urgent > 50
            && heard.unwell > 2
    }));
    println!("{}", crowd.summary());
    assert!(crowd.heard().wrong.is_empty(), "{}", crowd.summary());
    // The log's memory was touched when it was opened. A connection has what it reads, and answers that wait.
    let more = server.most_resident().saturating_sub(before);
    println!("{} KiB more resident", more >> 10);
    assert!(more < 32 << 20, "{} KiB more, of {}", more >> 10, before >> 10);

    // It recovers by itself, on the same drive, and then refuses nothing.
    let until = Instant::now() + PATIENCE;
    while runtime.block_on(health(address)).is_none_or(|answer| answer.status != 200) {
        assert!(Instant::now() < until, "it never is well again");
        std::thread::yield_now();
    }
    // Those who had more than their share are held until the log has seen that they have stopped.
    loop {
        let told = runtime.block_on(crowd.one_by_one(address, &mixed, |count| count < 60));
        let refused = std::mem::take(&mut crowd.heard().wrong);
        if told.is_ok() && refused.is_empty() {
            break;
        }
        assert!(Instant::now() < until, "it goes on refusing");
    }

    // In the middle of the next rush it is killed, and the power fails.
    let acknowledged = crowd.heard().acknowledged.len();
    runtime.block_on(crowd.load(&mut server, true, |heard| heard.acknowledged.len() > acknowledged + 200));
    let disk = disk.cut_leaving(Left::Nothing);
    drop(slow);
    println!("{}", crowd.summary());
    assert!(crowd.heard().wrong.is_empty(), "{}", crowd.summary());
    let Some(mounted) = disk.mount() else { return };
    crowd.check(&mounted);
}
