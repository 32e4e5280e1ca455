//! A client that sends requests without waiting for answers, and hears those in the same order.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// What a request was answered with.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// In seconds.
    pub retry_after: Option<u64>,
    pub body: String,
}

/// The answers of one connection.
pub struct Answers(BufReader<OwnedReadHalf>);

/// A connection: where to write requests, and the answers to them.
pub async fn connect(address: SocketAddr) -> io::Result<(OwnedWriteHalf, Answers)> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (input, output) = stream.into_split();
    Ok((output, Answers(BufReader::new(input))))
}

/// A request for a record to be appended. Priority is `low`, `normal` or `high`.
pub fn post(user: &str, priority: &str, record: &str) -> String {
    let query = if priority == "normal" { String::new() } else { format!("?priority={priority}") };
    let length = record.len();
    format!(
        "POST /users/{user}/records{query} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{record}"
    )
}

pub fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nhost: x\r\n\r\n")
}

impl Answers {
    /// The next one; `None` once the server has ended the connection.
    pub async fn next(&mut self) -> io::Result<Option<Answer>> {
        let Some(status) = self.line().await? else { return Ok(None) };
        let status = status.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| io::Error::other("not an answer"))?;
        let (mut retry_after, mut length, mut body) = (None, Some(0), Vec::new());
        loop {
            let header = self.line().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
            match header.split_once(": ") {
                Some(("content-length", bytes)) => length = bytes.parse().ok(),
                Some(("transfer-encoding", "chunked")) => length = None,
                Some(("retry-after", seconds)) => retry_after = seconds.parse().ok(),
                Some(_) => {}
                None => break,
            }
        }
        match length {
            Some(length) => self.read(length, &mut body).await?,
            None => self.chunks(&mut body).await?,
        }
        let body = String::from_utf8(body).map_err(io::Error::other)?;
        Ok(Some(Answer { status, retry_after, body }))
    }

    async fn line(&mut self) -> io::Result<Option<String>> {
        let mut line = String::new();
        let is_there = self.0.read_line(&mut line).await? > 0;
        Ok(is_there.then(|| line.trim_end().to_owned()))
    }

    async fn read(&mut self, bytes: usize, body: &mut Vec<u8>) -> io::Result<()> {
        let begin = body.len();
        body.resize(begin + bytes, 0);
        self.0.read_exact(&mut body[begin..]).await.map(drop)
    }

    async fn chunks(&mut self, body: &mut Vec<u8>) -> io::Result<()> {
        loop {
            let length = self.line().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
            let length = usize::from_str_radix(&length, 16).map_err(io::Error::other)?;
            self.read(length, body).await?;
            self.line().await?;
            if length == 0 {
                return Ok(());
            }
        }
    }
}
