//! A small ingest server: lines over TCP, each acknowledged once it is durable, refused when there is no
//! room.
//!
//! Run it with an address to serve there (`cargo run --release --example ingest_server 127.0.0.1:7000`), or
//! without one to see it work: it serves on a free port, and a client of its own sends lines.

use std::net::SocketAddr;

use sawmill::{AppendError, Log, Options, Write};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// One connection: `KEY PAYLOAD` a line, answered by the record's position.
///
/// Lines are pipelined: a reader accepts, and a writer answers in order as records become durable.
async fn serve(log: Log, stream: TcpStream) -> std::io::Result<()> {
    let (input, mut output) = stream.into_split();
    let (accepted, mut waiting) = tokio::sync::mpsc::channel::<Result<sawmill::Commit, AppendError>>(1024);
    let reader = tokio::spawn(async move {
        let mut lines = BufReader::new(input).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let (key, payload) = line.split_once(' ').unwrap_or(("", &line));
            // Never waits for room: a client that is told to come later keeps its own line short.
            let accepting = log.try_append(Write::new(payload).key(key));
            if accepted.send(accepting).await.is_err() {
                return;
            }
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
            output.write_all(format!("user:{} line {line}\n", line % 10).as_bytes()).await?;
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
    server.abort();
    println!("10000 lines sent, {accepted} accepted and durable");
    println!("{} records in the log", log.merged(..)?.count());
    log.close_async().await?;
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}
