//! A web counter: a server that counts visits by page, bursts of visitors, and a kill in the middle of one.
//! What visitors were told was counted is counted, and nothing is counted twice.
//!
//! `cargo run --release --example web_counter`

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sawmill::tally::{Count, TallyOptions};
use sawmill::{Log, Tally};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// The server: `GET /PAGE` counts a visit, and answers once it is durable.
fn serve(dir: &Path) -> Result<(), Error> {
    let log = Log::open(dir)?;
    let options = TallyOptions::new().interval(Duration::from_millis(10));
    let visits = log.tally_with::<Count>("visits", &options)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?);
    for stream in listener.incoming() {
        let (stream, visits) = (stream?, visits.clone());
        std::thread::spawn(move || answer(stream, &visits));
    }
    Ok(())
}

fn answer(mut stream: TcpStream, visits: &Tally<Count>) -> Result<(), Error> {
    let lines = BufReader::new(stream.try_clone()?).lines();
    for line in lines {
        let line = line?;
        let Some(page) = line.strip_prefix("GET ").and_then(|rest| rest.split(' ').next()) else { continue };
        // All that are waiting here share the commit of one flush.
        let status = match visits.increment(page).wait() {
            Ok(()) => "200 OK",
            Err(_) => "503 Service Unavailable",
        };
        stream.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").as_bytes())?;
    }
    Ok(())
}

/// How often a page was asked for, and how often its visitor was told that it was counted.
#[derive(Default)]
struct Page {
    asked: u64,
    told: u64,
}

/// A visitor asks for a page again and again; it gives up when the server is gone.
fn visit(address: SocketAddr, page: &str, times: usize) -> Page {
    let mut seen = Page::default();
    let Ok(mut stream) = TcpStream::connect(address) else { return seen };
    let Ok(input) = stream.try_clone() else { return seen };
    let mut answers = BufReader::new(input).lines();
    for _ in 0..times {
        if stream.write_all(format!("GET {page} HTTP/1.1\r\n\r\n").as_bytes()).is_err() {
            return seen;
        }
        seen.asked += 1;
        match answers.find(|line| line.as_ref().map_or(true, |line| line.starts_with("HTTP/"))) {
            Some(Ok(line)) if line.contains(" 200 ") => seen.told += 1,
            _ => return seen,
        }
    }
    seen
}

fn start(dir: &Path) -> Result<(Child, SocketAddr), Error> {
    let mut server =
        Command::new(std::env::current_exe()?).arg("serve").arg(dir).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(server.stdout.take().ok_or("no output")?).read_line(&mut line)?;
    Ok((server, line.trim().parse()?))
}

/// 64 visitors at once; the server is killed when the first one is through, or lives.
fn burst(dir: &Path, kill: bool, pages: &mut BTreeMap<String, Page>) -> Result<(), Error> {
    let (mut server, address) = start(dir)?;
    let visitors: Vec<_> = (0..64)
        .map(|number| {
            // One page is hot.
            let page = if number % 2 == 0 { "/hot".to_owned() } else { format!("/page/{}", number % 8) };
            let times = if number == 0 { 20 } else { 40 };
            std::thread::spawn(move || (visit(address, &page, times), page))
        })
        .collect();
    let mut visitors = visitors.into_iter();
    let first = visitors.next().map(std::thread::JoinHandle::join);
    if kill {
        server.kill()?;
    }
    for joined in first.into_iter().chain(visitors.map(std::thread::JoinHandle::join)) {
        let (seen, page) = joined.map_err(|_| "a visitor panicked")?;
        let own = pages.entry(page).or_default();
        own.asked += seen.asked;
        own.told += seen.told;
    }
    server.kill()?;
    server.wait()?;
    Ok(())
}

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args_os().skip(1);
    if let (Some(_), Some(dir)) = (arguments.next(), arguments.next()) {
        return serve(Path::new(&dir));
    }
    let dir = tempfile::tempdir()?;
    let mut pages = BTreeMap::new();
    burst(dir.path(), true, &mut pages)?;
    burst(dir.path(), false, &mut pages)?;
    let log = Log::open(dir.path())?;
    let visits = log.tally_of::<Count>("visits")?;
    println!("{:10} {:>6} {:>6} {:>8}", "page", "asked", "told", "counted");
    for (page, Page { asked, told }) in &pages {
        let counted = visits.get(page).unwrap_or(0);
        println!("{page:10} {asked:6} {told:6} {counted:8}");
        // Only of those that were under way at the kill it is not known.
        assert!((*told..=*asked).contains(&counted), "{page}");
    }
    log.close()?;
    Ok(())
}
