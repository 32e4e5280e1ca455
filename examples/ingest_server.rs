//! A small ingest server: lines over TCP, each acknowledged once it is durable, refused when there is no
//! room. The records of a user are served over HTTP, on the same port. Who is slow is told before it is tried: new
//! connections, and a load balancer that asks for `/health`, by the log's pressure; and users are treated fairly.
//!
//! Run it with an address to serve there (`cargo run --release --example ingest_server 127.0.0.1:7000`), or
//! without one to see it work: it serves on a free port, and a client of its own sends lines and reads them back.
//!
//! ```sh
//! echo 'user:7 signed up' | nc -q 1 127.0.0.1 7000
//! curl '127.0.0.1:7000/users/7/records?limit=20'   # newest first
//! curl '127.0.0.1:7000/health'                     # 200, or 503 with a Retry-After
//! ```

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::time::Duration;

use sawmill::stats::Pressure;
use sawmill::{AppendError, Log, Options, ReadError, Record, Write};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_blocking;

/// One connection. Its first line tells what it is for.
async fn serve(log: Log, stream: TcpStream) -> std::io::Result<()> {
    let (input, output) = stream.into_split();
    let mut lines = BufReader::new(input).lines();
    let Some(first) = lines.next_line().await? else { return Ok(()) };
    match first.strip_prefix("GET ").and_then(|rest| rest.strip_suffix(" HTTP/1.1")) {
        Some(target) => answer(log, target, lines, output).await,
        None => ingest(log, first, lines, output).await,
    }
}

/// `KEY PAYLOAD` a line, answered by the record's position.
///
/// Lines are pipelined: a reader accepts, and a writer answers in order as records become durable.
async fn ingest(
    log: Log,
    first: String,
    mut lines: Lines<BufReader<OwnedReadHalf>>,
    mut output: OwnedWriteHalf,
) -> std::io::Result<()> {
    // Cheaper than to read lines and refuse each: who comes now is sent away before it has sent much.
    if let Some(seconds) = come_back_after(&log.pressure()) {
        return output.write_all(format!("later {}\n", seconds * 1_000).as_bytes()).await;
    }
    let (accepted, mut waiting) = tokio::sync::mpsc::channel::<Result<sawmill::Commit, AppendError>>(1024);
    let reader = tokio::spawn(async move {
        let mut next = Some(first);
        while let Some(line) = next {
            let (key, payload) = line.split_once(' ').unwrap_or(("", &line));
            // Never waits for room: a client that is told to come later keeps its own line short.
            let accepting = log.try_append(Write::new(payload).key(key).tenant(tenant(key)));
            if accepted.send(accepting).await.is_err() {
                return;
            }
            next = lines.next_line().await.ok().flatten();
        }
    });
    while let Some(accepting) = waiting.recv().await {
        let outcome = match accepting {
            Ok(commit) => commit.await,
            Err(error) => Err(error),
        };
        let answer = match outcome {
            Ok(position) => format!("ok {position}\n"),
            Err(AppendError::Overloaded { retry_after, .. }) => {
                format!("later {}\n", retry_after.as_millis().max(1))
            }
            Err(error) => format!("error {error}\n"),
        };
        output.write_all(answer.as_bytes()).await?;
    }
    let _ = reader.await;
    Ok(())
}

/// In how many seconds to come back, where more than half of what comes is refused, or would wait for long.
fn come_back_after(pressure: &Pressure) -> Option<u64> {
    let [_low, normal, _high] = pressure.admitted;
    let is_slow = normal < 0.5 || pressure.delay > Duration::from_secs(1);
    is_slow.then(|| pressure.delay.as_secs() + 1)
}

/// Who floods is refused before others are.
fn tenant(key: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

/// `GET /health`: whether new clients are welcome.
async fn health(log: &Log, output: &mut OwnedWriteHalf) -> std::io::Result<()> {
    let pressure = log.pressure();
    let (status, header) = match come_back_after(&pressure) {
        None => ("200 OK", String::new()),
        Some(seconds) => ("503 Service Unavailable", format!("retry-after: {seconds}\r\n")),
    };
    let text = format!("{pressure:?}\n");
    let head =
        format!("HTTP/1.1 {status}\r\n{header}content-length: {}\r\nconnection: close\r\n\r\n", text.len());
    output.write_all((head + &text).as_bytes()).await?;
    output.shutdown().await
}

/// `GET /users/7/records?limit=20`: the records of key `user:7`, newest first, a JSON object a line.
async fn answer(
    log: Log,
    target: &str,
    mut lines: Lines<BufReader<OwnedReadHalf>>,
    mut output: OwnedWriteHalf,
) -> std::io::Result<()> {
    while lines.next_line().await?.is_some_and(|header| !header.is_empty()) {}
    if target == "/health" {
        return health(&log, &mut output).await;
    }
    let Some((key, limit)) = key_and_limit(target) else {
        return fail(&mut output, "404 Not Found", "there is only /users/USER/records?limit=N\n").await;
    };
    // To find a key's records the disk is read, and what is not durable yet is waited for: in a thread that may block,
    // and not in one that has other tasks to run.
    let records = match spawn_blocking(move || log.read_key_back(&key, ..)).await? {
        Ok(records) => records,
        Err(error) => return fail(&mut output, "503 Service Unavailable", &format!("{error}\n")).await,
    };
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\n\
                transfer-encoding: chunked\r\nconnection: close\r\n\r\n";
    output.write_all(head.as_bytes()).await?;
    let mut records = records.take(limit);
    loop {
        // A chunk at a time: while a slow client takes one, no thread waits for it.
        let (chunk, rest) = spawn_blocking(move || (chunk(&mut records), records)).await?;
        records = rest;
        // Without its last chunk a client knows that the answer is not complete.
        let chunk = chunk.map_err(std::io::Error::other)?;
        output.write_all(format!("{:x}\r\n{chunk}\r\n", chunk.len()).as_bytes()).await?;
        if chunk.is_empty() {
            return output.shutdown().await;
        }
    }
}

async fn fail(output: &mut OwnedWriteHalf, status: &str, text: &str) -> std::io::Result<()> {
    let length = text.len();
    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{text}");
    output.write_all(answer.as_bytes()).await?;
    output.shutdown().await
}

/// Of `/users/USER/records`, with a limit of 100 if none is asked for.
fn key_and_limit(target: &str) -> Option<(String, usize)> {
    let (path, query) = target.split_once('?').unwrap_or((target, "limit=100"));
    let user = path.strip_prefix("/users/")?.strip_suffix("/records")?;
    Some((format!("user:{user}"), query.strip_prefix("limit=")?.parse().ok()?))
}

/// The next records as lines, up to some 64 KiB; nothing at the end.
fn chunk(records: &mut impl Iterator<Item = Result<Record, ReadError>>) -> Result<String, ReadError> {
    let mut chunk = String::new();
    while chunk.len() < 64 << 10 {
        let Some(record) = records.next().transpose()? else { break };
        let payload = json(&String::from_utf8_lossy(record.payload()));
        let (position, timestamp) = (record.position(), record.timestamp());
        chunk += &format!(r#"{{"position":"{position}","timestamp":{timestamp},"payload":{payload}}}"#);
        chunk.push('\n');
    }
    Ok(chunk)
}

/// As a string in JSON.
fn json(text: &str) -> String {
    let mut quoted = String::from('"');
    for char in text.chars() {
        match char {
            '"' | '\\' => quoted.extend(['\\', char]),
            '\0'..' ' => quoted += &format!("\\u{:04x}", u32::from(char)),
            _ => quoted.push(char),
        }
    }
    quoted.push('"');
    quoted
}

async fn accept(log: Log, listener: TcpListener) -> std::io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(serve(log.clone(), stream));
    }
}

/// Sends so many lines at once, and counts the answers.
async fn client(address: SocketAddr, lines: u32) -> std::io::Result<u32> {
    let (input, mut output) = TcpStream::connect(address).await?.into_split();
    let sender = tokio::spawn(async move {
        for line in 0..lines {
            output.write_all(format!("user:{} line \"{line}\"\n", line % 10).as_bytes()).await?;
        }
        output.shutdown().await
    });
    let mut answers = BufReader::new(input).lines();
    let mut accepted = 0;
    while let Some(answer) = answers.next_line().await? {
        accepted += u32::from(answer.starts_with("ok "));
    }
    sender.await??;
    Ok(accepted)
}

/// What a path is answered with.
async fn get(address: SocketAddr, target: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("GET {target} HTTP/1.1\r\nhost: {address}\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// What the server gives of a user's records is what the log has of them, newest first.
async fn check(log: &Log, address: SocketAddr) -> Result<(), Box<dyn std::error::Error>> {
    let own = log.clone();
    let records =
        spawn_blocking(move || own.read_key("user:7", ..)?.collect::<Result<Vec<_>, _>>()).await??;
    for limit in [3, 1_000_000] {
        let answer = get(address, &format!("/users/7/records?limit={limit}")).await?;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n0\r\n\r\n"), "{answer}");
        let served: Vec<&str> = answer.lines().filter(|line| line.starts_with('{')).collect();
        println!("the newest of {} records of user 7: {}", served.len(), served[0]);
        assert_eq!(served.len(), records.len().min(limit));
        for (served, record) in served.iter().zip(records.iter().rev()) {
            let payload = std::str::from_utf8(record.payload())?.replace('"', "\\\"");
            assert!(served.ends_with(&format!(r#""payload":"{payload}"}}"#)), "{served}");
        }
    }
    assert!(get(address, "/users/nobody/records").await?.ends_with("\r\n\r\n0\r\n\r\n"));
    assert!(get(address, "/users/7").await?.starts_with("HTTP/1.1 404 "));
    assert!(get(address, "/health").await?.starts_with("HTTP/1.1 200 "));
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::temp_dir().join(format!("sawmill-ingest-{}", std::process::id()));
    let log = Options::new().open(&dir)?;
    if let Some(address) = std::env::args().nth(1) {
        println!("serving on {address}, logging to {}", dir.display());
        return Ok(accept(log, TcpListener::bind(&address).await?).await?);
    }
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let server = tokio::spawn(accept(log.clone(), listener));
    let accepted = client(address, 10_000).await?;
    check(&log, address).await?;
    server.abort();
    println!("10000 lines sent, {accepted} accepted and durable");
    println!("{} records in the log", log.merged(..)?.count());
    log.close_async().await?;
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}
