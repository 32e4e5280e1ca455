//! A small ingest server: records come in by HTTP, each is acknowledged once it is durable, and refused when there is
//! no room, with the time after which to try again. A user's records are served, too.
//!
//! More may come than the disk takes. Then who is slow is told before it is tried: new connections, and a load balancer
//! that asks for `/health`, by the log's pressure; each record by its priority, its user's share and the room there is.
//! `tests/it/ingest.rs` loads it with several times what its disk can take, and kills it.
//!
//! Run it with an address to serve there (`cargo run --release --example ingest_server 127.0.0.1:7000`), or
//! without one to see it work: it serves on a free port, and a client of its own sends records and reads them back.
//!
//! ```sh
//! curl -d 'signed up' '127.0.0.1:7000/users/7/records'                # 201, or 503 with a Retry-After
//! curl -d 'has paid' '127.0.0.1:7000/users/7/records?priority=high'   # refused last; `low` is refused first
//! curl '127.0.0.1:7000/users/7/records?limit=20'                      # newest first
//! curl '127.0.0.1:7000/health'                                        # 200, or 503 with a Retry-After
//! ```

mod client;
mod server;

use std::net::SocketAddr;

use sawmill::{Log, Options};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::task::spawn_blocking;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Sends so many records at once, and counts those that were accepted.
async fn send(address: SocketAddr, records: u32) -> Result<usize, Error> {
    let (mut output, mut answers) = client::connect(address).await?;
    let sender = tokio::spawn(async move {
        for number in 0..records {
            let user = (number % 10).to_string();
            let request = client::post(&user, "normal", &format!("record \"{number}\""));
            output.write_all(request.as_bytes()).await?;
        }
        output.shutdown().await
    });
    let mut accepted = 0;
    for _ in 0..records {
        let answer = answers.next().await?.ok_or("no answer")?;
        match (answer.status, answer.retry_after) {
            (201, None) => accepted += 1,
            (503, Some(1..)) => {}
            _ => return Err(format!("{answer:?}").into()),
        }
    }
    sender.await??;
    Ok(accepted)
}

/// What the server gives of a user's records is what the log has of them, newest first.
async fn check(log: &Log, address: SocketAddr) -> Result<(), Error> {
    let own = log.clone();
    let records =
        spawn_blocking(move || own.read_key("user:7", ..)?.collect::<Result<Vec<_>, _>>()).await??;
    let (mut output, mut answers) = client::connect(address).await?;
    for limit in [3, 1_000_000] {
        output.write_all(client::get(&format!("/users/7/records?limit={limit}")).as_bytes()).await?;
        let answer = answers.next().await?.ok_or("no answer")?;
        assert_eq!(answer.status, 200);
        let served: Vec<&str> = answer.body.lines().collect();
        println!("the newest of {} records of user 7: {}", served.len(), served[0]);
        assert_eq!(served.len(), records.len().min(limit));
        for (served, record) in served.iter().zip(records.iter().rev()) {
            let payload = std::str::from_utf8(record.payload())?.replace('"', "\\\"");
            assert!(served.ends_with(&format!(r#""payload":"{payload}"}}"#)), "{served}");
        }
    }
    for (target, status) in [("/users/nobody/records", 200), ("/users/7", 404), ("/health", 200)] {
        output.write_all(client::get(target).as_bytes()).await?;
        let answer = answers.next().await?.ok_or("no answer")?;
        assert_eq!(answer.status, status, "{target}: {answer:?}");
    }
    output.write_all(b"nonsense\r\n").await?;
    assert_eq!(answers.next().await?.map(|answer| answer.status), Some(400));
    assert!(answers.next().await?.is_none(), "it was the last");
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let dir = std::env::temp_dir().join(format!("sawmill-ingest-{}", std::process::id()));
    let log = Options::new().open_async(&dir).await?;
    if let Some(address) = std::env::args().nth(1) {
        println!("serving on {address}, logging to {}", dir.display());
        server::accept(log, TcpListener::bind(&address).await?).await;
        return Ok(());
    }
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let server = tokio::spawn(server::accept(log.clone(), listener));
    let accepted = send(address, 10_000).await?;
    check(&log, address).await?;
    server.abort();
    let kept = log.merged(..)?.count();
    println!("10000 records sent, {accepted} accepted and durable, {kept} in the log");
    assert_eq!(accepted, kept);
    log.close_async().await?;
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}
