//! Appends from many tokio tasks, with a follower that sees each record as it becomes durable.

use std::future::poll_fn;
use std::pin::pin;
use std::time::Instant;

use futures_core::Stream;
use sawmill::{Lsn, Options, ShardId};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::temp_dir().join(format!("sawmill-example-{}", std::process::id()));
    let log = Options::new().shards(1).open_async(&dir).await?;
    let follower = log.shard(ShardId(0)).follow(Lsn(0))?;
    let seen = tokio::spawn(async move {
        let mut follower = pin!(follower);
        let mut seen = 0;
        while let Some(record) = poll_fn(|context| follower.as_mut().poll_next(context)).await {
            match record {
                Ok(_) => seen += 1,
                Err(error) => eprintln!("passed over: {error}"), // the next one comes after the damage
            }
        }
        seen
    });
    let began = Instant::now();
    let tasks: Vec<_> = (0..1_000)
        .map(|task| {
            let log = log.clone();
            tokio::spawn(async move {
                for index in 0..20 {
                    log.append(format!("record {index} of task {task}").into_bytes()).await?;
                }
                Ok::<(), sawmill::AppendError>(())
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    println!("20000 records durable in {:?}", began.elapsed());
    log.close_async().await?;
    println!("the follower saw {}", seen.await?);
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}
