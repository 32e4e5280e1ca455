//! The server: requests come pipelined on a connection, and are answered in their order.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use sawmill::stats::Pressure;
use sawmill::{AppendError, Commit, Log, Priority, ReadError, Record, Write};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::spawn_blocking;

/// Connections at once; who comes then waits in the listener's queue. With what a connection may take, this is what
/// bounds the server's memory, beside what the log has.
const CONNECTIONS: usize = 1_024;
/// Answers that wait at once on one connection, for their turn and for the disk.
const ANSWERS: usize = 256;
/// A header: nothing else is answered on this connection.
const LAST: &str = "connection: close\r\n";
const HEAD_BYTES: u64 = 8 << 10;
const BODY_BYTES: usize = 64 << 10;
/// What is still read of a connection that was sent away, and for how long.
const LEFTOVER_BYTES: u64 = 1 << 20;
const LEFTOVER: Duration = Duration::from_secs(5);

/// Serves whoever connects, for as long as it is polled.
pub async fn accept(log: Log, listener: TcpListener) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let place = room.clone().acquire_owned().await.expect("it is never closed");
        let Ok((stream, _)) = listener.accept().await else {
            // One that was given up before, or no file descriptor is left: others will be.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let log = log.clone();
        tokio::spawn(async move {
            // Its client learns of an error by the connection's end.
            let _ = serve(log, stream).await;
            drop(place);
        });
    }
}

/// One connection: a reader accepts records, and a writer answers in order as they become durable.
async fn serve(log: Log, stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (input, mut output) = stream.into_split();
    let (answers, mut waiting) = mpsc::channel(ANSWERS);
    let reader = tokio::spawn(read(log.clone(), BufReader::new(input), answers));
    while let Some(answer) = waiting.recv().await {
        answer.write(&log, &mut output).await?;
    }
    output.shutdown().await?;
    // A socket that is closed before all was read from it is reset, and some systems then forget answers that their
    // program has not read (RFC 9112, section 9.6).
    if let Ok(Ok(input)) = reader.await {
        let mut leftover = input.take(LEFTOVER_BYTES);
        let _ = tokio::time::timeout(LEFTOVER, tokio::io::copy(&mut leftover, &mut tokio::io::sink())).await;
    }
    Ok(())
}

/// Reads requests until the connection ends or is to end.
async fn read(
    log: Log,
    mut input: BufReader<OwnedReadHalf>,
    answers: mpsc::Sender<Answer>,
) -> io::Result<BufReader<OwnedReadHalf>> {
    let mut is_first = true;
    loop {
        let head = match Head::read(&mut input).await {
            Ok(Some(head)) => head,
            Ok(None) => break,
            Err(_) => {
                let _ = answers.send(Answer::Whole(whole("400 Bad Request", LAST, ""))).await;
                break;
            }
        };
        let is_new = std::mem::take(&mut is_first);
        let (mut ends, shed) = (head.closes, is_new.then(|| come_back(&log)).flatten());
        let answer = match (head.route(), shed) {
            // Cheaper than to read records and to refuse each: who comes now is sent away before it has sent much.
            (Route::Append { priority: Priority::Low | Priority::Normal, .. }, Some(seconds)) => {
                ends = true;
                Answer::Whole(later(LAST, "there is too much to do", seconds))
            }
            (Route::Append { key, priority }, _) if head.body_bytes <= BODY_BYTES => {
                let mut payload = vec![0; head.body_bytes];
                input.read_exact(&mut payload).await?;
                // Never waits for room: a client that is told to come back keeps its own queue short.
                let write = Write::new(&payload).key(&key).priority(priority).tenant(tenant(&key));
                Answer::Accepting(log.try_append(write))
            }
            _ if head.body_bytes > 0 => {
                ends = true;
                Answer::Whole(whole("413 Content Too Large", LAST, ""))
            }
            (Route::Records { key, limit }, _) => Answer::Records(key, limit),
            (Route::Health, _) => Answer::Health,
            _ => Answer::Whole(whole("404 Not Found", "", "")),
        };
        if answers.send(answer).await.is_err() || ends {
            break;
        }
    }
    Ok(input)
}

/// The head of a request, as far as it is of interest here.
struct Head {
    method: String,
    target: String,
    body_bytes: usize,
    closes: bool,
}

/// What a request asks for.
enum Route {
    Append { key: String, priority: Priority },
    Records { key: String, limit: usize },
    Health,
    Unknown,
}

impl Head {
    /// `None` at the end of the connection.
    async fn read(input: &mut BufReader<OwnedReadHalf>) -> io::Result<Option<Head>> {
        let mut input = input.take(HEAD_BYTES);
        let mut line = String::new();
        if input.read_line(&mut line).await? == 0 {
            return Ok(None);
        }
        let mut words = line.split_whitespace().map(str::to_owned);
        let (Some(method), Some(target)) = (words.next(), words.next()) else {
            return Err(io::Error::other("not a request"));
        };
        let mut head = Head { method, target, body_bytes: 0, closes: false };
        loop {
            line.clear();
            if !input.read_line(&mut line).await.map(|_| line.ends_with('\n'))? {
                return Err(io::Error::other("half a head, or too long a one"));
            }
            let header = line.trim_end().to_ascii_lowercase();
            match header.split_once(':').map(|(name, value)| (name, value.trim())) {
                Some(("content-length", bytes)) => {
                    head.body_bytes = bytes.parse().map_err(io::Error::other)?
                }
                Some(("connection", value)) => head.closes = value == "close",
                Some(_) => {}
                None if header.is_empty() => return Ok(Some(head)),
                None => return Err(io::Error::other("not a header")),
            }
        }
    }

    fn route(&self) -> Route {
        let (path, query) = self.target.split_once('?').unwrap_or((&self.target, ""));
        let user = path.strip_prefix("/users/").and_then(|rest| rest.strip_suffix("/records"));
        let key = user.map(|user| format!("user:{user}"));
        match (self.method.as_str(), key) {
            ("GET", None) if path == "/health" => Route::Health,
            ("GET", Some(key)) => match query.strip_prefix("limit=").unwrap_or("100").parse() {
                Ok(limit) => Route::Records { key, limit },
                Err(_) => Route::Unknown,
            },
            ("POST", Some(key)) => match query {
                "" => Route::Append { key, priority: Priority::Normal },
                "priority=low" => Route::Append { key, priority: Priority::Low },
                // A server of yours would not believe everybody that it matters.
                "priority=high" => Route::Append { key, priority: Priority::High },
                _ => Route::Unknown,
            },
            _ => Route::Unknown,
        }
    }
}

/// In how many seconds to come back, where more than half of what comes is refused, or would wait for long.
fn come_back(log: &Log) -> Option<u64> {
    let Pressure { admitted: [_low, normal, _high], delay, .. } = log.pressure();
    (normal < 0.5 || delay > Duration::from_secs(1)).then(|| delay.as_secs() + 1)
}

/// Who floods is refused before others are.
fn tenant(key: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

/// What a request is answered with, once it is its turn.
enum Answer {
    /// Of a record: once it is durable.
    Accepting(Result<Commit, AppendError>),
    Records(String, usize),
    Health,
    /// As it is sent.
    Whole(String),
}

impl Answer {
    async fn write(self, log: &Log, output: &mut OwnedWriteHalf) -> io::Result<()> {
        let answer = match self {
            Answer::Records(key, limit) => return records(log, key, limit, output).await,
            Answer::Accepting(Ok(commit)) => match commit.await {
                Ok(position) => whole("201 Created", "", &format!("{position}\n")),
                // Perhaps it is kept, perhaps not.
                Err(error) => whole("500 Internal Server Error", "", &format!("{error}\n")),
            },
            Answer::Accepting(Err(AppendError::Overloaded { retry_after, cause, .. })) => {
                later("", &format!("{cause:?}"), retry_after.as_secs() + 1)
            }
            Answer::Accepting(Err(error)) => whole("500 Internal Server Error", "", &format!("{error}\n")),
            Answer::Health => {
                let pressure = format!("{:?}\n", log.pressure());
                match come_back(log) {
                    None => whole("200 OK", "", &pressure),
                    Some(seconds) => later("", &pressure, seconds),
                }
            }
            Answer::Whole(answer) => answer,
        };
        output.write_all(answer.as_bytes()).await
    }
}

fn whole(status: &str, header: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{header}content-length: {}\r\n\r\n{body}", body.len())
}

fn later(header: &str, why: &str, seconds: u64) -> String {
    whole("503 Service Unavailable", &format!("{header}retry-after: {seconds}\r\n"), why)
}

/// A key's records, newest first, a JSON object a line.
async fn records(log: &Log, key: String, limit: usize, output: &mut OwnedWriteHalf) -> io::Result<()> {
    let log = log.clone();
    // To find a key's records the disk is read, and what is not durable yet is waited for: in a thread that may block,
    // and not in one that has other tasks to run.
    let records = match spawn_blocking(move || log.read_key_back(&key, ..)).await? {
        Ok(records) => records,
        Err(error) => {
            let answer = whole("500 Internal Server Error", "", &format!("{error}\n"));
            return output.write_all(answer.as_bytes()).await;
        }
    };
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n";
    output.write_all(head.as_bytes()).await?;
    let mut records = records.take(limit);
    loop {
        // A chunk at a time: while a slow client takes one, no thread waits for it.
        let (chunk, rest) = spawn_blocking(move || (chunk(&mut records), records)).await?;
        records = rest;
        // Without its last chunk a client knows that the answer is not complete.
        let chunk = chunk.map_err(io::Error::other)?;
        output.write_all(format!("{:x}\r\n{chunk}\r\n", chunk.len()).as_bytes()).await?;
        if chunk.is_empty() {
            return Ok(());
        }
    }
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
